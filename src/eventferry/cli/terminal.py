"""Messages and the progress bar, on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TextIO

from eventferry.visible import visible

if TYPE_CHECKING:
    from rich.progress import Progress


MANY = 1000
"""From how many events on a rate is shown: for fewer, startup dominates."""


def say(message: str) -> None:
    """Print a message on one line."""
    if sys.stderr is None:
        return
    try:
        print(visible(message), file=sys.stderr, flush=True)
    except OSError:  # nobody reads it any more, which is no reason to stop
        forget(sys.stderr)


def forget(output: TextIO | None) -> None:
    """Nobody reads this output any more: send what Python flushes at exit to nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())  # type: ignore[union-attr]


def counted(count: int, what: str) -> str:
    """`1 event`, `1,000 events`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def rate(count: int, seconds: float) -> str:
    """Count, duration and, for many events, the rate: `650,000 events in 2.1 s (309,524/s)`."""
    told = f"{counted(count, 'event')} in {seconds:.1f} s"
    return told if count < MANY else f"{told} ({round(count / max(seconds, 1e-9)):,}/s)"


class Meter:
    """Counts the bytes of passing blocks; on a terminal, shows a bar with rate and time left.

    Args:
        title: of the bar.
        total: expected bytes, or events if `count` is given; None if not known.
        count: returns the number of events so far, for a bar that counts events instead of bytes.
    """

    def __init__(self, title: str, total: int | None = None, count: Callable[[], int] | None = None) -> None:
        self._title = title
        self._total = total
        self._count = count
        self._bar: Progress | None = None
        self._task: Any = None
        self._began = time.monotonic()
        self.bytes = 0

    def __enter__(self) -> Meter:
        if is_terminal():
            self._bar = _bar()
            self._task = self._bar.add_task(self._title, total=self._total, status="")
            self._bar.start()
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    async def __call__(self, blocks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """A transform for `pipeline` that only counts."""
        async for block in blocks:
            self.bytes += len(block)
            self.show()
            yield block

    def show(self) -> None:
        """Draw the bar as far as things have come."""
        if self._bar is not None:
            done = self.bytes if self._count is None else self._count()
            self._bar.update(self._task, completed=done, status=self._status(done))

    def _status(self, done: int) -> str:
        each_second = round(done / max(self.seconds, 0.001))
        if self._count is not None:
            return f"{counted(done, 'event')}, {each_second:,}/s"
        from rich.filesize import decimal

        return f"{decimal(done)}, {decimal(each_second)}/s"


def is_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def _bar() -> Progress:
    # Imported only if a bar is drawn: the import takes longer than many commands.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )

"""Messages and the progress bar, on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO

import click

from eventferry.visible import visible

if TYPE_CHECKING:
    from rich.progress import Progress


QUIET = "eventferry.quiet"
"""In the context of a command: whether --quiet is given."""

MANY = 1000
"""From how many events on a rate is shown: for fewer, startup dominates."""


def is_quiet() -> bool:
    """Whether the command that runs has --quiet."""
    context = click.get_current_context(silent=True)
    return context is not None and QUIET in context.find_root().meta


def inform(message: str) -> None:
    """Print what is no warning and no error, unless --quiet is given."""
    if not is_quiet():
        say(message)


def conclude(message: str, *, is_well: bool) -> None:
    """Print how something ended. With --quiet, only what did not end well."""
    if is_well:
        inform(message)
    else:
        say(message)


def say(message: str) -> None:
    """Print a message on one line, which --quiet does not suppress."""
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


class Extent(NamedTuple):
    """How much there is to do.

    Attributes:
        total: bytes or events; None if not known.
        unit: which of the two is counted.
        position: how many of the bytes are done, where that is not how many have passed: those of a packed file.
    """

    total: int | None
    unit: Literal["byte", "event"] = "byte"
    position: Callable[[], int] | None = None


class Meter:
    """Counts the bytes of passing blocks; on a terminal, shows a bar with percent, rate and time left.

    Args:
        title: of the bar.
        extent: how much there is to do; by default the bytes that pass are counted, and their end is not known.
    """

    def __init__(self, title: str, extent: Extent | None = None) -> None:
        self._title = title
        self._extent = extent or Extent(None)
        self._lines = 0
        self._bar: Progress | None = None
        self._task: Any = None
        self._began = time.monotonic()
        self.bytes = 0

    def __enter__(self) -> Meter:
        if is_watched():
            self._bar = _bar()
            self._task = self._bar.add_task(self._title, total=self._extent.total, status="")
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
            if self._bar is not None:
                self.show(self._done(block))
            yield block

    def show(self, done: int) -> None:
        """Bring the bar to where so much is done."""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=done, status=progress_text(self._extent, done, self.seconds)
            )

    def _done(self, block: bytes) -> int:
        if self._extent.unit == "event":
            self._lines += block.count(b"\n")
            return self._lines
        return self.bytes if self._extent.position is None else self._extent.position()


def progress_text(extent: Extent, done: int, seconds: float) -> str:
    """What stands behind a bar: `45 %, 1.2 GB of 2.7 GB, 31.5 MB/s, 0:00:47 left`."""
    from rich.filesize import decimal

    def told(count: int) -> str:
        return f"{count:,}" if extent.unit == "event" else decimal(count)

    each_second = f"{told(round(done / max(seconds, 0.001)))}/s"
    if not extent.total:
        return f"{counted(done, 'event') if extent.unit == 'event' else told(done)}, {each_second}"
    events = " events" if extent.unit == "event" else ""
    share = min(done / extent.total, 1)
    left = f", {timedelta(seconds=round(seconds * (1 - share) / share))} left" if share else ""
    return f"{share:.0%}, {told(done)} of {told(extent.total)}{events}, {each_second}{left}".replace(
        "%", " %", 1
    )


def is_watched() -> bool:
    """Whether somebody sees a progress bar."""
    return sys.stderr is not None and sys.stderr.isatty() and not is_quiet()


def _bar() -> Progress:
    # Imported only if a bar is drawn: the import takes longer than many commands.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        console=Console(stderr=True),
        transient=True,
    )

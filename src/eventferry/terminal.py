"""What a person at a terminal sees: a progress bar, and words; all of it on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


def say(words: str) -> None:
    """A line of words."""
    if sys.stderr is not None:
        # Names of files may hold bytes that are no text.
        print(words.encode(errors="surrogateescape").decode(errors="replace"), file=sys.stderr, flush=True)


def counted(count: int, what: str) -> str:
    """`1 event`, `1,000 events`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def rate(count: int, seconds: float) -> str:
    """How many, how long, how fast: `650,000 events in 2.1 s (309,524/s)`."""
    return f"{counted(count, 'event')} in {seconds:.1f} s ({round(count / max(seconds, 1e-9)):,}/s)"


class Meter:
    """Counts the bytes of blocks that pass; on a terminal as a bar with rate and time left.

    Args:
        title: what is going on.
        total: how many will pass, where that is known: bytes, or what `count` counts.
        count: how many events have passed, where a bar of events is wanted and not of bytes.
    """

    def __init__(self, title: str, total: int | None = None, count: Callable[[], int] | None = None) -> None:
        self._title = title
        self._total = total
        self._count = count
        self._bar: Progress | None = None
        self._context: AbstractContextManager[Any] = nullcontext()
        self._task: Any = None
        self._began = time.monotonic()
        self.bytes = 0

    def __enter__(self) -> Meter:
        if is_terminal():
            self._bar = _bar()
            self._task = self._bar.add_task(self._title, total=self._total, words="")
            self._context = self._bar
        self._context.__enter__()
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    async def __call__(self, blocks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """A transform for `pipeline` that changes nothing and counts."""
        async for block in blocks:
            self.bytes += len(block)
            if self._bar is not None:
                done = self.bytes if self._count is None else self._count()
                self._bar.update(self._task, completed=done, words=self._words(done))
            yield block

    def _words(self, done: int) -> str:
        each_second = round(done / max(self.seconds, 0.001))
        if self._count is not None:
            return f"{counted(done, 'event')}, {each_second:,}/s"
        from rich.filesize import decimal

        return f"{decimal(done)}, {decimal(each_second)}/s"


def is_terminal() -> bool:
    """Whether words go to a person."""
    return sys.stderr is not None and sys.stderr.isatty()


def _bar() -> Progress:
    # Imported only where a bar is drawn: it takes longer than many a command.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )

"""What a person at a terminal sees: a progress bar, and words; all of it on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


MANY = 1000
"""How many events make a rate worth telling: that of fewer is the start's and not theirs."""


def visible(text: str) -> str:
    """A text as one line for people: what would move a terminal, break the line or turn it around is escaped.

    Ids and types of events, names of files and the words of servers may hold anything. The escapes are those of JSON,
    so that a JSON object stays one; a byte of a file's name that is no text becomes half a surrogate pair.
    """
    if text.isprintable():
        return text
    import json  # hardly ever

    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def say(words: str) -> None:
    """A line of words."""
    if sys.stderr is None:
        return
    try:
        print(visible(words), file=sys.stderr, flush=True)
    except OSError:  # nobody is there any more to hear it, which is no reason to stop
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def counted(count: int, what: str) -> str:
    """`1 event`, `1,000 events`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def rate(count: int, seconds: float) -> str:
    """How many, how long and, of many, how fast: `650,000 events in 2.1 s (309,524/s)`."""
    told = f"{counted(count, 'event')} in {seconds:.1f} s"
    return told if count < MANY else f"{told} ({round(count / max(seconds, 1e-9)):,}/s)"


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

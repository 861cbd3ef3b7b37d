"""Reading ahead: a task reads items before they are asked for, and stops when enough of them are at hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from eventferry.lifecycle import aclosing, over, to_the_end

T = TypeVar("T")

_ROOM = 4  # how many items of a source wait until its turn comes, where several are read at the same time


class Ahead(Generic[T]):
    """Items that a task of its own reads, until `enough` are at hand: it gives each to `give`, and waits in `room`
    where it holds nothing open."""

    def __init__(self, read: Callable[[Ahead[T]], Awaitable[None]], enough: int) -> None:
        self.hand: deque[T] = deque()  # what has been read and not been taken
        self._enough = enough
        self._wanted = 0
        self._came = asyncio.Event()
        self._taken = asyncio.Event()
        self._task = asyncio.ensure_future(read(self))
        self._task.add_done_callback(lambda _: self._came.set())

    async def reach(self, count: int) -> bool:
        """Wait until this many items are at hand; False if there are not that many. Raises what the task met with,
        once everything before it has been taken."""
        self._wanted = count
        while len(self.hand) < count and not self._task.done():
            self._taken.set()
            self._came.clear()
            await self._came.wait()
        if not self.hand and not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error
        return len(self.hand) >= count

    def take(self) -> T:
        """The first item at hand."""
        self._taken.set()
        return self.hand.popleft()

    async def over(self) -> None:
        """Wait until nothing is read any more."""
        await over(self._task)

    def stop(self) -> None:
        """Read no more, without waiting for the end of it."""
        self._task.cancel()

    async def close(self) -> None:
        """Read no more; twice is fine."""
        self.stop()
        await self.over()

    # for the task

    def give(self, item: T) -> None:
        """Put an item behind the others."""
        self.hand.append(item)
        self._came.set()

    @property
    def is_enough(self) -> bool:
        """Whether nothing more needs to be read for now."""
        return len(self.hand) >= max(self._enough, self._wanted)

    async def room(self) -> None:
        """Wait until more is needed."""
        while self.is_enough:
            self._taken.clear()
            await self._taken.wait()


async def in_turn(sources: Iterable[AsyncGenerator[T, None]], jobs: int) -> AsyncGenerator[T, None]:
    """Everything that the sources give, one source after another, while up to `jobs` of them are being read ahead; of a
    single one, one item. The first error, in this order, ends it; whatever ends it closes all sources."""
    rest = iter(sources)
    enough = 1 if jobs == 1 else _ROOM
    running = deque(Ahead(partial(_read, source), enough) for source in islice(rest, jobs))
    try:
        while running:
            while await running[0].reach(1):
                yield running[0].take()
            running.popleft()
            running.extend(Ahead(partial(_read, source), enough) for source in islice(rest, 1))
    finally:
        await to_the_end(close_all(running))


async def _read(source: AsyncGenerator[T, None], ahead: Ahead[T]) -> None:
    async with aclosing(source):
        async for item in source:
            ahead.give(item)
            del item
            await ahead.room()


async def close_all(given_up: Iterable[Ahead[T]]) -> None:
    """Read no more in any of them."""
    for each in given_up:
        await each.close()

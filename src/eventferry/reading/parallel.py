"""Reading ahead: several sources are read at the same time, and what they give comes out in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from itertools import islice
from typing import Generic, TypeVar

from eventferry.lifecycle import to_the_end

T = TypeVar("T")

_ROOM = 4
"""Items of a source that wait until its turn comes; then the source waits too, so that memory stays flat."""


async def in_turn(sources: Iterable[AsyncGenerator[T, None]], jobs: int) -> AsyncGenerator[T, None]:
    """All that one source after another gives, while up to `jobs` of them are being read.

    The first error, in this order, ends it; whatever ends it closes them all.
    """
    rest = iter(sources)
    if jobs == 1:
        for source in rest:
            async with aclosing(source):
                async for item in source:
                    yield item
        return
    running = deque(_Ahead(source) for source in islice(rest, jobs))
    try:
        while running:
            async for item in running[0].items():
                yield item
            running.popleft()
            running.extend(_Ahead(source) for source in islice(rest, 1))
    finally:
        await to_the_end(_close(running))


class _Ahead(Generic[T]):
    """A source that is read in a task of its own."""

    def __init__(self, source: AsyncGenerator[T, None]) -> None:
        self._waiting: asyncio.Queue[T | _End] = asyncio.Queue(_ROOM)
        self._task = asyncio.create_task(self._read(source))

    async def _read(self, source: AsyncGenerator[T, None]) -> None:
        error: Exception | None = None
        try:
            async with aclosing(source):
                async for item in source:
                    await self._waiting.put(item)
        except Exception as raised:  # told where its turn comes
            error = raised
        await self._waiting.put(_End(error))

    async def items(self) -> AsyncGenerator[T, None]:
        while not isinstance(item := await self._waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _close(running: Iterable[_Ahead[T]]) -> None:
    for each in running:
        await each.close()


class _End:
    """Behind the last item of a source."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

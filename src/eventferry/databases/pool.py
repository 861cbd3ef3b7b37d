"""A pool of connections.

Not a library's: those connect in the background and, when that fails, can only say that time ran out. Here whoever
needs a connection makes it, and hears why there is none.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from eventferry.errors import StoreBusyError, StoreUnreachableError
from eventferry.lifecycle import Life, end_with_loop, to_the_end


class FullServerError(StoreBusyError):
    """The server takes no more connections now."""


class Pooled(Protocol):
    """A connection that a pool can keep."""

    @property
    def is_usable(self) -> bool:
        """Whether it is open, in no transaction, and nothing is left of what it was used for."""

    async def close(self) -> None:
        """Close it; twice is fine."""


C = TypeVar("C", bound=Pooled)


class Pool(Generic[C]):
    """Connections that are lent, at most `size` at a time and in order, and kept for the next user.

    Where the server has no room for one, `connect` raises FullServerError; for the first there is `patience`, in
    seconds.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[C]], size: int, life: Life, *, patience: float = 0
    ) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(size)
        self._life = life
        self._patience = patience
        self._idle: list[C] = []
        self._lent = 0
        self._came_back = asyncio.Event()
        self._closed = False
        life.held.push_async_callback(self.close)

    def abandon(self) -> None:
        self._idle.clear()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[C]:
        """A connection for a while. One that is not usable afterwards is closed."""
        with self._life.running():
            async with self._places:
                connection = await self.take()
                self._lent += 1
                try:
                    yield connection
                finally:
                    self._lent -= 1
                    await self.give_back(connection)

    async def take(self) -> C:
        """A connection of the caller's, beside those that are lent, until it is given back. Where the server refuses
        another, who has one waits for that: many calls on a server that is full are slow then, and do not fail."""
        deadline = time.monotonic() + self._patience
        while True:
            if self._closed:  # even for what ends something
                raise self._life.closed()
            if self._idle:
                return self._idle.pop()
            end_with_loop(self)
            end_with_loop(self._life)
            try:
                return await self._connect()
            except (FullServerError, StoreUnreachableError) as error:
                if self._idle:
                    continue
                left = deadline - time.monotonic()
                if self._lent and await self._comes_back(left):
                    continue
                if not isinstance(error, FullServerError) or left <= 0:
                    raise
                await asyncio.sleep(random.uniform(0.02, 0.2))  # noqa: S311 -- to keep out of step

    async def _comes_back(self, seconds: float) -> bool:
        self._came_back.clear()
        try:
            async with asyncio.timeout(seconds):
                return await self._came_back.wait()
        except TimeoutError:
            return False

    async def give_back(self, connection: C) -> None:
        is_kept = connection.is_usable and not self._closed
        if is_kept:
            self._idle.append(connection)
        self._came_back.set()
        if not is_kept:
            await to_the_end(connection.close())

    async def forget_idle(self) -> None:
        """Close the idle ones: after one of them was found broken the others are not to be trusted."""
        idle, self._idle = self._idle, []
        await to_the_end(_close(idle))

    async def close(self) -> None:
        """Close the idle connections now, and lent ones when they come back; twice is fine."""
        self._closed = True
        self._came_back.set()
        await self.forget_idle()


async def _close(connections: Iterable[Pooled]) -> None:
    for connection in connections:
        await connection.close()

"""A pool of connections to a server.

Not a library's: those connect in the background and, when that fails, can only say that time ran out. Here
whoever needs a connection makes it, and hears why there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from eventferry.ending import Life, to_the_end


class Pooled(Protocol):
    """A connection that a pool can keep."""

    @property
    def is_usable(self) -> bool:
        """Whether it is open, in no transaction, and nothing is left of what it was used for."""

    async def close(self) -> None:
        """Close it; twice is fine."""


C = TypeVar("C", bound=Pooled)


class Pool(Generic[C]):
    """Connections that are lent, at most `size` at a time, and kept for the next user.

    Args:
        connect: makes a connection.
        size: how many may be lent at once; whoever comes next waits.
        life: what is under way on the store: each lent connection is.
    """

    def __init__(self, connect: Callable[[], Awaitable[C]], size: int, life: Life) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(size)
        self._life = life
        self._idle: list[C] = []
        self._closed = False

    def _check_open(self) -> None:
        if self._closed:  # even for what ends something
            raise self._life.closed()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[C]:
        """A connection for a while. One that is not usable afterwards is closed."""
        with self._life.running():
            async with self._places:
                self._check_open()
                connection = self._idle.pop() if self._idle else await self._connect()
                try:
                    yield connection
                finally:
                    if connection.is_usable and not self._closed:
                        self._idle.append(connection)
                    else:
                        await connection.close()

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[C]:
        """A connection of one's own, beside those that are lent: for who must not wait for them."""
        with self._life.running():
            self._check_open()
            connection = await self._connect()
            try:
                yield connection
            finally:
                await connection.close()

    async def forget_idle(self) -> None:
        """Close the idle ones: after one of them was found broken the others are not to be trusted."""
        idle, self._idle = self._idle, []
        await to_the_end(_close(idle))

    async def close(self) -> None:
        """End what is under way, and close all connections; twice is fine."""
        await self._life.end()
        self._closed = True
        await self.forget_idle()


async def _close(connections: Iterable[Pooled]) -> None:
    for connection in connections:
        await connection.close()

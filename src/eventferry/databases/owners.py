"""Owners on a server: named locks, held on one connection that all owners of a store object share. They go with the
connection, and that with its process.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Generic, Protocol, TypeVar

from eventferry.databases.pool import Pool, Pooled
from eventferry.errors import EventferryError, StoreUnreachableError
from eventferry.lifecycle import end_with_loop, to_the_end

C = TypeVar("C", bound=Pooled)
D = TypeVar("D", contravariant=True)


class Locks(Protocol[D]):
    """How a server locks. Each is answered at once, or raises StoreUnreachableError."""

    def new_owner(self, connection: D) -> str:
        """An id for an owner whose lock is held on this connection."""

    async def lock(self, connection: D, owner: str, *, is_first: bool) -> None:
        """Take an owner's lock, the first on this connection or one more."""

    async def unlock(self, connection: D, owner: str, *, is_last: bool) -> None:
        """Give it back: the last, and what the first needed, or one of several."""

    async def is_locked(self, connection: D, owner: str) -> bool:
        """Whether anybody holds it; takes none."""


class Owners(Generic[C]):
    """The owners of one store object."""

    def __init__(self, pool: Pool[C], locks: Locks[C]) -> None:
        self._pool = pool
        self._locks = locks
        self._connection: C | None = None
        self._held: set[str] = set()
        self._turn = asyncio.Lock()

    async def begin(self) -> str:
        async with self._turn:
            if self._connection is not None:
                with contextlib.suppress(StoreUnreachableError):  # it died, and with it all locks on it
                    return await self._locked(self._connection, is_first=False)
                await self._give_up()
            self._connection = await self._pool.take()
            end_with_loop(self)
            return await self._locked(self._connection, is_first=True)

    async def _locked(self, connection: C, *, is_first: bool) -> str:
        owner = self._locks.new_owner(connection)
        self._held.add(owner)
        try:
            # To its end: a call that is cancelled must not cost the others their locks.
            await to_the_end(self._locks.lock(connection, owner, is_first=is_first))
        except BaseException:
            await to_the_end(self._unlock(owner))
            raise
        return owner

    def abandon(self) -> None:
        self._connection = None
        self._held.clear()

    async def release(self, owner: str) -> None:
        """Drop a lock; twice is fine. By a statement, which is answered: a server notices only some time later that a
        connection was closed, and until then the next command would take the owner for alive."""
        async with self._turn:
            await self._unlock(owner)

    async def _unlock(self, owner: str) -> None:
        if owner not in self._held:
            return
        self._held.discard(owner)
        connection = self._connection
        if connection is None:
            return
        try:
            await self._locks.unlock(connection, owner, is_last=not self._held)
        except EventferryError:
            await self._give_up()
            return
        if not self._held:
            self._connection = None
            await self._pool.give_back(connection)

    async def _give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def is_alive(self, owner: str) -> bool:
        """Whether any process's owner lives; on the owners' connection: who asks may hold the pool's last."""
        async with self._turn:
            if self._connection is not None:
                with contextlib.suppress(StoreUnreachableError):
                    return await to_the_end(self._locks.is_locked(self._connection, owner))
                await self._give_up()
        async with self._pool.connection() as connection:
            return await self._locks.is_locked(connection, owner)

    async def close(self) -> None:
        self._held.clear()
        await self._give_up()

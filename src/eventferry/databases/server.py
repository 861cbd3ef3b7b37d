"""What databases on a server do alike: a pool, owners, and saves whose connection breaks."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from eventferry.database import First, Reading, Save, Saved
from eventferry.databases.names import beside_events, refuse_foreign
from eventferry.databases.owners import Locks, Owners
from eventferry.databases.pool import Pool, Pooled
from eventferry.errors import (
    ConcurrentError,
    InputError,
    ReadOnlyStoreError,
    StoreFrozenError,
    StoreNotFoundError,
    StoreUnreachableError,
)
from eventferry.lifecycle import Life, to_the_end
from eventferry.saving.saves import words_for

C = TypeVar("C", bound=Pooled)

PAUSES = (0.1, 0.4, 1, 1.5)
"""Seconds before each further attempt at a step whose answer was lost with its connection."""


class ServerDatabase(ABC, Generic[C]):
    """A store on a server; `place` is the database as messages name it."""

    def __init__(
        self, place: str, connect: Callable[[], Awaitable[C]], size: int, locks: Locks[C], busy_timeout: float
    ) -> None:
        self._place = place
        self._busy_timeout = busy_timeout
        self.life = Life(place)
        self._pool = Pool(connect, size, self.life, patience=busy_timeout)
        self._owners = Owners(self._pool, locks)
        self.life.held.push_async_callback(self._owners.close)
        self._is_whole = False

    async def own(self) -> str:
        with self.life.running():
            return await self._owners.begin()

    async def release(self, owner: str) -> None:
        await to_the_end(self._owners.release(owner))

    async def is_alive(self, owner: str) -> bool:
        return await self._owners.is_alive(owner)

    async def _refuse_part(self) -> None:
        """Raises StoreNotFoundError unless all tables of a store are there: only then it may be changed. They are
        looked at once: a table that goes later is missed by the statements that need it."""
        if self._is_whole:
            return
        async with self.reading() as reading:
            dialect = reading.dialect
            needed = {f"{dialect.tables.events}-threads": ("threadId", "threadCounter")}
            for table, columns in (needed | beside_events(dialect.tables, dialect.snapshot_content)).items():
                present = [str(name) for name, *_ in await reading.ask(*dialect.columns(table))]
                if present:
                    refuse_foreign(self._place, table, columns, present)
                    continue
                # MySQL shows no columns of a table to which the user has no rights either.
                with contextlib.suppress(ReadOnlyStoreError):
                    await reading.ask(f"SELECT 1 FROM {dialect.table(table)} LIMIT 0")
                    raise StoreNotFoundError(f"there is no store in {self._place}: it has no table {table!r}")
        self._is_whole = True

    async def save(self, saves: Sequence[Save]) -> list[Saved | None]:
        broken: StoreUnreachableError | None = None
        for pause in (0, *PAUSES):
            if pause:
                await asyncio.sleep(pause)
            try:
                return await self._save(saves, again=broken is not None)
            except StoreUnreachableError as error:
                if broken is None and not self._was_connected(error):
                    raise
                # To try again is safe: if it was stored, the version is taken, and then it is looked up.
                await self._pool.forget_idle()
                broken = error
        raise StoreUnreachableError(f"{broken}; whether {words_for(saves)} stored is not known") from broken

    async def _save(self, saves: Sequence[Save], *, again: bool) -> list[Saved | None]:
        """Store events. Again: an attempt before this one may have stored them."""
        await self._refuse_part()
        if len(saves) == 1:
            await self._check_limits(saves[0])
            try:
                return [await self._save_one(saves[0])]
            except (ConcurrentError, StoreFrozenError):
                if again and (saved := await self._look_up(saves[0])) is not None:
                    return [saved]
                raise
        stored: list[Saved | None] = [None] * len(saves)
        fitting: list[int] = []
        for number, save in enumerate(saves):
            with contextlib.suppress(InputError):
                await self._check_limits(save)
                fitting.append(number)
        found = await self._save_group([saves[number] for number in fitting])
        for number, saved in zip(fitting, found, strict=True):
            stored[number] = saved or (await self._look_up(saves[number]) if again else None)
        return stored

    def _was_connected(self, error: StoreUnreachableError) -> bool:
        """Whether a connection broke; else there never was one."""
        return True

    @abstractmethod
    def reading(self, first: First | None = None) -> AbstractAsyncContextManager[Reading]:
        """See `Database`."""

    @abstractmethod
    async def _check_limits(self, save: Save) -> None:
        """Raises InputError for an event that the columns cannot hold."""

    @abstractmethod
    async def _save_one(self, save: Save) -> Saved:
        """Store an event, or raise why not."""

    @abstractmethod
    async def _save_group(self, saves: Sequence[Save]) -> list[Saved | None]:
        """Store those of several events that nothing is in the way of."""

    @abstractmethod
    async def _look_up(self, save: Save) -> Saved | None:
        """Where exactly this event is stored; None where it is not, and then it never will be."""

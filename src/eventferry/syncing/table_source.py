"""Another product's table as the source of a sync: its events get their places and versions in the target."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import PurePath
from typing import Any

from eventferry import cursor as vector
from eventferry.database import Database
from eventferry.errors import StoreReplacedError
from eventferry.lifecycle import Life, aclosing
from eventferry.lines.event import Event
from eventferry.lines.source_lines import SourceLines
from eventferry.sources.following import SourceFollower, SourceTable, bookmark_of, open_table
from eventferry.sources.positions import RowPlace, SourceBookmark
from eventferry.sources.source import ForeignSource, SourceReading
from eventferry.state.erasures import Erasure
from eventferry.syncing.source import NO_IDENTITY, Waiting

_LOOK_AGAIN = 0.02
"""Seconds between two looks where rows wait for transactions that are under way."""

_PATIENCE = 2.0
"""Seconds, beyond the settle time, for which one that does not follow waits for such rows."""


class TableSource:
    """A table, read through a mapping."""

    has_places = False

    def __init__(self, source: ForeignSource) -> None:
        self._source = source
        self._table: SourceTable | None = None

    @property
    def life(self) -> Life:
        """The source's."""
        return self._source.database.life

    @property
    def place(self) -> str:
        """The database, with the names of the tables; or that of the mapping, where it does not name them apart."""
        mapping, database = self._source.mapping, self._source.database
        place = os.path.realpath(database.place) if database.scheme == "sqlite" else database.place
        return "/".join((place, *(sorted(mapping.tables.values()) or [PurePath(mapping.name).stem])))

    @property
    def exactness(self) -> str | None:
        """Known when it has been looked at."""
        if self._table is None:
            return None
        doubt = self._table.window.doubt
        return "exact" if doubt is None else f"not exact, because {doubt}"

    async def identities(self) -> list[str]:
        """A table has none."""
        return [NO_IDENTITY]

    async def refuse_circles(self, target: Database, identity: str, own: str) -> None:
        """Nothing of a target comes back into another product's table."""

    def secrets(self, target: Database) -> None:
        """There are none."""

    async def erasures(self) -> list[Erasure]:
        """There are none."""
        return []

    def fill(self) -> TableFill:
        """One state of the table, up to the first row that may not be taken yet."""
        return TableFill(self, self._source)

    async def follow(self, since: str | None, limit: int) -> TableFollowing:
        """From a bookmark on. Raises UsageError for one of another mapping, and MappingError."""
        bookmark = bookmark_of(self._source, since)
        table = await self.table()
        async with table.database.snapshot() as snapshot:
            end = await table.last(snapshot)
        return TableFollowing(SourceFollower(table, bookmark, limit), end, self._source.settle + _PATIENCE)

    async def table(self) -> SourceTable:
        """What is known of it is kept, also where a sync begins again."""
        if self._table is None:
            self._table = await open_table(self._source)
        return self._table

    async def last_versions(self, ids: Sequence[str], bookmark: str) -> dict[str, int]:
        """In the target they are dense from 1, so the last one is their number."""
        place = bookmark_of(self._source, bookmark).place
        if place is None:
            return {}
        table = await self.table()
        async with table.database.snapshot() as snapshot:
            return await table.counts(snapshot, ids, place)

    async def waiting(self, bookmark: str | None) -> Waiting:
        """By the rows behind the bookmark."""
        read = bookmark_of(self._source, bookmark)
        table = await self.table()
        problem: StoreReplacedError | None = None
        async with table.database.snapshot() as snapshot:
            behind = table.behind(read.place)
            count = await table.count(snapshot, behind)
            first = await table.first_event(snapshot, behind)
            try:
                await table.check(snapshot, read)
            except StoreReplacedError as error:
                problem = error
        return Waiting(count, None if first is None else first.timestamp, problem)

    def told(self, event: Event) -> str:
        """By what is there to find it again."""
        meta = event.payload.get("meta") if isinstance(event.payload, dict) else None
        position = meta.get("position") if isinstance(meta, dict) else None
        where = "" if position is None else f" at position {position}"
        return f"the event of the source{where} (aggregate {event.aggregate_id!r}, type {event.type!r})"


class TableFollowing:
    """Follows a table.

    Args:
        follower: gives what is new.
        end: the last place of the table when this began.
        patience: for how many seconds one that does not follow waits for rows that may not be taken yet.
    """

    def __init__(self, follower: SourceFollower, end: RowPlace | None, patience: float) -> None:
        self._follower = follower
        self._end = end
        self._patience = patience
        self._since = asyncio.get_running_loop().time()

    @property
    def is_caught_up(self) -> bool:
        """Whether the last look has seen that nothing more may be taken now."""
        return self._follower.is_caught_up

    @property
    def is_waiting(self) -> bool:
        """Whether the last look has seen rows that may not be taken yet."""
        return self._follower.is_waiting

    @property
    def is_complete(self) -> bool:
        """Whether the end of the beginning was reached, or all that may be taken before it."""
        place = self._follower.bookmark.place
        if self._end is None or (place is not None and place >= self._end):
            return True
        is_patient = asyncio.get_running_loop().time() < self._since + self._patience
        return self.is_caught_up and not (self.is_waiting and is_patient)

    async def bookmark(self) -> str:
        """Behind the last lines."""
        return str(self._follower.bookmark)

    async def next(self, idle: float) -> SourceLines:
        """The next lines."""
        least = _LOOK_AGAIN if self._follower.is_waiting else 0.0
        before = self._follower.bookmark
        lines = await self._follower.next(max(idle, least))
        if self._follower.bookmark != before:
            self._since = asyncio.get_running_loop().time()
        return lines


class TableFill(SourceReading):
    """All rows of a table that may be taken, as one state of it."""

    def __init__(self, opened: TableSource, source: ForeignSource) -> None:
        super().__init__(source)
        self._opened = opened
        self._settle = source.settle
        self._read = SourceBookmark(source.digest)

    @property
    def cursor(self) -> str:
        """All events go to thread 0."""
        return vector.dense(self.exported)

    async def bookmark(self) -> str:
        """Behind the last event, at the end."""
        return str(self._read)

    async def _rows(self) -> AsyncGenerator[list[tuple[Any, ...]], None]:
        table = await self._opened.table()
        await self._wait(table)
        await table.window.prepare(table.database)
        self._mapper = table.mapper()
        statement = table.statement(table.window.condition)
        async with table.database.snapshot() as snapshot, aclosing(snapshot.rows(statement)) as blocks:
            async for block in blocks:
                count, stop = table.admitted(block, self._read.place)
                if count:
                    self._read = table.moved(self._read, block[:count])
                    yield block[:count]
                if stop is not None:
                    return

    async def _wait(self, table: SourceTable) -> None:
        """Until it is known which of the missing positions will not appear any more; not for long, for the batches
        bring what is left out here."""
        async with table.database.snapshot() as snapshot:
            last = await table.last(snapshot)
            if last is None or table.window.admits(None, last):
                return
            await table.window.stopped(snapshot, last, last)
        clock = asyncio.get_running_loop().time
        until = clock() + self._settle + _PATIENCE
        while not table.window.admits(None, last) and clock() < until:
            await asyncio.sleep(_LOOK_AGAIN)
            await table.window.prepare(table.database)

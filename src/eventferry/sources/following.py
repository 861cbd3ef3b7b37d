"""Following another product's table: its rows for ever, each once, in the order of their positions.

A look is one snapshot: what comes next, may it be taken (`window.py`), and is what was read still what the table holds?
A look that fails or is cancelled changes nothing, and the next one begins where it did.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from eventferry.errors import SourceRowError, StoreReplacedError, UsageError
from eventferry.lifecycle import aclosing
from eventferry.lines.event import Event, decode_event
from eventferry.lines.source_lines import SourceLines
from eventferry.reading.following import Polling
from eventferry.sources.foreign import Reader, Snapshot
from eventferry.sources.mapper import Mapper
from eventferry.sources.positions import WITNESSES, Order, RowPlace, SourceBookmark, Witness
from eventferry.sources.source import ForeignSource
from eventferry.sources.window import Window, window_of

_PAGE_BYTES = 2 * 1024 * 1024
"""How many bytes of lines a look is to find: that says how many rows it asks for."""

_FIRST_ROWS = 200
"""How many rows the first look asks for, before it is known how large they are."""

_IDS = 500
"""Aggregates of one question."""

_CHECK_AFTER = 1.0
"""Seconds after which it is checked whether the table holds what was read, although nothing has come."""


_NOTHING = SourceLines()


class SourceTable:
    """How one table is read in its order.

    Attributes:
        window: says which rows may be taken.
        database: where it is.
    """

    def __init__(self, source: ForeignSource, reader: Reader, window: Window) -> None:
        self.window = window
        self.database = source.database
        self._source = source
        self._name = source.mapping.name
        self._reader = reader
        self._order = Order(reader, self._name)

    def mapper(self) -> Mapper:
        """What turns rows into events, and begins to number them."""
        return self._source.mapper(self._reader)

    def statement(self, *conditions: str | None, limit: int | None = None) -> str:
        """What gives the rows that fulfil conditions, in their order."""
        where = " AND ".join(filter(None, conditions)) or "1 = 1"
        end = "" if limit is None else f" LIMIT {limit}"
        return f"{self._reader.statement} WHERE {where} ORDER BY {self._order.rising}{end}"

    def place(self, row: Sequence[Any]) -> RowPlace:
        """Where a row is."""
        return self._order.place(row)

    def behind(self, place: RowPlace | None) -> str | None:
        """A condition: rows behind a place."""
        return None if place is None else self._order.behind(place)

    async def first(self, snapshot: Snapshot, *conditions: str | None) -> RowPlace | None:
        """The first place of the rows that fulfil conditions."""
        rows = await snapshot.ask(self.statement(*conditions, limit=1))
        return self._order.place(rows[0]) if rows else None

    async def last(self, snapshot: Snapshot) -> RowPlace | None:
        """The last place that the snapshot sees."""
        rows = await snapshot.ask(f"{self._reader.statement} ORDER BY {self._order.falling} LIMIT 1")
        return self._order.place(rows[0]) if rows else None

    async def count(self, snapshot: Snapshot, *conditions: str | None) -> int:
        """How many rows fulfil conditions and are events."""
        [(count,)] = await snapshot.ask(f"SELECT count(*) FROM {self._events(*conditions)}")
        return int(count)

    async def first_event(self, snapshot: Snapshot, *conditions: str | None) -> Event | None:
        """That of the first row that is one, of those that fulfil conditions."""
        rows = await snapshot.ask(self.statement(*conditions, self._kept, limit=1))
        return decode_event(*self.mapper().lines(rows)) if rows else None

    async def counts(self, snapshot: Snapshot, ids: Sequence[str], place: RowPlace) -> dict[str, int]:
        """How many events each of these aggregates has up to a place."""
        prefix = self._source.mapping.aggregate.prefix
        found: dict[str, int] = {}
        for start in range(0, len(ids), _IDS):
            texts = (self.database.text(name.removeprefix(prefix)) for name in ids[start : start + _IDS])
            among = f"{self._reader.aggregate} IN ({', '.join(texts)})"
            rows = await snapshot.ask(
                f"""SELECT {self._reader.aggregate}, count(*)
                FROM {self._events(self._order.until(place), among)} GROUP BY {self._reader.aggregate}"""
            )
            found |= {f"{prefix}{name}": int(count) for name, count in rows}
        return found

    def _events(self, *conditions: str | None) -> str:
        where = " AND ".join(filter(None, (*conditions, self._kept)))
        return f"{self._reader.table} WHERE {where}" if where else self._reader.table

    @property
    def _kept(self) -> str | None:
        """A condition: rows that are events."""
        if "kind" not in self._reader.columns:
            return None
        kinds = ", ".join(f"'{kind}'" for kind in sorted(self._source.kept))
        return f"(mapped.kind IS NULL OR mapped.kind IN ({kinds}))"

    def admitted(self, rows: Sequence[Sequence[Any]], before: RowPlace | None) -> tuple[int, RowPlace | None]:
        """How many of the rows behind a place may be taken, and the place of the first that may not. Raises
        SourceRowError where two have the same place."""
        for count, row in enumerate(rows):
            place = self._order.place(row)
            if place == before:
                raise SourceRowError(
                    "two rows have this position: nothing tells which of them was read",
                    source=self._name,
                    position=place.position,
                    column="position",
                )
            if not self.window.admits(before, place):
                return count, place
            before = place
        return len(rows), None

    def moved(self, bookmark: SourceBookmark, rows: Sequence[Sequence[Any]]) -> SourceBookmark:
        """A bookmark behind these rows too."""
        last = islice(self._witnesses(reversed(rows)), WITNESSES)
        return bookmark.moved(self._order.place(rows[-1]), list(last)[::-1])

    def _witnesses(self, rows: Iterable[Sequence[Any]]) -> Iterator[Witness]:
        """Of those rows that are events."""
        for row in rows:
            for line in self.mapper().lines([row]):
                yield Witness.of(self._order.place(row), line)

    async def check(self, snapshot: Snapshot, bookmark: SourceBookmark) -> None:
        """See whether the table holds what was read. Raises StoreReplacedError."""
        if bookmark.place is None:
            return
        if bookmark.witnesses:
            places = self._order.at([witness.place for witness in bookmark.witnesses])
            found = set(self._witnesses(await snapshot.ask(self.statement(places))))
            if not found:
                raise _replaced("the last events that were read are gone")
            if changed := found - set(bookmark.witnesses):
                raise _replaced(
                    f"the event at position {changed.pop().place.position} is another than was read"
                )
        last = await self.last(snapshot)
        if last is None or last < bookmark.place:
            raise _replaced(f"it ends before position {bookmark.place.position}, up to which it was read")


def _replaced(reason: str) -> StoreReplacedError:
    return StoreReplacedError(f"the table does not hold what was read ({reason}): was a backup restored?")


async def open_table(source: ForeignSource) -> SourceTable:
    """Look how a source can be read in its order. Raises MappingError where it cannot."""
    async with source.reading() as (snapshot, reader):
        window = await window_of(source.mapping, source.database.scheme, snapshot, reader, source.settle)
    return SourceTable(source, reader, window)


def bookmark_of(source: ForeignSource, text: str | None) -> SourceBookmark:
    """A bookmark of this source; None for its start. Raises UsageError where it is none, or of another mapping."""
    if text is None:
        return SourceBookmark(source.digest)
    bookmark = SourceBookmark.parse(text)
    if bookmark.mapping != source.digest:
        raise UsageError(
            f"the mapping {source.mapping.name} gives other events of a row than the one by which this was begun: "
            "another mapping, other options (payload, keep, skip), or the file was changed"
        )
    return bookmark


class SourceFollower:
    """Follows a table from a bookmark on; at most `limit` events at a time.

    Attributes:
        bookmark: behind the last lines.
        is_caught_up: whether the last look has seen that nothing more may be taken now.
        is_waiting: whether it saw rows that may not be taken yet.
    """

    def __init__(self, table: SourceTable, bookmark: SourceBookmark, limit: int) -> None:
        self.bookmark = bookmark
        self.is_caught_up = False
        self.is_waiting = False
        self._table = table
        self._mapper = table.mapper()
        self._skipped: Counter[str] = Counter()
        self._limit = limit
        self._count = min(limit, _FIRST_ROWS)
        self._checked = -math.inf
        self._polling = Polling(self._look, lambda: self.is_caught_up)

    async def next(self, idle: float) -> SourceLines:
        """The next lines, as soon as there are some, or none after `idle` seconds. Raises StoreReplacedError where the
        table does not hold what was read."""
        with self._table.database.life.running():
            lines = await self._polling.next(idle) or _NOTHING
        before, self._skipped = self._skipped, self._mapper.skipped.copy()
        return lines._replace(skipped=self._skipped - before)

    async def _look(self) -> SourceLines:
        table, before = self._table, self.bookmark
        await table.window.prepare(table.database)
        async with table.database.snapshot() as snapshot:
            rows, asked, stop = await self._rows(snapshot, before.place)
            now = asyncio.get_running_loop().time()
            if rows or now >= self._checked + _CHECK_AFTER:
                await table.check(snapshot, before)
                self._checked = now
            is_due = len(rows) == asked
            if stop is not None:
                last = await table.last(snapshot)
                is_due = await table.window.stopped(snapshot, stop, last or stop)
        # From here on nothing waits, so a cancelled look has changed nothing.
        lines = self._mapper.lines(rows)
        text = b"".join(lines)
        if rows:
            self.bookmark = table.moved(before, rows)
            self._count = max(1, min(self._limit, len(rows) * _PAGE_BYTES // max(len(text), 1)))
        self.is_waiting = stop is not None
        self.is_caught_up = not is_due
        return SourceLines(text, len(lines), self._mapper.versions)

    async def _rows(
        self, snapshot: Snapshot, place: RowPlace | None
    ) -> tuple[list[tuple[Any, ...]], int, RowPlace | None]:
        """The rows that may be taken, how many were asked for, and the place of the first that may not."""
        table = self._table
        behind, condition = table.behind(place), table.window.condition
        if (
            self.is_waiting
        ):  # many may be waiting: before they are all read, see whether the first may be taken now
            first = await table.first(snapshot, behind)
            if first is None or not table.window.admits(place, first):
                return [], 1, first
        rows: list[tuple[Any, ...]] = []
        async with aclosing(snapshot.rows(table.statement(behind, condition, limit=self._count))) as blocks:
            async for block in blocks:
                rows += block
        count, stop = table.admitted(rows, place)
        if condition is not None and len(rows) < self._count:  # which hides what waits
            stop = await table.first(snapshot, table.behind(table.place(rows[-1]) if rows else place))
        return rows[:count], self._count, stop

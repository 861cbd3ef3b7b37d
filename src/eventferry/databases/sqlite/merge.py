"""Write transactions on SQLite that touch the events: appended blocks, and the merge of an incremental import."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from eventferry.database import PLACED, NextPlace, Shared, Stage, StageComparison
from eventferry.databases.names import left_out
from eventferry.databases.sqlite import tables as ddl
from eventferry.databases.sqlite.dialect import foreign
from eventferry.databases.sqlite.library import Sqlite, code_of, pragma
from eventferry.databases.sqlite.markers import stages
from eventferry.databases.sqlite.reading import KEPT
from eventferry.databases.sqlite.stage import COLUMNS, SqliteWriting
from eventferry.databases.sqlite.tables import quoted
from eventferry.databases.statements import thread_of_the_latest
from eventferry.databases.thread import threaded
from eventferry.errors import ConcurrentError
from eventferry.lines.event import Row
from eventferry.lines.limits import MAX_SAFE_INTEGER, last_version
from eventferry.reading import order


class LastOfAggregate(NamedTuple):
    """The last event of an aggregate; its version is 0 where it has none."""

    version: int
    timestamp: int
    thread_id: int


NO_EVENT = LastOfAggregate(0, -1, -1)
_SAME_GROUP = "k.timestamp = s.timestamp AND k.aggregateId = s.aggregateId AND k.type = s.type"


class SqliteExclusiveWriting(SqliteWriting):
    """A write transaction that changes events."""

    @threaded
    def append(self, rows: Sequence[Row], *, fills_gaps: bool = False) -> None:
        self.changed_store = True
        for (aggregate_id, _), numbered in itertools.groupby(
            enumerate(rows), lambda each: (each[1].aggregate_id, each[1].aggregate_version - each[0])
        ):
            successive = [row for _, row in numbered]
            [(taken,)] = self.sqlite.execute(
                f"SELECT min(aggregateVersion) FROM {self._events} "
                "WHERE aggregateId = ? AND aggregateVersion BETWEEN ? AND ?",
                (aggregate_id, successive[0].aggregate_version, successive[-1].aggregate_version),
            ).fetchall()
            if taken is not None:
                raise ConcurrentError(aggregate_id, taken)
            for row in successive:
                self.insert(row)
        if fills_gaps:
            for kind in PLACED:
                for stage in stages(self.sqlite, self.tables, kind):
                    self._overtake(stage)

    @threaded
    def rewrite(self, rows: Sequence[Row]) -> None:
        """A payload is first overwritten where it stands, by one of its length. Only then it may become longer or
        shorter, for which the pages around it are taken to pieces, and leave of what stood there a copy in a gap."""
        self.changed_store = True
        if not rows:
            self.erases = True
            overwrite_free_pages(self.sqlite, f"{self.tables.erasures}-free")
        place = f"{self._events} SET payload = CAST({{}} AS TEXT) WHERE threadId = ? AND threadCounter = ?"
        blank = f"UPDATE {place.format('zeroblob(length(CAST(payload AS BLOB)))')}"
        final = f"UPDATE {place.format('?')}"
        for row in rows:
            self.sqlite.change(blank, (row.thread_id, row.thread_counter))
        for row in rows:
            if self.sqlite.change(final, (row.payload, row.thread_id, row.thread_counter)) != 1:
                raise left_out(self.tables.events)

    def insert(self, row: Sequence[object]) -> None:
        if self.sqlite.change(self._insert_event, row) != 1:
            raise left_out(self.tables.events)

    @threaded
    def next_places(self, wanted: Sequence[tuple[str, int]]) -> list[NextPlace]:
        heads = self.all_heads()
        places: list[NextPlace] = []
        for name, time in wanted:
            last = self.last_before(name, MAX_SAFE_INTEGER)
            places.append(
                NextPlace(last.version, self.thread_behind(last, name, MAX_SAFE_INTEGER, time, heads))
            )
        return places

    def last_before(self, aggregate_id: str, version: int) -> LastOfAggregate:
        """The aggregate's last event up to this version. For the worker thread."""
        found = self.sqlite.execute(
            f"""SELECT aggregateVersion, timestamp, threadId FROM {self._events}
            WHERE aggregateId = ? AND aggregateVersion <= ? ORDER BY aggregateVersion DESC LIMIT 1""",
            (aggregate_id, version),
        ).fetchone()
        return NO_EVENT if found is None else LastOfAggregate(*found)

    def thread_behind(
        self, last: LastOfAggregate, aggregate_id: str, version: int, timestamp: int, heads: Sequence[int]
    ) -> int:
        """The thread of what goes behind the aggregate's last event before this version, at this time: that of its
        last event at this very timestamp, or the preferred one, or the next whose last timestamp is not later. The
        last version tells the former, or if it is of another time, what stands at this time: next to nothing, mostly.
        For the worker thread."""
        if last.timestamp == timestamp:
            return last.thread_id
        if last.version:
            at_once = self.sqlite.execute(
                f"""SELECT threadId FROM {self._events}
                WHERE timestamp = ? AND +aggregateId = ? AND aggregateVersion < ?
                ORDER BY threadCounter DESC, threadId DESC LIMIT 1""",
                (timestamp, aggregate_id, version),
            ).fetchone()
            if at_once is not None:
                return int(at_once[0])
        preferred = order.thread_of(aggregate_id)
        others = itertools.chain(range(preferred, 256), range(preferred))
        found = (thread for thread in others if self._last_timestamp(thread, heads) <= timestamp)
        return next(found, preferred)

    def latest_timestamp(self) -> int:
        """The highest timestamp of all events. For the worker thread."""
        [(latest,)] = self.sqlite.execute(f"SELECT coalesce(max(timestamp), -1) FROM {self._events}")
        return latest if isinstance(latest, int) else MAX_SAFE_INTEGER  # another program stored a text

    def _last_timestamp(self, thread: int, heads: Sequence[int]) -> int:
        if heads[thread] == 0:
            return -(2**63)
        found: tuple[int] = self.sqlite.execute(
            f"SELECT timestamp FROM {self._events} WHERE threadId = ? AND threadCounter = ?",
            (thread, heads[thread] - 1),
        ).fetchone()
        return found[0]

    def _overtake(self, stage: Stage) -> None:
        """The baseline stands in the definition of the progress table, so that is made anew."""
        sqlite, progress = self.sqlite, self._progress_of(stage)
        former = f"{progress}-former"
        sqlite.execute(f"ALTER TABLE {quoted(progress)} RENAME TO {quoted(former)}")
        sqlite.execute(ddl.steps_definition(replace(stage, baseline=None), progress))
        sqlite.execute(f"INSERT INTO {quoted(progress)} SELECT * FROM {quoted(former)} ORDER BY rowid")
        sqlite.execute(f"DROP TABLE {quoted(former)}")

    async def compare(self, stage: Stage) -> StageComparison:
        return StageComparison(stage, await self._discard_known(stage), self._shared(stage))

    @threaded
    def _discard_known(self, stage: Stage) -> int:
        """By the order's index, so it costs what the batch costs; then groups meet by indexes on both sides."""
        table, known = quoted(stage.table), quoted(ddl.known(stage))
        index_home = "temp." if stage.kind == "merge" else ""
        index = quoted(f"{stage.table}-group")
        self.connection.make_index(
            f'CREATE INDEX {index_home}{index} ON {table}("timestamp", "aggregateId", "type")'
        )
        self.sqlite.execute(
            f"""CREATE TEMP TABLE {known} AS
            SELECT e.timestamp, e.aggregateId, e.type, coalesce({self._payload}, 'null') AS payload
            FROM (
              SELECT DISTINCT timestamp FROM {table} WHERE timestamp <= (SELECT max(timestamp) FROM {self._events})
            ) AS s CROSS JOIN {self._events} AS e WHERE e.timestamp = s.timestamp"""
        )
        self.connection.make_index(
            f"CREATE INDEX temp.{quoted(f'{stage.id}-known-group')} ON {known}(timestamp, aggregateId, type)"
        )
        return self.sqlite.change(
            f"""DELETE FROM {table} WHERE rowid IN (
              SELECT s.rowid FROM (
                SELECT min(rowid) AS id FROM {table} WHERE timestamp <= (SELECT max(timestamp) FROM {known})
                GROUP BY timestamp, aggregateId, type HAVING count(*) = 1
              ) AS alone CROSS JOIN {table} AS s ON s.rowid = alone.id
              WHERE EXISTS (
                SELECT 1 FROM {known} AS k WHERE {_SAME_GROUP} AND k.payload = {self._staged_payload(stage)}
              )
            )"""
        )

    @staticmethod
    def _staged_payload(stage: Stage) -> str:
        """The JSON text of a staged event; into an "open" stage reSolve may have put it in its own way."""
        return "s.payload" if stage.kind == "merge" else f"coalesce({foreign('s.payload')}, 'null')"

    async def _shared(self, stage: Stage) -> AsyncGenerator[list[Shared], None]:
        await self._find_shared(stage)
        while block := await self._fetch_shared():
            yield block

    @threaded
    def _find_shared(self, stage: Stage) -> None:
        table, known = quoted(stage.table), quoted(ddl.known(stage))
        left = f"{table} AS s WHERE s.timestamp <= (SELECT max(timestamp) FROM {known})"
        self._shared_rows = self.sqlite.execute(
            f"""SELECT s.timestamp AS t, s.aggregateId AS a, s.type AS y, 0 AS side, {self._part_of(stage)} AS p,
              s.rowid AS r, CAST({self._staged_payload(stage)} AS BLOB)
            FROM {left} AND EXISTS (SELECT 1 FROM {known} AS k WHERE {_SAME_GROUP})
            UNION ALL
            SELECT k.timestamp, k.aggregateId, k.type, 1, NULL, NULL, CAST(k.payload AS BLOB)
            FROM (SELECT DISTINCT timestamp, aggregateId, type FROM {left}) AS s
            CROSS JOIN {known} AS k ON {_SAME_GROUP}
            ORDER BY t, a, y, side, p, r"""
        )

    @threaded
    def _fetch_shared(self) -> list[Shared]:
        return [
            Shared((timestamp, aggregate_id, event_type), rowid, payload)
            for timestamp, aggregate_id, event_type, _, _, rowid, payload in itertools.islice(
                self._shared_rows, 2000
            )
        ]

    async def place(self, stage: Stage) -> int:
        return await self._place(stage, await thread_of_the_latest(self))

    @threaded
    def _place(self, stage: Stage, behind_all: int) -> int:
        self.changed_store = True
        heads, stored = self.all_heads(), self._growth()
        before = sum(heads)
        try:
            # No version behind the highest: the column refuses the null.
            self.sqlite.executemany(
                f"""INSERT INTO {self._events}({COLUMNS}) VALUES (
                  ?1, ?2, ?3, ?4,
                  (SELECT nullif(coalesce(max(aggregateVersion), 0), {MAX_SAFE_INTEGER}) + 1
                    FROM {self._events} WHERE aggregateId = ?4),
                  ?5, CAST(?6 AS TEXT)
                )""",
                self._placed(stage, heads, behind_all),
            )
        except Exception as error:
            if code_of(error) != sqlite3.SQLITE_CONSTRAINT:
                raise
            raise self._refusal(stage, error) from None
        placed = sum(heads) - before
        if self._growth() - stored != placed:
            raise left_out(self.tables.events)
        return placed

    def _refusal(self, stage: Stage, error: Exception) -> Exception:
        at_its_end = self.sqlite.execute(
            f"""SELECT aggregateId FROM {quoted(stage.table)} AS s WHERE EXISTS (
              SELECT 1 FROM {self._events} AS e
              WHERE e.aggregateId = s.aggregateId AND e.aggregateVersion = {MAX_SAFE_INTEGER}
            ) LIMIT 1"""
        ).fetchone()
        return error if at_its_end is None else last_version(at_its_end[0])

    def _placed(self, stage: Stage, heads: list[int], behind_all: int) -> Iterator[tuple[Any, ...]]:
        """What the stage holds, in order, with thread and counter; moves `heads` behind it. For the worker thread."""
        table, known = quoted(stage.table), quoted(ddl.known(stage))
        rows = self.sqlite.execute(
            f"""SELECT timestamp IN (
                SELECT s.timestamp FROM {table} AS s
                WHERE s.timestamp <= (SELECT max(timestamp) FROM {known}) AND EXISTS (
                  SELECT 1 FROM {known} AS k WHERE k.timestamp = s.timestamp AND k.aggregateId = s.aggregateId
                )
              ), timestamp, aggregateId, type, CAST({KEPT} AS BLOB)
            FROM {table} ORDER BY timestamp, {self._part_of(stage)}, rowid"""
        )
        for is_crowded, timestamp, aggregate_id, event_type, payload in rows:
            thread = behind_all if is_crowded else timestamp % len(heads)
            yield thread, heads[thread], timestamp, aggregate_id, event_type, payload
            heads[thread] += 1


def overwrite_free_pages(sqlite: Sqlite, name: str) -> None:
    """Overwrite what stands in the pages that are in no use, by a table of this name that is gone afterwards; and what
    is deleted in the transaction from here on. For the worker thread."""
    pragma(sqlite, "secure_delete = ON")
    if not pragma(sqlite, "freelist_count"):
        return
    sqlite.execute(f"CREATE TABLE {quoted(name)}(filling BLOB)")
    while free := pragma(sqlite, "freelist_count"):
        size = min(free * pragma(sqlite, "page_size"), _FILLING)
        sqlite.execute(f"INSERT INTO {quoted(name)} VALUES (zeroblob(?))", (size,))
    sqlite.execute(f"DROP TABLE {quoted(name)}")


_FILLING = 64 * 1024 * 1024

"""Writing a store in a SQLite file: one writer at a time, whole transactions."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any, Literal

from eventferry.clock import now
from eventferry.cursor import MAX_COUNTER
from eventferry.database import (
    Clash,
    Comparison,
    Freeze,
    Save,
    Shared,
    Stage,
    StageBatch,
    StageKind,
)
from eventferry.databases.dialect import Value
from eventferry.databases.names import EVENT, Tables, taken_for_dead
from eventferry.databases.sqlite import tables as ddl
from eventferry.databases.sqlite.connection import Connection
from eventferry.databases.sqlite.dialect import bound, foreign
from eventferry.databases.sqlite.library import code_of
from eventferry.databases.sqlite.numbers import refuse_number
from eventferry.databases.sqlite.reading import KEPT, SqliteReading
from eventferry.databases.sqlite.tables import quoted, stages
from eventferry.databases.thread import threaded
from eventferry.errors import ConcurrentError, InputError, StoreBusyError, UnsupportedStoreError
from eventferry.lines.event import Row
from eventferry.lines.limits import MAX_SAFE_INTEGER, full_thread, last_version
from eventferry.reading import order

_COLUMNS = ", ".join(map(quoted, EVENT))
# A payload is bound as bytes and called text by SQLite: it never becomes a Python string.
_INSERT_ROW = f"({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, CAST(? AS TEXT))"

_STAGED = {
    # The rowid is the line number: a clash can name its two lines, at no cost.
    "replace": (f"(rowid, {_COLUMNS})", "(?,?,?,?,?,?,?,CAST(?AS TEXT))"),
    "merge": ('("timestamp", "aggregateId", "type", "payload")', "(?, ?, ?, CAST(? AS TEXT))"),
}
"""Into which columns rows go, and how one is written."""

_SAME_GROUP = "k.timestamp = s.timestamp AND k.aggregateId = s.aggregateId AND k.type = s.type"


class SqliteWriting(SqliteReading):
    """A write transaction on one connection."""

    def __init__(self, connection: Connection, tables: Tables, events_sql: str) -> None:
        super().__init__(connection, tables, events_sql)
        # Whether what a save relies on from the save before may be another now.
        self.changed_store = False
        self.dropped_owners: list[str] = []
        # Kept here, not handed from thread to thread: an open statement passes an interrupt on to those after it,
        # so it must be closed before anything is rolled back.
        self._shared_rows = connection.sqlite.cursor()
        self._insert_event = f"INSERT INTO {self._events}{_INSERT_ROW}"

    def close_statements(self) -> None:
        """Close what is still open, before the transaction ends. For the worker thread."""
        self._shared_rows.close()

    @threaded
    def change_freeze(self, before: Freeze | None, after: Freeze | None) -> bool:
        # Only one transaction writes at a time, and this is it: nobody's write is under way.
        if self._freeze() != before:
            return False
        if before is not None:
            self._drop_freeze(before)
        if after is not None:
            self._refuse_neighbour(self.tables.freeze)
            self.changed_store = True
            self.connection.sqlite.execute(ddl.freeze_table(self.tables, after.owner, after.since))
        return True

    def _drop_freeze(self, marker: Freeze) -> None:
        self.changed_store = True
        if marker.owner is not None:
            self.dropped_owners.append(marker.owner)
        self.connection.sqlite.execute(f"DROP TABLE {quoted(self.tables.freeze)}")

    def _refuse_neighbour(self, name: str) -> None:
        """A name that a marker must have may be that of a table of another store or program. Case does not tell
        tables apart."""
        if self.connection.sqlite.execute(
            "SELECT 1 FROM sqlite_master WHERE name = ? COLLATE NOCASE", (name,)
        ).fetchone():
            raise UnsupportedStoreError(
                f"the name {name!r}, which this needs beside {self.tables.events!r}, is that of a table of another "
                "store or program in the file"
            )

    # events

    @threaded
    def append(self, rows: Sequence[Row], *, fills_gaps: bool = False) -> None:
        self.changed_store = True
        for row in rows:
            self._refuse_taken(row.aggregate_id, row.aggregate_version)
            self._insert(row)
        if fills_gaps:
            for stage in stages(self.connection.sqlite, self.tables, "replace"):
                self._overtake(stage)

    def _insert(self, row: Sequence[object]) -> None:
        if self.connection.sqlite.change(self._insert_event, row) != 1:
            raise _left_out(self.tables.events)

    def _refuse_taken(self, aggregate_id: str, version: int) -> None:
        taken = self.connection.sqlite.execute(
            f"SELECT 1 FROM {self._events} WHERE aggregateId = ? AND aggregateVersion = ?",
            (aggregate_id, version),
        ).fetchone()
        if taken:
            raise ConcurrentError(aggregate_id, version)

    def add(self, save: Save, heads: list[int]) -> tuple[int, int]:
        """Store one event; its thread and counter. `heads` are the store's, and are moved behind it. What it
        refuses changes nothing. For the worker thread."""
        event, version = save
        if not self.is_ours and (reason := refuse_number(event.payload)) is not None:
            raise InputError(reason, field="payload")
        thread = self._thread_for(event.aggregate_id, version, event.timestamp, heads)
        counter = heads[thread]
        if counter > MAX_COUNTER:
            raise full_thread(thread)
        self._insert(
            (thread, counter, event.timestamp, event.aggregate_id, version, event.type, event.payload)
        )
        heads[thread] = counter + 1
        return thread, counter

    def _thread_for(self, aggregate_id: str, version: int, timestamp: int, heads: list[int]) -> int:
        at_once = self._thread_at(aggregate_id, version, timestamp)
        if at_once is not None:
            return at_once
        preferred = order.thread_of(aggregate_id)
        return next(
            (
                candidate
                for candidate in (*range(preferred, 256), *range(preferred))
                if self._last_timestamp(candidate, heads) <= timestamp
            ),
            preferred,
        )

    def _thread_at(self, aggregate_id: str, version: int, timestamp: int) -> int | None:
        """The thread of the aggregate's last event at this very timestamp, if it has one: behind it in the same
        thread the next version is in order whatever the threads hold.

        The version before tells, or if it is of another time, what stands at this time: next to nothing, mostly.
        Raises ConcurrentError where the version itself is there.
        """
        before = self.connection.sqlite.execute(
            f"""SELECT timestamp, threadId, aggregateVersion FROM {self._events}
            WHERE aggregateId = ? AND aggregateVersion <= ? ORDER BY aggregateVersion DESC LIMIT 1""",
            (aggregate_id, version),
        ).fetchone()
        if before is None:
            return None
        if before[2] == version:
            raise ConcurrentError(aggregate_id, version)
        if before[0] != timestamp:
            before = self.connection.sqlite.execute(
                f"""SELECT timestamp, threadId FROM {self._events}
                WHERE timestamp = ? AND +aggregateId = ? AND aggregateVersion < ?
                ORDER BY threadCounter DESC, threadId DESC LIMIT 1""",
                (timestamp, aggregate_id, version),
            ).fetchone()
        return None if before is None else int(before[1])

    def _last_timestamp(self, thread: int, heads: list[int]) -> int:
        if heads[thread] == 0:
            return -(2**63)
        found: tuple[int] = self.connection.sqlite.execute(
            f"SELECT timestamp FROM {self._events} WHERE threadId = ? AND threadCounter = ?",
            (thread, heads[thread] - 1),
        ).fetchone()
        return found[0]

    # stages

    @threaded
    def make_stage(
        self,
        kind: StageKind,
        *,
        owner: str | None = None,
        baseline: str | None = None,
    ) -> Stage:
        sqlite, tables, since = self.connection.sqlite, self.tables, now()
        # As reSolve's: letters and digits.
        stage_id = token_hex(16)
        if kind == "replace":
            if owner is None:
                raise AssertionError("a stage without an owner")
            self._refuse_what_would_be_lost()
            if stages(sqlite, tables, "replace"):
                raise StoreBusyError("another import into this store is running")
            stage = Stage(stage_id, kind, tables.stage_of(owner), owner, since, baseline)
            sqlite.execute(ddl.events_table(stage.table))
            sqlite.execute(
                ddl.progress_table(tables.progress_of(owner), stage_id, since=since, baseline=baseline)
            )
            return stage
        if kind == "open":
            self._refuse_neighbour(tables.open_import)
            sqlite.execute(ddl.open_import_table(tables, stage_id, since))
            return Stage(stage_id, kind, tables.open_import, None, since)
        table = f"{tables.events}-merge-{stage_id}"
        sqlite.execute(ddl.merge_stage_table(table))
        return Stage(stage_id, kind, table, owner, since)

    @threaded
    def adopt_stage(self, stage: Stage, owner: str) -> Stage:
        """From here on the former owner finds no table of its own any more."""
        self._refuse_what_would_be_lost()
        adopted = replace(stage, table=self.tables.stage_of(owner), owner=owner)
        for former, name in (
            (stage.table, adopted.table),
            (self._progress_of(stage), self.tables.progress_of(owner)),
        ):
            self.connection.sqlite.execute(f"ALTER TABLE {quoted(former)} RENAME TO {quoted(name)}")
        if stage.owner is not None:
            self.dropped_owners.append(stage.owner)
        return adopted

    def _progress_of(self, stage: Stage) -> str:
        """The table of a "replace" stage's progress. Each step of an import names it, in the transaction in which it
        acts. Raises StoreBusyError where it is gone: then the stage has another owner, or was dropped."""
        name = self.tables.progress_of(stage.owner or "")
        if self._table_sql(name) is None:
            raise taken_for_dead()
        return name

    def _overtake(self, stage: Stage) -> None:
        """The baseline stands in the definition of the progress table, so that is made anew."""
        sqlite, progress = self.connection.sqlite, self._progress_of(stage)
        former = f"{progress}-former"
        sqlite.execute(f"ALTER TABLE {quoted(progress)} RENAME TO {quoted(former)}")
        sqlite.execute(ddl.progress_table(progress, stage.id, since=stage.since, baseline=None))
        sqlite.execute(f"INSERT INTO {quoted(progress)} SELECT * FROM {quoted(former)} ORDER BY rowid")
        sqlite.execute(f"DROP TABLE {quoted(former)}")

    @threaded
    def drop_stage(self, stage: Stage) -> None:
        self._drop_stage(stage)

    def _drop_stage(self, stage: Stage) -> None:
        sqlite = self.connection.sqlite
        sqlite.execute(f"DROP TABLE IF EXISTS {quoted(stage.table)}")
        if stage.kind == "replace" and stage.owner is not None:
            sqlite.execute(f"DROP TABLE IF EXISTS {quoted(self.tables.progress_of(stage.owner))}")
            self.dropped_owners.append(stage.owner)
        else:
            sqlite.execute(f"DROP TABLE IF EXISTS {self._known(stage)}")

    # replace

    @threaded
    def stage_rows(self, stage: Stage, batch: StageBatch) -> None:
        head, row = _STAGED[stage.kind]
        steps = quoted(self._progress_of(stage)) if stage.kind == "replace" else None
        self._insert_parts(f"INSERT INTO {quoted(stage.table)}{head} VALUES ", row, batch)
        if steps is not None:
            progress = batch.progress
            self.connection.sqlite.execute(
                f"INSERT INTO {steps} VALUES (?, ?, ?, ?)",
                (progress.byte_offset, progress.line, progress.events, progress.digest),
            )

    def _insert_parts(self, head: str, row: str, parts: Iterable[Sequence[tuple[Any, ...]]]) -> None:
        """Insert rows, each part by one statement: Python's lock is not held while it runs, so what comes next is
        parsed meanwhile. For the worker thread."""
        for part in parts:
            self.connection.sqlite.execute(
                head + ",".join([row] * len(part)), list(itertools.chain.from_iterable(part))
            )

    @threaded
    def make_indexes(self, stage: Stage, which: Literal["unique", "other"]) -> Clash | None:
        self._progress_of(stage)
        if which == "other":
            self.add_order_index(stage.table)
            return None
        present = self.indexed(stage.table)  # an import that died after this step goes on with them
        for statement, columns in ddl.unique_indexes(stage.table, ddl.generation(self.tables.events)):
            if columns in present:
                continue
            try:
                self.connection.make_index(statement)
            except Exception as error:
                if code_of(error) != sqlite3.SQLITE_CONSTRAINT:
                    raise
                return self._first_clash(stage, *columns)
        return None

    def indexed(self, table: str) -> set[tuple[str, ...]]:
        """The columns of each index of a table. For the worker thread."""
        sqlite = self.connection.sqlite
        # As values, for `quoted` refuses the names that SQLite gives the indexes of constraints.
        names = sqlite.execute("SELECT name FROM pragma_index_list(?)", (table,)).fetchall()
        return {
            tuple(column for (column,) in sqlite.execute("SELECT name FROM pragma_index_info(?)", name))
            for name in names
        }

    def _first_clash(self, stage: Stage, first: str, second: str) -> Clash:
        line_a, line_b, a, b = self.connection.sqlite.execute(
            f"""SELECT min(rowid), max(rowid), {quoted(first)}, {quoted(second)} FROM (
              SELECT rowid, {quoted(first)}, {quoted(second)},
                row_number() OVER (PARTITION BY {quoted(first)}, {quoted(second)} ORDER BY rowid) AS place
              FROM {quoted(stage.table)}
            ) WHERE place <= 2 GROUP BY 3, 4 HAVING count(*) = 2 ORDER BY 2 LIMIT 1"""
        ).fetchone()
        return Clash(line_a, line_b, second, f"{first} {a!r} with {second} {b}")

    def add_order_index(self, table: str) -> list[str]:
        """Make the index for the order where it is missing; its name. For the worker thread."""
        if ddl.ORDER in self.indexed(table):
            return []
        generation = ddl.generation(self.tables.events)
        self.connection.make_index(ddl.order_index(table, generation))
        return [f"{generation}-order"]

    def _refuse_what_would_be_lost(self) -> None:
        """A table that takes the place of the events has the columns of events, and nothing that was hung on them."""
        ask, events = self.connection.sqlite.execute, self.tables.events
        for what, lost in (
            (
                "triggers",
                ask(
                    "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE",
                    (events,),
                ),
            ),
            (
                "columns of its own",
                ask(
                    "SELECT name FROM pragma_table_xinfo(?) WHERE name NOT IN (SELECT value FROM json_each(?))",
                    (events, json.dumps(EVENT)),
                ),
            ),
        ):
            if names := ", ".join(name for (name,) in lost):
                raise UnsupportedStoreError(
                    f"the table {events!r} has {what}, which replacing it would lose: {names}"
                )

    @threaded
    def swap(self, stage: Stage) -> None:
        self.changed_store = True
        sqlite, steps = self.connection.sqlite, quoted(self._progress_of(stage))
        self._refuse_what_would_be_lost()
        sqlite.execute(f"DROP TABLE {self._events}")
        sqlite.execute(f"ALTER TABLE {quoted(stage.table)} RENAME TO {self._events}")
        sqlite.execute(f"DROP TABLE {steps}")
        sqlite.execute(f"DELETE FROM {quoted(self.tables.snapshots)}")
        sqlite.execute(f"DELETE FROM {quoted(self.tables.subscribers)}")
        if stage.owner is not None:
            self.dropped_owners.append(stage.owner)

    # merge

    def _part_of(self, stage: Stage) -> str:
        """What orders parts. A push of reSolve's to a stage of ours has no name, as one of ours without."""
        unnamed = f"x'{order.UNNAMED.hex()}'"
        return f"coalesce(part, {unnamed})" if self._has_parts(stage) else unnamed

    @threaded
    def pour(self, source: Stage, target: Stage, part: bytes) -> None:
        extra, value = "", ""
        if self._has_parts(target):
            extra, value = ', "part"', ", :part"
            if part != order.UNNAMED:
                self.connection.sqlite.execute(
                    f'DELETE FROM {quoted(target.table)} WHERE "part" = ?', (part,)
                )
        elif part != order.UNNAMED:
            raise UnsupportedStoreError("this incremental import was opened by reSolve, which knows no parts")
        # reSolve works a row's thread out when it is pushed, and needs it.
        self.connection.sqlite.execute(
            f"""INSERT INTO {quoted(target.table)}("threadId", "timestamp", "aggregateId", "type", "payload"{extra})
            SELECT ((timestamp % 256) + 256) % 256, timestamp, aggregateId, type, payload{value}
            FROM {quoted(source.table)} ORDER BY rowid""",
            {"part": part},
        )

    async def compare(self, stage: Stage) -> Comparison:
        return Comparison(stage, await self._discard_known(stage), self._shared(stage))

    @threaded
    def _discard_known(self, stage: Stage) -> int:
        """What stands at the staged timestamps is found by the order's index, so an incremental import costs
        what its batch costs, however large the store is; then the groups meet through indexes on both sides.
        """
        table, known = quoted(stage.table), self._known(stage)
        index_home = "temp." if stage.kind == "merge" else ""
        index = quoted(f"{stage.table}-group")
        self.connection.make_index(
            f'CREATE INDEX {index_home}{index} ON {table}("timestamp", "aggregateId", "type")'
        )
        self.connection.sqlite.execute(
            f"""CREATE TEMP TABLE {known} AS
            SELECT e.timestamp, e.aggregateId, e.type, coalesce({self._payload}, 'null') AS payload
            FROM (
              SELECT DISTINCT timestamp FROM {table} WHERE timestamp <= (SELECT max(timestamp) FROM {self._events})
            ) AS s CROSS JOIN {self._events} AS e WHERE e.timestamp = s.timestamp"""
        )
        self.connection.make_index(
            f"CREATE INDEX temp.{quoted(f'{stage.id}-known-group')} ON {known}(timestamp, aggregateId, type)"
        )
        return self.connection.sqlite.change(
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
        table, known = quoted(stage.table), self._known(stage)
        left = f"{table} AS s WHERE s.timestamp <= (SELECT max(timestamp) FROM {known})"
        self._shared_rows = self.connection.sqlite.execute(
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

    @staticmethod
    def _known(stage: Stage) -> str:
        return quoted(f"{stage.id}-known")

    @threaded
    def place(self, stage: Stage) -> int:
        self.changed_store = True
        heads, stored = self._heads(), self._growth()
        before = sum(heads)
        try:
            # No version behind the highest: the column refuses the null.
            self.connection.sqlite.executemany(
                f"""INSERT INTO {self._events}({_COLUMNS}) VALUES (
                  ?1, ?2, ?3, ?4,
                  (SELECT nullif(coalesce(max(aggregateVersion), 0), {MAX_SAFE_INTEGER}) + 1
                    FROM {self._events} WHERE aggregateId = ?4),
                  ?5, CAST(?6 AS TEXT)
                )""",
                self._placed(stage, heads),
            )
        except Exception as error:
            if code_of(error) != sqlite3.SQLITE_CONSTRAINT:
                raise
            raise self._refusal(stage, error) from None
        placed = sum(heads) - before
        if self._growth() - stored != placed:
            raise _left_out(self.tables.events)
        return placed

    def _refusal(self, stage: Stage, error: Exception) -> Exception:
        """What it means that the store did not take a staged event."""
        at_its_end = self.connection.sqlite.execute(
            f"""SELECT aggregateId FROM {quoted(stage.table)} AS s WHERE EXISTS (
              SELECT 1 FROM {self._events} AS e
              WHERE e.aggregateId = s.aggregateId AND e.aggregateVersion = {MAX_SAFE_INTEGER}
            ) LIMIT 1"""
        ).fetchone()
        return error if at_its_end is None else last_version(at_its_end[0])

    def _placed(
        self, stage: Stage, heads: list[int]
    ) -> Iterator[tuple[int, int, int, str, str, bytes | None]]:
        """What the stage holds, in order, with thread and counter; moves `heads` behind it. For the worker thread."""
        behind_all = self._thread_of_the_latest()
        table, known = quoted(stage.table), self._known(stage)
        rows = self.connection.sqlite.execute(
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

    def _thread_of_the_latest(self) -> int:
        """The thread whose last event comes after all others, wherever threads fall: what follows does too."""
        latest = self.connection.sqlite.execute(
            f"""SELECT threadId FROM {self._events}
            ORDER BY timestamp DESC, threadCounter DESC, threadId DESC LIMIT 1"""
        ).fetchone()
        return 0 if latest is None else int(latest[0])

    # the small tables

    @threaded
    def change(self, statement: str, values: Sequence[Value] = ()) -> int:
        return self.connection.sqlite.change(bound(statement), values)


def _left_out(table: str) -> UnsupportedStoreError:
    return UnsupportedStoreError(
        f"a trigger on the table {table!r} has left out what was to be stored; nothing of this step was kept"
    )

"""Writing a store in a SQLite file: one writer at a time, whole transactions."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Literal

from eventferry.clock import now
from eventferry.database import PLACED, Clash, Freeze, Stage, StageBatch, StageKind
from eventferry.databases.dialect import Value
from eventferry.databases.names import (
    EVENT,
    Tables,
    comment,
    frozen_marker,
    import_marker,
    refuse_to_lose,
    taken_for_dead,
)
from eventferry.databases.sqlite import tables as ddl
from eventferry.databases.sqlite.connection import Connection
from eventferry.databases.sqlite.dialect import bound
from eventferry.databases.sqlite.library import code_of
from eventferry.databases.sqlite.reading import SqliteReading
from eventferry.databases.sqlite.shape import has_name
from eventferry.databases.sqlite.tables import quoted
from eventferry.databases.statements import first_clash, whole_stage
from eventferry.databases.thread import threaded
from eventferry.errors import UnsupportedStoreError
from eventferry.reading import order

COLUMNS = ", ".join(map(quoted, EVENT))
# A payload is bound as bytes and called text by SQLite: it never becomes a Python string.
_INSERT_ROW = f"({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, CAST(? AS TEXT))"

_STAGED = {
    # The rowid is the line number: a clash can name its two lines, at no cost.
    "replace": (f"(rowid, {COLUMNS})", "(?,?,?,?,?,?,?,CAST(?AS TEXT))"),
    "parts": (f"(rowid, {COLUMNS})", "(?,?,?,?,?,?,?,CAST(?AS TEXT))"),
    "merge": ('("timestamp", "aggregateId", "type", "payload")', "(?, ?, ?, CAST(? AS TEXT))"),
}
"""Into which columns rows go, and how one is written."""


class SqliteWriting(SqliteReading):
    """A write transaction on one connection."""

    def __init__(self, connection: Connection, tables: Tables, events_sql: str) -> None:
        super().__init__(connection, tables, events_sql)
        # Whether what a save relies on from the save before may be another now.
        self.changed_store = False
        self.dropped_owners: list[str] = []
        # Whether no journal may hold what was deleted, when the transaction has ended.
        self.erases = False
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
            words = frozen_marker(quoted(self.tables.events))
            told = words, comment("FREEZE", owner=after.owner, since=after.since)
            self.sqlite.execute(ddl.definition("freeze", self.tables.freeze, *told))
        return True

    def _drop_freeze(self, marker: Freeze) -> None:
        self.changed_store = True
        if marker.owner is not None:
            self.dropped_owners.append(marker.owner)
        self.sqlite.execute(f"DROP TABLE {quoted(self.tables.freeze)}")

    def _refuse_neighbour(self, name: str) -> None:
        """A name that a marker must have may be that of a table of another store or program."""
        if has_name(self.sqlite, name):
            raise UnsupportedStoreError(
                f"the name {name!r}, which this needs beside {self.tables.events!r}, is that of a table of another "
                "store or program in the file"
            )

    @threaded
    def make_stage(self, kind: StageKind, *, owner: str | None = None, baseline: str | None = None) -> Stage:
        sqlite, tables = self.sqlite, self.tables
        if kind in PLACED:
            self._refuse_what_would_be_lost()
            stage = whole_stage(tables, kind, owner, baseline)
            sqlite.execute(ddl.definition("events", stage.table, ddl.store_comment()))
            sqlite.execute(ddl.steps_definition(stage, tables.progress_of(stage.id)))
            return stage
        stage_id, since = token_hex(16), now()  # as reSolve's: letters and digits
        if kind == "open":
            self._refuse_neighbour(tables.open_import)
            told = import_marker(stage_id), comment("IMPORT", id=stage_id, since=since)
            sqlite.execute(ddl.definition(kind, tables.open_import, *told))
            return Stage(stage_id, kind, tables.open_import, None, since)
        table = f"{tables.events}-merge-{stage_id}"
        sqlite.execute(ddl.definition(kind, table))
        return Stage(stage_id, kind, table, owner, since)

    @threaded
    def adopt_stage(self, stage: Stage, owner: str) -> Stage:
        """From here on the former owner finds no table of its own any more."""
        self._refuse_what_would_be_lost()
        adopted = replace(stage, table=self.tables.stage_of(owner), owner=owner)
        names = {stage.table: adopted.table, self._progress_of(stage): self.tables.progress_of(owner)}
        for former, name in names.items():
            self.sqlite.execute(f"ALTER TABLE {quoted(former)} RENAME TO {quoted(name)}")
        if stage.owner is not None:
            self.dropped_owners.append(stage.owner)
        return adopted

    def _progress_of(self, stage: Stage) -> str:
        """The table of the progress of a stage that keeps positions. Each step of an import names it, in the
        transaction in which it acts. Raises StoreBusyError where it is gone: then the stage has another owner, or was
        dropped."""
        name = self.tables.progress_of(stage.owner or "")
        if self._table_sql(name) is None:
            raise taken_for_dead()
        return name

    @threaded
    def drop_stage(self, stage: Stage) -> None:
        self._drop_stage(stage)

    def _drop_stage(self, stage: Stage) -> None:
        beside = ddl.known(stage)
        if stage.keeps_positions and stage.owner is not None:
            beside = self.tables.progress_of(stage.owner)
            self.dropped_owners.append(stage.owner)
        for name in (stage.table, beside):
            self.sqlite.execute(f"DROP TABLE IF EXISTS {quoted(name)}")

    @threaded
    def stage_rows(self, stage: Stage, batch: StageBatch) -> None:
        head, row = _STAGED[stage.kind]
        steps = quoted(self._progress_of(stage)) if stage.keeps_positions else None
        head = f"INSERT INTO {quoted(stage.table)}{head} VALUES "
        # Each part by one statement: Python's lock is not held while it runs, so what comes next is parsed meanwhile.
        for part in batch:
            self.sqlite.execute(head + ",".join([row] * len(part)), list(itertools.chain.from_iterable(part)))
        if steps is not None and stage.kind == "replace":
            progress = batch.progress
            self.sqlite.execute(
                f"INSERT INTO {steps} VALUES (?, ?, ?, ?)",
                (progress.byte_offset, progress.line, progress.events, progress.digest),
            )

    async def make_indexes(self, stage: Stage, which: Literal["unique", "other"]) -> Clash | None:
        clashing = await self._make_indexes(stage, which)
        return None if clashing is None else await first_clash(self, stage.table, "rowid", clashing)

    @threaded
    def _make_indexes(self, stage: Stage, which: Literal["unique", "other"]) -> tuple[str, str] | None:
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
                return columns
        return None

    def indexed(self, table: str) -> set[tuple[str, ...]]:
        sqlite = self.sqlite
        # As values, for `quoted` refuses the names that SQLite gives the indexes of constraints.
        names = sqlite.execute("SELECT name FROM pragma_index_list(?)", (table,)).fetchall()
        return {
            tuple(column for (column,) in sqlite.execute("SELECT name FROM pragma_index_info(?)", name))
            for name in names
        }

    def add_order_index(self, table: str) -> list[str]:
        """Make the index for the order where it is missing; its name. For the worker thread."""
        if ddl.ORDER in self.indexed(table):
            return []
        generation = ddl.generation(self.tables.events)
        self.connection.make_index(ddl.order_index(table, generation))
        return [f"{generation}-order"]

    def _refuse_what_would_be_lost(self) -> None:
        """A table that takes the place of the events has the columns of events, and nothing that was hung on them."""
        events = self.tables.events
        found = self.sqlite.execute(
            """SELECT 'the trigger ' || name FROM sqlite_master
            WHERE type = 'trigger' AND tbl_name = :events COLLATE NOCASE
            UNION ALL SELECT 'the column ' || name FROM pragma_table_xinfo(:events)
            WHERE name NOT IN (SELECT value FROM json_each(:columns))""",
            {"events": events, "columns": json.dumps(EVENT)},
        )
        refuse_to_lose(events, found)

    def _part_of(self, stage: Stage) -> str:
        """What orders parts. A push of reSolve's to a stage of ours has no name, as one of ours without."""
        unnamed = f"x'{order.UNNAMED.hex()}'"
        return f"coalesce(part, {unnamed})" if self._has_parts(stage) else unnamed

    @threaded
    def pour(self, source: Stage, target: Stage, part: bytes | None) -> None:
        extra, value = ("", "") if part is None else (', "part"', ", :part")
        if part not in (None, order.UNNAMED):
            self.sqlite.execute(f"DELETE FROM {quoted(target.table)} WHERE part = ?", (part,))
        # reSolve works a row's thread out when it is pushed, and needs it.
        self.sqlite.execute(
            f"""INSERT INTO {quoted(target.table)}("threadId", "timestamp", "aggregateId", "type", "payload"{extra})
            SELECT ((timestamp % 256) + 256) % 256, timestamp, aggregateId, type, payload{value}
            FROM {quoted(source.table)} ORDER BY rowid""",
            {"part": part},
        )

    @threaded
    def change(self, statement: str, values: Sequence[Value] = (), *, erases: bool = False) -> int:
        self.erases |= erases
        return self.sqlite.change(bound(statement), values)

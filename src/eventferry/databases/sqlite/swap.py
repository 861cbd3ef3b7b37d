"""The swap on SQLite: a stage takes the place of the events. And the end of a store."""

from __future__ import annotations

from typing import get_args

from eventferry.database import Stage, StageKind
from eventferry.databases.sqlite.markers import stages
from eventferry.databases.sqlite.merge import SqliteExclusiveWriting
from eventferry.databases.sqlite.tables import quoted
from eventferry.databases.thread import threaded


class SqliteReplacing(SqliteExclusiveWriting):
    """A write transaction that replaces the events."""

    @threaded
    def swap(self, stage: Stage) -> None:
        self.changed_store = True
        sqlite, steps = self.sqlite, quoted(self._progress_of(stage))
        self._refuse_what_would_be_lost()
        sqlite.execute(f"DROP TABLE {self._events}")
        sqlite.execute(f"ALTER TABLE {quoted(stage.table)} RENAME TO {self._events}")
        sqlite.execute(f"DROP TABLE {steps}")
        sqlite.execute(f"DELETE FROM {quoted(self.tables.snapshots)}")
        sqlite.execute(f"DELETE FROM {quoted(self.tables.subscribers)}")
        if stage.owner is not None:
            self.dropped_owners.append(stage.owner)

    @threaded
    def drop(self) -> None:
        self.changed_store = True
        sqlite, tables = self.sqlite, self.tables
        if (marker := self._freeze()) is not None:
            self._drop_freeze(marker)
        for kind in get_args(StageKind):
            for stage in stages(sqlite, tables, kind):
                self._drop_stage(stage)
        for name in (tables.events, tables.snapshots, tables.subscribers):
            sqlite.execute(f"DROP TABLE {quoted(name)}")
        for name in tables.made_later:
            sqlite.execute(f"DROP TABLE IF EXISTS {quoted(name)}")
        sqlite.execute("PRAGMA secure_delete = ON").fetchone()
        sqlite.execute(f"DROP TABLE {quoted(tables.secrets)}")
        sqlite.execute("PRAGMA secure_delete = FAST").fetchone()

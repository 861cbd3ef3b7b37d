"""Writing what is no event: stages, snapshots, subscribers. Saves go on meanwhile."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from pymysql.constants import ER
from pymysql.err import MySQLError

from eventferry.clock import now
from eventferry.database import Clash, Freeze, Stage, StageBatch, StageKind
from eventferry.databases.dialect import Value
from eventferry.databases.inspecting import UNIQUE
from eventferry.databases.mysql import markers
from eventferry.databases.mysql import tables as ddl
from eventferry.databases.mysql.cluster import GUARD
from eventferry.databases.mysql.connection import NO_TABLE, Values, duplicate_key, number_of
from eventferry.databases.mysql.markers import Marker, MarkerChange, freeze_of
from eventferry.databases.mysql.reading import MysqlReading
from eventferry.databases.mysql.tables import quoted
from eventferry.databases.names import (
    EVENT,
    STAGE_WORDS,
    comment,
    import_marker,
    new_import_id,
    new_owner,
    refuse_to_lose,
    taken_for_dead,
)
from eventferry.databases.statements import first_clash, whole_stage
from eventferry.databases.thread import threaded
from eventferry.errors import (
    DatabaseError,
    ImportNotFoundError,
    ImportOpenError,
    ResumeError,
    StoreBusyError,
    UnsupportedStoreError,
)
from eventferry.lines.event import NumberedRow
from eventferry.reading import order

_NO_LOCAL_FILES = (ER.NOT_ALLOWED_COMMAND, 3948, 4166)
_STAGE_COLUMNS = (
    "`line`, `threadId`, `threadCounter`, `timestamp`, `aggregateId`, `aggregateVersion`, `type`, `payload`"
)
_LONG_AGO = -(2**62)
_NEW_COLUMNS = "`timestamp`, `aggregateId`, `type`, `payload`"

_CHECKS = {
    # One comes with each column of the type JSON, as reSolve's payload.
    True: """information_schema.check_constraints
      WHERE constraint_schema = %(database)s AND table_name = %(events)s
        AND REPLACE(check_clause, '`', '') <> 'json_valid(payload)'""",
    # A name is that of one check in all the database.
    False: """information_schema.table_constraints
      WHERE table_schema = %(database)s AND table_name = %(events)s AND constraint_type = 'CHECK'""",
}
"""The checks of a table, by whether the server is a MariaDB."""


class MysqlWriting(MysqlReading):
    """A write transaction on one connection; `freeze` stood when it had its locks.

    Tables are made at once, apart from the transaction, and removed when it has ended: what it did, and what it
    did not do, is done to them then.
    """

    def __init__(self, *reading: Any, freeze: Freeze | None) -> None:
        super().__init__(*reading)
        self._freeze = freeze
        self._afterwards: list[Callable[[], object]] = []
        self._otherwise: list[Callable[[], object]] = []

    def commit(self) -> None:
        try:
            self._settle()
        except BaseException:
            self.undo()
            raise
        # It is done. What cannot be removed now, somebody removes later.
        with contextlib.suppress(MySQLError, OSError):
            for step in self._afterwards:
                step()
        self.connection.end()

    def _settle(self) -> None:
        self.connection.query("COMMIT")

    def undo(self) -> None:
        self.connection.roll_back()
        for step in reversed(self._otherwise):
            step()
        self.connection.end()

    def _make(self, kind: str, name: str, text: str = "") -> None:
        self._otherwise.append(partial(markers.drop, self.connection, name))
        self.connection.make(kind, name, text)

    def _drop_afterwards(self, *names: str) -> None:
        self._afterwards.append(partial(markers.drop, self.connection, *names))

    def _changes(self, change: MarkerChange | None) -> bool:
        """Take part in what was done to a marker; whether it was done."""
        if change is None:
            return False
        self._afterwards.append(change.finish)
        self._otherwise.append(change.undo)
        return True

    async def freeze(self) -> Freeze | None:
        return self._freeze

    @threaded
    def change_freeze(self, before: Freeze | None, after: Freeze | None) -> bool:
        # Before the end: behind it somebody else's freeze may stand there already, and would go with the marker.
        found = markers.found(self.connection, self.tables.freeze)
        if before != (None if found is None else freeze_of(found.text)):
            is_done = False
        elif after is not None:
            # No event is being saved, for this transaction holds the threads; whoever saves next looks for the marker.
            self.connection.wait_for_writings()
            self._keep_out_on_nodes("secrets")
            self._keep_out_on_nodes("push")
            is_done = self._mark("FREEZE", after.owner, after.since or now(), found) is not None
        else:
            is_done = found is None or self._changes(self._thawed(found))
        self._freeze = after if is_done else freeze_of(self.comment_of(self.tables.freeze))
        return is_done

    def _thawed(self, freeze: Marker) -> MarkerChange | None:
        return markers.take(self.connection, self.names, freeze)

    def keep_out(self, others: Literal["push", "secrets"]) -> None:
        """Until the end, nobody else adds to the open import ("push"), or changes "secrets"."""
        self.connection.keep_out(others)
        self._keep_out_on_nodes(others)

    def _keep_out_on_nodes(self, others: Literal["push", "secrets"]) -> None:
        """On a cluster: change what others change who do the same on another node."""
        if self.connection.node is None:
            return
        secrets, pushes = quoted(self.tables.secrets), quoted(self.tables.open_import)
        come, go = {
            "secrets": (
                f"INSERT INTO {secrets}(`idx`, `id`, `secret`) VALUES (-1, %(guard)s, '')",
                f"DELETE FROM {secrets} WHERE `id` = %(guard)s",
            ),
            "push": (
                f"""INSERT INTO {pushes}(`rowid`, `timestamp`, `aggregateId`, `type`)
                VALUES (%(guard)s, {_LONG_AGO}, '', '')""",
                f"DELETE FROM {pushes} WHERE `rowid` = %(guard)s",
            ),
        }[others]
        try:
            self.connection.sent(self.connection.packets([come, go], {"guard": GUARD}))
        except MySQLError as error:
            if number_of(error) != NO_TABLE:  # no import is open
                raise

    def _mark(
        self, words: str, owner: str | None, since: int, instead: Marker | None = None
    ) -> Marker | None:
        """Set the marker; None where another one stands there than was thought."""
        new = markers.new(self.tables, words, owner, since)
        return new if self._put("marker", new, "a freeze", instead) else None

    def _put(self, kind: str, new: Marker, what: str, instead: Marker | None = None) -> bool:
        if self._changes(markers.put(self.connection, self.names, kind, new, instead)):
            return True
        text = self.comment_of(new.table)
        if text is not None and not ddl.is_marker(text):
            raise UnsupportedStoreError(
                f"the table {new.table!r} stands where this store's marker of {what} belongs, and is none: give one "
                "of the two another name"
            )
        return False

    @threaded
    def make_stage(self, kind: StageKind, *, owner: str | None = None, baseline: str | None = None) -> Stage:
        since = now()
        # Begins with the time, for the comment of an open import has room for nothing but its id.
        stage_id = new_import_id(since)
        if kind == "open":
            return self._make_open(stage_id, since)
        if kind == "merge":
            table = self.names.merge_stage(stage_id)
            self._make(kind, table, comment("STAGE", id=stage_id, owner=owner, since=since))
            return Stage(stage_id, kind, table, owner, since)
        return self._make_whole(whole_stage(self.tables, kind, owner, baseline))

    def _make_whole(self, stage: Stage) -> Stage:
        self._refuse_what_would_be_lost()
        self._sweep()
        table, heads, progress = self.names.import_of(stage.id)
        facts = comment(STAGE_WORDS[stage.kind], id=stage.id, since=stage.since, driver=stage.driver)
        self._make("ledger" if stage.kind == "parts" else "progress", progress, facts)
        self._make("replace", table, store_comment())
        self._make("threads", heads)
        self.connection.insert(f"INSERT INTO {quoted(heads)} VALUES ", ((thread, 0) for thread in range(256)))
        self.connection.execute(f"INSERT INTO {quoted(progress)}(`baseline`) VALUES (%s)", (stage.baseline,))
        return stage

    def _make_open(self, stage_id: str, since: int) -> Stage:
        table = self.tables.open_import
        self._drop_closed_import()
        new = Marker(table, import_marker(stage_id), stage_id[-12:])
        if not self._put("open", new, "an open incremental import"):
            raise ImportOpenError("an incremental import is open already")
        return Stage(stage_id, "open", table, None, since)

    def _drop_closed_import(self) -> None:
        """Remove the table of an import that is merged or rolled back, where its process died before it did."""
        left = markers.found(self.connection, self.tables.open_import)
        if left is not None and markers.is_closed(self.names, self._look):
            self._drop_import(left)

    def _drop_import(self, left: Marker) -> None:
        if (change := markers.take(self.connection, self.names, left)) is not None:
            change.finish()

    def _look(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        # Apart, for what this transaction has used it could not rename or drop any more.
        return self.connection.apart(statement, values)

    def _sweep(self) -> None:
        """Remove what is left of imports that were half made or half removed, companions whose markers another
        program has removed, and tables that a dead process was to remove."""
        self._drop_closed_import()
        beside = markers.beside_the_events(self.connection, self.names)
        # Behind the look at the companions: those of markers that are there now were not all there then.
        names = self.tables.freeze, self.tables.open_import
        stand = [found.token for name in names if (found := markers.found(self.connection, name))]
        imports = map(self.names.import_of, self.names.imports(beside))
        parts = (name for tables in imports if not set(tables) <= beside.keys() for name in tables)
        lonely = (name for name, token in self.names.marks(beside).items() if token not in stand)
        markers.drop(self.connection, *parts, *lonely, *self.names.left_over(beside))

    @threaded
    def adopt_stage(self, stage: Stage, owner: str) -> Stage:
        self._refuse_what_would_be_lost()
        # This waits for what the former owner has begun. What it begins after it meets no table.
        former, tables = self.names.import_of(stage.owner or ""), self.names.import_of(owner)
        if not self.connection.rename(dict(zip(former, tables, strict=True))):
            raise StoreBusyError("another import into this store has begun just now")
        return replace(stage, table=tables[0], owner=owner)

    @threaded
    def drop_stage(self, stage: Stage) -> None:
        if stage.kind == "open":
            self._lock_pushes(stage)
            self.connection.execute(
                f"""INSERT INTO {quoted(stage.table)}(`rowid`, `timestamp`, `aggregateId`, `type`)
                VALUES (%s, {_LONG_AGO}, '', '')""",
                (markers.CLOSED,),
            )
            if (left := markers.found(self.connection, stage.table)) is not None:
                self._afterwards.append(partial(self._drop_import, left))
        elif stage.keeps_positions:
            self._drop_afterwards(*self.names.import_of(stage.owner or ""))
        else:
            self._drop_afterwards(stage.table)

    def _refuse_what_would_be_lost(self) -> None:
        """What hangs on the table of events and would not hang on the one that takes its place."""
        names = {"database": self.connection.access.database, "events": self.tables.events, "columns": EVENT}
        found = self.connection.query(
            f"""SELECT CONCAT('the trigger ', trigger_name) FROM information_schema.triggers
            WHERE event_object_schema = %(database)s AND event_object_table = %(events)s
            UNION ALL
            SELECT CONCAT('the foreign key ', constraint_name, ' of ', table_name)
            FROM information_schema.referential_constraints
            WHERE constraint_schema = %(database)s AND %(events)s IN (table_name, referenced_table_name)
            UNION ALL
            SELECT CONCAT('the column ', column_name) FROM information_schema.columns
            WHERE table_schema = %(database)s AND table_name = %(events)s AND column_name NOT IN %(columns)s
            UNION ALL
            SELECT CONCAT('the default of ', column_name) FROM information_schema.columns
            WHERE table_schema = %(database)s AND table_name = %(events)s
              AND column_default <> 'NULL'  -- so MariaDB says it of a column that has none
            UNION ALL
            SELECT DISTINCT CONCAT('the partitions by ', partition_method) FROM information_schema.partitions
            WHERE table_schema = %(database)s AND table_name = %(events)s AND partition_name IS NOT NULL
            UNION ALL
            SELECT 'system versioning' FROM information_schema.tables
            WHERE table_schema = %(database)s AND table_name = %(events)s AND table_type = 'SYSTEM VERSIONED'
            UNION ALL
            SELECT CONCAT('the check ', constraint_name) FROM {_CHECKS[self.connection.is_mariadb]}""",
            names,
        )
        refuse_to_lose(self.tables.events, found)

    @threaded
    def stage_rows(self, stage: Stage, batch: StageBatch) -> None:
        columns = _STAGE_COLUMNS if stage.keeps_positions else _NEW_COLUMNS
        try:
            with self._its(stage):
                if not stage.keeps_positions or not self._load(stage, batch):
                    self.connection.insert(
                        f"INSERT INTO {quoted(stage.table)}({columns}) VALUES ",
                        itertools.chain.from_iterable(batch),
                    )
        except MySQLError as error:
            if number_of(error) == ER.BAD_FIELD_ERROR:  # its keys are built, and the lines' numbers are gone
                raise ResumeError(
                    "the source has grown since the import was interrupted, which had come to its end: "
                    "import without resume=True to start over"
                ) from None
            raise
        if stage.kind == "replace":
            progress = batch.progress
            self.connection.execute(
                f"""INSERT INTO {quoted(self._progress_of(stage))}(`byteOffset`, `line`, `events`, `digest`)
                VALUES (%s, %s, %s, %s)""",
                (progress.byte_offset, progress.line, progress.events, progress.digest),
            )

    def _load(self, stage: Stage, batch: StageBatch) -> bool:
        """Put rows in by LOAD DATA LOCAL; False where the server does not allow that."""
        if not self.connection.access.loads:
            return False
        count = 0

        def parts() -> Iterator[bytes]:
            nonlocal count
            for part in batch:
                count += len(part)
                yield _loaded(part)

        statement = f"""LOAD DATA LOCAL INFILE 'rows' INTO TABLE {quoted(stage.table)} CHARACTER SET utf8mb4
        FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({_STAGE_COLUMNS})"""
        try:
            loaded, warnings = self.connection.wire.load(statement.replace("%%", "%"), parts())
        except MySQLError as error:
            if number_of(error) in _NO_LOCAL_FILES:
                self.connection.access.loads = False
                return False
            raise
        # What would be an error anywhere else is a warning here, and damage.
        if loaded != count or warnings:
            said = self.connection.query("SHOW WARNINGS LIMIT 1") if warnings else []
            raise DatabaseError(f"the server took {loaded} of {count} rows: {said[0][2] if said else ''}")
        return True

    def _progress_of(self, stage: Stage) -> str:
        return self.tables.progress_of(stage.owner or "")

    @contextlib.contextmanager
    def _its(self, stage: Stage) -> Iterator[None]:
        """The first use of a stage in a transaction, from which on it stays. StoreBusyError if it is gone."""
        try:
            yield
        except MySQLError as error:
            if number_of(error) == NO_TABLE and self.comment_of(stage.table) is None:
                raise taken_for_dead() from None
            raise

    async def make_indexes(self, stage: Stage, which: Literal["unique", "other"]) -> Clash | None:
        # The index for the order is built with the unique ones, in one pass.
        make = self._make_keys if which == "unique" else self._fill_heads
        if await self.connection.run(partial(make, stage)):
            return None
        position, version = UNIQUE
        return await first_clash(self, stage.table, "line", position) or await first_clash(
            self, stage.table, "line", version
        )

    def _make_keys(self, stage: Stage) -> bool:
        if not self._has_column(stage.table, "line"):
            if self.comment_of(stage.table) is None:
                raise taken_for_dead()
            return True  # an import that died after this step goes on with its keys
        try:
            with self._its(stage):
                # One pass over the rows builds all keys and takes the numbers of the lines out.
                self.connection.apart(
                    f"""ALTER TABLE {quoted(stage.table)} DROP PRIMARY KEY, ADD {ddl.POSITION_KEY},
                    ADD {ddl.VERSION_KEY}, ADD {ddl.ORDER_KEY}, DROP COLUMN `line`"""
                )
        except MySQLError as error:
            if duplicate_key(error) is None:
                raise
            return False
        return True

    def _has_column(self, table: str, column: str) -> bool:
        statement, values = self.dialect.columns(table)
        return any(name == column for name, *_ in self.connection.query(statement, values))

    def _fill_heads(self, stage: Stage) -> bool:
        with self._its(stage):
            self.connection.execute(
                f"""REPLACE INTO {quoted(self.names.heads_of(stage.owner or ""))}
                SELECT threadId, MAX(threadCounter) + 1 FROM {quoted(stage.table)} GROUP BY threadId"""
            )
        return True

    @threaded
    def pour(self, source: Stage, target: Stage, part: bytes | None) -> None:
        self._lock_pushes(target)
        extra, value = ("", "") if part is None else (", `part`", ", %(part)s")
        if part not in (None, order.UNNAMED):
            self.connection.execute(f"DELETE FROM {quoted(target.table)} WHERE `part` = %s", (part,))
        # reSolve takes the events of one timestamp in order of rowid.
        with self._its(source):
            self.connection.execute(
                f"""INSERT INTO {quoted(target.table)}
              (`rowid`, `timestamp`, `aggregateId`, `type`, `payload`{extra})
            SELECT CONCAT(%(source)s, LPAD(`arrival`, 16, '0')), `timestamp`, `aggregateId`, `type`, `payload`{value}
            FROM {quoted(source.table)} ORDER BY `arrival`""",
                {"source": source.id, "part": part},
            )

    def _lock_pushes(self, stage: Stage) -> None:
        """One at a time adds to an open import, or ends it: until the transaction is over."""
        self.keep_out("push")
        if stage.id not in [found.id for found in self._stages("open")]:
            raise ImportNotFoundError(f"no incremental import with the id {stage.id} is open")

    @threaded
    def change(self, statement: str, values: Sequence[Value] = (), *, erases: bool = False) -> int:
        # The server's logs are beyond the reach of a client: docs/mysql.md says what stays in them.
        return self.connection.execute(statement, values)


def store_comment(token: str | None = None) -> str:
    """The comment of a table of events that we make. Its random id changes when the events are replaced."""
    return comment("STORE", id=token or new_owner())


def _field(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b"\t", b"\\t").replace(b"\n", b"\\n")


def _loaded(rows: Sequence[NumberedRow]) -> bytes:
    return b"".join(
        b"%d\t%d\t%d\t%d\t%b\t%d\t%b\t%b\n"
        % (
            line,
            thread,
            counter,
            timestamp,
            _field(aggregate_id.encode()),
            version,
            _field(event_type.encode()),
            bytes(payload).replace(b"\\", b"\\\\"),
        )
        for line, thread, counter, timestamp, aggregate_id, version, event_type, payload in rows
    )

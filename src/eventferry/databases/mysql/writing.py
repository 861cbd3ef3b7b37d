"""Writing what is no event: stages, snapshots, subscribers. Saves go on meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from secrets import token_hex
from typing import Any, Literal

from pymysql.constants import ER
from pymysql.err import MySQLError

from eventferry import order
from eventferry.clock import now
from eventferry.database import (
    Clash,
    NewRowBatch,
    Progress,
    RowBatch,
    SecretRow,
    Stage,
    StageKind,
    SubscriberRow,
)
from eventferry.databases.mysql import tables as ddl
from eventferry.databases.mysql.connection import TABLE_EXISTS, Values, duplicate_key, number_of
from eventferry.databases.mysql.reading import CLOSED, MysqlReading
from eventferry.databases.mysql.tables import quoted
from eventferry.databases.names import comment, fact, import_marker
from eventferry.databases.thread import threaded
from eventferry.errors import (
    DatabaseError,
    EventferryError,
    ImportNotFoundError,
    ImportOpenError,
    InputError,
    ResumeError,
    StoreBusyError,
    UnsupportedStoreError,
)
from eventferry.event import Limits, NumberedRow

_NO_LOCAL_FILES = (ER.NOT_ALLOWED_COMMAND, 3948, 4166)
_STAGE_COLUMNS = (
    "`line`, `threadId`, `threadCounter`, `timestamp`, `aggregateId`, `aggregateVersion`, `type`, `payload`"
)


class MysqlWriting(MysqlReading):
    """A write transaction on one connection.

    Tables are made at once, apart from the transaction, and removed when it has ended: what it did, and what it
    did not do, is done to them then.
    """

    def __init__(self, *reading: Any) -> None:
        super().__init__(*reading)
        self._afterwards: list[tuple[str, Values]] = []
        self._otherwise: list[tuple[str, Values]] = []

    # the transaction's end, for the worker thread

    def commit(self) -> None:
        """Make it so."""
        try:
            self.connection.query("COMMIT")
        except BaseException:
            self.undo()
            raise
        for definition in self._afterwards:
            self.connection.define(*definition)
        self.connection.end()

    def undo(self) -> None:
        """Leave nothing of it."""
        self.connection.roll_back()
        for definition in reversed(self._otherwise):
            self.connection.define(*definition)
        self.connection.end()

    def _make(self, name: str, statement: str, *values: object) -> None:
        self.connection.define(statement, values)
        self._otherwise.append((f"DROP TABLE IF EXISTS {quoted(name)}", ()))

    def _drop_afterwards(self, *names: str) -> None:
        self._afterwards += [(f"DROP TABLE IF EXISTS {quoted(name)}", ()) for name in names]

    # stages

    @threaded
    def make_stage(
        self,
        kind: StageKind,
        *,
        owner: str | None = None,
        baseline: str | None = None,
    ) -> Stage:
        since = now()
        # Begins with the time, for the comment of an open import has room for nothing but its id.
        stage_id = f"{since:012x}{token_hex(10)}"
        collation = self.connection.text_collation()
        if kind == "open":
            return self._make_open(stage_id, since, collation)
        facts = comment("STAGE", id=stage_id, owner=owner, since=since)
        if kind == "merge":
            table = self.names.merge_stage(stage_id)
            self._make(table, ddl.merge_stage_table(table, collation), facts)
            return Stage(stage_id, kind, table, owner, since)
        if self.comment_of(self.tables.progress) is not None:
            raise StoreBusyError("another import into this store is running")
        self._sweep()
        stage = self.tables.stage
        self._make(stage, ddl.events_table(stage, collation, "`line` BIGINT NOT NULL"), store_comment())
        self._make(self.names.stage_threads, ddl.threads_table(self.names.stage_threads))
        self.connection.insert(
            f"INSERT INTO {quoted(self.names.stage_threads)} VALUES ", ((thread, 0) for thread in range(256))
        )
        # The stage is there when this last table is.
        self._make(self.tables.progress, ddl.progress_table(self.tables.progress), facts)
        self.connection.execute(
            f"INSERT INTO {quoted(self.tables.progress)}(`baseline`) VALUES (%s)", (baseline,)
        )
        return Stage(stage_id, kind, stage, owner, since, baseline)

    def _make_open(self, stage_id: str, since: int, collation: str) -> Stage:
        table = self.tables.open_import
        self._drop_closed_import()
        try:
            self._make(table, ddl.open_import_table(table, collation), import_marker(stage_id))
        except MySQLError as error:
            if number_of(error) == TABLE_EXISTS:
                raise ImportOpenError("an incremental import is open already") from None
            raise
        return Stage(stage_id, "open", table, None, since)

    def _drop_closed_import(self) -> None:
        """Remove the table of an import that is merged or rolled back, where its process died before it did."""
        table = self.tables.open_import
        if self.comment_of(table) is None or self._open_import() is not None:
            return
        # Who closed it may still be about to drop it, and would drop the next one in its place.
        self.connection.lock_pushes()
        if self._open_import() is None:
            self.connection.define(f"DROP TABLE IF EXISTS {quoted(table)}")

    def _look_into_open_import(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        # Whether it is closed is seen alike; but what this transaction has used it could not drop any more.
        return self.connection.query_apart(statement, values)

    def _sweep(self) -> None:
        """Remove what an interrupted import left of its stage, and tables that a dead process was to remove."""
        self._drop_closed_import()
        for name in self._beside_the_events():
            if name in (self.tables.stage, self.names.stage_threads) or self.names.is_left_over(name):
                self.connection.define(f"DROP TABLE IF EXISTS {quoted(name)}")

    def _beside_the_events(self) -> list[str]:
        """The tables whose names begin with that of the events and a hyphen."""
        rows = self.connection.query(
            """SELECT table_name FROM information_schema.tables
            WHERE table_schema = %s AND LEFT(table_name, %s) = %s""",
            (self.connection.access.database, len(self.tables.events) + 1, f"{self.tables.events}-"),
        )
        return [str(name) for (name,) in rows]

    @threaded
    def adopt_stage(self, stage: Stage, owner: str) -> Stage:
        facts = comment("STAGE", id=stage.id, owner=owner, since=stage.since)
        before = self.comment_of(self.tables.progress)
        alter = f"ALTER TABLE {quoted(self.tables.progress)} COMMENT = %s"
        self._afterwards.append((alter, (facts,)))
        self._otherwise.append((alter, (before,)))
        return Stage(stage.id, stage.kind, stage.table, owner, stage.since, stage.baseline)

    @threaded
    def overtake(self, stage: Stage) -> None:
        # The first row by its key: behind it somebody may just be adding his.
        self.connection.execute(
            f"UPDATE {quoted(self.tables.progress)} SET `baseline` = NULL ORDER BY `step` LIMIT 1"
        )

    @threaded
    def stage(self, kind: Literal["replace", "open"]) -> Stage | None:
        return self._stage(kind)

    def _stage(self, kind: Literal["replace", "open"]) -> Stage | None:
        if kind == "open":
            found = self._open_import()
            return (
                None if found is None else Stage(found.id, kind, self.tables.open_import, None, found.since)
            )
        facts = self.comment_of(self.tables.progress)
        if facts is None:
            return None
        baseline = self.connection.query(
            f"SELECT `baseline` FROM {quoted(self.tables.progress)} WHERE `baseline` IS NOT NULL"
        )
        since = fact(facts, "STAGE", "since")
        return Stage(
            fact(facts, "STAGE", "id") or "",
            kind,
            self.tables.stage,
            fact(facts, "STAGE", "owner"),
            int(since) if since else None,
            baseline[0][0] if baseline else None,
        )

    @threaded
    def merge_stages(self) -> list[Stage]:
        stages = []
        for name in self._beside_the_events():
            facts = self.comment_of(name) if self.names.is_merge_stage(name) else None
            if facts is not None and (stage_id := fact(facts, "STAGE", "id")) is not None:
                stages.append(Stage(stage_id, "merge", name, fact(facts, "STAGE", "owner")))
        return stages

    @threaded
    def drop_stage(self, stage: Stage) -> None:
        if stage.kind == "replace":
            self._drop_afterwards(self.tables.progress, stage.table, self.names.stage_threads)
            return
        if stage.kind == "open":
            self._lock_pushes(stage)
            self.connection.execute(
                f"""INSERT INTO {quoted(stage.table)}(`rowid`, `timestamp`, `aggregateId`, `type`)
                VALUES (%s, {-(2**62)}, '', '')""",
                (CLOSED,),
            )
        self._drop_afterwards(stage.table)

    # replace

    @threaded
    def stage_rows(self, stage: Stage, batch: RowBatch) -> None:
        try:
            if not self._load(stage, batch):
                self.connection.insert(
                    f"INSERT INTO {quoted(stage.table)}({_STAGE_COLUMNS}) VALUES ",
                    itertools.chain.from_iterable(batch),
                )
        except MySQLError as error:
            if number_of(error) == ER.BAD_FIELD_ERROR:  # its keys are built, and the lines' numbers are gone
                raise ResumeError(
                    "the source has grown since the import was interrupted, which had come to its end: "
                    "import without resume to begin anew"
                ) from None
            raise
        progress = batch.progress
        self.connection.execute(
            f"""INSERT INTO {quoted(self.tables.progress)}(`byteOffset`, `line`, `events`, `digest`)
            VALUES (%s, %s, %s, %s)""",
            (progress.byte_offset, progress.line, progress.events, progress.digest),
        )

    def _load(self, stage: Stage, batch: RowBatch) -> bool:
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

    @threaded
    def progress(self, stage: Stage) -> list[Progress]:
        rows = self.connection.query(
            f"""SELECT `byteOffset`, `line`, `events`, `digest` FROM {quoted(self.tables.progress)}
            WHERE `byteOffset` IS NOT NULL ORDER BY `step`"""
        )
        return [Progress(*row) for row in rows]

    @threaded
    def find_clash(self, stage: Stage) -> Clash | None:
        table = quoted(stage.table)
        if not self._has_column(stage.table, "line"):
            return None  # an import that died after this step goes on with its keys
        try:
            # One pass over the rows builds all keys and takes the numbers of the lines out.
            self.connection.define(
                f"""ALTER TABLE {table} ADD {ddl.POSITION_KEY}, ADD {ddl.VERSION_KEY}, ADD {ddl.ORDER_KEY},
                DROP COLUMN `line`"""
            )
        except MySQLError as error:
            if duplicate_key(error) is None:
                raise
            return self._first_clash(table, "threadId", "threadCounter") or self._first_clash(
                table, "aggregateId", "aggregateVersion"
            )
        return None

    def _has_column(self, table: str, column: str) -> bool:
        return bool(
            self.connection.query(
                """SELECT 1 FROM information_schema.columns
                WHERE table_schema = %s AND table_name = %s AND column_name = %s""",
                (self.connection.access.database, table, column),
            )
        )

    def _first_clash(self, table: str, first: str, second: str) -> Clash | None:
        rows = self.connection.query(
            f"""SELECT MIN(`line`), MAX(`line`), `{first}`, `{second}` FROM (
              SELECT `line`, `{first}`, `{second}`,
                ROW_NUMBER() OVER (PARTITION BY `{first}`, `{second}` ORDER BY `line`) AS place FROM {table}
            ) AS numbered WHERE place <= 2 GROUP BY 3, 4 HAVING COUNT(*) = 2 ORDER BY 2 LIMIT 1"""
        )
        if not rows:
            return None
        line_a, line_b, a, b = rows[0]
        return Clash(line_a, line_b, second, f"{first} {a!r} with {second} {b}")

    @threaded
    def finish_indexes(self, stage: Stage) -> None:
        # The index for the order is built with the others, in one pass.
        self.connection.execute(
            f"""REPLACE INTO {quoted(self.names.stage_threads)}
            SELECT threadId, MAX(threadCounter) + 1 FROM {quoted(stage.table)} GROUP BY threadId"""
        )

    # merge

    @threaded
    def stage_new_rows(self, stage: Stage, batch: NewRowBatch) -> None:
        self.connection.insert(
            f"INSERT INTO {quoted(stage.table)}(`timestamp`, `aggregateId`, `type`, `payload`) VALUES ",
            itertools.chain.from_iterable(batch),
        )

    @threaded
    def pour(self, source: Stage, target: Stage, part: bytes) -> None:
        self._lock_pushes(target)
        parts = self._has_column(target.table, "part")
        if not parts and part != order.UNNAMED:
            raise UnsupportedStoreError("this incremental import was opened by reSolve, which knows no parts")
        # reSolve takes the events of one timestamp in order of rowid.
        self.connection.execute(
            f"""INSERT INTO {quoted(target.table)}
              (`rowid`, `timestamp`, `aggregateId`, `type`, `payload`{", `part`" if parts else ""})
            SELECT CONCAT(%(source)s, LPAD(`arrival`, 16, '0')), `timestamp`, `aggregateId`, `type`, `payload`
              {", %(part)s" if parts else ""}
            FROM {quoted(source.table)} ORDER BY `arrival`""",
            {"source": source.id, "part": part},
        )

    def _lock_pushes(self, stage: Stage) -> None:
        """One at a time adds to an open import, or ends it: until the transaction is over."""
        self.connection.lock_pushes()
        found = self._open_import()
        if found is None or found.id != stage.id:
            raise ImportNotFoundError(f"no incremental import with the id {stage.id} is open")

    @threaded
    def stage_limits(self, stage: Stage) -> Limits:
        return self.shape.limits(self.connection.access.max_packet)

    @threaded
    def drop_part(self, stage: Stage, part: bytes) -> None:
        self._lock_pushes(stage)
        if self._has_column(stage.table, "part"):
            self.connection.execute(f"DELETE FROM {quoted(stage.table)} WHERE `part` = %s", (part,))

    # secrets

    @threaded
    def hold_secrets(self) -> int:
        self.connection.lock_secrets()
        [(free,)] = self.connection.query(
            f"SELECT COALESCE(MAX(idx), -1) + 1 FROM {quoted(self.tables.secrets)}"
        )
        return int(free)

    @threaded
    def secrets_among(self, ids: Sequence[str], numbers: Sequence[int]) -> list[SecretRow]:
        if not ids:
            return []
        table, named = quoted(self.tables.secrets), self.shape.among("id", "ids")
        rows = self.connection.query(
            f"""SELECT idx, id, secret FROM {table} WHERE {named}
            UNION SELECT idx, id, secret FROM {table} WHERE idx IN %(numbers)s""",
            {"numbers": tuple(numbers)} | self.shape.values_among("ids", ids),
        )
        return [SecretRow(*row) for row in rows]

    @threaded
    def insert_secrets(self, rows: Sequence[SecretRow]) -> None:
        if any(row.secret is None for row in rows) and not self._keeps_tombstones():
            raise UnsupportedStoreError(
                f"the table {self.tables.secrets!r} cannot say that a secret was deleted: reSolve made it so"
            )
        head = f"INSERT INTO {quoted(self.tables.secrets)}(idx, id, secret) VALUES "
        try:
            self.connection.insert(head, rows)
        except MySQLError as error:
            if number_of(error) != ER.DATA_TOO_LONG:
                raise
            [(length,)] = self.connection.query(
                """SELECT character_maximum_length FROM information_schema.columns
                WHERE table_schema = %s AND table_name = %s AND column_name = 'id'""",
                (self.connection.access.database, self.tables.secrets),
            )
            place = next((place for place, row in enumerate(rows, 1) if len(row.id) > length), 1)
            raise InputError("is longer than the store's column", line=place, field="id") from None

    @threaded
    def erase_secrets(self, ids: Sequence[str]) -> None:
        table, named = quoted(self.tables.secrets), self.shape.among("id", "ids")
        change = f"UPDATE {table} SET secret = NULL" if self._keeps_tombstones() else f"DELETE FROM {table}"
        self.connection.execute(f"{change} WHERE {named}", self.shape.values_among("ids", ids))

    def _keeps_tombstones(self) -> bool:
        return self.connection.query(
            """SELECT is_nullable FROM information_schema.columns
            WHERE table_schema = %s AND table_name = %s AND column_name = 'secret'""",
            (self.connection.access.database, self.tables.secrets),
        ) == [("YES",)]

    # snapshots, subscribers

    @threaded
    def put_snapshot(self, key: str, content: str) -> None:
        self._put(
            self.tables.snapshots,
            {"SnapshotKey": key.encode()},
            {"SnapshotContent": content.encode()},
            UnsupportedStoreError(
                f"a snapshot's key begins as {key[:40]!r}… does, and this table tells no more"
            ),
        )

    @threaded
    def delete_snapshot(self, key: str) -> None:
        self.connection.execute(
            f"DELETE FROM {quoted(self.tables.snapshots)} WHERE `SnapshotKey` = %s", (key.encode(),)
        )

    @threaded
    def put_subscriber(self, row: SubscriberRow) -> None:
        self._put(
            self.tables.subscribers,
            {"applicationName": row.application_name, "eventSubscriber": row.event_subscriber},
            {"destination": row.destination.decode(), "status": row.status.decode()},
            UnsupportedStoreError(
                f"the table of subscribers takes the names of {row.event_subscriber!r} and of another for the same"
            ),
        )

    @threaded
    def delete_subscriber(self, application_name: str, event_subscriber: str) -> None:
        self.connection.execute(
            f"""DELETE FROM {quoted(self.tables.subscribers)} WHERE
            {self.shape.same("applicationName", "%(application)s")}
            AND {self.shape.same("eventSubscriber", "%(subscriber)s")}""",
            {"application": application_name, "subscriber": event_subscriber},
        )

    def _put(self, table: str, key: dict[str, Any], content: dict[str, Any], clash: EventferryError) -> None:
        """Insert or replace a row; `clash` where the table's key takes another row's for the same."""
        same = " AND ".join(self.shape.same(name, f"%({name})s") for name in key)
        changes = ", ".join(f"`{name}` = %({name})s" for name in content)
        if self.connection.execute(f"UPDATE {quoted(table)} SET {changes} WHERE {same}", key | content):
            return
        names = key | content
        try:
            self.connection.execute(
                f"""INSERT INTO {quoted(table)}({", ".join(f"`{name}`" for name in names)})
                VALUES ({", ".join(f"%({name})s" for name in names)})""",
                names,
            )
        except MySQLError as error:
            if duplicate_key(error) is None:
                raise
            # Somebody may have been quicker; but if it is not this row, the key cannot tell them apart.
            if not self.connection.execute(f"UPDATE {quoted(table)} SET {changes} WHERE {same}", names):
                raise clash from None


def store_comment() -> str:
    """The comment of a table of events that we make. Its random id changes when the events are replaced."""
    return comment("STORE", id=token_hex(8))


def _field(text: bytes) -> bytes:
    """A text as a field for LOAD DATA."""
    return text.replace(b"\\", b"\\\\").replace(b"\t", b"\\t").replace(b"\n", b"\\n")


def _loaded(rows: Sequence[NumberedRow]) -> bytes:
    """Rows as LOAD DATA takes them, each with its line's number."""
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

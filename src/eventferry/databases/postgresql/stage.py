"""Writing a store in a PostgreSQL schema: stages, snapshots and subscribers, beside the saves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from secrets import token_hex
from typing import Any, Literal

import psycopg

from eventferry.clock import now
from eventferry.database import Clash, Freeze, Stage, StageBatch, StageKind
from eventferry.databases.dialect import Value
from eventferry.databases.names import (
    comment,
    import_marker,
    new_import_id,
    refuse_to_lose,
    taken_for_dead,
)
from eventferry.databases.postgresql import tables as ddl
from eventferry.databases.postgresql.dialect import bound
from eventferry.databases.postgresql.markers import freeze_comment, stage_comment
from eventferry.databases.postgresql.reading import PostgresReading
from eventferry.databases.postgresql.tables import COLUMNS, columns, quoted
from eventferry.databases.statements import first_clash, knows_parts, whole_stage
from eventferry.errors import DatabaseError, ImportOpenError, StoreNotFoundError
from eventferry.lines.event import NewRowValues, NumberedRow
from eventferry.lines.payload import JsonText
from eventferry.reading import order

_NEW_COLUMNS = '"timestamp", "aggregateId", "type", "payload", "eventSize"'
TEXTS = '"aggregateId", "type", "payload", "eventSize"'
NUMBERS = '"threadId", "threadCounter", "timestamp", "aggregateVersion"'
_SPECIAL = re.compile(rb"[\\\t\n\r]")
_ESCAPES = {b"\\": b"\\\\", b"\t": b"\\t", b"\n": b"\\n", b"\r": b"\\r"}


class PostgresWriting(PostgresReading):
    """A write transaction on one connection; `freeze` stood when it had its locks."""

    def __init__(self, *reading: Any, freeze: Freeze | None) -> None:
        super().__init__(*reading)
        self._freeze = freeze

    async def execute(self, *statements: str) -> None:
        await self.connection.run(";\n".join(statements))

    async def freeze(self) -> Freeze | None:
        return self._freeze

    async def change_freeze(self, before: Freeze | None, after: Freeze | None) -> bool:
        """Of ours none can be set while this transaction has its lock on the table of threads. reSolve's takes no lock,
        so a marker is locked, and then its comment is read again."""
        if before is not None and await self._hold_freeze() != before:
            return False
        statements = [f"DROP TABLE {self.names.freeze}"] if before is not None else []
        if after is not None:
            statements += ddl.table("freeze", self.names.freeze, freeze_comment(self.names, after))
        await self.execute(*statements)
        self._freeze = after
        return True

    async def _hold_freeze(self) -> Freeze | None:
        """The marker that stands, which nobody else can change before the transaction ends."""
        await self.execute("SAVEPOINT as_found")
        try:
            await self.execute(f"LOCK TABLE {self.names.freeze} IN ACCESS EXCLUSIVE MODE")
        except StoreNotFoundError:
            await self.execute("ROLLBACK TO SAVEPOINT as_found")
        self._freeze = await super().freeze()
        return self._freeze

    async def make_stage(
        self, kind: StageKind, *, owner: str | None = None, baseline: str | None = None
    ) -> Stage:
        since = now()
        if kind == "open":
            stage = Stage(new_import_id(since), kind, self.names.tables.open_import, None, since)
            if await self.table_comment(stage.table) is not None:
                raise ImportOpenError("an incremental import was opened meanwhile")
            await self.execute(*ddl.open_import_table(self.names, import_marker(stage.id)))
            return stage
        if kind == "merge":
            stage_id = token_hex(8)
            table = f"{self.names.merge_prefix}{stage_id}"
            await self.execute(
                *ddl.merge_table(self.names, table, comment("MERGE", owner=owner, since=since))
            )
            return Stage(stage_id, kind, table, owner, since)
        await self.refuse_what_would_be_lost()
        stage = whole_stage(self.names.tables, kind, owner, baseline)
        steps = "ledger" if kind == "parts" else "progress"
        await self.execute(
            *ddl.table("replace", self.names.of(stage.table), comment("STORE", id=token_hex(8))),
            *ddl.table(steps, self.names.progress_of(stage.id), stage_comment(stage)),
        )
        return stage

    async def adopt_stage(self, stage: Stage, owner: str) -> Stage:
        """By new names: the former owner finds no table any more, nor does a second one who adopts."""
        await self.refuse_what_would_be_lost()
        former, tables = stage.owner or "", self.names.tables
        with self.its_own(stage):
            await self.execute(
                f"ALTER TABLE {self.names.stage_of(former)} RENAME TO {quoted(tables.stage_of(owner))}",
                f"ALTER TABLE {self.names.progress_of(former)} RENAME TO {quoted(tables.progress_of(owner))}",
            )
        return replace(
            stage, id=stage.id if stage.kind == "parts" else owner, table=tables.stage_of(owner), owner=owner
        )

    async def drop_stage(self, stage: Stage) -> None:
        """That of this very owner, or none: if it was taken for dead, its tables are gone or have other names."""
        await self.execute(f"DROP TABLE IF EXISTS {', '.join(self.tables_of(stage))}")

    def tables_of(self, stage: Stage) -> list[str]:
        progress = [self.names.progress_of(stage.owner)] if stage.keeps_positions and stage.owner else []
        return [self.names.of(stage.table), *progress]

    @contextmanager
    def its_own(self, stage: Stage) -> Iterator[None]:
        """Around what an owner does with its stage: its tables are not found if that was taken over or removed."""
        try:
            yield
        except StoreNotFoundError as error:
            if stage.kind == "open":
                raise
            raise taken_for_dead() from error

    async def refuse_what_would_be_lost(self) -> None:
        """What hangs on the table of events and would not hang on the one that takes its place."""
        [rows] = await self.connection.run(
            """SELECT 'the trigger ' || tgname FROM pg_trigger WHERE tgrelid = %(oid)s AND NOT tgisinternal
            UNION ALL SELECT 'row security' FROM pg_class WHERE oid = %(oid)s AND relrowsecurity
            UNION ALL SELECT 'the row security policy ' || polname FROM pg_policy WHERE polrelid = %(oid)s
            UNION ALL SELECT 'the publication ' || p.pubname FROM pg_publication_tables AS p
              JOIN pg_class AS c ON c.relname = p.tablename JOIN pg_namespace AS n
                ON n.oid = c.relnamespace AND n.nspname = p.schemaname WHERE c.oid = %(oid)s
            UNION ALL SELECT 'the foreign key ' || conname FROM pg_constraint
              WHERE contype = 'f' AND %(oid)s IN (conrelid, confrelid)
            UNION ALL SELECT 'the check ' || conname FROM pg_constraint WHERE contype = 'c' AND conrelid = %(oid)s
            UNION ALL SELECT pg_describe_object('pg_attrdef'::regclass, oid, 0) FROM pg_attrdef WHERE adrelid = %(oid)s
            UNION ALL SELECT 'the statistics ' || stxname FROM pg_statistic_ext WHERE stxrelid = %(oid)s
            UNION ALL SELECT DISTINCT pg_describe_object(classid, objid, 0) FROM pg_depend
              WHERE classid = 'pg_proc'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = %(oid)s
            UNION ALL SELECT 'inheritance' FROM pg_inherits WHERE %(oid)s IN (inhrelid, inhparent)
            UNION ALL SELECT DISTINCT 'the view or rule on ' || r.ev_class::regclass::text
              FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
              WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s
            UNION ALL SELECT 'the column ' || attname FROM pg_attribute
              WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped AND attname <> ALL(%(columns)s)""",
            {"oid": self._oid, "columns": [name.strip('" ') for name in COLUMNS.split(",")]},
        )
        refuse_to_lose(self.names.tables.events, rows)

    async def stage_rows(self, stage: Stage, batch: StageBatch) -> None:
        table = self.names.of(stage.table)
        with self.its_own(stage):
            if stage.kind == "merge":
                await self.connection.copy_in(
                    f'COPY {table}({TEXTS}, "timestamp") FROM STDIN',
                    (copied_new_rows(part) async for part in batch),
                )
                return
            await self.connection.copy_in(
                f'COPY {table}({TEXTS}, {NUMBERS}, "line") FROM STDIN',
                (copied_rows(part) async for part in batch),
            )
            if stage.kind == "parts":
                return
            progress, steps = batch.progress, self.names.progress_of(stage.owner or "")
            await self.connection.change(
                f'INSERT INTO {steps}("byteOffset", "line", "events", "digest") VALUES (%s, %s, %s, %s)',
                (progress.byte_offset, progress.line, progress.events, progress.digest),
            )

    async def hold(self, stage: Stage) -> None:
        """Keep a stage that keeps positions from being taken over or removed for what is left of the transaction."""
        with self.its_own(stage):
            await self.execute(f"LOCK TABLE {self.names.of(stage.table)} IN SHARE ROW EXCLUSIVE MODE")

    async def make_indexes(self, stage: Stage, which: Literal["unique", "other"]) -> Clash | None:
        await self.hold(stage)
        if which == "other":
            await self._make_other_indexes(stage)
            return None
        present = await self.indexed(stage.table)  # an import that died after this step goes on with them
        prefix = token_hex(8)
        for name, key, statement in (
            ("pkey", ddl.POSITION, "ALTER TABLE {table} ADD CONSTRAINT {index} PRIMARY KEY ({columns})"),
            ("aggregateIdAndVersion", ddl.VERSION, "CREATE UNIQUE INDEX {index} ON {table}({columns})"),
        ):
            if key in present:
                continue
            index = quoted(f"{prefix}-{name}")
            table = self.names.of(stage.table)
            if not await self._unique(statement.format(table=table, index=index, columns=columns(key))):
                return await first_clash(self, stage.table, "line", key)
        return None

    async def _unique(self, statement: str) -> bool:
        """Build an index; False where what it is built from is not unique."""
        await self.execute("SAVEPOINT before", "SET LOCAL maintenance_work_mem = '256MB'")
        try:
            await self.execute(statement)
        except DatabaseError as error:
            if not isinstance(error.__cause__, psycopg.errors.UniqueViolation):
                raise
            await self.execute("ROLLBACK TO SAVEPOINT before")
            return False
        return True

    async def indexed(self, table: str) -> dict[tuple[str, ...], str]:
        [rows] = await self.connection.run(
            """SELECT (SELECT array_agg(a.attname::text ORDER BY k.place)
                FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attribute, place)
                JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attribute), c.relname
            FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
            WHERE i.indrelid = to_regclass(%s) AND i.indisvalid""",
            (self.names.of(table).replace("%%", "%"),),
        )
        return {tuple(names): index for names, index in rows if names}

    async def _make_other_indexes(self, stage: Stage) -> None:
        table = self.names.of(stage.table)
        statements = ["SET LOCAL maintenance_work_mem = '256MB'", "SET LOCAL default_statistics_target = 20"]
        if ddl.ORDER not in await self.indexed(stage.table):
            index = quoted(f"{token_hex(8)}-order")
            statements.append(f"CREATE INDEX {index} ON {table}({columns(ddl.ORDER)})")
        # Without figures the planner guesses until autovacuum comes by. Until then those of a fifth of the usual sample
        # do. Those of payloads serve nobody, and take four fifths of the time.
        figures = columns((*ddl.ORDER, *ddl.VERSION, "type"))
        await self.execute(*statements, f"ANALYZE {table}({figures})")

    async def part_of(self, stage: Stage) -> str:
        """What orders parts. A push of reSolve's to a stage of ours has no name, as one of ours without."""
        unnamed = f"decode('{order.UNNAMED.hex()}', 'hex')"
        return f'coalesce("part", {unnamed})' if await knows_parts(self, stage.table) else unnamed

    async def pour(self, source: Stage, target: Stage, part: bytes | None) -> None:
        table = self.names.of(target.table)
        # Whoever pushes the same part again must see what came before, and pushes without a name keep the order in
        # which they were committed.
        await self.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        if part not in (None, order.UNNAMED):
            await self.connection.change(f'DELETE FROM {table} WHERE "part" = %s', (part,))
        extra, value = ("", "") if part is None else (', "part"', ", %(part)s")
        with self.its_own(source):
            await self.connection.change(
                f"""INSERT INTO {table}({_NEW_COLUMNS}{extra})
                SELECT {_NEW_COLUMNS}{value} FROM {self.names.of(source.table)} ORDER BY "rowid" """,
                {"part": part},
            )

    async def change(self, statement: str, values: Sequence[Value] = (), *, erases: bool = False) -> int:
        # The server's logs are beyond the reach of a client: docs/postgresql.md says what stays in them.
        return await self.connection.change(bound(statement, values, self.connection.literal), None)


def event_size(aggregate_id: bytes, event_type: bytes, payload: JsonText) -> int:
    """What reSolve keeps in `eventSize`: the bytes of the event as it stands in its INSERT, and 66 for numbers."""
    return len(aggregate_id) + len(event_type) + len(payload) + ddl.SIZE_OF_REST


def copied(
    ids: Iterable[str], types: Iterable[str], payloads: Sequence[JsonText], numbers: Iterable[bytes]
) -> bytes:
    """Rows as COPY takes them: `TEXTS`, and then the numbers of each."""
    texts: list[Sequence[Any]] = [
        [text.encode() for text in ids],
        [text.encode() for text in types],
        payloads,
    ]
    sizes = list(map(event_size, *texts))
    # Mostly only payloads hold what must be escaped, and of that only backslashes, for they are compact JSON.
    is_special = _SPECIAL.search(b"".join((*texts[0], *texts[1]))) is not None
    if is_special:
        texts = [[escaped(bytes(text)) for text in column] for column in texts]
    rows = b"".join([b"%b\t%b\t%b\t%d\t%b\n" % row for row in zip(*texts, sizes, numbers, strict=True)])
    return rows if is_special else rows.replace(b"\\", b"\\\\")


def copied_new_rows(rows: Sequence[NewRowValues]) -> bytes:
    """Rows without a position, by `TEXTS` and timestamp."""
    numbers = [str(row[0]).encode() for row in rows]
    return copied([row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows], numbers)


def copied_rows(rows: Sequence[NumberedRow]) -> bytes:
    """Rows with the numbers of their lines, by `TEXTS` and `NUMBERS`."""
    numbers = [b"%d\t%d\t%d\t%d\t%d" % (row[1], row[2], row[3], row[5], row[0]) for row in rows]
    return copied([row[4] for row in rows], [row[6] for row in rows], [row[7] for row in rows], numbers)


def escaped(text: bytes) -> bytes:
    """A value as COPY takes it in text format."""
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], text)

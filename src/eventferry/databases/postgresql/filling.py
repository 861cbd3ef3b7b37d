"""Filling a table on PostgreSQL: one COPY after another, in a transaction that holds the table's lock."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

import psycopg

from eventferry.database import Progress
from eventferry.databases.postgresql.address import Server, server_at
from eventferry.databases.postgresql.connection import Connection
from eventferry.databases.postgresql.stage import escaped
from eventferry.databases.postgresql.tables import columns, literal, quoted
from eventferry.errors import DatabaseError, StoreUnreachableError
from eventferry.importing.batch import Batch
from eventferry.lifecycle import to_the_end
from eventferry.targets.filling import Doubled, Misplaced, TargetPlace, foreign, full, missing
from eventferry.targets.product import Product, ProductRow

_COPIED = re.compile(r"^COPY .*, line (\d+)", re.MULTILINE)
_KEY = re.compile(r"Key \((?:.*, )?\"?(\w+)\"?\)=")


def place_of(address: str, settings: dict[str, Any]) -> TargetPlace:
    """A database at a URL without its query; the settings that are left are libpq's. Raises UsageError."""
    server = server_at(address, {name: str(settings.pop(name)) for name in list(settings)})
    return TargetPlace(partial(PostgresFilling.begin, server), server.place, server.names)


class PostgresFilling:
    """See `Filling`."""

    def __init__(self, connection: Connection, table: str, sequence: str, product: Product) -> None:
        self._connection = connection
        self._table = table
        self._sequence = sequence
        self._shape = product.table
        self._rows = 0

    @classmethod
    async def begin(cls, server: Server, product: Product, busy_timeout: float) -> PostgresFilling:
        """Take the table, which must be the product's and empty."""
        connection = await Connection.open(server.info, server.place)
        try:
            table, sequence = await _found(connection, server.place, product)
            # The lock keeps out who writes and lets in who reads; whoever waits for it in an INSERT draws its number
            # behind it. Triggers on the table expect the search path that their users have.
            await connection.run(
                f"{connection.begin()}; SET LOCAL search_path TO DEFAULT; "
                f"SET LOCAL lock_timeout = {max(int(busy_timeout * 1000), 1)}; LOCK TABLE {table} IN EXCLUSIVE MODE"
            )
            if await connection.rows(f"SELECT 1 FROM {table} LIMIT 1"):
                raise full(server.place, product)
        except BaseException:
            await to_the_end(connection.close())
            raise
        return cls(connection, table, sequence, product)

    async def put(self, batch: Batch[ProductRow, Progress]) -> None:
        before = self._rows

        async def parts() -> AsyncIterator[bytes]:
            async for part in batch:
                self._rows += len(part)
                yield b"".join(map(_copied, part))

        try:
            await self._connection.copy_in(
                f"COPY {self._table}({columns(self._shape.columns)}) FROM STDIN", parts()
            )
        except DatabaseError as error:
            cause = error.__cause__
            if not isinstance(cause, psycopg.errors.UniqueViolation):
                raise
            line = _COPIED.search(cause.diag.context or "")
            key = _KEY.search(cause.diag.message_detail or "")
            if line is None or key is None:
                raise
            raise Doubled(before + int(line[1]), key[1]) from error

    async def misplaced(self) -> Misplaced | None:
        position, stream, version = map(
            quoted, (self._shape.position, self._shape.stream, self._shape.version)
        )
        # Versions are unique, so rows that go up by one from the first are without gap.
        found = await self._connection.run(
            f"""SELECT (SELECT count(*) FROM {self._table} WHERE {position} <= at), stream::text, version, before
            FROM (SELECT {position} AS at, {stream} AS stream, {version} AS version,
                lag({version}) OVER (PARTITION BY {stream} ORDER BY {position}) AS before FROM {self._table}) AS e
            WHERE version <> coalesce(before + 1, {self._shape.first}) ORDER BY at LIMIT 1"""
        )
        return Misplaced(*found[0][0]) if found[0] else None

    async def commit(self, last: int) -> None:
        statements = []
        if last:
            # Never back: a number that was given out once may be what a reader remembers. This is part of no
            # transaction; should it stand alone, after a crash right behind it, it is a gap and no more.
            statements.append(
                f"""SELECT setval({literal(self._sequence.replace("%%", "%"))}::regclass,
                greatest({last}, CASE WHEN is_called THEN last_value ELSE 0 END)) FROM {self._sequence}"""
            )
        if self._shape.channel is not None:
            statements.append(f"NOTIFY {quoted(self._shape.channel)}")
        await self._connection.run("; ".join(statements or ["SELECT"]))
        try:
            await self._connection.run("COMMIT")
        except StoreUnreachableError as error:
            raise StoreUnreachableError(
                f"{error}; whether the events are stored is not known: look before you copy again"
            ) from error

    async def close(self) -> None:
        await self._connection.close()


async def _found(connection: Connection, place: str, product: Product) -> tuple[str, str]:
    """The table as the role's search path finds it, with its schema, and the sequence of its positions."""
    shape = product.table
    name = ".".join(map(quoted, shape.name.split("."))).replace("%%", "%")
    [found] = await connection.run(
        """SELECT n.nspname, c.relname, c.relkind::text, ARRAY(
              SELECT ARRAY[attname::text, format_type(atttypid, NULL)] FROM pg_attribute
              WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)""",
        (name,),
    )
    if not found:
        raise missing(place, product)
    [(schema, table, kind, fields)] = found
    types: Mapping[str, str] = dict(fields)
    for column in shape.columns:
        if column not in types:
            raise foreign(place, product, f"it has no column {column!r}")
    if kind not in ("r", "p"):  # a table, or a partitioned one
        raise foreign(place, product, "it is not a table of this database")
    product.meet(types)
    whole = f"{quoted(schema)}.{quoted(table)}"
    [[(sequence,)]] = await connection.run(
        "SELECT pg_get_serial_sequence(%s, %s)", (whole.replace("%%", "%"), shape.position)
    )
    if sequence is None:
        raise foreign(place, product, f"the column {shape.position!r} has no sequence of its own")
    return whole, sequence.replace("%", "%%")


def _text(value: str) -> bytes:
    return escaped(value.encode())


def _bytes(value: bytes) -> bytes:
    return rb"\\x" + value.hex().encode()


_VALUES: Mapping[type, Callable[[Any], bytes]] = {
    int: lambda value: b"%d" % value,
    str: _text,
    bytes: _bytes,
    type(None): lambda _: rb"\N",
}


def _copied(row: ProductRow) -> bytes:
    """A row as COPY takes it in text format."""
    return b"\t".join([_VALUES[type(value)](value) for value in row]) + b"\n"

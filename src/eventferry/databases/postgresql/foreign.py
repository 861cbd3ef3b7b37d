"""Another product's tables in PostgreSQL, as a source."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg
from psycopg import generators, pq
from psycopg.abc import Loader, PQGen, Transformer
from psycopg.types.numeric import Int8BinaryLoader
from psycopg.types.string import ByteaBinaryLoader

from eventferry.databases.pool import Pool
from eventferry.databases.postgresql.address import Server
from eventferry.databases.postgresql.connection import Connection
from eventferry.errors import EventferryError, MappingError, StoreBusyError, StoreUnreachableError
from eventferry.lifecycle import Life
from eventferry.sources.foreign import BLOCK_BYTES, BLOCK_ROWS, ColumnKind, SelectedColumn

_KINDS: dict[str, ColumnKind] = {
    "int2": "whole",
    "int4": "whole",
    "int8": "whole",
    "xid8": "whole",
    "numeric": "number",
    "float4": "number",
    "float8": "number",
    "text": "text",
    "varchar": "text",
    "bpchar": "text",
    "name": "text",
    "uuid": "text",
    "bytea": "bytes",
    "json": "json",
    "jsonb": "plain json",
    "timestamptz": "time",
    "timestamp": "local time",
}

# varchar comes as str here, and text as bytes: what is JSON is written as bytes in the end.
_EXPRESSIONS: dict[ColumnKind, str] = {
    "whole": "{}::text::bigint",
    "number": "{}::numeric",
    "text": "{}::varchar",
    "bytes": "{}",
    "json": "{}::text",
    "plain json": "{}::text",
    "time": "{}",
    "local time": "{}",
}

_LOADERS: dict[str, type[Loader]] = {
    "text": ByteaBinaryLoader,
    "timestamptz": Int8BinaryLoader,
    "timestamp": Int8BinaryLoader,
}

_CHUNK_ROWS = 3
"""Rows of one result: as many of the largest are held at a time, and more take hardly less time."""

_LONG = frozenset(psycopg.adapters.types[name].oid for name in ("text", "varchar", "bytea"))
"""Types of what may be long in a row."""


class PostgresTables:
    """See `ForeignDatabase`."""

    scheme = "postgresql"
    epoch = datetime(2000, 1, 1, tzinfo=UTC)

    def __init__(self, server: Server, *, size: int, busy_timeout: float) -> None:
        self.place = server.place
        self.life = Life(self.place)
        connect = partial(Connection.open, server.info, self.place)
        self._pool = Pool(connect, size, self.life, patience=busy_timeout)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[PostgresSnapshot]:
        async with self._pool.connection() as connection, connection.ended():
            await connection.run(connection.begin_for_others())
            yield PostgresSnapshot(connection, self.place)

    def expression(self, name: str, column: SelectedColumn) -> str:
        if column.type in ("int2", "int4", "int8") and name not in ("aggregate", "id"):
            return f"mapped.{name}::bigint"
        kind: ColumnKind = "text" if name in ("aggregate", "id") else column.kind
        return _EXPRESSIONS[kind].format(f"mapped.{name}")

    def text(self, value: str) -> str:
        return f"convert_from(decode('{value.encode().hex()}', 'hex'), 'UTF8')"


class PostgresSnapshot:
    """See `Snapshot`."""

    def __init__(self, connection: Connection, place: str) -> None:
        self.connection = connection
        self.place = place

    async def columns(self, select: str) -> dict[str, SelectedColumn]:
        try:
            with self.connection.named():
                async with psycopg.AsyncCursor(self.connection.raw) as cursor:
                    # Binary: in that protocol one statement is all that a text can be.
                    await cursor.execute(
                        f"SELECT * FROM ({select}\n) AS mapped LIMIT 0".encode(), binary=True
                    )
                    found = cursor.description or []
        except (StoreUnreachableError, StoreBusyError):
            raise
        except EventferryError as error:
            said = error.__cause__ if isinstance(error.__cause__, psycopg.Error) else None
            words = said.diag.message_primary if said is not None else error
            raise MappingError(f"{self.place} refuses the SELECT of the mapping: {words}") from error
        types = self.connection.raw.adapters.types
        columns: dict[str, SelectedColumn] = {}
        for column in found:
            if column.name in columns:
                raise MappingError(
                    f"{self.place} refuses the SELECT of the mapping: it gives {column.name!r} twice"
                )
            info = types.get(column.type_code)
            name = "unknown" if info is None else info.name
            columns[column.name] = SelectedColumn(_KINDS.get(name, "other"), name)
        return columns

    async def rows(self, statement: str) -> AsyncGenerator[list[tuple[Any, ...]], None]:
        # A few rows in one result of libpq's take a third of the time of rows that are copied one by one, and as these
        # they are sent while others are used.
        connection = self.connection.raw
        async with psycopg.AsyncCursor(connection) as cursor:
            for name, loader in _LOADERS.items():
                cursor.adapters.register_loader(name, loader)
            transformer = psycopg.adapt.Transformer(cursor)
        with self.connection.named():
            connection.pgconn.send_query_params(statement.encode(), None, result_format=pq.Format.BINARY)
            if psycopg.capabilities.has_stream_chunked():
                connection.pgconn.set_chunked_rows_mode(_CHUNK_ROWS)
            else:  # before version 17 of libpq
                connection.pgconn.set_single_row_mode()
            try:
                await connection.wait(generators.send(connection.pgconn))
                while connection.info.transaction_status is pq.TransactionStatus.ACTIVE:
                    yield await connection.wait(_block(connection.pgconn, transformer))
            finally:
                if connection.info.transaction_status is pq.TransactionStatus.ACTIVE:
                    await connection.close()  # the rest would have to be read before anything else

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return [row async for block in self.rows(statement) for row in block]


def _block(connection: pq.abc.PGconn, transformer: Transformer) -> PQGen[list[tuple[Any, ...]]]:
    """The next rows of a statement: a block of them, where there are so many."""
    block: list[tuple[Any, ...]] = []
    long: list[int] = []
    size = 0
    is_busy, get_result, load_rows = connection.is_busy, connection.get_result, transformer.load_rows
    while len(block) <= BLOCK_ROWS - _CHUNK_ROWS and size < BLOCK_BYTES:
        if is_busy():
            connection.consume_input()  # costs less than to have the loop tell that something has come
        result = (yield from generators.fetch(connection)) if is_busy() else get_result()
        if result is None:
            break
        if result.status == pq.ExecStatus.FATAL_ERROR:
            yield from generators.fetch_many(connection)
            raise psycopg.errors.error_from_result(result)
        if not block:
            long = [column for column in range(result.nfields) if result.ftype(column) in _LONG]
        transformer.set_pgresult(result, set_loaders=not block)
        rows = load_rows(0, result.ntuples, tuple)
        block += rows
        for row in rows:
            for column in long:
                if value := row[column]:
                    size += len(value)
    transformer.set_pgresult(None, set_loaders=False)  # else it holds the last rows too
    return block

"""Another product's tables in a SQLite file, as a source."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from eventferry.databases.sqlite.connection import Connection
from eventferry.databases.sqlite.file import File
from eventferry.databases.sqlite.library import code_of
from eventferry.errors import DatabaseError, EventferryError, MappingError, StoreNotFoundError
from eventferry.lifecycle import Life, to_the_end
from eventferry.sources.foreign import SelectedColumn, block_of
from eventferry.sources.times import EPOCH

_ALLOWED = frozenset(
    (
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
    )
)
"""What a mapping's SQL may do: not even ATTACH, which makes files, a PRAGMA, or COMMIT."""


class SqliteTables:
    """See `ForeignDatabase`. Each snapshot has a connection of its own: an open cursor needs it."""

    scheme = "sqlite"
    epoch = EPOCH

    def __init__(self, path: str, *, busy_timeout: float) -> None:
        self._file = File(path)
        self._busy_timeout = busy_timeout
        self.place = str(self._file)
        self.life = Life(self.place)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SqliteSnapshot]:
        connection = Connection(self._file, "read", self._busy_timeout)
        with self.life.running():
            try:
                await connection.run(partial(_begin, connection))
                yield SqliteSnapshot(connection)
            finally:
                await to_the_end(connection.close())

    def expression(self, name: str, column: SelectedColumn) -> str:
        return f"mapped.{name}"

    def text(self, value: str) -> str:
        return f"CAST(X'{value.encode().hex()}' AS TEXT)"


def _begin(connection: Connection) -> None:
    connection.begin(write=False)
    connection.sqlite.restrict(_ALLOWED)


class SqliteSnapshot:
    """See `Snapshot`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def columns(self, select: str) -> dict[str, SelectedColumn]:
        # One of the two libraries would run several statements.
        if any(sqlite3.complete_statement(select[: found.end()]) for found in re.finditer(";", select)):
            raise MappingError("SQLite refuses the SELECT of the mapping: it is more than one statement")

        def look() -> list[str]:
            return self._connection.sqlite.names(f"SELECT * FROM ({select}\n) AS mapped LIMIT 0")

        try:
            names = await self._connection.run(look)
        except (DatabaseError, StoreNotFoundError) as error:
            raise MappingError(f"SQLite refuses the SELECT of the mapping: {_words(error)}") from error
        return {name: SelectedColumn("any", "") for name in names}

    async def rows(self, statement: str) -> AsyncGenerator[list[tuple[Any, ...]], None]:
        connection, run = self._connection, self._connection.run
        rows = await run(partial(connection.stream, statement))
        try:
            while block := await run(partial(block_of, rows)):
                yield block
        finally:
            await to_the_end(run(partial(connection.end_stream, rows)))

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        connection = self._connection
        return await connection.run(lambda: connection.sqlite.execute(statement).fetchall())


def _words(error: EventferryError) -> str:
    cause = error.__cause__
    if cause is not None and code_of(cause) == sqlite3.SQLITE_AUTH:
        return "it may only read, and nothing else"
    return str(cause or error)

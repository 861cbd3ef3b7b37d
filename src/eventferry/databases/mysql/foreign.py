"""Another product's tables in MySQL or MariaDB, as a source."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from pymysql.constants import FIELD_TYPE

from eventferry.databases.mysql.connection import Access, Connection
from eventferry.databases.pool import Pool
from eventferry.errors import EventferryError, MappingError, StoreBusyError, StoreUnreachableError
from eventferry.lifecycle import Life, to_the_end
from eventferry.sources.foreign import ColumnKind, SelectedColumn, block_of
from eventferry.sources.times import EPOCH

_BINARY = 63  # the number of the character set of what is no text

_WHOLE = (FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG)
_NUMBERS = (FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL, FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE)
_TEXTS = (
    FIELD_TYPE.VARCHAR,
    FIELD_TYPE.VAR_STRING,
    FIELD_TYPE.STRING,
    FIELD_TYPE.TINY_BLOB,
    FIELD_TYPE.BLOB,
    FIELD_TYPE.MEDIUM_BLOB,
    FIELD_TYPE.LONG_BLOB,
)
_OTHERS: dict[int, ColumnKind] = {
    FIELD_TYPE.JSON: "json",
    FIELD_TYPE.TIMESTAMP: "time",  # the session's zone is UTC
    FIELD_TYPE.DATETIME: "local time",
    FIELD_TYPE.NULL: "any",
}
_NAMES = {number: name.lower() for name, number in vars(FIELD_TYPE).items() if name.isupper()}

_NO_TIME = -(2**62)
"""Microseconds before 1970, and before the year 1."""

_BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"


class MysqlTables:
    """See `ForeignDatabase`."""

    scheme = "mysql"
    epoch = EPOCH

    def __init__(self, access: Access, size: int) -> None:
        self.place = access.place
        self.life = Life(access.place)

        self._pool = Pool(
            partial(Connection.opened, access, access.database), size, self.life, patience=access.busy_timeout
        )

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[MysqlSnapshot]:
        async with self._pool.connection() as connection:
            try:
                await connection.run(partial(connection.query, _BEGIN))
                yield MysqlSnapshot(connection)
            finally:
                await to_the_end(connection.run(connection.roll_back))

    def expression(self, name: str, column: SelectedColumn) -> str:
        named = f"mapped.`{name}`"
        if column.kind in ("time", "local time"):
            # The same as NULL would be a time that is none, as 0000-00-00. `IS NULL` says that of it too.
            since = f"TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {named})"
            return f"IF({named} <=> NULL, NULL, COALESCE({since}, {_NO_TIME}))"
        return named

    def text(self, value: str) -> str:
        return f"CONVERT(X'{value.encode().hex()}' USING utf8mb4)"


class MysqlSnapshot:
    """See `Snapshot`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def columns(self, select: str) -> dict[str, SelectedColumn]:
        connection = self._connection
        statement = f"SELECT * FROM ({select}\n) AS mapped LIMIT 0"

        def look() -> dict[str, SelectedColumn]:
            # To prepare it takes one statement, and our connections take several: so no other can hide in it.
            connection.query("PREPARE eventferry FROM %s", (statement,))
            connection.query("DEALLOCATE PREPARE eventferry")
            with connection.wire.cursor() as cursor:
                cursor.execute(statement)
                return {field.name: _column(field) for field in cursor._result.fields}

        try:
            return await connection.run(look)
        except (StoreUnreachableError, StoreBusyError):
            raise
        except EventferryError as error:
            said = error.__cause__
            words = said.args[-1] if said is not None and said.args else error
            raise MappingError(
                f"{connection.access.place} refuses the SELECT of the mapping: {words}"
            ) from error

    async def rows(self, statement: str) -> AsyncGenerator[list[tuple[Any, ...]], None]:
        connection = self._connection
        cursor = await connection.run(partial(connection.stream, statement))
        is_over = False
        try:
            rows = iter(cursor.fetchone, None)
            while block := await connection.run(partial(block_of, rows)):
                yield block
            is_over = True
        finally:
            if not is_over:
                connection.cut()
                await to_the_end(connection.run(connection.drop))

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return await self._connection.run(partial(self._connection.query, statement, None))


def _column(field: Any) -> SelectedColumn:
    name = _NAMES.get(field.type_code, "unknown")
    if field.type_code in _WHOLE:
        return SelectedColumn("whole", name)
    if field.type_code in _NUMBERS:
        return SelectedColumn("number", name)
    if field.type_code in _TEXTS:
        return SelectedColumn("bytes" if field.charsetnr == _BINARY else "text", name)
    return SelectedColumn(_OTHERS.get(field.type_code, "other"), name)

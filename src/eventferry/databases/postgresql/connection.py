"""A connection to a PostgreSQL server, and what its errors are called here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg import pq
from psycopg.types.string import ByteaBinaryLoader

from eventferry.errors import (
    DatabaseError,
    EventferryError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreNotFoundError,
    StoreUnreachableError,
)

Parameters: TypeAlias = Mapping[str, Any] | Sequence[Any]
BLOCK = 2000
"""How many rows a statement that streams its result fetches at a time."""


class Connection:
    """A connection; psycopg's own, in autocommit: transactions begin and end by statements.

    Nothing is prepared on the server, and no setting outlives its transaction: so it works behind a pgbouncer
    that gives every transaction another server connection.
    """

    def __init__(self, raw: psycopg.AsyncConnection[Any], name: str) -> None:
        self.raw = raw
        self._name = name

    @classmethod
    async def open(cls, conninfo: str, name: str) -> Connection:
        """Connect. Raises StoreUnreachableError, StoreNotFoundError, StoreBusyError."""
        try:
            raw = await psycopg.AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            raise _named(error, name) from None
        return cls(raw, name)

    @property
    def is_usable(self) -> bool:
        """Whether it is open and in no transaction."""
        return not self.raw.closed and self.raw.info.transaction_status is pq.TransactionStatus.IDLE

    async def close(self) -> None:
        """Close it; what it was about is rolled back."""
        await self.raw.close()

    async def run(self, statements: str, parameters: Parameters = ()) -> list[list[tuple[Any, ...]]]:
        """Run statements in one round trip, values written into them by libpq; the rows of each."""
        with self.named():
            return await self.run_raw(statements, parameters)

    async def run_raw(self, statements: str, parameters: Parameters) -> list[list[tuple[Any, ...]]]:
        """The same, with psycopg's own errors, for who tells them apart."""
        async with psycopg.AsyncClientCursor(self.raw) as cursor:
            await cursor.execute(statements, parameters)
            results = [await cursor.fetchall() if cursor.description else []]
            while cursor.nextset():
                results.append(await cursor.fetchall() if cursor.description else [])
            return results

    async def rows(self, statement: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement; text comes as bytes."""
        with self.named():
            async with psycopg.AsyncCursor(self.raw) as cursor:
                _take_bytes(cursor)
                await cursor.execute(statement, parameters, binary=True)
                return await cursor.fetchall()

    async def change(self, statement: str, parameters: Parameters = ()) -> int:
        """Run one statement; how many rows it changed."""
        with self.named():
            async with psycopg.AsyncClientCursor(self.raw) as cursor:
                await cursor.execute(statement, parameters)
                return max(cursor.rowcount, 0)

    async def blocks(self, statement: str, name: str) -> AsyncGenerator[list[tuple[Any, ...]], None]:
        """The rows of one statement in a transaction, block by block; text comes as bytes."""
        with self.named():
            async with psycopg.AsyncServerCursor(self.raw, name) as cursor:
                _take_bytes(cursor)
                await cursor.execute(statement, (), binary=True)
                while block := await cursor.fetchmany(BLOCK):
                    yield block

    async def copy_in(self, statement: str, text: bytes) -> None:
        """Run COPY … FROM STDIN in text format."""
        copying = statement.replace("%%", "%")  # it binds no parameters, which would do that
        with self.named():
            async with psycopg.AsyncClientCursor(self.raw) as cursor, cursor.copy(copying) as copy:
                await copy.write(text)

    @asynccontextmanager
    async def ended(self) -> AsyncIterator[None]:
        """Whatever happens inside, no transaction is left open. What was not committed is rolled back."""
        try:
            yield
        finally:
            ending = asyncio.ensure_future(self._roll_back())
            cancelled: asyncio.CancelledError | None = None
            while not ending.done():  # a cancellation must not leave it half done, nor be lost
                try:
                    await asyncio.wait([ending])
                except asyncio.CancelledError as error:
                    cancelled = error
            if cancelled is not None:
                raise cancelled

    async def _roll_back(self) -> None:
        if self.raw.closed or self.is_usable:
            return
        try:
            await self.raw.execute("ROLLBACK")
        except psycopg.Error:
            await self.close()

    @contextmanager
    def named(self) -> Iterator[None]:
        """Raises our error for one of psycopg's."""
        try:
            yield
        except psycopg.Error as error:
            if self.raw.broken:
                raise StoreUnreachableError(
                    f"the connection to {self._name} broke: {_words(error)}"
                ) from None
            raise _named(error, self._name) from error


def _take_bytes(cursor: psycopg.AsyncCursor[Any]) -> None:
    for kind in ("text", "varchar"):
        cursor.adapters.register_loader(kind, ByteaBinaryLoader)


def _words(error: psycopg.Error) -> str:
    """What the server or libpq says; neither quotes a password."""
    return error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__


_NOT_FOUND = {"42P01", "3F000", "3D000"}
_BUSY = {"55P03", "40P01", "40001", "53300", "57P03"}
_READ_ONLY = {"42501", "25006"}


def _named(error: psycopg.Error, name: str) -> EventferryError:
    """Our error for one of PostgreSQL's, by its SQLSTATE."""
    state = error.sqlstate or ""
    words = _words(error)
    if state in _NOT_FOUND:
        return StoreNotFoundError(f"there is no store at {name} ({words})")
    if state in _BUSY:
        return StoreBusyError(f"{name} is held by somebody else: {words}")
    if state in _READ_ONLY:
        return ReadOnlyStoreError(f"the rights at hand do not allow this at {name}: {words}")
    if state.startswith(("08", "28", "57P")) or (not state and isinstance(error, psycopg.OperationalError)):
        if 'database "' in words and "does not exist" in words and not state:
            return StoreNotFoundError(f"there is no store at {name} ({words})")
        return StoreUnreachableError(f"{name} cannot be reached: {words}")
    if state == "53100":
        return DatabaseError(f"{name}: the disk is full; nothing of this step was kept ({words})")
    return DatabaseError(f"{name}: {words}")

"""A connection to a PostgreSQL server, and what its errors are called here."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import traceback
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, TypeAlias

import psycopg
from psycopg import generators, pq, waiting
from psycopg.abc import RV, Params, PQGen
from psycopg.types.string import ByteaBinaryLoader

from eventferry.databases import forking
from eventferry.databases.pace import Pace
from eventferry.databases.pool import FullServerError
from eventferry.errors import (
    DatabaseError,
    EventferryError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreNotFoundError,
    StoreUnreachableError,
)
from eventferry.lifecycle import end_with_loop, stop_without_loop, to_the_end

Texts: TypeAlias = list[bytes | None]
Rows: TypeAlias = list[tuple[str | None, ...]]
BLOCK = 2000  # how many rows a statement that streams its result fetches at a time

_SILENCE = 5  # seconds that a server has for an answer to what takes it no time
_PAGES_APART = 3
_LARGE_BLOCK = "SELECT octet_length(repeat(repeat(' ', 1024), 4096))"

_SETTINGS = (
    # A limit for an application's statements is none for an import, and a save that it ends may be stored.
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    # Whoever may not see all rows is told so, and does not take some for all.
    "SET LOCAL row_security = off",
    # To compile what runs for milliseconds took half a second before every swap.
    "SET LOCAL jit = off",
)
"""What of a role's, a database's or a server's settings would change what our statements do. Each transaction begins
with them: a setting of the session would not be there behind a pgbouncer, or be there for others."""

_OF_STORES = "SET LOCAL search_path = pg_catalog"
"""A role's own functions and operators are not in the way of ours."""

_OF_OTHERS = "SET LOCAL TimeZone = 'UTC'"
"""Times are given as numbers; a text that somebody's SELECT makes of one should not depend on who reads."""

DURABLE = """CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true)
  ELSE '' END IS NOT NULL"""
"""A condition that always holds, and makes the commit durable. A save that returned is on the disk: else a crash would
give its position to another event, behind cursors that were given out."""


class Prepared(NamedTuple):
    """A statement that is prepared on the server under a name that only this very statement has."""

    name: str
    definition: str


def prepared(types: str, statement: str) -> Prepared:
    """A statement with parameters of these types."""
    text = f"{types and f'({types})'} AS {statement.replace('%%', '%')}"
    name = f"eventferry_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return Prepared(name, f"PREPARE {name}{text}")


class _Raw(psycopg.AsyncConnection[Any]):
    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109 -- psycopg's
        """As psycopg's own, but a cancelled call cuts the connection to a server silent for `_SILENCE`."""
        stop_without_loop()
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                await self._interrupt(gen, interval)
            raise

    async def _interrupt(self, gen: PQGen[RV], interval: float) -> None:
        try:
            async with asyncio.timeout(_SILENCE):
                await self.cancel_safe(timeout=_SILENCE)
                await waiting.wait_async(gen, self.pgconn.socket, interval=interval)
        except psycopg.errors.QueryCanceled:
            pass
        except BaseException as error:  # silent, or cancelled again: it is in an unknown state
            self.pgconn.finish()
            if not isinstance(error, Exception):
                raise


class Connection:
    """A connection; psycopg's own, in autocommit: transactions begin and end by statements.

    It works behind a pgbouncer that gives every transaction another server connection: no setting outlives its
    transaction, and what we prepare is what anybody would under its name, and is prepared where it is not.
    """

    def __init__(self, raw: psycopg.AsyncConnection[Any], name: str) -> None:
        self.raw = raw
        self._name = name
        self._prepared: set[str] = set()
        self._is_ending = False
        self.pace = Pace()
        self._pages = 0
        forking.ours(self)
        end_with_loop(self)

    def abandon(self) -> None:
        self.raw.pgconn.finish()

    def leave(self) -> object:
        """In a child: the server hears the parent's end when that ends, not when its children do."""
        with contextlib.suppress(psycopg.Error, OSError):
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, self.raw.pgconn.socket)
            os.close(nowhere)
        return self.raw

    @classmethod
    async def open(cls, conninfo: str, name: str) -> Connection:
        try:
            raw = await _Raw.connect(conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            words = _words(error)
            if any(sign in words for sign in _FULL):
                raise FullServerError(f"{name} takes no more connections: {words}") from None
            raise _named(error, name) from None
        except BaseException as error:
            # psycopg gives up a connection that is half made only when nothing refers to it; a traceback does.
            traceback.clear_frames(error.__traceback__)
            raise
        return cls(raw, name)

    @property
    def is_usable(self) -> bool:
        if self.raw.closed:
            return False
        return self._is_ending or self.raw.info.transaction_status is pq.TransactionStatus.IDLE

    def begin(self, mode: str = "READ COMMITTED") -> str:
        """The statements that begin a transaction, whatever is set for it elsewhere."""
        begin = self.begin_for_durable(mode)
        # A query: what is only read must be locked before the first one.
        return begin if "READ ONLY" in mode else f"{begin}; SELECT {DURABLE}"

    def begin_for_durable(self, mode: str = "READ COMMITTED") -> str:
        """The same before statements that contain `DURABLE`: a query of its own takes as long as all other settings."""
        return self._begin(mode, _OF_STORES)

    def begin_for_others(self) -> str:
        """The same for a SELECT of somebody else's, in which names mean what they mean to him."""
        return self._begin("REPEATABLE READ READ ONLY", _OF_OTHERS)

    def _begin(self, mode: str, more: str) -> str:
        begin = [f"BEGIN ISOLATION LEVEL {mode}", *_SETTINGS, more]
        if self.raw.info.server_version >= 170000:
            begin.append("SET LOCAL transaction_timeout = 0")
        return "; ".join(begin)

    @property
    def has_failed(self) -> bool:
        return self.raw.info.transaction_status is pq.TransactionStatus.INERROR

    async def close(self) -> None:
        await self.raw.close()

    async def run(self, statements: str, parameters: Params | None = ()) -> list[list[tuple[Any, ...]]]:
        """The rows of statements run in one round trip. None for values that stand in them already."""
        with self.named():
            await self._over()
            async with psycopg.AsyncClientCursor(self.raw) as cursor:
                await cursor.execute(statements, parameters)
                results = [await cursor.fetchall() if cursor.description else []]
                while cursor.nextset():
                    results.append(await cursor.fetchall() if cursor.description else [])
                return results

    async def run_prepared(self, begin: str, statements: str, needed: Sequence[Prepared]) -> list[Rows]:
        """Begin a transaction, and run statements in it that need what is prepared, in one round trip. The last rows
        are those of the statements. With psycopg's own errors; values stand in the statements as literals."""
        if self._prepared.issuperset(each.name for each in needed):
            try:
                return await self.exchange(f"{begin}; {statements}")
            except psycopg.errors.InvalidSqlStatementName:  # another server connection
                await self.exchange("ROLLBACK")
        await self.exchange(begin)
        await self.prepare(needed)
        return await self.exchange(statements)

    async def prepare(self, needed: Sequence[Prepared]) -> None:
        [found] = await self.exchange("SELECT name FROM pg_prepared_statements")
        missing = [each.definition for each in needed if (each.name,) not in found]
        await self.exchange("; ".join(missing))
        self._prepared.update(each.name for each in needed)

    def literal(self, text: bytes) -> str:
        return bytes(pq.Escaping(self.raw.pgconn).escape_literal(text)).decode()

    async def exchange(self, statements: str) -> list[Rows]:
        """Run statements in one round trip: the rows of each, all values as text. With psycopg's own errors, and not
        by its cursors, which take as long as the server does for a save."""
        await self._over()
        self.raw.pgconn.send_query(statements.encode())
        return _rows_of(await self.raw.wait(generators.execute(self.raw.pgconn)))

    async def ask(self, statements: str) -> list[Rows]:
        """The same, for what is answered at once, with our errors. Without an answer the connection is cut."""
        pgconn = self.raw.pgconn
        with self.named():
            try:
                async with asyncio.timeout(_SILENCE):
                    await self._over()
                    pgconn.send_query(statements.encode())
                    # Without an interval psycopg asks all the time whether the answer is there.
                    return _rows_of(
                        await waiting.wait_async(generators.execute(pgconn), pgconn.socket, interval=_SILENCE)
                    )
            except TimeoutError:
                await self.close()
                raise StoreUnreachableError(f"{self._name} does not answer") from None

    def written(self, statement: str, parameters: Params) -> str:
        with self.named():
            return psycopg.AsyncClientCursor(self.raw).mogrify(statement, parameters)

    async def each(self, statements: Sequence[str], take: Callable[[Texts], None]) -> None:
        """Run statements of one row each in one round trip: each row is taken as soon as it is there, while the server
        is at the next. All values come as text.

        Asked for one stretch at a time, an export takes 4 % longer (150,000 events, a server on the same machine)."""
        connection = self.raw.pgconn
        async with self.raw.lock:
            with self.named():
                connection.send_query(";".join(statements).encode())
                try:  # psycopg may give the loop a turn at any wait, also at that for what is sent already
                    await self.raw.wait(generators.send(connection))
                    while (result := await self._result()) is not None:
                        if result.status == pq.ExecStatus.FATAL_ERROR:
                            raise psycopg.errors.error_from_result(result)
                        take([result.get_value(0, column) for column in range(result.nfields)])
                        del result
                except BaseException:
                    with contextlib.suppress(psycopg.Error):
                        while await self._result() is not None:
                            pass
                    raise

    async def _result(self) -> pq.abc.PGresult | None:
        return await self.raw.wait(generators.fetch(self.raw.pgconn))

    async def rows(self, statement: str, parameters: Params = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement; text comes as bytes."""
        with self.named():
            async with psycopg.AsyncCursor(self.raw) as cursor:
                _take_bytes(cursor)
                await cursor.execute(statement, parameters, binary=True)
                return await cursor.fetchall()

    async def expect_pages(self, count: int) -> None:
        """Before so many pages: the server is made to keep the memory of one for the next.

        glibc gives memory at the top of its heap back to the system when twice the largest block ever freed is free
        there. A page takes a few blocks of some 100 KB, so each would get its memory anew: a third of its time, and
        19 % of an export's. One larger block, once, ends that. A connection that reads one page is spared it.
        """
        before, self._pages = self._pages, self._pages + count
        if before < _PAGES_APART <= self._pages:
            await self.run(_LARGE_BLOCK)

    async def change(self, statement: str, parameters: Params | None = ()) -> int:
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

    async def copy_in(self, statement: str, parts: AsyncIterable[bytes]) -> None:
        """Run COPY … FROM STDIN in text format; the server takes one part while the next is made."""
        copying = statement.replace("%%", "%")  # it binds no parameters, which would do that
        with self.named():
            async with psycopg.AsyncClientCursor(self.raw) as cursor, cursor.copy(copying) as copy:
                async for part in parts:
                    await copy.write(part)

    @asynccontextmanager
    async def ended(self) -> AsyncIterator[None]:
        """Whatever happens inside, no transaction is left open. What was not committed is rolled back."""
        try:
            yield
        finally:
            if not (self.raw.closed or self.is_usable):
                await to_the_end(self._roll_back())

    def end_soon(self) -> None:
        """End a read transaction. The answer is waited for before the next statement: whoever has read goes on."""
        pgconn = self.raw.pgconn
        if pgconn.transaction_status == pq.TransactionStatus.INTRANS:
            with contextlib.suppress(psycopg.Error):  # then `ended` rolls it back, or closes the connection
                pgconn.send_query(b"ROLLBACK")
                self._is_ending = pgconn.flush() == 0

    async def _over(self) -> None:
        """Wait until a transaction that was to end soon has."""
        if self._is_ending:
            self._is_ending = False
            self.raw.pgconn.consume_input()  # mostly the answer has come, and no turn of the loop is needed
            _rows_of(await self.raw.wait(generators.fetch_many(self.raw.pgconn)))

    async def _roll_back(self) -> None:
        is_over = False
        try:
            with contextlib.suppress(EventferryError):
                await self.ask("ROLLBACK")
                is_over = True
        finally:
            if not is_over:
                await self.close()

    @contextmanager
    def named(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if self.raw.broken:
                raise StoreUnreachableError(
                    f"the connection to {self._name} broke: {_words(error)}"
                ) from None
            raise _named(error, self._name) from error


def _rows_of(results: Sequence[pq.abc.PGresult]) -> list[Rows]:
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    return [
        [
            tuple(_text(result.get_value(row, column)) for column in range(result.nfields))
            for row in range(result.ntuples)
        ]
        for result in results
    ]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _take_bytes(cursor: psycopg.AsyncCursor[Any]) -> None:
    for kind in ("text", "varchar"):
        cursor.adapters.register_loader(kind, ByteaBinaryLoader)


def _words(error: psycopg.Error) -> str:
    """What the server or libpq says; neither quotes a password."""
    return error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__


_FULL = ("too many clients", "connection slots are reserved", "too many connections", "no more connections")
"""Of SQLSTATE 53300, which libpq does not tell before there is a connection; the last is pgbouncer's."""

_MEANINGS: tuple[tuple[tuple[str, ...], type[EventferryError], str], ...] = (
    # The last: what has the name cannot be locked as a table can.
    (("42P01", "3F000", "3D000", "42809"), StoreNotFoundError, "holds no store"),
    (("55P03", "40P01", "40001", "53300", "53400", "57P03"), StoreBusyError, "is held by somebody else"),
    (("42501", "25006"), ReadOnlyStoreError, "does not allow this with the rights at hand"),
    (("08", "28", "57P"), StoreUnreachableError, "cannot be reached"),
    (("53100",), DatabaseError, "has no room: the disk is full; nothing of this step was kept"),
)
"""What SQLSTATEs that begin so mean; the first that fits."""


def _named(error: psycopg.Error, name: str) -> EventferryError:
    words = _words(error)
    state = error.sqlstate or ("08" if isinstance(error, psycopg.OperationalError) else "")
    if not error.sqlstate and 'database "' in words and "does not exist" in words:
        state = "3D000"
    for states, kind, meaning in _MEANINGS:
        if state.startswith(states):
            return kind(f"{name} {meaning}: {words}")
    return DatabaseError(f"{name}: {words}")

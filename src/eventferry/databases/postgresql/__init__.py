"""A store in a schema of a PostgreSQL database."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from secrets import token_hex
from typing import Any, TypeVar

import psycopg

from eventferry.database import First, Frozen, Save, Saved, Traits, WritingKind
from eventferry.databases.names import EVENT, Tables, comment, fact, not_a_view, refuse_foreign
from eventferry.databases.postgresql import tables as ddl
from eventferry.databases.postgresql.address import Server, server_at
from eventferry.databases.postgresql.connection import Connection, Prepared, Rows
from eventferry.databases.postgresql.foreign import PostgresTables
from eventferry.databases.postgresql.markers import freeze_of
from eventferry.databases.postgresql.merge import PostgresExclusiveWriting
from eventferry.databases.postgresql.owners import AdvisoryLocks
from eventferry.databases.postgresql.reading import PostgresReading, Questions
from eventferry.databases.postgresql.save import Place, Saver, preferred
from eventferry.databases.postgresql.stage import PostgresWriting
from eventferry.databases.postgresql.swap import PostgresReplacing
from eventferry.databases.postgresql.tables import Names, columns, quoted
from eventferry.databases.server import ServerDatabase
from eventferry.databases.settings import seconds, whole_number
from eventferry.errors import (
    ConcurrentError,
    DatabaseError,
    StoreBusyError,
    StoreExistsError,
    StoreFrozenError,
    StoreUnreachableError,
    UnsupportedStoreError,
)
from eventferry.lines.limits import ColumnLimits, check_limits, is_within

W = TypeVar("W", bound=PostgresWriting)

_ATTEMPT = 0.2
"""Seconds that an exclusive transaction waits in the queue for its lock: whoever queues behind it waits as long."""

_THREADS_TRIED = 16

_PARTITIONED = "p"
_TABLES = ("r", _PARTITIONED)
"""Of the kinds of pg_class."""

_MADE_MEANWHILE = (psycopg.errors.DuplicateTable, psycopg.errors.UniqueViolation)

_UNDONE = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
"""The server ended a transaction because of another one: nothing of it is left, and it may simply be run again."""


def open_url(address: str, tables: Tables, settings: dict[str, Any]) -> Callable[[], PostgresDatabase]:
    """A store at a PostgreSQL URL. What is no option of ours is one of libpq's."""
    schema = str(settings.pop("database_name", "public"))
    busy_timeout, size = _patience_and_size(settings)
    return partial(
        PostgresDatabase,
        _server(address, settings),
        Names(schema, tables),
        busy_timeout=busy_timeout,
        size=size,
    )


def open_foreign(address: str, settings: dict[str, Any]) -> PostgresTables:
    """Another product's tables at a PostgreSQL URL."""
    busy_timeout, size = _patience_and_size(settings)
    return PostgresTables(_server(address, settings), size=size, busy_timeout=busy_timeout)


def _patience_and_size(settings: dict[str, Any]) -> tuple[float, int]:
    return seconds(settings, "busy_timeout", 60.0), whole_number(settings, "max_connections", 8)


def _server(address: str, settings: dict[str, Any]) -> Server:
    return server_at(address, {name: str(settings.pop(name)) for name in list(settings)})


class PostgresDatabase(ServerDatabase[Connection]):
    """The tables of one store in one schema."""

    def __init__(self, server: Server, names: Names, *, busy_timeout: float, size: int) -> None:
        self._server = server
        self._names = names
        place = f"{server.place} (schema {names.schema})"
        connect = partial(Connection.open, server.info, place)
        super().__init__(place, connect, size, AdvisoryLocks(), busy_timeout)
        self._limits: ColumnLimits | None = None
        self._saver = Saver(names)
        self._questions = Questions(names)
        self._known: tuple[int, str] | None = None

    @property
    def traits(self) -> Traits:
        names = self._server.names | {"databaseName": self._names.schema}
        return Traits(names | self._names.tables.resource_names, saves_at_once=2)

    @asynccontextmanager
    async def _transaction(
        self,
        mode: str = "READ COMMITTED",
        first: str = "SELECT",
        then: str = "SELECT",
        needed: Sequence[Prepared] = (),
    ) -> AsyncIterator[tuple[Connection, list[Rows]]]:
        """A connection with a transaction whose first statements were run, `then` with what is prepared, and what those
        gave, `then` at the end. Nothing is left of it but what it commits. One that was kept may have died: nothing was
        sent on it yet, so the next is tried."""

        async def begun(connection: Connection) -> list[Rows]:
            begin = f"{connection.begin(mode)}; {first}".replace("%%", "%")
            with connection.named():
                return await connection.run_prepared(begin, then.replace("%%", "%"), needed)

        async with self._pool.connection() as connection, connection.ended():
            try:
                results = await begun(connection)
            except StoreUnreachableError:
                await self._pool.forget_idle()
            else:
                yield connection, results
                return
        async with self._pool.connection() as connection, connection.ended():
            yield connection, await begun(connection)

    @asynccontextmanager
    async def reading(self, first: First | None = None) -> AsyncIterator[PostgresReading]:
        # The lock comes before the snapshot: otherwise a swap in between would leave a reader of the new
        # table who sees none of its rows.
        begin = f"{self._patience}; LOCK TABLE {self._names.events} IN ACCESS SHARE MODE"
        then, needed = self._facts, list[Prepared]()
        question = None if first is None or self._known is None else self._questions.of(first)
        if question is not None:
            begin = f"{begin}; {question.setting}"
            then, needed = f"{then}; {question.statement}", [question.needed]
        transaction = self._transaction("REPEATABLE READ READ ONLY", begin, then, needed)
        async with transaction as (connection, results):
            known = await self._facts_of(connection, results[-1 - len(needed)])
            answer = None if first is None or question is None else (first, results[-1])
            try:
                yield PostgresReading(connection, self._names, *known, answer)
            finally:
                connection.end_soon()

    def writing(
        self, kind: WritingKind = "shared", *, frozen: Frozen = "refuse", secrets: bool = False
    ) -> AbstractAsyncContextManager[Any]:
        # reSolve's writers wait for it too.
        then = f"LOCK TABLE {self._names.secrets} IN SHARE ROW EXCLUSIVE MODE" if secrets else "SELECT"
        if kind == "shared":
            return self._shared(frozen, then)
        if kind == "replacing":
            events = self._names.events
            return self._alone(PostgresReplacing, f"LOCK TABLE {events} IN ACCESS EXCLUSIVE MODE;", then)
        return self._alone(PostgresExclusiveWriting, "", then)

    @asynccontextmanager
    async def _shared(self, frozen: Frozen, then: str = "SELECT") -> AsyncIterator[PostgresWriting]:
        await self._refuse_part()
        # The lock is one that saves take too, and that a freeze waits for.
        mode, freeze = ("ROW EXCLUSIVE", self._freeze) if frozen == "refuse" else ("ACCESS SHARE", _NONE)
        lock = f"LOCK TABLE {self._names.threads} IN {mode} MODE"
        first, then = f"{self._patience}; {lock}; {then}", f"{self._facts}; {freeze}"
        async with self._transaction(first=first, then=then) as (connection, results):
            yield await self._begun_writing(PostgresWriting, connection, results)
            await connection.run("COMMIT")

    @asynccontextmanager
    async def _alone(self, kind: type[W], lock: str, then: str = "SELECT") -> AsyncIterator[W]:
        """An exclusive write transaction: no save and no other one goes on beside it.

        Whoever waits for a lock keeps all those waiting who come behind: so it waits in short attempts, with pauses.
        Nothing in it needs a scan of the events. A table that has just grown looks tiny to the planner, and a scan of
        it, done once for each of a million staged rows, kept everybody out for an hour.
        """
        await self._refuse_part()
        deadline = time.monotonic() + self._busy_timeout
        first = f"""SET LOCAL lock_timeout = {_milliseconds(min(_ATTEMPT, self._busy_timeout))};
            LOCK TABLE {self._names.threads} IN EXCLUSIVE MODE; {lock} {self._patience}; {then};
            SET LOCAL enable_seqscan = off"""
        facts = f"{self._facts}; {self._freeze}"
        while True:
            try:
                async with self._transaction(first=first, then=facts) as (connection, results):
                    deadline = 0
                    writing = await self._begun_writing(kind, connection, results)
                    yield writing
                    await connection.run("COMMIT")
                    return
            except StoreBusyError:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(random.uniform(0.02, 0.1))  # noqa: S311 -- to keep out of step, not to be secret

    @property
    def _patience(self) -> str:
        return f"SET LOCAL lock_timeout = {_milliseconds(self._busy_timeout)}"

    @property
    def _facts(self) -> str:
        """Which table holds the events: what else there is to know of it is asked once, for it takes a fifth of what
        the reading of an aggregate does."""
        return self._all_facts if self._known is None else f"SELECT {self._events}::regclass::oid::bigint"

    @property
    def _all_facts(self) -> str:
        return f"""SELECT oid::bigint, coalesce(obj_description(oid, 'pg_class'), ''), relkind::text,
              array_to_string(ARRAY(
                SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
              ), E'\\n')
            FROM pg_class AS c WHERE oid = {self._events}::regclass"""

    @property
    def _events(self) -> str:
        return ddl.literal(self._names.events.replace("%%", "%"))

    @property
    def _freeze(self) -> str:
        name = ddl.literal(self._names.freeze.replace("%%", "%"))
        return f"""SELECT coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class AS c
            WHERE c.oid = to_regclass({name})"""

    async def _facts_of(
        self, connection: Connection, facts: Rows, *, is_written: bool = False
    ) -> tuple[int, str]:
        if len(facts[0]) == 1:
            known = self._known
            if known is not None and facts == [(str(known[0]),)]:
                return known
            with connection.named():
                [facts] = await connection.exchange(self._all_facts.replace("%%", "%"))
        [(oid, told, kind, present)] = facts
        events = self._names.tables.events
        if kind not in _TABLES:
            raise not_a_view(self._place, events)
        if is_written and kind == _PARTITIONED:
            raise UnsupportedStoreError(
                f"the table {events!r} in {self._place} is partitioned, so at most one of positions "
                "and versions can have a unique key: it can be read, and not written to. Copy it into another store"
            )
        refuse_foreign(self._place, events, (*EVENT, "eventSize"), (present or "").split("\n"))
        # Without an identity it may be that of a dump whose comments are yet to come.
        found = int(oid or 0), told or ""
        is_known = kind != _PARTITIONED and fact(found[1], "STORE", "id") is not None
        self._known = found if is_known else None
        return found

    async def _begun_writing(self, kind: type[W], connection: Connection, results: list[Rows]) -> W:
        *_, facts, marker = results
        known = await self._facts_of(connection, facts, is_written=True)
        freeze = freeze_of(self._names, (marker[0][0] or "") if marker else None)
        return kind(connection, self._names, *known, freeze=freeze)

    async def create(self) -> None:
        wanted = [*self._names.tables, f"{self._names.tables.events}-threads"]
        async with self._transaction() as (connection, _):
            [[(encoding,)], present, [(has_schema,)]] = await connection.run(
                """SELECT getdatabaseencoding();
                SELECT relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = %(schema)s AND c.relname = ANY(%(names)s) ORDER BY 1;
                SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %(schema)s)""",
                {"schema": self._names.schema, "names": wanted},
            )
            if present:
                raise StoreExistsError(f"{self._place} has a table {present[0][0]!r} already")
            if encoding != "UTF8":
                raise UnsupportedStoreError(
                    f"{self._place}: the encoding of the database is {encoding}, not UTF8"
                )
            # Not IF NOT EXISTS alone: that needs the right to make one even where it is there.
            statements = [] if has_schema else [f"CREATE SCHEMA IF NOT EXISTS {quoted(self._names.schema)}"]
            statements += ddl.store_tables(self._names, comment("STORE", id=token_hex(8)))
            try:
                await connection.run(";\n".join([*statements, "COMMIT"]))
            except DatabaseError as error:
                if isinstance(error.__cause__, _MADE_MEANWHILE):
                    raise StoreExistsError(f"{self._place} was made by somebody else meanwhile") from None
                raise

    async def upgrade(self) -> list[str]:
        """Builds the index beside the writers: not in a transaction, so a half built one may stand from before."""
        async with self._shared("allow") as writing:
            if ddl.ORDER in await writing.indexed(self._names.tables.events):
                return []
        index = self._names.index("order")
        async with self._pool.connection() as connection:
            # Of the session, for neither may be in a transaction.
            await connection.run("SET statement_timeout = 0; SET lock_timeout = 0")
            try:
                await connection.run(f"DROP INDEX CONCURRENTLY IF EXISTS {self._names.of(index)}")
                await connection.run(
                    f"CREATE INDEX CONCURRENTLY {quoted(index)} ON {self._names.events}({columns(ddl.ORDER)})"
                )
            finally:
                await connection.ask("RESET statement_timeout; RESET lock_timeout")
        return [index]

    async def _save_group(self, saves: Sequence[Save]) -> list[Saved | None]:
        return await self._store([(save, preferred(save)) for save in saves])

    async def _save_one(self, save: Save) -> Saved:
        place = preferred(save)
        for _ in range(_THREADS_TRIED):
            try:
                [saved] = await self._store([(save, place)])
            except DatabaseError as error:
                if isinstance(error.__cause__, psycopg.errors.StringDataRightTruncation):
                    self._limits = None
                    await self._check_limits(save)
                raise
            if saved is not None:
                return saved
            async with self._shared("refuse") as writing:
                if await writing.freeze() is not None:
                    raise StoreFrozenError(f"the store {self._place} is frozen")
            async with self._transaction("READ COMMITTED READ ONLY") as (connection, _):
                taken, place = await self._saver.find_place(connection, save)
            if taken:
                raise ConcurrentError(save.aggregate_id, save.version)
        async with self._alone(PostgresExclusiveWriting, "") as writing:
            if await writing.freeze() is not None:
                raise StoreFrozenError(f"the store {self._place} is frozen")
            return await self._saver.add(writing.connection, save)

    async def _store(self, saves: Sequence[tuple[Save, Place]]) -> list[Saved | None]:
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                async with self._pool.connection() as connection, connection.ended():
                    return await self._saver.store(connection, saves, _milliseconds(self._busy_timeout))
            except StoreBusyError as error:
                # Ours lock in one order, but who writes to these tables otherwise may not: then the server picks one
                # of the two, and has undone all of it.
                if not isinstance(error.__cause__, _UNDONE) or time.monotonic() >= deadline:
                    raise

    async def _look_up(self, save: Save) -> Saved | None:
        # A freeze has waited for what was under way: either it is there now or it never will be.
        async with self._transaction("READ COMMITTED READ ONLY") as (connection, _):
            return await self._saver.look_up(connection, save)

    async def _check_limits(self, save: Save) -> None:
        """By the limits that were read before, and where those refuse the event by those that are: an import may
        have put wider columns in place of the events, or reSolve's narrower ones."""
        limits = self._limits
        if limits is not None and all(is_within(limits, event) for event in save.events):
            return
        async with self._shared("allow") as writing:
            self._limits = await writing.limits()
        for event in save.events:
            check_limits(self._limits, event.aggregate_id, event.type, event.payload)

    async def own(self) -> str:
        with self.life.running():
            async with self.reading():  # there is a store
                pass
            return await super().own()


_NONE = "SELECT NULL WHERE FALSE"


def _milliseconds(seconds: float) -> int:
    """At least one: PostgreSQL takes zero for no limit."""
    return max(int(seconds * 1000), 1)

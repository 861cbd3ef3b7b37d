"""Which rows of a table on PostgreSQL may be taken yet: none before all that may still come below it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventferry import MappingError
from eventferry.sources.following import SourceFollower, SourceTable, bookmark_of, open_table
from eventferry.sources.mapping import Mapping, Position
from eventferry.sources.positions import SourceBookmark
from eventferry.sources.source import open_source
from eventferry.sources.window import DrawnNumbers
from tests.support.servers import FOLDER, Postgres, new_server, shared_url

SETTLE = 0.4


class Table:
    """A table of events in a schema of its own; `connection` is another one of its writers, each time."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.schema = f"test_{secrets.token_hex(6)}"
        self.url = url
        self._stack = stack
        self._owner = self.writer(autocommit=True)
        self._owner.execute(f"CREATE SCHEMA {self.schema}")
        stack.callback(self._drop)
        stack.callback(self._forget_prepared)

    def _forget_prepared(self) -> None:
        """What a test that failed has left: it would hold up the end."""
        for (name,) in self._owner.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        ).fetchall():
            self._owner.execute(f"ROLLBACK PREPARED '{name}'")

    def _drop(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = error")
            connection.execute(f"DROP SCHEMA {self.schema} CASCADE")

    def writer(self, *, autocommit: bool = False) -> psycopg.Connection:
        options = f"-c search_path={self.schema}"
        return self._stack.enter_context(psycopg.connect(self.url, autocommit=autocommit, options=options))

    def run(self, *statements: str) -> None:
        for statement in statements:
            self._owner.execute(statement)

    def insert(self, *positions: int) -> None:
        """Rows at these positions, or at the next."""
        for position in positions:
            self.run(f"INSERT INTO events(position) VALUES ({position})")

    def skip(self) -> None:
        """A number that is drawn and never used."""
        self.run("SELECT nextval('events_position_seq')")

    def mapping(self, **position: Any) -> Mapping:
        values = {"table": f"{self.schema}.events", "column": "position"} | position
        transaction = ", transaction" if position.get("kind") == "transaction" else ""
        select = f"""SELECT position, 'a' AS aggregate, 'T' AS type, 'null'::json AS data,
            '2026-01-01Z'::timestamptz AS time{transaction}
            FROM {self.schema}.events"""
        return Mapping(name="own", select=select, position=Position(**values))

    @property
    def reader_url(self) -> str:
        """As a role that may read the table and nothing else."""
        role = f"reader_{self.schema}"
        self.run(
            f"CREATE ROLE {role} LOGIN PASSWORD '{role}'",
            f"GRANT USAGE ON SCHEMA {self.schema} TO {role}",
            f"GRANT SELECT ON events TO {role}",
        )
        self._stack.callback(self.run, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
        address, _, place = self.url.rpartition("@")
        return f"{address.partition('//')[0]}//{role}:{role}@{place}"


class Reader:
    """Reads on from what it has taken."""

    def __init__(self, table: SourceTable, bookmark: SourceBookmark) -> None:
        self.window = table.window
        self._follower = SourceFollower(table, bookmark, 10_000)

    async def look(self) -> list[int]:
        """One look; the positions that it takes."""
        lines = await self._follower.next(0)
        return [json.loads(line)["payload"]["meta"]["position"] for line in lines.text.splitlines()]

    async def looks(self) -> list[int]:
        """Two looks, for the first may only see what is missing."""
        return await self.look() + await self.look()

    async def looks_for(self, count: int) -> list[int]:
        """Looks until so many positions are taken: transactions of other tests, which share the server, may hold them
        up."""
        taken: list[int] = []
        async with asyncio.timeout(60):
            while len(taken) < count:
                taken += await self.look()
        return taken


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def table(stack: ExitStack) -> Table:
    table = Table(shared_url("postgresql", "postgres"), stack)
    table.run("CREATE TABLE events(position bigserial PRIMARY KEY, n int)")
    return table


@pytest.fixture(scope="module")
def preparing() -> Iterator[str]:
    """A server that knows prepared transactions."""
    server = new_server("postgresql", Path(os.environ[FOLDER]) / f"own-{secrets.token_hex(6)}")
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET max_prepared_transactions = 10")
    server.stop()
    server.start()
    assert isinstance(server, Postgres)
    yield server.url("postgres")
    server.stop()


@asynccontextmanager
async def reading(
    table: Table, mapping: Mapping | None = None, url: str | None = None, settle: float = SETTLE
) -> AsyncIterator[Reader]:
    """A reader of the table."""
    async with open_source(url or table.url, mapping or table.mapping(), settle=settle) as source:
        yield Reader(await open_table(source), bookmark_of(source, None))


DRAWN = {
    "by its insert": ["INSERT INTO events DEFAULT VALUES"],
    "in an earlier statement": ["SELECT nextval('events_position_seq')"],
    "in a savepoint that was rolled back": [
        "SAVEPOINT one",
        "SELECT nextval('events_position_seq')",
        "ROLLBACK TO one",
    ],
    "in a function that failed": [
        """DO $$ BEGIN PERFORM nextval('events_position_seq'); RAISE 'no';
        EXCEPTION WHEN OTHERS THEN NULL; END $$""",
    ],
}


@pytest.mark.parametrize("statements", DRAWN.values(), ids=DRAWN)
async def test_what_is_above_a_number_waits_for_the_transaction_that_drew_it(
    table: Table, statements: list[str]
) -> None:
    table.run("INSERT INTO events DEFAULT VALUES")
    async with reading(table, url=table.reader_url) as reader:
        assert reader.window.doubt is None
        assert await reader.looks() == [1]
        late = table.writer()
        for statement in statements:
            late.execute(statement)
        table.run("INSERT INTO events DEFAULT VALUES")
        assert [await reader.look() for _ in range(3)] == [[], [], []]
        if "INSERT" not in statements[0]:
            late.execute("INSERT INTO events(position) VALUES (2)")
        late.commit()
        assert await reader.look() == [2, 3]


async def test_a_number_that_was_rolled_back_is_waited_for_no_longer_than_its_transaction_runs(
    table: Table,
) -> None:
    table.run("INSERT INTO events DEFAULT VALUES")
    async with reading(table) as reader:
        await reader.looks()
        late = table.writer()
        late.execute("INSERT INTO events DEFAULT VALUES")
        table.run("INSERT INTO events DEFAULT VALUES")
        assert await reader.looks() == []
        late.rollback()
        assert await reader.look() == [3]


async def test_rows_that_follow_one_another_wait_for_nobody(table: Table) -> None:
    table.run("INSERT INTO events DEFAULT VALUES")
    async with reading(table) as reader:
        await reader.looks()
        table.writer().execute("BEGIN; SELECT nextval('events_position_seq')")
        table.insert(3)
        assert await reader.looks() == []
        table.insert(2)
        assert await reader.look() == [2, 3]


async def test_transactions_that_have_nothing_to_do_with_the_sequence_are_not_waited_for(
    table: Table,
) -> None:
    other = table.writer()
    other.execute("CREATE TABLE other(n int)")
    other.execute("SELECT * FROM events; SELECT last_value FROM events_position_seq")
    table.skip()
    table.run("INSERT INTO events DEFAULT VALUES")
    async with reading(table) as reader:
        assert await reader.looks() == [2]


async def test_the_first_row_waits_too(table: Table) -> None:
    late = table.writer()
    late.execute("INSERT INTO events DEFAULT VALUES")
    table.run("INSERT INTO events DEFAULT VALUES")
    async with reading(table) as reader:
        assert await reader.looks() == []
        late.commit()
        assert await reader.look() == [1, 2]


@pytest.mark.slow
async def test_a_transaction_that_is_prepared_meanwhile_is_waited_for(
    preparing: str, stack: ExitStack
) -> None:
    table = Table(preparing, stack)
    table.run(
        "CREATE TABLE events(position bigserial PRIMARY KEY, n int)", "INSERT INTO events DEFAULT VALUES"
    )
    for end in ("COMMIT", "ROLLBACK"):
        async with reading(table) as reader:
            before = (await reader.looks())[-1]
            late = table.writer(autocommit=True)
            late.execute("BEGIN")
            late.execute("INSERT INTO events DEFAULT VALUES")
            table.run("INSERT INTO events DEFAULT VALUES")
            assert await reader.looks() == []
            late.execute("PREPARE TRANSACTION 'late'")
            assert await reader.looks() == []
            late.execute("INSERT INTO events DEFAULT VALUES")
            assert await reader.looks() == []
            late.close()
            assert await reader.looks() == []
            table.run(f"{end} PREPARED 'late'")
            missing = [before + 1] if end == "COMMIT" else []
            assert await reader.looks() == [*missing, before + 2, before + 3]


@pytest.mark.parametrize(
    "definition", ["bigint GENERATED ALWAYS AS IDENTITY", "bigint DEFAULT nextval('apart')"]
)
async def test_the_sequence_is_found_however_the_column_gets_its_numbers(
    table: Table, definition: str
) -> None:
    table.run(
        "DROP TABLE events", "CREATE SEQUENCE apart", f"CREATE TABLE events(position {definition}, n int)"
    )
    async with reading(table) as reader:
        assert reader.window.doubt is None
        late = table.writer()
        late.execute("INSERT INTO events DEFAULT VALUES")
        table.run("INSERT INTO events DEFAULT VALUES")
        assert await reader.looks() == []
        late.commit()
        assert await reader.look() == [1, 2]


@pytest.mark.slow
async def test_one_that_is_prepared_is_waited_for_also_where_no_sequence_is_found(
    preparing: str, stack: ExitStack
) -> None:
    table = Table(preparing, stack)
    table.run(
        "CREATE TABLE events(position bigserial PRIMARY KEY, n int)", "INSERT INTO events DEFAULT VALUES"
    )
    async with reading(table, table.mapping(column="n")) as reader:
        late = table.writer(autocommit=True)
        late.execute("BEGIN")
        late.execute("INSERT INTO events DEFAULT VALUES")
        table.run("INSERT INTO events DEFAULT VALUES")
        assert await reader.looks() == []
        late.execute("PREPARE TRANSACTION 'late'")
        for _ in range(2):
            await asyncio.sleep(SETTLE)
            assert await reader.looks() == []
        table.run("COMMIT PREPARED 'late'")
        await asyncio.sleep(SETTLE)
        assert await reader.looks() == [1, 2, 3]


async def test_that_of_a_partitioned_table_is_found(table: Table) -> None:
    table.run(
        "DROP TABLE events",
        "CREATE TABLE events(position bigserial, n int DEFAULT 1) PARTITION BY LIST (n)",
        "CREATE TABLE first PARTITION OF events DEFAULT",
    )
    async with reading(table) as reader:
        assert reader.window.doubt is None
        table.writer().execute("BEGIN; SELECT nextval('events_position_seq')")
        table.run("INSERT INTO events DEFAULT VALUES")
        assert await reader.looks() == []


INEXACT = {
    "has CACHE 5": "ALTER SEQUENCE events_position_seq CACHE 5",
    "has INCREMENT 50": "ALTER SEQUENCE events_position_seq INCREMENT 50",
}


@pytest.mark.slow
@pytest.mark.parametrize(("doubt", "change"), INEXACT.items())
async def test_where_numbers_are_drawn_ahead_a_missing_one_is_waited_for_and_the_doubt_is_told(
    table: Table, doubt: str, change: str
) -> None:
    table.run(change)
    async with reading(table, settle=5) as reader:
        assert doubt in (reader.window.doubt or "")
        table.insert(1, 3)
        assert await reader.looks() == []
        await asyncio.sleep(5)
        assert await reader.look() == [1, 3]
        table.insert(6)
        assert await reader.looks() == []
        table.insert(4)
        assert await reader.looks() == [4]
        table.insert(5)
        assert await reader.looks() == [5, 6]


async def test_where_no_sequence_is_found_all_transactions_and_the_settle_time_are_waited_for(
    table: Table,
) -> None:
    for mapping in (table.mapping(column="n"), table.mapping(table="", column="")):
        async with reading(table, mapping) as reader:
            assert "no sequence" in (reader.window.doubt or "")
            late = table.writer()
            late.execute("SELECT 1")
            table.skip()
            table.run("INSERT INTO events DEFAULT VALUES")
            await reader.looks()
            await asyncio.sleep(SETTLE)
            assert await reader.looks() == []
            late.commit()
            assert await reader.looks_for(1)


async def test_a_sequence_that_counts_down_is_refused(table: Table) -> None:
    table.run("ALTER SEQUENCE events_position_seq INCREMENT -1 MINVALUE -1000")
    with pytest.raises(MappingError, match="counts down"):
        async with reading(table):
            pass


async def test_positions_that_tell_nothing_are_refused(table: Table) -> None:
    with pytest.raises(MappingError, match="not followed or synced"):
        async with reading(table, table.mapping(kind="none")):
            pass


async def test_where_the_writer_holds_a_lock_everything_is_taken(table: Table) -> None:
    async with reading(table, table.mapping(kind="commit")) as reader:
        table.insert(2, 5)
        assert await reader.look() == [2, 5]


async def test_what_is_kept_does_not_grow_with_what_is_missing(table: Table) -> None:
    """Half of the numbers are missing, and one transaction stays open for long."""
    late = table.writer()
    late.execute("SELECT nextval('events_position_seq')")
    async with reading(table) as reader:
        window = reader.window
        assert isinstance(window, DrawnNumbers)
        for _ in range(60):
            table.run(
                "INSERT INTO events SELECT 2 * nextval('events_position_seq') FROM generate_series(1, 100)"
            )
            assert await reader.look() == []
            assert len(window._marks) <= 16
        late.commit()
        assert len(await reader.looks()) == 6_000


@pytest.mark.slow
async def test_a_settle_time_is_not_much_longer_for_a_table_that_grows_all_the_time(table: Table) -> None:
    table.run("ALTER SEQUENCE events_position_seq CACHE 2")
    loop = asyncio.get_running_loop()
    async with reading(table) as reader:
        begun: dict[int, float] = {}
        slowest = longest_look = 0.0
        until = loop.time() + 8 * SETTLE
        position = 0
        while loop.time() < until:
            position += 2
            table.insert(position)
            begun[position] = loop.time()
            look = loop.time()
            for taken in await reader.look():
                slowest = max(slowest, loop.time() - begun[taken])
            longest_look = max(longest_look, loop.time() - look)
            await asyncio.sleep(0.002)
        assert SETTLE <= slowest < 1.5 * SETTLE + 2 * longest_look


class TestTransactions:
    async def test_rows_of_transactions_below_the_oldest_that_runs_are_taken(self, table: Table) -> None:
        table.run('ALTER TABLE events ADD COLUMN "transaction" xid8 NOT NULL DEFAULT pg_current_xact_id()')
        async with reading(table, table.mapping(kind="transaction")) as reader:
            assert reader.window.doubt is None
            table.run("INSERT INTO events DEFAULT VALUES")
            assert await reader.looks_for(1) == [1]
            late = table.writer()
            late.execute("INSERT INTO events DEFAULT VALUES")
            table.run("INSERT INTO events DEFAULT VALUES")
            assert await reader.look() == []
            late.commit()
            assert await reader.looks_for(2) == [2, 3]

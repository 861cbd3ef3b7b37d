"""An import that replaces keeps owner and rights, refuses what it would lose, and keeps nobody waiting."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from eventferry import EventStore, StoreBusyError, StoreNotFoundError, UnsupportedStoreError, open_store
from tests.support import NewUrl, exported, import_lines, make_lines
from tests.support.postgresql import (
    SAVED,
    STORE_TABLES,
    connect,
    make_resolve_store,
    make_store,
    relations,
    rows,
    schema_of,
    tables,
    with_options,
)


@contextmanager
def roles(url: str, *names: str) -> Iterator[list[str]]:
    """Roles that are gone at the end, with all that they own and may."""
    made = [f"{name}_{schema_of(url)}" for name in names]
    rows(url, ";".join(f'CREATE ROLE "{name}"' for name in made))
    try:
        yield made
    finally:
        for name in made:
            rows(url, f'DROP OWNED BY "{name}" CASCADE; DROP ROLE "{name}"')


def rights(url: str) -> tuple[Any, ...]:
    """Owner and grants of the events; who granted them is left aside."""
    [owner] = rows(url, """SELECT relowner::regrole::text FROM pg_class WHERE oid = '"events"'::regclass""")
    table = rows(
        url,
        """SELECT grantee::regrole::text, privilege_type, is_grantable
        FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) WHERE oid = '"events"'::regclass
        ORDER BY 1, 2""",
    )
    columns = rows(
        url,
        """SELECT attname, grantee::regrole::text, privilege_type, is_grantable
        FROM pg_attribute, aclexplode(attacl) WHERE attrelid = '"events"'::regclass AND NOT attisdropped
        ORDER BY 1, 2, 3""",
    )
    return owner, table, columns


# what the table is


async def test_a_table_is_known_anew_when_another_takes_its_place(new_url: NewUrl) -> None:
    """And its identity, where that comes last, as out of a dump."""
    url = new_url()
    await make_store(url, 3)
    told = "SELECT obj_description('\"events\"'::regclass, 'pg_class')"
    [(identity,)] = rows(url, told)
    rows(url, 'COMMENT ON TABLE "events" IS NULL')
    async with open_store(url) as store, open_store(url) as other:
        for _ in range(2):
            await store.load_aggregate("a")
            without = await store.bookmark()
        rows(url, f'COMMENT ON TABLE "events" IS $id${identity}$id$')
        first = await store.bookmark()
        assert first != without
        assert [await store.bookmark(), await store.bookmark()] == [first, first]
        await import_lines(other, make_lines(4))
        assert await store.bookmark() == await other.bookmark() != first
        assert len((await store.load_events(cursor=None, limit=9)).events) == 4
        rows(url, 'DROP TABLE "events"; CREATE TABLE "events"("threadId" BIGINT)')
        with pytest.raises(StoreNotFoundError, match="no column"):
            await store.load_events(cursor=None, limit=9)


# what is kept


@pytest.mark.parametrize("freeze", [False, True])
async def test_owner_and_grants_are_kept(new_url: NewUrl, freeze: bool) -> None:
    url = new_url()
    await make_store(url, 20)
    with roles(url, "Own er", "read", "gr%ant's", "column") as (owner, reader, granter, column):
        rows(
            url,
            f"""GRANT ALL ON SCHEMA {schema_of(url)} TO "{owner}";
            ALTER TABLE "events" OWNER TO "{owner}";
            GRANT SELECT ON "events" TO "{reader}", PUBLIC;
            GRANT SELECT, INSERT ON "events" TO "{granter}" WITH GRANT OPTION;
            GRANT UPDATE ("payload"), SELECT ("type") ON "events" TO "{column}";
            GRANT SELECT ("payload") ON "events" TO "{granter}" WITH GRANT OPTION;
            GRANT SELECT ("timestamp") ON "events" TO PUBLIC""",
        )
        before = rights(url)
        async with open_store(url) as store:
            await import_lines(store, make_lines(30), freeze=freeze)
            assert await exported(store) == make_lines(30)
        assert rights(url) == before


async def test_a_swap_gives_nobody_a_right_that_he_had_not(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 20)
    with roles(url, "stranger") as (stranger,):
        before = rights(url)
        in_schema = f"IN SCHEMA {schema_of(url)}"
        rows(
            url,
            f"""ALTER DEFAULT PRIVILEGES {in_schema} GRANT ALL ON TABLES TO "{stranger}" WITH GRANT OPTION;
            ALTER DEFAULT PRIVILEGES {in_schema} GRANT SELECT ON TABLES TO PUBLIC""",
        )
        async with open_store(url) as store:
            await import_lines(store, make_lines(30))
        assert rights(url) == before


async def test_a_right_that_was_taken_from_the_owner_is_not_given_back(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 20)
    rows(url, 'REVOKE UPDATE, DELETE, TRUNCATE ON "events" FROM CURRENT_USER')
    before = rights(url)
    async with open_store(url) as store:
        await import_lines(store, make_lines(30))
    assert rights(url) == before


async def test_a_store_of_resolve_is_replaced(new_url: NewUrl) -> None:
    url = new_url()
    make_resolve_store(url, 20)
    async with open_store(url) as store:
        await import_lines(store, make_lines(30))
        assert await exported(store) == make_lines(30)
    assert tables(url) == STORE_TABLES


# what is refused

HINDRANCES = {
    "trigger": (
        """CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER audit AFTER INSERT ON "events" EXECUTE FUNCTION f()""",
        "trigger audit",
    ),
    "row security": ('ALTER TABLE "events" ENABLE ROW LEVEL SECURITY', "row security"),
    "policy": ('CREATE POLICY mine ON "events" USING (true)', "policy mine"),
    "publication": ('CREATE PUBLICATION "{schema}" FOR TABLE "events"', "publication {schema}"),
    "publication of the schema": (
        'CREATE PUBLICATION "{schema}" FOR TABLES IN SCHEMA "{schema}"',
        "publication {schema}",
    ),
    "publication of some rows": (
        'CREATE PUBLICATION "{schema}" FOR TABLE "events" ("threadId", "threadCounter") WHERE ("threadId" < 9)',
        "publication {schema}",
    ),
    "view": ('CREATE VIEW seen AS SELECT * FROM "events"', "seen"),
    "materialized view": ('CREATE MATERIALIZED VIEW seen AS SELECT "type" FROM "events"', "seen"),
    "rule": ('CREATE RULE ruled AS ON DELETE TO "events" DO INSTEAD NOTHING', "rule"),
    "foreign key to it": (
        """CREATE TABLE noted("threadId" BIGINT, "threadCounter" BIGINT, CONSTRAINT refers
          FOREIGN KEY ("threadId", "threadCounter") REFERENCES "events")""",
        "foreign key refers",
    ),
    "foreign key from it": (
        """ALTER TABLE "events" ADD CONSTRAINT refers
          FOREIGN KEY ("threadId") REFERENCES "events-threads"("threadId")""",
        "foreign key refers",
    ),
    "child": ('CREATE TABLE child() INHERITS ("events")', "inheritance"),
    "parent": (
        'CREATE TABLE parent("threadId" BIGINT NOT NULL); ALTER TABLE "events" INHERIT parent',
        "inheritance",
    ),
    "column": ('ALTER TABLE "events" ADD "tenant" TEXT', "column tenant"),
    "function": (
        """CREATE FUNCTION counted() RETURNS BIGINT BEGIN ATOMIC SELECT count(*) FROM "events"; END""",
        "counted",
    ),
    "check": ("""ALTER TABLE "events" ADD CONSTRAINT short CHECK (length("type") < 99)""", "short"),
    "default": ("""ALTER TABLE "events" ALTER "payload" SET DEFAULT '{{}}'""", "payload"),
    "statistics": ('CREATE STATISTICS figures ON "type", "aggregateId" FROM "events"', "figures"),
}


@pytest.mark.parametrize("name", HINDRANCES)
async def test_what_a_swap_would_lose_is_refused_by_name_and_nothing_has_changed(
    new_url: NewUrl, name: str
) -> None:
    url = new_url()
    await make_store(url, 20)
    statements, words = [text.format(schema=schema_of(url)) for text in HINDRANCES[name]]
    with connect(url) as other:
        other.execute("SET client_min_messages = error")
        other.execute(statements)
    try:
        before = relations(url)
        async with open_store(url) as store:
            with pytest.raises(UnsupportedStoreError, match=words):
                await store.import_events(freeze=True).begin()  # before the first event has come
            assert await exported(store) == make_lines(20)
            assert not (await store.describe()).is_frozen
            assert relations(url) == before
            assert (await store.save_event(SAVED)).event.aggregate_version == 1
    finally:
        if "publication" in name:
            rows(url, f'DROP PUBLICATION "{schema_of(url)}"')


@pytest.mark.parametrize("name", ["trigger", "view", "publication", "column"])
async def test_what_comes_during_an_import_is_refused_by_name_at_its_end(new_url: NewUrl, name: str) -> None:
    url = new_url()
    await make_store(url, 20)
    statements, words = [text.format(schema=schema_of(url)) for text in HINDRANCES[name]]
    try:
        async with open_store(url) as store:
            stream = store.import_events(freeze=True)
            await stream.write(make_lines(30))
            with connect(url) as other:
                other.execute("SET client_min_messages = error")
                other.execute(statements)
            with pytest.raises(UnsupportedStoreError, match=words):
                await stream.close()
            assert await exported(store) == make_lines(20)
            assert not (await store.describe()).is_frozen
            assert tables(url) == STORE_TABLES
            assert (await store.save_event(SAVED)).event.aggregate_version == 1
    finally:
        if name == "publication":
            rows(url, f'DROP PUBLICATION "{schema_of(url)}"')


@pytest.mark.slow
async def test_a_publication_of_all_tables_is_refused_by_name(new_url: NewUrl) -> None:
    url = new_url()
    database = f"db_{schema_of(url)}"
    rows(url, f"CREATE DATABASE {database}")
    here = url.replace("/postgres?", f"/{database}?")
    try:
        await make_store(here, 20)
        rows(here, "CREATE PUBLICATION everything FOR ALL TABLES")
        async with open_store(here) as store:
            with pytest.raises(UnsupportedStoreError, match="publication everything"):
                await import_lines(store, make_lines(30))
            assert await exported(store) == make_lines(20)
        assert tables(here) == STORE_TABLES
    finally:
        rows(url, f"DROP DATABASE {database} WITH (FORCE)")


# who waits


@contextmanager
def long_reader(url: str) -> Iterator[Any]:
    """Somebody who has read the events and keeps his transaction open."""
    with connect(url, autocommit=False) as other:
        other.execute('SELECT count(*) FROM "events"')
        yield other
        other.rollback()


async def save_often(store: EventStore, name: str, done: Counter[str]) -> None:
    while True:
        await store.save_event({"type": "T", "aggregateId": name, "aggregateVersion": done[name] + 1})
        done[name] += 1
        await asyncio.sleep(0.01)


async def waits_to_swap(url: str) -> None:
    """Comes back when somebody waits for the events as a whole."""
    async with asyncio.timeout(20):
        while not rows(
            url,
            """SELECT 1 FROM pg_locks WHERE relation = '"events"'::regclass AND mode = 'AccessExclusiveLock'
            AND NOT granted""",
        ):
            await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_an_import_that_waits_for_a_reader_keeps_no_save_waiting_for_long(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 20)
    done: Counter[str] = Counter()
    async with (
        open_store(with_options(url, "busy_timeout=60")) as store,
        open_store(url) as application,
        asyncio.timeout(50),  # while the import waits, one that waited for it would wait for longer
    ):
        with long_reader(url):
            importing = asyncio.create_task(import_lines(store, make_lines(30)))
            await waits_to_swap(url)
            users = [save_often(application, f"s{i}", done) for i in range(4)] + [
                read_often(application, done)
            ]
            tasks = [asyncio.create_task(user) for user in users]
            while len(done) < len(tasks) or min(done.values()) < 10:
                await asyncio.sleep(0.05)
            assert not importing.done()
            for task in tasks:
                task.cancel()
            assert {type(ended) for ended in await asyncio.gather(*tasks, return_exceptions=True)} == {
                asyncio.CancelledError
            }
        with pytest.raises(Exception, match="events were saved during"):
            await importing
    assert tables(url) == STORE_TABLES


async def read_often(store: EventStore, done: Counter[str]) -> None:
    while True:
        await store.load_events(limit=5, cursor=None)
        done["reads"] += 1
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("freeze", [False, True])
async def test_the_import_succeeds_when_the_reader_ends(new_url: NewUrl, freeze: bool) -> None:
    url = new_url()
    await make_store(url, 20)
    async with open_store(url) as store:
        with long_reader(url):
            importing = asyncio.create_task(import_lines(store, make_lines(30), freeze=freeze))
            await waits_to_swap(url)
        await importing
        assert await exported(store) == make_lines(30)
    assert tables(url) == STORE_TABLES


@pytest.mark.parametrize("freeze", [False, True])
async def test_an_import_that_waits_too_long_for_a_reader_says_busy_and_leaves_the_old_events(
    new_url: NewUrl, freeze: bool
) -> None:
    url = new_url()
    await make_store(url, 20)
    async with open_store(with_options(url, "busy_timeout=1")) as store:
        with long_reader(url):
            start = time.perf_counter()
            with pytest.raises(StoreBusyError):
                await import_lines(store, make_lines(30), freeze=freeze)
            assert 0.9 < time.perf_counter() - start < 20
            assert await exported(store) == make_lines(20)
            assert not (await store.describe()).is_frozen
            await store.save_event(SAVED)
        # What it had staged is kept for a resume, and in nobody's way.
        lines = make_lines(30)
        async with store.import_events(resume=True) as stream:
            assert stream.byte_offset == len(lines)
            stream.stop()
        await import_lines(store, lines)
        assert tables(url) == STORE_TABLES


@pytest.mark.slow
async def test_whoever_reads_while_imports_follow_one_another_sees_the_old_events_or_the_new(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await make_store(url, 300)
    over = asyncio.Event()
    seen = set()

    async def watch(store: EventStore) -> None:
        while not over.is_set():
            seen.add(len((await store.load_events(limit=1000, cursor=None)).events))

    async with open_store(url) as store, open_store(url) as application:
        watching = [asyncio.create_task(watch(application)) for _ in range(6)]
        for count in (200, 300) * 2:
            await import_lines(store, make_lines(count))
        over.set()
        await asyncio.gather(*watching)
    assert seen == {200, 300}


SWAP_BY_HAND = """
CREATE TABLE "next"(LIKE "events" INCLUDING ALL);
INSERT INTO "next" SELECT * FROM "events" WHERE "threadCounter" = 0;
DROP TABLE "events";
ALTER TABLE "next" RENAME TO "events"
"""


async def test_a_reader_who_waited_for_a_swap_reads_the_new_events(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 300)
    async with open_store(url) as store:
        await store.load_events(limit=1, cursor=None)
        with connect(url, autocommit=False) as other:
            other.execute('LOCK TABLE "events" IN ACCESS EXCLUSIVE MODE')
            other.execute(SWAP_BY_HAND)
            reading = asyncio.create_task(store.load_events(limit=1000, cursor=None))
            async with asyncio.timeout(20):
                while not rows(url, "SELECT 1 FROM pg_locks WHERE mode = 'AccessShareLock' AND NOT granted"):
                    await asyncio.sleep(0.005)
            other.commit()
        assert len((await reading).events) == 256

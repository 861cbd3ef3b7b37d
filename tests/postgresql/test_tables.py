"""The tables are those that reSolve reads and writes, after init and after every kind of import."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from eventferry import (
    MANUAL,
    EventStore,
    ImportReport,
    StoreExistsError,
    UnsupportedStoreError,
    UsageError,
    open_store,
)
from tests.postgresql.schemas import (
    SAVED,
    STORE_TABLES,
    at,
    heads,
    heads_by_events,
    relations,
    rows,
    schema_of,
    tables,
)
from tests.servers import shared_url
from tests.support import FAR_FUTURE, NewUrl, exported, import_lines, make_event, make_lines

COLUMNS = {
    "events": [
        ("threadId", "bigint", True),
        ("threadCounter", "bigint", True),
        ("timestamp", "bigint", True),
        ("aggregateId", "character varying(700)", True),
        ("aggregateVersion", "bigint", True),
        ("type", "character varying(700)", True),
        ("payload", "jsonb", False),
        ("eventSize", "bigint", True),
    ],
    "events-threads": [("threadId", "bigint", True), ("threadCounter", "bigint", True)],
    "snapshots": [("snapshotKey", "text", True), ("snapshotContent", "text", False)],
    "secrets": [("idx", "bigint", True), ("id", "character varying(700)", True), ("secret", "text", False)],
}
INDEXES = {
    "events-pkey": ("threadId,threadCounter", True, True),
    "events-aggregateIdAndVersion": ("aggregateId,aggregateVersion", True, False),
    "events-order": ("timestamp,threadCounter,threadId", False, False),
}


def columns(url: str, table: str) -> list[tuple[Any, ...]]:
    return rows(
        url,
        """SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
        WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0 AND NOT attisdropped ORDER BY attnum""",
        table,
    )


def indexes(url: str, table: str) -> dict[str, tuple[str, bool, bool]]:
    """Of each index the columns, and whether it is unique and the primary key."""
    return {
        name: (found, unique, primary)
        for name, found, unique, primary in rows(
            url,
            """SELECT c.relname, string_agg(a.attname, ',' ORDER BY k.place), i.indisunique, i.indisprimary
            FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
            CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
            JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
            WHERE i.indrelid = to_regclass(quote_ident(%s)) AND i.indisvalid GROUP BY 1, 3, 4""",
            table,
        )
    }


def check_tables(url: str) -> None:
    assert tables(url) == STORE_TABLES
    for table, expected in COLUMNS.items():
        assert columns(url, table) == expected
    assert indexes(url, "events") == INDEXES
    assert rows(url, """SELECT "threadId" FROM "events-threads" ORDER BY 1""") == [(i,) for i in range(256)]
    assert heads(url) == heads_by_events(url)


# what stands there


async def test_init_makes_the_tables_of_resolve(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
    check_tables(url)
    primary = {table: [key for key, _, first in indexes(url, table).values() if first] for table in COLUMNS}
    assert primary == {
        "events": ["threadId,threadCounter"],
        "events-threads": ["threadId"],
        "snapshots": ["snapshotKey"],
        "secrets": ["id"],
    }
    assert [key for key, _, first in indexes(url, "subscribers").values() if first] == [
        "applicationName,eventSubscriber"
    ]


async def in_steps(store: EventStore) -> None:
    import_id = await store.begin_incremental_import()
    await store.push_incremental_import([at(FAR_FUTURE, i) for i in range(9)], import_id, part="b")
    await store.push_incremental_import([at(FAR_FUTURE, i) for i in range(5, 12)], import_id, part="a")
    assert await store.commit_incremental_import(import_id) == ImportReport(16, 0, 0)


async def sparse(store: EventStore, **options: Any) -> None:
    await import_lines(store, [make_event(0, threadCounter=41), make_event(1, threadId=255)], **options)


WRITES: dict[str, Callable[[EventStore], Awaitable[Any]]] = {
    "a save": lambda store: store.save_event(SAVED),
    "a secret": lambda store: store.set_secret("id", "secret"),
    "an import": lambda store: import_lines(store, make_lines(700)),
    "an import that froze": lambda store: import_lines(store, make_lines(700), freeze=True),
    "an import with gaps": sparse,
    "an import of nothing": lambda store: import_lines(store, b"", allow_empty=True),
    "an import that appends": lambda store: import_lines(store, make_lines(700), maintenance_mode=MANUAL),
    "an appending import with gaps": lambda store: sparse(store, maintenance_mode=MANUAL),
    "an incremental import": lambda store: store.incremental_import([at(FAR_FUTURE, i) for i in range(99)]),
    "an incremental import in steps": in_steps,
    "a freeze and its end": lambda store: frozen_for_a_while(store),
    "a dry run": lambda store: store.incremental_import([at(FAR_FUTURE, 1)], dry_run=True),
    "an upgrade": lambda store: store.upgrade(),
}


async def frozen_for_a_while(store: EventStore) -> None:
    await store.freeze()
    await store.unfreeze()


@pytest.mark.parametrize("name", WRITES)
async def test_after_every_write_tables_indexes_and_heads_are_as_they_must_be(
    new_url: NewUrl, name: str
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await WRITES[name](store)
        check_tables(url)
        await store.save_event({"type": "T", "aggregateId": "behind", "aggregateVersion": 7})
        await WRITES["an incremental import"](store)
        check_tables(url)


async def test_event_size_is_what_resolve_computes(new_url: NewUrl) -> None:
    url = new_url()
    payload = {"name": "Zoë", "bytes": "€" * 100}
    event = {"type": "TYPE_é", "aggregateId": "ä-1", "aggregateVersion": 1, "payload": payload}
    async with open_store(url) as store:
        await store.init()
        await store.save_event(event)
        await store.incremental_import(
            [{"type": "TYPE_é", "aggregateId": "ä-2", "timestamp": FAR_FUTURE, "payload": payload}]
        )
        line = make_event(5, type="TYPE_é", aggregateId="ä-3", aggregateVersion=1, payload=payload)
        await import_lines(store, [line], maintenance_mode=MANUAL)
        saved = rows(url, """SELECT "aggregateId", "eventSize" FROM "events" ORDER BY 1""")
        await import_lines(store, [line])
        staged = rows(url, """SELECT "aggregateId", "eventSize" FROM "events" ORDER BY 1""")
    # Buffer.byteLength(`'ä-1',1,'TYPE_é','{"name":"Zoë","bytes":"€…"}'`) + 66
    expected = len("""'ä-1',1,'TYPE_é','{"name":"Zoë","bytes":""}'""".encode()) + 300 + 66
    assert saved == [("ä-1", expected), ("ä-2", expected), ("ä-3", expected)]
    assert staged == [("ä-3", expected)]


# names


@pytest.mark.parametrize(
    "suffix",
    [
        'quo"te',
        "it's",
        "100%s %(x)s %%",
        "with spaces",
        "Čeština 日本",
        "back\\slash",
        "semi;colon--",
        "$1 {0} :x",
        "e" * 31,
        "ü" * 13 + "x",
    ],
)
async def test_odd_names_work_throughout(new_url: NewUrl, suffix: str) -> None:
    base = new_url().partition("?")[0]
    schema = f"test {suffix}"
    names: dict[str, Any] = {
        "database_name": schema,
        "events_table_name": f"ev{suffix}",
        "snapshots_table_name": f"sn{suffix}",
        "secrets_table_name": f"se{suffix}",
        "subscribers_table_name": f"su{suffix}",
    }
    with psycopg.connect(base, autocommit=True) as other:
        try:
            async with open_store(base, **names) as store:
                await store.init()
                assert await store.upgrade() == []
                await import_lines(store, make_lines(300), freeze=True)
                await import_lines(store, make_lines(300), maintenance_mode=MANUAL)
                assert await exported(store) == make_lines(300)
                await store.save_event(SAVED)
                await in_steps(store)
                await store.incremental_import([at(FAR_FUTURE + 1, 1)])
                await frozen_for_a_while(store)
                await store.set_secret("id", "secret")
                await store.save_snapshot("key", "content")
                await store.ensure_event_subscriber("app", "model", {}, {})
                description = await store.describe(estimate_counts=True)
                assert description.resource_names["databaseName"] == schema
                assert await store.exists()
                await store.drop()
                assert not await store.exists()
            left = other.execute(
                "SELECT relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace "
                "WHERE nspname = %s",
                [schema],
            )
            assert left.fetchall() == []
        finally:
            other.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


@pytest.mark.parametrize(
    ("option", "length"),
    [
        ("events_table_name", 45),
        ("snapshots_table_name", 64),
        ("secrets_table_name", 64),
        ("subscribers_table_name", 64),
        ("database_name", 64),
    ],
)
@pytest.mark.parametrize("letter", ["e", "ü"])
async def test_a_name_that_postgresql_would_cut_is_refused_by_name(
    option: str, length: int, letter: str
) -> None:
    base = shared_url("postgresql", "postgres")
    name = letter * (length // len(letter.encode()) + 1)
    with pytest.raises(UsageError, match=letter * 20):
        open_store(base, **dict[str, Any]({option: name}))


@pytest.mark.parametrize(
    ("option", "length"),
    [("events_table_name", 44), ("secrets_table_name", 63)],
)
@pytest.mark.parametrize("letter", ["e", "ü"])
async def test_two_stores_live_in_one_schema_even_if_long_names_differ_only_at_their_ends(
    new_url: NewUrl, option: str, length: int, letter: str
) -> None:
    url = new_url()
    width = len(letter.encode())
    stem = letter * ((length - 1) // width) + "x" * ((length - 1) % width)
    options: list[dict[str, Any]] = [
        {f"{name}_table_name": f"{name}{i}" for name in ("events", "snapshots", "secrets", "subscribers")}
        | {option: f"{stem}{i}"}
        for i in range(2)
    ]
    async with open_store(url, **options[0]) as one, open_store(url, **options[1]) as two:
        await one.init()
        await two.init()
        await import_lines(one, make_lines(300))
        await import_lines(two, make_lines(500))
        for store in (one, two):
            await store.incremental_import([at(FAR_FUTURE, 1)])
            await store.set_secret("id", "secret")
        assert await exported(one) != await exported(two)
        assert (await one.describe()).event_count == 302
        await one.freeze()
        await two.save_event(SAVED)
        before = await exported(two)
        await one.drop()
        assert await exported(two) == before
        await import_lines(two, make_lines(9))
        await two.drop()
    assert relations(url) == {}


async def test_a_store_is_not_made_where_one_of_its_tables_is(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url, events_table_name="others") as other:
        await store.init()
        before = relations(url)
        with pytest.raises(StoreExistsError, match="events"):
            await store.init()
        with pytest.raises(StoreExistsError, match="secrets"):
            await other.init()
        assert relations(url) == before


# encodings


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_that_is_not_utf8_is_refused_by_name(new_url: NewUrl, encoding: str) -> None:
    base = new_url().partition("?")[0]
    name = f"{schema_of(new_url())}_{encoding.lower()}"
    with psycopg.connect(base, autocommit=True) as other:
        other.execute(f'CREATE DATABASE "{name}" ENCODING {encoding} LOCALE "C" TEMPLATE template0')
        try:
            async with open_store(f"{base.rpartition('/')[0]}/{name}") as store:
                with pytest.raises(UnsupportedStoreError, match=f"is {encoding}, not UTF8"):
                    await store.init()
                assert not await store.exists()
        finally:
            other.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.parametrize("how", ["environment", "role", "url"])
async def test_a_client_encoding_that_is_set_elsewhere_damages_nothing(
    new_url: NewUrl, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    url = new_url()
    lines = make_lines(20).replace(b"aggregate-3", "Zoë €".encode()).replace(b"TYPE_1", "naïve".encode())
    event = {"type": "é", "aggregateId": "Ž", "aggregateVersion": 1, "payload": "日本"}
    async with open_store(url) as store:
        await store.init()
    address = url
    role = schema_of(url)
    if how == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    elif how == "url":
        address = f"{url}&client_encoding=LATIN1"
    else:
        rows(url, f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'x'")
        rows(url, f"ALTER ROLE {role} SET client_encoding = 'LATIN1'")
        address = url.replace("postgres:let-me-in@", f"{role}:x@")
        assert address != url
    try:
        async with open_store(address) as store:
            await import_lines(store, lines)
            assert await exported(store) == lines
            assert (await store.save_event(event)).event.aggregate_id == "Ž"
            await store.set_secret("Ď", "日本")
            assert await store.get_secret("Ď") == "日本"
        monkeypatch.delenv("PGCLIENTENCODING", raising=False)
        async with open_store(url) as store:
            assert (await exported(store)).startswith(lines)
            latest = await store.get_latest_event(aggregate_ids=["Ž"])
            assert latest is not None
            assert latest.payload == "日本"
            assert await store.get_secret("Ď") == "日本"
    finally:
        if how == "role":
            rows(url, f"DROP OWNED BY {role} CASCADE")
            rows(url, f"DROP ROLE {role}")


# drop, secrets


async def test_drop_leaves_nothing(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(100))
        await store.set_secret("id", "secret")
        await store.begin_incremental_import()
        await store.freeze()
        stream = store.import_events()
        await store.unfreeze()
        async with stream:
            await stream.write(make_lines(10))
            stream.stop()
        await store.freeze()
        assert {"events-freeze", "events-incremental-import", "events-import"} <= tables(url)
        await store.drop()
    assert relations(url) == {}


async def test_a_secret_that_resolve_adds_takes_the_next_number(new_url: NewUrl) -> None:
    url = new_url()
    add = "INSERT INTO secrets(id, secret) VALUES (%s, 's') RETURNING idx"
    async with open_store(url) as store:
        await store.init()
        await store.set_secret("ours", "secret")
        assert rows(url, "SELECT idx FROM secrets") == [(0,)]
        assert rows(url, add, "theirs") == [(1,)]
        assert rows(url, add, "theirs too") == [(2,)]
        await store.set_secret("ours again", "secret")
        async with store.import_secrets() as sink:
            await sink.write(b'{"secret":"s","id":"imported","idx":40}\n')
        assert rows(url, add, "behind the imported") == [(41,)]
        await store.set_secret("last", "secret")
        page = await store.load_secrets(limit=100)
        assert [(secret.idx, secret.id) for secret in page.secrets] == [
            (0, "ours"),
            (1, "theirs"),
            (2, "theirs too"),
            (3, "ours again"),
            (40, "imported"),
            (41, "behind the imported"),
            (42, "last"),
        ]


async def test_the_first_secret_that_resolve_adds_is_number_zero(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        assert rows(url, "INSERT INTO secrets(id, secret) VALUES ('x', 's') RETURNING idx") == [(0,)]
        await store.set_secret("ours", "secret")
        assert rows(url, "SELECT idx FROM secrets ORDER BY 1") == [(0,), (1,)]

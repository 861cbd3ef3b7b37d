"""The tables are those that reSolve reads and writes, after init and after every kind of import."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventferry import (
    MANUAL,
    EventStore,
    open_store,
)
from tests.support import FAR_FUTURE, NewUrl, import_lines, make_event, make_lines
from tests.support.postgresql import (
    SAVED,
    STORE_TABLES,
    at,
    heads,
    heads_by_events,
    import_in_steps,
    relations,
    rows,
    tables,
)

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
    "an incremental import in steps": import_in_steps,
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
        await store.save_event({"type": "T", "aggregateId": "behind", "aggregateVersion": 1})
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
        assert {"events-freeze", "events-incremental-import"} <= tables(url)
        assert len(tables(url)) == len(STORE_TABLES) + 4
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

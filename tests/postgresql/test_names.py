"""Names with whatever characters, names that PostgreSQL would cut, and encodings that are not ours."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from eventferry import MANUAL, StoreExistsError, UnsupportedStoreError, UsageError, open_store
from tests.support import FAR_FUTURE, NewUrl, exported, import_lines, make_lines
from tests.support.postgresql import SAVED, at, import_in_steps, relations, rows, schema_of
from tests.support.servers import shared_url


@pytest.mark.slow
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
                for _ in range(2):
                    await store.append_events("appended", [{"type": "T"}], idempotency_key="k")
                assert len((await store.load_aggregate("appended")).events) == 1
                await import_in_steps(store)
                await store.incremental_import([at(FAR_FUTURE + 1, 1)])
                await store.freeze()
                await store.unfreeze()
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


@pytest.mark.slow
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

"""Settings of roles, databases and servers that change what a statement means or how long it may take."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from eventferry import AUTO, MANUAL, ImportReport, ReadOnlyStoreError, check, open_store, pipeline
from tests.support import (
    FAR_FUTURE,
    all_pages,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
)
from tests.support.postgresql import (
    STORE_TABLES,
    Own,
    at,
    check_no_gaps,
    connect,
    heads,
    import_in_steps,
    make_resolve_store,
    relations,
    rows,
    schema_of,
    tables,
    with_options,
)

WORST = {
    "statement_timeout": "20ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "100ms",
    "transaction_timeout": "20ms",
    "lock_timeout": "1ms",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "escape_string_warning": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "search_path": '"odd", pg_catalog',
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "row_security": "on",
    "synchronous_commit": "off",
    "enable_seqscan": "off",
    "enable_indexscan": "off",
    "enable_indexonlyscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_nestloop": "off",
    "enable_sort": "off",
    "jit": "on",
    "jit_above_cost": "0",
    "default_toast_compression": "pglz",
    "quote_all_identifiers": "on",
    "check_function_bodies": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "plan_cache_mode": "force_generic_plan",
    "lc_messages": "C",
}

ODD = """CREATE SCHEMA IF NOT EXISTS "odd";
CREATE OR REPLACE FUNCTION "odd".octet_length(text) RETURNS integer LANGUAGE sql AS 'SELECT 0';
CREATE OR REPLACE FUNCTION "odd".to_json(anyelement) RETURNS json LANGUAGE sql AS $$SELECT '"odd"'::json$$;
CREATE OR REPLACE FUNCTION "odd".to_json(varchar) RETURNS json LANGUAGE sql AS $$SELECT '"odd"'::json$$;
CREATE OR REPLACE FUNCTION "odd".never(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT FALSE';
DO 'BEGIN CREATE OPERATOR "odd".= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = "odd".never);
EXCEPTION WHEN duplicate_function THEN END'"""


def set_for(url: str, settings: dict[str, str]) -> str:
    """The URL of a role that may do everything and has these settings."""
    name = f"role_{schema_of(url)}"
    with connect(url) as other:
        known = {known for (known,) in other.execute("SELECT lower(name) FROM pg_settings")}
        other.execute(ODD)
        other.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'secret'")
        for setting, value in settings.items():
            if setting.lower() in known:
                literal = value if setting == "search_path" else f"'{value}'"
                other.execute(f"ALTER ROLE {name} SET {setting} = {literal}")
    return url.replace("postgres:let-me-in@", f"{name}:secret@")


@pytest.mark.slow
async def test_everything_works_whatever_is_set_for_the_role(server: Own) -> None:
    url = server.new_url()
    worst = set_for(url, WORST)
    backslashes = [make_event(i, aggregateId=f"\\a{i}'\\", payload={"\\": "\\'\n"}) for i in range(300)]
    lines = b"".join(map(line, backslashes))
    async with open_store(worst) as store, open_store(worst) as other:
        await store.init()
        await import_lines(store, lines)
        assert await exported(store) == lines
        assert [event.aggregate_id for event in await all_pages(store, 100)] == [
            event["aggregateId"] for event in backslashes
        ]

        async def save(name: str) -> None:
            for version in range(1, 6):
                await store.save_event({"type": "\\T", "aggregateId": name, "aggregateVersion": version})

        await asyncio.gather(*[save(f"\\s{i}'") for i in range(20)])
        batch = [at(FAR_FUTURE, {"\\": i}, "\\b") for i in range(300)]
        assert await store.incremental_import(batch) == ImportReport(300, 0, 0)
        assert await other.incremental_import(batch) == ImportReport(0, 300, 0)
        await import_in_steps(store)
        await store.set_secret("\\id", "\\secret'")
        assert await store.get_secret("\\id") == "\\secret'"
        await store.save_snapshot("\\key", "\\content")
        assert await store.load_snapshot("\\key") == "\\content"
        await import_lines(store, make_lines(900), freeze=True)
        await import_lines(store, make_lines(1000), maintenance_mode=MANUAL)
        await pipeline(store.export_events(maintenance_mode=AUTO), other.import_events())
        assert await exported(other) == make_lines(1000)
        report = await check(store)
        assert report.sound, report
        assert (await store.describe()).event_count == 1000
        check_no_gaps(url)
        assert tables(url) == STORE_TABLES
        await store.drop()
    assert relations(url) == {}


@pytest.mark.slow
async def test_an_import_takes_longer_than_a_statement_or_a_transaction_may(server: Own) -> None:
    url = set_for(server.new_url(), {"statement_timeout": "30ms", "transaction_timeout": "30ms"})
    lines = make_lines(40_000)
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, lines)
        assert len(await exported(store)) == len(lines)
        batch = [at(FAR_FUTURE + i, {"i": i}) for i in range(20_000)]
        assert (await store.incremental_import(batch)).imported == 20_000


async def test_an_index_is_built_whatever_time_a_statement_may_take(server: Own) -> None:
    url = server.new_url()
    make_resolve_store(url, 20_000)
    async with open_store(set_for(url, {"statement_timeout": "5ms", "lock_timeout": "1ms"})) as store:
        assert await store.upgrade() == ["events-order"]
        assert await store.upgrade() == []


async def test_a_name_with_backslashes_is_a_name_whatever_strings_mean(server: Own) -> None:
    url = with_options(
        set_for(server.new_url(), {"standard_conforming_strings": "off"}), "events_table_name=e%5C%5C'x%5C"
    )
    async with open_store(url) as store:
        await store.init()
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        await store.freeze()
        await store.unfreeze()
        assert (await store.incremental_import([at(FAR_FUTURE, 1)])).imported == 1
        assert (await store.describe()).event_count == 2


async def test_a_save_that_returned_is_durable_although_the_role_says_otherwise(server: Own) -> None:
    url = set_for(server.new_url(), {"synchronous_commit": "off"})
    # Who flushes the log now and then would hide a save that does not.
    rows(url, "ALTER SYSTEM SET wal_writer_delay = '10s'")
    rows(url, "SELECT pg_reload_conf()")
    async with open_store(url) as store:
        await store.init()
        for version in range(1, 11):
            [(before,)] = rows(url, "SELECT pg_current_wal_insert_lsn()::text")
            if version % 3:
                event = {"type": "T", "aggregateId": "a", "aggregateVersion": version}
                await store.save_event(event, allow_gaps=version % 3 == 1)
            else:
                await store.append_events("a", [{"type": "T"}], expected_version=version - 1)
            assert rows(url, "SELECT pg_current_wal_flush_lsn() > %s::pg_lsn", before) == [(True,)]


async def test_a_role_that_is_read_only_is_refused_by_name_and_reads(server: Own) -> None:
    url = server.new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(10))
    async with open_store(set_for(url, {"default_transaction_read_only": "on"})) as store:
        assert await exported(store) == make_lines(10)
        for call in (
            lambda: store.save_event({"type": "T", "aggregateId": "x", "aggregateVersion": 1}),
            store.freeze,
            lambda: import_lines(store, make_lines(5)),
        ):
            with pytest.raises(ReadOnlyStoreError, match="read-only"):
                await call()


async def test_whoever_may_not_see_all_events_is_told_so(server: Own) -> None:
    url = server.new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(20))
    name = f"reader_{secrets.token_hex(6)}"
    with connect(url) as other:
        other.execute(
            f"""CREATE ROLE {name} LOGIN PASSWORD 'secret';
            GRANT USAGE ON SCHEMA "{schema_of(url)}" TO {name};
            GRANT SELECT ON ALL TABLES IN SCHEMA "{schema_of(url)}" TO {name};
            ALTER TABLE "events" ENABLE ROW LEVEL SECURITY;
            CREATE POLICY "some" ON "events" TO {name} USING ("threadId" < 7)"""
        )
    async with open_store(url.replace("postgres:let-me-in@", f"{name}:secret@")) as store:
        with pytest.raises(ReadOnlyStoreError, match="row-level security"):
            await exported(store)


@pytest.mark.slow
async def test_a_server_that_replicates_all_tables_takes_incremental_imports(server: Own) -> None:
    url = server.new_url()
    name = f"all_{secrets.token_hex(6)}"
    with connect(url) as other:
        other.execute("SET client_min_messages = error")
        other.execute(f"CREATE PUBLICATION {name} FOR ALL TABLES")
        try:
            async with open_store(url) as store:
                await store.init()
                await import_lines(store, make_lines(5), maintenance_mode=MANUAL)
                await import_in_steps(store)
                batch = [at(FAR_FUTURE, i, "b") for i in range(30)]
                assert await store.incremental_import(batch) == ImportReport(30, 0, 0)
                assert await store.incremental_import(batch) == ImportReport(0, 30, 0)
                await store.set_secret("id", "secret")
                await store.delete_secret("id")
        finally:
            other.execute(f"DROP PUBLICATION {name}")
    assert heads(url)

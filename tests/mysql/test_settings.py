"""Settings of servers and users that change what a statement means or how long it may take."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    ConcurrentError,
    ImportReport,
    InputError,
    ReadOnlyStoreError,
    check,
    open_store,
    pipeline,
)
from tests.support import (
    FAR_FUTURE,
    all_pages,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
)
from tests.support.mysql import Database, made_on
from tests.support.servers import MySql, Server

WORST = {
    "sql_select_limit": "7",
    "sql_safe_updates": "1",
    "max_join_size": "1",
    "completion_type": "'RELEASE'",
    "time_zone": "'+05:45'",
    "foreign_key_checks": "0",
    "unique_checks": "0",
    "sql_auto_is_null": "1",
    "low_priority_updates": "1",
    "group_concat_max_len": "8",
    "div_precision_increment": "0",
    "default_storage_engine": "'MyISAM'",
    "collation_server": "'utf8mb4_german2_ci'",
    "collation_connection": "'utf8mb4_swedish_ci'",
    "character_set_client": "'latin1'",
    "character_set_results": "'latin1'",
    "innodb_lock_wait_timeout": "1",
    "lock_wait_timeout": "1",
    "max_sort_length": "8",
    "max_error_count": "0",
    "sql_notes": "0",
    "lc_messages": "'de_DE'",
    "net_read_timeout": "1",
    "net_write_timeout": "1",
    "autocommit": "0",
    "sql_quote_show_create": "0",
    "sql_mode": "'ANSI,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES'",
    "wait_timeout": "1",
}
"""What every server has."""

WORST_OF_MARIADB = {
    "alter_algorithm": "'INSTANT'",
    "check_constraint_checks": "0",
    "idle_readonly_transaction_timeout": "1",
    "idle_transaction_timeout": "1",
    "idle_write_transaction_timeout": "1",
    "innodb_strict_mode": "0",
    "max_statement_time": "0.05",
    "tx_isolation": "'SERIALIZABLE'",
}

WORST_OF_MYSQL = {
    "cte_max_recursion_depth": "0",
    "default_table_encryption": "0",
    "end_markers_in_json": "1",
    "explicit_defaults_for_timestamp": "0",
    "information_schema_stats_expiry": "31536000",
    "max_execution_time": "50",
    "session_track_schema": "1",
    "session_track_state_change": "1",
    "session_track_transaction_info": "'CHARACTERISTICS'",
    "show_create_table_verbosity": "1",
    "sql_generate_invisible_primary_key": "1",
    "sql_require_primary_key": "1",
    "transaction_isolation": "'SERIALIZABLE'",
}

FOR_ADMINISTRATORS_OF_MYSQL = {
    "low_priority_updates",
    "max_error_count",
    "sql_generate_invisible_primary_key",
    "sql_require_primary_key",
}
"""What init_connect may not set there for a user; a new session has the server's value."""


def worst_of(server: Server) -> dict[str, str]:
    return WORST | (WORST_OF_MYSQL if isinstance(server, MySql) else WORST_OF_MARIADB)


def as_app(database: Database) -> Database:
    """The same for a user who may do everything in it and is no administrator."""
    database.run(
        "DROP USER IF EXISTS app@'127.0.0.1'",
        "CREATE USER app@'127.0.0.1' IDENTIFIED BY 'secret'",
        f"GRANT ALL ON `{database.name}`.* TO app@'127.0.0.1'",
    )
    return Database(database.url_as("app", "secret"))


@pytest.fixture
def worst(own_server: Server) -> Iterator[Database]:
    """A database of a server whose settings are all at their worst, for a user who is no administrator: only for such
    is init_connect run."""
    database = made_on(own_server.url(f"worst_{secrets.token_hex(4)}"))
    worst = worst_of(own_server)
    hidden = FOR_ADMINISTRATORS_OF_MYSQL if isinstance(own_server, MySql) else set()
    before = dict(database.run("SHOW GLOBAL VARIABLES"))
    app = as_app(database)
    set_all = ", ".join(f"SESSION {name} = {value}" for name, value in worst.items() if name not in hidden)
    database.run(
        *(f"SET GLOBAL {name} = {value}" for name, value in worst.items() if name != "lc_messages"),
        'SET GLOBAL init_connect = "SET {}"'.format(set_all.replace('"', '\\"')),
    )
    yield app
    with_defaults = (
        f"SET GLOBAL {name} = {value if value.replace('.', '').isdigit() else repr(value)}"
        for name, value in ((name, before[name]) for name in worst)
    )
    database.run("SET GLOBAL init_connect = ''", *with_defaults)


@pytest.mark.slow
async def test_everything_works_whatever_is_set_on_the_server(worst: Database) -> None:
    backslashes = [make_event(i, aggregateId=f"\\a{i}' ", payload={"\\": "\\'\n"}) for i in range(300)]
    lines = b"".join(map(line, backslashes))
    async with open_store(worst.url) as store, open_store(worst.url) as other:
        await store.init()
        await import_lines(store, lines)
        assert await exported(store) == lines
        assert [event.aggregate_id for event in await all_pages(store, 100)] == [
            event["aggregateId"] for event in backslashes
        ]

        async def save(name: str) -> None:
            for version in range(1, 4):
                await store.save_event({"type": "T", "aggregateId": name, "aggregateVersion": version})

        await asyncio.gather(*[save(f"s{i}") for i in range(10)])
        with pytest.raises(ConcurrentError):
            await save("s1")
        batch = [
            {"type": "\\T", "aggregateId": "\\b", "timestamp": FAR_FUTURE, "payload": {"\\": i}}
            for i in range(300)
        ]
        assert await store.incremental_import(batch) == ImportReport(300, 0, 0)
        assert await other.incremental_import(batch) == ImportReport(0, 300, 0)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import(batch[:9], import_id, part="b")
        await store.push_incremental_import(batch[:9], import_id, part="b")
        assert await store.commit_incremental_import(import_id) == ImportReport(0, 9, 0)
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
        await store.drop()
        assert not await store.exists()


async def test_a_user_who_is_set_to_read_only_is_refused_by_name_and_reads(own_server: Server) -> None:
    database = made_on(own_server.url(f"readonly_{secrets.token_hex(4)}"))
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(10))
    before = database.definitions()
    name = "transaction_read_only" if isinstance(own_server, MySql) else "tx_read_only"
    database.run(f"SET GLOBAL init_connect = 'SET SESSION {name} = 1'")
    try:
        async with open_store(as_app(database).url) as store:
            assert await exported(store) == make_lines(10)
            assert len(await all_pages(store, 3)) == 10
            for call in (
                lambda: store.save_event({"type": "T", "aggregateId": "x", "aggregateVersion": 1}),
                lambda: store.append_events("x", [{"type": "T"}]),
                store.freeze,
                store.drop,
                store.begin_incremental_import,
                lambda: store.set_secret("id", "secret"),
                lambda: store.save_snapshot("key", "content"),
                lambda: store.incremental_import(
                    [{"type": "T", "aggregateId": "x", "timestamp": FAR_FUTURE}]
                ),
                lambda: import_lines(store, make_lines(5)),
            ):
                with pytest.raises(ReadOnlyStoreError, match=r"READ[ -]ONLY"):
                    await call()
    finally:
        database.run("SET GLOBAL init_connect = ''")
    assert database.definitions() == before


RULES = {"innodb_default_row_format": "'redundant'", "innodb_file_per_table": "1"}
RULES_OF_MARIADB = {"innodb_force_primary_key": "1"}
RULES_OF_MYSQL = {"sql_require_primary_key": "1"}


async def test_a_server_that_wants_keys_in_all_tables_gets_them(own_server: Server) -> None:
    database = made_on(own_server.url(f"rules_{secrets.token_hex(4)}"))
    of_the_server = RULES_OF_MYSQL if isinstance(own_server, MySql) else RULES_OF_MARIADB
    database.run(*(f"SET GLOBAL {name} = {value}" for name, value in (RULES | of_the_server).items()))
    try:
        async with open_store(database.url) as store:
            await store.init()
            await import_lines(store, make_lines(900))
            async with store.import_events() as stream:
                await stream.write(make_lines(500))
                stream.stop()
            async with store.import_events(resume=True) as stream:
                await stream.write(make_lines(1000)[stream.byte_offset :])
            assert await exported(store) == make_lines(1000)
            new = [
                {"type": "T", "aggregateId": "b", "timestamp": FAR_FUTURE, "payload": i} for i in range(30)
            ]
            assert await store.incremental_import(new) == ImportReport(30, 0, 0)
            import_id = await store.begin_incremental_import()
            await store.push_incremental_import(new, import_id, part="a")
            await store.commit_incremental_import(import_id)
            await store.freeze()
            await store.unfreeze()
            again = [make_event(i, threadCounter=i // 200) for i in range(300)]
            with pytest.raises(InputError, match="is already in line"):
                await import_lines(store, again[:200] + again[:100])
    finally:
        database.run(
            *(f"SET GLOBAL {name} = 0" for name in of_the_server),
            "SET GLOBAL innodb_default_row_format = 'dynamic'",
        )


@pytest.mark.slow
async def test_an_import_takes_longer_than_a_statement_may(worst: Database) -> None:
    lines = make_lines(40_000)
    async with open_store(worst.url) as store:
        await store.init()
        await import_lines(store, lines)
        assert len(await exported(store)) == len(lines)
        await store.drop()

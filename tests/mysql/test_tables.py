"""The tables that eventferry makes, and what it leaves of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from eventferry import DatabaseError, InputError, UnsupportedStoreError, UsageError, open_store
from eventferry.databases.mysql.wire import Wire
from tests.support import FAR_FUTURE, exported, import_lines, line, make_event, make_lines
from tests.support.mysql import Database, made_on
from tests.support.servers import Server

STORE = {"events", "events-threads", "snapshots", "subscribers", "secrets"}
HARD = [
    line(make_event(0, payload="tab \t, line \n, quotes '\"`, back\\slash, \\N, \\0, %s, é, \U0001f980")),
    line(make_event(1, aggregateId="tab\tline\nback\\slash\\N'\"", type="\x01\x0b\x1f\x7f\\u000B\r\n")),
    line(make_event(2, aggregateId="", type="", payload="")),
    line(make_event(3, aggregateId="\\N", type=" blanks  ", payload=None)),
    line(make_event(4, aggregateId="\\n", type="'; DROP TABLE events; --", payload=[])),
    line(make_event(5, aggregateId="é" * 700, type="\U0001f980" * 700)),
]


async def test_a_new_store_has_no_table_but_its_own(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        assert database.tables() == STORE
        await import_lines(store, make_lines(600), freeze=True)
        await store.incremental_import([{"type": "T", "aggregateId": "a", "timestamp": FAR_FUTURE}])
        import_id = await store.begin_incremental_import()
        assert database.tables() == STORE | {"events-incremental-import", f"events-mark-{import_id[-12:]}"}
        await store.rollback_incremental_import()
        await store.freeze()
        await store.unfreeze()
        assert database.tables() == STORE
        await store.drop()
    assert database.tables() == set()


async def test_an_import_leaves_the_tables_that_init_makes(database: Database) -> None:
    def columns_and_keys() -> list[tuple[object, ...]]:
        return database.run(
            f"""SELECT table_name, column_name, column_type, collation_name, is_nullable, column_key
            FROM information_schema.columns WHERE table_schema = '{database.name}' ORDER BY 1, 2"""
        ) + database.run(
            f"""SELECT table_name, index_name, seq_in_index, column_name, non_unique, NULL
            FROM information_schema.statistics WHERE table_schema = '{database.name}' ORDER BY 1, 2, 3"""
        )

    async with open_store(database.url) as store:
        await store.init()
        made = columns_and_keys()
        await import_lines(store, make_lines(600))
        assert columns_and_keys() == made
        assert await exported(store) == make_lines(600)


async def test_a_database_that_is_not_there_is_made_by_init(database: Database) -> None:
    database.run(f"DROP DATABASE `{database.name}`")
    async with open_store(database.url) as store:
        assert not await store.exists()
        await store.init()
    assert database.tables() == STORE


async def test_every_character_comes_out_as_it_went_in(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, b"".join(HARD))
        # JSON.stringify writes U+007F as it is, and so does an export, whatever the input did.
        assert await exported(store) == b"".join(HARD)


async def test_a_server_that_refuses_local_files_gives_the_same_store(own_server: Server) -> None:
    async def store_at(name: str) -> bytes:
        database = made_on(own_server.url(name))
        async with open_store(database.url) as store:
            await store.init()
            await import_lines(
                store, b"".join(HARD) + b"".join(make_lines(1000).splitlines(keepends=True)[10:])
            )
            return await exported(store)

    with_files = await store_at("with_files")
    database = Database(own_server.url("with_files"))
    database.run("SET GLOBAL local_infile = 0")
    try:
        assert await store_at("without_files") == with_files
    finally:
        database.run("SET GLOBAL local_infile = 1")


async def test_rows_that_the_server_would_damage_on_their_way_are_an_error(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Wire.load

    def damaged(self: Wire, statement: str, parts: Iterable[bytes]) -> tuple[int, int]:
        return load(self, statement, (part.replace(b"\t7\t", b"\tseven\t") for part in parts))

    monkeypatch.setattr(Wire, "load", damaged)
    async with open_store(database.url) as store:
        await store.init()
        with pytest.raises(DatabaseError, match="seven"):
            await import_lines(store, make_lines(20))
        assert await exported(store) == b""


async def test_a_server_that_asks_for_a_file_gets_none(database: Database, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("1\t2\t3\n")
    database.run("CREATE TABLE stolen (line TEXT)")
    async with open_store(database.url) as store:
        await store.init()
        async with store._database._pool.connection() as connection:  # type: ignore[attr-defined]
            with pytest.raises(DatabaseError):
                await connection.run(
                    lambda: connection.execute(f"LOAD DATA LOCAL INFILE '{private}' INTO TABLE stolen")
                )
    assert database.run("SELECT COUNT(*) FROM stolen") == [(0,)]


@pytest.mark.slow
async def test_events_that_fit_a_packet_one_by_one_are_stored_together(own_server: Server) -> None:
    database = made_on(own_server.url("packets"))
    database.run("SET GLOBAL max_allowed_packet = 1048576")
    try:
        async with open_store(database.url) as store:
            await store.init()
            large = [{"type": "T", "payload": "'" * 60_000} for _ in range(10)]
            await store.append_events("appended", large, expected_version="none")
            await asyncio.gather(
                *(
                    store.save_event(
                        make_event(i, aggregateVersion=1, aggregateId=f"a-{i}", payload="'" * 4000)
                    )
                    for i in range(256)
                )
            )
            assert len((await exported(store)).splitlines()) == 266
    finally:
        database.run("SET GLOBAL max_allowed_packet = 16777216")


@pytest.mark.slow
async def test_an_event_that_fits_no_packet_is_refused_by_line_before_anything_changes(
    database: Database,
) -> None:
    [(packet,)] = database.run("SELECT @@max_allowed_packet")
    too_large = line(make_event(1, payload="x" * packet))
    just_so = line(make_event(1, payload="'" * (packet // 2 - 40_000)))
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(3))
        with pytest.raises(InputError, match="max_allowed_packet") as refused:
            await import_lines(store, make_lines(1) + too_large)
        assert (refused.value.line, refused.value.field) == (2, "payload")
        with pytest.raises(InputError, match="max_allowed_packet"):
            await store.save_event(make_event(1, aggregateId="b", payload="x" * packet))
        with pytest.raises(InputError, match="max_allowed_packet"):
            await store.incremental_import([make_event(1, timestamp=FAR_FUTURE, payload="x" * packet)])
        assert await exported(store) == make_lines(3)
        await import_lines(store, just_so)
        assert await exported(store) == just_so


HINDRANCES = {
    "trigger": (
        "CREATE TRIGGER counting AFTER INSERT ON events FOR EACH ROW SET @count = 1",
        "the trigger counting",
    ),
    "foreign key": (
        """CREATE TABLE counting (a BIGINT, b BIGINT,
          CONSTRAINT counting FOREIGN KEY (a, b) REFERENCES events (threadId, threadCounter))""",
        "the foreign key counting",
    ),
    "column": ("ALTER TABLE events ADD tenant INT NULL", "the column tenant"),
    "generated column": (
        "ALTER TABLE events ADD total INT AS (LENGTH(payload)) VIRTUAL, ADD KEY (total)",
        "the column total",
    ),
    "default": ("ALTER TABLE events ALTER COLUMN type SET DEFAULT 'SAVED'", "the default of type"),
    "check": ("ALTER TABLE events ADD CONSTRAINT short CHECK (LENGTH(type) < 99)", "the check short"),
    "partitions": (
        """ALTER TABLE events DROP KEY aggregate, ADD KEY aggregate (aggregateId, aggregateVersion)
          PARTITION BY HASH (threadId) PARTITIONS 4""",
        "the partitions by HASH",
    ),
}
HINDRANCES_OF_MARIADB = {
    "check of a column": (
        "ALTER TABLE events MODIFY aggregateVersion BIGINT NOT NULL CHECK (aggregateVersion < 99)",
        "the check aggregateVersion",
    ),
    "versions": ("ALTER TABLE events ADD SYSTEM VERSIONING", "system versioning"),
}


def hindrances(database: Database) -> dict[str, tuple[str, str]]:
    return HINDRANCES | (HINDRANCES_OF_MARIADB if is_mariadb(database) else {})


def is_mariadb(database: Database) -> bool:
    return "MariaDB" in str(database.run("SELECT VERSION()"))


def start_over(database: Database) -> None:
    database.run("SET foreign_key_checks = 0", *(f"DROP TABLE `{name}`" for name in database.tables()))


@pytest.mark.slow
async def test_what_a_swap_would_lose_makes_it_refuse(database: Database) -> None:
    for statement, words in hindrances(database).values():
        async with open_store(database.url) as store:
            await store.init()
            await import_lines(store, make_lines(3))
            database.run(statement)
            with pytest.raises(UnsupportedStoreError, match=words):
                await store.import_events().begin()  # before the first event has come
            with pytest.raises(UnsupportedStoreError, match=words):
                await store.begin_import()
            assert database.tables() - {"counting", "events-committed-imports"} == STORE, words
            assert await exported(store) == make_lines(3)
            assert not (await store.describe()).is_frozen
        start_over(database)


@pytest.mark.slow
async def test_what_comes_during_an_import_is_refused_by_name_at_its_end(database: Database) -> None:
    for statement, words in hindrances(database).values():
        async with open_store(database.url) as store:
            await store.init()
            await import_lines(store, make_lines(3))
            stream = store.import_events()
            await stream.write(make_lines(5))
            database.run(statement)
            with pytest.raises(UnsupportedStoreError, match=words):
                await stream.close()
            assert database.tables() - {"counting"} == STORE, words
            assert await exported(store) == make_lines(3)
            assert not (await store.describe()).is_frozen
        start_over(database)


async def test_what_a_table_may_be_like_hinders_no_swap(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(3))
        database.run(
            """ALTER TABLE events ADD KEY theirs (type(9)), ROW_FORMAT=COMPRESSED, KEY_BLOCK_SIZE=8,
            STATS_PERSISTENT=1, AUTO_INCREMENT=7"""
        )
        await import_lines(store, make_lines(5))
        assert await exported(store) == make_lines(5)


async def test_tables_of_resolve_are_replaced(database: Database) -> None:
    database.make_resolve_store(20)
    for options in ("ROW_FORMAT=DYNAMIC", "ROW_FORMAT=DYNAMIC, STATS_AUTO_RECALC=1, COMMENT='theirs'"):
        database.run(f"ALTER TABLE events {options}")
        async with open_store(database.url) as store:
            await import_lines(store, make_lines(30))
            assert await exported(store) == make_lines(30)


async def test_a_view_of_the_events_shows_those_that_replaced_them(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(3))
        database.run("CREATE VIEW seen AS SELECT * FROM events")
        await import_lines(store, make_lines(5))
        assert database.run("SELECT COUNT(*) FROM seen") == [(5,)]
        await store.save_event({"type": "T", "aggregateId": "new", "aggregateVersion": 1})
        assert database.run("SELECT COUNT(*) FROM seen") == [(6,)]


async def test_a_new_key_for_the_order_leaves_what_others_added(database: Database) -> None:
    database.make_resolve_store(20)
    database.run(HINDRANCES["column"][0], HINDRANCES["check"][0])
    async with open_store(database.url) as store:
        assert await store.upgrade() == ["order"]
        assert await exported(store) == make_lines(20)
    assert {"`tenant`", "`short`"} <= set(database.definitions()["events"].split())


async def test_what_dead_processes_left_goes_with_the_next_import(database: Database) -> None:
    left = {
        "events-steps-0123456789ab": "EVENTFERRY STAGE ID ''1'' OWNER ''0123456789ab'' SINCE ''1''",
        "events-stage-0123456789ab": "",
        "events-old-0123456789ab-0": "",
        "events-old-0123456789ab-7": "EVENTFERRY MARK ID ''0123456789ab''",
        "events-old-123456789abc-6": "RESOLVE EVENT STORE `events` FREEZE MARKER",
        "events-mark-0123456789ab": "EVENTFERRY MARK ID ''0123456789ab''",
        "events-merge-0123456789ab": "EVENTFERRY STAGE ID ''1'' OWNER ''nobody'' SINCE ''1''",
    }
    kept = {
        "events-old-2024": "",
        "events-merge-notes": "",
        "eventsX-old-0123456789ab-0": "",
        # As another store's tables may be called: its events say so, and what is beside them says nothing.
        "events-old-ba9876543210-0": "EVENTFERRY STORE ID ''fedcba987654''",
        "events-old-ba9876543210-0-threads": "",
        "events-stage-ba9876543210": "EVENTFERRY STORE ID ''fedcba987654''",
        "events-steps-ba9876543210": "EVENTFERRY STORE ID ''fedcba987654''",
        "events-mark-ba9876543210": "EVENTFERRY STORE ID ''fedcba987654''",
        "events-merge-ba9876543210": "EVENTFERRY STORE ID ''fedcba987654''",
    }
    async with open_store(database.url) as store:
        await store.init()
        for name, text in (left | kept).items():
            database.run(f"CREATE TABLE `{name}` (a INT) COMMENT '{text}'")
        await import_lines(store, make_lines(3))
        await store.incremental_import([])
        assert database.tables() == STORE | set(kept)
        await store.drop()
    assert database.tables() == set(kept)


async def test_names_that_a_server_cannot_take_are_refused_at_once(database: Database) -> None:
    for name in ("e" * 46, "", "ends in a blank ", "a\nb", "\U0001f980"):
        with pytest.raises(UsageError):
            open_store(database.url, events_table_name=name)
    async with open_store(database.url, events_table_name="e" * 45) as store:
        await store.init()
        await import_lines(store, make_lines(3))
        await store.incremental_import([make_event(1, timestamp=FAR_FUTURE)])
        await store.begin_incremental_import()
        await store.rollback_incremental_import()
        await store.drop()
    assert database.tables() == set()


async def test_parallel_pushes_of_one_part_leave_it_once(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        import_id = await store.begin_incremental_import()
        events = [make_event(i, timestamp=FAR_FUTURE + i) for i in range(20)]
        await asyncio.gather(
            *(store.push_incremental_import(events, import_id, part="1") for _ in range(8)),
            *(store.push_incremental_import(events, import_id, part="2") for _ in range(3)),
        )
        assert (await store.commit_incremental_import(import_id)).imported == 40

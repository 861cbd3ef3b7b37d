"""Tables that reSolve made, without reSolve."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventferry import (
    MANUAL,
    ConcurrentError,
    ImportReport,
    InputError,
    StoreFrozenError,
    UnsupportedStoreError,
    back_up,
    open_store,
    pipeline,
)
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    all_pages,
    as_dict,
    events_of,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
)
from tests.support.mysql import RESOLVE_FREEZE, RESOLVE_OPEN_IMPORT, Database
from tests.support.repositories import chain_in

SAVED = {"type": "T", "aggregateId": "saved", "aggregateVersion": 1}


async def test_a_store_of_resolve_is_read_as_it_is_and_nothing_in_it_changes(database: Database) -> None:
    database.make_resolve_store(300)
    before = database.definitions()
    async with open_store(database.url) as store:
        assert await exported(store) == make_lines(300)
        assert await all_pages(store, 7) == events_of(make_lines(300))
        description = await store.describe(calculate_cursor=True)
        assert (description.event_count, description.is_frozen) == (300, False)
        assert description.cursor == store.get_next_cursor(None, events_of(make_lines(300)))
        assert (await store.get_latest_event(aggregate_ids=["aggregate-1"])) == events_of(make_lines(300))[
            291
        ]
    assert database.definitions() == before


async def test_types_are_counted_apart_that_the_collation_takes_for_the_same(database: Database) -> None:
    database.make_resolve_store(0)
    types = ("Paid", "PAID", "pàid", "Paid")
    database.run(
        *(
            f"INSERT INTO events VALUES (0, {place}, {LONG_AGO}, 'a-{place}', 1, '{name}', '[1, 2]')"
            for place, name in enumerate(types)
        ),
        f"UPDATE `events-threads` SET threadCounter = {len(types)} WHERE threadId = 0",
    )
    async with open_store(database.url) as store:
        found = await store.stats(exclude_types=["pàid"])
    assert {each.type: each.events for each in found.types.types} == {"Paid": 2, "PAID": 1}
    assert found.types.bytes == 18
    assert found.aggregates.count == 3


async def test_a_filter_tells_apart_what_the_collation_of_resolve_takes_for_the_same(
    database: Database,
) -> None:
    database.make_resolve_store(0)
    names = ("user-1", "User-2", "üser-3", "user%4", "uSer_5", "user", "USER\\6")
    database.run(
        *(
            "INSERT INTO events VALUES (0, {}, {}, '{}', 1, '{}', 'null')".format(
                i, LONG_AGO + i, name.replace("\\", "\\\\"), "Paid" if i % 2 else "PAID"
            )
            for i, name in enumerate(names)
        ),
        f"UPDATE `events-threads` SET threadCounter = {len(names)} WHERE threadId = 0",
    )
    async with open_store(database.url) as store:
        for prefix in (*names, "u", "U", "ü", "user-", "user%", "user_", "USER\\", "uS"):
            found = events_of(await exported(store, aggregate_prefixes=[prefix]))
            assert [event.aggregate_id for event in found] == [
                name for name in names if name.startswith(prefix)
            ]
        found = events_of(await exported(store, exclude_types=["PAID", "paid"]))
        assert [event.type for event in found] == ["Paid"] * 3


async def test_a_store_of_resolve_is_saved_to_and_merged_into(database: Database) -> None:
    database.make_resolve_store(30)
    async with open_store(database.url) as store:
        await store.save_event(SAVED | {"payload": {"a": 1}})
        with pytest.raises(ConcurrentError):
            await store.save_event(SAVED)
        batch = [as_dict(event) for event in events_of(make_lines(30))]
        new = {"type": "T", "aggregateId": "ä", "timestamp": FAR_FUTURE, "payload": {"b": [None, "é"]}}
        assert await store.incremental_import([*batch, new]) == ImportReport(1, 30, 0)
        import_id = await store.begin_incremental_import()
        another = new | {"payload": "c", "timestamp": FAR_FUTURE + 1}
        await store.push_incremental_import([*batch, new, another], import_id, part="1")
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 31, 0)
        events = events_of(await exported(store))
        assert [event.payload for event in events[30:]] == [{"a": 1}, {"b": [None, "é"]}, "c"]
        assert (await store.describe(calculate_cursor=True)).cursor == store.get_next_cursor(None, events)


async def test_its_appending_import_goes_on_behind_its_events(database: Database) -> None:
    database.make_resolve_store(30)
    async with open_store(database.url) as store:
        await import_lines(store, make_lines(400), maintenance_mode=MANUAL)
        assert await exported(store) == make_lines(400)


async def test_an_import_replaces_the_tables_of_resolve_by_ours(database: Database) -> None:
    database.make_resolve_store(30)
    async with open_store(database.url) as store:
        await import_lines(store, make_lines(600))
        assert await exported(store) == make_lines(600)
        await store.save_event(SAVED)
    assert database.run("SELECT SUM(threadCounter) FROM `events-threads`") == [(601,)]
    assert database.tables() == {"events", "events-threads", "snapshots", "subscribers", "secrets"}


async def test_the_freeze_of_resolve_keeps_writers_out_until_it_is_lifted(database: Database) -> None:
    database.make_resolve_store(3)
    database.run(RESOLVE_FREEZE)
    async with open_store(database.url) as store:
        description = await store.describe()
        assert (description.is_frozen, description.frozen_since) == (True, None)
        with pytest.raises(StoreFrozenError):
            await store.save_event(SAVED)
        await store.unfreeze()
        await store.save_event(SAVED)


async def test_an_upgrade_adds_the_index_for_the_order_once(database: Database) -> None:
    database.make_resolve_store(30)
    async with open_store(database.url) as store:
        assert await store.upgrade() == ["order"]
        assert await store.upgrade() == []
        assert await exported(store) == make_lines(30)


@pytest.mark.parametrize("other", ["AGGREGATE-1", "aggregate-1 ", "àggregate-1"])
async def test_an_aggregate_that_its_column_takes_for_another_is_refused_by_name(
    database: Database, other: str
) -> None:
    database.make_resolve_store(30)
    async with open_store(database.url) as store:
        with pytest.raises(InputError, match="utf8mb4_unicode_ci") as refused:
            await store.save_event(SAVED | {"aggregateId": other})
        assert refused.value.field == "aggregateId"
        assert "'aggregate-1'" in refused.value.reason
        with pytest.raises(InputError, match="utf8mb4_unicode_ci"):
            await store.incremental_import([{"type": "T", "aggregateId": other, "timestamp": FAR_FUTURE}])
        with pytest.raises(InputError, match="utf8mb4_unicode_ci"):
            await import_lines(
                store,
                line(make_event(1, threadCounter=77, aggregateId=other)),
                maintenance_mode=MANUAL,
            )
        assert await exported(store) == make_lines(30)
        # As long as the versions differ there is nothing to refuse.
        await store.save_event(SAVED | {"aggregateId": other, "aggregateVersion": 1000}, allow_gaps=True)
        assert [event.aggregate_id for event in await all_pages(store, 50, aggregate_ids=[other])] == [other]
        assert len(await all_pages(store, 50, aggregate_ids=["aggregate-1"])) == 3


async def test_two_aggregates_of_a_batch_that_its_column_takes_for_one_are_refused(
    database: Database,
) -> None:
    database.make_resolve_store(3)
    batch = [{"type": "T", "aggregateId": name, "timestamp": FAR_FUTURE} for name in ("new", "NEW")]
    async with open_store(database.url) as store:
        with pytest.raises(UnsupportedStoreError, match="utf8mb4_unicode_ci"):
            await store.incremental_import(batch)
        assert await exported(store) == make_lines(3)


async def test_events_that_differ_by_case_are_not_taken_for_equal(database: Database) -> None:
    database.make_resolve_store(3)
    event = as_dict(events_of(make_lines(3))[2])
    async with open_store(database.url) as store:
        assert await store.incremental_import([event | {"type": "type_2"}]) == ImportReport(1, 0, 0)
        assert await store.incremental_import([event, event | {"type": "type_2"}]) == ImportReport(0, 2, 0)


async def test_an_import_that_resolve_opened_is_committed_but_takes_no_parts(database: Database) -> None:
    database.make_resolve_store(3)
    database.run(
        RESOLVE_OPEN_IMPORT,
        f"""INSERT INTO `events-incremental-import`(rowid, timestamp, aggregateId, type, payload)
        VALUES ('16000000.5', {FAR_FUTURE}, 'a', 'T', '1'), ('16000000.25', {FAR_FUTURE}, 'a', 'T', '0')""",
    )
    event = {"type": "T", "aggregateId": "a", "timestamp": FAR_FUTURE + 1, "payload": 2}
    async with open_store(database.url) as store:
        opened = (await store.describe()).open_import
        assert opened is not None
        assert (opened.id, opened.since) == ("reSolvesId", None)
        with pytest.raises(UnsupportedStoreError, match="parts"):
            await store.push_incremental_import([event], "reSolvesId", part="1")
        await store.push_incremental_import([event], "reSolvesId")
        assert await store.commit_incremental_import("reSolvesId") == ImportReport(3, 0, 0)
        assert [event.payload for event in await all_pages(store, 9)][3:] == [0, 1, 2]
        assert (await store.describe()).open_import is None
    assert "events-incremental-import" not in database.tables()


async def test_resolve_can_push_into_an_import_that_eventferry_opened(database: Database) -> None:
    database.make_resolve_store(3)
    async with open_store(database.url) as store:
        import_id = await store.begin_incremental_import()
        [(comment,)] = database.run(
            "SELECT table_comment FROM information_schema.tables "
            f"WHERE table_schema = '{database.name}' AND table_name = 'events-incremental-import'"
        )
        assert comment == f"RESOLVE INCREMENTAL-IMPORT '{import_id}' OWNED TABLE"
        database.run(
            f"""INSERT INTO `events-incremental-import`(rowid, timestamp, aggregateId, type, payload)
            VALUES ('16000000.5', {FAR_FUTURE}, 'a', 'T', '1')"""
        )
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)


async def test_its_secrets_are_deleted_for_good_since_it_keeps_no_tombstones(database: Database) -> None:
    database.make_resolve_store(3)
    async with open_store(database.url) as store:
        await store.set_secret("a", "key-a")
        await store.set_secret("b", "key-b")
        assert await store.delete_secret("a")
        assert not await store.delete_secret("a")
        assert database.run("SELECT id, secret FROM secrets") == [("b", "key-b")]
        with pytest.raises(UnsupportedStoreError, match="reSolve"):
            await pipeline([b'{"secret":null,"id":"c","idx":7}\n'], store.import_secrets())


async def test_two_snapshots_whose_keys_begin_alike_are_not_taken_for_one(database: Database) -> None:
    database.make_resolve_store(0)
    start = "k" * 255
    async with open_store(database.url) as store:
        await store.save_snapshot(start + "a", "1")
        await store.save_snapshot(start + "a", "2")
        with pytest.raises(UnsupportedStoreError):
            await store.save_snapshot(start + "b", "3")
        assert await store.load_snapshot(start + "a") == "2"
        assert await store.load_snapshot(start + "b") is None


async def test_events_at_one_millisecond_come_in_order_from_tables_without_the_index(
    database: Database,
) -> None:
    database.make_resolve_store(0)
    lines = [
        line(make_event(i, timestamp=LONG_AGO + i // 500, aggregateId=f"a{i}", aggregateVersion=1))
        for i in range(2000)
    ]
    async with open_store(database.url) as store:
        await import_lines(store, b"".join(lines), maintenance_mode=MANUAL)
        assert sorted((await exported(store)).splitlines(keepends=True)) == sorted(lines)
        assert [as_dict(event) for event in await all_pages(store, 77)] == [
            as_dict(event) for event in events_of(await exported(store))
        ]


async def test_of_many_who_upgrade_at_once_one_adds_the_key_and_the_others_find_it(
    database: Database,
) -> None:
    database.make_resolve_store(300)
    async with (
        open_store(database.url) as first,
        open_store(database.url) as second,
        open_store(database.url) as third,
    ):
        added = await asyncio.gather(*(store.upgrade() for store in (first, second, third)))
        assert sorted(added) == [[], [], ["order"]]
        assert await second.upgrade() == []


async def test_a_key_of_the_same_name_on_other_columns_makes_upgrade_refuse_by_name(
    database: Database,
) -> None:
    database.make_resolve_store(3)
    database.run("ALTER TABLE events ADD KEY `order` (`timestamp`)")
    async with open_store(database.url) as store:
        with pytest.raises(UnsupportedStoreError, match="key 'order'"):
            await store.upgrade()


async def test_deleted_secrets_are_noted_beside_a_backup_though_the_table_forgets_them(
    database: Database, tmp_path: Path
) -> None:
    database.make_resolve_store(30)
    async with open_store(database.url) as store:
        for name in ("a", "b", "c"):
            await store.set_secret(name, "x")
            await store.delete_secret(name)
            report = await back_up(store, tmp_path / "repository")
    assert report.erasures == 3
    lists = await (await chain_in(str(tmp_path / "repository"))).erasures()
    assert [one.deleted_secrets for one in lists] == [["a"], ["b"], ["c"]]

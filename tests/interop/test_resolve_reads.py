"""A store that the real reSolve wrote reads the same through eventferry and through reSolve, on every database."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from eventferry import AUTO, EventStore, StoreExistsError, open_store
from tests.support import FAR_FUTURE, all_pages, exported, import_lines, line, make_lines
from tests.support.interop.both import (
    NOWHERE_TIED,
    ORIGINAL_EVENTS,
    assert_both_agree,
    dicts_of,
    events_in,
    made_by_resolve,
    make_store,
    makers,
    save_of,
)
from tests.support.interop.resolve import ResolveError, ResolvePackages
from tests.support.interop.stores import Stores

pytestmark = [pytest.mark.interop, pytest.mark.slow]


async def test_events_lines_and_figures_are_the_same(resolve: ResolvePackages, written: str) -> None:
    assert len(await assert_both_agree(resolve, written)) == ORIGINAL_EVENTS


@makers
@pytest.mark.parametrize("limit", [9, 50, 1000])
async def test_each_page_has_the_same_events_and_cursor(
    resolve: ResolvePackages, stores: Stores, maker: str, limit: int
) -> None:
    place = stores.new()
    await make_store(maker, resolve, place, make_lines(120))
    async with resolve(place) as real, open_store(place) as store:
        cursor: str | None = None
        while True:
            theirs = await real.page(limit, cursor)
            page = await store.load_events(limit=limit, cursor=cursor)
            assert dicts_of(page.events) == theirs["events"]
            assert page.cursor == theirs["cursor"]
            if not page.events:
                return
            cursor = page.cursor


@pytest.mark.parametrize("limit", [11, 64])
async def test_pages_of_both_by_turns_bring_every_event_once(
    resolve: ResolvePackages, written: str, limit: int
) -> None:
    """Where timestamps are equal the real adapter on PostgreSQL takes any of them first; its cursor says which."""
    async with resolve(written) as real, open_store(written) as store:
        events = await real.events()
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        for turn in range(ORIGINAL_EVENTS):
            if turn % 2:
                page = await store.load_events(limit=limit, cursor=cursor)
                some, cursor = dicts_of(page.events), page.cursor
            else:
                theirs = await real.page(limit, cursor)
                some, cursor = theirs["events"], theirs["cursor"]
            if not some:
                break
            found += some
        assert sorted(found, key=events.index) == events
        assert [event["timestamp"] for event in found] == [event["timestamp"] for event in events]


@pytest.mark.parametrize("read_before", [1, 20, NOWHERE_TIED])
async def test_a_cursor_of_one_gives_the_rest_in_the_other(
    resolve: ResolvePackages, written: str, read_before: int
) -> None:
    async with resolve(written) as real, open_store(written) as store:
        events = await real.events()
        theirs = (await real.page(read_before))["cursor"]
        rest = await store.load_events(limit=1000, cursor=theirs)
        assert dicts_of(rest.events) == events[read_before:]
        assert events_in(await exported(store, cursor=theirs)) == events_in(await real.exported(theirs))
        page = await store.load_events(limit=read_before, cursor=None)
        assert page.cursor == theirs
        assert (await real.page(1000, page.cursor))["events"] == events[read_before:]
        loader = await store.get_event_loader(cursor=theirs)
        assert dicts_of((await loader.load_events(1000)).events) == events[read_before:]


async def test_an_export_that_one_stopped_is_continued_by_the_other(
    resolve: ResolvePackages, written: str
) -> None:
    async with resolve(written) as real, open_store(written) as store:
        whole = events_in(await real.exported())
        theirs = await real.call("exportEvents", {"bufferSize": 9000})
        assert theirs["isBufferOverflow"]
        beginning = theirs["text"].encode()
        assert events_in(beginning + await exported(store, cursor=theirs["cursor"])) == whole

        export = store.export_events(buffer_size=9000)
        assert b"".join([block async for block in export]) == beginning
        assert export.is_buffer_overflow
        assert export.cursor == theirs["cursor"]
        assert events_in(beginning + await real.exported(export.cursor)) == whole


@pytest.mark.parametrize(
    "filters",
    [
        {"event_types": ["TYPE_1", "SAVED"]},
        {"aggregate_ids": ["aggregate-3", "payload-1", "it's", "ünï 😀"]},
        {"event_types": ["TYPE_0"], "aggregate_ids": ["aggregate-0", "aggregate-3"]},
        {"event_types": ["none of them"]},
    ],
    ids=["types", "aggregates", "both", "nothing"],
)
async def test_filters_choose_the_same_events(
    resolve: ResolvePackages, written: str, filters: dict[str, list[str]]
) -> None:
    names = {"event_types": "eventTypes", "aggregate_ids": "aggregateIds"}
    theirs = {names[name]: values for name, values in filters.items()}
    async with resolve(written) as real, open_store(written) as store:
        expected = (await real.page(1000, None, **theirs))["events"]
        assert dicts_of(await all_pages(store, 7, **filters)) == expected
        latest = await store.get_latest_event(**filters)
        newest = await real.call("getLatestEvent", theirs)
        assert (latest and latest.timestamp) == (newest and newest["timestamp"])


async def test_pages_by_time_have_the_same_events(resolve: ResolvePackages, written: str) -> None:
    async with resolve(written) as real, open_store(written) as store:
        start, finish = FAR_FUTURE + 5, FAR_FUTURE + 17
        theirs = await real.call("loadEvents", {"limit": 1000, "startTime": start, "finishTime": finish})
        page = await store.load_events(limit=1000, start_time=start, finish_time=finish)
        assert dicts_of(page.events) == theirs["events"]
        assert {event.timestamp for event in page.events} == set(range(start, finish + 1))


async def test_the_cursor_until_event_types_is_the_same(resolve: ResolvePackages, written: str) -> None:
    async with resolve(written) as real, open_store(written) as store:
        for cursor in (None, (await real.page(60))["cursor"]):
            for types in (["TYPE_1"], ["SAVED", "TYPE_2"], ["none of them"]):
                assert await store.get_cursor_until_event_types(cursor, types) == await real.call(
                    "getCursorUntilEventTypes", cursor, types
                )


async def test_secrets_are_the_same(resolve: ResolvePackages, written: str) -> None:
    async with resolve(written) as real, open_store(written) as store:
        for deleted in (False, True):
            theirs = await real.call("loadSecrets", {"limit": 100, "includeDeleted": deleted})
            page = await store.load_secrets(limit=100, include_deleted=deleted)
            assert [{"secret": s.secret, "id": s.id, "idx": s.idx} for s in page.secrets] == theirs["secrets"]
            assert page.idx == theirs["idx"]
        for secret_id in ("secret-0", "secret-1", "unknown"):
            assert await store.get_secret(secret_id) == await real.call("getSecret", secret_id)
        lines = b"".join([block async for block in store.export_secrets()])
        assert lines.decode() == (await real.call("exportSecrets", {"maintenanceMode": "MANUAL"}))["text"]

        events = await real.events()
        gathered = await store.gather_secrets_from_events(events)
        theirs = await real.call("gatherSecretsFromEvents", events)
        assert gathered.deleted_secrets == theirs["deletedSecrets"]
        assert [{"secret": s.secret, "id": s.id, "idx": s.idx} for s in gathered.existing_secrets] == theirs[
            "existingSecrets"
        ]


async def test_snapshots_and_subscribers_are_the_same(resolve: ResolvePackages, written: str) -> None:
    async with resolve(written) as real, open_store(written) as store:
        for key in ('snap\'shot "ü"', "other", "unknown"):
            assert await store.load_snapshot(key) == await real.call("loadSnapshot", key)
        for names in ({}, {"applicationName": "app", "eventSubscriber": "two's"}):
            theirs = await real.call("getEventSubscribers", names)
            found = await store.get_event_subscribers(
                names.get("applicationName"), names.get("eventSubscriber")
            )
            assert [
                {
                    "applicationName": row.application_name,
                    "eventSubscriber": row.event_subscriber,
                    "destination": row.destination,
                    "status": row.status,
                }
                for row in found
            ] == sorted(theirs, key=lambda row: str(row["eventSubscriber"]))
            assert theirs


async def test_a_frozen_store_with_an_import_begun_is_read_as_any_other(
    resolve: ResolvePackages, written: str
) -> None:
    async with resolve(written) as real:
        import_id = await real.call("beginIncrementalImport")
        await real.call("freeze")
        # Its own export, in its default mode, would take the freeze away.
        lines = (await real.call("exportEvents", {"maintenanceMode": "MANUAL"}))["text"].encode()
        async with open_store(written) as store:
            description = await store.describe()
            assert (description.is_frozen, description.frozen_by) == (True, "user")
            assert description.open_import is not None
            assert description.open_import.id == import_id
            for mode in ({}, {"maintenance_mode": AUTO}):
                assert events_in(await exported(store, **mode)) == events_in(lines)
        assert (await real.call("describe"))["isFrozen"]
        with pytest.raises(ResolveError, match="frozen"):
            await real.save(save_of("a", 1))
        await real.call("unfreeze")
        await real.call("commitIncrementalImport", import_id)
    await assert_both_agree(resolve, written)


async def test_what_it_exports_goes_into_a_store_of_ours_and_out_again(written: str, stores: Stores) -> None:
    copy_of_it = stores.new()
    async with open_store(written) as source, open_store(copy_of_it) as copy:
        lines = await exported(source)
        await copy.init()
        await import_lines(copy, lines)
        assert await exported(copy) == lines


async def test_saves_between_the_blocks_of_an_export_are_not_in_it(
    resolve: ResolvePackages, stores: Stores
) -> None:
    place = stores.new()
    await make_store("reSolve", resolve, place, make_lines(9000))
    async with resolve(place) as real, open_store(place) as store:
        found = b""
        blocks = 0
        async for block in store.export_events():
            found += block
            blocks += 1
            await real.save(save_of("meanwhile", blocks))
        assert blocks > 2
        assert found == make_lines(9000)
        described = await real.call("describe")
        assert (described["eventCount"], described["isFrozen"]) == (9000 + blocks, False)


async def test_a_store_that_one_made_the_other_does_not_make_again(
    resolve: ResolvePackages, stores: Stores
) -> None:
    for maker in ("reSolve", "eventferry"):
        place = stores.new()
        await make_store(maker, resolve, place, make_lines(3))
        async with resolve(place) as real, open_store(place) as store:
            with pytest.raises(ResolveError, match="duplicate initialization"):
                await real.call("init")
            with pytest.raises(StoreExistsError):
                await store.init()
            assert await exported(store) == make_lines(3)


# a clock that went back: 300 saves dated in the future, then 300 that are not


@pytest.fixture(scope="module")
def fallen(resolve: ResolvePackages, originals: Stores) -> str:
    place = originals.new_original()

    async def write() -> None:
        async with made_by_resolve(resolve, place) as real:
            for i in range(600):
                timestamp = int(time.time() * 1000) + (86_400_000 if i < 300 else 0)
                # Large enough for several blocks.
                payload = {"number": i, "filler": "x" * 7000}
                await real.save(save_of(f"a{i % 20}", i // 20 + 1, timestamp=timestamp, payload=payload))

    asyncio.run(write())
    return place


@pytest.mark.parametrize("is_upgraded", [False, True], ids=["as it is", "upgraded"])
async def test_every_reader_brings_each_of_600_saves_once_though_the_clock_went_back(
    fallen: str, stores: Stores, is_upgraded: bool
) -> None:
    async with open_store(stores.copy(fallen)) as store:
        if is_upgraded:
            await store.upgrade()
        events = await all_pages(store, 1000)
        assert sorted(event.payload["number"] for event in events) == list(range(600))
        for limit in (7, 100):
            assert await all_pages(store, limit) == events

        lines = b"".join(map(line, events))
        assert await exported(store) == lines
        for options in ({}, {"buffer_size": 100_000}):
            resumed, pieces = await stopped_at_every_block(store, **options)
            assert resumed == lines
            assert pieces > 3


async def stopped_at_every_block(store: EventStore, **options: Any) -> tuple[bytes, int]:
    """An export that is told to stop at each of its blocks and goes on from its cursor; and how many it took."""
    found = b""
    cursor: str | None = None
    for pieces in range(1, 1000):
        export = store.export_events(cursor=cursor, **options)
        async for block in export:
            found += block
            export.stop()
        if export.is_end:
            return found, pieces
        cursor = export.cursor
    raise AssertionError("the export does not end")

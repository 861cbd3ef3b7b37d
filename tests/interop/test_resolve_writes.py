"""eventferry and the real reSolve write one store in turns and beside each other, on every database."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    ConcurrentError,
    SecretExistsError,
    StoreFrozenError,
    StoreNotFoundError,
    back_up,
    open_store,
)
from tests.support import FAR_FUTURE, exported, import_lines, line, make_event, make_lines
from tests.support.interop.both import (
    IMPORTED,
    about,
    assert_both_agree,
    assert_both_agree_on_events,
    assert_no_gap,
    dicts_of,
    made_by_resolve,
    make_store,
    makers,
    new_event,
    save_of,
)
from tests.support.interop.resolve import ResolveError, ResolvePackages
from tests.support.interop.stores import Stores, tables

pytestmark = [pytest.mark.interop, pytest.mark.slow]


async def test_eventferry_writes_and_the_real_adapter_reads_it(
    resolve: ResolvePackages, written: str
) -> None:
    async with open_store(written) as store:
        saved = await store.save_event(save_of("ours", 1, payload={"é": [1, None]}))
        await store.set_secret("ours", "our key")
        assert await store.delete_secret("secret-0")
        await store.save_snapshot("ours", "content")
        await store.drop_snapshot("other")
        await store.ensure_event_subscriber("app", "ours", destination={"to": 1}, status={"ok": True})
        await store.remove_event_subscriber("app", "one")
        batch = [new_event(i, timestamp=FAR_FUTURE + 5000 + i) for i in range(20)]
        report = await store.incremental_import(batch)
        assert (report.imported, report.skipped_existing, report.skipped_older) == (20, 0, 0)
    events = await assert_both_agree(resolve, written)
    [stored] = dicts_of([saved.event])
    assert stored in events
    assert about(batch) <= about(events)
    async with resolve(written) as real:
        assert await real.call("getSecret", "ours") == "our key"
        assert await real.call("getSecret", "secret-0") is None
        assert await real.call("loadSnapshot", "ours") == "content"
        assert await real.call("loadSnapshot", "other") is None
        rows = await real.call("getEventSubscribers")
        assert {row["eventSubscriber"]: row["status"] for row in rows} == {
            "ours": {"ok": True},
            "two's": {"eventSubscriber": "two's", "cursor": None},
        }
        # The cursor of our save is what the real adapter goes on from.
        assert stored not in (await real.page(1000, saved.cursor))["events"]


@pytest.mark.slow
@makers
async def test_the_real_adapter_goes_on_and_eventferry_after_it(
    resolve: ResolvePackages, stores: Stores, maker: str
) -> None:
    place = stores.new()
    await make_store(maker, resolve, place, make_lines(700))
    events = await assert_both_agree(resolve, place)
    assert b"".join(map(line, events)) == make_lines(700)

    async with resolve(place) as real:
        assert await real.call("loadSnapshot", "replaced") is None
        saved = [await real.save(save_of("theirs", version)) for version in (1, 2, 3)]
        with pytest.raises(ResolveError) as taken:
            await real.save(save_of("aggregate-0", 5))
        assert taken.value.name == "ConcurrentError"
        await real.call("setSecret", "gone", "key 1")
        await real.call("setSecret", "kept", "key 2")
        assert await real.call("deleteSecret", "gone")
        for content in ("before", "content"):
            await real.call("saveSnapshot", "theirs", content)
            await real.call(
                "ensureEventSubscriber",
                {
                    "applicationName": "app",
                    "eventSubscriber": "theirs",
                    "destination": {"b": 1, "a": 2},
                    "status": content,
                },
            )
        assert await real.call(
            "ensureEventSubscriber",
            {"applicationName": "app", "eventSubscriber": "theirs", "updateOnly": True, "status": {"ok": 1}},
        )
        batch = [new_event(i) for i in range(60)]
        await real.call("incrementalImport", batch)
        await real.call("incrementalImport", batch)
    events = await assert_both_agree(resolve, place)
    assert len(events) == 700 + 3 + 3 + 60
    assert about(batch) <= about(events)
    assert all(each["event"] in events for each in saved)
    assert_no_gap(events)

    async with open_store(place) as store:
        assert (await store.incremental_import(batch)).skipped_existing == 60
        with pytest.raises(ConcurrentError):
            await store.save_event(save_of("theirs", 3))
        # Behind the batch: a save of now could fall behind it in its thread, and the two would differ in order.
        await store.save_event(save_of("theirs", 4, timestamp=FAR_FUTURE + 1000))
        assert await store.get_secret("kept") == "key 2"
        with pytest.raises(SecretExistsError):
            await store.set_secret("gone", "again")
        assert await store.delete_secret("kept")
        assert await store.load_snapshot("theirs") == "content"
        [subscriber] = await store.get_event_subscribers()
        assert (subscriber.destination, subscriber.status) == ({"b": 1, "a": 2}, {"ok": 1})
    async with resolve(place) as real:
        assert await real.call("getSecret", "kept") is None
        await real.save(save_of("theirs", 5, timestamp=FAR_FUTURE + 1000))
    events = await assert_both_agree(resolve, place)
    assert_no_gap(events)

    async with resolve(place) as real:
        await real.call("importEvents", make_lines(300).decode())
    assert b"".join(map(line, await assert_both_agree(resolve, place))) == make_lines(300)


async def test_a_store_of_ours_that_is_new_is_used_by_the_real_adapter(
    resolve: ResolvePackages, stores: Stores
) -> None:
    place = stores.new()
    async with open_store(place) as store:
        await store.init()
    async with resolve(place) as real:
        assert (await real.page(10))["events"] == []
        for version in (1, 2):
            await real.save(save_of("theirs", version))
            with pytest.raises(ResolveError) as taken:
                await real.save(save_of("theirs", version))
            assert taken.value.name == "ConcurrentError"
            await real.call("saveSnapshot", "theirs", str(version))
            subscriber = {"applicationName": "app", "eventSubscriber": "theirs", "destination": {}}
            await real.call("ensureEventSubscriber", subscriber | {"status": version})
            await real.call("setSecret", f"secret-{version}", "key")
        await real.call("incrementalImport", [new_event(i) for i in range(9)])
    events = await assert_both_agree(resolve, place)
    assert len(events) == 2 + 2 + 9
    assert_no_gap(events)
    async with open_store(place) as store:
        assert await store.load_snapshot("theirs") == "2"
        assert [row.status for row in await store.get_event_subscribers()] == [2]
        assert [secret.idx for secret in (await store.load_secrets(limit=10)).secrets] == [0, 1]


@makers
async def test_appends_of_both_by_turns_are_one_store(
    resolve: ResolvePackages, stores: Stores, maker: str
) -> None:
    place = stores.new()
    lines = [line(make_event(i)) for i in range(700)]
    await make_store(maker, resolve, place, b"".join(lines[:300]))
    async with resolve(place) as real, open_store(place) as store:
        await real.call("describe")  # connects, and so leaves SQLite's WAL, before we hold the file
        for first in (300, 500):
            report = await import_lines(store, b"".join(lines[first : first + 100]), maintenance_mode=MANUAL)
            assert report.imported == 100
            part = b"".join(lines[first + 100 : first + 200]).decode()
            await real.call("importEvents", part, {"maintenanceMode": "MANUAL"})
        assert await exported(store) == b"".join(lines)
        await real.save(save_of("theirs", 1))
        await store.save_event(save_of("ours", 1))
    assert_no_gap(await assert_both_agree(resolve, place))


async def test_replacing_what_the_real_adapter_wrote_leaves_its_secrets(
    resolve: ResolvePackages, written: str
) -> None:
    async with open_store(written) as store:
        await import_lines(store, make_lines(IMPORTED + 100))
    assert b"".join(map(line, await assert_both_agree(resolve, written))) == make_lines(IMPORTED + 100)
    async with resolve(written) as real:
        assert await real.call("getSecret", "secret-0") == "kéy 'of' \"0\""
        assert await real.call("loadSnapshot", "other") is None
        assert await real.call("getEventSubscribers") == []


async def test_secrets_move_from_each_to_the_other(
    resolve: ResolvePackages, written: str, stores: Stores
) -> None:
    async with resolve(written) as real:
        text = (await real.call("exportSecrets"))["text"]
    async with open_store(stores.new()) as store:
        await store.init()
        async with store.import_secrets() as secrets:
            await secrets.write(text.encode())
        lines = b"".join([block async for block in store.export_secrets()])
        assert lines.decode() == text
    async with made_by_resolve(resolve, stores.new()) as real:
        await real.call("importSecrets", lines.decode())
        # On PostgreSQL it numbers them anew.
        moved = (await real.call("loadSecrets", {"limit": 100}))["secrets"]
        assert [(row["id"], row["secret"]) for row in moved] == [
            (f"secret-{i}", f"kéy 'of' \"{i}\"") for i in (0, 2, 3, 5)
        ]


@pytest.mark.parametrize("dropped_by", ["reSolve", "eventferry"])
async def test_drop_leaves_nothing_of_the_other(
    resolve: ResolvePackages, written: str, stores: Stores, dropped_by: str
) -> None:
    ours = stores.new()
    await make_store("eventferry", resolve, ours, make_lines(10))
    for place in (written, ours):
        async with resolve(place) as real, open_store(place) as store:
            await real.call("describe")  # connects, and so leaves SQLite's WAL, before we hold the file
            await store.upgrade()
            await store.set_secret("ours", "key")
            await (store.begin_incremental_import() if place == ours else real.call("beginIncrementalImport"))
            await (real.call("freeze") if place == ours else store.freeze())
            if dropped_by == "reSolve":
                await real.call("drop")
            else:
                await store.drop()
            assert tables(place) == []
            with pytest.raises(StoreNotFoundError):
                await store.describe()
            with pytest.raises(ResolveError):
                await real.call("describe")
    async with made_by_resolve(resolve, written) as real:
        await real.save(save_of("a", 1))
    async with open_store(ours) as store:
        await store.init()
        await store.save_event(save_of("a", 1))


async def test_the_real_adapter_imports_a_part_of_a_backup_after_zstdcat(
    resolve: ResolvePackages, written: str, stores: Stores, tmp_path: Path
) -> None:
    async with open_store(written) as store:
        before = await exported(store)
        await back_up(store, tmp_path / "repository")
    [part] = (tmp_path / "repository").rglob("parts/*.jsonl.zst")
    lines = subprocess.run(["zstdcat", part], capture_output=True, check=True).stdout
    assert lines == before
    place = stores.new()
    async with made_by_resolve(resolve, place) as real:
        await real.call("importEvents", lines.decode())
    assert await assert_both_agree(resolve, place) == await assert_both_agree(resolve, written)


# beside each other


async def test_both_save_by_turns(resolve: ResolvePackages, written: str) -> None:
    async with resolve(written) as real, open_store(written) as store:
        for version in range(1, 40, 2):
            theirs = await real.save(save_of("shared", version))
            mine = await store.save_event(save_of("shared", version + 1))
            assert (await store.load_events(limit=10, cursor=theirs["cursor"])).events == [mine.event]
            with pytest.raises(ConcurrentError):
                await store.save_event(save_of("shared", version))
            with pytest.raises(ResolveError) as taken:
                await real.save(save_of("shared", version + 1))
            assert taken.value.name == "ConcurrentError"
        assert (await real.page(10, mine.cursor))["events"] == []
    shared = [e for e in await assert_both_agree_on_events(resolve, written) if e["aggregateId"] == "shared"]
    assert sorted(event["aggregateVersion"] for event in shared) == list(range(1, 41))


@makers
async def test_a_freeze_by_one_is_seen_by_the_other(
    resolve: ResolvePackages, stores: Stores, maker: str
) -> None:
    place = stores.new()
    await make_store(maker, resolve, place, make_lines(10))
    async with open_store(place) as store:
        await store.set_secret("known", "key")
        await store.freeze()
    async with resolve(place) as real, open_store(place) as store:
        assert (await real.call("describe"))["isFrozen"]
        for write in (
            ("saveEvent", save_of("a", 1)),
            ("setSecret", "id", "key"),
            ("deleteSecret", "known"),
        ):
            with pytest.raises(ResolveError, match="frozen"):
                await real.call(*write)
        with pytest.raises(ResolveError, match="already frozen"):
            await real.call("freeze")
        await real.call("unfreeze")
        with pytest.raises(ResolveError, match="already unfrozen"):
            await real.call("unfreeze")
        await store.save_event(save_of("a", 1))
        await real.save(save_of("a", 2))

        await real.call("freeze")
        description = await store.describe()
        assert (description.is_frozen, description.frozen_by) == (True, "user")
        with pytest.raises(StoreFrozenError):
            await store.save_event(save_of("a", 3))
        with pytest.raises(StoreFrozenError):
            await store.incremental_import([new_event(0)])
        with pytest.raises(StoreFrozenError):
            await import_lines(store, make_lines(1))
        async for _ in store.export_events(maintenance_mode=AUTO):
            pass
        assert (await store.describe()).is_frozen
        await store.unfreeze()
        await real.save(save_of("a", 3))
    assert_no_gap(await assert_both_agree(resolve, place))


async def test_the_freeze_of_a_running_export_keeps_the_real_adapter_out(
    resolve: ResolvePackages, written: str
) -> None:
    async with resolve(written) as real, open_store(written) as store:
        async with store.export_events(maintenance_mode=AUTO) as export:
            await anext(export)
            with pytest.raises(ResolveError, match="frozen"):
                await real.save(save_of("a", 1))
        await real.save(save_of("a", 1))


# upgrade


async def test_upgrade_leaves_the_real_adapter_working(resolve: ResolvePackages, written: str) -> None:
    async with open_store(written) as store:
        before = await exported(store)
        assert len(await store.upgrade()) == 1
        assert await store.upgrade() == []
        assert await exported(store) == before
    events = await assert_both_agree(resolve, written)
    async with resolve(written) as real:
        for version in (1, 2):
            await real.save(save_of("after", version, timestamp=FAR_FUTURE + 9000))
        await real.call("setSecret", "after", "key")
        await real.call(
            "incrementalImport", [new_event(i, timestamp=FAR_FUTURE + 9500 + i) for i in range(9)]
        )
        assert await real.call("deleteSecret", "after")
    assert len(await assert_both_agree_on_events(resolve, written)) == len(events) + 2 + 2 + 9
    async with resolve(written) as real:
        await real.call("importEvents", before.decode())
    assert await assert_both_agree(resolve, written) == events

"""Sync with changes: what is changed on its way comes over exactly once too."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from eventferry import (
    MANUAL,
    ChangeError,
    Changes,
    CursorAheadError,
    Event,
    EventStore,
    InputError,
    OtherChangesError,
    StoreBusyError,
    StoreReplacedError,
    TargetChangedError,
    UsageError,
    check,
    cutover,
    open_store,
    verify,
)
from eventferry.lines.source_lines import SourceLines
from eventferry.syncing import sync as syncing
from tests.support import NewUrl, all_pages, exported, import_lines, make_event, make_lines
from tests.support.restoring import heads_of


async def save(store: EventStore, name: str, version: int, **more: Any) -> None:
    event = {"type": "SAVED", "aggregateId": name, "aggregateVersion": version} | more
    await store.save_event(event, allow_gaps=True)


def evens_twice(event: Event) -> Iterable[Event]:
    """Of three types one is dropped, one becomes two, and one gets another aggregate."""
    if event.type == "TYPE_0":
        return []
    if event.type == "TYPE_1":
        return [event, event]
    return [Event(type="RENAMED", timestamp=event.timestamp, aggregate_id="one", payload=event.payload)]


async def are_as_changed(source: EventStore, target: EventStore, changes: Changes) -> bool:
    report = await verify(source.export_events(), target.export_events(), changes=changes, content=True)
    sound = await check(target)
    return report.equal and sound.sound and not (sound.missing_counters or sound.missing_versions)


async def test_a_changed_replica_is_filled_and_then_gets_what_is_new(new_url: NewUrl) -> None:
    changes = Changes(function=evens_twice)
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(700))
        report = await target.sync(source, changes=changes)
        assert (report.mode, report.read, report.events) == ("replica", 700, 2 * 233 + 233)
        assert report.bookmark == await source.bookmark()
        for version in range(1, 31):
            await save(source, f"new-{version % 3}", version, type=f"TYPE_{version % 3}")
        report = await target.sync(source, changes=changes)
        assert (report.read, report.events) == (30, 30)
        report = await target.sync(source, changes=changes)
        assert (report.read, report.events) == (0, 0)
        assert await are_as_changed(source, target, changes)
        assert (await heads_of(target))[0] == 699 + 30
        [status] = await target.sync_status(source)
        assert (status.events, status.lag_events, status.changes) == (729, 0, changes.digest)


@pytest.mark.parametrize("other", [None, "TYPE_1"])
async def test_a_fill_that_was_interrupted_goes_on_with_its_changes_and_begins_anew_with_others(
    new_url: NewUrl, other: str | None
) -> None:
    first = Changes(exclude_types=["TYPE_0"])
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        for store in (source, target):
            await store.init()
        await import_lines(source, make_lines(2_000))
        made = b"".join([block async for block in first(source.export_events())])
        stream = target.import_events()
        await stream.begin()
        await stream.write(b"".join(made.splitlines(keepends=True)[:900]))
        await stream._batches.commit()
        await stream.abort(asyncio.CancelledError())
        changes = first if other is None else Changes(exclude_types=[other])
        report = await target.sync(source, changes=changes)
        assert (report.read, report.events) == (2_000, 1_333)
        assert await are_as_changed(source, target, changes)


@pytest.mark.once
async def test_renumbering_goes_on_where_it_stopped(new_url: NewUrl) -> None:
    changes = Changes(exclude_types=["TYPE_0"])
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(300))
        await target.sync(source, changes=changes)
        for version in range(31, 41):
            await save(source, "aggregate-3", version, type="TYPE_0" if version % 2 else "TYPE_1")
            await target.sync(source, changes=changes)
        events = await all_pages(target, 1000)
        assert [event.thread_counter for event in events] == list(range(205))
        versions = [event.aggregate_version for event in events if event.aggregate_id == "aggregate-3"]
        assert versions == list(range(1, 26))


@pytest.mark.once
async def test_what_an_exception_of_the_function_says_is_not_kept_in_the_target(new_url: NewUrl) -> None:
    def fail(event: Event) -> Event:
        if event.type == "SAVED":
            raise KeyError(event.payload)
        return event

    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(3))
        await target.sync(source, changes=Changes(function=fail))
        await save(source, "a", 1, payload="ada@example.org")
        with pytest.raises(ChangeError, match=r"KeyError: 'ada@example\.org'"):
            await target.sync(source, changes=Changes(function=fail))
        [status] = await target.sync_status(source)
        assert status.problem is not None
        assert status.problem.startswith("ChangeError: the event at threadId ")
        assert status.problem.endswith("fail raised KeyError")


@pytest.mark.once
async def test_a_batch_of_which_nothing_comes_over_is_not_read_again(new_url: NewUrl) -> None:
    changes = Changes(event_types=["WANTED"])
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await target.sync(source, changes=changes)
        for version in range(1, 6):
            await save(source, "a", version)
        report = await target.sync(source, changes=changes)
        assert (report.read, report.events) == (5, 0)
        assert report.bookmark == await source.bookmark()
        report = await target.sync(source, changes=changes)
        assert report.read == 0
        await save(source, "a", 6, type="WANTED")
        assert (await target.sync(source, changes=changes)).events == 1
        [event] = await all_pages(target, 10)
        assert (event.aggregate_version, event.thread_counter) == (1, 0)


@pytest.mark.once
async def test_other_changes_over_a_half_copied_target_are_refused_by_name(new_url: NewUrl) -> None:
    first, other = Changes(exclude_types=["TYPE_0"]), Changes(exclude_types=["TYPE_1"])
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        await target.sync(source, changes=first)
        before = await exported(target)
        await save(source, "a", 1)
        with pytest.raises(OtherChangesError, match=r"begun with other changes .*holds 20 events of it"):
            await target.sync(source, changes=other)
        with pytest.raises(OtherChangesError, match="sync into an empty store"):
            await target.sync(source)
        assert await exported(target) == before
        assert (await target.sync(source, changes=Changes(exclude_types=["TYPE_0"]))).events == 1
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        await target.sync(source)
        with pytest.raises(OtherChangesError, match="begun without changes"):
            await target.sync(source, changes=other)


@pytest.mark.once
async def test_other_changes_are_fine_where_nothing_has_come_over(new_url: NewUrl) -> None:
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        assert (await target.sync(source, changes=Changes(event_types=["TYPO_0"]))).events == 0
        changes = Changes(event_types=["TYPE_0"])
        assert (await target.sync(source, changes=changes)).events == 10
        assert await are_as_changed(source, target, changes)


@pytest.mark.once
async def test_a_changed_replica_that_somebody_else_writes_to_stops_by_name(new_url: NewUrl) -> None:
    changes = Changes(event_types=["TYPE_0"])
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        await target.sync(source, changes=changes)
        await save(target, "mine", 1)
        await save(source, "theirs", 1, type="TYPE_0")
        with pytest.raises(TargetChangedError):
            await target.sync(source, changes=changes)
        assert (await target.describe()).event_count == 11


@pytest.mark.once
async def test_positions_are_kept_where_that_is_asked(new_url: NewUrl) -> None:
    changes = Changes(function=renamed, keep_positions=True)
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(300))
        await target.sync(source, changes=changes)
        for version in range(1, 9):
            await save(source, "new", version)
        await target.sync(source, changes=changes)
        assert await heads_of(target) == await heads_of(source)
        report = await verify(source.export_events(), target.export_events(), changes=changes)
        assert (report.equal, report.events) == (True, 308)


def renamed(event: Event) -> Event:
    return Event(
        type="RENAMED",
        timestamp=event.timestamp,
        aggregate_id=event.aggregate_id,
        payload=event.payload,
    )


@pytest.mark.once
async def test_a_merge_brings_changed_events_behind_those_of_the_target(new_url: NewUrl) -> None:
    changes = Changes(function=evens_twice)
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        for store in (source, target):
            await store.init()
        await import_lines(source, make_lines(60))
        for version in range(1, 4):
            await save(target, "one", version)
        with pytest.raises(UsageError, match="renumber"):
            await target.sync(source, mode="merge", changes=changes)
        for _ in range(2):
            await target.sync(source, mode="merge", same_aggregate="renumber", changes=changes)
        await save(source, "aggregate-1", 7, type="TYPE_2")
        await save(target, "one", 24)
        await target.sync(source, changes=changes)
        events = await all_pages(target, 100, aggregate_ids=["one"])
        assert sorted(event.aggregate_version for event in events) == list(range(1, 26))
        assert (await check(target)).sound


@pytest.mark.once
async def test_a_merge_puts_a_prefix_before_changed_aggregates(new_url: NewUrl) -> None:
    changes = Changes(function=evens_twice)
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        for store in (source, target):
            await store.init()
        await import_lines(source, make_lines(60))
        await save(target, "one", 1)
        await target.sync(source, mode="merge", same_aggregate="prefix=east-", changes=changes)
        await save(source, "aggregate-1", 7, type="TYPE_2")
        await target.sync(source, changes=changes)
        events = await all_pages(target, 100, aggregate_ids=["east-one"])
        assert [event.aggregate_version for event in events] == list(range(1, 22))


@pytest.mark.once
async def test_secrets_stay_behind_unless_they_are_asked_for(new_url: NewUrl) -> None:
    changes = Changes(exclude_types=["TYPE_0"])
    async with open_store(new_url()) as source:
        await source.init()
        await source.set_secret("one", "1")
        async with open_store(new_url()) as target:
            assert (await target.sync(source, changes=changes)).secrets == 0
            assert await target.get_secret("one") is None
        async with open_store(new_url()) as target:
            assert (await target.sync(source, changes=changes, with_secrets=True)).secrets == 1
            assert await target.get_secret("one") == "1"
            await source.set_secret("two", "2")
            assert (await target.sync(source, changes=changes, with_secrets=True)).secrets == 1


@pytest.mark.once
async def test_bookmarks_of_the_source_are_refused_in_a_changed_replica(new_url: NewUrl) -> None:
    changes = Changes(function=renamed, keep_positions=True)
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        report = await target.sync(source, changes=changes)
        with pytest.raises(StoreReplacedError, match="another store"):
            async for _ in target.export_events(since=report.bookmark):
                pass


@pytest.mark.once
async def test_a_changed_replica_cannot_take_over_for_its_source(new_url: NewUrl) -> None:
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        await target.sync(source, changes=Changes(event_types=["TYPE_0"]))
        with pytest.raises(OtherChangesError):
            await cutover(source, target)
        await save(source, "a", 1)


@pytest.mark.once
async def test_whoever_follows_changes_what_is_saved_meanwhile(new_url: NewUrl) -> None:
    changes = Changes(event_types=["SAVED"])
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(100))
        following = asyncio.create_task(target.sync(source, changes=changes, follow=True))
        for version in range(1, 21):
            await save(source, "live", version)
            await save(source, "other", version, type="OTHER")
        async with asyncio.timeout(30):
            while not await target.exists() or (await heads_of(target))[0] < 20:
                await asyncio.sleep(0.02)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        assert await are_as_changed(source, target, changes)


@pytest.mark.slow
async def test_of_two_syncs_at_once_each_changed_event_is_stored_by_one(
    new_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "PAGE_EVENTS", 20)
    monkeypatch.setattr(syncing, "BATCH_BYTES", 1)
    source_url, url = new_url(), new_url()
    changes = [Changes(function=evens_twice) for _ in range(2)]
    async with open_store(source_url) as source, open_store(url) as target, open_store(url) as other:
        await source.init()
        await target.sync(source, changes=changes[0])
        await import_lines(source, make_lines(600), maintenance_mode=MANUAL)
        async with asyncio.TaskGroup() as group:
            group.create_task(target.sync(source, changes=changes[0]))
            group.create_task(other.sync(source, changes=changes[1]))
        assert await are_as_changed(source, target, changes[0])


@pytest.mark.once
async def test_the_report_of_the_changes_counts_each_event_once_however_often_it_was_read(
    new_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_rows = syncing.Sync._store_rows
    failures = iter([True, False, True, True, False])

    async def fail_now_and_then(self: syncing.Sync, rows: Any, batch: SourceLines, bookmark: str) -> None:
        if batch.number and next(failures, False):
            raise StoreBusyError("somebody else writes")
        await store_rows(self, rows, batch, bookmark)

    changes = Changes(function=evens_twice)
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await target.sync(source, changes=changes)
        await import_lines(source, make_lines(30), maintenance_mode=MANUAL)
        monkeypatch.setattr(syncing.Sync, "_store_rows", fail_now_and_then)
        report = await target.sync(source, changes=changes)
        told = changes.report
        assert (report.read, report.events) == (told.read, told.written) == (30, 30)
        assert told.types_after == {"TYPE_1": 20, "RENAMED": 10}
        await target.sync(source, changes=changes)
        assert changes.report.read == 0


@pytest.mark.once
async def test_an_event_that_cannot_be_changed_is_named_and_nothing_of_its_batch_is_stored(
    new_url: NewUrl,
) -> None:
    changes = Changes(function=longer)
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        await target.sync(source, changes=changes)
        await save(source, "x" * 400, 1)
        for _ in range(2):
            with pytest.raises(InputError, match=r"aggregateId.*threadCounter 0"):
                await target.sync(source, changes=changes)
        assert changes.report.read == 0
        assert (await target.describe()).event_count == 30


def longer(event: Event) -> Event:
    return Event(
        type=event.type, timestamp=event.timestamp, aggregate_id=event.aggregate_id * 2, payload=event.payload
    )


@pytest.mark.once
async def test_a_source_that_lost_events_is_refused(new_url: NewUrl) -> None:
    changes = Changes(exclude_types=["TYPE_0"])
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        await target.sync(source, changes=changes)
        await import_lines(source, [make_event(i) for i in range(20)], replace=True)
        with pytest.raises((StoreReplacedError, CursorAheadError)):
            await target.sync(source, changes=changes)


@pytest.mark.once
async def test_what_a_sync_would_bring_is_told_and_nothing_is_stored(new_url: NewUrl) -> None:
    changes = Changes(event_types=["TYPE_0", "SAVED"])
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        preview = await target.preview_sync(source, changes=changes)
        assert not await target.exists()
        assert (preview.mode, preview.is_first, preview.read, preview.events) == ("replica", True, 30, 10)
        assert preview.types == {"TYPE_0": 10}
        assert [event.payload["number"] for event in preview.first] == [0, 3, 6]
        await target.sync(source, changes=changes)
        await save(source, "a", 1)
        await save(source, "a", 2, type="TYPE_1")
        before = await exported(target)
        preview = await target.preview_sync(source, changes=changes)
        assert (preview.is_first, preview.read, preview.types) == (False, 2, {"SAVED": 1})
        assert await exported(target) == before
        assert (await target.sync_status(source))[0].lag_events == 2
        with pytest.raises(OtherChangesError):
            await target.preview_sync(source)


@pytest.mark.once
async def test_what_a_sync_would_refuse_is_told_before_it_is_tried(new_url: NewUrl) -> None:
    changes = Changes(function=longer)
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(5))
        await save(source, "x" * 400, 1)
        preview = await target.preview_sync(source, mode="merge", same_aggregate="renumber", changes=changes)
        assert (preview.mode, preview.is_first, preview.events) == ("merge", True, 0)
        assert preview.trouble is not None
        assert "aggregateId" in preview.trouble
        preview = await target.preview_sync(source)
        assert (preview.events, preview.trouble) == (6, None)

"""Sync where something is in its way, or where it should never have been begun."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from eventferry import (
    MANUAL,
    AggregateConflictError,
    CutoverError,
    EventStore,
    SecretConflictError,
    StoreBusyError,
    StoreReplacedError,
    SyncReport,
    UsageError,
    cutover,
    open_store,
)
from eventferry.database import Freeze
from eventferry.lines.source_lines import SourceLines
from eventferry.secrets import Secret
from eventferry.state import syncs
from eventferry.state.syncs import Mode
from eventferry.syncing import cutover as cutting
from eventferry.syncing import secret_changes
from eventferry.syncing import sync as syncing
from eventferry.syncing.store_source import StoreSource
from eventferry.syncing.sync import Sync
from tests.conformance.test_sync import are_equal, save
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    NewUrl,
    Opened,
    all_pages,
    exported,
    import_lines,
    make_event,
    make_lines,
    raw,
)
from tests.support.restoring import heads_of, restore, save_more

MODES: tuple[Mode, ...] = ("replica", "merge")


@pytest.mark.once
async def test_a_store_is_not_synced_into_itself(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as source, open_store(url) as target:
        await source.init()
        for store in (source, target):
            with pytest.raises(UsageError, match="itself"):
                await store.sync(source)
        await save(source, "a", 1)
        for policy in ("refuse", "renumber", "prefix=x"):
            with pytest.raises(UsageError, match="itself"):
                await target.sync(source, mode="merge", same_aggregate=policy)
        assert (await source.describe()).event_count == 1


@pytest.mark.once
async def test_two_stores_do_not_feed_each_other(opened: Opened) -> None:
    async with opened() as one, opened() as other:
        await save(one, "a", 1)
        await save(other, "b", 1)
        await other.sync(one, mode="merge", same_aggregate="renumber")
        with pytest.raises(UsageError, match="loop"):
            await one.sync(other, mode="merge", same_aggregate="renumber")
        assert (await one.describe()).event_count == 1


@pytest.mark.once
async def test_a_chain_of_three_is_in_step(opened: Opened) -> None:
    async with opened() as first, opened() as second, opened() as third:
        await import_lines(first, make_lines(100))
        for round_ in range(3):
            await save(first, f"a-{round_}", 1)
            await first.set_secret(f"s-{round_}", "x")
            await second.sync(first)
            await third.sync(second)
            assert await are_equal(first, third)


@pytest.mark.once
async def test_nothing_was_brought_over_of_a_source_that_was_empty_until_it_was_imported(
    opened: Opened,
) -> None:
    for mode in MODES:
        async with opened() as source, opened() as target:
            assert (await target.sync(source, mode=mode)).events == 0
            await import_lines(source, make_lines(50))
            assert (await target.sync(source)).events == 50
            await save(source, "a", 1)
            assert (await target.sync(source)).events == 1
            await import_lines(source, make_lines(50))
            with pytest.raises(StoreReplacedError):
                await target.sync(source)


async def test_a_state_without_its_events_is_no_state(opened: Opened) -> None:
    """As a crash leaves it, where tables are renamed behind the transaction that holds the state."""
    async with opened() as source, opened() as target:
        await import_lines(source, make_lines(70))
        await target.sync(source)
        async with target._database.reading() as reading:
            [row] = await syncs.load(reading)
        await target.drop()
        await target.init()
        async with target._database.writing("exclusive") as writing:
            await syncs.make_table(writing)
        async with target._database.writing("exclusive") as writing:
            await syncs.save(writing, row.source, None, row.state)
        await save(source, "a", 1)
        assert (await target.sync(source)).events == 71
        assert [status.events for status in await target.sync_status()] == [71]
        assert await are_equal(source, target)


@pytest.mark.slow
async def test_of_two_that_fill_at_once_both_succeed(new_url: NewUrl) -> None:
    source_url, target_url = new_url(), new_url()
    async with open_store(source_url) as source:
        await source.init()
        await import_lines(source, make_lines(3_000))

    async def fill() -> int:
        async with open_store(source_url) as one, open_store(target_url) as other:
            return (await other.sync(one)).events

    assert sum(await asyncio.gather(fill(), fill(), fill())) == 3_000
    async with open_store(source_url) as source, open_store(target_url) as target:
        assert await are_equal(source, target)


async def test_one_that_finds_the_store_filled_when_it_begins_to_fill_goes_on_from_there(
    new_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_url, target_url = new_url(), new_url()
    fill = syncing.Sync._fill
    async with open_store(source_url) as source, open_store(target_url) as target:
        await source.init()
        await import_lines(source, make_lines(300))

        async def fill_and_be_overtaken(self: syncing.Sync, begun: syncs.SyncState) -> None:
            monkeypatch.setattr(syncing.Sync, "_fill", fill)
            async with open_store(source_url) as one, open_store(target_url) as other:
                assert (await other.sync(one)).events == 300
            await fill(self, begun)

        monkeypatch.setattr(syncing.Sync, "_fill", fill_and_be_overtaken)
        assert (await target.sync(source)).events == 0
        assert await are_equal(source, target)


@pytest.mark.slow
async def test_a_fill_that_was_interrupted_goes_on_although_the_source_has_grown(opened: Opened) -> None:
    for timestamp in (LONG_AGO - 1_000, FAR_FUTURE):
        async with opened() as source, opened() as target:
            await import_lines(source, make_lines(2_000))
            stream = target.import_events()
            await stream.begin()
            await stream.write(make_lines(900))
            await stream._batches.commit()
            await stream.abort(asyncio.CancelledError())
            await save(source, "a", 1, timestamp=timestamp)
            assert (await target.sync(source)).events == 2_001
            assert await are_equal(source, target)


@pytest.mark.once
async def test_whoever_follows_waits_until_its_frozen_target_is_thawed(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await target.sync(source)
        following = asyncio.create_task(target.sync(source, follow=True))
        await target.freeze()
        await save(source, "a", 1)
        await asyncio.sleep(0.8)
        assert (await target.describe()).event_count == 0
        [status] = await target.sync_status()
        assert status.problem is not None
        assert status.problem.startswith("StoreFrozenError")
        await target.unfreeze()
        async with asyncio.timeout(30):
            while not (await target.describe()).event_count:
                await asyncio.sleep(0.05)
        following.cancel()
        await asyncio.wait([following])
        [status] = await target.sync_status()
        assert status.problem is None


@pytest.mark.once
async def test_a_frozen_source_can_be_read(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, make_lines(10))
        await source.freeze()
        assert (await target.sync(source)).events == 10


@pytest.mark.slow
async def test_a_target_that_is_replaced_or_dropped_meanwhile_is_noticed(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, make_lines(10))
        await target.sync(source)
        for ruin in ("replace", "make anew"):
            assert (await target.sync(source)).events in (0, 11)
            following = asyncio.create_task(target.sync(source, follow=True))
            await asyncio.sleep(0.2)
            if ruin == "replace":
                await import_lines(target, make_lines(3))
            else:
                await target.drop()
                await target.init()
            await save(source, ruin, 1)
            if ruin == "replace":
                with pytest.raises(UsageError):
                    await following
                assert await exported(target) == make_lines(3)
                await target.drop()
            else:
                async with asyncio.timeout(30):
                    while (await target.describe()).event_count != 12:
                        await asyncio.sleep(0.05)
                following.cancel()
                await asyncio.wait([following])


@pytest.mark.once
async def test_one_thread_whose_clocks_go_back(opened: Opened) -> None:
    events = [
        make_event(i, threadId=9, threadCounter=i, timestamp=FAR_FUTURE - i * 1_000) for i in range(200)
    ]
    async with opened() as source, opened() as target, opened() as whole:
        await import_lines(source, events[:100])
        await target.sync(source)
        await whole.sync(source, mode="merge")
        await import_lines(source, events[100:], maintenance_mode=MANUAL)
        await target.sync(source)
        await whole.sync(source)
        assert await are_equal(source, target)
        assert [event.payload for event in await all_pages(whole, 50)] == [
            event["payload"] for event in events
        ]


@pytest.mark.slow
async def test_huge_events_come_over(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        for number in range(3):
            await save(source, "huge", number + 1, payload="é" * 3_000_000)
        await target.sync(source)
        for number in range(3):
            await save(source, "huge", number + 4, payload="é" * 3_000_000)
        assert (await target.sync(source)).events == 3
        assert await are_equal(source, target)


@pytest.mark.once
async def test_secrets_of_two_sources_with_the_same_places_are_all_kept(opened: Opened) -> None:
    async with opened() as one, opened() as two, opened() as whole:
        for number in range(3):
            await one.set_secret(f"one-{number}", "1")
            await two.set_secret(f"two-{number}", "2")
            for store in (one, two):
                await whole.sync(store, mode="merge")
        await one.delete_secret("one-1")
        await whole.sync(one)
        assert await whole.get_secret("one-1") is None
        assert [await whole.get_secret(f"two-{number}") for number in range(3)] == ["2"] * 3


@pytest.mark.once
async def test_table_names_of_ones_own(new_url: NewUrl) -> None:
    names: dict[str, Any] = {
        "events_table_name": "Ereignisse",
        "secrets_table_name": "Select",
        "snapshots_table_name": "Übersicht",
    }
    async with open_store(new_url(), **names) as source, open_store(new_url(), **names) as target:
        await source.init()
        await import_lines(source, make_lines(30))
        await source.set_secret("a", "b")
        await target.sync(source)
        await save(source, "more", 1)
        assert (await target.sync(source)).events == 1
        assert await are_equal(source, target)


async def test_another_programs_table_is_left_alone(new_url: NewUrl) -> None:
    url = new_url()
    raw.run(
        url, 'CREATE TABLE "events-sync" (note VARCHAR(20))', "INSERT INTO \"events-sync\" VALUES ('theirs')"
    )
    async with open_store(new_url()) as source, open_store(url) as target:
        await source.init()
        with pytest.raises(Exception, match="events-sync"):
            await target.sync(source)
        assert await target.sync_status() == [] if await target.exists() else True
    assert raw.run(url, 'SELECT note FROM "events-sync"') == [("theirs",)]


@pytest.mark.once
async def test_a_cutover_that_is_cancelled_at_the_freeze_leaves_the_source_as_it_was(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as source, opened() as target:
        await save(source, "a", 1)
        await target.sync(source)
        run, runs = Sync.run, 0

        async def run_once(self: Sync, *, follow: bool) -> SyncReport:
            nonlocal runs
            runs += 1
            if runs == 2:
                raise asyncio.CancelledError
            return await run(self, follow=follow)

        monkeypatch.setattr(Sync, "run", run_once)
        task = asyncio.create_task(cutover(source, target))
        await asyncio.wait([task])
        assert task.cancelled()
        await save(source, "a", 2)


async def test_a_state_that_cannot_be_saved_takes_the_events_of_its_batch_with_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> str:
        raise SecretConflictError("it cannot")

    for mode in MODES:
        async with opened() as source, opened() as target:
            await import_lines(source, make_lines(20))
            await target.sync(source, mode=mode)
            await save(source, "a", 1)
            with monkeypatch.context() as patch:
                patch.setattr(syncs, "save", fail)
                with pytest.raises(SecretConflictError):
                    await target.sync(source)
            assert (await target.describe()).event_count == 20
            assert (await target.sync(source)).events == 1
            assert (await target.describe()).event_count == 21


async def test_a_batch_that_another_has_stored_since_it_was_read_is_not_stored_again(
    new_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by one who was paused for a day."""
    store_it = syncing.Sync._store
    for mode in MODES:
        source_url, target_url = new_url(), new_url()
        async with open_store(source_url) as source, open_store(target_url) as target:
            await source.init()
            await import_lines(source, make_lines(20))
            await target.sync(source, mode=mode)
            await save(source, "a", 1)

            async def overtaken(
                self: syncing.Sync,
                batch: SourceLines,
                bookmark: str,
                urls: tuple[str, str] = (source_url, target_url),
            ) -> None:
                monkeypatch.setattr(syncing.Sync, "_store", store_it)
                async with open_store(urls[0]) as one, open_store(urls[1]) as other:
                    assert (await other.sync(one)).events == 1
                await store_it(self, batch, bookmark)

            monkeypatch.setattr(syncing.Sync, "_store", overtaken)
            assert (await target.sync(source)).events == 0
            assert (await target.describe()).event_count == 21


@pytest.mark.once
async def test_events_come_over_between_pages_of_secrets(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_changes, "_PAGE", 5)
    monkeypatch.setattr(secret_changes, "LOOK_AFTER", 0.0)
    bring, seen = secret_changes.SecretChanges._bring, []
    async with opened() as source, opened() as target:
        await target.sync(source, mode="merge")

        async def bring_and_save(self: secret_changes.SecretChanges, rows: Sequence[Secret]) -> None:
            await bring(self, rows)
            seen.append((await target.describe()).event_count)
            await save(source, "between", len(seen))

        monkeypatch.setattr(secret_changes.SecretChanges, "_bring", bring_and_save)
        async with source.import_secrets() as imported:
            await imported.write(
                b"".join(b'{"secret":"x","id":"s-%d","idx":%d}\n' % (i, i) for i in range(23))
            )
        following = asyncio.create_task(target.sync(source, follow=True))
        async with asyncio.timeout(30):
            while (await target.describe()).event_count < 5:
                await asyncio.sleep(0.02)
        following.cancel()
        await asyncio.wait([following])
        assert seen[:5] == [0, 1, 2, 3, 4]
        assert await target.get_secret("s-22") == "x"


async def test_the_state_of_a_first_fill_is_there_with_its_events(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object) -> None:
        raise RuntimeError("the process has died")

    async with opened() as source, opened() as target:
        await import_lines(source, make_lines(20))
        with monkeypatch.context() as patch:
            patch.setattr(Sync, "_store", die)
            with pytest.raises(RuntimeError, match="died"):
                await target.sync(source)
        [status] = await target.sync_status()
        assert status.events == (await target.describe()).event_count == 20
        assert (await target.sync(source)).events == 0
        await save(source, "a", 1)
        assert (await target.sync(source)).events == 1


@pytest.mark.once
async def test_whoever_merges_from_a_store_goes_on_with_its_replica_after_a_cutover(opened: Opened) -> None:
    async with opened() as old, opened() as new, opened() as whole:
        await save(old, "a", 1)
        assert (await whole.sync(old, mode="merge", same_aggregate="renumber")).events == 1
        await cutover(old, new)
        await save(new, "a", 2)
        assert (await whole.sync(new)).events == 1
        assert (await whole.sync(new)).events == 0
        assert (await whole.describe()).event_count == 2


@pytest.mark.once
async def test_a_cutover_that_dies_leaves_no_freeze(new_url: NewUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process that was killed leaves: a freeze whose owner is gone."""
    url = new_url()
    async with open_store(url) as source, open_store(new_url()) as target:
        await source.init()

        async def die(*_: object) -> str:
            [owner] = {(await reading_freeze(source)).owner}
            assert owner is not None, "until the end it is the operation's"
            raise CutoverError("it ends here")

        monkeypatch.setattr(cutting, "_compare", die)
        with pytest.raises(CutoverError):
            await cutover(source, target)
        await save(source, "a", 1)


async def reading_freeze(store: EventStore) -> Freeze:
    async with store._database.reading() as reading:
        marker = await reading.freeze()
    assert marker is not None
    return marker


@pytest.mark.once
async def test_a_new_store_in_the_place_of_one_that_moved_is_another_source(opened: Opened) -> None:
    async with opened() as first, opened() as second, opened() as whole:
        await save(first, "a", 1)
        await save(second, "b", 1)
        await whole.sync(first, mode="merge")
        assert (await whole.sync(second, mode="merge")).events == 1
        assert len(await whole.sync_status()) == 2


@pytest.mark.once
async def test_an_aggregate_of_the_target_is_not_taken_for_the_sources(opened: Opened) -> None:
    """Its last version is the one before the version that comes, but of another history."""
    async with opened() as source, opened() as target:
        await save(target, "x", 1)
        await save(source, "x", 2)
        with pytest.raises(AggregateConflictError):
            await target.sync(source, mode="merge")
        assert (await target.describe()).event_count == 1


@pytest.mark.once
async def test_nothing_is_merged_into_a_replica(opened: Opened) -> None:
    async with opened() as source, opened() as other, opened() as target:
        await save(source, "a", 1)
        await save(other, "b", 1)
        await target.sync(source)
        with pytest.raises(UsageError):
            await target.sync(other, mode="merge")
        await save(source, "a", 2)
        assert (await target.sync(source)).events == 1


@pytest.mark.once
async def test_the_status_tells_of_a_source_that_was_restored(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(new_url()) as target:
        async with open_store(url) as source:
            await source.init()
            backup = await heads_of(source)
            await save_more(url, 5, "lost")
            await target.sync(source)
        restore(url, backup)
        async with open_store(url) as source:
            [status] = await target.sync_status(source)
            assert status.problem is not None
            assert status.problem.startswith(f"CursorAheadError: the source {status.source} is behind what")
            assert (status.lag_events, status.lag_seconds) == (None, None)


@pytest.mark.slow
@pytest.mark.once
async def test_one_sync_ends_though_writers_are_faster(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as source, opened() as target:
        await target.sync(source, mode="merge")
        for version in range(1, 31):
            await save(source, "a", version)
        is_over = False

        async def write() -> None:
            version = 30
            while not is_over:
                version += 1
                await save(source, "a", version)

        writing = asyncio.create_task(write())
        async with asyncio.timeout(60):
            report = await target.sync(source, rate=20)
        is_over = True
        await writing
        assert report.events >= 30


async def test_secrets_come_to_a_target_that_was_made_anew_meanwhile(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await source.set_secret("one", "1")
        syncing = Sync(StoreSource(source._database), target._database)
        await syncing.run(follow=False)
        await target.drop()
        await syncing.run(follow=False)
        assert await target.get_secret("one") == "1"


@pytest.mark.once
async def test_one_that_does_not_get_on_gives_up(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """On MySQL each attempt at a fill writes a state, although its tables cannot be put in their place."""
    begin, count = syncing.Sync._begin, 0

    async def begin_and_fail(self: syncing.Sync) -> syncs.SyncState:
        nonlocal count
        count += 1
        assert count < 10
        state = await begin(self)
        self._state = msgspec.structs.replace(state, at=count)
        raise StoreBusyError("somebody else holds it")

    monkeypatch.setattr(syncing, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(syncing.Sync, "_begin", begin_and_fail)
    async with opened() as source, opened() as target:
        with pytest.raises(StoreBusyError):
            await target.sync(source)
        assert count == 3


async def test_a_secret_whose_row_goes_when_it_is_deleted_is_deleted_in_the_target(new_url: NewUrl) -> None:
    """As in tables that reSolve made on MySQL, which cannot hold a tombstone."""
    url = new_url()
    async with open_store(url) as source, open_store(new_url()) as target:
        await source.init()
        await source.set_secret("gone", "1")
        await source.set_secret("kept", "2")
        await target.sync(source)
        await source.delete_secret("gone")
        raw.run(url, "DELETE FROM \"secrets\" WHERE id = 'gone'")
        await target.sync(source)
        assert await target.get_secret("gone") is None
        assert await target.get_secret("kept") == "2"
        await cutover(source, target)

"""Sync: a store is kept in step with another exactly once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from eventferry import (
    MANUAL,
    AggregateConflictError,
    CursorAheadError,
    EventStore,
    StoreFrozenError,
    StoreReplacedError,
    TargetChangedError,
    UsageError,
    open_store,
    verify,
    verify_secrets,
)
from eventferry.syncing import sync as syncing
from tests.support import (
    LONG_AGO,
    NewUrl,
    Opened,
    all_pages,
    exported,
    import_lines,
    make_event,
    make_lines,
)
from tests.support.restoring import heads_of, restore, save_more


async def save(store: EventStore, name: str, version: int, **more: Any) -> None:
    event = {"type": "SAVED", "aggregateId": name, "aggregateVersion": version} | more
    await store.save_event(event, allow_gaps=True)


async def are_equal(one: EventStore, other: EventStore) -> bool:
    report = await verify(one.export_events(), other.export_events())
    secrets = await verify_secrets(one.export_secrets(tombstones=True), other.export_secrets(tombstones=True))
    return report.equal and secrets.equal


# replicas


async def test_a_replica_is_filled_and_then_gets_what_is_new(new_url: NewUrl) -> None:
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(700))
        report = await target.sync(source)
        assert (report.mode, report.events) == ("replica", 700)
        assert report.bookmark == await source.bookmark()
        for version in range(1, 41):
            await save(source, f"new-{version % 3}", version, timestamp=4_000_000_000_000 * (version % 2))
        assert (await target.sync(source)).events == 40
        assert (await target.sync(source)).events == 0
        assert await exported(target) == await exported(source)
        assert await heads_of(target) == await heads_of(source)


@pytest.mark.once
async def test_an_empty_source_makes_an_empty_replica_that_can_grow(new_url: NewUrl) -> None:
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        assert (await target.sync(source)).events == 0
        bookmark = await target.bookmark()
        assert (await target.sync(source)).events == 0
        assert await target.bookmark() == bookmark, "it is filled once"
        await save(source, "a", 1)
        assert (await target.sync(source)).events == 1
        assert await are_equal(source, target)


async def test_events_with_gaps_keep_their_positions_and_versions(opened: Opened) -> None:
    gaps = [
        make_event(i, threadCounter=3 * i, threadId=7, aggregateId="gaps", aggregateVersion=5 * i + 2)
        for i in range(50)
    ]
    async with opened() as source, opened() as target:
        await import_lines(source, gaps[:30])
        await target.sync(source)
        await import_lines(source, gaps[30:], maintenance_mode=MANUAL)
        assert (await target.sync(source)).events == 20
        assert await exported(target) == await exported(source)


async def test_whoever_follows_gets_what_is_saved_within_a_moment(new_url: NewUrl) -> None:
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(100))
        following = asyncio.create_task(target.sync(source, follow=True))
        for version in range(1, 31):
            await save(source, "live", version)
            await asyncio.sleep(0.005)
        async with asyncio.timeout(20):
            while not await target.exists() or await heads_of(target) != await heads_of(source):
                await asyncio.sleep(0.02)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        assert await are_equal(source, target)


async def test_secrets_come_with_their_events_and_go_with_their_deletion(new_url: NewUrl) -> None:
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await source.set_secret("one", "1")
        await source.set_secret("two", "2")
        report = await target.sync(source)
        assert (report.events, report.secrets) == (2, 2)
        await source.set_secret("three", "3")
        await source.delete_secret("one")
        report = await target.sync(source)
        assert (report.events, report.secrets) == (2, 2)
        assert await target.get_secret("one") is None
        assert await target.get_secret("three") == "3"
        await source.import_secrets().close()
        async with source.import_secrets() as imported:
            await imported.write(b'{"secret":"4","id":"four","idx":9}\n')
        assert (await target.sync(source)).secrets == 1
        assert await are_equal(source, target)


@pytest.mark.once
async def test_secrets_can_be_left_out(new_url: NewUrl) -> None:
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await source.set_secret("one", "1")
        await target.sync(source, with_secrets=False)
        assert await target.get_secret("one") is None
        assert (await target.describe()).event_count == 1


async def test_somebody_elses_event_in_a_replica_stops_it_by_name(new_url: NewUrl) -> None:
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(20))
        await target.sync(source)
        await save(target, "mine", 1)
        await save(source, "theirs", 1)
        with pytest.raises(TargetChangedError):
            await target.sync(source)
        assert (await target.describe()).event_count == 21
        [status] = await target.sync_status(source)
        assert status.problem is not None
        assert status.problem.startswith("TargetChangedError")
        assert status.lag_events == 1


@pytest.mark.once
async def test_a_store_that_holds_events_does_not_become_a_replica(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await import_lines(target, make_lines(5))
        with pytest.raises(UsageError):
            await target.sync(source)
        assert await exported(target) == make_lines(5)


async def test_a_source_that_was_replaced_or_restored_stops_it_by_name(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(new_url()) as target, open_store(new_url()) as other:
        async with open_store(url) as source:
            await source.init()
            await import_lines(source, make_lines(50))
            backup = await heads_of(source)
            await save_more(url, 20, "lost")
            await target.sync(source)
            await other.sync(source, mode="merge")
            before = await exported(target)
            place = (await target.sync_status())[0].source
        restore(url, backup)
        async with open_store(url) as source:
            for call in (target.sync, other.sync, target.preview_sync):
                with pytest.raises(CursorAheadError) as ahead:
                    await call(source)
                assert not ahead.value.is_standby
                is_told_well(str(ahead.value), place, f"ends at {ahead.value.head}: a backup was restored")
            await save_more(url, 60, "lost")
            for call in (target.sync, other.sync, target.preview_sync):
                with pytest.raises(StoreReplacedError) as replaced:
                    await call(source)
                is_told_well(str(replaced.value), place, "is not what was synced before")
            await import_lines(source, make_lines(500))
            for call in (target.sync, other.sync):
                with pytest.raises(StoreReplacedError) as replaced:
                    await call(source)
                is_told_well(str(replaced.value), place, "have been replaced since the last sync")
        assert await exported(target) == before


def is_told_well(told: str, place: str, why: str) -> None:
    """Whether an error of a sync names the source, says what it found, and what can be done."""
    assert told.startswith(f"the source {place} is ")
    assert why in told
    assert (
        "Nothing was changed: the target is whole as it was at its last batch. If the source was restored"
        in told
    )
    assert told.endswith("restore it again; otherwise sync into an empty store to begin anew")


@pytest.mark.once
async def test_a_standby_that_lags_behind_what_was_synced_may_catch_up(
    new_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_url()
    monkeypatch.setattr(syncing, "RETRY_SECONDS", (0.01,))
    async with open_store(url) as source, open_store(new_url()) as target:
        await source.init()
        behind = await heads_of(source)
        await save(source, "a", 1)
        await target.sync(source)
        restore(url, behind)
        async with source._database.reading() as reading:
            monkeypatch.setattr(type(reading.dialect), "is_standby", "TRUE")
        with pytest.raises(CursorAheadError) as refused:
            await target.sync(source)
        assert refused.value.is_standby
        assert "it is a standby, which may lag behind. Nothing was changed" in str(refused.value)
        assert str(refused.value).endswith("Try again later")


@pytest.mark.once
async def test_a_frozen_target_is_left_alone(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await target.sync(source)
        await save(source, "a", 1)
        await target.freeze()
        with pytest.raises(StoreFrozenError):
            await target.sync(source)
        await target.unfreeze()
        assert (await target.sync(source)).events == 1


@pytest.mark.once
async def test_a_bookmark_of_the_source_is_good_in_its_replica(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, make_lines(100))
        page = await source.load_events(limit=60, since=None)
        await target.sync(source)
        rest = await target.load_events(limit=100, since=page.bookmark)
        assert len(rest.events) == 40
        assert (await source.load_events(limit=100, since=page.bookmark)).events == rest.events
        await import_lines(target, make_lines(100))
        with pytest.raises(StoreReplacedError):
            await target.load_events(limit=100, since=page.bookmark)


@pytest.mark.slow
async def test_of_two_that_run_at_once_each_batch_is_stored_by_one(new_url: NewUrl) -> None:
    source_url, target_url = new_url(), new_url()
    async with open_store(source_url) as source, open_store(target_url) as target:
        await source.init()
        await import_lines(source, make_lines(100))
        await target.sync(source)

        async def again() -> int:
            async with open_store(source_url) as one, open_store(target_url) as other:
                return (await other.sync(one)).events

        for round_ in range(5):
            await save_more_at(source, round_)
            await asyncio.gather(again(), again(), again())
        assert await are_equal(source, target)


async def save_more_at(store: EventStore, round_: int) -> None:
    for version in range(10):
        await save(store, f"round-{round_}", version + 1)


@pytest.mark.slow
async def test_it_goes_on_where_a_cancelled_one_was(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "BATCH_EVENTS", 8)
    chance = random.Random(3)
    async with opened() as source, opened() as target:
        await save(source, "first", 1)
        await target.sync(source)
        for number in range(140):
            await save(source, f"a-{number % 7}", number // 7 + 1)
        is_over, patience = False, 0.05
        while not is_over:
            patience *= 1.2  # a server may take longer to say what is new than the first are given
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.random() * patience):
                    await target.sync(source)
                    is_over = True
        await target.sync(source)
        assert await are_equal(source, target)


# merges


@pytest.mark.parametrize("minutes", [5, pytest.param(25, marks=pytest.mark.slow)])
async def test_two_regions_are_merged_again_and_again(opened: Opened, minutes: int) -> None:
    """Their clocks are five seconds apart; each aggregate keeps its order and its versions."""
    async with opened() as east, opened() as west, opened() as whole:
        for minute in range(minutes):
            for region, name, skew in ((east, "east", 0), (west, "west", -5_000)):
                for i in range(40):
                    number = minute * 40 + i
                    await save(
                        region,
                        f"{name}-{i % 4}",
                        number // 4 + 1,
                        timestamp=4_000_000_000_000 + minute * 60_000 + i * 1_000 + skew,
                        payload={"number": number},
                    )
            assert (await whole.sync(east, mode="merge")).events == 40
            assert (await whole.sync(west, mode="merge")).events == 40
        events = await all_pages(whole, 77)
        assert len(events) == 80 * minutes
        for region in (east, west):
            saved = await all_pages(region, 1_000)
            for name in {event.aggregate_id for event in saved}:
                theirs = [e for e in saved if e.aggregate_id == name]
                ours = [event for event in events if event.aggregate_id == name]
                assert [(e.aggregate_version, e.payload, e.timestamp) for e in ours] == [
                    (e.aggregate_version, e.payload, e.timestamp) for e in theirs
                ]
        assert {status.mode for status in await whole.sync_status()} == {"merge"}
        assert [status.events for status in await whole.sync_status()] == [40 * minutes] * 2


@pytest.mark.once
async def test_a_store_with_events_of_its_own_gets_those_of_another(opened: Opened) -> None:
    async with opened() as source, opened() as staging:
        await save(staging, "mine", 1)
        await import_lines(source, make_lines(30))
        assert (await staging.sync(source, mode="merge")).events == 30
        await save(staging, "mine", 2)
        await save(source, "aggregate-3", 4, timestamp=LONG_AGO)
        assert (await staging.sync(source)).events == 1
        assert (await staging.sync(source)).events == 0
        assert (await staging.describe()).event_count == 33


@pytest.mark.once
async def test_an_aggregate_that_lives_on_both_sides_is_refused(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await save(source, "shared", 1)
        await save(source, "theirs", 1)
        await save(target, "shared", 1)
        with pytest.raises(AggregateConflictError) as refused:
            await target.sync(source, mode="merge")
        assert refused.value.aggregate_id == "shared"
        assert (await target.describe()).event_count == 1


@pytest.mark.once
async def test_an_aggregate_to_which_the_target_adds_later_is_refused_then(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await save(source, "shared", 1)
        await target.sync(source, mode="merge")
        await save(target, "shared", 2)
        await save(source, "shared", 2)
        with pytest.raises(AggregateConflictError):
            await target.sync(source)
        assert (await target.describe()).event_count == 2


@pytest.mark.once
async def test_an_aggregate_that_lives_on_both_sides_is_renumbered_if_asked(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        for version in (1, 2):
            await save(source, "shared", version, payload=f"theirs {version}")
        await save(target, "shared", 1, payload="mine 1")
        assert (await target.sync(source, mode="merge", same_aggregate="renumber")).renumbered == 2
        await save(target, "shared", 4, payload="mine 4")
        await save(source, "shared", 3, payload="theirs 3")
        assert (await target.sync(source)).renumbered == 1
        events = sorted(await all_pages(target, 10), key=lambda event: event.aggregate_version)
        assert [(event.aggregate_version, event.payload) for event in events] == [
            (1, "mine 1"),
            (2, "theirs 1"),
            (3, "theirs 2"),
            (4, "mine 4"),
            (5, "theirs 3"),
        ]


@pytest.mark.once
async def test_the_aggregates_of_a_source_get_a_prefix_if_asked(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await save(source, "shared", 1)
        await save(target, "shared", 1)
        await target.sync(source, mode="merge", same_aggregate="prefix=east-")
        await save(source, "shared", 2)
        await target.sync(source)
        found = sorted((event.aggregate_id, event.aggregate_version) for event in await all_pages(target, 10))
        assert found == [("east-shared", 1), ("east-shared", 2), ("shared", 1)]


@pytest.mark.once
async def test_versions_with_gaps_are_merged_as_they_are(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        for version in (2, 5, 9):
            await save(source, "gaps", version)
        await target.sync(source, mode="merge")
        for version in (12, 13, 40):
            await save(source, "gaps", version)
        await target.sync(source)
        assert [event.aggregate_version for event in await all_pages(target, 10)] == [2, 5, 9, 12, 13, 40]


@pytest.mark.once
async def test_a_sync_that_refuses_can_begin_to_renumber(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await save(source, "shared", 1)
        await target.sync(source, mode="merge")
        await save(target, "shared", 2)
        await save(source, "shared", 2)
        with pytest.raises(AggregateConflictError):
            await target.sync(source)
        assert (await target.sync(source, same_aggregate="renumber")).events == 1
        await save(source, "shared", 3)
        assert (await target.sync(source)).events == 1
        with pytest.raises(UsageError):
            await target.sync(source, same_aggregate="refuse")


@pytest.mark.once
async def test_other_options_than_the_last_time_are_refused(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await target.sync(source, mode="merge", same_aggregate="renumber")
        for options in ({"mode": "replica"}, {"same_aggregate": "refuse"}, {"same_aggregate": "prefix=x"}):
            with pytest.raises(UsageError):
                await target.sync(source, **options)  # type: ignore[arg-type]
        await target.sync(source, mode="merge", same_aggregate="renumber")


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "copy"},
        {"same_aggregate": "prefix="},
        {"same_aggregate": "drop"},
        {"same_aggregate": "refuse=x"},
        {"rate": 0},
        {"rate": 1.5},
        {"rate": True},
        {"same_aggregate": "renumber"},
    ],
)
async def test_wrong_options_are_refused_by_name(opened: Opened, options: dict[str, Any]) -> None:
    async with opened() as source, opened() as target:
        with pytest.raises(UsageError):
            await target.sync(source, **options)


@pytest.mark.once
async def test_a_rate_is_kept(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await target.sync(source)
        await import_lines(source, make_lines(1))
    async with opened() as source, opened() as target:
        for version in range(1, 61):
            await save(source, "a", version)
        began = asyncio.get_running_loop().time()
        await target.sync(source, mode="merge", rate=40)
        assert asyncio.get_running_loop().time() - began > 1.2


@pytest.mark.once
async def test_the_status_tells_how_far_behind_it_is(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        assert await target.sync_status() == []
        await save(source, "a", 1)
        await target.sync(source)
        [status] = await target.sync_status(source)
        assert (status.lag_events, status.lag_seconds, status.problem) == (0, 0, None)
        await save(source, "a", 2)
        await asyncio.sleep(0.05)
        [status] = await target.sync_status(source)
        assert status.lag_events == 1
        assert status.lag_seconds is not None
        assert 0.04 < status.lag_seconds < 60
        assert status.events == 1


@pytest.mark.once
async def test_a_problem_is_forgotten_when_it_goes_well_again(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await save(source, "a", 1)
        await target.sync(source)
        await save(source, "a", 2)
        await target.freeze()
        with pytest.raises(StoreFrozenError):
            await target.sync(source)
        [status] = await target.sync_status(source)
        assert status.problem is not None
        await target.unfreeze()
        await target.sync(source)
        [status] = await target.sync_status(source)
        assert status.problem is None


@pytest.mark.once
async def test_a_store_is_not_synced_into_itself(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as one, open_store(url) as same:
        await one.init()
        await save(one, "a", 1)
        for mode in ("replica", "merge"):
            with pytest.raises(UsageError):
                await same.sync(one, mode=mode)
        assert (await one.describe()).event_count == 1


async def test_a_store_that_is_dropped_takes_the_state_with_it(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await save(source, "a", 1)
        await target.sync(source)
        await target.drop()
        assert (await target.sync(source)).events == 1
        assert await are_equal(source, target)

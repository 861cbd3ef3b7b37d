"""Saves that meet share a transaction, and none of them notices the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventferry import (
    MANUAL,
    ConcurrentError,
    Event,
    EventStore,
    InputError,
    StoreFrozenError,
    StoreNotFoundError,
    open_store,
)
from eventferry import cursor as vector
from eventferry.results import SavedEvent
from tests.support import FAR_FUTURE, NewUrl, Opened, all_pages, examples, import_lines, line, make_event


def event_of(aggregate: str, version: int, **changes: Any) -> dict[str, Any]:
    return {"type": "T", "aggregateId": aggregate, "aggregateVersion": version} | changes


async def save_together(store: EventStore, events: list[dict[str, Any]]) -> list[Any]:
    """What became of each. The first go alone, the others together, for they come while those are under way."""
    found: list[Any] = await asyncio.gather(*map(store.save_event, events), return_exceptions=True)
    return found


def check_no_gaps(events: list[Event]) -> None:
    heads: Counter[int] = Counter()
    for event in sorted(events, key=lambda event: event.thread_counter):
        assert event.thread_counter == heads[event.thread_id]
        heads[event.thread_id] += 1


async def test_saves_that_meet_are_committed_at_once(opened: Opened) -> None:
    async with opened() as store:
        saved = await save_together(store, [event_of(f"a{i}", 1) for i in range(40)])
        commits = Counter(each.cursor for each in saved)
        # The first ones go alone, and so does one whose thread got a later event from the group beside its own.
        assert len(commits) <= 12
        assert max(commits.values()) >= 10
        assert max(sum(vector.decode(cursor)) for cursor in commits) == 40
        check_no_gaps(await all_pages(store, 50))


async def test_versions_of_an_aggregate_that_meet_are_stored_in_the_order_in_which_they_came(
    opened: Opened,
) -> None:
    events = [event_of(f"a{number % 7}", 1 + number // 7) for number in range(280)]
    async with opened() as store:
        await save_together(store, events)
        found = await all_pages(store, 300)
        assert len(found) == 280
        for aggregate in range(7):
            versions = [e.aggregate_version for e in found if e.aggregate_id == f"a{aggregate}"]
            assert versions == list(range(1, 41))


async def test_those_of_one_group_that_are_refused_don_t_touch_the_others(opened: Opened) -> None:
    async with opened() as store:
        await store.save_event(event_of("taken", 1))
        events = [event_of(f"a{i}", 1) for i in range(20)]
        events[5] = event_of("taken", 1)
        events[9] = event_of("b" * 701, 1)
        events[13] = event_of("a3", 1, payload="another")
        saved = await save_together(store, events)
        refused = {number: type(one) for number, one in enumerate(saved) if isinstance(one, Exception)}
        assert refused == {5: ConcurrentError, 9: InputError, 13: ConcurrentError}
        assert (saved[5].aggregate_id, saved[5].aggregate_version) == ("taken", 1)
        assert saved[13].aggregate_id == "a3"
        stored = await all_pages(store, 50)
        kept = [one.event for one in saved if isinstance(one, SavedEvent)]
        assert len(stored) == 18
        assert all(event in stored for event in kept)
        check_no_gaps(stored)


async def test_one_group_can_hold_the_versions_of_one_aggregate_and_events_that_belong_elsewhere(
    opened: Opened,
) -> None:
    async with opened() as store:
        await store.save_event(event_of("a", 1, timestamp=FAR_FUTURE))
        events = [event_of("a", version, timestamp=FAR_FUTURE) for version in range(2, 9)]
        events += [event_of("a", version) for version in range(9, 12)]
        events += [event_of(f"b{i}", 1, timestamp=FAR_FUTURE - i) for i in range(9)]
        saved = await save_together(store, [event_of("first", 1), *events])
        assert [type(one) for one in saved] == [SavedEvent] * 20
        stored = await all_pages(store, 7)
        assert len(stored) == 21
        check_no_gaps(stored)
        at_once = [event.aggregate_version for event in stored if event.timestamp == FAR_FUTURE][:8]
        assert sorted(at_once) == at_once


@pytest.mark.once
async def test_events_too_large_for_one_group_go_in_several(opened: Opened) -> None:
    async with opened() as store:
        saved = await save_together(store, [event_of(f"a{i}", 1, payload="x" * 400_000) for i in range(12)])
        assert [len(one.event.payload) for one in saved] == [400_000] * 12
        assert 4 < len({one.cursor for one in saved}) < 12
        check_no_gaps(await all_pages(store, 50))


async def test_a_thousand_saves_at_once_are_all_stored(opened: Opened) -> None:
    async with opened() as store:
        saved = await save_together(store, [event_of(f"a{i % 700}", i // 700 + 1) for i in range(1000)])
        assert [type(one) for one in saved] == [SavedEvent] * 1000
        # A dozen on a quiet machine; on a loaded one the groups are smaller, and still far from one a save.
        assert len({one.cursor for one in saved}) < 500
        check_no_gaps(await all_pages(store, 500))


# callers that are cancelled


async def test_a_caller_who_is_cancelled_while_he_waits_is_not_stored_and_harms_nobody(
    opened: Opened,
) -> None:
    async with opened() as store:
        calls = [asyncio.ensure_future(store.save_event(event_of(f"a{i}", 1))) for i in range(10)]
        await asyncio.sleep(0)
        for call in calls[4:7]:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in done] == [4 <= i < 7 for i in range(10)]
        stored = {event.aggregate_id for event in await all_pages(store, 50)}
        assert stored == {f"a{i}" for i in range(10) if not 4 <= i < 7}


@pytest.mark.parametrize("cancelled", [range(1, 12, 2), range(12), range(11)], ids=str)
async def test_callers_who_are_cancelled_at_any_moment_harm_nobody_and_the_store_works_on(
    opened: Opened, cancelled: range
) -> None:
    async with opened() as store:
        for moment in range(12):
            calls = [
                asyncio.ensure_future(store.save_event(event_of(f"a{moment}-{i}", 1))) for i in range(12)
            ]
            for _ in range(2):
                await asyncio.sleep(moment * 0.0004)
            for number in cancelled:
                calls[number].cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(one) for one in done} <= {SavedEvent, asyncio.CancelledError}
            stored = await all_pages(store, 500)
            check_no_gaps(stored)
            assert all(one.event in stored for one in done if isinstance(one, SavedEvent))
            for number in set(range(12)) - set(cancelled):
                assert isinstance(done[number], SavedEvent)
        saved = await store.save_event(event_of("last", 1))
        assert sum(vector.decode(saved.cursor)) == len(stored) + 1


# what concerns the whole store


async def test_a_freeze_among_saves_refuses_each_that_comes_after_it_and_none_that_was_stored(
    opened: Opened,
) -> None:
    async with opened() as store:
        answers: list[list[Any]] = []

        async def save_on(number: int) -> None:
            for version in range(1, 60):
                try:
                    answers.append([await store.save_event(event_of(f"a{number}", version))])
                except StoreFrozenError:
                    return

        clients = asyncio.gather(*(save_on(number) for number in range(20)))
        while len(answers) < 100:
            await asyncio.sleep(0.001)
        await store.freeze()
        at_freeze = await all_pages(store, 500)
        await clients
        assert await all_pages(store, 500) == at_freeze
        assert len(answers) == len(at_freeze)
        check_no_gaps(at_freeze)
        refused = await save_together(store, [event_of(f"late{i}", 1) for i in range(5)])
        assert [type(one) for one in refused] == [StoreFrozenError] * 5
        await store.unfreeze()
        await store.save_event(event_of("after", 1))


@pytest.mark.once
async def test_a_store_that_is_not_there_is_missing_for_each(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await store.save_event(event_of("a", 1))
        await other.drop()
        refused = await save_together(store, [event_of(f"a{i}", 2) for i in range(5)])
        assert [type(one) for one in refused] == [StoreNotFoundError] * 5


# cursors


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.integers(0, 1), st.integers(1, 7)),
        st.sampled_from(
            [("append", 0, 0), ("append", 1, 0), ("import", 0, 0), ("import", 1, 0), ("incremental", 1, 0)]
        ),
        st.sampled_from([("secret", 0, 0), ("secret", 1, 0), ("freeze", 0, 0), ("freeze", 1, 0)]),
    ),
    max_size=12,
)


@settings(
    max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
async def test_the_cursors_of_a_group_are_the_heads_whatever_was_done_before_and_by_whom(
    new_url: NewUrl, steps: list[tuple[str, int, int]]
) -> None:
    """What a store object remembers of the heads must not outlive what others, or it itself, did to the store."""
    url = new_url()
    async with open_store(url) as one, open_store(url) as two:
        await one.init()
        for number, (what, whose, count) in enumerate(steps):
            store = (one, two)[whose]
            match what:
                case "save":
                    saved = await save_together(
                        store, [event_of(f"a{number}-{i}", 1, timestamp=FAR_FUTURE) for i in range(count)]
                    )
                    heads = (await one.describe(calculate_cursor=True)).cursor
                    # One that belongs in another thread than it prefers may come alone, after the others.
                    assert heads in [each.cursor for each in saved]
                    everything = await all_pages(one, 50)
                    for each in saved:
                        # Behind a cursor comes exactly what it does not count.
                        counted = vector.decode(each.cursor)
                        rest = (await two.load_events(limit=500, cursor=each.cursor)).events
                        assert rest == [e for e in everything if e.thread_counter >= counted[e.thread_id]]
                        assert each.event not in rest
                case "append":
                    head = vector.decode((await one.describe(calculate_cursor=True)).cursor)[5]
                    appended = make_event(
                        0, threadId=5, threadCounter=head, aggregateId=f"x{number}", timestamp=FAR_FUTURE
                    )
                    await store.freeze()
                    sink = store.import_events(maintenance_mode=MANUAL)
                    async with sink:
                        await sink.write(line(appended))
                    await store.unfreeze()
                case "import":
                    # Of other events that may be as many, in another thread.
                    events = [make_event(i, threadId=255, threadCounter=i) for i in range(number + 1)]
                    await import_lines(store, events)
                case "incremental":
                    await store.incremental_import(
                        [{"type": "T", "aggregateId": f"i{number}", "timestamp": FAR_FUTURE + number}]
                    )
                case "secret":
                    await store.set_secret(f"s{number}", "secret")
                case _:
                    await store.freeze()
                    with pytest.raises(StoreFrozenError):
                        await two.save_event(event_of("frozen", 1))
                    with pytest.raises(StoreFrozenError):
                        await one.save_event(event_of("frozen", 1))
                    await store.unfreeze()


@pytest.mark.slow
async def test_a_reader_who_goes_on_from_the_cursor_of_any_save_misses_nothing_that_comes_later(
    opened: Opened,
) -> None:
    async with opened() as store:
        saved: list[SavedEvent] = []

        async def save_on(number: int) -> None:
            for version in range(1, 6):
                one = await store.save_event(event_of(f"a{number}", version))
                saved.append(one)

        await asyncio.gather(*(save_on(number) for number in range(12)))
        everything = await all_pages(store, 500)
        assert len(everything) == 60
        for place, each in enumerate(saved):
            counted = vector.decode(each.cursor)
            rest: list[Event] = []
            cursor: str | None = each.cursor
            while (page := await store.load_events(limit=7, cursor=cursor)).events:
                rest += page.events
                cursor = page.cursor
            before = [event for event in everything if event.thread_counter < counted[event.thread_id]]
            assert sorted(map(repr, before + rest)) == sorted(map(repr, everything))
            # Whatever this client or another saved once this had been answered comes behind it.
            own = [
                one.event for one in saved[place + 1 :] if one.event.aggregate_id == each.event.aggregate_id
            ]
            assert all(event in rest for event in own)


async def test_as_many_other_events_in_place_of_those_that_were_there_are_not_taken_for_them(
    new_url: NewUrl,
) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await save_together(store, [event_of(f"a{i}", 1) for i in range(8)])
        await import_lines(other, [make_event(i, threadId=200, threadCounter=i) for i in range(8)])
        saved = await store.save_event(event_of("b", 1))
        assert saved.cursor == (await other.describe(calculate_cursor=True)).cursor

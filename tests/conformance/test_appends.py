"""Appends: several events that belong together are stored as one, or not at all."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventferry import (
    Append,
    Appended,
    ConcurrentError,
    Event,
    EventInput,
    EventStore,
    IdempotencyKeyError,
    InputError,
    SavedEvent,
    StoreFrozenError,
    StoreNotFoundError,
    UnsupportedStoreError,
    UsageError,
    VersionGapError,
    open_store,
)
from eventferry import cursor as vector
from eventferry.clock import now
from eventferry.state import append_keys
from tests.conformance.test_order import merged
from tests.support import FAR_FUTURE, LONG_AGO, NewUrl, Opened, all_pages, import_lines, line, make_event, raw


def events_of(*types: str, **changes: Any) -> list[dict[str, Any]]:
    return [{"type": kind} | changes for kind in types]


def check_store(events: Sequence[Event]) -> None:
    """Threads have no gap, versions are dense, and those of one timestamp come in order."""
    heads: Counter[int] = Counter()
    for event in sorted(events, key=lambda event: event.thread_counter):
        assert event.thread_counter == heads[event.thread_id]
        heads[event.thread_id] += 1
    check_dense(events)


def check_dense(events: Iterable[Event]) -> None:
    versions: defaultdict[str, list[int]] = defaultdict(list)
    at: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for event in events:
        versions[event.aggregate_id].append(event.aggregate_version)
        at[event.aggregate_id, event.timestamp].append(event.aggregate_version)
    for found in versions.values():
        assert sorted(found) == list(range(1, len(found) + 1))
    for found in at.values():
        assert found == sorted(found)


# what is stored


async def test_events_that_are_appended_go_on_from_the_last_version_and_share_a_timestamp(
    opened: Opened,
) -> None:
    async with opened() as store:
        before = now()
        first = await store.append_events("order-1", events_of("PLACED", "PAID"))
        second = await store.append_events("order-1", [{"type": "SHIPPED", "payload": {"n": 1.5, "t": None}}])
        assert [event.aggregate_version for event in first.events + second.events] == [1, 2, 3]
        assert first.events[0].timestamp == first.events[1].timestamp >= before
        assert second.events[0].payload == {"n": 1.5, "t": None}
        assert not first.is_repeated
        assert await all_pages(store, 10) == first.events + second.events
        assert sum(vector.decode(first.cursor)) == 2
        assert sum(vector.decode(second.cursor)) == 3


async def test_the_timestamp_is_the_highest_given_and_never_before_now(opened: Opened) -> None:
    async with opened() as store:
        old = await store.append_events("a", events_of("T", "T", timestamp=LONG_AGO))
        assert old.events[0].timestamp > LONG_AGO
        given = [{"type": "T", "timestamp": FAR_FUTURE - 5}, {"type": "T", "timestamp": FAR_FUTURE}]
        future = await store.append_events("a", given)
        assert [event.timestamp for event in future.events] == [FAR_FUTURE, FAR_FUTURE]


async def test_events_at_a_timestamp_that_the_aggregate_has_already_follow_in_the_same_thread(
    opened: Opened,
) -> None:
    async with opened() as store:
        saved = await store.save_event(
            {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "timestamp": FAR_FUTURE}
        )
        await store.append_events("b", events_of("T", timestamp=FAR_FUTURE + 9))
        more = await store.append_events("a", events_of("T", "T", timestamp=FAR_FUTURE))
        assert {event.thread_id for event in more.events} == {saved.event.thread_id}
        check_store(await all_pages(store, 2))


async def test_several_aggregates_are_appended_to_as_one(opened: Opened) -> None:
    async with opened() as store:
        await store.append_events("from", events_of("OPENED"))
        moved = await store.append_batches(
            [
                Append("from", events_of("TAKEN"), expected_version=1),
                Append("to", events_of("OPENED", "GIVEN"), expected_version="none"),
            ]
        )
        versions = [(event.aggregate_id, event.aggregate_version) for event in moved.events]
        assert versions == [("from", 2), ("to", 1), ("to", 2)]
        with pytest.raises(ConcurrentError):
            await store.append_batches(
                [Append("from", events_of("TAKEN")), Append("to", events_of("GIVEN"), expected_version=1)]
            )
        assert len(await all_pages(store, 10)) == 4


@pytest.mark.once
async def test_what_is_no_append_is_refused_and_nothing_is_stored(opened: Opened) -> None:
    async with opened() as store:
        for appends in ([], [Append("a", [])], [Append("a", events_of("T")), Append("a", events_of("T"))]):
            with pytest.raises(UsageError):
                await store.append_batches(appends)
        for version in (-1, True, "some", 1.0, None):
            with pytest.raises(UsageError):
                await store.append_events("a", events_of("T"), expected_version=version)  # type: ignore[arg-type]
        for key in ("", "k" * 256, 5):
            with pytest.raises(UsageError):
                await store.append_events("a", events_of("T"), idempotency_key=key)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            await store.append_events(5, events_of("T"))  # type: ignore[arg-type]
        for event, field in (
            ({}, "type"),
            ({"type": "T", "aggregateId": "b"}, "aggregateId"),
            ({"type": "T", "aggregateVersion": 2}, "aggregateVersion"),
            ({"type": "T", "more": 2}, "more"),
            ({"type": "T", "payload": float("nan")}, "payload"),
        ):
            with pytest.raises(InputError) as refused:
                await store.append_events("a", [{"type": "T"}, event])
            assert (refused.value.line, refused.value.field) == (2, field)
        with pytest.raises(InputError) as refused:
            await store.append_events("a" * 701, events_of("T"))
        assert refused.value.field == "aggregateId"
        assert await all_pages(store, 10) == []
        same = Event(type="T", aggregate_id="a", thread_id=7, thread_counter=7)
        stored = await store.append_events("a", [same])  # a position is ignored
        assert stored.events[0].thread_counter == 0


async def test_an_append_of_more_than_one_group_holds_is_stored_whole(opened: Opened) -> None:
    async with opened() as store:
        stored = await store.append_events("a", [{"type": "T", "payload": "x" * 1000} for _ in range(3000)])
        assert [event.aggregate_version for event in stored.events] == list(range(1, 3001))
        check_store(await all_pages(store, 1000))


# expectations


async def test_an_append_that_expects_another_version_hears_what_is_there(opened: Opened) -> None:
    async with opened() as store:
        for expected, last in ((1, 0), ("none", 2), (0, 2), (1, 2), (3, 2)):
            if last and not await all_pages(store, 5):
                await store.append_events("a", events_of("T", "T"), expected_version="none")
            with pytest.raises(ConcurrentError) as refused:
                await store.append_events("a", events_of("T"), expected_version=expected)  # type: ignore[arg-type]
            assert refused.value.aggregate_id == "a"
            assert refused.value.last_version == last
        await store.append_events("a", events_of("T"), expected_version=2)
        assert len(await all_pages(store, 10)) == 3


async def test_an_append_goes_on_behind_a_gap_and_not_before_it(opened: Opened) -> None:
    async with opened() as store:
        for version in (1, 2, 7):  # as reSolve lets it
            event = {"type": "T", "aggregateId": "a", "aggregateVersion": version}
            await store.save_event(event, allow_gaps=True)
        for expected in (2, 3, 6):
            with pytest.raises(ConcurrentError) as refused:
                await store.append_events("a", events_of("T", "T"), expected_version=expected)
            assert refused.value.last_version == 7
        appended = await store.append_events("a", events_of("T", "T"), expected_version=7)
        assert [event.aggregate_version for event in appended.events] == [8, 9]
        assert len(await all_pages(store, 10)) == 5


@pytest.mark.parametrize("expected", ["any", "none"])
async def test_an_event_that_the_store_cannot_hold_is_named_and_none_of_its_append_is_stored(
    opened: Opened, expected: Any
) -> None:
    async with opened() as store:
        events: list[Any] = [*events_of("T", "T"), {"type": "T" * 701}]
        with pytest.raises(InputError, match="event 3, field type: "):
            await store.append_events("a", events, expected_version=expected)
        assert await all_pages(store, 10) == []


async def test_behind_the_cursor_of_an_append_nothing_comes_that_it_counts(opened: Opened) -> None:
    async with opened() as store:
        for version in (0, 3):
            appended = await asyncio.gather(
                *(
                    store.append_events(f"a{n}", events_of("T", "U", "V"), expected_version=version)
                    for n in range(30)
                ),
                *(store.append_events(f"b{n}", events_of("T")) for n in range(5)),
                *(
                    store.save_event(
                        {"type": "S", "aggregateId": f"c{n}", "aggregateVersion": version // 3 + 1}
                    )
                    for n in range(5)
                ),
            )
            events = await all_pages(store, 50)
            check_store(events)
            for one in appended[:30]:
                assert isinstance(one, Appended)
                assert [event.type for event in one.events] == ["T", "U", "V"]
                assert all(event in events for event in one.events)
                rest = (await store.load_events(limit=500, cursor=one.cursor)).events
                assert not any(event in rest for event in one.events)
                assert sum(vector.decode(one.cursor)) + len(rest) == len(events)


async def test_of_many_who_expect_the_same_version_one_is_stored(opened: Opened) -> None:
    async with opened() as store:
        for version in (0, 10, 20):
            calls = [
                store.append_events("a", events_of(*["T"] * 10), expected_version=version) for _ in range(40)
            ]
            found: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
            assert Counter(map(type, found)) == {Appended: 1, ConcurrentError: 39}
        check_store(await all_pages(store, 7))


async def test_a_save_that_would_leave_a_gap_is_refused_unless_gaps_are_allowed(opened: Opened) -> None:
    def event(version: int) -> dict[str, Any]:
        return {"type": "T", "aggregateId": "a", "aggregateVersion": version}

    async with opened() as store:
        with pytest.raises(VersionGapError) as refused:
            await store.save_event(event(2))
        assert (refused.value.last_version, refused.value.aggregate_version) == (0, 2)
        saved = await store.save_event(event(1) | {"payload": [1.0]})
        assert (saved.event.aggregate_version, saved.event.payload) == (1, [1.0])
        with pytest.raises(ConcurrentError, match="already has an event with version 1"):
            await store.save_event(event(1))
        await store.save_event(event(5), allow_gaps=True)  # as reSolve lets it
        with pytest.raises(ConcurrentError) as late:
            await store.save_event(event(3))
        assert late.value.last_version == 5
        await store.save_event(event(3), allow_gaps=True)
        await store.save_event(event(6))
        assert [each.aggregate_version for each in await all_pages(store, 5)] == [1, 5, 3, 6]


async def test_saves_of_one_aggregate_that_are_made_at_once_leave_no_gap(opened: Opened) -> None:
    def event(version: int) -> dict[str, Any]:
        return {"type": "T", "aggregateId": "a", "aggregateVersion": version}

    async with opened() as store, opened() as other:
        await asyncio.gather(*(store.save_event(event(version)) for version in range(1, 51)))
        found = await asyncio.gather(
            *(each.save_event(event(version)) for version in range(51, 91) for each in (store, other)),
            return_exceptions=True,
        )
        assert {type(each) for each in found} <= {SavedEvent, ConcurrentError, VersionGapError}
        versions = [each.aggregate_version for each in await all_pages(store, 100)]
        assert versions == list(range(1, len(versions) + 1))
        assert len(versions) == 50 + sum(isinstance(each, SavedEvent) for each in found)


# idempotency keys


async def test_an_append_that_is_sent_again_under_its_key_is_stored_once(opened: Opened) -> None:
    async with opened() as store:
        asked: list[EventInput] = [{"type": "T", "payload": {"a": 1, "b": 2.50}}, {"type": "U"}]
        first = await store.append_events("a", asked, expected_version="none", idempotency_key="order/1 é")
        await store.append_events("a", events_of("V"))
        same: list[EventInput] = [{"type": "T", "payload": {"b": 2.5, "a": 1}}, {"type": "U"}]
        again = await store.append_events("a", same, expected_version="none", idempotency_key="order/1 é")
        assert again.is_repeated
        assert again.events == first.events
        assert sum(vector.decode(again.cursor)) == 3
        other = await store.append_events("a", asked, idempotency_key="order/1 e")
        assert not other.is_repeated
        assert len(await all_pages(store, 10)) == 5


@pytest.mark.once
async def test_a_key_that_was_used_for_other_events_is_refused_by_name(opened: Opened) -> None:
    async with opened() as store:
        await store.append_events("a", events_of("T"), idempotency_key="k")
        for aggregate, events in (("a", events_of("U")), ("a", events_of("T", "T")), ("b", events_of("T"))):
            with pytest.raises(IdempotencyKeyError, match="'k'"):
                await store.append_events(aggregate, events, idempotency_key="k")
        assert len(await all_pages(store, 10)) == 1


async def test_of_many_with_one_key_at_the_same_time_one_is_stored_and_all_hear_the_same(
    opened: Opened,
) -> None:
    async with opened() as store:
        calls = [store.append_events("a", events_of("T", "U"), idempotency_key="k") for _ in range(30)]
        other = store.append_events("a", events_of("V"), idempotency_key="k")
        *found, refused = await asyncio.gather(*calls, other, return_exceptions=True)
        assert isinstance(refused, IdempotencyKeyError)
        assert Counter(one.is_repeated for one in found if isinstance(one, Appended)) == {False: 1, True: 29}
        assert len({str(one.events) for one in found if isinstance(one, Appended)}) == 1
        check_store(await all_pages(store, 10))


@pytest.mark.once
async def test_an_append_that_was_refused_can_be_sent_again_under_its_key(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(ConcurrentError):
            await store.append_events("a", events_of("T"), expected_version=1, idempotency_key="k")
        await store.append_events("a", events_of("T"))
        stored = await store.append_events("a", events_of("T"), expected_version=1, idempotency_key="k")
        assert not stored.is_repeated


async def test_keys_are_void_when_the_events_have_been_replaced(opened: Opened) -> None:
    async with opened() as store:
        await store.append_events("a", events_of("T"), idempotency_key="k")
        await import_lines(store, line(make_event(0)))
        stored = await store.append_events("a", events_of("T"), idempotency_key="k")
        assert not stored.is_repeated
        assert (await store.append_events("a", events_of("T"), idempotency_key="k")).is_repeated
        assert len(await all_pages(store, 10)) == 2


async def test_old_keys_are_swept_a_few_at_a_time(new_url: NewUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    url = new_url()
    monkeypatch.setattr(append_keys, "_SWEPT", 4)

    def kept() -> int:
        return int(raw.run(url, 'SELECT count(*) FROM "events-appends"')[0][0])

    async with open_store(url) as store:
        await store.init()
        for number in range(9):
            await store.append_events("a", events_of("T"), idempotency_key=f"k{number}")
        assert kept() == 9
        monkeypatch.setattr(append_keys, "KEPT_MS", -1000)
        for number in range(4):
            await store.append_events("a", events_of("T"), idempotency_key=f"new{number}")
        assert kept() < 9
        stored = await store.append_events("a", events_of("T"), idempotency_key="k0")
        assert not stored.is_repeated


async def test_a_store_that_is_dropped_takes_its_keys_along(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await store.append_events("a", events_of("T"), idempotency_key="k")
        await store.drop()
        with pytest.raises(StoreNotFoundError):
            await store.append_events("a", events_of("T"), idempotency_key="k")
        await store.init()
        stored = await store.append_events("a", events_of("T"), idempotency_key="k")
        assert not stored.is_repeated
        assert len(await all_pages(store, 10)) == 1


async def test_keys_are_never_kept_in_another_program_s_table(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        raw.run(url, 'CREATE TABLE "events-appends" (note VARCHAR(20))')
        with pytest.raises(UnsupportedStoreError, match="events-appends"):
            await store.append_events("a", events_of("T"), idempotency_key="k")
        await store.append_events("a", events_of("T"))
        assert len(await all_pages(store, 10)) == 1


# beside other writers, and ends


async def test_those_of_one_group_that_are_refused_don_t_touch_the_others(opened: Opened) -> None:
    async with opened() as store:
        await store.append_events("taken", events_of("T", "T"))
        appends = [[Append(f"a{number}", events_of("T", "U"))] for number in range(30)]
        appends[7] = [Append("taken", events_of("T"), expected_version=1)]
        appends[9] = [Append("taken", events_of("T"), expected_version=2)]
        appends[11] = [Append("b", events_of("T")), Append("a1", events_of("T"), expected_version=1)]
        found: list[Any] = await asyncio.gather(*map(store.append_batches, appends), return_exceptions=True)
        refused = {number: type(one) for number, one in enumerate(found) if isinstance(one, Exception)}
        assert refused == {7: ConcurrentError, 11: ConcurrentError}
        events = await all_pages(store, 50)
        assert len(events) == 2 + 27 * 2 + 1
        check_store(events)
        assert len({one.cursor for one in found if isinstance(one, Appended)}) < 6


async def test_a_frozen_store_refuses_appends(opened: Opened) -> None:
    async with opened() as store:
        await store.freeze()
        for key in (None, "k"):
            with pytest.raises(StoreFrozenError):
                await store.append_events("a", events_of("T"), idempotency_key=key)
        await store.unfreeze()
        await store.append_events("a", events_of("T"), idempotency_key="k")


@pytest.mark.slow
@pytest.mark.parametrize("cancelled", [range(1, 12, 2), range(12), range(11)], ids=str)
async def test_callers_who_are_cancelled_at_any_moment_leave_nothing_half_done(
    opened: Opened, cancelled: range
) -> None:
    async with opened() as store:
        for moment in range(12):
            calls = [
                asyncio.ensure_future(
                    store.append_events(f"a{moment}-{number % 5}", events_of("T", "U", "V"))
                )
                for number in range(12)
            ]
            await asyncio.sleep(moment * 0.0005)
            for number in cancelled:
                calls[number].cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            kept = [one for number, one in enumerate(done) if number not in cancelled]
            assert all(isinstance(one, Appended) for one in kept)
        events = await all_pages(store, 100)
        check_store(events)
        sizes = Counter((event.aggregate_id, event.timestamp, event.thread_id) for event in events)
        assert all(size % 3 == 0 for size in sizes.values())


@pytest.mark.slow
async def test_appends_saves_and_imports_at_the_same_time_keep_every_promise(opened: Opened) -> None:
    async def appends(store: EventStore, number: int) -> None:
        for _ in range(8):
            await store.append_events(f"a{number % 4}", events_of("T", "U", "V"))

    async def saves(store: EventStore, number: int) -> None:
        for version in range(1, 13):
            await store.save_event({"type": "S", "aggregateId": f"s{number}", "aggregateVersion": version})

    async def imports(store: EventStore) -> None:
        for number in range(5):
            await store.incremental_import(
                [{"type": "I", "aggregateId": "a1", "timestamp": now(), "payload": number}], older="accept"
            )

    async with opened() as store:
        together = [appends(store, number) for number in range(12)] + [saves(store, n) for n in range(8)]
        await asyncio.gather(*together, imports(store))
        events = await all_pages(store, 50)
        assert len(events) == 12 * 8 * 3 + 8 * 12 + 5
        check_store(events)
        assert events == merged(events)


steps = st.lists(
    st.tuples(
        st.sampled_from(("append", "batches", "save", "import")),
        st.sampled_from(("a", "b", "c")),
        st.integers(1, 4),
        st.sampled_from((0, 0, FAR_FUTURE, FAR_FUTURE + 1, FAR_FUTURE + 2)),
    ),
    min_size=1,
    max_size=14,
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=steps)
async def test_any_interleaving_gives_dense_versions_in_an_order_that_every_reader_agrees_on(
    opened: Opened, steps: list[tuple[str, str, int, int]]
) -> None:
    async with opened() as store:

        async def step(what: str, aggregate: str, count: int, timestamp: int) -> None:
            events = events_of(*["T"] * count, timestamp=timestamp)
            if what == "append":
                await store.append_events(aggregate, events)
            elif what == "batches":
                await store.append_batches([Append(aggregate, events), Append("d", events)])
            elif what == "save":
                await save(aggregate, timestamp)
            else:
                await store.incremental_import(
                    [event | {"aggregateId": aggregate, "payload": random.random()} for event in events],
                    older="accept",
                )

        async def save(aggregate: str, timestamp: int) -> None:
            version = (await store.load_aggregate(aggregate)).events[-1:]
            event = {"type": "S", "aggregateId": aggregate, "timestamp": timestamp}
            try:
                next_version = version[0].aggregate_version + 1 if version else 1
                await store.save_event(event | {"aggregateVersion": next_version})
            except ConcurrentError:
                pass

        for start in range(0, len(steps), 5):
            await asyncio.gather(*(step(*one) for one in steps[start : start + 5]))
        events = await all_pages(store, 3)
        check_store(events)
        assert events == merged(events)
        for aggregate in "abcd":
            own = sorted(
                (event for event in events if event.aggregate_id == aggregate),
                key=lambda event: event.aggregate_version,
            )
            assert (await store.load_aggregate(aggregate)).events == own
        for n in (1, 3, 100):
            assert await store.last_events(n) == events[-n:]


# processes that die


async def append_for_ever(url: str, name: str, aggregates: int, told: Any) -> None:
    async with open_store(url) as store:

        async def client(number: int) -> None:
            aggregate = f"a{number % aggregates}"
            for count in range(100_000):
                key = f"{name}-{number}-{count}"
                events = [{"type": "T", "payload": [key, part]} for part in range(3)]
                if count % 2:
                    expected: Any = "any"
                else:
                    expected = (await store.load_aggregate(aggregate)).events[-1:]
                    expected = expected[0].aggregate_version if expected else 0
                try:
                    stored = await store.append_events(
                        aggregate,
                        events,
                        expected_version=expected,
                        idempotency_key=key if number % 2 else None,
                    )
                except ConcurrentError:
                    continue
                told.put((key, stored.events[0].aggregate_id, stored.events[0].aggregate_version))

        await asyncio.gather(*(client(number) for number in range(25)))


def run_append_for_ever(url: str, name: str, aggregates: int, told: Any) -> None:
    asyncio.run(append_for_ever(url, name, aggregates, told))


@pytest.mark.slow
@pytest.mark.parametrize("aggregates", [1, 1000])
@pytest.mark.parametrize(("processes", "turns"), [(2, 2), pytest.param(4, 3, marks=pytest.mark.storm)])
async def test_clients_whose_processes_are_killed_leave_no_half_append_and_no_gap(
    new_url: NewUrl, aggregates: int, processes: int, turns: int
) -> None:
    """Twenty-five clients in each; in a storm a hundred in all."""
    url, spawn = new_url(), multiprocessing.get_context("spawn")
    async with open_store(url) as store:
        await store.init()
        acknowledged: list[tuple[str, str, int]] = []
        for turn in range(turns):
            # A queue with no thread behind it: what was told before the kill is in the pipe.
            queues = [spawn.SimpleQueue() for _ in range(processes)]
            clients = [
                spawn.Process(target=run_append_for_ever, args=(url, f"{turn}{n}", aggregates, queue))
                for n, queue in enumerate(queues)
            ]
            for client in clients:
                client.start()
            try:
                silent, until = set(range(len(queues))), float("inf")
                async with asyncio.timeout(120):
                    while asyncio.get_running_loop().time() < until:
                        for number, queue in enumerate(queues):
                            while not queue.empty():
                                acknowledged.append(queue.get())
                                silent.discard(number)
                        if not silent and until == float("inf"):
                            until = asyncio.get_running_loop().time() + random.random() * 2
                        await asyncio.sleep(0.01)
            finally:
                for client in clients:
                    client.kill()
                for client in clients:
                    await asyncio.to_thread(client.join)
        events = await all_pages(store, 1000)
        check_store(events)
        appends: defaultdict[str, list[Event]] = defaultdict(list)
        for event in events:
            appends[event.payload[0]].append(event)
        for key, stored in appends.items():
            assert [event.payload for event in stored] == [[key, 0], [key, 1], [key, 2]]
            versions = [event.aggregate_version for event in stored]
            assert versions == list(range(versions[0], versions[0] + 3))
        for key, aggregate, version in acknowledged:
            assert (appends[key][0].aggregate_id, appends[key][0].aggregate_version) == (aggregate, version)


# reading


async def test_an_aggregate_is_loaded_in_the_order_of_its_versions(opened: Opened) -> None:
    async with opened() as store:
        for version in (5, 2, 9):
            event = {"type": "T", "aggregateId": "a", "aggregateVersion": version}
            await store.save_event(event, allow_gaps=True)
        await store.append_events("b", events_of("T"))
        await store.append_events("a", events_of("T", "T"))
        whole = await store.load_aggregate("a")
        assert [event.aggregate_version for event in whole.events] == [2, 5, 9, 10, 11]
        assert whole.next_version is None
        part = await store.load_aggregate("a", from_version=3, limit=2)
        assert [event.aggregate_version for event in part.events] == [5, 9]
        assert part.next_version == 10
        rest = await store.load_aggregate("a", from_version=10, limit=2)
        assert (rest.events, rest.next_version) == (whole.events[3:], None)
        assert (await store.load_aggregate("none")).events == []
        for wrong in ({"from_version": 0}, {"limit": 0}, {"limit": True}):
            with pytest.raises(UsageError):
                await store.load_aggregate("a", **wrong)


async def test_a_long_aggregate_is_loaded_in_pages_of_bounded_size(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as store:
        stored = await store.append_events("a", [{"type": "T", "payload": "x" * 500} for _ in range(2500)])
        assert (await store.load_aggregate("a")).events == stored.events
        monkeypatch.setattr("eventferry.reading.loading.PAGE_BYTES", 100_000)
        found: list[Event] = []
        version: int | None = 1
        while version is not None:
            page = await store.load_aggregate("a", from_version=version)
            assert 0 < len(page.events) < 300
            found += page.events
            version = page.next_version
        assert found == stored.events


@pytest.mark.parametrize("aggregate", ["a", "%s", "%%", "'\\"])
async def test_an_aggregate_with_events_of_any_size_is_loaded_whole(opened: Opened, aggregate: str) -> None:
    async with opened() as store:
        sizes = [10, 20_000, 10, 130_000, 10]
        events = [{"type": "T", "payload": "x" * size} for size in sizes]
        stored = await store.append_events(aggregate, events)
        await store.append_events(f"{aggregate}%", events_of("T"))
        for _ in range(2):
            assert (await store.load_aggregate(aggregate)).events == stored.events
            part = await store.load_aggregate(aggregate, from_version=2, limit=3)
            assert (part.events, part.next_version) == (stored.events[1:4], 5)
        assert (await store.load_aggregate(aggregate, from_version=2**62)).events == []


async def test_the_last_events_are_the_end_of_the_order_also_where_threads_fall(opened: Opened) -> None:
    async with opened() as store:
        assert await store.last_events(3) == []
        lines = b"".join(
            line(make_event(i, threadId=i % 3, threadCounter=i // 3, timestamp=LONG_AGO + (i * 37) % 50))
            for i in range(60)
        )
        await import_lines(store, lines)
        events = await all_pages(store, 100)
        assert events == merged(events)
        for n in (1, 2, 5, 59, 60, 61):
            assert await store.last_events(n) == events[-n:]
        with pytest.raises(UsageError):
            await store.last_events(0)


# to any version


async def test_an_append_to_any_version_behind_our_last_needs_no_exclusive_transaction(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as store:
        await store.append_events("order-1", events_of("PLACED"))
        monkeypatch.setattr(store._database, "writing", None)
        appended = await store.append_events("order-1", events_of("PAID", "SHIPPED"))
        assert [event.aggregate_version for event in appended.events] == [2, 3]
        monkeypatch.undo()
        check_store(await all_pages(store, 10))


async def test_appends_to_any_version_by_several_leave_no_gap_whoever_was_last(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as one, open_store(url) as other:
        await one.init()
        for _ in range(3):
            await one.append_events("order-1", events_of("PAID"))
            await one.append_events("order-1", events_of("PAID"))
            await other.append_events("order-1", events_of("SHIPPED", "BILLED"))
        await asyncio.gather(
            *(store.append_events("order-1", events_of("A", "B")) for store in (one, other) * 10)
        )
        stored = await all_pages(one, 100)
        check_store(stored)
        assert len(stored) == 52

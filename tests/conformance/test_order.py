"""The order, and why no event is missed: every reader brings the merge of the 256 threads, each event once."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventferry import MANUAL, Event, EventStore
from eventferry import cursor as vector
from eventferry.changing.selection import Selection
from eventferry.reading import aggregates, exporting
from eventferry.reading import pages as pages_of_events
from eventferry.reading.pages import Pages
from eventferry.reading.stretches import Stretches
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    Opened,
    all_pages,
    event_at,
    events_of,
    examples,
    exported,
    import_lines,
    line,
    make_event,
)

PAGE_SIZES = (1, 2, 3, 7, 50, 1000)


@pytest.fixture(autouse=True)
def few_threads_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for the next page is kept of small pages too; of those of one or two threads it is not."""
    monkeypatch.setattr(pages_of_events, "MANY", 3)
    monkeypatch.setattr(aggregates, "_PLACES", 5)


# The reference: the merge, as the words say it.


def merged(events: Iterable[Event]) -> list[Event]:
    """Always the least (timestamp, threadCounter, threadId) among the threads' next events."""
    threads: defaultdict[int, list[Event]] = defaultdict(list)
    for event in events:
        threads[event.thread_id].append(event)
    queues = {
        thread: iter(sorted(waiting, key=lambda event: event.thread_counter))
        for thread, waiting in threads.items()
    }
    heap: list[tuple[int, int, int, Event]] = []

    def refill(thread: int) -> None:
        if (event := next(queues[thread], None)) is not None:
            heapq.heappush(heap, (*key(event), event))

    for thread in queues:
        refill(thread)
    order: list[Event] = []
    while heap:
        *_, thread, event = heapq.heappop(heap)
        order.append(event)
        refill(thread)
    return order


def key(event: Event) -> tuple[int, int, int]:
    return event.timestamp, event.thread_counter, event.thread_id


@dataclass(frozen=True)
class Chosen:
    """A filter, as the arguments of the readers and as what it means."""

    event_types: Sequence[str] | None = None
    aggregate_ids: Sequence[str] | None = None
    start_time: int | None = None
    finish_time: int | None = None
    exclude_types: Sequence[str] | None = None
    aggregate_prefixes: Sequence[str] | None = None

    def arguments(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def of(self, events: Iterable[Event]) -> list[Event]:
        selection = Selection.of(**self.arguments())
        return [event for event in events if selection.takes(event.type, event.aggregate_id, event.timestamp)]


# Random stores: few threads and few timestamps, so that many are equal, many fall, and counters have gaps.

TYPES = ("A", "B", "C")
AGGREGATES = ("a", "b", "c", "d")


def history(steps: Iterable[tuple[int, int, int, str, str]], pace: int, start: int, pad: int) -> list[Event]:
    """Events of (thread, gap in the counter, shift of the timestamp, type, aggregate)."""
    counters: Counter[int] = Counter()
    versions: Counter[str] = Counter()
    events: list[Event] = []
    for number, (thread, gap, shift, kind, aggregate) in enumerate(steps):
        counters[thread] += gap
        versions[aggregate] += 1 + gap
        events.append(
            Event(
                thread_counter=counters[thread],
                thread_id=thread,
                type=kind,
                timestamp=start + number // pace + shift,
                aggregate_id=aggregate,
                aggregate_version=versions[aggregate],
                payload={"n": number, "pad": "x" * (number % 3 * pad)},
            )
        )
        counters[thread] += 1
    return events


def as_far_as(events: Sequence[Event], read: dict[int, int]) -> dict[int, int]:
    """Of these last counters by thread, those that these events have reached."""
    last: dict[int, int] = {}
    for event in events:
        last[event.thread_id] = max(event.thread_counter, last.get(event.thread_id, -1))
    return {thread: counter for thread, counter in read.items() if counter <= last.get(thread, -1)}


def last_of(counters: Mapping[int, int]) -> list[Event]:
    """The events that were read last, by the counter of each thread: of a cursor nothing else matters."""
    return [event_at(thread, counter) for thread, counter in counters.items()]


def histories(max_size: int = 60, pad: int = 20) -> st.SearchStrategy[list[Event]]:
    step = st.tuples(
        st.sampled_from((0, 1, 2, 127, 255)),
        st.sampled_from((0, 0, 0, 1, 5, 1_000_000)),
        st.sampled_from((0, 0, 0, 0, 1, -1, 7, -7, 100)),
        st.sampled_from(TYPES),
        st.sampled_from(AGGREGATES),
    )
    return st.builds(
        history,
        steps=st.lists(step, max_size=max_size),
        pace=st.sampled_from((1, 3, 1000)),
        start=st.sampled_from((LONG_AGO, 0, -20, FAR_FUTURE)),
        pad=st.just(pad),
    )


@st.composite
def histories_and_filters(draw: st.DrawFn, *, times: bool) -> tuple[list[Event], Chosen]:
    events = draw(histories())
    moments = sorted({event.timestamp for event in events}) or [0]
    start_time = finish_time = None
    if times:
        moment = st.none() | st.sampled_from(moments)
        start_time, finish_time = draw(moment), draw(moment)
        if start_time is not None and finish_time is not None and start_time > finish_time:
            start_time, finish_time = finish_time, start_time
    return events, Chosen(
        draw(st.none() | st.lists(st.sampled_from(TYPES), unique=True, max_size=2)),
        draw(st.none() | st.lists(st.sampled_from((*AGGREGATES, "nobody")), unique=True, max_size=3)),
        start_time,
        finish_time,
        draw(st.none() | st.lists(st.sampled_from(TYPES), unique=True, max_size=2)),
        draw(st.none() | st.lists(st.sampled_from((*AGGREGATES, "nobody")), unique=True, max_size=2)),
    )


def large_history(
    seed: int, size: int, *, threads: int = 256, rare: int = 0, falls: bool = True
) -> list[Event]:
    """Rising, with some falls. With `rare`, one in so many is of type RARE and of aggregate rare."""
    chance = random.Random(seed)
    shifts = (0,) * 50 + (500, -500) if falls else (0,)
    return history(
        (
            (
                chance.randrange(threads),
                chance.choice((0, 0, 0, 0, 0, 0, 0, 3)),
                chance.choice(shifts),
                "RARE" if rare and number % rare == 0 else chance.choice(TYPES),
                "rare" if rare and number % rare == 0 else chance.choice(AGGREGATES),
            )
            for number in range(size)
        ),
        pace=2,
        start=LONG_AGO,
        pad=0,
    )


def modest(usual: int = 5) -> settings:
    # A fixture here is a factory: each example takes a fresh store from it.
    return settings(
        max_examples=examples(usual),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@asynccontextmanager
async def filled(opened: Opened, events: Sequence[Event]) -> AsyncIterator[EventStore]:
    """A store that holds the events."""
    async with opened() as store:
        if events:
            await import_lines(store, events)
        yield store


def lines_of(events: Iterable[Event]) -> bytes:
    return b"".join(map(line, events))


def greedy(events: Iterable[Event], room: int) -> Iterator[bytes]:
    """Lines packed into parts of at most `room` bytes, but at least one line each."""
    part = b""
    for event in events:
        if part and len(part) + len(line(event)) > room:
            yield part
            part = b""
        part += line(event)
    yield part


async def exported_in_parts(
    store: EventStore, most: int, *, cursor: str | None = None, **options: Any
) -> list[bytes]:
    """Exports with a `buffer_size`, each from the cursor of the one before, until one says it is the end."""
    parts: list[bytes] = []
    while True:
        export = store.export_events(cursor=cursor, **options)
        parts.append(b"".join([block async for block in export]))
        assert export.is_end != export.is_buffer_overflow
        if export.is_end:
            return parts
        assert len(parts) <= most, "the export does not come to an end"
        cursor = export.cursor


async def exported_with_stops(store: EventStore, most: int, **options: Any) -> list[bytes]:
    """Exports stopped after their first block, each from the cursor of the one before."""
    parts: list[bytes] = []
    cursor: str | None = None
    while True:
        export = store.export_events(cursor=cursor, **options)
        part = b""
        async for block in export:
            part += block
            export.stop()
        parts.append(part)
        cursor = export.cursor
        if export.is_end:
            return parts
        assert len(parts) <= most, "the export does not come to an end"


async def loaded(store: EventStore, limit: int, **filters: Any) -> list[Event]:
    """What an event loader brings until an empty page."""
    loader = await store.get_event_loader(cursor=None, **filters)
    events: list[Event] = []
    while page := (await loader.load_events(limit)).events:
        events += page
    await loader.close()
    return events


# Everything, by every reader


FALLING = history(
    [(0, 0, 0, "A", "a")] * 15 + [(0, 0, -7, "A", "a"), (1, 0, 0, "A", "a")], pace=1, start=LONG_AGO, pad=20
)
"""One timestamp falls, below those of fifteen events of its own thread."""


@modest(8)
@given(events=histories())
@example(events=FALLING)
async def test_pages_of_any_size_bring_the_merge_of_the_threads(opened: Opened, events: list[Event]) -> None:
    expected = merged(events)
    async with filled(opened, events) as store:
        for size in PAGE_SIZES:
            assert await all_pages(store, size) == expected


@modest()
@given(events=histories())
@pytest.mark.once
async def test_an_event_loader_brings_the_merge_of_the_threads(opened: Opened, events: list[Event]) -> None:
    expected = merged(events)
    async with filled(opened, events) as store:
        for size in (1, 7, 1000):
            assert await loaded(store, size) == expected


@modest()
@given(events=histories())
async def test_an_export_brings_the_merge_of_the_threads(opened: Opened, events: list[Event]) -> None:
    async with filled(opened, events) as store:
        assert await exported(store) == lines_of(merged(events))


@pytest.mark.slow
@modest()
@given(events=histories(), share=st.floats(0, 1), size=st.sampled_from((1, 2, 7)))
async def test_an_export_that_reads_pages_of_a_few_events_ahead_brings_the_merge_of_the_threads(
    opened: Opened, events: list[Event], share: float, size: int
) -> None:
    order = merged(events)
    read = int(share * len(order))
    async with filled(opened, events) as store:
        cursor = store.get_next_cursor(None, order[:read])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporting, "PAGE_EVENTS", size)
            assert await exported(store, cursor=None) == lines_of(order)
            assert await exported(store, cursor=cursor) == lines_of(order[read:])


@pytest.mark.parametrize("size", [2, *(pytest.param(each, marks=pytest.mark.once) for each in (1, 3))])
async def test_an_export_that_reads_ahead_does_not_pass_by_what_hides_below_where_it_begins(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Thread 0 falls behind an event that is read ahead, and so is what comes after the fall."""
    times = {0: [0, 100, 50, 104, 105], 1: [0, 90, 95, 101, 106], 2: [0, 107, 60, 108, 109]}
    events = [
        Event(
            thread_id=thread,
            thread_counter=counter,
            type="T",
            timestamp=LONG_AGO + time,
            aggregate_id=f"aggregate-{thread}",
            aggregate_version=counter + 1,
        )
        for thread, found in times.items()
        for counter, time in enumerate(found)
    ]
    order = merged(events)
    monkeypatch.setattr(exporting, "PAGE_EVENTS", size)
    async with filled(opened, events) as store:
        for read in range(len(order) + 1):
            cursor = store.get_next_cursor(None, order[:read])
            assert await exported(store, cursor=cursor) == lines_of(order[read:])


@modest()
@given(events=histories())
@pytest.mark.once
async def test_the_cursor_computed_from_a_pages_events_goes_on_as_the_pages_own_does(
    opened: Opened, events: list[Event]
) -> None:
    async with filled(opened, events) as store:
        cursor: str | None = None
        read: list[Event] = []
        while (page := await store.load_events(limit=4, cursor=cursor)).events:
            read += page.events
            cursor = store.get_next_cursor(cursor, page.events)
        assert read == merged(events)


@pytest.mark.slow
@modest(10)
@given(
    events=histories(),
    size=st.sampled_from((2, 7, 20)),
    appended=st.lists(st.none() | st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=5),
)
async def test_each_page_is_what_comes_next_when_it_is_asked_for_whatever_was_appended_since_the_last(
    opened: Opened, events: list[Event], size: int, appended: list[tuple[int, int] | None]
) -> None:
    events = list(events)
    async with filled(opened, events) as store:
        cursor: str | None = None
        for number, new in enumerate([*appended, *[None] * (1 + len(events) // size)]):
            page = await store.load_events(limit=size, cursor=cursor)
            read = vector.decode(cursor)
            assert page.events == merged(e for e in events if e.thread_counter >= read[e.thread_id])[:size]
            cursor = page.cursor
            if new is not None:
                thread, time = new
                counter = 1 + max((e.thread_counter for e in events if e.thread_id == thread), default=-1)
                fields = {"threadId": thread, "threadCounter": counter, "timestamp": LONG_AGO + time}
                [event] = events_of(line(make_event(0, aggregateId=f"new-{number}", **fields)))
                await store.freeze()
                await import_lines(store, [event], maintenance_mode=MANUAL)
                await store.unfreeze()
                events.append(event)


@pytest.mark.parametrize("grows", [False, True])
async def test_what_sorts_behind_a_page_is_read_where_the_next_page_can_use_it(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, grows: bool
) -> None:
    asked: list[Any] = []
    looking = Stretches._looking

    def noted(stretches: Stretches, *args: Any) -> Any:
        asked.append(args)
        return looking(stretches, *args)

    monkeypatch.setattr(Stretches, "_looking", noted)
    async with filled(opened, large_history(1, 200, falls=False)) as store:
        cursor: str | None = None
        for number in range(8):
            cursor = (await store.load_events(limit=20, cursor=cursor)).cursor
            if grows:
                await store.save_event({"type": "T", "aggregateId": f"s{number}", "aggregateVersion": 1})
    assert len(asked) == (2 if grows else 8)


async def test_pages_of_one_aggregate_whose_timestamps_go_backwards_bring_all_of_it(opened: Opened) -> None:
    events = history([(0, 0, shift, "A", "one") for shift in (0, 0, -2, 0)], 1, LONG_AGO, 0)
    async with filled(opened, events) as store:
        assert await loaded(store, 1, aggregate_ids=["one"]) == merged(events)


async def test_pages_of_one_aggregate_bring_what_is_saved_and_replaced_meanwhile(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(
            store, [make_event(i, aggregateId="one", aggregateVersion=i + 1) for i in range(40)]
        )
        cursor, found, version = None, [], 41
        while True:
            page = await store.load_events(limit=3, cursor=cursor, aggregate_ids=["one"])
            if not page.events:
                break
            found += page.events
            cursor = page.cursor
            if version < 50:
                await store.save_event({"type": "T", "aggregateId": "one", "aggregateVersion": version})
                await store.save_event({"type": "T", "aggregateId": "two", "aggregateVersion": version - 40})
                version += 1
        assert [event.aggregate_version for event in found] == list(range(1, 50))
        await store.save_event({"type": "T", "aggregateId": "one", "aggregateVersion": 50})
        more = await store.load_events(limit=3, cursor=cursor, aggregate_ids=["one"])
        assert [event.aggregate_version for event in more.events] == [50]

        first = await store.load_events(limit=3, cursor=None, aggregate_ids=["one"])
        await store.load_events(limit=3, cursor=first.cursor, aggregate_ids=["one"])
        await import_lines(
            store,
            [make_event(i, aggregateId="one", aggregateVersion=i + 1, type="NEW") for i in range(0, 40, 2)],
        )
        page = await store.load_events(limit=100, cursor=None, aggregate_ids=["one"])
        assert [event.type for event in page.events] == ["NEW"] * 20


@pytest.mark.parametrize("at_once", [3, 1000])
async def test_pages_of_one_aggregate_bring_each_event_once_whatever_comes_meanwhile(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(aggregates, "_PLACES", 11)
    monkeypatch.setattr(aggregates, "_NEW", at_once)
    counters, times = [0] * 8, [LONG_AGO + 40 * thread for thread in range(8)]
    version = 0
    chance = random.Random(7)

    def some(count: int) -> list[dict[str, Any]]:
        """The next events of some threads, each of which is at another time: what comes sorts anywhere."""
        nonlocal version
        events = []
        for _ in range(count):
            thread, version = chance.randrange(8), version + 1
            times[thread] += chance.randrange(9)
            events.append(
                make_event(
                    0,
                    threadId=thread,
                    threadCounter=counters[thread],
                    aggregateId=chance.choice(("one", "two")),
                    aggregateVersion=version,
                    timestamp=times[thread],
                )
            )
            counters[thread] += 1
        return events

    async with opened() as store:
        unread, cursor = some(100), None
        await import_lines(store, unread)
        for step in range(200):
            page = await store.load_events(limit=3, cursor=cursor, aggregate_ids=["one"])
            expected = merged(
                event for event in events_of(b"".join(map(line, unread))) if event.aggregate_id == "one"
            )[:3]
            assert page.events == expected
            if not expected:
                break
            cursor = page.cursor
            versions_read = {event.aggregate_version for event in expected}
            unread = [event for event in unread if event["aggregateVersion"] not in versions_read]
            if step < 40:
                new = some(chance.choice((0, 1, 5)))
                await import_lines(store, new, maintenance_mode=MANUAL)
                unread += new
            counters[3] += step % 9 == 0  # a gap


async def test_an_event_appended_at_the_very_place_where_a_page_ended_comes_next(opened: Opened) -> None:
    events = [make_event(0, threadId=thread, threadCounter=0) for thread in range(0, 40, 2)]
    for number, event in enumerate(events):
        event["aggregateId"] = f"a{number}"
    async with filled(opened, events_of(b"".join(map(line, events)))) as store:
        page = await store.load_events(limit=4, cursor=None)
        assert [event.thread_id for event in page.events] == [0, 2, 4, 6]
        await store.freeze()
        late = make_event(0, threadId=7, threadCounter=0, aggregateId="late")
        await import_lines(store, [late], maintenance_mode=MANUAL)
        await store.unfreeze()
        page = await store.load_events(limit=4, cursor=page.cursor)
        assert [event.thread_id for event in page.events] == [7, 8, 10, 12]


@modest()
@given(events=histories(), before=st.integers(0, 60), size=st.sampled_from(PAGE_SIZES))
@pytest.mark.once
async def test_an_export_goes_on_where_pages_have_ended(
    opened: Opened, events: list[Event], before: int, size: int
) -> None:
    expected = merged(events)
    async with filled(opened, events) as store:
        cursor: str | None = None
        read: list[Event] = []
        while len(read) < before and (page := await store.load_events(limit=size, cursor=cursor)).events:
            read += page.events
            cursor = page.cursor
        assert await exported(store, cursor=cursor) == lines_of(expected[len(read) :])


@modest()
@given(events=histories(), before=st.integers(0, 60))
@pytest.mark.once
async def test_pages_go_on_where_an_export_has_ended(
    opened: Opened, events: list[Event], before: int
) -> None:
    expected = merged(events)
    async with filled(opened, events) as store:
        export = store.export_events(buffer_size=len(lines_of(expected[:before])))
        part = b"".join([block async for block in export])
        given = part.count(b"\n")
        rest = await store.load_events(limit=1000, cursor=export.cursor)
        assert given == min(max(before, 1), len(expected))
        assert part == lines_of(expected[:given])
        assert rest.events == expected[given:]


# An export in parts


@modest()
@given(events=histories(30))
@pytest.mark.once
async def test_an_export_of_one_event_at_a_time_brings_each_once(opened: Opened, events: list[Event]) -> None:
    async with filled(opened, events) as store:
        parts = await exported_in_parts(store, len(events) + 1, buffer_size=1)
        assert [part for part in parts if part] == [line(event) for event in merged(events)]


@modest()
@given(events=histories(), room=st.integers(1, 2000))
@pytest.mark.once
async def test_an_export_with_a_buffer_size_ends_after_the_last_event_that_fits(
    opened: Opened, events: list[Event], room: int
) -> None:
    async with filled(opened, events) as store:
        parts = await exported_in_parts(store, len(events) + 1, buffer_size=room)
        assert parts == list(greedy(merged(events), room))


@modest(6)
@given(events=histories(14, pad=300_000))
@pytest.mark.once
async def test_an_export_stopped_at_every_block_and_resumed_brings_each_event_once(
    opened: Opened, events: list[Event]
) -> None:
    async with filled(opened, events) as store:
        parts = await exported_with_stops(store, len(events) + 1)
        assert b"".join(parts) == lines_of(merged(events))


@modest(6)
@given(events=histories(14, pad=300_000), chosen=st.sampled_from((("A",), ("A", "B"))))
@pytest.mark.once
async def test_an_export_by_type_stopped_at_every_block_and_resumed_brings_each_event_once(
    opened: Opened, events: list[Event], chosen: tuple[str, ...]
) -> None:
    async with filled(opened, events) as store:
        parts = await exported_with_stops(store, len(events) + 1, event_types=chosen)
        assert b"".join(parts) == lines_of(Chosen(chosen).of(merged(events)))


@pytest.mark.once
async def test_the_cursor_of_a_running_export_is_behind_the_last_event_given_out_whole(
    opened: Opened,
) -> None:
    events = history(((number % 3, 0, 0, "T", "a") for number in range(20)), 1, LONG_AGO, 200_000)
    async with filled(opened, events) as store:
        given = b""
        async for block in (export := store.export_events()):
            given += block
            whole = given[: given.rfind(b"\n") + 1]
            assert whole + await exported(store, cursor=export.cursor) == lines_of(events)
        assert given == lines_of(events)


# Filters come after the order


@modest()
@given(case=histories_and_filters(times=True))
async def test_an_export_with_a_filter_brings_the_matching_events_of_the_order(
    opened: Opened, case: tuple[list[Event], Chosen]
) -> None:
    events, chosen = case
    async with filled(opened, events) as store:
        assert await exported(store, **chosen.arguments()) == lines_of(chosen.of(merged(events)))


@modest()
@given(case=histories_and_filters(times=True))
@pytest.mark.once
async def test_an_export_with_a_filter_of_one_event_at_a_time_brings_each_once(
    opened: Opened, case: tuple[list[Event], Chosen]
) -> None:
    events, chosen = case
    async with filled(opened, events) as store:
        parts = await exported_in_parts(store, len(events) + 1, buffer_size=1, **chosen.arguments())
        assert [part for part in parts if part] == [line(event) for event in chosen.of(merged(events))]


@modest()
@given(case=histories_and_filters(times=False))
async def test_pages_with_a_filter_bring_the_matching_events_of_the_order(
    opened: Opened, case: tuple[list[Event], Chosen]
) -> None:
    events, chosen = case
    expected = chosen.of(merged(events))
    async with filled(opened, events) as store:
        for size in PAGE_SIZES:
            assert await all_pages(store, size, **chosen.arguments()) == expected


@modest()
@given(case=histories_and_filters(times=False))
@pytest.mark.once
async def test_an_event_loader_with_a_filter_brings_the_matching_events_of_the_order(
    opened: Opened, case: tuple[list[Event], Chosen]
) -> None:
    events, chosen = case
    expected = chosen.of(merged(events))
    async with filled(opened, events) as store:
        for size in (1, 7, 1000):
            assert await loaded(store, size, **chosen.arguments()) == expected


# Writers beside a reader

steps = st.lists(
    st.tuples(st.sampled_from(("save", "save", "read")), st.integers(1, 5), st.sampled_from(AGGREGATES)),
    max_size=50,
)


@modest()
@given(steps=steps)
async def test_a_reader_that_follows_while_others_save_sees_every_event_once_in_thread_order(
    opened: Opened, steps: list[tuple[str, int, str]]
) -> None:
    async with opened() as store:
        loader = await store.get_event_loader(cursor=None)
        saved: list[Event] = []
        seen: list[Event] = []
        versions: Counter[str] = Counter()
        for step, number, aggregate in steps:
            if step == "read":
                seen += (await loader.load_events(number)).events
                continue
            versions[aggregate] += 1
            event = {
                "type": "T",
                "aggregateId": aggregate,
                "aggregateVersion": versions[aggregate],
                "timestamp": FAR_FUTURE - number,
            }
            saved.append((await store.save_event(event)).event)
        while page := (await loader.load_events(3)).events:
            seen += page
        assert sorted(seen, key=key) == sorted(saved, key=key)
        for thread in {event.thread_id for event in seen}:
            counters = [event.thread_counter for event in seen if event.thread_id == thread]
            assert counters == list(range(len(counters)))


@pytest.mark.parametrize("first_timestamp", [FAR_FUTURE, LONG_AGO])
async def test_an_export_brings_what_was_there_at_its_start_though_events_are_saved_meanwhile(
    opened: Opened, first_timestamp: int
) -> None:
    events = history(
        ((number % 7, 0, 0, "T", f"a{number % 10}") for number in range(40)), 1, first_timestamp, 200_000
    )
    async with filled(opened, events) as store:
        export = store.export_events()
        blocks: list[bytes] = []
        saved: list[Event] = []
        async for block in export:
            blocks.append(block)
            new = {"type": "T", "aggregateId": "new", "aggregateVersion": len(blocks)}
            saved.append((await store.save_event(new)).event)
        assert len(blocks) > 2
        assert b"".join(blocks) == lines_of(merged(events))
        assert export.is_end
        rest = await store.load_events(limit=100, cursor=export.cursor)
        assert rest.events == saved


async def test_an_export_leaves_out_what_is_appended_meanwhile_amid_what_it_has_not_read_yet(
    opened: Opened,
) -> None:
    events = history(
        ((number % 7, 0, 0, "T", f"a{number % 10}") for number in range(40)), 1, LONG_AGO, 200_000
    )
    amid = Event(
        thread_counter=0,
        thread_id=250,  # of which nothing else is unread that it could be seen to overtake
        type="T",
        timestamp=events[30].timestamp,
        aggregate_id="amid",
        aggregate_version=1,
    )
    async with filled(opened, events) as store:
        export = store.export_events()
        blocks = [await anext(export)]
        await import_lines(store, lines_of([amid]), maintenance_mode=MANUAL)
        blocks += [block async for block in export]
        assert len(blocks) > 2
        assert b"".join(blocks) == lines_of(merged(events))


# Large stores


@pytest.mark.slow
async def test_a_hundred_saves_of_which_the_first_half_is_dated_in_the_future_come_each_once(
    opened: Opened,
) -> None:
    async with opened() as store:
        saved: list[Event] = []
        for number in range(100):
            event = {
                "type": "T",
                "aggregateId": f"a{number % 50}",
                "aggregateVersion": number // 50 + 1,
                "timestamp": FAR_FUTURE - number if number < 50 else 0,
            }
            saved.append((await store.save_event(event)).event)
        expected = merged(saved)
        assert len(expected) == 100
        for size in (1, 7, 49, 1000):
            assert await all_pages(store, size) == expected
        assert await exported(store) == lines_of(expected)
        assert b"".join(await exported_in_parts(store, 100, buffer_size=2_000)) == lines_of(expected)


@pytest.mark.once
async def test_events_dated_in_the_future_come_each_once_when_imported_in_few_threads(opened: Opened) -> None:
    events = history(
        ((number % 3, 0, 10_000 if number < 75 else 0, "T", "a") for number in range(150)), 1, LONG_AGO, 0
    )
    expected = merged(events)
    assert [event.timestamp for event in expected] != sorted(event.timestamp for event in expected)
    async with filled(opened, events) as store:
        for size in (1, 3, 50, 149, 1000):
            assert await all_pages(store, size) == expected
        assert await exported(store) == lines_of(expected)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("threads", [1, 4, 256])
async def test_a_large_store_with_falls_reads_the_same_at_every_page_size(
    opened: Opened, threads: int
) -> None:
    events = large_history(threads, 9_000, threads=threads)
    expected = merged(events)
    async with filled(opened, events) as store:
        for size in (500, 8_999, 10_000):
            assert await all_pages(store, size) == expected
        assert await exported(store) == lines_of(expected)


@pytest.mark.slow
@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.once
async def test_an_export_of_many_blocks_stopped_at_each_and_resumed_is_whole(
    opened: Opened, falls: bool
) -> None:
    events = history(
        ((number % 256, 0, 20_000 if falls and number < 5_000 else 0, "T", "a") for number in range(10_000)),
        1,
        LONG_AGO,
        0,
    )
    expected = lines_of(merged(events))
    async with filled(opened, events) as store:
        parts = await exported_with_stops(store, 100)
        assert len(parts) > 2
        assert b"".join(parts) == expected
        assert await exported(store) == expected


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(Chosen(event_types=("RARE",)), id="by type"),
        pytest.param(Chosen(aggregate_ids=("rare",)), id="by aggregate"),
        pytest.param(Chosen(aggregate_prefixes=("rar",), exclude_types=TYPES), id="by prefix"),
        pytest.param(Chosen(event_types=("RARE", "nothing"), aggregate_ids=("rare", "nobody")), id="by both"),
    ],
)
@pytest.mark.parametrize(("size", "falls"), [(10_000, False), (3_001, True)])
async def test_rare_events_among_many_are_found_at_every_page_size(
    opened: Opened, chosen: Chosen, size: int, falls: bool
) -> None:
    events = large_history(5, size, threads=16, rare=size // 6, falls=falls)
    expected = chosen.of(merged(events))
    assert len(expected) == 7
    async with filled(opened, events) as store:
        for limit in (1, 100):
            assert await all_pages(store, limit, **chosen.arguments()) == expected
        assert await exported(store, **chosen.arguments()) == lines_of(expected)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 256])
async def test_an_early_and_a_late_time_of_a_large_store_are_exported_whole(
    opened: Opened, threads: int
) -> None:
    events = large_history(9, 10_000, threads=threads)
    order = merged(events)
    async with filled(opened, events) as store:
        for start, finish in ((None, 700), (4_000, 4_010), (4_300, None), (9_000, 9_001)):
            chosen = Chosen(
                start_time=None if start is None else LONG_AGO + start,
                finish_time=None if finish is None else LONG_AGO + finish,
            )
            assert await exported(store, **chosen.arguments()) == lines_of(chosen.of(order))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 256, pytest.param(100, marks=pytest.mark.once)])
async def test_very_many_events_of_one_timestamp_come_each_once(opened: Opened, threads: int) -> None:
    events = history(
        ((number % threads, 0, 0, TYPES[number % 3], "a") for number in range(9_000)), 9_000, LONG_AGO, 0
    )
    expected = merged(events)
    async with filled(opened, events) as store:
        assert await exported(store) == lines_of(expected)
        assert await exported(store, event_types=["B"]) == lines_of(Chosen(("B",)).of(expected))
        assert await all_pages(store, 1_001) == expected
        assert await loaded(store, 1_001) == expected


@pytest.mark.once
async def test_an_export_up_to_a_time_brings_an_early_event_that_waits_behind_a_late_one(
    opened: Opened,
) -> None:
    """Thread 0 holds a late event and behind it an early one; thread 1 holds thousands in between."""
    events = history(
        ((0, 0, 9_000, "T", "a"), (0, 0, 4, "T", "a"), *((1, 0, 8, "T", "a") for _ in range(5_000))),
        1,
        LONG_AGO,
        0,
    )
    first = merged(events)[:10]
    async with filled(opened, events) as store:
        cursor = store.get_next_cursor(None, first)
        rest = merged(event for event in events if event not in first)
        chosen = Chosen(finish_time=LONG_AGO + 30)
        expected = chosen.of(rest)
        assert events[1] in expected
        assert await exported(store, cursor=cursor, **chosen.arguments()) == lines_of(expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.once)])
async def test_events_of_very_different_sizes_come_each_once(opened: Opened, seed: int) -> None:
    chance = random.Random(seed)
    events = [
        make_event(i, payload="x" * (chance.randrange(60_000, 1_500_000) if chance.random() < 0.004 else 20))
        for i in range(2_000)
    ]
    async with opened() as store:
        await import_lines(store, b"".join(map(line, events)))
        expected = await exported(store)
        assert expected == b"".join(map(line, events))
        assert await all_pages(store, 700) == events_of(expected)
        found = b"".join(line(event) for event in events if event["type"] == "TYPE_1")
        assert await exported(store, event_types=["TYPE_1"]) == found != b""


# What the order is


@modest()
@given(events=histories())
@pytest.mark.once
async def test_where_no_thread_falls_the_order_is_the_sort_by_timestamp_counter_and_thread(
    opened: Opened, events: list[Event]
) -> None:
    latest: dict[int, int] = {}
    rising: list[Event] = []
    for event in events:
        if event.timestamp >= latest.get(event.thread_id, event.timestamp):
            latest[event.thread_id] = event.timestamp
            rising.append(event)
    async with filled(opened, rising) as store:
        assert await all_pages(store, 7) == sorted(rising, key=key)


@pytest.mark.once
async def test_a_thread_that_falls_keeps_its_own_order(opened: Opened) -> None:
    """The event of time 1 waits behind that of time 9 in its thread; the other thread's go by their time."""
    times = {(0, 0): 9, (0, 1): 1, (1, 0): 2, (1, 1): 10}
    events = [
        Event(
            thread_id=thread,
            thread_counter=counter,
            timestamp=time,
            type="T",
            aggregate_id="a",
            aggregate_version=number + 1,
        )
        for number, ((thread, counter), time) in enumerate(times.items())
    ]
    async with filled(opened, events) as store:
        assert [event.timestamp for event in await all_pages(store, 1)] == [2, 9, 1, 10]


# From a time on


@pytest.mark.slow
@modest(12)
@given(
    case=histories_and_filters(times=True),
    read=st.dictionaries(st.sampled_from((0, 1, 2, 127, 255)), st.integers(0, 12)),
)
async def test_an_export_by_time_from_any_cursor_brings_the_matching_events_of_the_order_from_there(
    opened: Opened, case: tuple[list[Event], Chosen], read: dict[int, int]
) -> None:
    events, chosen = case
    read = as_far_as(events, read)
    unread = [event for event in events if event.thread_counter > read.get(event.thread_id, -1)]
    async with filled(opened, events) as store:
        cursor = store.get_next_cursor(None, last_of(read))
        parts = await exported_in_parts(
            store, len(events) + 1, cursor=cursor, buffer_size=1, **chosen.arguments()
        )
        expected = lines_of(chosen.of(merged(unread)))
        assert b"".join(parts) == expected
        assert await exported(store, cursor=cursor, **chosen.arguments()) == expected


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 256])
async def test_an_export_from_a_time_on_of_a_store_in_order_is_not_merged(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    events = large_history(3, 9_000, threads=threads, falls=False)
    order = merged(events)

    async def refuse(*_: object) -> None:
        raise AssertionError("this store is in order")

    monkeypatch.setattr(Pages, "_merged", refuse)
    async with filled(opened, events) as store:
        for start, finish in ((100, None), (4_000, None), (4_400, None), (2_000, 2_700)):
            chosen = Chosen(
                start_time=LONG_AGO + start, finish_time=None if finish is None else LONG_AGO + finish
            )
            assert await exported(store, **chosen.arguments()) == lines_of(chosen.of(order))


async def test_an_export_from_a_time_on_does_not_walk_over_what_is_earlier(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = large_history(3, 9_000, falls=False)
    start = LONG_AGO + 4_450
    bounds: list[int] = []
    find_bound = Pages._find_bound

    async def noted(pages: Pages, reading: Any) -> bool:
        found = await find_bound(pages, reading)
        assert pages._bound is not None
        bounds.append(pages._bound.timestamp)
        return found

    monkeypatch.setattr(Pages, "_find_bound", noted)
    async with filled(opened, events) as store:
        expected = lines_of(Chosen(start_time=start).of(merged(events)))
        assert await exported(store, start_time=start) == expected
    assert bounds
    assert min(bounds) >= start

"""What is in one thread is in order by its counters, whatever its timestamps are: no page of it is merged."""

from __future__ import annotations

from typing import Any

import pytest

from eventferry import MANUAL, Event, EventStore
from eventferry.reading import exporting
from eventferry.reading.merge import Merge
from tests.support import (
    LONG_AGO,
    Opened,
    all_pages,
    back_and_forth,
    event_at,
    exported,
    import_lines,
    line,
    make_event,
)

COUNT = 3_000
THREAD = 77


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 200)
    monkeypatch.setattr(exporting, "SLICE_EVENTS", 700)


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Refuses every merge; notes how often one was begun."""
    begun: list[int] = []
    begin = Merge.begin

    async def noted(merge: Merge) -> int | None:
        begun.append(1)
        return await begin(merge)

    async def refuse(*_: object) -> None:
        raise AssertionError("whatever is unread is in one thread")

    monkeypatch.setattr(Merge, "begin", noted)
    monkeypatch.setattr(Merge, "take", refuse)
    return begun


@pytest.mark.parametrize("gaps", [False, True])
async def test_pages_bring_it_in_order_of_its_counters(opened: Opened, merges: list[int], gaps: bool) -> None:
    events = back_and_forth(COUNT, gaps=gaps)
    async with opened() as store:
        await import_lines(store, events)
        assert [event.payload for event in await all_pages(store, 300)] == [e["payload"] for e in events]
        assert len(merges) <= 1  # which found that there is one thread
        loader = await store.get_event_loader(cursor=None, event_types=["TYPE_1"])
        found: list[Event] = []
        while page := (await loader.load_events(100)).events:
            found += page
        assert [event.payload for event in found] == [e["payload"] for e in events if e["type"] == "TYPE_1"]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("gaps", [False, True])
async def test_exports_bring_it_in_order_of_its_counters(
    opened: Opened, merges: list[int], gaps: bool
) -> None:
    events = back_and_forth(COUNT, gaps=gaps)
    times = {"start_time": LONG_AGO + 1_000, "finish_time": LONG_AGO + 4_000}
    async with opened() as store:
        await import_lines(store, events)
        assert await exported(store) == b"".join(map(line, events))
        assert await exported(store, jobs=3) == b"".join(map(line, events))
        middle = store.get_next_cursor(None, [event_at(THREAD, events[1500]["threadCounter"])])
        assert await exported(store, cursor=middle, limit=700) == b"".join(map(line, events[1501:2201]))
        of_a_type = b"".join(line(event) for event in events if event["type"] == "TYPE_2")
        assert await exported(store, event_types=["TYPE_2"]) == of_a_type
        of_a_time = [e for e in events if times["start_time"] <= e["timestamp"] <= times["finish_time"]]
        assert await exported(store, **times) == b"".join(map(line, of_a_time))
    assert merges == []


@pytest.mark.parametrize("gaps", [False, True])
async def test_partitions_cut_it_into_equal_slices(opened: Opened, merges: list[int], gaps: bool) -> None:
    events = back_and_forth(COUNT, gaps=gaps)
    async with opened() as store:
        await import_lines(store, events)
        parts = await store.partitions(7)
        slices = [b"".join([block async for block in store.read_partition(part)]) for part in parts]
        assert b"".join(slices) == b"".join(map(line, events))
        assert len(slices) == 7
        assert {text.count(b"\n") for text in slices} <= {COUNT // 7, COUNT // 7 + 1}
    assert merges == []


@pytest.mark.once
async def test_there_are_no_more_partitions_than_events(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, back_and_forth(200, gaps=True))
        assert len(await store.partitions(500)) == 200


async def test_what_is_left_unread_in_one_thread_is_read_so_too(opened: Opened, merges: list[int]) -> None:
    others = [make_event(i, threadId=5, threadCounter=i, timestamp=LONG_AGO + 5 * i) for i in range(100)]
    events = [event | {"aggregateId": f"b{i}"} for i, event in enumerate(back_and_forth(COUNT))]
    async with opened() as store:
        await import_lines(store, [*others, *events])
        cursor = store.get_next_cursor(None, [event_at(5, 99)])
        assert await exported(store, cursor=cursor) == b"".join(map(line, events))
        page = await store.load_events(limit=COUNT, cursor=cursor)
        assert [event.aggregate_id for event in page.events] == [event["aggregateId"] for event in events]
    assert merges == []


async def come(store: EventStore, thread: int, timestamp: int, **fields: Any) -> None:
    """Store the first event of a thread."""
    event = make_event(
        0, threadId=thread, threadCounter=0, timestamp=timestamp, **{"aggregateId": f"t{thread}"} | fields
    )
    await store.freeze()
    await import_lines(store, [event], maintenance_mode=MANUAL)
    await store.unfreeze()


async def test_an_event_that_comes_meanwhile_in_another_thread_is_not_passed_by(opened: Opened) -> None:
    events = back_and_forth(COUNT)
    async with opened() as store:
        await import_lines(store, events)
        loader = await store.get_event_loader(cursor=None)
        assert len((await loader.load_events(1_000)).events) == 1_000
        assert len((await loader.load_events(500)).events) == 500
        await come(store, 3, LONG_AGO)
        first, second = (await loader.load_events(2)).events
        assert (first.thread_id, second.thread_counter) == (3, 1_500)
        await come(store, 4, LONG_AGO + 10**9)
        rest = (await loader.load_events(COUNT)).events
        assert [event.thread_id for event in rest] == [THREAD] * 1_499 + [4]


async def test_nor_is_one_of_the_aggregate_that_is_read(opened: Opened) -> None:
    events = [
        event | {"aggregateId": f"a{i % 5}", "aggregateVersion": i // 5 + 1}
        for i, event in enumerate(back_and_forth(300))
    ]
    async with opened() as store:
        await import_lines(store, events)
        loader = await store.get_event_loader(cursor=None, aggregate_ids=["a4"])
        assert [e.thread_counter for e in (await loader.load_events(20)).events] == [*range(4, 100, 5)]
        await come(store, 3, LONG_AGO, aggregateId="a4", aggregateVersion=1_000)
        found = (await loader.load_events(20)).events
        assert [(e.thread_id, e.thread_counter) for e in found] == [
            (3, 0),
            *((THREAD, counter) for counter in range(104, 199, 5)),
        ]

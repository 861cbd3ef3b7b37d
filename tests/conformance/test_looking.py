"""Looking into a store: what the database counts is what is there, and no search misses an event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from eventferry import Event, EventStore, Stats, UsageError, sync, with_metadata
from tests.support import LONG_AGO, NewUrl, Opened, back_and_forth, import_lines, make_event

HOUR = 3_600_000
FILTERS: dict[str, dict[str, Any]] = {
    "everything": {},
    "types": {"event_types": ["TYPE_0", "typed", "TYPE_1"]},
    "a type but no other": {"exclude_types": ["TYPE_1"]},
    "aggregates": {"aggregate_ids": ["aggregate-3", "Aggregate-3"]},
    "prefixes": {"aggregate_prefixes": ["aggregate-1", "50%_", "é"], "exclude_types": ["typed"]},
    "times": {"start_time": LONG_AGO + 2 * HOUR, "finish_time": LONG_AGO + 20 * HOUR},
    "no type": {"event_types": []},
    "nothing": {"aggregate_ids": ["nobody"]},
}
EVENTS = [
    make_event(i, timestamp=LONG_AGO + i * HOUR // 2, payload={"text": "é" * (i % 7), "number": i})
    for i in range(60)
] + [
    make_event(60, aggregateId="50%_off", aggregateVersion=1, type="typed", payload=None, timestamp=-1),
    make_event(61, aggregateId="été", aggregateVersion=1, type="Typed", payload="x" * 5000),
    make_event(62, aggregateId="500_off", aggregateVersion=1, type="typed", payload=7),
]


def passes(event: dict[str, Any], filters: dict[str, Any]) -> bool:
    ids, prefixes = filters.get("aggregate_ids"), filters.get("aggregate_prefixes")
    return (
        event["type"] in filters.get("event_types", [event["type"]])
        and event["type"] not in filters.get("exclude_types", [])
        and (ids is None or event["aggregateId"] in ids)
        and (prefixes is None or event["aggregateId"].startswith(tuple(prefixes)))
        and filters.get("start_time", -1) <= event["timestamp"] <= filters.get("finish_time", 2**50)
    )


async def test_stats_count_what_is_there(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, EVENTS)
        for filters in FILTERS.values():
            check(await store.stats(span="day", top=100, **filters), filters)


def check(stats: Stats, filters: Mapping[str, Any]) -> None:
    """These must be the figures of the events that pass."""
    expected = [event for event in EVENTS if passes(event, dict(filters))]
    types = Counter(event["type"] for event in expected)
    aggregates = Counter(event["aggregateId"] for event in expected)
    days = Counter(event["timestamp"] // (24 * HOUR) * 24 * HOUR for event in expected)
    sizes = [len(msgspec.json.encode(event["payload"])) for event in expected]
    times = [event["timestamp"] for event in expected]

    assert {each.type: each.events for each in stats.types.types} == types
    assert (stats.types.events, stats.types.count) == (len(expected), len(types))
    assert (stats.types.first_timestamp, stats.types.last_timestamp) == (
        min(times, default=None),
        max(times, default=None),
    )
    assert stats.types.bytes == sum(sizes)
    assert {each.aggregate_id: each.events for each in stats.aggregates.aggregates} == aggregates
    assert stats.aggregates.count == len(aggregates)
    assert {point.start: point.events for point in stats.timeline.points} == days
    assert [point.start for point in stats.timeline.points] == sorted(days)
    assert [each.bytes for each in stats.largest] == sorted(sizes, reverse=True)


async def test_the_most_come_first_of_many(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, EVENTS)
        stats = await store.stats(top=2)
        assert [each.events for each in stats.types.types] == [20, 20]
        assert stats.types.count == 5
        assert stats.types.events == len(EVENTS)
        assert len(stats.aggregates.aggregates) == 2
        assert stats.aggregates.count == 13
        assert stats.largest[0].aggregate_id == "été"
        large = stats.largest[0]
        found = await store.event_at(large.thread_id, large.thread_counter)
        assert found is not None
        assert found.payload == "x" * 5000
        assert stats.busiest == max(stats.timeline.points, key=lambda point: point.events)


@pytest.mark.once
async def test_a_timeline_has_its_points_where_it_is_asked_for_them(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, EVENTS)
        by_hour = await store.timeline(span="hour", start_time=LONG_AGO)
        assert by_hour.span == HOUR
        assert sum(point.events for point in by_hour.points) == 62
        chosen = await store.timeline(start_time=LONG_AGO)
        assert 20 <= len(chosen.points) <= 121
        assert (await store.timeline(event_types=[])).points == []
        for span in (0, -1, "month", True):
            with pytest.raises(UsageError, match="span"):
                await store.timeline(span=span)
        with pytest.raises(UsageError, match="top"):
            await store.stats(top=0)


@pytest.mark.once
def test_the_same_without_await(new_url: NewUrl) -> None:
    with sync.open_store(new_url()) as store:
        store.init()
        store.append_events("a", [{"type": "T", "payload": {"city": "Oslo"}}])
        assert store.stats(event_types=["T"]).types.events == 1
        assert store.search("oslo").events == store.tail(1).events
        assert store.history("a").entries[0].event == store.event_at(*_place(store.tail(1).events[0]))


def _place(event: Event) -> tuple[int, int]:
    return event.thread_id, event.thread_counter


@pytest.mark.once
async def test_a_timeline_of_too_many_points_is_refused(opened: Opened) -> None:
    events = [make_event(i, timestamp=LONG_AGO + 1000 * i) for i in range(10_001)]
    async with opened() as store:
        await import_lines(store, events)
        with pytest.raises(UsageError, match="longer span"):
            await store.timeline(span="second")
        assert len((await store.timeline(span="second", start_time=LONG_AGO + 1)).points) == 10_000


@pytest.mark.once
async def test_the_tail_is_followed_without_missing_an_event(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, back_and_forth(40))
        every = (await store.load_events(limit=100, cursor=None)).events
        page = await store.tail(7, event_types=["TYPE_1"])
        assert page.events == [event for event in every if event.type == "TYPE_1"][-7:]
        assert (await store.tail(100)).events == every
        assert (await store.tail(3, event_types=[])).events == []
        later = await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        assert (await store.load_events(limit=9, since=page.bookmark)).events == [later.event]


@pytest.mark.once
async def test_a_history_says_what_each_event_changed(opened: Opened) -> None:
    async with opened() as store:
        await store.append_events(
            "account",
            [
                {"type": "OPENED", "payload": {"owner": "Ann", "limits": [1, 2]}},
                {"type": "PAID", "payload": {"cents": 5, "to": "Bob"}},
                {"type": "OPENED", "payload": {"owner": "Eve", "limits": [1, 3, 4]}},
                {"type": "PAID", "payload": {"cents": 5.0}},
            ],
        )
        page = await store.history("account")
        told = [
            (entry.against, [(each.path, each.kind, each.before, each.after) for each in entry.changes])
            for entry in page.entries
        ]
        assert told == [
            (None, []),
            (None, []),
            (
                1,
                [
                    ("/owner", "changed", "Ann", "Eve"),
                    ("/limits/1", "changed", 2, 3),
                    ("/limits/2", "added", None, 4),
                ],
            ),
            (2, [("/to", "removed", "Bob", None)]),
        ]
        assert page.next_version is None
        second = await store.history("account", 3, 1)
        assert second.entries == page.entries[2:3]
        assert second.next_version == 4
        assert (await store.history("nobody")).entries == []


async def search_all(store: EventStore, *args: Any, **options: Any) -> list[Event]:
    """What a search finds that is gone on with until the end."""
    found: list[Event] = []
    cursor: str | None = None
    while True:
        page = await store.search(*args, cursor=cursor, **options)
        assert page.scanned <= options["scan"]
        found += page.events
        if page.is_end:
            return found
        assert page.scanned
        cursor = page.cursor


@pytest.mark.once
@pytest.mark.parametrize("filters", [{}, {"event_types": ["TYPE_1"]}, {"finish_time": LONG_AGO + 60}])
@pytest.mark.parametrize(("limit", "scan"), [(3, 7), (100, 1), (1, 1000)])
async def test_a_search_in_steps_finds_what_one_finds_in_one(
    opened: Opened, filters: dict[str, Any], limit: int, scan: int
) -> None:
    async with opened() as store:
        await import_lines(store, back_and_forth(50))
        every = (await store.load_events(limit=100, cursor=None)).events
        expected = [
            event
            for event in every
            if "4" in str(event.payload["number"])
            and event.type in filters.get("event_types", [event.type])
            and event.timestamp <= filters.get("finish_time", event.timestamp)
        ]
        assert (await store.search(path="/number", value="4")).events == [every[4]]
        found = await search_all(store, "4", path="/number", limit=limit, scan=scan, **filters)
        assert [event for event in found if "4" in str(event.payload["number"])] == expected


@pytest.mark.once
async def test_a_trace_finds_cause_and_effect(opened: Opened) -> None:
    def caused(id: str, correlation: str, cause: str | None) -> dict[str, Any]:
        return with_metadata(
            {"type": "T", "payload": 1}, id=id, correlation_id=correlation, causation_id=cause
        )

    async with opened() as store:
        await store.append_events("a", [caused("1", "Order 1", None), caused("2", "Order 1", "1")])
        await store.append_events("b", [caused("3", "order 1", None), {"type": "T", "payload": "Order 1"}])
        await store.append_events("c", [caused("4", "Order 1", "2"), caused("Order 1", "x", None)])
        trace = await store.trace("Order 1")
        assert sorted(event.id or "" for event in trace.events) == ["1", "2", "4", "Order 1"]
        assert {event.id: event.causation_id for event in trace.events}["4"] == "2"
        assert trace.is_end

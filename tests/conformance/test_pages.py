"""Reading: pages by cursor and by time, filters, loaders, the latest event."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventferry import CursorAheadError, Event, EventStore, StoreClosedError, UsageError
from eventferry import cursor as vector
from tests.support import (
    LONG_AGO,
    Opened,
    all_pages,
    as_dict,
    events_of,
    import_lines,
    line,
    make_event,
    make_lines,
)

ZERO = "A" * 2048
BIG = 12345678901234567890


@asynccontextmanager
async def holding(opened: Opened, *events: dict[str, Any]) -> AsyncIterator[EventStore]:
    """A store that holds these events."""
    async with opened() as store:
        await import_lines(store, events)
        yield store


def numbers(events: Sequence[Event]) -> list[int]:
    return [event.payload["number"] for event in events]


# arguments

WRONG: dict[str, dict[str, Any]] = {
    "nothing but a limit": {"limit": 1},
    "only filters": {"limit": 1, "event_types": ["T"]},
    "a cursor and a start": {"limit": 1, "cursor": ZERO, "start_time": 0},
    "a cursor and a finish": {"limit": 1, "cursor": ZERO, "finish_time": 0},
    "the null cursor and a start": {"limit": 1, "cursor": None, "start_time": 0},
    "a start after the finish": {"limit": 1, "start_time": 2, "finish_time": 1},
    "a limit of zero": {"limit": 0, "cursor": None},
    "a negative limit": {"limit": -1, "cursor": None},
    "a limit that is no whole number": {"limit": 1.5, "cursor": None},
    "a limit that is a bool": {"limit": True, "cursor": None},
    "a limit that is text": {"limit": "1", "cursor": None},
    "no limit at all": {"limit": None, "cursor": None},
    "a cursor that is none": {"limit": 1, "cursor": "abc"},
    "a cursor that is a number": {"limit": 1, "cursor": 5},
    "a start that is text": {"limit": 1, "start_time": "0"},
    "a finish that is no whole number": {"limit": 1, "finish_time": 0.5},
    "a start that is a bool": {"limit": 1, "start_time": False},
    "types that are one text": {"limit": 1, "cursor": None, "event_types": "TYPE"},
    "types that are no texts": {"limit": 1, "cursor": None, "event_types": [1]},
    "types that are no list": {"limit": 1, "cursor": None, "event_types": 7},
    "aggregates that are one text": {"limit": 1, "cursor": None, "aggregate_ids": "a"},
    "aggregates that are no texts": {"limit": 1, "cursor": None, "aggregate_ids": [None]},
}


@pytest.mark.once
@pytest.mark.parametrize("arguments", [pytest.param(given, id=name) for name, given in WRONG.items()])
async def test_wrong_arguments_of_a_page_are_refused_by_name(
    opened: Opened, arguments: dict[str, Any]
) -> None:
    async with opened() as store:
        with pytest.raises(UsageError):
            await store.load_events(**arguments)


@pytest.mark.once
@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "1", None])
async def test_a_wrong_limit_of_an_event_loader_is_refused_by_name(opened: Opened, limit: Any) -> None:
    async with opened() as store:
        loader = await store.get_event_loader(cursor=None)
        with pytest.raises(UsageError):
            await loader.load_events(limit)


@pytest.mark.once
async def test_an_event_loader_from_something_that_is_no_cursor_is_refused_by_name(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(UsageError):
            await store.get_event_loader(cursor="abc")


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"cursor": "abc"}, id="a cursor that is none"),
        pytest.param({"event_types": "TYPE"}, id="types that are one text"),
        pytest.param({"start_time": 2, "finish_time": 1}, id="a start after the finish"),
        pytest.param({"start_time": 0.5}, id="a start that is no whole number"),
        pytest.param({"maintenance_mode": "manual"}, id="a mode that is a text"),
        pytest.param({"buffer_size": -1}, id="a negative buffer"),
        pytest.param({"buffer_size": 1.5}, id="a buffer that is no whole number"),
        pytest.param({"buffer_size": "9"}, id="a buffer that is text"),
    ],
)
async def test_wrong_arguments_of_an_export_are_refused_by_name(
    opened: Opened, arguments: dict[str, Any]
) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(3))
        with pytest.raises(UsageError):
            async for _ in store.export_events(**arguments):
                pass


# pages by cursor


@pytest.mark.parametrize("limit", [1, 7, 299, 300, 301, 10**9])
@pytest.mark.once
async def test_pages_of_any_size_bring_the_same_sequence(opened: Opened, limit: int) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        assert await all_pages(store, limit) == events_of(make_lines(300))


async def test_a_page_holds_at_most_limit_events_and_its_cursor_goes_on_behind_them(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        first = await store.load_events(limit=4, cursor=None)
        second = await store.load_events(limit=4, cursor=first.cursor)
        third = await store.load_events(limit=4, cursor=second.cursor)
        assert [numbers(page.events) for page in (first, second, third)] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9],
        ]


@pytest.mark.once
async def test_the_cursor_of_a_page_is_that_of_get_next_cursor(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(600))
        first = await store.load_events(limit=300, cursor=None)
        assert first.cursor == store.get_next_cursor(None, first.events)
        second = await store.load_events(limit=200, cursor=first.cursor)
        assert second.cursor == store.get_next_cursor(first.cursor, second.events)


@pytest.mark.once
async def test_pages_of_other_sizes_follow_one_another(opened: Opened) -> None:
    # What was read ahead for a page of the size before is of no use then.
    lines = make_lines(6000)
    async with opened() as store:
        await import_lines(store, lines)
        loader = await store.get_event_loader(cursor=None)
        found = [
            event
            for limit in (900, 900, 400, 800, 800, 300, 700, 700, 500)
            for event in (await loader.load_events(limit)).events
        ]
        assert found == events_of(lines)


async def test_at_the_end_a_page_is_empty_and_the_cursor_stays(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        last = await store.load_events(limit=10, cursor=None)
        page = await store.load_events(limit=10, cursor=last.cursor)
        assert page.events == []
        assert page.cursor == last.cursor


@pytest.mark.once
async def test_a_page_of_an_empty_store_from_the_start_gives_the_zero_cursor(opened: Opened) -> None:
    async with opened() as store:
        page = await store.load_events(limit=1, cursor=None)
        assert page.events == []
        assert page.cursor == ZERO


@pytest.mark.once
async def test_the_zero_cursor_is_the_start(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(3))
        assert (await store.load_events(limit=9, cursor=ZERO)).events == events_of(make_lines(3))


async def test_a_cursor_beyond_the_end_is_refused(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(3))
        with pytest.raises(CursorAheadError):
            await store.load_events(limit=9, cursor=vector.encode([100] * 256))


async def test_a_cursor_into_a_gap_goes_on_behind_the_gap(opened: Opened) -> None:
    events = [make_event(0, threadCounter=0), make_event(256, threadCounter=10)]
    async with holding(opened, *events) as store:
        page = await store.load_events(limit=9, cursor=vector.encode([5] + [0] * 255))
        assert numbers(page.events) == [256]
        assert page.cursor == vector.encode([11] + [0] * 255)


async def test_events_come_as_they_are_stored(opened: Opened) -> None:
    payload = {"a": [1, 1.5, None, True, {}], "ü": "\u2028 \U0001f600 \\ \" '", "big": BIG}
    event = make_event(3, aggregateId='d"é', type="x\\y", timestamp=-7, payload=payload)
    async with holding(opened, event) as store:
        [loaded] = await all_pages(store, 1)
        assert as_dict(loaded) == event
        assert type(loaded.payload["big"]) is int


async def test_any_json_value_can_be_a_payload(opened: Opened) -> None:
    payloads: list[Any] = [None, True, 0, "", "text", [], {}, 1.5, "1", BIG, -BIG]
    events = [make_event(i, payload=payload) for i, payload in enumerate(payloads)]
    async with holding(opened, *events) as store:
        loaded = [event.payload for event in await all_pages(store, 1)]
        assert loaded == payloads
        assert list(map(type, loaded)) == list(map(type, payloads))


async def test_a_number_beyond_any_float_is_not_turned_into_infinity(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, line(make_event(0)).replace(b'{"number":0}', b"1e400"))
        [loaded] = await all_pages(store, 1)
        assert loaded.payload == 10**400


# filters


LIMITS = (1, 2, 7, 1000)


async def test_pages_by_type_bring_only_these_types(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(60))
        expected = [i for i in range(60) if i % 3 in (0, 2)]
        for limit in LIMITS:
            assert numbers(await all_pages(store, limit, event_types=["TYPE_0", "TYPE_2"])) == expected


async def test_pages_by_aggregate_bring_only_these_aggregates(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(60))
        expected = [i for i in range(60) if i % 10 in (3, 4)]
        for limit in LIMITS:
            read = await all_pages(store, limit, aggregate_ids=["aggregate-3", "aggregate-4", "nobody"])
            assert numbers(read) == expected


async def test_pages_by_type_and_aggregate_bring_only_what_matches_both(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(60))
        for limit in LIMITS:
            read = await all_pages(store, limit, event_types=["TYPE_1"], aggregate_ids=["aggregate-4"])
            assert numbers(read) == [4, 34]


@pytest.mark.once
async def test_filters_can_be_any_iterable_of_texts(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(60))
        page = await store.load_events(
            limit=100, cursor=None, event_types={"TYPE_1"}, aggregate_ids=(f"aggregate-{i}" for i in (4, 7))
        )
        assert numbers(page.events) == [4, 7, 34, 37]


async def test_naming_a_type_twice_brings_its_events_once(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(6))
        by_type = await store.load_events(limit=9, cursor=None, event_types=["TYPE_1"] * 2)
        assert numbers(by_type.events) == [1, 4]
        by_aggregate = await store.load_events(limit=9, cursor=None, aggregate_ids=["aggregate-1"] * 2)
        assert numbers(by_aggregate.events) == [1]


@pytest.mark.slow
async def test_a_filter_of_very_many_names_works(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(60))
        names = [f"aggregate-{i}" for i in range(3, 20_000)]
        assert len(await all_pages(store, 7, aggregate_ids=names)) == 42


LOOKALIKES = ("a", "A", "\u00e1", "a\u0301", "a ", "", "%", "_", "'", '"', "\\", "\U0001f980")


async def test_names_in_filters_are_compared_byte_by_byte(opened: Opened) -> None:
    events = [
        make_event(i, type=each, aggregateId=each, aggregateVersion=1) for i, each in enumerate(LOOKALIKES)
    ]
    async with holding(opened, *events) as store:
        for place, name in enumerate(LOOKALIKES):
            assert numbers(await all_pages(store, 9, event_types=[name])) == [place], name
            assert numbers(await all_pages(store, 9, aggregate_ids=[name])) == [place], name


@pytest.mark.parametrize("filters", [{"event_types": []}, {"aggregate_ids": []}])
@pytest.mark.once
async def test_an_empty_filter_matches_nothing_and_the_given_cursor_comes_back(
    opened: Opened, filters: dict[str, Any]
) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        given = (await store.load_events(limit=4, cursor=None)).cursor
        page = await store.load_events(limit=9, cursor=given, **filters)
        assert page.events == []
        assert page.cursor == given


@pytest.mark.parametrize("filters", [{"event_types": []}, {"aggregate_ids": []}])
@pytest.mark.once
async def test_an_empty_filter_from_the_start_gives_the_zero_cursor(
    opened: Opened, filters: dict[str, Any]
) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        page = await store.load_events(limit=9, cursor=None, **filters)
        assert page.events == []
        assert page.cursor == ZERO


@pytest.mark.once
async def test_an_empty_filter_beside_one_that_matches_still_matches_nothing(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        page = await store.load_events(limit=9, cursor=None, event_types=["TYPE_1"], aggregate_ids=[])
        assert page.events == []
        assert page.cursor == ZERO


async def test_a_page_with_a_filter_never_passes_over_a_matching_event_saved_later(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        page = await store.load_events(limit=500, cursor=None, event_types=["NEW"])
        saved = []
        for i in range(20):
            event = {"type": "NEW", "aggregateId": f"new-{i}", "aggregateVersion": 1}
            saved.append((await store.save_event(event)).event.aggregate_id)
        later = await store.load_events(limit=500, cursor=page.cursor, event_types=["NEW"])
        assert sorted(event.aggregate_id for event in later.events) == sorted(saved)


# pages by time


SPANS = [
    (10, 20, [1, 2, 3, 4]),
    (11, 19, [2, 3]),
    (15, 15, [2, 3]),
    (None, 10, [0, 1]),
    (20, None, [4, 5]),
    (None, -1, []),
    (26, None, []),
    (0, 25, [0, 1, 2, 3, 4, 5]),
    (16, 19, []),
]


async def test_times_are_inclusive(opened: Opened) -> None:
    events = [make_event(i, timestamp=time) for i, time in enumerate((0, 10, 15, 15, 20, 25))]
    async with holding(opened, *events) as store:
        for start, finish, expected in SPANS:
            page = await store.load_events(limit=10, start_time=start, finish_time=finish)
            assert numbers(page.events) == expected, (start, finish)


async def test_a_page_by_time_holds_the_earliest_and_has_no_cursor(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(50))
        page = await store.load_events(limit=3, start_time=LONG_AGO + 10)
        assert numbers(page.events) == [10, 11, 12]
        assert page.cursor is None


async def test_a_page_by_time_is_in_order_of_timestamp_counter_and_thread(opened: Opened) -> None:
    events = [
        make_event(0, timestamp=5, threadCounter=1, threadId=0),
        make_event(1, timestamp=5, threadCounter=0, threadId=9),
        make_event(2, timestamp=5, threadCounter=0, threadId=8),
        make_event(3, timestamp=4, threadCounter=2, threadId=0),
    ]
    async with holding(opened, *events) as store:
        assert numbers((await store.load_events(limit=9, start_time=0)).events) == [3, 2, 1, 0]


async def test_a_page_by_time_can_have_filters_too(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(50))
        page = await store.load_events(
            limit=10,
            start_time=LONG_AGO + 1,
            finish_time=LONG_AGO + 40,
            event_types=["TYPE_1", "TYPE_2"],
            aggregate_ids=["aggregate-1"],
        )
        assert numbers(page.events) == [1, 11, 31]


@pytest.mark.parametrize("filters", [{"event_types": []}, {"aggregate_ids": []}])
@pytest.mark.once
async def test_a_page_by_time_with_an_empty_filter_is_empty(opened: Opened, filters: dict[str, Any]) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        assert (await store.load_events(limit=10, start_time=0, **filters)).events == []


# the latest event


async def test_the_latest_event_is_that_of_the_highest_timestamp(opened: Opened) -> None:
    events = [make_event(0, timestamp=5), make_event(1, timestamp=9), make_event(2, timestamp=7)]
    async with holding(opened, *events) as store:
        latest = await store.get_latest_event()
        assert latest is not None
        assert line(latest) == line(events[1])


async def test_the_latest_event_among_equal_timestamps_is_the_last_of_a_page_by_time(opened: Opened) -> None:
    events = [
        make_event(0, timestamp=5, threadCounter=2, threadId=3),
        make_event(1, timestamp=5, threadCounter=2, threadId=4),
        make_event(2, timestamp=5, threadCounter=1, threadId=9),
    ]
    async with holding(opened, *events) as store:
        latest = await store.get_latest_event()
        assert latest == (await store.load_events(limit=9, start_time=0)).events[-1]


LATEST: list[tuple[dict[str, Any], int | None]] = [
    ({"event_types": ["TYPE_1"]}, 58),
    ({"aggregate_ids": ["aggregate-3"]}, 53),
    ({"event_types": ["TYPE_1"], "aggregate_ids": ["aggregate-3", "aggregate-4"]}, 43),
    ({"event_types": ["nothing"]}, None),
    ({"event_types": []}, None),
    ({"aggregate_ids": []}, None),
]


async def test_the_latest_event_can_be_filtered(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(60))
        for filters, expected in LATEST:
            latest = await store.get_latest_event(**filters)
            assert (latest.payload["number"] if latest else None) == expected, filters


async def test_an_empty_store_has_no_latest_event(opened: Opened) -> None:
    async with opened() as store:
        assert await store.get_latest_event() is None


# the event loader


@pytest.mark.once
async def test_an_event_loader_remembers_how_far_it_is(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        loader = await store.get_event_loader(cursor=None)
        assert loader.cursor == ZERO
        for expected in ([0, 1, 2], [3, 4, 5, 6], [7, 8, 9], []):
            page = await loader.load_events(max(len(expected), 1))
            assert numbers(page.events) == expected
            assert loader.cursor == page.cursor
        assert (await store.load_events(limit=1, cursor=loader.cursor)).events == []


@pytest.mark.once
async def test_an_event_loader_begins_at_its_cursor(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        cursor = (await store.load_events(limit=4, cursor=None)).cursor
        loader = await store.get_event_loader(cursor=cursor)
        assert numbers((await loader.load_events(100)).events) == [4, 5, 6, 7, 8, 9]


@pytest.mark.once
async def test_an_event_loader_with_a_filter_brings_only_what_matches(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(60))
        loader = await store.get_event_loader(
            cursor=None, event_types=["TYPE_1"], aggregate_ids=["aggregate-4"]
        )
        assert numbers((await loader.load_events(1)).events) == [4]
        assert numbers((await loader.load_events(9)).events) == [34]


@pytest.mark.once
async def test_an_event_loader_with_an_empty_filter_brings_nothing_and_stays(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        cursor = (await store.load_events(limit=4, cursor=None)).cursor
        loader = await store.get_event_loader(cursor=cursor, event_types=[])
        for _ in range(2):
            page = await loader.load_events(9)
            assert page.events == []
            assert page.cursor == loader.cursor == cursor


@pytest.mark.once
async def test_an_event_loader_follows_events_saved_after_it_was_at_the_end(opened: Opened) -> None:
    async with opened() as store:
        loader = await store.get_event_loader(cursor=None)
        assert (await loader.load_events(9)).events == []
        for version in range(1, 6):
            saved = await store.save_event(
                {"type": "T", "aggregateId": "a", "aggregateVersion": version, "timestamp": 0}
            )
            assert (await loader.load_events(9)).events == [saved.event]
            assert (await loader.load_events(9)).events == []


@pytest.mark.once
async def test_an_event_loader_follows_events_dated_before_those_it_has_read(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, [make_event(0, timestamp=LONG_AGO * 3)])
        loader = await store.get_event_loader(cursor=None)
        assert len((await loader.load_events(9)).events) == 1
        saved = await store.save_event({"type": "T", "aggregateId": "new", "aggregateVersion": 1})
        assert (await loader.load_events(9)).events == [saved.event]


@pytest.mark.once
async def test_an_event_loader_with_a_filter_follows_too(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(30))
        loader = await store.get_event_loader(cursor=None, event_types=["NEW"])
        assert (await loader.load_events(9)).events == []
        await store.save_event({"type": "OLD", "aggregateId": "new", "aggregateVersion": 1})
        saved = await store.save_event({"type": "NEW", "aggregateId": "new", "aggregateVersion": 2})
        assert (await loader.load_events(9)).events == [saved.event]


@pytest.mark.once
async def test_a_closed_event_loader_says_so(opened: Opened) -> None:
    async with opened() as store:
        loader = await store.get_event_loader(cursor=None)
        await loader.close()
        await loader.close()
        with pytest.raises(StoreClosedError):
            await loader.load_events(1)


@pytest.mark.once
async def test_closing_an_event_loader_leaves_the_store_open(opened: Opened) -> None:
    async with opened() as store:
        await (await store.get_event_loader(cursor=None)).close()
        assert await all_pages(store, 1) == []


# cursors


@pytest.mark.once
async def test_get_next_cursor_moves_each_thread_behind_its_highest_event(opened: Opened) -> None:
    async with opened() as store:
        events = events_of(
            b"".join(
                line(make_event(0, threadId=thread, threadCounter=counter))
                for thread, counter in ((3, 7), (3, 5), (9, 0))
            )
        )
        start = vector.encode([2] * 256)
        after = vector.decode(store.get_next_cursor(start, events))
        assert after == [8 if thread == 3 else 2 for thread in range(256)]


@pytest.mark.once
async def test_get_next_cursor_after_nothing_is_the_cursor_itself(opened: Opened) -> None:
    async with opened() as store:
        cursor = vector.encode([5] * 256)
        assert store.get_next_cursor(cursor, []) == cursor
        assert store.get_next_cursor(None, []) == ZERO


@pytest.mark.once
@pytest.mark.once
async def test_get_next_cursor_of_something_that_is_no_cursor_is_refused_by_name(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(UsageError):
            store.get_next_cursor("abc", [])


@pytest.mark.once
async def test_get_next_cursor_of_an_event_without_a_position_is_refused_by_name(opened: Opened) -> None:
    async with opened() as store:
        event = Event(type="T", timestamp=0, aggregate_id="a", aggregate_version=1)
        with pytest.raises(UsageError):
            store.get_next_cursor(None, [event])


def in_threads(*types_of_threads: str) -> list[dict[str, Any]]:
    """Thread 0 holds an event per letter of the first text, of that type, and so on."""
    return [
        make_event(
            0, type=kind, threadId=thread, threadCounter=counter, aggregateVersion=thread * 100 + counter + 1
        )
        for thread, types in enumerate(types_of_threads)
        for counter, kind in enumerate(types)
    ]


UNTIL = {
    "the first of the type, or the end": ([0, 0, 0, 0], ["X"], [2, 3, 0, 0]),
    "not one before the cursor": ([3, 0, 0, 0], ["X"], [4, 3, 0, 0]),
    "one at the cursor": ([2, 0, 0, 0], ["X"], [2, 3, 0, 0]),
    "the end where there is none any more": ([5, 0, 1, 0], ["X"], [5, 3, 1, 0]),
    "any of several types": ([0, 0, 0, 0], ["X", "b"], [1, 0, 0, 0]),
    "a type that no event has": ([0, 0, 0, 0], ["nothing"], [5, 3, 1, 0]),
}


async def test_the_cursor_until_event_types_stops_in_each_thread_before_the_first_of_them(
    opened: Opened,
) -> None:
    async with holding(opened, *in_threads("abXcX", "bbb", "X")) as store:
        for what, (cursor, types, expected) in UNTIL.items():
            until = await store.get_cursor_until_event_types(vector.encode(cursor + [0] * 252), types)
            assert vector.decode(until) == expected + [0] * 252, what


@pytest.mark.once
async def test_the_cursor_until_event_types_knows_the_start(opened: Opened) -> None:
    async with holding(opened, *in_threads("abX", "X")) as store:
        until = await store.get_cursor_until_event_types(None, ["X"])
        assert vector.decode(until) == [2] + [0] * 255


@pytest.mark.parametrize("types", [[], "X", [1]])
@pytest.mark.once
async def test_the_cursor_until_no_types_is_refused_by_name(opened: Opened, types: Any) -> None:
    async with opened() as store:
        with pytest.raises(UsageError):
            await store.get_cursor_until_event_types(None, types)


@pytest.mark.slow
@pytest.mark.once
async def test_a_page_of_large_events_may_end_early_but_the_cursor_goes_on(opened: Opened) -> None:
    payload = {"text": "x" * 5_000_000}
    async with opened() as store:
        await import_lines(store, [make_event(i, payload=payload) for i in range(14)])
        cursor: str | None = None
        counts = []
        while (page := await store.load_events(limit=100, cursor=cursor)).events:
            counts.append(len(page.events))
            cursor = page.cursor
        assert sum(counts) == 14


async def test_a_page_by_time_ends_early_too_and_the_next_goes_on_from_its_last_moment(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventferry.reading.loading.PAGE_BYTES", 50_000)
    async with opened() as store:
        await import_lines(store, [make_event(i, payload="x" * 15_000) for i in range(20)])
        found: list[Event] = []
        start = 0
        while (page := await store.load_events(limit=100, start_time=start)).events:
            assert 1 <= len(page.events) <= 4
            found += page.events
            start = page.events[-1].timestamp + 1
        assert [event.thread_id for event in found] == list(range(20))
        only = await store.load_events(limit=100, start_time=0, event_types=["TYPE_1"])
        assert len(only.events) <= 4
        monkeypatch.setattr("eventferry.reading.loading.PAGE_BYTES", 1)
        assert len((await store.load_events(limit=100, start_time=0)).events) == 1


@pytest.mark.once
async def test_numbers_in_a_payload_keep_their_spelling_for_python(opened: Opened) -> None:
    async with holding(opened, make_event(0, payload=[1, 1.0, -0.5, 10**30])) as store:
        [event] = await all_pages(store, 1)
        assert json.dumps(event.payload) == json.dumps([1, 1.0, -0.5, 10**30])

"""Saving events: what is stored, what is refused, and many writers at once."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventferry import (
    ConcurrentError,
    Event,
    InputError,
    StoreNotFoundError,
    open_store,
)
from eventferry import cursor as vector
from eventferry.reading import order
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    NewUrl,
    Opened,
    all_pages,
    as_dict,
    examples,
    exported,
    import_lines,
    line,
    make_event,
)
from tests.support.workers import event_of, save_series, save_until_frozen

pytestmark = pytest.mark.both_libraries


def now() -> int:
    return time.time_ns() // 1_000_000


def assert_threads_have_no_gap(events: Iterable[Event]) -> None:
    threads: defaultdict[int, list[int]] = defaultdict(list)
    for event in events:
        threads[event.thread_id].append(event.thread_counter)
    for counters in threads.values():
        assert sorted(counters) == list(range(len(counters)))


# what is stored


async def test_the_stored_event_is_returned_with_its_position(opened: Opened) -> None:
    async with opened() as store:
        saved = await store.save_event(event_of("a", 1, payload={"x": [1, None]}, timestamp=FAR_FUTURE))
        assert as_dict(saved.event) == {
            "threadCounter": 0,
            "threadId": saved.event.thread_id,
            "type": "T",
            "timestamp": FAR_FUTURE,
            "aggregateId": "a",
            "aggregateVersion": 1,
            "payload": {"x": [1, None]},
        }
        assert 0 <= saved.event.thread_id <= 255
        assert await all_pages(store, 10) == [saved.event]
        assert await exported(store) == line(saved.event)


@pytest.mark.once
async def test_an_event_object_can_be_saved_as_well_as_a_dict(opened: Opened) -> None:
    async with opened() as store:
        event = Event(type="T", aggregate_id="a", aggregate_version=1, payload=[1])
        saved = await store.save_event(event)
        assert (saved.event.aggregate_id, saved.event.aggregate_version, saved.event.payload) == ("a", 1, [1])


@pytest.mark.once
async def test_the_position_that_comes_with_an_event_is_not_taken_over(opened: Opened) -> None:
    async with opened() as store:
        saved = await store.save_event(make_event(5, threadCounter=77))
        assert saved.event.thread_counter == 0


async def test_a_timestamp_in_the_future_is_kept(opened: Opened) -> None:
    async with opened() as store:
        saved = await store.save_event(event_of("a", 1, timestamp=FAR_FUTURE + 17))
        assert saved.event.timestamp == FAR_FUTURE + 17


@pytest.mark.parametrize("given", [{}, {"timestamp": 0}, {"timestamp": LONG_AGO}, {"timestamp": -5}])
async def test_a_timestamp_in_the_past_or_none_becomes_now(opened: Opened, given: dict[str, int]) -> None:
    async with opened() as store:
        before = now()
        saved = await store.save_event(event_of("a", 1, **given))
        assert before - 2 <= saved.event.timestamp <= now() + 2


async def test_a_save_after_one_dated_in_the_future_still_has_its_own_time(opened: Opened) -> None:
    async with opened() as store:
        await store.save_event(event_of("a", 1, timestamp=FAR_FUTURE))
        saved = await store.save_event(event_of("a", 2))
        assert saved.event.timestamp <= now() + 2


async def test_an_event_without_a_payload_has_the_payload_none(opened: Opened) -> None:
    async with opened() as store:
        saved = await store.save_event(event_of("a", 1))
        assert saved.event.payload is None
        assert b'"payload":null}' in await exported(store)


BIG = 12345678901234567890


EXACTLY: list[tuple[Any, bytes]] = [
    (BIG, b"12345678901234567890"),
    (-BIG, b"-12345678901234567890"),
    (10**60 + 1, b"1" + b"0" * 59 + b"1"),
    (1.0, b"1.0"),
    (1, b"1"),
    (True, b"true"),
    (0.1, b"0.1"),
    ("", b'""'),
    ("1", b'"1"'),
    ({"n": [BIG, 1.0]}, b'{"n":[12345678901234567890,1.0]}'),
    ("ü€\U0001f980", '"ü€\U0001f980"'.encode()),
]


async def test_a_payload_is_kept_exactly(opened: Opened) -> None:
    async with opened() as store:
        for version, (payload, text) in enumerate(EXACTLY, 1):
            saved = await store.save_event(event_of("a", version, payload=payload))
            *_, loaded = await all_pages(store, 100)
            for event in (saved.event, loaded):
                assert (event.payload, type(event.payload)) == (payload, type(payload))
            assert (await exported(store)).endswith(b'"payload":' + text + b"}\n")


async def test_control_characters_in_a_payload_are_kept(opened: Opened) -> None:
    payload = "".join(map(chr, range(1, 32))) + '\x7f\u2028\u2029\\"/'
    async with opened() as store:
        await store.save_event(event_of("a", 1, payload=payload))
        [loaded] = await all_pages(store, 1)
        assert loaded.payload == payload


@pytest.mark.parametrize("payload", ["a\0b", {"a\0b": 1}])
async def test_nul_in_a_payload_is_kept_or_refused_by_field(opened: Opened, payload: Any) -> None:
    async with opened() as store:
        try:
            await store.save_event(event_of("a", 1, payload=payload))
        except InputError as error:
            assert error.field == "payload"  # noqa: PT017 -- it may be refused, not must
            assert await all_pages(store, 1) == []
        else:
            assert (await all_pages(store, 1))[0].payload == payload


@pytest.mark.parametrize(
    "depth",
    [
        400,
        980,
        100_000,
        *(pytest.param(each, marks=pytest.mark.once) for each in (10, 100, 900, 1_000, 5_000)),
    ],
)
async def test_a_nested_payload_is_refused_by_field_or_can_be_read_and_moved(
    opened: Opened, depth: int
) -> None:
    payload: Any = []
    for _ in range(depth):
        payload = [payload]
    async with opened() as store, opened() as other:
        try:
            await store.save_event(event_of("a", 1, payload=payload))
        except InputError as error:
            assert error.field == "payload"  # noqa: PT017 -- it may be refused, not must
            assert depth > 400, "this is not deep"
            assert await exported(store) == b""
            return
        [loaded] = await all_pages(store, 1)
        inner = loaded.payload
        for _ in range(depth):
            [inner] = inner
        assert inner == []
        await import_lines(other, await exported(store))
        assert await exported(other) == await exported(store)


async def test_a_large_payload_is_kept(opened: Opened) -> None:
    payload = {"text": "ü" * 1_000_000}
    async with opened() as store:
        await store.save_event(event_of("a", 1, payload=payload))
        [loaded] = await all_pages(store, 1)
        assert loaded.payload == payload


@pytest.mark.parametrize("payload", [b"1", b"1.50", b"1e400", b'{"b":1,"a":[-0.0,1e-7]}'])
@pytest.mark.once
async def test_an_event_as_a_page_brings_it_can_be_saved_in_another_store(
    opened: Opened, payload: bytes
) -> None:
    async with opened() as store, opened() as other:
        await import_lines(store, line(make_event(0)).replace(b'{"number":0}', payload))
        [loaded] = await all_pages(store, 1)
        saved = await other.save_event(loaded)
        assert saved.event.payload == loaded.payload


async def test_an_aggregate_id_and_a_type_of_700_characters_are_kept(opened: Opened) -> None:
    name = "ü" * 700
    async with opened() as store:
        await store.save_event(event_of(name, 1, type=name))
        [loaded] = await all_pages(store, 1, event_types=[name], aggregate_ids=[name])
        assert (loaded.aggregate_id, loaded.type) == (name, name)


async def test_names_that_differ_only_to_the_eye_are_different_aggregates(opened: Opened) -> None:
    names = ["a", "A", "\u00e1", "a\u0301", "a ", " a", ""]
    async with opened() as store:
        for name in names:
            await store.save_event(event_of(name, 1))
        assert {event.aggregate_id for event in await all_pages(store, 10)} == set(names)


# the cursor


async def test_the_cursor_of_a_save_is_behind_everything_when_nobody_else_saves(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, [make_event(i) for i in range(300)])
        saved = await store.save_event(event_of("new", 1))
        assert (await store.load_events(limit=9, cursor=saved.cursor)).events == []
        assert saved.cursor == (await store.describe(calculate_cursor=True)).cursor


async def test_from_the_cursor_of_a_save_on_come_the_saves_after_it(opened: Opened) -> None:
    async with opened() as store:
        first = await store.save_event(event_of("a", 1))
        second = await store.save_event(event_of("b", 1))
        page = await store.load_events(limit=9, cursor=first.cursor)
        assert page.events == [second.event]
        assert page.cursor == second.cursor


async def test_the_cursor_of_a_save_counts_the_saves_of_other_clients(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        for i in range(5):
            await other.save_event(event_of(f"other-{i}", 1))
        saved = await store.save_event(event_of("a", 1))
        assert sum(vector.decode(saved.cursor)) == 6


async def test_the_cursors_of_parallel_saves_are_states_that_the_store_went_through(opened: Opened) -> None:
    """Heads as committed: two of them never contradict each other about who came first."""
    async with opened() as store:
        saved = await asyncio.gather(*(store.save_event(event_of(f"a{i}", 1)) for i in range(40)))
        heads = sorted((vector.decode(each.cursor) for each in saved), key=sum)
        for earlier, later in pairwise(heads):
            assert all(a <= b for a, b in zip(earlier, later, strict=True))
        for each in saved:
            assert vector.decode(each.cursor)[each.event.thread_id] > each.event.thread_counter


# versions


async def test_a_taken_version_is_a_concurrent_error_that_names_it(opened: Opened) -> None:
    async with opened() as store:
        saved = await store.save_event(event_of("a", 1))
        with pytest.raises(ConcurrentError) as refused:
            await store.save_event(event_of("a", 1, type="OTHER"))
        assert (refused.value.aggregate_id, refused.value.aggregate_version) == ("a", 1)
        assert await all_pages(store, 10) == [saved.event]


async def test_a_refused_save_leaves_no_gap(opened: Opened) -> None:
    async with opened() as store:
        await store.save_event(event_of("a", 1))
        for _ in range(3):
            with pytest.raises(ConcurrentError):
                await store.save_event(event_of("a", 1))
        saved = await store.save_event(event_of("a", 2))
        assert sum(vector.decode(saved.cursor)) == 2
        assert_threads_have_no_gap(await all_pages(store, 10))


async def test_a_version_taken_by_an_imported_event_is_taken(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, [make_event(0, aggregateId="a", aggregateVersion=9)])
        with pytest.raises(ConcurrentError):
            await store.save_event(event_of("a", 9))


async def test_any_version_that_is_free_is_accepted_where_gaps_are_allowed(opened: Opened) -> None:
    versions = [5, 1, 9, 2, 2**53 - 1, 4]
    async with opened() as store:
        for version in versions:
            await store.save_event(event_of("a", version), allow_gaps=True)
        assert sorted(event.aggregate_version for event in await all_pages(store, 10)) == sorted(versions)


async def test_an_append_goes_on_behind_the_last_version_after_a_save_below_the_last(opened: Opened) -> None:
    async with opened() as store:
        for version in (1, 9, 4):
            await store.save_event(event_of("a", version), allow_gaps=True)
        with pytest.raises(ConcurrentError):
            await store.append_events("a", [{"type": "T"}], expected_version=4)
        appended = await store.append_events("a", [{"type": "T"}], expected_version=9)
        assert appended.events[0].aggregate_version == 10


async def test_the_same_version_of_another_aggregate_is_another_version(opened: Opened) -> None:
    async with opened() as store:
        for name in ("a", "b"):
            await store.save_event(event_of(name, 1))
        assert len(await all_pages(store, 10)) == 2


# what is refused

INVALID: dict[str, tuple[str | None, dict[str, Any]]] = {
    "no type": ("type", {"aggregateId": "a", "aggregateVersion": 1}),
    "no aggregateId": ("aggregateId", {"type": "T", "aggregateVersion": 1}),
    "no aggregateVersion": ("aggregateVersion", {"type": "T", "aggregateId": "a"}),
    "a type that is a number": ("type", event_of("a", 1, type=5)),
    "a type that is null": ("type", event_of("a", 1, type=None)),
    "a type that is bytes": ("type", event_of("a", 1, type=b"T")),
    "an aggregateId that is a number": ("aggregateId", event_of("a", 1, aggregateId=5)),
    "an aggregateId that is null": ("aggregateId", event_of("a", 1, aggregateId=None)),
    "version 0": ("aggregateVersion", event_of("a", 0)),
    "a negative version": ("aggregateVersion", event_of("a", -1)),
    "a version that is a text": ("aggregateVersion", event_of("a", 1, aggregateVersion="1")),
    "a version that is no whole number": ("aggregateVersion", event_of("a", 1, aggregateVersion=1.5)),
    "a version that is a bool": ("aggregateVersion", event_of("a", True)),
    "a version that is null": ("aggregateVersion", event_of("a", 1, aggregateVersion=None)),
    "a version that JavaScript cannot count to": ("aggregateVersion", event_of("a", 2**53)),
    "a timestamp that is a text": ("timestamp", event_of("a", 1, timestamp="1")),
    "a timestamp that is no whole number": ("timestamp", event_of("a", 1, timestamp=1.5)),
    "a timestamp that is a bool": ("timestamp", event_of("a", 1, timestamp=True)),
    "a timestamp that is null": ("timestamp", event_of("a", 1, timestamp=None)),
    "a timestamp that JavaScript cannot hold": ("timestamp", event_of("a", 1, timestamp=2**53)),
    "an unknown key": ("agregateId", event_of("a", 1, agregateId="a")),
    "a key in snake case": ("aggregate_id", event_of("a", 1, aggregate_id="a")),
    "U+0000 in the aggregateId": ("aggregateId", event_of("a\0b", 1)),
    "U+0000 in the type": ("type", event_of("a", 1, type="T\0")),
    "a lone surrogate in the aggregateId": ("aggregateId", event_of("\ud800", 1)),
    "a lone surrogate in the type": ("type", event_of("a", 1, type="\udfff")),
    "a lone surrogate in the payload": ("payload", event_of("a", 1, payload=["\ud800"])),
    "a lone surrogate in a key of the payload": ("payload", event_of("a", 1, payload={"\udc00": 1})),
    "an aggregateId of 701 characters": ("aggregateId", event_of("a" * 701, 1)),
    "a type of 701 characters": ("type", event_of("a", 1, type="T" * 701)),
    "NaN": ("payload", event_of("a", 1, payload=math.nan)),
    "infinity": ("payload", event_of("a", 1, payload=[math.inf])),
    "minus infinity deep inside": ("payload", event_of("a", 1, payload={"a": [{"b": -math.inf}]})),
    "a payload that is a set": ("payload", event_of("a", 1, payload={1})),
    "a payload with bytes": ("payload", event_of("a", 1, payload=[b"x"])),
    "a payload with an object": ("payload", event_of("a", 1, payload={"x": object()})),
    "nothing at all": ("type", {}),
}


@pytest.mark.once
@pytest.mark.parametrize(("field", "event"), [pytest.param(*case, id=name) for name, case in INVALID.items()])
async def test_an_invalid_event_is_refused_by_its_field_and_changes_nothing(
    opened: Opened, field: str, event: dict[str, Any]
) -> None:
    async with opened() as store:
        with pytest.raises(InputError) as refused:
            await store.save_event(event)
        assert refused.value.field == field
        assert field in str(refused.value)
        assert await exported(store) == b""
        saved = await store.save_event(event_of("a", 1))
        assert sum(vector.decode(saved.cursor)) == 1


@pytest.mark.once
@pytest.mark.parametrize("event", [None, 5, "text", b"{}", [], [1], True])
async def test_something_that_is_no_event_is_refused_by_name(opened: Opened, event: Any) -> None:
    async with opened() as store:
        with pytest.raises(InputError):
            await store.save_event(event)


@pytest.mark.once
async def test_an_invalid_event_object_is_refused_by_its_field_too(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(InputError) as refused:
            await store.save_event(Event(type="T", aggregate_id="a"))
        assert refused.value.field == "aggregateVersion"


# versions of one aggregate at one timestamp


def assert_versions_in_order(events: Iterable[Event]) -> None:
    """Within a timestamp, an aggregate's versions come in order."""
    latest: dict[tuple[str, int], int] = {}
    for event in events:
        moment = event.aggregate_id, event.timestamp
        assert latest.get(moment, 0) < event.aggregate_version, moment
        latest[moment] = event.aggregate_version


async def test_versions_saved_at_one_timestamp_come_in_order(opened: Opened) -> None:
    async with opened() as store:
        for version in range(1, 4):
            for number in range(300):
                await store.save_event(event_of(f"aggregate-{number}", version, timestamp=FAR_FUTURE))
        events = await all_pages(store, 77)
        assert len(events) == 900
        assert_versions_in_order(events)


async def test_versions_saved_in_parallel_at_one_timestamp_come_in_order(opened: Opened) -> None:
    async def save_all(number: int) -> None:
        for version in range(1, 6):
            await store.save_event(event_of(f"aggregate-{number}", version, timestamp=FAR_FUTURE))

    async with opened() as store:
        await asyncio.gather(*(save_all(number) for number in range(30)))
        assert_versions_in_order(await all_pages(store, 77))


async def test_versions_imported_and_then_saved_at_one_timestamp_come_in_order(opened: Opened) -> None:
    async with opened() as store:
        batch = [
            {"type": "T", "aggregateId": f"aggregate-{i % 50}", "timestamp": FAR_FUTURE} for i in range(150)
        ]
        batch = [event | {"payload": i} for i, event in enumerate(batch)]
        await store.incremental_import(batch)
        for version in (4, 5):
            for number in range(50):
                await store.save_event(event_of(f"aggregate-{number}", version, timestamp=FAR_FUTURE))
        more = [event | {"payload": str(i)} for i, event in enumerate(batch)]
        assert (await store.incremental_import(more)).imported == 150
        events = await all_pages(store, 77)
        assert len(events) == 400
        assert_versions_in_order(events)


@pytest.mark.slow
async def test_versions_at_one_timestamp_come_in_order_though_one_at_another_time_lies_between(
    opened: Opened,
) -> None:
    async with opened() as store:
        names = [f"{number**3}" for number in range(120)]
        for version, shift, turn in ((1, 0, names), (2, 1, names), (3, 0, reversed(names))):
            for name in turn:
                await store.save_event(event_of(name, version, timestamp=FAR_FUTURE + shift))
        assert_versions_in_order(await all_pages(store, 77))


async def test_an_aggregate_that_has_one_timestamp_in_two_threads_goes_on_in_one_of_them(
    opened: Opened,
) -> None:
    at_once: dict[str, Any] = {"timestamp": FAR_FUTURE, "aggregateId": "a"}
    present = [
        make_event(0, threadId=5, timestamp=FAR_FUTURE),
        make_event(0, threadId=5, threadCounter=1, aggregateVersion=1, **at_once),
        make_event(0, threadId=6, threadCounter=0, aggregateVersion=2, **at_once),
    ]
    async with opened() as store, asyncio.timeout(60):
        await import_lines(store, b"".join(map(line, present)))
        saved = await store.save_event(event_of("a", 3, timestamp=FAR_FUTURE))
        appended = await store.append_events(
            "a", [{"type": "T", "timestamp": FAR_FUTURE}], expected_version=3
        )
        threads = saved.event.thread_id, appended.events[0].thread_id
        assert threads in ((5, 5), (6, 6))


async def test_timestamps_in_a_thread_do_not_go_backwards_from_save_to_save(opened: Opened) -> None:
    names = [name for name in map("a{}".format, range(2000)) if order.thread_of(name) == 7][:3]
    async with opened() as store:
        shifts = (5, 3, 4, 5)
        saves = [
            event_of(name, version, timestamp=FAR_FUTURE + shift)
            for version, shift in enumerate(shifts, 1)
            for name in names
        ]
        for event in saves:
            await store.save_event(event)
        stored = await all_pages(store, 7)
        assert len(stored) == len(saves)
        for thread in range(256):
            times = [event.timestamp for event in stored if event.thread_id == thread]
            assert times == sorted(times)
        assert_versions_in_order(stored)


@settings(
    max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    saves=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=40),
    free=st.sampled_from((range(256), (), (7,), (7, 200), range(0, 256, 2))),
)
async def test_versions_at_one_timestamp_come_in_order_whatever_was_saved_between(
    opened: Opened, saves: list[tuple[int, int]], free: Collection[int]
) -> None:
    """`free`: the threads in which no event of a later time stands already."""
    present = [
        make_event(0, threadId=thread, timestamp=FAR_FUTURE + 9, aggregateId=f"present-{thread}")
        for thread in range(256)
        if thread not in free
    ]
    async with opened() as store:
        if present:
            await import_lines(store, present)
        versions: Counter[int] = Counter()
        for number, shift in saves:
            versions[number] += 1
            await store.save_event(event_of(f"a{number}", versions[number], timestamp=FAR_FUTURE + shift))
        events = await all_pages(store, 7)
        assert len(events) == len(saves) + len(present)
        assert_versions_in_order(events)


# many writers


async def test_saves_by_many_tasks_neither_collide_nor_leave_a_gap(opened: Opened) -> None:
    async def save_all(number: int) -> None:
        for version in range(1, 11):
            await store.save_event(event_of(f"aggregate-{number}", version))

    async with opened() as store:
        await asyncio.gather(*(save_all(number) for number in range(20)))
        events = await all_pages(store, 50)
        assert len(events) == 200
        assert_threads_have_no_gap(events)


async def test_saves_by_many_clients_neither_collide_nor_leave_a_gap(new_url: NewUrl) -> None:
    url = new_url()

    async def save_all(number: int) -> None:
        async with open_store(url) as client:
            for version in range(1, 11):
                await client.save_event(event_of(f"aggregate-{number}", version))

    async with open_store(url) as store:
        await store.init()
        await asyncio.gather(*(save_all(number) for number in range(8)))
        events = await all_pages(store, 50)
        assert len(events) == 80
        assert_threads_have_no_gap(events)


async def test_of_many_saves_of_one_version_exactly_one_succeeds(opened: Opened) -> None:
    async with opened() as store:
        results = await asyncio.gather(
            *(store.save_event(event_of("a", 1, payload=i)) for i in range(20)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, BaseException)]
        assert [type(error) for error in refused] == [ConcurrentError] * 19
        [event] = await all_pages(store, 10)
        saved = await store.save_event(event_of("a", 2))
        assert sum(vector.decode(saved.cursor)) == 2
        assert event in [result.event for result in results if not isinstance(result, BaseException)]


@pytest.mark.once
async def test_an_invalid_save_among_parallel_ones_harms_none_of_them(opened: Opened) -> None:
    events = [event_of(f"a{i}", 1, payload=math.nan if i == 5 else i) for i in range(12)]
    async with opened() as store:
        results = await asyncio.gather(*map(store.save_event, events), return_exceptions=True)
        assert [i for i, result in enumerate(results) if isinstance(result, InputError)] == [5]
        assert len(await all_pages(store, 50)) == 11


async def test_a_save_that_is_cancelled_is_stored_whole_or_not_at_all_and_the_store_works_on(
    opened: Opened,
) -> None:
    async with opened() as store:
        for number in range(20):
            task = asyncio.ensure_future(store.save_event(event_of(f"a{number}", 1)))
            await asyncio.sleep(number * 0.0002)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await store.save_event(event_of("last", 1))
        events = await all_pages(store, 50)
        assert "last" in {event.aggregate_id for event in events}
        assert_threads_have_no_gap(events)


# several processes


def processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.slow
async def test_saves_by_several_processes_neither_collide_nor_leave_a_gap_and_a_reader_misses_none(
    new_url: NewUrl,
) -> None:
    url, loop = new_url(), asyncio.get_running_loop()
    async with open_store(url) as store:
        await store.init()
        seen: list[Event] = []
        cursor: str | None = None
        with processes(4) as pool:
            writers = [
                loop.run_in_executor(pool, save_series, url, f"writer-{number}", 60) for number in range(4)
            ]
            everybody = asyncio.gather(*writers)
            while not everybody.done():
                page = await store.load_events(limit=20, cursor=cursor)
                seen += page.events
                cursor = page.cursor
                await asyncio.sleep(0.005)
            await everybody
        while (page := await store.load_events(limit=20, cursor=cursor)).events:
            seen += page.events
            cursor = page.cursor
        events = await all_pages(store, 100)
        assert len(events) == 4 * 60 + 4 * 15
        assert_threads_have_no_gap(events)
        shared = sorted(event.aggregate_version for event in events if event.aggregate_id == "shared")
        assert shared == list(range(1, 61))
        assert sorted(seen, key=repr) == sorted(events, key=repr)


@pytest.mark.slow
async def test_after_freeze_nothing_comes_in_from_processes_that_are_saving(new_url: NewUrl) -> None:
    url, loop = new_url(), asyncio.get_running_loop()
    async with open_store(url) as store:
        await store.init()
        with processes(3) as pool:
            writers = [
                loop.run_in_executor(pool, save_until_frozen, url, f"writer-{number}") for number in range(3)
            ]
            everybody = asyncio.gather(*writers)
            while (await store.describe()).event_count < 30:
                assert not everybody.done()
                await asyncio.sleep(0.005)
            await store.freeze()
            at_freeze = await all_pages(store, 1000)
            counts = await everybody
        assert await all_pages(store, 1000) == at_freeze
        assert sum(counts) == len(at_freeze)


async def test_saving_into_a_store_dropped_by_somebody_else_is_refused_by_name(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await store.save_event(event_of("a", 1))
        await other.drop()
        with pytest.raises(StoreNotFoundError):
            await store.save_event(event_of("a", 2))


async def longest_stop(work: Awaitable[object]) -> float:
    """How much of the time of some work the loop stood still at a stretch, at most."""
    task = asyncio.ensure_future(work)
    begun = last = time.monotonic()
    longest = 0.0
    while not task.done():
        await asyncio.wait([task], timeout=0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    await task
    return longest / (last - begun)


@pytest.mark.slow
@pytest.mark.once
async def test_a_save_of_very_many_values_does_not_stop_the_loop(opened: Opened) -> None:
    payload = {f"key {i}": i * 1.5e-9 for i in range(200_000)}
    async with opened() as store:
        event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": payload}
        assert await longest_stop(store.save_event(event)) < 0.5


async def test_what_comes_behind_a_large_event_is_stored_behind_it(opened: Opened) -> None:
    async with opened() as store:
        events: list[dict[str, Any]] = [
            {
                "type": "T",
                "aggregateId": "a",
                "aggregateVersion": i + 1,
                "payload": [0] * (9_000 if i == 1 else 1),
            }
            for i in range(6)
        ]
        await asyncio.gather(*map(store.save_event, events))
        found = await all_pages(store, 100)
        assert [event.aggregate_version for event in found] == [1, 2, 3, 4, 5, 6]

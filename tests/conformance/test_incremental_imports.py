"""Incremental imports: whole, and in begin, push, commit and rollback."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventferry import (
    ConcurrentError,
    Description,
    Event,
    EventStore,
    ImportNotFoundError,
    ImportOpenError,
    ImportReport,
    InputError,
    OlderEventsError,
    StoreFrozenError,
    UsageError,
    open_store,
)
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    NewUrl,
    Opened,
    all_pages,
    as_dict,
    events_of,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
)

PER_EXAMPLE = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make_new(i: int, **changes: Any) -> dict[str, Any]:
    """The ith event of `make_event` as it is before it has a position or a version."""
    event = make_event(i)
    return {key: event[key] for key in ("type", "timestamp", "aggregateId", "payload")} | changes


def at(timestamp: int, number: int, aggregate: str = "a") -> dict[str, Any]:
    return {"type": "T", "timestamp": timestamp, "aggregateId": aggregate, "payload": number}


def raw(payload: str, aggregate: str = "a", timestamp: int = LONG_AGO) -> bytes:
    """A line with a payload spelled as it is given."""
    return (
        b'{"type":"T","timestamp":%d,"aggregateId":' % timestamp
        + json.dumps(aggregate).encode()
        + b',"payload":'
        + payload.encode()
        + b"}\n"
    )


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def cut(text: bytes, size: int) -> list[bytes]:
    return [text[start : start + size] for start in range(0, len(text), size)]


async def contents(store: EventStore) -> list[Event]:
    return events_of(await exported(store))


async def payloads(store: EventStore) -> list[Any]:
    return [event.payload for event in await contents(store)]


async def state(store: EventStore) -> tuple[bytes, Description]:
    return await exported(store), await store.describe(calculate_cursor=True)


def check_no_gaps(events: Iterable[Event]) -> None:
    threads: dict[int, set[int]] = defaultdict(set)
    versions: dict[str, list[int]] = defaultdict(list)
    for event in events:
        assert event.thread_counter not in threads[event.thread_id]
        threads[event.thread_id].add(event.thread_counter)
        versions[event.aggregate_id].append(event.aggregate_version)
    for counters in threads.values():
        assert counters == set(range(len(counters)))
    for found in versions.values():
        assert sorted(found) == list(range(1, len(found) + 1))


# n new and m known


@pytest.mark.parametrize("seed", range(4))
async def test_a_batch_shuffled_over_parallel_pushes_brings_exactly_what_is_new(
    opened: Opened, seed: int
) -> None:
    chance = random.Random(seed)
    known, new = 300, 200
    batch = [make_new(i) for i in range(known + new)]
    chance.shuffle(batch)
    pieces = [batch[start::17] for start in range(17)]
    async with opened() as store:
        await import_lines(store, make_lines(known))
        for imported in (new, 0):
            import_id = await store.begin_incremental_import()
            counts = await asyncio.gather(
                *(
                    store.push_incremental_import(piece, import_id, part=chance.choice([None, str(place)]))
                    for place, piece in enumerate(pieces)
                )
            )
            assert sum(counts) == known + new
            report = await store.commit_incremental_import(import_id)
            assert report == ImportReport(imported, known + new - imported, 0)
            events = await contents(store)
            assert Counter(event.payload["number"] for event in events) == Counter(range(known + new))
            check_no_gaps(events)


async def test_pushes_may_come_from_several_clients_at_once(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as first, open_store(url) as second, open_store(url) as third:
        await first.init()
        import_id = await first.begin_incremental_import()
        clients = itertools.cycle([first, second, third])
        pushes = [
            store.push_incremental_import([make_new(i) for i in range(start, 120, 12)], import_id)
            for start, store in zip(range(12), clients, strict=False)
        ]
        assert await asyncio.gather(*pushes) == [10] * 12
        assert await second.commit_incremental_import(import_id) == ImportReport(120, 0, 0)
        check_no_gaps(await contents(third))


async def test_equal_batches_imported_at_once_come_in_once(new_url: NewUrl) -> None:
    url = new_url()
    batch = [make_new(i) for i in range(100)]
    async with open_store(url) as first, open_store(url) as second:
        await first.init()
        reports = await asyncio.gather(
            *(store.incremental_import(batch) for store in (first, second, first, second))
        )
        assert sum(report.imported for report in reports) == 100
        assert sum(report.skipped_existing for report in reports) == 300
        assert (await first.describe()).event_count == 100


async def test_a_batch_of_an_export_of_the_store_itself_brings_nothing(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(500))
        before = await exported(store)
        assert await store.incremental_import(blocks(before)) == ImportReport(0, 500, 0)
        assert await exported(store) == before


# equal events


@pytest.mark.parametrize(("stored", "batch"), [(0, 2), (1, 2), (2, 2), (2, 1), (2, 5), (3, 0), (1, 1)])
async def test_of_n_equal_events_those_come_in_that_the_store_lacks(
    opened: Opened, stored: int, batch: int
) -> None:
    async with opened() as store:
        assert await store.incremental_import([make_new(0)] * stored) == ImportReport(stored, 0, 0)
        report = await store.incremental_import([make_new(0)] * batch)
        assert report == ImportReport(max(0, batch - stored), min(stored, batch), 0)
        events = await contents(store)
        assert len(events) == max(stored, batch)
        check_no_gaps(events)


async def test_equal_events_are_counted_over_all_pushes_and_spellings(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import(blocks(raw('{"a":1,"b":2}'), raw('{"b":2.0,"a":1}')))
        import_id = await store.begin_incremental_import()
        for spelling in ('{"a":1,"b":2}', '{"b":20e-1,"a":1.0}', '{"a":1,"b":2.00}', '{ "b":2, "a":1 }'):
            await store.push_incremental_import(blocks(raw(spelling)), import_id)
        assert await store.commit_incremental_import(import_id) == ImportReport(2, 2, 0)


@pytest.mark.parametrize("changed", ["type", "timestamp", "aggregateId", "payload"])
async def test_events_that_differ_in_one_field_are_two(opened: Opened, changed: str) -> None:
    other: dict[str, Any] = {
        "type": "type_0",
        "timestamp": LONG_AGO + 1,
        "aggregateId": "Aggregate-0",
        "payload": {"number": 1},
    }
    async with opened() as store:
        await store.incremental_import([make_new(0)])
        report = await store.incremental_import([make_new(0, **{changed: other[changed]})])
        assert report == ImportReport(1, 0, 0)


EQUAL = [
    ("1", "1.0"),
    ("1", "1e0"),
    ("10", "1E+1"),
    ("0.5", "5e-1"),
    ("0", "-0"),
    ("0", "0e100"),
    ('{"a":1,"b":[{"c":2,"d":3}]}', '{"b":[{"d":3,"c":2}],"a":1}'),
    ('"é"', '"\\u00e9"'),
    ('"😀"', '"\\ud83d\\ude00"'),
    ('"a/b"', '"a\\/b"'),
    ("[1,2]", " [ 1 ,\t2 ] "),
    ("12345678901234567890", "12345678901234567890.0"),
    ("1e400", "10e399"),
    ("null", "null"),
]

UNEQUAL = [
    ("1", "true"),
    ("0", "false"),
    ("1", '"1"'),
    ("true", '"true"'),
    ("null", '"null"'),
    ("null", "{}"),
    ("null", "false"),
    ("[]", "{}"),
    ("[1,2]", "[2,1]"),
    ('{"a":1}', '{"a":1,"b":null}'),
    ('{"a":1}', '{"A":1}'),
    ('{"1":1}', '{"1":"1"}'),
    ('"a"', '"a "'),
    ('"é"', '"e\\u0301"'),
    ("12345678901234567890", "12345678901234567000"),
    ("9007199254740993", "9007199254740992"),
    ("0.1", "0.1000000000000000055511151231257827"),
    ("1e400", "1e401"),
    ("1e400", "-1e400"),
    ("1e-400", "0"),
    ('"n1e0"', "1"),
    ('"s1"', '"1"'),
]


@pytest.mark.parametrize(("stored", "arriving"), EQUAL)
async def test_payloads_are_equal_as_json_values_however_they_are_spelled(
    opened: Opened, stored: str, arriving: str
) -> None:
    async with opened() as store:
        await store.incremental_import(blocks(raw(stored)))
        assert await store.incremental_import(blocks(raw(arriving))) == ImportReport(0, 1, 0)


@pytest.mark.parametrize(("stored", "arriving"), UNEQUAL)
async def test_payloads_that_are_other_json_values_are_other_events(
    opened: Opened, stored: str, arriving: str
) -> None:
    async with opened() as store:
        await store.incremental_import(blocks(raw(stored)))
        assert await store.incremental_import(blocks(raw(arriving))) == ImportReport(1, 0, 0)


def meaning(text: str) -> Any:
    """The reference: a JSON text as something that Python compares as JSON values are compared."""

    def tagged(value: Any) -> Any:
        if isinstance(value, dict):
            return "object", frozenset((key, tagged(member)) for key, member in value.items())
        if isinstance(value, list):
            return "array", tuple(map(tagged, value))
        return type(value).__name__, value

    def number(text: str) -> Fraction:
        return Fraction(Decimal(text))

    return tagged(json.loads(text, parse_int=number, parse_float=number))


def spelled(value: Any, chance: random.Random) -> str:
    """One of many spellings of a JSON value; numbers are (mantissa, exponent)."""
    space = chance.choice(["", "", "", " ", "\t"])
    if isinstance(value, tuple):
        mantissa, exponent = value
        shift = chance.randrange(3) if mantissa else 0
        if exponent == 0 and chance.random() < 0.6:
            return f"{mantissa}" + chance.choice(["", "", ".0", ".00", "e0", "E+0"])
        return f"{mantissa}{'0' * shift}{chance.choice('eE')}{exponent - shift}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=chance.random() < 0.5)
    if isinstance(value, list):
        return f"[{space}{f'{space},'.join(spelled(member, chance) for member in value)}{space}]"
    if isinstance(value, dict):
        members = list(value.items())
        chance.shuffle(members)
        inside = f",{space}".join(
            f"{spelled(key, chance)}{space}:{spelled(member, chance)}" for key, member in members
        )
        return f"{{{space}{inside}}}"
    return json.dumps(value)


def almost(value: Any, chance: random.Random) -> Any:
    """The value, or one that a careless comparison takes for the same."""
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], almost(value[place], chance), *value[place + 1 :]]
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        return value | {key: almost(value[key], chance)}
    if isinstance(value, tuple):
        mantissa, exponent = value
        return chance.choice(
            [value, (mantissa * 10 + 1, exponent - 1), (mantissa, exponent + 1), f"{mantissa}", mantissa != 0]
        )
    others: list[Any] = [(1, 0), (0, 0), "", "1", "null", True, False, None, [], {}, [value]]
    return chance.choice([value, value, *others])


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
    | st.tuples(st.integers(-(10**25), 10**25) | st.integers(-3, 3), st.integers(-5, 5) | st.just(0))
    | st.tuples(st.integers(-3, 3), st.sampled_from([-400, 400])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@PER_EXAMPLE
@given(values=st.lists(JSON_VALUES, min_size=1, max_size=30), seed=st.integers(0, 2**32))
async def test_whatever_the_payload_an_event_is_known_if_and_only_if_its_value_is_there(
    opened: Opened, values: list[Any], seed: int
) -> None:
    chance = random.Random(seed)
    pairs = [(spelled(value, chance), spelled(almost(value, chance), chance)) for value in values]
    equal = sum(meaning(stored) == meaning(arriving) for stored, arriving in pairs)
    stored = b"".join(raw(stored, f"a{place}") for place, (stored, _) in enumerate(pairs))
    arriving = b"".join(raw(arriving, f"a{place}") for place, (_, arriving) in enumerate(pairs))
    async with opened() as store:
        assert await store.incremental_import(blocks(stored)) == ImportReport(len(pairs), 0, 0)
        report = await store.incremental_import(blocks(arriving))
        assert report == ImportReport(len(pairs) - equal, equal, 0)
        found = [meaning(text) for text in await payload_texts(store)]
        expected = [meaning(text) for text, _ in pairs]
        expected += [meaning(text) for other, text in pairs if meaning(text) != meaning(other)]
        assert Counter(found) == Counter(expected)


async def payload_texts(store: EventStore) -> list[str]:
    return [
        text.decode().partition(',"payload":')[2][:-1] for text in (await exported(store)).split(b"\n")[:-1]
    ]


# older events


async def test_events_older_than_the_latest_are_skipped_and_counted(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(100, 1), at(200, 2)])
        report = await store.incremental_import([at(199, 3), at(200, 4), at(201, 5), at(1, 6, "b")])
        assert report == ImportReport(2, 0, 2)
        assert await payloads(store) == [1, 2, 4, 5]


async def test_older_events_refuse_the_whole_batch_if_asked(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(200, 1)])
        before = await state(store)
        with pytest.raises(OlderEventsError, match="200"):
            await store.incremental_import([at(300, 2), at(199, 3)], older="reject")
        assert await state(store) == before
        assert await store.incremental_import([at(300, 2)], older="reject") == ImportReport(1, 0, 0)


async def test_older_events_are_taken_in_if_asked(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(200, 1)])
        report = await store.incremental_import([at(300, 2), at(100, 3)], older="accept")
        assert report == ImportReport(2, 0, 0)
        assert await payloads(store) == [3, 1, 2]
        check_no_gaps(await contents(store))


async def test_a_known_event_counts_as_existing_and_not_as_older(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(100, 1), at(200, 2)])
        batch = [at(100, 1), at(100, 1), at(200, 2), at(300, 3)]
        with pytest.raises(OlderEventsError):
            await store.incremental_import(batch, older="reject")
        assert await store.incremental_import(batch[1:], older="reject") == ImportReport(1, 2, 0)
        assert await store.incremental_import(batch) == ImportReport(0, 3, 1)


async def test_nothing_is_older_than_an_empty_store(opened: Opened) -> None:
    async with opened() as store:
        report = await store.incremental_import([at(300, 3), at(-5, 1), at(0, 2)], older="reject")
        assert report == ImportReport(3, 0, 0)
        assert await payloads(store) == [1, 2, 3]


async def test_older_is_judged_at_the_commit(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(FAR_FUTURE - 1, 1), at(FAR_FUTURE, 2)], import_id)
        await store.save_event(
            {"type": "T", "timestamp": FAR_FUTURE, "aggregateId": "b", "aggregateVersion": 1}
        )
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 1)


async def test_a_commit_that_is_refused_leaves_the_import_open(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(200, 1)])
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(100, 2), at(200, 1)], import_id)
        before = await state(store)
        for _ in range(2):
            with pytest.raises(OlderEventsError):
                await store.commit_incremental_import(import_id, older="reject")
        assert await state(store) == before
        report = await store.commit_incremental_import(import_id, older="accept")
        assert report == ImportReport(1, 1, 0)


async def test_an_unknown_way_to_treat_older_events_is_refused(opened: Opened) -> None:
    wrong: Any = "ignore"
    async with opened() as store:
        with pytest.raises(UsageError, match="ignore"):
            await store.incremental_import([], older=wrong)
        import_id = await store.begin_incremental_import()
        with pytest.raises(UsageError, match="ignore"):
            await store.commit_incremental_import(import_id, older=wrong)


# positions and versions


async def test_positions_and_versions_go_on_without_gap_whatever_comes_in_between(opened: Opened) -> None:
    chance = random.Random(7)
    numbers = itertools.count()
    timestamp = FAR_FUTURE
    async with opened() as store:
        for _ in range(6):
            batch = []
            for _ in range(60):
                timestamp += chance.choice([0, 0, 1, 255, 256])
                batch.append(at(timestamp, next(numbers), f"a{chance.randrange(5)}"))
            await store.incremental_import(batch)
            for aggregate in range(5):
                version = 1 + max(
                    (e.aggregate_version for e in await contents(store) if e.aggregate_id == f"a{aggregate}"),
                    default=0,
                )
                event = at(timestamp, next(numbers), f"a{aggregate}") | {"aggregateVersion": version}
                await store.save_event(event)
            check_no_gaps(await contents(store))


async def test_versions_continue_from_the_last_of_each_aggregate_where_a_foreign_store_has_gaps(
    opened: Opened,
) -> None:
    async with opened() as store:
        await import_lines(
            store,
            [
                make_event(0, aggregateId="a", aggregateVersion=2, threadId=3, threadCounter=4),
                make_event(1, aggregateId="a", aggregateVersion=7, threadId=3, threadCounter=9),
            ],
        )
        timestamp = LONG_AGO - LONG_AGO % 256 + 256 + 3  # goes to thread 3
        await store.incremental_import([at(timestamp, 1), at(timestamp, 2), at(timestamp, 3, "b")])
        added = (await contents(store))[2:]
        assert [(e.aggregate_id, e.aggregate_version) for e in added] == [("a", 8), ("a", 9), ("b", 1)]
        [thread] = {event.thread_id for event in added}
        first = 10 if thread == 3 else 0
        assert [event.thread_counter for event in added] == [first, first + 1, first + 2]


async def test_a_version_that_came_in_by_an_incremental_import_is_taken(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(100, 1), at(200, 2)])
        with pytest.raises(ConcurrentError):
            await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 2})
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 3})


async def test_a_cursor_taken_before_an_incremental_import_finds_exactly_what_it_brought(
    opened: Opened,
) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        cursor = (await store.describe(calculate_cursor=True)).cursor
        await store.incremental_import([make_new(i) for i in range(200, 500)])
        page = await store.load_events(limit=1000, cursor=cursor)
        assert [event.payload["number"] for event in page.events] == list(range(300, 500))


# order


async def test_events_of_one_timestamp_are_read_in_the_order_in_which_they_arrived(opened: Opened) -> None:
    chance = random.Random(3)
    batch = [at(LONG_AGO + chance.randrange(3), i, f"a{chance.randrange(20)}") for i in range(600)]
    expected = [event["payload"] for event in sorted(batch, key=lambda event: event["timestamp"])]
    async with opened() as store:
        await store.incremental_import(batch)
        assert await payloads(store) == expected
        assert [event.payload for event in await all_pages(store, 7)] == expected
        by_time = await store.load_events(limit=1000, start_time=LONG_AGO)
        assert [event.payload for event in by_time.events] == expected


async def test_events_of_one_timestamp_stand_in_one_thread(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(LONG_AGO + i % 40, i, f"a{i % 9}") for i in range(400)])
        threads: dict[int, set[int]] = defaultdict(set)
        for event in await contents(store):
            threads[event.timestamp].add(event.thread_id)
        assert all(len(found) == 1 for found in threads.values())
        assert len(set.union(*threads.values())) > 1


@pytest.mark.parametrize("thread", [0, 1, 17, 128, 255])
async def test_an_event_comes_behind_those_that_its_aggregate_has_at_its_timestamp(
    opened: Opened, thread: int
) -> None:
    """Wherever those stand, and however far their thread is."""
    there = [
        make_event(0, threadId=thread, threadCounter=counter, timestamp=LONG_AGO, aggregateId="a")
        | {"aggregateVersion": counter + 1, "payload": counter}
        for counter in range(50)
    ]
    async with opened() as store:
        await import_lines(store, there)
        batch = [at(LONG_AGO, 100, "b"), at(LONG_AGO, 101, "a"), at(LONG_AGO, 102, "c"), at(LONG_AGO, 103)]
        await store.incremental_import(batch)
        expected = [*range(50), 100, 101, 102, 103]
        assert await payloads(store) == expected
        assert [event.payload for event in await all_pages(store, 3)] == expected
        versions = [event.aggregate_version for event in await contents(store) if event.payload in (101, 103)]
        assert versions == [51, 52]


@PER_EXAMPLE
@given(
    rounds=st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=12)
        | st.tuples(st.integers(0, 2), st.integers(0, 3)),
        min_size=1,
        max_size=8,
    )
)
@example(rounds=[(0, 0), [(0, 1), (0, 0)], (0, 0), [(0, 0)], (0, 1), [(0, 2), (0, 1), (0, 0)]])
async def test_versions_of_an_aggregate_are_in_order_within_a_timestamp(
    opened: Opened, rounds: list[list[tuple[int, int]] | tuple[int, int]]
) -> None:
    """Whether events came by imports (the lists) or by saves (the tuples)."""
    numbers = itertools.count()
    async with opened() as store:
        for step in rounds:
            if isinstance(step, list):
                await store.incremental_import([at(FAR_FUTURE + t, next(numbers), f"a{a}") for t, a in step])
            else:
                aggregate = f"a{step[1]}"
                version = sum(event.aggregate_id == aggregate for event in await contents(store)) + 1
                saved = at(FAR_FUTURE + step[0], next(numbers), aggregate) | {"aggregateVersion": version}
                await store.save_event(saved)
        for events in (await contents(store), await all_pages(store, 2)):
            check_no_gaps(events)
            versions: dict[tuple[str, int], list[int]] = defaultdict(list)
            for event in events:
                versions[event.aggregate_id, event.timestamp].append(event.aggregate_version)
            assert all(found == sorted(found) for found in versions.values())


async def test_history_loaded_late_in_two_batches_keeps_the_versions_of_an_aggregate_in_order(
    opened: Opened,
) -> None:
    """The thread that the first batch takes ends later than the millisecond, the longest thread earlier."""
    there = [
        *(make_event(i, threadId=7, threadCounter=i, timestamp=LONG_AGO + i) for i in range(5)),
        *(
            make_event(i, threadId=i, threadCounter=0, timestamp=LONG_AGO + 1000, aggregateId="b")
            | {"aggregateVersion": i + 1}
            for i in range(256)
            if i != 7
        ),
    ]
    async with opened() as store:
        await import_lines(store, there)
        for number in range(2):
            report = await store.incremental_import([at(LONG_AGO + 200, number, "late")], older="accept")
            assert report == ImportReport(1, 0, 0)
        for events in (await contents(store), await all_pages(store, 50)):
            found = [event.aggregate_version for event in events if event.aggregate_id == "late"]
            assert found == [1, 2]


# parts


async def test_parts_come_by_number_then_by_name_then_the_unnamed_as_they_were_committed(
    opened: Opened,
) -> None:
    order = ["0", "2", "9", "10", "99", "100", "123456789012345678901234567890", "B", "a", "ab", "b", "é"]
    arriving: list[str | None] = [*order, None, None]
    random.Random(5).shuffle(arriving)
    unnamed = itertools.count(1)
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        for part in arriving:
            name = part or f"unnamed {next(unnamed)}"
            batch = [at(LONG_AGO, 0) | {"payload": [name, place]} for place in range(2)]
            await store.push_incremental_import(batch, import_id, part=part)
        await store.commit_incremental_import(import_id)
        names = [*order, "unnamed 1", "unnamed 2"]
        assert await payloads(store) == [[name, place] for name in names for place in range(2)]


async def test_the_timestamp_comes_before_the_part(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(300, 3), at(100, 1)], import_id, part="1")
        await store.push_incremental_import([at(200, 2), at(300, 4)], import_id, part="2")
        await store.commit_incremental_import(import_id)
        assert await payloads(store) == [1, 2, 3, 4]


async def test_pushing_a_part_again_replaces_it_and_nothing_else(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        for part, number in (("1", 10), ("2", 20), ("01", 5), (None, 30), ("1", 11), ("1", 12), (None, 31)):
            await store.push_incremental_import([at(100, number), at(100, number)], import_id, part=part)
        report = await store.commit_incremental_import(import_id)
        assert report.imported == 10
        assert Counter(await payloads(store)) == Counter([12, 12, 20, 20, 5, 5, 30, 30, 31, 31])


async def test_a_part_pushed_again_with_nothing_in_it_is_gone(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(100, 1)], import_id, part="x")
        assert await store.push_incremental_import([], import_id, part="x") == 0
        assert await store.commit_incremental_import(import_id) == ImportReport(0, 0, 0)


async def test_a_push_that_fails_leaves_the_part_that_was_there(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(100, 1)], import_id, part="x")
        with pytest.raises(InputError):
            await store.push_incremental_import([at(100, 2), {}], import_id, part="x")
        await store.commit_incremental_import(import_id)
        assert await payloads(store) == [1]


async def test_the_same_part_pushed_many_times_at_once_is_there_once(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        batch = [at(100, i) for i in range(20)]
        await asyncio.gather(
            *(store.push_incremental_import(batch, import_id, part="again") for _ in range(8))
        )
        assert await store.commit_incremental_import(import_id) == ImportReport(20, 0, 0)


# begin, wrong ids, rollback


async def test_begin_twice_says_since_when_the_first_is_open_and_how_to_end_it(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        with pytest.raises(ImportOpenError) as caught:
            await store.begin_incremental_import()
        message = str(caught.value)
        assert import_id in message
        assert time.strftime("%Y-%m-%d", time.gmtime()) in message
        assert "commit" in message
        assert "roll" in message
        await store.push_incremental_import([at(1, 1)], import_id)
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)


async def test_describe_tells_of_the_open_import(opened: Opened) -> None:
    async with opened() as store:
        assert (await store.describe()).open_import is None
        earliest = time.time() * 1000 - 1
        import_id = await store.begin_incremental_import()
        found = (await store.describe()).open_import
        assert found is not None
        assert found.id == import_id
        assert found.since is not None
        assert earliest <= found.since <= time.time() * 1000 + 1
        await store.rollback_incremental_import()
        assert (await store.describe()).open_import is None


async def test_a_wrong_id_changes_nothing(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        for wrong in ("", "wrong", "' OR 1=1"):
            with pytest.raises(ImportNotFoundError):
                await store.push_incremental_import([make_new(50)], wrong)
            with pytest.raises(ImportNotFoundError):
                await store.commit_incremental_import(wrong)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([make_new(20)], import_id, part="1")
        before = await state(store)
        for wrong in ("", "wrong", import_id.swapcase(), import_id[:-1], f"{import_id} ", f"{import_id}%"):
            with pytest.raises(ImportNotFoundError):
                await store.push_incremental_import([make_new(30)], wrong, part="1")
            with pytest.raises(ImportNotFoundError):
                await store.commit_incremental_import(wrong)
        assert await state(store) == before
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        assert (await payloads(store))[-1] == {"number": 20}


async def test_an_id_ends_with_its_import(opened: Opened) -> None:
    async with opened() as store:
        committed = await store.begin_incremental_import()
        await store.push_incremental_import([at(1, 1)], committed)
        await store.commit_incremental_import(committed)
        rolled_back = await store.begin_incremental_import()
        await store.push_incremental_import([at(2, 2)], rolled_back)
        await store.rollback_incremental_import()
        for over in (committed, rolled_back):
            with pytest.raises(ImportNotFoundError):
                await store.push_incremental_import([at(3, 3)], over)
            with pytest.raises(ImportNotFoundError):
                await store.commit_incremental_import(over)
        assert await payloads(store) == [1]


async def test_rollback_leaves_nothing_and_is_fine_without_an_import(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        before = await state(store)
        await store.rollback_incremental_import()
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([make_new(i) for i in range(20)], import_id)
        await store.rollback_incremental_import()
        await store.rollback_incremental_import()
        assert await state(store) == before
        import_id = await store.begin_incremental_import()
        assert await store.commit_incremental_import(import_id) == ImportReport(0, 0, 0)


async def test_what_is_pushed_is_not_read_before_the_commit(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(1, 1)], import_id)
        assert await exported(store) == b""
        assert (await store.describe()).event_count == 0
        assert await store.get_latest_event() is None


async def test_a_whole_import_is_not_in_the_way_of_an_open_one(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(100, 1), at(300, 3)], import_id)
        assert await store.incremental_import([at(200, 2), at(300, 3)]) == ImportReport(2, 0, 0)
        await store.push_incremental_import([at(300, 4)], import_id)
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 1, 1)
        assert await payloads(store) == [2, 3, 4]


async def test_saves_go_on_while_an_import_is_open(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(FAR_FUTURE, 2)], import_id)
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": 1})
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        events = await contents(store)
        assert [(event.payload, event.aggregate_version) for event in events] == [(1, 1), (2, 2)]


async def test_an_open_import_outlives_the_store_object(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(1, 1)], import_id, part="1")
    async with open_store(url) as store:
        with pytest.raises(ImportOpenError):
            await store.begin_incremental_import()
        await store.push_incremental_import([at(2, 2)], import_id)
    async with open_store(url) as store:
        assert await store.commit_incremental_import(import_id) == ImportReport(2, 0, 0)
        assert await payloads(store) == [1, 2]


BEGIN_AND_DIE = """
import asyncio, os, sys
from eventferry import open_store

async def main():
    store = open_store(sys.argv[1])
    import_id = await store.begin_incremental_import()
    event = {"type": "T", "timestamp": 1, "aggregateId": "a", "payload": 1}
    await store.push_incremental_import([event], import_id)
    print(import_id, flush=True)
    os._exit(9)

asyncio.run(main())
"""


async def test_an_open_import_outlives_the_process_that_began_it(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        child = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", BEGIN_AND_DIE, url], stdout=subprocess.PIPE, check=False
        )
        assert child.returncode == 9
        import_id = child.stdout.decode().strip()
        await store.incremental_import([at(2, 2)])
        found = (await store.describe()).open_import
        assert found is not None
        assert found.id == import_id
        report = await store.commit_incremental_import(import_id, older="accept")
        assert report == ImportReport(1, 0, 0)
        assert await payloads(store) == [1, 2]


async def test_a_frozen_store_refuses_every_step_but_rollback(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([make_new(20)], import_id)
        await store.freeze()
        before = await state(store)
        with pytest.raises(StoreFrozenError):
            await store.incremental_import([make_new(30)])
        with pytest.raises(StoreFrozenError):
            await store.push_incremental_import([make_new(30)], import_id)
        with pytest.raises(StoreFrozenError):
            await store.commit_incremental_import(import_id)
        assert await state(store) == before
        await store.rollback_incremental_import()
        with pytest.raises(StoreFrozenError):
            await store.begin_incremental_import()
        await store.unfreeze()
        assert await exported(store) == before[0]
        assert (await store.describe()).open_import is None


# dry run


@pytest.mark.parametrize("older", ["skip", "accept"])
async def test_a_dry_run_reports_what_would_come_in_and_changes_nothing(
    opened: Opened, older: Literal["skip", "accept"]
) -> None:
    batch = [*(make_new(i) for i in range(50, 150)), *(make_new(i, type="NEW") for i in range(20))]
    async with opened() as store:
        await import_lines(store, make_lines(100))
        await store.save_snapshot("key", "content")
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([make_new(200)], import_id)
        before = await state(store)
        report = await store.incremental_import(batch, older=older, dry_run=True)
        assert report == (ImportReport(50, 50, 20) if older == "skip" else ImportReport(70, 50, 0))
        assert await state(store) == before
        assert await store.load_snapshot("key") == "content"
        assert await store.incremental_import(batch, older=older) == report
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)


async def test_a_dry_run_refuses_what_the_run_would_refuse(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(200, 1)])
        before = await state(store)
        with pytest.raises(OlderEventsError):
            await store.incremental_import([at(100, 2)], older="reject", dry_run=True)
        with pytest.raises(InputError):
            await store.incremental_import([{}], dry_run=True)
        assert await state(store) == before


async def test_saves_after_a_dry_run_take_the_next_positions(opened: Opened) -> None:
    async with opened() as store:
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        await store.incremental_import([at(FAR_FUTURE, i) for i in range(9)], dry_run=True)
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 2})
        check_no_gaps(await contents(store))


async def test_snapshots_and_subscribers_stay(opened: Opened) -> None:
    async with opened() as store:
        await store.save_snapshot("key", "content")
        await store.ensure_event_subscriber("app", "model", {"at": 1})
        await store.incremental_import([at(1, 1)])
        assert await store.load_snapshot("key") == "content"
        assert len(await store.get_event_subscribers()) == 1


# what goes in


async def test_dicts_events_and_bytes_come_in_alike(opened: Opened) -> None:
    dicts = [make_new(i) for i in range(30)]
    objects = [
        Event(
            type=event["type"],
            timestamp=event["timestamp"],
            aggregate_id=event["aggregateId"],
            payload=event["payload"],
        )
        for event in dicts
    ]
    array = json.dumps(dicts).encode()
    found = []
    sources: list[Any] = [
        dicts,
        tuple(dicts),
        iter(dicts),
        (event for event in dicts),
        objects,
        [*objects[:10], *dicts[10:]],
        events_of(make_lines(30)),
        blocks(b"".join(map(line, dicts))),
        blocks(*cut(b"".join(map(line, dicts)), 7)),
        blocks(make_lines(30)),
        blocks(array),
        blocks(*cut(array, 11)),
    ]
    for source in sources:
        async with opened() as store:
            assert await store.incremental_import(source) == ImportReport(30, 0, 0)
            found.append(await exported(store))
    assert found == [found[0]] * len(found)


async def test_events_loaded_from_another_store_come_in(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, make_lines(100))
        page = await source.load_events(limit=100, cursor=None)
        assert await target.incremental_import(page.events) == ImportReport(100, 0, 0)
        assert await target.incremental_import(blocks(await exported(source))) == ImportReport(0, 100, 0)


PAYLOADS: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    -1.0,
    1.5,
    2**70,
    -(2**70),
    "",
    "null",
    " spaces kept ",
    [],
    {},
    [[]],
    {"": {"": None}},
    "\u2028 \U0001f600 \x7f \x01",
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
async def test_an_event_object_brings_its_payload_whatever_it_is(opened: Opened, payload: Any) -> None:
    async with opened() as store:
        await store.incremental_import([Event(type="T", timestamp=5, aggregate_id="a", payload=payload)])
        await store.incremental_import([at(6, 0, "b") | {"payload": payload}])
        for found in await payloads(store):
            assert found == payload
            assert type(found) is type(payload)


@pytest.mark.parametrize("timestamp", [-1, 0, -(2**53) + 1, 2**53 - 1])
async def test_any_whole_millisecond_is_a_timestamp(opened: Opened, timestamp: int) -> None:
    async with opened() as store:
        await store.incremental_import([Event(type="T", timestamp=timestamp, aggregate_id="a")])
        await store.incremental_import([at(timestamp, 0, "b")])
        assert [event.timestamp for event in await contents(store)] == [timestamp] * 2


async def test_numbers_come_in_exactly(opened: Opened) -> None:
    texts = ["12345678901234567890", "0.1000000000000000055511151231257827", "1e400", "-1.5e-300", "1.0"]
    async with opened() as store:
        await store.incremental_import(blocks(*(raw(text, f"a{i}") for i, text in enumerate(texts))))
        assert [Decimal(text) for text in await payload_texts(store)] == [Decimal(text) for text in texts]


async def test_a_number_beyond_floats_goes_from_store_to_store_in_an_event_object(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await source.incremental_import(blocks(raw('[1e400,-1e400,{"a":1}]')))
        page = await source.load_events(limit=1, cursor=None)
        assert await target.incremental_import(page.events) == ImportReport(1, 0, 0)
        assert await target.incremental_import(blocks(await exported(source))) == ImportReport(0, 1, 0)


TRICKY = [
    {"text": 'quotes " and \\ and ]}[{, and \\"'},
    "é😀\u2028",
    [[], {}, [{"a": ["b"]}], "\\"],
    {"a": 1.5e3, "b": None},
    "",
    -1,
]


async def test_a_json_array_may_be_cut_anywhere(opened: Opened) -> None:
    async with opened() as store:
        cuts = 0
        while True:
            batch = [at(LONG_AGO, 0, f"cut {cuts}") | {"payload": payload} for payload in TRICKY]
            text = json.dumps(batch, ensure_ascii=False, separators=(" ,", ": ")).encode()
            if cuts > len(text):
                break
            arriving = blocks(text[:cuts], text[cuts:])
            assert await store.incremental_import(arriving) == ImportReport(len(TRICKY), 0, 0)
            cuts += 5
        for size in (1, 2, 3):
            batch = [at(LONG_AGO, 0, f"size {size}") | {"payload": payload} for payload in TRICKY]
            text = json.dumps(batch, ensure_ascii=size == 2).encode()
            await store.incremental_import(blocks(*cut(text, size)))
        found: dict[str, list[Any]] = defaultdict(list)
        for event in await contents(store):
            found[event.aggregate_id].append(event.payload)
        assert len(found) > 30
        assert all(payloads == TRICKY for payloads in found.values())


@PER_EXAMPLE
@given(
    payload=JSON_VALUES,
    cuts=st.lists(st.integers(0, 2000), max_size=30),
    as_array=st.booleans(),
    seed=st.integers(0, 2**32),
)
async def test_bytes_may_be_cut_anywhere(
    opened: Opened, payload: Any, cuts: list[int], as_array: bool, seed: int
) -> None:
    texts = [raw(spelled(payload, random.Random(seed + place)), f"a{place}") for place in range(5)]
    text = b" [ %s ] \n" % b"\n,".join(text[:-1] for text in texts) if as_array else b"".join(texts)
    places = [0, *sorted(cuts), len(text)]
    async with opened() as store:
        pieces = [text[start:end] for start, end in itertools.pairwise(places)]
        assert await store.incremental_import(blocks(*pieces)) == ImportReport(5, 0, 0)
        found = await payload_texts(store)
        assert [meaning(text) for text in found] == [meaning(spelled(payload, random.Random(seed)))] * 5


@pytest.mark.parametrize(
    "text",
    [
        b'\xef\xbb\xbf[{"type":"T","timestamp":1,"aggregateId":"a"}]',
        b'\xef\xbb\xbf{"type":"T","timestamp":1,"aggregateId":"a"}\n',
        b'\r\n\r\n{"type":"T","timestamp":1,"aggregateId":"a"}\r\n\r\n',
        b' \n\t[\n{"aggregateId":"a","timestamp":1,"type":"T"}\n]\n\n',
        b'{"type":"T","timestamp":1,"aggregateId":"a"}',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":null}\n',
    ],
)
async def test_byte_order_marks_blank_lines_and_carriage_returns_are_tolerated(
    opened: Opened, text: bytes
) -> None:
    for pieces in ([text], cut(text, 1), cut(text, 2)):
        async with opened() as store:
            assert await store.incremental_import(blocks(*pieces)) == ImportReport(1, 0, 0)
            assert await payloads(store) == [None]


async def test_nothing_gives_a_report_of_zeros(opened: Opened) -> None:
    zeros = ImportReport(0, 0, 0)
    async with opened() as store:
        for _ in range(2):
            assert await store.incremental_import([]) == zeros
            assert await store.incremental_import([], dry_run=True) == zeros
            for text in (b"", b"[]", b" [ ]\n", b"\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf[]"):
                assert await store.incremental_import(blocks(text)) == zeros
                assert await store.incremental_import(blocks(*cut(text, 1))) == zeros
            import_id = await store.begin_incremental_import()
            assert await store.push_incremental_import([], import_id) == 0
            assert await store.push_incremental_import(blocks(b"[]"), import_id) == 0
            assert await store.commit_incremental_import(import_id) == zeros
            await store.incremental_import([make_new(0)])


async def test_positions_and_versions_that_are_given_are_ignored(opened: Opened) -> None:
    garbage: list[Any] = [-1, 10**30, 1.5, None, "x", [1], {"a": 1}, True]
    batch = [
        at(LONG_AGO, place) | {"threadId": value, "threadCounter": value, "aggregateVersion": value}
        for place, value in enumerate(garbage)
    ]
    text = b"".join(map(line, batch))
    for source in (batch, blocks(text), blocks(json.dumps(batch).encode())):
        async with opened() as store:
            assert await store.incremental_import(source) == ImportReport(len(garbage), 0, 0)
            assert await payloads(store) == list(range(len(garbage)))
            check_no_gaps(await contents(store))


# what does not go in

BAD: list[tuple[dict[str, Any], str]] = [
    ({"type": None}, "type"),
    ({"type": 5}, "type"),
    ({"timestamp": "2013-01-01"}, "timestamp"),
    ({"timestamp": 1.5}, "timestamp"),
    ({"timestamp": True}, "timestamp"),
    ({"timestamp": None}, "timestamp"),
    ({"timestamp": 2**60}, "timestamp"),
    ({"aggregateId": 7}, "aggregateId"),
    ({"aggregateId": "x" * 800}, "aggregateId"),
    ({"type": "x" * 800}, "type"),
    ({"aggregateId": "a\0b"}, "aggregateId"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("changes", "field"), BAD)
async def test_an_event_that_is_none_is_refused_by_place_and_field(
    opened: Opened, changes: dict[str, Any], field: str
) -> None:
    batch = [make_new(20), make_new(21), make_new(22, **changes), make_new(23)]
    text = b"".join(map(line, batch))
    offset = len(line(batch[0]) + line(batch[1]))
    array = json.dumps(batch).encode()
    sources: list[tuple[Any, set[int | None]]] = [
        (batch, {None}),
        (blocks(*cut(text, 50)), {offset}),
        # An element begins behind the comma, or behind the space behind the comma.
        (blocks(*cut(array, 50)), {len(json.dumps(batch[:2])), len(json.dumps(batch[:2])) + 1}),
    ]
    async with opened() as store:
        await import_lines(store, make_lines(10))
        import_id = await store.begin_incremental_import()
        before = await state(store)
        for source, offsets in sources:
            with pytest.raises(InputError) as caught:
                await store.incremental_import(source)
            assert caught.value.line == 3
            assert caught.value.field == field
            assert caught.value.byte_offset in offsets
            assert "3" in str(caught.value)
            assert field in str(caught.value)
        with pytest.raises(InputError):
            await store.push_incremental_import(batch, import_id)
        assert await state(store) == before
        assert await store.commit_incremental_import(import_id) == ImportReport(0, 0, 0)


@pytest.mark.parametrize("missing", ["type", "timestamp", "aggregateId"])
async def test_an_event_that_lacks_a_field_is_refused_by_its_name(opened: Opened, missing: str) -> None:
    lacking = {key: value for key, value in make_new(1).items() if key != missing}
    async with opened() as store:
        for source in ([make_new(0), lacking], blocks(line(make_new(0)), line(lacking))):
            with pytest.raises(InputError) as caught:
                await store.incremental_import(source)
            assert (caught.value.line, caught.value.field) == (2, missing)
        assert await exported(store) == b""


@pytest.mark.parametrize(
    "payload", [float("nan"), float("inf"), "\ud800", {"\udc00": 1}, {1, 2}, b"bytes", type], ids=repr
)
async def test_a_payload_that_is_no_json_value_is_refused(opened: Opened, payload: Any) -> None:
    async with opened() as store:
        with pytest.raises(InputError) as caught:
            await store.incremental_import([make_new(0), make_new(1, payload=payload)])
        assert (caught.value.line, caught.value.field) == (2, "payload")
        assert await exported(store) == b""


@pytest.mark.parametrize(
    "text",
    [
        b"[",
        b"[]]",
        b"[] x",
        b"[,]",
        b"[1]",
        b"[{}]",
        b'["a"]',
        b"{}",
        b"null",
        b"\xff",
        b"\xef\xbb",
        b"[\xff]",
        b'[{"type":"T","timestamp":1,"aggregateId":"a"},]',
        b'[{"type":"T","timestamp":1,"aggregateId":"a"}',
        b'[{"type":"T","timestamp":1,"aggregateId":"a"} {"type":"T","timestamp":1,"aggregateId":"a"}]',
        b'[{"type":"T","timestamp":1,"aggregateId":"a"}]{"type":"T","timestamp":1,"aggregateId":"a"}',
        b'{"type":"T","timestamp":1,"aggregateId":"a"}\n[]',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":NaN}',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":"\\ud800"}',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":"\xed\xa0\x80"}',
        b'{"type":"T","type":"U","timestamp":1,"aggregateId":"a"}',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":{"a":1',
        b'{"type":"T","timestamp":1,"aggregateId":"a"}{"type":"T","timestamp":1,"aggregateId":"a"}',
    ],
)
async def test_bytes_that_are_no_events_are_refused_whole(opened: Opened, text: bytes) -> None:
    async with opened() as store:
        for pieces in ([text], cut(text, 1)):
            with pytest.raises(InputError):
                await store.incremental_import(blocks(*pieces))
        assert await exported(store) == b""


async def test_unknown_keys_are_dropped_if_asked(opened: Opened) -> None:
    odd = make_new(0, colour="red")
    async with opened() as store:
        report = await store.incremental_import(blocks(line(odd)), ignore_unknown_keys=True)
        assert report == ImportReport(1, 0, 0)
        assert await store.incremental_import([make_new(0)]) == ImportReport(0, 1, 0)
        assert await store.incremental_import([odd], ignore_unknown_keys=True) == ImportReport(0, 1, 0)


async def test_a_push_is_whole_or_not_at_all(opened: Opened) -> None:
    """Also one that is far larger than what is written at a time."""
    many: list[dict[str, Any]] = [at(LONG_AGO + i, i) for i in range(11_000)]
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(1, -1)], import_id)
        with pytest.raises(InputError) as caught:
            await store.push_incremental_import([*many, {"type": "T"}], import_id)
        assert caught.value.line == 11_001

        async def dies() -> AsyncIterator[bytes]:
            yield b"".join(map(line, many))
            raise ConnectionResetError("the source is gone")

        with pytest.raises(ConnectionResetError):
            await store.push_incremental_import(dies(), import_id)
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        assert await payloads(store) == [-1]


async def test_a_push_that_is_cancelled_leaves_nothing_and_holds_up_nobody(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        reached = asyncio.Event()

        async def hangs() -> AsyncIterator[bytes]:
            yield line(at(1, 1))
            reached.set()
            await asyncio.sleep(3600)

        push = asyncio.create_task(store.push_incremental_import(hangs(), import_id))
        await reached.wait()
        await store.save_event({"type": "T", "aggregateId": "b", "aggregateVersion": 1, "payload": 0})
        push.cancel()
        with pytest.raises(asyncio.CancelledError):
            await push
        assert await store.push_incremental_import([at(FAR_FUTURE, 2)], import_id) == 1
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        assert await payloads(store) == [0, 2]


async def test_what_is_no_source_of_events_is_refused_by_name(opened: Opened) -> None:
    wrong: Sequence[Any] = (b"[]", "[]", as_dict(Event(type="T", aggregate_id="a")))
    async with opened() as store:
        for source in wrong:
            with pytest.raises((UsageError, InputError)):
                await store.incremental_import(source)
        assert await exported(store) == b""

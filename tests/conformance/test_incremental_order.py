"""Where an incremental import puts events: positions, versions, order, parts."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventferry import (
    ConcurrentError,
    ImportReport,
    InputError,
    UsageError,
)
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    Opened,
    all_pages,
    import_lines,
    make_event,
    make_lines,
)
from tests.support.incremental import (
    PER_EXAMPLE,
    at,
    check_no_gaps,
    contents,
    make_new,
    payloads,
)

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


@pytest.mark.parametrize(
    "thread", [0, 255, *(pytest.param(each, marks=pytest.mark.once) for each in (1, 17, 128))]
)
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


@pytest.mark.once
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


@pytest.mark.once
async def test_a_part_can_be_called_as_any_file_is(opened: Opened) -> None:
    names = ["café", *map(os.fsdecode, (b"caf\xe9", b"caf\xe8", b"caf\xff", b"\xff", b"\xed\xa0\x80"))]
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        for place, name in enumerate([*names, *names]):
            await store.push_incremental_import([at(100, place % len(names))], import_id, part=name)
        for name in ("\ud800", os.fsdecode(b"\xc3") + os.fsdecode(b"\xa9")):  # no bytes, and those of é
            with pytest.raises(UsageError, match="surrogate"):
                await store.push_incremental_import([at(100, 99)], import_id, part=name)
        assert (await store.commit_incremental_import(import_id)).imported == len(names)
        assert set(await payloads(store)) == set(range(len(names)))


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

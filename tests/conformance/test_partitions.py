"""Partitions: slices of the order for many readers; one after another they are the export, byte for byte."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import random
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventferry import (
    Event,
    EventStore,
    Partition,
    StoreReplacedError,
    UsageError,
    open_store,
    sync,
)
from eventferry.reading import exporting, questions
from eventferry.reading.pages import Pages
from tests.conformance.test_order import (
    as_far_as,
    exported_in_parts,
    exported_with_stops,
    filled,
    greedy,
    histories,
    history,
    large_history,
    last_of,
    lines_of,
    merged,
    modest,
)
from tests.support import (
    LONG_AGO,
    NewUrl,
    Opened,
    events_of,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
)
from tests.support.workers import push_partition


async def read(store: EventStore, parts: Iterable[Partition]) -> list[bytes]:
    return [b"".join([block async for block in store.read_partition(part)]) for part in parts]


# Together they are the export


@modest()
@given(events=histories(), n=st.sampled_from((1, 2, 3, 7, 100)))
async def test_one_after_another_they_are_the_export(opened: Opened, events: list[Event], n: int) -> None:
    async with filled(opened, events) as store:
        parts = await store.partitions(n)
        assert len(parts) <= n
        assert b"".join(await read(store, parts)) == lines_of(merged(events))


async def test_they_are_the_same_however_many_times_are_asked_about_at_once(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with filled(opened, large_history(5, 2_000)) as store:
        parts = await store.partitions(40)
        assert len(parts) > 20
        for at_once in (1, 7):
            monkeypatch.setattr(questions, "_TIMES_AT_ONCE", at_once)
            assert await store.partitions(40) == parts


@modest()
@given(
    events=histories(),
    n=st.sampled_from((1, 2, 5, 100)),
    since=st.integers(0, 60),
    until=st.integers(0, 60),
)
async def test_between_two_cursors_they_are_what_an_export_brings_from_the_one_up_to_the_other(
    opened: Opened, events: list[Event], n: int, since: int, until: int
) -> None:
    order = merged(events)
    async with filled(opened, events) as store:
        first, last = (store.get_next_cursor(None, order[:place]) for place in (since, until))
        parts = await store.partitions(n, since=first, until=last)
        assert b"".join(await read(store, parts)) == lines_of(order[since:until])


@pytest.mark.once
@modest()
@given(
    events=histories(),
    n=st.sampled_from((2, 5, 100)),
    since=st.dictionaries(st.sampled_from((0, 1, 2, 127, 255)), st.integers(0, 12)),
)
async def test_from_a_cursor_that_is_no_state_of_the_order_they_are_the_export_from_there(
    opened: Opened, events: list[Event], n: int, since: dict[int, int]
) -> None:
    since = as_far_as(events, since)
    async with filled(opened, events) as store:
        cursor = store.get_next_cursor(None, last_of(since))
        unread = [event for event in events if event.thread_counter > since.get(event.thread_id, -1)]
        parts = await store.partitions(n, since=cursor)
        assert (
            b"".join(await read(store, parts))
            == lines_of(merged(unread))
            == await exported(store, cursor=cursor)
        )


@pytest.mark.parametrize("threads", [4, *(pytest.param(each, marks=pytest.mark.once) for each in (1, 256))])
async def test_those_of_a_large_store_are_of_about_one_size(opened: Opened, threads: int) -> None:
    events = large_history(threads, 9_000, threads=threads, falls=False)
    async with filled(opened, events) as store:
        parts = await store.partitions(8)
        assert [(part.number, part.count) for part in parts] == [(number, 8) for number in range(1, 9)]
        slices = await read(store, parts)
        assert b"".join(slices) == lines_of(merged(events))
        sizes = [part.count(b"\n") for part in slices]
        assert max(sizes) < 1.5 * 9_000 / 8
        assert min(sizes) > 9_000 / 8 / 1.5


@pytest.mark.once
@pytest.mark.parametrize("threads", [1, 4, 256])
async def test_those_of_a_large_store_whose_threads_fall_are_the_export(opened: Opened, threads: int) -> None:
    events = large_history(threads, 9_000, threads=threads)
    async with filled(opened, events) as store:
        parts = await store.partitions(8)
        assert len(parts) > 4
        assert b"".join(await read(store, parts)) == lines_of(merged(events))


async def test_threads_of_different_times_are_cut_into_equal_slices_too(opened: Opened) -> None:
    """The events of thread 1 all come after those of thread 0, those of thread 2 are few and everywhere."""
    events = history(
        ((2 if number % 50 == 0 else number // 1_000, 0, 0, "T", "a") for number in range(2_000)),
        1,
        LONG_AGO,
        0,
    )
    async with filled(opened, events) as store:
        slices = await read(store, await store.partitions(4))
        assert b"".join(slices) == lines_of(events)
        assert all(400 < part.count(b"\n") < 600 for part in slices)


# How many


@pytest.mark.once
async def test_an_empty_store_has_none(opened: Opened) -> None:
    async with opened() as store:
        assert await store.partitions(4) == []


@pytest.mark.once
async def test_there_are_none_behind_the_last_event(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        assert await store.partitions(4, since=(await store.describe(calculate_cursor=True)).cursor) == []


@pytest.mark.once
async def test_events_of_one_timestamp_are_one(opened: Opened) -> None:
    lines = [line(make_event(i, timestamp=LONG_AGO)) for i in range(300)]
    async with opened() as store:
        await import_lines(store, b"".join(lines))
        [part] = await store.partitions(4)
        assert part.count == 1
        assert await read(store, [part]) == [await exported(store)]


@pytest.mark.once
@pytest.mark.parametrize("n", [0, -1, True, "2", None, 1.0])
async def test_how_many_is_a_whole_number_from_1(opened: Opened, n: Any) -> None:
    async with opened() as store:
        with pytest.raises(UsageError, match="n must be an integer of at least 1"):
            await store.partitions(n)


@pytest.mark.once
async def test_only_a_partition_can_be_read(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(UsageError, match="not str"):
            store.read_partition("1")  # type: ignore[arg-type]


# Later, elsewhere


async def test_what_is_saved_later_is_in_none(opened: Opened) -> None:
    lines = make_lines(300)
    async with opened() as store:
        await import_lines(store, lines)
        until = store.get_next_cursor(None, events_of(lines))
        parts = [await store.partitions(3), await store.partitions(3, until=until)]
        for number in range(300):
            await store.save_event({"type": "T", "aggregateId": "new", "aggregateVersion": number + 1})
        assert b"".join(await read(store, parts[0])) == lines
        assert b"".join(await read(store, parts[1])) == lines


@pytest.mark.once
async def test_one_can_be_sent_as_json_or_pickled_and_read_through_another_connection(
    new_url: NewUrl,
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(300))
        parts = await store.partitions(3)
    sent = msgspec.json.decode(msgspec.json.encode(parts), type=list[Partition])
    assert sent == parts == pickle.loads(pickle.dumps(parts))
    async with open_store(url) as store:
        first = await read(store, sent)
        assert b"".join(first) == make_lines(300)
        assert await read(store, reversed(sent)) == first[::-1]


@pytest.mark.once
async def test_none_holds_a_password_or_a_place(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(300))
        text = msgspec.json.encode(await store.partitions(3)).decode()
    assert "let-me-in" not in text
    assert "127.0.0.1" not in text
    assert "test_" not in text


async def test_one_of_events_that_were_replaced_is_refused(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        parts = await store.partitions(3)
        await import_lines(store, make_lines(300))
        for part in parts:
            with pytest.raises(StoreReplacedError):
                await read(store, [part])


@pytest.mark.once
async def test_they_can_be_filtered(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        first, last = make_event(50)["timestamp"], make_event(250)["timestamp"]
        pieces = [
            b"".join(
                [
                    block
                    async for block in store.read_partition(
                        part, event_types=["TYPE_1"], start_time=first, finish_time=last
                    )
                ]
            )
            for part in await store.partitions(3)
        ]
        assert b"".join(pieces) == b"".join(line(make_event(i)) for i in range(50, 251) if i % 3 == 1)


@pytest.mark.once
async def test_reading_one_ends_at_its_end(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        parts = await store.partitions(3)
        stream = store.read_partition(parts[1])
        assert await stream.begin() == parts[1].until
        assert stream.cursor == parts[1].since
        assert len([block async for block in stream]) > 0
        assert stream.is_end
        assert stream.exported == (await read(store, [parts[1]]))[0].count(b"\n")


def test_without_await_they_are_the_same(new_url: NewUrl) -> None:
    with sync.open_store(new_url()) as store:
        store.init()
        with store.import_events() as stream:
            stream.write(make_lines(300))
        parts = store.partitions(3)
        assert len(parts) == 3
        assert b"".join(b"".join(store.read_partition(part)) for part in parts) == make_lines(300)


@pytest.mark.slow
async def test_one_that_is_read_again_is_the_same_whoever_writes_merges_or_replaces(opened: Opened) -> None:
    """Readers of a cluster repeat what a killed one has read, while the store is at work."""
    async with opened() as store:
        await import_lines(store, large_history(3, 1_000))
        parts = await store.partitions(5)
        first = await read(store, parts)
        assert b"".join(first) == await exported(store)
        is_over = False

        async def save(name: str) -> None:
            while not is_over:
                await store.append_events(name, [{"type": "T", "payload": {"text": "x" * 200}}])

        async def merge() -> None:
            number = 0
            while not is_over:
                number += 1
                old = {"type": "MERGED", "timestamp": LONG_AGO + number % 50, "aggregateId": f"old-{number}"}
                await store.incremental_import([old], older="accept")

        writers = [asyncio.create_task(work) for work in (save("a"), save("b"), merge())]
        for _ in range(4):
            for number in random.sample(range(len(parts)), len(parts)):
                assert await read(store, [parts[number]]) == [first[number]]
        is_over = True
        await asyncio.gather(*writers)
        assert (await store.describe()).event_count > 1_000

        # Replaced while they are read: each is what it was, or an error says that it is gone.
        async def again() -> None:
            while True:
                for part, lines in zip(parts, first, strict=True):
                    try:
                        assert await read(store, [part]) == [lines]
                    except StoreReplacedError:
                        return

        await asyncio.gather(again(), import_lines(store, make_lines(2_000)))


# Many workers


@pytest.mark.slow
async def test_workers_that_are_killed_and_repeated_bring_what_one_incremental_import_brings(
    new_url: NewUrl, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target, reference = new_url(), new_url(), new_url()
    events = [event for number, event in enumerate(large_history(5, 4_000)) if number % 9]
    known = [event for number, event in enumerate(merged(events)) if number % 3 == 0]
    async with open_store(source) as store:
        await store.init()
        await import_lines(store, events)
        parts = await store.partitions(3)
        for url in (target, reference):
            async with open_store(url) as other:
                await other.init()
                await other.incremental_import(known[:400])
        async with open_store(reference) as other:
            expected = await other.incremental_import(store.export_events(), older="accept")
    seed = random.randrange(2**32)
    with capsys.disabled():
        print(f" seed {seed} ", end="")
    chance = random.Random(seed)
    spawn = multiprocessing.get_context("spawn")
    async with open_store(target) as store:
        import_id = await store.begin_incremental_import()
        # Every part once by a worker that is killed somewhere, in any order; then all of them, some twice.
        for part in chance.sample(parts, len(parts)):
            worker = spawn.Process(target=push_partition, args=(source, target, import_id, part))
            worker.start()
            await asyncio.to_thread(worker.join, chance.uniform(0.2, 1.2))
            worker.kill()
            await asyncio.to_thread(worker.join)
        again = [*parts, chance.choice(parts)]
        workers = [
            spawn.Process(target=push_partition, args=(source, target, import_id, part))
            for part in chance.sample(again, len(again))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            await asyncio.to_thread(worker.join)
            assert worker.exitcode == 0
        assert await store.commit_incremental_import(import_id, older="accept") == expected
        async with open_store(reference) as other:
            assert await exported(store) == await exported(other)


# Several read at the same time


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "SLICE_EVENTS", 5)
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 2)


@pytest.mark.usefixtures("small_slices")
@modest()
@given(events=histories(), jobs=st.sampled_from((1, 1, 2, 3, 8)), since=st.integers(0, 60))
async def test_an_export_of_many_pages_is_the_merge_however_many_jobs_read_it(
    opened: Opened, events: list[Event], jobs: int, since: int
) -> None:
    order = merged(events)
    async with filled(opened, events) as store:
        cursor = store.get_next_cursor(None, order[:since])
        stream = store.export_events(cursor=cursor, jobs=jobs)
        assert b"".join([block async for block in stream]) == lines_of(order[since:])
        assert stream.is_end
        assert stream.exported == len(order[since:])
        assert await exported(store, cursor=stream.cursor) == b""


@pytest.mark.usefixtures("small_slices")
@modest(5)
@given(events=histories(40), room=st.integers(1, 2_000))
@pytest.mark.once
async def test_an_export_by_several_jobs_ends_where_the_buffer_is_full_and_goes_on_there(
    opened: Opened, events: list[Event], room: int
) -> None:
    async with filled(opened, events) as store:
        parts = await exported_in_parts(store, len(events) + 1, buffer_size=room, jobs=3)
        assert parts == list(greedy(merged(events), room))


@pytest.mark.usefixtures("small_slices")
@pytest.mark.once
async def test_an_export_by_several_jobs_stopped_at_every_block_and_resumed_is_whole(opened: Opened) -> None:
    events = large_history(1, 40, threads=4, falls=False)
    async with filled(opened, events) as store:
        parts = await exported_with_stops(store, len(events) + 1, jobs=3)
        assert len(parts) > 15
        assert b"".join(parts) == lines_of(merged(events))


@pytest.mark.usefixtures("small_slices")
@pytest.mark.once
async def test_at_any_moment_the_cursor_of_an_export_by_several_jobs_is_behind_what_was_given_out_whole(
    opened: Opened,
) -> None:
    events = large_history(1, 60, threads=4, falls=False)
    expected = lines_of(merged(events))
    async with filled(opened, events) as store:
        given = b""
        async for block in (stream := store.export_events(jobs=3)):
            given += block
            whole = given[: given.rfind(b"\n") + 1]
            assert whole + await exported(store, cursor=stream.cursor) == expected
        assert given == expected


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("options", [{"limit": 100}, {"event_types": ["B"]}, {"start_time": LONG_AGO + 50}])
@pytest.mark.once
async def test_with_a_limit_or_a_filter_it_does_not_matter_how_many_jobs_there_are(
    opened: Opened, options: dict[str, Any]
) -> None:
    events = large_history(1, 300)
    async with filled(opened, events) as store:
        assert await exported(store, jobs=3, **options) == await exported(store, **options) != b""


@pytest.mark.usefixtures("small_slices")
async def test_an_export_by_several_jobs_ends_when_the_events_are_replaced(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        stream = store.export_events(jobs=2)
        await anext(stream)
        await import_lines(store, make_lines(300))
        with pytest.raises(StoreReplacedError):
            async for _ in stream:
                pass


@pytest.mark.usefixtures("small_slices")
@pytest.mark.once
async def test_an_export_by_several_jobs_that_is_left_reads_nothing_more(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        before = asyncio.all_tasks()
        async with store.export_events(jobs=4) as stream:
            await anext(stream)
            assert asyncio.all_tasks() > before
        assert asyncio.all_tasks() == before


@pytest.mark.usefixtures("small_slices")
async def test_slices_that_wait_for_their_turn_are_read_only_a_few_pages_ahead(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "SLICE_EVENTS", 150)
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 1)
    pages = 0
    read_page = Pages.page

    async def page(*arguments: Any) -> Any:
        nonlocal pages
        pages += 1
        return await read_page(*arguments)

    monkeypatch.setattr(Pages, "page", page)
    async with opened() as store:
        await import_lines(store, make_lines(300))
        async with store.export_events(jobs=2) as stream:
            await anext(stream)
            for _ in range(50):
                await asyncio.sleep(0.01)
            assert (
                2 <= pages <= 2 * 7
            )  # four that wait, one that waits to wait, one being read, one given out


@pytest.mark.once
@pytest.mark.parametrize("jobs", [0, -1, True, "2", None])
async def test_how_many_jobs_is_a_whole_number_from_1(opened: Opened, jobs: Any) -> None:
    async with opened() as store:
        with pytest.raises(UsageError, match="jobs must be an integer of at least 1"):
            store.export_events(jobs=jobs)

"""Batches: all rows that are given come into the database once, in their order, however they are cut and taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventferry.importing import batch as batching
from eventferry.importing.batch import PART, Batch, Batches

Rows: TypeAlias = Batch[int, int]


class Store:
    """Takes batches in the loop or in a thread, and notes what each was."""

    def __init__(self, *, in_thread: bool) -> None:
        self.in_thread = in_thread
        self.given = 0
        self.batches: list[tuple[list[int], int]] = []
        self.parts: list[int] = []

    async def put(self, batch: Rows) -> None:
        rows: list[int] = []
        if self.in_thread:
            await asyncio.to_thread(lambda: rows.extend(row for part in batch for row in self.seen(part)))
        else:
            async for part in batch:
                rows.extend(self.seen(part))
        self.batches.append((rows, batch.progress))

    def seen(self, part: Sequence[int]) -> Sequence[int]:
        self.parts.append(len(part))
        return part

    async def take(self, pieces: list[list[int]], *, row_bytes: int, batch_bytes: int) -> None:
        batches: Batches[int, int] = Batches(self.put, lambda: self.given, batch_bytes)
        for rows in pieces:
            self.given += len(rows)
            await batches.give(rows, row_bytes * len(rows))
        await batches.commit()


async def give_all(store: Store, batches: Batches[int, int], count: int) -> None:
    """Give rows of a megabyte."""
    for number in range(count):
        store.given += 1
        await batches.give([number], 10**6)


@given(
    sizes=st.lists(st.integers(0, 3 * PART), max_size=12),
    row_bytes=st.sampled_from([0, 1, 300, 100_000]),
    batch_bytes=st.sampled_from([1, 1000, 10**6, 10**9]),
    in_thread=st.booleans(),
)
def test_every_row_comes_once_and_in_order_with_the_progress_of_its_batch(
    sizes: list[int], row_bytes: int, batch_bytes: int, in_thread: bool
) -> None:
    numbers = iter(range(sum(sizes)))
    pieces = [[next(numbers) for _ in range(size)] for size in sizes]
    store = Store(in_thread=in_thread)
    asyncio.run(store.take(pieces, row_bytes=row_bytes, batch_bytes=batch_bytes))
    came = 0
    for rows, progress in store.batches:
        assert rows == list(range(came, progress))
        came = progress
    assert came == sum(sizes)
    assert max(store.parts, default=0) <= PART


@pytest.mark.parametrize("in_thread", [True, False])
async def test_small_rows_are_taken_in_whole_parts_and_large_ones_before_they_are_many(
    in_thread: bool,
) -> None:
    small, large = Store(in_thread=in_thread), Store(in_thread=in_thread)
    pieces = [[i] for i in range(PART + 1)]
    await small.take(pieces, row_bytes=10, batch_bytes=10**9)
    assert small.parts == [PART, 1]
    await large.take(pieces, row_bytes=10**6, batch_bytes=10**9)
    assert large.parts == [1] * (PART + 1)


@pytest.mark.parametrize("in_thread", [True, False])
async def test_only_so_much_waits_for_a_database_that_is_slow(
    monkeypatch: pytest.MonkeyPatch, in_thread: bool
) -> None:
    monkeypatch.setattr(batching, "_PATIENCE", 60)
    store, goes_on = Store(in_thread=in_thread), asyncio.Event()

    async def put(batch: Rows) -> None:
        await goes_on.wait()
        await store.put(batch)

    batches: Batches[int, int] = Batches(put, lambda: store.given, 10**9)

    giving = asyncio.create_task(give_all(store, batches, 50))
    await asyncio.sleep(0.1)
    assert not giving.done()
    assert store.given <= batching._AHEAD // 10**6 + 2
    goes_on.set()
    await giving
    await batches.commit()
    assert store.batches == [(list(range(50)), 50)]


async def test_a_batch_that_gets_nothing_more_is_committed_and_the_next_row_makes_another() -> None:
    store = Store(in_thread=True)
    batches: Batches[int, int] = Batches(store.put, lambda: store.given, 10**9)
    for number in range(2):
        store.given += 1
        await batches.give([number], 3 * 10**6)
        async with asyncio.timeout(10):
            while len(store.batches) == number:
                await asyncio.sleep(0.01)
    assert store.batches == [([0], 1), ([1], 2)]


@pytest.mark.parametrize("in_thread", [True, False])
async def test_a_source_that_is_slow_but_steady_holds_no_transaction_open_all_the_time(
    in_thread: bool,
) -> None:
    store, open_seconds = Store(in_thread=in_thread), 0.0

    async def put(batch: Rows) -> None:
        nonlocal open_seconds
        begun = time.monotonic()
        await store.put(batch)
        open_seconds += time.monotonic() - begun

    batches: Batches[int, int] = Batches(put, lambda: store.given, 10**9)
    begun = time.monotonic()
    for number in range(100):
        store.given += 1
        await batches.give([number], 100_000)
        await asyncio.sleep(0.01)
    seconds = time.monotonic() - begun
    await batches.commit()
    assert open_seconds < seconds / 2
    assert [row for rows, _ in store.batches for row in rows] == list(range(100))


async def test_a_slow_source_makes_no_transaction_of_every_little_block() -> None:
    store = Store(in_thread=True)
    batches: Batches[int, int] = Batches(store.put, lambda: store.given, 10**9)
    for number in range(3):
        store.given += 1
        await batches.give([number], 1000)
        await asyncio.sleep(3 * batching._PATIENCE)
    assert store.batches == []
    await batches.commit()
    assert store.batches == [([0, 1, 2], 3)]


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("takes", [True, False])
async def test_of_batches_whose_nth_fails_those_before_are_in_and_whoever_gives_hears_it(
    nth: int, takes: bool
) -> None:
    store, begun = Store(in_thread=True), 0

    async def put(batch: Rows) -> None:
        nonlocal begun
        begun += 1
        if begun < nth or takes:
            await store.put(batch)
        if begun == nth:
            raise OSError("the disk is full")

    batches: Batches[int, int] = Batches(put, lambda: store.given, 2_000_000)
    with pytest.raises(OSError, match="the disk is full"):
        await give_all(store, batches, 100)
    await batches.stop()
    assert begun == nth
    assert [rows for rows, _ in store.batches] == [
        [2 * i, 2 * i + 1] for i in range(nth if takes else nth - 1)
    ]


@pytest.mark.parametrize("in_thread", [True, False])
async def test_what_is_stopped_commits_nothing_more_and_ends_whoever_waits_for_more(in_thread: bool) -> None:
    ended: list[str] = []
    store = Store(in_thread=in_thread)

    async def put(batch: Rows) -> None:
        try:
            await store.put(batch)
        finally:
            ended.append("ended")

    batches: Batches[int, int] = Batches(put, lambda: store.given, 10**9)
    await batches.give([1], 10**6)
    async with asyncio.timeout(10):
        await batches.stop()
    assert store.batches == []
    assert ended == ["ended"]


async def test_whoever_waits_for_room_hears_that_nothing_is_taken_any_more() -> None:
    goes_on = asyncio.Event()

    async def put(batch: Rows) -> None:
        await goes_on.wait()
        raise OSError("the connection is gone")

    store = Store(in_thread=False)
    batches: Batches[int, int] = Batches(put, lambda: store.given, 10**9)
    giving = asyncio.create_task(give_all(store, batches, 100))
    await asyncio.sleep(0.1)
    assert not giving.done()
    goes_on.set()
    async with asyncio.timeout(10):
        with pytest.raises(OSError, match="the connection is gone"):
            await giving
    await batches.stop()

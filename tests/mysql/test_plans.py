"""No operation on a part of the store reads the whole of it: the server itself counts the rows that it read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventferry import EventStore, open_store
from eventferry.databases.mysql import MysqlDatabase
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    all_pages,
    back_and_forth,
    exported,
    import_lines,
    line,
    make_event,
    one_aggregate,
    pages_beside_a_writer,
    refused,
)
from tests.support.mysql import Database

COUNT = 20_000
EVENTS = [
    make_event(i, timestamp=LONG_AGO + i // 2, aggregateId=f"a{i % 2000}", aggregateVersion=i // 2000 + 1)
    for i in range(COUNT)
]


async def rows_read(store: EventStore, work: Callable[[], Awaitable[Any]]) -> int:
    """How many rows the server read for some work of a store that has one connection."""
    database = store._database
    assert isinstance(database, MysqlDatabase)

    async def so_far() -> int:
        async with database._pool.connection() as connection:
            found = await connection.run(
                lambda: connection.query("SHOW SESSION STATUS LIKE 'Handler_read%%'")
            )
            return sum(int(count) for _, count in found)

    before = await so_far()
    await work()
    return await so_far() - before


async def test_what_concerns_few_events_reads_few(database: Database) -> None:
    async with open_store(database.url, max_connections=1) as store:
        await store.init()
        await import_lines(store, b"".join(map(line, EVENTS)))
        page = await store.load_events(limit=COUNT // 2, cursor=None)
        middle = page.cursor
        at_middle = LONG_AGO + COUNT // 4

        async def export_of_the_first_moment() -> None:
            await exported(store, finish_time=LONG_AGO + 10)

        works: dict[str, Callable[[], Awaitable[Any]]] = {
            "a page from the start": lambda: store.load_events(limit=100, cursor=None),
            "a page from the middle": lambda: store.load_events(limit=100, cursor=middle),
            "a page of an aggregate": lambda: store.load_events(limit=100, cursor=None, aggregate_ids=["a7"]),
            "a page by time": lambda: store.load_events(
                limit=100, start_time=at_middle, finish_time=at_middle + 20
            ),
            "the latest event": lambda: store.get_latest_event(),
            "the latest event of an aggregate": lambda: store.get_latest_event(aggregate_ids=["a7"]),
            "a save": lambda: store.save_event({"type": "T", "aggregateId": "a7", "aggregateVersion": 11}),
            "a save that would leave a gap": lambda: refused(
                store.save_event({"type": "T", "aggregateId": "a7", "aggregateVersion": 10**6})
            ),
            "a secret": lambda: store.set_secret("id", "secret"),
            "an incremental import of known events": lambda: store.incremental_import(
                [EVENTS[i] for i in range(COUNT // 2, COUNT // 2 + 50)]
            ),
            "an incremental import of new events": lambda: store.incremental_import(
                [make_event(i, timestamp=4 * LONG_AGO + i, aggregateId=f"a{i}") for i in range(50)]
            ),
            "the cursor": lambda: store.describe(calculate_cursor=True, estimate_counts=True),
            "an export of the first moment": export_of_the_first_moment,
        }
        read = {name: await rows_read(store, work) for name, work in works.items()}
    assert {name: count for name, count in read.items() if count > COUNT // 5} == {}


async def test_new_events_of_a_large_aggregate_do_not_read_the_old_ones(database: Database) -> None:
    old = b"".join(line(make_event(i, aggregateId="a", aggregateVersion=i + 1)) for i in range(COUNT))
    new = [make_event(i, timestamp=4 * LONG_AGO + i, aggregateId="a") for i in range(50)]
    async with open_store(database.url, max_connections=1) as store:
        await store.init()
        await import_lines(store, old)
        assert await rows_read(store, lambda: store.incremental_import(new)) < COUNT // 5


async def test_a_save_does_not_read_what_others_have_at_its_timestamp(database: Database) -> None:
    old = b"".join(line(each | {"timestamp": FAR_FUTURE}) for each in EVENTS)
    async with open_store(database.url, max_connections=1) as store:
        await store.init()
        await import_lines(store, old)
        saves: dict[str, Callable[[], Awaitable[Any]]] = {
            "a new aggregate": lambda: store.save_event(
                {"type": "T", "aggregateId": "new", "aggregateVersion": 1, "timestamp": FAR_FUTURE}
            ),
            "a known one": lambda: store.save_event(
                {"type": "T", "aggregateId": "a7", "aggregateVersion": 11, "timestamp": FAR_FUTURE}
            ),
            "an incremental import of new ones": lambda: store.incremental_import(
                [make_event(i, timestamp=FAR_FUTURE, aggregateId=f"b{i}") for i in range(50)]
            ),
        }
        read = {name: await rows_read(store, work) for name, work in saves.items()}
    assert {name: count for name, count in read.items() if count > COUNT // 5} == {}


@pytest.mark.slow
async def test_what_pages_of_one_large_aggregate_read_does_not_grow_with_its_square(
    database: Database,
) -> None:
    reads = []
    async with open_store(database.url, max_connections=1) as store:
        await store.init()
        for count in (2_000, 8_000):
            await import_lines(store, b"".join(map(line, one_aggregate(count))))
            reads.append(await rows_read(store, lambda: all_pages(store, 50, aggregate_ids=["one"])))
            reads.append(await rows_read(store, lambda: pages_beside_a_writer(store, "one", 50)))
    few, few_beside, many, many_beside = reads
    assert many < 8 * few, reads
    assert many_beside < 8 * few_beside, reads


async def test_an_export_reads_each_event_about_once(database: Database) -> None:
    async with open_store(database.url, max_connections=1) as store:
        await store.init()
        await import_lines(store, b"".join(map(line, EVENTS)))
        # Each is read in the index, in the table, and once more where a page's lines are put together: on MySQL twice.
        assert await rows_read(store, lambda: exported(store)) < 5 * COUNT


async def test_pages_of_tables_without_the_index_do_not_read_all_that_is_left(database: Database) -> None:
    database.make_resolve_store(2000)
    async with open_store(database.url, max_connections=1) as store:
        few, many = [
            await rows_read(store, lambda limit=limit: all_pages(store, limit))  # type: ignore[misc]
            for limit in (500, 50)
        ]
    assert many - few < 36 * 1500  # each page has a look at every thread, whatever the store holds


async def test_one_thread_is_read_by_its_counters_whatever_its_timestamps(database: Database) -> None:
    count = 5_000
    async with open_store(database.url, max_connections=1) as store:
        await store.init()
        await import_lines(store, b"".join(map(line, back_and_forth(count))))
        assert await rows_read(store, lambda: exported(store)) < 2 * count
        pages = await rows_read(store, lambda: all_pages(store, 500))
    # Each page looks at the 256 next counters, and the first is read twice.
    assert pages < 2 * count + 20 * 256

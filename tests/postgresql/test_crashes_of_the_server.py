"""kill -9 of the server at any moment: old state or new, every answer kept, nothing frozen and nothing in the way."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from eventferry import DatabaseError, EventStore, ImportReport, StoreBusyError, open_store
from tests.support import FAR_FUTURE, exported, import_lines, line, make_event, make_lines
from tests.support.postgresql import (
    STORE_TABLES,
    Own,
    at,
    check_no_gaps,
    heads,
    heads_by_events,
    rows,
    schema_of,
    tables,
)

OLD = make_lines(300)
NEW = b"".join(
    line(make_event(i, aggregateId=f"new-{i % 7}", aggregateVersion=i + 1, payload="x" * 4000))
    for i in range(3000)
)


async def run_and_crash(server: Own, seconds: float, *calls: Awaitable[Any]) -> list[bool]:
    """Begin calls and kill the server so long after that; which of them had come to their end."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.wait(tasks, timeout=seconds)
    server.kill()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    for each in found:
        assert not isinstance(each, BaseException) or isinstance(each, DatabaseError | StoreBusyError), each
    server.server.start()
    return [not isinstance(each, BaseException) for each in found]


async def how_long(call: Callable[[], Awaitable[Any]]) -> float:
    start = time.perf_counter()
    await call()
    return time.perf_counter() - start


def moments(count: int, whole: float, chance: random.Random) -> list[float]:
    """Moments spread over a time and a little beyond, each at random within its part."""
    return [(part + chance.random()) / count * whole * 1.1 for part in range(count)]


@pytest.mark.slow
async def test_an_import_leaves_the_old_events_or_the_new_ones(server: Own, chance: random.Random) -> None:
    url = server.new_url()
    async with open_store(url) as store:
        await store.init()
        whole = await how_long(lambda: import_lines(store, NEW))
        for i, moment in enumerate(moments(4, whole, chance)):
            await import_lines(store, OLD)
            await store.save_snapshot("key", "content")
            [done] = await run_and_crash(server, moment, import_lines(store, NEW, freeze=bool(i % 2)))
            async with open_store(url) as other:
                assert not (await other.describe()).is_frozen
                left = await exported(other)
                assert left in (OLD, NEW)
                assert left == NEW or not done
                assert await other.load_snapshot("key") == ("content" if left == OLD else None)
                if i % 3 == 0:
                    event = {"type": "T", "aggregateId": "somebody", "aggregateVersion": 1}
                    assert (await other.save_event(event)).event.aggregate_version == 1
                elif i % 3 == 1:
                    await import_lines(other, OLD, freeze=True)
                    assert await exported(other) == OLD
                else:
                    assert await other.incremental_import([at(FAR_FUTURE, 1)]) == ImportReport(1, 0, 0)
        await import_lines(store, OLD)
    assert tables(url) == STORE_TABLES
    assert heads(url) == heads_by_events(url)


async def test_nothing_that_an_import_makes_is_unlogged(server: Own) -> None:
    """PostgreSQL 15 does not start any more after a crash just behind the rollback of what made an unlogged table."""
    url = server.new_url()
    seen: list[str] = []

    async def events() -> AsyncIterator[bytes]:
        for i in range(3):
            yield line(at(FAR_FUTURE, i))
            seen.extend(name for (name,) in rows(url, MADE, schema_of(url)))

    async with open_store(url) as store:
        await store.init()
        assert (await store.incremental_import(events())).imported == 3
        async with store.import_events(freeze=True) as stream:
            await stream.write(OLD)
            seen.extend(name for (name,) in rows(url, MADE, schema_of(url)))
    assert any("merge" in name for name in seen)
    assert any("stage" in name for name in seen)
    assert any("steps" in name for name in seen)
    assert [name for name in seen if name.startswith("unlogged")] == []


MADE = """SELECT CASE relpersistence WHEN 'u' THEN 'unlogged ' ELSE '' END || relname FROM pg_class
WHERE relnamespace = to_regnamespace(%s)"""


@pytest.mark.slow
async def test_an_incremental_import_is_in_whole_or_not_at_all(server: Own, chance: random.Random) -> None:
    url, n = server.new_url(), 2000

    def batch(k: int) -> list[dict[str, Any]]:
        return [at(10**12 + 10**6 * k + i // 3, [k, i], f"a{i % 9}") for i in range(n)]

    async with open_store(url) as store:
        await store.init()
        whole = await how_long(lambda: store.incremental_import(batch(0)))
        for k, moment in enumerate(moments(3, whole, chance), start=1):
            before = (await store.describe()).event_count
            [done] = await run_and_crash(server, moment, store.incremental_import(batch(k)))
            description = await store.describe()
            came_in = description.event_count - before
            assert came_in in (0, n)
            assert came_in == n or not done
            assert not description.is_frozen
            assert await store.incremental_import(batch(k)) == ImportReport(n - came_in, came_in, 0)
    check_no_gaps(url)
    assert tables(url) == STORE_TABLES


@pytest.mark.slow
async def test_a_commit_leaves_the_import_open_or_the_events_in(server: Own, chance: random.Random) -> None:
    url, n = server.new_url(), 2000

    async def staged(store: EventStore, k: int) -> str:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(10**12 + 10**6 * k + i, i) for i in range(n)], import_id)
        return import_id

    async with open_store(url) as store:
        await store.init()
        first = await staged(store, 0)
        whole = await how_long(lambda: store.commit_incremental_import(first))
        for k, moment in enumerate(moments(3, whole, chance), start=1):
            import_id = await staged(store, k)
            [done] = await run_and_crash(server, moment, store.commit_incremental_import(import_id))
            description = await store.describe()
            if description.open_import is None:
                assert description.event_count == n * (k + 1)
            else:
                assert not done
                assert description.event_count == n * k
                assert await store.commit_incremental_import(import_id) == ImportReport(n, 0, 0)
    check_no_gaps(url)
    assert tables(url) == STORE_TABLES


@pytest.mark.slow
async def test_every_save_that_was_answered_is_there_and_none_twice(
    server: Own, chance: random.Random
) -> None:
    url = server.new_url()
    answered: dict[tuple[str, int], tuple[int, int]] = {}

    async def save(store: EventStore, name: str, over: asyncio.Event) -> None:
        version = 0
        while not over.is_set():
            version += 1
            saved = await store.save_event({"type": "T", "aggregateId": name, "aggregateVersion": version})
            answered[name, version] = saved.event.thread_id, saved.event.thread_counter

    async with open_store(url) as store:
        await store.init()
        for k in range(2):
            over = asyncio.Event()
            saving = [asyncio.create_task(save(store, f"{k}-{i}", over)) for i in range(8)]
            await asyncio.sleep(0.1 + chance.random() * 0.3)
            server.kill()
            # While it comes back they try again; whether that is soon enough is not the question here.
            await asyncio.to_thread(server.server.start)
            over.set()
            found = await asyncio.gather(*saving, return_exceptions=True)
            assert all(each is None or isinstance(each, DatabaseError) for each in found), found
            events = (await store.load_events(limit=100_000, cursor=None)).events
            stored = {
                (event.aggregate_id, event.aggregate_version): (event.thread_id, event.thread_counter)
                for event in events
            }
            assert len(stored) == len(events)
            assert answered.items() <= stored.items()
            assert len(stored) <= len(answered) + 8 * (k + 1)
            check_no_gaps(url)
    assert answered

"""Following: each event once and in order, or an error by name; whatever comes in meanwhile, whatever goes wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from eventferry import (
    CursorAheadError,
    Event,
    EventStore,
    Page,
    StoreClosedError,
    StoreNotFoundError,
    StoreReplacedError,
    UsageError,
    open_store,
)
from eventferry.reading import following
from tests.support import LONG_AGO, NewUrl, Opened, events_of, exported, import_lines, make_lines
from tests.support.restoring import heads_of, restore, save_more


async def pages_of(stream: AsyncIterator[Page], count: int) -> list[Event]:
    """The events of a stream until there are so many."""
    events: list[Event] = []
    async with asyncio.timeout(60):
        while len(events) < count:
            events += (await anext(stream)).events
    return events


def new(i: int, name: str = "new") -> dict[str, object]:
    return {"type": "SAVED", "aggregateId": name, "aggregateVersion": i + 1, "payload": i}


async def save_all(store: EventStore, count: int, name: str = "new") -> None:
    for i in range(count):
        await store.save_event(new(i, name))


async def test_what_is_there_comes_first_and_then_what_is_saved(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        stream = store.follow(limit=100)
        assert await pages_of(stream, 300) == events_of(make_lines(300))
        saving = asyncio.create_task(save_all(store, 30))
        events = await pages_of(stream, 30)
        await saving
        assert [event.payload for event in events] == list(range(30))


@pytest.mark.once
async def test_from_now_on_only_what_is_saved_comes(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        stream = store.follow("now", idle=0.01)
        assert (await anext(stream)).events == []
        await save_all(store, 2)
        assert [event.payload for event in await pages_of(stream, 2)] == [0, 1]


@pytest.mark.once
async def test_another_reader_goes_on_from_a_bookmark(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(500))
        first = await anext(store.follow(limit=120))
        rest = await pages_of(store.follow(first.bookmark, limit=50), 380)
        assert first.events + rest == events_of(make_lines(500))


@pytest.mark.once
async def test_an_idle_page_has_no_events_and_the_same_bookmark(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        stream = store.follow(idle=0.05)
        page = await anext(stream)
        idle = await anext(stream)
        assert (idle.events, idle.bookmark, idle.cursor) == ([], page.bookmark, page.cursor)


@pytest.mark.once
async def test_a_filter_gives_only_what_matches(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(900))
        expected = events_of(make_lines(900))
        by_type = await pages_of(store.follow(event_types=["TYPE_1"]), 300)
        assert by_type == [event for event in expected if event.type == "TYPE_1"]
        stream = store.follow(aggregate_ids=["aggregate-3", "new"], limit=7)
        assert await pages_of(stream, 90) == [each for each in expected if each.aggregate_id == "aggregate-3"]
        await save_all(store, 1, "other")
        await save_all(store, 1)
        assert [event.aggregate_id for event in await pages_of(stream, 1)] == ["new"]
        assert await pages_of(store.follow(event_types=[], idle=0), 0) == []


@pytest.mark.once
async def test_types_can_be_left_out_and_times_cannot_be_asked_for(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(90))
        others = [event for event in events_of(make_lines(90)) if event.type != "TYPE_1"]
        assert await pages_of(store.follow(exclude_types=["TYPE_1"], idle=0), len(others)) == others
        with pytest.raises(TypeError, match="start_time"):
            store.follow(start_time=0)  # type: ignore[call-arg]


@pytest.mark.slow
async def test_a_step_that_is_cancelled_loses_nothing(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(600))
        stream = store.follow(limit=50)
        events: list[Event] = []
        patience = 0.0
        while len(events) < 600:
            try:
                async with asyncio.timeout(patience):
                    events += (await anext(stream)).events
                    patience = 0.0
            except TimeoutError:
                patience += 0.0007
        assert events == events_of(make_lines(600))


@pytest.mark.once
async def test_two_steps_at_the_same_time_give_two_pages(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        stream = store.follow(limit=100)
        pages = await asyncio.gather(*(anext(stream) for _ in range(3)))
        assert [event for page in pages for event in page.events] == events_of(make_lines(300))


async def test_readers_that_wait_hold_no_connection(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url, **({} if url.startswith("sqlite") else {"max_connections": 2})) as store:
        await store.init()
        streams = [store.follow("now", idle=0.01) for _ in range(12)]
        for stream in streams:
            assert (await anext(stream)).events == []
        readers = [asyncio.create_task(pages_of(store.follow(stream.bookmark), 3)) for stream in streams]
        await asyncio.sleep(1)
        async with asyncio.timeout(30):
            await save_all(store, 3)
            for reader in readers:
                assert [event.payload for event in await reader] == [0, 1, 2]


async def test_events_of_writers_with_skewed_clocks_and_of_imports_all_come_once(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other, open_store(url) as reader:
        await store.init()
        chance = random.Random(17)

        async def write(writer: EventStore, name: str) -> None:
            for i in range(40):
                event = new(i, f"{name}-{i % 5}") | {"aggregateVersion": i // 5 + 1}
                if chance.random() < 0.3:
                    event["timestamp"] = 4_000_000_000_000 + chance.randrange(1_000)
                await writer.save_event(event)
                await asyncio.sleep(0.001)

        async def merge() -> None:
            for i in range(8):
                old = [
                    {
                        "type": "OLD",
                        "timestamp": LONG_AGO + i * 10 + k,
                        "aggregateId": "old",
                        "payload": [i, k],
                    }
                    for k in range(10)
                ]
                await store.incremental_import(old, older="accept")

        stream = reader.follow(limit=13)
        writing = asyncio.gather(write(store, "one"), write(other, "two"), merge())
        events = await pages_of(stream, 160)
        await writing
        positions = [(event.thread_id, event.thread_counter) for event in events]
        assert len(set(positions)) == 160
        assert sorted(positions) == sorted(
            (event.thread_id, event.thread_counter) for event in events_of(await exported(store))
        )
        for thread in {thread for thread, _ in positions}:
            counters = [counter for each, counter in positions if each == thread]
            assert counters == sorted(counters)


async def test_events_that_are_replaced_end_it_by_name(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(300))
        stream = store.follow()
        await pages_of(stream, 300)
        await import_lines(store, make_lines(400))
        with pytest.raises(StoreReplacedError):
            await anext(stream)


@pytest.mark.slow
@pytest.mark.parametrize("read", [150, 300])
@pytest.mark.parametrize(
    "again", [pytest.param(50, marks=pytest.mark.once), 100, pytest.param(200, marks=pytest.mark.once)]
)
async def test_a_backup_that_is_restored_meanwhile_ends_it_by_name(
    new_url: NewUrl, read: int, again: int
) -> None:
    """In the middle of the store or at its end; and the store then has fewer, as many or more events than before."""
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(50))
        backup = await heads_of(store)
        await save_more(url, 300, "lost")
    # Not the file that is open: on SQLite a file that is replaced under its reader is another error by name.
    async with open_store(url) as store:
        stream = store.follow(limit=read)
        events = await pages_of(stream, read)
        assert len(events) in (read, 2 * read)
        restore(url, backup)
        await save_more(url, again, "lost")
        with pytest.raises((StoreReplacedError, CursorAheadError)):
            await pages_of(stream, 1_000)


async def test_a_restore_is_noticed_though_the_store_counts_the_same(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await save_more(url, 10, "kept")
        backup = await heads_of(store)
        await save_more(url, 20, "lost")
        stream = store.follow(idle=3)
        await pages_of(stream, 30)
        restore(url, backup)
        await save_more(url, 20, "lost")
        with pytest.raises(StoreReplacedError):
            await anext(stream)


@pytest.mark.once
async def test_a_bookmark_that_is_none_is_refused_at_the_first_step(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(UsageError):
            await anext(store.follow("abc"))
        for wrong in (-1, True, "1"):
            with pytest.raises(UsageError):
                store.follow(idle=wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError):
            store.follow(limit=0)


@pytest.mark.once
async def test_a_store_that_is_not_there_is_an_error(new_url: NewUrl) -> None:
    async with open_store(new_url()) as store:
        with pytest.raises(StoreNotFoundError):
            await anext(store.follow())


async def test_closing_the_store_ends_whoever_waits(opened: Opened) -> None:
    async with opened() as store:
        waiting = asyncio.create_task(anext(store.follow("now")))
        await asyncio.sleep(0.1)
        await store.close()
        with pytest.raises(StoreClosedError):
            await waiting


@pytest.mark.slow
async def test_who_follows_an_idle_store_hardly_asks(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = following.Follower._look

    async def counted(self: following.Follower) -> object:
        nonlocal looks
        looks += 1
        return await look(self)

    monkeypatch.setattr(following.Follower, "_look", counted)
    async with opened() as store:
        stream = store.follow("now", idle=2)
        assert (await anext(stream)).events == []
    assert 4 <= looks <= 12

"""What is put while its source still goes on: nobody waits for a source that is slow, fails, or needs the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from eventferry import EventStore, ImportReport, StoreChangedError, open_store, sync
from tests.support import FAR_FUTURE, NewUrl, Opened, exported, import_lines, line, make_lines
from tests.support.incremental import at

OLD = make_lines(20)
LARGE = make_lines(3000)
"""More than what a batch begins with."""


def later(start: int, end: int) -> bytes:
    """Events behind all others, of three hundred bytes and more."""
    return b"".join(line(at(FAR_FUTURE, i) | {"payload": f"{i:0300}"}) for i in range(start, end))


async def saved(store: EventStore, name: str) -> None:
    async with asyncio.timeout(20):
        await store.save_event({"type": "S", "aggregateId": name, "aggregateVersion": 1})


async def test_while_an_import_waits_for_its_source_others_save(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, OLD)
        stream = store.import_events()
        await stream.write(LARGE)
        await saved(store, "by whoever imports")
        await saved(other, "by somebody else")
        await stream.write(make_lines(3100)[len(LARGE) :])
        with pytest.raises(StoreChangedError):
            await stream.close()
        assert (await store.describe()).event_count == 22


@pytest.mark.parametrize("count", [3000, 6000])
async def test_the_source_of_an_incremental_import_may_itself_save_into_the_store(
    opened: Opened, count: int
) -> None:
    async with opened() as store:
        await import_lines(store, OLD)

        async def events() -> AsyncIterator[bytes]:
            for start in range(0, count, 1000):
                yield later(start, start + 1000)
                await saved(store, f"by the source {start}")

        async with asyncio.timeout(60):
            report = await store.incremental_import(events())
        assert report == ImportReport(imported=count)
        assert (await store.describe()).event_count == 20 + count + count // 1000


@pytest.mark.once
async def test_an_iterator_of_events_may_block_the_loop_and_others_save_meanwhile(new_url: NewUrl) -> None:
    url = new_url()
    with sync.open_store(url, busy_timeout=10) as other:
        other.init()

        def events() -> Iterator[dict[str, Any]]:
            for i in range(3000):
                yield at(FAR_FUTURE, i) | {"payload": f"{i:0300}"}
            # Nothing else of this loop goes on meanwhile: were a transaction open, this would wait for it in vain.
            other.save_event({"type": "S", "aggregateId": "meanwhile", "aggregateVersion": 1})
            yield at(FAR_FUTURE, 3000)

        async with open_store(url) as store:
            assert (await store.incremental_import(events())).imported == 3001
        assert other.describe().event_count == 3002


async def test_an_import_that_is_given_up_while_it_is_put_leaves_the_store_as_it_was(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        for turns in (0, 1, 2, 5, 20):
            stream = store.import_events()
            await stream.write(LARGE)
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                await stream.abort()
            assert await exported(store) == OLD
        await saved(store, "afterwards")


async def test_an_incremental_import_whose_source_fails_while_it_is_put_leaves_the_store_as_it_was(
    opened: Opened,
) -> None:
    async def events() -> AsyncIterator[bytes]:
        yield later(0, 3000)
        raise OSError("the source is gone")

    async with opened() as store:
        await import_lines(store, OLD)
        async with asyncio.timeout(20):
            with pytest.raises(OSError, match="the source is gone"):
                await store.incremental_import(events())
        assert await exported(store) == OLD
        await saved(store, "afterwards")

"""A hundred stops in one import and in one export: each goes on where it was, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from eventferry import StoreUnreachableError, open_store, verify
from eventferry.importing.replace import Replacement
from eventferry.importing.stream import ImportStream
from eventferry.reading import exporting
from tests.support import NewUrl, exported, import_lines, make_lines
from tests.support.faults.children import Child, make_ready
from tests.support.proxy import proxied

pytestmark = pytest.mark.slow

STOPS = 50
EVENTS = 3000
COMMIT = 2_000
SOURCE = make_lines(EVENTS)
OLD = make_lines(50)


@pytest.fixture
def chance() -> random.Random:
    """Randomness that a failing test prints the seed of; EVENTFERRY_SEED gives it again."""
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    return random.Random(seed)


async def write_some(stream: ImportStream, chance: random.Random, most: int, at: int) -> int:
    """Blocks cut anywhere, until so many commits were made or the source is at its end; how far it was read."""
    commits = 0
    while at < len(SOURCE) and commits < most:
        block = SOURCE[at : at + chance.randrange(1, COMMIT)]
        before = stream.byte_offset
        await stream.write(block)
        at += len(block)
        commits += stream.byte_offset > before
    return at


async def test_an_import_that_is_stopped_fifty_times_is_as_one_that_was_not(
    new_url: NewUrl, tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small commits, so that a small source has room for all these stops.
    monkeypatch.setattr(Replacement, "batch_bytes", COMMIT)
    make_ready()
    url, path = new_url(), tmp_path / "source.jsonl"
    path.write_bytes(SOURCE)
    has_connections = not url.startswith("sqlite")
    ways = ["stop"] * 23 + ["cancel"] * 17 + ["kill"] * 5 + ["cut" if has_connections else "cancel"] * 5
    chance.shuffle(ways)
    assert len(ways) == STOPS
    reached = 0
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, OLD)
        await store.save_snapshot("key", "content")
        for way in ways:
            if way == "kill":
                child = Child("resumed import", url, str(path), COMMIT)
                await child.until_step(chance.randrange(1, 5))
                child.signal(signal.SIGKILL)
                assert await child.until_over(30)
                assert child.ended is None, child.error
                acknowledged = max((offset for (offset,) in child.words("reached")), default=0)
            else:
                acknowledged = await stopped(way, url, chance)
            assert acknowledged >= reached, "it began further back than it had come"
            reached = acknowledged
            assert reached < len(SOURCE), "the source is at its end before the stops are"
        assert await exported(store) == OLD
        assert not (await store.describe()).is_frozen
        assert await store.load_snapshot("key") == "content"
        async with store.import_events(resume=True) as stream:
            assert stream.byte_offset >= reached > 0
            await stream.write(SOURCE[stream.byte_offset :])
            report = await stream.close()
        assert report.imported == EVENTS
        assert await exported(store) == SOURCE
        assert (await verify(store.export_events(), str(path))).equal
        assert await store.load_snapshot("key") is None


async def stopped(way: str, url: str, chance: random.Random) -> int:
    """Go on with the import for a little and stop it in this way; how far it had come."""
    async with AsyncExitStack() as stack:
        proxy = None
        if way == "cut":
            proxy, url = await stack.enter_async_context(proxied(url))
        store = await stack.enter_async_context(open_store(url))
        stream = store.import_events(resume=True)
        await stream.begin()
        begun_at = stream.byte_offset
        if way == "stop":
            await write_some(stream, chance, chance.randrange(2), begun_at)
            stream.stop()
            assert not (await stream.close()).is_end
        elif way == "cancel":
            task = asyncio.create_task(write_some(stream, chance, 2, begun_at))
            await asyncio.sleep(chance.random() * 0.01)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await stream.abort(asyncio.CancelledError())
        else:
            assert proxy is not None
            at = await write_some(stream, chance, chance.randrange(2), begun_at)
            proxy.refuse = True
            proxy.cut_all()
            with pytest.raises(StoreUnreachableError):
                await write_some(stream, chance, 5, at)
        assert stream.byte_offset >= begun_at
        return stream.byte_offset


async def test_an_export_that_is_stopped_fifty_times_gives_each_event_once(
    new_url: NewUrl, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_EVENTS", 32)
    url = new_url()
    got, cursor, stops, saved = b"", None, 0, 0
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, SOURCE)
        while True:
            way = chance.choice(("stop", "room", "leave"))
            room = chance.randrange(1, 6000) if way == "room" else None
            part = b""
            async with store.export_events(cursor=cursor, buffer_size=room) as stream:
                async for block in stream:
                    part += block
                    if way == "stop":
                        stream.stop()
                    elif way == "leave":
                        break
            # What was left in the middle ends inside an event, which is not out yet.
            got, cursor = got + part[: part.rfind(b"\n") + 1], stream.cursor
            if stream.is_end:
                break
            stops += 1
            if stops % 20 == 0:  # what is saved meanwhile comes behind
                saved += 1
                await store.save_event({"type": "S", "aggregateId": "late", "aggregateVersion": saved})
        assert stops >= STOPS
        assert got == await exported(store)
        assert got.startswith(SOURCE)
        assert got.count(b"\n") == EVENTS + saved

"""The reading of another product's table, cut short at its awaits in every way: nothing stays open in the database.

Each run draws some awaits, by a seed that it prints and that EVENTFERRY_SEED gives again; `-m storm` takes all.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from eventferry import (
    EventferryError,
    ForeignSource,
    StoreClosedError,
    StoreUnreachableError,
    open_source,
    open_store,
    pipeline,
)
from tests.support import exported, import_lines, make_lines
from tests.support.ends import LIMIT, WAYS, Awaits, all_over, cut_short, over, threads, thrown_away
from tests.support.foreign.rows import Rows, rows_on
from tests.support.places import DATABASES

pytestmark = pytest.mark.slow

ROWS = 700
DRAWN = 4
OLD = make_lines(5)

Run = Callable[[ForeignSource, str], Awaitable[object]]


async def export(source: ForeignSource, _: str) -> object:
    return [block async for block in source.export_events()]


async def preview(source: ForeignSource, _: str) -> object:
    return await source.preview()


async def import_into(source: ForeignSource, target: str) -> object:
    async with open_store(target) as store:
        return await pipeline(source.export_events(), store.import_events(replace=True))


RUNS: dict[str, Run] = {"export": export, "preview": preview, "import": import_into}


def place_of(own: Rows) -> tuple[str, str]:
    """A URL whose connections the server knows by a name of their own, and that name."""
    if own.database == "postgresql":
        return f"{own.url}?application_name={own.schema}&busy_timeout={LIMIT}", own.schema
    return f"{own.url}?busy_timeout={LIMIT}", "" if own.database == "sqlite" else own.schema


async def used_in_a_child(source: ForeignSource, url: str) -> None:
    with pytest.raises(StoreClosedError):
        await export(source, "")
    await source.close()
    with suppress(StoreClosedError):  # of SQLite, a file that was in use
        async with open_source(url, source.mapping) as another:
            await export(another, "")


async def cut_reading_short(way: str, run: Run, url: str, own: Rows, target: str, at: int) -> bool:
    """Whether it came to that. The same source goes on working, and closes."""
    source = open_source(url, own.mapping())
    came, error = await cut_short(
        way, lambda: run(source, target), source.close, lambda: used_in_a_child(source, url), at
    )
    allowed = (asyncio.CancelledError, StoreClosedError) if way != "fork" else ()
    assert error is None or isinstance(error, allowed), repr(error)
    if way != "close":
        assert (await source.preview()).events == ROWS
    assert await over(asyncio.create_task(source.close())) is None
    with pytest.raises(StoreClosedError):
        await source.preview()
    return came


async def count_of(run: Run, url: str, own: Rows, target: str) -> int:
    awaits = Awaits(0, lambda: None)
    asyncio.get_running_loop().set_task_factory(awaits.factory)
    async with open_source(url, own.mapping()) as source:
        await asyncio.ensure_future(run(source, target))
        return awaits.count


async def make_target(target: str) -> None:
    async with open_store(target) as store:
        if await store.exists():
            await store.drop()
        await store.init()
        await import_lines(store, OLD)


async def content(target: str) -> bytes:
    async with open_store(target) as store:
        return await exported(store)


def walk(
    database: str,
    name: str,
    way: str,
    folder: Path,
    some: Callable[[int], Iterable[int]],
) -> int:
    """Cut a reading short at some of its awaits, given about how many there are; at how many."""
    run, walked = RUNS[name], 0
    with rows_on(database, folder) as own:
        for number in range(ROWS):
            own.add(stream=f"s{number % 7}", data='{"text": "%s"}' % ("x" * 5000))
        own.close()
        url, place = place_of(own)
        target = f"sqlite:///{folder / 'target.db'}"
        before = threads()
        asyncio.run(make_target(target))
        count = asyncio.run(count_of(run, url, own, target))
        new = asyncio.run(content(target))
        asyncio.run(make_target(target))
        for at in some(count):
            if way == "loop":
                came = thrown_away(
                    partial(run, open_source(url, own.mapping()), target), at, url, place, before
                )
            else:
                came = asyncio.run(cut_reading_short(way, run, url, own, target, at))
            all_over(url, place, before)
            found = asyncio.run(content(target))
            assert found in (OLD, new), f"{name} on {database}: {way} at await {at}"
            if found != OLD:
                asyncio.run(make_target(target))
            if not came:
                break
            walked += 1
    return walked


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("database", DATABASES)
def test_a_reading_that_is_cut_short_leaves_nothing_behind(database: str, way: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    chance = random.Random(seed)

    def some(count: int) -> list[int]:
        return chance.sample(range(1, count + 1), min(DRAWN, count))

    name = chance.choice(list(RUNS))
    print(name, walk(database, name, way, tmp_path, some))


@pytest.mark.storm
@pytest.mark.parametrize("database", DATABASES)
def test_at_every_await_a_reading_that_is_cut_short_leaves_nothing_behind(
    database: str, tmp_path: Path
) -> None:
    for name, way in itertools.product(RUNS, WAYS):
        walked = walk(database, name, way, tmp_path, lambda _: itertools.count(1))
        print(f"{database}, {name}, {way}: {walked} awaits")


def filled(own: Rows, count: int = ROWS) -> None:
    for _ in range(count):
        own.add(data='{"text": "%s"}' % ("x" * 5000))


async def test_an_export_that_is_left_and_forgotten_ends(own: Rows) -> None:
    filled(own)
    own.close()
    before = threads()
    url, place = place_of(own)
    source = open_source(url, own.mapping())

    async def look() -> None:
        async for _ in source.export_events():
            break

    await look()
    gc.collect()
    deadline = asyncio.get_running_loop().time() + LIMIT
    while source.database.life._streams:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    assert (await source.preview()).events == ROWS
    await source.close()
    await asyncio.to_thread(all_over, url, place, before)


async def test_a_source_that_is_closed_ends_its_exports_by_name(own: Rows) -> None:
    filled(own)
    source = open_source(own.url, own.mapping())
    export = source.export_events()
    await anext(export)
    await source.close()
    await source.close()
    with pytest.raises((StoreClosedError, StopAsyncIteration)):
        await anext(export)
    with pytest.raises(StoreClosedError):
        await anext(source.export_events())
    with pytest.raises(StoreClosedError):
        async with source:
            pass


async def test_a_server_that_goes_away_in_the_middle_is_an_error_by_name(own: Rows, tmp_path: Path) -> None:
    if own.database == "sqlite":
        return  # it has no server
    filled(own)
    filled(own, 3 * ROWS)
    url, place = place_of(own)
    target = f"sqlite:///{tmp_path / 'target.db'}"
    await make_target(target)

    async def killing(source: ForeignSource) -> AsyncIterator[bytes]:
        export = source.export_events()
        yield await anext(export)
        kill(own, place)
        async for block in export:
            yield block

    with pytest.raises(StoreUnreachableError):
        async with open_source(url, own.mapping()) as source, open_store(target) as store:
            await pipeline(killing(source), store.import_events(replace=True))
    assert await content(target) == OLD


def kill(own: Rows, place: str) -> None:
    """End the connections of a source from outside."""
    if own.database == "postgresql":
        found = own.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", place
        )
    else:
        mine = own.run("SELECT CONNECTION_ID()")[0][0]
        found = own.run(
            "SELECT id FROM information_schema.processlist WHERE db = %s AND id <> %s", place, mine
        )
        for (number,) in found:
            own.run(f"KILL {number}")
    assert found


async def test_what_cannot_be_reached_is_told_without_the_password(own: Rows) -> None:
    if own.database == "sqlite":
        return
    own.add()
    scheme, _, rest = own.url.partition("://")
    address = rest.rpartition("@")[2]
    wrong = [
        f"{scheme}://nobody:s3cr3t@{address}",
        f"{scheme}://nobody:s3cr3t@127.0.0.1:1/none",
        f"{scheme}://nobody:s3cr3t@no-such-host.invalid/none",
        f"{own.url}_none?password=s3cr3t" if scheme == "postgresql" else f"{own.url}_none",
    ]
    for url in wrong:
        with pytest.raises(EventferryError) as info:  # noqa: PT012
            async with open_source(url, own.mapping()) as source:
                assert "s3cr3t" not in source.place
                await source.preview()
        told = "".join(traceback.format_exception(info.value, chain=False))
        assert "s3cr3t" not in str(info.value)
        assert "let-me-in" not in str(info.value)
        assert told

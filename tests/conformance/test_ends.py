"""Every operation, cut short at every one of its awaits: cancelled, cancelled twice, cancelled over and over, its store
closed, its loop ended. Nothing hangs, nothing is left, and the store is the old one or the new one, whole.

The suite draws some operations and some of their awaits, by a seed that it prints and that EVENTFERRY_SEED gives again.
All of them: `pytest -m storm tests/conformance/test_ends.py -s`, which prints how many there are.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    EventStore,
    StoreClosedError,
    StoreNotFoundError,
    StoreReplacedError,
    open_store,
    pipeline,
)
from tests.support import exported, import_lines, line, make_event, make_lines
from tests.support.ends import (
    ENDS,
    LIMIT,
    WAYS,
    Awaits,
    all_over,
    cut_short,
    loop_ended,
    over,
    threads,
    thrown_away,
)
from tests.support.places import DATABASES, Places

pytestmark = pytest.mark.slow

DRAWN = 1
"""How many of the operations a run takes, anew for each server and way; of a file, which is fast, twice as many."""

PLACES = 2
"""At how many awaits it cuts each of them short."""

OLD = make_lines(40)
NEW = make_lines(90)
SECRETS = b'{"secret":"b","id":"second","idx":7}\n{"secret":"c","id":"third","idx":8}\n'

Run = Callable[[EventStore], Awaitable[object]]


class Operation(NamedTuple):
    """What is cut short, and what is done before: all at `store`."""

    run: Run
    before: Run | None = None


async def blocks() -> AsyncIterator[bytes]:
    for start in range(0, len(NEW), 4000):
        yield NEW[start : start + 4000]
        await asyncio.sleep(0)


async def more() -> AsyncIterator[bytes]:
    """Other aggregates than the old, behind them."""
    for start in range(0, 60, 20):
        yield b"".join(
            line(make_event(i, threadCounter=900, aggregateId=f"more-{i}", aggregateVersion=1))
            for i in range(start, start + 20)
        )


async def stopped_import(store: EventStore) -> None:
    async with store.import_events(replace=True) as sink:
        await sink.write(NEW[: len(NEW) // 2])
        sink.stop()


async def begun(store: EventStore) -> str:
    return await store.begin_incremental_import()


async def pushed(store: EventStore) -> None:
    await store.push_incremental_import([make_event(1000), make_event(1001)], await begun(store))


async def push(store: EventStore) -> None:
    left = (await store.describe()).open_import
    assert left is not None
    await store.push_incremental_import([make_event(2000)], left.id, part="1")


async def commit(store: EventStore) -> None:
    left = (await store.describe()).open_import
    assert left is not None
    await store.commit_incremental_import(left.id)


async def begun_parts(store: EventStore) -> str:
    return await store.begin_import()


async def pushed_part(store: EventStore) -> None:
    await store.push_import(await begun_parts(store), "1", blocks())


async def push_part(store: EventStore) -> None:
    left = (await store.describe()).parts_import
    assert left is not None
    await store.push_import(left.id, "2", more())


async def commit_parts(store: EventStore) -> None:
    left = (await store.describe()).parts_import
    assert left is not None
    await store.commit_import(left.id)


async def import_secrets(store: EventStore) -> None:
    async with store.import_secrets() as sink:
        await sink.write(SECRETS)


OPERATIONS = {
    "save": Operation(
        lambda store: store.save_event({"type": "T", "aggregateId": "saved", "aggregateVersion": 1})
    ),
    "append": Operation(
        lambda store: store.append_events("appended", [{"type": "T"}, {"type": "U"}], expected_version="none")
    ),
    "load": Operation(lambda store: store.load_events(limit=10, cursor=None)),
    "describe": Operation(lambda store: store.describe(calculate_cursor=True)),
    "export": Operation(exported),
    "export frozen": Operation(lambda store: exported(store, maintenance_mode=AUTO)),
    "export in parts": Operation(lambda store: exported(store, jobs=3)),
    "import": Operation(lambda store: pipeline(blocks(), store.import_events(replace=True))),
    "import frozen": Operation(
        lambda store: pipeline(blocks(), store.import_events(freeze=True, replace=True))
    ),
    "import resumed": Operation(
        lambda store: pipeline(blocks(), store.import_events(resume=True, freeze=True, replace=True)),
        stopped_import,
    ),
    "import manual": Operation(lambda store: pipeline(more(), store.import_events(maintenance_mode=MANUAL))),
    "incremental": Operation(
        lambda store: store.incremental_import([make_event(1000 + i) for i in range(20)])
    ),
    "incremental begin": Operation(begun),
    "incremental push": Operation(push, begun),
    "incremental commit": Operation(commit, pushed),
    "incremental rollback": Operation(lambda store: store.rollback_incremental_import(), pushed),
    "parts begin": Operation(begun_parts),
    "parts push": Operation(push_part, begun_parts),
    "parts commit": Operation(commit_parts, pushed_part),
    "parts rollback": Operation(lambda store: store.rollback_import(), pushed_part),
    "set secret": Operation(lambda store: store.set_secret("new", "value")),
    "delete secret": Operation(lambda store: store.delete_secret("first")),
    "import secrets": Operation(import_secrets),
    "freeze": Operation(lambda store: store.freeze()),
    "unfreeze": Operation(lambda store: store.unfreeze(), lambda store: store.freeze()),
    "init": Operation(lambda store: store.init(), lambda store: store.drop()),
    "drop": Operation(lambda store: store.drop()),
    "upgrade": Operation(lambda store: store.upgrade()),
    "close": Operation(lambda store: store.close()),
}


class State(NamedTuple):
    """All that a store holds, but for when it was stored."""

    events: tuple[tuple[str, str, int], ...]
    secrets: tuple[tuple[str, str | None], ...]
    frozen_by: str | None
    pushed: bool
    in_parts: bool
    exists: bool


async def state_of(url: str) -> State:
    async with open_store(url) as store:
        if not await store.exists():
            return State((), (), None, False, False, False)
        page = await store.load_events(limit=10000, cursor=None)
        secrets = await store.load_secrets(limit=100, include_deleted=True)
        description = await store.describe()
        return State(
            # The ids of the events of secrets end in something that nobody knows before.
            tuple(
                (event.type, "" if "SECRET" in event.type else event.aggregate_id, event.aggregate_version)
                for event in page.events
            ),
            tuple((secret.id, secret.secret) for secret in secrets.secrets),
            description.frozen_by,
            description.open_import is not None,
            description.parts_import is not None,
            True,
        )


async def cut_operation_short(way: str, run: Run, url: str, at: int) -> tuple[bool, BaseException | None]:
    """The same store goes on working, and closes."""
    store = open_store(url)
    came, error = await cut_short(
        way, lambda: run(store), store.close, lambda: used_in_a_child(store, url), at
    )
    if way != "close" and run is not OPERATIONS["close"].run:
        with suppress(StoreNotFoundError):
            await store.describe()
    assert await over(asyncio.create_task(store.close())) is None
    with pytest.raises(StoreClosedError):
        await store.describe()
    return came, error


async def used_in_a_child(store: EventStore, url: str) -> None:
    # Its parent goes on, and may close, drop or replace what this reads.
    with suppress(StoreClosedError, StoreNotFoundError, StoreReplacedError):
        async with store:
            await store.load_events(limit=1, cursor=None)
            await exported(store)


def named(url: str) -> tuple[str, str]:
    """A URL whose connections the server knows by a name of their own."""
    if url.startswith("postgresql"):
        name = url.partition("database_name=")[2]
        return f"{url}&application_name={name}&busy_timeout={LIMIT}", name
    return f"{url}?busy_timeout={LIMIT}", urlsplit(url).path.lstrip("/")


async def make(url: str, operation: Operation) -> None:
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, OLD)
        await store.set_secret("first", "a")
        if operation.before is not None:
            await operation.before(store)


async def next_command_works(url: str, state: State) -> None:
    """Whoever comes next is in nobody's way."""
    async with open_store(url) as store:
        if not state.exists:
            await store.init()
            await store.drop()
            return
        if state.frozen_by is not None:
            await store.unfreeze()
            await store.freeze()
            return
        await import_lines(store, OLD, freeze=True, replace=True)
        await store.save_event({"type": "T", "aggregateId": "next", "aggregateVersion": 1})


def is_whole(name: str, found: State, old: State, new: State) -> bool:
    if name == "import manual":  # block by block
        return found._replace(events=()) == old._replace(events=()) and (
            set(old.events) <= set(found.events) <= set(new.events) | set(old.events)
        )
    return found in (old, new)


def walk(
    database: str,
    name: str,
    way: str,
    folder: Path,
    some: Callable[[int], Iterable[int]],
) -> int:
    """Cut an operation short at some of its awaits, given about how many there are; at how many."""
    operation, before = OPERATIONS[name], threads()
    walked = 0
    with Places(database, folder) as places:
        url, place = named(places.new_url())
        asyncio.run(make(url, operation))
        old = asyncio.run(state_of(url))
        count = asyncio.run(_counted(url, operation.run))
        new = asyncio.run(state_of(url))
        is_fresh = False
        for at in some(count):
            if not is_fresh:
                url, place = named(places.new_url())
                asyncio.run(make(url, operation))
            succeeded = False
            if way == "loop":
                came = thrown_away(partial(operation.run, open_store(url)), at, url, place, before)
            else:
                came, error = asyncio.run(cut_operation_short(way, operation.run, url, at))
                expected = (asyncio.CancelledError, StoreClosedError) if way != "fork" else ()
                succeeded = error is None
                assert succeeded or isinstance(error, expected), repr(error)
            where = f"{name} on {database}: {way} at await {at}"
            all_over(url, place, before)
            found = asyncio.run(state_of(url))
            right = found == new if succeeded else is_whole(name, found, old, new)
            assert right, f"{where}, succeeded={succeeded}: {set(found) ^ set(old)}"
            is_fresh = found == old and operation.before is not stopped_import
            if not is_fresh or way == "loop" or at % 7 == 1:
                asyncio.run(next_command_works(url, found))
                all_over(url, place, before)
                is_fresh = False
            if not came:
                break
            walked += 1
    return walked


async def _counted(url: str, run: Run) -> int:
    """Do it; about how many awaits that takes."""
    awaits = Awaits(0, lambda: None)
    asyncio.get_running_loop().set_task_factory(awaits.factory)
    async with open_store(url) as store:
        await asyncio.ensure_future(run(store))
        return awaits.count


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("database", DATABASES)
def test_whatever_is_cut_short_leaves_nothing_behind(database: str, way: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    chance = random.Random(seed)

    def some(count: int) -> list[int]:
        return chance.sample(range(1, count + 1), min(PLACES, count))

    for name in chance.sample(list(OPERATIONS), 2 * DRAWN if database == "sqlite" else DRAWN):
        print(name, walk(database, name, way, tmp_path, some))


def test_a_file_of_a_store_whose_loop_ended_is_free_before_garbage_is_collected(tmp_path: Path) -> None:
    # Its writes are some awaits apart, and one of these is within a transaction.
    walk("sqlite", "import manual", "loop", tmp_path, lambda _: range(4, 13))


@pytest.mark.parametrize("database", DATABASES)
def test_a_store_goes_on_in_the_next_loop(database: str, tmp_path: Path) -> None:
    with Places(database, tmp_path) as places:
        store = open_store(places.new_url())
        asyncio.run(store.init())
        asyncio.run(import_lines(store, OLD))
        asyncio.run(store.save_event({"type": "T", "aggregateId": "saved", "aggregateVersion": 1}))
        assert asyncio.run(store.describe()).event_count == 41
        asyncio.run(store.close())


@pytest.mark.parametrize("database", DATABASES)
def test_a_store_whose_loop_was_closed_in_the_middle_of_a_call_is_closed(
    database: str, tmp_path: Path
) -> None:
    with Places(database, tmp_path) as places:
        url = places.new_url()
        asyncio.run(make(url, OPERATIONS["save"]))
        store = open_store(url)
        assert loop_ended(partial(OPERATIONS["save"].run, store), 1)
        gc.collect()
        # It waits for a save that never ends.
        with pytest.raises(StoreClosedError, match="its event loop was closed"):
            asyncio.run(store.save_event({"type": "T", "aggregateId": "saved", "aggregateVersion": 1}))
        asyncio.run(store.close())


@pytest.mark.storm
@pytest.mark.parametrize("database", DATABASES)
def test_at_every_await_whatever_is_cut_short_leaves_nothing_behind(database: str, tmp_path: Path) -> None:
    counts: dict[str, int] = {}
    ENDS.clear()
    for name, way in itertools.product(OPERATIONS, WAYS):
        walked = walk(database, name, way, tmp_path, lambda _: itertools.count(1))
        counts[name] = counts.get(name, 0) + walked
    print(f"\n{database}: {sum(counts.values())} awaits, the longest end {max(ENDS):.2f} s", counts)

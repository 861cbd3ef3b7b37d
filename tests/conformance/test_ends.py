"""Every operation, cut short at every one of its awaits: cancelled, cancelled twice, cancelled over and over, its store
closed, its loop ended. Nothing hangs, nothing is left, and the store is the old one or the new one, whole.

The suite draws some operations and some of their awaits, by a seed that it prints and that EVENTFERRY_SEED gives again.
All of them: `pytest -m storm tests/conformance/test_ends.py -s`, which prints how many there are.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    Append,
    Event,
    EventStore,
    Page,
    Repository,
    RepositoryError,
    Rule,
    Rules,
    StoreClosedError,
    StoreNotFoundError,
    StoreReplacedError,
    archive,
    back_up,
    cutover,
    open_store,
    pipeline,
    recall,
    verify,
)
from eventferry.backup.reading import Backup
from eventferry.backup.restoring import erased_in
from eventferry.backup.storage import open_storage
from eventferry.lines.marker import archive_of
from eventferry.reading import aggregates
from tests.support import LONG_AGO, exported, import_lines, line, make_event, make_lines
from tests.support.ends import (
    ENDS,
    LIMIT,
    WAYS,
    Awaits,
    all_over,
    cut_short,
    loop_ended,
    named,
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

ERASING = Rules(rules=(Rule(redact=("/number",)),))

Run = Callable[[EventStore], Awaitable[object]]


class Operation(NamedTuple):
    """What is cut short, and what is done before: all at `store`.

    `steps` says what may be done behind the cut without the rest: nothing, or some of what is not events, or some of
    the events too. What `goes_on` is run again behind the cut, and then all of it is done.
    """

    run: Run
    before: Run | None = None
    steps: Literal["none", "but events", "all"] = "none"
    goes_on: bool = False


class Beside(NamedTuple):
    """What an operation works with beside its store, made anew each time."""

    url: str  # of another store
    repository: Path


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


async def look(store: EventStore) -> None:
    await store.load_aggregate("aggregate-1")
    await store.tail(3, aggregate_ids=["aggregate-1"])
    await store.stats()
    await store.history("aggregate-2")
    async for page in store.follow(limit=15, idle=0):
        if not page.events:
            break


async def saves(store: EventStore) -> None:
    """They share transactions."""
    await asyncio.gather(
        *(
            store.save_event({"type": "T", "aggregateId": f"saved-{i}", "aggregateVersion": 1})
            for i in range(6)
        )
    )


def batches(key: str | None = None) -> Run:
    appends = [Append(f"appended-{i}", [{"type": "T"}, {"type": "U"}]) for i in range(3)]
    return lambda store: store.append_batches(appends, idempotency_key=key)


def erase(store: EventStore) -> Awaitable[object]:
    return store.erase(ERASING, aggregate_ids=["aggregate-4"])


async def subscribe(store: EventStore) -> None:
    await store.ensure_event_subscriber("app", "views", destination="there")


OPERATIONS = {
    "save": Operation(
        lambda store: store.save_event({"type": "T", "aggregateId": "saved", "aggregateVersion": 1})
    ),
    "append": Operation(
        lambda store: store.append_events("appended", [{"type": "T"}, {"type": "U"}], expected_version="none")
    ),
    "saves together": Operation(saves, steps="all"),
    "append batches": Operation(batches()),
    "append with a key": Operation(batches("key"), goes_on=True),
    "load": Operation(lambda store: store.load_events(limit=10, cursor=None)),
    "look": Operation(look),
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
    "import manual": Operation(
        lambda store: pipeline(more(), store.import_events(maintenance_mode=MANUAL)),
        steps="all",
        goes_on=True,
    ),
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
    "snapshot": Operation(lambda store: store.save_snapshot("view", "new"), goes_on=True),
    "subscribe": Operation(subscribe, goes_on=True),
    "erase": Operation(erase, lambda store: store.save_snapshot("view", "old"), goes_on=True),
    "freeze": Operation(lambda store: store.freeze()),
    "unfreeze": Operation(lambda store: store.unfreeze(), lambda store: store.freeze()),
    "init": Operation(lambda store: store.init(), lambda store: store.drop()),
    "drop": Operation(lambda store: store.drop()),
    "upgrade": Operation(lambda store: store.upgrade()),
    "close": Operation(lambda store: store.close()),
}


def with_beside(beside: Beside) -> dict[str, Operation]:
    """Operations of two stores, or of a store and a repository. Where there are two, either is the one that is
    closed."""
    repository = Repository(beside.repository)

    def other(use: Callable[[EventStore, EventStore], Awaitable[object]]) -> Run:
        """Something with the store and the one beside it."""

        async def run(store: EventStore) -> None:
            async with open_store(beside.url) as another:
                await use(store, another)

        return run

    @other
    async def replicated(store: EventStore, source: EventStore) -> None:
        """The store is a replica, and its source has gone on."""
        await source.init()
        await import_lines(source, OLD)
        await source.set_secret("second", "b")
        await store.drop()
        await store.sync(source)
        await erase(source)
        await source.set_secret("third", "c")
        await source.delete_secret("second")
        await source.append_events("appended", [{"type": "T"}, {"type": "U"}])

    @other
    async def apart(store: EventStore, source: EventStore) -> None:
        """Another store with other events."""
        await source.init()
        await source.append_events("theirs", [{"type": "T"}, {"type": "U"}])

    @other
    async def erased_copy(store: EventStore, source: EventStore) -> None:
        """What was erased from the source stands in the store still."""
        await source.init()
        await import_lines(source, OLD)
        await erase(source)

    async def parts_of_erased(store: EventStore) -> None:
        await erased_copy(store)
        await pushed_part(store)

    @other
    async def commit_parts_of_erased(store: EventStore, source: EventStore) -> None:
        left = (await store.describe()).parts_import
        assert left is not None
        await store.commit_import(left.id, erased_from=source)

    def backed_up(store: EventStore) -> Awaitable[object]:
        return back_up(store, beside.repository, secrets=True)

    async def backed_up_and_on(store: EventStore) -> None:
        await backed_up(store)
        await erase(store)
        await store.delete_secret("first")
        await store.append_events("appended", [{"type": "T"}, {"type": "U"}])

    async def backed_up_long(store: EventStore) -> None:
        """What is shorter than a marker is not archived."""
        long = [make_event(i, payload={"number": i, "fill": "x" * 99}) for i in range(40)]
        await import_lines(store, long)
        await backed_up(store)

    def archived(store: EventStore) -> Awaitable[object]:
        return archive(store, beside.repository, until=make_event(1000)["timestamp"])

    async def backed_up_and_archived(store: EventStore) -> None:
        await backed_up_long(store)
        await archived(store)

    async def backed_up_and_replaced(store: EventStore) -> None:
        await backed_up_and_on(store)
        await backed_up(store)
        await import_lines(store, NEW, replace=True)

    operations = {
        "sync: fill": Operation(other(lambda store, target: target.sync(store)), steps="but events"),
        "sync: batches": Operation(other(lambda store, source: store.sync(source)), replicated, steps="all"),
        "sync: merge": Operation(
            other(lambda store, source: store.sync(source, mode="merge")), apart, steps="all"
        ),
        "cutover: source": Operation(other(cutover), steps="but events"),
        "cutover: target": Operation(
            other(lambda store, source: cutover(source, store)), replicated, steps="all"
        ),
        "bring erasures": Operation(other(lambda store, source: store.bring_erasures(source)), erased_copy),
        "copy of erased": Operation(
            other(
                lambda store, source: pipeline(
                    source.export_events(), store.import_events(replace=True, erased_from=source)
                )
            ),
            erased_copy,
        ),
        "back up": Operation(backed_up),
        "back up more": Operation(backed_up, backed_up_and_on),
        "note erasures": Operation(repository.note_erasures, backed_up_and_on),
        "archive": Operation(archived, backed_up_long),
        "recall": Operation(lambda store: recall(store, beside.repository), backed_up_and_archived),
        "restore": Operation(
            lambda store: repository.restore(store, replace=True, with_secrets=True),
            backed_up_and_replaced,
            steps="but events",
        ),
    }
    return {name: operation._replace(goes_on=True) for name, operation in operations.items()} | {
        "parts commit of erased": Operation(commit_parts_of_erased, parts_of_erased),
        "sync: preview": Operation(other(lambda store, source: store.preview_sync(source)), replicated),
        "verify": Operation(
            other(lambda store, source: verify(store.export_events(), source.export_events())), apart
        ),
        "drill": Operation(lambda _: repository.drill(), backed_up),
    }


NAMES = [*OPERATIONS, *with_beside(Beside("", Path("none")))]


class State(NamedTuple):
    """All that a store holds, but for when it was stored and under which random names."""

    events: tuple[tuple[str, str, int, str], ...] = ()
    secrets: tuple[tuple[str, str | None], ...] = ()
    snapshot: str | None = None
    subscribers: int = 0
    erasures: int = 0
    archived: int = 0
    frozen_by: str | None = None
    pushed: bool = False
    in_parts: bool = False
    exists: bool = False


class Whole(NamedTuple):
    """The states of a store, of another beside it, and of the last backup in the repository: how many events it has,
    whether it has secrets, and of how many erasures it knows."""

    own: State
    other: State = State()
    backed_up: tuple[int, bool, int] | None = None


async def state_of(url: str, beside: Beside | None) -> Whole:
    own = await _state_of(url)
    return Whole(own) if beside is None else Whole(own, await _state_of(beside.url), await _backed_up(beside))


async def _state_of(url: str) -> State:
    async with open_store(url) as store:
        if not await store.exists():
            return State()
        page = await store.load_events(limit=10000, cursor=None)
        secrets = await store.load_secrets(limit=100, include_deleted=True)
        description = await store.describe()
        return State(
            tuple(sorted(map(_told, page.events))),  # their order depends on the thread of a random id
            tuple((secret.id, secret.secret) for secret in secrets.secrets),
            await store.load_snapshot("view"),
            len(await store.get_event_subscribers()),
            len((await store.erased()).erasures),
            sum(each.events for each in await store.archives()),
            description.frozen_by,
            description.open_import is not None,
            description.parts_import is not None,
            True,
        )


def _told(event: Event) -> tuple[str, str, int, str]:
    payload = json.dumps(event.payload, separators=(",", ":"))
    return (
        event.type,
        # The ids of the events of secrets end in something that nobody knows before.
        event.payload["id"] if "SECRET" in event.type else event.aggregate_id,
        event.aggregate_version,
        payload if archive_of(payload.encode()) is None else "archived",
    )


async def _backed_up(beside: Beside) -> tuple[int, bool, int] | None:
    repository = Repository(beside.repository)
    try:
        last = (await repository.status()).newest
    except RepositoryError:
        return None
    report = await repository.check(1.0)
    assert report.sound, report
    erased = await erased_in(await Backup.open(open_storage(beside.repository)))
    return last.events, last.has_secrets, len(erased.erasures)


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


async def make(url: str, operation: Operation) -> None:
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, OLD)
        await store.set_secret("first", "a")
        if operation.before is not None:
            await operation.before(store)


async def goes_on(url: str, run: Run) -> None:
    async with open_store(url) as store:
        await run(store)


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


def is_whole(operation: Operation, found: Whole, old: Whole, new: Whole) -> bool:
    whole = [old, new]
    if old.backed_up is not None and new.backed_up is not None:
        # Erasures are noted before events are kept.
        whole.append(old._replace(backed_up=(*old.backed_up[:2], new.backed_up[2])))
    if found in whole:
        return True
    if operation.steps == "none" or "user" in (found.own.frozen_by, found.other.frozen_by):
        return False
    return found.backed_up in [each.backed_up for each in whole] and all(
        is_on_its_way(*states, with_events=operation.steps == "all")
        for states in zip(found[:2], old[:2], new[:2], strict=True)
    )


def is_on_its_way(found: State, old: State, new: State, *, with_events: bool) -> bool:
    """Whether each thing in a state is the old one or the new one."""
    for name in State._fields:
        values = [getattr(state, name) for state in (found, old, new)]
        if name == "secrets" or (name == "events" and with_events):
            here, before, behind = map(set, values)
            places = [place[:-1] for place in values[0]]
            if not (before & behind <= here <= before | behind) or len(set(places)) < len(places):
                return False
        elif values[0] not in values[1:]:
            return False
    return True


class Round(NamedTuple):
    """A store to cut something short on, with what is beside it."""

    url: str
    operation: Operation
    beside: Beside | None
    places: list[tuple[str, str]]  # of all its stores: the URL, and the name that the server knows

    @classmethod
    def made(cls, places: Places, name: str, folder: Path) -> Round:
        """A fresh one, for the operation of this name."""
        stores = [named(places.new_url())]
        if name in OPERATIONS:
            made = cls(stores[0][0], OPERATIONS[name], None, stores)
        else:
            stores.append(named(places.new_url()))
            beside = Beside(stores[1][0], folder / f"repository-{Path(stores[1][1]).stem}")
            made = cls(stores[0][0], with_beside(beside)[name], beside, stores)
        asyncio.run(make(made.url, made.operation))
        return made

    def state(self) -> Whole:
        return asyncio.run(state_of(self.url, self.beside))

    def all_over(self, before: set[threading.Thread]) -> None:
        for url, place in self.places:
            all_over(url, place, before)
        if self.beside is not None:
            all_written(self.beside.repository)


def all_written(repository: Path) -> None:
    """No file is being written any more. A thread may still be at it when its loop has ended."""
    deadline = time.monotonic() + LIMIT
    while left := list((repository / ".unfinished").glob("*")):
        assert time.monotonic() < deadline, left
        time.sleep(0.005)


def walk(
    database: str,
    name: str,
    way: str,
    folder: Path,
    some: Callable[[int], Iterable[int]],
) -> int:
    """Cut an operation short at some of its awaits, given about how many there are; at how many."""
    before = threads()
    walked = 0
    with Places(database, folder) as places:
        each = Round.made(places, name, folder)
        old = each.state()
        count = asyncio.run(_counted(each.url, each.operation.run))
        new = each.state()
        is_fresh = False
        for at in some(count):
            if not is_fresh:
                each = Round.made(places, name, folder)
            url, run = each.url, each.operation.run
            succeeded = False
            if way == "loop":
                came = thrown_away(partial(run, open_store(url)), at, *each.places[0], before)
            else:
                came, error = asyncio.run(cut_operation_short(way, run, url, at))
                expected = (asyncio.CancelledError, StoreClosedError) if way != "fork" else ()
                succeeded = error is None
                assert succeeded or isinstance(error, expected), repr(error)
            where = f"{name} on {database}: {way} at await {at}"
            each.all_over(before)
            found = each.state()
            right = found == new if succeeded else is_whole(each.operation, found, old, new)
            assert right, f"{where}, succeeded={succeeded}: {differing(found, old)}"
            is_fresh = found == old and each.beside is None and each.operation.before is not stopped_import
            if not is_fresh or way == "loop" or at % 7 == 1:
                if each.operation.goes_on and "user" not in (found.own.frozen_by, found.other.frozen_by):
                    asyncio.run(goes_on(url, run))
                    found = each.state()
                    assert found == new, f"{where}, and on: {differing(found, new)}"
                asyncio.run(next_command_works(url, found.own))
                each.all_over(before)
                is_fresh = False
            if not came:
                break
            walked += 1
    return walked


def differing(found: Whole, other: Whole) -> list[str]:
    """What is different, for whoever looks for the fault."""
    return [
        f"{name}: {one!r:.2000}, not {another!r:.2000}"
        for mine, its in zip(found[:2], other[:2], strict=True)
        for name, one, another in zip(State._fields, mine, its, strict=True)
        if one != another
    ] + [f"{found.backed_up}, {other.backed_up}"]


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

    for name in chance.sample(NAMES, 2 * DRAWN if database == "sqlite" else DRAWN):
        print(name, walk(database, name, way, tmp_path, some))


def test_a_file_of_a_store_whose_loop_ended_is_free_before_garbage_is_collected(tmp_path: Path) -> None:
    # Its writes are some awaits apart, and one of these is within a transaction.
    walk("sqlite", "import manual", "loop", tmp_path, lambda _: range(4, 13))


def test_saves_that_wait_for_others_end_with_their_loop_without_a_word(tmp_path: Path) -> None:
    walk("sqlite", "saves together", "loop", tmp_path, lambda count: range(1, count + 1))


@pytest.mark.slow
def test_a_backup_whose_loop_is_closed_anywhere_leaves_no_thread_and_no_word(tmp_path: Path) -> None:
    walk("sqlite", "back up", "loop", tmp_path, lambda count: range(1, count + 1))


@pytest.mark.parametrize(
    "only",
    [{"aggregate_ids": ["aggregate-1", "aggregate-2", "aggregate-7"]}, {"event_types": ["TYPE_1"]}, {}],
)
@pytest.mark.parametrize("database", DATABASES)
async def test_a_loader_that_is_cancelled_anywhere_goes_on_where_it_was(
    database: str, only: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregates, "_PLACES", 3)
    # Of each thread the second event is earlier than its first: some pages are merged.
    events = [
        make_event(i, threadId=i % 10, threadCounter=i // 10, timestamp=LONG_AGO + i % 10 - i // 10)
        for i in range(20)
    ]
    loop = asyncio.get_running_loop()
    loading: list[asyncio.Task[Page]] = []
    with Places(database, tmp_path) as places:
        async with open_store(places.new_url()) as store:
            await store.init()
            await import_lines(store, events)
            wanted = (await store.load_events(limit=100, cursor=None, **only)).events
            for at in itertools.count(1, 1 if database == "sqlite" else 7):
                loader = await store.get_event_loader(cursor=None, **only)
                awaits = Awaits(at, lambda: loading[-1].cancel())
                loop.set_task_factory(awaits.factory)
                found: list[Event] = []
                while True:
                    loading.append(loop.create_task(loader.load_events(2 if only else 4)))
                    with suppress(asyncio.CancelledError):
                        page = await loading[-1]
                        found += page.events
                        if not page.events:
                            break
                loop.set_task_factory(None)
                assert found == wanted, f"cancelled at await {at}"
                if awaits.count < at:
                    break


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
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("database", DATABASES)
def test_at_every_await_whatever_is_cut_short_leaves_nothing_behind(
    database: str, way: str, name: str, tmp_path: Path
) -> None:
    ENDS.clear()
    walked = walk(database, name, way, tmp_path, lambda _: itertools.count(1))
    print(f"\n{walked} awaits, the longest end {max(ENDS, default=0):.2f} s")

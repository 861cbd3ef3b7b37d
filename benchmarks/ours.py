"""One operation of eventferry, measured: the other half of resolve_bench.cjs, with the same words.

python -m benchmarks.ours OPERATION STORE [ARGUMENT]

It runs in a process of its own, as the command and the service do. With EVENTFERRY_BENCH_LIBRARY in the environment
it runs as in somebody else's, where a SQLite file is opened by Python's own library, and with EVENTFERRY_BENCH_SYNC
likewise, by the names without await. With EVENTFERRY_BENCH_GAPS a save may leave out versions, as every one could
before that was refused. With EVENTFERRY_BENCH_STEPS it tells how long
each step took, which costs a little.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from eventferry.processes import own

if "EVENTFERRY_BENCH_LIBRARY" not in os.environ and "EVENTFERRY_BENCH_SYNC" not in os.environ:
    own.make_ours()

from benchmarks.steps import Steps
from benchmarks.timing import Timer
from eventferry import EventStore, open_store, pipeline, read_blocks, sync

PAGE = 1000
CLIENTS = 100
TEN = 10
HUNDRED = 100

SAVED = {"allow_gaps": True} if "EVENTFERRY_BENCH_GAPS" in os.environ else {}
"""Options of every save."""

timer = Timer()
"""Of the calls of the operation, where it consists of many."""


async def _create(store: EventStore, argument: str) -> int:
    await store.init()
    return 0


async def _import(store: EventStore, file: str) -> int:
    report = await pipeline(file, store.import_events())
    imported: int = report.imported
    return imported


async def _export(store: EventStore, file: str) -> int:
    export = store.export_events()
    await pipeline(export, file)
    return export.exported


async def _copy(store: EventStore, target: str) -> int:
    async with open_store(target) as other:
        await other.init()
        report = await pipeline(store.export_events(), other.import_events())
    imported: int = report.imported
    return imported


async def _pages(store: EventStore, argument: str) -> int:
    cursor: str | None = None
    count = 0
    while True:
        with timer.call():
            page = await store.load_events(limit=PAGE, cursor=cursor)
        if not page.events:
            return count
        count += len(page.events)
        cursor = page.cursor


async def _incremental(store: EventStore, file: str) -> int:
    report = await store.incremental_import(read_blocks(file))
    return report.imported + report.skipped_existing


async def _save(store: EventStore, aggregate: str, count: int) -> None:
    for version in range(1, count + 1):
        event = _event(version) | {"aggregateId": aggregate, "aggregateVersion": version}
        with timer.call():
            await store.save_event(event, **SAVED)


def _event(version: int) -> dict[str, object]:
    return {"type": "SAVED", "timestamp": 1, "payload": {"version": version}}


async def _append(store: EventStore, count: str) -> int:
    for before in range(0, int(count), TEN):
        events = [_event(before + step) for step in range(1, TEN + 1)]
        with timer.call():
            await store.append_events("saved", events, expected_version=before)
    return int(count)


async def _aggregate(store: EventStore, times: str) -> int:
    await store.append_events("hundred", [_event(version) for version in range(HUNDRED)])
    timer.begin()
    for _ in range(int(times)):
        with timer.call():
            page = await store.load_aggregate("hundred", limit=HUNDRED)
        assert len(page.events) == HUNDRED
    return int(times) * HUNDRED


async def _saves(store: EventStore, count: str) -> int:
    await _save(store, "saved", int(count))
    return int(count)


async def _many_saves(store: EventStore, count: str) -> int:
    each = int(count) // CLIENTS
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(_save(store, f"saved-{number}", each))
    return each * CLIENTS


OPERATIONS = {
    "create": _create,
    "import": _import,
    "export": _export,
    "copy": _copy,
    "pages": _pages,
    "incremental": _incremental,
    "saves": _saves,
    "appends of 10": _append,
    "aggregate of 100": _aggregate,
    "saves of 100 clients": _many_saves,
}


def _saves_without_await(store: sync.EventStore, count: str) -> int:
    for version in range(1, int(count) + 1):
        with timer.call():
            store.save_event(_event(version) | {"aggregateId": "saved", "aggregateVersion": version})
    return int(count)


def _append_without_await(store: sync.EventStore, count: str) -> int:
    for before in range(0, int(count), TEN):
        events = [_event(before + step) for step in range(1, TEN + 1)]
        with timer.call():
            store.append_events("saved", events, expected_version=before)
    return int(count)


def _aggregate_without_await(store: sync.EventStore, times: str) -> int:
    store.append_events("hundred", [_event(version) for version in range(HUNDRED)])
    timer.begin()
    for _ in range(int(times)):
        with timer.call():
            page = store.load_aggregate("hundred", limit=HUNDRED)
        assert len(page.events) == HUNDRED
    return int(times) * HUNDRED


WITHOUT_AWAIT = {
    "saves": _saves_without_await,
    "appends of 10": _append_without_await,
    "aggregate of 100": _aggregate_without_await,
}


def _measure_without_await(operation: str, place: str, argument: str) -> None:
    with sync.open_store(place) as store:
        store.describe()
        timer.begin()
        events = WITHOUT_AWAIT[operation](store, argument)
        print(json.dumps({"events": events} | timer.told()))


async def _measure(operation: str, place: str, argument: str = "") -> None:
    async with open_store(place) as store:
        if operation != "create":
            await store.describe()
        steps = Steps(store._database) if "EVENTFERRY_BENCH_STEPS" in os.environ else None
        main, whole = time.thread_time(), time.process_time()
        timer.begin()
        events = await OPERATIONS[operation](store, argument)
        timed = timer.told()
        main = time.thread_time() - main
        others = time.process_time() - whole - main
    told: dict[str, object] = {"events": events, "main": main, "others": others}
    print(json.dumps(told | timed | ({} if steps is None else {"steps": steps.taken})))


if __name__ == "__main__":
    if "EVENTFERRY_BENCH_SYNC" in os.environ:
        _measure_without_await(*sys.argv[1:])
    else:
        asyncio.run(_measure(*sys.argv[1:]))

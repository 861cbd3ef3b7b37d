"""One operation of eventferry, measured: the other half of resolve_bench.cjs, with the same words.

python -m benchmarks.ours OPERATION STORE [ARGUMENT]

It runs in a process of its own, as the command and the service do. With EVENTFERRY_BENCH_LIBRARY in the environment
it runs as in somebody else's, where a SQLite file is opened by Python's own library. With EVENTFERRY_BENCH_STEPS it
tells how long each step took, which costs a little.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from eventferry import own_process

if "EVENTFERRY_BENCH_LIBRARY" not in os.environ:
    own_process.make_ours()

from benchmarks.steps import Steps
from eventferry import EventStore, open_store, pipeline, read_blocks

PAGE = 1000
CLIENTS = 100


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
    while (page := await store.load_events(limit=PAGE, cursor=cursor)).events:
        count += len(page.events)
        cursor = page.cursor
    return count


async def _incremental(store: EventStore, file: str) -> int:
    report = await store.incremental_import(read_blocks(file))
    return report.imported + report.skipped_existing


async def _save(store: EventStore, aggregate: str, count: int) -> None:
    for version in range(1, count + 1):
        await store.save_event(
            {
                "aggregateId": aggregate,
                "aggregateVersion": version,
                "type": "SAVED",
                "timestamp": 1,
                "payload": {"version": version},
            }
        )


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
    "saves of 100 clients": _many_saves,
}


async def _measure(operation: str, place: str, argument: str = "") -> None:
    async with open_store(place) as store:
        if operation != "create":
            await store.describe()
        steps = Steps(store._database) if "EVENTFERRY_BENCH_STEPS" in os.environ else None
        start, main, whole = time.perf_counter(), time.thread_time(), time.process_time()
        events = await OPERATIONS[operation](store, argument)
        seconds = time.perf_counter() - start
        main = time.thread_time() - main
        others = time.process_time() - whole - main
    told: dict[str, object] = {"events": events, "seconds": seconds, "main": main, "others": others}
    print(json.dumps(told | ({} if steps is None else {"steps": steps.taken})))


if __name__ == "__main__":
    asyncio.run(_measure(*sys.argv[1:]))

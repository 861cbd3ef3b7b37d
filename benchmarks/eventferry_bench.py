"""One operation of eventferry, measured: the other half of resolve_bench.cjs, with the same words.

python -m benchmarks.eventferry_bench OPERATION DATABASE [FILE or COUNT]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from eventferry import EventStore, open_store, pipeline, read_blocks

PAGE = 1000


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


async def _pages(store: EventStore, argument: str) -> int:
    cursor: str | None = None
    count = 0
    while (page := await store.load_events(limit=PAGE, cursor=cursor)).events:
        count += len(page.events)
        cursor = page.cursor
    return count


async def _incremental(store: EventStore, file: str) -> int:
    report = await store.incremental_import(read_blocks(file))
    return report.imported


async def _saves(store: EventStore, count: str) -> int:
    for version in range(1, int(count) + 1):
        await store.save_event(
            {
                "aggregateId": "saved",
                "aggregateVersion": version,
                "type": "SAVED",
                "timestamp": 1,
                "payload": {"version": version},
            }
        )
    return int(count)


OPERATIONS = {
    "create": _create,
    "import": _import,
    "export": _export,
    "pages": _pages,
    "incremental": _incremental,
    "saves": _saves,
}


async def _measure(operation: str, database: str, argument: str = "") -> None:
    async with open_store(database) as store:
        if operation != "create":
            await store.describe()
        start = time.perf_counter()
        events = await OPERATIONS[operation](store, argument)
        seconds = time.perf_counter() - start
    print(json.dumps({"events": events, "seconds": seconds}))


if __name__ == "__main__":
    asyncio.run(_measure(*sys.argv[1:]))

"""A sync that follows a product's store while the product writes into it, and is killed again and again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventferry import open_source, open_store
from eventferry.sources.mapping import load_mapping
from tests.support import all_pages, as_dict
from tests.support.faults.children import Child, make_ready
from tests.support.foreign import read

HANGS = 120.0
"""Seconds after which a sync hangs."""


async def follow_and_kill(
    url: str, preset: str, target: Path, write: Callable[[], object], *, kills: int, **tables: str
) -> list[dict[str, Any]]:
    """Let a product write while a sync in a process of its own is killed so many times, at least; bring over the rest.

    Args:
        url: of the product's store, which is made already.
        preset: of the product.
        target: the file of a replica.
        write: writes events until it has written enough.
        kills: how often the sync is killed, also when the writers have ended.
        tables: as after --set.

    Returns:
        The events of the target, after they were found to be those of the source: each once, and in its order.
    """
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    make_ready()
    chance, mapping, place = (
        random.Random(seed),
        load_mapping(preset).with_tables(tables),
        f"sqlite:///{target}",
    )
    async with open_store(place) as store:
        await store.init()
    writing: asyncio.Task[object] | None = None
    killed = batches = 0
    child: Child | None = None
    try:
        while writing is None or not writing.done() or killed < kills:
            child = Child("sync table", url, mapping, place, "replica", True)
            await child.until_begun()
            writing = writing or asyncio.create_task(asyncio.to_thread(write))
            came_over, enough = 0, chance.randrange(5)  # in a first fill, between batches, or while it waits
            for _ in range(300):
                await asyncio.sleep(0.01)
                came_over = came_over if writing.done() else len(child.words("batch"))
                if writing.done() or came_over >= enough:
                    break
            await asyncio.sleep(0.3 * chance.random())
            assert not child.is_over, f"a sync that follows ended {child.ended}: {child.error}"
            batches += came_over
            child.signal(signal.SIGKILL)
            assert await child.until_over(HANGS), "what was killed does not end"
            killed += 1
        await writing
    finally:
        if child is not None:
            child.signal(signal.SIGKILL)
    assert batches > 0, "nothing came over while the product wrote"
    last = Child("sync table", url, mapping, place, "replica", False)
    assert await last.until_over(HANGS), "the last sync hangs"
    assert last.ended == "well", f"the last sync ended {last.ended}: {last.error}"
    events, _ = await read(url, preset, tables=tables)
    async with open_source(url, mapping) as source, open_store(place) as store:
        came = [as_dict(event) for event in await all_pages(store, 5_000)]
        [status] = await store.sync_status(source)
    assert came == events, "the replica is not the source"
    assert status.lag_events == 0
    print(f"{killed} kills, {batches} batches while {preset} wrote {len(events)} events")
    return came

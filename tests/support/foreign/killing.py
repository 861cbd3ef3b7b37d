"""A sync that follows a product's store while the product writes into it, and is killed again and again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from eventferry import open_store
from tests.support import all_pages, as_dict
from tests.support.foreign import read

PATIENCE = 120
"""Seconds after which a sync hangs."""


async def follow_and_kill(
    url: str, mapping: str, target: Path, write: Callable[[], object], *, kills: int, **tables: str
) -> list[dict[str, Any]]:
    """Let a product write while a sync in a process of its own is killed so many times, at least; bring over the rest.

    Args:
        url: of the product's store, which is made already.
        mapping: as after --from.
        target: the file of a replica.
        write: writes events until it has written enough.
        kills: how often the sync is killed, also when the writers have ended.
        tables: as after --set.

    Returns:
        The events of the target, after they were found to be those of the source: each once, and in its order.
    """
    seed = int(os.environ.get("EVENTFERRY_SEED") or random.SystemRandom().randrange(2**32))
    print(f"EVENTFERRY_SEED={seed}")
    chance = random.Random(seed)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        killed = 0
        while killed < kills or not writing.done():
            process = subprocess.Popen(_sync(url, mapping, target, tables, "--follow"), **_QUIET)
            time.sleep(
                0.3 + 1.5 * chance.random()
            )  # in its start, in a first fill, in a batch, or while it waits
            assert process.poll() is None, f"a sync that follows ended: {process.communicate()[0]}"
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
        writing.result()
    ended = subprocess.run(_sync(url, mapping, target, tables), timeout=PATIENCE, check=False, **_QUIET)
    assert ended.returncode == 0, ended.stdout
    events, report = await read(url, mapping, tables=tables)
    async with open_store(str(target)) as store:
        came = [as_dict(event) for event in await all_pages(store, 5_000)]
    assert came == events
    assert report.events == len(events)
    return came


def _sync(url: str, mapping: str, target: Path, tables: Mapping[str, str], *more: str) -> list[str]:
    names = [word for name, table in tables.items() for word in ("--set", f"{name}={table}")]
    return [sys.executable, "-m", "eventferry", "sync", "--from", mapping, *names, *more, url, str(target)]


_QUIET: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}

"""How far a replica is behind while its source is saved to, what waiting costs, and the first fill beside a copy.

python -m benchmarks.sync_lag [SOURCE TARGET] [--saves 5000] [--rate 500] [--events 100000]

Without databases, all ordered pairs of sqlite, postgresql and mariadb. The sync is a process of its own. An event's lag
is the time from the answer to its save until a follower of the target has it, so it includes that follower's own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from tests.support.servers import shared_url

from benchmarks.command_line import asked, servers
from benchmarks.make_events import make_events
from eventferry import EventStore, open_store, pipeline

KINDS = ("sqlite", "postgresql", "mariadb")
CLIENTS = 50
IDLE_SECONDS = 10


def new_url(kind: str, folder: Path) -> str:
    """A fresh place."""
    name = f"lag_{secrets.token_hex(4)}"
    if kind == "sqlite":
        return f"sqlite:///{folder / name}.db"
    return shared_url(kind, f"postgres?database_name={name}" if kind == "postgresql" else name)


def cpu_of(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def save_all(store: EventStore, count: int, rate: float) -> dict[tuple[int, int], float]:
    """Save so many events at this rate; when each was acknowledged, by its position."""
    saved: dict[tuple[int, int], float] = {}
    free = asyncio.Semaphore(CLIENTS)

    async def save(number: int) -> None:
        async with free:
            done = await store.save_event(
                {
                    "type": "Saved",
                    "aggregateId": f"aggregate-{number % 200}",
                    "aggregateVersion": number // 200 + 1,
                    "payload": {"number": number, "text": "x" * 200},
                }
            )
        saved[done.event.thread_id, done.event.thread_counter] = time.monotonic()

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(save(number))
            await asyncio.sleep(max(began + number / rate - time.monotonic(), 0))
    return saved


async def lag(source_url: str, target_url: str, saves: int, rate: float) -> str:
    """Save while a sync follows; what the lags were, and what the sync costs afterwards."""
    async with open_store(source_url) as source, open_store(target_url) as target:
        await source.init()
        await target.sync(source)
        sync = subprocess.Popen(
            [sys.executable, "-m", "eventferry", "sync", source_url, target_url, "--follow"]
        )
        seen: dict[tuple[int, int], float] = {}

        async def watch() -> None:
            async for page in target.follow("now"):
                arrived = time.monotonic()
                seen.update({(event.thread_id, event.thread_counter): arrived for event in page.events})
                if len(seen) >= saves:
                    return

        watching = asyncio.create_task(watch())
        await asyncio.sleep(2)
        saved = await save_all(source, saves, rate)
        async with asyncio.timeout(120):
            await watching
        await asyncio.sleep(2)
        used = cpu_of(sync.pid)
        await asyncio.sleep(IDLE_SECONDS)
        idle = (cpu_of(sync.pid) - used) / IDLE_SECONDS
        sync.terminate()
        sync.wait()
    lags = sorted(seen[place] - moment for place, moment in saved.items())
    return (
        f"lag median {statistics.median(lags) * 1e3:.0f} ms, 99 % {lags[len(lags) * 99 // 100] * 1e3:.0f} ms, "
        f"most {lags[-1] * 1e3:.0f} ms; idle {idle:.2%} of a core"
    )


async def fill(source_url: str, target_url: str, copy_url: str, events: int) -> str:
    """The first fill beside a copy, and a thousand new events beside a thousand as the first."""
    async with (
        open_store(source_url) as source,
        open_store(target_url) as target,
        open_store(copy_url) as copy,
    ):
        await source.init()
        await pipeline(make_events(events), source.import_events())
        took: dict[str, float] = {}
        for turn in range(2):
            began = time.monotonic()
            if not turn:
                await copy.init()
                await pipeline(source.export_events(), copy.import_events())
                took["copy"] = time.monotonic() - began
            else:
                await target.sync(source)
                took["fill"] = time.monotonic() - began
        await save_all(source, 1000, 1e9)
        began = time.monotonic()
        await target.sync(source)
        took["1,000 new"] = time.monotonic() - began
    return (
        f"{events:,} events: copy {took['copy']:.2f} s, first fill {took['fill']:.2f} s "
        f"({took['copy'] / took['fill']:.2f}); 1,000 new ones {took['1,000 new']:.2f} s"
    )


async def main() -> None:
    """Measure the pairs that are asked for."""
    given = asked(__doc__, KINDS, saves=5000, rate=500.0, events=100_000)
    pairs = product(KINDS, KINDS) if given.databases == list(KINDS) else [tuple(given.databases)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for one, other in pairs:
            told = await lag(new_url(one, folder), new_url(other, folder), given.saves, given.rate)
            print(f"{one} -> {other}: {told}", flush=True)
            filled = await fill(
                new_url(one, folder), new_url(other, folder), new_url(other, folder), given.events
            )
            print(f"{one} -> {other}: {filled}", flush=True)


if __name__ == "__main__":
    with servers():
        asyncio.run(main())

"""What `stats` takes beside the SQL that somebody would write by hand for the same figures: events by type, aggregates,
events per day, the largest payloads. And the overview of the console, cold and warm.

python -m benchmarks.looking [DATABASE …] [--events 1000000] [--runs 5]

Both ask the same server in turns, in this process; the best of each counts.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.bare import execute_at
from benchmarks.command_line import asked, servers
from benchmarks.make_events import make_events
from benchmarks.sync_lag import KINDS, new_url
from eventferry import EventStore, open_store
from eventferry.http import create_app

DAY = 86_400_000

BY_HAND = (
    'SELECT type, count(*), sum({size}), max({size}), min("timestamp"), max("timestamp") FROM events GROUP BY type',
    'SELECT count(*) FROM (SELECT DISTINCT "aggregateId" FROM events) AS a',
    'SELECT "aggregateId", count(*) AS n FROM events GROUP BY "aggregateId" ORDER BY n DESC LIMIT 10',
    "SELECT {day}, count(*) FROM events GROUP BY {day} ORDER BY {day}",
    'SELECT "threadId", "threadCounter", {size} FROM events ORDER BY {size} DESC LIMIT 10',
)

SIZE = {"sqlite": "length(payload)", "postgresql": "length(payload::text)", "mariadb": "length(payload)"}
WHOLE = {"sqlite": "/", "postgresql": "/", "mariadb": " DIV "}


def by_hand(kind: str, url: str) -> Callable[[], None]:
    """Asks all of it."""
    execute = execute_at(url.removeprefix("sqlite:///") if kind == "sqlite" else url)
    day = f'"timestamp"{WHOLE[kind]}{DAY}'

    def ask() -> None:
        for statement in BY_HAND:
            execute(statement.format(size=SIZE[kind], day=day), ())

    return ask


async def overview(store: EventStore) -> list[float]:
    """Seconds of the console's first page, twice."""
    app = create_app(store, insecure=True, console=True)
    took = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        for _ in range(2):
            began = time.perf_counter()
            (await client.get("/console/")).raise_for_status()
            took.append(time.perf_counter() - began)
    return took


async def measure(kind: str, url: str, events: int, runs: int) -> None:
    """Measure one store, and print it."""
    async with open_store(url) as store:
        await store.init()
        async with store.import_events() as sink:
            for block in make_events(events):
                await sink.write(block)
    async with open_store(url) as store:
        cold, warm = await overview(store)
        ask = by_hand(kind, url)
        theirs: list[float] = []
        ours: list[float] = []
        for _ in range(runs):
            began = time.perf_counter()
            ask()
            theirs.append(time.perf_counter() - began)
            began = time.perf_counter()
            await store.stats(span="day")
            ours.append(time.perf_counter() - began)
    print(
        f"{kind}, {events:,} events: stats {min(ours):.2f} s, by hand {min(theirs):.2f} s "
        f"({min(theirs) / min(ours):.2f}), overview {cold:.3f} s cold, {warm:.3f} s warm",
        flush=True,
    )


async def main() -> None:
    """Measure the databases that are asked for."""
    given = asked(__doc__, KINDS, events=1_000_000, runs=5)
    with tempfile.TemporaryDirectory() as name:
        for kind in given.databases:
            await measure(kind, new_url(kind, Path(name)), given.events, given.runs)


if __name__ == "__main__":
    with servers():
        asyncio.run(main())

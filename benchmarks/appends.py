"""Appends of ten events beside ten saves: events per second, one client and a hundred.

python -m benchmarks.appends [DATABASE …] [--seconds 4]

A client appends to an aggregate of its own, and waits for each answer; ten saves are one after another.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.command_line import asked, servers
from benchmarks.sync_lag import KINDS, new_url
from eventferry import EventStore, open_store

TEN = 10


async def ten_saves(store: EventStore, aggregate: str, turn: int) -> None:
    """Ten events, one by one."""
    for number in range(TEN):
        version = turn * TEN + number + 1
        event = {"type": "Saved", "aggregateId": aggregate, "aggregateVersion": version}
        await store.save_event(event | {"payload": {"number": number, "text": "x" * 200}})


async def one_append(store: EventStore, aggregate: str, turn: int) -> None:
    """The same ten events at once."""
    events = [{"type": "Saved", "payload": {"number": n, "text": "x" * 200}} for n in range(TEN)]
    await store.append_events(aggregate, events, expected_version=turn * TEN)


async def one_append_to_any(store: EventStore, aggregate: str, turn: int) -> None:
    """The same whatever the aggregate's last version is."""
    events = [{"type": "Saved", "payload": {"number": n, "text": "x" * 200}} for n in range(TEN)]
    await store.append_events(aggregate, events)


async def one_append_with_key(store: EventStore, aggregate: str, turn: int) -> None:
    """The same under an idempotency key."""
    events = [{"type": "Saved", "payload": {"number": n, "text": "x" * 200}} for n in range(TEN)]
    await store.append_events(
        aggregate, events, expected_version=turn * TEN, idempotency_key=f"{aggregate}/{turn}"
    )


async def rate(
    url: str, step: Callable[[EventStore, str, int], Awaitable[None]], clients: int, seconds: float
) -> float:
    """Events per second."""
    async with open_store(url) as store:
        await store.init()
        await step(store, "first", 0)
        until = time.monotonic() + seconds

        async def client(name: str) -> int:
            turn = 0
            while time.monotonic() < until:
                await step(store, name, turn)
                turn += 1
            return turn

        began = time.monotonic()
        turns = await asyncio.gather(*(client(f"client-{number}") for number in range(clients)))
        return sum(turns) * TEN / (time.monotonic() - began)


async def main() -> None:
    """Measure the databases that are asked for."""
    given = asked(__doc__, KINDS, seconds=4.0)
    with tempfile.TemporaryDirectory() as name:
        for kind in given.databases:
            for clients in (1, 100):
                found = [
                    await rate(new_url(kind, Path(name)), step, clients, given.seconds)
                    for step in (ten_saves, one_append, one_append_to_any, one_append_with_key)
                ]
                saves, appends, to_any, keyed = found
                print(
                    f"{kind}, {clients} clients: saves {saves:,.0f}/s, appends {appends:,.0f}/s "
                    f"({appends / saves:.1f}), to any version {to_any:,.0f}/s ({to_any / saves:.1f}), "
                    f"with a key {keyed:,.0f}/s ({keyed / saves:.1f})",
                    flush=True,
                )


if __name__ == "__main__":
    with servers():
        asyncio.run(main())

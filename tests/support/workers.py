"""What runs in processes of its own in the tests; imported there anew, so it imports little."""

from __future__ import annotations

import asyncio
from typing import Any

from eventferry import ConcurrentError, Partition, StoreFrozenError, open_store


def event_of(aggregate: str, version: int, **changes: Any) -> dict[str, Any]:
    """An event to save."""
    return {"type": "T", "aggregateId": aggregate, "aggregateVersion": version} | changes


def save_series(url: str, name: str, count: int) -> None:
    """Append to an aggregate of one's own and, wherever the race for it goes, to a shared one."""

    async def work() -> None:
        async with open_store(url) as store:
            for version in range(1, count + 1):
                await store.save_event(event_of(name, version))
            shared = 1
            left = count // 4
            while left:
                try:
                    await store.save_event(event_of("shared", shared, payload=name))
                    left -= 1
                except ConcurrentError:
                    pass
                shared += 1

    asyncio.run(work())


def save_until_frozen(url: str, name: str) -> int:
    """Append to an aggregate until the store is frozen; how many were saved."""

    async def work() -> int:
        async with open_store(url) as store:
            for version in range(1, 100_000):
                try:
                    await store.save_event(event_of(name, version))
                except StoreFrozenError:
                    return version - 1
        raise AssertionError("nobody froze the store")

    return asyncio.run(work())


def push_partition(source: str, target: str, import_id: str, part: Partition) -> None:
    """Read a slice of one store and push it to the open import of another."""

    async def work() -> None:
        async with open_store(source) as a, open_store(target) as b:
            await b.push_incremental_import(a.read_partition(part), import_id, part=str(part.number))

    asyncio.run(work())

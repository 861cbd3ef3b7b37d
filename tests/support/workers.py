"""What runs in processes of its own in the tests of partitions; imported there anew, so it imports little."""

from __future__ import annotations

import asyncio

from eventferry import Partition, open_store


def push_partition(source: str, target: str, import_id: str, part: Partition) -> None:
    """Read a slice of one store and push it to the open import of another."""

    async def work() -> None:
        async with open_store(source) as a, open_store(target) as b:
            await b.push_incremental_import(a.read_partition(part), import_id, part=str(part.number))

    asyncio.run(work())

"""How many events a second are brought over at most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Throttle:
    """Waits as long as it takes to keep to a rate.

    Args:
        rate: events a second; None for no limit.
    """

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    async def take(self, events: int) -> None:
        """Wait until more may come after so many events."""
        if self._rate is None or not events:
            return
        clock = asyncio.get_running_loop().time
        self._free_at = max(self._free_at, clock()) + events / self._rate
        await asyncio.sleep(self._free_at - clock())

    async def lines(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Blocks of lines at this rate, as a transform of a pipeline."""
        async for block in blocks:
            yield block
            await self.take(block.count(b"\n"))

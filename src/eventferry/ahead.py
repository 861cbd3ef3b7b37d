"""What sorts behind a page, read before it is asked for.

A task of its own reads stretch after stretch in order of their keys, and stops to read when enough of them are at
hand. It does not know what has been read before, nor whether threads fall: whoever takes the stretches checks that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from eventferry.database import EVERYTHING, Key, Reading, Stretch

DEPTH = 4
"""How many stretches are at hand at most."""

_AT_A_TIME = 8
"""How many stretches one reading gives at most, so that it stays short. It ends sooner where enough are at hand: no
reading is open while its reader waits for anything but the database."""


Reader: TypeAlias = Callable[[], AbstractAsyncContextManager[Reading]]
"""Opens a reading."""


class Ahead:
    """Stretches of all events, read from a key on while others are used.

    Args:
        reading: opens a reading.
        bound: the least key; None for no bound.
        left: how many events there are at most.
        limit: how many events a stretch may have.
        max_bytes: about how many bytes of lines.

    Attributes:
        bound: where the first stretch at hand begins.
        hand: the stretches that have been read and not been taken.
    """

    def __init__(
        self,
        reading: Reader,
        bound: Key | None,
        left: int,
        limit: int,
        max_bytes: int,
    ) -> None:
        self.bound = bound
        self.hand: deque[Stretch] = deque()
        self._open = reading
        self._limit = limit
        self._max_bytes = max_bytes
        self._came = asyncio.Event()
        self._taken = asyncio.Event()
        self._task = asyncio.ensure_future(self._read(bound, left))
        self._task.add_done_callback(lambda _: self._came.set())

    async def reach(self, count: int) -> bool:
        """Wait until so many stretches are at hand; False where so many don't come.

        Not inside a reading: where connections are few, this may need that one's. Raises what reading met with, when
        all before that has been taken.
        """
        while len(self.hand) < count and not self._task.done():
            self._came.clear()
            await self._came.wait()
        if not self.hand and not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error
        return len(self.hand) >= count

    def take(self) -> Stretch:
        """The first stretch at hand."""
        stretch = self.hand.popleft()
        if stretch.threads:
            self.bound = stretch.behind
        self._taken.set()
        return stretch

    def stop(self) -> None:
        """Read no more."""
        self._task.cancel()

    async def close(self) -> None:
        """Read no more, and wait until nothing is open; twice is fine."""
        self.stop()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, bound: Key | None, left: int) -> None:
        is_end = False
        while not is_end:
            while len(self.hand) >= DEPTH:
                self._taken.clear()
                await self._taken.wait()
            async with self._open() as reading:
                for _ in range(_AT_A_TIME):
                    stretch = await reading.in_order(
                        bound, None, None, EVERYTHING, min(self._limit, left), self._max_bytes
                    )
                    self.hand.append(stretch)
                    self._came.set()
                    left -= len(stretch.threads)
                    is_end = stretch.is_end or not left
                    bound = stretch.behind if stretch.threads else bound
                    if is_end or len(self.hand) >= DEPTH:
                        break

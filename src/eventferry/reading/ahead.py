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

from eventferry.database import EVERY_EVENT, Key, Reading, Stretch

DEPTH = 12
"""How many stretches are at hand at most."""

_AT_A_TIME = 24
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
        max_bytes: about how many bytes of lines a stretch may have.

    Attributes:
        bound: where the first stretch at hand begins.
        hand: the stretches that have been read and not been taken.
    """

    def __init__(
        self,
        reading: Reader,
        bound: Key | None,
        left: int,
        max_bytes: int,
    ) -> None:
        self.bound = bound
        self.hand: deque[Stretch] = deque()
        self._open = reading
        self._max_bytes = max_bytes
        self._wanted = 0
        self._came = asyncio.Event()
        self._taken = asyncio.Event()
        self._task = asyncio.ensure_future(self._read(bound, left))
        self._task.add_done_callback(lambda _: self._came.set())

    async def reach(self, count: int) -> bool:
        """Wait until so many stretches are at hand; False where so many don't come.

        Not inside a reading: where connections are few, this may need that one's. Raises what reading met with, when
        all before that has been taken.
        """
        self._wanted = count
        while len(self.hand) < count and not self._task.done():
            self._taken.set()
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

    @property
    def _is_enough(self) -> bool:
        """Whether it is not worth while to read yet: many stretches are one question to the database."""
        return len(self.hand) >= max(DEPTH // 2, self._wanted)

    async def _read(self, bound: Key | None, left: int) -> None:
        is_end = False
        given = 0

        def give(stretch: Stretch) -> None:
            nonlocal bound, left, is_end, given
            self.hand.append(stretch)
            self._came.set()
            given += 1
            left -= len(stretch.threads)
            is_end = stretch.is_end or not left
            bound = stretch.behind if stretch.threads else bound

        while not is_end:
            while self._is_enough:
                self._taken.clear()
                await self._taken.wait()
            given = 0
            async with self._open() as reading:
                while not (is_end or self._is_enough or given >= _AT_A_TIME):
                    await reading.read_on(
                        bound, EVERY_EVENT, left, self._max_bytes, DEPTH - len(self.hand), give
                    )

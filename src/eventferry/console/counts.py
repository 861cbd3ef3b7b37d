"""What takes the database long to count is counted once for all who look at it, and kept for some seconds.

One count runs at a time, however many pages ask for one: many readers of a large store leave it to its writers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from eventferry.lifecycle import end_tasks

T = TypeVar("T")

KEPT_SECONDS = 5.0
"""How long a count is shown."""

_MOST_KEPT = 20


class _Count:
    """One count, running or ended.

    Attributes:
        task: counts.
        readers: how many pages wait for it.
        until: up to when it is shown, by the monotonic clock; None while it runs.
    """

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.readers = 0
        self.until: float | None = None

    @property
    def is_good(self) -> bool:
        return self.until is None or time.monotonic() < self.until


class Counts:
    """The counts of a service."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._found: dict[Hashable, _Count] = {}

    async def of(self, what: Hashable, count: Callable[[], Awaitable[T]]) -> T:
        """What `count` gives, or has just given to somebody who asked for the same. It ends when nobody waits for it
        any more."""
        found = self._found.get(what)
        if found is None or not found.is_good:
            found = self._found[what] = _Count(asyncio.create_task(self._run(what, count)))
        found.readers += 1
        try:
            result: T = await asyncio.shield(found.task)
            return result
        finally:
            found.readers -= 1
            if not found.readers and not found.task.done():
                self._forget(what, found)  # who comes now begins anew
                await end_tasks(found.task)

    async def _run(self, what: Hashable, count: Callable[[], Awaitable[T]]) -> T:
        mine = self._found[what]
        try:
            async with self._turn:
                result = await count()
        except BaseException:
            self._forget(what, mine)
            raise
        mine.until = time.monotonic() + KEPT_SECONDS
        ended = [each for each in self._found.items() if each[1].until is not None]
        for place, (key, found) in enumerate(reversed(ended)):
            if place >= _MOST_KEPT or not found.is_good:
                self._forget(key, found)
        return result

    def _forget(self, what: Hashable, count: _Count) -> None:
        if self._found.get(what) is count:
            del self._found[what]

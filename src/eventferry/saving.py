"""Saves that meet go together: one transaction, and one wait for the disk, for all of them.

Nobody waits for others to come. Who finds nothing under way goes at once, alone; what comes meanwhile goes together
when that has ended. So the more clients there are, the more share a transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from eventferry.database import Database, Save, Saved

_MOST = 256
"""Saves in a group."""

_MOST_BYTES = 1024 * 1024
"""Of payloads in a group that is not one large event: it is sent as one."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A save that somebody waits for, and what it is under way in."""

    save: Save
    answer: asyncio.Future[Saved]
    group: _Group | None = None


@dataclass(slots=True, eq=False)
class _Group:
    """Saves under way together."""

    saves: Sequence[_Waiting]
    task: asyncio.Task[None]


class Saving:
    """The saves of one store object.

    Args:
        database: where they go.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[_Waiting] = deque()
        self._under_way = 0

    async def save(self, save: Save) -> Saved:
        """Store one event, together with what else waits. Raises what `Database.save` raises for it alone.

        If the caller is cancelled, a save that still waits is not stored, and one that is under way may be. A group
        is stopped, and its end waited for, when nobody waits for it any more.
        """
        if self._under_way < self._database.groups_at_once:
            self._under_way += 1
            try:
                return await self._alone(save)
            finally:
                self._ended()
        waiting = _Waiting(save, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting.group is not None and all(one.answer.done() for one in waiting.group.saves):
                await _stop(waiting.group.task)
            raise

    def _ended(self, task: asyncio.Task[None] | None = None) -> None:
        """Begin with what waits, in the place of what has ended."""
        self._under_way -= 1
        if saves := self._next():
            self._under_way += 1
            group = _Group(saves, asyncio.get_running_loop().create_task(self._store(saves)))
            group.task.add_done_callback(self._ended)
            for one in saves:
                one.group = group

    def _next(self) -> list[_Waiting]:
        """What waits, in order of arrival, as far as it fits in a group."""
        saves: list[_Waiting] = []
        size = 0
        while self._waiting and len(saves) < _MOST:
            size += len(self._waiting[0].save.event.payload)
            if saves and size > _MOST_BYTES:
                break
            one = self._waiting.popleft()
            if not one.answer.cancelled():
                saves.append(one)
        return saves

    async def _store(self, saves: Sequence[_Waiting]) -> None:
        """Store a group and answer everybody in it: those that were left out alone, after the others."""
        try:
            stored = await self._database.save([one.save for one in saves])
        except asyncio.CancelledError:
            for one in saves:
                one.answer.cancel()
            raise
        except Exception as error:
            for one in saves:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        left_out: list[_Waiting] = []
        for one, saved in zip(saves, stored, strict=True):
            if saved is None:
                left_out.append(one)
            elif not one.answer.done():
                one.answer.set_result(saved)
        for one in left_out:
            if not one.answer.done():
                await self._store([one])

    async def _alone(self, save: Save) -> Saved:
        [saved] = await self._database.save([save])
        assert saved is not None  # noqa: S101 -- only of several one may be left out
        return saved


async def _stop(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end, whatever else is cancelled meanwhile."""
    task.cancel()
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])

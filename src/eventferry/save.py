"""Saves that meet go together: one transaction, and one wait for the disk, for all of them.

Nobody waits for others to come. Who finds nothing under way goes at once, alone; what comes meanwhile goes together
when that has ended. So the more clients there are, the more share a transaction.

A database that can work on two groups at once is given two: while it stores the one, the other is answered and made
anew. Each is then about half of those who save, or all would sit in one of them and nobody be left for the other.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from eventferry.database import Database, Save, Saved
from eventferry.errors import StoreFrozenError
from eventferry.lifecycle import to_the_end
from eventferry.state.owners import writing

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

    Those of one aggregate are stored in the order in which they came: they are never under way in two groups.

    Args:
        database: where they go.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._at_once = database.traits.saves_at_once
        self._waiting: deque[_Waiting] = deque()
        self._groups = 0
        self._count = 0
        self._aggregates: set[str] = set()

    async def save(self, save: Save) -> Saved:
        """Store one event, together with what else waits. Raises what `Database.save` raises for it alone.

        If the caller is cancelled, a save that still waits is not stored, and one that is under way may be. A group
        is stopped, and its end waited for, when nobody waits for it any more.
        """
        if self._is_free and save.event.aggregate_id not in self._aggregates:
            self._began([save])
            try:
                return await self._alone(save)
            finally:
                self._ended([save])
        waiting = _Waiting(save, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting.group is not None and all(one.answer.done() for one in waiting.group.saves):
                waiting.group.task.cancel()
                await to_the_end(_over(waiting.group.task))
            raise

    @property
    def _is_free(self) -> bool:
        """Whether a group can begin. What waits nevertheless is of aggregates that are under way."""
        return self._groups < self._at_once

    def _began(self, saves: Sequence[Save]) -> None:
        self._groups += 1
        self._count += len(saves)
        self._aggregates.update(save.event.aggregate_id for save in saves)

    def _ended(self, saves: Sequence[Save]) -> None:
        """Begin with what waits, in the place of what has ended."""
        self._groups -= 1
        self._count -= len(saves)
        self._aggregates.difference_update(save.event.aggregate_id for save in saves)
        while self._is_free and (group := self._next()):
            self._begin(group)

    def _begin(self, waiting: Sequence[_Waiting]) -> None:
        saves = [one.save for one in waiting]
        self._began(saves)
        group = _Group(waiting, asyncio.get_running_loop().create_task(self._store(waiting)))
        group.task.add_done_callback(lambda _: self._ended(saves))
        for one in waiting:
            one.group = group

    def _next(self) -> list[_Waiting]:
        """What waits, in order of arrival, as far as it fits in a group and is no other's part of the work."""
        group: list[_Waiting] = []
        passed: list[_Waiting] = []
        most = min(_MOST, math.ceil((self._count + len(self._waiting)) / self._at_once))
        size = 0
        while self._waiting and len(group) < most:
            one = self._waiting.popleft()
            if one.answer.cancelled():
                continue
            if one.save.event.aggregate_id in self._aggregates:
                passed.append(one)
                continue
            size += len(one.save.event.payload)
            if group and size > _MOST_BYTES:
                passed.append(one)
                break
            group.append(one)
        self._waiting.extendleft(reversed(passed))
        return group

    async def _store(self, saves: Sequence[_Waiting]) -> None:
        """Store a group and answer everybody in it: those that were left out alone, after the others."""
        try:
            stored = await self._saved([one.save for one in saves])
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
        [saved] = await self._saved([save])
        assert saved is not None  # noqa: S101 -- only of several one may be left out
        return saved

    async def _saved(self, saves: Sequence[Save]) -> Sequence[Saved | None]:
        while True:
            try:
                return await self._database.save(saves)
            except StoreFrozenError:
                async with writing(self._database):  # refuses, unless the freeze was a dead owner's
                    pass


async def _over(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])

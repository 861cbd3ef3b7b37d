"""Groups: what callers want stored at the same time shares a transaction, and its wait for the disk.

Nothing waits for others to arrive. If nothing is under way, a unit is stored at once, alone. Those that arrive
meanwhile are stored together when it has ended. So the more clients there are, the more share a transaction.

A database that can store two groups at once gets two: while it stores one, the callers of the other get their answers
and send their next units. A group then takes about half of those that wait; otherwise one group would take them all.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from eventferry.lifecycle import end_with_loop, stop_without_loop, to_the_end

U = TypeVar("U")
R = TypeVar("R")

_MOST = 256  # units in a group
MOST_BYTES = 1024 * 1024  # bytes of payloads in a group of more than one unit: a group is sent in one piece

Store: TypeAlias = Callable[[Sequence[U]], Awaitable[Sequence[R | Exception | None]]]
"""Stores units in one transaction: for each what came of it, or why it was refused, or None where it is to come again
alone. Raises for all of them."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[U, R]):
    """A unit, its caller's answer, and the group in which it is being stored."""

    unit: U
    answer: asyncio.Future[R]
    group: _Group[U, R] | None = None


@dataclass(slots=True, eq=False)
class _Group(Generic[U, R]):
    units: Sequence[_Waiting[U, R]]
    task: asyncio.Task[None]


class Groups(Generic[U, R]):
    """What waits to be stored in one store object. Units of one aggregate are taken in the order of the calls: they are
    never in two groups at once.

    Args:
        at_once: how many groups are stored at the same time.
        store: stores a group.
        aggregates: those of a unit.
        size: of a unit, in bytes of payload.
    """

    def __init__(
        self,
        at_once: int,
        store: Store[U, R],
        aggregates: Callable[[U], Collection[str]],
        size: Callable[[U], int],
    ) -> None:
        self._at_once = at_once
        self._store = store
        self._aggregates_of = aggregates
        self._size_of = size
        self._waiting: deque[_Waiting[U, R]] = deque()
        self._groups = 0
        self._count = 0
        self._aggregates: set[str] = set()

    async def add(self, unit: U) -> R:
        """Store one unit, together with others that wait. If the caller is cancelled, a unit that still waits is not
        stored; one that is being stored may be. When all callers of a group are cancelled, so is the group, and its end
        is waited for."""
        if self._is_free and self._aggregates.isdisjoint(self._aggregates_of(unit)):
            self._began([unit])
            try:
                [stored] = await self._store([unit])
                return _answered(stored)
            finally:
                self._ended([unit])
        waiting: _Waiting[U, R] = _Waiting(unit, asyncio.get_running_loop().create_future())
        end_with_loop(self)
        self._waiting.append(waiting)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting.group is not None and all(one.answer.done() for one in waiting.group.units):
                waiting.group.task.cancel()
                await to_the_end(asyncio.wait([waiting.group.task]))
            raise

    def abandon(self) -> None:
        """Forget what waits in a loop that was closed. Its callers hold on to what they were doing, such as a
        connection in the making."""
        self._waiting = deque(one for one in self._waiting if not one.answer.get_loop().is_closed())

    @property
    def _is_free(self) -> bool:
        """Whether another group can begin. Units that wait all the same are of aggregates that are being stored."""
        return self._groups < self._at_once

    def _began(self, units: Sequence[U]) -> None:
        self._groups += 1
        self._count += len(units)
        for unit in units:
            self._aggregates.update(self._aggregates_of(unit))

    def _ended(self, units: Sequence[U]) -> None:
        """A group has ended: begin the next ones."""
        self._groups -= 1
        self._count -= len(units)
        for unit in units:
            self._aggregates.difference_update(self._aggregates_of(unit))
        if self._waiting:
            stop_without_loop()
        while self._waiting and self._is_free and (group := self._next()):
            self._begin(group)

    def _begin(self, waiting: Sequence[_Waiting[U, R]]) -> None:
        units = [one.unit for one in waiting]
        self._began(units)
        group = _Group(waiting, asyncio.get_running_loop().create_task(self._answer(waiting)))
        group.task.add_done_callback(lambda _: self._ended(units))
        for one in waiting:
            one.group = group

    def _next(self) -> list[_Waiting[U, R]]:
        """The next group: what waits, in order of arrival, without units of aggregates that are being stored."""
        group: list[_Waiting[U, R]] = []
        passed: list[_Waiting[U, R]] = []
        most = min(_MOST, math.ceil((self._count + len(self._waiting)) / self._at_once))
        size = 0
        while self._waiting and len(group) < most:
            one = self._waiting.popleft()
            if one.answer.cancelled():
                continue
            if not self._aggregates.isdisjoint(self._aggregates_of(one.unit)):
                passed.append(one)
                continue
            size += self._size_of(one.unit)
            if group and size > MOST_BYTES:
                passed.append(one)
                break
            group.append(one)
        self._waiting.extendleft(reversed(passed))
        return group

    async def _answer(self, units: Sequence[_Waiting[U, R]]) -> None:
        """Store a group and answer its callers. Units that are to come again are stored one by one afterwards."""
        try:
            stored = await self._store([one.unit for one in units])
        except asyncio.CancelledError:
            for one in units:
                one.answer.cancel()
            raise
        except Exception as error:
            stored = [error] * len(units)
        again: list[_Waiting[U, R]] = []
        for one, found in zip(units, stored, strict=True):
            if found is None:
                again.append(one)
            elif not one.answer.done():
                if isinstance(found, Exception):
                    one.answer.set_exception(found)
                else:
                    one.answer.set_result(found)
        for one in again:
            if not one.answer.done():
                await self._answer([one])


def _answered(stored: R | Exception | None) -> R:
    if isinstance(stored, Exception):
        raise stored
    assert stored is not None  # noqa: S101 -- only of several one comes again
    return stored

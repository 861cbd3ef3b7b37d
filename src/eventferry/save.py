"""Saves are grouped: concurrent ones share a transaction, and its wait for the disk.

A save never waits for others to arrive. If nothing is under way, it is stored at once, alone. Those that arrive
meanwhile are stored together when it has ended. So the more clients there are, the more share a transaction.

A database that can store two groups at once gets two: while it stores one, the callers of the other get their answers
and send their next saves. A group then takes about half of the saves; otherwise one group would take them all.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from eventferry import cursor
from eventferry.clock import now
from eventferry.database import Database, Save, Saved
from eventferry.errors import StoreFrozenError
from eventferry.lifecycle import to_the_end
from eventferry.lines.converting import versioned_row
from eventferry.lines.event import Event, EventInput, NewRow
from eventferry.lines.payload import LARGE, decode_payload, is_large
from eventferry.results import SavedEvent
from eventferry.state.owners import writing

_MOST = 256  # saves in a group
_MOST_BYTES = 1024 * 1024  # bytes of payloads in a group of more than one event: a group is sent in one piece


@dataclass(slots=True, eq=False)
class _Waiting:
    """A save, its caller's answer, and the group in which it is being stored."""

    save: Save
    answer: asyncio.Future[Saved]
    group: _Group | None = None


@dataclass(slots=True, eq=False)
class _Group:
    saves: Sequence[_Waiting]
    task: asyncio.Task[None]


class Saving:
    """The saves of one store object. Those of one aggregate are stored in the order of the calls: they are never in
    two groups at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._at_once = database.traits.saves_at_once
        self._waiting: deque[_Waiting] = deque()
        self._groups = 0
        self._count = 0
        self._aggregates: set[str] = set()
        self._checking = asyncio.Lock()

    async def save_event(self, event: EventInput) -> SavedEvent:
        """Check an event and store it."""
        row, version = await self._checked(event)
        saved = await self.save_row(row, version)
        decode = partial(decode_payload, row.payload)
        payload = decode() if len(row.payload) < LARGE else await asyncio.to_thread(decode)
        return SavedEvent(msgspec.structs.replace(saved.event, payload=payload), saved.cursor)

    async def save_row(self, row: NewRow, version: int) -> SavedEvent:
        """Store an event that is a row. In the result, the payload is `msgspec.Raw`: the JSON text as stored."""
        row = row._replace(timestamp=max(now(), row.timestamp))
        saved = await self.save(Save(row, version))
        stored = Event(
            thread_counter=saved.thread_counter,
            thread_id=saved.thread_id,
            type=row.type,
            timestamp=row.timestamp,
            aggregate_id=row.aggregate_id,
            aggregate_version=version,
            payload=msgspec.Raw(row.payload),
        )
        return SavedEvent(stored, cursor.encode(saved.heads))

    async def _checked(self, event: EventInput) -> tuple[NewRow, int]:
        """The row and the version of an event. A large event is checked in a worker thread, so as not to block the
        event loop; later events wait for it, since events are stored in the order of the calls."""
        payload = event.get("payload") if isinstance(event, Mapping) else getattr(event, "payload", None)
        large = is_large(payload)
        if not large and not self._checking.locked():
            return versioned_row(event)
        async with self._checking:
            return await asyncio.to_thread(versioned_row, event) if large else versioned_row(event)

    async def save(self, save: Save) -> Saved:
        """Store one event, together with others that wait. Raises what `Database.save` raises for it alone. If the
        caller is cancelled, a save that still waits is not stored; one that is being stored may be. When all callers
        of a group are cancelled, so is the group, and its end is waited for."""
        if self._is_free and save.event.aggregate_id not in self._aggregates:
            self._began([save])
            try:
                [saved] = await self._saved([save])
                assert saved is not None  # noqa: S101 -- only of several one may be left out
                return saved
            finally:
                self._ended([save])
        waiting = _Waiting(save, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting.group is not None and all(one.answer.done() for one in waiting.group.saves):
                waiting.group.task.cancel()
                await to_the_end(asyncio.wait([waiting.group.task]))
            raise

    @property
    def _is_free(self) -> bool:
        """Whether another group can begin. Saves that wait all the same are of aggregates that are being saved."""
        return self._groups < self._at_once

    def _began(self, saves: Sequence[Save]) -> None:
        self._groups += 1
        self._count += len(saves)
        self._aggregates.update(save.event.aggregate_id for save in saves)

    def _ended(self, saves: Sequence[Save]) -> None:
        """A group has ended: begin the next ones."""
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
        """The next group: waiting saves in order of arrival, without those of aggregates that are being saved."""
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
        """Store a group and answer its callers. Saves that the database left out are stored one by one afterwards."""
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

    async def _saved(self, saves: Sequence[Save]) -> Sequence[Saved | None]:
        while True:
            try:
                return await self._database.save(saves)
            except StoreFrozenError:
                async with writing(self._database):  # refuses, unless the freeze was a dead owner's
                    pass


def words_for(saves: Sequence[Save]) -> str:
    """The beginning of a sentence about saves: which they are."""
    (event, version), *others = saves
    first = f"version {version} of {event.aggregate_id!r}"
    return f"{first} and {len(others)} others were" if others else f"{first} was"

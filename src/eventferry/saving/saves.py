"""Saves: events whose versions are known, mostly one at a time. Concurrent ones share a transaction (`groups`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from eventferry.clock import now
from eventferry.database import Database, OvertakenError, Save, Saved
from eventferry.errors import ConcurrentError, StoreFrozenError, VersionGapError
from eventferry.lines.converting import versioned_row
from eventferry.lines.event import Event, EventInput, NewRow
from eventferry.lines.payload import is_large
from eventferry.reading.questions import last_version
from eventferry.results import SavedEvent
from eventferry.saving.groups import Groups
from eventferry.state.owners import writing


class Saving:
    """The saves of one store object. Those of one aggregate are stored in the order of the calls."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._groups: Groups[Save, Saved] = Groups(
            database.traits.saves_at_once,
            self._store,
            lambda save: (save.aggregate_id,),
            lambda save: sum(len(event.payload) for event in save.events),
        )
        self._checking = asyncio.Lock()

    async def save_event(self, event: EventInput, *, allow_gaps: bool) -> SavedEvent:
        """Check an event and store it."""
        row, version = await self._checked(event)
        return await self.save_row(row, version, allow_gaps=allow_gaps)

    async def save_row(self, row: NewRow, version: int, *, allow_gaps: bool) -> SavedEvent:
        """Store an event that is a row."""
        row = NewRow(max(now(), row.timestamp), row.aggregate_id, row.type, row.payload)
        save = Save([row], version, is_next=not allow_gaps)
        try:
            saved = await self._groups.add(save)
        except ConcurrentError:
            if allow_gaps:
                raise
            await self._refuse(row.aggregate_id, version)
            # Somebody has stored the version before it in the meantime.
            saved = await self._groups.add(save)
        stored = Event(
            thread_counter=saved.thread_counter,
            thread_id=saved.thread_id,
            type=row.type,
            timestamp=row.timestamp,
            aggregate_id=row.aggregate_id,
            aggregate_version=version,
            payload=msgspec.Raw(row.payload),
        )
        return SavedEvent(stored, saved.heads)

    async def save_next(self, rows: Sequence[NewRow], version: int) -> Saved:
        """Store events, which share their final timestamp, as the next ones of their aggregate, of which the first has
        this version. Raises ConcurrentError where that is not the next, and what else a save may raise."""
        return await self._groups.add(Save(rows, version, is_next=True))

    async def _refuse(self, aggregate_id: str, version: int) -> None:
        """Raises what is wrong with a version that was not the next. Does nothing if it is the next by now."""
        async with self._database.reading() as reading:
            last = await last_version(reading, aggregate_id)
            is_taken = last >= version and await last_version(reading, aggregate_id, version) == version
        if last >= version:
            raise ConcurrentError(aggregate_id, version, None if is_taken else last) from None
        if last < version - 1:
            raise VersionGapError(aggregate_id, version, last) from None

    async def _checked(self, event: EventInput) -> tuple[NewRow, int]:
        """The row and the version of an event. A large event is checked in a worker thread, so as not to block the
        event loop; later events wait for it, since events are stored in the order of the calls."""
        payload = event.get("payload") if isinstance(event, Mapping) else getattr(event, "payload", None)
        large = is_large(payload)
        if not large and not self._checking.locked():
            return versioned_row(event)
        async with self._checking:
            return await asyncio.to_thread(versioned_row, event) if large else versioned_row(event)

    async def _store(self, saves: Sequence[Save]) -> Sequence[Saved | None]:
        while True:
            try:
                return await self._database.save(saves)
            except StoreFrozenError:
                with contextlib.suppress(OvertakenError):
                    async with writing(self._database):  # refuses, unless the freeze was a dead owner's
                        pass


def words_for(saves: Sequence[Save]) -> str:
    """The beginning of a sentence about saves: which they are."""
    save, *others = saves
    first = f"version {save.version} of {save.aggregate_id!r}"
    return f"{first} and {len(others)} others were" if others else f"{first} was"

"""The history of one aggregate: its events, and what each changed."""

from __future__ import annotations

import msgspec

from eventferry.database import Database
from eventferry.lines.damaged import DamagedEvent, seen_event
from eventferry.lines.event import Event
from eventferry.looking.differences import Change, changes_between
from eventferry.reading import histories
from eventferry.reading.loading import PAGE_BYTES

_BEFORE = 100
"""Versions before a page in which it is looked for an event of the same type."""


class HistoryEntry(msgspec.Struct, frozen=True, rename="camel"):
    """An event in the history of its aggregate.

    Attributes:
        event: the event.
        against: the version of the event of the same type before it, with which it is compared; None if there is none
            close before.
        changes: what differs between the payloads of the two.
    """

    event: Event
    against: int | None
    changes: list[Change]


class History(msgspec.Struct, frozen=True, rename="camel"):
    """A page of the history of an aggregate.

    Attributes:
        entries: in the order of the versions.
        next_version: where the next page begins; None if there is none.
    """

    entries: list[HistoryEntry]
    next_version: int | None


async def history(database: Database, aggregate_id: str, from_version: int, limit: int) -> History:
    """The history from a version on."""
    last: dict[str, Event] = {}
    if from_version > 1:
        begin = max(from_version - _BEFORE, 1)
        lines, behind = await histories.of_aggregate(database, aggregate_id, begin, _BEFORE, PAGE_BYTES)
        if behind is None or behind >= from_version:  # otherwise they are too large to look at all of them
            last = {
                event.type: event
                for event in map(seen_event, lines)
                if event.aggregate_version < from_version and not isinstance(event, DamagedEvent)
            }
    lines, next_version = await histories.of_aggregate(
        database, aggregate_id, from_version, limit, PAGE_BYTES
    )
    entries: list[HistoryEntry] = []
    for event in map(seen_event, lines):
        entries.append(_entry(event, last.get(event.type)))
        if not isinstance(event, DamagedEvent):
            last[event.type] = event
    return History(entries, next_version)


def _entry(event: Event, before: Event | None) -> HistoryEntry:
    if before is None or isinstance(event, DamagedEvent):
        return HistoryEntry(event, None, [])
    return HistoryEntry(event, before.aggregate_version, changes_between(before.payload, event.payload))

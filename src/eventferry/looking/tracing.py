"""Tracing: the events that belong together by their metadata, and which caused which."""

from __future__ import annotations

from typing import Any

import msgspec

from eventferry.database import Database, Filter
from eventferry.errors import InputError, UsageError
from eventferry.lines.event import Event
from eventferry.lines.metadata import CAUSATION, CORRELATION, EventMetadata, metadata_of
from eventferry.looking.searching import Needle, search


class TracedEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event of a trace.

    Attributes:
        event: the event.
        id: its own; None where it has none.
        causation_id: the id of what caused it; None where that is not known.
    """

    event: Event
    id: str | None
    causation_id: str | None


class Trace(msgspec.Struct, frozen=True, rename="camel"):
    """The events that belong to a correlation.

    Attributes:
        events: in order.
        cursor, scanned, is_end: as in a `SearchPage`.
    """

    events: list[TracedEvent]
    cursor: str
    scanned: int
    is_end: bool


class Belonging:
    """Events whose correlation is this one, and those that have it as their own id or as that of their cause."""

    def __init__(self, correlation: str) -> None:
        if not isinstance(correlation, str) or not correlation:
            raise UsageError(f"correlation must be a string that is not empty, not {correlation!r:.100}")
        self._correlation = correlation
        self.needles = [Needle(correlation)]

    def matches(self, event: Event) -> bool:
        """Whether an event is one."""
        known = _known(event)
        return known is not None and self._correlation in (
            known.id,
            _member(known.metadata, CORRELATION),
            _member(known.metadata, CAUSATION),
        )


async def trace(
    database: Database, correlation: str, only: Filter, cursor: str | None, limit: int, scan: int
) -> Trace:
    """The next events of a correlation from a cursor on, at most `limit`, among the next `scan`."""
    page = await search(database, Belonging(correlation), only, cursor, limit, scan)
    return Trace(list(map(traced, page.events)), page.cursor, page.scanned, page.is_end)


def by_cause(events: list[TracedEvent]) -> list[tuple[int, TracedEvent]]:
    """The events of a trace with how deep each stands below the first cause, each behind its cause. What causes itself,
    or whose cause is not among them, stands at the top."""
    ids = {event.id for event in events if event.id is not None}
    caused: dict[str, list[TracedEvent]] = {}
    top: list[TracedEvent] = []
    for event in events:
        if event.causation_id in ids and event.causation_id is not None and event.causation_id != event.id:
            caused.setdefault(event.causation_id, []).append(event)
        else:
            top.append(event)
    told: list[tuple[int, TracedEvent]] = []
    waiting = [(0, event) for event in reversed(top)]
    while waiting or caused:
        if not waiting:  # a circle, which only a mistake makes
            waiting = [(0, event) for event in reversed(caused.pop(next(iter(caused))))]
        depth, event = waiting.pop()
        told.append((depth, event))
        effects = caused.pop(event.id, []) if event.id is not None else []
        waiting += [(depth + 1, effect) for effect in reversed(effects)]
    return told


def traced(event: Event) -> TracedEvent:
    """An event with what its metadata say of where it belongs."""
    known = _known(event)
    if known is None:
        return TracedEvent(event, None, None)
    return TracedEvent(event, known.id, _member(known.metadata, CAUSATION))


def _known(event: Event) -> EventMetadata | None:
    try:
        return metadata_of(event)
    except InputError:  # not one of ours: it cannot be read
        return None


def _member(metadata: Any, key: str) -> str | None:
    """A member by its key, as other products spell it too: `$correlationId`, `correlation_id`."""
    if not isinstance(metadata, dict):
        return None
    for name, value in metadata.items():
        if isinstance(value, str) and "".join(filter(str.isalnum, name)).lower() == key:
            return value
    return None

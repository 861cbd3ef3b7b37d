"""What a preview tells of events: the first ones, how many of each type, and from when to when they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from eventferry.lines.event import Event, Row
from eventferry.lines.payload import decode_payload

_SHOWN = 3
"""Events that a preview shows."""

_TYPES = 1_000
"""Types that a preview counts one by one."""


class Seen:
    """Notes events as they pass."""

    def __init__(self) -> None:
        self._first: list[Event] = []
        self._types: Counter[str] = Counter()
        self._times: list[int] = []

    def note(self, found: Sequence[Event] | Sequence[Row]) -> None:
        """The next events. Of rows only what an event is without its place is shown."""
        for each in found[: _SHOWN - len(self._first)]:
            self._first.append(each if isinstance(each, Event) else _event(each))
        for each in found:
            self._types[each.type if each.type in self._types or len(self._types) < _TYPES else "…"] += 1
        if found:
            moments = [*self._times, *(each.timestamp for each in found)]
            self._times = [min(moments), max(moments)]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields `first`, `events`, `types`, `first_time` and `last_time` of a preview."""
        first_time, last_time = self._times or (None, None)
        return {
            "first": self._first,
            "events": self._types.total(),
            "types": dict(self._types.most_common()),
            "first_time": first_time,
            "last_time": last_time,
        }


def _event(row: Row) -> Event:
    return Event(
        type=row.type,
        timestamp=row.timestamp,
        aggregate_id=row.aggregate_id,
        payload=decode_payload(row.payload),
    )

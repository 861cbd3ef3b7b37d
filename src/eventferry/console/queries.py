"""Which events a page is about: fields of a form, which stand in the page's address."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from eventferry.clock import iso, milliseconds_of
from eventferry.errors import UsageError
from eventferry.http.handling import Query
from eventferry.lines.limits import MAX_SAFE_INTEGER


class EventQuery(Query, kw_only=True):
    """Which events. What is empty, as a form sends it, selects nothing.

    Attributes:
        type, aggregate_id, aggregate_prefix: as the store's methods take them.
    """

    type: str = ""
    aggregate_id: str = ""
    aggregate_prefix: str = ""

    def arguments(self) -> dict[str, Any]:
        """The same as arguments of the store's methods."""
        return {
            "event_types": [self.type] if self.type else None,
            "aggregate_ids": [self.aggregate_id] if self.aggregate_id else None,
            "aggregate_prefixes": [self.aggregate_prefix] if self.aggregate_prefix else None,
        }

    def parameters(self, **others: Any) -> dict[str, Any]:
        """The same as parameters of a page, and others."""
        given = {
            "type": self.type,
            "aggregateId": self.aggregate_id,
            "aggregatePrefix": self.aggregate_prefix,
        }
        return {name: value for name, value in (given | others).items() if value not in ("", None)}


class Period(EventQuery, kw_only=True):
    """Which events, and of which time.

    Attributes:
        start_time, finish_time: in ms since 1970, or as a form sends a time, in UTC.
    """

    start_time: str = ""
    finish_time: str = ""

    def arguments(self) -> dict[str, Any]:
        """The same as arguments of the store's methods. Raises UsageError."""
        start, finish = milliseconds(self.start_time, up=True), milliseconds(self.finish_time)
        times = {"start_time": start, "finish_time": finish}
        return EventQuery.arguments(self) | times

    def parameters(self, **others: Any) -> dict[str, Any]:
        """The same as parameters of a page, and others."""
        return EventQuery.parameters(
            self, **{"startTime": self.start_time, "finishTime": self.finish_time} | others
        )


def milliseconds(text: str, *, up: bool = False) -> int | None:
    """A time of an address, in ms since 1970, rounded up or down; None if it is empty. Raises UsageError."""
    if not text:
        return None
    try:
        if text.lstrip("-").isdecimal():
            found = int(text)
        else:
            when = datetime.fromisoformat(text)
            found = milliseconds_of(when if when.tzinfo else when.replace(tzinfo=UTC), text, up=up)
    except (ValueError, OverflowError):
        found = MAX_SAFE_INTEGER + 1
    if abs(found) > MAX_SAFE_INTEGER:
        raise UsageError(
            f"a time is written as 2024-05-31T23:59:59 (UTC), or in milliseconds since 1970, not {text!r:.60}"
        )
    return found


def as_field(text: str) -> str:
    """A time of an address as a form shows it; nothing where the form cannot."""
    try:
        found = milliseconds(text)
        return "" if found is None else iso(found)
    except (UsageError, OverflowError):
        return ""

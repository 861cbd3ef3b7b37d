"""Checks of the arguments of a store's methods. Each raises UsageError with the name of the argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, TypedDict

from eventferry.database import Filter
from eventferry.errors import UsageError
from eventferry.lines.limits import MAX_SAFE_INTEGER
from eventferry.lines.payload import plain_text
from eventferry.reading.maintenance import MaintenanceMode

ArchivedAs: TypeAlias = Literal["marker", "skip"]
"""What readers get of events whose payloads are in an archive: the marker in its place, or nothing."""


class Kinds(TypedDict, total=False):
    """Which events are meant, whenever they happened: arguments of many methods.

    Attributes:
        event_types: only events of these types. An empty list matches nothing.
        exclude_types: no events of these types, whatever else is said.
        aggregate_ids: only events of these aggregates, likewise.
        aggregate_prefixes: events of aggregates whose id begins with one of these too. Without `aggregate_ids`, only
            those.
    """

    event_types: Iterable[str] | None
    exclude_types: Iterable[str] | None
    aggregate_ids: Iterable[str] | None
    aggregate_prefixes: Iterable[str] | None


class Filters(Kinds, total=False):
    """Which events are meant, by their kind and by their time.

    Attributes:
        start_time: only events at or after this timestamp, in ms since 1970.
        finish_time: only events at or before this timestamp.
    """

    start_time: int | None
    finish_time: int | None


def check_integer(name: str, value: int | None, least: int, *, optional: bool = False) -> None:
    """Refuse what is not an integer of at least `least`; None is fine if it is optional."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be an integer of at least {least}, not {value!r}")


def text(name: str, value: str) -> str:
    """A string that a database can hold."""
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a string, not {type(value).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{name} contains a lone surrogate, which is not a character")
    return plain_text(value)


def texts(name: str, values: Iterable[str]) -> tuple[str, ...]:
    """Such strings, from any iterable but a string."""
    if isinstance(values, str):
        raise UsageError(f"{name} must be a list of strings, not a string")
    try:
        found = tuple(values)
    except TypeError:
        raise UsageError(f"{name} must be a list of strings, not {values!r}") from None
    return tuple(text(f"each element of {name}", value) for value in found)


def check_mode(mode: MaintenanceMode) -> None:
    """Refuse what is not a maintenance mode."""
    if not isinstance(mode, MaintenanceMode):
        raise UsageError(f"maintenance_mode must be AUTO or MANUAL, not {mode!r}")


def filter_of(
    event_types: Iterable[str] | None = None,
    aggregate_ids: Iterable[str] | None = None,
    start_time: int | None = None,
    finish_time: int | None = None,
    *,
    exclude_types: Iterable[str] | None = None,
    aggregate_prefixes: Iterable[str] | None = None,
    archived: ArchivedAs = "marker",
) -> Filter:
    """The filter for the arguments of a call."""
    for name, moment in (("start_time", start_time), ("finish_time", finish_time)):
        if moment is not None and (isinstance(moment, bool) or not isinstance(moment, int)):
            raise UsageError(f"{name} must be an integer, in milliseconds since 1970, not {moment!r}")
        if moment is not None and abs(moment) > MAX_SAFE_INTEGER:
            raise UsageError(f"{name} must be from -{MAX_SAFE_INTEGER} to {MAX_SAFE_INTEGER}")
    if start_time is not None and finish_time is not None and start_time > finish_time:
        raise UsageError("start_time is later than finish_time")
    if archived not in ("marker", "skip"):
        raise UsageError(f"archived is marker or skip, not {archived!r}")
    prefixes = None if aggregate_prefixes is None else texts("aggregate_prefixes", aggregate_prefixes)
    if prefixes and "" in prefixes:
        raise UsageError("aggregate_prefixes contains an empty string, with which every aggregate begins")
    return Filter(
        None if event_types is None else texts("event_types", event_types),
        None if aggregate_ids is None else texts("aggregate_ids", aggregate_ids),
        start_time,
        finish_time,
        () if exclude_types is None else texts("exclude_types", exclude_types),
        prefixes,
        archived == "skip",
    )


def filter_of_kinds(
    *,
    event_types: Iterable[str] | None = None,
    exclude_types: Iterable[str] | None = None,
    aggregate_ids: Iterable[str] | None = None,
    aggregate_prefixes: Iterable[str] | None = None,
    archived: ArchivedAs = "marker",
) -> Filter:
    """The same where there are no times."""
    return filter_of(
        event_types,
        aggregate_ids,
        exclude_types=exclude_types,
        aggregate_prefixes=aggregate_prefixes,
        archived=archived,
    )

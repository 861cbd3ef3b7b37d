"""Events given as dicts or `Event` objects become rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from eventferry.errors import InputError
from eventferry.lines.event import KEYS, Event, EventInput, NewRow
from eventferry.lines.limits import (
    ROOMY,
    ColumnLimits,
    Name,
    Timestamp,
    Version,
    check_appended,
    check_limits,
    check_text,
)
from eventferry.lines.marker import refuse_marker
from eventferry.lines.payload import encode_payload, plain_text
from eventferry.lines.refusal import fault_in, refused


class _NewEvent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    type: Name
    timestamp: Timestamp
    aggregate_id: Name
    payload: Any = None
    thread_counter: Any = None
    thread_id: Any = None
    aggregate_version: Any = None


class _LenientNewEvent(_NewEvent, forbid_unknown_fields=False):
    pass


class _SavedEvent(_NewEvent, kw_only=True):
    timestamp: Timestamp = 0
    aggregate_version: Version


class _AppendedEvent(_NewEvent, kw_only=True):
    timestamp: Timestamp = 0
    aggregate_id: Name | None = None  # type: ignore[assignment]


def _converted(event: EventInput, shape: type[_NewEvent]) -> _NewEvent:
    if isinstance(event, Event):
        event = {key: getattr(event, field) for field, key in KEYS.items()}
    elif not isinstance(event, Mapping):
        raise InputError(f"an event is a dict or an Event, not {type(event).__name__}")
    try:
        return msgspec.convert(event if type(event) is dict else dict(event), shape)
    except (msgspec.ValidationError, TypeError):
        pass
    plain = _of_plain_classes(event)
    try:
        return msgspec.convert(plain, shape)
    except msgspec.ValidationError:
        fault = fault_in(plain, shape)
        if fault is None:
            raise
        raise refused(fault, may_ignore=shape is _NewEvent) from None


def _of_plain_classes(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event whose strings and whole numbers are just that, also where they came as something derived."""
    plain: dict[str, Any] = {}
    for key, value in event.items():
        if not isinstance(key, str):
            raise InputError(f"the key {key!r:.100} is not a string")
        if isinstance(value, str):
            value = plain_text(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            value = int.__int__(value)
        plain[plain_text(key)] = value
    return plain


def _checked(new: _NewEvent, limits: ColumnLimits) -> NewRow:
    check_text("aggregateId", new.aggregate_id)
    check_text("type", new.type)
    payload = encode_payload(new.payload)
    refuse_marker(payload)
    check_limits(limits, new.aggregate_id, new.type, payload)
    return NewRow(new.timestamp, new.aggregate_id, new.type, payload)


def new_row(event: EventInput, limits: ColumnLimits = ROOMY, *, ignore_unknown_keys: bool = False) -> NewRow:
    """The row of an event given as a dict or `Event`; position and version are ignored."""
    return _checked(_converted(event, _LenientNewEvent if ignore_unknown_keys else _NewEvent), limits)


def versioned_row(event: EventInput) -> tuple[NewRow, int]:
    """The row and the version of an event that is about to be saved; timestamp is 0 where none is given. Whether the
    store's columns can hold it is checked in the transaction that saves it."""
    new = _converted(event, _SavedEvent)
    return _checked(new, ROOMY), new.aggregate_version


def appended_row(event: EventInput, aggregate_id: str) -> NewRow:
    """The row of an event that is about to be appended to an aggregate, whose id is checked; timestamp is 0 where none
    is given. A position is ignored, as by a save; a version is refused, for it follows from what is stored."""
    new = _converted(event, _AppendedEvent)
    check_appended(new.aggregate_id, new.aggregate_version, aggregate_id)
    new.aggregate_id = aggregate_id
    return _checked(new, ROOMY)

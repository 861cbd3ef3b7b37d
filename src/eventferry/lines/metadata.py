"""Metadata of events: read from their payloads, and put there, without another column.

A payload with metadata is the envelope (`envelope`), as a foreign source makes it: what other products know of an event
and what an application says of its own stand in the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import uuid4

import msgspec

from eventferry.errors import InputError, UsageError
from eventferry.lines.envelope import SafeInteger
from eventferry.lines.event import Event
from eventferry.lines.refusal import fault_in

E = TypeVar("E", Event, dict[str, Any])

CORRELATION, CAUSATION = "correlationid", "causationid"
"""The keys of these in the metadata, as CloudEvents spells them."""


class EventMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of an event beside its data; each is None where it is not known.

    Attributes:
        id: its own.
        position: in the source that it came from.
        version: likewise.
        time: likewise, in ISO 8601, more precise than the timestamp.
        metadata: any JSON value, mostly a dict.
    """

    id: str | None
    position: SafeInteger | None
    version: SafeInteger | None
    time: str | None
    metadata: Any

    @property
    def correlation_id(self) -> str | None:
        """What the event belongs to: `correlationid` of the metadata."""
        return self._text(CORRELATION)

    @property
    def causation_id(self) -> str | None:
        """The id of the event or command that caused it: `causationid` of the metadata."""
        return self._text(CAUSATION)

    def _text(self, key: str) -> str | None:
        found = self.metadata.get(key) if isinstance(self.metadata, dict) else None
        return found if isinstance(found, str) else None


_NONE = EventMetadata(None, None, None, None, None)


def metadata_of(event: Event | Mapping[str, Any]) -> EventMetadata:
    """What is known of an event beside its data. Raises InputError if its payload is an envelope with something in it
    that is not what it must be."""
    envelope = _envelope(event)
    if envelope is None:
        return _NONE
    try:
        return msgspec.convert(envelope["meta"], EventMetadata)
    except msgspec.ValidationError:
        fault = fault_in(envelope["meta"], EventMetadata)
        if fault is None:
            raise
        raise InputError(f"meta.{fault.field} {fault.reason}", field="payload") from None


def data_of(event: Event | Mapping[str, Any]) -> Any:
    """The data of an event: its payload, without the metadata if it has some."""
    envelope = _envelope(event)
    return _payload(event) if envelope is None else envelope["data"]


def with_metadata(
    event: E,
    *,
    id: str | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> E:
    """The event with metadata in its payload, for any method that takes events. What it has already stays, unless it is
    given anew.

    Args:
        event: an `Event` or a dict; it is not changed.
        id: of the event; by default a new UUID, if it has none.
        correlation_id: what the event belongs to.
        causation_id: the id of the event or command that caused it.
        metadata: further keys and their JSON values.

    Raises:
        UsageError: an id is not a string, or empty.
        InputError: the event has metadata that is not an object.
    """
    ids = {"id": id, "correlation_id": correlation_id, "causation_id": causation_id}
    for name, value in ids.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise UsageError(f"{name} must be a string that is not empty, not {value!r:.100}")
    known = metadata_of(event)
    if known.metadata is not None and not isinstance(known.metadata, dict):
        raise InputError("meta.metadata is not an object, so nothing can be added to it", field="payload")
    members = {**(known.metadata or {}), **(metadata or {})}
    members |= {
        key: value
        for key, value in ((CORRELATION, correlation_id), (CAUSATION, causation_id))
        if value is not None
    }
    meta = {
        "id": id or known.id or str(uuid4()),
        "position": known.position,
        "version": known.version,
        "time": known.time,
        "metadata": members,
    }
    payload = {"data": data_of(event), "meta": meta}
    if isinstance(event, Event):
        return msgspec.structs.replace(event, payload=payload)
    return {**event, "payload": payload}


def _payload(event: Event | Mapping[str, Any]) -> Any:
    return event.payload if isinstance(event, Event) else event.get("payload")


def _envelope(event: Event | Mapping[str, Any]) -> dict[str, Any] | None:
    payload = _payload(event)
    if not isinstance(payload, dict) or payload.keys() != {"data", "meta"}:
        return None
    meta = payload["meta"]
    return payload if isinstance(meta, dict) and meta.keys() == set(EventMetadata.__struct_fields__) else None

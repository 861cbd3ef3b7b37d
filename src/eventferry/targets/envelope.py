"""What an event of another product brought with it: the envelope in which a source puts its payload, opened again.

A payload is an envelope if it is an object of `data` and `meta`, and `meta` one of the five keys that a source always
writes. Anything else is an event's own payload.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple
from uuid import UUID, uuid5

import msgspec

from eventferry.errors import InputError
from eventferry.lines.limits import MAX_SAFE_INTEGER
from eventferry.lines.payload import JsonText
from eventferry.lines.refusal import fault_in

NULL = b"null"
NAMESPACE = UUID("552f4781-af4f-5041-af17-febd0f9707b0")
"""What the ids are made in of events that have none."""


class Original(NamedTuple):
    """An event as its product knows it, None where that is not known; data and metadata are JSON texts."""

    data: bytes
    metadata: bytes
    id: str | None
    position: int | None
    time: str | None


_Number = Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]


class _Meta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str | None
    position: _Number | None
    version: _Number | None
    time: str | None
    metadata: msgspec.Raw


class _Envelope(msgspec.Struct, gc=False):
    data: msgspec.Raw
    meta: msgspec.Raw


_AROUND = len('{"data":,"meta":}')
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_META = msgspec.json.Decoder(_Meta)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def opened(payload: JsonText) -> Original:
    """What is in an envelope; of any other payload, itself as the data. Raises InputError, without a place, if
    something in an envelope is not what it must be."""
    text = bytes(payload)
    if text[:1] != b"{" or b'"meta"' not in text:
        return Original(text, NULL, None, None, None)
    own = Original(text, NULL, None, None, None)
    try:
        envelope = _ENVELOPE.decode(text)
    except msgspec.MsgspecError:
        return own
    data = bytes(envelope.data)
    # Otherwise there is another key, or one comes twice.
    if len(data) + len(memoryview(envelope.meta)) + _AROUND != len(text):
        return own
    try:
        meta = _META.decode(envelope.meta)
    except msgspec.MsgspecError:
        _refuse_wrong_meta(envelope.meta)
        return own
    return Original(data, bytes(meta.metadata), meta.id, meta.position, meta.time)


def _refuse_wrong_meta(text: msgspec.Raw) -> None:
    if bytes(memoryview(text)[:1]) != b"{":
        return
    meta = _MEMBERS.decode(text)
    if meta.keys() == set(_Meta.__struct_fields__) and (fault := fault_in(meta, _Meta)) is not None:
        raise InputError(f"meta.{fault.field} {fault.reason}", field="payload")


_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def uuid_of(original: Original, aggregate_id: str, version: int) -> str:
    """The id of an event as a UUID; one that has no id always gets the same. Raises InputError."""
    if original.id is None:
        return str(uuid5(NAMESPACE, f"{aggregate_id}/{version}"))
    if _UUID.fullmatch(original.id) is not None:
        return original.id
    try:
        return str(UUID(original.id))
    except ValueError:
        raise InputError("meta.id must be a UUID", field="payload") from None


_EPOCH = datetime(1970, 1, 1)  # UTC, as all times here are once they have no zone any more


def utc_of(original: Original, timestamp: int) -> str:
    """When an event happened, in UTC without a zone, to the microsecond. Raises InputError."""
    try:
        if original.time is None:
            return (_EPOCH + timedelta(milliseconds=timestamp)).isoformat()
        moment = datetime.fromisoformat(original.time)
        if moment.tzinfo is None:
            raise InputError("meta.time must say its time zone", field="payload")
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat()
    except (ValueError, OverflowError):
        if original.time is None:
            raise InputError("is beyond the years 1 to 9999", field="timestamp") from None
        raise InputError(
            "meta.time must be a time such as 2026-01-31T12:00:00.123456Z", field="payload"
        ) from None

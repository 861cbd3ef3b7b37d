"""The envelope: a payload that holds an event's data, and beside it what else is known of the event.

`{"data":…,"meta":{"id":…,"position":…,"version":…,"time":…,"metadata":…}}`. A payload is an envelope if it is an object
of `data` and `meta`, and `meta` one of these five keys, all of which are always there. Anything else is an event's own
payload.
"""

from __future__ import annotations

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
    """An event as its product knows it, None where that is not known; data, metadata and the whole `meta` are JSON
    texts."""

    data: bytes
    metadata: bytes = NULL
    id: str | None = None
    position: int | None = None
    time: str | None = None
    meta: bytes | None = None


SafeInteger = Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]


class _Meta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str | None
    position: SafeInteger | None
    version: SafeInteger | None
    time: str | None
    metadata: msgspec.Raw


class _Envelope(msgspec.Struct, gc=False):
    data: msgspec.Raw
    meta: msgspec.Raw


_AROUND = len('{"data":,"meta":}')
_ENVELOPE = msgspec.json.Decoder(_Envelope)
_META = msgspec.json.Decoder(_Meta)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def sealed(data: bytes, meta: bytes) -> bytes:
    """The envelope of two JSON texts."""
    return b'{"data":%b,"meta":%b}' % (data, meta)


def opened(payload: JsonText) -> Original:
    """What is in an envelope; of any other payload, itself as the data. Raises InputError, without a place, if
    something in an envelope is not what it must be."""
    text = bytes(payload)
    if text[:1] != b"{" or b'"meta"' not in text:
        return Original(text)
    try:
        envelope = _ENVELOPE.decode(text)
    except msgspec.MsgspecError:
        return Original(text)
    data, meta = bytes(envelope.data), bytes(envelope.meta)
    # Otherwise there is another key, or one comes twice.
    if len(data) + len(meta) + _AROUND != len(text):
        return Original(text)
    try:
        known = _META.decode(meta)
    except msgspec.MsgspecError:
        _refuse_wrong_meta(meta)
        return Original(text)
    return Original(data, bytes(known.metadata), known.id, known.position, known.time, meta)


def _refuse_wrong_meta(text: bytes) -> None:
    if text[:1] != b"{":
        return
    meta = _MEMBERS.decode(text)
    if meta.keys() == set(_Meta.__struct_fields__) and (fault := fault_in(meta, _Meta)) is not None:
        raise InputError(f"meta.{fault.field} {fault.reason}", field="payload")


def own_id(aggregate_id: str, version: int) -> str:
    """The id of an event that has none: always the same UUID."""
    return str(uuid5(NAMESPACE, f"{aggregate_id}/{version}"))

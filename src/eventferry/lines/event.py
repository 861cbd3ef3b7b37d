"""The event as a caller sees it, and as a row on its way to a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from eventferry.errors import UnsupportedStoreError
from eventferry.lines.payload import JsonText, decode_payload

if TYPE_CHECKING:
    _Payload: TypeAlias = Any
else:
    _Payload = msgspec.Raw  # decoders leave the text as it is


class _Fields(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    thread_counter: int = -1
    thread_id: int = -1
    type: str
    timestamp: int = 0
    aggregate_id: str
    aggregate_version: int = 0
    payload: _Payload = None


_kept, _keep = _Fields.payload.__get__, _Fields.payload.__set__
"""What an event has as its payload: a value, or its JSON text until somebody looks at it."""
_decoded = msgspec.json.Decoder().decode


class Event(_Fields, frozen=True, kw_only=True, rename="camel"):
    """An event; immutable.

    The payload of an event from a store is decoded when it is first looked at. `msgspec.json.encode` needs no look, and
    writes the text as it is stored. Other functions of msgspec do: `asdict`, `to_builtins` and other formats see a
    `msgspec.Raw` before.

    Attributes:
        thread_counter: its place within its thread, from 0; -1 in an event that is not stored yet.
        thread_id: its thread, 0..255; -1 in an event that is not stored yet.
        type: what happened.
        timestamp: when, in milliseconds since 1970.
        aggregate_id: to what it happened.
        aggregate_version: which event of its aggregate it is, counted from 1.
        payload: any JSON value or None. Raises UnsupportedStoreError if another program stored what cannot be read.
    """

    @property  # type: ignore[misc]  # a field to msgspec alone
    def payload(self) -> Any:
        """See above."""
        value = _kept(self)
        if type(value) is msgspec.Raw:
            try:
                value = _decoded(value)
            except (msgspec.MsgspecError, RecursionError):
                value = _foreign(bytes(value))
            _keep(self, value)
        return value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        pairs = zip(self.__struct_fields__, _values(self), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"


def _values(event: Event) -> tuple[Any, ...]:
    return tuple(getattr(event, name) for name in event.__struct_fields__)


KEYS = {field.name: field.encode_name for field in msgspec.structs.fields(Event)}
"""The key in a line of each field."""

EventInput: TypeAlias = Event | Mapping[str, Any]
"""An event on its way in: an `Event`, or a dict with the keys of a line."""


class Row(NamedTuple):
    """An event with its position, checked, its payload as compact JSON text."""

    thread_id: int
    thread_counter: int
    timestamp: int
    aggregate_id: str
    aggregate_version: int
    type: str
    payload: bytes


class NewRow(NamedTuple):
    """An event that has no position yet, checked, its payload as compact JSON text."""

    timestamp: int
    aggregate_id: str
    type: str
    payload: bytes


NumberedRow: TypeAlias = tuple[int, int, int, int, str, int, str, JsonText]
"""The number of a line and what its `Row` holds, on the way to a database; the payload may be a piece of the block that
it came in."""

NewRowValues: TypeAlias = tuple[int, str, str, JsonText]  # what a `NewRow` holds, likewise


_EVENT = msgspec.json.Decoder(Event)


def decode_event(line: bytes) -> Event:
    """The event of a line that a store wrote."""
    try:
        return _EVENT.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        # A foreign writer let in what is no event by our rules (half a time, a lone surrogate): shown as it is.
        fields = _foreign(line)
        return Event(**{name: fields[key] for name, key in KEYS.items()})


def decode_each(lines: Sequence[bytes]) -> list[Event]:
    """The event of each of these lines."""
    try:
        return list(map(_EVENT.decode, lines))
    except (msgspec.MsgspecError, RecursionError):
        return list(map(decode_event, lines))


def decode_events(lines: bytes) -> list[Event]:
    """The events of lines that a store wrote."""
    try:
        events = _EVENT.decode_lines(lines)
    except (msgspec.MsgspecError, RecursionError):
        return [decode_event(line) for line in lines.split(b"\n")[:-1]]
    for event in events:
        _keep(event, _kept(event).copy())  # else one event keeps all lines in memory
    return events


def _foreign(text: bytes) -> Any:
    """The value of a text that msgspec does not take. Numbers beyond a float's range, and whole ones of more digits
    than Python makes an int of, come as `Decimal`: they stand in the store exactly, so they are not turned into
    infinity here."""
    try:
        return decode_payload(text)
    except (ValueError, RecursionError):
        raise UnsupportedStoreError(
            "an event of this store cannot be read, for it is not JSON or nests too deep: "
            "`verify` tells which events are malformed"
        ) from None

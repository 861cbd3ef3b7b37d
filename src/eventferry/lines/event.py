"""The event, and the checks it passes once, where it enters.

A line, a dict or an `Event` comes in and a row goes on; what is behind this module trusts its rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

import msgspec

from eventferry.cursor import MAX_COUNTER
from eventferry.errors import InputError, UnsupportedStoreError
from eventferry.lines.payload import (
    ENCODER,
    SHALLOW,
    JsonText,
    check_payload,
    compact,
    decode_payload,
    encode_payload,
    may_be_deep,
    may_have_long_exponent,
    plain_text,
)

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest whole number that JavaScript, and so the real reSolve, keeps exactly."""

MAX_ID_LENGTH = 700
"""Characters in an aggregateId or a type, as reSolve declares its columns."""

_ThreadId = Annotated[int, msgspec.Meta(ge=0, le=255)]
_ThreadCounter = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNTER)]
_Version = Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)]
_Timestamp = Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
_Name = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
_NULL = msgspec.Raw(b"null")
_LEFT_OUT: Any = msgspec.UNSET
"""Of a key that is not written where it was not read."""


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An event; immutable.

    Attributes:
        thread_counter: its place within its thread, from 0; -1 in an event that is not stored yet.
        thread_id: its thread, 0..255; -1 in an event that is not stored yet.
        type: what happened.
        timestamp: when, in milliseconds since 1970.
        aggregate_id: to what it happened.
        aggregate_version: the number of the event within its aggregate, from 1.
        payload: any JSON value or None.
    """

    thread_counter: int = -1
    thread_id: int = -1
    type: str
    timestamp: int = 0
    aggregate_id: str
    aggregate_version: int = 0
    payload: Any = None


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

NewRowValues: TypeAlias = tuple[int, str, str, JsonText]
"""What a `NewRow` holds, likewise."""


class _Line(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    thread_counter: _ThreadCounter
    thread_id: _ThreadId
    type: _Name
    timestamp: _Timestamp
    aggregate_id: _Name
    aggregate_version: _Version
    payload: msgspec.Raw = _NULL


class _LenientLine(_Line, forbid_unknown_fields=False):
    pass


class _NewLine(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, gc=False):
    thread_counter: msgspec.Raw = _LEFT_OUT  # positions and versions given are ignored
    thread_id: msgspec.Raw = _LEFT_OUT
    type: _Name
    timestamp: _Timestamp
    aggregate_id: _Name
    aggregate_version: msgspec.Raw = _LEFT_OUT
    payload: msgspec.Raw = _NULL


class _LenientNewLine(_NewLine, forbid_unknown_fields=False):
    pass


E = TypeVar("E", _Line, _NewLine)


class _NewEvent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    type: _Name
    timestamp: _Timestamp
    aggregate_id: _Name
    payload: Any = None
    thread_counter: Any = None
    thread_id: Any = None
    aggregate_version: Any = None


class _LenientNewEvent(_NewEvent, forbid_unknown_fields=False):
    pass


class _SavedEvent(_NewEvent, kw_only=True):
    timestamp: _Timestamp = 0
    aggregate_version: _Version


@dataclass(frozen=True, slots=True)
class Limits:
    """What the columns of one store can hold.

    Attributes:
        id_length: characters in an aggregateId.
        type_length: characters in a type.
        max_id_bytes: bytes in an aggregateId; None: as many as its characters take.
        refuse_payload: says why a payload would not survive in the payload column; None if it would.
            None instead of a function: every payload survives.
        all_survive: given lines and the length of the longest payload in them, whether each surely survives, and none
            has a number with an exponent of more digits than any may have; quick. None instead of a function: each
            must be looked at, where there is `refuse_payload`.
    """

    id_length: int = MAX_ID_LENGTH
    type_length: int = MAX_ID_LENGTH
    max_id_bytes: int | None = None
    refuse_payload: Callable[[bytes], str | None] | None = None
    all_survive: Callable[[bytes, int], bool] | None = None

    def surely_take(self, lines: bytes, longest: int) -> bool:
        """Whether surely no payload of these lines is refused; for some it may say no although none is."""
        if self.all_survive is not None:
            return self.all_survive(lines, longest)
        return self.refuse_payload is None and not may_have_long_exponent(lines)


ROOMY = Limits()
"""The limits of tables that eventferry makes."""

# A line as eventferry and reSolve write it: such a line cannot hold a key twice and needs no second look.
_PLAIN = re.compile(
    rb'\{"threadCounter":[0-9]+,"threadId":[0-9]+,"type":"[^"\\]*","timestamp":-?[0-9]+,'
    rb'"aggregateId":"[^"\\]*","aggregateVersion":[0-9]+,"payload":'
)
_PLAIN_NEW = re.compile(
    rb'\{"type":"[^"\\]*","timestamp":-?[0-9]+,"aggregateId":"[^"\\]*",'
    rb'(?:"aggregateVersion":[0-9]+,)?"payload":'
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
)
_ESCAPE = re.compile(rb"\\u")
_SHOWN = 100
"""Characters of a name from the input that an error repeats."""
_FIELD = re.compile(r" - at `\$\.(\w+)")
_NAMED = re.compile(r"(?:unknown|required) field `([^`]*)`")
_NO_NUMBER = re.compile(rb"-?(?:NaN|Infinity)")
_BYTE = re.compile(r" \(byte ([0-9]+)\)$")
_KEYS = {"threadCounter", "threadId", "type", "timestamp", "aggregateId", "aggregateVersion", "payload"}


def _reason(error: Exception, line: bytes) -> tuple[str, str | None]:
    """Why a line was refused and which field it was, from what the parser says."""
    if isinstance(error, RecursionError):
        return "nests more deeply than can be read", None
    text = str(error)
    if named := _NAMED.search(text):
        if "unknown" in text:
            reason = "unknown key (ignore_unknown_keys=True drops unknown keys)"
            return reason, _shown(named[1])
        return "is missing", named[1]
    if field := _FIELD.search(text):
        return text[: field.start()].replace("`", ""), field[1]
    if (place := _lone_surrogate(line)) is not None:
        return "holds a lone surrogate, which is no character", _field_at(line, place)
    if text == "Input data was truncated":
        return "is not whole JSON", None
    reason = _BYTE.sub(r" at byte \1 of the line", text.removeprefix("JSON is malformed: "))
    return reason, _field_of_no_number(line, text)


def _shown(name: str) -> str:
    """A name from the input as an error repeats it: not as long as it comes, and nothing that moves a terminal."""
    cut = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def _field_of_no_number(line: bytes, text: str) -> str | None:
    """The field where the line breaks off being JSON because of NaN or Infinity; None where it is anything else."""
    found = _BYTE.search(text)
    if found is None:
        return None
    offset = int(found[1])
    start = max(offset - 1, 0)  # of -Infinity the parser names the second byte
    if _NO_NUMBER.match(line, offset) is None and _NO_NUMBER.match(line, start) is None:
        return None
    return _field_at(line, offset)


def _lone_surrogate(text: bytes) -> int | None:
    if _SURROGATE.search(text) is None:
        return None
    return next((match.start() for match in _ESCAPES.finditer(text) if match["lone"] is not None), None)


def has_lone_surrogate(text: bytes) -> bool:
    """Whether a JSON text has the escape of half a surrogate pair."""
    return _lone_surrogate(text) is not None


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _twice(line: bytes) -> str | None:
    """A key that stands twice in the outermost object of a line.

    Where no key does, the members account for every byte of the compact line; only otherwise it is worth
    looking at each, for a key may also just be spelled with escapes.
    """
    text = msgspec.json.format(line, indent=-1)
    members = _MEMBERS.decode(text)
    if len(text) == 1 + sum(len(key.encode()) + len(memoryview(value)) + 4 for key, value in members.items()):
        return None
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        nonlocal pairs
        pairs = found

    json.loads(text, object_pairs_hook=keep, parse_int=len, parse_float=len)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen and key in _KEYS:
            return key
        seen.add(key)
    return None


def _field_at(line: bytes, offset: int) -> str | None:
    """The key in whose value a byte of a line stands, as far as a line that is not whole JSON tells."""
    if (plain := _PLAIN.match(line) or _PLAIN_NEW.match(line)) is not None and offset >= plain.end():
        return "payload"
    places = {key: line.rfind(b'"%s":' % key.encode(), 0, offset) for key in _KEYS}
    key = max(places, key=lambda name: places[name])
    return key if places[key] >= 0 else None


_PAYLOAD = attrgetter("payload")
_ID = attrgetter("aggregate_id")
_TYPE = attrgetter("type")


class LineDecoder:
    """Turns the bytes of one line into a row, or raises an `InputError` without a place.

    Args:
        limits: what the columns can hold.
        ignore_unknown_keys: drop keys that an event does not have, instead of refusing the line.
    """

    def __init__(self, limits: Limits = ROOMY, *, ignore_unknown_keys: bool = False) -> None:
        self._limits = limits
        self._limited = limits is not ROOMY  # the parser itself checks the roomy ones
        self._line = msgspec.json.Decoder[_Line](_LenientLine if ignore_unknown_keys else _Line)
        self._new = msgspec.json.Decoder[_NewLine](_LenientNewLine if ignore_unknown_keys else _NewLine)

    def rows(self, lines: bytes, count: int, first: int) -> Sequence[NumberedRow] | None:
        """The rows of `count` lines that end with a line feed each, all at once; None where one of them needs a look of
        its own, because it is wrong or only spelled in another way than eventferry and reSolve spell a line.

        Args:
            lines: they.
            count: how many they are.
            first: the number of the first.
        """
        events = self._at_once(self._line, lines, count)
        if events is None:
            return None
        return [
            (
                number,
                event.thread_id,
                event.thread_counter,
                event.timestamp,
                event.aggregate_id,
                event.aggregate_version,
                event.type,
                event.payload,
            )
            for number, event in enumerate(events, first)
        ]

    def new_rows(self, lines: bytes, count: int) -> Sequence[NewRowValues] | None:
        """The same for lines whose position and version are ignored and may be missing."""
        events = self._at_once(self._new, lines, count)
        if events is None:
            return None
        return [(event.timestamp, event.aggregate_id, event.type, event.payload) for event in events]

    def _at_once(self, decoder: msgspec.json.Decoder[E], lines: bytes, count: int) -> list[E] | None:
        if (b"\\" in lines and _ESCAPE.search(lines) is not None) or not _is_compact(lines):
            return None
        try:
            events = decoder.decode_lines(lines)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        # What comes out as it went in holds an event's keys in their order, and none of them twice.
        if len(events) != count or ENCODER.encode_lines(events) != lines:
            return None
        return events if self._surely_pass(lines, events) else None

    def _surely_pass(self, lines: bytes, events: Sequence[_Line | _NewLine]) -> bool:
        longest = max(map(len, map(_PAYLOAD, events)))
        if longest > SHALLOW and any(may_be_deep(bytes(event.payload)) for event in events):
            return False
        if self._limited and not _names_fit(self._limits, events):
            return False
        return self._limits.surely_take(lines, longest)

    def row(self, line: bytes) -> Row:
        """A line with all seven keys."""
        event = self._decoded(self._line, line)
        payload = bytes(event.payload)
        plain = _PLAIN.match(line)
        if plain is None or plain.end() + len(payload) + 1 != len(line):
            self._refuse_doubled_key(line)
        row = Row(
            event.thread_id,
            event.thread_counter,
            event.timestamp,
            event.aggregate_id,
            event.aggregate_version,
            event.type,
            compact(payload),
        )
        check_payload(row.payload)
        if self._limited or b"\\u" in line:
            self._check(line, row)
        return row

    def new_row(self, line: bytes) -> NewRow:
        """A line whose position and version are ignored and may be missing."""
        event = self._decoded(self._new, line)
        payload = bytes(event.payload)
        plain = _PLAIN_NEW.match(line) or _PLAIN.match(line)
        if plain is None or plain.end() + len(payload) + 1 != len(line):
            self._refuse_doubled_key(line)
        row = NewRow(event.timestamp, event.aggregate_id, event.type, compact(payload))
        check_payload(row.payload)
        if self._limited or b"\\u" in line:
            self._check(line, row)
        return row

    def _decoded(self, decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
        try:
            return decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            reason, field = _reason(error, line)
            raise InputError(reason, field=field) from None
        except UnicodeDecodeError as error:
            raise InputError(f"is not UTF-8: {error.reason}") from None

    def _refuse_doubled_key(self, line: bytes) -> None:
        try:
            key = _twice(line)
        except RecursionError:
            raise InputError("nests more deeply than can be read") from None
        if key is not None:
            raise InputError("this key stands twice in the line", field=key)

    def _check(self, line: bytes, row: Row | NewRow) -> None:
        """What only few lines need to be checked for: escapes, and columns narrower than ours."""
        if b"\\u" in line:
            if (place := _lone_surrogate(line)) is not None:
                raise InputError(
                    "holds a lone surrogate, which is no character", field=_field_at(line, place)
                )
            check_text("aggregateId", row.aggregate_id)
            check_text("type", row.type)
        if self._limited:
            check_limits(self._limits, row.aggregate_id, row.type, row.payload)


def check_text(field: str, value: str) -> None:
    """Refuses a string that no database here keeps alike: with U+0000, or with half a surrogate pair."""
    if "\0" in value:
        raise InputError("holds the character U+0000", field=field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError("holds a lone surrogate, which is no character", field=field) from None


def check_limits(limits: Limits, aggregate_id: str, event_type: str, payload: bytes) -> None:
    """Refuses what the columns of a store cannot hold."""
    if len(aggregate_id) > limits.id_length:
        raise InputError(f"is longer than {limits.id_length} characters", field="aggregateId")
    if limits.max_id_bytes is not None and len(aggregate_id.encode()) > limits.max_id_bytes:
        raise InputError(f"is longer than {limits.max_id_bytes} bytes", field="aggregateId")
    if len(event_type) > limits.type_length:
        raise InputError(f"is longer than {limits.type_length} characters", field="type")
    if limits.refuse_payload is not None and (reason := limits.refuse_payload(payload)) is not None:
        raise InputError(reason, field="payload")


def is_within(limits: Limits, row: NewRow) -> bool:
    """Whether the columns of a store can hold an event."""
    try:
        check_limits(limits, row.aggregate_id, row.type, row.payload)
    except InputError:
        return False
    return True


def full_thread(thread: int) -> UnsupportedStoreError:
    """The error for an event that would go behind the highest counter."""
    return UnsupportedStoreError(
        f"thread {thread} is full: its last event has the counter {MAX_COUNTER}, the highest that a cursor can "
        "hold. Nothing was stored"
    )


def last_version(aggregate_id: str) -> UnsupportedStoreError:
    """The error for an event that would go behind the highest version."""
    return UnsupportedStoreError(
        f"the aggregate {aggregate_id!r} has an event of version {MAX_SAFE_INTEGER}, the highest there is: no "
        "event can follow it. Nothing was stored"
    )


def _is_compact(lines: bytes) -> bool:
    """Whether no token of any line has white space around it; for lines that are JSON."""
    if b" " not in lines and b"\t" not in lines and b"\r" not in lines:
        return True
    array = b"[" + lines[:-1].replace(b"\n", b",") + b"]"
    try:
        return msgspec.json.format(array, indent=-1) == array
    except (msgspec.DecodeError, RecursionError):
        return False


def _names_fit(limits: Limits, events: Sequence[_Line | _NewLine]) -> bool:
    """Whether the columns of a store surely hold each aggregateId and type."""
    longest_id = max(map(len, map(_ID, events)))
    if longest_id > limits.id_length or max(map(len, map(_TYPE, events))) > limits.type_length:
        return False
    return limits.max_id_bytes is None or longest_id * _MOST_BYTES <= limits.max_id_bytes


_MOST_BYTES = 4
"""Of a character in UTF-8."""


def _converted(event: EventInput, shape: type[_NewEvent]) -> _NewEvent:
    if isinstance(event, Event):
        event = _as_dict(event)
    elif not isinstance(event, Mapping):
        raise InputError(f"an event is a dict or an Event, not {type(event).__name__}")
    try:
        return msgspec.convert(event if type(event) is dict else dict(event), shape)
    except (msgspec.ValidationError, TypeError):
        pass
    try:
        return msgspec.convert(_of_plain_classes(event), shape)
    except msgspec.ValidationError as error:
        reason, field = _reason(error, b"")
        raise InputError(reason, field=field) from None


def _of_plain_classes(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event whose strings and whole numbers are just that, also where they came as something derived."""
    plain: dict[str, Any] = {}
    for key, value in event.items():
        if not isinstance(key, str):
            raise InputError(f"the key {key!r:.100} is no string")
        if isinstance(value, str):
            value = plain_text(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            value = int.__int__(value)
        plain[plain_text(key)] = value
    return plain


def _as_dict(event: Event) -> dict[str, Any]:
    return {
        "threadCounter": event.thread_counter,
        "threadId": event.thread_id,
        "type": event.type,
        "timestamp": event.timestamp,
        "aggregateId": event.aggregate_id,
        "aggregateVersion": event.aggregate_version,
        "payload": event.payload,
    }


def _checked(new: _NewEvent, limits: Limits) -> NewRow:
    check_text("aggregateId", new.aggregate_id)
    check_text("type", new.type)
    payload = encode_payload(new.payload)
    check_limits(limits, new.aggregate_id, new.type, payload)
    return NewRow(new.timestamp, new.aggregate_id, new.type, payload)


def new_row(event: EventInput, limits: Limits = ROOMY, *, ignore_unknown_keys: bool = False) -> NewRow:
    """The row of an event given as a dict or `Event`; position and version are ignored."""
    return _checked(_converted(event, _LenientNewEvent if ignore_unknown_keys else _NewEvent), limits)


def versioned_row(event: EventInput) -> tuple[NewRow, int]:
    """The row and the version of an event that is about to be saved; timestamp is 0 where none is given.

    Whether the store's columns can hold it is checked in the transaction that saves it.
    """
    new = _converted(event, _SavedEvent)
    return _checked(new, ROOMY), new.aggregate_version


_EVENT = msgspec.json.Decoder(Event)


def decode_event(line: bytes) -> Event:
    """The event of a line that a store wrote.

    Numbers beyond a float's range, and whole ones of more digits than Python makes an int of, come as `Decimal`:
    they stand in the store exactly, so they are not turned into infinity here.
    """
    try:
        return _EVENT.decode(line)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        # A foreign writer let in what is no event by our rules (half a time, a lone surrogate): shown as it is.
        fields = decode_payload(line)
        return Event(
            thread_counter=fields["threadCounter"],
            thread_id=fields["threadId"],
            type=fields["type"],
            timestamp=fields["timestamp"],
            aggregate_id=fields["aggregateId"],
            aggregate_version=fields["aggregateVersion"],
            payload=fields["payload"],
        )


def decode_events(lines: bytes) -> list[Event]:
    """The events of lines that a store wrote."""
    try:
        return _EVENT.decode_lines(lines)
    except (msgspec.MsgspecError, RecursionError):
        return [decode_event(line) for line in lines.split(b"\n")[:-1]]

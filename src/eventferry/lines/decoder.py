"""Lines become rows: many at once, and one by one where one of them needs a look of its own."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, TypeVar, cast

import msgspec

from eventferry.errors import InputError
from eventferry.lines.event import NewRow, NewRowValues, NumberedRow, Row
from eventferry.lines.limits import (
    ROOMY,
    ColumnLimits,
    Name,
    ThreadCounter,
    ThreadId,
    Timestamp,
    Version,
    check_appended,
    check_limits,
    check_text,
)
from eventferry.lines.marker import refuse_marker
from eventferry.lines.payload import ENCODER, SHALLOW, check_payload, compact, may_be_deep
from eventferry.lines.refusal import refuse_duplicate_key, refused_line
from eventferry.lines.spelling import (
    LONE_SURROGATE,
    PLAIN,
    PLAIN_NEW,
    UNICODE_ESCAPE,
    field_at,
    is_compact,
    lone_surrogate,
)

_NULL = msgspec.Raw(b"null")
_LEFT_OUT: Any = msgspec.UNSET  # of a key that is not written where it was not read


class Line(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """The event of a line, its payload as compact JSON text; encoded, it is a line again."""

    thread_counter: ThreadCounter
    thread_id: ThreadId
    type: Name
    timestamp: Timestamp
    aggregate_id: Name
    aggregate_version: Version
    payload: msgspec.Raw = _NULL


class _LenientLine(Line, forbid_unknown_fields=False):
    pass


class _NewLine(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, gc=False):
    thread_counter: msgspec.Raw = _LEFT_OUT  # positions and versions given are ignored
    thread_id: msgspec.Raw = _LEFT_OUT
    type: Name
    timestamp: Timestamp
    aggregate_id: Name
    aggregate_version: msgspec.Raw = _LEFT_OUT
    payload: msgspec.Raw = _NULL


class _LenientNewLine(_NewLine, forbid_unknown_fields=False):
    pass


class _SavedLine(_NewLine, kw_only=True):
    timestamp: Timestamp = 0
    aggregate_version: Version  # type: ignore[assignment]


class _AppendedLine(_NewLine, kw_only=True):
    timestamp: Timestamp = 0
    aggregate_id: Name | None = None  # type: ignore[assignment]


E = TypeVar("E", Line, _NewLine, _SavedLine, _AppendedLine)

_APPENDED = msgspec.json.Decoder(_AppendedLine)
_SAVED = msgspec.json.Decoder(_SavedLine)
_PAYLOAD = attrgetter("payload")
_ID = attrgetter("aggregate_id")
_TYPE = attrgetter("type")


class LineDecoder:
    """Turns the bytes of one line into a row, or raises an `InputError` without a place. With `ignore_unknown_keys`,
    keys that an event does not have are dropped instead of refused."""

    def __init__(self, limits: ColumnLimits = ROOMY, *, ignore_unknown_keys: bool = False) -> None:
        self._limits = limits
        self._limited = limits is not ROOMY  # the parser itself checks the roomy ones
        self._line = msgspec.json.Decoder[Line](_LenientLine if ignore_unknown_keys else Line)
        self._new = msgspec.json.Decoder[_NewLine](_LenientNewLine if ignore_unknown_keys else _NewLine)

    def rows(self, lines: bytes, count: int, first: int) -> Sequence[NumberedRow] | None:
        """The rows of `count` lines that end with a line feed each, all at once, numbered from `first` on. None where
        one of them needs a look of its own, because it is wrong or only spelled in another way than eventferry and
        reSolve spell a line."""
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

    def whole_rows(self, lines: bytes, count: int) -> Sequence[Row] | None:
        """The same without numbers, and each payload as bytes of its own."""
        events = self._at_once(self._line, lines, count)
        return None if events is None else [_whole_row(event, bytes(event.payload)) for event in events]

    def events(self, lines: bytes, count: int) -> list[Line] | None:
        """The same as events that may be changed, each payload a piece of the lines."""
        return self._at_once(self._line, lines, count)

    def new_rows(self, lines: bytes, count: int) -> Sequence[NewRowValues] | None:
        """The same for lines whose position and version are ignored and may be missing."""
        events = self._at_once(self._new, lines, count)
        if events is None:
            return None
        return [(event.timestamp, event.aggregate_id, event.type, event.payload) for event in events]

    def _at_once(self, decoder: msgspec.json.Decoder[E], lines: bytes, count: int) -> list[E] | None:
        if (b"\\" in lines and UNICODE_ESCAPE.search(lines) is not None) or not is_compact(lines):
            return None
        try:
            events = decoder.decode_lines(lines)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        # What comes out as it went in holds an event's keys in their order, and none of them twice.
        if len(events) != count or ENCODER.encode_lines(events) != lines:
            return None
        longest = max(map(len, map(_PAYLOAD, events)))
        if longest > SHALLOW and any(may_be_deep(bytes(event.payload)) for event in events):
            return None
        if self._limited and not self._limits.surely_fit(
            max(map(len, map(_ID, events))), max(map(len, map(_TYPE, events)))
        ):
            return None
        return events if self._limits.surely_take(lines, longest) else None

    def row(self, line: bytes) -> Row:
        """A line with all seven keys."""
        return _whole_row(*self._one(self._line, line))

    def event(self, line: bytes) -> Line:
        """The same as an event that may be changed."""
        event, payload = self._one(self._line, line)
        event.payload = msgspec.Raw(payload)
        return event

    def new_row(self, line: bytes) -> NewRow:
        """A line whose position and version are ignored and may be missing."""
        event, payload = self._one(self._new, line)
        return NewRow(event.timestamp, event.aggregate_id, event.type, payload)

    def saved_row(self, line: bytes) -> tuple[NewRow, int]:
        """A line to be saved, which must be UTF-8, as its row and its version. The position is ignored; without a
        timestamp it is 0."""
        event, payload = self._one(_SAVED, line)
        refuse_marker(payload)
        return NewRow(event.timestamp, event.aggregate_id, event.type, payload), event.aggregate_version

    def appended_row(self, line: bytes, aggregate_id: str) -> NewRow:
        """A line to be appended to an aggregate, which must be UTF-8. The position is ignored; without a timestamp it
        is 0. Raises InputError for another aggregate, and for a version, which follows from what is stored."""
        event, payload = self._one(_APPENDED, line)
        refuse_marker(payload)
        is_given = event.aggregate_version is not _LEFT_OUT and bytes(event.aggregate_version) != b"null"
        check_appended(event.aggregate_id, event.aggregate_version if is_given else None, aggregate_id)
        return NewRow(event.timestamp, aggregate_id, event.type, payload)

    def _one(self, decoder: msgspec.json.Decoder[E], line: bytes) -> tuple[E, bytes]:
        """A line's event and its compact payload, checked."""
        try:
            event = decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            shape = cast(type[msgspec.Struct], decoder.type)
            raise refused_line(line, shape, may_ignore=shape in (Line, _NewLine)) from None
        payload = bytes(event.payload)
        plain = PLAIN.match(line) or PLAIN_NEW.match(line)
        if plain is None or plain.end() + len(payload) + 1 != len(line):
            refuse_duplicate_key(line)
        payload = compact(payload)
        check_payload(payload)
        if b"\\u" in line:
            if (place := lone_surrogate(line)) is not None:
                raise InputError(LONE_SURROGATE, field=field_at(line, place))
            check_text("aggregateId", event.aggregate_id or "")
            check_text("type", event.type)
        if self._limited:
            check_limits(self._limits, event.aggregate_id or "", event.type, payload)
        return event, payload


def _whole_row(event: Line, payload: bytes) -> Row:
    return Row(
        event.thread_id,
        event.thread_counter,
        event.timestamp,
        event.aggregate_id,
        event.aggregate_version,
        event.type,
        payload,
    )

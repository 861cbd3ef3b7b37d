"""CloudEvents, one a line, become events: those of eventferry as they were, others with attributes as metadata."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal

import msgspec

from eventferry.cloudevents.attributes import META, NAME, PLACE, milliseconds_of
from eventferry.errors import InputError, UsageError
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.envelope import NULL, sealed
from eventferry.lines.limits import MAX_ID_LENGTH, check_text
from eventferry.lines.payload import compact
from eventferry.lines.refusal import refuse_duplicate_key, refused_line, shown
from eventferry.lines.spelling import LONE_SURROGATE, lone_surrogate
from eventferry.sources.aggregates import SourceAggregates
from eventferry.tabular.columns import COLUMNS, LineWriter, RowError, whole_number
from eventferry.tabular.conversion import Conversion

_Text = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]


class _CloudEvent(msgspec.Struct, gc=False):
    specversion: Literal["1.0"]
    id: str
    source: str
    type: _Text
    time: str | None = None


_EVENT = msgspec.json.Decoder(_CloudEvent)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder().encode
_TAKEN = frozenset(("specversion", "id", "type", "time", "data"))
"""Members that go elsewhere than into the metadata."""
_BASE64 = "data_base64"
_JSON = "application/json"
_OF_FIELDS = {
    "timestamp": "time",
    "payload": "data",
    "threadId": "threadid",
    "threadCounter": "threadcounter",
    "aggregateVersion": "aggregateversion",
}
"""The attribute that a field of an event comes from, where it has another name."""


def from_cloudevents(*, aggregate: str = "subject") -> Conversion:
    """A transform from CloudEvents, one a line, to lines.

    A CloudEvent that `to_cloudevents` made becomes the event that it was. Another one becomes an event with metadata
    (`metadata_of`): its id, its time, and all its other attributes. Those are numbered as they come: in thread 0, with
    counters from 0, and versions from 1 in each aggregate.

    Args:
        aggregate: the attribute that is the aggregateId of a CloudEvent that eventferry did not make.

    Raises:
        UsageError: that is not the name of an attribute.
        InputError: while it runs, for what is no CloudEvent, or cannot be an event, since it has no time or none of the
            attribute `aggregate`; with the line and the attribute.
    """
    if NAME.fullmatch(aggregate) is None or aggregate == "data":
        raise UsageError(f"an attribute of a CloudEvent has a name of a-z and 0-9, not {shown(aggregate)!r}")
    return Conversion(lambda: CloudEventsReader(aggregate))


class CloudEventsReader:
    """The codec of `from_cloudevents`."""

    def __init__(self, aggregate: str) -> None:
        self._aggregate = aggregate
        self._splitter = LineSplitter()
        self._writer = LineWriter(COLUMNS)
        self._aggregates = SourceAggregates()
        self._are_placed: bool | None = None  # None before the first event
        self._events = 0

    def feed(self, block: bytes) -> bytes:
        """The lines of the events that this block makes whole."""
        return self._lines(lambda: self._splitter.feed(block))

    def finish(self) -> bytes:
        """The line of the last event, where the input does not end with a line feed."""
        return self._lines(self._splitter.finish)

    def _lines(self, split: Callable[[], Lines]) -> bytes:
        try:
            events = list(split().decoded(self._values))
        except InputError as error:  # a byte offset would be taken for one in the lines that are made
            raise InputError(error.reason, line=error.line, field=error.field) from None
        try:
            return self._writer.lines(values for _, values in events)
        except RowError as wrong:
            field = wrong.error.field
            attribute = self._aggregate if field == "aggregateId" else _OF_FIELDS.get(field or "", field)
            raise InputError(wrong.error.reason, line=events[wrong.index][0], field=attribute) from None

    def _values(self, line: bytes) -> list[Any]:
        """The values of an event, in the order of `COLUMNS`. Raises InputError, without a place."""
        if line.lstrip()[:1] == b"[":
            raise InputError("is an array: put each CloudEvent on a line of its own, as `jq -c '.[]'` does")
        if b"\\u" in line and lone_surrogate(line) is not None:
            raise InputError(LONE_SURROGATE)
        try:
            event = _EVENT.decode(line)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raise refused_line(line, _CloudEvent) from None
        text = compact(line)
        members = {name: bytes(value) for name, value in _MEMBERS.decode(text).items()}
        if len(text) != 1 + sum(len(name) + len(value) + 4 for name, value in members.items()):
            refuse_duplicate_key(text, members)
        attributes = _checked(
            {name: value for name, value in members.items() if value != NULL or name == "data"}
        )
        for name in ("id", "source", "type"):
            if not getattr(event, name):
                raise InputError("is empty", field=name)
        check_text("type", event.type)
        if event.time is None:
            raise InputError("is missing: an event has a time", field="time")
        timestamp = milliseconds_of(event.time)
        if timestamp is None:
            raise InputError("must be a time of RFC 3339 such as 2026-01-31T12:00:00.123Z", field="time")
        self._refuse_mixed(attributes)
        if self._are_placed:
            return _placed(event, timestamp, attributes)
        return self._numbered(event, timestamp, attributes)

    def _refuse_mixed(self, attributes: Collection[str]) -> None:
        there = [name for name in PLACE if name in attributes]
        if 0 < len(there) < len(PLACE):
            missing = next(name for name in PLACE if name not in there)
            raise InputError(
                f"is missing, and {there[0]} is there: they say together where an event stands", field=missing
            )
        if self._are_placed is None:
            self._are_placed = bool(there)
        elif self._are_placed != bool(there):
            has = "no" if self._are_placed else "a"
            raise InputError(
                f"has {has} {PLACE[0]}, unlike the first event: import those of eventferry and others one after the "
                "other"
            )

    def _numbered(self, event: _CloudEvent, timestamp: int, attributes: dict[str, bytes]) -> list[Any]:
        own_id = _text(
            attributes, self._aggregate, "is missing, and would be the aggregate: choose another attribute"
        )
        known = self._aggregates.known.get(own_id) or self._aggregates.new(own_id, _ENCODE(own_id))
        known.events += 1
        self._events += 1
        metadata = {"source": attributes["source"]} | {
            name: value
            for name, value in attributes.items()
            if name not in _TAKEN and not (name == self._aggregate == "subject")
        }
        if metadata.get("datacontenttype") == _ENCODE(_JSON):
            del metadata["datacontenttype"]
        meta = b'{"id":%b,"position":null,"version":null,"time":%b,"metadata":{%b}}' % (
            attributes["id"],
            attributes["time"],
            b",".join(b'"%b":%b' % (name.encode(), value) for name, value in metadata.items()),
        )
        payload = msgspec.Raw(sealed(attributes.get("data", NULL), meta))
        return [self._events - 1, 0, event.type, timestamp, own_id, known.events, payload]


def _checked(attributes: dict[str, bytes]) -> dict[str, bytes]:
    """The same; raises InputError for what is no attribute, or no value of one."""
    for name, value in attributes.items():
        if name == _BASE64:
            _refuse_wrong_base64(attributes)
        elif NAME.fullmatch(name) is None:
            raise InputError("is no attribute's name: that has only a-z and 0-9", field=shown(name))
        elif name != "data" and (
            value[:1] in b"{[" or (value[:1] in b"-0123456789" and not _is_whole(value))
        ):
            raise InputError("must be a string, a whole number, true or false", field=name)
    return attributes


def _is_whole(number: bytes) -> bool:
    return number.removeprefix(b"-").isdigit()


def _refuse_wrong_base64(attributes: dict[str, bytes]) -> None:
    if "data" in attributes:
        raise InputError("stands beside data: a CloudEvent has one of them", field=_BASE64)
    try:
        binascii.a2b_base64(msgspec.json.decode(attributes[_BASE64], type=str), strict_mode=True)
    except (msgspec.ValidationError, ValueError):
        raise InputError("is not base64", field=_BASE64) from None


def _placed(event: _CloudEvent, timestamp: int, attributes: dict[str, bytes]) -> list[Any]:
    """The values of an event that eventferry made."""
    thread, counter, version = (_number(attributes, name) for name in PLACE)
    payload = attributes.get("data", NULL)
    if META in attributes:
        text = _text(attributes, META)
        try:
            _MEMBERS.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            raise InputError("must be the JSON text of an object", field=META) from None
        payload = sealed(payload, compact(text.encode()))
    return [
        counter,
        thread,
        event.type,
        timestamp,
        _text(attributes, "subject"),
        version,
        msgspec.Raw(payload),
    ]


def _number(attributes: dict[str, bytes], name: str) -> int:
    value = attributes[name]
    return whole_number(_text(attributes, name) if value[:1] == b'"' else value.decode(), name)


def _text(attributes: dict[str, bytes], name: str, missing: str = "is missing") -> str:
    value = attributes.get(name)
    if value is None:
        raise InputError(missing, field=name)
    if value[:1] != b'"':
        raise InputError("must be a string", field=name)
    text = msgspec.json.decode(value, type=str)
    if not text:
        raise InputError("is empty", field=name)
    check_text(name, text)
    return text

"""Events as CloudEvents, one a line."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from eventferry.cloudevents.attributes import MAX_INTEGER, META, NAME, PLACE, is_text, milliseconds_of
from eventferry.errors import InputError, UsageError
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.envelope import NULL, Original, opened, own_id, sealed
from eventferry.lines.event import Row
from eventferry.lines.held_back import HeldBack
from eventferry.tabular.columns import moment_text
from eventferry.tabular.conversion import Conversion

_OWN = frozenset(("specversion", "id", "type", "subject", "time", "data", *PLACE, META))
"""Attributes that say something else than the metadata does."""

_BASE64 = "data_base64"
_JSON = b'"application/json"'
_INTEGER = re.compile(b"-?[0-9]{1,10}")
_ENCODE = msgspec.json.Encoder().encode
_TEXT = msgspec.json.Decoder(str)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def to_cloudevents(source: str) -> Conversion:
    """A transform from lines to CloudEvents, one a line, for a file or a pipe.

    The payload is the data, and the aggregate the subject. Metadata (`metadata_of`) become attributes, as far as those
    can hold them: the id, the time, and all that has an attribute's name.

    Args:
        source: the attribute `source` of events whose metadata has none: a URI, or a reference such as /shop/orders,
            that tells this store from every other. An event without an id of its own gets one that is made of its
            aggregate and version, and unique together with the source.

    Raises:
        UsageError: the source is empty, or not a URI.
        InputError: while it runs, for a line that is no event, or what CloudEvents cannot hold: an empty type or
            aggregateId, control characters in them, a time beyond the years 1 to 9999.
    """
    if not isinstance(source, str) or not is_text(source) or any(map(str.isspace, source)):
        raise UsageError(
            "the source of CloudEvents must be a URI, or a reference such as /shop/orders, and not empty"
        )
    return Conversion(lambda: CloudEventsWriter(source))


class CloudEventsWriter:
    """The codec of `to_cloudevents`."""

    def __init__(self, source: str) -> None:
        self._source = _ENCODE(source)
        self._splitter = LineSplitter()
        self._decoder = LineDecoder()
        self._held = HeldBack()

    def feed(self, block: bytes) -> bytes:
        """The events of the lines that this block makes whole, but for their very end."""
        return self._held.all_but_the_end(b"".join(self._events(self._splitter.feed(block))))

    def finish(self) -> bytes:
        """The rest."""
        return self._held.rest + b"".join(self._events(self._splitter.finish()))

    def _events(self, lines: Lines) -> Iterator[bytes]:
        for number, row in lines.whole_rows(self._decoder):
            try:
                yield self._event(row)
            except InputError as error:
                raise lines.placed(error, number) from None

    def _event(self, row: Row) -> bytes:
        for field, name in (("type", row.type), ("aggregateId", row.aggregate_id)):
            if not is_text(name):
                what = "has a control character, or another that is none" if name else "is empty"
                raise InputError(f"{what}: CloudEvents cannot hold it", field=field)
        original = _original(row.payload)
        attributes = _attributes(original)
        data = attributes.pop(_BASE64, None)
        event_id = original.id
        if event_id is None or not is_text(event_id):
            event_id = own_id(row.aggregate_id, row.aggregate_version)
        time = original.time
        if time is None or milliseconds_of(time) != row.timestamp:
            try:
                time = moment_text(row.timestamp)
            except OverflowError:
                raise InputError(
                    f"{row.timestamp} is beyond the years 1 to 9999: CloudEvents cannot hold it",
                    field="timestamp",
                ) from None
        return _CLOUD_EVENT % (
            _ENCODE(event_id),
            attributes.pop("source", self._source),
            _ENCODE(row.type),
            _ENCODE(row.aggregate_id),
            time.encode(),
            attributes.pop("datacontenttype", _JSON),
            b"".join(b'"%b":%b,' % (name.encode(), value) for name, value in attributes.items()),
            row.thread_id,
            row.thread_counter,
            row.aggregate_version,
            b"" if original.meta is None else b'"meta":%b,' % _ENCODE(original.meta.decode()),
            b'"data":%b' % original.data if data is None else b'"data_base64":%b' % data,
        )


_CLOUD_EVENT = (
    b'{"specversion":"1.0","id":%b,"source":%b,"type":%b,"subject":%b,"time":"%b","datacontenttype":%b,%b'
    b'"threadid":%d,"threadcounter":"%d","aggregateversion":"%d",%b%b}\n'
)


def _original(payload: bytes) -> Original:
    """What is in an envelope, if that comes back from its data and its meta; else the payload as the data."""
    try:
        original = opened(payload)
    except InputError:
        return Original(payload)
    meta = original.meta
    if meta is not None and (sealed(original.data, meta) != payload or not is_text(meta.decode())):
        return Original(payload)
    return original


def _attributes(original: Original) -> dict[str, bytes]:
    """The metadata that can be attributes. Binary data, which a CloudEvent brought, are among them."""
    if original.metadata[:1] != b"{":
        return {}
    found = {}
    for name, raw in _MEMBERS.decode(original.metadata).items():
        value = bytes(raw)
        if name == _BASE64:
            if original.data == NULL and value[:1] == b'"':
                found[name] = value
        elif name not in _OWN and NAME.fullmatch(name) is not None and _is_value(value):
            found[name] = value
    return found


def _is_value(text: bytes) -> bool:
    if text[:1] == b'"':
        return is_text(_TEXT.decode(text))
    if _INTEGER.fullmatch(text) is not None:
        return -MAX_INTEGER - 1 <= int(text) <= MAX_INTEGER
    return text in (b"true", b"false")

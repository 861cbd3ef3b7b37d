"""A row of a foreign table becomes an event, and that a line."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from eventferry.errors import InputError, SourceRowError, UsageError
from eventferry.lines.limits import MAX_SAFE_INTEGER, check_text
from eventferry.sources.aggregates import Aggregate, Aggregates
from eventferry.sources.decoding import UndecodableError, decoder
from eventferry.sources.mapping import KEPT, OUTPUT, ROW_KINDS, Mapping, RowKind
from eventferry.sources.times import Moment, Times, pointed

PayloadMode: TypeAlias = Literal["envelope", "data"]
"""What the payload of an event is: data and what else the source knows of it, or data alone."""

TimeKind: TypeAlias = Literal["microseconds", "local microseconds", "any"]
"""What a database gives as the time: microseconds since 1970; those as if a time without a zone were UTC; or a text or
a number as it is stored."""


def kept_kinds(
    payload: PayloadMode, drop_metadata: bool, keep: Iterable[RowKind], skip: Iterable[RowKind]
) -> frozenset[RowKind]:
    """The kinds of rows that become events, from the arguments of a user. Raises UsageError for wrong ones."""
    if payload not in ("envelope", "data"):
        raise UsageError(f"payload is 'envelope' or 'data', not {payload!r}")
    if drop_metadata and payload == "envelope":
        raise UsageError("drop_metadata is for payload='data': an envelope holds the metadata")
    keep, skip = frozenset(keep), frozenset(skip)
    if unknown := sorted((keep | skip) - set(ROW_KINDS)):
        raise UsageError(f"a kind of rows is one of {', '.join(ROW_KINDS)}, not {unknown[0]!r}")
    if both := sorted(keep & skip):
        raise UsageError(f"{both[0]!r} is both to be kept and to be skipped")
    return (KEPT | keep) - skip


class Mapper:
    """Turns the rows of one reading into events, in their order.

    Args:
        mapping: how.
        payload: "data" leaves out what else the source knows of an event.
        drop_metadata: with "data", also metadata that is not empty.
        kept: the kinds of rows that are events; the others are only counted.
        time: what the database gives as the time.

    Attributes:
        skipped: how many rows of each kind were left out.
        renumbered: how many events have another version than in the source, counted from the source's first.
        events: how many rows became events.
        positions: of the events of the last call of `lines`.
    """

    def __init__(
        self,
        mapping: Mapping,
        *,
        payload: PayloadMode = "envelope",
        drop_metadata: bool = False,
        kept: Iterable[RowKind] = KEPT,
        time: TimeKind = "any",
    ) -> None:
        self._name = mapping.name
        self._first = mapping.version.first
        self._prefix = mapping.aggregate.prefix
        self._is_bare = payload == "data"
        self._drops_metadata = drop_metadata
        self._kept = frozenset(kept)
        self._data = decoder(mapping.data.decode)
        self._metadata = decoder(mapping.metadata.decode)
        times = Times(mapping.time)
        readers: dict[TimeKind, Callable[[Any], Moment]] = {
            "microseconds": times.of_microseconds,
            "local microseconds": times.of_local_microseconds,
            "any": times.of,
        }
        self._time = readers[time]
        self._any_time = times.of
        self._pointed = None if mapping.time.pointer is None else pointed(mapping.time.pointer)
        self._aggregates = Aggregates()
        self._types: dict[object, bytes] = {}
        self.skipped: Counter[RowKind] = Counter()
        self.renumbered = 0
        self.events = 0
        self.positions: array[int] = array("q")

    def lines(self, rows: Iterable[Sequence[Any]]) -> list[bytes]:
        """The lines of rows, in thread 0, with counters and versions that continue those of the rows before.

        A row has what the statement of a `Reader` gives. Raises SourceRowError.
        """
        lines: list[bytes] = []
        positions = self.positions = array("q")
        aggregates, types = self._aggregates.known, self._types
        counter, first = self.events, self._first
        for row in rows:
            position, own_id, version, event_type, time, data, metadata, event_id, kind = row[:_COLUMNS]
            column = "position"
            try:
                if type(position) is not int:
                    raise UndecodableError(f"a position is a whole number, not {_shown(position)}")
                column = "kind"
                if kind is not None and self._is_left_out(kind):
                    continue
                column = "aggregate"
                aggregate = aggregates.get(own_id) or self._new_aggregate(own_id)
                column = "type"
                shown_type = types.get(event_type) or self._new_type(event_type)
                column = "version"
                if version is not None:
                    self._check_version(version, aggregate)
                column = "data"
                text = b"null" if data is None else self._data(_octets(data))
                column = "metadata"
                rest = b"null" if metadata is None else self._metadata(_octets(metadata))
                if self._is_bare and rest not in (b"null", b"{}") and not self._drops_metadata:
                    raise UndecodableError(
                        "is not empty, and the bare data leaves it out: say that it may be dropped (--drop-metadata)"
                    )
                column = "time"
                timestamp, full_time = self._moment(time, text)
                column = "id"
                name = b"null" if event_id is None else _ENCODE(_text(event_id))
            except (UndecodableError, InputError) as error:
                reason = error.reason if isinstance(error, InputError) else str(error)
                known = position if type(position) is int else None
                raise SourceRowError(reason, source=self._name, position=known, column=column) from None
            aggregate.events += 1
            if version is None:
                self.renumbered += 1
                shown_version = b"null"
            else:
                aggregate.version = version
                shown_version = b"%d" % version
                if version - first + 1 != aggregate.events:
                    self.renumbered += 1
            if not self._is_bare:
                text = (
                    b'{"data":%b,"meta":{"id":%b,"position":%d,"version":%b,"time":"%b","metadata":%b}}'
                    % (
                        text,
                        name,
                        position,
                        shown_version,
                        full_time,
                        rest,
                    )
                )
            lines.append(
                b'{"threadCounter":%d,"threadId":0,"type":%b,"timestamp":%d,"aggregateId":%b,"aggregateVersion":%d,'
                b'"payload":%b}\n' % (counter, shown_type, timestamp, aggregate.shown, aggregate.events, text)
            )
            positions.append(position)
            counter += 1
        self.events = counter
        return lines

    def _new_aggregate(self, own_id: Any) -> Aggregate:
        return self._aggregates.new(own_id, _ENCODE(self._prefix + _text(own_id)))

    def _new_type(self, event_type: Any) -> bytes:
        if len(self._types) >= _TYPES:
            self._types.clear()
        text = self._types[event_type] = _ENCODE(_text(event_type))
        return text

    def _check_version(self, version: Any, aggregate: Aggregate) -> None:
        if type(version) is not int or version < self._first:
            raise UndecodableError(
                f"a version is a whole number from {self._first}, or null, not {_shown(version)}"
            )
        if aggregate.version is not None and version <= aggregate.version:
            raise UndecodableError(
                f"version {version} of the aggregate {aggregate.shown.decode()} comes after its version "
                f"{aggregate.version}: if that is right, leave the versions out of the SELECT, and events are numbered "
                "as they come"
            )

    def _is_left_out(self, kind: Any) -> bool:
        if kind in self._kept:
            return False
        if kind not in ROW_KINDS:
            raise UndecodableError(f"a kind is one of {', '.join(ROW_KINDS)}, or null, not {_shown(kind)}")
        self.skipped[kind] += 1
        return True

    def _moment(self, time: Any, data: bytes) -> Moment:
        if time is not None:
            moment = self._time(time)
        elif self._pointed is None:
            raise UndecodableError(
                "is null, and the mapping does not say where else the time is (time.pointer)"
            )
        else:
            found = self._pointed(msgspec.json.decode(data))
            if found is None:
                raise UndecodableError("there is no time in the data at the mapping's time.pointer")
            moment = self._any_time(found)
        if not -MAX_SAFE_INTEGER <= moment[0] <= MAX_SAFE_INTEGER:
            raise UndecodableError("the time is too far from 1970")
        return moment


_COLUMNS = OUTPUT.index("transaction")  # it is the last, and no part of an event

_TYPES = 10_000  # types whose JSON text is remembered

_ENCODE = msgspec.json.Encoder().encode


def _text(value: Any) -> str:
    """A name: text as it is, and numbers."""
    if type(value) is int:
        return str(value)
    if value == "":
        raise UndecodableError("is empty")
    if type(value) is not str:
        raise UndecodableError(f"a text is needed here, not {_shown(value)}: cast it in the SELECT")
    if not value.isascii() or "\0" in value:
        check_text("", value)
    return value


def _octets(value: Any) -> str | bytes:
    """What a decoder takes. A number is one of SQLite's, whose columns of JSON keep numbers as such."""
    if type(value) is bytes or type(value) is str:
        return value
    if type(value) is int or type(value) is float:
        return repr(value)
    raise UndecodableError(f"text or bytes are needed here, not {_shown(value)}: cast it in the SELECT")


def _shown(value: Any) -> str:
    """A value as a message may show it."""
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return repr(value)
    return f"{value[:60]!r}" if isinstance(value, str | bytes) else type(value).__name__

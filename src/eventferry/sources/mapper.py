"""A row of a foreign table becomes an event, and that a line."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from eventferry.errors import InputError, SourceRowError, UsageError
from eventferry.lines.limits import MAX_ID_LENGTH, check_text
from eventferry.lines.payload import SHALLOW, check_payload, may_be_deep, may_have_long_exponent
from eventferry.lines.spelling import LONE_SURROGATE, lone_surrogate
from eventferry.sources.aggregates import Aggregate, Aggregates
from eventferry.sources.decoding import UndecodableError, decoder, shown
from eventferry.sources.mapping import KEPT, ROW_KINDS, Mapping, RowKind
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
        made: the lines of the last call of `lines`, those before its error too.
        positions: of these lines.
        versions: of these lines in the source, counted from the source's first; 0 where it has none.
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
        self.skipped: Counter[str] = Counter()
        self.renumbered = 0
        self.events = 0
        self.made: list[bytes] = []
        self.positions: array[int] = array("q")
        self.versions: list[int] = []
        # Of these lines: the data of each, and in an envelope its metadata behind it.
        self._texts: list[bytes] = []
        self._last: int | None = None

    def lines(self, rows: Iterable[Sequence[Any]]) -> list[bytes]:
        """The lines of rows, in thread 0, with counters and versions that continue those of the rows before.

        A row has what the statement of a `Reader` gives. Raises SourceRowError for the first row that does not become
        an event.
        """
        self.made, self.positions, self.versions, self._texts = [], array("q"), [], []
        try:
            self._make(rows)
        finally:
            try:
                self._check()  # the trouble that it finds comes before that of a row
            finally:
                self.events += len(self.made)
        return self.made

    def _make(self, rows: Iterable[Sequence[Any]]) -> None:
        lines, positions, versions, texts = self.made, self.positions, self.versions, self._texts
        aggregates, types = self._aggregates.known, self._types
        counter, first, last = self.events, self._first, self._last
        is_bare, moment_of, data_of, metadata_of = self._is_bare, self._time, self._data, self._metadata
        for position, own_id, version, event_type, time, data, metadata, event_id, kind, *_ in rows:
            column = "position"
            try:
                if type(position) is not int or position > _MAX_POSITION:
                    raise UndecodableError(f"a position is a whole number, not {shown(position)}")
                if kind is not None:
                    column = "kind"
                    if self._is_left_out(kind):
                        continue
                    column = "position"
                if position == last:
                    raise UndecodableError(
                        "two rows have it, so their order is not known: a position is one row's alone, as a key is"
                    )
                column = "aggregate"
                aggregate = aggregates.get(own_id) or self._new_aggregate(own_id)
                column = "type"
                shown_type = types.get(event_type) or self._new_type(event_type)
                column = "version"
                if version is not None:
                    before = aggregate.version
                    if (
                        type(version) is not int
                        or version < first
                        or (before is not None and version <= before)
                    ):
                        raise self._wrong_version(version, aggregate)
                column = "data"
                text = _NULL if data is None else data_of(data)
                column = "metadata"
                rest = _NULL if metadata is None else metadata_of(metadata)
                if is_bare and rest not in (_NULL, b"{}") and not self._drops_metadata:
                    raise UndecodableError(
                        "is not empty, and the bare data leaves it out: say that it may be dropped (--drop-metadata)"
                    )
                column = "time"
                timestamp, full_time = moment_of(time) if time is not None else self._pointed_time(text)
                column = "id"
                name = _NULL if event_id is None else _ENCODE(_text(event_id))
            except (UndecodableError, InputError) as error:
                reason = error.reason if isinstance(error, InputError) else str(error)
                known = position if type(position) is int else None
                raise SourceRowError(reason, source=self._name, position=known, column=column) from None
            aggregate.events = number = aggregate.events + 1
            if version is None:
                own, shown_version = 0, _NULL
            else:
                aggregate.version = version
                own, shown_version = version - first + 1, b"%d" % version
            if own != number:
                self.renumbered += 1
            texts.append(text)
            if is_bare:
                line = _BARE % (counter, shown_type, timestamp, aggregate.shown, number, text)
            else:
                texts.append(rest)
                line = _ENVELOPED % (
                    counter, shown_type, timestamp, aggregate.shown, number, text,
                    name, position, shown_version, full_time, rest,
                )  # fmt: skip
            lines.append(line)
            positions.append(position)
            versions.append(own)
            last = self._last = position
            counter += 1

    def _check(self) -> None:
        """Refuse the payloads that no store takes; a glance at all of them tells that there are none, nearly always."""
        all_texts = b"\n%b\n" % b"\n".join(self._texts)
        if (
            _is_utf8(all_texts)
            and (b"\\" not in all_texts or lone_surrogate(all_texts) is None)
            and not may_have_long_exponent(all_texts)
            and not (max(map(len, self._texts), default=0) > SHALLOW and any(map(may_be_deep, self._texts)))
        ):
            return
        columns = ["data"] if self._is_bare else ["data", "metadata"]
        for place, text in enumerate(self._texts):
            try:
                _check_text(text)
            except InputError as error:
                number, column = divmod(place, len(columns))
                position = self.positions[number]
                del self.made[number:], self.positions[number:], self.versions[number:]
                raise SourceRowError(
                    error.reason, source=self._name, position=position, column=columns[column]
                ) from None

    def _new_aggregate(self, own_id: Any) -> Aggregate:
        name = _text(own_id)  # a number and its digits are one aggregate
        return self._aggregates.known.get(name) or self._aggregates.new(name, _name(self._prefix + name))

    def _new_type(self, event_type: Any) -> bytes:
        text = _name(_text(event_type))
        if type(event_type) is str:
            if len(self._types) >= _TYPES:
                self._types.clear()
            self._types[event_type] = text
        return text

    def _wrong_version(self, version: Any, aggregate: Aggregate) -> UndecodableError:
        if type(version) is not int or version < self._first:
            return UndecodableError(
                f"a version is a whole number from {self._first}, or null, not {shown(version)}"
            )
        return UndecodableError(
            f"version {version} of the aggregate {aggregate.shown.decode()} comes after its version "
            f"{aggregate.version}: if that is right, leave the versions out of the SELECT, and events are numbered as "
            "they come"
        )

    def _is_left_out(self, kind: Any) -> bool:
        if kind in self._kept:
            return False
        if kind not in ROW_KINDS:
            raise UndecodableError(f"a kind is one of {', '.join(ROW_KINDS)}, or null, not {shown(kind)}")
        self.skipped[kind] += 1
        return True

    def _pointed_time(self, data: bytes) -> Moment:
        if self._pointed is None:
            raise UndecodableError(
                "is null, and the mapping does not say where else the time is (time.pointer)"
            )
        found = self._pointed(msgspec.json.decode(data))
        if found is None:
            raise UndecodableError("there is no time in the data at the mapping's time.pointer")
        return self._any_time(found)


_NULL = b"null"

_BARE = (
    b'{"threadCounter":%d,"threadId":0,"type":%b,"timestamp":%d,"aggregateId":%b,"aggregateVersion":%d,'
    b'"payload":%b}\n'
)
_ENVELOPED = _BARE.replace(
    b"%b}\n", b'{"data":%b,"meta":{"id":%b,"position":%d,"version":%b,"time":"%b","metadata":%b}}}\n'
)

_TYPES = 10_000  # types whose JSON text is remembered

_MAX_POSITION = 2**63 - 1  # an unsigned one of MySQL may be beyond, and is refused

_ENCODE = msgspec.json.Encoder().encode


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_text(text: bytes) -> None:
    """Refuse a JSON text that no store takes."""
    if not _is_utf8(text):
        raise InputError("is not UTF-8")
    if lone_surrogate(text) is not None:
        raise InputError(LONE_SURROGATE)
    check_payload(text)


def _name(text: str) -> bytes:
    """An aggregate's id or a type, as JSON."""
    if len(text) > MAX_ID_LENGTH:
        raise UndecodableError(f"is longer than {MAX_ID_LENGTH} characters")
    return _ENCODE(text)


def _text(value: Any) -> str:
    """A name: text as it is, and numbers."""
    if type(value) is int:
        return str(value)
    if value == "":
        raise UndecodableError("is empty")
    if type(value) is not str:
        raise UndecodableError(f"a text is needed here, not {shown(value)}: cast it in the SELECT")
    if not value.isascii() or "\0" in value:
        check_text("", value)
    return value

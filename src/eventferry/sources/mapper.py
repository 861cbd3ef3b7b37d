"""A row of a foreign table becomes an event, and that a line."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import chain
from operator import eq
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from eventferry.errors import InputError, SourceRowError, UsageError
from eventferry.lines.limits import MAX_ID_LENGTH, check_text
from eventferry.lines.payload import SHALLOW, check_payload, may_be_deep, may_have_long_exponent
from eventferry.lines.spelling import LONE_SURROGATE, lone_surrogate
from eventferry.sources.aggregates import SourceAggregate, SourceAggregates
from eventferry.sources.decoding import NULL, UndecodableError, decoder, shown
from eventferry.sources.mapping import KEPT, OUTPUT, ROW_KINDS, Mapping, RowKind
from eventferry.sources.times import EPOCH, Moments, Times, pointed

T = TypeVar("T")

PayloadMode: TypeAlias = Literal["envelope", "data"]
"""What the payload of an event is: data and what else the source knows of it, or data alone."""

TimeKind: TypeAlias = Literal["microseconds", "local microseconds", "any"]
"""What a database gives as the time: microseconds since an epoch; those as if a time without a zone were UTC;
or a text or a number as it is stored."""


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
        epoch: since when it counts microseconds.
        columns: what a row has, in the order of `OUTPUT`, position first.
        plain: of these, which hold JSON that has no number with an exponent.

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
        epoch: datetime = EPOCH,
        columns: Sequence[str] = OUTPUT,
        plain: Iterable[str] = (),
    ) -> None:
        self._columns = [columns.index(name) if name in columns else None for name in _READ]
        self._name = mapping.name
        self._first = mapping.version.first
        self._prefix = mapping.aggregate.prefix
        self._is_bare = payload == "data"
        self._drops_metadata = drop_metadata
        self._kept = frozenset(kept)
        self._data = decoder(mapping.data.decode)
        self._metadata = decoder(mapping.metadata.decode)
        self._may_have_exponents = any(
            name in columns and (name not in plain or set(decoding.decode) - {"json"})
            for name, decoding in (("data", mapping.data), ("metadata", mapping.metadata))
        )
        counted, times = Times(mapping.time, epoch), Times(mapping.time)
        readers: dict[TimeKind, Callable[[Sequence[Any]], Moments]] = {
            "microseconds": counted.of_microseconds,
            "local microseconds": counted.of_local_microseconds,
            "any": times.of,
        }
        self._time = readers[time]
        self._any_time = times.of
        self._pointed = None if mapping.time.pointer is None else pointed(mapping.time.pointer)
        self._aggregates = SourceAggregates()
        self._types: dict[object, bytes] = {}
        self.skipped: Counter[str] = Counter()
        self.renumbered = 0
        self.events = 0
        self.made: list[bytes] = []
        self.positions: array[int] = array("q")
        self.versions: list[int] = []
        # Of these lines: the data, and in an envelope the metadata.
        self._texts: dict[str, list[bytes]] = {}
        self._last: int | None = None

    def lines(self, rows: Sequence[Sequence[Any]]) -> list[bytes]:
        """The lines of rows, in thread 0, with counters and versions that continue those of the rows before.

        Raises SourceRowError for the first row that does not become an event.
        """
        self.made, self.positions, self.versions = [], array("q"), []
        self._texts = {"data": []} if self._is_bare else {"data": [], "metadata": []}
        step = min(_ROWS, self._aggregates.at_hand)
        try:
            for start in range(0, len(rows), step):
                self._make(rows[start : start + step])
        finally:
            try:
                self._check()  # the trouble that it finds comes before that of a row
            finally:
                self.events += len(self.made)
                self._texts.clear()
        return self.made

    def _make(self, rows: Sequence[Sequence[Any]]) -> None:
        """Make the lines of some rows, a step of all of them at a time. Where a row fails, they are made one by one:
        the step at which that one then fails alone tells the column."""
        self._aggregates.make_room(len(rows))
        found = self._columns_of(rows)
        left_out: Counter[str] = Counter()
        kept = rows
        column = "position"
        try:
            positions, *_, kinds = found
            if set(map(type, positions)) != {int} or max(positions) > _MAX_POSITION:
                raise UndecodableError(
                    f"a position is a whole number of at most {_MAX_POSITION:,}, not {shown(positions[0])}"
                )
            column = "kind"
            left_out.update(filter(self._is_left_out, kinds))
            if left_out:
                kept = [row for row, kind in zip(rows, kinds, strict=True) if kind not in left_out]
                found = self._columns_of(kept)
            positions, own_ids, versions, types, times, data, metadata, ids, _ = found
            column = "position"
            if any(map(eq, positions, chain([self._last], positions))):
                raise UndecodableError(
                    "two rows have it, so their order is not known: a position is one row's alone, as a key is"
                )
            column = "aggregate"
            aggregates = _found(self._aggregates.known, own_ids, self._new_aggregate)
            column = "type"
            shown_types = _found(self._types, types, self._new_type)
            column = "data"
            texts = self._data(data)
            column = "metadata"
            rests = self._metadata(metadata)
            if self._is_bare and not self._drops_metadata and not _EMPTY.issuperset(rests):
                raise UndecodableError(
                    "is not empty, and the bare data leaves it out: say that it may be dropped (--drop-metadata)"
                )
            column = "time"
            milliseconds, moments = (
                self._time(times) if None not in times else self._pointed_times(times, texts)
            )
            column = "id"
            names = [NULL if event_id is None else _ENCODE(_text(event_id)) for event_id in ids]
        except (UndecodableError, InputError) as error:
            if len(rows) > 1:
                for row in rows:
                    self._make([row])
                return
            reason = error.reason if isinstance(error, InputError) else str(error)
            raise self._refusal(reason, rows[0][0], column) from None
        numbers, trouble = self._numbered(aggregates, versions)
        made = len(numbers)
        counters = range(self.events + len(self.made), self.events + len(self.made) + made)
        fields = (
            counters, shown_types, milliseconds, [each.shown for each in aggregates], numbers, texts,
        )  # fmt: skip
        # Of each column as many values are taken as there are counters.
        if self._is_bare:
            self.made += map(_BARE.__mod__, zip(*fields, strict=False))
        else:
            shown_versions = [NULL if version is None else b"%d" % version for version in versions]
            more = (names, positions, shown_versions, moments, rests)
            self.made += map(_ENVELOPED.__mod__, zip(*fields, *more, strict=False))
            self._texts["metadata"] += rests[:made]
        self._texts["data"] += texts[:made]
        self.positions.extend(positions[:made])
        if made:
            self._last = positions[made - 1]
        if trouble is not None:
            before = kinds[: rows.index(kept[made])]
            self.skipped.update(kind for kind in before if kind in left_out)
            raise self._refusal(trouble, positions[made], "version")
        self.skipped.update(left_out)

    def _columns_of(self, rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """What rows have of each column that is read."""
        given = list(zip(*rows, strict=True)) or [()] * len(self._columns)
        nulls = (None,) * len(rows)
        return [nulls if column is None else given[column] for column in self._columns]

    def _numbered(
        self, aggregates: Iterable[SourceAggregate], versions: Iterable[Any]
    ) -> tuple[list[int], str | None]:
        """The versions that events get, and what is wrong with the version behind the last of them."""
        first, owns = self._first, self.versions
        numbers: list[int] = []
        for aggregate, version in zip(aggregates, versions, strict=True):
            own = 0
            if version is not None:
                before = aggregate.version
                if type(version) is not int or version < first or (before is not None and version <= before):
                    return numbers, self._wrong_version(version, aggregate)
                aggregate.version = version
                own = version - first + 1
            aggregate.events = number = aggregate.events + 1
            if own != number:
                self.renumbered += 1
            numbers.append(number)
            owns.append(own)
        return numbers, None

    def _refusal(self, reason: str, position: Any, column: str) -> SourceRowError:
        known = position if type(position) is int else None
        return SourceRowError(reason, source=self._name, position=known, column=column)

    def _check(self) -> None:
        """Refuse the payloads that no store takes; a glance at all of them tells that there are none, nearly always."""
        all_texts = b"\n".join([b"", *chain.from_iterable(self._texts.values()), b""])
        if (
            _is_utf8(all_texts)
            and (b"\\" not in all_texts or lone_surrogate(all_texts) is None)
            and not (self._may_have_exponents and may_have_long_exponent(all_texts))
            and not any(
                max(map(len, texts), default=0) > SHALLOW and any(map(may_be_deep, texts))
                for texts in self._texts.values()
            )
        ):
            return
        for number, texts in enumerate(zip(*self._texts.values(), strict=True)):
            for column, text in zip(self._texts, texts, strict=True):
                try:
                    _check_text(text)
                except InputError as error:
                    position = self.positions[number]
                    del self.made[number:], self.positions[number:], self.versions[number:]
                    raise self._refusal(error.reason, position, column) from None

    def _new_aggregate(self, own_id: Any) -> SourceAggregate:
        name = _text(own_id)  # a number and its digits are one aggregate
        return self._aggregates.known.get(name) or self._aggregates.new(name, _name(self._prefix + name))

    def _new_type(self, event_type: Any) -> bytes:
        text = _name(_text(event_type))
        if type(event_type) is str:
            if len(self._types) >= _TYPES:
                self._types.clear()
            self._types[event_type] = text
        return text

    def _wrong_version(self, version: Any, aggregate: SourceAggregate) -> str:
        if type(version) is not int or version < self._first:
            return f"a version is a whole number from {self._first}, or null, not {shown(version)}"
        return (
            f"version {version} of the aggregate {aggregate.shown.decode()} comes after its version "
            f"{aggregate.version}: if that is right, leave the versions out of the SELECT, and events are numbered as "
            "they come"
        )

    def _is_left_out(self, kind: Any) -> bool:
        if kind is None or kind in self._kept:
            return False
        if kind not in ROW_KINDS:
            raise UndecodableError(f"a kind is one of {', '.join(ROW_KINDS)}, or null, not {shown(kind)}")
        return True

    def _pointed_times(self, times: Iterable[Any], texts: Iterable[bytes]) -> Moments:
        """The times where some are null, and may be in the data."""
        milliseconds: list[int] = []
        moments: list[bytes] = []
        for time, text in zip(times, texts, strict=True):
            found = self._time([time]) if time is not None else self._any_time([self._pointed_time(text)])
            milliseconds += found[0]
            moments += found[1]
        return milliseconds, moments

    def _pointed_time(self, data: bytes) -> Any:
        if self._pointed is None:
            raise UndecodableError(
                "is null, and the mapping does not say where else the time is (time.pointer)"
            )
        found = self._pointed(msgspec.json.decode(data))
        if found is None:
            raise UndecodableError("there is no time in the data at the mapping's time.pointer")
        return found


_EMPTY = frozenset((NULL, b"{}"))

_ROWS = 1000  # of which lines are made at a time, at most

_READ = OUTPUT[: OUTPUT.index("transaction")]

_BARE = (
    b'{"threadCounter":%d,"threadId":0,"type":%b,"timestamp":%d,"aggregateId":%b,"aggregateVersion":%d,'
    b'"payload":%b}\n'
)
_ENVELOPED = _BARE.replace(
    b"%b}\n", b'{"data":%b,"meta":{"id":%b,"position":%d,"version":%b,"time":"%b","metadata":%b}}}\n'
)

_TYPES = 10_000  # types whose JSON text is remembered

_MAX_POSITION = 2**63 - 1  # an unsigned one of MySQL may be beyond

_ENCODE = msgspec.json.Encoder().encode


def _found(known: dict[object, T], keys: Iterable[object], new: Callable[[Any], T]) -> list[T]:
    """What is known by these keys; `new` tells what is not."""
    try:
        return list(map(known.__getitem__, keys))
    except KeyError:
        return [known.get(key) or new(key) for key in keys]


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
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

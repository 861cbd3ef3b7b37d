"""Verify: are two sources of events equal?

By identity: every field of every event, at its position. By content, for stores that were merged and so have
other positions: the multiset of (timestamp, aggregateId, type, payload). Payloads are compared as JSON values.
Each side is read once, in turns; what has met its equal is forgotten. What waits for its equal waits in memory, and
beyond a bound in files, so that two stores in any order, however unlike, take no more.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Iterator
from contextlib import aclosing
from typing import Literal, TypeAlias

import msgspec

from eventferry.canonical import canonical
from eventferry.event import LineDecoder, NewRow, Row
from eventferry.lines import LineSplitter
from eventferry.pipeline import Source, blocks_of
from eventferry.spill import Spill

FIRST = 10
"""How many differences are told one by one."""

WAITING_BYTES = 48 * 1024 * 1024
"""How much may wait in memory, as it is counted here; with what Python adds it is about twice as much."""

_OVERHEAD = 250
"""About what a waiting row costs beside its texts."""


Kind: TypeAlias = Literal["missing", "extra", "changed"]


class Difference(msgspec.Struct, frozen=True, rename="camel"):
    """One difference.

    Attributes:
        kind: "missing" (only the first source has the event), "extra" (only the second), "changed".
        timestamp, aggregate_id, type: of the event.
        thread_id, thread_counter, aggregate_version: likewise; None in a comparison of content.
        fields: of a changed event, the fields that differ.
    """

    kind: Kind
    timestamp: int
    aggregate_id: str
    type: str
    thread_id: int | None = None
    thread_counter: int | None = None
    aggregate_version: int | None = None
    fields: tuple[str, ...] = ()


class VerifyReport(msgspec.Struct, frozen=True, rename="camel"):
    """What `verify` returns.

    Attributes:
        equal: whether there is no difference.
        events: how many the first source has.
        other_events: how many the second has.
        missing: events that only the first has.
        extra: events that only the second has.
        changed: events that both have at a position, but not alike.
        differences: the first of them.
    """

    equal: bool
    events: int
    other_events: int
    missing: int
    extra: int
    changed: int
    differences: list[Difference]


_FIELDS = ("threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type", "payload")
_Row: TypeAlias = Row | NewRow
_Side: TypeAlias = Literal[0, 1]


async def verify(
    source: Source, other: Source, *, content: bool = False, waiting_bytes: int = WAITING_BYTES
) -> VerifyReport:
    """Compare two sources of lines.

    Args:
        source: as of a pipeline: a store's export, any iterator of blocks, a file or its path.
        other: what should be equal to it.
        content: compare the multiset of (timestamp, aggregateId, type, payload) instead of all fields; lines then
            need no positions and versions.
        waiting_bytes: how much of what has not met its equal yet may wait in memory; the rest waits in files
            of the temporary directory.

    Raises:
        InputError: a line is no event.
    """
    decoder = LineDecoder()
    decode = decoder.new_row if content else decoder.row
    findings = _Findings()
    seen = [0, 0]
    comparison = _ByContent(findings) if content else _ByPosition(findings)
    with _spill(content=content) as spill:
        async with aclosing(_rows(source, decode)) as left, aclosing(_rows(other, decode)) as right:
            sides: list[tuple[_Side, AsyncGenerator[_Row, None]]] = [(0, left), (1, right)]
            while sides:
                for side, rows in list(sides):
                    row = await anext(rows, None)
                    if row is None:
                        sides.remove((side, rows))
                        continue
                    seen[side] += 1
                    comparison.add(row, side)
                if comparison.waiting > waiting_bytes:
                    spill.put(comparison.take())
        if spill.is_used:
            spill.put(comparison.take())
            for rows_of_file in spill.files():
                for row, side in rows_of_file:
                    comparison.add(row, side)
                findings.note_alone(comparison.take())
        else:
            findings.note_alone(comparison.take())
    return findings.report(seen)


def _spill(*, content: bool) -> Spill[tuple[_Row, _Side]]:
    if content:
        return Spill(tuple[NewRow, _Side], key=lambda record: record[0][:3])
    return Spill(tuple[Row, _Side], key=lambda record: record[0][:2])


async def _rows(source: Source, decode: Callable[[bytes], _Row]) -> AsyncGenerator[_Row, None]:
    splitter = LineSplitter()
    async for block in blocks_of(source):
        for _, row in splitter.feed(block).decoded(decode):
            yield row
    for _, row in splitter.finish().decoded(decode):
        yield row


class _Findings:
    """The differences: how many of each kind, and the first of all."""

    def __init__(self) -> None:
        self._counts: dict[Kind, int] = {"missing": 0, "extra": 0, "changed": 0}
        self._first: list[Difference] = []

    def note(self, kind: Kind, row: _Row, fields: tuple[str, ...] = ()) -> None:
        """Count a difference, and keep it if it is among the first."""
        self._counts[kind] += 1
        self._first.append(_difference(kind, row, fields))
        if len(self._first) >= 100 * FIRST:
            self._cut()

    def note_alone(self, rows: Iterable[tuple[_Row, _Side]]) -> None:
        """Rows that have no equal."""
        for row, side in rows:
            self.note("extra" if side else "missing", row)

    def _cut(self) -> None:
        self._first = heapq.nsmallest(FIRST, self._first, key=_place)

    def report(self, seen: list[int]) -> VerifyReport:
        """All of it."""
        self._cut()
        return VerifyReport(
            equal=not any(self._counts.values()),
            events=seen[0],
            other_events=seen[1],
            missing=self._counts["missing"],
            extra=self._counts["extra"],
            changed=self._counts["changed"],
            differences=self._first,
        )


def _place(difference: Difference) -> tuple[int, int, int, str, str]:
    """Where a difference stands in the order of events."""
    return (
        difference.timestamp,
        -1 if difference.thread_counter is None else difference.thread_counter,
        -1 if difference.thread_id is None else difference.thread_id,
        difference.aggregate_id,
        difference.type,
    )


class _Comparison:
    """The rows of two sides that have not met their equal yet.

    Attributes:
        waiting: about how many bytes they take.
    """

    def __init__(self, findings: _Findings) -> None:
        self.waiting = 0
        self._findings = findings

    def add(self, row: _Row, side: _Side) -> None:
        """Let a row meet its equal, or wait for it."""
        raise NotImplementedError

    def take(self) -> Iterator[tuple[_Row, _Side]]:
        """All rows that wait; none waits any more."""
        raise NotImplementedError


def _size(row: _Row) -> int:
    return len(row.payload) + len(row.aggregate_id) + len(row.type) + _OVERHEAD


class _ByPosition(_Comparison):
    """Two rows at one position belong together, and where they differ they are one that was changed."""

    def __init__(self, findings: _Findings) -> None:
        super().__init__(findings)
        self._sides: tuple[dict[Hashable, list[_Row]], dict[Hashable, list[_Row]]] = ({}, {})

    def add(self, row: _Row, side: _Side) -> None:
        others = self._sides[1 - side]
        key = row[:2]
        found = others.get(key)
        if found is None:
            self._sides[side].setdefault(key, []).append(row)
            self.waiting += _size(row)
            return
        other = found.pop(0)
        if not found:
            del others[key]
        self.waiting -= _size(other)
        if row != other:
            fields = [name for name, a, b in zip(_FIELDS[:-1], row, other, strict=False) if a != b]
            if row.payload != other.payload and canonical(row.payload) != canonical(other.payload):
                fields.append("payload")
            if fields:
                self._findings.note("changed", other if side else row, tuple(fields))

    def take(self) -> Iterator[tuple[_Row, _Side]]:
        sides, self._sides, self.waiting = self._sides, ({}, {}), 0
        for side in _SIDES:
            for rows in sides[side].values():
                for row in rows:
                    yield row, side


_SIDES: tuple[_Side, _Side] = (0, 1)
_Group: TypeAlias = tuple[int, str, str]


class _Payloads:
    """The payloads of one side's events in one group, told apart by their bytes, and by value where it matters.

    The canonical form costs far more than the rest of the comparison, so it is made only in a group in which the
    bytes alone did not decide, and once for each text.
    """

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}
        self._texts: dict[bytes, list[bytes]] | None = None

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, payload: bytes) -> None:
        """One more."""
        if payload not in self._counts and self._texts is not None:
            self._texts.setdefault(canonical(payload), []).append(payload)
        self._counts[payload] = self._counts.get(payload, 0) + 1

    def take(self, payload: bytes) -> bytes | None:
        """Take one of equal value out; None if there is none."""
        text = payload if payload in self._counts else self._of_equal_value(payload)
        if text is None:
            return None
        self._counts[text] -= 1
        if not self._counts[text]:
            del self._counts[text]
            if self._texts is not None:
                self._texts[canonical(text)].remove(text)
        return text

    def _of_equal_value(self, payload: bytes) -> bytes | None:
        if self._texts is None:
            self._texts = defaultdict(list)
            for text in self._counts:
                self._texts[canonical(text)].append(text)
        texts = self._texts.get(canonical(payload))
        return texts[0] if texts else None

    def all(self) -> Iterator[bytes]:
        """Each as often as it is there."""
        for payload, count in self._counts.items():
            for _ in range(count):
                yield payload


class _ByContent(_Comparison):
    """Rows of equal timestamp, aggregateId, type and payload belong together."""

    def __init__(self, findings: _Findings) -> None:
        super().__init__(findings)
        self._sides: tuple[dict[_Group, _Payloads], dict[_Group, _Payloads]] = ({}, {})

    def add(self, row: _Row, side: _Side) -> None:
        group = row.timestamp, row.aggregate_id, row.type
        others = self._sides[1 - side].get(group)
        if others is not None:
            met = others.take(row.payload)
            if met is not None:
                if not others:
                    del self._sides[1 - side][group]
                self.waiting -= _size(row) - len(row.payload) + len(met)
                return
        own = self._sides[side].get(group)
        if own is None:
            own = self._sides[side][group] = _Payloads()
        own.add(row.payload)
        self.waiting += _size(row)

    def take(self) -> Iterator[tuple[_Row, _Side]]:
        sides, self._sides, self.waiting = self._sides, ({}, {}), 0
        for side in _SIDES:
            for (timestamp, aggregate_id, event_type), payloads in sides[side].items():
                for payload in payloads.all():
                    yield NewRow(timestamp, aggregate_id, event_type, payload), side


def _difference(kind: Kind, row: _Row, fields: tuple[str, ...] = ()) -> Difference:
    if isinstance(row, NewRow):
        return Difference(kind, row.timestamp, row.aggregate_id, row.type)
    return Difference(
        kind,
        row.timestamp,
        row.aggregate_id,
        row.type,
        row.thread_id,
        row.thread_counter,
        row.aggregate_version,
        fields,
    )

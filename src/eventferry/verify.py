"""Verify: are two sources of events equal?

By identity: every field of every event, at its position. By content, for stores that were merged and so have
other positions: the multiset of (timestamp, aggregateId, type, payload). Payloads are compared as JSON values.
Each side is read once; what has met its equal is forgotten.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing
from typing import Literal, TypeAlias

import msgspec

from eventferry.canonical import canonical
from eventferry.event import LineDecoder, NewRow, Row
from eventferry.lines import LineSplitter
from eventferry.pipeline import Source, blocks_of

FIRST = 10
"""How many differences are told one by one."""


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
_EMPTY: list[_Row] = []


async def verify(source: Source, other: Source, *, content: bool = False) -> VerifyReport:
    """Compare two sources of lines.

    Args:
        source: as of a pipeline: a store's export, any iterator of blocks, a file or its path.
        other: what should be equal to it.
        content: compare the multiset of (timestamp, aggregateId, type, payload) instead of all fields; lines then
            need no positions and versions.

    Raises:
        InputError: a line is no event.
    """
    comparison = _ByContent() if content else _ByPosition()
    decoder = LineDecoder()
    decode = decoder.new_row if content else decoder.row
    async with aclosing(_rows(source, decode)) as left, aclosing(_rows(other, decode)) as right:
        row, other_row = await anext(left, None), await anext(right, None)
        while row is not None or other_row is not None:
            if row is not None:
                comparison.add(row, 0)
                row = await anext(left, None)
            if other_row is not None:
                comparison.add(other_row, 1)
                other_row = await anext(right, None)
    return comparison.report()


async def _rows(source: Source, decode: Callable[[bytes], _Row]) -> AsyncGenerator[_Row, None]:
    splitter = LineSplitter()
    async for block in blocks_of(source):
        for _, row in splitter.feed(block).decoded(decode):
            yield row
    for _, row in splitter.finish().decoded(decode):
        yield row


def _same_payload(row: _Row, other: _Row) -> bool:
    return row.payload == other.payload or canonical(row.payload) == canonical(other.payload)


class _Comparison:
    """Two piles of rows that have not met their equal yet."""

    def __init__(self) -> None:
        self._waiting: tuple[dict[Hashable, list[_Row]], dict[Hashable, list[_Row]]] = ({}, {})
        self._seen = [0, 0]
        self.changed = 0
        self.differences: list[Difference] = []

    def key(self, row: _Row) -> Hashable:
        """What two rows must share to be compared at all."""
        raise NotImplementedError

    def meets(self, row: _Row, other: _Row) -> bool:
        """Whether the two belong together; where they differ all the same, the difference is noted."""
        raise NotImplementedError

    def add(self, row: _Row, side: Literal[0, 1]) -> None:
        """Let a row of one side meet its equal, or wait for it."""
        self._seen[side] += 1
        key = self.key(row)
        others = self._waiting[1 - side].get(key, _EMPTY)
        for place, other in enumerate(others):
            if self.meets(*((other, row) if side else (row, other))):
                del others[place]
                if not others:
                    del self._waiting[1 - side][key]
                return
        self._waiting[side].setdefault(key, []).append(row)

    def report(self) -> VerifyReport:
        """What is left has no equal."""
        missing, extra = ([row for rows in pile.values() for row in rows] for pile in self._waiting)
        differences = self.differences[:FIRST]
        kinds: tuple[tuple[Kind, list[_Row]], ...] = (("missing", missing), ("extra", extra))
        for kind, rows in kinds:
            differences += [_difference(kind, row) for row in rows[: FIRST - len(differences)]]
        return VerifyReport(
            equal=not (missing or extra or self.changed),
            events=self._seen[0],
            other_events=self._seen[1],
            missing=len(missing),
            extra=len(extra),
            changed=self.changed,
            differences=differences,
        )


class _ByPosition(_Comparison):
    def key(self, row: _Row) -> Hashable:
        return row[:2]

    def meets(self, row: _Row, other: _Row) -> bool:
        if row != other:
            fields = [name for name, a, b in zip(_FIELDS[:-1], row, other, strict=False) if a != b]
            if not _same_payload(row, other):
                fields.append("payload")
            if fields:
                self.changed += 1
                if len(self.differences) < FIRST:
                    self.differences.append(_difference("changed", row, tuple(fields)))
        return True


class _ByContent(_Comparison):
    def key(self, row: _Row) -> Hashable:
        return row[:3]

    def meets(self, row: _Row, other: _Row) -> bool:
        return _same_payload(row, other)


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

"""Verify: are two sources of events equal?

By identity: every field of every event, at its position. By content, for stores that were merged and so have
other positions: the multiset of (timestamp, aggregateId, type, payload). Payloads are compared as JSON values.
Each side is read once; what has met its equal is forgotten.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Hashable
from typing import Literal, TypeAlias

import msgspec

from eventferry.canonical import canonical
from eventferry.event import LineDecoder, Row
from eventferry.lines import LineSplitter

FIRST = 10
"""How many differences are told one by one."""


class Difference(msgspec.Struct, frozen=True, rename="camel"):
    """One difference.

    Attributes:
        kind: "missing" (only the first source has the event), "extra" (only the second), "changed".
        event: the event, as its line without the payload's text.
        fields: of a changed event, the fields that differ.
    """

    kind: Literal["missing", "extra", "changed"]
    thread_id: int
    thread_counter: int
    timestamp: int
    aggregate_id: str
    aggregate_version: int
    type: str
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
_Key: TypeAlias = Hashable
_EMPTY: list[Row] = []


async def verify(
    source: AsyncIterable[bytes], other: AsyncIterable[bytes], *, content: bool = False
) -> VerifyReport:
    """Compare two sources of lines.

    Args:
        source: blocks of lines, such as a store's export or a file.
        other: what should be equal to it.
        content: compare the multiset of (timestamp, aggregateId, type, payload) instead of all fields.

    Raises:
        InputError: a line is no event.
    """
    comparison = _Comparison(_content_key if content else _position_key, content=content)
    left, right = _rows(source), _rows(other)
    row, other_row = await anext(left, None), await anext(right, None)
    while row is not None or other_row is not None:
        if row is not None:
            comparison.add(row, 0)
            row = await anext(left, None)
        if other_row is not None:
            comparison.add(other_row, 1)
            other_row = await anext(right, None)
    return comparison.report()


async def _rows(source: AsyncIterable[bytes]) -> AsyncIterator[Row]:
    splitter, decoder = LineSplitter(), LineDecoder()
    async for block in source:
        for _, row in splitter.feed(block).decoded(decoder.row):
            yield row
    for _, row in splitter.finish().decoded(decoder.row):
        yield row


def _position_key(row: Row) -> _Key:
    return row.thread_id, row.thread_counter


def _content_key(row: Row) -> _Key:
    return row.timestamp, row.aggregate_id, row.type


def _same_payload(row: Row, other: Row) -> bool:
    return row.payload == other.payload or canonical(row.payload) == canonical(other.payload)


class _Comparison:
    """Two piles of rows that have not met their equal yet."""

    def __init__(self, key: Callable[[Row], _Key], *, content: bool) -> None:
        self._key = key
        self._content = content
        self._waiting: tuple[dict[_Key, list[Row]], dict[_Key, list[Row]]] = ({}, {})
        self._seen = [0, 0]
        self._changed = 0
        self._differences: list[Difference] = []

    def add(self, row: Row, side: Literal[0, 1]) -> None:
        self._seen[side] += 1
        key = self._key(row)
        others = self._waiting[1 - side].get(key, _EMPTY)
        for place, other in enumerate(others):
            if self._content:
                if not _same_payload(row, other):
                    continue
            else:
                self._note_changes(row, other, side)
            del others[place]
            if not others:
                del self._waiting[1 - side][key]
            return
        self._waiting[side].setdefault(key, []).append(row)

    def _note_changes(self, row: Row, other: Row, side: int) -> None:
        if row == other or (row[:-1] == other[:-1] and _same_payload(row, other)):
            return
        self._changed += 1
        if len(self._differences) < FIRST:
            fields = [name for name, a, b in zip(_FIELDS[:-1], row, other, strict=False) if a != b]
            if not _same_payload(row, other):
                fields.append("payload")
            self._differences.append(_difference("changed", other if side else row, tuple(fields)))

    def report(self) -> VerifyReport:
        missing, extra = ([row for rows in pile.values() for row in rows] for pile in self._waiting)
        differences = list(self._differences)
        for kind, rows in (("missing", missing), ("extra", extra)):
            room = FIRST - len(differences)
            differences += [_difference(kind, row, ()) for row in rows[: max(room, 0)]]  # type: ignore[arg-type]
        return VerifyReport(
            equal=not (missing or extra or self._changed),
            events=self._seen[0],
            other_events=self._seen[1],
            missing=len(missing),
            extra=len(extra),
            changed=self._changed,
            differences=differences,
        )


def _difference(
    kind: Literal["missing", "extra", "changed"], row: Row, fields: tuple[str, ...]
) -> Difference:
    return Difference(
        kind,
        row.thread_id,
        row.thread_counter,
        row.timestamp,
        row.aggregate_id,
        row.aggregate_version,
        row.type,
        fields,
    )

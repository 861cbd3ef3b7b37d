"""Verify: are two sources of events equal?

By position: every field of every event. By content, for merged stores, which have other positions: the multiset of
(timestamp, aggregateId, type, payload). Payloads are compared as JSON values. Each source is read once; see
`side_by_side.py`. Of a copy that was changed on its way, what the changes make of the source is compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import AsyncExitStack
from typing import Literal, TypeAlias, TypeVar

import msgspec

from eventferry.changing.changes import Changes
from eventferry.changing.erased import Erased
from eventferry.comparing.abreast import Abreast
from eventferry.comparing.canonical import canonical, is_equal
from eventferry.comparing.side_by_side import WAITING_BYTES, Comparison, DifferenceKind, Side
from eventferry.errors import UsageError
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Event, NewRow, Row
from eventferry.lines.marker import archive_of
from eventferry.lines.payload import decode_payload
from eventferry.lines.piping import Source, blocks_of
from eventferry.looking.differences import Change, changes_between

_OVERHEAD = 250  # approximate size of a waiting row, beside its strings


class Difference(msgspec.Struct, frozen=True, rename="camel"):
    """One difference.

    Attributes:
        kind: "missing" (only the first source has the event), "extra" (only the second), "changed".
        timestamp, aggregate_id, type: of the event.
        thread_id, thread_counter, aggregate_version: of the event; None if content is compared.
        fields: for a changed event, the fields that differ.
    """

    kind: DifferenceKind
    timestamp: int
    aggregate_id: str
    type: str
    thread_id: int | None = None
    thread_counter: int | None = None
    aggregate_version: int | None = None
    fields: tuple[str, ...] = ()


class SideBySide(msgspec.Struct, frozen=True, rename="camel"):
    """A difference with the events of both sides.

    Attributes:
        difference: what differs.
        event: of the first source; None for "extra". If content is compared it has no position and no version.
        other: of the second source; None for "missing".
        changes: for a changed event, what differs between the payloads.
    """

    difference: Difference
    event: Event | None
    other: Event | None
    changes: list[Change]


class VerifyReport(msgspec.Struct, frozen=True, rename="camel"):
    """What `verify` returns.

    Attributes:
        equal: True if there are no differences.
        events: number of events of the first source.
        other_events: number of events of the second source.
        missing: events that only the first source has.
        extra: events that only the second source has.
        changed: events that differ at the same position.
        differences: the first differences.
        archived: events that are archived on one side, whose payloads so were not compared, and all else is equal. Only
            where that was asked for; otherwise they are changed.
    """

    equal: bool
    events: int
    other_events: int
    missing: int
    extra: int
    changed: int
    differences: list[Difference]
    archived: int = 0


R = TypeVar("R", Row, NewRow)
_FIELDS = ("threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type", "payload")


async def verify(
    source: Source,
    other: Source,
    *,
    content: bool = False,
    changes: Changes | None = None,
    erased: Erased | None = None,
    archived: bool = False,
    other_grows: bool = False,
    waiting_bytes: int = WAITING_BYTES,
    tell: Callable[[SideBySide], None] | None = None,
) -> VerifyReport:
    """Compare two sources of lines.

    Args:
        source: as for `pipeline`: a store's export, an iterator of blocks, a file or its path.
        other: the source to compare it with.
        content: compare the multiset of (timestamp, aggregateId, type, payload) instead of all fields; lines then
            need no positions or versions.
        changes: with which `other` was made of `source`: they are made again, and their events compared. What a sync
            brought comes in the order in which it arrived, which may be another than that of an export where clocks
            differ: compare its content.
        erased: what was erased from one of the two (`EventStore.erased`): it is erased from both before they are
            compared. So an older copy is equal to a store from which something was erased since.
        archived: accept the marker of an archived event for any payload, and count it. Not with `content`.
        other_grows: compare only as many events of `other`, its first, as the (changed) source has.
        waiting_bytes: memory for events that have not been matched yet; more are written to temporary files.
        tell: called with every difference, as it is found; the report holds only the first ones.

    Raises:
        InputError: a line is not an event.
    """
    if content and archived:
        raise UsageError("the content of archived events cannot be compared: choose content or archived")
    comparison = _ByContent(tell) if content else _ByPosition(tell, archived=archived)
    async with AsyncExitStack() as stack:
        if changes is not None:
            source = changes(_closed_by(stack, blocks_of(source)))
        if erased:
            source, other = (erased(_closed_by(stack, blocks_of(each))) for each in (source, other))
        if other_grows:
            pair = Abreast(*(_closed_by(stack, blocks_of(each)) for each in (source, other)))
            source, other = pair.first(), pair.second()
        events, other_events = await comparison.run(source, other, waiting_bytes)
    return VerifyReport(
        events=events,
        other_events=other_events,
        archived=0 if isinstance(comparison, _ByContent) else comparison.archived,
        **comparison.outcome(),
    )


def _closed_by(stack: AsyncExitStack, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if hasattr(blocks, "aclose"):
        stack.push_async_callback(blocks.aclose)
    return blocks


def _event(row: Row | NewRow) -> Event:
    return Event(**row._asdict() | {"payload": decode_payload(row.payload)})


class _Events(Comparison[R, Difference]):
    """What both ways have in common."""

    _tell: Callable[[SideBySide], None] | None

    def tell(self, difference: Difference, row: R, other: R) -> None:
        if self._tell is not None:
            event = None if difference.kind == "extra" else _event(row)
            counterpart = None if difference.kind == "missing" else _event(other)
            changes = (
                []
                if event is None or counterpart is None
                else changes_between(event.payload, counterpart.payload)
            )
            self._tell(SideBySide(difference, event, counterpart, changes))

    def are_equal(self, row: R, other: R) -> bool:
        return row[:-1] == other[:-1] and is_equal(row.payload, other.payload)

    def size(self, row: R) -> int:
        return len(row.payload) + len(row.aggregate_id) + len(row.type) + _OVERHEAD

    def place(self, difference: Difference) -> tuple[int, int, int, str, str]:
        return (
            difference.timestamp,
            -1 if difference.thread_counter is None else difference.thread_counter,
            -1 if difference.thread_id is None else difference.thread_id,
            difference.aggregate_id,
            difference.type,
        )


class _ByPosition(_Events[Row]):
    """Rows with the same position match; if other fields differ, the event was changed.

    Attributes:
        archived: how many have a marker on one side, which was to be accepted.
    """

    def __init__(self, tell: Callable[[SideBySide], None] | None, *, archived: bool) -> None:
        super().__init__(Row, LineDecoder().row)
        self._tell = tell
        self._accepts_markers = archived
        self.archived = 0

    def are_equal(self, row: Row, other: Row) -> bool:
        if row[:-1] != other[:-1]:
            return False
        payloads = self._payloads(row, other)
        self.archived += payloads == "archived"
        return payloads != "differ"

    def _payloads(self, row: Row, other: Row) -> Literal["equal", "archived", "differ"]:
        """How the payloads of two events compare; "archived" where one is a marker that is to be accepted."""
        if is_equal(row.payload, other.payload):
            return "equal"
        if self._accepts_markers and (archive_of(row.payload) or archive_of(other.payload)):
            return "archived"
        return "differ"

    def key(self, row: Row) -> Hashable:
        return row[:2]

    def difference(self, kind: DifferenceKind, row: Row, other: Row) -> Difference | None:
        fields: list[str] = []
        if kind == "changed":
            fields = [name for name, a, b in zip(_FIELDS[:-1], row, other, strict=False) if a != b]
            payloads = self._payloads(row, other)
            if payloads == "differ":
                fields.append("payload")
            if not fields:
                self.archived += payloads == "archived"
                return None
        thread, counter, timestamp, aggregate_id, version, event_type, _ = row
        return Difference(kind, timestamp, aggregate_id, event_type, thread, counter, version, tuple(fields))


_Group: TypeAlias = tuple[int, str, str]


class _Payloads:
    """The payloads of one source in one group, compared by bytes first, and by value if needed.

    The canonical form is far more expensive than the rest of the comparison. So it is computed only in groups where
    the bytes did not match, and once per text.
    """

    def __init__(self) -> None:
        self.counts: Counter[bytes] = Counter()
        self._texts: dict[bytes, list[bytes]] | None = None

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, payload: bytes) -> None:
        if payload not in self.counts and self._texts is not None:
            self._texts.setdefault(canonical(payload), []).append(payload)
        self.counts[payload] += 1

    def take(self, payload: bytes) -> bytes | None:
        """Remove and return a payload of equal value; None if there is none."""
        if payload not in self.counts:
            if self._texts is None:
                self._texts = defaultdict(list)
                for text in self.counts:
                    self._texts[canonical(text)].append(text)
            texts = self._texts.get(canonical(payload))
            if not texts:
                return None
            payload = texts[0]
        self.counts[payload] -= 1
        if not self.counts[payload]:
            del self.counts[payload]
            if self._texts is not None:
                self._texts[canonical(payload)].remove(payload)
        return payload


class _ByContent(_Events[NewRow]):
    """Rows with equal timestamp, aggregateId, type and payload match."""

    _sides: tuple[dict[_Group, _Payloads], dict[_Group, _Payloads]]

    def __init__(self, tell: Callable[[SideBySide], None] | None) -> None:
        super().__init__(NewRow, LineDecoder().new_row)
        self._tell = tell

    def value(self, row: NewRow) -> Hashable:
        """Not only the group: it may hold a million events."""
        return *row[:3], canonical(row.payload)

    def difference(self, kind: DifferenceKind, row: NewRow, other: NewRow) -> Difference:
        return Difference(kind, *row[:3])

    def add(self, row: NewRow, side: Side) -> None:
        group = row[:3]
        others = self._sides[1 - side].get(group)
        if others is not None and (equal := others.take(row.payload)) is not None:
            if not others:
                del self._sides[1 - side][group]
            self._waiting -= self.size(row) - len(row.payload) + len(equal)
            return
        own = self._sides[side].get(group)
        if own is None:
            own = self._sides[side][group] = _Payloads()
        own.add(row.payload)
        self._waiting += self.size(row)

    def waiting(self, side: Side) -> Iterator[NewRow]:
        for group, payloads in self._sides[side].items():
            for payload in payloads.counts.elements():
                yield NewRow(*group, payload)

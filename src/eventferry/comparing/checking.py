"""Check: is a single source sound?

Reads every line once. Malformed lines, duplicate positions and duplicate versions make a source unsound. Gaps in
counters or versions, and timestamps that go backwards, are only reported: foreign stores may have them, and eventferry
keeps them as they are. For a store, the database also checks that counters and indexes agree with the events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from eventferry.comparing.spill import Spill
from eventferry.errors import DatabaseError, InputError, StoreUnreachableError
from eventferry.lifecycle import aclosing
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Row
from eventferry.lines.files import Blocks
from eventferry.lines.piping import Source, Transform, blocks_of
from eventferry.store import EventStore

FIRST = 10  # how many remarks of each kind are reported one by one
MAX_FAULTS = 100  # after how many faults a database stops looking for more
VERSIONS_IN_MEMORY = 200_000  # how many versions are kept in memory; more are written to temporary files

RemarkKind: TypeAlias = Literal[
    "malformed",
    "duplicate position",
    "duplicate version",
    "missing counters",
    "missing versions",
    "backward timestamp",
    "fault",
    "not checked",
]
_UNSOUND: tuple[RemarkKind, ...] = ("malformed", "duplicate position", "duplicate version", "fault")


class Remark(msgspec.Struct, frozen=True, rename="camel"):
    """One finding.

    Attributes:
        kind: of the finding.
        text: a description with the place.
    """

    kind: RemarkKind
    text: str


class CheckReport(msgspec.Struct, frozen=True, rename="camel"):
    """What `check` returns.

    Attributes:
        sound: True if every line is an event, there are no duplicate positions or versions, and the database finds
            no fault.
        events: number of events.
        threads: number of threads with events.
        aggregates: number of aggregates.
        malformed: lines that are not events.
        duplicate_positions: events whose position another event has.
        duplicate_versions: events whose version another event of the aggregate has.
        missing_counters: gaps in the counters of threads, counted from 0.
        missing_versions: gaps in the versions of aggregates, counted from 1.
        backward_timestamps: events with a lower timestamp than the event before in their thread.
        faults: for a store, what is wrong with its counters and indexes; at most about 100.
        unchecked: for a store, what could not be checked; for a compressed file, 1 if it has no checksum.
        remarks: the first remarks of each kind.
    """

    sound: bool
    events: int
    threads: int
    aggregates: int
    malformed: int
    duplicate_positions: int
    duplicate_versions: int
    missing_counters: int
    missing_versions: int
    backward_timestamps: int
    faults: int
    unchecked: int
    remarks: list[Remark]


async def check(source: Source | EventStore, *transforms: Transform) -> CheckReport:
    """Check a store, or one source of lines.

    Args:
        source: a store, whose events, counters and indexes are checked (this needs only permission to read); or a
            source as for `pipeline`: an iterator of blocks, a file or its path. The events of each thread must come
            in the order of their counters, as exports write them.
        transforms: applied to the blocks, as in `pipeline`.
    """
    remarks = _Remarks()
    if isinstance(source, EventStore):
        inspection = await source._inspect(MAX_FAULTS)
        for text in inspection.faults:
            remarks.add("fault", text)
        for text in inspection.unchecked:
            remarks.add("not checked", text)
        source = source.export_events()
    blocks = reading = blocks_of(source)
    for transform in transforms:
        blocks = aiter(transform(blocks))
    threads = _Threads(remarks)
    events = 0
    waiting: Spill[tuple[str, int]] = Spill(tuple[str, int], key=lambda version: version[0])
    with waiting as spill:
        versions: list[tuple[str, int]] = []
        async with aclosing(_rows(blocks, remarks)) as rows:
            async for row in rows:
                events += 1
                threads.add(row)
                versions.append((row.aggregate_id, row.aggregate_version))
                if len(versions) >= VERSIONS_IN_MEMORY:
                    spill.put(versions)
                    versions = []
        if isinstance(reading, Blocks) and reading.is_unchecked:
            remarks.add("not checked", "the compressed file has no checksum, so damage may go unnoticed")
        if spill.is_used:
            spill.put(versions)
            aggregates = sum(_check_versions(part, remarks) for part in spill.files())
        else:
            aggregates = _check_versions(versions, remarks)
    return CheckReport(
        sound=not any(remarks.counts[kind] for kind in _UNSOUND),
        events=events,
        threads=len(threads.next_counters),
        aggregates=aggregates,
        malformed=remarks.counts["malformed"],
        duplicate_positions=remarks.counts["duplicate position"],
        duplicate_versions=remarks.counts["duplicate version"],
        missing_counters=remarks.counts["missing counters"],
        missing_versions=remarks.counts["missing versions"],
        backward_timestamps=remarks.counts["backward timestamp"],
        faults=remarks.counts["fault"],
        unchecked=remarks.counts["not checked"],
        remarks=remarks.first,
    )


async def _rows(blocks: AsyncIterator[bytes], remarks: _Remarks) -> AsyncGenerator[Row, None]:
    splitter, decoder = LineSplitter(), LineDecoder()
    try:
        async for block in blocks:
            for row in _decoded(splitter.feed(block), decoder, remarks):
                yield row
    except DatabaseError as error:
        # If the database has found faults already, a failing read is one more of them.
        if isinstance(error, StoreUnreachableError) or not remarks.counts["fault"]:
            raise
        remarks.add("fault", f"the events cannot be read completely: {error}")
        return
    for row in _decoded(splitter.finish(), decoder, remarks):
        yield row


def _decoded(lines: Lines, decoder: LineDecoder, remarks: _Remarks) -> Iterator[Row]:
    for number, text in lines.numbered:
        try:
            yield decoder.row(text)
        except InputError as error:
            remarks.add("malformed", f"line {number}: {error}")


class _Remarks:
    """The number of remarks of each kind, and the first ones."""

    def __init__(self) -> None:
        self.counts: Counter[RemarkKind] = Counter()
        self.first: list[Remark] = []
        self._told: Counter[RemarkKind] = Counter()

    def add(self, kind: RemarkKind, text: str, count: int = 1) -> None:
        self.counts[kind] += count
        if self._told[kind] < FIRST:
            self._told[kind] += 1
            self.first.append(Remark(kind, text))


class _Threads:
    def __init__(self, remarks: _Remarks) -> None:
        self._remarks = remarks
        self._timestamps: dict[int, int] = {}
        self.next_counters: dict[int, int] = {}

    def add(self, row: Row) -> None:
        thread, counter = row.thread_id, row.thread_counter
        expected = self.next_counters.get(thread, 0)
        place = f"thread {thread} counter {counter}"
        if counter < expected:
            self._remarks.add("duplicate position", f"{place} is repeated, or out of order")
            return
        if counter > expected:
            missing = f"{expected}" if counter == expected + 1 else f"{expected} to {counter - 1}"
            self._remarks.add("missing counters", f"thread {thread} lacks {missing}", counter - expected)
        before = self._timestamps.get(thread)
        if before is not None and row.timestamp < before:
            self._remarks.add("backward timestamp", f"{place}: {row.timestamp} follows {before}")
        self._timestamps[thread] = row.timestamp
        self.next_counters[thread] = counter + 1


def _check_versions(versions: Iterable[tuple[str, int]], remarks: _Remarks) -> int:
    """Check the versions of whole aggregates; returns the number of aggregates."""
    aggregates = 0
    current: str | None = None
    expected = 1
    for aggregate_id, version in sorted(versions):
        if aggregate_id != current:
            aggregates += 1
            current, expected = aggregate_id, 1
        if version < expected:
            remarks.add("duplicate version", f"aggregate {aggregate_id!r} has version {version} again")
            continue
        if version > expected:
            missing = f"{expected}" if version == expected + 1 else f"{expected} to {version - 1}"
            remarks.add("missing versions", f"aggregate {aggregate_id!r} lacks {missing}", version - expected)
        expected = version + 1
    return aggregates

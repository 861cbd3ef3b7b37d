"""Check: is one source sound, all by itself?

Looks at every line once: whether it is an event, whether a position or a version of an aggregate is there twice
(unsound), and where counters or versions are left out or timestamps fall within a thread (told, for foreign stores
may have that, and eventferry keeps it as it comes). Of a store, the database itself is asked too: whether its counters
and indexes agree with the events.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import Literal, TypeAlias, get_args

import msgspec

from eventferry.comparing.spill import Spill
from eventferry.errors import DatabaseError, InputError, StoreUnreachableError
from eventferry.lines.blocks import LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Row
from eventferry.lines.files import Blocks
from eventferry.lines.piping import Source, Transform, blocks_of
from eventferry.store import EventStore

FIRST = 10
"""How many remarks of each kind are told one by one."""

MAX_FAULTS = 100
"""After how many faults a database need not look for more."""

VERSIONS_IN_MEMORY = 200_000
"""How many versions are kept in memory; more of them wait in files."""

RemarkKind: TypeAlias = Literal[
    "malformed",
    "doubled position",
    "doubled version",
    "missing counters",
    "missing versions",
    "falling timestamp",
    "fault",
    "not checked",
]
_UNSOUND: tuple[RemarkKind, ...] = ("malformed", "doubled position", "doubled version", "fault")


class Remark(msgspec.Struct, frozen=True, rename="camel"):
    """Something about one place.

    Attributes:
        kind: what it is.
        text: it in words, with the place.
    """

    kind: RemarkKind
    text: str


class CheckReport(msgspec.Struct, frozen=True, rename="camel"):
    """What `check` returns.

    Attributes:
        sound: whether every line is an event, no position and no version is there twice, and the database finds
            no fault.
        events: how many there are.
        threads: how many threads they are in.
        aggregates: how many aggregates they are of.
        malformed: lines that are no events.
        doubled_positions: events at a position that another one has.
        doubled_versions: events with a version that another event of the aggregate has.
        missing_counters: counters left out within threads, from 0 on.
        missing_versions: versions left out within aggregates, from 1 on.
        falling_timestamps: events with a lower timestamp than the one before in their thread.
        faults: of a store, what the database finds wrong with its counters and indexes; at most about 100.
        unchecked: of a store, what the database could not look at; of a packed file, that it has no checksum.
        remarks: the first of each kind.
    """

    sound: bool
    events: int
    threads: int
    aggregates: int
    malformed: int
    doubled_positions: int
    doubled_versions: int
    missing_counters: int
    missing_versions: int
    falling_timestamps: int
    faults: int
    unchecked: int
    remarks: list[Remark]


async def check(source: Source | EventStore, *transforms: Transform) -> CheckReport:
    """Look at a store, or at one source of lines.

    Args:
        source: a store, whose lines, counters and indexes are looked at, with no more than the right to read; or
            lines alone, as of a pipeline: any iterator of blocks, a file or its path. Events of a thread come in
            order of their counters, as every export gives them.
        transforms: what the blocks of lines pass on their way, as in a pipeline.
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
            remarks.add("not checked", "the packed file has no checksum: a wrong bit in it can go unseen")
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
        doubled_positions=remarks.counts["doubled position"],
        doubled_versions=remarks.counts["doubled version"],
        missing_counters=remarks.counts["missing counters"],
        missing_versions=remarks.counts["missing versions"],
        falling_timestamps=remarks.counts["falling timestamp"],
        faults=remarks.counts["fault"],
        unchecked=remarks.counts["not checked"],
        remarks=remarks.first,
    )


async def _rows(blocks: AsyncIterator[bytes], remarks: _Remarks) -> AsyncGenerator[Row, None]:
    splitter, decoder = LineSplitter(), LineDecoder()
    try:
        async for block in blocks:
            for row in _decoded(splitter.feed(block).texts, decoder, remarks):
                yield row
    except DatabaseError as error:
        # Where the database has found faults already, that reading ends at one is no news.
        if isinstance(error, StoreUnreachableError) or not remarks.counts["fault"]:
            raise
        remarks.add("fault", f"the events cannot be read to their end: {error}")
        return
    for row in _decoded(splitter.finish().texts, decoder, remarks):
        yield row


def _decoded(texts: Iterable[bytes], decoder: LineDecoder, remarks: _Remarks) -> Iterator[Row]:
    for text in texts:
        remarks.line += 1
        if not text or text.isspace():
            continue
        try:
            yield decoder.row(text)
        except InputError as error:
            remarks.add("malformed", f"line {remarks.line}: {error}")


class _Remarks:
    """How many remarks there are of each kind, and the first ones."""

    def __init__(self) -> None:
        self.counts: dict[RemarkKind, int] = dict.fromkeys(get_args(RemarkKind), 0)
        self.first: list[Remark] = []
        self.line = 0
        self._told: dict[RemarkKind, int] = dict.fromkeys(get_args(RemarkKind), 0)

    def add(self, kind: RemarkKind, text: str, count: int = 1) -> None:
        """Count something, and tell it if it is among the first of its kind."""
        self.counts[kind] += count
        if self._told[kind] < FIRST:
            self._told[kind] += 1
            self.first.append(Remark(kind, text))


class _Threads:
    """How far each thread has come."""

    def __init__(self, remarks: _Remarks) -> None:
        self._remarks = remarks
        self._timestamps: dict[int, int] = {}
        self.next_counters: dict[int, int] = {}

    def add(self, row: Row) -> None:
        """The next event, of whichever thread."""
        thread, counter = row.thread_id, row.thread_counter
        expected = self.next_counters.get(thread, 0)
        place = f"thread {thread} counter {counter}"
        if counter < expected:
            self._remarks.add("doubled position", f"{place} is there again, or comes too late")
            return
        if counter > expected:
            left_out = f"{expected}" if counter == expected + 1 else f"{expected} to {counter - 1}"
            self._remarks.add("missing counters", f"thread {thread} lacks {left_out}", counter - expected)
        before = self._timestamps.get(thread)
        if before is not None and row.timestamp < before:
            self._remarks.add("falling timestamp", f"{place}: {row.timestamp} comes after {before}")
        self._timestamps[thread] = row.timestamp
        self.next_counters[thread] = counter + 1


def _check_versions(versions: Iterable[tuple[str, int]], remarks: _Remarks) -> int:
    """Look at the versions of whole aggregates; how many aggregates there are."""
    aggregates = 0
    current: str | None = None
    expected = 1
    for aggregate_id, version in sorted(versions):
        if aggregate_id != current:
            aggregates += 1
            current, expected = aggregate_id, 1
        if version < expected:
            remarks.add("doubled version", f"aggregate {aggregate_id!r} has version {version} again")
            continue
        if version > expected:
            left_out = f"{expected}" if version == expected + 1 else f"{expected} to {version - 1}"
            remarks.add(
                "missing versions", f"aggregate {aggregate_id!r} lacks {left_out}", version - expected
            )
        expected = version + 1
    return aggregates

"""Another product's event tables, opened: what `open_source` gives."""

from __future__ import annotations

import asyncio
import hashlib
import math
from array import array
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from collections.abc import Mapping as Mappings
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from eventferry.databases import open_foreign
from eventferry.errors import InputError, SourceRowError, UsageError
from eventferry.lifecycle import aclosing, to_the_end
from eventferry.lines.event import Event, decode_events
from eventferry.lines.seen import Seen
from eventferry.reading.ahead import in_turn
from eventferry.sources.foreign import ForeignDatabase, Reader, Snapshot, reader_of
from eventferry.sources.mapper import Mapper, PayloadMode, kept_kinds
from eventferry.sources.mapping import KEPT, Mapping, RowKind, load_mapping
from eventferry.sources.window import SETTLE

_BLOCKS = 2_000
"""Blocks of which the positions are remembered behind the one that was given out last: more than any sink holds."""

_COLUMNS = {"aggregateId": "aggregate", "type": "type", "timestamp": "time", "aggregateVersion": "version"}


class SourceReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What became of the rows of a source.

    Attributes:
        events: rows that became events.
        renumbered: events whose version differs from that in the source, counted from the source's first: there were
            holes, or no version.
        skipped: rows that were left out, by their kind: link, snapshot, archived or deleted.
    """

    events: int
    renumbered: int
    skipped: dict[str, int]


class SourcePreview(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a source would give.

    Attributes:
        first: the first events.
        events: how many there are, up to the first trouble.
        types: how many of each type; beyond a thousand types, the rest together under "…".
        first_time: the earliest timestamp, in ms since 1970; None if there are no events.
        last_time: the latest one.
        renumbered: see `SourceReport`.
        skipped: see `SourceReport`.
        trouble: the first row that does not become an event, and why; None if all do.
    """

    first: list[Event]
    events: int
    types: dict[str, int]
    first_time: int | None
    last_time: int | None
    renumbered: int
    skipped: dict[str, int]
    trouble: str | None


def report_of(mapper: Mapper | None) -> SourceReport:
    """What has become of the rows so far; none have been read without a mapper."""
    return SourceReport(
        events=0 if mapper is None else mapper.events,
        renumbered=0 if mapper is None else mapper.renumbered,
        skipped={} if mapper is None else dict(mapper.skipped),
    )


class Previewing:
    """A transform that notes what lines made of rows hold; `report` says what became of the rows."""

    def __init__(self, report: Callable[[], SourceReport]) -> None:
        self._report = report
        self._seen = Seen()
        self._rest = b""

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The blocks as they are."""
        async for block in blocks:
            lines, end, self._rest = (self._rest + block).rpartition(b"\n")
            self._seen.note(decode_events(lines + end))
            yield block

    def preview(self, trouble: str | None = None) -> SourcePreview:
        """Of all that has passed, up to a trouble."""
        if self._rest:  # of an export that has died, which holds the last two bytes of an event back
            self._seen.note(decode_events(self._rest + b"}\n"))
            self._rest = b""
        report = self._report()
        return SourcePreview(
            **self._seen.fields, renumbered=report.renumbered, skipped=report.skipped, trouble=trouble
        )


async def preview_of(blocks: AsyncIterator[bytes], report: Callable[[], SourceReport]) -> SourcePreview:
    """Read blocks of lines up to the first trouble; `report` says what became of the rows."""
    previewing = Previewing(report)
    try:
        async for _ in previewing(blocks):
            pass
    except InputError as error:
        return previewing.preview(str(error))
    return previewing.preview()


class ForeignSource:
    """Tables of another product, read by a mapping; created by `open_source`. It connects when it is read.

    Use it with `async with`, or call `close`. It can be read as often as wanted, also at the same time.

    Attributes:
        mapping: by which it is read.
        kept: the kinds of rows that are events.
        settle: seconds for which a missing position may still appear, where nothing tells it.
    """

    def __init__(
        self,
        database: ForeignDatabase,
        mapping: Mapping,
        *,
        payload: PayloadMode = "envelope",
        drop_metadata: bool = False,
        kept: frozenset[RowKind] = KEPT,
        settle: float = SETTLE,
    ) -> None:
        self.database = database
        self.mapping = mapping
        self._select = mapping.statement(database.scheme)
        self._payload = payload
        self._drop_metadata = drop_metadata
        self.kept = kept
        self.settle = settle

    @property
    def place(self) -> str:
        """The database, without a password, and the mapping."""
        return f"{self.database.place} ({self.mapping.name})"

    @property
    def digest(self) -> bytes:
        """What it depends on which event a row becomes: read in another way, it has another one."""
        ways = f"{self.mapping.digest} {self._payload} {self._drop_metadata} {sorted(self.kept)}"
        return hashlib.blake2b(ways.encode(), digest_size=8).digest()

    def export_events(self) -> ForeignExport:
        """All events, as blocks of lines: one state of the database, in the order of its positions.

        The lines are as an import takes them: in thread 0, with counters from 0, and versions from 1 in each aggregate.
        """
        return ForeignExport(self)

    async def preview(self) -> SourcePreview:
        """Read everything and store nothing: what it would give. Raises MappingError."""
        async with aclosing(SourceReading(self)) as reading:
            return await preview_of(reading, lambda: reading.report)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[tuple[Snapshot, Reader]]:
        """One state of the database, and how the mapping is read from it. Raises MappingError."""
        async with self.database.snapshot() as snapshot:
            yield snapshot, await reader_of(self.database, snapshot, self._select, self.mapping.name)

    def mapper(self, reader: Reader) -> Mapper:
        """What turns the rows of one reading into events."""
        return Mapper(
            self.mapping,
            payload=self._payload,
            drop_metadata=self._drop_metadata,
            kept=self.kept,
            time=reader.time,
            epoch=self.database.epoch,
            columns=reader.columns,
            plain=reader.plain,
        )

    async def close(self) -> None:
        """End what is under way, and close the connections; twice is fine."""
        if not self.database.life.is_inherited:
            await to_the_end(self.database.life.end())

    async def __aenter__(self) -> ForeignSource:
        self.database.life.check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class ForeignExport:
    """An async iterator of blocks of lines; made by `ForeignSource.export_events`.

    As with a store's export, the last two bytes of a block are held back until the next block or the proper end: one
    that dies ends inside an event.
    """

    def __init__(self, source: ForeignSource) -> None:
        self._reading = SourceReading(source)

    @property
    def exported(self) -> int:
        """How many events have been given out."""
        return self._reading.exported

    @property
    def report(self) -> SourceReport:
        """What has become of the rows so far."""
        return self._reading.report

    def explain(self, error: InputError) -> InputError:
        """What a sink refused, told by the row that the line was made of, as far as that is still known."""
        return self._reading.explain(error)

    def __aiter__(self) -> ForeignExport:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._reading)

    async def aclose(self) -> None:
        """End now; twice is fine."""
        await self._reading.aclose()

    def __del__(self) -> None:
        if hasattr(self, "_reading"):
            self._reading.life.forget(self._reading.end)


class SourceReading:
    """What such an export does. Its generators hold it, and not the export: that can be forgotten."""

    def __init__(self, source: ForeignSource) -> None:
        self._source = source
        self.life = source.database.life
        self._mapper: Mapper | None = None
        self._positions: deque[tuple[int, array[int]]] = deque(maxlen=_BLOCKS)
        self._blocks = self._held_back()
        self._leaving = asyncio.Lock()

    @property
    def exported(self) -> int:
        """How many events have been given out."""
        return 0 if self._mapper is None else self._mapper.events

    @property
    def report(self) -> SourceReport:
        """What has become of the rows so far."""
        return report_of(self._mapper)

    def explain(self, error: InputError) -> InputError:
        """What a sink refused, told by the row that the line was made of, as far as that is still known."""
        if isinstance(error, SourceRowError) or error.line is None:
            return error
        for first, positions in self._positions:
            if first < error.line <= first + len(positions):
                return self._refusal(error, positions[error.line - first - 1])
        return error

    def _refusal(self, error: InputError, position: int) -> SourceRowError:
        return SourceRowError(
            error.reason,
            source=self._source.mapping.name,
            position=position,
            column=_COLUMNS.get(error.field or "", "data"),
        )

    def __aiter__(self) -> SourceReading:
        return self

    async def __anext__(self) -> bytes:
        with self.life.running():
            return await anext(self._blocks)

    async def aclose(self) -> None:
        """End now; twice is fine."""
        await self.end()

    async def end(self, error: BaseException | None = None) -> None:
        """The same, because of an error."""
        if self.life.is_inherited:
            return
        await to_the_end(self._leave())

    async def _leave(self) -> None:
        async with self._leaving:  # its user and its source may both end it
            try:
                await self._blocks.aclose()
            finally:
                self.life.remove(self.end)

    async def _held_back(self) -> AsyncGenerator[bytes, None]:
        self.life.add(self.end)
        held = b""
        try:
            async with aclosing(self._whole_blocks()) as blocks:
                async for lines in blocks:
                    last = lines.pop()
                    yield b"".join([held, *lines, last[:-2]])
                    held = last[-2:]
            if held:
                yield held
        finally:
            self.life.remove(self.end)

    async def _whole_blocks(self) -> AsyncGenerator[list[bytes], None]:
        """Blocks of whole lines."""
        async with aclosing(in_turn([self._rows()], 1)) as blocks:
            async for rows in blocks:
                if self._mapper is None:
                    raise AssertionError("rows came before the reading had begun")
                first = self._mapper.events
                trouble: SourceRowError | None = None
                try:
                    self._mapper.lines(rows)
                except SourceRowError as error:
                    trouble = error
                del rows  # large ones would be held while the next are made
                if self._mapper.made:
                    self._positions.append((first, self._mapper.positions))
                    yield self._mapper.made
                if trouble is not None:
                    raise trouble

    async def _rows(self) -> AsyncGenerator[list[tuple[Any, ...]], None]:
        async with self._source.reading() as (snapshot, reader):
            self._mapper = self._source.mapper(reader)
            order = "mapped.transaction, mapped.position" if reader.has_transaction else "mapped.position"
            async with aclosing(snapshot.rows(f"{reader.statement} ORDER BY {order}")) as blocks:
                async for rows in blocks:
                    yield rows


def open_source(
    url: str,
    mapping: str | Mapping,
    *,
    tables: Mappings[str, str] | None = None,
    payload: PayloadMode = "envelope",
    drop_metadata: bool = False,
    keep: Iterable[RowKind] = (),
    skip: Iterable[RowKind] = (),
    settle: float = SETTLE,
    **options: Any,
) -> ForeignSource:
    """Open the event tables of another product. They are only read.

    Args:
        url: of the database, as for `open_store`.
        mapping: the name of a preset, such as "message-db"; the path of a TOML file; or a `Mapping`.
        tables: other names for the tables of the mapping.
        payload: "envelope" puts data, and what else the source knows of an event, into the payload; "data" only data.
        drop_metadata: with "data", leave out metadata also where it is not empty; otherwise such a row is refused.
        keep: kinds of rows that become events beside the usual ones: "link", "snapshot", "deleted".
        skip: kinds of rows that are left out: "archived".
        settle: for `EventStore.sync`: seconds for which a missing position may still appear, where the database does
            not tell it; see docs/sources.md.
        options: settings of the database, as for `open_store`.

    Raises:
        MappingError: the mapping is wrong, or is not for this kind of database.
        UsageError: another argument is wrong.
        MissingExtraError: the database's driver is not installed.
    """
    kept = kept_kinds(payload, drop_metadata, keep, skip)
    if isinstance(settle, bool) or not isinstance(settle, int | float) or not 0 <= settle < math.inf:
        raise UsageError(f"settle is a number of seconds, from 0, not {settle!r}")
    chosen = load_mapping(mapping)
    return ForeignSource(
        open_foreign(url, options),
        chosen.with_tables(tables) if tables else chosen,
        payload=payload,
        drop_metadata=drop_metadata,
        kept=kept,
        settle=settle,
    )

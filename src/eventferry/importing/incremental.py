"""Incremental imports: begin, push, commit and rollback, or all of it in one call.

The import that `begin` opens is kept in the store and outlives the process. An import in one call has a stage of its
own, and does not interfere with an open one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from eventferry.changing.erased import Erased
from eventferry.database import Database, NewRowBatch, Stage
from eventferry.databases import statements
from eventferry.errors import (
    EventferryError,
    ImportNotFoundError,
    InputError,
    StoreChangedError,
    UnsupportedStoreError,
    UsageError,
)
from eventferry.importing import merge, steps
from eventferry.importing.batch import BATCH_BYTES, PART, SLICE, Batches
from eventferry.importing.merge import Older
from eventferry.lifecycle import to_the_end
from eventferry.lines.blocks import BOM, ArraySplitter, LineSplitter
from eventferry.lines.converting import new_row
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Event, EventInput, NewRow, NewRowValues
from eventferry.lines.limits import ColumnLimits, check_limits
from eventferry.reading import order
from eventferry.results import ImportReport
from eventferry.state import commits, erasures, leftovers, owners

if TYPE_CHECKING:
    from eventferry.changing.changes import Changes

EventSource: TypeAlias = Iterable[EventInput] | AsyncIterable[EventInput] | AsyncIterable[bytes]
"""Events for an incremental import: dicts or `Event` objects; or blocks of bytes that hold lines, or one JSON
array."""

Piece: TypeAlias = tuple[Sequence[NewRowValues], int]  # rows, and how many bytes of the source they are


async def begin(database: Database, *, repeatable: bool) -> str:
    """Open an incremental import; returns its id."""
    if repeatable:
        await commits.make_table(database)
    async with owners.writing(database, "exclusive") as writing:
        await steps.refuse_open(writing, "open")
        return (await writing.make_stage("open")).id


async def push(
    database: Database,
    import_id: str,
    events: EventSource,
    part: str | None,
    *,
    ignore_unknown_keys: bool,
    max_line_bytes: int,
) -> int:
    """Add events to the open import, on an error none of them; returns their number."""
    key = order.part_key(part)
    async with owners.writing(database) as writing:
        limits = await writing.limits(await steps.opened(writing, "open", import_id))
        # While an import is open, nothing is erased.
        erased = Erased(await erasures.load(writing))
    pieces = _pieces(events, limits, ignore_unknown_keys=ignore_unknown_keys, max_line_bytes=max_line_bytes)
    async with _staged(database, _left(pieces, erased)) as (stage, count):
        async with owners.writing(database) as writing:
            target = await steps.opened(writing, "open", import_id)
            knows_parts = await statements.knows_parts(writing, target.table)
            if not knows_parts and part is not None:
                raise UnsupportedStoreError(
                    "this incremental import was opened by reSolve, which knows no parts"
                )
            await writing.pour(stage, target, key if knows_parts else None)
        return count


async def commit(database: Database, import_id: str, older: Older) -> ImportReport:
    """Merge the open import into the store; of one that is known to be committed, the report once more."""
    merge.check_older(older)
    async with owners.writing(database, "exclusive") as writing:
        try:
            stage = await steps.opened(writing, "open", import_id)
        except ImportNotFoundError:
            if (done := await commits.committed(writing, import_id)) is None:
                raise
            return done
        report = await merge.merge(writing, stage, older)
        await commits.save(writing, import_id, report)
        await writing.drop_stage(stage)
        return report


async def roll_back(database: Database, import_id: str | None = None) -> None:
    """Drop the open import, even if the store is frozen. With an id, it must be the open one."""
    async with owners.writing(database, "exclusive", frozen="allow") as writing:
        if import_id is not None:
            await writing.drop_stage(await steps.opened(writing, "open", import_id))
        else:
            for stage in await writing.stages("open"):
                await writing.drop_stage(stage)


async def whole(
    database: Database,
    events: EventSource,
    older: Older,
    *,
    changes: Changes | None,
    dry_run: bool,
    ignore_unknown_keys: bool,
    max_line_bytes: int,
) -> ImportReport:
    """Import in one call, with a stage of its own."""
    merge.check_older(older)
    async with database.reading() as reading:
        limits = await reading.limits()
        erased = Erased(await erasures.load(reading))
    pieces = _pieces(events, limits, ignore_unknown_keys=ignore_unknown_keys, max_line_bytes=max_line_bytes)
    if changes is not None:
        pieces = _changed(pieces, changes, limits)
    report = ImportReport()
    async with _staged(database, _left(pieces, erased)) as (stage, _):
        with contextlib.suppress(_DryRun):
            async with owners.writing(database, "exclusive") as writing:
                if erasures.digest_of(await erasures.load(writing)) != erased.digest:
                    raise StoreChangedError(
                        "something was erased from the store during the import, which would have brought it back; "
                        "nothing was imported. Import again"
                    )
                report = await merge.merge(writing, stage, older)
                if dry_run:
                    raise _DryRun
    return report


async def _left(pieces: AsyncIterator[Piece], erased: Erased) -> AsyncIterator[Piece]:
    """What is left of rows in a store from which something was erased."""
    async for rows, size in pieces:
        yield erased.new_rows(rows), size


class _DryRun(Exception):  # noqa: N818 -- no error: it rolls the transaction back
    """Ends a transaction of which nothing is to be kept."""


@asynccontextmanager
async def _staged(database: Database, pieces: AsyncIterator[Piece]) -> AsyncIterator[tuple[Stage, int]]:
    """Make a stage with these events; yields it and their number."""
    with database.life.running():
        owner = await database.own()
        stage: Stage | None = None
        try:
            await leftovers.drop_dead_stages(database, "merge")
            async with owners.writing(database) as writing:
                stage = await writing.make_stage("merge", owner=owner)
            yield stage, await _fill(database, stage, pieces)
        finally:
            await to_the_end(_leave(database, stage, owner))


async def _leave(database: Database, stage: Stage | None, owner: str) -> None:
    """Remove the stage. If that fails, the result of the import does not change: a later import removes it."""
    try:
        if stage is not None:
            with contextlib.suppress(EventferryError):
                async with owners.writing(database, frozen="allow") as writing:
                    await writing.drop_stage(stage)
    finally:
        await database.release(owner)


async def _fill(database: Database, stage: Stage, pieces: AsyncIterator[Piece]) -> int:
    """Store events in a stage while more are parsed; returns their number."""

    async def put(batch: NewRowBatch) -> None:
        async with owners.writing(database) as writing:
            await writing.stage_rows(stage, batch)

    batches: Batches[NewRowValues, None] = Batches(put, lambda: None, BATCH_BYTES)
    count = 0
    try:
        async for rows, size in pieces:
            count += len(rows)
            await batches.give(rows, size)
            if size >= BATCH_BYTES:  # of a source that may block the loop
                await batches.commit()
        await batches.commit()
    except BaseException:
        await batches.stop()
        raise
    return count


async def _pieces(
    events: EventSource, limits: ColumnLimits, *, ignore_unknown_keys: bool, max_line_bytes: int
) -> AsyncIterator[Piece]:
    if isinstance(events, bytes | str | Mapping | Event) or not isinstance(events, Iterable | AsyncIterable):
        raise UsageError(
            f"events are an iterator of dicts or Event objects, or an async one of those or of bytes, not "
            f"{type(events).__name__}"
        )
    # An iterator may block the loop, and so whatever is under way. So it is asked for a whole batch while nothing is.
    blocks_loop = isinstance(events, Iterable) and not isinstance(events, Sequence)
    most_rows, most_size = (sys.maxsize, BATCH_BYTES) if blocks_loop else (PART, SLICE)
    rows: list[NewRow] = []
    count = size = 0

    def gathered(event: Any) -> Piece | None:
        """Take an event in; a piece if there are enough of them."""
        nonlocal rows, count, size
        count += 1
        try:
            row = new_row(event, limits, ignore_unknown_keys=ignore_unknown_keys)
        except InputError as error:
            raise InputError(error.reason, line=count, field=error.field, unit="event") from None
        rows.append(row)
        size += len(row.payload) + len(row.aggregate_id) + len(row.type)
        if len(rows) < most_rows and size < most_size:
            return None
        piece, rows, size = (rows, size), [], 0
        return piece

    if isinstance(events, Iterable):
        for event in events:
            if (piece := gathered(event)) is not None:
                yield piece
            elif count % PART == 0:
                await asyncio.sleep(0)
    else:
        items = aiter(events)
        async for item in items:
            if isinstance(item, _BYTES) and not count:
                decoder = LineDecoder(limits, ignore_unknown_keys=ignore_unknown_keys)
                async for found in _decoded(_blocks(item, items), decoder, max_line_bytes):
                    yield found
            elif (piece := gathered(item)) is not None:
                yield piece
    if rows:
        yield rows, size


async def _changed(
    pieces: AsyncIterator[Piece], changes: Changes, limits: ColumnLimits
) -> AsyncIterator[Piece]:
    """Pieces of what the changes make of the events. Raises InputError with the number of the event that came in, and
    ChangeError where the sums of the report do not hold."""
    changes.begin()
    count = 0
    async for rows, size in pieces:
        try:
            made = changes.change_new(rows)
        except InputError as error:
            line = None if error.line is None else count + error.line
            raise InputError(error.reason, line=line, field=error.field, unit="event") from error
        for number, row in made:
            try:
                check_limits(limits, row.aggregate_id, row.type, row.payload)
            except InputError as error:
                reason = f"becomes an event that the store refuses: {error.reason}"
                raise InputError(reason, line=count + number, field=error.field, unit="event") from None
        count += len(rows)
        yield [row for _, row in made], size
    _ = changes.report


_BYTES = (bytes, bytearray, memoryview)


async def _blocks(first: bytes | bytearray | memoryview, rest: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    yield bytes(first)
    async for block in rest:
        if not isinstance(block, _BYTES):
            raise UsageError(f"a block is bytes, not {type(block).__name__}")
        yield bytes(block)


async def _decoded(
    blocks: AsyncIterable[bytes], decoder: LineDecoder, max_line_bytes: int
) -> AsyncIterator[Piece]:
    """Rows from bytes that hold lines, or, if the first character is a bracket, one JSON array."""
    start = b""
    lines = LineSplitter(max_line_bytes)  # takes the blank ones that may come before anything else
    blank = 0
    splitter: LineSplitter | ArraySplitter | None = None
    async for block in blocks:
        if splitter is None:
            block = start + block
            start = b""
            if BOM.startswith(block):  # nothing yet, or a byte order mark that is cut
                start = block
                continue
            sign = block.removeprefix(BOM).lstrip()[:1]
            if not sign:
                lines.feed(block)
                blank += len(block)
                continue
            splitter = ArraySplitter(max_line_bytes, byte_offset=blank) if sign == b"[" else lines
        for at in range(0, len(block), SLICE):
            piece = block[at : at + SLICE]
            yield list(_rows(splitter, piece, decoder)), len(piece)
    if splitter is None:
        splitter = lines
        splitter.feed(start)
    if isinstance(splitter, ArraySplitter):
        splitter.finish()
    elif last := list(splitter.finish().new_rows(decoder)):
        yield last, 0


def _rows(
    splitter: LineSplitter | ArraySplitter, block: bytes, decoder: LineDecoder
) -> Iterable[NewRowValues]:
    if isinstance(splitter, LineSplitter):
        return splitter.feed(block).new_rows(decoder)
    rows: list[NewRowValues] = []
    for place, offset, text in splitter.feed(block):
        try:
            rows.append(decoder.new_row(text.strip()))
        except InputError as error:
            raise InputError(
                error.reason, line=place, byte_offset=offset, field=error.field, unit="element"
            ) from None
    return rows

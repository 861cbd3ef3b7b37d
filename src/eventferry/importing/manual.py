"""Imports in maintenance mode MANUAL: events are appended to those of the store, and each block is committed.

For stores that are moved piece by piece: freeze, import, unfreeze. After an interruption, import again from the byte
offset that was reached, or simply from the start: events that are already there are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeAlias

from eventferry.changing.erased import Erased
from eventferry.comparing.canonical import is_equal
from eventferry.database import Database, ExclusiveWriting, Progress
from eventferry.errors import ConcurrentError, InputError
from eventferry.lines.blocks import Lines
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Row
from eventferry.lines.limits import ColumnLimits
from eventferry.lines.marker import refuse_marker
from eventferry.state import erasures, owners

Placed: TypeAlias = tuple[int, Row]  # the number of a line, and its row


class BlockIntake:
    """The rows of a block, which `append` stores in one transaction. `progress` returns how far in the source the rows
    that were given so far end; `done` is told how far it is committed."""

    def __init__(
        self,
        append: Callable[[Sequence[Placed]], Coroutine[None, None, None]],
        progress: Callable[[], Progress],
        done: Callable[[Progress], None],
    ) -> None:
        self._append = append
        self._progress = progress
        self._done = done
        self._lines: list[Lines] = []
        self._rows: list[Placed] = []
        self._appending = asyncio.Lock()

    def rows(self, lines: Lines, decoder: LineDecoder) -> Sequence[Placed]:
        self._lines.append(lines)
        return list(lines.whole_rows(decoder))

    async def give(self, rows: Sequence[Placed], size: int) -> None:
        self._rows.extend(rows)
        await asyncio.sleep(0)  # other tasks must not wait for the parser

    async def end_block(self) -> None:
        await self.commit()

    async def commit(self) -> None:
        lines, rows = self._lines, self._rows
        self._lines, self._rows = [], []
        if not lines:
            return
        progress = self._progress()
        async with self._appending:
            try:
                await self._append(rows)
            except InputError as error:
                raise _placed(error, lines) from None
            self._done(progress)

    async def stop(self) -> None:
        self._lines, self._rows = [], []
        async with self._appending:  # another task may be in the middle of a transaction
            pass


class Appending:
    """The target of an import with maintenance mode MANUAL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stored = LineDecoder()

    async def begin(self) -> list[Progress]:
        async with owners.writing(self._database, frozen="allow"):
            return []

    async def limits(self) -> ColumnLimits:
        async with self._database.reading() as reading:
            return await reading.limits()

    def intake(self, progress: Callable[[], Progress], done: Callable[[Progress], None]) -> BlockIntake:
        return BlockIntake(self._append, progress, done)

    async def finish(self, progress: Progress) -> None:
        """Every block is committed already."""

    async def abort(self, *, keep: bool) -> None:
        """What is committed stays: this is the purpose of this mode."""

    async def _append(self, rows: Sequence[Placed]) -> None:
        for line, row in rows:
            refuse_marker(row.payload, line)
        async with owners.writing(self._database, "exclusive", frozen="allow") as writing:
            if erased := Erased(await erasures.load(writing)):
                left = erased.rows([row for _, row in rows])
                rows = [(line, row) for (line, _), row in zip(rows, left, strict=True)]
            await self._append_missing(writing, rows)

    async def _append_missing(self, writing: ExclusiveWriting, rows: Sequence[Placed]) -> None:
        heads = await writing.heads()
        is_frozen = await writing.freeze() is not None
        present = await self._present(
            writing, [row for _, row in rows if row.thread_counter < heads[row.thread_id]]
        )
        missing: list[Placed] = []
        for line, row in rows:
            position = row.thread_id, row.thread_counter
            stored = present.get(position)
            if stored is not None:
                if not _equal(stored, row):
                    raise InputError(
                        f"another event is stored at counter {row.thread_counter} of thread {row.thread_id}",
                        line=line,
                        field="threadCounter",
                    )
                continue
            if row.thread_counter < heads[row.thread_id] and not is_frozen:
                # A reader may have passed this place already and would never see the event.
                raise InputError(
                    f"counter {row.thread_counter} of thread {row.thread_id} is below the thread's head and is "
                    "missing in the store: freeze the store to fill it in",
                    line=line,
                    field="threadCounter",
                )
            present[position] = row
            missing.append((line, row))
        try:
            await writing.append(
                [row for _, row in missing],
                fills_gaps=any(row.thread_counter < heads[row.thread_id] for _, row in missing),
            )
        except ConcurrentError as error:
            taken = error.aggregate_id, error.aggregate_version
            clashing = [line for line, row in missing if (row.aggregate_id, row.aggregate_version) == taken]
            # The first of two new lines had nothing to clash with.
            line = clashing[min(1, len(clashing) - 1)]
            raise InputError(str(error), line=line, field="aggregateVersion") from None

    async def _present(self, writing: ExclusiveWriting, rows: Sequence[Row]) -> dict[tuple[int, int], Row]:
        wanted = [(row.thread_id, row.thread_counter) for row in rows]
        stored = [self._stored.row(line) for line in await writing.lines_at(wanted, max_bytes=2**62)]
        return {(row.thread_id, row.thread_counter): row for row in stored}


def _equal(stored: Row, row: Row) -> bool:
    return stored[:-1] == row[:-1] and is_equal(stored.payload, row.payload)


def _placed(error: InputError, lines: Sequence[Lines]) -> InputError:
    for block in lines:
        if error.line is not None and block.line <= error.line < block.line + block.count:
            return block.placed(error, error.line)
    return error

"""Import: blocks of lines become events of a store.

The stream splits blocks into lines. Its target makes rows of them and stores these: in a stage that replaces the events
(`replace.py`), or with the events of the store (`manual.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from eventferry.database import Progress
from eventferry.errors import (
    DatabaseError,
    EventferryError,
    InputError,
    ResumeError,
    StoreBusyError,
    StoreClosedError,
    UsageError,
    WorkerError,
)
from eventferry.importing.batch import SLICE
from eventferry.importing.resuming import Consumed
from eventferry.lifecycle import Life, second_to, to_the_end
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES, Lines, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.limits import ColumnLimits
from eventferry.lines.refusal import cut_off
from eventferry.operation_log import Operation, counts_of


class StreamReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What an import returns.

    Attributes:
        imported: events of the source that are in the store now: those before a resume too, and in MANUAL mode
            those that were there already.
        byte_offset: of the source, behind the last line that was stored.
        is_end: whether it came to the end; False if it was stopped.
    """

    imported: int
    byte_offset: int
    is_end: bool


class Intake(Protocol):
    """Stores rows and commits them."""

    def rows(self, lines: Lines, decoder: LineDecoder) -> Sequence[Any]:
        """The rows of lines, for `give`. Raises InputError."""

    async def give(self, rows: Sequence[Any], size: int) -> None:
        """Take rows, which are `size` bytes of the source."""

    async def end_block(self) -> None:
        """A block of the caller has ended."""

    async def commit(self) -> None:
        """Wait until all that was given is committed."""

    async def stop(self) -> None:
        """Commit nothing more, and wait until the transaction in progress has ended. Raises nothing."""


class Target(Protocol):
    """Where the rows of an import go."""

    async def begin(self) -> list[Progress]:
        """Begin; returns what an interrupted import committed, if this one continues it."""

    async def limits(self) -> ColumnLimits:
        """What the target's columns can hold."""

    def intake(self, progress: Callable[[], Progress], done: Callable[[Progress], None]) -> Intake:
        """What stores the rows. `progress` returns how far in the source the rows that were given so far end; `done`
        is told how far the source is committed."""

    async def finish(self, progress: Progress) -> None:
        """Everything was given and is committed: end the import."""

    async def abort(self, *, keep: bool) -> None:
        """End without `finish`. With `keep`, leave what a resume can continue."""


class ImportStream:
    """A sink for blocks of lines, cut anywhere; made by `EventStore.import_events`.

    Use it with `async with`: leaving the block normally commits, an exception aborts. An abort by a refusal
    leaves nothing; one by an interruption (cancelled, connection lost) leaves what `resume=True` continues.
    """

    def __init__(
        self,
        target: Target,
        operation: Operation,
        life: Life,
        *,
        byte_offset: int = 0,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        ignore_unknown_keys: bool = False,
    ) -> None:
        self._target = target
        self._operation = operation
        self._life = life
        self._max_line_bytes = max_line_bytes
        self._ignore_unknown_keys = ignore_unknown_keys
        self._splitter = LineSplitter(max_line_bytes, byte_offset=byte_offset)
        self._decoder = LineDecoder()
        self._batches = target.intake(self._progress, self._note)
        self._taken = self._done = Progress(byte_offset)
        self._begun_at = byte_offset
        self._consumed = Consumed()
        self._state = "new"
        self._stopped = False
        self._report: StreamReport | None = None

    @property
    def byte_offset(self) -> int:
        """Of the source, behind the last line that is committed. After entering: where to begin."""
        return self._done.byte_offset

    @property
    def saved_events_count(self) -> int:
        """How many events are committed to the target."""
        return self._done.events

    def stop(self) -> None:
        """Take in nothing more from the next commit on; a later import can go on at `byte_offset`.

        One commit there is in any case: who stops each import before its first would never come to the end.
        """
        self._stopped = True

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped and takes in nothing more."""
        return self._stopped and self._taken.byte_offset > self._begun_at

    async def __aenter__(self) -> ImportStream:
        await self.begin()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            await self.close()
        else:
            await self.abort(error)

    async def write(self, block: bytes) -> None:
        """Take a block.

        Raises:
            InputError: a line cannot become an event; nothing of the store has changed.
        """
        if not isinstance(block, bytes):
            if not isinstance(block, bytearray | memoryview):
                raise UsageError(f"a block is bytes, not {type(block).__name__}")
            block = bytes(block)
        with self._life.running():
            await self.begin()
            try:
                if self.is_stopped:
                    await self._batches.commit()
                    return
                for start in range(0, len(block), SLICE):
                    piece = block[start : start + SLICE]
                    self._consumed.add(piece)
                    await self._take(self._splitter.feed(piece))
                await (self._batches.commit() if self._stopped else self._batches.end_block())
            except BaseException as error:
                with second_to(error):
                    await self.abort(error)
                raise

    async def verify(self, block: bytes) -> bytes:
        """Check a block of the source's beginning against what was consumed before the resume.

        Feed it the source from its start; it returns what lies behind `byte_offset`, which is for `write`.

        Raises:
            ResumeError: this is not the source that the import began with.
        """
        await self.begin()
        try:
            return self._consumed.verify(block)
        except ResumeError as error:
            await self.abort(error)
            raise

    @property
    def is_verified(self) -> bool:
        """Whether everything that was consumed before a resume has been checked."""
        return self._consumed.is_verified

    async def close(self) -> StreamReport:
        """Commit everything, or after `stop` what was taken in; returns the report. Calling it again is fine."""
        return await self._close(is_end=not self._stopped)

    async def finish(self) -> StreamReport:
        """The same if the source has certainly ended: a stop before anything was taken in then has no effect."""
        return await self._close(is_end=not self.is_stopped)

    async def _close(self, *, is_end: bool) -> StreamReport:
        if self._report is not None:
            return self._report
        with self._life.running():
            await self.begin()
            try:
                if is_end:
                    await self._finish_lines()
                await self._batches.commit()
                if is_end:
                    await self._target.finish(self._done)
                else:
                    await self._target.abort(keep=True)
            except BaseException as error:
                with second_to(error):
                    await self.abort(error)
                raise
        self._state = "closed"
        self._life.remove(self.abort)
        self._report = StreamReport(
            imported=self._done.events, byte_offset=self._done.byte_offset, is_end=is_end
        )
        self._operation.end("done" if is_end else "stopped", **counts_of(self._report))
        return self._report

    async def abort(self, error: BaseException | None = None) -> None:
        """End without importing. Calling it again is fine."""
        if self._state != "open" or self._life.is_inherited:
            self._state = "aborted" if self._state == "new" else self._state
            return
        self._state = "aborted"
        await to_the_end(self._leave(error))

    async def _leave(self, error: BaseException | None) -> None:
        try:
            await self._batches.stop()
        finally:
            self._operation.fail(error, events=self._done.events)
            self._life.remove(self.abort)
            await self._target.abort(keep=_is_interruption(error))

    async def begin(self) -> None:
        """Begin, as `async with` does. Calling it again is fine."""
        if self._state == "open":
            return
        if self._state != "new":
            raise StoreClosedError(f"this import was {self._state}")
        with self._life.running():
            self._operation.begin()
            try:
                history = await self._target.begin()
                self._state = "open"
                self._life.add(self.abort)
                limits = await self._target.limits()
            except BaseException as error:
                if self._state == "open":
                    with second_to(error):
                        await self.abort(error)
                else:
                    self._operation.fail(error)
                raise
        if history:
            self._consumed = Consumed(history)
            self._taken = self._done = history[-1]
            self._begun_at = self._done.byte_offset
            self._splitter = LineSplitter(
                self._max_line_bytes, byte_offset=self._done.byte_offset, line=self._done.line
            )
        self._decoder = LineDecoder(limits, ignore_unknown_keys=self._ignore_unknown_keys)

    async def _take(self, lines: Lines) -> None:
        if not lines.count:
            return
        rows = self._batches.rows(lines, self._decoder)
        self._taken = Progress(lines.end, lines.line + lines.count, self._taken.events + len(rows))
        await self._batches.give(rows, lines.end - lines.byte_offset)

    async def _finish_lines(self) -> None:
        last = self._splitter.finish()
        if not last.count:
            return
        self._consumed.add_last_line()
        try:
            await self._take(last)
        except InputError as error:
            raise cut_off(error) from None

    def _progress(self) -> Progress:
        return replace(self._taken, digest=self._consumed.digest())

    def _note(self, done: Progress) -> None:
        self._done = done


def _is_interruption(error: BaseException | None) -> bool:
    """Whether an import was interrupted, so that a resume can continue it, rather than refused."""
    if isinstance(error, EventferryError):
        return isinstance(
            error, DatabaseError | StoreBusyError | StoreClosedError | ResumeError | WorkerError
        )
    return isinstance(error, asyncio.CancelledError | KeyboardInterrupt | OSError)

"""Import: blocks of lines become events of a store.

The stream cuts blocks into lines and lines into rows; where the rows go is its target's business: a stage that
replaces the events (`replace.py`), or the events themselves (`append.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol

import msgspec

from eventferry.database import Progress, RowBatch
from eventferry.errors import (
    DatabaseError,
    EventferryError,
    InputError,
    ResumeError,
    StoreBusyError,
    StoreClosedError,
    UsageError,
)
from eventferry.importing.batch import SLICE, Batches
from eventferry.lifecycle import Life, to_the_end
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.limits import Limits
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


class Target(Protocol):
    """Where the rows of an import go."""

    @property
    def batch_bytes(self) -> int | None:
        """How much of the source at least goes into one commit. None: each block of it, as it comes."""

    async def begin(self) -> list[Progress]:
        """Make ready; what was done before, where this goes on with something."""

    async def limits(self) -> Limits:
        """What the target's columns can hold."""

    async def put(self, batch: RowBatch, lines: Sequence[Lines]) -> None:
        """Take a batch; commit it together with its progress. `lines`: of a block, those that it is made of."""

    async def finish(self, progress: Progress) -> None:
        """All is in."""

    async def abort(self, *, keep: bool) -> None:
        """It ends without `finish`. `keep`: leave what a resume can go on with."""


class ImportStream:
    """A sink for blocks of lines, cut anywhere; made by `EventStore.import_events`.

    Use it with `async with`: leaving the block normally commits, an exception aborts. An abort by a refusal
    leaves nothing; one by an interruption (cancelled, connection lost) leaves what `resume=True` goes on with.

    Attributes:
        byte_offset: of the source, behind the last line that is committed. After entering: where to begin.
        saved_events_count: how many events are committed to the target.
    """

    def __init__(
        self,
        target: Target,
        operation: Operation,
        life: Life,
        *,
        byte_offset: int,
        max_line_bytes: int,
        ignore_unknown_keys: bool,
    ) -> None:
        self._target = target
        self._operation = operation
        self._life = life
        self._max_line_bytes = max_line_bytes
        self._ignore_unknown_keys = ignore_unknown_keys
        self._splitter = LineSplitter(max_line_bytes, byte_offset=byte_offset)
        self._decoder = LineDecoder()
        self._batches = Batches(self._put, self._progress, target.batch_bytes or sys.maxsize)
        self._lines: list[Lines] = []
        self._taken = self._done = Progress(byte_offset)
        self._begun_at = byte_offset
        self._history: list[Progress] = []
        self._hash = hashlib.sha256()
        self._unhashed: list[bytes] = []
        self._check = hashlib.sha256()
        self._verified = 0
        self._state = "new"
        self._stopped = False
        self._report: StreamReport | None = None

    @property
    def byte_offset(self) -> int:
        """Of the source, behind the last line that is committed."""
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
                    self._hash_whole_lines(piece)
                    await self._take(self._splitter.feed(piece))
                if self._stopped or self._target.batch_bytes is None:
                    await self._batches.commit()
                    self._lines = []
            except BaseException as error:
                await self._abort_after(error)
                raise

    async def verify(self, block: bytes) -> bytes:
        """Check a block of the source's beginning against what was consumed before the resume.

        Feed it the source from its start; it returns what lies behind `byte_offset`, which is for `write`.

        Raises:
            ResumeError: this is not the source that the import began with.
        """
        await self.begin()
        while self._history and block:
            expected = self._history[0]
            room = expected.byte_offset - self._verified
            part, block = block[:room], block[room:]
            self._check.update(part)
            self._verified += len(part)
            if self._verified < expected.byte_offset:
                break
            if self._check.digest() != expected.digest:
                error = ResumeError(
                    "this is not the source that the import began with: import without resume=True to start over"
                )
                await self.abort(error)
                raise error
            self._check = hashlib.sha256(expected.digest)
            self._history.pop(0)
        return block

    @property
    def is_verified(self) -> bool:
        """Whether all that was consumed before a resume has been seen again."""
        return not self._history

    async def close(self) -> StreamReport:
        """Commit: all of it, or if it was stopped what was taken in; the report. Twice is fine."""
        return await self._close(is_end=not self._stopped)

    async def finish(self) -> StreamReport:
        """The same where the source is at its end for sure: a stop before anything was taken in has no effect."""
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
                await self._abort_after(error)
                raise
        self._state = "closed"
        self._life.remove(self.abort)
        self._report = StreamReport(
            imported=self._done.events, byte_offset=self._done.byte_offset, is_end=is_end
        )
        self._operation.end("done" if is_end else "stopped", **counts_of(self._report))
        return self._report

    async def abort(self, error: BaseException | None = None) -> None:
        """End without an import; twice is fine."""
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

    async def _abort_after(self, error: BaseException) -> None:
        """End because of an error, which is what the caller must hear, even if ending fails too."""
        try:
            await self.abort(error)
        except Exception as another:
            error.add_note(f"ending failed too: {another}")

    async def begin(self) -> None:
        """Make ready, as entering does; twice is fine."""
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
                    await self._abort_after(error)
                else:
                    self._operation.fail(error)
                raise
        if history:
            self._history = history
            self._taken = self._done = history[-1]
            self._begun_at = self._done.byte_offset
            self._hash = hashlib.sha256(self._done.digest)
            self._splitter = LineSplitter(
                self._max_line_bytes, byte_offset=self._done.byte_offset, line=self._done.line
            )
        self._decoder = LineDecoder(limits, ignore_unknown_keys=self._ignore_unknown_keys)

    def _hash_whole_lines(self, block: bytes) -> None:
        """What is hashed is what a commit will hold; the beginning of a line waits for its end."""
        end = block.rfind(b"\n") + 1
        if end:
            for piece in self._unhashed:
                self._hash.update(piece)
            self._hash.update(block[:end])
            self._unhashed = []
        if end < len(block):
            self._unhashed.append(block[end:])

    async def _take(self, lines: Lines) -> None:
        if not lines.count:
            return
        rows = list(lines.rows(self._decoder))
        self._taken = Progress(lines.end, lines.line + lines.count, self._taken.events + len(rows))
        if self._target.batch_bytes is None:
            self._lines.append(lines)
        await self._batches.give(rows, lines.end - lines.byte_offset)

    async def _finish_lines(self) -> None:
        last = self._splitter.finish()
        if not last.count:
            return
        for piece in self._unhashed:
            self._hash.update(piece)
        try:
            await self._take(last)
        except InputError as error:
            if error.field is not None:
                raise
            raise InputError(
                f"the input ends inside an event ({error.reason})",
                line=error.line,
                byte_offset=error.byte_offset,
            ) from None

    def _progress(self) -> Progress:
        """How far the source has come with what was taken in."""
        digest = self._hash.digest()
        self._hash = hashlib.sha256(digest)
        return replace(self._taken, digest=digest)

    async def _put(self, batch: RowBatch) -> None:
        await self._target.put(batch, self._lines)
        self._done = batch.progress


def _is_interruption(error: BaseException | None) -> bool:
    """Whether an import ended by something that a resume can go on from, not by what it was given."""
    if isinstance(error, EventferryError):
        return isinstance(error, DatabaseError | StoreBusyError | StoreClosedError | ResumeError)
    return isinstance(error, asyncio.CancelledError | KeyboardInterrupt | OSError)

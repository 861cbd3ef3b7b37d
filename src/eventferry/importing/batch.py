"""Batches: rows are parsed while the database takes earlier ones; each batch is one transaction.

The parser hands rows over in parts of a few hundred. The database is never more than `_AHEAD` behind, and while it
commits one batch, the next is already being parsed.

It was measured against a simpler way: finished lists of 2 or 4 MB, each stored in one go while the next is parsed. That
took 6 to 18 % longer on the three databases, as the rows are no longer in the processor's cache when they are stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from eventferry.errors import StoreClosedError
from eventferry.lifecycle import end_tasks, stop_without_loop

R = TypeVar("R")
P = TypeVar("P")

BATCH_BYTES = 8 * 1024 * 1024
"""How much of the source goes into one commit: so much that the cost of the commit does not count."""

SLICE = 64 * 1024
"""How much of the source is parsed at a time: less than a millisecond's work, so that other tasks can run in
between."""

PART = 500
"""Rows of a part: what one statement inserts. On SQLite, which takes at least 32,766 values a
statement, `apsw` keeps none of more than 16 KB for the next time: that of so many rows is just shorter."""

_PART_BYTES = 256 * 1024  # a part of so many bytes of the source is handed over even if it has fewer rows
_LEAST = 256 * 1024  # a transaction begins when so many bytes of its batch have been parsed
_MORE = 2 * 1024 * 1024  # the same after a batch for which the source was too slow
_AHEAD = 4 * 1024 * 1024  # how many bytes of the source may wait for the database
_PATIENCE = 0.05
"""Seconds for which a transaction waits for its source, in total; then it is committed with the rows that it has. A
transaction that waits for a slow source holds up other writers. And a source may itself write to the store: then both
would wait for each other."""

_LOOK = 0.5  # seconds after which a thread that waits for rows looks whether its loop is there still


class Batch(Generic[R, P]):
    """The rows of one transaction, in parts, of which more may come while the first are taken: with `async for`, or
    in a thread with `for`, which blocks while there are none. `waited` are the seconds for which that has waited so
    far."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: SimpleQueue[tuple[Sequence[R], int] | None] = SimpleQueue()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._waits_for_room = False
        self._is_over = False
        # Only the producer changes the one, only the consumer the other: no lock is needed.
        self._given = 0
        self._taken = 0
        self._progress: P | None = None
        self.waited = 0.0

    @property
    def progress(self) -> P:
        """How far in the source this batch ends; known when all parts have been taken."""
        if self._progress is None:
            raise AssertionError("this batch is not whole")
        return self._progress

    def __iter__(self) -> Iterator[Sequence[R]]:
        while True:
            begun = time.monotonic()
            found = self._next()
            self.waited += time.monotonic() - begun
            if found is None:
                return
            yield found[0]
            self._note(found[1])

    def _next(self) -> tuple[Sequence[R], int] | None:
        """What comes next, for a thread. Raises StoreClosedError where the loop has ended without ending the batch:
        nothing more would come, and the thread would hold its transaction as long as the process lives."""
        while True:
            try:
                return self._parts.get(timeout=_LOOK)
            except Empty:
                if self._loop.is_closed():
                    raise StoreClosedError("the event loop has ended in the middle of an import") from None

    async def __aiter__(self) -> AsyncIterator[Sequence[R]]:
        while True:
            begun = time.monotonic()
            while self._parts.empty():
                self._some.clear()
                await self._some.wait()
            self.waited += time.monotonic() - begun
            if (found := self._parts.get_nowait()) is None:
                return
            yield found[0]
            self._note(found[1])

    def _note(self, size: int) -> None:
        self._taken += size
        if self._waits_for_room:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                self._loop.call_soon_threadsafe(self._room.set)

    def add(self, rows: Sequence[R], size: int) -> None:
        """Hand a part over."""
        self._given += size
        self._parts.put((rows, size))
        self._some.set()

    def end(self, progress: P | None = None) -> None:
        """No more parts come. Without `progress` the batch must not be committed."""
        self._progress = progress
        self._parts.put(None)
        self._some.set()

    async def wait_for_room(self) -> None:
        """Wait until no more than `_AHEAD` waits for the database."""
        self._waits_for_room = True
        while self._given - self._taken > _AHEAD and not self._is_over:
            await self._room.wait()
            self._room.clear()
        self._waits_for_room = False

    def leave(self) -> None:
        """The consumer has ended."""
        self._is_over = True
        self._room.set()


class Batches(Generic[R, P]):
    """Divides rows into batches of `batch_bytes` of the source and has them stored and committed by `put`, one after
    the other. `progress` returns how far in the source the rows that were given so far end."""

    def __init__(
        self,
        put: Callable[[Batch[R, P]], Coroutine[None, None, None]],
        progress: Callable[[], P],
        batch_bytes: int,
    ) -> None:
        self._put = put
        self._progress = progress
        self._batch_bytes = batch_bytes
        self._batch: Batch[R, P] | None = None
        self._rows: list[R] = []
        self._rows_bytes = 0
        self._bytes = 0
        self._least = _LEAST
        self._is_put = False
        self._before: asyncio.Task[None] | None = None
        self._putting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def give(self, rows: Sequence[R], size: int) -> None:
        """Take rows; they are stored soon. Raises what storing earlier ones has raised."""
        self._disarm()
        if self._batch is None:
            self._batch = Batch()
            self._bytes, self._is_put = 0, False
        batch = self._batch
        self._rows.extend(rows)
        self._rows_bytes += size
        self._bytes += size
        self._hand_over(batch, whole=self._rows_bytes < _PART_BYTES)
        if self._bytes >= self._least:
            self._begin(batch)
        if self._bytes >= self._batch_bytes:
            self._least = _LEAST
            self.cut()
            if self._before is not None:  # only one batch waits for another
                await asyncio.shield(self._before)
        elif self._is_put:
            await batch.wait_for_room()
            self._expect_more(_PATIENCE - batch.waited)
        await asyncio.sleep(0)  # other tasks, which talk to the server, must not wait for the parser
        if self._putting is not None and self._putting.done():
            await self._putting

    def cut(self) -> None:
        """End the batch: later rows go into another transaction."""
        self._disarm()
        batch, self._batch = self._batch, None
        if batch is not None:
            self._hand_over(batch, whole=False)
            self._begin(batch)
            batch.end(self._progress())

    def _expect_more(self, patience: float) -> None:
        """End the batch if nothing more comes for so many seconds."""
        if patience > 0:
            self._timer = asyncio.get_running_loop().call_later(patience, self._give_up)
        else:
            self._give_up()

    def _give_up(self) -> None:
        self._least = _MORE
        self.cut()

    async def commit(self) -> None:
        """Wait until all is committed."""
        self.cut()
        if self._putting is not None:
            await asyncio.shield(self._putting)
            self._before = self._putting = None

    async def stop(self) -> None:
        """Cancel what is being stored and wait for its end. Its errors are ignored: another one ended the import."""
        stop_without_loop()
        self._disarm()
        if self._batch is not None:
            self._batch.end()
            self._batch = None
        self._rows = []
        putting, self._putting = self._putting, None
        if putting is not None:
            await end_tasks(putting)

    def _hand_over(self, batch: Batch[R, P], *, whole: bool) -> None:
        """Hand rows over to the database; with `whole`, only as many as fill parts."""
        count = len(self._rows)
        handed = count - count % PART if whole else count
        for start in range(0, handed, PART):
            rows = self._rows[start : min(start + PART, handed)]
            size = self._rows_bytes * len(rows) // count
            batch.add(rows, size)
        self._rows_bytes -= self._rows_bytes * handed // count if count else self._rows_bytes
        self._rows = self._rows[handed:]

    def _begin(self, batch: Batch[R, P]) -> None:
        if not self._is_put:
            self._is_put = True
            self._before = self._putting
            self._putting = asyncio.create_task(self._put_behind(self._before, batch))

    async def _put_behind(self, before: asyncio.Task[None] | None, batch: Batch[R, P]) -> None:
        try:
            if before is not None:
                await before
            await self._put(batch)
        finally:
            batch.leave()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

"""Batches: rows on their way into a database, a commit each, which it takes while more are made.

The parser and the database work at the same time, and neither waits for the other but where it must: rows are handed
over in parts of a few hundred, the database is never more than a little behind, and while it commits one batch the next
is already being made.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

from eventferry.lifecycle import to_the_end

R = TypeVar("R")
P = TypeVar("P")

BATCH_BYTES = 8 * 1024 * 1024
"""How much of the source goes into one commit: enough to make the commit's cost vanish."""

SLICE = 64 * 1024
"""How much of the source is parsed in one go: less than a millisecond's work. In between, what is on its way to a
server goes on."""

PART = 500
"""Rows of a part: what a database takes by one statement, or in one go. On SQLite, which takes at least 32,766 values a
statement, `apsw` keeps none of more than 16 KB for the next time: that of so many rows is just shorter."""

_PART_BYTES = 256 * 1024
"""Bytes of the source at which a part is handed over though it has fewer rows."""

_LEAST = 256 * 1024
"""Bytes of the source that are there before a database begins with a batch."""

_MORE = 2 * 1024 * 1024
"""The same behind a batch for which the source was too slow: it gathers without a transaction."""

_AHEAD = 4 * 1024 * 1024
"""Bytes of the source that may wait for the database."""

_PATIENCE = 0.05
"""Seconds for which a database waits for more of a batch, all in all. A transaction that waited for a slow source, or
for one that waits for the store that it writes to, would hold up everybody else who writes or wants a connection."""


class Batch(Generic[R, P]):
    """The rows of one commit, which are taken, in parts, while more are given.

    Take them by `async for`, or in a thread by `for`, which blocks it while there are none.

    Attributes:
        waited: seconds for which whoever takes them has waited for more.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: SimpleQueue[tuple[Sequence[R], int] | None] = SimpleQueue()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._waits_for_room = False
        self._is_over = False
        # Each is changed by one side only, so that no lock is needed.
        self._given = 0
        self._taken = 0
        self._progress: P | None = None
        self.waited = 0.0

    @property
    def progress(self) -> P:
        """How far the source has come with it; known when all parts have been taken."""
        if self._progress is None:
            raise AssertionError("this batch is not whole")
        return self._progress

    def __iter__(self) -> Iterator[Sequence[R]]:
        while True:
            begun = time.monotonic()
            found = self._parts.get()
            self.waited += time.monotonic() - begun
            if found is None:
                return
            yield found[0]
            self._note(found[1])

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
        """A part has been taken."""
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
        """There are no more. Without progress: and what there is must not be committed."""
        self._progress = progress
        self._parts.put(None)
        self._some.set()

    async def wait_for_room(self) -> None:
        """Wait until not too much waits for the database."""
        self._waits_for_room = True
        while self._given - self._taken > _AHEAD and not self._is_over:
            await self._room.wait()
            self._room.clear()
        self._waits_for_room = False

    def leave(self) -> None:
        """Nobody takes any more."""
        self._is_over = True
        self._room.set()


class Batches(Generic[R, P]):
    """Cuts rows into batches and has each put, in turn.

    Args:
        put: takes all of a batch and commits it.
        progress: how far the source has come with the rows that were given.
        batch_bytes: how much of the source goes into one commit.
    """

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
        """Take rows in; they are put soon.

        Raises:
            BaseException: what was given before could not be put.
        """
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
            if self._before is not None:  # no more than one waits for another
                await asyncio.shield(self._before)
        elif self._is_put:
            await batch.wait_for_room()
            self._expect_more(_PATIENCE - batch.waited)
        await asyncio.sleep(0)  # a server's answers must not wait for parsing
        if self._putting is not None and self._putting.done():
            await self._putting

    def cut(self) -> None:
        """What comes next goes into another commit."""
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
        """Cut short what is being put; what it raises is not what ended the import."""
        self._disarm()
        if self._batch is not None:
            self._batch.end()
            self._batch = None
        self._rows = []
        putting, self._putting = self._putting, None
        if putting is not None:
            putting.cancel()
            await to_the_end(_over(putting))

    def _hand_over(self, batch: Batch[R, P], *, whole: bool) -> None:
        """Hand over what rows there are; if only in whole parts, what is left waits for more."""
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


async def _over(putting: asyncio.Task[None]) -> None:
    await asyncio.gather(putting, return_exceptions=True)

"""A long passage of changes goes on in a process of its own: its source and its sink then have Python's lock to
themselves."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from eventferry.changing.passage import AHEAD, Passage
from eventferry.errors import EventferryError, UsageError, WorkerError
from eventferry.importing.batch import SLICE
from eventferry.lifecycle import PATIENCE
from eventferry.processes.worker import Channel, WorkerProcess, cores

_START = 1024 * 1024
"""Bytes after which the process is started: with fewer, its start would take longer than it saves."""

_MOVE = 3 * 1024 * 1024
"""Bytes after which the passage moves: the process is ready then, or nearly. So many bytes have fewer aggregates than
its numbering keeps in memory."""

_WORK = "eventferry.changing.moving:work"


class Course:
    """Takes a passage from its begin to its end, here or in a process of its own.

    Where a function has a name, the passage moves before the first event: one process calls it for all of them. Where
    there is no second core, or no process can be started, the passage stays here.

    Attributes:
        passage: as it is known here: when it moves, and again when it has ended.
    """

    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self._process: WorkerProcess | None = None
        self._is_moved = False
        self._may_move = passage.can_move and cores() > 1
        self._seen = 0
        self._on_the_way = 0

    async def texts(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The changed lines, some at a time. Raises what the passage does, and WorkerError."""
        try:
            async for block in blocks:
                for start in range(0, len(block), SLICE):
                    if text := await self._fed(block[start : start + SLICE]):
                        yield text
            async for text in self._rest():
                if text:
                    yield text
        except GeneratorExit:
            # Who took the lines may have refused one, and then asks what it was made of.
            with contextlib.suppress(TimeoutError, EventferryError):
                async with asyncio.timeout(PATIENCE):
                    await self._come_back()
            raise
        finally:
            if self._process is not None:
                await self._process.close()

    async def _fed(self, piece: bytes) -> bytes:
        """Lines changed: of this piece, or of one before it."""
        if self._may_move:
            await self._approach()
        self._seen += len(piece)
        if self._process is not None and self._is_moved:
            await self._process.send(piece)
            self._on_the_way += 1
            return await self._received(self._process) if self._on_the_way > AHEAD else b""
        text = self.passage.feed(piece)
        await asyncio.sleep(0)
        return text

    async def _rest(self) -> AsyncGenerator[bytes, None]:
        if self._process is None or not self._is_moved:
            yield self.passage.finish()
            return
        await self._process.send(None)
        self._on_the_way += 1
        while self._on_the_way:
            yield await self._received(self._process)
        await self._come_back()

    async def _approach(self) -> None:
        """Start the process when it is time, and move there."""
        is_now = self.passage.has_function
        try:
            if self._process is None and (is_now or self._seen >= _START):
                self._process = WorkerProcess(_WORK, "changes on the way")
            if self._process is not None and (is_now or self._seen >= _MOVE):
                await self._process.send(self.passage)
                self._is_moved = await self._process.receive()
                self._may_move = False
        except WorkerError:
            self._may_move = False

    async def _received(self, process: WorkerProcess) -> bytes:
        """The next lines from there. Raises the error of the passage, which then is here again."""
        message: bytes | _Ended = await process.receive()
        self._on_the_way -= 1
        if isinstance(message, _Ended):
            await self._take(process, message)
            return b""
        return message

    async def _take(self, process: WorkerProcess, ended: _Ended) -> None:
        self.passage, self._is_moved, self._on_the_way = ended.passage, False, 0
        await process.finish()
        if ended.error is not None:
            raise ended.error

    async def _come_back(self) -> None:
        """Feed nothing more, and have the passage here again."""
        if self._process is not None and self._is_moved:
            await self._process.send(b"")
            while self._is_moved:
                await self._received(self._process)


class _Ended(NamedTuple):
    """The last message of the process.

    Attributes:
        passage: as it is now.
        error: what has ended it, if something did.
    """

    passage: Passage
    error: EventferryError | None


def work(channel: Channel) -> None:
    """What the process does: pieces in, lines out; behind the last piece comes None, or b"" to leave off."""
    try:
        passage: Passage = channel.receive()
    except UsageError:  # the function cannot be loaded here
        channel.send(False)
        return
    channel.send(True)
    error: EventferryError | None = None
    try:
        while piece := channel.receive():
            channel.send(passage.feed(piece))
        if piece is None:
            channel.send(passage.finish())
            channel.receive()
    except EventferryError as met:
        error = met
        if met.__cause__ is not None:
            met.add_note("".join(traceback.format_exception(met.__cause__)))
    passage.end()
    channel.send(_Ended(passage, error))

"""Finding the event that a function of the user's refuses."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from tempfile import NamedTemporaryFile
from typing import Any, TypeAlias

import msgspec

from eventferry.database import Database, Filter
from eventferry.errors import UsageError, WorkerError
from eventferry.lifecycle import aclosing
from eventferry.lines.damaged import DamagedEvent, seen_event, seen_lines
from eventferry.lines.event import Event
from eventferry.looking.scanning import Scan
from eventferry.processes.worker import Channel, WorkerProcess, can_start
from eventferry.user_functions import given_function, load_function

_MARK = struct.Struct("!Q")
_LOADING = 60  # seconds that the module of a function may take


class PoisonSearch(msgspec.Struct, frozen=True, rename="camel"):
    """How far a function came.

    Attributes:
        event: the first event that it refused; None if it took all of them.
        error: what it raised, or how it ended its process, or that it did not come back; None likewise.
        cursor: behind the last event that it was given, so behind the refused one.
        scanned: how many events were looked at.
        is_end: whether the end of the store was reached.
    """

    event: Event | None
    error: str | None
    cursor: str
    scanned: int
    is_end: bool


Refusal: TypeAlias = tuple[int, str]  # which of the events it was, and why


async def find_poison(
    database: Database,
    function: str | Callable[[Event], Any],
    only: Filter,
    cursor: str | None,
    scan: int,
    max_seconds: float | None,
    tell: Callable[[int], None] | None,
) -> PoisonSearch:
    """Give a function the next events from a cursor on, one after another, until it refuses one."""
    walk = Scan(database, cursor, only, scan)
    async with _calling(function, max_seconds) as first_refused, aclosing(walk.pages()) as pages:
        async for page in pages:
            lines = [
                (number, line)
                for number, line in enumerate(seen_lines(page.text, page.number))
                if walk.takes(seen_event(line))
            ]
            refusal = await first_refused([line for _, line in lines])
            if refusal is not None:
                number, line = lines[refusal[0]]
                walk.stop(number)
                return PoisonSearch(seen_event(line), refusal[1], walk.cursor, walk.scanned, walk.is_end)
            if tell is not None:
                tell(walk.scanned)
    return PoisonSearch(None, None, walk.cursor, walk.scanned, walk.is_end)


@asynccontextmanager
async def _calling(
    function: str | Callable[[Event], Any], max_seconds: float | None
) -> AsyncIterator[Callable[[list[bytes]], Awaitable[Refusal | None]]]:
    """What calls a function with the events of lines, and tells the first that it refuses."""
    if not isinstance(function, str) or not can_start():
        yield partial(_first_refused, given_function(function))
        return
    with NamedTemporaryFile() as mark:
        async with WorkerProcess(f"{__name__}:work", f"the function {function}") as process:
            calls = _Elsewhere(process, mark.fileno(), max_seconds)
            await calls.load(function, mark.name)
            yield calls.first_refused


async def _first_refused(function: Callable[[Event], Any], lines: list[bytes]) -> Refusal | None:
    for number, line in enumerate(lines):
        if (reason := await _refusal_of(function, line)) is not None:
            return number, reason
    return None


async def _refusal_of(function: Callable[[Event], Any], line: bytes) -> str | None:
    """Why a function refuses an event; None where it takes it."""
    event = seen_event(line)
    if isinstance(event, DamagedEvent):
        return event.damage
    try:
        given = function(event)
        if inspect.isawaitable(given):
            await given
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # such as SystemExit, and what test frameworks raise
        if isinstance(error, asyncio.CancelledError) and _is_cancelled():
            raise
        return _told(error)
    return None


def _is_cancelled() -> bool:
    """Whether it is this search that was cancelled, and not something of the function's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _told(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}" if str(error) else name
    except Exception:  # its own message fails
        return name


class _Elsewhere:
    """Calls a function in a process of its own, which it may end, or in which it may not come back.

    Args:
        process: runs `work`.
        mark: a file in which that writes how many events the function was given before each call, so that it is known
            whatever becomes of the process.
        max_seconds: seconds that the function may take for an event; None for no limit.
    """

    def __init__(self, process: WorkerProcess, mark: int, max_seconds: float | None) -> None:
        self._process = process
        self._mark = mark
        self._max_seconds = max_seconds
        self._given = 0

    async def load(self, function: str, mark: str) -> None:
        """Load it. Raises UsageError where that fails or does not end, WorkerError where it ends the process."""
        await self._process.send((function, mark))
        try:
            reason = await asyncio.wait_for(self._process.receive(), _LOADING)
        except TimeoutError:
            reason = f"the module of {function!r} was not loaded within {_LOADING} s"
        if reason is not None:
            raise UsageError(f"function: {reason}")

    async def first_refused(self, lines: list[bytes]) -> Refusal | None:
        """The first event that it refuses."""
        before, self._given = self._given, self._given + len(lines)
        await self._process.send(lines)
        answer: asyncio.Task[Refusal | None] = asyncio.ensure_future(self._process.receive())
        try:
            last = -1
            while not (await asyncio.wait([answer], timeout=self._max_seconds))[0]:
                now = self._begun()
                if now == last > before:
                    return now - before - 1, f"it took longer than {self._max_seconds:g} s"
                last = now
            return await answer
        except WorkerError as error:
            if self._begun() <= before:
                raise
            return self._begun() - before - 1, str(error)
        finally:
            answer.cancel()

    def _begun(self) -> int:
        """How many events the function was given."""
        written = os.pread(self._mark, _MARK.size, 0)
        return _MARK.unpack(written)[0] if written else 0


def work(channel: Channel) -> None:
    """What the process does: lines in, the first refusal among them out."""
    # What the function prints is no part of a command's result.
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    name, mark = channel.receive()
    try:
        function = load_function(name)
    except ValueError as error:
        channel.send(str(error))
        return
    channel.send(None)
    asyncio.run(_call(function, channel, os.open(mark, os.O_WRONLY)))


async def _call(function: Callable[[Event], Any], channel: Channel, mark: int) -> None:
    process = os.getpid()
    given = 0
    while True:
        refusal: Refusal | None = None
        for number, line in enumerate(channel.receive()):
            given += 1
            os.pwrite(mark, _MARK.pack(given), 0)
            reason = await _refusal_of(function, line)
            if os.getpid() != process:  # the function has forked, and this is the child
                os._exit(0)
            if reason is not None:
                refusal = number, reason
                break
        channel.send(refusal)

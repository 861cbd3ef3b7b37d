"""An import in parts by several processes of this machine: this one drives, and workers push.

Python's lock lets one thread at a time make rows of lines, so threads would not do. Workers end with their driver, and
what a driver has begun is void when it dies.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from eventferry.database import Database
from eventferry.errors import EndMarkError, EventferryError, InputError
from eventferry.importing import parts
from eventferry.importing.parts import PartReport
from eventferry.lifecycle import end_tasks, to_the_end
from eventferry.lines.end_mark import CheckedLines, ends_with_mark
from eventferry.lines.files import is_plain, read_blocks
from eventferry.lines.piping import Source
from eventferry.operation_log import Operation
from eventferry.processes.worker import Channel, WorkerProcess
from eventferry.reading.partition import Partition
from eventferry.results import ImportReport
from eventferry.state.erasures import Erasure

if TYPE_CHECKING:
    from eventferry.store import EventStore

StoreAt: TypeAlias = "Callable[[str], Awaitable[EventStore]]"
"""Gives the store at a URL; a worker opens each once."""

PARTS = 8
"""How many parts each process pushes, about: so that none is idle for long at the end."""

AnyPart = TypeVar("AnyPart", bound="ImportPart")

_BLOCK = 256 * 1024
_LEAST = 1024 * 1024  # bytes of a file's range, so that a part is worth its push


class ImportPart(Protocol):
    """What a worker pushes at once. It goes there pickled."""

    @property
    def name(self) -> str:
        """The part's name."""

    @property
    def byte_offset(self) -> int:
        """Where it begins in its source, for messages."""

    async def lines(self, store_at: StoreAt) -> Source:
        """Its lines; in the worker."""

    def placed(self, error: EventferryError) -> EventferryError:
        """The error of a push, with its place in the source."""


@dataclass(frozen=True, slots=True)
class StorePart:
    """A part that a worker reads from a store."""

    url: str
    partition: Partition
    byte_offset = 0

    @property
    def name(self) -> str:
        """The part's name."""
        return str(self.partition.number)

    async def lines(self, store_at: StoreAt) -> Source:
        """Its lines."""
        return (await store_at(self.url)).read_partition(self.partition)

    def placed(self, error: EventferryError) -> EventferryError:
        """The error of a push, with its place in the source."""
        return error


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part that a worker reads from a file: whole lines, from a byte up to another.

    Attributes:
        name: the part's name.
        path: of the file.
        identity: of the file itself, whatever stands at the path later.
        byte_offset: where it begins.
        end: where it ends.
    """

    name: str
    path: str
    identity: tuple[int, int]
    byte_offset: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes of the file it is."""
        return self.end - self.byte_offset

    async def lines(self, store_at: StoreAt) -> Source:
        """Its lines."""
        return self._blocks()

    def _blocks(self) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            if _identity(os.fstat(file.fileno())) != self.identity:
                raise InputError(f"{self.path} was replaced by another file during the import")
            file.seek(self.byte_offset)
            left = self.size
            while left and (block := file.read(min(_BLOCK, left))):
                left -= len(block)
                yield block
        if left:
            raise InputError(f"{self.path} has become shorter during the import")

    def placed(self, error: EventferryError) -> EventferryError:
        """The error of a push, with its place in the source."""
        if not isinstance(error, InputError) or error.line is None:
            return error
        before = 0
        with open(self.path, "rb") as file:
            left = self.byte_offset
            while left and (block := file.read(min(_BLOCK, left))):
                left -= len(block)
                before += block.count(b"\n")
        return _in_file(self.path, before + error.line, error)


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A part that is a file as a whole: one that is compressed, or has an end mark, which is about all its lines.

    Attributes:
        name: the part's name.
        path: of the file.
        size: how many bytes it has.
    """

    name: str
    path: str
    size: int
    byte_offset = 0

    async def lines(self, store_at: StoreAt) -> Source:
        """Its lines."""
        return CheckedLines(read_blocks(self.path))

    def placed(self, error: EventferryError) -> EventferryError:
        """The error of a push, with its place in the source."""
        match error:
            case EndMarkError():
                return EndMarkError(f"{self.path}: {error}")
            case InputError(line=int(line)):
                return _in_file(self.path, line, error)
        return error


def _in_file(path: str, line: int, error: InputError) -> InputError:
    """An error with the file that it is in, of which this is the line."""
    return InputError(
        f"{error.reason}, in {path}", line=line, byte_offset=error.byte_offset, field=error.field
    )


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def parts_of_files(paths: Sequence[Path], most: int) -> list[FilePart | WholeFile]:
    """Files of lines, divided into parts of about one size, about so many. What cannot be divided comes first: it takes
    longest. Positions are in the lines, so the order of the files does not matter."""
    whole: list[FilePart | WholeFile] = []
    ranges: list[FilePart | WholeFile] = []
    each = sum(path.stat().st_size for path in paths) // most
    for number, path in enumerate(paths, 1):
        told = "" if len(paths) == 1 else f"file {number} ({path.name})"
        if is_divisible(path):
            ranges += _ranges(path, f"{told}, " if told else "", each)
        else:
            whole.append(WholeFile(told or path.name, str(path), path.stat().st_size))
    return [*sorted(whole, key=lambda part: part.size, reverse=True), *ranges]


def is_divisible(path: Path) -> bool:
    """Whether a file can be read at several places at once, and each line of it by itself."""
    return is_plain(path) and not ends_with_mark(path)


def _ranges(path: Path, label: str, each: int) -> list[FilePart]:
    """Ranges of whole lines of a file, each of about so many bytes."""
    bounds = [0]
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        size = found.st_size
        count = max(size // max(each, _LEAST), 1)
        for number in range(1, count):
            file.seek(max(size * number // count, bounds[-1]))
            while (block := file.readline(_BLOCK)) and not block.endswith(b"\n"):
                pass
            if bounds[-1] < file.tell() < size:
                bounds.append(file.tell())
    return [
        FilePart(f"{label}bytes {begin} to {end}", str(path), _identity(found), begin, end)
        for begin, end in pairwise([*bounds, size])
    ]


@dataclass(frozen=True, slots=True)
class Options:
    """How an import by several processes is done; as for `EventStore.import_events`."""

    jobs: int
    replace: bool = True
    freeze: bool = False
    allow_empty: bool = False
    ignore_unknown_keys: bool = False


class JobsImport:
    """An import in parts into the store at a URL, by several processes: push, then commit, within `async with`. Leaving
    that without a commit leaves nothing behind.

    Args:
        database: of the store.
        url: where workers find it.
        options: how it is done.
        operation: what it is, for the log.

    Attributes:
        events: of the parts that are in.
        bytes: of their lines.
        unchecked: those of them that are compressed without a checksum, so that damage may go unnoticed.
    """

    def __init__(self, database: Database, url: str, options: Options, operation: str) -> None:
        self._database = database
        self._url = url
        self._options = options
        self._operation = Operation(operation, database, jobs=options.jobs)
        self._driver: str | None = None
        self._id = ""
        self.events = 0
        self.bytes = 0
        self.unchecked: list[ImportPart] = []

    async def __aenter__(self) -> JobsImport:
        self._operation.begin()
        self._driver = await self._database.own()
        try:
            self._id = await parts.begin(
                self._database,
                replace=self._options.replace,
                driver=self._driver,
                freeze=self._options.freeze,
            )
        except BaseException as error:
            await self.__aexit__(None, error, None)
            raise
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._operation.fail(error)  # unless it was committed
        driver, self._driver = self._driver, None
        if driver is not None:
            await to_the_end(parts.undo(self._database, driver))

    async def push(self, of: Sequence[AnyPart], done: Callable[[AnyPart], None] = lambda _: None) -> None:
        """Push all of these parts; `done` is called with one that is in."""

        def count(part: AnyPart, pushed: _Pushed) -> None:
            self.events += pushed.report.events
            self.bytes += pushed.report.byte_offset
            if pushed.is_unchecked:
                self.unchecked.append(part)
            done(part)

        waiting = deque(of)
        tasks = [
            asyncio.create_task(self._push(waiting, count)) for _ in range(min(self._options.jobs, len(of)))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end_tasks(*tasks)

    async def _push(self, waiting: deque[AnyPart], done: Callable[[AnyPart, _Pushed], None]) -> None:
        """Have a process push what is waiting, one part after the other."""
        async with WorkerProcess(f"{__name__}:work", "an import") as worker:
            await worker.send((self._url, self._id, self._options.ignore_unknown_keys))
            while waiting:
                part = waiting.popleft()
                await worker.send(part)
                answer: _Pushed | _Failure = await worker.receive()
                if isinstance(answer, _Failure):
                    raise part.placed(answer.error())
                done(part, answer)

    async def commit(self, known: Sequence[Erasure] = ()) -> ImportReport:
        """Swap, and end. `known` was erased from where the events come from."""
        report = await parts.commit(
            self._database,
            self._id,
            allow_empty=self._options.allow_empty,
            known=known,
            driver=self._driver,
        )
        driver, self._driver = self._driver, None
        if driver is not None:
            await to_the_end(self._database.release(driver))
        self._operation.end(imported=report.imported)
        return report


class _Pushed(NamedTuple):
    """A part is in."""

    report: PartReport
    is_unchecked: bool


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error on its way to another process."""

    kind: type[EventferryError]
    message: str
    attributes: dict[str, Any]

    def error(self) -> EventferryError:
        error = self.kind.__new__(self.kind, self.message)
        error.__dict__.update(self.attributes)
        return error


def work(channel: Channel) -> None:
    """What a worker runs: it pushes the parts that it is sent."""
    asyncio.run(_work(channel))


async def _work(channel: Channel) -> None:
    from eventferry import open_store

    url, import_id, ignore_unknown_keys = channel.receive()
    async with AsyncExitStack() as stack:
        stores: dict[str, EventStore] = {}

        async def store_at(place: str) -> EventStore:
            if place not in stores:
                stores[place] = await stack.enter_async_context(open_store(place))
            return stores[place]

        while True:
            part: ImportPart = await asyncio.to_thread(channel.receive)
            answer: _Pushed | _Failure
            try:
                lines = await part.lines(store_at)
                report = await (await store_at(url)).push_import(
                    import_id,
                    part.name,
                    lines,
                    byte_offset=part.byte_offset,
                    ignore_unknown_keys=ignore_unknown_keys,
                )
                answer = _Pushed(report, isinstance(lines, CheckedLines) and lines.is_unchecked)
            except EventferryError as error:
                answer = _Failure(type(error), str(error), error.__dict__)
            except OSError as error:
                answer = _Failure(EventferryError, str(error), {})
            channel.send(answer)

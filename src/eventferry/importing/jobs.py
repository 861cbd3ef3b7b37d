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
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from eventferry.database import Database, Owner
from eventferry.errors import EventferryError, InputError
from eventferry.importing import parts
from eventferry.importing.merge import ImportReport
from eventferry.importing.parts import PartReport
from eventferry.lifecycle import over, to_the_end
from eventferry.lines.piping import Source
from eventferry.processes.worker import Channel, WorkerProcess
from eventferry.reading.partition import Partition
from eventferry.state.erasures import Erasure

if TYPE_CHECKING:
    from eventferry.store import EventStore

StoreAt: TypeAlias = "Callable[[str], Awaitable[EventStore]]"
"""Gives the store at a URL; a worker opens each once."""

_BLOCK = 256 * 1024
_LEAST = 1024 * 1024  # bytes of a file's range, so that a part is worth its push


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
    """A part that a worker reads from a file: whole lines, from a byte up to another."""

    path: str
    identity: tuple[int, int]
    byte_offset: int
    end: int

    @property
    def name(self) -> str:
        """The part's name."""
        return f"bytes {self.byte_offset} to {self.end}"

    async def lines(self, store_at: StoreAt) -> Source:
        """Its lines."""
        return self._blocks()

    def _blocks(self) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            if _identity(os.fstat(file.fileno())) != self.identity:
                raise InputError(f"{self.path} was replaced by another file during the import")
            file.seek(self.byte_offset)
            left = self.end - self.byte_offset
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
        return InputError(
            error.reason, line=before + error.line, byte_offset=error.byte_offset, field=error.field
        )


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def parts_of_file(path: Path, most: int) -> list[FilePart]:
    """At most so many ranges of whole lines, of about one size."""
    bounds = [0]
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        size = found.st_size
        count = max(min(most, size // _LEAST), 1)
        for number in range(1, count):
            file.seek(max(size * number // count, bounds[-1]))
            while (block := file.readline(_BLOCK)) and not block.endswith(b"\n"):
                pass
            if bounds[-1] < file.tell() < size:
                bounds.append(file.tell())
    ends = [*bounds[1:], size]
    return [
        FilePart(str(path), _identity(found), begin, end) for begin, end in zip(bounds, ends, strict=True)
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

    Attributes:
        events: of the parts that are in.
        bytes: their length.
    """

    def __init__(self, database: Database, url: str, options: Options) -> None:
        self._database = database
        self._url = url
        self._options = options
        self._driver: Owner | None = None
        self._id = ""
        self.events = 0
        self.bytes = 0

    async def __aenter__(self) -> JobsImport:
        self._driver = await self._database.own()
        try:
            self._id = await parts.begin(
                self._database,
                replace=self._options.replace,
                driver=self._driver,
                freeze=self._options.freeze,
            )
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            await to_the_end(parts.undo(self._database, driver))

    async def push(self, of: Sequence[StorePart | FilePart], done: Callable[[], None] = lambda: None) -> None:
        """Push all of these parts; `done` is called when one is in."""

        def count(report: PartReport) -> None:
            self.events += report.events
            self.bytes += report.byte_offset
            done()

        waiting = deque(of)
        tasks = [
            asyncio.create_task(self._push(waiting, count)) for _ in range(min(self._options.jobs, len(of)))
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await to_the_end(over(asyncio.gather(*tasks, return_exceptions=True)))

    async def _push(self, waiting: deque[StorePart | FilePart], done: Callable[[PartReport], None]) -> None:
        """Have a process push what is waiting, one part after the other."""
        async with WorkerProcess(f"{__name__}:work", "an import") as worker:
            await worker.send((self._url, self._id, self._options.ignore_unknown_keys))
            while waiting:
                part = waiting.popleft()
                await worker.send(part)
                answer: PartReport | _Failure = await worker.receive()
                if isinstance(answer, _Failure):
                    raise part.placed(answer.error())
                done(answer)

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
            await to_the_end(driver.release())
        return report


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
            part: StorePart | FilePart = await asyncio.to_thread(channel.receive)
            answer: PartReport | _Failure
            try:
                answer = await (await store_at(url)).push_import(
                    import_id,
                    part.name,
                    await part.lines(store_at),
                    byte_offset=part.byte_offset,
                    ignore_unknown_keys=ignore_unknown_keys,
                )
            except EventferryError as error:
                answer = _Failure(type(error), str(error), error.__dict__)
            except OSError as error:
                answer = _Failure(EventferryError, str(error), {})
            channel.send(answer)

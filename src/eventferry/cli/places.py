"""Where events come from and go to: stores, files, standard input and output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from eventferry import open_store
from eventferry.cli.words import run
from eventferry.databases import is_store, without_password
from eventferry.errors import EventferryError, StoreNotFoundError, UsageError

if TYPE_CHECKING:
    from eventferry import EventStore
    from eventferry.files import FileSink

T = TypeVar("T")
COMPRESSED = (".gz", ".zst")


def on_store(store: str, method: Callable[[EventStore], Coroutine[Any, Any, T]]) -> T:
    """Open a store, call one method of it, close it."""

    async def work() -> T:
        async with open_store(store) as opened:
            return await method(opened)

    return cast(T, run(work()))


@asynccontextmanager
async def made(store: EventStore) -> AsyncIterator[None]:
    """Make a missing store."""
    if not await store.exists():
        await store.init()
    yield


@asynccontextmanager
async def store_at(place: str) -> AsyncIterator[EventStore]:
    """A store that is there."""
    async with open_store(place) as store:
        if not await store.exists():  # before a missing target is made
            raise StoreNotFoundError(f"there is no store at {without_password(place)}")
        yield store


@asynccontextmanager
async def source_of(place: str, jobs: int = 1) -> AsyncIterator[tuple[AsyncIterator[bytes], int | None]]:
    """Blocks of lines from a file, standard input or a store; and how many bytes, where that is known.

    A store is read with `jobs` connections.
    """
    from eventferry.files import read_blocks

    if place == "-":
        # The raw file: a read that Ctrl-C left behind must not hold a lock that Python wants at its end.
        yield read_blocks(_raw(sys.stdin)), None
    elif is_store(place):
        async with store_at(place) as store, contextlib.aclosing(store.export_events(jobs=jobs)) as export:
            yield export, None
    else:
        import asyncio

        if not await asyncio.to_thread(os.path.exists, place):
            raise EventferryError(f"there is no file {place}")
        async with contextlib.aclosing(read_blocks(place)) as blocks:
            yield blocks, _size(Path(place))


@asynccontextmanager
async def secrets_of(place: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """Lines of secrets, deleted ones too, from a store, a file or standard input."""
    if is_store(place):
        async with (
            store_at(place) as store,
            contextlib.aclosing(store.export_secrets(tombstones=True)) as export,
        ):
            yield export
    else:
        async with source_of(place) as (blocks, _):
            yield blocks


def _size(path: Path) -> int | None:
    """How many bytes a file will give, where that is known beforehand."""
    return path.stat().st_size if path.suffix not in COMPRESSED and path.is_file() else None


def destination_of(place: str, *, private: bool = False) -> FileSink | IO[bytes]:
    """A file, or standard output."""
    from eventferry.files import FileSink

    return _raw(sys.stdout) if place == "-" else FileSink(place, private=private)


def _raw(stream: Any) -> IO[bytes]:
    if stream is None:
        raise EventferryError("standard input or output is closed")
    return cast("IO[bytes]", getattr(stream.buffer, "raw", stream.buffer))


def refuse_store(place: str, instead: str) -> None:
    """Refuse a store where a file is meant."""
    if is_store(place):
        raise UsageError(f"{without_password(place)} is a store: {instead}")

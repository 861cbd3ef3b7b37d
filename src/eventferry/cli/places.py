"""Sources and destinations of events: stores, files, standard input and output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from eventferry import open_store
from eventferry.cli.configuration import is_named
from eventferry.cli.options import refuse_broken_url
from eventferry.cli.output import print_line
from eventferry.cli.running import run
from eventferry.cli.terminal import Extent, is_watched, say
from eventferry.databases import is_store, without_password
from eventferry.errors import EventferryError, InputError, StoreNotFoundError, UsageError

if TYPE_CHECKING:
    from eventferry import CheckEnd, EventStore
    from eventferry.cli.foreign import Foreign
    from eventferry.lines.files import FileSink

T = TypeVar("T")


def on_store(store: str, method: Callable[[EventStore], Coroutine[Any, Any, T]]) -> T:
    """Open a store, call one of its methods, and close it."""

    async def work() -> T:
        async with open_store(store) as opened:
            return await method(opened)

    return cast(T, run(work()))


def print_begun(
    store: str,
    begin: Callable[[EventStore], Coroutine[Any, Any, str]],
    roll_back: Callable[[EventStore, str], Coroutine[Any, Any, None]],
) -> None:
    """Begin an import in a store, and print its id; one whose id nobody has read is rolled back."""

    async def work() -> None:
        async with open_store(store) as opened:
            import_id = await begin(opened)
            try:
                print_line(import_id)
            except Exception:
                await roll_back(opened, import_id)
                raise

    run(work())


@asynccontextmanager
async def made(
    store: EventStore, source: AsyncIterator[bytes], *, placed: bool, ignore_unknown_keys: bool
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Create a missing store, unless the first line of the input is refused; yields all blocks.

    If the block raises, a store that is still empty is removed again.

    `placed`: events have positions.
    """
    from eventferry.lines.piping import MadeLines

    blocks = source
    if not await store.exists():
        try:
            begun = await _begun(source, placed=placed, ignore_unknown_keys=ignore_unknown_keys)
        except InputError as error:
            if isinstance(source, MadeLines):
                raise source.explain(error) from error
            raise
        await store.init()
        blocks = _joined(begun, source)
    try:
        yield blocks
    except EventferryError as error:
        told: EventferryError = error
        if isinstance(error, InputError) and isinstance(source, MadeLines):
            told = source.explain(error)
        await store._undo_init_for(told)
        if told is not error:
            raise told from error
        raise


async def _begun(blocks: AsyncIterator[bytes], *, placed: bool, ignore_unknown_keys: bool) -> list[bytes]:
    """The first blocks of a source, up to its first line. Raises InputError if that line is neither an event nor the
    beginning of an array."""
    from eventferry.lines.blocks import LineSplitter
    from eventferry.lines.decoder import LineDecoder

    begun: list[bytes] = []
    splitter = LineSplitter()
    async for block in blocks:
        begun.append(block)
        lines = splitter.feed(block)
        if lines.count:
            break
    else:
        lines = splitter.finish()
    decoder = LineDecoder(ignore_unknown_keys=ignore_unknown_keys)
    for text in lines.texts[:1]:
        if placed or not text.lstrip().startswith(b"["):
            first = replace(lines, text=text, count=1)
            list(first.rows(decoder) if placed else first.new_rows(decoder))
    return begun


async def _joined(begun: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for block in begun:
        yield block
    async for block in rest:
        yield block


@asynccontextmanager
async def store_at(place: str) -> AsyncIterator[EventStore]:
    """A store that exists."""
    async with open_store(place) as store:
        if not await store.exists():  # before a missing target is created
            raise StoreNotFoundError(f"there is no store at {without_password(place)}")
        yield store


@asynccontextmanager
async def source_of(
    place: str,
    jobs: int = 1,
    until: str | None = None,
    foreign: Foreign | None = None,
    end: CheckEnd | None = None,
) -> AsyncIterator[tuple[AsyncIterator[bytes], Extent]]:
    """Blocks of lines from a file, standard input or a store; and how much there is of them.

    A store is read with `jobs` connections, and up to the bookmark `until`; other tables as `foreign` says. An end mark
    is checked by `end`, or if there is one. Warns at the end about a compressed file without a checksum.
    """
    from eventferry.lines.end_mark import CheckedLines
    from eventferry.lines.files import Blocks

    if foreign is not None:
        async with foreign.lines(place) as export:
            yield export, Extent(None, "event")
        return
    async with blocks_of(place, jobs, until) as (blocks, extent):
        lines = CheckedLines(blocks, end) if isinstance(blocks, Blocks) else blocks
        yield lines, extent
        if isinstance(lines, CheckedLines) and lines.is_unchecked:
            warn_unchecked(place)


def warn_unchecked(place: str) -> None:
    """Say that damage of a file would not be seen."""
    say(f"warning: {place} has no checksum, so damage may go unnoticed")


@asynccontextmanager
async def blocks_of(
    place: str, jobs: int = 1, until: str | None = None
) -> AsyncIterator[tuple[AsyncIterator[bytes], Extent]]:
    """The same with the end mark, and without the warning."""
    from eventferry.lines.files import read_blocks

    if place == "-":
        # The raw file: a read abandoned by Ctrl-C must not hold a lock that Python needs at exit.
        yield read_blocks(_raw(sys.stdin)), Extent(None)
    elif is_store(place):
        async with (
            store_at(place) as store,
            contextlib.aclosing(store.export_events(jobs=jobs, until=until)) as export,
        ):
            yield export, await events_of(store) if until is None else Extent(None, "event")
    else:
        import asyncio

        refuse_broken_url(place)
        if not await asyncio.to_thread(os.path.exists, place):
            raise EventferryError(f"there is no file {place}")
        async with contextlib.aclosing(read_blocks(place)) as blocks:
            yield blocks, Extent(_size(place), position=lambda: blocks.position)


@asynccontextmanager
async def secrets_of(place: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """Lines of secrets, including tombstones, from a store, a file or standard input."""
    if is_store(place):
        async with (
            store_at(place) as store,
            contextlib.aclosing(store.export_secrets(tombstones=True)) as export,
        ):
            yield export
    else:
        async with source_of(place) as (blocks, _):
            yield blocks


def _size(place: str) -> int | None:
    """The bytes of a file, as they are in it; None for a pipe."""
    return os.path.getsize(place) if os.path.isfile(place) else None


async def events_of(store: EventStore) -> Extent:
    """How many events reading a whole store will give. They are counted only for somebody who watches."""
    count = (await store.describe(estimate_counts=True)).event_count if is_watched() else None
    return Extent(count, "event")


def destination_of(place: str, *, private: bool = False) -> FileSink | IO[bytes]:
    """A file, or standard output."""
    from eventferry.lines.files import FileSink

    return _raw(sys.stdout) if place == "-" else FileSink(place, private=private)


def is_standard_output(place: str) -> bool:
    """Whether a destination is standard output under any name."""
    from eventferry.lines.files import descriptor_of

    return place == "-" or descriptor_of(place) == 1


def _raw(stream: Any) -> IO[bytes]:
    if stream is None:
        raise EventferryError("standard input or output is closed")
    return cast("IO[bytes]", getattr(stream.buffer, "raw", stream.buffer))


def refuse_store(place: str, instead: str) -> None:
    """Refuse a store where a file is expected."""
    if is_store(place) or (is_named(place) and not os.path.lexists(place)):
        raise UsageError(f"{without_password(place)} is a store: {instead}")
    refuse_broken_url(place)

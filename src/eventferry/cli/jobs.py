"""Imports and copies by several processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventferry import open_store
from eventferry.cli.output import print_result
from eventferry.cli.places import events_of, refuse_store, store_at, warn_unchecked
from eventferry.cli.terminal import Extent, Meter, counted, rate
from eventferry.databases import is_on_server
from eventferry.errors import EventferryError, UsageError

if TYPE_CHECKING:
    from eventferry.importing.jobs import JobsImport, Options

_TAKEN = ("replace", "freeze", "allow_empty", "ignore_unknown_keys")


def jobs_of(jobs: int, options: dict[str, Any]) -> Options:
    """How an import by several processes is done, by the options of its command. Raises UsageError for others."""
    from eventferry.importing.jobs import Options

    if _has_others(options):
        raise UsageError(
            "--jobs, as well as several files, imports what is there as it is: it cannot be combined with a mapping, "
            "filters, rules, --dry-run, --resume or what is said of an end mark"
        )
    return Options(jobs, **{name: options[name] for name in _TAKEN})


def can_copy_by_jobs(store: str, options: dict[str, Any]) -> bool:
    """Whether several processes can copy into a store: one process alone changes events, resumes, and writes SQLite."""
    return is_on_server(store) and not _has_others(options)


def _has_others(options: dict[str, Any]) -> bool:
    given = {name for name, value in options.items() if value}
    if options["payload"] == "envelope":  # the default
        given.discard("payload")
    return not given <= {*_TAKEN, "as_json", "with_bookmark"}


async def copy_by_jobs(src: str, store: str, options: Options, *, with_bookmark: bool, as_json: bool) -> None:
    """Replace a store's events by another store's."""
    from eventferry.changing import erasing
    from eventferry.importing.jobs import PARTS, StorePart

    async with store_at(src) as source, _import_into(store, options, "copy") as jobs:
        partitions = await source.partitions(PARTS * options.jobs)
        known = await erasing.read(source._database)
        with Meter("importing", await events_of(source)) as meter:
            await jobs.push([StorePart(src, each) for each in partitions], lambda _: meter.show(jobs.events))
            if await erasing.read(source._database) != known:
                raise EventferryError("something was erased from the source during the copy: copy again")
            await jobs.commit(known)
        bookmark = await source.bookmark(partitions[-1].until if partitions else None)
    words = f"; bookmark of the source {bookmark}" if with_bookmark else ""
    _tell(jobs, meter.seconds, {"bookmark": bookmark}, words, as_json=as_json)


async def import_by_jobs(places: Sequence[str], store: str, options: Options, *, as_json: bool) -> None:
    """Replace a store's events by those of files of JSON Lines."""
    from eventferry.importing.jobs import PARTS, FilePart, WholeFile, parts_of_files

    paths = _files(places)
    read = 0

    def show(part: FilePart | WholeFile) -> None:
        nonlocal read
        read += part.size
        meter.show(read)

    async with _import_into(store, options, "import") as jobs:
        with Meter("importing", Extent(sum(path.stat().st_size for path in paths))) as meter:
            await jobs.push(parts_of_files(paths, PARTS * options.jobs), show)
            await jobs.commit()
    more = {"byteOffset": jobs.bytes} if len(paths) == 1 else {"files": len(paths)}
    _tell(
        jobs,
        meter.seconds,
        more,
        f" from {counted(len(paths), 'file')}" if len(paths) > 1 else "",
        as_json=as_json,
    )
    for part in jobs.unchecked:
        if isinstance(part, WholeFile):
            warn_unchecked(part.path)


def _tell(jobs: JobsImport, seconds: float, more: dict[str, Any], words: str, *, as_json: bool) -> None:
    told = {"imported": jobs.events} | more
    print_result(told, f"imported {rate(jobs.events, seconds)}{words}", as_json=as_json)


def _files(places: Sequence[str]) -> list[Path]:
    """Files that can be read from several processes at once. Raises UsageError for any other source."""
    from eventferry.importing.jobs import is_divisible

    paths = []
    for place in places:
        refuse_store(place, "copy takes one, also with --jobs; these are files of JSON Lines")
        path = Path(place)
        if place != "-" and not path.exists():
            raise EventferryError(f"there is no file {place}")
        if place == "-" or not path.is_file():
            raise UsageError(f"several files, and --jobs, need ordinary files to read, and {place} is none")
        paths.append(path)
    if len(paths) == 1 and not is_divisible(paths[0]):
        raise UsageError(
            "--jobs reads one file at several places, so it needs a plain file, not one that is compressed or has an "
            "end mark, which is about all its lines together: import it without --jobs"
        )
    return paths


@asynccontextmanager
async def _import_into(store: str, options: Options, operation: str) -> AsyncIterator[JobsImport]:
    """An import into a store, which is made if it is missing, and then removed again where nothing comes in."""
    from eventferry.importing.jobs import JobsImport

    async with open_store(store) as opened:
        if not await opened.exists():
            await opened.init()
        try:
            async with JobsImport(opened._database, store, options, operation) as jobs:
                yield jobs
        except EventferryError as error:
            await opened._undo_init_for(error)
            raise

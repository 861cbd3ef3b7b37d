"""The formats of files of events: JSON Lines, CSV, Parquet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import eventferry
from eventferry.cli.options import refuse_broken_url
from eventferry.cli.places import destination_of, is_standard_output, source_of
from eventferry.databases import is_store, without_password
from eventferry.errors import EventferryError, UsageError

if TYPE_CHECKING:
    from eventferry import Conversion, FolderSink, SplitBy
    from eventferry.lines.files import FileSink

FileFormat: TypeAlias = Literal["jsonl", "csv", "parquet"]


def destination_in(
    file_format: FileFormat, place: str, split_by: SplitBy | None
) -> FileSink | FolderSink | IO[bytes]:
    """A file, or standard output; or a folder of files if they are split."""
    from eventferry.lines.files import PACKED

    if split_by is not None:
        if is_standard_output(place):
            raise UsageError("--split-by makes a folder of files, which standard output is not")
        return eventferry.FolderSink(
            place, split_by=split_by, conversion=_conversion_to(file_format), ending=f".{file_format}"
        )
    if file_format == "parquet" and os.path.splitext(place)[1].lower() in PACKED:
        raise UsageError("Parquet is compressed by itself: leave the ending .gz or .zst out")
    return destination_of(place)


def transforms_to(file_format: FileFormat, split_by: SplitBy | None) -> list[Conversion]:
    """What comes before such a destination; files of a folder are converted one by one, at its end."""
    conversion = None if split_by is not None else _conversion_to(file_format)
    return [] if conversion is None else [conversion]


def _conversion_to(file_format: FileFormat) -> Conversion | None:
    if file_format == "csv":
        return eventferry.to_csv()
    return eventferry.to_parquet() if file_format == "parquet" else None


@asynccontextmanager
async def source_in(
    file_format: FileFormat, place: str, jobs: int = 1
) -> AsyncIterator[tuple[AsyncIterator[bytes], int | None]]:
    """Blocks of lines from a file in any format, standard input or a store; and their total bytes, if known."""
    if file_format != "jsonl" and is_store(place):
        raise UsageError(f"{without_password(place)} is a store: --format is for files")
    if file_format == "parquet":
        async with contextlib.aclosing(await _parquet(place)) as lines:
            yield lines, None
        return
    async with source_of(place, jobs) as (blocks, total):
        if file_format == "csv":
            async with contextlib.aclosing(eventferry.from_csv()(blocks)) as lines:
                yield lines, None
        else:
            yield blocks, total


async def _parquet(place: str) -> Any:
    import asyncio

    refuse_broken_url(place)
    if place == "-":
        raise UsageError("Parquet is read from its end: it needs a file, and standard input is none")
    if not await asyncio.to_thread(os.path.exists, place):
        raise EventferryError(f"there is no file {place}")
    return eventferry.read_parquet(place)

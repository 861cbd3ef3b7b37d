"""The formats of files of events: JSON Lines, CSV, Parquet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import eventferry
from eventferry.cli.foreign import Foreign
from eventferry.cli.options import refuse_broken_url
from eventferry.cli.places import destination_of, is_standard_output, source_of
from eventferry.cli.terminal import counted
from eventferry.databases import is_store, without_password
from eventferry.errors import EventferryError, UsageError

if TYPE_CHECKING:
    from eventferry import Conversion, FolderSink, SplitBy
    from eventferry.lines.files import FileSink

FileFormat: TypeAlias = Literal["jsonl", "csv", "parquet"]


class Destination:
    """Where an export goes, and in which format.

    Attributes:
        sink: a file, or standard output; or a folder of files if they are split.
        transforms: what comes before it. The files of a folder are converted one by one, at its end.
        is_standard_output: whether data goes there.
    """

    def __init__(self, place: str, file_format: FileFormat, split_by: SplitBy | None) -> None:
        from eventferry.lines.files import PACKED

        conversion = _conversion_to(file_format)
        self.is_standard_output = is_standard_output(place)
        self.transforms = [] if conversion is None or split_by is not None else [conversion]
        self.sink: FileSink | FolderSink | IO[bytes]
        if split_by is None:
            if file_format == "parquet" and os.path.splitext(place)[1].lower() in PACKED:
                raise UsageError("Parquet is compressed by itself: leave the ending .gz or .zst out")
            self.sink = destination_of(place)
        elif self.is_standard_output:
            raise UsageError("--split-by makes a folder of files, which standard output is not")
        else:
            self.sink = eventferry.FolderSink(
                place, split_by=split_by, conversion=conversion, ending=f".{file_format}"
            )

    @property
    def result(self) -> dict[str, int]:
        """What to add to a result."""
        return {"files": self.sink.files} if isinstance(self.sink, eventferry.FolderSink) else {}

    @property
    def told(self) -> str:
        """The same as words."""
        return "".join(f" to {counted(count, 'file')}" for count in self.result.values())


def _conversion_to(file_format: FileFormat) -> Conversion | None:
    if file_format == "csv":
        return eventferry.to_csv()
    return eventferry.to_parquet() if file_format == "parquet" else None


@asynccontextmanager
async def source_in(
    file_format: FileFormat, place: str, jobs: int = 1, foreign: Foreign | None = None
) -> AsyncIterator[tuple[AsyncIterator[bytes], int | None]]:
    """Blocks of lines from a file in any format, standard input, a store or another product's tables; and their total
    bytes, if known."""
    if file_format != "jsonl" and is_store(place):
        raise UsageError(f"{without_password(place)} is a store: --format is for files")
    if file_format == "parquet":
        async with contextlib.aclosing(await _parquet(place)) as lines:
            yield lines, None
        return
    async with source_of(place, jobs, foreign=foreign) as (blocks, total):
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

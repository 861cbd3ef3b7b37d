"""The formats of files of events: JSON Lines, CSV, Parquet, CloudEvents."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias, cast

import eventferry
from eventferry.cli.foreign import Foreign, tell_preview
from eventferry.cli.options import refuse_broken_url
from eventferry.cli.places import destination_of, is_standard_output, source_of
from eventferry.cli.terminal import Extent, counted
from eventferry.databases import is_store, without_password
from eventferry.errors import EventferryError, InputError, UsageError

if TYPE_CHECKING:
    from eventferry import CheckEnd, Conversion, FolderSink, SplitBy
    from eventferry.lines.files import FileSink
    from eventferry.sources.source import SourceReport

FileFormat: TypeAlias = Literal["jsonl", "csv", "parquet", "cloudevents"]

_OF_LINES = ("jsonl", "cloudevents")


class Destination:
    """Where an export goes, and in which format.

    Attributes:
        sink: a file, or standard output; or a folder of files if they are split.
        transforms: what comes before it. The files of a folder are converted one by one, at its end.
        is_standard_output: whether data goes there.
    """

    def __init__(
        self,
        place: str,
        file_format: FileFormat,
        split_by: SplitBy | None,
        *,
        has_end: bool,
        source: str | None = None,
    ) -> None:
        from eventferry.lines.files import PACKED

        conversion = _conversion_to(file_format, source)
        self.is_standard_output = is_standard_output(place)
        self.transforms: list[Any] = [] if conversion is None or split_by is not None else [conversion]
        if has_end:
            if file_format not in _OF_LINES or split_by is not None:
                raise UsageError("--end-mark is for one file, or pipe, of JSON Lines")
            self.transforms.append(eventferry.mark_end)
        self.sink: FileSink | FolderSink | IO[bytes]
        if split_by is None:
            if file_format in _OF_LINES:
                _refuse_misnamed(place)
            if file_format == "parquet" and os.path.splitext(place)[1].lower() in PACKED:
                raise UsageError("Parquet is compressed by itself: leave the ending .gz or .zst out")
            self.sink = destination_of(place)
        elif self.is_standard_output:
            raise UsageError("--split-by makes a folder of files, which standard output is not")
        else:
            self.sink = eventferry.FolderSink(
                place,
                split_by=split_by,
                conversion=conversion,
                ending=".jsonl" if file_format in _OF_LINES else f".{file_format}",
            )

    @property
    def result(self) -> dict[str, int]:
        """What to add to a result."""
        return {"files": self.sink.files} if isinstance(self.sink, eventferry.FolderSink) else {}

    @property
    def told(self) -> str:
        """The same as words."""
        return "".join(f" to {counted(count, 'file')}" for count in self.result.values())


def _refuse_misnamed(place: str) -> None:
    """Refuse lines in a file whose name says Parquet or CSV: whoever opens it would take it for damaged."""
    from eventferry.lines.files import PACKED

    name, ending = os.path.splitext(place)
    if ending.lower() in PACKED:
        ending = os.path.splitext(name)[1]
    if ending.lower() in (".parquet", ".csv"):
        raise UsageError(f"add --format {ending[1:].lower()}: without it, {place!r} would be a file of lines")


def _conversion_to(file_format: FileFormat, source: str | None) -> Conversion | None:
    if file_format == "cloudevents":
        if source is None:
            raise UsageError(
                "--format cloudevents needs --source URI, such as /shop/orders: it tells this store from others"
            )
        return eventferry.to_cloudevents(source)
    if source is not None:
        raise UsageError("--source is for --format cloudevents")
    if file_format == "csv":
        return eventferry.to_csv()
    return eventferry.to_parquet() if file_format == "parquet" else None


class ConvertedLines(AsyncIterator[bytes]):
    """Lines that were made of something else.

    Attributes:
        report: what has become of the rows so far; None without a mapping.
    """

    def __init__(
        self, lines: AsyncGenerator[bytes], report: Callable[[], SourceReport] | None = None
    ) -> None:
        self._lines = lines
        self._report = report

    @property
    def report(self) -> SourceReport | None:
        """What has become of the rows so far."""
        return None if self._report is None else self._report()

    def __aiter__(self) -> ConvertedLines:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._lines)

    async def aclose(self) -> None:
        """End now."""
        await self._lines.aclose()

    def explain(self, error: InputError) -> InputError:
        """What a sink has refused: the lines that it counts are events here, and their bytes are nobody's."""
        if error.line is None or error.byte_offset is None:
            return error
        return InputError(error.reason, line=error.line, field=error.field, unit="event")


async def tell_in(file_format: FileFormat, place: str, foreign: Foreign, *, as_json: bool) -> None:
    """Print what a source would give by a mapping; exits with 1 where something is wrong in it."""
    if file_format == "jsonl":
        await foreign.tell(place, as_json=as_json)
        return
    from eventferry.sources.source import preview_of

    async with source_in(file_format, place, 1, foreign) as (lines, _):
        preview = await preview_of(lines, lambda: cast("SourceReport", cast(Any, lines).report))
    tell_preview(preview, as_json=as_json)


@asynccontextmanager
async def source_in(
    file_format: FileFormat,
    place: str,
    jobs: int = 1,
    foreign: Foreign | None = None,
    end: CheckEnd | None = None,
    aggregate: str | None = None,
) -> AsyncIterator[tuple[AsyncIterator[bytes], Extent]]:
    """Blocks of lines from a file in any format, standard input, a store or another product's tables; and how much
    there is of them."""
    if file_format != "jsonl" and is_store(place):
        raise UsageError(f"{without_password(place)} is a store: --format is for files")
    if aggregate is not None and file_format != "cloudevents":
        raise UsageError("--aggregate-attribute is for --format cloudevents")
    if end is not None and (file_format not in _OF_LINES or is_store(place)):
        raise UsageError("--expect-end and --filtered are for JSON Lines from a file or a pipe")
    if foreign is not None and file_format in ("parquet", "cloudevents"):
        raise UsageError("--from reads a database, or with --format csv a file")
    if file_format == "parquet":
        async with contextlib.aclosing(ConvertedLines(await _parquet(place))) as lines:
            yield lines, Extent(None, "event")
    elif file_format == "csv":
        mapped = None if foreign is None else foreign.csv()
        async with source_of(place) as (blocks, extent):
            rows = (mapped or eventferry.from_csv())(blocks)
            report = None if mapped is None else lambda: mapped.report
            async with contextlib.aclosing(ConvertedLines(rows, report)) as lines:
                yield lines, extent
    elif file_format == "cloudevents":
        made = eventferry.from_cloudevents(aggregate=aggregate or "subject")
        async with (
            source_of(place, end=end) as (blocks, extent),
            contextlib.aclosing(ConvertedLines(made(blocks))) as lines,
        ):
            yield lines, extent
    else:
        async with source_of(place, jobs, foreign=foreign, end=end) as (blocks, extent):
            yield blocks, extent


async def _parquet(place: str) -> Any:
    import asyncio

    refuse_broken_url(place)
    if place == "-":
        raise UsageError("Parquet is read from its end: it needs a regular file, and standard input is none")
    if not await asyncio.to_thread(os.path.exists, place):
        raise EventferryError(f"there is no file {place}")
    return eventferry.read_parquet(place)

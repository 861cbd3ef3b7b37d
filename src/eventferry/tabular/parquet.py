"""Events as Parquet, and back, by pyarrow."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import Any

from eventferry.errors import EventferryError, InputError, MissingExtraError, UsageError
from eventferry.lifecycle import settled
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.tabular.columns import COLUMNS, refuse_columns
from eventferry.tabular.conversion import Conversion

try:
    import pyarrow as pa
    from pyarrow import parquet

    from eventferry.tabular.arrow import SCHEMA, BatchLines, batch_of
except ImportError:
    raise MissingExtraError("Parquet needs a package: pip install 'eventferry[parquet]'") from None

ROW_GROUP_BYTES = 32 * 1024 * 1024
"""From how many bytes on, not packed, a row group is written: with events of 300 bytes it has 120,000 of them, about as
many as DuckDB gives to one thread at a time."""

_READ_BYTES = 1024 * 1024  # how much is made lines of at a time, about
_READ_ROWS = 10_000  # and at most


def to_parquet() -> Conversion:
    """A transform from lines to Parquet, for a file, a pipe or a `FolderSink`. Its footer comes last, so what an export
    that died has written is no Parquet file.

    Raises:
        InputError: while it runs, for a line that is no event.
    """
    return Conversion(ParquetWriter)


class _Written:
    """A file in memory that is emptied again and again."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._at = 0

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        self._at += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        """What was written since this was last called."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class ParquetWriter:
    """The codec of `to_parquet`."""

    def __init__(self) -> None:
        self._splitter = LineSplitter()
        self._decoder = LineDecoder()
        self._batches: list[Any] = []
        self._bytes = 0
        self._file = _Written()
        self._writer = parquet.ParquetWriter(
            self._file,
            SCHEMA,
            compression="zstd",
            use_dictionary=["type", "aggregateId"],
            # Least and greatest values let a reader skip row groups; those of payloads tell nothing.
            write_statistics=[column for column in COLUMNS if column != "payload"],
        )

    def feed(self, block: bytes) -> bytes:
        """The row group that this block makes full."""
        self._add(self._splitter.feed(block))
        return self._row_group() if self._bytes >= ROW_GROUP_BYTES else b""

    def finish(self) -> bytes:
        """The last row group, and the footer."""
        self._add(self._splitter.finish())
        last = self._row_group()
        self._writer.close()
        return last + self._file.taken()

    def _add(self, lines: Lines) -> None:
        rows = [row for _, row in lines.whole_rows(self._decoder)]
        if not rows:
            return
        batch = batch_of(rows)
        self._batches.append(batch)
        self._bytes += batch.nbytes

    def _row_group(self) -> bytes:
        if self._batches:
            table = pa.Table.from_batches(self._batches)
            self._batches, self._bytes = [], 0
            self._writer.write_table(table, row_group_size=len(table))
        return self._file.taken()


async def read_parquet(path: str | os.PathLike[str]) -> AsyncGenerator[bytes]:
    """The lines of a Parquet file of events, in blocks, as a source for `pipeline`. The columns are the keys of a line
    in any order; a time has a time zone, or is a whole number of milliseconds since 1970.

    Raises:
        InputError: while it runs, for what is no Parquet, or no event: with the number of the row, and the column.
        UsageError: while it runs, for a pipe, or anything else that is not a regular file.
    """
    blocks = _blocks(os.fsdecode(path))
    reading: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            reading = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
            if (block := await asyncio.shield(reading)) is None:
                return
            yield block
    finally:
        if reading is not None:
            await settled(reading)
        blocks.close()


def _blocks(path: str) -> Generator[bytes]:
    try:
        # Opening a pipe waits for whoever writes it, and nothing could end that.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"Parquet is read from its end: it needs a regular file, and {path} is none")
        with open(path, "rb") as source, parquet.ParquetFile(source, buffer_size=_READ_BYTES) as file:
            refuse_columns(file.schema_arrow.names, path)
            yield from _lines(file)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is damaged or cut off, or is not Parquet: {error}") from None
    except OSError as error:
        raise EventferryError(f"{path} cannot be read: {error.strerror or error}") from None


def _lines(file: Any) -> Iterator[bytes]:
    columns = [column for column in COLUMNS if column in file.schema_arrow.names]
    writer = BatchLines(columns)
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        each = max(about.total_byte_size // max(about.num_rows, 1), 1)
        at_once = min(max(_READ_BYTES // each, 1), _READ_ROWS)
        for batch in file.iter_batches(batch_size=at_once, row_groups=[group], columns=columns):
            yield writer.lines(batch)

"""Events as CSV (RFC 4180): a header, one row an event, every text in quotes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from typing import Any

from eventferry.errors import InputError
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.held_back import HeldBack
from eventferry.tabular.columns import COLUMNS, moment_text
from eventferry.tabular.conversion import Conversion

_HELD = 3
"""Bytes at the end that wait for more or for the proper end: the quote that closes the last payload, and a line break.
What an export that died has written ends inside quotes, which no reader takes for an end."""


def to_csv() -> Conversion:
    """A transform from lines to CSV, for a file, a pipe or a `FolderSink`.

    Raises:
        InputError: while it runs, for a line that is no event, or whose time is beyond the years 1 to 9999.
    """
    return Conversion(CsvWriter)


class CsvWriter:
    """The codec of `to_csv`."""

    def __init__(self) -> None:
        self._splitter = LineSplitter()
        self._decoder = LineDecoder()
        self._held = HeldBack(_HELD, _csv([COLUMNS]))

    def feed(self, block: bytes) -> bytes:
        """The rows of the lines that this block makes whole, but for their very end."""
        return self._held.all_but_the_end(_csv(self._rows(self._splitter.feed(block))))

    def finish(self) -> bytes:
        """The rest."""
        return self._held.rest + _csv(self._rows(self._splitter.finish()))

    def _rows(self, lines: Lines) -> Iterator[tuple[Any, ...]]:
        for number, row in lines.whole_rows(self._decoder):
            try:
                moment = moment_text(row.timestamp)
            except OverflowError:
                raise lines.placed(
                    InputError(
                        f"{row.timestamp} is beyond the years 1 to 9999: CSV cannot hold it, but Parquet can",
                        field="timestamp",
                    ),
                    number,
                ) from None
            yield (
                row.thread_counter,
                row.thread_id,
                row.type,
                moment,
                row.aggregate_id,
                row.aggregate_version,
                row.payload.decode(),
            )


def _csv(rows: Any) -> bytes:
    text = StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return text.getvalue().encode()

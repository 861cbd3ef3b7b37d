"""CSV (RFC 4180) becomes records, and records become lines.

Not by Python's `csv`: its limit for a field, 128 KiB, is one setting of the whole process, and a large payload exceeds
it; and it takes a file that ends inside quotes for whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from eventferry.errors import InputError
from eventferry.lines.blocks import BOM, DEFAULT_MAX_LINE_BYTES
from eventferry.tabular.columns import (
    COLUMNS,
    NUMBERS,
    LineWriter,
    RowError,
    payload_of,
    refuse_columns,
    timestamp_of,
    whole_number,
)
from eventferry.tabular.conversion import Conversion


class CsvRecords:
    """Records that follow one another in a file.

    Attributes:
        records: their fields.
        row: the number of the first one, from 1, without the header.
    """

    def __init__(self, text: str, starts: list[int], records: list[list[str]], row: int, line: int) -> None:
        self._text = text
        self._starts = starts
        self._line = line
        self.records = records
        self.row = row

    def placed(self, error: InputError, index: int) -> InputError:
        """The same error, with the place of a record."""
        line = self._line + self._text.count("\n", 0, self._starts[index])
        return InputError(error.reason, line=line, field=error.field, unit=f"row {self.row + index}, line")


class RecordMaker(Protocol):
    """Makes lines of records."""

    def lines(self, records: CsvRecords) -> bytes:
        """The lines. Raises InputError with its place."""


def from_csv() -> Conversion:
    """A transform from CSV to lines; the header names the columns, which are the keys of a line in any order.

    A time is in ISO 8601 with its zone, or in milliseconds since 1970.

    Raises:
        InputError: while it runs, for what is no CSV, or no event: with the number of the row, that of the line where
            it begins, and the column.
    """
    return Conversion(lambda: CsvReader(EventRecords))


class EventRecords:
    """Makes lines of the records of a table of events."""

    def __init__(self, header: Sequence[str]) -> None:
        refuse_columns(header, "the header")
        columns = [column for column in COLUMNS if column in header]
        self._values = [(header.index(column), _READERS[column]) for column in columns]
        self._writer = LineWriter(columns)

    def lines(self, records: CsvRecords) -> bytes:
        """The lines of records."""
        rows = []
        for index, record in enumerate(records.records):
            try:
                rows.append([read(record[place]) for place, read in self._values])
            except InputError as error:
                raise records.placed(error, index) from None
        try:
            return self._writer.lines(rows)
        except RowError as wrong:
            raise records.placed(wrong.error, wrong.index) from None


_READERS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(COLUMNS, str),
    **{column: partial(whole_number, column=column) for column in NUMBERS},
    "timestamp": timestamp_of,
    "payload": payload_of,
}


class CsvReader:
    """The codec of `from_csv`.

    Args:
        make: what makes lines of records, given the header.
        delimiter: what stands between fields, one character.
    """

    def __init__(self, make: Callable[[Sequence[str]], RecordMaker], delimiter: str = ",") -> None:
        self._make = make
        self._delimiter = re.escape(delimiter)
        self._field = rf'(?:"((?:[^"]++|"")*+)"|([^"{self._delimiter}\r\n]*+))'
        self._maker: RecordMaker | None = None  # None before the header
        self._columns = 0
        self._record = re.compile("")
        self._pieces: list[bytes] = []
        self._pending = 0
        self._in_quotes = False  # at the end of the pieces
        self._row = 1  # the number of the next record
        self._line = 1  # where that begins

    def feed(self, block: bytes) -> bytes:
        """The lines of the records that this block makes whole."""
        end = self._end_of_records(block)
        lines = b""
        if end:
            lines = self._lines(b"".join((*self._pieces, block[:end])))
            self._pieces, self._pending = [], 0
        self._pieces.append(block[end:])
        self._pending += len(block) - end
        if self._pending > DEFAULT_MAX_LINE_BYTES:
            raise self._error(f"is longer than {DEFAULT_MAX_LINE_BYTES} bytes, or a quote is never closed")
        return lines

    def finish(self) -> bytes:
        """The line of the last record, where the input does not end with a line break."""
        if self._in_quotes:
            raise self._error("the input ends inside quotes: it was cut off, or a quote is never closed")
        lines = self._lines(b"".join(self._pieces))
        if self._maker is None:
            raise InputError("the input is empty: CSV begins with a header that names the columns")
        return lines

    def _end_of_records(self, block: bytes) -> int:
        """Where the last record ends that is whole with this block; 0 if none is. An even number of quotes stands
        before the end of a record."""
        quoted = self._in_quotes ^ (block.count(b'"') % 2 == 1)
        self._in_quotes = quoted
        end = len(block)
        while (newline := block.rfind(b"\n", 0, end)) >= 0:
            quoted ^= block.count(b'"', newline, end) % 2 == 1
            if not quoted:
                return newline + 1
            end = block.rfind(b'"', 0, newline)
            if end < 0:
                break
            quoted = False
        return 0

    def _lines(self, data: bytes) -> bytes:
        if self._line == 1:
            data = data.removeprefix(BOM)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = self._line + data.count(b"\n", 0, error.start)
            raise InputError(f"is not UTF-8: {error.reason}", line=line) from None
        at = 0
        if self._maker is None and text:
            header, at = self._fields(text, 0)
            self._maker = self._make(header)
            self._columns = len(header)
            self._record = re.compile(self._delimiter.join([self._field] * len(header)) + r"(?:\r?\n|\Z)")
        records = self._records(text, at)
        lines = self._maker.lines(records) if self._maker is not None and records.records else b""
        self._row += len(records.records)
        self._line += text.count("\n")
        return lines

    def _records(self, text: str, at: int) -> CsvRecords:
        starts: list[int] = []
        records: list[list[str]] = []
        while at < len(text):
            match = self._record.match(text, at)
            if match is None or (match.end() - at <= 2 and match[0].isspace()):
                fields, end = self._fields(text, at, self._row + len(records))
                if fields != [""]:  # a blank line is nothing
                    reason = f"has {len(fields)} fields, and the header {self._columns}"
                    raise self._error_at(text, at, self._row + len(records), reason)
                at = end
                continue
            groups = match.groups()
            records.append(
                [
                    plain if quoted is None else quoted.replace('""', '"')
                    for quoted, plain in zip(groups[::2], groups[1::2], strict=True)
                ]
            )
            starts.append(at)
            at = match.end()
        return CsvRecords(text, starts, records, self._row, self._line)

    def _fields(self, text: str, at: int, row: int = 0) -> tuple[list[str], int]:
        """The fields of one record, however many, and where it ends."""
        start, fields = at, list[str]()
        field = re.compile(rf"{self._field}({self._delimiter}|\r?\n|\Z)")
        while True:
            match = field.match(text, at)
            if match is None:
                reason = f"field {len(fields) + 1} has a quote, or a carriage return, and is not in quotes as a whole"
                raise self._error_at(text, start, row, reason)
            quoted, plain, mark = match.groups()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            at = match.end()
            if not mark or mark[-1] == "\n":
                return fields, at

    def _error(self, reason: str) -> InputError:
        return self._error_at("", 0, self._row if self._maker is not None else 0, reason)

    def _error_at(self, text: str, at: int, row: int, reason: str) -> InputError:
        """An error of a record, or with row 0 of the header."""
        line = self._line + text.count("\n", 0, at)
        return InputError(reason, line=line, unit=f"row {row}, line" if row else "line")

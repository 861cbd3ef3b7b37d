"""CSV files of another product, or of one's own, become lines by a mapping."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from eventferry.errors import InputError, MappingError, SourceRowError
from eventferry.lines.refusal import shown
from eventferry.sources.mapper import Mapper, PayloadMode, kept_kinds
from eventferry.sources.mapping import OUTPUT, Mapping, RowKind, load_mapping
from eventferry.sources.source import SourceReport, report_of
from eventferry.tabular.conversion import Conversion
from eventferry.tabular.csv_reading import CsvReader, CsvRecords

_NEEDED = ("aggregate", "type", "data")

_OUTPUT = OUTPUT[: OUTPUT.index("transaction")]
"""What a mapper takes of a row."""

_WHOLE = re.compile(r"-?[0-9]{1,40}")
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")


class MappedCsv(Conversion):
    """A transform from CSV to lines; made by `from_mapped_csv`."""

    def __init__(self, mapping: Mapping, mapper: Callable[[], Mapper]) -> None:
        super().__init__(self._begin)
        self._mapping = mapping
        self._make = mapper
        self._mapper: Mapper | None = None

    @property
    def report(self) -> SourceReport:
        """What has become of the rows of the last use so far."""
        return report_of(self._mapper)

    def _begin(self) -> CsvReader:
        mapper = self._mapper = self._make()
        return CsvReader(partial(MappedRecords, self._mapping, mapper), self._mapping.csv.delimiter)


def from_mapped_csv(
    mapping: str | os.PathLike[str] | Mapping,
    *,
    payload: PayloadMode = "envelope",
    drop_metadata: bool = False,
    keep: Iterable[RowKind] = (),
    skip: Iterable[RowKind] = (),
) -> MappedCsv:
    """A transform from CSV to lines, by a mapping whose `columns` say which column is what.

    An empty field is null. Where no column is the position, that is the number of the row. The lines are as an import
    takes them: in thread 0, with counters from 0, and versions from 1 in each aggregate.

    Args:
        mapping: the path of a TOML file, or a `Mapping`.
        payload: "envelope" puts data, and what else the file has of an event, into the payload; "data" only data.
        drop_metadata: with "data", leave out metadata also where it is not empty; otherwise such a row is refused.
        keep: kinds of rows that become events beside the usual ones: "link", "snapshot", "deleted".
        skip: kinds of rows that are left out: "archived".

    Raises:
        MappingError: the mapping is wrong, or is not for CSV; while it runs, if the header lacks one of its columns.
        UsageError: another argument is wrong.
        InputError: while it runs, for a row that does not become an event: with its number, that of the line where it
            begins, and the column.
    """
    chosen = load_mapping(mapping)
    if not chosen.columns:
        raise MappingError(
            f"the mapping {chosen.name} has no [columns], which say what is what in a CSV file: it reads a database"
        )
    for output in _NEEDED:
        if output not in chosen.columns:
            raise MappingError(f"the mapping {chosen.name}: columns: {output} is missing")
    if "transaction" in chosen.columns:
        raise MappingError(f"the mapping {chosen.name}: columns: transaction is for a database")
    kept = kept_kinds(payload, drop_metadata, keep, skip)
    return MappedCsv(chosen, partial(Mapper, chosen, payload=payload, drop_metadata=drop_metadata, kept=kept))


class MappedRecords:
    """Makes lines of records by a mapping."""

    def __init__(self, mapping: Mapping, mapper: Mapper, header: Sequence[str]) -> None:
        self._mapping = mapping
        self._mapper = mapper
        self._last: int | None = None  # the position of the row before
        self._positions: list[int | None] = []  # of the records that are being read
        read: dict[str, Callable[[str], Any]] = {
            "position": partial(_whole, "position"),
            "version": partial(_whole, "version"),
            "time": _text_or_null if mapping.time.nanoseconds is None else _number_or_text,
            **dict.fromkeys(("data", "metadata", "id", "kind"), _text_or_null),
        }
        self._values: list[tuple[int, Callable[[str], Any]] | None] = []
        for output in _OUTPUT:
            column = mapping.columns.get(output)
            if column is None:
                self._values.append(None)
            elif header.count(column) != 1:
                has = "twice a" if column in header else "no"
                raise MappingError(
                    f"the header has {has} column {shown(column)!r}, the {output} by the mapping {mapping.name}; "
                    f"it has {', '.join(map(shown, header))}"
                )
            else:
                self._values.append((header.index(column), read.get(output, str)))

    def lines(self, records: CsvRecords) -> bytes:
        """The lines of records."""
        self._positions.clear()
        rows: list[list[Any]] = []
        trouble: InputError | None = None
        try:
            rows.extend(self._rows(records))
        except InputError as error:  # the rows before it are read, and what is wrong with them comes first
            trouble = error
        try:
            lines = self._mapper.lines(rows)
        except SourceRowError as error:
            index = self._positions.index(error.position)
            raise self._placed(records, error.reason, error.column, index) from None
        if trouble is not None:
            raise self._placed(records, trouble.reason, trouble.field or "", len(rows)) from None
        return b"".join(lines)

    def _rows(self, records: CsvRecords) -> Iterator[list[Any]]:
        for number, record in enumerate(records.records, records.row):
            row = [None if value is None else value[1](record[value[0]]) for value in self._values]
            if self._values[0] is None:
                row[0] = number
            if row[0] is not None and self._last is not None and row[0] <= self._last:
                raise InputError(
                    f"{row[0]} does not come after {self._last}, that of the row before: sort the file by it",
                    field="position",
                )
            self._last = row[0]
            self._positions.append(row[0])
            yield row

    def _placed(self, records: CsvRecords, reason: str, output: str, index: int) -> InputError:
        column = self._mapping.columns.get(output, output)
        return records.placed(InputError(reason, field=column), index)


def _whole(output: str, text: str) -> int | None:
    if not text:
        return None
    if _WHOLE.fullmatch(text) is None:
        raise InputError(f"must be a whole number, not {shown(text)!r}", field=output)
    return int(text)


def _text_or_null(text: str) -> str | None:
    return text or None


def _number_or_text(text: str) -> Decimal | str | None:
    return Decimal(text) if _NUMBER.fullmatch(text) is not None else text or None

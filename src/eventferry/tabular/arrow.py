"""Events as Arrow batches, and the lines that such batches become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from eventferry.errors import InputError, MissingExtraError
from eventferry.lines.blocks import LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Row
from eventferry.tabular.columns import COLUMNS, NUMBERS, LineWriter, RowError, payload_of

try:
    import pyarrow as pa
except ImportError:
    raise MissingExtraError("Arrow needs a package: pip install 'eventferry[parquet]'") from None

_MOMENT = pa.timestamp("ms", tz="UTC")
_TYPES = {
    "threadCounter": pa.int64(),
    "threadId": pa.int16(),  # not uint8: not every reader has numbers without a sign
    "type": pa.string(),
    "timestamp": _MOMENT,
    "aggregateId": pa.string(),
    "aggregateVersion": pa.int64(),
    "payload": pa.string(),
}
SCHEMA = pa.schema([pa.field(column, _TYPES[column], nullable=False) for column in COLUMNS])


def batch_of(rows: Sequence[Row]) -> Any:
    """The `RecordBatch` of events, with `SCHEMA`; payloads are JSON texts."""
    arrays = [
        pa.array([row.thread_counter for row in rows], _TYPES["threadCounter"]),
        pa.array([row.thread_id for row in rows], _TYPES["threadId"]),
        pa.array([row.type for row in rows], _TYPES["type"]),
        pa.array([row.timestamp for row in rows], _MOMENT),
        pa.array([row.aggregate_id for row in rows], _TYPES["aggregateId"]),
        pa.array([row.aggregate_version for row in rows], _TYPES["aggregateVersion"]),
        pa.array([row.payload for row in rows], _TYPES["payload"]),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def batches_of(blocks: Iterable[bytes]) -> Iterator[Any]:
    """The `RecordBatch`es of blocks of lines, which may be cut anywhere. Raises InputError for a line that is no
    event."""
    splitter, decoder = LineSplitter(), LineDecoder()
    for block in blocks:
        if rows := [row for _, row in splitter.feed(block).whole_rows(decoder)]:
            yield batch_of(rows)
    if rows := [row for _, row in splitter.finish().whole_rows(decoder)]:
        yield batch_of(rows)


class BatchLines:
    """Makes lines of the rows of batches, which have these columns; they are counted from 1."""

    def __init__(self, names: Sequence[str]) -> None:
        self._columns = [column for column in COLUMNS if column in names]
        self._writer = LineWriter(self._columns)
        self._row = 1

    def lines(self, batch: Any) -> bytes:
        """The lines of the next batch. Raises InputError, with the number of the row and the column."""
        values = [_values(column, batch.column(column), self._row) for column in self._columns]
        try:
            lines = self._writer.lines(zip(*values, strict=True))
        except RowError as wrong:
            raise _placed(wrong.error, self._row + wrong.index) from None
        self._row += len(batch)
        return lines


def _values(column: str, values: Any, row: int) -> list[Any]:
    """The values of a column, of which the first is that of a row, as they stand in lines."""
    if values.null_count:
        raise _placed(InputError("is null", field=column), row + values.is_null().index(True).as_py())
    if column in NUMBERS or (column == "timestamp" and pa.types.is_integer(values.type)):
        if not pa.types.is_integer(values.type):
            raise InputError(f"must be whole numbers, not {values.type}", field=column)
        return cast("list[Any]", values.to_pylist())
    if column == "timestamp":
        if not pa.types.is_timestamp(values.type) or values.type.tz is None:
            raise InputError(f"must be times with a time zone, not {values.type}", field=column)
        try:
            return cast("list[Any]", values.cast(_MOMENT).cast(pa.int64()).to_pylist())
        except pa.ArrowInvalid as error:  # finer than a millisecond
            raise _placed(
                InputError(f"in this row or one that follows: {error}", field=column), row
            ) from None
    try:
        texts: list[str] = values.cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(f"must be text, not {values.type}", field=column) from None
    if column != "payload":
        return texts
    payloads = []
    for index, text in enumerate(texts):
        try:
            payloads.append(payload_of(text))
        except InputError as error:
            raise _placed(error, row + index) from None
    return payloads


def _placed(error: InputError, row: int) -> InputError:
    return InputError(error.reason, line=row, field=error.field, unit="row")

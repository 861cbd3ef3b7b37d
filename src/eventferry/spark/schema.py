"""What a data frame of events looks like: the columns of `to_parquet`, in the types that Spark has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql.types import LongType, ShortType, StringType, StructField, StructType, TimestampType

from eventferry.tabular import arrow
from eventferry.tabular.columns import COLUMNS

_TYPES = {
    "threadCounter": LongType(),
    "threadId": ShortType(),
    "type": StringType(),
    "timestamp": TimestampType(),
    "aggregateId": StringType(),
    "aggregateVersion": LongType(),
    "payload": StringType(),
}
SCHEMA = StructType([StructField(column, _TYPES[column], nullable=False) for column in COLUMNS])

_MOMENT = pa.timestamp("us", tz="UTC")  # Spark knows no other unit
ARROW = pa.schema(
    [field.with_type(_MOMENT) if field.name == "timestamp" else field for field in arrow.SCHEMA]
)


def batches_of(blocks: Iterable[bytes]) -> Iterator[Any]:
    """The `RecordBatch`es of blocks of lines, as Spark takes them. Raises InputError for a line that is no event."""
    for batch in arrow.batches_of(blocks):
        yield as_spark(batch)


def as_spark(batch: Any) -> Any:
    """A batch as Spark takes it: its types must be these exactly."""
    return batch.cast(ARROW)

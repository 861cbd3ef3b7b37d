"""The data source: `spark.read.format("eventferry")`, `df.write.format("eventferry")`, and streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyspark.sql.datasource import DataSource, DataSourceReader, DataSourceWriter, Filter, InputPartition
from pyspark.sql.types import StructType

from eventferry.errors import UsageError
from eventferry.spark.filters import PushedFilters
from eventferry.spark.options import ReadOptions, read_options, write_options
from eventferry.spark.origins import Origin, origin_of
from eventferry.spark.repositories import RepositoryWriter
from eventferry.spark.schema import SCHEMA, batches_of
from eventferry.spark.streaming import StreamReader
from eventferry.spark.writing import Writer


class EventferrySource(DataSource):
    """Events of stores, of other products' tables and of backup repositories; stores and repositories as a sink."""

    _origin: Origin | None = None

    @classmethod
    def name(cls) -> str:
        """The format."""
        return "eventferry"

    def schema(self) -> StructType:
        """The columns. Spark asks once for each data frame, and pickles this object then: so here, and not with each
        query, is decided which state of the events is read."""
        self._origin = origin_of(self._read_options)
        return SCHEMA

    def reader(self, schema: StructType) -> DataSourceReader:
        """For one query."""
        _refuse_other(schema)
        if self._read_options.max_events_per_trigger is not None:
            raise UsageError("the option maxEventsPerTrigger is for a stream (spark.readStream)")
        return BatchReader(origin_of(self._read_options) if self._origin is None else self._origin)

    def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:
        """For one write. To a store, mode `overwrite` replaces its events, and mode `append` adds those that it lacks;
        to a repository, a chain of its own."""
        options = write_options(self.options)
        if options.repository is not None:
            return RepositoryWriter(options, schema.fieldNames(), is_replacing=overwrite)
        return Writer(options, schema.fieldNames(), is_replacing=overwrite)

    def streamReader(self, schema: StructType) -> StreamReader:  # noqa: N802  # Spark's name
        """For one stream."""
        _refuse_other(schema)
        return StreamReader(self._read_options)

    @property
    def _read_options(self) -> ReadOptions:
        return read_options(self.options)


class BatchReader(DataSourceReader):
    """Reads for one query. It goes to the workers, pickled, before `partitions` is called."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._pushed = PushedFilters()

    def pushFilters(self, filters: list[Filter]) -> Iterable[Filter]:  # noqa: N802  # Spark's name
        """Takes what the store can do itself; returns the rest."""
        return [each for each in filters if not (self._origin.can_filter and self._pushed.take(each))]

    def partitions(self) -> list[InputPartition]:
        """What there is to read, for a task each."""
        return [InputPartition(each) for each in self._origin.slices()]

    def read(self, partition: InputPartition) -> Iterator[Any]:
        """The events of one of them, as `RecordBatch`es."""
        if partition.value is None:  # Spark's own, where there is nothing to read
            return iter(())
        return batches_of(self._origin.blocks(partition.value, self._pushed.only))


def _refuse_other(schema: StructType) -> None:
    if schema != SCHEMA:
        raise UsageError(f"the schema of events is fixed: {SCHEMA.simpleString()}. Leave schema() out")

"""A store as a stream. Its offsets are bookmarks: a checkpoint of Spark's holds what was read, and a stream that is
started again goes on there, or says that the store has another history now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from pyspark.sql.datasource import DataSourceStreamReader, InputPartition
from pyspark.sql.streaming.datasource import (
    ReadAllAvailable,
    ReadLimit,
    ReadMaxRows,
    SupportsTriggerAvailableNow,
)

from eventferry import cursor as vector
from eventferry.errors import UsageError
from eventferry.reading.bookmarks import counters_of
from eventferry.spark.options import ReadOptions
from eventferry.spark.origins import blocks_of, check, slices_between
from eventferry.spark.schema import batches_of
from eventferry.sync import EventStore, open_store

NOW = "now"
Offset: TypeAlias = dict[str, str]


class StreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Plans batches on the driver, with one store that stays open, and reads them in tasks."""

    def __init__(self, options: ReadOptions) -> None:
        if options.url is None or options.mapping is not None:
            raise UsageError("a stream is read from a store (the option url, without from)")
        if options.until is not None:
            raise UsageError("a stream has no end: the option until is for spark.read")
        self._url = options.url
        self._since = options.since
        self._num_partitions = options.num_partitions
        self._limit = options.max_events_per_trigger
        self._target: str | None = None
        self._open: EventStore | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a worker gets."""
        return {**self.__dict__, "_open": None}

    @property
    def _store(self) -> EventStore:
        if self._open is None:
            self._open = open_store(self._url)
        return self._open

    def initialOffset(self) -> Offset:  # noqa: N802  # Spark's name, as those below
        """Where a new stream begins."""
        if self._since is None:
            return _offset(self._store.bookmark(None))
        if self._since == NOW:
            return _offset(self._store.bookmark())
        check(self._store, self._since)
        return _offset(self._since)

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802
        """How much a batch takes."""
        return ReadAllAvailable() if self._limit is None else ReadMaxRows(self._limit)

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802
        """What is there now is the end."""
        self._target = self._store.bookmark()

    def latestOffset(self, start: Offset, limit: ReadLimit) -> Offset:  # noqa: N802
        """How far the next batch goes. Raises StoreReplacedError or CursorAheadError where the store does not hold what
        was read."""
        since = start["bookmark"]
        with self._store.export_events(since=since, until=self._target) as lines:
            lines.begin()
            until = lines.bookmark_behind()
        begin, end = counters_of(since), counters_of(until)
        new = sum(max(head - counter, 0) for counter, head in zip(begin, end, strict=True))
        if not new:
            return start
        if isinstance(limit, ReadMaxRows) and limit.max_rows < new:
            # The first of so many slices: about as many events as were asked for, without a look at any of them.
            first, *_ = self._store.partitions(
                -(-new // limit.max_rows), vector.encode(begin), vector.encode(end)
            )
            until = self._store.bookmark(first.until)
            check(self._store, since)
        return _offset(until)

    def partitions(self, start: Offset, end: Offset) -> list[InputPartition]:
        """What there is to read in a batch, for a task each."""
        found = slices_between(self._store, start["bookmark"], end["bookmark"], self._num_partitions)
        return [InputPartition(each) for each in found]

    def read(self, partition: InputPartition) -> Iterator[Any]:
        """The events of one of them, as `RecordBatch`es."""
        return batches_of(blocks_of(self._url, partition.value, {}))

    def stop(self) -> None:
        """Close the store."""
        if self._open is not None:
            self._open.close()


def _offset(bookmark: str) -> Offset:
    return {"bookmark": bookmark}

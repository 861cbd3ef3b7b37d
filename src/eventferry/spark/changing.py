"""Filters, rules and functions over a data frame of events, by the code that changes them elsewhere; and new positions
for what is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, Window
from pyspark.sql.functions import row_number, spark_partition_id

from eventferry.changing.changes import Changes
from eventferry.changing.rules import Rules, rules_of
from eventferry.errors import ChangeError
from eventferry.spark.schema import SCHEMA, batches_of
from eventferry.tabular.arrow import BatchLines
from eventferry.tabular.columns import COLUMNS


def changed(
    events: DataFrame, *, rules: Rules | str | os.PathLike[str] | None = None, **changes: Any
) -> DataFrame:
    """The events as filters, rules and a function leave them. Each keeps the position and the version of the event that
    it was made of: before they replace a store's events, give them new ones by `numbered`.

    Args:
        events: with all columns of events.
        rules: a TOML file of rules, which the driver reads, or what `load_rules` made of one. The key of its pseudonyms
            is read by the driver and by each worker, from the file or the variable that the rules name.
        changes: the other arguments of `eventferry.Changes`, but for `keep_positions`. A function is best named as
            "module:function", in a module that the workers have.

    Raises:
        RulesError, UsageError: the rules or other arguments are wrong.
        ChangeError, InputError: while it runs: an event cannot be changed as asked.
    """
    loaded = None if rules is None else rules_of(rules)
    Changes(rules=loaded, **changes)  # what is wrong is said here, and not by each task

    def change(batches: Iterator[Any]) -> Iterator[Any]:
        made, writer = Changes(rules=loaded, **changes), BatchLines(COLUMNS)
        for batch in batches:
            if len(batch):
                yield from batches_of([made.change(writer.lines(batch))])

    return events.select(*COLUMNS).mapInArrow(change, SCHEMA)


def numbered(events: DataFrame) -> DataFrame:
    """The events with new positions and versions: thread 0, counters from 0 and the versions of each aggregate from 1,
    dense, in the order in which the data frame has them.

    It counts the events of each partition first, so the data frame is read twice, and must be the same both times: as
    `load` gives it, or sorted and written to Parquet.

    Raises:
        ChangeError: while it runs: a partition has other events than when they were counted.
    """
    found = events.groupBy(spark_partition_id().alias("partition")).count().collect()
    counts = {row["partition"]: row["count"] for row in found}
    first, passed = {}, 0
    for partition in sorted(counts):
        first[partition] = passed
        passed += counts[partition]

    def number(batches: Iterator[Any]) -> Iterator[Any]:
        context = TaskContext.get()
        if context is None:
            raise AssertionError("Spark runs this in a task")
        partition = context.partitionId()
        counter = first.get(partition, 0)
        end = counter + counts.get(partition, 0)
        for batch in batches:
            counters = pa.array(range(counter, counter + len(batch)), pa.int64())
            counter += len(batch)
            threads = pa.array([0] * len(batch), pa.int16())
            given = {"threadCounter": counters, "threadId": threads}
            columns = [given.get(name, batch.column(name)) for name in COLUMNS]
            yield pa.RecordBatch.from_arrays(columns, names=list(COLUMNS))
        if counter != end:
            counted = end - first.get(partition, 0)
            raise ChangeError(
                f"partition {partition} of the data frame had {counted} events when they were counted, and another "
                "number when they were numbered: write it to Parquet first, and number what is read from there"
            )

    placed = events.select(*COLUMNS).mapInArrow(number, SCHEMA)
    version = row_number().over(Window.partitionBy("aggregateId").orderBy("threadCounter"))
    return placed.withColumn("aggregateVersion", version.cast("bigint"))

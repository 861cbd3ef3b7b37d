"""Writing to a store: begun once, pushed by each task as a part, and committed once on the driver.

A task that is repeated pushes its part again, which replaces it. What a driver that died has left open is refused by
the next write, by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from pyspark import TaskContext
from pyspark.sql.datasource import DataSourceArrowWriter, WriterCommitMessage

from eventferry.errors import ImportNotFoundError, InputError
from eventferry.importing.merge import Older
from eventferry.spark.options import WriteOptions
from eventferry.sync import EventStore, open_store
from eventferry.tabular.arrow import BatchLines
from eventferry.tabular.columns import COLUMNS, refuse_columns


@dataclass
class Pushed(WriterCommitMessage):
    """What a task has pushed: a part, and how many events it has."""

    part: str
    events: int


class ImportSteps(Protocol):
    """How events come into a store in parts. It goes to the workers, pickled."""

    def begin(self, store: EventStore) -> str:
        """Open an import; returns its id."""

    def push(self, store: EventStore, import_id: str, part: str, lines: Iterable[bytes]) -> int:
        """Add a part, or replace it; returns how many events it has."""

    def commit(self, store: EventStore, import_id: str) -> None:
        """Put all parts into the store. Doing it again does no harm."""

    def roll_back(self, store: EventStore, import_id: str) -> None:
        """Discard them."""


class Writer(DataSourceArrowWriter):
    """One write. Spark makes it on the driver, and pickles it for the workers and for the end.

    Args:
        options: where to.
        columns: of the data frame.
        is_replacing: whether the events replace those of the store; else those that it lacks are added.
    """

    def __init__(self, options: WriteOptions, columns: Sequence[str], *, is_replacing: bool) -> None:
        refuse_columns(columns, "the data frame")
        if is_replacing:
            refuse_unplaced(columns, "events that replace a store's")
        if options.url is None:
            raise AssertionError("options name a store or a repository")
        self._url = options.url
        self._columns = columns
        self._steps: ImportSteps = _Replacing() if is_replacing else _Adding(options.older or "skip")
        with open_store(self._url) as store:
            if not store.exists():
                store.init()
            self._import_id = self._steps.begin(store)

    def write(self, iterator: Iterator[Any]) -> Pushed:
        """What a task does."""
        part = str(partition_id() + 1)
        with open_store(self._url) as store:
            events = self._steps.push(store, self._import_id, part, lines_of(iterator, self._columns))
        return Pushed(part, events)

    def commit(self, messages: list[WriterCommitMessage | None]) -> None:
        """What the driver does when all tasks are done."""
        with open_store(self._url) as store:
            self._steps.commit(store, self._import_id)

    def abort(self, messages: list[WriterCommitMessage | None]) -> None:
        """What it does when one has failed for good."""
        with open_store(self._url) as store, suppress(ImportNotFoundError):
            self._steps.roll_back(store, self._import_id)


class _Replacing(ImportSteps):
    """The events take the place of the store's."""

    def begin(self, store: EventStore) -> str:
        return store.begin_import()

    def push(self, store: EventStore, import_id: str, part: str, lines: Iterable[bytes]) -> int:
        return store.push_import(import_id, part, lines).events

    def commit(self, store: EventStore, import_id: str) -> None:
        store.commit_import(import_id)

    def roll_back(self, store: EventStore, import_id: str) -> None:
        store.rollback_import(import_id)


class _Adding(ImportSteps):
    """Those that the store lacks are added."""

    def __init__(self, older: Older) -> None:
        self._older = older

    def begin(self, store: EventStore) -> str:
        return store.begin_incremental_import(repeatable=True)

    def push(self, store: EventStore, import_id: str, part: str, lines: Iterable[bytes]) -> int:
        return store.push_incremental_import(lines, import_id, part=part)

    def commit(self, store: EventStore, import_id: str) -> None:
        store.commit_incremental_import(import_id, older=self._older)

    def roll_back(self, store: EventStore, import_id: str) -> None:
        store.rollback_incremental_import(import_id)


def refuse_unplaced(columns: Sequence[str], which: str) -> None:
    """Refuses a data frame without positions or versions, which such events keep."""
    for column in COLUMNS:
        if column not in columns:
            raise InputError(
                f"the data frame lacks the column {column}: {which} keep their positions and versions "
                "(eventferry.spark.numbered gives them)"
            )


def partition_id() -> int:
    """The partition of the task that runs here."""
    context = TaskContext.get()
    if context is None:
        raise AssertionError("Spark runs this in a task")
    number: int = context.partitionId()
    return number


def lines_of(batches: Iterator[Any], columns: Sequence[str]) -> Iterator[bytes]:
    """The lines of what a task is given to write."""
    writer = BatchLines(columns)
    for batch in batches:
        if lines := writer.lines(batch):
            yield lines

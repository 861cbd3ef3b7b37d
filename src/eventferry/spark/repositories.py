"""Writing to a backup repository: begun once, stored by each task as parts, and committed once on the driver.

Each write is a chain of its own. A task that is repeated stores its parts again, under the same names; what was written
by a driver that died, `backup prune` removes a week later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql.datasource import DataSourceArrowWriter, WriterCommitMessage

from eventferry.backup import pieces
from eventferry.backup.pieces import Piece
from eventferry.blocking.arguments import source_of
from eventferry.blocking.loop import LOOP
from eventferry.databases import without_password
from eventferry.errors import OrderError, UsageError
from eventferry.spark.options import WriteOptions
from eventferry.spark.writing import lines_of, partition_id, refuse_unplaced
from eventferry.tabular.columns import refuse_columns

_SOURCE = "spark"

_SORTED = (
    "A repository holds events in the order of an export, each position once. Sort the data frame: "
    'events.repartitionByRange(8, *key).sortWithinPartitions(*key), with key = ["timestamp", "threadCounter", '
    '"threadId"], or ["threadCounter"] where it was numbered. One that was read from a store in which the timestamps '
    "of a thread go backwards is not sorted, but written as it was read"
)


@dataclass
class StoredPiece(WriterCommitMessage):
    """What a task has stored: a piece, and its bytes, which are a tenth of it in memory."""

    number: int
    piece: bytes


class RepositoryWriter(DataSourceArrowWriter):
    """One write. Spark makes it on the driver, and pickles it for the workers and for the end.

    Args:
        options: where to.
        columns: of the data frame.
        is_replacing: whether that is the mode; nothing is added to a chain.
    """

    def __init__(self, options: WriteOptions, columns: Sequence[str], *, is_replacing: bool) -> None:
        refuse_columns(columns, "the data frame")
        refuse_unplaced(columns, "events in a repository")
        if not is_replacing:
            raise UsageError(
                'a repository is written in mode("overwrite"): a chain of its own, beside what is there. Nothing is '
                "added to a chain by Spark; what is new in a store, eventferry backup adds to its chain"
            )
        if options.repository is None:
            raise AssertionError("options name a store or a repository")
        # No store is called so: a chain of Spark's never takes the place of a store's.
        source = f"{_SOURCE}:{without_password(options.name)}" if options.name else _SOURCE
        self._columns = columns
        self._draft = LOOP.run(
            pieces.begin(
                options.repository,
                source=source,
                recipients=options.recipients,
                single_writer=options.single_writer,
            )
        )

    def write(self, iterator: Iterator[Any]) -> StoredPiece:
        """What a task does."""
        lines = source_of(lines_of(iterator, self._columns))
        try:
            piece = LOOP.run(pieces.write_piece(self._draft, partition_id(), lines))
        except OrderError as error:
            raise OrderError(f"{error.reason}. {_SORTED}") from None
        return StoredPiece(piece.number, bytes(piece))

    def commit(self, messages: list[WriterCommitMessage | None]) -> None:
        """What the driver does when all tasks are done."""
        stored = [message for message in messages if isinstance(message, StoredPiece)]
        if len(stored) < len(messages):
            raise AssertionError("Spark commits when all tasks have told what they have stored")
        stored.sort(key=lambda each: each.number)
        try:
            LOOP.run(pieces.commit(self._draft, (Piece.of(each.piece) for each in stored)))
        except OrderError as error:
            raise OrderError(f"{error.reason}. {_SORTED}") from None

    def abort(self, messages: list[WriterCommitMessage | None]) -> None:
        """What it does when one has failed for good, or the commit. In that case it may have been committed all the
        same, or may still be: then nothing is removed."""
        if None in messages:
            LOOP.run(pieces.abandon(self._draft))

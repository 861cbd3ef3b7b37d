"""Storing an event behind its thread's head."""

from __future__ import annotations

from eventferry.cursor import MAX_COUNTER
from eventferry.database import Save
from eventferry.databases.sqlite.merge import SqliteExclusiveWriting
from eventferry.databases.sqlite.payloads import refuse_number
from eventferry.errors import ConcurrentError, InputError
from eventferry.lines.limits import full_thread


class Saver:
    """Stores events one after another, `heads` behind them. For the worker thread."""

    def __init__(self, writing: SqliteExclusiveWriting) -> None:
        self._writing = writing
        self.heads = writing.all_heads()

    def add(self, save: Save) -> tuple[int, int]:
        """Store one event; its thread and counter. What it refuses changes nothing."""
        heads = self.heads
        event, version = save
        if not self._writing.is_ours and (reason := refuse_number(event.payload)) is not None:
            raise InputError(reason, field="payload")
        last, thread = self._writing.place_before(event.aggregate_id, version, event.timestamp, heads)
        if last == version:
            raise ConcurrentError(event.aggregate_id, version)
        counter = heads[thread]
        if counter > MAX_COUNTER:
            raise full_thread(thread)
        self._writing.insert(
            (thread, counter, event.timestamp, event.aggregate_id, version, event.type, event.payload)
        )
        heads[thread] = counter + 1
        return thread, counter

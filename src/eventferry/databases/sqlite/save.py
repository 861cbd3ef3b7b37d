"""Storing an event behind its thread's head."""

from __future__ import annotations

from eventferry.cursor import MAX_COUNTER
from eventferry.database import Save
from eventferry.databases.sqlite.merge import SqliteExclusiveWriting
from eventferry.databases.sqlite.payloads import refuse_number
from eventferry.errors import ConcurrentError, InputError
from eventferry.lines.event import Row
from eventferry.lines.limits import MAX_SAFE_INTEGER, full_thread


class Saver:
    """Stores events one after another, `heads` behind them. For the worker thread."""

    def __init__(self, writing: SqliteExclusiveWriting) -> None:
        self._writing = writing
        self.heads = writing.all_heads()

    def add(self, save: Save) -> tuple[int, int]:
        """Store the events of a save; their thread and the first one's counter. What it refuses changes nothing."""
        heads = self.heads
        events, version, is_next = save
        if not self._writing.is_ours:
            for event in events:
                if (reason := refuse_number(event.payload)) is not None:
                    raise InputError(reason, field="payload")
        before = MAX_SAFE_INTEGER if is_next else version
        last, thread = self._writing.place_before(save.aggregate_id, before, save.timestamp, heads)
        if last >= version or (is_next and last != version - 1):
            raise ConcurrentError(save.aggregate_id, version)
        counter = heads[thread]
        if counter + len(events) > MAX_COUNTER + 1:
            raise full_thread(thread)
        for step, event in enumerate(events):
            row = Row(
                thread,
                counter + step,
                event.timestamp,
                event.aggregate_id,
                version + step,
                event.type,
                event.payload,
            )
            self._writing.insert(row)
        heads[thread] = counter + len(events)
        return thread, counter

"""Storing an event behind its thread's head."""

from __future__ import annotations

from eventferry.cursor import MAX_COUNTER
from eventferry.database import Save
from eventferry.databases.sqlite.merge import LastOfAggregate, SqliteExclusiveWriting
from eventferry.databases.sqlite.payloads import refuse_number
from eventferry.errors import ConcurrentError, InputError
from eventferry.lines.limits import MAX_SAFE_INTEGER, full_thread
from eventferry.reading import order

_MOST = 256  # aggregates whose last event is remembered


class Saver:
    """Stores events one after another, `heads` behind them. For the worker thread.

    What it finds out holds for the saves behind, also in other transactions, as long as only it adds events.
    """

    def __init__(self, writing: SqliteExclusiveWriting) -> None:
        self._writing = writing
        self.heads = writing.all_heads()
        self._latest = writing.latest_timestamp()
        self._last: dict[str, LastOfAggregate] = {}  # of aggregates, those that were saved to last at the end

    def add(self, save: Save) -> tuple[int, int]:
        """Store the events of a save; their thread and the first one's counter. What it refuses changes nothing."""
        heads, writing = self.heads, self._writing
        events, version, is_next = save
        aggregate_id, timestamp = save.aggregate_id, save.timestamp
        if not writing.is_ours:
            for event in events:
                if (reason := refuse_number(event.payload)) is not None:
                    raise InputError(reason, field="payload")
        before = MAX_SAFE_INTEGER if is_next else version
        highest = self._last.pop(aggregate_id, None) or writing.last_before(aggregate_id, MAX_SAFE_INTEGER)
        last = highest if highest.version <= before else writing.last_before(aggregate_id, before)
        if last.version >= version or (is_next and last.version != version - 1):
            raise ConcurrentError(aggregate_id, version)
        if timestamp > self._latest:
            thread = order.thread_of(aggregate_id)  # nothing stands at this time, or later
        else:
            thread = writing.thread_behind(last, aggregate_id, before, timestamp, heads)
        counter = heads[thread]
        if counter + len(events) > MAX_COUNTER + 1:
            raise full_thread(thread)
        for step, (_, _, kind, payload) in enumerate(events):
            writing.insert((thread, counter + step, timestamp, aggregate_id, version + step, kind, payload))
        heads[thread] = counter + len(events)
        self._latest = max(self._latest, timestamp)
        self._last[aggregate_id] = max(highest, LastOfAggregate(version + len(events) - 1, timestamp, thread))
        if len(self._last) > _MOST:
            del self._last[next(iter(self._last))]
        return thread, counter

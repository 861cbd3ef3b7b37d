"""Storing an event behind its thread's head."""

from __future__ import annotations

import itertools

from eventferry.cursor import MAX_COUNTER
from eventferry.database import Save
from eventferry.databases.sqlite.merge import SqliteExclusiveWriting
from eventferry.databases.sqlite.payloads import refuse_number
from eventferry.databases.sqlite.tables import quoted
from eventferry.errors import ConcurrentError, InputError
from eventferry.lines.limits import full_thread
from eventferry.reading import order


class Saver:
    """Stores events one after another, `heads` behind them. For the worker thread."""

    def __init__(self, writing: SqliteExclusiveWriting) -> None:
        self._writing = writing
        self._sqlite = writing.sqlite
        self._events = quoted(writing.tables.events)
        self.heads = writing.all_heads()

    def add(self, save: Save) -> tuple[int, int]:
        """Store one event; its thread and counter. What it refuses changes nothing."""
        heads = self.heads
        event, version = save
        if not self._writing.is_ours and (reason := refuse_number(event.payload)) is not None:
            raise InputError(reason, field="payload")
        thread = self._thread_for(event.aggregate_id, version, event.timestamp)
        counter = heads[thread]
        if counter > MAX_COUNTER:
            raise full_thread(thread)
        self._writing.insert(
            (thread, counter, event.timestamp, event.aggregate_id, version, event.type, event.payload)
        )
        heads[thread] = counter + 1
        return thread, counter

    def _thread_for(self, aggregate_id: str, version: int, timestamp: int) -> int:
        at_once = self._thread_at(aggregate_id, version, timestamp)
        if at_once is not None:
            return at_once
        preferred = order.thread_of(aggregate_id)
        others = itertools.chain(range(preferred, 256), range(preferred))
        return next((thread for thread in others if self._last_timestamp(thread) <= timestamp), preferred)

    def _thread_at(self, aggregate_id: str, version: int, timestamp: int) -> int | None:
        """The thread of the aggregate's last event at this very timestamp, if it has one. The version before tells, or
        if it is of another time, what stands at this time: next to nothing, mostly. Raises ConcurrentError where the
        version itself is there."""
        before = self._sqlite.execute(
            f"""SELECT timestamp, threadId, aggregateVersion FROM {self._events}
            WHERE aggregateId = ? AND aggregateVersion <= ? ORDER BY aggregateVersion DESC LIMIT 1""",
            (aggregate_id, version),
        ).fetchone()
        if before is None:
            return None
        if before[2] == version:
            raise ConcurrentError(aggregate_id, version)
        if before[0] != timestamp:
            before = self._sqlite.execute(
                f"""SELECT timestamp, threadId FROM {self._events}
                WHERE timestamp = ? AND +aggregateId = ? AND aggregateVersion < ?
                ORDER BY threadCounter DESC, threadId DESC LIMIT 1""",
                (timestamp, aggregate_id, version),
            ).fetchone()
        return None if before is None else int(before[1])

    def _last_timestamp(self, thread: int) -> int:
        if self.heads[thread] == 0:
            return -(2**63)
        found: tuple[int] = self._sqlite.execute(
            f"SELECT timestamp FROM {self._events} WHERE threadId = ? AND threadCounter = ?",
            (thread, self.heads[thread] - 1),
        ).fetchone()
        return found[0]

"""New positions and versions for the events of one passage: dense, in the order in which they come."""

from __future__ import annotations

from collections.abc import Iterable

from eventferry.cursor import MAX_COUNTER
from eventferry.lines.decoder import Line
from eventferry.lines.limits import full_thread
from eventferry.sources.aggregates import SourceAggregates


class Numbering:
    """Thread 0, counters from 0; the versions of each aggregate from 1. Memory stays bounded however many aggregates
    there are."""

    def __init__(self) -> None:
        self._counter = 0
        self._aggregates = SourceAggregates()

    def number(self, lines: Iterable[Line]) -> None:
        """Give the next events their places."""
        counter = self._counter
        known = self._aggregates.known
        for line in lines:
            aggregate_id = line.aggregate_id
            aggregate = known.get(aggregate_id) or self._aggregates.new(aggregate_id, aggregate_id.encode())
            aggregate.events = line.aggregate_version = aggregate.events + 1
            line.thread_id = 0
            line.thread_counter = counter
            counter += 1
        if counter > MAX_COUNTER + 1:
            raise full_thread(0)
        self._counter = counter

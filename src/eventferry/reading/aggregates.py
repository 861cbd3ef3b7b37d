"""Pages of the events of a few aggregates, found by the index on aggregateId."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from eventferry.database import Key, Position, Reading, Selection, State

_PLACES = 20_000  # of how many events, at most, it is looked up at once where they are


class AggregateLookup:
    """Where the events of aggregates are: looked up once for many pages, because each lookup goes through all of their
    events, read and unread. One page alone needs no such lookup."""

    def __init__(self) -> None:
        self._places: deque[Key] | None = None
        self._are_all = False
        self._state: State | None = None

    def forget(self) -> None:
        """The page was not taken: another one comes next."""
        self._places = None

    async def page(
        self, reading: Reading, selection: Selection, limit: int, max_bytes: int
    ) -> tuple[Sequence[Position], bool]:
        """The next events that match, sorted by their keys, and whether they are the last."""
        if self._places is None:
            positions, is_end = await reading.select(selection, limit, max_bytes)
            if not is_end:
                self._places, self._are_all = deque(), False
            return positions, is_end
        places = self._places
        if selection.until is None:
            state = await reading.state()
            if state != self._state:
                places.clear()
                self._are_all = False
            self._state = state
        if not places and not self._are_all:
            found, _ = await reading.select(selection, _PLACES, None)
            places += [Key(timestamp, counter, thread) for thread, counter, timestamp, _ in found]
            self._are_all = len(places) < _PLACES
        wanted = list(islice(places, limit))
        lines = await reading.lines_at([(key.thread_id, key.thread_counter) for key in wanted], max_bytes)
        for _ in lines:
            places.popleft()
        page = [
            (key.thread_id, key.thread_counter, key.timestamp, line)
            for key, line in zip(wanted, lines, strict=False)
        ]
        return page, not places and self._are_all

"""Pages of the events of a few aggregates, found by the index on aggregateId."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from eventferry.database import Key, OrderedEvent, Reading, ReadScope, State

_PLACES = 20_000  # of how many events, at most, it is looked up at once where they are
_NEW = 4096  # events stored since the page before, at most, that are looked at one by one


class AggregateLookup:
    """Where the events of aggregates are: looked up once for many pages, because each lookup goes through all of their
    events, read and unread. One page alone needs no such lookup."""

    def __init__(self) -> None:
        self._places: deque[Key] | None = None
        self._are_all = False
        self._state: State | None = None
        self._heads: list[int] = []

    def forget(self) -> None:
        """The page was not taken: another one comes next."""
        self._places = None

    async def page(
        self, reading: Reading, scope: ReadScope, limit: int, max_bytes: int
    ) -> tuple[Sequence[OrderedEvent], bool]:
        """The next events that match, sorted by their keys, and whether they are the last."""
        if self._places is None:
            positions, is_end = await reading.select(scope, limit, max_bytes)
            if not is_end:
                self._places, self._are_all, self._state = deque(), False, None
            return positions, is_end
        places = self._places
        if scope.until is None and not await self._keep_up(reading, scope, places):
            places.clear()
            self._are_all = False
        if not places and not self._are_all:
            found, _ = await reading.select(scope, _PLACES, None)
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

    async def _keep_up(self, reading: Reading, scope: ReadScope, places: deque[Key]) -> bool:
        """Add the places of what was stored since the page before; False where they are all to be looked up anew: it
        is much, or not all of it stands behind the heads of then."""
        before, self._state = self._state, await reading.state()
        if self._state == before:
            return True
        heads, self._heads = self._heads, await reading.heads()
        if before is None or self._state.identity != before.identity:
            return False
        grown = {
            thread: head
            for thread, (head, now) in enumerate(zip(heads, self._heads, strict=True))
            if head != now
        }
        count = sum(self._heads) - sum(heads)
        is_appended = all(self._heads[thread] > head for thread, head in grown.items())
        if not is_appended or count > _NEW or count != self._state.growth - before.growth:
            return False
        found = await reading.in_threads(grown, self._heads, scope.only, count)
        # What sorts behind all that was looked up comes with the next lookup.
        new = [key for key, passes in found if passes and (self._are_all or (places and key < places[-1]))]
        if new:
            together = sorted({*places, *new})
            places.clear()
            places += together
        return True

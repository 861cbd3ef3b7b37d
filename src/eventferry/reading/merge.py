"""The merge of the threads itself, for the pages that are not the sort."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from eventferry.database import Filter, Key, Reading
from eventferry.reading.questions import EVERY_THREAD

WALK = 4096  # how many events that a filter leaves out one merge walks over at most


class Merge:
    """The merge of the threads, fed from each thread by a few events at a time."""

    def __init__(
        self, reading: Reading, unread: Sequence[int], until: Sequence[int] | None, only: Filter, limit: int
    ) -> None:
        self._reading, self._until, self._only = reading, until, only
        self._unread = dict(enumerate(unread))
        self._count = min(max(limit // 64, 2), 64)
        self._queues: list[deque[tuple[Key, bool]]] = [deque() for _ in EVERY_THREAD]
        self._heap: list[tuple[Key, bool]] = []

    async def begin(self) -> int | None:
        """Look at what comes next in all threads. If only one has unread events, that thread, and the merge is not
        needed: the order of one thread is that of its counters."""
        await self._refill(EVERY_THREAD)
        return self._heap[0][0].thread_id if len(self._heap) == 1 else None

    async def take(self, limit: int) -> list[tuple[Key, bool]]:
        """The next events until `limit` of them pass the filter, or very many did not."""
        taken: list[tuple[Key, bool]] = []
        passed = 0
        while self._heap and passed < limit and len(taken) < max(20 * limit, WALK):
            key, passes = heapq.heappop(self._heap)
            taken.append((key, passes))
            passed += passes
            if queue := self._queues[key.thread_id]:
                heapq.heappush(self._heap, queue.popleft())
            else:
                await self._refill([key.thread_id])
        return taken

    async def _refill(self, threads: Sequence[int]) -> None:
        """Fetch more of these threads, whose queues are empty, and put the first of each on the heap."""
        unread = {thread: self._unread[thread] for thread in threads if thread in self._unread}
        if not unread:
            return
        for key, passes in await self._reading.in_threads(unread, self._until, self._only, self._count):
            self._queues[key.thread_id].append((key, passes))
        for thread in unread:
            queue = self._queues[thread]
            if len(queue) < self._count:
                del self._unread[thread]
            else:
                self._unread[thread] = queue[-1][0].thread_counter + 1
            if queue:
                heapq.heappush(self._heap, queue.popleft())

"""Partitions: the order cut into slices that can be read apart from one another.

A slice lies between two states of the merge of the threads. For a time T let `v(T)` hold, for each thread, the
counter of its first unread event that is not earlier than T. The merge is in that state when it has given out
everything that comes before the first such event of its thread, and it gives out all of that first: as long as a
thread's next event is earlier than T, the least of the next events is. So the slices between v(T1), v(T2), … are
disjoint, and read one after another they are the order, whatever the timestamps: docs/order.md.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from eventferry import cursor as vector
from eventferry.database import EVERYTHING, Database, Key, Reading
from eventferry.reading.questions import next_keys, refuse_ahead, states_at

_SAMPLES = 16  # events looked at for each slice: so the slices' sizes come near one another
_MAX_LOOKS = 256
"""How often all threads are looked into at most: of a store with few threads there may be fewer samples."""


class Partition(msgspec.Struct, frozen=True, rename="camel"):
    """A slice of a store's order; made by `EventStore.partitions`, read by `EventStore.read_partition`.

    Small and without a password or a place: pickle it, or send it as JSON (`msgspec.json`), to whoever can open
    the store.

    Attributes:
        number: which one it is, from 1.
        count: how many there are.
        identity: of the events; others that have taken their place are not read.
        since: the cursor where it begins.
        until: the cursor where it ends.
    """

    number: int
    count: int
    identity: str
    since: str
    until: str


async def partitions(database: Database, n: int, since: str | None, until: str | None) -> list[Partition]:
    """At most n slices, of about one size, of what lies between two cursors; None: the start, and the end now."""
    begin = vector.decode(since)
    async with database.reading() as reading:
        state, end = await reading.state(), await reading.heads()
        await refuse_ahead(reading, begin, end)
        if until is not None:
            await refuse_ahead(reading, vector.decode(until), end)
            end = vector.decode(until)
        bounds = [vector.encode(bound) for bound in await cut(reading, n, begin, end)]
    return [
        Partition(number, len(bounds) - 1, state.identity, first, behind)
        for number, (first, behind) in enumerate(pairwise(bounds), 1)
    ]


async def cut(reading: Reading, n: int, since: Sequence[int], until: Sequence[int]) -> list[Sequence[int]]:
    """Between which states of the merge n slices of about one size lie, or fewer: n + 1 states, from the first to the
    last; none where nothing is unread. Events of one timestamp cannot be cut apart, unless all are in one thread."""
    since = list(since)
    until = [max(counters) for counters in zip(since, until, strict=True)]
    first = await next_keys(reading, since, until)
    if not first:
        return []
    if len(first) == 1:
        return await _of_one_thread(reading, n, since, until, first[0].thread_id)
    times = await _times(reading, n, since, until, first) if n > 1 else []
    states: list[Sequence[int]] = [array("q", since)]
    for state in await states_at(reading, times, since, until):
        if state != states[-1]:
            states.append(state)
    return [*states, until]


async def _of_one_thread(
    reading: Reading, n: int, since: list[int], until: list[int], thread: int
) -> list[Sequence[int]]:
    """The order of one thread is that of its counters, so each of them is a state of it."""
    states: list[Sequence[int]] = [since]
    for part in range(1, n):
        at = since[thread] + (until[thread] - since[thread]) * part // n
        found = await reading.in_threads({thread: at}, until, EVERYTHING, 1)
        for key, _ in found:  # none where the store has a gap up to the end
            if key.thread_counter > states[-1][thread]:
                states.append([*since[:thread], key.thread_counter, *since[thread + 1 :]])
    return [*states, until]


async def _times(
    reading: Reading, n: int, since: Sequence[int], until: Sequence[int], first: Sequence[Key]
) -> list[int]:
    """At most n - 1 times between which about equally many events lie, by samples at equal distances in the
    threads.
    """
    threads = [key.thread_id for key in first]
    looks = min(max(_SAMPLES, _SAMPLES * n // len(threads)), _MAX_LOOKS)
    samples: set[Key] = set()
    for look in range(looks):
        # Each thread a little further than the one before it, so that equal threads give different times.
        at = list(since)
        for rank, thread in enumerate(threads):
            length = until[thread] - since[thread]
            at[thread] += length * (look * len(threads) + rank) // (looks * len(threads))
        samples.update(await next_keys(reading, at, until, threads))
    weights = {thread: until[thread] - since[thread] for thread in threads}
    total = sum(weights[key.thread_id] for key in samples)
    times = [min(first).timestamp]  # before it there is nothing
    passed, part = 0, 1
    for key in sorted(samples):
        if passed * n >= total * part:
            part = passed * n // total + 1
            if key.timestamp > times[-1]:
                times.append(key.timestamp)
        passed += weights[key.thread_id]
    return times[1:]

"""What readers ask a reading about the order, beside its stretches."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence

from eventferry import cursor as vector
from eventferry.database import EVERYTHING, Filter, Key, Reading, ReadScope, State
from eventferry.errors import CursorAheadError
from eventferry.lines.limits import MAX_SAFE_INTEGER

EVERY_THREAD = range(vector.THREADS)

IDENTITY_BYTES = 8

_TIMES_AT_ONCE = 500
"""Of how many times the states are asked for at once: each may bring a row for each thread."""


async def next_keys(
    reading: Reading,
    unread: Sequence[int],
    until: Sequence[int] | None,
    threads: Iterable[int] = EVERY_THREAD,
) -> list[Key]:
    """The key of the next unread event of each of these threads that has one."""
    starts = {thread: unread[thread] for thread in threads}
    return [key for key, _ in await reading.in_threads(starts, until, EVERYTHING, 1)]


async def states_at(
    reading: Reading, times: Sequence[int], since: Sequence[int], until: Sequence[int]
) -> list[Sequence[int]]:
    """For each of these times, which rise: the state of the merge of the unread events when all is out that comes
    before any event of that time or a later one. Each thread then stands at its first such event.
    """
    state = array("q", map(max, since, until))
    states: list[Sequence[int]] = []
    # From the last time on: what is least behind a time is the least of all spans from there on.
    for behind in range(len(times), 0, -_TIMES_AT_ONCE):
        some = times[max(behind - _TIMES_AT_ONCE, 0) : behind]
        only = Filter(finish_time=times[behind] - 1) if behind < len(times) else EVERYTHING
        found = sorted(await reading.least_counters(some, ReadScope(since, until, only)))
        for span in reversed(range(len(some))):
            while found and found[-1][0] == span:
                _, thread, counter = found.pop()
                if thread in EVERY_THREAD:  # a foreign table may hold an event in what is no thread
                    state[thread] = min(state[thread], counter)
            states.append(array("q", state))
    return states[::-1]


async def refuse_ahead(reading: Reading, unread: Sequence[int], heads: Sequence[int] | None = None) -> None:
    """Raises CursorAheadError for a cursor that has read more than the store holds: its reader would miss what comes
    next. `heads` are the store's, where they are known."""
    heads = await reading.heads() if heads is None else heads
    for thread, (counter, head) in enumerate(zip(unread, heads, strict=True)):
        if counter > head:
            [(is_standby,)] = await reading.ask(f"SELECT {reading.dialect.is_standby}")
            raise CursorAheadError(thread, counter, head, is_standby=bool(is_standby))


def identity_of(state: State) -> bytes:
    """The identity of a store as a bookmark holds it."""
    if not state.is_lasting:
        return bytes(IDENTITY_BYTES)
    return hashlib.blake2b(state.identity.encode(), digest_size=IDENTITY_BYTES).digest()


async def last_version(reading: Reading, aggregate_id: str, up_to: int = MAX_SAFE_INTEGER) -> int:
    """The last version of an aggregate that is not above a version; 0 if it has none."""
    dialect = reading.dialect
    version, its = dialect.column("aggregateVersion"), dialect.among("aggregateId", [aggregate_id])
    found = await reading.ask(
        f"""SELECT {version} FROM {dialect.table(dialect.tables.events)}
        WHERE {its.text} AND {version} <= %s ORDER BY {version} DESC LIMIT 1""",
        (*its.values, up_to),
    )
    return int(found[0][0]) if found else 0

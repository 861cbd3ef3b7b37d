"""What readers ask a reading about the order, beside its stretches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from eventferry import cursor as vector
from eventferry.database import EVERYTHING, Key, Reading, Selection, State
from eventferry.errors import CursorAheadError
from eventferry.state.small_tables import text_of

EVERY_THREAD = range(vector.THREADS)

_IDS = 500
"""Aggregates of one question."""

IDENTITY_BYTES = 8


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
) -> list[list[int]]:
    """For each of these times, which rise: the state of the merge of the unread events when all is out that comes
    before any event of that time or a later one. Each thread then stands at its first such event.
    """
    if not times:
        return []
    state = [max(counters) for counters in zip(since, until, strict=True)]
    states: list[list[int]] = []
    # From the last time on: what is least behind a time is the least of all spans from there on.
    found = sorted(await reading.least_counters(times, Selection(since, until)), reverse=True)
    at = 0
    for span in reversed(range(len(times))):
        while at < len(found) and found[at][0] == span:
            _, thread, counter = found[at]
            if thread in EVERY_THREAD:  # a foreign table may hold an event in what is no thread
                state[thread] = min(state[thread], counter)
            at += 1
        states.append(list(state))
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


async def last_versions(reading: Reading, ids: Iterable[str], where: str = "") -> dict[str, int]:
    """The last version of each of these aggregates that a store has; `where` is a further condition."""
    dialect = reading.dialect
    named, version = dialect.column("aggregateId"), dialect.column("aggregateVersion")
    last: dict[str, int] = {}
    ordered = sorted(set(ids))
    for start in range(0, len(ordered), _IDS):
        some = dialect.among("aggregateId", ordered[start : start + _IDS])
        rows = await reading.ask(
            f"""SELECT {named}, max({version}) FROM {dialect.table(dialect.tables.events)}
            WHERE {some.text}{where} GROUP BY {named}""",
            some.values,
        )
        last |= {text_of(found): int(highest) for found, highest in rows}
    return last

"""What an inspection looks for, and its words, alike in every database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

UNIQUE = (("threadId", "threadCounter"), ("aggregateId", "aggregateVersion"))
"""What must be unique among the events, and by an index: without it the database would take a second one."""


def unique_faults(unique: Iterable[Sequence[str]]) -> list[str]:
    """The faults of a table of events with unique indexes on these columns."""
    present = {frozenset(columns) for columns in unique}
    return [
        f"no unique index on {' and '.join(columns)}: the database would take the same twice"
        for columns in UNIQUE
        if frozenset(columns) not in present
    ]


def counter_faults(counters: Sequence[tuple[int, int]], highest: Mapping[int, int]) -> list[str]:
    """The faults of the table of next counters, by its rows (thread, next counter) and the highest counter of each
    thread that has events."""
    faults = []
    threads = {thread for thread, _ in counters}
    if len(counters) != 256 or threads != set(range(256)):
        faults.append(f"the table of next counters has {len(counters)} rows, not one for each of 256 threads")
    for thread, counter in counters:
        last = highest.get(thread, -1)
        if counter <= last:
            faults.append(f"thread {thread}: the next counter is {counter}, but an event stands at {last}")
        elif counter > last + 1:
            stands = f"the last event stands at {last}" if last >= 0 else "no event stands in it"
            faults.append(f"thread {thread}: the next counter is {counter}, but {stands}")
    strange = sorted(set(highest) - set(range(256)))
    faults += [f"events stand in thread {thread}, which no reader looks at" for thread in strange]
    return faults


def index_fault(index: str, counted: tuple[int, int], table: tuple[int, int]) -> str | None:
    """The fault of an index: how many entries it has and the sum of their hashes, against those of the table."""
    if counted == table:
        return None
    if counted[0] != table[0]:
        return f"the index {index!r} has {counted[0]} entries, but the table {table[0]} events: rebuild it"
    return f"the index {index!r} holds other values than the table: rebuild it"

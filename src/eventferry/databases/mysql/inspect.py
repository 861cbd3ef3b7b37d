"""Looking whether the counters and indexes of a store agree with its events."""

from __future__ import annotations

from collections.abc import Sequence

from eventferry.database import Inspection
from eventferry.databases.inspecting import counter_faults, index_fault, unique_faults
from eventferry.databases.mysql.connection import Connection
from eventferry.databases.mysql.tables import Names, quoted


def inspect(connection: Connection, names: Names, limit: int) -> Inspection:
    """Every index by a scan of its own against the table, in one snapshot. Not by CHECK TABLE, which commits the
    transaction, and marks the table as broken."""
    query, events, threads = connection.query, quoted(names.tables.events), quoted(names.threads)
    indexes: dict[str, list[str]] = {}
    unique, partial = set(), set()
    for name, column, other_twice, part in query(
        """SELECT index_name, column_name, non_unique, sub_part FROM information_schema.statistics
        WHERE table_schema = %s AND table_name = %s ORDER BY index_name, seq_in_index""",
        (connection.access.database, names.tables.events),
    ):
        indexes.setdefault(name, []).append(column)
        if part is not None:
            partial.add(name)
        if not other_twice:
            unique.add(name)
    faults = unique_faults(indexes[name] for name in unique - partial)
    unchecked = []
    readable = [name for name in indexes if name != "PRIMARY"]
    sums = "".join(f", SUM({_hash(indexes[name])})" for name in readable)
    rows = query(
        f"""SELECT threadId, MAX(threadCounter), COUNT(*){sums} FROM {events}
        {"FORCE INDEX (PRIMARY)" if "PRIMARY" in indexes else ""} GROUP BY threadId"""
    )
    counters = query(f"SELECT threadId, threadCounter FROM {threads} ORDER BY threadId")
    faults += counter_faults(counters, {thread: highest for thread, highest, *_ in rows})
    count = sum(row[2] for row in rows)
    for place, name in enumerate(readable, start=3):
        scan = f"""SELECT COUNT(*), COALESCE(SUM({_hash(indexes[name])}), 0)
          FROM {events} FORCE INDEX ({quoted(name)})"""
        plan = query(f"EXPLAIN FORMAT=TRADITIONAL {scan}")  # MySQL 9 draws a tree otherwise
        if not any(name in step and "Using index" in str(step[-1]) for step in plan):
            unchecked.append(f"the index {name!r}: the server would not read it alone")
            continue
        [(entries, total)] = query(scan)
        fault = index_fault(name, (entries, int(total)), (count, int(sum(row[place] for row in rows))))
        faults += [fault] if fault else []
    return Inspection(faults[:limit], unchecked)


def _hash(names: Sequence[str]) -> str:
    return f"CRC32(CONCAT_WS(',', {', '.join(map(quoted, names))}))"

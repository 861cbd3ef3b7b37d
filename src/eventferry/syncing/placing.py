"""Where events of the source go in the target: to the same place in a replica, behind all others in a merge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from eventferry import cursor as vector
from eventferry.cursor import MAX_COUNTER
from eventferry.database import ExclusiveWriting, Reading
from eventferry.errors import AggregateConflictError, TargetChangedError
from eventferry.lines.event import Row
from eventferry.lines.limits import MAX_SAFE_INTEGER, check_limits, full_thread, last_version
from eventferry.state.syncs import SyncState

_KNOWN = 200_000
"""Aggregates that are remembered at most."""

_IDS = 500
"""Aggregates of one question."""


Before: TypeAlias = Callable[[Sequence[str]], Awaitable[dict[str, int]]]
"""The highest version of each of these aggregates among what was brought over before, as the source has it."""


async def place(
    writing: ExclusiveWriting,
    rows: Sequence[Row],
    state: SyncState,
    thread: int,
    ours: set[str],
    before: Before,
) -> tuple[list[Row], str]:
    """The rows as the target is to store them, and the cursor of the target behind them.

    Args:
        writing: the transaction in which they are stored.
        rows: of the source, in its order.
        state: of the sync.
        thread: of a merge: where the events of this source go.
        ours: aggregates that are known to be only the source's in a merge; more become so.
        before: asks the source.

    Raises:
        TargetChangedError: a replica was written to by somebody else.
        AggregateConflictError: an aggregate lives on both sides.
    """
    heads = await writing.heads()
    if state.mode == "replica":
        if state.heads is not None and vector.encode(heads) != state.heads:
            raise TargetChangedError(
                "the target is a replica, and somebody else has stored events in it: nothing was changed. Make the "
                "replica anew in an empty store, or merge into a store that has events of its own"
            )
        placed = list(rows)
    else:
        placed = await _merged(writing, rows, heads, state, thread, ours, before)
    for row in placed:
        heads[row.thread_id] = row.thread_counter + 1
    return placed, vector.encode(heads)


async def _merged(
    writing: ExclusiveWriting,
    rows: Sequence[Row],
    heads: Sequence[int],
    state: SyncState,
    thread: int,
    ours: set[str],
    before: Before,
) -> list[Row]:
    """Behind everything, in the order of the source.

    All events of one source go to one thread, so that their order is that of the source whatever their timestamps are:
    in a thread the order is that of the counters.
    """
    policy, _, prefix = state.same_aggregate.partition("=")
    renumber = policy == "renumber"
    last = await _last_versions(writing, {prefix + row.aggregate_id for row in rows})
    if not renumber:
        await _refuse_shared(rows, prefix, last, ours, before)
    if heads[thread] + len(rows) - 1 > MAX_COUNTER:
        raise full_thread(thread)
    limits = await writing.limits() if prefix else None
    placed: list[Row] = []
    for counter, row in enumerate(rows, heads[thread]):
        aggregate_id = prefix + row.aggregate_id
        version = last.get(aggregate_id, 0) + 1 if renumber else row.aggregate_version
        if version > MAX_SAFE_INTEGER:
            raise last_version(aggregate_id)
        last[aggregate_id] = version
        if limits is not None:
            check_limits(limits, aggregate_id, row.type, row.payload)
        placed.append(
            row._replace(
                thread_id=thread,
                thread_counter=counter,
                aggregate_id=aggregate_id,
                aggregate_version=version,
            )
        )
    return placed


async def _refuse_shared(
    rows: Sequence[Row], prefix: str, last: Mapping[str, int], ours: set[str], before: Before
) -> None:
    """Refuse an aggregate of which the target has events that are not the source's.

    It has none if its last version there equals the last one that was brought over. The source says which that was; it
    is asked once for each aggregate, and again where the versions do not follow one another.
    """
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.aggregate_id, row.aggregate_version)
    doubtful = [
        name
        for name, version in first.items()
        if last.get(prefix + name, 0) != version - 1 or (version > 1 and name not in ours)
    ]
    brought = await before(doubtful) if doubtful else {}
    for name in doubtful:
        if last.get(prefix + name, 0) != brought.get(name, 0):
            raise AggregateConflictError(prefix + name)
    if len(ours) > _KNOWN:
        ours.clear()
    ours.update(first)


async def _last_versions(reading: Reading, ids: set[str], where: str = "") -> dict[str, int]:
    """The last version of each of these aggregates that a store has."""
    dialect = reading.dialect
    named, version = dialect.column("aggregateId"), dialect.column("aggregateVersion")
    last: dict[str, int] = {}
    ordered = sorted(ids)
    for start in range(0, len(ordered), _IDS):
        some = dialect.among("aggregateId", ordered[start : start + _IDS])
        rows = await reading.ask(
            f"""SELECT {named}, max({version}) FROM {dialect.table(dialect.tables.events)}
            WHERE {some.text}{where} GROUP BY {named}""",
            some.values,
        )
        last |= {_text_of(found): int(highest) for found, highest in rows}
    return last


async def versions_before(reading: Reading, ids: Sequence[str], unread: Sequence[int]) -> dict[str, int]:
    """The last version of each of these aggregates that was read from a source."""
    dialect = reading.dialect
    cases = " ".join(f"WHEN {thread} THEN {counter}" for thread, counter in enumerate(unread))
    read = f" AND {dialect.column('threadCounter')} < CASE {dialect.column('threadId')} {cases} END"
    return await _last_versions(reading, set(ids), read)


def _text_of(value: Any) -> str:
    """A text, which some drivers give as its bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)

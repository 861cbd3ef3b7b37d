"""Where events of the source go in the target: to the same place in a replica, behind all others in a merge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from eventferry import cursor as vector
from eventferry.cursor import MAX_COUNTER
from eventferry.database import ExclusiveWriting, Reading
from eventferry.errors import AggregateConflictError, TargetChangedError
from eventferry.lines.event import Row
from eventferry.lines.limits import MAX_SAFE_INTEGER, check_limits, full_thread, last_version
from eventferry.reading.order import thread_of
from eventferry.state.small_tables import text_of
from eventferry.state.syncs import SyncState

_KNOWN = 200_000
"""Aggregates that are remembered at most."""

_IDS = 500
"""Aggregates of one question."""


Before: TypeAlias = Callable[[Sequence[str]], Awaitable[dict[str, int]]]
"""The highest version of each of these aggregates among what was brought over before, as the source has it."""


class Placing:
    """Gives the events of one batch their places.

    Args:
        state: of the sync.
        key: of the sync's row.
        keeps: whether a replica keeps the places and versions of the source. If not, its events come in thread 0, one
            behind the other, and their versions in each aggregate too, here and in a merge.
        ours: of a merge: aggregates that are known to have only events of the source, with their last versions in the
            target; more become so.
        before: asks the source; None where its events are changed on their way, so that it does not know.
    """

    def __init__(
        self, state: SyncState, key: str, keeps: bool, ours: dict[str, int], before: Before | None
    ) -> None:
        self._state = state
        self._key = key
        self._keeps = keeps
        self._ours = ours
        self._before = before
        self._policy, _, self._prefix = state.same_aggregate.partition("=")

    async def place(self, writing: ExclusiveWriting, rows: Sequence[Row]) -> tuple[list[Row], str]:
        """The rows as the target is to store them, and the cursor of the target behind them.

        Args:
            writing: the transaction in which they are stored.
            rows: of the source, in its order.

        Raises:
            TargetChangedError: a replica was written to by somebody else.
            AggregateConflictError: an aggregate lives on both sides.
        """
        heads = await writing.heads()
        if self._state.mode == "replica":
            if self._state.heads is not None and vector.encode(heads) != self._state.heads:
                raise TargetChangedError(
                    "the target is a replica, and somebody else has stored events in it: nothing was changed. Make the "
                    "replica anew in an empty store, or merge into a store that has events of its own"
                )
            last = {} if self._keeps else await _last_versions(writing, {row.aggregate_id for row in rows})
            placed = list(rows) if self._keeps else await self._behind(writing, rows, heads, 0, last)
        else:
            placed = await self._merged(writing, rows, heads)
        for row in placed:
            heads[row.thread_id] = row.thread_counter + 1
        return placed, vector.encode(heads)

    async def _merged(
        self, writing: ExclusiveWriting, rows: Sequence[Row], heads: Sequence[int]
    ) -> list[Row]:
        """Behind everything, in the order of the source.

        All events of one source go to one thread, so that their order is that of the source whatever their timestamps
        are: in a thread the order is that of the counters.
        """
        last = await _last_versions(writing, {self._prefix + row.aggregate_id for row in rows})
        if self._policy != "renumber" and self._before is not None:
            await self._refuse_shared(self._before, rows, last)
        placed = await self._behind(writing, rows, heads, thread_of(self._key), last)
        if len(self._ours) > _KNOWN:
            self._ours.clear()
        self._ours.update((row.aggregate_id, row.aggregate_version) for row in placed)
        return placed

    async def _behind(
        self,
        writing: ExclusiveWriting,
        rows: Sequence[Row],
        heads: Sequence[int],
        thread: int,
        last: dict[str, int],
    ) -> list[Row]:
        """The rows at the end of a thread. `last` are the versions of their aggregates in the target."""
        if heads[thread] + len(rows) - 1 > MAX_COUNTER:
            raise full_thread(thread)
        renumber = self._policy == "renumber" or not self._keeps
        limits = await writing.limits() if self._prefix else None
        placed: list[Row] = []
        for counter, row in enumerate(rows, heads[thread]):
            aggregate_id = self._prefix + row.aggregate_id
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

    async def _refuse_shared(self, before: Before, rows: Sequence[Row], last: Mapping[str, int]) -> None:
        """Refuse an aggregate of which the target has events that are not the source's.

        It has none if its last version there equals the last one that was brought over. The source says which that
        was, where it is not known from the batch before.
        """
        first: dict[str, int] = {}
        for row in rows:
            first.setdefault(row.aggregate_id, row.aggregate_version)
        doubtful = []
        for name, version in first.items():
            known = self._ours.get(self._prefix + name)
            is_new = known is None and version == 1 and self._prefix + name not in last
            if not is_new and known != last.get(self._prefix + name, 0):
                doubtful.append(name)
        brought = await before(doubtful) if doubtful else {}
        for name in doubtful:
            if last.get(self._prefix + name, 0) != brought.get(name, 0):
                raise AggregateConflictError(self._prefix + name)


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
        last |= {text_of(found): int(highest) for found, highest in rows}
    return last


async def versions_before(reading: Reading, ids: Sequence[str], unread: Sequence[int]) -> dict[str, int]:
    """The last version of each of these aggregates that was read from a source."""
    dialect = reading.dialect
    cases = " ".join(f"WHEN {thread} THEN {counter}" for thread, counter in enumerate(unread))
    read = f" AND {dialect.column('threadCounter')} < CASE {dialect.column('threadId')} {cases} END"
    return await _last_versions(reading, set(ids), read)

"""How far a sync has come, and how far behind its source it is."""

from __future__ import annotations

import msgspec

from eventferry.clock import now
from eventferry.database import Database
from eventferry.state import syncs
from eventferry.state.syncs import Mode
from eventferry.syncing.source import SyncSource, not_as_synced
from eventferry.syncing.terms import row_of


class SyncStatus(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The state of a sync.

    Attributes:
        source: where its source is.
        mode: "replica" or "merge".
        same_aggregate: what becomes of an aggregate that lives on both sides.
        events: events that were brought over so far.
        at: when the last ones were, in ms since 1970.
        bookmark: of the source, behind the last of them.
        changes: the digest of what changes the events on their way; None if nothing does.
        problem: the last error, if nothing has been brought over since; or why the source is not what was synced.
        problem_at: when that was, in ms since 1970.
        lag_events: events of the source that are not here yet; None if the source was not asked, or is not what was
            synced.
        lag_seconds: how long the first of them has been waiting, by its timestamp; 0 if there are none, and None like
            `lag_events`.
    """

    source: str
    mode: Mode
    same_aggregate: str
    events: int
    at: int
    bookmark: str | None
    changes: str | None
    problem: str | None
    problem_at: int | None
    lag_events: int | None = None
    lag_seconds: float | None = None


async def status_of(target: Database, source: SyncSource | None) -> list[SyncStatus]:
    """The syncs into a target; only that from the source, if one is given."""
    async with target.reading() as reading:
        rows = await syncs.load(reading)
    if source is None:
        return [_status(row) for row in rows]
    row = row_of(rows, await source.identities(), source.place)
    if row is None:
        return []
    waiting = await source.waiting(row.state.bookmark)
    if waiting.problem is not None:
        error = not_as_synced(waiting.problem, source.place)
        problem = syncs.SyncProblem(now(), f"{type(error).__name__}: {error}")
        return [_status(msgspec.structs.replace(row, problem=problem))]
    lag = 0.0 if waiting.since is None else max(now() - waiting.since, 0) / 1000
    return [msgspec.structs.replace(_status(row), lag_events=waiting.events, lag_seconds=lag)]


def _status(row: syncs.SyncRow) -> SyncStatus:
    state, problem = row.state, row.problem
    return SyncStatus(
        source=state.place,
        mode=state.mode,
        same_aggregate=state.same_aggregate,
        events=state.events,
        at=state.at,
        bookmark=state.bookmark,
        changes=state.changes,
        problem=None if problem is None else problem.error,
        problem_at=None if problem is None else problem.at,
    )

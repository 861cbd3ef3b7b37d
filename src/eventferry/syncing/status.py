"""How far a sync has come, and how far behind its source it is."""

from __future__ import annotations

import msgspec

from eventferry.clock import now
from eventferry.database import Database
from eventferry.errors import CursorAheadError, StoreReplacedError
from eventferry.reading.bookmarks import Bookmark, decode
from eventferry.reading.questions import next_keys
from eventferry.state import syncs
from eventferry.state.syncs import Mode
from eventferry.syncing.sync import identities_of, place_of_source, row_of


class SyncStatus(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The state of a sync.

    Attributes:
        source: where its source is.
        mode: "replica" or "merge".
        same_aggregate: what becomes of an aggregate that lives on both sides.
        events: events that were brought over so far.
        at: when the last ones were, in ms since 1970.
        bookmark: of the source, behind the last of them.
        problem: the last error, if nothing has been brought over since.
        problem_at: when that was, in ms since 1970.
        lag_events: events of the source that are not here yet; None if the source was not asked.
        lag_seconds: how long the first of them has been waiting, by its timestamp; 0 if there are none.
    """

    source: str
    mode: Mode
    same_aggregate: str
    events: int
    at: int
    bookmark: str | None
    problem: str | None
    problem_at: int | None
    lag_events: int | None = None
    lag_seconds: float | None = None


async def status_of(target: Database, source: Database | None) -> list[SyncStatus]:
    """The syncs into a target; only that from the source, if one is given."""
    async with target.reading() as reading:
        rows = await syncs.load(reading)
    if source is None:
        return [_status(row) for row in rows]
    row = row_of(rows, await identities_of(source), place_of_source(source))
    if row is None:
        return []
    async with source.reading() as reading:
        heads = await reading.heads()
        unread = [0] * len(heads) if row.state.bookmark is None else decode(row.state.bookmark).unread
        waiting = await next_keys(reading, unread, heads)
        try:
            if row.state.bookmark is not None:
                await Bookmark.open(reading, row.state.bookmark)
        except (CursorAheadError, StoreReplacedError) as error:
            row = msgspec.structs.replace(
                row, problem=syncs.Problem(now(), f"{type(error).__name__}: {error}")
            )
    lag = 0.0 if not waiting else max(now() - min(waiting).timestamp, 0) / 1000
    count = sum(max(head - counter, 0) for head, counter in zip(heads, unread, strict=True))
    return [msgspec.structs.replace(_status(row), lag_events=count, lag_seconds=lag)]


def _status(row: syncs.SyncRow) -> SyncStatus:
    state, problem = row.state, row.problem
    return SyncStatus(
        source=state.place,
        mode=state.mode,
        same_aggregate=state.same_aggregate,
        events=state.events,
        at=state.at,
        bookmark=state.bookmark,
        problem=None if problem is None else problem.error,
        problem_at=None if problem is None else problem.at,
    )

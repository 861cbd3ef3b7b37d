"""Cutover: the moment at which an application changes from one store to its replica, without losing an event."""

from __future__ import annotations

import time

import msgspec

from eventferry import cursor as vector
from eventferry.database import Database
from eventferry.errors import CutoverError
from eventferry.lifecycle import to_the_end
from eventferry.operation_log import Operation, counts_of, place_of
from eventferry.reading.bookmarks import Bookmark
from eventferry.store import EventStore
from eventferry.syncing.secret_changes import SecretChanges
from eventferry.syncing.sync import Sync


class CutoverReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a cutover has done.

    Attributes:
        events: events that were brought over by it, before and during the freeze.
        frozen_events: those of them that were brought over while the source was frozen.
        downtime_seconds: from the freeze of the source until the target was found to be equal.
        cursor: of both stores. Readers that continue at the target may use their cursors and bookmarks there.
    """

    events: int
    frozen_events: int
    downtime_seconds: float
    cursor: str


async def cutover(
    source: EventStore, target: EventStore, *, unfreeze_on_failure: bool = True
) -> CutoverReport:
    """Bring over everything, freeze the source, bring over the last events, and see that both are equal.

    After it the source stays frozen: what still tries to save there fails. From now on the application uses the target.
    To go back before anything has been saved in the target, unfreeze the source. After that, sync the other way round,
    into an empty store.

    Args:
        source: the store that the application has used so far.
        target: its replica, or an empty or missing store, which becomes one.
        unfreeze_on_failure: unfreeze the source if anything goes wrong, so that the application goes on there.

    Raises:
        AlreadyFrozenError: the source is frozen.
        CutoverError: the stores are not equal, which should not happen.
        EventferryError: as `EventStore.sync` raises them.
    """
    with Operation("cutover", target._database, source=place_of(source._database)) as operation:
        syncing = Sync(source._database, target._database, mode="replica")
        before = await syncing.run(follow=False)
        began = time.monotonic()
        await source.freeze()
        try:
            after = await syncing.run(follow=False)
            cursor = await _compare(source._database, target._database)
            downtime = time.monotonic() - began
        except BaseException as error:
            if unfreeze_on_failure:
                try:
                    await to_the_end(source.unfreeze())
                except Exception as another:
                    error.add_note(f"the source is still frozen, for unfreezing failed too: {another}")
            raise
        report = CutoverReport(
            events=after.events,
            frozen_events=after.events - before.events,
            downtime_seconds=downtime,
            cursor=cursor,
        )
        operation.counts = counts_of(report)
        return report


async def _compare(source: Database, target: Database) -> str:
    """See that both end alike: the heads, the last event of every thread, and the secrets. Their cursor."""
    found = []
    for database in (source, target):
        async with database.reading() as reading:
            found.append(await Bookmark.at(reading, await reading.heads()))
    one, other = found
    if list(one.unread) != list(other.unread):
        raise CutoverError("the heads of the two stores differ")
    if one.fingerprint != other.fingerprint:
        raise CutoverError("the last events of the two stores differ")
    if await SecretChanges(source, target).differ():
        raise CutoverError("the secrets of the two stores differ")
    return vector.encode(one.unread)

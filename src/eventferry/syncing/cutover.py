"""Cutover: the moment at which an application changes from one store to its replica, without losing an event."""

from __future__ import annotations

import time

import msgspec

from eventferry import cursor as vector
from eventferry.database import Database
from eventferry.errors import AlreadyFrozenError, CutoverError, UsageError
from eventferry.lifecycle import to_the_end
from eventferry.operation_log import Operation, counts_of, place_of
from eventferry.reading.bookmarks import Bookmark
from eventferry.state import owners
from eventferry.store import EventStore
from eventferry.syncing.secret_changes import SecretChanges
from eventferry.syncing.store_source import StoreSource
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
    """Bring over everything, freeze the source, bring over the last events, and check that both are equal.

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
        UsageError: the source is another product's table, which nobody can freeze.
        EventferryError: as `EventStore.sync` raises them.
    """
    if not isinstance(source, EventStore):
        raise UsageError(
            "a cutover freezes its source, and another product's table cannot be frozen: stop what writes there, sync "
            "once more, and verify"
        )
    with Operation("cutover", target._database, source=place_of(source._database)) as operation:
        syncing = Sync(StoreSource(source._database), target._database, mode="replica")
        before = await syncing.run(follow=False)
        freeze = _Freeze(source._database, stays=not unfreeze_on_failure)
        async with freeze:
            began = time.monotonic()
            after = await syncing.run(follow=False)
            cursor = await _compare(source._database, target._database)
            await freeze.keep()
            downtime = time.monotonic() - began
        report = CutoverReport(
            events=after.events,
            frozen_events=after.events - before.events,
            downtime_seconds=downtime,
            cursor=cursor,
        )
        operation.counts = counts_of(report)
        return report


class _Freeze:
    """The freeze of the source: an operation's, which ends with its process, until it is kept as a user's."""

    def __init__(self, database: Database, *, stays: bool) -> None:
        self._database = database
        self._stays = stays
        self._owner: str | None = None

    async def __aenter__(self) -> None:
        owner = await self._database.own()
        try:
            if not await owners.freeze_by_operation(self._database, owner):
                raise AlreadyFrozenError("the source is already frozen")
        except BaseException:
            await to_the_end(owners.leave(self._database, owner))
            raise
        self._owner = owner

    async def keep(self) -> None:
        """Freeze the source until a user unfreezes it. Raises CutoverError if the freeze was lost meanwhile."""
        if self._owner is None:
            return
        async with owners.writing(self._database, "exclusive", frozen="allow") as writing:
            marker = await writing.freeze()
            if marker is None or marker.owner != self._owner:
                raise CutoverError(
                    "the freeze of the source was lost: events may have been saved there since"
                )
            await owners.freeze(writing, None)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._owner is None:
            return
        try:
            if error is not None and self._stays:
                await self.keep()
        except Exception as another:
            if error is not None:
                error.add_note(f"the source does not stay frozen: {another}")
        finally:
            owner, self._owner = self._owner, None
            await to_the_end(owners.leave(self._database, owner))


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

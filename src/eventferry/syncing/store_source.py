"""A store as the source of a sync."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from contextlib import suppress

from eventferry.changing import erasing
from eventferry.database import EVERYTHING, Database
from eventferry.errors import CursorAheadError, EventferryError, StoreReplacedError, UsageError
from eventferry.lifecycle import Life
from eventferry.lines.event import Event
from eventferry.lines.source_lines import SourceLines
from eventferry.reading.bookmarks import Bookmark, decode
from eventferry.reading.exporting import Export, ExportStream
from eventferry.reading.following import Follower
from eventferry.reading.questions import identity_of, next_keys
from eventferry.state import syncs
from eventferry.state.erasures import Erasure
from eventferry.syncing.placing import versions_before
from eventferry.syncing.secret_changes import SecretChanges
from eventferry.syncing.source import NO_IDENTITY, Waiting


class StoreSource:
    """A store, read through its database."""

    has_places = True
    exactness: str | None = None

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def life(self) -> Life:
        """The store's."""
        return self._database.life

    @property
    def place(self) -> str:
        """Where the store is, with the names of its tables."""
        return place_of_store(self._database)

    async def identities(self) -> list[str]:
        """After a cutover, whoever synced from the old store goes on with its replica."""
        async with self._database.reading() as reading:
            identity = identity_of(await reading.state()).hex()
        with suppress(EventferryError):  # a user who may read the events and nothing else
            async with self._database.reading() as reading:
                return [identity, *sorted(await syncs.lineage(reading) - {identity})]
        return [identity]

    async def refuse_circles(self, target: Database, identity: str, own: str) -> None:
        """Refuse a store that is the target, or its copy, or is synced from it."""
        if self.place == place_of_store(target) or identity == own != NO_IDENTITY:
            raise UsageError(
                "a store cannot be synced into itself: source and target are one store, or one is a restored backup "
                "of the other"
            )
        theirs: list[syncs.SyncRow] = []
        with suppress(EventferryError):  # a user who may read the events and nothing else
            async with self._database.reading() as reading:
                theirs = await syncs.load(reading)
        if any(row.state.identity == own != NO_IDENTITY for row in theirs):
            raise UsageError(
                "the source gets events of the target by a sync of its own: together they would be a loop, in which "
                "events come back as new ones"
            )

    def secrets(self, target: Database) -> SecretChanges:
        """Those of the store."""
        return SecretChanges(self._database, target)

    async def erasures(self) -> list[Erasure]:
        """Those that the store keeps."""
        return await erasing.read(self._database)

    def fill(self) -> StoreFill:
        """An export."""
        return StoreFill(Export(self._database))

    async def follow(self, since: str | None, limit: int) -> StoreFollowing:
        """From a bookmark on."""
        async with self._database.reading() as reading:
            end = await reading.heads()
        return StoreFollowing(Follower(self._database, since, EVERYTHING, limit), end)

    async def last_versions(self, ids: Sequence[str], bookmark: str) -> dict[str, int]:
        """The highest ones, as the store has them."""
        async with self._database.reading() as reading:
            return await versions_before(reading, ids, decode(bookmark).unread)

    async def waiting(self, bookmark: str | None) -> Waiting:
        """By the heads of the store's threads."""
        problem: CursorAheadError | StoreReplacedError | None = None
        async with self._database.reading() as reading:
            heads = await reading.heads()
            unread = [0] * len(heads) if bookmark is None else decode(bookmark).unread
            keys = await next_keys(reading, unread, heads)
            try:
                if bookmark is not None:
                    await Bookmark.open(reading, bookmark)
            except (CursorAheadError, StoreReplacedError) as error:
                problem = error
        count = sum(max(head - counter, 0) for head, counter in zip(heads, unread, strict=True))
        return Waiting(count, min(keys).timestamp if keys else None, problem)

    def told(self, event: Event) -> str:
        """By its position."""
        return f"the event at counter {event.thread_counter} of thread {event.thread_id} of the source"


class StoreFill(ExportStream):
    """An export: every event is one as it is."""

    report = None


class StoreFollowing:
    """Follows a store; `end` are its heads when that begins."""

    def __init__(self, follower: Follower, end: Sequence[int]) -> None:
        self._follower = follower
        self._end = end

    @property
    def is_caught_up(self) -> bool:
        """Whether the last look has seen the end of the store."""
        return self._follower.is_caught_up

    @property
    def is_complete(self) -> bool:
        """Whether the heads of the beginning were reached, by the last look or by all of them."""
        bookmark = self._follower.bookmark
        is_past = bookmark is not None and all(map(operator.ge, bookmark.unread, self._end))
        return is_past or self.is_caught_up

    @property
    def is_waiting(self) -> bool:
        """No event of a store has to wait."""
        return False

    async def bookmark(self) -> str:
        """Behind the last page."""
        return str(await self._follower.begin())

    async def next(self, idle: float) -> SourceLines:
        """The next page."""
        lines = await self._follower.next(idle)
        return SourceLines(lines.text, lines.number)


def place_of_store(database: Database) -> str:
    """Where a store is, with the names of its tables, and without a password; from wherever it is looked at."""
    names = dict(database.traits.resource_names)
    if (file := names.get("databaseFile")) is not None:
        names["databaseFile"] = os.path.realpath(file)
    return "/".join(value for value in names.values() if value)

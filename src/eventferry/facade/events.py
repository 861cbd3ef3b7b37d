"""Storing and reading single events and pages of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Unpack

import msgspec

from eventferry import cursor as vector
from eventferry.database import Filter
from eventferry.errors import UsageError
from eventferry.facade.opened import Opened
from eventferry.lines.event import Event, EventInput, NewRow, decode_each, decode_events
from eventferry.operation_log import told
from eventferry.reading import histories, loading
from eventferry.reading.arguments import (
    ArchivedAs,
    Filters,
    Kinds,
    check_integer,
    filter_of,
    filter_of_kinds,
    text,
    texts,
)
from eventferry.reading.bookmarks import Bookmark
from eventferry.reading.following import Follower, FollowStream
from eventferry.reading.loading import EventLoader
from eventferry.results import AggregatePage, Append, Appended, ExpectedVersion, Page, SavedEvent
from eventferry.saving.appends import portions_of


class Events(Opened):
    """What an application does with a store."""

    @told("save-event", logging.DEBUG)
    async def save_event(self, event: EventInput, *, allow_gaps: bool = False) -> SavedEvent:
        """Store one event durably. Concurrent calls share transactions.

        Args:
            event: with type, aggregateId and aggregateVersion; timestamp and payload are optional. The stored timestamp
                is the given one or now, whichever is higher.
            allow_gaps: whether the version may be any that is free, as in reSolve. If not, it must be the aggregate's
                next one: 1 for its first event, then one more than its last version.

        Raises:
            ConcurrentError: the aggregate already has an event with this version; without `allow_gaps`, also where it
                has one with a higher version.
            VersionGapError: the version would leave a gap, and not `allow_gaps`.
            InputError: the event is not valid.
            StoreFrozenError, StoreBusyError, StoreNotFoundError: as their names say.
        """
        return await self._saving.save_event(event, allow_gaps=allow_gaps)

    @told("save-event", logging.DEBUG)
    async def _save_row(self, row: NewRow, version: int, *, allow_gaps: bool) -> SavedEvent:
        """The same for the service, which reads events as rows."""
        return await self._saving.save_row(row, version, allow_gaps=allow_gaps)

    @told("append-events", logging.DEBUG)
    async def append_events(
        self,
        aggregate_id: str,
        events: Iterable[EventInput],
        *,
        expected_version: ExpectedVersion = "any",
        idempotency_key: str | None = None,
    ) -> Appended:
        """Store events of one aggregate durably, all of them or none. Concurrent calls share transactions.

        Their versions go on from the aggregate's last. They have one timestamp: now, or the highest given, if that is
        higher.

        Args:
            aggregate_id: the aggregate.
            events: at least one, with type; timestamp and payload are optional, and aggregateId may be left out. A
                position is ignored, and an aggregateVersion is refused.
            expected_version: the last version that the aggregate must have; "none", or 0, if it must have no events.
            idempotency_key: makes it safe to call again: what was stored under this key is returned, and nothing is
                stored. A key is kept for seven days, and as long as the store's events are not replaced.

        Raises:
            ConcurrentError: the aggregate has another last version. The error says which.
            IdempotencyKeyError: other events were stored under the key.
            InputError: an event is not valid. `line` is its number.
            StoreFrozenError, StoreBusyError, StoreNotFoundError: as their names say.
        """
        return await self._appending.append([Append(aggregate_id, events, expected_version)], idempotency_key)

    @told("append-batches", logging.DEBUG)
    async def append_batches(
        self, appends: Iterable[Append], *, idempotency_key: str | None = None
    ) -> Appended:
        """Store events of several aggregates durably, all of them or none; each as `append_events` does.

        Args:
            appends: at least one, each of another aggregate. All events have one timestamp.
            idempotency_key: of all of them together.

        Raises:
            UsageError: an aggregate is there twice, or an append has no events.
            ConcurrentError and others: as `append_events`.
        """
        return await self._appending.append(appends, idempotency_key)

    @told("append-events", logging.DEBUG)
    async def _append_rows(
        self, appends: Iterable[tuple[Append, Sequence[NewRow]]], idempotency_key: str | None
    ) -> Appended:
        """The same for the service, which reads events as rows."""
        return await self._appending.append_portions(portions_of(appends), idempotency_key)

    async def load_aggregate(
        self, aggregate_id: str, from_version: int = 1, limit: int | None = None
    ) -> AggregatePage:
        """Load the events of one aggregate, in the order of their versions.

        Args:
            aggregate_id: the aggregate. If it has no events, the page is empty.
            from_version: begin with this version.
            limit: maximum number of events. A page also ends at 64 MiB, after at least one event.
        """
        check_integer("from_version", from_version, 1)
        check_integer("limit", limit, 1, optional=True)
        identity = text("aggregate_id", aggregate_id)
        lines, next_version = await histories.of_aggregate(
            self._database, identity, from_version, limit, loading.PAGE_BYTES, tidied=False
        )
        return AggregatePage(decode_each(lines), next_version)

    async def _aggregate_lines(
        self, aggregate_id: str, from_version: int, limit: int, max_bytes: int
    ) -> tuple[list[bytes], int | None]:
        """The same in lines, for the service."""
        return await histories.of_aggregate(self._database, aggregate_id, from_version, limit, max_bytes)

    async def last_events(self, n: int) -> list[Event]:
        """Load the last `n` events in the order of docs/order.md, the last one at the end. They also end at 64 MiB."""
        check_integer("n", n, 1)
        return await histories.last_events(self._database, n)

    async def load_events(
        self,
        *,
        limit: int,
        cursor: str | msgspec.UnsetType | None = msgspec.UNSET,
        since: str | msgspec.UnsetType | None = msgspec.UNSET,
        archived: ArchivedAs = "marker",
        **filters: Unpack[Filters],
    ) -> Page:
        """Load a page of events, by cursor, by bookmark or by time.

        Args:
            limit: maximum number of events, from 1. A page also ends at 64 MiB, after at least one event.
            cursor: start at this cursor; None is the start of the store.
            since: start at this bookmark instead; None is the start of the store. The page has a bookmark too.
            archived: "skip" leaves out events whose payloads are in an archive; otherwise a marker stands for the
                payload. Not by time.
            filters: which events. `start_time` or `finish_time` loads by time instead. Where an empty list matches
                nothing, the given cursor is returned.

        Returns:
            The events, and the cursor after them. By cursor and by bookmark they come in the order of docs/order.md,
            by time in the order of their timestamps.

        Raises:
            CursorAheadError: the cursor or the bookmark has read more events than the store holds.
            StoreReplacedError: the events that the bookmark has read are not the store's any more.
        """
        check_integer("limit", limit, 1)
        only = filter_of(**filters, archived=archived)
        by_time = only.start_time is not None or only.finish_time is not None
        if [cursor is not msgspec.UNSET, since is not msgspec.UNSET, by_time].count(True) != 1:
            raise UsageError(
                "give one of a cursor (None is the start), a bookmark as since (None is the start), or start_time and "
                "finish_time"
            )
        if by_time and only.skips_archived:
            raise UsageError("archived is for pages by cursor or bookmark, and not by time")
        database = self._database  # first: in a forked process it renews the readers too
        if cursor is not msgspec.UNSET:
            return await self._readers.page(cursor, only, limit)
        if since is not msgspec.UNSET:
            return await self._readers.page_since(since, only, limit)
        return Page(await loading.selected(database, only, limit), None)

    async def bookmark(self, cursor: str | msgspec.UnsetType | None = msgspec.UNSET) -> str:
        """A bookmark: a cursor that can tell whether the store's history is still the one that was read.

        Args:
            cursor: where, such as the cursor of a page, an export or a save; None is the start of the store. Without
                it, the current end of the store.

        Raises:
            CursorAheadError: the cursor has read more events than the store holds.
        """
        async with self._database.reading() as reading:
            unread = await reading.heads() if cursor is msgspec.UNSET else vector.decode(cursor)
            return str(await Bookmark.at(reading, unread))

    def follow(
        self,
        since: str | None = None,
        *,
        archived: ArchivedAs = "marker",
        limit: int = 1000,
        idle: float | None = None,
        **kinds: Unpack[Kinds],
    ) -> FollowStream:
        """Follow the store: an endless async iterator of pages, in which each event comes exactly once.

        Within a page the order is that of docs/order.md. Events that are saved or imported later come in later pages,
        whatever their timestamps. The store is asked every 20 ms while events come, and every 0.5 s when none do.

        Args:
            since: begin at this bookmark; None is the start of the store, and "now" its current end.
            archived: as for `load_events`.
            limit: maximum number of events of a page. A page also ends at 768 KiB, after at least one event.
            idle: give a page without events after this many seconds in which none came, so that the caller can do
                something else. Without it the iterator waits for the next event.
            kinds: which events.

        Raises:
            UsageError: during iteration: `since` is not a bookmark.
            CursorAheadError, StoreReplacedError: during iteration: what was read is not the store's history any more.
        """
        check_integer("limit", limit, 1)
        if idle is not None and (isinstance(idle, bool) or not isinstance(idle, int | float) or idle < 0):
            raise UsageError(f"idle must be a number of seconds, not {idle!r}")
        only = filter_of_kinds(**kinds, archived=archived)
        return FollowStream(self._follower(since, only, limit, decode_events), idle)

    def _follower(
        self,
        since: str | None,
        only: Filter,
        limit: int,
        decode: Callable[[bytes], list[Event]] | None = None,
    ) -> Follower:
        """The same in lines, for the command and the service."""
        return Follower(self._database, since, only, limit, decode)

    async def get_event_loader(
        self, *, cursor: str | None, archived: ArchivedAs = "marker", **kinds: Unpack[Kinds]
    ) -> EventLoader:
        """A loader that loads page after page, as `load_events` does, and remembers its cursor."""
        only = filter_of_kinds(**kinds, archived=archived)
        await self._probe()
        return EventLoader(lambda: self._database, cursor, only)

    async def get_latest_event(
        self,
        event_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
        *,
        exclude_types: Iterable[str] | None = None,
        aggregate_prefixes: Iterable[str] | None = None,
    ) -> Event | None:
        """The matching event with the highest timestamp; None if no event matches. The filters are those of
        `load_events`."""
        only = filter_of(
            event_types, aggregate_ids, exclude_types=exclude_types, aggregate_prefixes=aggregate_prefixes
        )
        found = await loading.selected(self._database, only, 1, backwards=True)
        return found[0] if found else None

    def get_next_cursor(self, cursor: str | None, events: Iterable[Event]) -> str:
        """The cursor after `events` have been read from `cursor` on."""
        return vector.after(cursor, events)

    async def get_cursor_until_event_types(self, cursor: str | None, event_types: Iterable[str]) -> str:
        """The cursor that lies, in each thread, before the first event of one of the types, or at the thread's end if
        there is none. Raises UsageError for an empty list.
        """
        wanted = texts("event_types", event_types)
        if not wanted:
            raise UsageError("event_types must name at least one type")
        return await loading.cursor_until(self._database, cursor, wanted)

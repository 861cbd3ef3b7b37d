"""The event store: a thin facade. Each of its operations has its own module."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from eventferry import cursor as vector
from eventferry import secrets
from eventferry.changing import erasing
from eventferry.changing.bringing import Bringing
from eventferry.changing.changes import Changes
from eventferry.changing.erased import Erased
from eventferry.changing.erasing import EraseReport
from eventferry.changing.rules import Rules, rules_of
from eventferry.changing.selection import Selection
from eventferry.database import Database, Filter, Inspection, Undo
from eventferry.errors import (
    StoreClosedError,
    StoreNotFoundError,
    UsageError,
)
from eventferry.importing import incremental, replace
from eventferry.importing.append import Appending
from eventferry.importing.incremental import EventSource
from eventferry.importing.merge import ImportReport, Older
from eventferry.importing.replace import Replacement
from eventferry.importing.stream import ImportStream
from eventferry.lifecycle import to_the_end
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES
from eventferry.lines.event import Event, EventInput, NewRow, decode_event, decode_events
from eventferry.lines.payload import encode_payload
from eventferry.operation_log import Operation, counts_of, place_of, told
from eventferry.reading import histories, loading, partition
from eventferry.reading.arguments import check_integer, check_mode, filter_of, text, texts
from eventferry.reading.bookmarks import Bookmark
from eventferry.reading.exporting import Export, ExportStream
from eventferry.reading.following import Follower, FollowStream
from eventferry.reading.loading import EventLoader, Readers
from eventferry.reading.maintenance import AUTO, MANUAL, MaintenanceMode
from eventferry.reading.partition import Partition
from eventferry.results import (
    AggregatePage,
    Append,
    Appended,
    Description,
    ExpectedVersion,
    ImportProgress,
    Page,
    SavedEvent,
    Subscriber,
)
from eventferry.saving.appends import Appends, parts_of
from eventferry.saving.saves import Saving
from eventferry.secrets import GatheredSecrets, SecretsExport, SecretsImport, SecretsPage
from eventferry.state import figures, owners, small_tables, snapshots, subscribers
from eventferry.state.syncs import Mode
from eventferry.syncing.preview import SyncPreview
from eventferry.syncing.status import SyncStatus, status_of
from eventferry.syncing.store_source import StoreSource
from eventferry.syncing.sync import Sync, SyncReport

if TYPE_CHECKING:
    from eventferry.changing.changes import Changes
    from eventferry.sources.source import ForeignSource
    from eventferry.syncing.source import Source

__all__ = ["EventStore"]


class EventStore:
    """An event store in a database; created by `open_store`. It connects at the first call that needs it.

    Use it with `async with`, or call `close`. After that, every call raises StoreClosedError.
    """

    def __init__(self, open_database: Callable[[], Database], *, snapshot_bucket_size: int = 1) -> None:
        if snapshot_bucket_size < 1:
            raise UsageError(f"snapshot_bucket_size must be at least 1, not {snapshot_bucket_size!r}")
        self._open_database = open_database
        self._begin()
        self._bucket_size = snapshot_bucket_size
        self._bucket_counts: dict[str, int] = {}

    def _begin(self) -> None:
        database = self._open_database()
        self._open: Database | None = database
        self._saving = Saving(database)
        self._appending = Appends(database, self._saving)
        self._readers = Readers(database)
        self._undo_init: Undo | None = None

    @property
    def _database(self) -> Database:
        if self._open is None:
            raise StoreClosedError("the store is closed")
        if self._open.life.is_inherited:
            self._begin()
        return self._open

    async def __aenter__(self) -> EventStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # the store itself

    @told("init")
    async def init(self) -> None:
        """Create the store. Raises StoreExistsError."""
        self._undo_init = await self._database.create()

    @told("undo-init")
    async def undo_init(self) -> None:
        """Remove the file that `init` of this object created, unless anything is stored in it or anybody else has it
        open. On a server this does nothing."""
        undo, self._undo_init = self._undo_init, None
        if undo is not None:
            await undo()

    @told("drop")
    async def drop(self) -> None:
        """Remove the store and everything in it. Raises StoreNotFoundError."""
        async with owners.writing(self._database, "replacing", frozen="allow") as writing:
            await small_tables.refuse_foreign_tables(writing, self._database.life.name)
            await writing.drop()

    async def close(self) -> None:
        """Close the store. Calling it again does nothing.

        New calls are refused. Running calls are cancelled: each transaction is committed or rolled back, and then they
        raise StoreClosedError. Running imports and exports end as if cancelled: they unfreeze what they froze, and an
        import can be continued with `resume=True`.
        """
        database, self._open = self._open, None
        if database is not None and not database.life.is_inherited:
            await to_the_end(database.close())

    async def exists(self) -> bool:
        """Whether the store exists. Creates nothing."""
        try:
            await self._probe()
        except StoreNotFoundError:
            return False
        return True

    @told("upgrade")
    async def upgrade(self) -> list[str]:
        """Add the index for the order of events to a store created by reSolve; returns the names of what was added."""
        return await self._database.upgrade()

    @told("freeze")
    async def freeze(self) -> None:
        """Make writes fail until `unfreeze`. Returns when all writes that had begun have ended.

        If a running operation has frozen the store, the freeze becomes the caller's and stays when the operation ends.

        Raises:
            AlreadyFrozenError: a user has frozen the store already.
        """
        await owners.freeze_by_user(self._database)

    @told("unfreeze")
    async def unfreeze(self) -> None:
        """Allow writes again. Raises NotFrozenError."""
        await owners.unfreeze_by_user(self._database)

    async def describe(self, calculate_cursor: bool = False, estimate_counts: bool = False) -> Description:
        """Describe the store: counts, location, freeze, open import.

        Args:
            calculate_cursor: include the cursor after the last event.
            estimate_counts: let a server estimate the number of events instead of counting them.
        """
        return await figures.describe(self._database, with_cursor=calculate_cursor, estimated=estimate_counts)

    # events

    @told("save-event", logging.DEBUG)
    async def save_event(self, event: EventInput, *, allow_gaps: bool = True) -> SavedEvent:
        """Store one event durably. Concurrent calls share transactions.

        Args:
            event: with type, aggregateId and aggregateVersion; timestamp and payload are optional. The stored timestamp
                is the given one or now, whichever is higher.
            allow_gaps: whether the version may be any that is free, as in reSolve. False, which is recommended, refuses
                one that is not the aggregate's next.

        Raises:
            ConcurrentError: the aggregate already has an event with this version. Any other version is accepted.
            VersionGapError: with `allow_gaps=False`, the version is not the aggregate's next one.
            InputError: the event is not valid.
            StoreFrozenError, StoreBusyError, StoreNotFoundError: as their names say.
        """
        return await self._saving.save_event(event, None if allow_gaps else self._appending.save_next)

    @told("save-event", logging.DEBUG)
    async def _save_row(self, row: NewRow, version: int) -> SavedEvent:
        """The same for the service, which reads events as rows: the payload of the result is `msgspec.Raw`."""
        return await self._saving.save_row(row, version)

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
        """The same for the service, which reads events as rows: the payloads of the result are `msgspec.Raw`."""
        return await self._appending.append_parts(parts_of(appends), idempotency_key)

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
        lines, next_version = await histories.of_aggregate(
            self._database, text("aggregate_id", aggregate_id), from_version, limit, loading.PAGE_BYTES
        )
        return AggregatePage(list(map(decode_event, lines)), next_version)

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
        start_time: int | None = None,
        finish_time: int | None = None,
        event_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
        exclude_types: Iterable[str] | None = None,
        aggregate_prefixes: Iterable[str] | None = None,
    ) -> Page:
        """Load a page of events, by cursor, by bookmark or by time.

        Args:
            limit: maximum number of events, from 1. A page also ends at 64 MiB, after at least one event.
            cursor: start at this cursor; None is the start of the store.
            since: start at this bookmark instead; None is the start of the store. The page has a bookmark too.
            start_time: load by time instead: events at or after this timestamp, in ms since 1970.
            finish_time: events at or before this timestamp.
            event_types: only events of these types. An empty list matches nothing; the given cursor is returned.
            aggregate_ids: only events of these aggregates, likewise.
            exclude_types: no events of these types, whatever else is said.
            aggregate_prefixes: events of aggregates whose id begins with one of these too. Without `aggregate_ids`,
                only those.

        Returns:
            The events, and the cursor after them. By cursor and by bookmark they come in the order of docs/order.md,
            by time in the order of their timestamps.

        Raises:
            CursorAheadError: the cursor or the bookmark has read more events than the store holds.
            StoreReplacedError: the events that the bookmark has read are not the store's any more.
        """
        check_integer("limit", limit, 1)
        only = filter_of(
            event_types,
            aggregate_ids,
            start_time,
            finish_time,
            exclude_types=exclude_types,
            aggregate_prefixes=aggregate_prefixes,
        )
        by_time = start_time is not None or finish_time is not None
        if [cursor is not msgspec.UNSET, since is not msgspec.UNSET, by_time].count(True) != 1:
            raise UsageError(
                "give one of a cursor (None is the start), a bookmark as since (None is the start), or start_time and "
                "finish_time"
            )
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
        event_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
        exclude_types: Iterable[str] | None = None,
        aggregate_prefixes: Iterable[str] | None = None,
        limit: int = 1000,
        idle: float | None = None,
    ) -> FollowStream:
        """Follow the store: an endless async iterator of pages, in which each event comes exactly once.

        Within a page the order is that of docs/order.md. Events that are saved or imported later come in later pages,
        whatever their timestamps. The store is asked every 20 ms while events come, and every 0.5 s when none do.

        Args:
            since: begin at this bookmark; None is the start of the store, and "now" its current end.
            event_types: only events of these types.
            aggregate_ids: only events of these aggregates.
            exclude_types: no events of these types, whatever else is said.
            aggregate_prefixes: events of aggregates whose id begins with one of these too. Without `aggregate_ids`,
                only those.
            limit: maximum number of events of a page. A page also ends at 768 KiB, after at least one event.
            idle: give a page without events after this many seconds in which none came, so that the caller can do
                something else. Without it the iterator waits for the next event.

        Raises:
            UsageError: during iteration: `since` is not a bookmark.
            CursorAheadError, StoreReplacedError: during iteration: what was read is not the store's history any more.
        """
        check_integer("limit", limit, 1)
        if idle is not None and (isinstance(idle, bool) or not isinstance(idle, int | float) or idle < 0):
            raise UsageError(f"idle must be a number of seconds, not {idle!r}")
        only = filter_of(
            event_types, aggregate_ids, exclude_types=exclude_types, aggregate_prefixes=aggregate_prefixes
        )
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
        self,
        *,
        cursor: str | None,
        event_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
        exclude_types: Iterable[str] | None = None,
        aggregate_prefixes: Iterable[str] | None = None,
    ) -> EventLoader:
        """A loader that loads page after page and remembers its cursor. The filters are those of `load_events`."""
        only = filter_of(
            event_types, aggregate_ids, exclude_types=exclude_types, aggregate_prefixes=aggregate_prefixes
        )
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

    # export and import

    async def sync(
        self,
        source: EventStore | ForeignSource,
        *,
        mode: Mode | None = None,
        same_aggregate: str | None = None,
        follow: bool = False,
        with_secrets: bool | None = None,
        changes: Changes | None = None,
        rate: int | None = None,
        tell: Callable[[SyncReport], None] | None = None,
    ) -> SyncReport:
        """Bring over from another store what is new since the last time, exactly once; see docs/sync.md.

        How far it came stands in this store and changes in the same transaction as its events. So it can be cancelled,
        killed and started again at any time.

        Args:
            source: the other store, or another product's table (`open_source`). It is only read, and may be a standby.
            mode: "replica" (as it is at first, into an empty or missing store): events keep their positions and
                versions, and nobody else may store events here. "merge": events of several sources, and of this
                store's own writers, come behind one another. None: what it was the last time.
            same_aggregate: in a merge, what becomes of an aggregate that has events of this store's own too: "refuse"
                raises AggregateConflictError; "renumber" gives its events the next versions; "prefix=X" puts X in front
                of the ids of all aggregates of the source. None: what it was the last time, and at first "refuse".
            follow: go on for ever, with what is saved in the source meanwhile. After a lost connection it tries again.
            with_secrets: bring secrets over too, and delete those that the source has deleted. None: unless there are
                changes, for a secret may open what rules closed.
            changes: select and change the events on their way; see docs/rules.md. Then they get positions and versions
                anew, dense, in the order in which they come, unless the changes keep them. A sync goes on only with the
                changes with which it was begun. In a merge, same_aggregate is "renumber" or "prefix=X".
            rate: bring over at most this many events a second.
            tell: called after each batch, with what was brought over by then.

        Raises:
            TargetChangedError: somebody else has stored events in this replica.
            AggregateConflictError: an aggregate lives on both sides.
            StoreReplacedError, CursorAheadError: the source was replaced, or a backup of it was restored.
            SecretConflictError: both sides have a secret with the same id.
            MappingError: the table of another product cannot be followed.
            SourceRowError: a row of it does not become an event.
            OtherChangesError: it was begun with other changes, or with none.
            ChangeError, InputError: an event cannot be changed, or what it became is none.
            UsageError: this store holds events, and cannot become a replica; or the last sync had other options.
        """
        place = place_of(source._database) if isinstance(source, EventStore) else source.place
        with Operation("sync", self._database, source=place) as operation:
            syncing = Sync(
                _source_of(source),
                self._database,
                mode=mode,
                same_aggregate=same_aggregate,
                with_secrets=changes is None if with_secrets is None else with_secrets,
                changes=changes,
                rate=rate,
                tell=tell or (lambda _: None),
            )
            report = await syncing.run(follow=follow)
            operation.counts = counts_of(report)
            return report

    async def preview_sync(
        self,
        source: EventStore | ForeignSource,
        *,
        mode: Mode | None = None,
        same_aggregate: str | None = None,
        changes: Changes | None = None,
    ) -> SyncPreview:
        """What the next run of a sync would bring, all that is new. Nothing is stored, and a missing store is not made.

        Args:
            source, mode, same_aggregate, changes: as for `sync`.

        Raises:
            EventferryError: as `sync` does, before it stores anything.
        """
        syncing = Sync(
            _source_of(source),
            self._database,
            mode=mode,
            same_aggregate=same_aggregate,
            with_secrets=False,
            changes=changes,
        )
        return await syncing.preview()

    async def sync_status(self, source: EventStore | ForeignSource | None = None) -> list[SyncStatus]:
        """How far the syncs into this store have come.

        Args:
            source: only the sync from this store or table, and how much it has that is not here yet.
        """
        return await status_of(self._database, None if source is None else _source_of(source))

    def export_events(
        self,
        cursor: str | None = None,
        maintenance_mode: MaintenanceMode = MANUAL,
        buffer_size: int | None = None,
        event_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
        start_time: int | None = None,
        finish_time: int | None = None,
        limit: int | None = None,
        jobs: int = 1,
        since: str | None = None,
        until: str | None = None,
        exclude_types: Iterable[str] | None = None,
        aggregate_prefixes: Iterable[str] | None = None,
    ) -> ExportStream:
        """Export events as JSON Lines: an async iterator of blocks.

        Args:
            cursor: start at this cursor; None is the start of the store.
            maintenance_mode: MANUAL lets writers go on; AUTO freezes the store during the export.
            buffer_size: stop after the last event that fits into this many bytes, after at least one event.
            event_types: only events of these types.
            aggregate_ids: only events of these aggregates.
            start_time: only events at or after this timestamp, in ms since 1970.
            finish_time: only events at or before this timestamp.
            limit: stop after this many events.
            jobs: number of connections that read in parallel, each a few MB ahead. The output is the same. This helps
                if the server's answers take long; with a filter or a limit, one connection is used.
            since: start at this bookmark, instead of a cursor.
            until: end at this bookmark or cursor. What it has read is not compared: it may be of the store from which
                this one was copied.
            exclude_types: no events of these types, whatever else is said.
            aggregate_prefixes: events of aggregates whose id begins with one of these too. Without `aggregate_ids`,
                only those.

        Raises:
            CursorAheadError: during iteration: the cursor has read more events than the store holds.
            StoreReplacedError: during iteration: the events were replaced, or are not those that the bookmark has read.
        """
        if since is not None and cursor is not None:
            raise UsageError("give a cursor or a bookmark as since, but not both")
        check_mode(maintenance_mode)
        check_integer("buffer_size", buffer_size, 0, optional=True)
        check_integer("limit", limit, 0, optional=True)
        check_integer("jobs", jobs, 1)
        only = filter_of(
            event_types,
            aggregate_ids,
            start_time,
            finish_time,
            exclude_types=exclude_types,
            aggregate_prefixes=aggregate_prefixes,
        )
        return ExportStream(
            Export(
                self._database,
                cursor,
                maintenance_mode,
                buffer_size,
                limit,
                only,
                jobs=jobs,
                since=since,
                until=until,
            )
        )

    async def partitions(self, n: int, since: str | None = None, until: str | None = None) -> list[Partition]:
        """Divide the events between two cursors into partitions of similar size, for parallel readers.

        Concatenated, they are the export from `since` on, byte for byte. Any process that can open the store can read
        each of them, as often as needed. This call scans the index of the order once.

        Args:
            n: maximum number of partitions. Events with equal timestamps stay in one partition, so there may be fewer,
                or none if there are no events.
            since: start at this cursor; None is the start of the store.
            until: end at this cursor; None is the current end of the store.
        """
        check_integer("n", n, 1)
        return await partition.partitions(self._database, n, since, until)

    def read_partition(self, part: Partition) -> ExportStream:
        """Export the events of a partition. The output is always the same.

        Raises:
            StoreReplacedError: during iteration: the events were replaced since `partitions`.
        """
        if not isinstance(part, Partition):
            raise UsageError(f"a partition must be a result of partitions, not {type(part).__name__}")
        cut = part.identity, vector.decode(part.until)
        return ExportStream(Export(self._database, part.since, cut=cut))

    def import_events(
        self,
        byte_offset: int = 0,
        maintenance_mode: MaintenanceMode = AUTO,
        freeze: bool = False,
        resume: bool = False,
        allow_empty: bool = False,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        replace: bool = True,
        erased_from: EventStore | None = None,
    ) -> ImportStream:
        """Import events from JSON Lines: a sink for blocks.

        Args:
            byte_offset: the offset of the first block in the source, for messages and reports. Nothing is skipped.
            maintenance_mode: AUTO replaces all events, all or nothing. MANUAL appends, and commits on the way.
            freeze: AUTO: freeze the store during the import.
            resume: AUTO: continue an interrupted import; `byte_offset` of the stream then says where.
            allow_empty: AUTO: allow an import without events, which empties the store.
            ignore_unknown_keys: drop unknown keys of events instead of refusing them.
            max_line_bytes: refuse longer lines.
            replace: AUTO: False refuses the import if the store holds events at its beginning or end.
            erased_from: AUTO: the store that the events come from. What was erased from it is kept in the step that
                replaces the events, and applied to whatever enters this store later.

        Raises:
            UsageError: the options cannot be combined.
        """
        check_integer("byte_offset", byte_offset, 0)
        check_integer("max_line_bytes", max_line_bytes, 0)
        check_mode(maintenance_mode)
        if maintenance_mode is MANUAL:
            if freeze or resume or allow_empty or not replace or erased_from is not None:
                raise UsageError(
                    "freeze, resume, allow_empty, replace=False and erased_from cannot be combined with MANUAL"
                )
            target: Appending | Replacement = Appending(self._database)
        elif erased_from is None:
            target = Replacement(
                self._database, replace=replace, freeze=freeze, resume=resume, allow_empty=allow_empty
            )
        else:
            target = Bringing(
                self._database,
                partial(erasing.read, erased_from._database),
                replace=replace,
                freeze=freeze,
                resume=resume,
                allow_empty=allow_empty,
            )
        return ImportStream(
            target,
            Operation("import", self._database, mode=maintenance_mode.value),
            self._database.life,
            byte_offset=byte_offset,
            max_line_bytes=max_line_bytes,
            ignore_unknown_keys=ignore_unknown_keys,
        )

    async def import_progress(self) -> ImportProgress | None:
        """The progress of an import that is running or can be resumed; None if there is none."""
        return await replace.progress(self._database)

    async def incremental_import(
        self,
        events: EventSource,
        older: Older = "skip",
        dry_run: bool = False,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        changes: Changes | None = None,
    ) -> ImportReport:
        """Add the events that the store lacks, in one transaction. Importing the same events again changes nothing.

        Args:
            events: dicts or `Event` objects, or an async iterator of bytes (JSON Lines, or one JSON array). Their
                positions and versions are ignored; the store assigns new ones.
            older: what to do with events older than the store's latest event: "skip" them, "reject" everything, or
                "accept" them.
            dry_run: report what would happen, and change nothing.
            ignore_unknown_keys: drop unknown keys of events instead of refusing them.
            max_line_bytes: refuse longer lines, or longer elements of an array.
            changes: filters, rules and a function that the events meet first; duplicates are those of what comes out.

        Raises:
            ChangeError: an event cannot be changed as asked. Nothing was imported.
            OlderEventsError: some events are older, and `older` is "reject". Nothing was imported.
            InputError: an event is not valid. Nothing was imported.
        """
        check_integer("max_line_bytes", max_line_bytes, 0)
        with Operation("incremental-import", self._database, dry_run=dry_run) as operation:
            report = await incremental.whole(
                self._database,
                events,
                older,
                changes=changes,
                dry_run=dry_run,
                ignore_unknown_keys=ignore_unknown_keys,
                max_line_bytes=max_line_bytes,
            )
            operation.counts = counts_of(report)
            return report

    @told("incremental begin")
    async def begin_incremental_import(self) -> str:
        """Begin an incremental import in steps; returns its id. Raises ImportOpenError if one is open."""
        return await incremental.begin(self._database)

    @told("incremental push")
    async def push_incremental_import(
        self,
        events: EventSource,
        import_id: str,
        part: str | None = None,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
    ) -> int:
        """Add events to the open import; returns their number. A push is all or nothing. Pushes may run in parallel.

        Args:
            events: as for `incremental_import`.
            import_id: the result of `begin_incremental_import`.
            part: the name of the push. Pushing the same part again replaces it, so it is safe to retry. For events with
                equal timestamps, parts are merged in this order: numbers by value, other names by their bytes, and
                then pushes without a name.
            ignore_unknown_keys: drop unknown keys of events instead of refusing them.
            max_line_bytes: refuse longer lines, or longer elements of an array.

        Raises:
            ImportNotFoundError: no import with this id is open. Nothing was changed.
        """
        check_integer("max_line_bytes", max_line_bytes, 0)
        return await incremental.push(
            self._database,
            import_id,
            events,
            part,
            ignore_unknown_keys=ignore_unknown_keys,
            max_line_bytes=max_line_bytes,
        )

    @told("incremental commit")
    async def commit_incremental_import(self, import_id: str, older: Older = "skip") -> ImportReport:
        """Merge the pushed events into the store, in one transaction. Raises as push and `incremental_import` do."""
        return await incremental.commit(self._database, import_id, older)

    @told("incremental rollback")
    async def rollback_incremental_import(self, import_id: str | None = None) -> None:
        """Discard the open import. Does nothing if none is open.

        Args:
            import_id: discard only this one. Raises ImportNotFoundError if it is not open.
        """
        await incremental.roll_back(self._database, import_id)

    async def erase(
        self,
        rules: Rules | str | os.PathLike[str],
        *,
        event_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
        aggregate_prefixes: Iterable[str] | None = None,
        dry_run: bool = False,
    ) -> EraseReport:
        """Erase personal data: rewrite payloads in place, in one transaction. Positions, versions and order stay.

        The erasure is kept in the store, and applied to whatever enters it later by an import, a copy or a sync. To
        call it again changes nothing. Snapshots are removed if an event has changed.

        Args:
            rules: a TOML file of rules, or what `load_rules` made of one. They may only redact, remove and set.
            event_types: only events of these types.
            aggregate_ids: only events of these aggregates, or of those of `aggregate_prefixes`.
            aggregate_prefixes: only events of aggregates whose ids begin with one of these.
            dry_run: report what would change, and change nothing.

        Raises:
            RulesError: the rules are wrong, or would do more than erase.
            ImportOpenError: an incremental import is open.
            NotErasedError: it is erased, but the database's journal may still contain a copy.
        """
        with Operation("erase", self._database, dry_run=dry_run) as operation:
            report = await erasing.erase(
                self._database,
                rules_of(rules),
                Selection.of(
                    event_types=event_types,
                    aggregate_ids=aggregate_ids,
                    aggregate_prefixes=aggregate_prefixes,
                ),
                dry_run=dry_run,
            )
            operation.counts = {"events": report.events, "changed": report.changed}
            return report

    async def bring_erasures(self, source: EventStore) -> EraseReport | None:
        """Erase from this store, a copy of another or of a part of it, what was erased there; None if that is done.

        Args:
            source: the store that the events came from. A sync of a replica does this itself, and the command copy by
                `import_events(erased_from=source)`.

        Raises:
            ImportOpenError, NotErasedError: as `erase`.
        """
        with Operation("bring-erasures", self._database) as operation:
            report = await erasing.bring(await erasing.read(source._database), self._database)
            if report is not None:
                operation.counts = {"events": report.events, "changed": report.changed}
            return report

    async def erased(self) -> Erased:
        """What was erased from this store, as a transform for `pipeline`, and for `verify` with an older copy."""
        return Erased(await erasing.read(self._database))

    # secrets

    async def load_secrets(
        self,
        *,
        limit: int,
        idx: int | None = None,
        skip: int | None = None,
        ids: Sequence[str] | None = None,
        include_deleted: bool = False,
    ) -> SecretsPage:
        """A page of secrets from `idx` on. `SecretsPage.idx` is where the next one begins; None after an empty page."""
        return await secrets.load(
            self._database,
            limit=limit,
            idx=idx,
            skip=skip,
            ids=None if ids is None else texts("ids", ids),
            include_deleted=include_deleted,
        )

    async def get_secret(self, id: str) -> str | None:
        """A secret; None if there is none or it was deleted."""
        async with self._database.reading() as reading:
            row = await secrets.get(reading, text("id", id))
        return row.secret if row is not None else None

    @told("set-secret")
    async def set_secret(self, id: str, secret: str) -> None:
        """Add a secret, and an event RESOLVE_SET_SECRET. Raises SecretExistsError if the id was ever used."""
        await secrets.set_secret(self._database, id, secret)

    @told("delete-secret")
    async def delete_secret(self, id: str) -> bool:
        """Delete a secret, and add an event RESOLVE_DELETE_SECRET. Returns False, and adds no event, if there is none.

        Raises:
            SecretNotErasedError: it is deleted, but the database's journal may still contain a copy.
        """
        return await secrets.delete_secret(self._database, text("id", id))

    def export_secrets(self, idx: int | None = None, tombstones: bool = False) -> SecretsExport:
        """Export secrets as JSON Lines: an async iterator of blocks. Deleted secrets are included with `tombstones`."""
        return SecretsExport(self._database, idx=idx, tombstones=tombstones)

    def import_secrets(self, maintenance_mode: MaintenanceMode = AUTO) -> SecretsImport:
        """Import secrets from JSON Lines: a sink for blocks. Equal rows are skipped, and deleted secrets stay deleted.

        Args:
            maintenance_mode: MANUAL also works on a frozen store, as for events.
        """
        check_mode(maintenance_mode)
        return SecretsImport(self._database, frozen="allow" if maintenance_mode is MANUAL else "refuse")

    async def gather_secrets_from_events(self, events: Iterable[EventInput]) -> GatheredSecrets:
        """The current rows of the secrets that these events set, and the ids of the secrets that they deleted."""
        return await secrets.gather(self._database, events)

    # snapshots and subscribers

    async def load_snapshot(self, key: str) -> str | None:
        """The snapshot under a key; None if there is none."""
        async with self._database.reading() as reading:
            return await snapshots.load(reading, text("key", key))

    @told("save-snapshot", logging.DEBUG)
    async def save_snapshot(self, key: str, content: str) -> None:
        """Store a snapshot. With `snapshot_bucket_size` n, only every nth call for a key stores it."""
        key, content = text("key", key), text("content", content)
        count = self._bucket_counts.get(key, 0) + 1
        if count < self._bucket_size:
            self._bucket_counts[key] = count
            return
        self._bucket_counts.pop(key, None)
        async with owners.writing(self._database, frozen="allow") as writing:
            await snapshots.save(writing, key, content)

    @told("drop-snapshot", logging.DEBUG)
    async def drop_snapshot(self, key: str) -> None:
        """Remove the snapshot under exactly this key, if there is one."""
        async with owners.writing(self._database, frozen="allow") as writing:
            await snapshots.drop(writing, text("key", key))

    @told("ensure-subscriber", logging.DEBUG)
    async def ensure_event_subscriber(
        self,
        application_name: str,
        event_subscriber: str,
        destination: Any = None,
        status: Any = None,
        update_only: bool = False,
    ) -> bool:
        """Register a read model, or with `update_only` change the status of a registered one.

        Returns:
            False if `update_only` is set and it is not registered.
        """
        if update_only == (destination is not None):
            raise UsageError("give either a destination or update_only")
        application_name = text("application_name", application_name)
        event_subscriber = text("event_subscriber", event_subscriber)
        destination_text, status_text = encode_payload(destination), encode_payload(status)
        async with owners.writing(self._database, frozen="allow") as writing:
            return await subscribers.save(
                writing,
                application_name,
                event_subscriber,
                None if update_only else destination_text,
                status_text,
            )

    @told("remove-subscriber", logging.DEBUG)
    async def remove_event_subscriber(self, application_name: str, event_subscriber: str) -> None:
        """Remove a read model from the registry, if it is there."""
        async with owners.writing(self._database, frozen="allow") as writing:
            await subscribers.drop(
                writing,
                text("application_name", application_name),
                text("event_subscriber", event_subscriber),
            )

    async def get_event_subscribers(
        self, application_name: str | None = None, event_subscriber: str | None = None
    ) -> list[Subscriber]:
        """The matching rows of the registry; all without arguments."""
        async with self._database.reading() as reading:
            return await subscribers.load(
                reading,
                None if application_name is None else text("application_name", application_name),
                None if event_subscriber is None else text("event_subscriber", event_subscriber),
            )

    async def _inspect(self, limit: int) -> Inspection:
        """What is wrong with counters and indexes, for `check`."""
        async with self._database.reading() as reading:
            return await reading.inspect(limit)

    async def _probe(self) -> None:
        async with self._database.reading():
            pass


def _source_of(source: EventStore | ForeignSource) -> Source:
    if isinstance(source, EventStore):
        return StoreSource(source._database)
    # Whoever has opened another product's tables has loaded what reads them; nobody else needs it.
    from eventferry.syncing.table_source import TableSource

    return TableSource(source)

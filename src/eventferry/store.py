"""The event store: a thin facade. Each of its operations has its own module."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import msgspec

from eventferry import cursor as vector
from eventferry import secrets
from eventferry.clock import now
from eventferry.database import EVERYTHING, Database, Filter, Inspection, Save, Selection, Undo
from eventferry.errors import (
    AlreadyFrozenError,
    NotFrozenError,
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
from eventferry.lines.converting import versioned_row
from eventferry.lines.event import Event, EventInput, NewRow, decode_event, decode_events
from eventferry.lines.payload import LARGE, decode_payload, encode_payload, is_large, plain_text
from eventferry.operation_log import Operation, counts_of, told
from eventferry.reading import partition
from eventferry.reading.bookmarks import Bookmark
from eventferry.reading.exporting import AUTO, MANUAL, ExportStream, MaintenanceMode
from eventferry.reading.following import Follower, FollowStream
from eventferry.reading.pages import Pages
from eventferry.reading.partition import Partition
from eventferry.reading.questions import refuse_ahead
from eventferry.results import (
    Description,
    ImportProgress,
    OpenImportDescription,
    Page,
    SavedEvent,
    Subscriber,
)
from eventferry.save import Saving
from eventferry.secrets import GatheredSecrets, SecretsExport, SecretsImport, SecretsPage
from eventferry.state import figures, owners, small_tables, snapshots, subscribers

__all__ = ["EventLoader", "EventStore"]

_PAGE_BYTES = 64 * 1024 * 1024

_REMEMBERED = 16
"""For how many readers a store remembers where their last page ended."""


class EventLoader:
    """Loads one page after another, from a cursor on; created by `EventStore.get_event_loader`."""

    def __init__(self, store: EventStore, pages: Pages) -> None:
        self._store = store
        self._pages = pages
        self._closed = False

    @property
    def cursor(self) -> str:
        """The cursor after the loaded events."""
        return vector.encode(self._pages.unread)

    async def load_events(self, limit: int) -> Page:
        """The next events, at most `limit`. An empty page means that there are no more at the moment."""
        if self._closed:
            raise StoreClosedError("this event loader is closed")
        _check_count("limit", limit)
        return await self._store._page(self._pages, limit)

    async def close(self) -> None:
        """Close the loader. Calling it again does nothing."""
        self._closed = True


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
        self._checking = asyncio.Lock()
        self._undo_init: Undo | None = None
        self._read_up_to: dict[tuple[str | None, Filter], Pages] = {}

    @property
    def _database(self) -> Database:
        if self._open is None:
            raise StoreClosedError("the store is closed")
        if self._open.life.is_inherited:
            self._begin()
        return self._open

    async def __aenter__(self) -> EventStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        async with owners.writing(self._database, "exclusive", frozen="allow") as writing:
            marker = await writing.freeze()
            if marker is not None and marker.owner is None:
                raise AlreadyFrozenError("the store is already frozen")
            await owners.freeze(writing, None)

    @told("unfreeze")
    async def unfreeze(self) -> None:
        """Allow writes again. Raises NotFrozenError."""
        async with owners.writing(self._database, "exclusive", frozen="allow") as writing:
            marker = await writing.freeze()
            if marker is None:
                raise NotFrozenError("the store is not frozen")
            # reSolve may set or remove one at any time.
            while marker is not None and not await writing.change_freeze(marker, None):
                marker = await writing.freeze()

    async def describe(self, calculate_cursor: bool = False, estimate_counts: bool = False) -> Description:
        """Describe the store: counts, location, freeze, open import.

        Args:
            calculate_cursor: include the cursor after the last event.
            estimate_counts: let a server estimate the number of events instead of counting them.
        """
        async with self._database.reading() as reading:
            counts = await figures.counts(reading, estimated=estimate_counts)
            marker = await reading.freeze()
            left = await reading.stages("open")
            cursor = vector.encode(await reading.heads()) if calculate_cursor else None
        marker = await owners.living(self._database, marker)
        return Description(
            event_count=counts.event_count,
            secret_count=counts.secret_count,
            set_secret_count=counts.set_secret_count,
            deleted_secret_count=counts.deleted_secret_count,
            last_event_timestamp=counts.last_event_timestamp,
            is_frozen=marker is not None,
            resource_names=self._database.traits.resource_names,
            frozen_by=None if marker is None else "user" if marker.owner is None else "operation",
            frozen_since=None if marker is None else marker.since,
            open_import=OpenImportDescription(left[0].id, left[0].since) if left else None,
            cursor=cursor,
        )

    # events

    @told("save-event", logging.DEBUG)
    async def save_event(self, event: EventInput) -> SavedEvent:
        """Store one event durably. Concurrent calls share transactions.

        Args:
            event: with type, aggregateId and aggregateVersion; timestamp and payload are optional. The stored timestamp
                is the given one or now, whichever is higher.

        Raises:
            ConcurrentError: the aggregate already has an event with this version. Any other version is accepted.
            InputError: the event is not valid.
            StoreFrozenError, StoreBusyError, StoreNotFoundError: as their names say.
        """
        row, version = await self._checked(event)
        saved = await self._save(row, version)
        payload = await _decoded(row.payload)
        return SavedEvent(msgspec.structs.replace(saved.event, payload=payload), saved.cursor)

    @told("save-event", logging.DEBUG)
    async def _save_row(self, row: NewRow, version: int) -> SavedEvent:
        """The same for the service, which reads events as rows."""
        return await self._save(row, version)

    async def _save(self, row: NewRow, version: int) -> SavedEvent:
        """Save an event that is a row already. In the result, the payload is `msgspec.Raw`: the JSON text as stored."""
        row = row._replace(timestamp=max(now(), row.timestamp))
        saved = await self._saving.save(Save(row, version))
        stored = Event(
            thread_counter=saved.thread_counter,
            thread_id=saved.thread_id,
            type=row.type,
            timestamp=row.timestamp,
            aggregate_id=row.aggregate_id,
            aggregate_version=version,
            payload=msgspec.Raw(row.payload),
        )
        return SavedEvent(stored, vector.encode(saved.heads))

    async def _checked(self, event: EventInput) -> tuple[NewRow, int]:
        """The row and the version of an event. A large event is checked in a worker thread, so as not to block the
        event loop; later events wait for it, since events are stored in the order of the calls."""
        payload = event.get("payload") if isinstance(event, Mapping) else getattr(event, "payload", None)
        large = is_large(payload)
        if not large and not self._checking.locked():
            return versioned_row(event)
        async with self._checking:
            return await asyncio.to_thread(versioned_row, event) if large else versioned_row(event)

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

        Returns:
            The events, and the cursor after them. By cursor and by bookmark they come in the order of docs/order.md,
            by time in the order of their timestamps.

        Raises:
            CursorAheadError: the cursor or the bookmark has read more events than the store holds.
            StoreReplacedError: the events that the bookmark has read are not the store's any more.
        """
        _check_count("limit", limit)
        only = filter_of(event_types, aggregate_ids, start_time, finish_time)
        by_time = start_time is not None or finish_time is not None
        if [cursor is not msgspec.UNSET, since is not msgspec.UNSET, by_time].count(True) != 1:
            raise UsageError(
                "give one of a cursor (None is the start), a bookmark as since (None is the start), or start_time and "
                "finish_time"
            )
        if since is not msgspec.UNSET:
            return await self._page_since(since, only, limit)
        if cursor is msgspec.UNSET:
            return Page(await self._selected(only, limit), None)
        pages = self._pages_from(cursor, only)
        page = await self._page(pages, limit)
        self._remember(page, only, pages)
        return page

    def _pages_from(self, cursor: str | None, only: Filter) -> Pages:
        """Who reads on from the end of a page need not look for its beginning again."""
        return self._read_up_to.pop((cursor, only), None) or _pages(cursor, only)

    def _remember(self, page: Page, only: Filter, pages: Pages) -> None:
        self._read_up_to[page.cursor, only] = pages
        if len(self._read_up_to) > _REMEMBERED:
            del self._read_up_to[next(iter(self._read_up_to))]

    async def _page_since(self, since: str | None, only: Filter, limit: int) -> Page:
        async with self._database.reading() as reading:
            if since is None:
                bookmark = await Bookmark.at(reading, vector.decode(None))
            else:
                bookmark = await Bookmark.open(reading, since)
            pages = self._pages_from(vector.encode(bookmark.unread), only)
            pages.is_end = pages.is_barred
            found = await pages.page(reading, limit, _PAGE_BYTES)
            bookmark = await bookmark.moved(reading, found, pages.unread)
        page = Page(list(found.events), vector.encode(pages.unread), str(bookmark))
        self._remember(page, only, pages)
        return page

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
            limit: maximum number of events of a page. A page also ends at 768 KiB, after at least one event.
            idle: give a page without events after this many seconds in which none came, so that the caller can do
                something else. Without it the iterator waits for the next event.

        Raises:
            UsageError: during iteration: `since` is not a bookmark.
            CursorAheadError, StoreReplacedError: during iteration: what was read is not the store's history any more.
        """
        _check_count("limit", limit)
        if idle is not None and (isinstance(idle, bool) or not isinstance(idle, int | float) or idle < 0):
            raise UsageError(f"idle must be a number of seconds, not {idle!r}")
        follower = self._follower(since, event_types, aggregate_ids, limit, decode_events)
        return FollowStream(follower, idle)

    def _follower(
        self,
        since: str | None,
        event_types: Iterable[str] | None,
        aggregate_ids: Iterable[str] | None,
        limit: int,
        decode: Callable[[bytes], list[Event]] | None = None,
    ) -> Follower:
        """The same in lines, for the command and the service."""
        return Follower(self._database, since, filter_of(event_types, aggregate_ids), limit, decode)

    async def _selected(self, only: Filter, limit: int, *, backwards: bool = False) -> list[Event]:
        async with self._database.reading() as reading:
            if only.is_empty:
                return []
            found, _ = await reading.select(Selection(only=only), limit, _PAGE_BYTES, backwards=backwards)
        return [decode_event(line) for *_, line in found if line is not None]

    async def _page(self, pages: Pages, limit: int) -> Page:
        # What was the end at the last look need not be any more.
        pages.is_end = pages.is_barred
        async with self._database.reading() as reading:
            found = await pages.page(reading, limit, _PAGE_BYTES)
        return Page(list(found.events), vector.encode(pages.unread))

    async def get_event_loader(
        self,
        *,
        cursor: str | None,
        event_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
    ) -> EventLoader:
        """A loader that loads page after page and remembers its cursor."""
        await self._probe()
        return EventLoader(self, _pages(cursor, filter_of(event_types, aggregate_ids)))

    async def get_latest_event(
        self, event_types: Iterable[str] | None = None, aggregate_ids: Iterable[str] | None = None
    ) -> Event | None:
        """The matching event with the highest timestamp; None if no event matches."""
        found = await self._selected(filter_of(event_types, aggregate_ids), 1, backwards=True)
        return found[0] if found else None

    def get_next_cursor(self, cursor: str | None, events: Iterable[Event]) -> str:
        """The cursor after `events` have been read from `cursor` on."""
        return vector.after(cursor, events)

    async def get_cursor_until_event_types(self, cursor: str | None, event_types: Iterable[str]) -> str:
        """The cursor that lies, in each thread, before the first event of one of the types, or at the thread's end if
        there is none. Raises UsageError for an empty list.
        """
        wanted = _names("event_types", event_types)
        if not wanted:
            raise UsageError("event_types must name at least one type")
        unread = vector.decode(cursor)
        async with self._database.reading() as reading:
            heads = await reading.heads()
            await refuse_ahead(reading, unread, heads)
            matching = Selection(unread, only=Filter(event_types=wanted))
            first = {thread: counter for _, thread, counter in await reading.least_counters([], matching)}
        return vector.encode([first.get(thread, head) for thread, head in enumerate(heads)])

    # export and import

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

        Raises:
            CursorAheadError: during iteration: the cursor has read more events than the store holds.
            StoreReplacedError: during iteration: the events were replaced, or are not those that the bookmark has read.
        """
        if since is not None and cursor is not None:
            raise UsageError("give a cursor or a bookmark as since, but not both")
        _check_size("buffer_size", buffer_size)
        _check_size("limit", limit)
        _check_count("jobs", jobs)
        return ExportStream(
            self._database,
            cursor=cursor,
            maintenance_mode=_mode(maintenance_mode),
            buffer_size=buffer_size,
            limit=limit,
            only=filter_of(event_types, aggregate_ids, start_time, finish_time),
            jobs=jobs,
            since=since,
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
        _check_count("n", n)
        return await partition.partitions(self._database, n, since, until)

    def read_partition(self, part: Partition) -> ExportStream:
        """Export the events of a partition. The output is always the same.

        Raises:
            StoreReplacedError: during iteration: the events were replaced since `partitions`.
        """
        if not isinstance(part, Partition):
            raise UsageError(f"a partition must be a result of partitions, not {type(part).__name__}")
        return ExportStream(
            self._database,
            cursor=part.since,
            maintenance_mode=MANUAL,
            buffer_size=None,
            limit=None,
            only=EVERYTHING,
            cut=(part.identity, vector.decode(part.until)),
        )

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

        Raises:
            UsageError: the options cannot be combined.
        """
        _check_size("byte_offset", byte_offset)
        _check_size("max_line_bytes", max_line_bytes)
        if _mode(maintenance_mode) is MANUAL:
            if freeze or resume or allow_empty or not replace:
                raise UsageError(
                    "freeze, resume, allow_empty and replace=False cannot be combined with MANUAL"
                )
            target: Appending | Replacement = Appending(self._database)
        else:
            target = Replacement(
                self._database, replace=replace, freeze=freeze, resume=resume, allow_empty=allow_empty
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

        Raises:
            OlderEventsError: some events are older, and `older` is "reject". Nothing was imported.
            InputError: an event is not valid. Nothing was imported.
        """
        _check_size("max_line_bytes", max_line_bytes)
        with Operation("incremental-import", self._database, dry_run=dry_run) as operation:
            report = await incremental.whole(
                self._database,
                events,
                older,
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
        _check_size("max_line_bytes", max_line_bytes)
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
            ids=None if ids is None else _names("ids", ids),
            include_deleted=include_deleted,
        )

    async def get_secret(self, id: str) -> str | None:
        """A secret; None if there is none or it was deleted."""
        async with self._database.reading() as reading:
            row = await secrets.get(reading, _text("id", id))
        return row.secret if row is not None else None

    @told("set-secret")
    async def set_secret(self, id: str, secret: str) -> None:
        """Add a secret, and an event RESOLVE_SET_SECRET. Raises SecretExistsError if the id was ever used."""
        await _set_secret(self._database, id, secret)

    @told("delete-secret")
    async def delete_secret(self, id: str) -> bool:
        """Delete a secret, and add an event RESOLVE_DELETE_SECRET. Returns False, and adds no event, if there is none.

        Raises:
            SecretNotErasedError: it is deleted, but the database's journal may still contain a copy.
        """
        return await _delete_secret(self._database, _text("id", id))

    def export_secrets(self, idx: int | None = None, tombstones: bool = False) -> SecretsExport:
        """Export secrets as JSON Lines: an async iterator of blocks. Deleted secrets are included with `tombstones`."""
        return SecretsExport(self._database, idx=idx, tombstones=tombstones)

    def import_secrets(self, maintenance_mode: MaintenanceMode = AUTO) -> SecretsImport:
        """Import secrets from JSON Lines: a sink for blocks. Equal rows are skipped, and deleted secrets stay deleted.

        Args:
            maintenance_mode: MANUAL also works on a frozen store, as for events.
        """
        return SecretsImport(
            self._database, frozen="allow" if _mode(maintenance_mode) is MANUAL else "refuse"
        )

    async def gather_secrets_from_events(self, events: Iterable[EventInput]) -> GatheredSecrets:
        """The current rows of the secrets that these events set, and the ids of the secrets that they deleted."""
        return await secrets.gather(self._database, events)

    # snapshots and subscribers

    async def load_snapshot(self, key: str) -> str | None:
        """The snapshot under a key; None if there is none."""
        async with self._database.reading() as reading:
            return await snapshots.load(reading, _text("key", key))

    @told("save-snapshot", logging.DEBUG)
    async def save_snapshot(self, key: str, content: str) -> None:
        """Store a snapshot. With `snapshot_bucket_size` n, only every nth call for a key stores it."""
        key, content = _text("key", key), _text("content", content)
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
            await snapshots.drop(writing, _text("key", key))

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
        application_name = _text("application_name", application_name)
        event_subscriber = _text("event_subscriber", event_subscriber)
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
                _text("application_name", application_name),
                _text("event_subscriber", event_subscriber),
            )

    async def get_event_subscribers(
        self, application_name: str | None = None, event_subscriber: str | None = None
    ) -> list[Subscriber]:
        """The matching rows of the registry; all without arguments."""
        async with self._database.reading() as reading:
            return await subscribers.load(
                reading,
                None if application_name is None else _text("application_name", application_name),
                None if event_subscriber is None else _text("event_subscriber", event_subscriber),
            )

    async def _inspect(self, limit: int) -> Inspection:
        """What is wrong with counters and indexes, for `check`."""
        async with self._database.reading() as reading:
            return await reading.inspect(limit)

    async def _probe(self) -> None:
        async with self._database.reading():
            pass


# `secret` is a parameter's name in the methods above.
_set_secret = secrets.set_secret
_delete_secret = secrets.delete_secret


async def _decoded(payload: bytes) -> Any:
    if len(payload) < LARGE:
        return decode_payload(payload)
    return await asyncio.to_thread(decode_payload, payload)


def _check_count(name: str, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UsageError(f"{name} must be an integer of at least 1, not {count!r}")


def _check_size(name: str, size: int | None) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise UsageError(f"{name} must be an integer of at least 0, not {size!r}")


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} must be a string, not {type(value).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{name} contains a lone surrogate, which is not a character")
    return plain_text(value)


def _names(name: str, values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise UsageError(f"{name} must be a list of strings, not a string")
    try:
        names = tuple(values)
    except TypeError:
        raise UsageError(f"{name} must be a list of strings, not {values!r}") from None
    return tuple(_text(f"each element of {name}", value) for value in names)


def _pages(cursor: str | None, only: Filter) -> Pages:
    return Pages(vector.decode(cursor), None, only, decode=decode_events)


def filter_of(
    event_types: Iterable[str] | None,
    aggregate_ids: Iterable[str] | None,
    start_time: int | None = None,
    finish_time: int | None = None,
) -> Filter:
    """The filter for the arguments of a call. Raises UsageError."""
    for name, moment in (("start_time", start_time), ("finish_time", finish_time)):
        if moment is not None and (isinstance(moment, bool) or not isinstance(moment, int)):
            raise UsageError(f"{name} must be an integer, in milliseconds since 1970, not {moment!r}")
    if start_time is not None and finish_time is not None and start_time > finish_time:
        raise UsageError("start_time is later than finish_time")
    return Filter(
        None if event_types is None else _names("event_types", event_types),
        None if aggregate_ids is None else _names("aggregate_ids", aggregate_ids),
        start_time,
        finish_time,
    )


def _mode(mode: MaintenanceMode) -> MaintenanceMode:
    if not isinstance(mode, MaintenanceMode):
        raise UsageError(f"maintenance_mode must be AUTO or MANUAL, not {mode!r}")
    return mode

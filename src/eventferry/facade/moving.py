"""Export, import, incremental import and sync."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Unpack

from eventferry import cursor as vector
from eventferry.changing import erasing
from eventferry.changing.bringing import Bringing
from eventferry.changing.changes import Changes
from eventferry.errors import UsageError
from eventferry.facade.opened import Opened
from eventferry.importing import incremental, replace
from eventferry.importing.incremental import EventSource
from eventferry.importing.manual import Appending
from eventferry.importing.merge import Older
from eventferry.importing.replace import Replacement
from eventferry.importing.stream import ImportStream
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES
from eventferry.operation_log import Operation, counts_of, place_of, told
from eventferry.reading import partition
from eventferry.reading.arguments import ArchivedAs, Filters, check_integer, check_mode, filter_of
from eventferry.reading.exporting import Export, ExportStream
from eventferry.reading.maintenance import AUTO, MANUAL, MaintenanceMode
from eventferry.reading.partition import Partition
from eventferry.results import ImportProgress, ImportReport
from eventferry.state.syncs import Mode
from eventferry.syncing.preview import SyncPreview
from eventferry.syncing.status import SyncStatus, status_of
from eventferry.syncing.store_source import StoreSource
from eventferry.syncing.sync import Sync, SyncReport

if TYPE_CHECKING:
    from eventferry.sources.source import ForeignSource
    from eventferry.store import EventStore
    from eventferry.syncing.source import SyncSource


class Moving(Opened):
    """What brings many events into a store, or out of it."""

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
        place = place_of(source._database) if isinstance(source, Opened) else source.place
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
        archived: ArchivedAs = "marker",
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
            archived: "skip" leaves out events whose payloads are in an archive; otherwise a marker stands for the
                payload.

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
            archived=archived,
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

    def read_partition(self, part: Partition, **filters: Unpack[Filters]) -> ExportStream:
        """Export the events of a partition. The output is always the same.

        Args:
            part: a result of `partitions`.
            filters: which of them.

        Raises:
            StoreReplacedError: during iteration: the events were replaced since `partitions`.
        """
        if not isinstance(part, Partition):
            raise UsageError(f"a partition must be a result of partitions, not {type(part).__name__}")
        only = filter_of(**filters)
        cut = part.identity, vector.decode(part.until)
        return ExportStream(Export(self._database, part.since, only=only, cut=cut))

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
    async def begin_incremental_import(self, *, repeatable: bool = False) -> str:
        """Begin an incremental import in steps; returns its id. Raises ImportOpenError if one is open.

        Args:
            repeatable: keep the report of a commit for 30 days, in a table beside the store's, so that a commit whose
                answer was lost can be repeated.
        """
        return await incremental.begin(self._database, repeatable=repeatable)

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
        """Merge the pushed events into the store, in one transaction. If the import is repeatable, committing again
        returns the same report.

        Raises:
            ImportNotFoundError: no import with this id is open, and none is known to be committed.
            Others: as `incremental_import` does.
        """
        return await incremental.commit(self._database, import_id, older)

    @told("incremental rollback")
    async def rollback_incremental_import(self, import_id: str | None = None) -> None:
        """Discard the open import. Does nothing if none is open.

        Args:
            import_id: discard only this one. Raises ImportNotFoundError if it is not open.
        """
        await incremental.roll_back(self._database, import_id)


def _source_of(source: EventStore | ForeignSource) -> SyncSource:
    if isinstance(source, Opened):
        return StoreSource(source._database)
    # Whoever has opened another product's tables has loaded what reads them; nobody else needs it.
    from eventferry.syncing.table_source import TableSource

    return TableSource(source)

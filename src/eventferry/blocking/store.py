"""The event store without await."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from eventferry import AUTO, MaintenanceMode
from eventferry.blocking.arguments import events_of, source_of
from eventferry.blocking.loop import LOOP
from eventferry.blocking.streams import (
    EventLoader,
    ExportStream,
    FollowStream,
    ForeignSource,
    ImportStream,
    SecretsExport,
    SecretsImport,
)
from eventferry.blocking.wrapping import Face, blocking, blocking_of, plain, wrapped
from eventferry.changing.changes import Changes
from eventferry.importing.merge import Older
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES
from eventferry.lines.event import EventInput
from eventferry.results import ImportReport
from eventferry.store import EventStore as AwaitedStore
from eventferry.syncing.status import SyncStatus


class EventStore(Face[AwaitedStore]):
    """An event store in a database; created by `open_store`. Use it with `with`, or call `close`."""

    def __enter__(self) -> Self:
        return self

    __exit__ = blocking(AwaitedStore.__aexit__)
    init = blocking(AwaitedStore.init)
    undo_init = blocking(AwaitedStore.undo_init)
    drop = blocking(AwaitedStore.drop)
    close = blocking(AwaitedStore.close)
    exists = blocking(AwaitedStore.exists)
    upgrade = blocking(AwaitedStore.upgrade)
    freeze = blocking(AwaitedStore.freeze)
    unfreeze = blocking(AwaitedStore.unfreeze)
    describe = blocking(AwaitedStore.describe)
    archives = blocking(AwaitedStore.archives)

    save_event = blocking(AwaitedStore.save_event)
    append_events = blocking(AwaitedStore.append_events)
    append_batches = blocking(AwaitedStore.append_batches)
    load_aggregate = blocking(AwaitedStore.load_aggregate)
    last_events = blocking(AwaitedStore.last_events)
    load_events = blocking(AwaitedStore.load_events)
    get_event_loader = wrapped(AwaitedStore.get_event_loader, lambda loader: EventLoader(LOOP.run(loader)))
    bookmark = blocking(AwaitedStore.bookmark)
    follow = wrapped(AwaitedStore.follow, FollowStream)
    get_latest_event = blocking(AwaitedStore.get_latest_event)
    get_next_cursor = plain(AwaitedStore.get_next_cursor)
    get_cursor_until_event_types = blocking(AwaitedStore.get_cursor_until_event_types)

    stats = blocking(AwaitedStore.stats)
    event_types = blocking(AwaitedStore.event_types)
    aggregates = blocking(AwaitedStore.aggregates)
    timeline = blocking(AwaitedStore.timeline)
    largest_events = blocking(AwaitedStore.largest_events)
    tail = blocking(AwaitedStore.tail)
    history = blocking(AwaitedStore.history)
    event_at = blocking(AwaitedStore.event_at)
    search = blocking(AwaitedStore.search)
    trace = blocking(AwaitedStore.trace)
    find_poison = blocking(AwaitedStore.find_poison)

    sync = blocking_of(AwaitedStore.sync)
    preview_sync = blocking_of(AwaitedStore.preview_sync)

    def sync_status(self, source: EventStore | ForeignSource | None = None) -> list[SyncStatus]:
        """As `eventferry.EventStore.sync_status`."""
        return LOOP.run(self.inner.sync_status(None if source is None else source.inner))

    export_events = wrapped(AwaitedStore.export_events, ExportStream)
    partitions = blocking(AwaitedStore.partitions)
    read_partition = wrapped(AwaitedStore.read_partition, ExportStream)

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
        """As `eventferry.EventStore.import_events`."""
        return ImportStream(
            self.inner.import_events(
                byte_offset,
                maintenance_mode,
                freeze=freeze,
                resume=resume,
                allow_empty=allow_empty,
                ignore_unknown_keys=ignore_unknown_keys,
                max_line_bytes=max_line_bytes,
                replace=replace,
                erased_from=None if erased_from is None else erased_from.inner,
            )
        )

    import_progress = blocking(AwaitedStore.import_progress)

    def incremental_import(
        self,
        events: Iterable[EventInput] | Iterable[bytes],
        older: Older = "skip",
        dry_run: bool = False,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        changes: Changes | None = None,
    ) -> ImportReport:
        """Add the events that the store lacks: dicts or `Event` objects, or an iterator of blocks of bytes."""
        return LOOP.run(
            self.inner.incremental_import(
                events_of(events), older, dry_run, ignore_unknown_keys, max_line_bytes, changes
            )
        )

    begin_incremental_import = blocking(AwaitedStore.begin_incremental_import)

    def push_incremental_import(
        self,
        events: Iterable[EventInput] | Iterable[bytes],
        import_id: str,
        part: str | None = None,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
    ) -> int:
        """Add events to the open import; returns their number."""
        return LOOP.run(
            self.inner.push_incremental_import(
                events_of(events), import_id, part, ignore_unknown_keys, max_line_bytes
            )
        )

    commit_incremental_import = blocking(AwaitedStore.commit_incremental_import)
    rollback_incremental_import = blocking(AwaitedStore.rollback_incremental_import)

    begin_import = blocking(AwaitedStore.begin_import)
    push_import = wrapped(AwaitedStore.push_import, LOOP.run, source_of)

    def commit_import(
        self, import_id: str, *, allow_empty: bool = False, erased_from: EventStore | None = None
    ) -> ImportReport:
        """As `eventferry.EventStore.commit_import`."""
        source = None if erased_from is None else erased_from.inner
        return LOOP.run(self.inner.commit_import(import_id, allow_empty=allow_empty, erased_from=source))

    rollback_import = blocking(AwaitedStore.rollback_import)

    load_secrets = blocking(AwaitedStore.load_secrets)
    get_secret = blocking(AwaitedStore.get_secret)
    set_secret = blocking(AwaitedStore.set_secret)
    delete_secret = blocking(AwaitedStore.delete_secret)
    erase = blocking(AwaitedStore.erase)
    erased = blocking(AwaitedStore.erased)
    bring_erasures = blocking_of(AwaitedStore.bring_erasures)
    export_secrets = wrapped(AwaitedStore.export_secrets, SecretsExport)
    import_secrets = wrapped(AwaitedStore.import_secrets, SecretsImport)
    gather_secrets_from_events = blocking(AwaitedStore.gather_secrets_from_events)

    load_snapshot = blocking(AwaitedStore.load_snapshot)
    save_snapshot = blocking(AwaitedStore.save_snapshot)
    drop_snapshot = blocking(AwaitedStore.drop_snapshot)
    ensure_event_subscriber = blocking(AwaitedStore.ensure_event_subscriber)
    remove_event_subscriber = blocking(AwaitedStore.remove_event_subscriber)
    get_event_subscribers = blocking(AwaitedStore.get_event_subscribers)

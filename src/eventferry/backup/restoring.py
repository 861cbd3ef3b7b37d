"""Restore: the lines of a backup, given to an ordinary import."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from eventferry import cursor as vector
from eventferry.backup.format import ArchiveMark, Erasures
from eventferry.backup.pushing import Processes, push
from eventferry.backup.reading import JOBS, Backup
from eventferry.changing.bringing import Bringing
from eventferry.changing.erased import Erased
from eventferry.clock import now
from eventferry.database import Database, Progress
from eventferry.errors import EventferryError, RepositoryDamagedError, RepositoryError
from eventferry.importing.stream import ImportStream
from eventferry.lines.piping import Transform, pipeline
from eventferry.operation_log import Operation
from eventferry.reading.bookmarks import decode
from eventferry.reading.questions import identity_of
from eventferry.state import archives, owners, syncs
from eventferry.state.archives import Archive, Chosen
from eventferry.state.erasures import Erasure
from eventferry.state.syncs import SyncState
from eventferry.store import EventStore
from eventferry.syncing.source import NO_IDENTITY


class RestoreReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a restore has done.

    Attributes:
        imported: events of the store now.
        secrets: secrets that came in; None if they were not asked for.
        chain: which chain was restored.
        manifest: the number of its manifest.
        created: when that was made, in ms since 1970.
        bookmark: of the store that was backed up, behind what was restored. None where filters or rules changed what
            came: then its bookmarks are not good in the restored store.
    """

    imported: int
    secrets: int | None
    chain: str
    manifest: int
    created: int
    bookmark: str | None


async def restore(
    backup: Backup,
    store: EventStore,
    *,
    stop: str | int | None = None,
    identities: Sequence[Any] = (),
    changes: Transform | None = None,
    tell: Transform | None = None,
    replace: bool = False,
    freeze: bool = False,
    resume: bool = False,
    allow_empty: bool = False,
    with_secrets: bool = False,
    without_erasures: bool = False,
    jobs: int = JOBS,
) -> RestoreReport:
    """Replace a store's events by those of a backup, all or nothing. A missing store is made.

    Args:
        backup: which state.
        store: where to.
        stop: only up to this bookmark of the store that was backed up; or of each thread the events before its first
            one that is later than this time, in ms since 1970.
        identities: keys of `packing.load_identities`, for parts that are encrypted.
        changes: filters and rules on the way.
        tell: a transform that only counts, for who shows the progress.
        replace: allow replacing events.
        freeze: freeze the store during the restore.
        resume: continue an interrupted restore of the same.
        allow_empty: allow a backup without events, which empties the store.
        with_secrets: the secrets too, as they were when they were last backed up, whichever state of the events it is.
        without_erasures: bring back what was erased since.
        jobs: how many parts are fetched at the same time.

    Raises:
        RepositoryError: the repository cannot be read, or holds no secrets.
        RepositoryDamagedError: an object is missing or damaged.
        UsageError, StoreReplacedError: the bookmark is not one of this backup.
        EventferryError: as an import raises them.
    """
    lines = backup.lines(stop=stop, identities=identities, jobs=jobs)
    database = store._database

    async def fill(erased: Erased) -> tuple[int, str | None]:
        steps = [step for step in (tell, erased or None, changes) if step is not None]
        # What was changed on its way has other names than the erasures say.
        known = erased.erasures if changes is None else ()

        async def note(events: int) -> None:
            if changes is None:
                await _note(database, backup, lines.bookmark, events)

        target = _Restoring(
            database, known, note, replace=replace, freeze=freeze, resume=resume, allow_empty=allow_empty
        )
        sink = ImportStream(target, Operation("restore", database), database.life)
        report = await pipeline(lines, *steps, sink)
        return report.imported, lines.bookmark if changes is None else None

    return await _filled(
        backup,
        store,
        fill,
        identities=identities,
        with_secrets=with_secrets,
        without_erasures=without_erasures,
    )


async def restore_by(
    processes: Processes,
    backup: Backup,
    store: EventStore,
    *,
    with_secrets: bool = False,
    without_erasures: bool = False,
) -> RestoreReport:
    """The same by several processes, who restore all of the backup, unchanged.

    Raises as `restore` does, and WorkerError where a process ends early.
    """

    async def fill(erased: Erased) -> tuple[int, str | None]:
        bookmark = backup.manifest.cut
        events = await push(backup, store._database, processes, erased)
        await _note(store._database, backup, bookmark, events)
        return events, bookmark

    return await _filled(
        backup,
        store,
        fill,
        identities=processes.identities,
        with_secrets=with_secrets,
        without_erasures=without_erasures,
    )


async def _filled(
    backup: Backup,
    store: EventStore,
    fill: Callable[[Erased], Awaitable[tuple[int, str | None]]],
    *,
    identities: Sequence[Any],
    with_secrets: bool,
    without_erasures: bool,
) -> RestoreReport:
    """A store that is filled with the events, given what was erased from them; which returns their number, and the
    bookmark behind them."""
    if with_secrets and not backup.has_secrets:
        raise RepositoryError(
            f"the chain {backup.chain.name} has no secrets: a backup has them only if it is asked to"
        )
    lists = [] if without_erasures else await _erasures(backup)
    deleted = [each for one in lists for each in one.deleted_secrets]
    if not await store.exists():
        await store.init()
    try:
        # Before the events: a conflict of secrets must not come out when the events have been replaced.
        secrets = None
        if with_secrets:
            found = await pipeline(backup.secrets(deleted, identities), store.import_secrets())
            secrets = found.imported
        imported, bookmark = await fill(_erased(lists))
    except EventferryError as error:
        await store._undo_init_for(error)
        raise
    return RestoreReport(
        imported=imported,
        secrets=secrets,
        chain=backup.chain.name,
        manifest=backup.manifest.number,
        created=backup.manifest.created,
        bookmark=bookmark,
    )


class _Restoring(Bringing):
    """The target of a restore, which also keeps whose history it is."""

    def __init__(
        self,
        database: Database,
        known: Sequence[Erasure],
        note: Callable[[int], Awaitable[None]],
        **options: bool,
    ) -> None:
        async def found() -> Sequence[Erasure]:
            return known

        super().__init__(database, found, **options)
        self._note = note

    async def _swapped(self, progress: Progress) -> None:
        await self._note(progress.events)
        await super()._swapped(progress)


async def erased_in(backup: Backup) -> Erased:
    """What was erased from the store since, or before. Raises RepositoryDamagedError."""
    return _erased(await _erasures(backup))


def _erased(lists: Sequence[Erasures]) -> Erased:
    return Erased(Erasure(each.at, each.what) for one in lists for each in one.erasures)


async def _erasures(backup: Backup) -> list[Erasures]:
    try:
        return await backup.erasures()
    except RepositoryDamagedError as error:
        raise RepositoryDamagedError(
            error.name,
            f"{error.reason}. It says what was erased since. Restore it from a copy; with without_erasures=True, what "
            "was erased comes back",
        ) from error


async def _note(database: Database, backup: Backup, bookmark: str, events: int) -> None:
    """Keep whose history it is: readers of the store that was backed up may go on here, as far as it goes."""
    if backup.chain.name == NO_IDENTITY:
        return
    marks = await backup.chain.archives()
    async with owners.writing(database, "exclusive", frozen="allow") as writing:
        await syncs.make_table(writing)
    if marks:
        await archives.make_table(database)
    async with owners.writing(database, "exclusive", frozen="allow") as writing:
        state = SyncState(
            place=backup.manifest.source,
            identity=backup.chain.name,
            mode="replica",
            bookmark=bookmark,
            heads=vector.encode(decode(bookmark).unread),
            events=events,
            at=now(),
            target=identity_of(await writing.state()).hex(),
        )
        await syncs.note_restored(writing, state)
        for mark in marks:
            await archives.add(writing, _recalled(mark))


def _recalled(mark: ArchiveMark) -> Archive:
    """Nothing is archived here; but a reader may have read the marker of an event."""
    chosen = Chosen(
        until=mark.until,
        event_types=mark.event_types,
        aggregate_ids=mark.aggregate_ids,
        aggregate_prefixes=mark.aggregate_prefixes,
    )
    return Archive(id=mark.id, at=mark.created, events=0, repository="", chain=mark.chain, chosen=chosen)

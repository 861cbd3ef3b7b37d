"""A backup repository: a thin facade. Each of its operations has its own module."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Unpack

from eventferry import cursor
from eventferry.backup import checking, describing, drilling, keeping, partition, restoring
from eventferry.backup.chain import Chain
from eventferry.backup.checking import RepositoryReport
from eventferry.backup.cuts import selected
from eventferry.backup.describing import RepositoryStatus, Run
from eventferry.backup.drilling import DrillReport
from eventferry.backup.erased import note_between_runs
from eventferry.backup.keeping import PruneReport
from eventferry.backup.packing import load_identities
from eventferry.backup.partition import RepositoryPartition
from eventferry.backup.pushing import Processes
from eventferry.backup.reading import JOBS, Backup, chain_in
from eventferry.backup.restoring import RestoreReport
from eventferry.backup.storage import open_storage, whole_place
from eventferry.changing.erased import Erased
from eventferry.changing.selection import Selection
from eventferry.errors import CursorAheadError, UsageError
from eventferry.importing.jobs import Options
from eventferry.lifecycle import aclosing
from eventferry.lines.piping import Transform
from eventferry.reading.arguments import Filters, Kinds, check_integer, filter_of_kinds
from eventferry.reading.bookmarks import counters_of, decode
from eventferry.store import EventStore


class Repository:
    """A repository of backups, for all but making them; it holds nothing open.

    Args:
        place: a folder, or s3://bucket/path, gs://bucket/path or az://container/path.
        identities: files of secret keys of age or SSH, for parts that are encrypted.

    Raises:
        UsageError: the place or a file of keys is wrong.
        MissingExtraError: it needs `eventferry[backup]`.
    """

    def __init__(
        self, place: str | os.PathLike[str], identities: Iterable[str | os.PathLike[str]] = ()
    ) -> None:
        self._storage = open_storage(place)
        self._given = whole_place(place)
        self._identities = load_identities(identities)

    @property
    def place(self) -> str:
        """Where it is, without a password."""
        return self._storage.place

    async def runs(self, chain: str | None = None, limit: int | None = None) -> list[Run]:
        """The runs of each chain, in order.

        Args:
            chain: only of this chain.
            limit: the last ones of each chain.

        Raises:
            RepositoryError: there is no backup. RepositoryDamagedError: a manifest is damaged.
        """
        check_integer("limit", limit, 1, optional=True)
        return await describing.runs(self._storage, chain, limit)

    async def status(self, chain: str | None = None) -> RepositoryStatus:
        """The last run, and how old it is. Without a chain there must be those of one store only."""
        return await describing.status(self._storage, chain)

    async def head(self, chain: str | None = None) -> str:
        """The newest manifest and the SHA-256 of its bytes, in one word. Whoever keeps it elsewhere can tell later,
        with `check`, whether what was backed up by then is still there."""
        return checking.head_of(await self._chain(chain))

    async def check(self, read_data: float = 0.0, head: str | None = None) -> RepositoryReport:
        """Look for damage. Without `read_data` manifests are read, and parts only looked for. It needs no key; with
        one, encrypted parts that are read are unpacked too.

        Args:
            read_data: the share of the parts that are read, from 0 to 1; others each time.
            head: what `head` once returned: that state must be part of what is there now.

        Raises:
            UsageError: `head` is none.
            RepositoryError: the storage cannot be read, or there is no repository.
        """
        if not 0 <= read_data <= 1:
            raise UsageError(f"read_data is a share, from 0 to 1, not {read_data!r}")
        return await checking.check(
            self._storage, read_data=read_data, head=head, identities=self._identities
        )

    async def export_events(
        self,
        manifest: int | None = None,
        until: str | int | None = None,
        chain: str | None = None,
        jobs: int = JOBS,
        without_erasures: bool = False,
        **kinds: Unpack[Kinds],
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a backup: an async iterator of blocks, a source for `pipeline`, `verify` and `check`.

        Args:
            manifest: the state at the end of this run; None: of the last one.
            until: only what this bookmark has read; or of each thread the events before its first one that is later
                than this time, in ms since 1970.
            chain: of which store, where there are several.
            jobs: how many parts are fetched at the same time.
            without_erasures: as they were backed up, with what was erased from the store since.
            kinds: which events.
        """
        only = Selection.of_filter(filter_of_kinds(**kinds))
        backup = await self._backup(manifest, chain)
        erased = Erased(()) if without_erasures else await restoring.erased_in(backup)
        found = backup.lines(stop=until, identities=self._identities, jobs=jobs)
        async with aclosing(found if only.is_all else selected(only, found)) as lines:
            async for block in erased(lines) if erased else lines:
                yield block

    async def partitions(
        self,
        n: int,
        manifest: int | None = None,
        chain: str | None = None,
        without_erasures: bool = False,
    ) -> list[RepositoryPartition]:
        """Divide a backup into partitions of similar size, for parallel readers.

        Concatenated, they are `export_events` byte for byte. Any process that can open the repository can read each of
        them, as often as needed.

        Args:
            n: maximum number of partitions. There are at most as many as the backup has parts.
            manifest: the state at the end of this run; None: of the last one.
            chain: of which store, where there are several.
            without_erasures: as they were backed up, with what was erased from the store since.
        """
        check_integer("n", n, 1)
        backup = await self._backup(manifest, chain)
        erased = Erased(()) if without_erasures else await restoring.erased_in(backup)
        return partition.partitions(backup, n, erased)

    def read_partition(
        self, part: RepositoryPartition, **filters: Unpack[Filters]
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a partition: an async iterator of blocks. The output is always the same.

        Args:
            part: a result of `partitions`.
            filters: which of them.

        Raises:
            RepositoryDamagedError: during iteration: an object is missing or damaged; one that was joined with others
                since, and then removed, is missing too. Divide the backup again.
        """
        if not isinstance(part, RepositoryPartition):
            raise UsageError(f"a partition must be a result of partitions, not {type(part).__name__}")
        only = Selection.of(**filters)
        return partition.lines_of(self._storage, part, only, self._identities)

    async def restore(
        self,
        store: EventStore,
        *,
        manifest: int | None = None,
        until: str | int | None = None,
        chain: str | None = None,
        changes: Transform | None = None,
        replace: bool = False,
        freeze: bool = False,
        resume: bool = False,
        allow_empty: bool = False,
        with_secrets: bool = False,
        without_erasures: bool = False,
        jobs: int = JOBS,
        tell: Transform | None = None,
    ) -> RestoreReport:
        """Replace a store's events by those of a backup, all or nothing. A missing store is made.

        Args:
            store: where to.
            manifest: the state at the end of this run; None: of the last one.
            until: only what this bookmark of the store that was backed up has read; or of each thread the events before
                its first one that is later than this time, in ms since 1970.
            chain: of which store, where there are several.
            changes: filters and rules on the way (`Changes`).
            replace: allow replacing events.
            freeze: freeze the store during the restore.
            resume: continue an interrupted restore of the same state.
            allow_empty: allow a backup without events, which empties the store.
            with_secrets: the secrets too, as they were when they were last backed up, whichever state it is.
            without_erasures: bring back what was erased since.
            jobs: how many parts are fetched at the same time.
            tell: a transform that only counts, for who shows the progress.

        Raises:
            RepositoryError: the repository cannot be read, or holds no such state.
            RepositoryDamagedError: an object is missing or damaged.
            UsageError, StoreReplacedError: the bookmark is not one of this backup.
            EventferryError: as an import raises them.
        """
        return await restoring.restore(
            await self._backup(manifest, chain),
            store,
            stop=until,
            identities=self._identities,
            changes=changes,
            tell=tell,
            replace=replace,
            freeze=freeze,
            resume=resume,
            allow_empty=allow_empty,
            with_secrets=with_secrets,
            without_erasures=without_erasures,
            jobs=jobs,
        )

    async def _restore_by(
        self,
        url: str,
        store: EventStore,
        *,
        manifest: int | None,
        chain: str | None,
        jobs: int,
        replace: bool,
        freeze: bool,
        allow_empty: bool,
        with_secrets: bool,
        without_erasures: bool,
        tell: Callable[[int], None],
    ) -> RestoreReport:
        """The same for all of a state, unchanged, by so many processes, which find the store by its URL. `tell` is
        called with the bytes of lines so far."""
        options = Options(jobs, replace=replace, freeze=freeze, allow_empty=allow_empty)
        processes = Processes(url, self._given, self._identities, options, tell)
        return await restoring.restore_by(
            processes,
            await self._backup(manifest, chain),
            store,
            with_secrets=with_secrets,
            without_erasures=without_erasures,
        )

    async def drill(
        self,
        store: EventStore | None = None,
        *,
        manifest: int | None = None,
        chain: str | None = None,
        jobs: int = JOBS,
        tell: Transform | None = None,
    ) -> DrillReport:
        """Restore a backup, read it a second time, and compare both event by event.

        Args:
            store: where to restore it: a place without a store, and there is none afterwards. None: a temporary SQLite
                file.
            manifest: the state at the end of this run; None: of the last one.
            chain: of which store, where there are several.
            jobs: how many parts are fetched at the same time.
            tell: a transform that only counts, for who shows the progress.

        Raises:
            StoreExistsError: there is a store.
            RepositoryError and others: as `restore` does.
        """
        backup = await self._backup(manifest, chain)
        return await drilling.drill(backup, store, identities=self._identities, tell=tell, jobs=jobs)

    async def note_erasures(self, store: EventStore) -> int | None:
        """Note beside a store's chain what was erased from it, and which of its secrets were deleted: no restore brings
        that back. Each backup does it too; after `erase` and `delete_secret` this does it at once.

        Args:
            store: which was backed up here.

        Returns:
            The number of the newest list; None where nothing was erased.

        Raises:
            RepositoryError: there is no backup of the store, or the storage cannot be read or written.
            RepositoryDamagedError: the newest manifest or a list is damaged.
        """
        link = await note_between_runs(self._storage, store)
        return None if link is None else link.number

    async def prune(
        self,
        *,
        keep_replaced: int | None = None,
        keep_manifests: int | None = None,
        compact: bool = False,
        dry_run: bool = False,
    ) -> PruneReport:
        """Remove what is not needed any more, and join small parts. What was joined is removed by the next call, so
        that a restore which runs meanwhile finds its parts.

        Args:
            keep_replaced: remove chains of stores that were replaced longer ago than this, in ms. None removes none.
            keep_manifests: remove the manifests below one that lists all parts, once all of them are older than this,
                in ms. Their states can then be restored by a bookmark or a time only. None removes none.
            compact: join neighbours among small parts, and write parts anew that hold what was erased from the store.
                Encrypted ones need a key.
            dry_run: only say what would be done.

        Raises:
            RepositoryDamagedError: a chain is damaged. It is left as it is, and raised when the others are done.
            RepositoryError: the storage cannot be read or written, or holds no backup; or parts that should be joined
                are encrypted, and no key fits.
        """
        return await keeping.prune(
            self._storage,
            keep_replaced=keep_replaced,
            keep_manifests=keep_manifests,
            compact=compact,
            identities=self._identities,
            dry_run=dry_run,
        )

    async def _end_of(self, store: EventStore) -> tuple[str | None, str | None]:
        """What to compare a store with: its chain, and the bookmark at which the backup ends. None for the chain where
        there is none of this store, which may be a restored one. None for the bookmark where the store does not reach
        so far; then all of it is to be compared. What it has behind the bookmark is newer than the backup."""
        name = decode(await store.bookmark(None)).identity.hex()
        chain = name if any(run.chain == name for run in await self.runs(limit=1)) else None
        end = (await self.status(chain)).newest.bookmark
        try:
            await store.bookmark(cursor.encode(counters_of(end)))
        except CursorAheadError:
            return chain, None
        return chain, end

    async def _chain(self, chain: str | None) -> Chain:
        return await chain_in(self._storage, chain)

    async def _backup(self, manifest: int | None, chain: str | None) -> Backup:
        check_integer("manifest", manifest, 1, optional=True)
        return await Backup.open(self._storage, chain, manifest)

"""A backup: what is new in a store goes into its chain, and a manifest makes it count.

Nothing is locked. A run reads the newest manifest, stores the parts that follow, and creates the manifest of the next
number, which only one run can. Whoever comes second reads on from there: what it has stored is used all the same.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence, Set
from secrets import token_hex
from typing import TYPE_CHECKING

import msgspec

from eventferry.backup import format
from eventferry.backup.chain import Chain, Entry
from eventferry.backup.erased import note_erasures
from eventferry.backup.format import BackedUpSecrets, Link, Manifest, Part, Totals
from eventferry.backup.packing import Recipient, load_recipients
from eventferry.backup.parts import Made, PartMaker, Parts, put
from eventferry.backup.storage import Storage, open_storage, probe
from eventferry.clock import now
from eventferry.errors import (
    ArchiveError,
    BackupDivergedError,
    CursorAheadError,
    RepositoryDamagedError,
    StoreReplacedError,
    UsageError,
)
from eventferry.lifecycle import aclosing, end_tasks
from eventferry.operation_log import Operation, place_of
from eventferry.reading.arguments import check_integer
from eventferry.reading.bookmarks import Bookmark, decode
from eventferry.state import archives

if TYPE_CHECKING:
    from eventferry.store import EventStore


class BackupReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a backup has done.

    Attributes:
        repository: where it is, without a password.
        chain: the store's, in the repository.
        manifest: the number of the manifest that holds the state that was backed up.
        digest: the SHA-256 of that manifest. Whoever keeps it elsewhere can see later whether anything of this state or
            of what came before it was changed.
        events: events that are new in this manifest.
        parts: parts that are new in it.
        reused_parts: those of them that an interrupted run, or another run at the same time, had stored.
        plain_bytes: bytes of the new events as lines.
        stored_bytes: bytes of the new parts in the storage.
        total_events: events in the chain.
        total_stored_bytes: bytes of their parts in the storage.
        secrets: how many secrets were written, deleted ones among them; None if they were not asked for.
        erasures: the number of the newest list of erasures; None where nothing was erased.
        overtaken: how many manifests other runs have added meanwhile, which this one went on from.
        bookmark: of the store, behind the last event in the chain.
    """

    repository: str
    chain: str
    manifest: int
    digest: str
    events: int
    parts: int
    reused_parts: int
    plain_bytes: int
    stored_bytes: int
    total_events: int
    total_stored_bytes: int
    secrets: int | None
    erasures: int | None
    overtaken: int
    bookmark: str


async def back_up(
    store: EventStore,
    repository: str | os.PathLike[str],
    *,
    recipients: Iterable[str | os.PathLike[str]] = (),
    secrets: bool = False,
    single_writer: bool = False,
    jobs: int = 1,
) -> BackupReport:
    """Add to a repository what is new in a store. The first run adds all events; a later one costs what is new costs.

    It changes nothing in the store, and waits for no writer. A run that was killed leaves the repository as it was
    before, and the next one uses what it had finished. Several may run at the same time.

    Args:
        store: whose events are backed up.
        repository: a folder, or s3://bucket/path, gs://bucket/path or az://container/path. It is created where
            it is missing, and may hold the chains of many stores.
        recipients: encrypt to these public keys: of age, of SSH, or files of either. Once a chain is encrypted, every
            run needs some.
        secrets: write the store's secrets too, and remove those of the run before.
        single_writer: allow a storage that ignores conditions. The caller promises that only one backup runs.
        jobs: read the store with so many connections.

    Raises:
        UsageError: an argument is wrong, or the chain is encrypted and there is no recipient.
        UnsafeStorageError: the storage cannot create objects only where they are absent.
        ArchiveError: events that the chain does not hold are archived elsewhere.
        BackupDivergedError: the store was restored to an older state, or has another history than the chain.
        RepositoryDamagedError, RepositoryError: the repository cannot be read or written.
        StoreReplacedError: the events were replaced meanwhile. Run it again.
    """
    check_integer("jobs", jobs, 1)
    storage = open_storage(repository, single_writer=single_writer)
    run = _Run(store, storage, load_recipients(recipients), with_secrets=secrets, jobs=jobs)
    with Operation("backup", store._database, repository=storage.place) as operation:
        await probe(storage)
        report = await run.run()
        operation.counts = {"events": report.events, "manifest": report.manifest}
    return report


class _Run:
    """One backup; `cut` is how far the parts go that it has found or stored since the newest manifest."""

    def __init__(
        self,
        store: EventStore,
        storage: Storage,
        recipients: Sequence[Recipient],
        *,
        with_secrets: bool,
        jobs: int,
    ) -> None:
        self._store = store
        self._storage = storage
        self._recipients = recipients
        self._with_secrets = with_secrets
        self._jobs = jobs
        self._own: set[str] = set()  # files of parts that this run has stored
        self._keeping: tuple[asyncio.Task[Part], str] | None = None
        self._parts: list[Part] = []
        self._cut = ""
        self._secrets: int | None = None

    async def run(self) -> BackupReport:
        start = await self._store.bookmark(None)
        name = decode(start).identity.hex()
        kept = Parts(self._storage, name, self._recipients, self._holds)
        overtaken = 0
        while True:
            chain = await Chain.read(self._storage, name)
            self._refuse_open(chain)
            await self._gather(chain, kept, start)
            if overtaken and not self._parts and chain.newest is not None and not self._with_secrets:
                return self._report(chain.newest, overtaken)
            secrets, outdated = await self._write_secrets(chain)
            erasures = await note_erasures(chain, self._store)
            manifest = await self._manifest(chain, secrets, erasures)
            link = await chain.commit(manifest)
            if link is not None:
                for each in outdated:
                    await self._storage.delete(each)
                return self._report(Entry(manifest, link), overtaken)
            overtaken += 1

    def _refuse_open(self, chain: Chain) -> None:
        if chain.newest is not None and chain.newest.manifest.recipients and not self._recipients:
            raise UsageError(
                f"the chain {chain.name} in {self._storage.place} is encrypted, and what is new would not be: give a "
                "recipient"
            )

    async def _holds(self, bookmark: str) -> bool:
        async with self._store._database.reading() as reading:
            try:
                await Bookmark.open(reading, bookmark)
            except (CursorAheadError, StoreReplacedError, UsageError):
                return False
            return True

    async def _refuse_diverged(self, chain: Chain, newest: Entry) -> None:
        """Refuse a store that does not hold what its chain ends with."""
        async with self._store._database.reading() as reading:
            try:
                await Bookmark.open(reading, newest.manifest.cut)
            except (CursorAheadError, StoreReplacedError) as error:
                if isinstance(error, CursorAheadError) and error.is_standby:
                    raise
                raise BackupDivergedError(
                    f"the store is not a continuation of its chain {chain.name} in {self._storage.place}, which holds "
                    f"{newest.manifest.totals.events} events: it was restored to an older state, or grew apart since. "
                    "Nothing was backed up. Restore what the chain holds, or back up into another repository"
                ) from None

    # parts

    async def _gather(self, chain: Chain, kept: Parts, start: str) -> None:
        """Find or make the parts behind the newest manifest, up to the store's end as it is now."""
        self._parts, self._cut = [], start
        if chain.newest is not None:
            self._cut = chain.newest.manifest.cut
            await self._refuse_diverged(chain, chain.newest)
        while True:
            while (found := await kept.finished(self._key)) is not None:
                self._take(found)
            if await self._export(kept):
                return

    @property
    def _key(self) -> str:
        return format.key_of(decode(self._cut).unread)

    def _take(self, part: Part) -> None:
        if part.end is None:
            raise RepositoryDamagedError(part.file, "it does not say where it ends")
        self._parts.append(part)
        self._cut = part.end

    async def _export(self, kept: Parts) -> bool:
        """Make parts from the cut on; False where another run has kept one that ends elsewhere."""
        maker = PartMaker(f"parts/{self._key}", self._recipients)
        try:
            export = self._store.export_events(since=self._cut, jobs=self._jobs)
            async with aclosing(export) as stream:
                async for block in stream:
                    whole = block.rfind(b"\n") + 1
                    if maker.bytes + whole < format.PART_BYTES or not (maker.events or whole):
                        await maker.add(block)
                        continue
                    # The last event of a block is not whole before the next block; nor is it behind the cursor.
                    await maker.add(block[:whole])
                    end = await stream.bookmark()
                    if not await self._kept():
                        return False
                    self._keep(kept, maker, end)
                    maker = PartMaker(f"parts/{format.key_of(decode(end).unread)}", self._recipients)
                    await maker.add(block[whole:])
                if maker.events:
                    end = await stream.bookmark()
                    if not await self._kept():
                        return False
                    self._keep(kept, maker, end)
            return await self._kept()
        finally:
            await maker.close()
            await self._end_keeping()

    def _keep(self, kept: Parts, maker: PartMaker, end: str) -> None:
        """Store a part while the next one is made."""

        async def keep() -> Part:
            try:
                made = await maker.finish(end)
                self._own.add(made.part.file)
                await self._refuse_archived(maker.archives)
                return await kept.keep(made)
            finally:
                await maker.close()

        self._keeping = asyncio.create_task(keep()), end

    async def _refuse_archived(self, found: Set[str]) -> None:
        """Refuse to keep markers in the place of payloads. Looked for when the part has been read: what it has read was
        in the store's list before."""
        if not found:
            return
        async with self._store._database.reading() as reading:
            known = [archive for archive in await archives.load(reading) if archive.id in found]
        for archive in known:
            raise ArchiveError(
                f"events of the store are archived in the chain {archive.chain} of {archive.repository}, and this "
                "backup would hold their markers instead: back up into that repository, or recall the events first. If "
                "this is that repository, another backup has just come further: run this one again"
            )

    async def _kept(self) -> bool:
        """Wait until the part before is stored; whether the chain goes on where it ends."""
        if self._keeping is None:
            return True
        task, end = self._keeping
        part = await asyncio.shield(task)
        self._keeping = None
        self._take(part)
        return part.end == end

    async def _end_keeping(self) -> None:
        if self._keeping is not None:
            (task, _), self._keeping = self._keeping, None
            await end_tasks(task)  # without its error: another one has come first

    # the manifest

    async def _manifest(
        self, chain: Chain, secrets: BackedUpSecrets | None, erasures: Link | None
    ) -> Manifest:
        newest, created = chain.newest, now()
        number, root, totals, before, base = 1, 1, Totals(), list[Part](), None
        if newest is not None:
            number, root, totals = newest.link.number + 1, newest.manifest.root, newest.manifest.totals
            before, base = await chain.parts_since(newest, format.base_of(number, root))
            if base is None:
                name = format.manifest_name(chain.name, newest.link.number)
                raise RepositoryDamagedError(name, "it does not lead to the manifests that it is made after")
        return Manifest(
            chain=chain.name,
            number=number,
            previous=None if newest is None else newest.link,
            base=base,
            root=root,
            run=token_hex(8),
            tool=format.TOOL,
            created=created,
            begun=created if newest is None else newest.manifest.begun,
            source=place_of(self._store._database),
            cut=self._cut,
            parts=[*before, *self._parts],
            totals=totals.plus(self._parts),
            recipients=[recipient.text for recipient in self._recipients],
            secrets=secrets,
            erasures=erasures,
        )

    def _report(self, entry: Entry, overtaken: int) -> BackupReport:
        manifest = entry.manifest
        return BackupReport(
            repository=self._storage.place,
            chain=manifest.chain,
            manifest=manifest.number,
            digest=entry.link.sha256,
            events=sum(part.events for part in self._parts),
            parts=len(self._parts),
            reused_parts=sum(part.file not in self._own for part in self._parts),
            plain_bytes=sum(part.plain.bytes for part in self._parts),
            stored_bytes=sum(part.stored.bytes for part in self._parts),
            total_events=manifest.totals.events,
            total_stored_bytes=manifest.totals.stored_bytes,
            secrets=self._secrets,
            erasures=None if manifest.erasures is None else manifest.erasures.number,
            overtaken=overtaken,
            bookmark=manifest.cut,
        )

    # secrets

    async def _write_secrets(self, chain: Chain) -> tuple[BackedUpSecrets | None, list[str]]:
        """The secrets for the next manifest, and the objects of secrets to be removed when it is there: a secret that
        was deleted since must not be found in the repository. Without being asked for, those of the run before."""
        newest = chain.newest
        if not self._with_secrets:
            return None if newest is None else newest.manifest.secrets, []
        parts: list[Part] = []
        async for made in self._made_of_secrets():
            await put(self._storage, chain.name, made)
            parts.append(made.part)
        self._secrets = sum(part.events for part in parts)
        own = {format.part_name(chain.name, part) for part in parts}
        # Looked for before the manifest is there: what another run writes for a later one does not exist yet.
        there = await self._storage.listed(f"{chain.name}/secrets")
        number = 1 if newest is None else newest.link.number + 1
        return BackedUpSecrets(manifest=number, parts=parts), [
            each.name for each in there if each.name not in own
        ]

    async def _made_of_secrets(self) -> AsyncIterator[Made]:
        maker = PartMaker(f"secrets/{token_hex(16)}", self._recipients)
        try:
            async with aclosing(self._store.export_secrets(tombstones=True)) as stream:
                async for block in stream:
                    whole = block.rfind(b"\n") + 1
                    await maker.add(block[:whole])
                    if maker.bytes >= format.PART_BYTES:
                        yield await maker.finish(None)
                        maker = PartMaker(f"secrets/{token_hex(16)}", self._recipients)
                    await maker.add(block[whole:])
            if maker.events:
                yield await maker.finish(None)
        finally:
            await maker.close()

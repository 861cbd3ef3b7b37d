"""A repository of backups without await."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable

from eventferry.backup.drilling import DrillReport
from eventferry.backup.reading import JOBS
from eventferry.backup.repository import Repository as AwaitedRepository
from eventferry.blocking.loop import LOOP
from eventferry.blocking.store import EventStore
from eventferry.blocking.streams import BlockIterator
from eventferry.blocking.wrapping import Face, Shown, blocking, blocking_of, wrapped


class RepositoryExport(BlockIterator[AsyncGenerator[bytes, None]]):
    """An iterator of blocks of lines of a backup."""


class Repository(Face[AwaitedRepository]):
    """A repository of backups, with the methods of `eventferry.Repository` without await."""

    def __init__(
        self, place: str | os.PathLike[str], identities: Iterable[str | os.PathLike[str]] = ()
    ) -> None:
        super().__init__(AwaitedRepository(place, identities))

    place = Shown[str]()
    runs = blocking(AwaitedRepository.runs)
    status = blocking(AwaitedRepository.status)
    head = blocking(AwaitedRepository.head)
    check = blocking(AwaitedRepository.check)
    prune = blocking(AwaitedRepository.prune)
    export_events = wrapped(AwaitedRepository.export_events, RepositoryExport)
    partitions = blocking(AwaitedRepository.partitions)
    read_partition = wrapped(AwaitedRepository.read_partition, RepositoryExport)
    restore = blocking_of(AwaitedRepository.restore)
    note_erasures = blocking_of(AwaitedRepository.note_erasures)

    def drill(
        self,
        store: EventStore | None = None,
        *,
        manifest: int | None = None,
        chain: str | None = None,
        jobs: int = JOBS,
    ) -> DrillReport:
        """As `eventferry.Repository.drill`."""
        place = None if store is None else store.inner
        return LOOP.run(self.inner.drill(place, manifest=manifest, chain=chain, jobs=jobs))

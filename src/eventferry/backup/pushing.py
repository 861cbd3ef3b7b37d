"""A restore by several processes: each reads some of a backup's parts, and pushes them as one part of an import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eventferry.backup import format
from eventferry.backup.packing import Identities
from eventferry.backup.partition import RepositoryPartition, lines_of, partitions
from eventferry.backup.reading import Backup
from eventferry.backup.storage import open_storage
from eventferry.changing.erased import Erased
from eventferry.changing.selection import Selection
from eventferry.database import Database
from eventferry.errors import EventferryError, InputError, RepositoryDamagedError
from eventferry.importing.jobs import PARTS, JobsImport, Options, StoreAt
from eventferry.lines.piping import Source


@dataclass(frozen=True, slots=True)
class Processes:
    """What processes need to know to restore a backup.

    Attributes:
        url: of the store.
        place: of the repository, with a password if it has one.
        identities: keys, for parts that are encrypted.
        options: of the import.
        tell: called with the bytes of lines that have come so far.
    """

    url: str
    place: str
    identities: Identities
    options: Options
    tell: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class BackupPart:
    """A part that a worker reads from a repository."""

    place: str
    identities: Identities
    partition: RepositoryPartition
    byte_offset = 0

    @property
    def name(self) -> str:
        """The part's name."""
        return str(self.partition.number)

    async def lines(self, store_at: StoreAt) -> Source:
        """Its lines."""
        return lines_of(open_storage(self.place), self.partition, Selection.of(), self.identities)

    def placed(self, error: EventferryError) -> EventferryError:
        """The error of a push, with its place in the source."""
        if not isinstance(error, InputError) or error.line is None:
            return error
        files = [part.file for part in self.partition.parts]
        return InputError(
            f"{error.reason}; this is line {error.line} of what is restored from "
            f"{files[0] if len(files) == 1 else f'{files[0]} to {files[-1]}'}",
            field=error.field,
        )


async def push(backup: Backup, database: Database, processes: Processes, erased: Erased) -> int:
    """Replace a store's events by those of a backup, without what was erased, which is kept with them; returns how many
    there are.

    Raises as `JobsImport` does, and RepositoryDamagedError where the parts hold other events than the manifest says.
    """
    place, identities = processes.place, processes.identities
    async with JobsImport(database, processes.url, processes.options, "restore") as jobs:
        found = partitions(backup, PARTS * processes.options.jobs, erased)
        await jobs.push(
            [BackupPart(place, identities, each) for each in found], lambda _: processes.tell(jobs.bytes)
        )
        told = backup.manifest.totals.events
        if jobs.events != told:
            name = format.manifest_name(backup.chain.name, backup.manifest.number)
            raise RepositoryDamagedError(name, f"its parts hold {jobs.events:,} events, and it says {told:,}")
        return (await jobs.commit(erased.erasures)).imported

"""Recall: payloads come back from the repository in place of their markers, as far as nothing was erased since."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from eventferry.archiving.lines import Pair, chain_of, pairs, refuse_replaced, steps
from eventferry.backup import format
from eventferry.backup.chain import refuse_empty
from eventferry.backup.packing import load_identities
from eventferry.backup.reading import JOBS, Backup
from eventferry.backup.restoring import erased_in
from eventferry.backup.storage import Storage, open_storage
from eventferry.changing.erased import Erased
from eventferry.database import Database, Reading
from eventferry.errors import ArchiveError, UsageError
from eventferry.lifecycle import aclosing
from eventferry.lines.event import Row
from eventferry.lines.limits import check_limits
from eventferry.lines.marker import archive_of
from eventferry.operation_log import Operation
from eventferry.reading.arguments import check_integer
from eventferry.state import archives, erasures, owners
from eventferry.state.archives import Archive, Archived

if TYPE_CHECKING:
    from eventferry.store import EventStore


class RecallReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a recall has done.

    Attributes:
        events: events that have their payloads again.
        archives: the ids of the archives that hold nothing of the store any more.
    """

    events: int
    archives: list[str]


async def recall(
    store: EventStore,
    repository: str | os.PathLike[str],
    *,
    archive_ids: Iterable[str] | None = None,
    identities: Iterable[str | os.PathLike[str]] = (),
    jobs: int = JOBS,
) -> RecallReport:
    """Bring back the payloads of archived events, each in its place.

    What was erased from the store since, or is on a list of the repository, is erased from them on their way. Saves
    wait for one step of a few hundred events at a time. An interrupted call is continued by the next one.

    Args:
        store: whose events were archived.
        repository: where they were archived, wherever it stands now.
        archive_ids: only what is in these archives; None: all.
        identities: files of secret keys of age or SSH, for encrypted parts.
        jobs: how many parts are fetched at the same time.

    Raises:
        UsageError: an argument is wrong, or the store knows no such archive.
        ArchiveError: an event is not in the repository, or another one is. What was found before is back.
        StoreFrozenError: the store is frozen.
        RepositoryError, RepositoryDamagedError: the repository cannot be read.
    """
    check_integer("jobs", jobs, 1)
    database = store._database
    chain = await chain_of(database)
    storage = open_storage(repository)
    await refuse_empty(storage)  # also where nothing is to be recalled: its place may be mistyped
    async with database.reading() as reading:
        known = await archives.load(reading)
    if archive_ids is not None:
        chosen = set(archive_ids)
        if unknown := chosen - {archive.id for archive in known}:
            raise UsageError(f"the store knows no archive {', '.join(sorted(unknown))}")
        known = [archive for archive in known if archive.id in chosen]
    wanted = [archive for archive in known if archive.events and archive.chain == chain]
    with Operation("archive recall", database, repository=storage.place) as operation:
        run = _Recalling(database, storage, chain, wanted)
        if wanted:
            backup = await Backup.open(storage, chain)
            run.erased_there = await erased_in(backup)
            lines = backup.lines(identities=load_identities(identities), jobs=jobs)
            async with aclosing(steps(lines, Archived(wanted).concerns)) as found:
                async for rows in found:
                    await run.take(rows)
        report = RecallReport(events=run.events, archives=await run.finish(known))
        operation.counts = {"events": report.events}
    return report


class _Recalling:
    """What was brought back so far.

    Attributes:
        erased_there: what the repository knows to be erased.
        events: how many have their payloads again.
    """

    def __init__(self, database: Database, storage: Storage, chain: str, wanted: Sequence[Archive]) -> None:
        self._database = database
        self._storage = storage
        self._chain = chain
        self._ids = {archive.id for archive in wanted}
        self.erased_there = Erased(())
        self.events = 0

    async def take(self, rows: Sequence[Row]) -> None:
        """One step."""
        async with self._database.reading() as reading:
            found = await self._archived(reading, rows)
        if not found:
            return
        async with owners.writing(self._database, "exclusive") as writing:
            await refuse_replaced(writing, self._chain)
            found = await self._archived(writing, [pair.backed_up for pair in found])
            if not found:
                return
            erased = Erased((*self.erased_there.erasures, *await erasures.load(writing)))
            before = erased.rows([self._checked(pair) for pair in found])
            limits = await writing.limits()
            for row in before:
                check_limits(limits, row.aggregate_id, row.type, row.payload)
            await writing.rewrite(before)
            for archive_id, count in Counter(archive_of(pair.stored.payload) or "" for pair in found).items():
                if not await archives.change(writing, archive_id, -count):
                    raise ArchiveError(
                        f"the store has lost what it knew of the archive {archive_id}: nothing was recalled"
                    )
        self.events += len(found)

    async def _archived(self, reading: Reading, rows: Sequence[Row]) -> list[Pair]:
        """The events whose payloads are in an archive that is meant."""
        return [pair for pair in await pairs(reading, rows) if archive_of(pair.stored.payload) in self._ids]

    def _checked(self, pair: Pair) -> Row:
        if not pair.is_same_event or archive_of(pair.backed_up.payload) is not None:
            thread, counter = pair.stored[:2]
            raise ArchiveError(
                f"{self._storage.place} does not hold the event at counter {counter} of thread {thread} that was "
                "archived, but another one: nothing of this step was recalled. Look for damage: eventferry backup "
                "check REPO --read-data all"
            )
        return pair.backed_up

    async def finish(self, known: Sequence[Archive]) -> list[str]:
        """The repository need not keep what nobody relies on; the archives of these that were closed, by their ids.
        Raises ArchiveError where the repository did not hold all."""
        async with self._database.reading() as reading:
            now = {archive.id: archive for archive in await archives.load(reading)}
        left = sum(now[name].events for name in self._ids)
        if left:
            raise ArchiveError(
                f"{left} payloads are not in the chain {self._chain} of {self._storage.place}, or were archived during "
                "the recall: they were left as they are. Recall again, from the repository that holds them"
            )
        # Of events that were replaced since no marker is left.
        replaced = [each.id for each in known if each.events and each.chain != self._chain]
        if replaced:
            async with owners.writing(self._database, "exclusive") as writing:
                await refuse_replaced(writing, self._chain)
                for archive_id in replaced:
                    await archives.forget(writing, archive_id)
        # Also those of a call that was killed behind its last step; but not what only a restore has noted, which is the
        # archive of the store that was backed up.
        for each in known:
            if each.repository and (not now[each.id].events or each.id in replaced):
                await self._storage.delete(format.archive_name(each.chain, each.id))
        return sorted((*self._ids, *replaced))

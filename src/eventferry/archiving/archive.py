"""Archive: payloads of cold events are replaced by a marker, once the repository has been seen to hold them.

Nothing leaves the store on trust. Each event is read back from the repository, whose parts are compared with their
checksums, and compared with the store in the transaction that rewrites it. So whatever ends an archive at any moment
leaves each event whole, in the store or in the repository; and the next one goes on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import TYPE_CHECKING

import msgspec

from eventferry.archiving.lines import Pair, chain_of, pairs, refuse_replaced, steps
from eventferry.backup import format
from eventferry.backup.packing import load_identities
from eventferry.backup.reading import JOBS, Backup
from eventferry.backup.run import back_up
from eventferry.backup.storage import Storage, open_storage, whole_place
from eventferry.changing.erased import Erased
from eventferry.changing.selection import Selection
from eventferry.clock import now
from eventferry.comparing.canonical import is_equal
from eventferry.database import Database, Reading, Writing
from eventferry.errors import ArchiveError, RepositoryError
from eventferry.lifecycle import aclosing
from eventferry.lines.event import Row
from eventferry.lines.marker import ID_LENGTH, LENGTH, archive_of, marker_of
from eventferry.operation_log import Operation
from eventferry.reading.arguments import check_integer
from eventferry.secrets import DELETE_SECRET, SET_SECRET
from eventferry.state import archives, erasures, owners
from eventferry.state.archives import Archive, Chosen
from eventferry.state.figures import latest_timestamp
from eventferry.state.small_tables import text_of

if TYPE_CHECKING:
    from eventferry.store import EventStore

_IDS = 500
"""Aggregates of one question."""


class ArchiveReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What an archive has done.

    Attributes:
        archive: its id, which stands in the markers; None where there was nothing to do.
        repository: where the payloads are, without a password.
        chain: of the store in the repository.
        events: events whose payloads left the store. In a dry run: would.
        bytes: by how much their payloads have become shorter.
        types: how many events there are of each type.
        archived_before: chosen events that were in an archive already.
        open: chosen events that stay, since their aggregates have a later event.
        kept: chosen events that stay for another reason: no payload that is longer than a marker, a secret, or the
            timestamp of the store's last event.
    """

    archive: str | None
    repository: str
    chain: str
    events: int
    bytes: int
    types: dict[str, int]
    archived_before: int
    open: int
    kept: int


async def archive(
    store: EventStore,
    repository: str | os.PathLike[str],
    *,
    until: int,
    event_types: Iterable[str] | None = None,
    aggregate_ids: Iterable[str] | None = None,
    aggregate_prefixes: Iterable[str] | None = None,
    recipients: Iterable[str | os.PathLike[str]] = (),
    identities: Iterable[str | os.PathLike[str]] = (),
    jobs: int = JOBS,
    dry_run: bool = False,
) -> ArchiveReport:
    """Move the payloads of cold events into the store's chain of a backup repository, and leave markers.

    What is new is backed up first. Then each chosen event of a closed aggregate is read back from the repository,
    compared, and its payload replaced. An aggregate is closed if its last event has a timestamp of at most `until`.
    Positions, versions, timestamps, types and the order stay. Saves wait for one step of a few hundred events at a
    time. An interrupted call is continued by the next one.

    Args:
        store: whose events are archived.
        repository: as for `back_up`. It is from then on a part of the store: keep it as safe as the database.
        until: only events with a timestamp up to this one, in ms since 1970.
        event_types: only events of these types.
        aggregate_ids: only events of these aggregates, or of those of `aggregate_prefixes`.
        aggregate_prefixes: only events of aggregates whose ids begin with one of these.
        recipients: as for `back_up`.
        identities: files of secret keys of age or SSH, to read back encrypted parts.
        jobs: how many parts are fetched at the same time.
        dry_run: back up nothing and change nothing; tell what would be archived of what the repository holds.

    Raises:
        UsageError: an argument is wrong.
        UnsupportedStoreError: reSolve made the tables, so that the store has no identity.
        ArchiveError: an event of the store is another than that of the repository, or all was recalled meanwhile.
            Steps before are done; nothing is lost.
        StoreFrozenError: the store is frozen.
        RepositoryError, RepositoryDamagedError, BackupDivergedError: as `back_up` and a restore raise them.
    """
    check_integer("jobs", jobs, 1)
    check_integer("until", until, -(2**53))
    only = Selection.of(
        event_types=event_types,
        aggregate_ids=aggregate_ids,
        aggregate_prefixes=aggregate_prefixes,
        finish_time=until,
    )
    database = store._database
    chain = await chain_of(database)
    storage = open_storage(repository)
    planned = Archive(
        id=token_hex(ID_LENGTH // 2),
        at=now(),
        events=0,
        repository=whole_place(storage.place),  # whoever looks it up stands elsewhere
        chain=chain,
        chosen=Chosen(
            until=until,
            event_types=None if only.event_types is None else tuple(sorted(only.event_types)),
            aggregate_ids=None if only.aggregate_ids is None else tuple(sorted(only.aggregate_ids)),
            aggregate_prefixes=only.aggregate_prefixes,
        ),
    )
    archives.check(planned)
    with Operation("archive", database, repository=storage.place) as operation:
        if not dry_run:
            await back_up(store, repository, recipients=recipients)
        backup = await Backup.open(storage, chain)
        run = _Archiving(database, storage, planned, dry_run=dry_run)
        lines = backup.lines(identities=load_identities(identities), jobs=jobs)
        async with aclosing(steps(lines, only.takes)) as found:
            async for rows in found:
                await run.take(rows)
        report = run.report()
        operation.counts = {"events": report.events}
    return report


class _Archiving:
    """What was archived so far."""

    def __init__(self, database: Database, storage: Storage, planned: Archive, *, dry_run: bool) -> None:
        self._database = database
        self._storage = storage
        self._planned = planned
        self._dry_run = dry_run
        self._marker = marker_of(planned.id)
        self._has_begun = False
        self._counts: Counter[str] = Counter()
        self._types: Counter[str] = Counter()

    def report(self) -> ArchiveReport:
        return ArchiveReport(
            archive=self._planned.id if self._has_begun else None,
            repository=self._planned.repository,
            chain=self._planned.chain,
            events=self._counts["events"],
            bytes=self._counts["bytes"],
            types=dict(sorted(self._types.items())),
            archived_before=self._counts["archived before"],
            open=self._counts["open"],
            kept=self._counts["kept"],
        )

    async def take(self, rows: Sequence[Row]) -> None:
        """One step. What can be archived is found without being in anybody's way, and looked for once more in the
        transaction that does it."""
        async with self._database.reading() as reading:
            found = await self._ready(reading, rows, self._counts)
        if found and not self._dry_run:
            if not self._has_begun:
                await self._begin()
            async with owners.writing(self._database, "exclusive") as writing:
                await refuse_replaced(writing, self._planned.chain)
                found = await self._ready(writing, found, Counter())
                if found:
                    await writing.rewrite([row._replace(payload=self._marker) for row in found])
                    await self._note(writing, len(found))
        if found:
            self._has_begun = not self._dry_run
            self._counts["events"] += len(found)
            self._counts["bytes"] += sum(len(row.payload) - LENGTH for row in found)
            self._types.update(row.type for row in found)

    async def _begin(self) -> None:
        """First of all the repository knows that it must keep the chain."""
        chosen = self._planned.chosen
        mark = format.ArchiveMark(
            chain=self._planned.chain,
            id=self._planned.id,
            created=self._planned.at,
            until=chosen.until,
            event_types=chosen.event_types,
            aggregate_ids=chosen.aggregate_ids,
            aggregate_prefixes=chosen.aggregate_prefixes,
        )
        name, data = format.archive_name(mark.chain, mark.id), format.seal(mark)
        # A request that was repeated after a lost answer finds what it has created itself.
        if not await self._storage.put_new(name, data) and await self._storage.get(name) != data:
            raise RepositoryError(
                "two archives have got the same random id, which should not happen: try again"
            )
        await archives.make_table(self._database)

    async def _note(self, writing: Writing, count: int) -> None:
        if not self._has_begun:
            await archives.add(writing, msgspec.structs.replace(self._planned, events=count))
        elif not await archives.change(writing, self._planned.id, count):
            raise ArchiveError(
                "what was archived so far has been recalled meanwhile, so this step was not done: archive again if it "
                "should be"
            )

    async def _ready(self, reading: Reading, rows: Sequence[Row], counts: Counter[str]) -> list[Row]:
        """The events of the store that can be archived among these of the repository.

        Raises ArchiveError for one that the repository does not hold as the store does.
        """
        latest = await latest_timestamp(reading)
        erased = Erased(await erasures.load(reading))
        found: list[Pair] = []
        for pair in await pairs(reading, rows):
            stored = pair.stored
            if archive_of(stored.payload) is not None:
                counts["archived before"] += 1
            elif (
                len(stored.payload) <= LENGTH
                or stored.type in _NEVER
                # An incremental import takes events of the last timestamp, and knows by their payloads what is there.
                or latest is None
                or stored.timestamp >= latest
            ):
                counts["kept"] += 1
            else:
                found.append(pair)
        named = {pair.stored.aggregate_id for pair in found}
        still_open = await _open_among(reading, sorted(named), self._planned.chosen.until)
        closed = [pair for pair in found if pair.stored.aggregate_id not in still_open]
        counts["open"] += len(found) - len(closed)
        for pair in closed:
            if not _is_held(pair, erased):
                thread, counter = pair.stored[:2]
                raise ArchiveError(
                    f"the event at counter {counter} of thread {thread} is another one in the chain "
                    f"{self._planned.chain} of {self._planned.repository}: it was not archived, and nor was anything "
                    "behind it. Compare the two: eventferry verify REPO STORE"
                )
        return [pair.stored for pair in closed]


_NEVER = (SET_SECRET, DELETE_SECRET)
"""Types of events that are read whenever secrets are copied or backed up."""


def _is_held(pair: Pair, erased: Erased) -> bool:
    """Whether the repository holds what the store does, or what that was before something was erased from it."""
    if not pair.is_same_event:
        return False
    before, stored = pair.backed_up, pair.stored
    if is_equal(before.payload, stored.payload):
        return True
    [left] = erased.rows([before])
    return is_equal(left.payload, stored.payload)


async def _open_among(reading: Reading, ids: Sequence[str], until: int) -> set[str]:
    """Those of these aggregates whose last event is later."""
    dialect = reading.dialect
    table = dialect.table(dialect.tables.events)
    name, version, time = map(dialect.column, ("aggregateId", "aggregateVersion", "timestamp"))
    found: set[str] = set()
    for start in range(0, len(ids), _IDS):
        some = dialect.among("aggregateId", ids[start : start + _IDS])
        rows = await reading.ask(
            f"""SELECT e.{name} FROM {table} AS e JOIN (
              SELECT {name} AS own, max({version}) AS last FROM {table} WHERE {some.text} GROUP BY {name}
            ) AS ends ON e.{name} = ends.own AND e.{version} = ends.last WHERE e.{time} > %s""",
            (*some.values, until),
        )
        found |= {text_of(one) for (one,) in rows}
    return found

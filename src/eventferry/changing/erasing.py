"""Erasing: payloads of stored events are rewritten in place, in one transaction.

Positions, versions, order and numbers stay, and so does the store's identity. What was said to be erased is kept in the
store, and from then on applied to whatever enters it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from eventferry.changing.erased import Erased, ErasureSpec
from eventferry.changing.rules import Rules
from eventferry.changing.selection import Selection
from eventferry.clock import now
from eventferry.database import (
    FIRST,
    Database,
    ExclusiveWriting,
    HistoryRequest,
    Reading,
    ReadScope,
    Stage,
    Stretch,
    Writing,
)
from eventferry.errors import ImportOpenError
from eventferry.importing import steps
from eventferry.lifecycle import aclosing
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Row
from eventferry.lines.limits import check_limits
from eventferry.lines.marker import archive_of
from eventferry.reading.histories import version_of
from eventferry.state import erasures, leftovers, owners
from eventferry.state.erasures import Erasure
from eventferry.state.figures import latest_timestamp

_EVENTS = 500
_BYTES = 4 * 1024 * 1024
"""Events, and bytes of their lines, that are looked at in one go."""


class EraseReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What an erasure has done.

    Attributes:
        events: events that the selection and a rule are about.
        changed: events whose payloads were rewritten. In a dry run: would be.
        types: how many of them there are of each type.
        archived: events among them whose payloads are in an archive: they are erased when they are recalled.
        snapshots: snapshots that were removed, since they may hold what was erased.
        at: events with a timestamp up to this one are concerned, in ms since 1970.
        never_matched: rules that no event met, and pointers that found nothing.
    """

    events: int
    changed: int
    types: dict[str, int]
    archived: int = 0
    snapshots: int
    at: int
    never_matched: tuple[str, ...] = ()


async def erase(database: Database, rules: Rules, selection: Selection, *, dry_run: bool) -> EraseReport:
    """Erase what the rules say from the events of the selection, and from such events whenever they enter the store.

    Raises RulesError, ImportOpenError, NotErasedError and what a write transaction does.
    """
    what = ErasureSpec.of(rules, selection)
    if dry_run:
        async with database.reading() as reading:
            erasure = what.erasure(await _end(reading))
            looked = _Looking(Erased([erasure]))
            async for _ in looked.changed(reading):
                pass
            return looked.report(0)

    async def asked(writing: Reading) -> list[Erasure]:
        erasure = what.erasure(await _end(writing))
        # The clock may have been wrong, or the last event replaced: what was erased once stays so.
        known = [other.at for other in await erasures.load(writing) if other.id == erasure.id]
        return [msgspec.structs.replace(erasure, at=max([erasure.at, *known]))]

    return await _run(database, asked)


async def read(database: Database) -> list[Erasure]:
    """What was erased from a store, in the order in which it was."""
    async with database.reading() as reading:
        return await erasures.load(reading)


async def bring(found: Sequence[Erasure], target: Database) -> EraseReport | None:
    """Erase from a store what was erased elsewhere, as far as that was not done yet; None if there is nothing to do.

    Raises as `erase` does.
    """
    if not found:
        return None
    async with target.reading() as reading:
        if not missing(found, await erasures.load(reading)):
            return None

    async def asked(writing: Reading) -> list[Erasure]:
        return missing(found, await erasures.load(writing))

    return await _run(target, asked)


async def overwrite(database: Database) -> None:
    """Leave nothing in the database's files of events that were replaced, and may have held what is erased.

    Raises NotErasedError and what a write transaction does.
    """
    async with owners.writing(database, "exclusive", frozen="allow") as writing:
        await writing.rewrite([])


async def keep(writing: Writing, known: Sequence[Erasure]) -> None:
    """Keep what was erased elsewhere, in the transaction that brings its events."""
    for erasure in missing(known, await erasures.load(writing)):
        await erasures.save(writing, erasure)


def missing(wanted: Sequence[Erasure], known: Sequence[Erasure]) -> list[Erasure]:
    """The erasures that are not known, or only up to an earlier time."""
    latest = {erasure.id: erasure.at for erasure in known}
    return [erasure for erasure in wanted if erasure.at > latest.get(erasure.id, -(2**63))]


async def _end(reading: Reading) -> int:
    """Behind all events that there are, and all that can have been stored elsewhere until now."""
    latest = await latest_timestamp(reading)
    return now() if latest is None else max(now(), latest)


async def _run(database: Database, asked: Callable[[Reading], Awaitable[list[Erasure]]]) -> EraseReport:
    await leftovers.drop_dead_stages(database, "replace", "parts", "merge")
    await erasures.make_table(database)
    async with owners.writing(database, "exclusive") as writing:
        await refuse_open_import(writing)
        # Also where nothing changes: an import may have left something since the last time, or the call that erased it
        # have had to say that it could not do all.
        await writing.rewrite([])
        erased = Erased(await asked(writing))
        looked = _Looking(erased)
        async with aclosing(looked.changed(writing)) as blocks:
            async for rows in blocks:
                await writing.rewrite(rows)
        snapshots = await _drop_snapshots(writing) if looked.types or looked.archived else 0
        for erasure in erased.erasures:
            await erasures.save(writing, erasure)
    return looked.report(snapshots)


async def refuse_open_import(reading: Reading, *, but: Stage | None = None) -> None:
    """Refuse an erasure while an import in steps is open that does not know of it: any `but` the one that brings it.
    Raises ImportOpenError, or StoreBusyError for one that a running process drives."""
    for left in [*await reading.stages("open"), *await reading.stages("parts")]:
        if but is not None and left.id == but.id:
            continue
        if left.driver is not None:
            raise owners.running(left)
        raise ImportOpenError(
            f"{steps.told(left)}, and what it holds would bring back what is erased: commit {left.id} or roll it back "
            "first. Nothing was erased"
        )


async def _drop_snapshots(writing: ExclusiveWriting) -> int:
    """They may hold what was erased, and are made anew from the events."""
    dialect = writing.dialect
    return await writing.change(f"DELETE FROM {dialect.table(dialect.tables.snapshots)}")


class _Looking:
    """Finds the events whose payloads change.

    Attributes:
        types: how many there are of each type, so far.
        archived: how many may be in an archive.
    """

    def __init__(self, erased: Erased) -> None:
        self._erased = erased
        self._events = 0
        self._decoder = LineDecoder()
        self.types: Counter[str] = Counter()
        self.archived = 0

    def report(self, snapshots: int) -> EraseReport:
        return EraseReport(
            events=self._events,
            changed=self.types.total(),
            types=dict(sorted(self.types.items())),
            archived=self.archived,
            snapshots=snapshots,
            at=max((erasure.at for erasure in self._erased.erasures), default=0),
            never_matched=self._erased.never_matched,
        )

    async def changed(self, reading: Reading) -> AsyncGenerator[list[Row], None]:
        """The events whose payloads change, as they become. Raises InputError for one that the columns cannot hold."""
        limits = await reading.limits()
        aggregates = self._erased.aggregates
        found = self._of_all(reading) if aggregates is None else self._of_aggregates(reading, aggregates)
        async with aclosing(found) as blocks:
            async for lines in blocks:
                rows = [row for row in map(self._decoder.row, lines) if self._takes(row)]
                self._events += len(rows)
                self.archived += sum(archive_of(row.payload) is not None for row in rows)
                after = [new for old, new in zip(rows, self._erased.rows(rows), strict=True) if new != old]
                for row in after:
                    check_limits(limits, row.aggregate_id, row.type, row.payload)
                self.types.update(row.type for row in after)
                if after:
                    yield after

    def _takes(self, row: Row) -> bool:
        return self._erased.concerns(row.type, row.aggregate_id, row.timestamp)

    async def _of_aggregates(
        self, reading: Reading, aggregates: Sequence[str]
    ) -> AsyncGenerator[list[bytes], None]:
        """The lines of some aggregates, by the index on them."""
        for aggregate_id in aggregates:
            version = 1
            is_end = False
            while not is_end:
                history = HistoryRequest(aggregate_id, version, _EVENTS, _BYTES)
                lines, is_end = await reading.lines_of(history)
                yield lines
                version = version_of(lines[-1]) + 1 if lines else version

    async def _of_all(self, reading: Reading) -> AsyncGenerator[list[bytes], None]:
        """The lines of all events, as far as the database cannot tell which are meant."""
        bound, only = FIRST, self._erased.only
        while True:
            found: list[Stretch] = []
            await reading.read_on(bound, ReadScope(only=only), _EVENTS, _BYTES, 1, found.append)
            for stretch in found:
                yield stretch.tidied(stretch.printed).split(b"\n")[:-1]
            if found[-1].is_end:
                return
            bound = found[-1].behind

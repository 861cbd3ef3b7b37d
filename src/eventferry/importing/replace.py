"""An import that replaces: a stage takes the place of the events, all or nothing.

The events that are there stay readable, and can even be added to, until the swap; whoever added to them
meanwhile makes the swap refuse, so that nobody's event vanishes unseen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import NamedTuple

from eventferry import cursor as vector
from eventferry.changing.erased import Erased
from eventferry.database import (
    Clash,
    Database,
    ExclusiveWriting,
    Progress,
    Reading,
    Replacing,
    RowBatch,
    Stage,
    Writing,
)
from eventferry.errors import (
    EmptyInputError,
    EventferryError,
    InputError,
    StoreBusyError,
    StoreChangedError,
    StoreFullError,
    StoreNotFoundError,
)
from eventferry.importing.batch import BATCH_BYTES, Batches
from eventferry.lifecycle import to_the_end
from eventferry.lines.blocks import Lines
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import NumberedRow
from eventferry.lines.limits import ColumnLimits
from eventferry.results import ImportProgress
from eventferry.state import erasures, leftovers, owners
from eventferry.state.figures import latest_timestamp
from eventferry.state.small_tables import refuse_foreign_tables


async def progress(database: Database) -> ImportProgress | None:
    """The progress of an import that is running, or was interrupted and can be resumed; None if there is none."""
    async with owners.writing(database, frozen="allow") as writing:
        left = next(iter(await writing.stages("replace")), None)
        history = [] if left is None else await _history(writing, left)
    if left is None:
        return None
    is_running = left.owner is not None and await database.is_alive(left.owner)
    if not history and not is_running:
        return None
    done = history[-1] if history else Progress()
    return ImportProgress(imported=done.events, byte_offset=done.byte_offset, is_running=is_running)


class Staging(Batches[NumberedRow, Progress]):
    """Stores the rows of an import in its stage, as `left` leaves them."""

    def __init__(
        self,
        put: Callable[[RowBatch], Coroutine[None, None, None]],
        progress: Callable[[], Progress],
        batch_bytes: int,
        left: Callable[[Sequence[NumberedRow]], Sequence[NumberedRow]],
    ) -> None:
        super().__init__(put, progress, batch_bytes)
        self._left = left

    def rows(self, lines: Lines, decoder: LineDecoder) -> Sequence[NumberedRow]:
        return self._left(list(lines.rows(decoder)))

    async def end_block(self) -> None:
        """Nothing happens: batches are committed by their size."""


async def refuse_full(writing: ExclusiveWriting) -> None:
    """Refuse to replace events. Raises StoreFullError."""
    if await latest_timestamp(writing) is not None:
        raise StoreFullError(
            "the store already holds events: use replace=True to replace them, or an incremental import to add to them"
        )


async def refuse_empty(database: Database) -> None:
    """Refuse an import without events where it would replace some. Raises EmptyInputError."""
    async with database.reading() as reading:
        if any(await reading.heads()):
            raise EmptyInputError(
                "the input has no events, but the store does: use allow_empty=True to empty it"
            )


class _Owner(NamedTuple):
    """Who imports, and what it has staged."""

    id: str
    stage: Stage


class Replacement:
    """The target of an import with maintenance mode AUTO. Without `replace` the store must hold no events, from the
    beginning to the swap; `freeze` keeps writers out for the duration; `resume` goes on with the stage that an
    interrupted import left, if there is one; `allow_empty` lets no events replace some."""

    def __init__(
        self, database: Database, *, replace: bool, freeze: bool, resume: bool, allow_empty: bool
    ) -> None:
        self._database = database
        self._replace = replace
        self._freeze = freeze
        self._resume = resume
        self._allow_empty = allow_empty
        self._owner: _Owner | None = None
        self._erased = Erased(())

    async def begin(self) -> list[Progress]:
        owner = await self._database.own()
        try:
            async with owners.writing(self._database, "exclusive") as writing:
                await self._refuse_full(writing)  # before anything is touched
            await leftovers.drop_dead_stages(self._database, "parts")
            # Not alone: it may wait for the former owner's last step, and saves need not.
            async with owners.writing(self._database) as writing:
                stage, history = await self._take_over(writing, owner)
            async with owners.writing(self._database, "exclusive") as writing:
                await self._refuse_full(writing)
                self._erased = Erased(await erasures.load(writing))
                if stage is None:
                    for other in await writing.stages("replace"):  # begun since just now
                        raise owners.running(other)
                    stage = await writing.make_stage("replace", owner=owner, baseline=await state(writing))
                if self._freeze:
                    await owners.freeze(writing, owner)
        except BaseException as error:
            await to_the_end(self._give_up(owner, error))
            raise
        self._owner = _Owner(owner, stage)
        return history

    async def _give_up(self, owner: str, error: BaseException) -> None:
        """Undo what `begin` did before it failed. A commit may have happened even if it was cancelled."""
        try:
            if not isinstance(error, Exception):
                with contextlib.suppress(EventferryError):
                    async with owners.writing(self._database, "exclusive", frozen="allow") as writing:
                        for stage in await writing.stages("replace"):
                            if stage.owner == owner and not await _history(writing, stage):
                                await writing.drop_stage(stage)
                        await owners.thaw(writing, owner)
        finally:
            await self._database.release(owner)

    async def _refuse_full(self, writing: ExclusiveWriting) -> None:
        if not self._replace:
            await refuse_full(writing)

    async def _take_over(self, writing: Writing, owner: str) -> tuple[Stage | None, list[Progress]]:
        """Adopt the stage of an interrupted import, or remove it."""
        left = next(iter(await writing.stages("replace")), None)
        if left is None:
            return None, []
        await owners.refuse_living(self._database, left)
        is_current = _erased_in(left.baseline) in (None, erasures.digest_of(await erasures.load(writing)))
        if self._resume and is_current:
            # How far it came is known when its former owner cannot go on with it any more.
            adopted = await writing.adopt_stage(left, owner)
            if history := await _history(writing, adopted):
                return adopted, history
            left = adopted
        await writing.drop_stage(left)
        return None, []

    async def limits(self) -> ColumnLimits:
        async with self._database.reading() as reading:
            return await reading.limits(self._its_owner.stage)

    batch_bytes = BATCH_BYTES

    def intake(self, progress: Callable[[], Progress], done: Callable[[Progress], None]) -> Staging:
        async def put(batch: RowBatch) -> None:
            async with owners.writing(self._database, frozen="allow") as writing:
                await writing.stage_rows(self._its_owner.stage, batch)
            done(batch.progress)

        return Staging(put, progress, self.batch_bytes, lambda rows: self._erased.numbered_rows(rows))

    async def finish(self, progress: Progress) -> None:
        owner, stage = self._its_owner
        if progress.events == 0 and not self._allow_empty:
            await refuse_empty(self._database)
        if clash := await make_unique(self._database, stage):
            raise InputError(
                f"{clash.what} is already in line {clash.first_line}",
                line=clash.second_line,
                field=clash.field,
            )
        await put_in_place(self._database, stage, owner, self._refuse_full, self._swap)
        self._owner = None
        await to_the_end(self._database.release(owner))

    async def _swap(self, replacing: Replacing, stage: Stage) -> None:
        """Put the stage in the events' place."""
        await replacing.swap(stage)

    async def abort(self, *, keep: bool) -> None:
        if self._owner is None:
            return
        (owner, stage), self._owner = self._owner, None
        await to_the_end(owners.leave(self._database, owner, *([] if keep else [stage])))

    @property
    def _its_owner(self) -> _Owner:
        if self._owner is None:
            raise AssertionError("the import has not begun, or is over")
        return self._owner


_ERASED = " erased "


async def make_unique(database: Database, stage: Stage) -> Clash | None:
    """Make the unique indexes of a stage, or none of them; which lines clash."""
    with contextlib.suppress(_Clashing):
        async with owners.writing(database, frozen="allow") as writing:
            clash = await writing.make_indexes(stage, "unique")
            if clash is not None:
                raise _Clashing
    return clash


class _Clashing(Exception):  # noqa: N818 -- no error: it rolls the transaction back
    """Ends a transaction of which nothing is to be kept."""


async def put_in_place(
    database: Database,
    stage: Stage,
    owner: str,
    refuse: Callable[[Replacing], Coroutine[None, None, None]],
    swap: Callable[[Replacing, Stage], Coroutine[None, None, None]],
) -> None:
    """Put a stage that has its unique indexes in the events' place: `refuse` and all other checks of an import are
    repeated in the transaction in which `swap` does that."""
    async with owners.writing(database, frozen="allow") as writing:
        await writing.make_indexes(stage, "other")
    async with owners.writing(database, "replacing", owner=owner) as replacing:
        await refuse(replacing)
        await _refuse_changed(replacing, stage)
        await refuse_foreign_tables(replacing, database.life.name)
        await swap(replacing, stage)
        await owners.thaw(replacing, owner)


async def _refuse_changed(replacing: Replacing, stage: Stage) -> None:
    """Refuse a swap that would lose somebody's events, or bring back what was erased. Raises StoreChangedError."""
    # Read again: who fills a gap, which the heads don't show, takes it away.
    left = [one for one in await replacing.stages(stage.kind) if one.id == stage.id]
    baseline = left[0].baseline if left else stage.baseline
    now = await state(replacing)
    if baseline is not None and _erased_in(baseline) != _erased_in(now):
        raise StoreChangedError(
            "something was erased from the store during the import, which would have brought it back; nothing "
            "was replaced. Import again"
        )
    if baseline != now:
        raise StoreChangedError(
            "events were saved during the import; nothing was replaced. "
            "Import again, with freeze=True to keep writers out"
        )


async def state(reading: Reading) -> str:
    """The identity and the heads of a store, and what was erased from it: if they have not changed, a swap loses
    nobody's events, and brings back nothing."""
    erased = erasures.digest_of(await erasures.load(reading))
    told = f"{(await reading.state()).identity} {vector.encode(await reading.heads())}"
    return f"{told}{_ERASED}{erased}" if erased else told


def _erased_in(state: str | None) -> str | None:
    """The digest in such a state, empty where nothing was erased; None where there is no state."""
    return None if state is None else state.partition(_ERASED)[2]


async def _history(writing: Writing, stage: Stage) -> list[Progress]:
    """The progress that each commit of a stage recorded, in order."""
    dialect = writing.dialect
    columns = ", ".join(map(dialect.column, ("byteOffset", "line", "events", "digest")))
    try:
        rows = await writing.ask(
            f"""SELECT {columns} FROM {dialect.table(dialect.tables.progress_of(stage.owner or ""))}
            WHERE {dialect.column("byteOffset")} IS NOT NULL ORDER BY {columns}"""
        )
    except StoreNotFoundError:
        raise StoreBusyError(
            "this import was considered dead, and another has taken over or removed what it had staged; nothing was "
            "replaced"
        ) from None
    return [Progress(*row) for row in rows]

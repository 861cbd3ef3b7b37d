"""An import in parts: begin, push from as many processes and machines as there are, commit by one swap.

A push stages its rows in short transactions, as any import does, and counts from the one that notes its end in the
ledger. Whoever commits, or rolls back, first takes the stage over under a new name: behind that no push finds it any
more, and what the ledger says is final.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec

from eventferry.changing import erasing
from eventferry.changing.erased import Erased
from eventferry.database import Database, Progress, Reading, Replacing, RowBatch, Stage, Writing
from eventferry.errors import (
    EventferryError,
    ImportNotFoundError,
    InputError,
    PartMissingError,
    StoreBusyError,
    StoreNotFoundError,
    UsageError,
)
from eventferry.importing import ledger, steps
from eventferry.importing import replace as replacing_import
from eventferry.importing.batch import BATCH_BYTES
from eventferry.importing.replace import Staging
from eventferry.importing.stream import ImportStream
from eventferry.lifecycle import to_the_end
from eventferry.lines.blocks import Lines
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import NumberedRow
from eventferry.lines.limits import ColumnLimits
from eventferry.lines.piping import Source, pipeline
from eventferry.operation_log import Operation
from eventferry.reading import order
from eventferry.results import ImportReport
from eventferry.state import commits, erasures, leftovers, owners
from eventferry.state.erasures import Erasure

_LONGEST_NAME = 2000  # bytes of a part's name


class PartReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The result of `push_import`.

    Attributes:
        events: of the part.
        byte_offset: the length of the part, in bytes.
        is_repeated: whether the part had been pushed before with the same content.
    """

    events: int
    byte_offset: int
    is_repeated: bool


async def begin(database: Database, *, replace: bool, driver: str | None = None, freeze: bool = False) -> str:
    """Open an import in parts; returns its id. With a driver it is void when that dies; `freeze` needs one."""
    await leftovers.drop_dead_stages(database, "parts")
    await commits.make_table(database)
    async with owners.writing(database, "exclusive") as writing:
        if not replace:
            await replacing_import.refuse_full(writing)
        await steps.refuse_open(writing, "parts")
        stage = await writing.make_stage(
            "parts",
            owner=driver,
            baseline=await replacing_import.state(writing),
        )
        if freeze and driver is not None:
            await owners.freeze(writing, driver)
    return stage.id


async def push(
    database: Database,
    import_id: str,
    part: str,
    lines: Source,
    *,
    byte_offset: int = 0,
    ignore_unknown_keys: bool,
    max_line_bytes: int,
) -> PartReport:
    """Add a part to the open import, or replace what the part has brought before."""
    content = _Content()
    target = _PushTarget(database, import_id, _name(part), content)
    sink = ImportStream(
        target,
        Operation("parts push", database),
        database.life,
        byte_offset=byte_offset,
        max_line_bytes=max_line_bytes,
        ignore_unknown_keys=ignore_unknown_keys,
    )
    report = await pipeline(lines, content, sink)
    return PartReport(
        events=report.imported,
        byte_offset=report.byte_offset - byte_offset,
        is_repeated=target.is_repeated,
    )


def _name(part: str) -> bytes:
    order.part_key(part)  # refuses what is no name
    name = part.encode(errors="surrogateescape")
    if len(name) > _LONGEST_NAME:
        raise UsageError(f"the name of a part has at most {_LONGEST_NAME} bytes, not {len(name)}")
    return name


def _shown(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


class _Content:
    """A transform that takes the digest of what passes."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            self._sum.update(block)
            yield block

    @property
    def digest(self) -> bytes:
        return self._sum.digest()


class _PartStaging(Staging):
    """Stores the rows of a part, numbered from its step on."""

    def __init__(
        self,
        put: Callable[[RowBatch], Coroutine[None, None, None]],
        progress: Callable[[], Progress],
        left: Callable[[Sequence[NumberedRow]], Sequence[NumberedRow]],
        step: Callable[[], int],
    ) -> None:
        super().__init__(put, progress, BATCH_BYTES, left)
        self._step = step

    def rows(self, lines: Lines, decoder: LineDecoder) -> Sequence[NumberedRow]:
        if lines.line + lines.count > ledger.LINES:
            raise UsageError(f"a part has at most {ledger.LINES - 1:,} lines: make smaller parts")
        first = ledger.first_number(self._step())
        try:
            return super().rows(replace(lines, line=first + lines.line), decoder)
        except InputError as error:
            if error.line is None:
                raise
            raise InputError(
                error.reason, line=error.line - first, byte_offset=error.byte_offset, field=error.field
            ) from None


class _PushTarget:
    """The target of a push."""

    def __init__(self, database: Database, import_id: str, part: bytes, content: _Content) -> None:
        self._database = database
        self._id = import_id
        self._part = part
        self._content = content
        self._stage: Stage | None = None
        self._push = ledger.Entered(0, "")
        self._erased = Erased(())
        self.is_repeated = False

    async def begin(self) -> list[Progress]:
        async with self._while_open(), owners.writing(self._database, frozen="allow") as writing:
            stage = await steps.opened(writing, "parts", self._id)
            if stage.owner != stage.id:
                raise _sealed(self._id)
            self._erased = Erased(await erasures.load(writing))
            self._push = await ledger.enter(writing, stage, self._part)
        self._stage = stage
        return []

    async def limits(self) -> ColumnLimits:
        async with self._database.reading() as reading:
            return await reading.limits(self._its_stage)

    def intake(self, progress: Callable[[], Progress], done: Callable[[Progress], None]) -> _PartStaging:
        async def put(batch: RowBatch) -> None:
            async with self._step() as writing:
                await writing.stage_rows(self._its_stage, batch)
            done(batch.progress)

        # Both are known only when it has begun.
        return _PartStaging(
            put, progress, lambda rows: self._erased.numbered_rows(rows), lambda: self._push.step
        )

    async def finish(self, progress: Progress) -> None:
        digest = self._content.digest
        async with self._step() as writing:
            before = await ledger.of_part(writing, self._its_stage, self._part)
            await ledger.close(writing, self._its_stage, self._push, progress.events, digest)
        self.is_repeated = any(push.is_whole and push.digest == digest for push in before)

    async def abort(self, *, keep: bool) -> None:
        """What is staged does not count, and goes with the commit or the rollback."""

    @property
    def _its_stage(self) -> Stage:
        if self._stage is None:
            raise AssertionError("the push has not begun")
        return self._stage

    @asynccontextmanager
    async def _step(self) -> AsyncIterator[Writing]:
        """A transaction of a push that stands: a commit that was refused has dropped those that were under way."""
        async with self._while_open(), owners.writing(self._database, frozen="allow") as writing:
            if not await ledger.stands(writing, self._its_stage, self._push):
                raise StoreBusyError(
                    f"a commit of the import {self._id} was tried during this push, so nothing of it counts: push the "
                    f"part {_shown(self._part)!r} again"
                )
            yield writing

    @asynccontextmanager
    async def _while_open(self) -> AsyncIterator[None]:
        """Around a step of the push. If its tables are gone, the error says what has become of the import."""
        try:
            yield
        except (StoreBusyError, StoreNotFoundError):
            async with self._database.reading() as reading:
                if (await steps.opened(reading, "parts", self._id)).owner != self._id:
                    raise _sealed(self._id) from None
            raise


def _sealed(import_id: str) -> StoreBusyError:
    return StoreBusyError(
        f"a commit of the import {import_id} has begun, and no part can be added any more; nothing of this push "
        "counts. If that commit was interrupted, commit again or roll back"
    )


async def commit(
    database: Database,
    import_id: str,
    *,
    allow_empty: bool,
    known: Sequence[Erasure] = (),
    driver: str | None = None,
) -> ImportReport:
    """Put what was pushed in the place of the events; of an import that is committed already, the report once more.
    `known` was erased from where the events come from."""
    if known:
        await erasures.make_table(database, frozen="allow")
    with database.life.running():
        owner = driver or await database.own()
        try:
            try:
                stage = await _take(database, import_id, owner, to_commit=True)
            except ImportNotFoundError:
                if (done := await _committed(database, import_id)) is None:
                    raise
                return done
            events = await _commit(database, stage, owner, known, allow_empty=allow_empty)
        finally:
            if driver is None:
                await to_the_end(database.release(owner))
    if known:
        await erasing.overwrite(database)
    return ImportReport(events)


async def roll_back(database: Database, import_id: str | None) -> None:
    """Drop the open import with everything that was pushed, even if the store is frozen. With an id, it must be the
    open one."""
    if import_id is None:
        async with database.reading() as reading:
            left = await reading.stages("parts")
        if not left:
            return
        import_id = left[0].id
    with database.life.running():
        owner = await database.own()
        try:
            try:
                stage = await _take(database, import_id, owner, to_commit=False)
            except ImportNotFoundError:
                if await _committed(database, import_id) is None:
                    raise
                raise ImportNotFoundError(
                    f"the import in parts with the id {import_id} is committed"
                ) from None
            async with owners.writing(database, frozen="allow") as writing:
                await commits.forget(writing, import_id)
                await writing.drop_stage(stage)
        finally:
            await to_the_end(database.release(owner))


async def _committed(database: Database, import_id: str) -> ImportReport | None:
    """The report of the import, if it is committed; for an import that is not open."""
    async with database.reading() as reading:
        return await commits.committed(reading, import_id)


async def undo(database: Database, driver: str) -> None:
    """Remove what a driver has begun, and end it."""
    try:
        async with owners.writing(database, "exclusive", frozen="allow") as writing:
            for stage in await writing.stages("parts"):
                if stage.driver == driver:
                    await commits.forget(writing, stage.id)
                    await writing.drop_stage(stage)
            await owners.thaw(writing, driver)
    finally:
        await database.release(driver)


async def _take(database: Database, import_id: str, owner: str, *, to_commit: bool) -> Stage:
    """Take the stage over: from here on no push goes into it. What a driver has begun only that commits."""
    async with owners.writing(database, frozen="allow") as writing:
        stage = await steps.opened(writing, "parts", import_id)
        if stage.driver not in (None, owner):
            if await database.is_alive(stage.driver or ""):
                raise owners.running(stage)
            if to_commit:
                raise ImportNotFoundError(
                    f"the process that was running the import {import_id} has ended, so not all parts may be there: "
                    "import again"
                )
        if stage.owner not in (import_id, owner) and await database.is_alive(stage.owner or ""):
            raise StoreBusyError(f"the import {import_id} is being committed or rolled back")
        return await writing.adopt_stage(stage, owner)


async def _commit(
    database: Database, stage: Stage, owner: str, known: Sequence[Erasure], *, allow_empty: bool
) -> int:
    """Swap; how many events that brings."""

    async def refuse(reading: Reading) -> None:
        if known:
            await erasing.refuse_open_import(reading, but=stage)

    async def swap(replacing: Replacing, stage: Stage) -> None:
        await replacing.swap(stage)
        await commits.save(replacing, stage.id, ImportReport(events))
        if known:
            await erasing.keep(replacing, known)

    try:
        async with database.reading() as reading:
            await refuse(reading)
        parts = await _settle(database, stage)
        events = sum(push.events for push in parts.values())
        if not events and not allow_empty:
            await replacing_import.refuse_empty(database)
        if clash := await replacing_import.make_unique(database, stage):
            (first, line), (second, other) = map(ledger.place_of, (clash.first_line, clash.second_line))
            raise InputError(
                f"{clash.what} of the part {_shown(parts[second].part)!r} is already in line {line} of the part "
                f"{_shown(parts[first].part)!r}",
                line=other,
                field=clash.field,
            )
    except EventferryError:
        await to_the_end(_give_back(database, stage))
        raise
    await replacing_import.put_in_place(database, stage, owner, refuse, swap)
    return events


async def _give_back(database: Database, stage: Stage) -> None:
    """Nothing was made of the stage, and parts can be pushed again."""
    async with owners.writing(database, frozen="allow") as writing:
        await writing.adopt_stage(stage, stage.id)


async def _settle(database: Database, stage: Stage) -> dict[int, ledger.Push]:
    """The pushes that count, by their steps: of each part the last one that came to its end. All others go."""
    async with owners.writing(database, frozen="allow") as writing:
        pushes = await ledger.read(writing, stage)
        last = {push.part: push for push in pushes if push.is_whole}
        if missing := {push.part for push in pushes} - last.keys():
            raise PartMissingError([_shown(part) for part in sorted(missing)])
        count = {push.step: push for push in last.values()}
        await ledger.drop(writing, stage, (push.step for push in pushes if push.step not in count))
    return count

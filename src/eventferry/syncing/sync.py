"""Sync: what is new in the source goes into the target, batch by batch, exactly once.

A batch is one transaction in the target: its events, the secrets that they name, and the state, which says how far the
source has been read. The state is changed only from what was read before. So a sync that was killed, paused or cut off
goes on where its last commit was, and of two that run at once each batch is stored by one of them.

docs/sync.md says what this promises.
"""

from __future__ import annotations

import asyncio
import hashlib
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from eventferry import cursor as vector
from eventferry.changing.changes import Changes
from eventferry.changing.erased import Erased
from eventferry.clock import now
from eventferry.database import Database
from eventferry.errors import (
    ChangeError,
    CursorAheadError,
    EventferryError,
    InputError,
    ResumeError,
    SecretNotErasedError,
    StoreBusyError,
    StoreChangedError,
    StoreExistsError,
    StoreFrozenError,
    StoreFullError,
    StoreNotFoundError,
    StoreReplacedError,
    StoreUnreachableError,
    UsageError,
)
from eventferry.importing.stream import ImportStream
from eventferry.lines.blocks import LineSplitter
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Row, decode_event
from eventferry.lines.marker import refuse_marker
from eventferry.lines.piping import pipeline
from eventferry.lines.source_lines import SourceLines
from eventferry.operation_log import Operation
from eventferry.reading.questions import identity_of
from eventferry.state import erasures, owners, syncs
from eventferry.state.syncs import Mode, SyncProblem, SyncState
from eventferry.syncing.erasures import ErasureChanges
from eventferry.syncing.filling import FirstFill
from eventferry.syncing.placing import Placing
from eventferry.syncing.preview import SyncPreview, preview_of
from eventferry.syncing.source import NO_IDENTITY, Fill, Following, SyncSource, joined, not_as_synced
from eventferry.syncing.terms import Terms, row_of
from eventferry.syncing.throttle import Throttle

BATCH_SECONDS = 0.05
BATCH_BYTES = 4 * 1024 * 1024
"""A batch is stored when it has been gathered for so long, or is so large."""

BATCH_EVENTS = 50_000
PAGE_EVENTS = 4096

IDLE_SECONDS = 0.5

OVERTAKEN_SECONDS = 0.02
"""Pause after another sync was faster."""

RETRY_SECONDS = (0.1, 0.5, 2.0, 5.0, 15.0)
"""Pauses after a connection was lost; the last one again and again for whoever follows."""

_NOTING_SECONDS = 5.0


class SyncReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """What a sync has done.

    Attributes:
        mode: "replica" or "merge".
        events: events that were brought over.
        secrets: secrets that were brought over or deleted.
        bookmark: of the source, behind the last event that was read of it.
        read: with changes, events that were read of the source.
        renumbered: events that have another version here than in the source; of another product's table, counted from
            its first. 0 with changes, which number anew.
        skipped: rows of another product's table that were left out, by their kind: link, snapshot, archived or deleted.
        erasures_left: in a merge, erasures of the source that stay behind, since they name no aggregates, and could hit
            other events of the target: erase them there.
        exactness: where the source is another product's table, whether an event can be missed whose transaction commits
            late: "exact", or "not exact, because …".
        waiting: events of such a table that could not be brought over yet, because transactions that began before are
            still open: the next sync brings them.
    """

    mode: Mode
    events: int
    secrets: int
    bookmark: str
    read: int = 0
    renumbered: int = 0
    skipped: dict[str, int] = {}
    erasures_left: int = 0
    exactness: str | None = None
    waiting: int = 0


class _MovedError(EventferryError):
    """Another sync has stored a batch meanwhile."""


class Sync:
    """Keeps a target in step with a source.

    Args:
        source: of the events; it is only read.
        target: where they go. A missing store is made.
        mode, same_aggregate: as in `Terms`.
        with_secrets: bring secrets over too.
        changes: select and change the events on their way.
        rate: events a second at most.
        tell: is called after each batch with the report so far.
    """

    def __init__(
        self,
        source: SyncSource,
        target: Database,
        *,
        mode: Mode | None = None,
        same_aggregate: str | None = None,
        with_secrets: bool = True,
        changes: Changes | None = None,
        rate: int | None = None,
        tell: Callable[[SyncReport], None] = lambda _: None,
    ) -> None:
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int) or rate < 1):
            raise UsageError(f"rate is a whole number of events a second, from 1, not {rate!r}")
        self._source = source
        self._target = target
        self._terms = Terms(mode, same_aggregate, None if changes is None else changes.digest)
        self._secrets = source.secrets(target) if with_secrets else None
        self._changes = changes
        # What changes make of an event, an erasure of the source does not name any more.
        self._erasures = ErasureChanges(source, target) if changes is None else None
        self._keeps_places = source.has_places and (changes is None or changes.keep_positions)
        self._throttle = Throttle(rate)
        self._batch_events = BATCH_EVENTS if rate is None else min(BATCH_EVENTS, rate)
        self._tell = tell
        self._key = ""
        self._state: SyncState | None = None
        self._text: str | None = None
        self._events = self._read = self._renumbered = 0
        self._skipped: Counter[str] = Counter()
        self._ours: dict[str, int] = {}
        self._has_problem = False
        self._decoder = LineDecoder()

    async def run(self, *, follow: bool) -> SyncReport:
        """Bring over what is new, up to the end of the source, or for ever."""
        self._begin_report()
        pauses = iter(RETRY_SECONDS)
        pause: float | None
        with self._target.life.running(), self._source.life.running():
            while True:
                before = self._events
                try:
                    return await self._run(follow=follow)
                except _MovedError:
                    pause = OVERTAKEN_SECONDS
                except (StoreUnreachableError, StoreBusyError, StoreFrozenError, CursorAheadError) as error:
                    await self._note(error)
                    if not _may_pass(error, follow=follow):
                        raise
                    if self._events != before:  # it gets on
                        pauses = iter(RETRY_SECONDS)
                    if (pause := next(pauses, RETRY_SECONDS[-1] if follow else None)) is None:
                        raise
                except Exception as error:
                    await self._note(error)
                    raise
                await asyncio.sleep(pause)

    async def preview(self) -> SyncPreview:
        """Read what the next run would bring. Nothing is stored, and a missing target is not made."""
        self._begin_report()
        with self._target.life.running(), self._source.life.running():
            identities = await self._source.identities()
            try:
                is_begun = await self._find(identities)
            except StoreNotFoundError:
                is_begun = False
                self._state = self._terms.begun(self._source.place, identities[0], (), is_empty=True)
            state = self._its_state
            following = await self._source.follow(state.bookmark if is_begun else None, PAGE_EVENTS)
            try:
                return await preview_of(following, self._rows, mode=state.mode, is_first=not is_begun)
            except (CursorAheadError, StoreReplacedError) as error:
                raise not_as_synced(error, self._source.place) from error

    async def _run(self, *, follow: bool) -> SyncReport:
        """From where the last commit was."""
        state = await self._begin()
        following = await self._source.follow(state.bookmark, min(PAGE_EVENTS, self._batch_events))
        while True:
            if self._erasures is not None:
                await self._erasures.bring_in_time(self._its_state)
            has_more = self._secrets is not None and await self._secrets.bring_some()
            idle = IDLE_SECONDS if follow and not has_more else 0
            batch = await self._gathered(following, idle, follow=follow)
            bookmark = await following.bookmark()
            if batch.number or batch.skipped:  # where none of them comes over too: they are not read again
                try:
                    await self._store(batch, bookmark)
                except StoreNotFoundError as error:
                    async with self._target.reading() as reading:
                        await reading.heads()
                    raise _MovedError from error  # it was dropped, and made anew without a table for a state
            elif following.is_caught_up:
                await self._forget_problem()
            if following.is_complete and not (follow or has_more):
                break
        if self._secrets is not None:
            await self._secrets.bring_all()
        if self._erasures is not None:
            await self._erasures.bring(self._its_state)
        return await self._noted_end(following)

    async def _noted_end(self, following: Following) -> SyncReport:
        """A source without events stores no batch, so its state is stored here. The report tells what waits."""
        if self._text is None:
            await self._store(SourceLines(), await following.bookmark())
        report = self._report()
        if not following.is_waiting:
            return report
        return msgspec.structs.replace(report, waiting=(await self._source.waiting(report.bookmark)).events)

    def _begin_report(self) -> None:
        """What is changed from now on is what the report of the changes tells."""
        if self._changes is not None:
            self._changes.begin()

    def _report(self) -> SyncReport:
        state = self._its_state
        return SyncReport(
            mode=state.mode,
            events=self._events,
            secrets=0 if self._secrets is None else self._secrets.brought,
            bookmark=state.bookmark or "",
            read=0 if self._changes is None else self._read,
            renumbered=self._renumbered,
            skipped=dict(self._skipped),
            erasures_left=0 if self._erasures is None else self._erasures.left,
            exactness=self._source.exactness,
        )

    @property
    def _its_state(self) -> SyncState:
        if self._state is None:
            raise AssertionError("the sync has not begun")
        return self._state

    # the beginning

    async def _begin(self) -> SyncState:
        """Find how far it came, or fill a new replica."""
        identities = await self._source.identities()
        await self._make_target()
        if self._secrets is not None:
            self._secrets.begin()
        if self._erasures is not None:
            self._erasures.begin()
        if not await self._find(identities):
            await self._fill(self._its_state)
        return self._its_state

    async def _find(self, identities: Sequence[str]) -> bool:
        """Find how far it came; False where a replica is to be filled first."""
        identity = identities[0]
        place = self._source.place
        self._text = None
        async with self._target.reading() as reading:
            own = identity_of(await reading.state()).hex()
            found = await syncs.load(reading, void=True)
            is_empty = not any(await reading.heads())
            self._decoder = LineDecoder(await reading.limits())
        rows = [row for row in found if row.state.is_about(own)]
        for one in rows:
            if one.state.place == place:  # where an error is noted
                self._key, self._text = one.source, one.text
        row = row_of(rows, identities, place)
        if row is None:
            await self._source.refuse_circles(self._target, identity, own)
            lasting = place if identity == NO_IDENTITY else identity
            self._key = hashlib.blake2b(lasting.encode(), digest_size=16).hexdigest()
            # One with this key is of events that have been replaced.
            self._text = next((row.text for row in found if row.source == self._key), None)
            self._state = self._terms.begun(place, identity, rows, is_empty=is_empty)
        else:
            self._key, self._text = row.source, row.text
            self._state = msgspec.structs.replace(self._terms.continued(row.state), place=place)
            if row.state.identity not in identities or not self._terms.changes_as(row.state):
                # Of which nothing has come.
                heads = None if is_empty else self._state.heads
                self._state = msgspec.structs.replace(self._state, bookmark=None, heads=heads)
            self._state = msgspec.structs.replace(self._state, identity=identity, changes=self._terms.changes)
        self._terms.refuse_blind_merge(self._state)
        self._has_problem = row is not None and row.problem is not None
        # A target that should hold events and is empty: its fill was noted, and then not put in its place.
        is_filled = self._state.heads is not None and not (is_empty and any(vector.decode(self._state.heads)))
        return is_filled or self._state.mode == "merge"

    async def _make_target(self) -> None:
        """Make what is missing in the target."""
        try:
            if await self._has_table():
                return
        except StoreNotFoundError:
            try:
                await self._target.create()
            except StoreExistsError as error:  # another sync was faster; or it is no store
                with suppress(StoreNotFoundError):
                    await self._has_table()
                    raise _MovedError from error
                raise
        async with owners.writing(self._target, "exclusive") as writing:
            await syncs.make_table(writing)

    async def _has_table(self) -> bool:
        async with self._target.reading() as reading:
            return await syncs.has_table(reading)

    async def _fill(self, begun: SyncState) -> None:
        if self._secrets is not None:
            await self._secrets.bring_all()
        for resume in (True, False):
            fill = self._source.fill()

            async def filled(events: int, fill: Fill = fill) -> SyncState:
                if self._secrets is not None:  # set since the fill began
                    await self._secrets.bring_all()
                return msgspec.structs.replace(
                    begun,
                    bookmark=await fill.bookmark(),
                    heads=fill.cursor if self._keeps_places else vector.dense(events),
                    events=events,
                    at=now(),
                    target=None,
                )

            first_fill = FirstFill(self._target, self._key, self._text, filled, resume=resume)
            sink = ImportStream(first_fill, Operation("sync", self._target), self._target.life)
            try:
                changing = () if self._changes is None else (self._changes,)
                await pipeline(fill, *changing, self._throttle.lines, sink)
            except ResumeError:
                continue  # the source has grown in its middle since the fill was interrupted: fill anew
            except (StoreFullError, StoreChangedError) as error:
                async with self._target.reading() as reading:
                    if any(await reading.heads()):
                        self._begin_report()
                        raise _MovedError from error  # another sync has filled it, or somebody has stored events
                raise
            break
        self._state, self._text = first_fill.filled, first_fill.text
        self._events += self._its_state.events
        self._read += fill.exported
        if (report := fill.report) is not None:
            self._renumbered += report.renumbered if self._changes is None else 0
            self._skipped.update(report.skipped)
        # Whose events these are can be told only now.
        await self._store(SourceLines(), self._its_state.bookmark or "")

    # the batches

    async def _gathered(self, following: Following, idle: float, *, follow: bool) -> SourceLines:
        """The next batch; without lines where nothing came for a while."""
        clock = asyncio.get_running_loop().time
        try:
            found = [await following.next(idle)]
            size, count = len(found[0].text), found[0].number
            until = clock() + BATCH_SECONDS
            while (
                count and size < BATCH_BYTES and count < self._batch_events and (left := until - clock()) > 0
            ):
                if following.is_caught_up and not follow:
                    break
                found.append(await following.next(left))
                size += len(found[-1].text)
                count += found[-1].number
        except (CursorAheadError, StoreReplacedError) as error:
            raise not_as_synced(error, self._source.place) from error
        return joined(found)

    async def _store(self, batch: SourceLines, bookmark: str) -> None:
        """Store a batch, exactly once."""
        rows = self._rows(batch.text)
        try:
            await self._store_rows(rows, batch, bookmark)
        except BaseException:
            if self._changes is not None and batch.text:
                self._changes.forget()
            raise
        self._tell(self._report())
        await self._throttle.take(len(rows))

    async def _store_rows(self, rows: Sequence[Row], batch: SourceLines, bookmark: str) -> None:
        state = self._its_state
        named = [] if self._secrets is None else await self._secrets.named_in(rows)
        brought = not_erased = None
        try:
            async with owners.writing(self._target, "exclusive", secrets=bool(named)) as writing:
                own = identity_of(await writing.state()).hex()
                if not state.is_about(own) or not await syncs.is_still(writing, self._key, self._text):
                    raise _MovedError
                before = self._brought if self._changes is None else None
                placing = Placing(state, self._key, self._keeps_places, self._ours, before)
                placed, heads = await placing.place(writing, rows)
                renumbered = 0 if self._changes is not None else _differing(batch.versions, rows, placed)
                placed = list(Erased(await erasures.load(writing)).rows(placed))
                state = msgspec.structs.replace(
                    state,
                    bookmark=bookmark,
                    heads=heads if state.mode == "replica" else None,
                    target=own,
                    events=state.events + len(rows),
                    at=now(),
                )
                await writing.append(placed)
                if named and self._secrets is not None:
                    brought = await self._secrets.store(writing, named)
                written = await syncs.save(writing, self._key, self._text, state)
        except SecretNotErasedError as error:  # everything is stored
            not_erased = error
        self._state, self._text = state, written
        self._events += len(rows)
        self._read += batch.number
        self._renumbered += renumbered
        self._skipped.update(batch.skipped)
        if brought is not None and self._secrets is not None:
            self._secrets.stored(brought)
        if not_erased is not None:
            raise not_erased

    def _rows(self, text: bytes) -> list[Row]:
        """The rows of lines, changed. Raises InputError for an event that the target's columns cannot hold."""
        if self._changes is not None:
            text = self._changed(self._changes, text)
        try:
            rows = list(LineSplitter().feed(text).whole_rows(self._decoder))
            for line, row in rows:
                refuse_marker(row.payload, line)
        except InputError as error:
            # A changed event still has the position that it has in the source.
            event = decode_event(text.split(b"\n")[(error.line or 1) - 1])
            raise InputError(
                f"{self._source.told(event)} cannot be stored in the target: {error.reason}",
                field=error.field,
            ) from None
        return [row for _, row in rows]

    def _changed(self, changes: Changes, text: bytes) -> bytes:
        try:
            changed = changes.change(text)
        except InputError as error:  # whose line counts from the beginning of the batch
            reason = error.reason
            if not self._source.has_places and error.line is not None:
                event = decode_event(text.split(b"\n")[error.line - 1])
                reason = f"{self._source.told(event)}: {reason}"
            raise InputError(reason, field=error.field) from None
        _ = changes.report  # raises ChangeError where its sums do not hold
        return changed

    async def _brought(self, ids: Sequence[str]) -> dict[str, int]:
        """The versions of aggregates of the source that were brought over before."""
        bookmark = self._its_state.bookmark
        if bookmark is None:
            return {}
        return await self._source.last_versions(ids, bookmark)

    async def _forget_problem(self) -> None:
        """The last try has not failed any more, although it brought nothing."""
        if self._has_problem and self._text is not None:
            async with owners.writing(self._target, frozen="allow") as writing:
                await syncs.note_problem(writing, self._key, None)
        self._has_problem = False

    async def _note(self, error: Exception) -> None:
        """Keep an error where `sync --status` finds it, as far as the target can be reached."""
        if self._text is None:
            return
        # The target of a sync with changes may be one that shall not hold what the function was given.
        told = error.reason if isinstance(error, ChangeError) else str(error)
        problem = SyncProblem(now(), f"{type(error).__name__}: {told}")
        self._has_problem = True
        with suppress(EventferryError, TimeoutError):
            async with asyncio.timeout(_NOTING_SECONDS):
                async with owners.writing(self._target, frozen="allow") as writing:
                    await syncs.note_problem(writing, self._key, problem)


def _differing(versions: Sequence[int], before: Sequence[Row], after: Sequence[Row]) -> int:
    """How many events have another version than in the source."""
    own = versions or [row.aggregate_version for row in before]
    return sum(map(operator.ne, own, (row.aggregate_version for row in after)))


def _may_pass(error: EventferryError, *, follow: bool) -> bool:
    """Whether it is worth trying again."""
    if isinstance(error, CursorAheadError):
        return error.is_standby
    return follow or not isinstance(error, StoreFrozenError)

"""Pauses of sync: it is stopped before each of its statements, somebody else works to the end, and it goes on.

Before it writes it must notice: another sync has brought over the same, somebody has stored an event in the replica,
replaced its events or dropped it. Nobody's acknowledged event may be lost, and none of the source may be there twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import NamedTuple
from unittest import mock

from eventferry import Changes, EventferryError, EventStore, open_store, verify
from eventferry.state.syncs import Mode
from eventferry.syncing import sync as syncing
from tests.support.faults.children import Child, make_ready
from tests.support.faults.operations import must
from tests.support.faults.pair_walk import (
    Held,
    PairWalk,
    Some,
    Tally,
    Tell,
    add,
    every,
    save,
    silent,
    walk_all,
)
from tests.support.faults.pauses import HANGS, PATIENCE
from tests.support.faults.worlds import World, made

OLD, NEW, THEIRS, OWN = 400, 60, 50, 5
"""Events: of the source at first, of the source later, of whoever replaces the target's, and of a merge's target."""

EXCLUDED = "TYPE_0"
"""The type that a sync with changes leaves out."""

LEFT_OUT = -(-OLD // 3)
"""How many of the source's first events are of it."""

WAYS = ("fill", "batch", "merge", "changed fill", "changed batch")
"""What is paused: the first fill of a replica, a batch of one, a batch of a merge; and of a replica with changes."""

OTHERS = ("sync", "save", "replace", "drop")


class Seen(NamedTuple):
    """What the target held at a pause, and whether the others succeeded."""

    before: Held | str
    succeeded: bool


class SyncWalk(PairWalk[Seen]):
    """A walk over the statements of a sync.

    Args:
        world: where both stores are.
        way: one of `WAYS`.
        other: one of `OTHERS`.
    """

    def __init__(self, world: World, way: str, other: str) -> None:
        super().__init__(world, f"{way}, {other} beside it")
        self._way = way.removeprefix("changed ")
        self._changes = Changes(exclude_types=[EXCLUDED]) if way != self._way else None
        self._old = OLD if self._changes is None else OLD - LEFT_OUT
        self._other = other
        self._mode: Mode = "merge" if way == "merge" else "replica"

    async def _prepare(self) -> None:
        async with open_store(self._source) as source, open_store(self._target) as target:
            await source.init()
            await add(source, "old", OLD)
            if self._way == "merge":
                await target.init()
                await save(target, "own", OWN)
            if self._way != "fill":
                await self._sync(source, target)
            await save(source, "new", NEW)
            await source.set_secret("new", "x")  # an event more

    async def _sync(self, source: EventStore, target: EventStore) -> None:
        await target.sync(source, mode=self._mode, with_secrets=True, changes=self._changes)

    def _begin(self, at: int) -> Child:
        excluded = None if self._changes is None else EXCLUDED
        return Child("sync", self._source, self._target, self._mode, False, excluded, pause_at=at)

    async def _meanwhile(self, child: Child) -> Seen:
        owners = [owner for (owner,) in child.words("owns")]
        if self._way == "fill" and owners:
            await asyncio.to_thread(self._world.take_locks, self._target, owners)
        try:
            before: Held | str = await asyncio.to_thread(self._held, self._target)
        except Exception:
            before = "unknown"
        try:
            async with asyncio.timeout(HANGS):
                patient = self._world.with_option(self._target, f"busy_timeout={PATIENCE}")
                async with open_store(self._source) as source, open_store(patient) as target:
                    await self._do(source, target)
        except EventferryError:
            return Seen(before, False)
        return Seen(before, True)

    async def _do(self, source: EventStore, target: EventStore) -> None:
        if self._other == "sync":
            with mock.patch.object(
                syncing, "RETRY_SECONDS", (0.1,)
            ):  # who is stopped may hold it up for good
                await self._sync(source, target)
        elif self._other == "save":
            await save(target, "saved", 1)
        elif self._other == "replace":
            await add(target, "theirs", THEIRS)
        else:
            await target.drop()

    async def _judge(self, child: Child, seen: Seen | None) -> None:
        """One sync more ends well where it must."""
        before, succeeded = Seen("unknown", False) if seen is None else seen
        held = await asyncio.to_thread(self._held, self._target)
        own: dict[str, int] = {"own": OWN} if self._way == "merge" else {}
        begun = own | {"old": self._old} if self._way != "fill" else None
        done = own | {"old": self._old, "new": NEW + 1}
        none: list[Held] = [begun] if begun else [None, {}]
        if not succeeded or self._other == "sync":
            allowed = [done, *none]
        elif self._other == "save":
            saved = {"saved": 1}
            allowed = [(state or {}) | saved for state in (done, *none)]
            if self._mode == "replica" and before != done and before != "unknown":
                allowed.remove(done | saved)  # its batch came behind somebody else's event
        elif self._other == "replace":
            allowed = [{"theirs": THEIRS}]
            if self._way == "merge":  # begun anew, behind them
                allowed.append({"theirs": THEIRS, "old": OLD, "new": NEW + 1})
        else:
            allowed = [None, {}, {"old": self._old, "new": NEW + 1}]
        must(held in allowed, f"it holds {held}, not one of {allowed}; at the pause {before}")
        if succeeded and self._other in ("save", "replace") and self._mode == "replica":
            return
        async with open_store(self._source) as source, open_store(self._target) as target:
            await self._sync(source, target)
            if self._mode == "replica":
                report = await verify(
                    source.export_events(),
                    target.export_events(),
                    changes=self._changes,
                    content=self._changes is not None,
                )
                must(report.equal, "not equal")
            must(await target.get_secret("new") == "x", "a secret is missing")
        held = await asyncio.to_thread(self._held, self._target) or {}
        must((held.get("old"), held.get("new")) == (self._old, NEW + 1), f"the next sync left {held}")


async def walk(
    database: str, pairs: Iterable[tuple[str, str]], some: Some = every, tell: Tell = silent
) -> dict[tuple[str, str], Tally]:
    """Walk over syncs on one database; by way and other, how many pauses there were, and refusals.

    Raises:
        BrokenPromiseError: an event is lost or doubled.
    """
    make_ready()
    tallies: dict[tuple[str, str], Tally] = {}
    for way, other in pairs:
        with made(database) as world:
            tallies[way, other] = pauses, refused = await SyncWalk(world, way, other).run(some)
        tell(f"{database}: {way}, {other} beside it: {pauses} pauses, {refused} refused")
    return tallies


if __name__ == "__main__":  # the whole walk: python -m tests.support.faults.sync_pauses [DATABASE …]
    walk_all(
        lambda database, tell: walk(database, itertools.product(WAYS, OTHERS), tell=tell),
        "nothing lost, nothing doubled",
    )

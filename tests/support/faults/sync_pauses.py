"""Pauses of sync: it is stopped before each of its statements, somebody else works to the end, and it goes on.

Before it writes it must notice: another sync has brought over the same, somebody has stored an event in the replica,
replaced its events or dropped it. Nobody's acknowledged event may be lost, and none of the source may be there twice.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias
from unittest import mock

from eventferry import Changes, EventferryError, EventStore, open_store, verify
from eventferry.state.syncs import Mode
from eventferry.syncing import sync as syncing
from tests.support import import_lines, make_event, raw
from tests.support.faults.children import Child, make_ready
from tests.support.faults.operations import must
from tests.support.faults.pauses import HANGS, NEVER, PATIENCE
from tests.support.faults.worlds import World, made
from tests.support.places import DATABASES
from tests.support.servers import keep_servers

OLD, NEW, THEIRS, OWN = 400, 60, 50, 5
"""Events: of the source at first, of the source later, of whoever replaces the target's, and of a merge's target."""

Some: TypeAlias = Callable[[Sequence[int]], Iterable[int]]
"""Chooses among the numbers of statements."""

Held: TypeAlias = dict[str, int] | None
"""How many events of each family a store holds; None: there is no store."""

EXCLUDED = "TYPE_0"
"""The type that a sync with changes leaves out."""

LEFT_OUT = -(-OLD // 3)
"""How many of the source's first events are of it."""

WAYS = ("fill", "batch", "merge", "changed fill", "changed batch")
"""What is paused: the first fill of a replica, a batch of one, a batch of a merge; and of a replica with changes."""

OTHERS = ("sync", "save", "replace", "drop")


def every(numbers: Sequence[int]) -> Iterable[int]:
    """All statements."""
    return numbers


async def add(store: EventStore, name: str, count: int) -> None:
    """Import a family into an empty store."""
    await import_lines(
        store, [make_event(i, aggregateId=f"{name}-{i % 10}", payload="x" * 100) for i in range(count)]
    )


async def save(store: EventStore, name: str, count: int) -> None:
    """Store a family one by one."""
    for i in range(count):
        await store.save_event(
            {"type": "SAVED", "aggregateId": f"{name}-{i % 7}", "aggregateVersion": i // 7 + 1}
        )


_PATIENCE = {
    "sqlite": (),
    "postgresql": ("SET lock_timeout = '1s'",),
    "mariadb": ("SET lock_wait_timeout = 1",),
}


def held(database: str, url: str) -> Held:
    """What a store holds, by SQL. Raises BrokenPromiseError where an event is there twice."""
    if "events" not in raw.tables(url):
        return None
    # Whoever is paused may hold what is to be read.
    rows = raw.run(url, *_PATIENCE[database], 'SELECT "aggregateId", "aggregateVersion" FROM "events"')
    names = [name.decode() if isinstance(name, bytes) else name for name, _ in rows]
    most = Counter(zip(names, (version for _, version in rows), strict=True)).most_common(1)
    must(not most or most[0][1] == 1, f"twice: {most}")
    secret = "RESOLVE_SET_SECRET_"
    return dict(Counter(name.removeprefix(secret).replace("_", "-").partition("-")[0] for name in names))


class SyncWalk:
    """A walk over the statements of a sync.

    Args:
        world: where both stores are.
        way: one of `WAYS`.
        other: one of `OTHERS`.

    Attributes:
        pauses: how many there were.
        refused: how often it was refused by name behind one.
    """

    def __init__(self, world: World, way: str, other: str) -> None:
        self._world = world
        self._way = way.removeprefix("changed ")
        self._changes = Changes(exclude_types=[EXCLUDED]) if way != self._way else None
        self._old = OLD if self._changes is None else OLD - LEFT_OUT
        self._other = other
        self._mode: Mode = "merge" if way == "merge" else "replica"
        self.pauses = 0
        self.refused = 0

    async def run(self, some: Some) -> None:
        """Pause before those of its statements that `some` chooses. One that is repeated with other values, as each
        thread's last event is asked for, is one."""
        for at in some(await self._round(NEVER)):
            await self._round(at)

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

    def _held(self) -> Held:
        return held(self._world.database, self._target)

    async def _round(self, at: int) -> Sequence[int]:
        self._source, self._target = self._world.new_url(), self._world.new_url()
        sent = await self._paused(at)
        for url in (self._source, self._target):
            await self._world.settle(url)
            await asyncio.to_thread(self._world.remove, url)
        return sent

    async def _paused(self, at: int) -> Sequence[int]:
        await self._prepare()
        excluded = None if self._changes is None else EXCLUDED
        child = Child("sync", self._source, self._target, self._mode, False, excluded, pause_at=at)
        try:
            came = await child.until_paused()
            self.pauses += came
            before, succeeded = await self._meanwhile(child) if came else ("unknown", False)
            child.signal(signal.SIGCONT)
            must(await child.until_over(HANGS), "hangs")
            must(child.ended in ("well", "refused"), "an error without a name")
            must(came or child.ended == "well", "refused although nobody was there")
            self.refused += child.ended == "refused"
            await self._judge(before, succeeded=succeeded)
        except BaseException as error:
            error.add_note(
                f"{self._world.database}: {self._way} paused before statement {at}, {self._other} beside it; "
                f"ended {child.ended}: {child.error}"
            )
            raise
        finally:
            child.signal(signal.SIGKILL)
        return [number for (numbers,) in child.words("differ") for number in numbers]

    async def _meanwhile(self, child: Child) -> tuple[Held | str, bool]:
        """What the target held at the pause, and whether the others succeeded."""
        owners = [owner for (owner,) in child.words("owns")]
        if self._way == "fill" and owners:
            await asyncio.to_thread(self._world.take_locks, self._target, owners)
        try:
            before: Held | str = await asyncio.to_thread(self._held)
        except Exception:
            before = "unknown"
        try:
            async with asyncio.timeout(HANGS):
                patient = self._world.with_option(self._target, f"busy_timeout={PATIENCE}")
                async with open_store(self._source) as source, open_store(patient) as target:
                    await self._do(source, target)
        except EventferryError:
            return before, False
        return before, True

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

    async def _judge(self, before: Held | str, *, succeeded: bool) -> None:
        """Whether what is there now may be there; and that one sync more ends well where it must."""
        held = await asyncio.to_thread(self._held)
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
        held = await asyncio.to_thread(self._held) or {}
        must((held.get("old"), held.get("new")) == (self._old, NEW + 1), f"the next sync left {held}")


Tallies: TypeAlias = dict[tuple[str, str], tuple[int, int]]


async def walk(
    database: str,
    pairs: Iterable[tuple[str, str]],
    some: Some = every,
    tell: Callable[[str], None] = lambda words: None,
) -> Tallies:
    """Walk over syncs on one database; by way and other, how many pauses there were, and refusals.

    Raises:
        BrokenPromiseError: an event is lost or doubled.
    """
    make_ready()
    tallies: Tallies = {}
    for way, other in pairs:
        with made(database) as world:
            each = SyncWalk(world, way, other)
            await each.run(some)
        tallies[way, other] = each.pauses, each.refused
        tell(f"{database}: {way}, {other} beside it: {each.pauses} pauses, {each.refused} refused")
    return tallies


def main() -> None:
    """The whole walk: `python -m tests.support.faults.sync_pauses [DATABASE …]`."""
    keeper = keep_servers()
    pauses = 0
    for database in sys.argv[1:] or DATABASES:
        tallies = asyncio.run(
            walk(database, itertools.product(WAYS, OTHERS), tell=partial(print, flush=True))
        )
        pauses += sum(count for count, _ in tallies.values())
    print(f"{pauses} pauses, nothing lost, nothing doubled")
    if keeper.stdin is not None:
        keeper.stdin.close()


if __name__ == "__main__":
    main()

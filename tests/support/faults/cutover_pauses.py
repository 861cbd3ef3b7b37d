"""Pauses of cutover: it is stopped before each of its statements, its lock is taken away, somebody else works to the
end in its source or its target, and it goes on.

Where it ends well, the target holds every event that the source has acknowledged, and the source is frozen; where it
is refused, the application goes on at the source, as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple
from unittest import mock

from eventferry import (
    EventferryError,
    EventStore,
    NotFrozenError,
    StoreNotFoundError,
    cutover,
    open_store,
    verify,
)
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

OLD, NEW, THEIRS = 40, 8, 20
"""Events: of the source at first, of the source later, and of whoever replaces those of a store."""

IN_THE_SOURCE = ("save", "replace", "drop", "freeze", "unfreeze")
IN_THE_TARGET = ("save", "replace", "drop")
OTHERS = (
    "sync",
    "cutover",
    *(f"{what} source" for what in IN_THE_SOURCE),
    *(f"{what} target" for what in IN_THE_TARGET),
)


class Seen(NamedTuple):
    """What was so at a pause.

    Attributes:
        has_looked: whether the stores had been compared.
        frozen_by: whose freeze stood when the others began.
        succeeded: whether these did.
    """

    has_looked: bool
    frozen_by: str | None
    succeeded: bool


class CutoverWalk(PairWalk[Seen]):
    """A walk over the statements of a cutover into a replica, which lacks the later events. It begins at the freeze:
    before that it is a sync.

    Args:
        world: where both stores are.
        other: one of `OTHERS`.
    """

    def __init__(self, world: World, other: str) -> None:
        super().__init__(world, f"cutover, {other} beside it")
        self._other = other

    async def _prepare(self) -> None:
        async with open_store(self._source) as source, open_store(self._target) as target:
            await source.init()
            await add(source, "old", OLD)
            await source.set_secret("old", "x")  # an event more
            await target.sync(source, with_secrets=True)
            await save(source, "new", NEW)

    def _begin(self, at: int) -> Child:
        return Child("cutover", self._source, self._target, pause_at=at)

    def _numbers(self, child: Child) -> list[int]:
        begun = min((count for (count,) in child.words("begun behind")), default=0)
        return [number for number in super()._numbers(child) if number >= begun]

    async def _meanwhile(self, child: Child) -> Seen:
        has_looked = bool(child.words("looked"))
        owners = [owner for (owner,) in child.words("owns")]
        for url in (self._source, self._target):
            await asyncio.to_thread(self._world.take_locks, url, owners)
        source_url, target_url = (
            self._world.with_option(url, f"busy_timeout={PATIENCE}") for url in (self._source, self._target)
        )
        async with open_store(source_url) as source, open_store(target_url) as target:
            frozen_by: str | None
            try:
                frozen_by = (await source.describe()).frozen_by
            except EventferryError:
                frozen_by = "unknown"
            try:
                async with asyncio.timeout(HANGS):
                    # Who is stopped may hold it up for good.
                    with mock.patch.object(syncing, "RETRY_SECONDS", (0.1,)):
                        await self._do(source, target)
            except EventferryError:
                return Seen(has_looked, frozen_by, False)
            return Seen(has_looked, frozen_by, True)

    async def _do(self, source: EventStore, target: EventStore) -> None:
        what, _, where = self._other.partition(" ")
        store = target if where == "target" else source
        if what == "sync":
            await target.sync(source, with_secrets=True)
        elif what == "cutover":
            await cutover(source, target)
        elif what == "save":
            await save(store, "saved", 1)
        elif what == "replace":
            await add(store, "theirs", THEIRS)
        elif what == "drop":
            await store.drop()
        elif what == "freeze":
            await store.freeze()
        else:  # they take it back
            await store.unfreeze()
            await save(store, "saved", 1)

    async def _judge(self, child: Child, seen: Seen | None) -> None:
        has_looked, frozen_by, succeeded = Seen(False, None, False) if seen is None else seen
        is_well, did = child.ended == "well", self._other if succeeded else ""
        old = {"old": OLD + 1}
        done = {"old": OLD + 1, "new": NEW}
        saved = {"saved": 1}
        in_source = await asyncio.to_thread(self._held, self._source)
        in_target = await asyncio.to_thread(self._held, self._target)
        story = f"the source holds {in_source}, the target {in_target}; it was frozen by {frozen_by}"

        # What was acknowledged in the source is there, and nothing else.
        its: list[Held] = [done]
        if did in ("save source", "unfreeze source"):
            its = [done | saved]
        elif did == "replace source":
            its = [{"theirs": THEIRS}]
        elif did == "drop source":
            its = [None]
        must(in_source in its, f"lost in the source: {story}")

        # The same of the target.
        whole: list[Held] = [done, done | saved] if did in ("save source", "unfreeze source") else [done]
        allowed = [*whole, old]
        if did == "save target":
            allowed = [(state or {}) | saved for state in allowed]
        elif did == "replace target":
            allowed = [{"theirs": THEIRS}]
        elif did == "drop target":
            allowed = [None, {}, done]
        must(in_target in allowed, f"lost in the target: {story}")

        decided = frozen_by == "user"  # it had only to come to its end
        if is_well and not decided:
            if did in ("save target", "replace target", "drop target"):
                must(has_looked or in_target == done, f"a target that is no copy passed for one: {story}")
            else:
                must(in_target == in_source, f"an event is missing in the target: {story}")
        async with open_store(self._source) as source, open_store(self._target) as target:
            try:
                now_by = (await source.describe()).frozen_by
            except StoreNotFoundError:
                return
            must(now_by in ("user", None), f"the source is left frozen by {now_by}")
            if is_well and self._other != "unfreeze source":
                must(now_by == "user", f"the source is not frozen: {story}")
            if not is_well and not decided:
                expected = "user" if did in ("cutover", "freeze source") else None
                must(now_by == expected, f"refused, and the source is frozen by {now_by}: {story}")
            try:
                await source.unfreeze()
            except NotFrozenError:
                must(now_by is None, "a freeze is gone")
            if did in ("save target", "replace target", "replace source"):
                return  # the target is nobody's replica any more
            # The application goes on at the source, and the next sync brings over what it stores there.
            await save(source, "more", 1)
            await target.sync(source, with_secrets=True)
            must((await verify(source.export_events(), target.export_events())).equal, "not equal")
            must(await target.get_secret("old") == "x", "a secret is missing")


async def walk(
    database: str, others: Iterable[str], some: Some = every, tell: Tell = silent
) -> dict[str, Tally]:
    """Walk over cutovers on one database; by what others did, how many pauses there were, and refusals.

    Raises:
        BrokenPromiseError: an event is lost, or a target passed for a copy that is none.
    """
    make_ready()
    tallies: dict[str, Tally] = {}
    for other in others:
        with made(database) as world:
            tallies[other] = pauses, refused = await CutoverWalk(world, other).run(some)
        tell(f"{database}: cutover, {other} beside it: {pauses} pauses, {refused} refused")
    return tallies


if __name__ == "__main__":  # the whole walk: python -m tests.support.faults.cutover_pauses [DATABASE …]
    walk_all(lambda database, tell: walk(database, OTHERS, tell=tell), "nothing lost")

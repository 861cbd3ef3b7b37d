"""Pauses of cutover: it is stopped before each of its statements, its lock is taken away, somebody else works to the
end in its source or its target, and it goes on.

Where it ends well, the target holds every event that the source has acknowledged, and the source is frozen; where it
is refused, the application goes on at the source, as before.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
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
from tests.support.faults.pauses import HANGS, NEVER, PATIENCE
from tests.support.faults.sync_pauses import Held, Some, add, every, held, save
from tests.support.faults.worlds import World, made
from tests.support.places import DATABASES
from tests.support.servers import keep_servers

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


class CutoverWalk:
    """A walk over the statements of a cutover into a replica, which lacks the later events.

    Args:
        world: where both stores are.
        other: one of `OTHERS`.

    Attributes:
        pauses: how many there were.
        refused: how often it was refused by name behind one.
    """

    def __init__(self, world: World, other: str) -> None:
        self._world = world
        self._other = other
        self.pauses = 0
        self.refused = 0

    async def run(self, some: Some) -> None:
        """Pause before those of its statements that `some` chooses, from the freeze on: before that it is a sync."""
        for at in some(await self._round(NEVER)):
            await self._round(at)

    async def _prepare(self) -> None:
        async with open_store(self._source) as source, open_store(self._target) as target:
            await source.init()
            await add(source, "old", OLD)
            await source.set_secret("old", "x")  # an event more
            await target.sync(source, with_secrets=True)
            await save(source, "new", NEW)

    async def _round(self, at: int) -> Sequence[int]:
        self._source, self._target = self._world.new_url(), self._world.new_url()
        sent = await self._paused(at)
        for url in (self._source, self._target):
            await self._world.settle(url)
            await asyncio.to_thread(self._world.remove, url)
        return sent

    async def _paused(self, at: int) -> Sequence[int]:
        await self._prepare()
        child = Child("cutover", self._source, self._target, pause_at=at)
        try:
            came = await child.until_paused()
            self.pauses += came
            has_looked = bool(child.words("looked"))
            frozen_by, succeeded = await self._meanwhile(child) if came else (None, False)
            child.signal(signal.SIGCONT)
            must(await child.until_over(HANGS), "hangs")
            must(child.ended in ("well", "refused"), "an error without a name")
            must(came or child.ended == "well", "refused although nobody was there")
            self.refused += child.ended == "refused"
            did = self._other if succeeded else ""
            await self._judge(frozen_by, has_looked, is_well=child.ended == "well", did=did)
        except BaseException as error:
            error.add_note(
                f"{self._world.database}: cutover paused before statement {at}, {self._other} beside "
                f"it; ended {child.ended}: {child.error}"
            )
            raise
        finally:
            child.signal(signal.SIGKILL)
        begun = min((count for (count,) in child.words("begun behind")), default=0)
        return [number for (numbers,) in child.words("differ") for number in numbers if number >= begun]

    async def _meanwhile(self, child: Child) -> tuple[str | None, bool]:
        """Whose freeze stood when the others began, and whether they succeeded."""
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
                return frozen_by, False
            return frozen_by, True

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

    async def _judge(self, frozen_by: str | None, has_looked: bool, *, is_well: bool, did: str) -> None:
        old = {"old": OLD + 1}
        done = {"old": OLD + 1, "new": NEW}
        saved = {"saved": 1}
        in_source = await asyncio.to_thread(held, self._world.database, self._source)
        in_target = await asyncio.to_thread(held, self._world.database, self._target)
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
    database: str,
    others: Iterable[str],
    some: Some = every,
    tell: Callable[[str], None] = lambda words: None,
) -> dict[str, tuple[int, int]]:
    """Walk over cutovers on one database; by what others did, how many pauses there were, and refusals.

    Raises:
        BrokenPromiseError: an event is lost, or a target passed for a copy that is none.
    """
    make_ready()
    tallies: dict[str, tuple[int, int]] = {}
    for other in others:
        with made(database) as world:
            each = CutoverWalk(world, other)
            await each.run(some)
        tallies[other] = each.pauses, each.refused
        tell(f"{database}: cutover, {other} beside it: {each.pauses} pauses, {each.refused} refused")
    return tallies


def main() -> None:
    """The whole walk: `python -m tests.support.faults.cutover_pauses [DATABASE …]`."""
    keeper = keep_servers()
    pauses = 0
    for database in sys.argv[1:] or DATABASES:
        tallies = asyncio.run(walk(database, OTHERS, tell=partial(print, flush=True)))
        pauses += sum(count for count, _ in tallies.values())
    print(f"{pauses} pauses, nothing lost")
    if keeper.stdin is not None:
        keeper.stdin.close()


if __name__ == "__main__":
    main()

"""A walk over what reads one store and writes another: it is stopped before each of its statements, somebody else works
to the end, and it goes on."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from eventferry import EventStore
from tests.support import import_lines, make_event, raw
from tests.support.faults.children import Child
from tests.support.faults.operations import must
from tests.support.faults.pauses import HANGS, NEVER
from tests.support.faults.worlds import World
from tests.support.places import DATABASES
from tests.support.servers import keep_servers

Some: TypeAlias = Callable[[Sequence[int]], Iterable[int]]
"""Chooses among the numbers of statements."""

Held: TypeAlias = dict[str, int] | None
"""How many events of each family a store holds; None: there is no store."""

Tell: TypeAlias = Callable[[str], None]

Tally: TypeAlias = tuple[int, int]
"""How many pauses there were, and refusals."""

S = TypeVar("S")
K = TypeVar("K")


def every(numbers: Sequence[int]) -> Iterable[int]:
    """All statements."""
    return numbers


def silent(words: str) -> None:
    """Tells nobody."""


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


class PairWalk(Generic[S]):
    """A walk over the statements of one operation; `S` is what is seen at a pause.

    Args:
        world: where both stores are.
        what: the operation, and who works beside it, in words.

    Attributes:
        pauses: how many there were.
        refused: how often it was refused by name behind one.
    """

    def __init__(self, world: World, what: str) -> None:
        self.pauses = 0
        self.refused = 0
        self._world = world
        self._what = what
        self._source = self._target = ""

    async def run(self, some: Some) -> Tally:
        """Pause before those of its statements that `some` chooses. One that is repeated with other values, as each
        thread's last event is asked for, is one."""
        for at in some(await self._round(NEVER)):
            await self._round(at)
        return self.pauses, self.refused

    async def _prepare(self) -> None:
        """Make the two stores."""
        raise NotImplementedError

    def _begin(self, at: int) -> Child:
        """Begin the operation, to be paused before a statement."""
        raise NotImplementedError

    async def _meanwhile(self, child: Child) -> S:
        """Let somebody else work to the end; what was seen."""
        raise NotImplementedError

    async def _judge(self, child: Child, seen: S | None) -> None:
        """Whether what is there now may be there. `seen` is None where there was no pause."""
        raise NotImplementedError

    def _numbers(self, child: Child) -> list[int]:
        """The statements before which it is paused."""
        return [number for (numbers,) in child.words("differ") for number in numbers]

    def _held(self, url: str) -> Held:
        return held(self._world.database, url)

    async def _round(self, at: int) -> list[int]:
        self._source, self._target = self._world.new_url(), self._world.new_url()
        numbers = await self._paused(at)
        for url in (self._source, self._target):
            await self._world.settle(url)
            await asyncio.to_thread(self._world.remove, url)
        return numbers

    async def _paused(self, at: int) -> list[int]:
        await self._prepare()
        child = self._begin(at)
        try:
            came = await child.until_paused()
            self.pauses += came
            seen = await self._meanwhile(child) if came else None
            child.signal(signal.SIGCONT)
            must(await child.until_over(HANGS), "hangs")
            must(child.ended in ("well", "refused"), "an error without a name")
            must(came or child.ended == "well", "refused although nobody was there")
            self.refused += child.ended == "refused"
            await self._judge(child, seen)
        except BaseException as error:
            error.add_note(
                f"{self._world.database}: {self._what}, paused before statement {at}; ended {child.ended}: "
                f"{child.error}"
            )
            raise
        finally:
            child.signal(signal.SIGKILL)
        return self._numbers(child)


def walk_all(walk: Callable[[str, Tell], Awaitable[dict[K, Tally]]], told: str) -> None:
    """Walk over everything on the databases that the command line names, or on all; and say what came of it."""
    keeper = keep_servers()
    pauses = 0

    async def one(database: str) -> dict[K, Tally]:
        return await walk(database, partial(print, flush=True))

    for database in sys.argv[1:] or DATABASES:
        pauses += sum(count for count, _ in asyncio.run(one(database)).values())
    print(f"{pauses} pauses, {told}")
    if keeper.stdin is not None:
        keeper.stdin.close()

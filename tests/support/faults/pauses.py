"""Pauses: an operation is stopped before each of its statements, its lock is taken away, others work to their end, and
it goes on. What it then does must be refused where it is no longer its own: no event that was acknowledged is lost, and
no two imports mix.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import sys
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from eventferry import MANUAL, EventferryError, EventStore, Rule, Rules, StoreNotFoundError, open_store
from tests.support import FAR_FUTURE, import_lines, line, make_event
from tests.support.faults.children import Child, make_ready
from tests.support.faults.operations import lines_of, must
from tests.support.faults.worlds import World, made
from tests.support.places import DATABASES
from tests.support.servers import keep_servers

HANGS = 60.0
"""Seconds after which a child hangs: nothing here takes a tenth of that."""

NEVER = 2**31
"""The number of a statement to which none comes."""

PATIENCE = 0.3
"""Seconds for which the others wait for one who is stopped in a transaction."""

State: TypeAlias = dict[str, int] | None
"""How many events of each family the store holds; None: there is no store. Its aggregates begin with its name."""

COUNTS = {
    "old": 120,
    "new": 600,
    "their": 300,
    "merged": 400,
    "saved": 1,
    "added": 1,
    "appended": 1,
    "fresh": 1,
}
"""How many events each family has. Fewer of one are a part of an import, and a mixture."""


ERASED = "/number"
OF_PERSONS = ["old-1", "new-1", "their-1", "appended-0"]
"""What an erasure erases, of which aggregates: among those of each family that has a past."""

KEPT = {"events-committed-imports", "events-erasures"}
"""Tables that the rounds before may have left, without anything in the second."""


def family(name: str) -> list[bytes]:
    """The lines of a family, in threads of its own: two that mix would not even clash."""
    threads = 64 * list(COUNTS).index(name)
    return [
        line(
            make_event(
                i,
                threadId=threads + i % 64,
                threadCounter=i // 64,
                aggregateId=f"{name}-{i % 10}",
                payload={"of": name, "number": i, "fill": "x" * 40},
            )
        )
        for i in range(COUNTS[name])
    ]


def newer(name: str) -> list[dict[str, Any]]:
    """A family as events without places, later than all others."""
    return [
        {
            "type": "T",
            "timestamp": FAR_FUTURE + i,
            "aggregateId": f"{name}-{i % 10}",
            "payload": {"number": i},
        }
        for i in range(COUNTS[name])
    ]


def state_of(lines: Sequence[bytes]) -> dict[str, int]:
    """The families of these lines."""
    return dict(Counter(json.loads(text)["aggregateId"].partition("-")[0] for text in lines))


def is_erased(lines: Sequence[bytes]) -> bool:
    """Whether nothing that was erased is in these lines."""
    events = map(json.loads, lines)
    return not any(
        event["aggregateId"] in OF_PERSONS and event["payload"]["number"] is not None for event in events
    )


def replaced(name: str) -> Callable[[State], State]:
    """What an import makes of a state."""
    return lambda state: None if state is None else {name: COUNTS[name]}


def with_more(name: str) -> Callable[[State], State]:
    """What something that only adds makes of a state."""
    return lambda state: None if state is None else state | {name: COUNTS[name]}


class Paused(ABC):
    """An operation that is paused, on a store that holds the old events.

    Attributes:
        replaces: whether it may only take the place of what it saw when it began.
        erases: whether nothing of what is erased may be in the store when it has ended well, whatever came later.
    """

    name: ClassVar[str]
    job: ClassVar[str]
    replaces: ClassVar[bool] = False
    erases: ClassVar[bool] = False

    def __init__(self, world: World, url: str, folder: Path) -> None:
        self.world = world
        self.url = url
        self.folder = folder

    async def prepare(self, store: EventStore) -> None:
        """Make ready."""
        return

    def take_locks(self, owners: Sequence[str]) -> None:
        """Take away what makes it alive, or the store its own: the locks of these owners."""
        self.world.take_locks(self.url, owners)

    def has_begun(self, owners: Sequence[str], names: set[str]) -> bool:
        """Whether it has seen what the store was, as these tables show: a stage of its own stands there."""
        return any(owner in name for owner in owners for name in names)

    @property
    def child_url(self) -> str:
        """Where the child finds the store."""
        return self.world.with_option(self.url, "busy_timeout=5")

    @abstractmethod
    def arguments(self) -> tuple[Any, ...]:
        """Of the job."""

    @abstractmethod
    def done(self, state: State) -> State:
        """What it makes of a state."""

    def look(self, ended_well: bool, states: Sequence[State]) -> None:
        """Whether what it gave out is one of these states."""
        return

    def _write(self, lines: Sequence[bytes]) -> str:
        path = self.folder / f"{self.job}.jsonl"
        path.write_bytes(b"".join(lines))
        path.chmod(0o644)
        return str(path)


class Import(Paused):
    name = job = "import"
    replaces = True
    freezes = False

    def arguments(self) -> tuple[Any, ...]:
        return self.child_url, self._write(family("new")), self.freezes

    def done(self, state: State) -> State:
        return replaced("new")(state)


class FreezingImport(Import):
    name = "import with freeze"
    freezes = True


class ResumedImport(Import):
    name = "resumed import"
    job = "resumed import"

    async def prepare(self, store: EventStore) -> None:
        stream = store.import_events()
        await stream.begin()
        await stream.write(b"".join(family("new")[:250]))
        await stream._batches.commit()
        await stream.abort(asyncio.CancelledError())  # an interruption: the stage stays, and nobody owns it

    def arguments(self) -> tuple[Any, ...]:
        return self.child_url, self._write(family("new")), 20_000


class Copy(Import):
    name = job = "copy"

    async def prepare(self, store: EventStore) -> None:
        self._source = self.world.new_url()
        async with open_store(self._source) as source:
            await source.init()
            await import_lines(source, b"".join(family("new")))

    def arguments(self) -> tuple[Any, ...]:
        return self._source, self.child_url, False


class Merge(Paused):
    name = "incremental import"
    job = "merge"

    def arguments(self) -> tuple[Any, ...]:
        return self.child_url, self._write([line(event) for event in newer("merged")])

    def done(self, state: State) -> State:
        return with_more("merged")(state)


class Steps(Merge):
    name = "incremental import in steps"
    job = "steps"

    def arguments(self) -> tuple[Any, ...]:
        events = newer("merged")
        return self.child_url, [events[:150], events[150:]]


class Parts(Paused):
    name = "import in parts"
    job = "parts"
    replaces = True

    def arguments(self) -> tuple[Any, ...]:
        lines = [text.decode() for text in family("new")]
        return self.child_url, ["".join(lines[:400]), "".join(lines[400:])]

    def done(self, state: State) -> State:
        return replaced("new")(state)


class Erase(Paused):
    name = job = "erase"
    erases = True

    def arguments(self) -> tuple[Any, ...]:
        return self.child_url, ERASED, OF_PERSONS

    def done(self, state: State) -> State:
        return state


class Export(Paused):
    name = "export with freeze"
    job = "export"

    async def prepare(self, store: EventStore) -> None:
        self._place = Path(tempfile.mkdtemp(dir=self.folder))
        self._place.chmod(0o777)

    def arguments(self) -> tuple[Any, ...]:
        return self.child_url, str(self._place / "file.jsonl"), True, True

    def done(self, state: State) -> State:
        return state

    def look(self, ended_well: bool, states: Sequence[State]) -> None:
        path = self._place / "file.jsonl"
        if not ended_well:
            must(not path.exists(), "an export that was refused left a file")
            return
        given = state_of(path.read_bytes().splitlines(keepends=True))
        must(given in states, f"an export gave {given}, and the store held {states}")


class Drop(Paused):
    """It removes the store that is there when it begins its one step, and no event that came into it since."""

    name = job = "drop"
    replaces = True

    def has_begun(self, owners: Sequence[str], names: set[str]) -> bool:
        """On MySQL it sets a marker, and renames the store behind that."""
        return "events-freeze" in names

    def arguments(self) -> tuple[Any, ...]:
        return (self.child_url,)

    def done(self, state: State) -> State:
        return None


class CutDrop(Drop):
    """Its store is taken away from it: its connections, or the file, in whose place another may stand."""

    name = "drop, cut off"

    def take_locks(self, owners: Sequence[str]) -> None:
        self.world.take_away(self.url)


class Upgrade(Paused):
    name = job = "upgrade"

    async def prepare(self, store: EventStore) -> None:
        await asyncio.to_thread(self.world.without_order, self.url)

    def arguments(self) -> tuple[Any, ...]:
        return (self.child_url,)

    def done(self, state: State) -> State:
        return state


PAUSED: dict[str, type[Paused]] = {
    kind.name: kind
    for kind in (
        Import,
        FreezingImport,
        ResumedImport,
        Copy,
        Merge,
        Steps,
        Parts,
        Erase,
        Export,
        Drop,
        CutDrop,
        Upgrade,
    )
}


class Other(ABC):
    """What somebody else does meanwhile. Attributes: whether it `succeeded`, in all that it is."""

    name: ClassVar[str]
    replaces: ClassVar[bool] = False
    erases: ClassVar[bool] = False

    def __init__(self) -> None:
        self.succeeded = False

    async def meanwhile(self, store: EventStore) -> None:
        """While the operation is paused."""
        return

    async def behind(self, store: EventStore) -> None:
        """When the operation has ended."""
        return

    @abstractmethod
    def done(self, state: State) -> State:
        """What it makes of a state."""


class SaveOne(Other):
    name = "save"

    async def meanwhile(self, store: EventStore) -> None:
        await store.save_event({"type": "T", "aggregateId": "saved-1", "aggregateVersion": 1})
        self.succeeded = True

    def done(self, state: State) -> State:
        return with_more("saved")(state)


class ImportTheirs(Other):
    name = "import"
    replaces = True

    async def meanwhile(self, store: EventStore) -> None:
        await import_lines(store, b"".join(family("their")))
        self.succeeded = True

    def done(self, state: State) -> State:
        return replaced("their")(state)


class HalfAnImport(ImportTheirs):
    """Begun while the operation is paused, ended behind it."""

    name = "import around it"

    async def meanwhile(self, store: EventStore) -> None:
        self._stream = store.import_events()
        await self._stream.begin()
        await self._stream.write(b"".join(family("their")[:150]))
        await self._stream._batches.commit()

    async def behind(self, store: EventStore) -> None:
        if self._stream._state == "open":
            await self._stream.write(b"".join(family("their")[150:]))
            await self._stream.close()
            self.succeeded = True


class Resume(Other):
    """Takes over what an import has left."""

    name = "resume"
    replaces = True

    async def meanwhile(self, store: EventStore) -> None:
        source = b"".join(family("new"))
        async with store.import_events(resume=True) as stream:
            await stream.write(source[stream.byte_offset :])
        self.succeeded = True

    def done(self, state: State) -> State:
        return replaced("new")(state)


class AddOne(Other):
    name = "incremental import"

    async def meanwhile(self, store: EventStore) -> None:
        report = await store.incremental_import(newer("added"), older="accept")
        must(report.imported == 1, f"one new event gave {report}")
        self.succeeded = True

    def done(self, state: State) -> State:
        return with_more("added")(state)


class AppendOne(Other):
    name = "append"

    async def meanwhile(self, store: EventStore) -> None:
        event = make_event(0, threadId=255, threadCounter=0, aggregateId="appended-0")
        await import_lines(store, [event], maintenance_mode=MANUAL)
        self.succeeded = True

    def done(self, state: State) -> State:
        return with_more("appended")(state)


class EraseSome(Other):
    name = "erase"
    erases = True

    async def meanwhile(self, store: EventStore) -> None:
        await store.erase(Rules(rules=(Rule(redact=(ERASED,)),)), aggregate_ids=OF_PERSONS)
        self.succeeded = True

    def done(self, state: State) -> State:
        return state


class NewStore(Other):
    """The store is dropped, and another one made in its place, which holds an event. Attributes: how far it came."""

    name = "new store"

    def __init__(self) -> None:
        super().__init__()
        self._left: State = None

    async def meanwhile(self, store: EventStore) -> None:
        if await store.exists():
            await store.drop()
        self.succeeded = True
        await store.init()
        self._left = {}
        await store.save_event({"type": "T", "aggregateId": "fresh-1", "aggregateVersion": 1})
        self._left = {"fresh": COUNTS["fresh"]}

    def done(self, state: State) -> State:
        return self._left


class FreezeIt(Other):
    """A user's freeze, which nobody else may end."""

    name = "freeze"

    async def meanwhile(self, store: EventStore) -> None:
        await store.freeze()
        self.succeeded = True

    async def behind(self, store: EventStore) -> None:
        if self.succeeded and await store.exists():
            must((await store.describe()).frozen_by == "user", "a user's freeze is gone")
            await store.unfreeze()

    def done(self, state: State) -> State:
        return state


OTHERS: dict[str, type[Other]] = {
    kind.name: kind
    for kind in (
        SaveOne,
        ImportTheirs,
        HalfAnImport,
        Resume,
        AddOne,
        AppendOne,
        EraseSome,
        NewStore,
        FreezeIt,
    )
}


class Walk:
    """A walk over the statements of one operation, beside one that others do.

    Attributes:
        pauses: how many statements it was paused before.
        refused: how often it was refused by name behind a pause.
    """

    def __init__(self, world: World, folder: Path, paused: type[Paused], other: type[Other]) -> None:
        self._world = world
        self._folder = folder
        self._paused = paused
        self._other = other
        self._url = ""
        self.pauses = 0
        self.refused = 0

    async def run(self, some: Callable[[int], Iterable[int]]) -> None:
        """Pause before those of its statements, counted from 1, that `some` chooses of so many."""
        self._url = self._world.new_url()
        for at in some(await self._round(NEVER)):
            await self._round(at)

    @asynccontextmanager
    async def _others_store(self) -> AsyncIterator[EventStore]:
        async with open_store(self._world.with_option(self._url, f"busy_timeout={PATIENCE}")) as store:
            yield store

    async def _prepare(self) -> Paused:
        """A store that holds the old events and nothing else, whatever the round before has left."""
        async with open_store(self._url) as store:
            if await store.exists() and await store.erased():  # from whatever enters it, too
                await store.rollback_import()
                await store.drop()
            if not await store.exists():
                await store.init()
            await store.rollback_import()
            await store.rollback_incremental_import()
            await import_lines(store, b"".join(family("old")))
            await store.incremental_import([])  # removes the stages of the dead
            names = await asyncio.to_thread(self._world.names, self._url)
            left = names - KEPT ^ self._world.tables
            must(not left, f"tables are left: {sorted(left)}")
            paused = self._paused(self._world, self._url, self._folder)
            await paused.prepare(store)
        return paused

    async def _round(self, at: int) -> int:
        """Pause before one statement; how many it sent."""
        paused, other = await self._prepare(), self._other()
        child = Child(paused.job, *paused.arguments(), pause_at=at)
        try:
            came = await child.until_paused()
            if came:
                self.pauses += 1
            await self._judge(child, paused, other, at if came else NEVER)
        except BaseException as error:
            error.add_note(
                f"{self._world.database}: {paused.name} paused before statement {at}, {other.name} beside it; "
                f"ended {child.ended}: {child.error}"
            )
            raise
        finally:
            child.signal(signal.SIGKILL)
        return sum(sent for (sent,) in child.words("sent"))

    async def _judge(self, child: Child, paused: Paused, other: Other, at: int) -> None:
        came = at != NEVER
        owners = [owner for (owner,) in child.words("owns")]
        error: EventferryError | None = None
        async with self._others_store() as store:
            if came:
                await asyncio.to_thread(paused.take_locks, owners)
                before = await self._seen(store)
                names = await asyncio.to_thread(self._world.names, self._url)
                has_begun = paused.has_begun(owners, names)
                try:
                    async with asyncio.timeout(HANGS):
                        await other.meanwhile(store)
                except EventferryError as refusal:
                    error = refusal
                child.signal(signal.SIGCONT)
            else:
                before, has_begun = None, False
            must(await child.until_over(HANGS), "hangs")
            must(child.ended in ("well", "refused"), "an error without a name")
            if came and error is None:
                try:
                    await other.behind(store)
                except EventferryError as refusal:
                    must(child.ended == "well", f"an import was spoilt by one that was refused: {refusal!r}")
        await self._world.settle(self._url)
        self.refused += child.ended == "refused"
        await self._compare(child, paused, other, before, at, has_begun=has_begun)

    async def _seen(self, store: EventStore) -> State | str:
        """What the store holds while the operation is paused, where that can be told."""
        try:
            return state_of(await lines_of(store))
        except StoreNotFoundError:
            return None
        except EventferryError:
            return "unknown"

    async def _compare(
        self, child: Child, paused: Paused, other: Other, before: State | str, at: int, *, has_begun: bool
    ) -> None:
        old: State = {"old": COUNTS["old"]}
        well = child.ended == "well"
        first = paused.done(old) if well or before == paused.done(old) else old
        behind = other.done(old) if other.succeeded else old
        in_turn = other.done(first) if other.succeeded else first
        last = paused.done(behind) if well else behind
        allowed: list[State] = []
        if before != old or paused.done(old) == old or not well or not other.succeeded:
            allowed.append(in_turn)  # it had done its work when it was paused, or it did none
        if before in (old, "unknown") or at in (1, NEVER):  # before its first statement it has seen nothing
            # It did its work behind the others': where it replaces, nothing may have come in since it began.
            is_blind = paused.replaces and has_begun and behind != old
            around = isinstance(other, HalfAnImport) and other.succeeded
            if not well or not (is_blind or around):
                allowed.append(last)
            if around and not well:
                allowed.append(other.done(old))
        async with open_store(self._url) as store:
            found: State = None
            with contextlib.suppress(StoreNotFoundError):
                lines = await lines_of(store)
                found = state_of(lines)
                if (well and paused.erases) or (other.succeeded and other.erases):
                    must(is_erased(lines), "something that was erased is there")
            must(
                found in allowed,
                f"the store holds {found}, not one of {allowed}; seen at the pause {before}, it had "
                f"{'' if has_begun else 'not '}begun, the others {'succeeded' if other.succeeded else 'did not'}",
            )
            if found is not None:
                by = (await store.describe()).frozen_by
                must(by is None, f"the store is left frozen by {by}")
        paused.look(well, [old, first, behind, in_turn, last])


Tallies: TypeAlias = dict[tuple[str, str], tuple[int, int]]
"""By the operation and what others did beside it: how many pauses there were, and refusals by name."""


def every(count: int) -> Iterable[int]:
    """All statements."""
    return range(1, count + 1)


async def walk(
    database: str,
    pairs: Iterable[tuple[str, str]],
    some: Callable[[int], Iterable[int]] = every,
    tell: Callable[[str], None] = lambda words: None,
) -> Tallies:
    """Walk over operations on one database, each beside what others do.

    Args:
        database: one of `DATABASES`.
        pairs: of the names of a paused operation and of another.
        some: chooses statements, of so many.
        tell: takes a line about each pair.

    Raises:
        BrokenPromiseError: an acknowledged event is lost, or two imports have mixed.
    """
    make_ready()
    tallies: Tallies = {}
    for operation, beside in pairs:
        # A world for each pair: what the walks of others left would fill its small disk.
        with made(database) as world, tempfile.TemporaryDirectory(prefix="eventferry-pauses-") as name:
            folder = Path(name)
            folder.chmod(0o777)
            each = Walk(world, folder, PAUSED[operation], OTHERS[beside])
            await each.run(some)
        tallies[operation, beside] = each.pauses, each.refused
        tell(f"{database}: {operation}, {beside} beside it: {each.pauses} pauses, {each.refused} refused")
    return tallies


def main() -> None:
    """The whole walk, or that of one operation: `python -m tests.support.faults.pauses [OPERATION] [DATABASE …]`. A
    broken promise ends it with its story."""
    words = sys.argv[1:]
    operations = [words.pop(0)] if words and words[0] in PAUSED else list(PAUSED)
    keeper = keep_servers()
    pauses = 0
    for database in words or DATABASES:
        tallies = asyncio.run(
            walk(database, itertools.product(operations, OTHERS), tell=partial(print, flush=True))
        )
        count = sum(each for each, _ in tallies.values())
        print(f"{database}: {count} pauses, nothing lost, nothing mixed", flush=True)
        pauses += count
    print(f"{pauses} pauses")
    if keeper.stdin is not None:
        keeper.stdin.close()


if __name__ == "__main__":
    main()

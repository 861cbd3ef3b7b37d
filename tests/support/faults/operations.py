"""What is harmed: for each operation the state before it, and what may be left of it, whatever happens.

An operation keeps a model of its store: the lines that an export must give. What a child acknowledged must be in the
store, once; what it did not may be there whole or not at all, as the operation promises.
"""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from eventferry import (
    MANUAL,
    EventStore,
    ImportReport,
    ResumeError,
    StoreFrozenError,
    check,
    open_store,
    pipeline,
    verify,
)
from tests.support import LONG_AGO, exported, import_lines, line, make_event, make_lines
from tests.support.faults.children import Child
from tests.support.faults.worlds import World

Through: TypeAlias = Callable[[str], str]
"""Gives the URL by which a child gets to a store."""

OLD = make_lines(300)
EVENTS = 1000
MOST = 5000
"""Beyond so many events a store begins anew, so that rounds stay short."""


class BrokenPromiseError(Exception):
    """A promise is broken."""


def must(holds: object, words: str) -> None:
    """Raises BrokenPromiseError where something does not hold."""
    if not holds:
        raise BrokenPromiseError(words)


class Operation(ABC):
    """An operation on a store of its own.

    Args:
        world: where the store is.
        folder: for files.

    Attributes:
        url: of the store that it changes.
        lines: what an export of that store gives now.
    """

    name: ClassVar[str]

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.url = world.new_url()
        self.lines: list[bytes] = []

    async def set_up(self) -> None:
        async with open_store(self.url) as store:
            await store.init()
            await self._begin_anew(store)

    async def prepare(self, chance: random.Random) -> None:
        """Make ready for a round."""
        if len(self.lines) > MOST:
            async with open_store(self.url) as store:
                await self._begin_anew(store)
        await self._choose(chance)

    @abstractmethod
    async def _choose(self, chance: random.Random) -> None:
        """What the child is to do this time."""

    @abstractmethod
    def arguments(self, through: Through) -> tuple[Any, ...]:
        """Of the job."""

    async def look(self, child: Child) -> str:
        """Whether the old state is left, the new one, or a part as promised. Raises BrokenPromiseError."""
        async with open_store(self.url) as store:
            description = await store.describe()
            must(not description.is_frozen, f"the store is left frozen by {description.frozen_by}")
            must(description.open_import is None, "an incremental import is left open")
            return await self._look(child, store)

    @abstractmethod
    async def _look(self, child: Child, store: EventStore) -> str:
        """The state of a store that is not frozen."""

    async def go_on(self, child: Child, chance: random.Random) -> str:
        """The next command, whichever it is, works. Returns which it was."""
        async with open_store(self.url) as store:
            await self._again(child, store, chance)
            return await self._next(store, chance)

    async def _again(self, child: Child, store: EventStore, chance: random.Random) -> None:
        """What was harmed is done again, or gone on with, and comes to its end."""
        return

    async def _next(self, store: EventStore, chance: random.Random) -> str:
        which = chance.choice(("save", "incremental import", "freeze", "import"))
        event = {"type": "NEXT", "aggregateId": f"next-{chance.getrandbits(64)}", "aggregateVersion": 1}
        if which == "save":
            await store.save_event(event)
            await self._grown(store, [event])
        elif which == "incremental import":
            event["timestamp"] = LONG_AGO
            report = await store.incremental_import([event], older="accept")
            must(report == ImportReport(1, 0, 0), f"one new event gave {report}")
            await self._grown(store, [event])
        elif which == "freeze":
            await store.freeze()
            try:
                await store.save_event(event)
            except StoreFrozenError:
                await store.unfreeze()
            else:
                raise BrokenPromiseError("a frozen store took an event")
        else:
            await self._begin_anew(store)
            # Whatever the dead have left behind is gone by now.
            must(await store.incremental_import([]) == ImportReport(), "no events gave a report of some")
            names = self.world.names(self.url)
            must(names == self.world.tables, f"tables are left: {sorted(names ^ self.world.tables)}")
        return which

    async def _begin_anew(self, store: EventStore) -> None:
        await import_lines(store, OLD)
        self.lines = await lines_of(store)
        must(b"".join(self.lines) == OLD, "an import did not bring what it was given")

    async def _grown(self, store: EventStore, events: Sequence[dict[str, Any]]) -> None:
        """The store holds these events beside those of the model; the model is what it holds now."""
        lines = await lines_of(store)
        came = added(self.lines, lines)
        must(
            sorted(event["aggregateId"] for event in came)
            == sorted(event["aggregateId"] for event in events),
            f"{len(events)} events came in and {len(came)} are new",
        )
        self.lines = lines

    def _write(self, lines: Iterable[bytes]) -> str:
        path = self.folder / f"{self.name}.jsonl"
        path.write_bytes(b"".join(lines))
        path.chmod(0o644)
        return str(path)


async def lines_of(store: EventStore) -> list[bytes]:
    """All lines of a sound store."""
    lines = (await exported(store)).splitlines(keepends=True)
    positions: set[tuple[int, int]] = set()
    versions: set[tuple[str, int]] = set()
    heads: Counter[int] = Counter()
    for event in map(json.loads, lines):
        thread, counter = event["threadId"], event["threadCounter"]
        must(counter == heads[thread], f"thread {thread} has {counter} where {heads[thread]} comes next")
        heads[thread] += 1
        positions.add((thread, counter))
        versions.add((event["aggregateId"], event["aggregateVersion"]))
    must(len(versions) == len(lines), "a version of an aggregate is there twice")
    description = await store.describe(calculate_cursor=True)
    must(description.event_count == len(lines), f"{description.event_count} counted, {len(lines)} exported")
    expected = store.get_next_cursor(None, (await store.load_events(limit=MOST * 2, cursor=None)).events)
    must(description.cursor == expected, "the heads don't agree with the events")
    return lines


def added(before: Iterable[bytes], after: Iterable[bytes]) -> list[dict[str, Any]]:
    """The events that are new. What was there before must be there still, each line as it was."""
    old, new = Counter(before), Counter(after)
    must(not old - new, f"lost: {sum((old - new).values())} events that were there before")
    return [json.loads(text) for text in (new - old).elements()]


def contents(events: Iterable[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    return Counter(
        (event["timestamp"], event["aggregateId"], event["type"], json.dumps(event["payload"]))
        for event in events
    )


def latest(lines: Iterable[bytes]) -> int:
    return max((json.loads(text)["timestamp"] for text in lines), default=LONG_AGO)


def fresh_lines(chance: random.Random) -> list[bytes]:
    """Lines that no store has had before."""
    mark = f"{chance.getrandbits(48):x}"
    return [
        line(make_event(i, aggregateId=f"{mark}-{i % 10}", payload={"mark": mark, "number": i}))
        for i in range(EVENTS)
    ]


class Import(Operation):
    """Replaces: the events before, or those of the file."""

    name = "import"

    async def _choose(self, chance: random.Random) -> None:
        self._new = fresh_lines(chance)
        self._path = self._write(self._new)
        self._freezes = chance.random() < 0.5

    def arguments(self, through: Through) -> tuple[Any, ...]:
        return through(self.url), self._path, self._freezes

    async def _look(self, child: Child, store: EventStore) -> str:
        return await self._old_or_new(child, store, self._new)

    async def _old_or_new(self, child: Child, store: EventStore, new: list[bytes]) -> str:
        lines = await lines_of(store)
        must(lines in (self.lines, new), "neither the old events nor the new ones")
        must(lines == new or not child.is_done, "lost: an import that was acknowledged")
        outcome = "new" if lines == new else "old"
        self.lines = lines
        return outcome

    async def _again(self, child: Child, store: EventStore, chance: random.Random) -> None:
        if chance.random() < 0.3:
            source = b"".join(self._new)
            try:
                await pipeline(self._path, store.import_events(resume=chance.random() < 0.7))
            except ResumeError:  # it was killed so early that what is left is of an import before it
                await pipeline(self._path, store.import_events())
            self.lines = await lines_of(store)
            must(self.lines == self._new, "an import that went on did not bring what it was given")
            report = await verify(store.export_events(), iter([source]))
            must(report.equal, f"verify says {report}")


class Append(Operation):
    """Appends block by block: a beginning of the file, and at least what was acknowledged."""

    name = "append"

    async def _choose(self, chance: random.Random) -> None:
        mark = f"{chance.getrandbits(48):x}"
        heads = Counter(json.loads(text)["threadId"] for text in self.lines)
        last = latest(self.lines)
        self._new: list[bytes] = []
        for i in range(EVENTS):
            event = make_event(
                i, threadCounter=heads[i % 256], aggregateId=f"{mark}-{i % 10}", timestamp=last + i
            )
            heads[i % 256] += 1
            self._new.append(line(event))
        self._path = self._write(self._new)

    def arguments(self, through: Through) -> tuple[Any, ...]:
        return through(self.url), self._path

    async def _look(self, child: Child, store: EventStore) -> str:
        lines = await lines_of(store)
        came = len(added(self.lines, lines))
        must(
            Counter(lines) == Counter(self.lines) + Counter(self._new[:came]),
            "what an appending import left is no beginning of its source",
        )
        stored = max((offset for (offset,) in child.words("stored")), default=0)
        must(len(b"".join(self._new[:came])) >= stored, "lost: a block that was acknowledged")
        must(came == EVENTS or not child.is_done, "lost: an import that was acknowledged")
        return "new" if came == EVENTS else "partial" if came else "old"

    async def _again(self, child: Child, store: EventStore, chance: random.Random) -> None:
        await import_lines(store, b"".join(self._new), maintenance_mode=MANUAL)
        lines = await lines_of(store)
        must(Counter(lines) == Counter(self.lines) + Counter(self._new), "appending again lost or doubled")
        self.lines = lines


class _Merging(Operation):
    """What comes in by merging: all of a batch or nothing."""

    def _batch(self, chance: random.Random, count: int) -> None:
        mark = f"{chance.getrandbits(48):x}"
        first = latest(self.lines) + 1
        self._events: list[dict[str, Any]] = [
            {
                "type": f"TYPE_{i % 3}",
                "timestamp": first + i // 3,
                "aggregateId": f"{mark}-{i % 9}",
                "payload": {"number": i // 2},  # some are equal but for their aggregate or time
            }
            for i in range(count)
        ]

    def _came_in(self, child: Child, lines: list[bytes]) -> int:
        came = added(self.lines, lines)
        must(len(came) in (0, len(self._events)), f"{len(came)} of {len(self._events)} came in")
        must(not came or contents(came) == contents(self._events), "other events came in than were given")
        versions = sorted((event["aggregateId"], event["aggregateVersion"]) for event in came)
        counts: Counter[str] = Counter()
        for aggregate, version in versions:
            counts[aggregate] += 1
            must(version == counts[aggregate], f"{aggregate} has no version {counts[aggregate]}")
        if child.is_done:
            must(came, "lost: a merge that was acknowledged")
            must(child.words("done") == [(len(came),)], "the report tells another count")
        return len(came)


class Merge(_Merging):
    """An incremental import in one: in, or not at all."""

    name = "merge"

    async def _choose(self, chance: random.Random) -> None:
        self._batch(chance, EVENTS)
        self._path = self._write(map(line, self._events))

    def arguments(self, through: Through) -> tuple[Any, ...]:
        return through(self.url), self._path

    async def _look(self, child: Child, store: EventStore) -> str:
        self._came = self._came_in(child, await lines_of(store))
        return "new" if self._came else "old"

    async def _again(self, child: Child, store: EventStore, chance: random.Random) -> None:
        report = await store.incremental_import(self._events)
        must(report == ImportReport(EVENTS - self._came, self._came, 0), f"the same again gave {report}")
        lines = await lines_of(store)
        must(contents(added(self.lines, lines)) == contents(self._events), "merging again lost or doubled")
        self.lines = lines


class Steps(_Merging):
    """An incremental import in steps: open with its parts, or in, and it can be gone on with."""

    name = "steps"
    PARTS = 6

    async def _choose(self, chance: random.Random) -> None:
        self._batch(chance, EVENTS)
        size = -(-EVENTS // self.PARTS)
        self._parts = [self._events[start : start + size] for start in range(0, EVENTS, size)]

    def arguments(self, through: Through) -> tuple[Any, ...]:
        return through(self.url), self._parts

    async def look(self, child: Child) -> str:
        async with open_store(self.url) as store:
            description = await store.describe()
            must(not description.is_frozen, f"the store is left frozen by {description.frozen_by}")
            self._left = description.open_import
            return await self._look(child, store)

    async def _look(self, child: Child, store: EventStore) -> str:
        lines = await lines_of(store)
        came = self._came_in(child, lines)
        opened = [import_id for (import_id,) in child.words("opened")]
        if came:
            must(self._left is None, "the import is in, and still open")
            self.lines = lines
            return "new"
        if self._left is None:
            must(not opened, "lost: an import that was open")
            return "old"
        must(not opened or opened == [self._left.id], "another import is open")
        return "partial" if child.words("pushed") else "old"

    async def _again(self, child: Child, store: EventStore, chance: random.Random) -> None:
        if self._left is None:
            return
        if chance.random() < 0.2:
            await store.rollback_incremental_import(self._left.id)
            must(await lines_of(store) == self.lines, "a rollback changed events")
            return
        # Pushes that were answered stay; the others may have come or not, and replace themselves.
        pushed = {number for (number,) in child.words("pushed")}
        for number, part in enumerate(self._parts):
            if number not in pushed or chance.random() < 0.3:
                await store.push_incremental_import(part, self._left.id, part=str(number))
        report = await store.commit_incremental_import(self._left.id)
        must(report == ImportReport(EVENTS, 0, 0), f"going on gave {report}")
        lines = await lines_of(store)
        must(contents(added(self.lines, lines)) == contents(self._events), "going on lost or doubled")
        self.lines = lines


class Save(Operation):
    """Saves of several writers: all that were answered, and of each writer at most one more."""

    name = "save"
    WRITERS, EACH = 3, 12

    async def _choose(self, chance: random.Random) -> None:
        self._aggregate = f"saved-{chance.getrandbits(48):x}"

    def arguments(self, through: Through) -> tuple[Any, ...]:
        return through(self.url), self._aggregate, self.WRITERS, self.EACH

    async def _look(self, child: Child, store: EventStore) -> str:
        # Nobody else saves for these aggregates: whoever is told so met an event of its own.
        must("ConcurrentError" not in (child.error or ""), "a save that was stored is told as refused")
        lines = await lines_of(store)
        stored: dict[str, list[int]] = {}
        places: dict[tuple[str, int], tuple[int, int]] = {}
        for event in added(self.lines, lines):
            aggregate, version = event["aggregateId"], event["aggregateVersion"]
            stored.setdefault(aggregate, []).append(version)
            places[aggregate, version] = event["threadId"], event["threadCounter"]
        answered: Counter[str] = Counter()
        for aggregate, version, *place in child.words("saved"):
            answered[aggregate] += 1
            must(
                places.get((aggregate, version)) == tuple(place),
                f"lost: version {version} of {aggregate} is not where it was acknowledged",
            )
        for aggregate, versions in stored.items():
            must(sorted(versions) == list(range(1, len(versions) + 1)), f"{aggregate} has a gap")
            must(
                len(versions) <= answered[aggregate] + 1, f"doubled: {aggregate} has events that nobody saved"
            )
        self.lines = lines
        came = sum(map(len, stored.values()))
        return "new" if came == self.WRITERS * self.EACH else "partial" if came else "old"


class Export(Operation):
    """An export changes nothing; a file is there whole or not at all, a stream breaks off inside an event."""

    name = "export"

    async def _begin_anew(self, store: EventStore) -> None:
        await super()._begin_anew(store)
        await import_lines(store, self._more(), maintenance_mode=MANUAL)
        self.lines = await lines_of(store)

    def _more(self) -> bytes:
        return make_lines(EVENTS)[len(OLD) :]

    async def _choose(self, chance: random.Random) -> None:
        self._freezes = chance.random() < 0.6
        self._whole = chance.random() < 0.5
        self._place = self.folder / f"export-{chance.getrandbits(32):x}"
        self._place.mkdir(mode=0o777)
        self._place.chmod(0o777)

    def arguments(self, through: Through) -> tuple[Any, ...]:
        return through(self.url), str(self._place / "file.jsonl"), self._freezes, self._whole

    async def _look(self, child: Child, store: EventStore) -> str:
        must(await lines_of(store) == self.lines, "an export changed the store")
        path = self._place / "file.jsonl"
        expected = b"".join(self.lines)
        got = path.read_bytes() if path.exists() else None
        if child.is_done:
            must(got == expected, "an export that was acknowledged is not all of the store")
        if self._whole:
            must(got in (None, expected), "a file is there that is not whole")
            return "old" if got is None else "new"
        got = got or b""
        must(expected.startswith(got), "an export gave other events than the store holds")
        must(got == expected or not got.endswith(b"\n"), "an export that broke off looks like an end")
        size, cursor = max(child.words("reached"), default=(0, None), key=lambda reached: reached[0])
        whole = got[:size].rfind(b"\n") + 1
        rest = await exported(store, cursor=cursor)
        must(got[:whole] + rest == expected, "an export that went on from its cursor lost or doubled")
        return "new" if got == expected else "partial" if got else "old"

    async def _again(self, child: Child, store: EventStore, chance: random.Random) -> None:
        report = await check(store.export_events())
        must(report.sound and not report.missing_counters, f"check says {report}")


class Copy(Import):
    """From one store to another: the source stays as it is, the target has its old events or the source's."""

    name = "copy"

    async def set_up(self) -> None:
        await super().set_up()
        self._source_url = self.world.new_url()
        self._source = make_lines(EVENTS)
        async with open_store(self._source_url) as source:
            await source.init()
            await import_lines(source, self._source)

    async def _choose(self, chance: random.Random) -> None:
        self._freezes = chance.random() < 0.5

    def arguments(self, through: Through) -> tuple[Any, ...]:
        return through(self._source_url), through(self.url), self._freezes

    async def _look(self, child: Child, store: EventStore) -> str:
        async with open_store(self._source_url) as source:
            description = await source.describe()
            must(not description.is_frozen, f"the source is left frozen by {description.frozen_by}")
            must(await exported(source) == self._source, "a copy changed its source")
            # Writers of the source get on too.
            await source.freeze()
            await source.unfreeze()
        return await self._old_or_new(child, store, self._source.splitlines(keepends=True))

    async def _again(self, child: Child, store: EventStore, chance: random.Random) -> None:
        report = await check(store.export_events())
        must(report.sound and not report.missing_counters, f"check says {report}")


class OfTheWhole(Operation):
    """What is done to a store as a whole, three times over and the same in each round. The store may be left frozen, or
    away."""

    async def _choose(self, chance: random.Random) -> None:
        """It is the same each time."""

    def arguments(self, through: Through) -> tuple[Any, ...]:
        return through(self.url), 3

    async def look(self, child: Child) -> str:
        async with open_store(self.url) as store:
            return await self._look(child, store)


class Freeze(OfTheWhole):
    """A user's freeze stays, an operation's ends with it; the events don't change."""

    name = "freeze"

    async def _look(self, child: Child, store: EventStore) -> str:
        by = (await store.describe()).frozen_by
        last = child.said[-1][0] if child.said else "released"
        # What it had told last, or what it was about to do.
        possible = {"frozen": {"user", None}, "released": {None, "user"}}.get(last, {None})
        must(by in possible, f"frozen by {by} after {last!r}")
        if by is not None:
            try:
                await store.save_event({"type": "T", "aggregateId": "nobody", "aggregateVersion": 1})
            except StoreFrozenError:
                await store.unfreeze()
            else:
                raise BrokenPromiseError("a frozen store took an event")
        must(await lines_of(store) == self.lines, "a freeze changed events")
        return "new" if by else "old"


class Make(OfTheWhole):
    """Drop and init: the store is there with everything, or away, and both can be done again."""

    name = "make"

    async def _look(self, child: Child, store: EventStore) -> str:
        is_there = await store.exists()
        outcome = "old"
        if not child.said:
            must(
                not is_there or await lines_of(store) in (self.lines, []), "a drop left a part of the events"
            )
        elif is_there:
            outcome = "new"
            must(await lines_of(store) == [], "a new store has events")
        must(is_there or not child.is_done, "lost: a store that was made")
        if is_there:
            await store.drop()
        must(not await store.exists(), "a store that was dropped is there")
        await store.init()
        await self._begin_anew(store)
        return outcome


OPERATIONS: dict[str, type[Operation]] = {
    operation.name: operation
    for operation in (Import, Append, Merge, Steps, Save, Export, Copy, Freeze, Make)
}

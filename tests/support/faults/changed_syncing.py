"""The storm of a sync with changes: writers add flights to a source, and a sync that selects, renames, hides and splits
them follows in a process of its own and is killed again and again.

When the writers have stopped and it has come to the end, the target must hold exactly what the changes make of the
source: as SQL and a count that knows nothing of rules find, and as `verify` finds by making the changes again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from eventferry import Changes, Event, EventStore, check, open_store, verify
from eventferry.clock import now
from tests.support import all_pages
from tests.support.faults.children import Child, make_ready
from tests.support.faults.operations import must

WRITERS = 4

FIRST = 1_000
"""Events of the source when the storm begins."""

HANGS = 120.0
"""Seconds after which the last sync hangs."""

OWN = "own-"
"""With this the aggregates begin that a merge's target has of its own."""

PREFIX = "east-"
"""What a merge puts in front of the source's aggregates."""

RULES = """
[pseudonyms]
key_file = "storm.key"
[[rule]]
type = "FLIGHT_CANCELLED"
drop = true
[[rule]]
type = "FLIGHT_DEPARTED"
rename = "DEPARTED"
[[rule]]
aggregate_prefix = "aircraft-"
pseudonym_aggregate = true
pseudonym = ["/tail"]
"""


def legs(event: Event) -> Iterable[Event]:
    """An arrival becomes two events."""
    if event.type != "FLIGHT_ARRIVED":
        return [event]
    return [msgspec.structs.replace(event, type=kind) for kind in ("LANDED", "PARKED")]


def changes_of(rules: Path) -> Changes:
    """One prefix only, types renamed, some dropped, some split, and aircraft under pseudonyms."""
    return Changes(rules=rules, function=legs, aggregate_prefixes=["aircraft-"])


def kinds_of(kind: str) -> list[str]:
    """What becomes of an event of a type, as this file knows it without any rules."""
    known: dict[str, list[str]] = {
        "FLIGHT_CANCELLED": [],
        "FLIGHT_DEPARTED": ["DEPARTED"],
        "FLIGHT_ARRIVED": ["LANDED", "PARKED"],
    }
    return known[kind]


@dataclasses.dataclass
class Totals:
    """What was done, and what came over."""

    kills: int = 0
    batches: int = 0
    read: int = 0
    events: int = 0
    before_a_bookmark: int = 0


class Writers:
    """Save flights until they are stopped; each has aircraft of its own, and a clock of its own."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self.saved = 0
        self._url = url
        self._chance = chance
        self._is_over = False

    def stop(self) -> None:
        """Let each end what it is at."""
        self._is_over = True

    async def run(self) -> None:
        async with open_store(self._url) as store, asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self._write(store, number))

    async def _write(self, store: EventStore, number: int) -> None:
        versions: Counter[str] = Counter()
        skew = (number - 1) * 900
        while not self._is_over:
            for event in flight(self._chance, number, now() + skew):
                name = event["aggregateId"]
                versions[name] += 1
                await store.save_event(event | {"aggregateVersion": versions[name]})
                self.saved += 1
            await asyncio.sleep(self._chance.random() ** 4 * 0.1)


def flight(chance: random.Random, writer: int | str, at: int) -> list[dict[str, Any]]:
    """The events of one flight; now and then one that never gets an aircraft."""
    tail = f"N{writer}{chance.randrange(30):03}"
    payload = {"tail": tail, "carrier": chance.choice(("UA", "EV", "MQ")), "number": chance.randrange(10**9)}
    kinds = chance.choice((["FLIGHT_CANCELLED"], ["FLIGHT_DEPARTED"], ["FLIGHT_DEPARTED", "FLIGHT_ARRIVED"]))
    name = f"aircraft-{tail}" if chance.random() < 0.8 else f"flight-{tail}"
    return [
        {"type": kind, "timestamp": at, "aggregateId": name, "payload": payload | {"delay": chance.random()}}
        for kind in kinds
    ]


async def storm(
    source_url: str, url: str, rules: Path, mode: str, *, kills: int, events: int, seed: int
) -> Totals:
    """Go on until so many kills have met a sync at work, and so many events were saved.

    Args:
        source_url: where a source is made.
        url: where its target is made.
        rules: the file, with `RULES` in it.
        mode: "replica", or "merge": the target has a writer of its own.

    Raises:
        BrokenPromiseError: an event is lost, doubled, out of order or not as it should be, or a sync ended by itself.
    """
    make_ready()
    totals, chance = Totals(), random.Random(seed)
    await _set_up(source_url, url, mode, chance)
    writers = Writers(source_url, random.Random(chance.getrandbits(64)))
    bookmarks: list[str] = []
    own = _Own(url) if mode == "merge" else None
    child: Child | None = None
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(writers.run())
            if own is not None:
                group.create_task(own.run())
            while totals.kills < kills or writers.saved < events:
                child = Child("sync changed", source_url, url, rules, mode, True)
                await child.until_begun()
                # In the first fill, in the first batches, or when it has come to the end.
                await asyncio.sleep(chance.random() ** 2 * 1.5)
                must(not child.is_over, f"a sync that follows ended {child.ended}: {child.error}")
                totals.kills += 1
                child.signal(signal.SIGKILL)
                must(await child.until_over(HANGS), "a child that was killed does not end")
                batches = child.words("batch")
                totals.batches += len(batches)
                bookmarks += [bookmark for _, bookmark in batches[-1:]]
            writers.stop()
            if own is not None:
                own.stop()
    finally:
        if child is not None:
            child.signal(signal.SIGKILL)
    last = Child("sync changed", source_url, url, rules, mode, False)
    must(await last.until_over(HANGS), "the last sync hangs")
    must(last.ended == "well", f"the last sync ended {last.ended}: {last.error}")
    await _look(source_url, url, rules, mode, chance.choice(bookmarks) if bookmarks else None, totals)
    return totals


async def _set_up(source_url: str, url: str, mode: str, chance: random.Random) -> None:
    async with open_store(source_url) as store, open_store(url) as target:
        await store.init()
        events: list[dict[str, Any]] = []
        while len(events) < FIRST:
            events += flight(chance, "X", now() - 10**9 + len(events))
        await store.incremental_import(events)
        if mode == "merge":
            await target.init()


class _Own:
    """Saves events of the target's own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = False

    def stop(self) -> None:
        """Let it end what it is at."""
        self._is_over = True

    async def run(self) -> None:
        async with open_store(self._url) as store:
            for number in itertools.count(1):
                if self._is_over:
                    return
                await store.save_event(
                    {
                        "type": "OWN",
                        "aggregateId": f"{OWN}{number % 7}",
                        "aggregateVersion": (number + 6) // 7,
                    }
                )
                await asyncio.sleep(0.02)


async def _look(
    source_url: str, url: str, rules: Path, mode: str, bookmark: str | None, totals: Totals
) -> None:
    changes = changes_of(rules)
    async with open_store(source_url) as source, open_store(url) as target:
        before, after = await all_pages(source, 5_000), await all_pages(target, 5_000)
        came = [event for event in after if not event.aggregate_id.startswith(OWN)]
        _are_all(before, came, PREFIX if mode == "merge" else "")
        soundness = await check(target)
        must(soundness.sound and not soundness.missing_versions, f"not sound: {soundness}")
        [status] = await target.sync_status(source)
        must(status.lag_events == 0 and status.problem is None, f"it lags behind: {status}")
        must(status.events == len(came), f"{len(came)} events came, and the sync says {status.events}")
        if mode == "replica":
            places = [(event.thread_id, event.thread_counter) for event in came]
            must(places == [(0, counter) for counter in range(len(came))], "the places have gaps")
            report = await verify(
                source.export_events(), target.export_events(), changes=changes, content=True
            )
            must(report.equal, f"not equal: {report}")
        if mode == "replica" and bookmark is not None:
            report = await verify(
                source.export_events(until=bookmark),
                target.export_events(),
                changes=changes,
                content=True,
                other_grows=True,
            )
            must(report.equal, f"not equal up to a bookmark: {report}")
            totals.before_a_bookmark = report.events
    totals.read, totals.events = len(before), len(came)


def _are_all(before: Sequence[Event], came: Sequence[Event], prefix: str) -> None:
    """Each aircraft has one pseudonym, and under it all of its events and no others, in its order."""
    expected: dict[str, list[Any]] = defaultdict(list)
    for event in sorted(before, key=lambda event: event.aggregate_version):
        if event.aggregate_id.startswith("aircraft-"):
            expected[event.aggregate_id] += [
                (event.timestamp, kind, event.payload["number"], event.payload["delay"])
                for kind in kinds_of(event.type)
            ]
    found: dict[str, list[Any]] = defaultdict(list)
    tails: dict[str, set[str]] = defaultdict(set)
    for event in sorted(came, key=lambda event: event.aggregate_version):
        name, payload = event.aggregate_id, event.payload
        found[name].append((event.timestamp, event.type, payload["number"], payload["delay"]))
        tails[name].add(payload["tail"])
        must(event.aggregate_version == len(found[name]), f"{event} has another version")
        must(name.startswith(f"{prefix}aircraft-"), f"{event} is of an aggregate that was not selected")
        must(name.removeprefix(prefix) not in expected, f"the aircraft {name} has no pseudonym")
    must(all(len(each) == 1 for each in tails.values()), "an aircraft has two pseudonyms")
    wanted = sorted(events for events in expected.values() if events)
    must(sorted(found.values()) == wanted, "lost, doubled, out of order or not as it should be")


def told(totals: Totals) -> str:
    """The totals in a line."""
    figures = ", ".join(f"{name} {count}" for name, count in dataclasses.asdict(totals).items())
    return f"0 lost, 0 doubled, in order ({figures})"

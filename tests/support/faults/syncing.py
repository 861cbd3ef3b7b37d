"""The storm of sync: writers write, a sync follows them in a process of its own, and harm is done at random.

It is started again at once. When the writers have stopped and it has come to the end of the source, the target must
hold each event exactly once, as a count by SQL and `verify` find independently of each other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from eventferry import (
    EventStore,
    SecretExistsError,
    StoreBusyError,
    StoreNotFoundError,
    StoreUnreachableError,
    open_store,
    verify,
    verify_secrets,
)
from eventferry.clock import now
from tests.support import all_pages, import_lines, make_event, raw
from tests.support.faults.children import Child, make_ready
from tests.support.faults.operations import must
from tests.support.faults.worlds import ServerLostError, World, made
from tests.support.places import DATABASES
from tests.support.servers import keep_servers

PAIRS = tuple(itertools.product(DATABASES, DATABASES))
MODES = ("replica", "merge")

FIRST = 700
"""Events of a source when the storm begins."""

HANGS = 120.0
"""Seconds after which the last sync hangs."""

MOST_LOST = 5
"""How many servers may be lost."""

SKEWS = {"right": 0, "slow": -7_000, "fast": 5_000, "future": 40 * 365 * 86_400_000, "drunk": 0}
"""How wrong the clocks of writers are, in ms; the last one goes back now and then."""

OUT_OF_REACH = (StoreUnreachableError, StoreBusyError)

ALLOWED = ("StoreNotFoundError",)
"""What a sync may end with that follows: its target was dropped."""


@dataclasses.dataclass
class Totals:
    """What was done to the syncs of one pair, and what came over."""

    kills: int = 0
    twins: int = 0
    stops: int = 0
    cuts: int = 0
    servers: int = 0
    drops: int = 0
    servers_lost: int = 0
    refused: int = 0
    saved: int = 0
    events: int = 0
    secrets: int = 0

    @property
    def struck(self) -> int:
        """Kills of any kind."""
        return self.kills + self.twins + self.cuts + self.servers


class Writers:
    """Write into one store until they are stopped, whatever becomes of its server.

    Args:
        url: of the store.
        name: with which the names of their aggregates and secrets begin.
        chance: theirs.

    Attributes:
        saved: aggregate and version of each event that was acknowledged.
    """

    def __init__(self, url: str, name: str, chance: random.Random) -> None:
        self.saved: set[tuple[str, int]] = set()
        self._url = url
        self._name = name
        self._chance = chance
        self._is_over = False

    def stop(self) -> None:
        """Let each end what it is at."""
        self._is_over = True

    async def run(self) -> None:
        async with open_store(self._url) as store, asyncio.TaskGroup() as group:
            for name, skew in SKEWS.items():
                group.create_task(self._save(store, name, skew))
            group.create_task(self._merge(store))
            group.create_task(self._keep_secrets(store))

    async def _moment(self) -> None:
        await asyncio.sleep(self._chance.random() * 0.08)

    async def _save(self, store: EventStore, clock: str, skew: int) -> None:
        latest = 0
        for number in itertools.count():
            aggregate = f"{self._name}-{clock}-{number}"
            with contextlib.suppress(
                *OUT_OF_REACH
            ):  # then nobody knows its last version: it is left as it is
                for version in range(1, self._chance.randrange(3, 60)):
                    if self._is_over:
                        return
                    at = now() + skew
                    latest = at - self._chance.randrange(100) if clock == "drunk" else max(latest, at)
                    await store.save_event(
                        {
                            "type": "SAVED",
                            "timestamp": latest,
                            "aggregateId": aggregate,
                            "aggregateVersion": version,
                            "payload": {"number": version, "fill": "x" * self._chance.randrange(300)},
                        }
                    )
                    self.saved.add((aggregate, version))
                    await self._moment()
            await self._moment()

    async def _merge(self, store: EventStore) -> None:
        for number in itertools.count():
            if self._is_over:
                return
            began = now() - self._chance.randrange(100_000)
            events = [
                {
                    "type": "IMPORTED",
                    "timestamp": began + k,
                    "aggregateId": f"{self._name}-imported-{number}-{k % 3}",
                    "payload": [number, k],
                }
                for k in range(self._chance.randrange(1, 30))
            ]
            with contextlib.suppress(*OUT_OF_REACH):
                await store.incremental_import(events, older="accept")
            await asyncio.sleep(self._chance.random() * 0.6)

    async def _keep_secrets(self, store: EventStore) -> None:
        known: list[str] = []
        for number in itertools.count():
            if self._is_over:
                return
            with contextlib.suppress(*OUT_OF_REACH, SecretExistsError):
                if known and self._chance.random() < 0.4:
                    await store.delete_secret(known.pop(self._chance.randrange(len(known))))
                else:
                    await store.set_secret(f"{self._name}-{number}", f"secret {number}")
                    known.append(f"{self._name}-{number}")
            await asyncio.sleep(self._chance.random() * 0.2)


class SyncStorm:
    """The storm of one pair of databases.

    Args:
        source, target: the databases; one and the same, if they are of one kind.
        mode: "replica"; or "merge": two sources, and a target that has writers of its own.
        seed: all chance follows from it.
    """

    def __init__(self, source: World, target: World, mode: str, seed: int) -> None:
        self._source = source
        self._target = target
        self._mode = mode
        self._chance = random.Random(f"{seed} {source.database} {target.database} {mode}")
        self._urls = [source.new_url() for _ in range(2 if mode == "merge" else 1)]
        self._url = target.new_url()
        self._children: list[Child | None] = [None] * len(self._urls)
        self.totals = Totals()

    async def run(self, kills: int) -> Totals:
        """Go on until so many kills have met a sync at work.

        Raises:
            BrokenPromiseError: an event is lost or doubled, or a sync ended where it should not.
        """
        await self._set_up()
        writers = [Writers(url, f"of-{i}", self._new_chance()) for i, url in enumerate(self._urls)]
        if self._mode == "merge":
            writers.append(Writers(self._url, "own", self._new_chance()))
        try:
            async with asyncio.TaskGroup() as group:
                for each in writers:
                    group.create_task(each.run())
                while self.totals.struck < kills:
                    await self._round()
                for each in writers:
                    each.stop()
        finally:
            for child in self._children:
                if child is not None:
                    child.signal(signal.SIGKILL)
        for i, child in enumerate(self._children):
            if child is not None:
                await self._ended(child)
            last = Child("sync", self._urls[i], self._url, self._mode, False)
            must(await last.until_over(HANGS), "the last sync hangs")
            must(last.ended == "well", f"the last sync ended {last.ended}: {last.error}")
        for each in writers:
            self.totals.saved += len(each.saved)
        await self._look(writers)
        return self.totals

    def _new_chance(self) -> random.Random:
        return random.Random(self._chance.getrandbits(64))

    async def _set_up(self) -> None:
        for i, url in enumerate(self._urls):
            async with open_store(url) as store:
                await store.init()
                await import_lines(
                    store, [make_event(k, aggregateId=f"of-{i}-{k % 10}") for k in range(FIRST)]
                )
                await store.set_secret(f"first-{i}", "first")
        if self._mode == "merge":
            async with open_store(self._url) as store:
                await store.init()

    async def _round(self) -> None:
        """One harm, to whichever sync it meets."""
        for i, child in enumerate(self._children):
            if child is None or child.is_over:
                if child is not None:
                    await self._ended(child)
                self._children[i] = Child("sync", self._urls[i], self._url, self._mode, True)
        at = self._chance.randrange(len(self._children))
        child = self._children[at]
        assert child is not None
        await child.until_begun()
        # Mostly soon, in the first fill or the first batches; now and then when it has come to the end.
        await asyncio.sleep(self._chance.random() ** 3 * 1.2)
        draw = self._chance.random()
        if draw < 0.60:
            await self._kill(child)
        elif draw < 0.70:
            await self._stop(child)
        elif draw < 0.82:
            await self._stand_in(child, at)
        elif draw < 0.90:
            await self._cut()
        elif draw < 0.95:
            await self._kill_a_server()
        elif self._mode == "replica":
            await self._drop(child)

    async def _kill(self, child: Child) -> None:
        self.totals.kills += not child.is_over
        child.signal(signal.SIGKILL)
        await self._ended(child)

    async def _stop(self, child: Child) -> None:
        child.signal(signal.SIGSTOP)
        await asyncio.sleep(self._chance.random())
        child.signal(signal.SIGCONT)
        self.totals.stops += 1

    async def _stand_in(self, child: Child, at: int) -> None:
        """It is stopped, and somebody starts another, and it goes on; one of them is killed."""
        child.signal(signal.SIGSTOP)
        other = Child("sync", self._urls[at], self._url, self._mode, True)
        await other.until_begun()
        await asyncio.sleep(self._chance.random() * 0.8)
        child.signal(signal.SIGCONT)
        await asyncio.sleep(self._chance.random() * 0.5)
        left, gone = (child, other) if self._chance.random() < 0.5 else (other, child)
        self.totals.twins += not gone.is_over
        gone.signal(signal.SIGKILL)
        await self._ended(gone)
        self._children[at] = left

    async def _cut(self) -> None:
        """All connections of one of the two servers break off, the writers' too."""
        world, url = self._chance.choice(((self._source, self._urls[0]), (self._target, self._url)))
        self.totals.cuts += await asyncio.to_thread(world.cut, url)

    async def _kill_a_server(self) -> None:
        world = self._chance.choice((self._source, self._target))
        if "server" in world.faults:
            await world.kill_server()
            await asyncio.sleep(self._chance.choice((0, 0, 0.4)))
            await world.start_server()
            self.totals.servers += 1

    async def _drop(self, child: Child) -> None:
        if self._chance.random() < 0.5:
            child.signal(signal.SIGKILL)
        async with open_store(self._url) as store:
            with contextlib.suppress(*OUT_OF_REACH, StoreNotFoundError):
                await store.drop()
                self.totals.drops += 1

    async def _ended(self, child: Child) -> None:
        """Wait for the end of one that was killed; look how it ended, if it did so by itself."""
        must(await child.until_over(HANGS), "a child that was killed does not end")
        must(child.ended in (None, "refused"), f"a sync that follows ended {child.ended}: {child.error}")
        if child.ended == "refused":
            self.totals.refused += 1
            must((child.error or "").startswith(ALLOWED), f"a sync that follows was refused: {child.error}")

    async def _look(self, writers: Sequence[Writers]) -> None:
        for each, url in zip(writers, self._urls, strict=False):
            held = Counter(_places(url))
            must(max(held.values()) == 1, f"a source is not sound: {held.most_common(1)}")
            lost = each.saved - {(name, version) for _, _, name, version, _, _ in held}
            must(not lost, f"the source itself has lost {sorted(lost)[:3]}")
        if self._mode == "replica":
            await self._are_equal()
        else:
            await self._is_merged(writers[-1])

    async def _are_equal(self) -> None:
        [url] = self._urls
        before, after = Counter(_places(url)), Counter(_places(self._url))
        must(before == after, f"lost: {list(before - after)[:3]}, doubled: {list(after - before)[:3]}")
        async with open_store(url) as source, open_store(self._url) as target:
            report = await verify(source.export_events(), target.export_events())
            must(report.equal, f"not equal: {report}")
            secrets = await verify_secrets(
                source.export_secrets(tombstones=True), target.export_secrets(tombstones=True)
            )
            must(secrets.equal, f"the secrets are not equal: {secrets}")
            [status] = await target.sync_status(source)
            must(status.lag_events == 0, f"it lags behind although it is at the end: {status}")
        self.totals.events = sum(after.values())
        self.totals.secrets = secrets.secrets

    async def _is_merged(self, own: Writers) -> None:
        held = await _by_aggregate(self._url)
        seen = 0
        for url in self._urls:
            for name, events in (await _by_aggregate(url)).items():
                came = held.get(name, [])
                must(sorted(came) == sorted(events), f"{name} has {_short(came)} and not {_short(events)}")
                # What an import has put behind an event of the future comes in the order in which it could be read,
                # and an aggregate whose timestamps go back in theirs.
                free = "imported" in name or "drunk" in name
                must(free or came == sorted(came), f"{name} is out of order: {_short(came)}")
                seen += len(events)
        places = Counter((thread, counter) for thread, counter, *_ in _places(self._url))
        must(max(places.values()) == 1, "a place is there twice")
        of_its_own = {
            name: events for name, events in held.items() if name.startswith("own-") or "own-" in name
        }
        versions = {(name, version) for name, events in of_its_own.items() for version, *_ in events}
        must(own.saved <= versions, f"lost of its own: {sorted(own.saved - versions)[:3]}")
        total = seen + sum(map(len, of_its_own.values()))
        must(sum(places.values()) == total, f"{sum(places.values())} events where {total} were written")
        keys = await _secrets(self._url)
        for url in self._urls:
            theirs = await _secrets(url)
            must(theirs.items() <= keys.items(), "secrets are missing")
        self.totals.events, self.totals.secrets = total, len(keys)


def _places(url: str) -> list[tuple[Any, ...]]:
    """All events of a store, by SQL."""
    columns = '"threadId", "threadCounter", "aggregateId", "aggregateVersion", "timestamp", "type"'
    rows = raw.run(url, f'SELECT {columns} FROM "events"')
    return [
        (int(thread), int(counter), _text(name), int(version), int(timestamp), _text(kind))
        for thread, counter, name, version, timestamp, kind in rows
    ]


def _short(events: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [version for version, *_ in events]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def _by_aggregate(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """What each aggregate's events are, in the order in which a reader gets them."""
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    async with open_store(url) as store:
        for event in await all_pages(store, 5_000):
            payload = json.dumps(event.payload, sort_keys=True)
            found[event.aggregate_id].append((event.aggregate_version, event.timestamp, event.type, payload))
    return found


async def _secrets(url: str) -> dict[str, str | None]:
    async with open_store(url) as store:
        lines = b"".join([block async for block in store.export_secrets(tombstones=True)]).splitlines()
    return {row["id"]: row["secret"] for row in map(json.loads, lines)}


async def storm(source: str, target: str, mode: str, kills: int, seed: int) -> Totals:
    """The storm of one pair of databases. Raises BrokenPromiseError."""
    make_ready()
    lost = 0
    totals = None
    while totals is None:
        with ExitStack() as stack:
            worlds = {name: stack.enter_context(made(name)) for name in {source, target}}
            each = SyncStorm(worlds[source], worlds[target], mode, seed + lost)
            try:
                totals = await each.run(kills)
            except* ServerLostError:
                lost += 1
                must(lost <= MOST_LOST, "too many servers do not come back")
    totals.servers_lost = lost
    return totals


def main(words: Sequence[str] | None = None) -> int:
    """All pairs, one after another; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.faults.syncing", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of the syncs of each pair (200)")
    parser.add_argument("--seed", type=int, help="printed, and chosen if not given")
    parser.add_argument("--mode", choices=MODES, action="append", help="only this one")
    parser.add_argument(
        "--pair", nargs=2, action="append", metavar=("SOURCE", "TARGET"), help="only this one; again for more"
    )
    given = parser.parse_args(words)
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    keeper = keep_servers()
    try:
        for mode in given.mode or MODES:
            for source, target in given.pair or PAIRS:
                totals = asyncio.run(storm(source, target, mode, given.kills, seed))
                print(f"{mode} {source} to {target}: {told(totals)}", flush=True)
    finally:
        if keeper.stdin is not None:
            keeper.stdin.close()
    return 0


def told(totals: Totals) -> str:
    """The totals in a line."""
    figures = ", ".join(f"{name} {count}" for name, count in dataclasses.asdict(totals).items())
    return f"{totals.struck} kills, 0 lost, 0 doubled ({figures})"


if __name__ == "__main__":
    sys.exit(main())

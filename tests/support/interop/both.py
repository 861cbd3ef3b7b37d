"""Words for a store that eventferry and the real reSolve work on in turns."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from eventferry import Event, open_store
from tests.support import FAR_FUTURE, all_pages, exported, import_lines, line, make_lines
from tests.support.interop.resolve import Resolve, ResolvePackages, in_javascript
from tests.support.interop.stores import is_postgresql, threads

# Spelled the same by Python and JavaScript, with keys in an order that JavaScript and jsonb keep: to the real
# SQLite adapter, payloads are equal if their texts are.
PAYLOADS: list[Any] = [
    None, True, False, 0, 5, -7, 1.5, -0.25, 2**53 - 1,
    "", "text", "5", "1e21", "null", " with  spaces ", "quo\"te, it's, back\\slash/", "ünïcödé 日本 😀",
    "\u2028\u2029\ufeff", "\x01\b\f\x1f\x7f", "line\nfeed\ttab\rreturn", "x" * 100_000,
    [], {}, [[]], [None, True, "x"], {"": ""}, {"a": {"b": [1, {"c": None}]}}, {"1": 4, "2": 3, "a": 2, "b": 1},
    {"n": [1e21, 1.5e-10, 0.1 + 0.2, 5]}, {"'": "--'; DROP TABLE events"}, {"spaced": "a , b : c"},
]  # fmt: skip
# Payloads that are nothing but a number, which SQLite keeps as a float in reSolve's payload column.
FLOATS = [1e21, 1.5e-10, 1e300, 5e-324, 0.1 + 0.2, 9223372036854776000, 10**20]
NAMES = [
    "plain", "quo\"te", "it's", "back\\slash/", "tab\tnew\nline\r", "\x01\b\f\x1f\x7f", "ünï 😀", "\u2028", " ", "",
    "--", "n" * 190,
]  # fmt: skip
IMPORTED = 40
AGGREGATES = 4
"""To so many at once the real adapters save ten events each."""
ORIGINAL_EVENTS = IMPORTED + 8 + len(PAYLOADS) + len(FLOATS) + 2 + len(NAMES) + 10 * AGGREGATES + 90 + 30
NOWHERE_TIED = IMPORTED + 8 + 20
"""In the original's order some place with saves of different timestamps before and behind it."""

makers = pytest.mark.parametrize("maker", ["reSolve", "eventferry", "reSolve, replaced by eventferry"])


def new_event(i: int, **changes: Any) -> dict[str, Any]:
    """The ith event of a batch for an incremental import: no position, no version; odd payloads in turn."""
    return {
        "type": f"TYPE_{i % 3}",
        "timestamp": FAR_FUTURE + i // 3,
        "aggregateId": f"aggregate-{i % 10}",
        "payload": PAYLOADS[i % len(PAYLOADS)],
    } | changes


def save_of(aggregate_id: str, version: int, **changes: Any) -> dict[str, Any]:
    return {
        "type": "SAVED",
        "timestamp": 1,
        "aggregateId": aggregate_id,
        "aggregateVersion": version,
        "payload": {"version": version},
    } | changes


def about(events: Sequence[dict[str, Any]]) -> Counter[str]:
    """What events say, whatever their positions and versions."""
    keys = ("timestamp", "aggregateId", "type", "payload")
    return Counter(
        json.dumps(in_javascript(json.dumps([event[key] for key in keys])), sort_keys=True)
        for event in events
    )


def events_in(lines: bytes) -> list[Any]:
    """What lines hold: numbers by their value in JavaScript, the keys of objects in the order they come in."""
    return [in_javascript(line, object_pairs_hook=tuple) for line in lines.splitlines()]


def dicts_of(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Events as the real adapter gives them."""
    return [in_javascript(line(event)) for event in events]


@asynccontextmanager
async def made_by_resolve(resolve: ResolvePackages, place: str) -> AsyncIterator[Resolve]:
    async with resolve(place) as real:
        await real.call("init")
        yield real


@asynccontextmanager
async def several(resolve: ResolvePackages, place: str, count: int) -> AsyncIterator[list[Resolve]]:
    """Several real adapters on one store, each in a process of its own and connected."""
    async with AsyncExitStack() as stack:
        adapters = [await stack.enter_async_context(resolve(place)) for _ in range(count)]
        await asyncio.gather(*(real.call("describe") for real in adapters))
        yield adapters


async def make_store(maker: str, resolve: ResolvePackages, place: str, lines: bytes) -> None:
    """A store with these events: made and filled by either, or made by reSolve and replaced by our import."""
    if maker != "eventferry":
        async with made_by_resolve(resolve, place) as real:
            if maker == "reSolve":
                await real.call("importEvents", lines.decode())
            else:
                await real.save(save_of("replaced", 1))
                await real.call("saveSnapshot", "replaced", "content")
    if maker != "reSolve":
        async with open_store(place) as store:
            if maker == "eventferry":
                await store.init()
            await import_lines(store, lines)


async def write_by_resolve(resolve: ResolvePackages, place: str) -> None:
    """An import, secrets, snapshots, subscribers, saves one after another and at once, and an incremental import, all
    by the real adapter. No thread's timestamps fall."""
    async with made_by_resolve(resolve, place) as real:
        await real.call("importEvents", make_lines(IMPORTED).decode())
        for i in range(6):
            await real.call("setSecret", f"secret-{i}", f"kéy 'of' \"{i}\"")
        for i in (1, 4):
            assert await real.call("deleteSecret", f"secret-{i}")
        await real.call("saveSnapshot", 'snap\'shot "ü"', '{"state": 1}')
        await real.call("saveSnapshot", "other", "x" * 10_000)
        for name in ("one", "two's"):
            await real.call(
                "ensureEventSubscriber",
                {
                    "applicationName": "app",
                    "eventSubscriber": name,
                    "destination": {"moduleName": name, "at": [1, None]},
                    "status": {"eventSubscriber": name, "cursor": None},
                },
            )
        moment = FAR_FUTURE - 10_000
        for i, payload in enumerate([*PAYLOADS, *FLOATS, 1e-7, {"n": 1e-7}]):
            await real.save(
                save_of(f"payload-{i % 7}", i // 7 + 1, timestamp=moment + 10 * i, payload=payload)
            )
        for i, name in enumerate(NAMES):
            await real.save(save_of(name, 1, timestamp=moment + 5000 + i, type=name))
    # SQLite has one writer at a time.
    async with several(resolve, place, AGGREGATES if is_postgresql(place) else 1) as adapters:
        shares = [range(first, AGGREGATES, len(adapters)) for first in range(len(adapters))]
        await asyncio.gather(*map(_save_share, adapters, shares))
    async with resolve(place) as real:
        await real.call("incrementalImport", [new_event(i) for i in range(90)])
        # At one timestamp in many threads, behind everything else.
        for i in range(30):
            await real.save(save_of(f"late-{i % 4}", i // 4 + 1, timestamp=FAR_FUTURE + 1000 + i // 15))


async def _save_share(real: Resolve, share: range) -> None:
    for version in range(1, 11):
        for number in share:
            await real.save(save_of(f"at-once-{number}", version, timestamp=FAR_FUTURE - 2000))


async def assert_both_agree(resolve: ResolvePackages, place: str) -> list[dict[str, Any]]:
    """The events, after checking that both give the same ones, the same lines and the same figures."""
    async with resolve(place) as real:
        events = await real.events()
        lines = await real.exported()
        description = await real.call("describe", {"calculateCursor": True})
    async with open_store(place) as store:
        found = await exported(store)
        assert events_in(found) == events_in(lines)
        # The text of numbers is the database's on SQLite; jsonb has a spelling of its own.
        assert is_postgresql(place) or found == lines
        assert dicts_of(await all_pages(store, 64)) == events
        described = await store.describe(calculate_cursor=True)
    assert (described.event_count, described.last_event_timestamp, described.is_frozen, described.cursor) == (
        description["eventCount"],
        description["lastEventTimestamp"],
        description["isFrozen"],
        description["cursor"],
    )
    assert (described.secret_count, described.set_secret_count, described.deleted_secret_count) == (
        description["secretCount"],
        description["setSecretCount"],
        description["deletedSecretCount"],
    )
    assert_threads_right(place)
    return events


async def assert_both_agree_on_events(resolve: ResolvePackages, place: str) -> list[dict[str, Any]]:
    """The events, in any order: for stores whose threads may fall, where the real pages lose some."""
    async with resolve(place) as real:
        events = await real.events()
    async with open_store(place) as store:
        found = dicts_of(await all_pages(store, 64))
    assert by_position(found) == by_position(events)
    assert_threads_right(place)
    return found


def by_position(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(events, key=lambda event: (event["threadId"], event["threadCounter"]))


def assert_threads_right(place: str) -> None:
    """The next counters that a server's store keeps are those of its events."""
    if is_postgresql(place):
        kept, found = threads(place)
        assert kept == found


def assert_no_gap(events: Sequence[dict[str, Any]]) -> None:
    """In every thread the counters run from 0, in every aggregate the versions from 1."""
    counters: dict[int, list[int]] = {}
    versions: dict[str, list[int]] = {}
    for event in events:
        counters.setdefault(event["threadId"], []).append(event["threadCounter"])
        versions.setdefault(event["aggregateId"], []).append(event["aggregateVersion"])
    assert all(sorted(found) == list(range(len(found))) for found in counters.values())
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in versions.values())

"""Following against a model: whatever is done to a store, each follower gets each event once, or an error by name.

The model is a dict of what the store holds. Followers keep a bookmark, as on a disk, and are killed; or go on in the
same stream. When one has come to the end without an error it must have exactly what the store holds for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventferry import MANUAL, CursorAheadError, Event, Page, StoreReplacedError, open_store
from eventferry.reading.bookmarks import counters_of
from eventferry.reading.following import FollowStream
from tests.support import FAR_FUTURE, LONG_AGO, NewUrl, examples, import_lines
from tests.support.restoring import heads_of, restore

Place: TypeAlias = tuple[int, int]
What: TypeAlias = tuple[str, str, Any]

TYPES = ("A", "B", "C")
NAMES = ("x", "y", "z", "u", "v")
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"event_types": ["A"]},
    {"event_types": ["B", "C"]},
    {"aggregate_ids": ["x", "v"]},
    {"aggregate_ids": ["y"], "event_types": ["A", "B"]},
)

times = st.one_of(
    st.integers(LONG_AGO, LONG_AGO + 9),
    st.integers(LONG_AGO, FAR_FUTURE),
    st.just(FAR_FUTURE),
)
names = st.sampled_from(NAMES)
types = st.sampled_from(TYPES)


@dataclass
class Follower:
    """A follower as it stands on disk, and its stream while it lives.

    Attributes:
        got: what it was given since its start.
        is_touched: whether something that it has read or passed by was taken away.
    """

    only: dict[str, Any]
    limit: int
    stream: FollowStream | None = None
    bookmark: str | None = None
    got: list[tuple[Place, What]] = field(default_factory=list)
    is_touched: bool = False

    def wants(self, what: What) -> bool:
        name, kind, _ = what
        return name in self.only.get("aggregate_ids", NAMES) and kind in self.only.get("event_types", TYPES)


class Following(RuleBasedStateMachine):
    """The store, its model, and three followers."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.url = url
        self.held: dict[Place, What] = {}
        self.versions: dict[str, int] = {}
        self.backups: list[tuple[list[int], dict[str, int]]] = []
        self.number = 0
        self.errors = 0
        self.reader = open_store(url)
        self.writer = open_store(url)
        self.followers: list[Follower] = []

    def teardown(self) -> None:
        self.go(self.reader.close())
        self.go(self.writer.close())
        self.loop.close()

    def go(self, doing: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(doing, 60))

    def next_number(self) -> int:
        self.number += 1
        return self.number

    @initialize(filters=st.lists(st.sampled_from(FILTERS), min_size=3, max_size=3), limit=st.integers(1, 9))
    def begin(self, filters: list[dict[str, Any]], limit: int) -> None:
        self.go(self.writer.init())
        self.followers = [Follower(only, limit + i) for i, only in enumerate(filters)]

    @rule(name=names, kind=types, at=st.none() | times, count=st.integers(1, 5))
    def save(self, name: str, kind: str, at: int | None, count: int) -> None:
        for _ in range(count):
            version = self.versions[name] = self.versions.get(name, 0) + 1
            event: dict[str, Any] = {
                "type": kind,
                "aggregateId": name,
                "aggregateVersion": version,
                "payload": self.next_number(),
            }
            if at is not None:
                event["timestamp"] = at
            saved = self.go(self.writer.save_event(event)).event
            self.held[saved.thread_id, saved.thread_counter] = (name, kind, event["payload"])

    @rule(which=st.lists(st.tuples(names, types, times), min_size=1, max_size=8))
    def merge(self, which: list[tuple[str, str, int]]) -> None:
        events = [
            {"type": kind, "aggregateId": name, "timestamp": at, "payload": self.next_number()}
            for name, kind, at in which
        ]
        report = self.go(self.writer.incremental_import(events, older="accept"))
        assert report.imported == len(events)
        self.look_again()

    @rule(
        thread=st.integers(0, 255),
        gap=st.integers(0, 3),
        which=st.lists(st.tuples(names, types, times), max_size=5),
    )
    def append(self, thread: int, gap: int, which: list[tuple[str, str, int]]) -> None:
        counter = self.go(heads_of(self.writer))[thread] + gap
        events = []
        for i, (name, kind, at) in enumerate(which):
            version = self.versions[name] = self.versions.get(name, 0) + 1
            events.append(
                {
                    "threadId": thread,
                    "threadCounter": counter + i,
                    "type": kind,
                    "timestamp": at,
                    "aggregateId": name,
                    "aggregateVersion": version,
                    "payload": self.next_number(),
                }
            )
        if events:
            self.go(import_lines(self.writer, events, maintenance_mode=MANUAL))
            self.look_again()

    @rule()
    def back_up(self) -> None:
        self.backups.append((self.go(heads_of(self.writer)), dict(self.versions)))

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.backups) - 1))
        heads, versions = self.backups[at]
        del self.backups[at + 1 :]
        self.go(self.writer.close())
        restore(self.url, heads)
        self.writer = open_store(self.url)
        gone = {(thread, counter) for thread, counter in self.held if counter >= heads[thread]}
        self.held = {place: what for place, what in self.held.items() if place not in gone}
        self.versions = dict(versions)
        for each in self.followers:
            if each.bookmark is not None:
                unread = counters_of(each.bookmark)
                each.is_touched |= any(counter < unread[thread] for thread, counter in gone)

    @rule(count=st.integers(0, 12))
    def replace(self, count: int) -> None:
        events = [
            {
                "threadId": i % 3,
                "threadCounter": i // 3,
                "type": TYPES[i % 3],
                "timestamp": LONG_AGO + i,
                "aggregateId": NAMES[i % 5],
                "aggregateVersion": i // 5 + 1,
                "payload": self.next_number(),
            }
            for i in range(count)
        ]
        self.go(import_lines(self.writer, events, allow_empty=True))
        self.backups.clear()
        self.look_again()
        for each in self.followers:
            each.is_touched |= each.bookmark is not None

    @rule(at=st.integers(0, 2), pages=st.integers(1, 4))
    def read(self, at: int, pages: int) -> None:
        self.step(self.followers[at], pages)

    @rule(at=st.integers(0, 2))
    def kill(self, at: int) -> None:
        self.followers[at].stream = None

    @rule(at=st.integers(0, 2))
    def read_to_the_end(self, at: int) -> None:
        each = self.followers[at]
        while self.step(each, 1):
            pass
        if each.bookmark is None:
            return  # it has met an error, and begins anew
        wanted = {(place, what) for place, what in self.held.items() if each.wants(what)}
        assert len(each.got) == len(set(each.got)), "an event came twice"
        assert set(each.got) == wanted
        last: dict[int, int] = {}
        for (thread, counter), _ in each.got:
            assert counter > last.get(thread, -1), "the counters of a thread do not rise"
            last[thread] = counter

    def step(self, each: Follower, pages: int) -> bool:
        """Whether any events came."""
        try:
            return bool(self.go(self.pages_of(each, pages)))
        except (StoreReplacedError, CursorAheadError):
            assert each.is_touched, "refused although nothing that it has read is gone"
            each.stream, each.bookmark, each.got, each.is_touched = None, None, [], False
            self.errors += 1
            return False

    async def pages_of(self, each: Follower, pages: int) -> int:
        if each.stream is None:
            each.stream = self.reader.follow(each.bookmark, limit=each.limit, idle=0, **each.only)
        count = 0
        for _ in range(pages):
            page: Page = await anext(each.stream)
            each.got += [((event.thread_id, event.thread_counter), what_of(event)) for event in page.events]
            each.bookmark = page.bookmark
            count += len(page.events)
        return count

    def look_again(self) -> None:
        """What an import has brought, and where."""
        events = self.go(events_of(self.url))
        self.held = {(event.thread_id, event.thread_counter): what_of(event) for event in events}
        self.versions = {}
        for event in events:
            name = event.aggregate_id
            self.versions[name] = max(self.versions.get(name, 0), event.aggregate_version)


def what_of(event: Event) -> What:
    return event.aggregate_id, event.type, event.payload


async def events_of(url: str) -> list[Event]:
    async with open_store(url) as store:
        return (await store.load_events(limit=10_000, cursor=None)).events


def run(new_url: NewUrl, examples: int, steps: int) -> None:
    class There(Following):
        def __init__(self) -> None:
            super().__init__(new_url())

    run_state_machine_as_test(
        There,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
def test_each_follower_gets_each_event_once_or_an_error(new_url: NewUrl) -> None:
    run(new_url, examples(5), 25)


@pytest.mark.scale
def test_for_long(new_url: NewUrl) -> None:
    run(new_url, 100, 50)

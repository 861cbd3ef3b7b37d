"""Words that the tests share: events as lines, whole stores in one call."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from eventferry import Event, EventferryError, EventStore, StreamReport, open_store

NewUrl: TypeAlias = Callable[[], str]
"""Gives the URL of a fresh place for a store, where none has been made yet."""

Opened: TypeAlias = Callable[..., AbstractAsyncContextManager[EventStore]]
"""Gives an initialised store at a fresh place; keyword arguments are options of `open_store`."""

KEYS = ("threadCounter", "threadId", "type", "timestamp", "aggregateId", "aggregateVersion", "payload")
LONG_AGO = 1_600_000_000_000
FAR_FUTURE = 4_000_000_000_000

TIMES = float(os.environ.get("EVENTFERRY_TEST_EXAMPLES", "1"))
"""How many times as many examples as usual a property test tries."""


@asynccontextmanager
async def open_new(new_url: NewUrl, **options: Any) -> AsyncIterator[EventStore]:
    """A fresh, initialised store."""
    async with open_store(new_url(), **options) as store:
        await store.init()
        yield store


async def refused(call: Awaitable[object]) -> None:
    """Wait for a call that must be refused."""
    with pytest.raises(EventferryError):
        await call


def make_event(i: int, **changes: Any) -> dict[str, Any]:
    """The ith (from 0) of a series of events as the dict of a line; by timestamp they are in order of i.

    Ten aggregates, three types, all 256 threads; no two share a position or a version.
    """
    return {
        "threadCounter": i // 256,
        "threadId": i % 256,
        "type": f"TYPE_{i % 3}",
        "timestamp": LONG_AGO + i,
        "aggregateId": f"aggregate-{i % 10}",
        "aggregateVersion": i // 10 + 1,
        "payload": {"number": i},
    } | changes


def one_aggregate(n: int) -> list[dict[str, Any]]:
    """The first n of `make_event`, all of the aggregate "one"."""
    return [make_event(i, aggregateId="one", aggregateVersion=i + 1) for i in range(n)]


def event_at(thread_id: int, thread_counter: int) -> Event:
    """An event of which nothing but its position matters."""
    return Event(
        thread_id=thread_id,
        thread_counter=thread_counter,
        type="T",
        timestamp=0,
        aggregate_id="a",
        aggregate_version=1,
    )


def as_dict(event: Event) -> dict[str, Any]:
    """An event as the dict of its line."""
    return {
        "threadCounter": event.thread_counter,
        "threadId": event.thread_id,
        "type": event.type,
        "timestamp": event.timestamp,
        "aggregateId": event.aggregate_id,
        "aggregateVersion": event.aggregate_version,
        "payload": event.payload,
    }


def line(event: Event | Mapping[str, Any]) -> bytes:
    """The line of an event, as an export writes it; keys beside the seven come last."""
    given = as_dict(event) if isinstance(event, Event) else event
    ordered = {key: given[key] for key in KEYS if key in given} | dict(given)
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def make_lines(n: int) -> bytes:
    """The lines of the first n of `make_event`, in order."""
    return b"".join(line(make_event(i)) for i in range(n))


def back_and_forth(count: int, *, thread: int = 77, gaps: bool = False) -> list[dict[str, Any]]:
    """Events of one thread, of which each fifteenth is 7 ms before the one before it."""
    return [
        make_event(
            i,
            threadId=thread,
            threadCounter=3 * i if gaps else i,
            timestamp=LONG_AGO + 2 * i - (9 if i % 15 == 14 else 0),
            type=f"TYPE_{i % 3}",
        )
        for i in range(count)
    ]


def events_of(lines: bytes) -> list[Event]:
    """The events of lines."""
    return [
        Event(
            thread_counter=event["threadCounter"],
            thread_id=event["threadId"],
            type=event["type"],
            timestamp=event["timestamp"],
            aggregate_id=event["aggregateId"],
            aggregate_version=event["aggregateVersion"],
            payload=event["payload"],
        )
        for event in map(json.loads, lines.splitlines())
    ]


def examples(usual: int) -> int:
    """How many examples a property test tries. Where these are few anyway, a quick run tries no fewer."""
    return max(round(usual * TIMES), min(usual, 20))


async def exported(store: EventStore, **options: Any) -> bytes:
    """All that an export gives out."""
    return b"".join([block async for block in store.export_events(**options)])


async def import_lines(
    store: EventStore, lines: bytes | Iterable[Event | Mapping[str, Any]], **options: Any
) -> StreamReport:
    """Import bytes as they are, or events."""
    source = lines if isinstance(lines, bytes) else b"".join(map(line, lines))
    async with store.import_events(**options) as stream:
        await stream.write(source)
        return await stream.close()


async def all_pages(store: EventStore, limit: int, **filters: Any) -> list[Event]:
    """The events of all pages by cursor, one page after another from the start until an empty one."""
    events: list[Event] = []
    cursor: str | None = None
    while True:
        page = await store.load_events(limit=limit, cursor=cursor, **filters)
        assert len(page.events) <= limit
        if not page.events:
            return events
        events += page.events
        cursor = page.cursor


def make_certificate(folder: Path) -> None:
    """A certificate of this machine, `cert.pem`, and its key, `key.pem`."""
    made = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {folder}/key.pem"
    names = f"-out {folder}/cert.pem -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(["openssl", *made.split(), *names.split()], check=True, capture_output=True)


def program(name: str) -> str:
    """Where this program of the operating system's is: one that is missing is an error, not a test left out."""
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(
            f"the tests need {name}: on Debian install the package {name} (scripts/servers does)"
        )
    return path


async def pages_beside_a_writer(store: EventStore, aggregate_id: str, limit: int) -> list[Event]:
    """The events of one aggregate, page by page; before each page somebody stores one of another aggregate."""
    events: list[Event] = []
    cursor: str | None = None
    while True:
        await store.append_events("another", [{"type": "T"}])
        page = await store.load_events(limit=limit, cursor=cursor, aggregate_ids=[aggregate_id])
        if not page.events:
            return events
        events += page.events
        cursor = page.cursor

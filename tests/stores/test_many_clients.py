"""A hundred clients in several processes, and a reader beside them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from eventferry import Event, open_store
from tests.support import NewUrl
from tests.support.places import Places

pytestmark = pytest.mark.slow

DATABASES = ("postgresql", "mariadb")

# Of the tasks of all processes: each saves events of an aggregate of its own, and fights for those of another.
SAVERS = """
import asyncio, json, sys
from eventferry import ConcurrentError, open_store

FOUGHT, STORES = 20, 4

async def save(store, aggregate, version, saved):
    event = {"type": "T", "aggregateId": aggregate, "aggregateVersion": version, "payload": [aggregate, version]}
    found = (await store.save_event(event)).event
    saved.append([found.thread_id, found.thread_counter, aggregate, version])

async def client(store, i, own, saved):
    refused = 0
    for version in range(1, own + 1):
        await save(store, f"own-{i}", version, saved)
    for version in range(1, FOUGHT + 1):
        try:
            await save(store, f"fought-{i % 10}", version, saved)
        except ConcurrentError:
            refused += 1
    return refused

async def main(url, own, first, last):
    saved = []
    stores = [open_store(url) for _ in range(STORES)]
    clients = range(int(first), int(last))
    refused = sum(await asyncio.gather(*[client(stores[i % STORES], i, int(own), saved) for i in clients]))
    for store in stores:
        await store.close()
    print(json.dumps({"saved": saved, "refused": refused}))

asyncio.run(main(*sys.argv[1:]))
"""
CLIENTS = range(0, 101, 25)


@pytest.fixture(params=DATABASES)
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewUrl]:
    with Places(request.param, tmp_path) as places:
        yield places.new_url


async def follow(url: str, over: asyncio.Event) -> list[Event]:
    """All events in the order in which a reader who pages by cursor meets them."""
    seen: list[Event] = []
    cursor = None
    async with open_store(url) as store:
        while True:
            is_last = over.is_set()
            page = await store.load_events(limit=500, cursor=cursor)
            seen += page.events
            cursor = page.cursor
            if not page.events:
                if is_last:
                    return seen
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("own", [8, pytest.param(98, marks=pytest.mark.storm)])
async def test_a_hundred_clients_save_thousands_of_events_and_a_reader_meets_each_once(
    new_url: NewUrl, own: int
) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
    over = asyncio.Event()
    following = asyncio.create_task(follow(url, over))
    children = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SAVERS, url, str(own), str(first), str(last)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for first, last in pairwise(CLIENTS)
    ]
    said = [await child.communicate() for child in children]
    over.set()
    seen = await following
    assert [error for _, error in said if error] == []
    answers = [json.loads(answer) for answer, _ in said]
    saved = sorted(tuple(event) for answer in answers for event in answer["saved"])
    assert len(saved) == 100 * own + 10 * 20
    assert sum(answer["refused"] for answer in answers) == 90 * 20

    # A reader meets each event exactly once, and of an aggregate the versions in order.
    met = [
        (event.thread_id, event.thread_counter, event.aggregate_id, event.aggregate_version) for event in seen
    ]
    assert sorted(met) == saved
    assert all(event.payload == [event.aggregate_id, event.aggregate_version] for event in seen)
    versions: Counter[str] = Counter()
    heads: Counter[int] = Counter()
    for thread, counter, aggregate, version in met:
        versions[aggregate] += 1
        assert version == versions[aggregate]
        assert counter == heads[thread]
        heads[thread] += 1
    async with open_store(url) as store:
        description = await store.describe(calculate_cursor=True)
        assert description.event_count == len(saved)
        assert description.cursor == store.get_next_cursor(None, seen)

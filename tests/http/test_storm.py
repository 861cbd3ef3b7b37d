"""The service under load: 50 slow exports, 50 writers and one incremental import at the same time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventferry import open_store
from tests.support import import_lines, make_lines
from tests.support.places import Places
from tests.support.service import Server, serving

pytestmark = pytest.mark.slow

CLIENTS = 50
MEMORY = 250 * 1024 * 1024
"""More than a hundred connections, each with its block, take; far less than what goes through."""

AFTER_ALL = 5_000_000_000_000
"""A timestamp later than any clock here: what is imported is never older than what is posted meanwhile."""


def imported_line(number: int) -> bytes:
    return (
        b'{"type":"MOVED","timestamp":%d,"aggregateId":"moved-%d","payload":{"number":%d,"text":"%s"}}\n'
        % (
            AFTER_ALL + number,
            number % 1000,
            number,
            b"x" * 100,
        )
    )


class Storm:
    """101 clients of one server; what each of them met is counted.

    Args:
        server: that they storm.
        before: how many events the store holds.
        events: how many are imported.
        pause: of a slow client between two pieces of 64 KiB, in seconds.
    """

    def __init__(self, server: Server, before: int, events: int, pause: float) -> None:
        self._client = httpx.AsyncClient(
            base_url=server.url, timeout=900, limits=httpx.Limits(max_connections=2 * CLIENTS + 5)
        )
        self._before = before
        self._events = events
        self._pause = pause
        self._is_over = False
        self.posted: Counter[str] = Counter()
        self.exports = 0
        self.report: dict[str, Any] = {}

    async def run(self) -> None:
        async with self._client, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._export())
                group.create_task(self._post(f"poster-{number}"))
            group.create_task(self._import())

    async def _import(self) -> None:
        async def body() -> AsyncIterator[bytes]:
            for start in range(0, self._events, 1000):
                yield b"".join(map(imported_line, range(start, min(start + 1000, self._events))))

        response = await self._client.post("/incremental-import", content=body())
        assert response.status_code == 200, response.text
        self.report = response.json()
        self._is_over = True

    async def _export(self) -> None:
        while not self._is_over or not self.exports:
            lines, end = 0, b""
            async with self._client.stream("GET", "/export") as response:
                assert response.status_code == 200
                async for block in response.aiter_bytes(64 * 1024):
                    lines += block.count(b"\n")
                    end = block[-1:]
                    await asyncio.sleep(0 if self._is_over else self._pause)
            assert end == b"\n"
            assert lines >= self._before
            self.exports += 1

    async def _post(self, aggregate: str) -> None:
        while not self._is_over or not self.posted[aggregate]:
            event = {
                "type": "POSTED",
                "aggregateId": aggregate,
                "aggregateVersion": self.posted[aggregate] + 1,
            }
            response = await self._client.post("/events", json=event)
            assert response.status_code == 201, response.text
            self.posted[aggregate] += 1


async def check(url: str, storm: Storm, before: int, events: int) -> None:
    """The counts are right, no position is there twice or left out, and each writer's versions are all there."""
    posted = storm.posted.total()
    versions: dict[str, list[int]] = {name: [] for name in storm.posted}
    moved: set[int] = set()
    positions: Counter[int] = Counter()
    async with open_store(url) as store:
        description = await store.describe(calculate_cursor=True)
        assert description.event_count == before + events + posted
        rest = b""
        stream = store.export_events()
        async for block in stream:
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                event = json.loads(line)
                positions[event["threadId"]] += 1
                if event["type"] == "POSTED":
                    versions[event["aggregateId"]].append(event["aggregateVersion"])
                elif event["type"] == "MOVED":
                    moved.add(event["payload"]["number"])
        assert stream.cursor == description.cursor
    assert positions.total() == before + events + posted
    assert moved == set(range(events))
    assert all(found == list(range(1, storm.posted[name] + 1)) for name, found in versions.items())


def storm(database: str, folder: Path, before: int, events: int, pause: float) -> None:
    with Places(database, folder) as places:
        url = places.new_url()
        url += ("&" if "?" in url else "?") + "busy_timeout=600"

        async def made() -> None:
            async with open_store(url) as store:
                await store.init()
                await import_lines(store, make_lines(before))

        asyncio.run(made())
        with serving(url, folder, "--quiet") as server:
            clients = Storm(server, before, events, pause)
            asyncio.run(clients.run())
            assert clients.report == {"imported": events, "skippedExisting": 0, "skippedOlder": 0}
            peak = server.peak_memory()
            said = server.log.splitlines()[1:]
            server.signal()
            assert server.ended() == 0
        print(f"{database}: {clients.exports} exports, {clients.posted.total()} posts, {peak // 2**20} MB")
        assert not said
        assert peak < MEMORY
        asyncio.run(check(url, clients, before, events))


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_slow_exports_posts_and_an_import_at_once_lose_and_double_nothing(
    tmp_path: Path, database: str
) -> None:
    storm(database, tmp_path, before=5_000, events=20_000, pause=0.25)


@pytest.mark.storm
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_million_events_come_in_during_the_storm(tmp_path: Path, database: str) -> None:
    storm(database, tmp_path, before=50_000, events=1_000_000, pause=0.3)

"""A store on a Galera cluster that is written to on three nodes at once: as docs/mysql.md says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eventferry import (
    ConcurrentError,
    EventStore,
    ImportNotFoundError,
    StoreBusyError,
    StoreChangedError,
    StoreFrozenError,
    StoreUnreachableError,
    check,
    open_store,
)
from tests.galera.conftest import OpenedOnAll
from tests.support import exported, import_lines, make_lines
from tests.support.galera import Cluster

pytestmark = pytest.mark.cluster


class Savers:
    """Saves that go on on each node, each to its own aggregates, until they are stopped."""

    def __init__(self, stores: list[EventStore]) -> None:
        self._stores = stores
        self._stopped = False
        self.stored: list[tuple[str, int]] = []

    async def _save(self, number: int, store: EventStore) -> None:
        version = 0
        while not self._stopped:
            name = f"of-{number}"
            with contextlib.suppress(StoreFrozenError):
                event = {"type": "T", "aggregateId": name, "aggregateVersion": version + 1, "payload": 0}
                await store.save_event(event, allow_gaps=True)  # an import may have replaced those before it
                version += 1
                self.stored.append((name, version))
            await asyncio.sleep(0.001)

    async def lost(self, store: EventStore) -> list[tuple[str, int]]:
        """Which of the events that were stored the store does not have."""
        lines = (await exported(store)).splitlines()
        there = {(event["aggregateId"], event["aggregateVersion"]) for event in map(json.loads, lines)}
        return [event for event in self.stored if event not in there]

    async def several(self) -> None:
        """Wait until there were some more."""
        seen = len(self.stored)
        while len(self.stored) < seen + 20:
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            for number, store in enumerate(self._stores):
                group.create_task(self._save(number, store))
            try:
                await self.several()
                yield
            finally:
                self._stopped = True


async def is_sound(stores: list[EventStore]) -> bool:
    """Whether all nodes have the same, without a fault and without a gap."""
    report = await check(stores[0])
    one, *others = [await exported(store) for store in stores]
    return report.sound and report.missing_counters == 0 and all(other == one for other in others)


async def test_saves_on_three_nodes_at_once_are_all_stored(opened_on_all: OpenedOnAll) -> None:
    async def save(store: EventStore) -> list[int]:
        """Events of one aggregate that others save to as well."""
        versions: list[int] = []
        while len(versions) < 20:
            version = len((await store.load_aggregate("shared")).events) + 1
            with contextlib.suppress(ConcurrentError):
                await store.save_event(
                    {"type": "T", "aggregateId": "shared", "aggregateVersion": version, "payload": None}
                )
                versions.append(version)
        return versions

    async with opened_on_all() as stores:
        versions = await asyncio.gather(*map(save, stores))
        assert sorted(itertools.chain(*versions)) == list(range(1, 61))
        assert await is_sound(stores)


async def test_what_one_node_has_stored_another_shows_at_once(opened_on_all: OpenedOnAll) -> None:
    async with opened_on_all() as stores:
        for version in range(1, 101):
            one, other = random.sample(stores, 2)
            saved = await one.save_event(
                {"type": "T", "aggregateId": "a", "aggregateVersion": version, "payload": version}
            )
            assert (await other.load_aggregate("a")).events[-1] == saved.event


async def test_appends_on_three_nodes_leave_no_gap(opened_on_all: OpenedOnAll) -> None:
    async def append(store: EventStore) -> None:
        for _ in range(15):
            await store.append_events("a", [{"type": "T", "payload": None}] * 2)

    async with opened_on_all() as stores:
        await asyncio.gather(*map(append, stores))
        assert len((await stores[0].load_aggregate("a")).events) == 90
        assert (await check(stores[0])).missing_versions == 0


async def test_a_freeze_keeps_the_saves_of_all_nodes_out(opened_on_all: OpenedOnAll) -> None:
    async with opened_on_all() as stores:
        savers = Savers(stores)
        async with savers.going_on():
            for store in stores * 2:
                await store.freeze()
                frozen = await exported(random.choice(stores))
                await asyncio.sleep(0.2)
                assert await exported(random.choice(stores)) == frozen
                await store.unfreeze()
                await savers.several()
        assert await savers.lost(stores[0]) == []
        assert await is_sound(stores)


async def test_an_import_on_one_node_loses_no_event_saved_on_another(opened_on_all: OpenedOnAll) -> None:
    async with opened_on_all() as stores:
        savers = Savers(stores)
        async with savers.going_on():
            for _ in range(3):
                stream = stores[0].import_events()
                await stream.begin()
                await stream.write(make_lines(500))
                await savers.several()
                with pytest.raises(StoreChangedError):
                    await stream.close()
        assert await savers.lost(stores[1]) == []
        assert await is_sound(stores)


async def test_an_import_that_freezes_replaces_what_three_nodes_save_to(opened_on_all: OpenedOnAll) -> None:
    async with opened_on_all() as stores:
        savers = Savers(stores[1:])
        async with savers.going_on():
            async with stores[0].import_events(freeze=True) as stream:
                await stream.write(make_lines(500))
                before = len(savers.stored)
                await stream.close()
            savers.stored = savers.stored[before:]
            assert len((await exported(stores[2])).splitlines()) >= 500
            await savers.several()
        assert await savers.lost(stores[1]) == []
        assert (await check(stores[0])).sound


async def test_incremental_imports_go_on_beside_saves_on_other_nodes(opened_on_all: OpenedOnAll) -> None:
    async with opened_on_all() as stores:
        savers = Savers(stores)
        async with savers.going_on():
            for number in range(5):
                batch = [
                    {"type": "M", "aggregateId": f"m-{number}", "timestamp": number, "payload": i}
                    for i in range(50)
                ]
                report = await stores[number % 3].incremental_import(iter(batch), older="accept")
                assert report.imported == 50
        assert await savers.lost(stores[0]) == []
        assert await is_sound(stores)


async def test_pushes_on_three_nodes_are_all_merged(opened_on_all: OpenedOnAll) -> None:
    async def push(store: EventStore, import_id: str, part: str, number: int) -> int:
        batch = [{"type": "M", "aggregateId": part, "timestamp": i, "payload": number} for i in range(100)]
        while True:
            with contextlib.suppress(StoreBusyError):  # another node's came first
                return await store.push_incremental_import(iter(batch), import_id, part=part)

    async with opened_on_all() as stores:
        import_id = await stores[0].begin_incremental_import()
        # Two nodes push the same part: one of the two stays.
        parts = ["a", "b", "b"]
        await asyncio.gather(
            *(push(s, import_id, part, n) for n, (s, part) in enumerate(zip(stores, parts, strict=True)))
        )
        report = await stores[1].commit_incremental_import(import_id)
        assert report.imported == 200
        with pytest.raises(ImportNotFoundError):
            await push(stores[2], import_id, "c", 0)
        assert await is_sound(stores)


async def test_secrets_set_on_three_nodes_get_different_numbers(opened_on_all: OpenedOnAll) -> None:
    async def set_secrets(number: int, store: EventStore) -> None:
        for i in range(10):
            await store.set_secret(f"{number}-{i}", "value")

    async with opened_on_all() as stores:
        await asyncio.gather(*(set_secrets(number, store) for number, store in enumerate(stores)))
        page = await stores[0].load_secrets(limit=100)
        assert len({record.idx for record in page.secrets}) == 30


async def test_an_import_on_another_node_counts_as_alive(opened_on_all: OpenedOnAll) -> None:
    async with opened_on_all() as stores:
        async with stores[0].import_events() as stream:
            await stream.write(make_lines(300))
            with pytest.raises(StoreBusyError):
                await import_lines(stores[1], make_lines(10))
            await stream.close()
        assert await exported(stores[2]) == make_lines(300)


async def test_a_freeze_by_an_operation_on_another_node_holds(opened_on_all: OpenedOnAll) -> None:
    async with opened_on_all() as stores:
        async with stores[0].import_events(freeze=True) as stream:
            await stream.write(make_lines(300))
            with pytest.raises(StoreFrozenError):
                await stores[2].save_event(
                    {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": None}
                )
            await stream.close()
        assert await exported(stores[1]) == make_lines(300)


async def test_what_a_node_left_that_is_gone_is_removed(cluster: Cluster) -> None:
    urls = cluster.new_urls("?connect_timeout=2")
    async with open_store(urls[0]) as kept, open_store(urls[2]) as doomed:
        await kept.init()
        stream = doomed.import_events(freeze=True)
        await stream.begin()
        await stream.write(make_lines(300))
        cluster.nodes[2].kill()
        cluster.wait_for(2)
        await kept.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": None})
        assert (await import_lines(kept, make_lines(10))).imported == 10
        with pytest.raises(StoreUnreachableError):
            await stream.close()
    cluster.nodes[2].start_again()
    cluster.wait_for(3)


async def test_an_event_is_stored_though_its_node_is_killed_or_is_told_not_to_be_known(
    cluster: Cluster,
) -> None:
    urls = cluster.new_urls("?connect_timeout=2")
    async with open_store(urls[0]) as kept, open_store(urls[1]) as doomed:
        await kept.init()
        stored = 0

        async def save() -> None:
            nonlocal stored
            while True:
                await doomed.save_event(
                    {"type": "T", "aggregateId": "a", "aggregateVersion": stored + 1, "payload": None}
                )
                stored += 1
                if stored == 20:
                    cluster.nodes[1].kill()

        with pytest.raises(StoreUnreachableError):
            await save()
        cluster.wait_for(2)
        assert len((await kept.load_aggregate("a")).events) in (stored, stored + 1)
    cluster.nodes[1].start_again()
    cluster.wait_for(3)


async def test_a_node_that_is_alone_refuses_by_name(cluster: Cluster) -> None:
    [url, _, _] = cluster.new_urls()
    node = cluster.nodes[0]
    async with open_store(url) as store:
        await store.init()
        node.run("SET GLOBAL wsrep_cluster_address = 'gcomm://127.0.0.1:1'")
        try:
            with pytest.raises(StoreUnreachableError, match="not yet prepared"):
                await store.save_event(
                    {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": None}
                )
        finally:
            node.run(f"SET GLOBAL wsrep_cluster_address = 'gcomm://{','.join(node.members or ())}'")
            cluster.wait_for(3)
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": None})

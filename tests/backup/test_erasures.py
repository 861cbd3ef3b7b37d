"""What was erased from a store stays erased when it is restored, from whichever backup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventferry import MANUAL, EventStore, Repository, Rule, Rules, back_up, open_store, verify
from tests.support import NewUrl, exported, import_lines, line, make_event
from tests.support.places import DATABASES, Places

NAME = "Ada Lovelace"
ERASE = Rules(rules=(Rule(redact=("/name",)),))


@pytest.fixture(params=DATABASES)
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewUrl]:
    with Places(request.param, tmp_path) as places:
        yield places.new_url


def persons(*numbers: int) -> bytes:
    return b"".join(line(make_event(i, payload={"i": i, "name": NAME})) for i in range(*numbers))


async def named_in(store: EventStore) -> set[str]:
    """The aggregates of which a name is left."""
    lines = map(json.loads, (await exported(store)).splitlines())
    return {event["aggregateId"] for event in lines if event["payload"]["name"] == NAME}


ALL = {f"aggregate-{i}" for i in range(10)}


async def test_a_restore_of_an_older_backup_stays_erased(new_url: NewUrl, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    async with open_store(new_url()) as store, open_store(new_url()) as restored:
        await store.init()
        await import_lines(store, persons(300))
        await back_up(store, folder)
        await store.erase(ERASE, aggregate_ids=["aggregate-3"])
        await import_lines(store, persons(300, 400), maintenance_mode=MANUAL)
        assert (await back_up(store, folder)).erasures == 1
        await store.erase(ERASE, aggregate_prefixes=["aggregate-4"])
        assert (await back_up(store, folder)).erasures == 2
        assert (await back_up(store, folder)).erasures == 2
        repository = Repository(folder)
        for manifest, count in ((1, 300), (2, 400), (None, 400)):
            await repository.restore(restored, manifest=manifest, replace=True)
            assert await named_in(restored) == ALL - {"aggregate-3", "aggregate-4"}
            assert (await restored.describe()).event_count == count
        assert (await verify(store.export_events(), restored.export_events())).equal
        await import_lines(restored, persons(300))
        assert await named_in(restored) == ALL - {"aggregate-3", "aggregate-4"}


async def test_readers_of_the_store_go_on_in_the_restored_one(new_url: NewUrl, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    async with open_store(new_url()) as store, open_store(new_url()) as restored:
        await store.init()
        await import_lines(store, persons(300))
        before = await store.bookmark()
        await back_up(store, folder)
        await store.erase(ERASE)
        after = await store.bookmark()
        await back_up(store, folder)
        repository = Repository(folder)
        for until in (before, after):
            await repository.restore(restored, until=until, replace=True)
            assert await named_in(restored) == set()
            for bookmark in (before, after):
                assert (await restored.load_events(limit=1, since=bookmark)).events == []


async def test_a_drill_compares_without_what_was_erased(new_url: NewUrl, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    async with open_store(new_url()) as store:
        await store.init()
        await import_lines(store, persons(300))
        await back_up(store, folder)
        await store.erase(ERASE)
        await back_up(store, folder)
    repository = Repository(folder)
    assert (await repository.drill()).equal


async def test_without_erasures_what_was_erased_comes_back(new_url: NewUrl, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    async with open_store(new_url()) as store, open_store(new_url()) as restored:
        await store.init()
        await import_lines(store, persons(300))
        await back_up(store, folder)
        await store.erase(ERASE)
        await back_up(store, folder)
        repository = Repository(folder)
        await repository.restore(restored, without_erasures=True)
        assert await named_in(restored) == ALL
        assert (await restored.erased()).erasures == ()

"""pyeventsourcing writes with eight writers while a sync follows it and is killed: every event arrives once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.foreign import new_database, pyeventsourcing
from tests.support.foreign.killing import follow_and_kill
from tests.support.foreign.pyeventsourcing import Store

pytestmark = pytest.mark.slow

WRITERS = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        yield pyeventsourcing.on_sqlite(tmp_path / "school.db")
    else:
        with new_database() as url:
            yield pyeventsourcing.on_postgresql(url)


async def run(store: Store, target: Path, *, kills: int, events: int) -> None:
    with store.school() as school:

        def teach(writer: int) -> None:
            dogs = [school.register_dog(f"dog {writer}-{number}") for number in range(5)]
            for number in range(events // WRITERS - len(dogs)):
                school.add_trick(dogs[number % len(dogs)], f"trick {number}")

        def write() -> None:
            with ThreadPoolExecutor(WRITERS) as pool:
                list(pool.map(teach, range(WRITERS)))

        came = await follow_and_kill(store.url, "pyeventsourcing", target, write, kills=kills, **store.tables)
    assert len(came) == events
    stored = [(row.id, row.originator_version, row.topic) for row in store.notifications()]
    assert [
        (event["payload"]["meta"]["position"], event["aggregateVersion"], event["type"]) for event in came
    ] == stored


async def test_a_sync_that_is_killed_while_pyeventsourcing_writes_misses_nothing(
    store: Store, tmp_path: Path
) -> None:
    await run(store, tmp_path / "replica.db", kills=4, events=800)


@pytest.mark.storm
async def test_a_long_storm_of_pyeventsourcing(store: Store, tmp_path: Path) -> None:
    await run(store, tmp_path / "replica.db", kills=20, events=10_000)

"""The demo's real flights go all the way round: SQLite, PostgreSQL, MariaDB, SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from eventferry import open_store, pipeline, verify
from eventferry.demo import flights
from tests.support.places import Places


async def real_flights(folder: Path) -> AsyncIterator[bytes]:
    for block in flights.lines(flights.fetch(folder)):
        yield block


@pytest.mark.scale
async def test_real_flights_go_round_all_databases_and_come_back_equal(tmp_path: Path) -> None:
    way = ["sqlite", "postgresql", "mariadb", "sqlite"]
    with ExitStack() as places:
        urls = [places.enter_context(Places(database, tmp_path)).new_url() for database in way]
        async with AsyncExitStack() as opened:
            stores = [await opened.enter_async_context(open_store(url)) for url in urls]
            for store in stores:
                await store.init()
            report = await stores[0].incremental_import(real_flights(tmp_path))
            assert report.imported > 600_000
            for source, target in pairwise(stores):
                await pipeline(source.export_events(), target.import_events())
            for store in stores[1:]:
                assert (await verify(stores[0].export_events(), store.export_events())).equal
                again = await store.incremental_import(stores[0].export_events())
                assert (again.imported, again.skipped_existing) == (0, report.imported)

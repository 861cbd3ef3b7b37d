"""A backup of a store on any database is restored on any other, and verified equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from eventferry import open_store, verify
from eventferry.backup.reading import Backup
from eventferry.backup.restoring import restore
from eventferry.backup.storage import open_storage
from tests.stores.test_any_to_any import tricky
from tests.support import NewUrl, import_lines
from tests.support.places import DATABASES, Places
from tests.support.small_backups import back_up


@pytest.fixture(params=DATABASES)
def from_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewUrl]:
    with Places(request.param, tmp_path) as places:
        yield places.new_url


@pytest.mark.slow
async def test_a_backup_of_any_database_is_restored_on_each(from_url: NewUrl, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "repository")
    with ExitStack() as stack:
        async with open_store(from_url()) as store:
            await store.init()
            await import_lines(store, tricky())
            await back_up(store, storage, per_part=100)
            backup = await Backup.open(storage)
            for database in DATABASES:
                places = stack.enter_context(Places(database, tmp_path))
                async with open_store(places.new_url()) as restored:
                    await restore(backup, restored)
                    report = await verify(store.export_events(), restored.export_events())
                    assert report.equal, (database, report.differences)
                    again = await verify(backup.lines(), restored.export_events())
                    assert again.equal, (database, again.differences)


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.slow
async def test_a_restore_comes_from_any_storage(database: str, repository: str, tmp_path: Path) -> None:
    storage = open_storage(repository)
    with Places(database, tmp_path) as places:
        async with open_store(places.new_url()) as store, open_store(places.new_url()) as restored:
            await store.init()
            await import_lines(store, tricky())
            await back_up(store, storage, per_part=100)
            await restore(await Backup.open(storage), restored, jobs=4)
            assert (await verify(store.export_events(), restored.export_events())).equal

"""A path is not a file's identity: links, folders that change, files that are replaced under an open store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    StoreBusyError,
    StoreFrozenError,
    StoreNotFoundError,
    StoreReplacedError,
    UnsupportedStoreError,
    open_store,
    pipeline,
)
from tests.support import FAR_FUTURE, events_of, exported, import_lines, make_event, make_lines
from tests.support.sqlite import KEY, MODES, SAVED, at, make_store, names_beside, rows, url_of


def linked(path: Path) -> Path:
    """Another way to the file, through another folder."""
    link = path.parent / "links" / "other.db"
    link.parent.mkdir()
    link.symlink_to(path)
    return link


async def test_a_store_stays_in_its_file_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    await make_store(tmp_path / "two" / "a.db", 5)
    monkeypatch.chdir(tmp_path / "one")
    async with open_store("a.db") as store:
        await store.init()
        monkeypatch.chdir(tmp_path / "two")
        await store.save_event(SAVED)
        assert [event.type for event in events_of(await exported(store))] == ["SAVED"]
        await exported(store, maintenance_mode=AUTO)
        with pytest.raises(StoreNotFoundError, match="other"):
            async with open_store("other.db") as other:
                await other.describe()
    assert rows(tmp_path / "one" / "a.db", "SELECT type FROM events") == [("SAVED",)]
    assert rows(tmp_path / "two" / "a.db", "SELECT count(*) FROM events") == [(5,)]


async def test_a_store_is_made_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "there" / "a.db")
    async with open_store(url_of(tmp_path / "link.db")) as store:
        await store.init()
        await store.save_event(SAVED)
        beside = {name.partition("-")[0] for name in names_beside(tmp_path / "there" / "a.db")}
    assert beside == {"a.db"}
    assert {other.name for other in tmp_path.iterdir()} == {"there", "link.db"}


async def test_a_running_import_is_seen_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 5)
    async with open_store(url_of(path)) as store, open_store(url_of(linked(path))) as other:
        async with store.import_events() as stream:
            await stream.write(make_lines(20))
            with pytest.raises(StoreBusyError, match="running"):
                await import_lines(other, make_lines(30))
        assert await exported(other) == make_lines(20)


async def test_a_running_freeze_is_seen_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 5)
    async with open_store(url_of(path)) as store, open_store(url_of(linked(path))) as other:
        export = store.export_events(maintenance_mode=AUTO)
        await anext(export)
        assert (await other.describe()).is_frozen
        with pytest.raises(StoreFrozenError):
            await other.save_event(SAVED)
        await export.aclose()
        await other.save_event(SAVED)


@pytest.mark.parametrize("mode", MODES)
async def test_a_file_with_two_names_is_read_and_not_written(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 5, journal_mode=mode)
    os.link(path, tmp_path / "b.db")
    async with open_store(url_of(path)) as store, open_store(url_of(tmp_path / "b.db")) as other:
        for one in (store, other):
            assert await exported(one) == make_lines(5)
            for call in changes(one):
                with pytest.raises(UnsupportedStoreError, match="hard links"):
                    await call()
        (tmp_path / "b.db").unlink()
        await store.save_event(SAVED)


def changes(store: Any) -> list[Callable[[], Any]]:
    """A call of each kind that changes a store."""
    return [
        lambda: store.save_event(SAVED),
        store.freeze,
        store.drop,
        store.begin_incremental_import,
        lambda: store.set_secret("id", KEY),
        lambda: store.save_snapshot("key", "content"),
        lambda: store.incremental_import([at(FAR_FUTURE, 1)]),
        lambda: import_lines(store, make_lines(5)),
        lambda: import_lines(store, [make_event(20)], maintenance_mode=MANUAL),
        lambda: exported(store, maintenance_mode=AUTO),
    ]


def reads(store: Any) -> list[Callable[[], Any]]:
    return [
        store.describe,
        store.exists,
        lambda: exported(store),
        lambda: store.load_events(limit=10, cursor=None),
        store.get_latest_event,
        lambda: store.load_secrets(limit=5),
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_nothing_is_acknowledged_when_the_file_was_replaced_by_a_backup(
    tmp_path: Path, mode: str
) -> None:
    path, backup = tmp_path / "a.db", tmp_path / "backup.db"
    await make_store(path, 5, journal_mode=mode)
    shutil.copy(path, backup)
    async with open_store(url_of(path)) as store:
        await store.save_event(SAVED)
        await exported(store)
        for beside in names_beside(path):
            if beside.startswith("a.db-"):
                (tmp_path / beside).unlink()
        path.unlink()
        shutil.copy(backup, path)
        before = path.read_bytes()
        for call in (*changes(store), *reads(store)):
            with pytest.raises(StoreReplacedError, match="open the store again"):
                await call()
    assert path.read_bytes() == before
    async with open_store(url_of(path)) as store:
        await store.save_event(SAVED)
        assert len(events_of(await exported(store))) == 6


@pytest.mark.parametrize("mode", MODES)
async def test_nothing_is_acknowledged_when_the_file_was_removed(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 5, journal_mode=mode)
    async with open_store(url_of(path)) as store:
        await store.save_event(SAVED)
        await exported(store)
        path.unlink()
        assert await store.exists() is False
        calls: list[Callable[[], Any]] = [*changes(store), store.init, *reads(store)]
        calls.remove(store.exists)
        for call in calls:
            with pytest.raises(StoreNotFoundError):
                await call()
    assert not path.exists()


async def test_what_was_under_way_when_the_file_was_replaced_is_kept_by_neither_file(tmp_path: Path) -> None:
    """The new file is a copy of the same store, which only its inode tells."""
    path, backup = tmp_path / "a.db", tmp_path / "backup.db"
    await make_store(path, 300)
    shutil.copy(path, backup)
    for mode in (AUTO, MANUAL):
        async with open_store(url_of(path)) as store:
            sink = store.import_events(maintenance_mode=mode)
            await sink.begin()
            shutil.copy(backup, tmp_path / "new.db")
            (tmp_path / "new.db").rename(path)
            with pytest.raises(StoreReplacedError):
                await pipeline([make_lines(301).splitlines(keepends=True)[300]], sink)
        async with open_store(url_of(path)) as store:
            assert await exported(store) == make_lines(300), mode
    async with open_store(url_of(path)) as store:
        parts = await store.partitions(3)
        shutil.copy(backup, tmp_path / "new.db")
        (tmp_path / "new.db").rename(path)
        for part in parts:
            with pytest.raises(StoreReplacedError):
                async for _ in store.read_partition(part):
                    pass


async def test_a_file_that_comes_back_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 5)
    async with open_store(url_of(path)) as store:
        await store.save_event(SAVED)
        path.rename(tmp_path / "away.db")
        with pytest.raises(StoreNotFoundError):
            await store.describe()
        (tmp_path / "away.db").rename(path)
        assert (await store.describe()).event_count == 6


async def test_an_import_goes_on_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        stream = store.import_events()
        await stream.write(make_lines(30))
        stream.stop()
        await stream.close()
    async with open_store(url_of(linked(path))) as store:
        await pipeline([make_lines(30)], store.import_events(resume=True))
        assert await exported(store) == make_lines(30)
    assert names_beside(path) == {"links"}

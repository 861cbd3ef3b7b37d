"""A file that was made for a store and never used is removed again; any other stays."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eventferry import DatabaseError, EventStore, InputError, open_store
from tests.support import exported, import_lines, make_event, make_lines


@asynccontextmanager
async def made(folder: Path) -> AsyncIterator[EventStore]:
    async with open_store(f"sqlite:///{folder}/a.db") as store:
        await store.init()
        yield store


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_file_in_which_nothing_was_stored_is_removed_with_all_that_belongs_to_it(
    tmp_path: Path,
) -> None:
    async with made(tmp_path) as store:
        with pytest.raises(InputError):
            await import_lines(store, make_lines(20_000) + b"no event\n")
        assert (await store.describe()).event_count == 0
        await store.undo_init()
        assert files(tmp_path) == []
        await store.undo_init()  # again is fine
        async with open_store(f"sqlite:///{tmp_path}/a.db") as other:
            await other.init()
            await import_lines(other, make_lines(3))
            assert await exported(other) == make_lines(3)


async def save(store: EventStore) -> None:
    await store.save_event(make_event(0) | {"aggregateVersion": 1})


async def stop_an_import(store: EventStore) -> None:
    stream = store.import_events()
    await stream.write(make_lines(10))
    stream.stop()
    await stream.close()


USES: dict[str, Callable[[EventStore], Awaitable[object]]] = {
    "an event": save,
    "a secret": lambda store: store.set_secret("id", "secret"),
    "a snapshot": lambda store: store.save_snapshot("key", "content"),
    "a subscriber": lambda store: store.ensure_event_subscriber("a", "b", {}, None),
    "a freeze": lambda store: store.freeze(),
    "an open import": lambda store: store.begin_incremental_import(),
    "an import to resume": stop_an_import,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_a_file_in_which_anything_was_stored_stays(
    use: Callable[[EventStore], Awaitable[object]], tmp_path: Path
) -> None:
    async with made(tmp_path) as store:
        await use(store)
        await store.undo_init()
        assert await store.exists()
        await store.describe()


@pytest.mark.parametrize("writes", [False, True])
async def test_a_file_that_another_has_open_stays_as_it_was(writes: bool, tmp_path: Path) -> None:
    async with made(tmp_path) as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
            other.execute("SELECT count(*) FROM events").fetchone()
            if writes:
                other.execute("BEGIN")
                other.execute("CREATE TABLE mine (a)")
            await store.undo_init()
            if writes:
                other.execute("COMMIT")
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert await store.exists()


async def test_another_file_at_the_same_path_stays(tmp_path: Path) -> None:
    async with made(tmp_path) as store:
        async with open_store(f"sqlite:///{tmp_path}/b.db") as other:
            await other.init()
        os.replace(tmp_path / "b.db", tmp_path / "a.db")
        with contextlib.suppress(Exception):
            await store.undo_init()
        assert (tmp_path / "a.db").exists()


async def test_a_file_that_was_there_before_stays(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as other:
        other.execute("PRAGMA journal_mode = WAL")
    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        await store.init()
        await store.undo_init()
        assert await store.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that has room for an empty store, and not for much more."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize(
    "store_much",
    [
        lambda store: import_lines(store, make_lines(20_000)),
        lambda store: store.incremental_import([make_event(i) for i in range(6_000)]),
    ],
    ids=["import", "incremental import"],
)
async def test_a_file_that_the_disk_has_no_room_for_is_removed_with_its_log(
    small_disk: Path, store_much: Callable[[EventStore], Awaitable[object]]
) -> None:
    async with made(small_disk) as store:
        with pytest.raises(DatabaseError, match=r"a\.db: the disk is full"):
            await store_much(store)
        await store.undo_init()
        assert files(small_disk) == []


async def test_a_store_on_a_full_disk_says_that_it_is(small_disk: Path) -> None:
    async with made(small_disk):
        pass
    with (small_disk / "rest").open("wb", buffering=0) as rest, contextlib.suppress(OSError):
        while rest.write(bytes(4096)):
            pass
    async with open_store(f"sqlite:///{small_disk}/a.db") as store:
        with pytest.raises(DatabaseError, match=r"a\.db: the disk is full"):
            await store.describe()

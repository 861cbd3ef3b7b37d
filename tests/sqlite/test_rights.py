"""Files and folders that cannot be written."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    ReadOnlyStoreError,
    open_store,
)
from tests.sqlite.files import (
    KEY,
    MODES,
    SAVED,
    at,
    connect,
    file_hash,
    make_store,
    names_beside,
    url_of,
)
from tests.support import (
    FAR_FUTURE,
    all_pages,
    events_of,
    exported,
    import_lines,
    make_event,
    make_lines,
)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory(prefix="eventferry-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def unprivileged(function: Callable[[], Any]) -> None:
    """Run in a child process that has no rights but those of everybody."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            result = function()
            if asyncio.iscoroutine(result):
                asyncio.run(result)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def no_writing(path: Path) -> None:
    for other in path.parent.iterdir():
        other.chmod(0o444)
    path.parent.chmod(0o555)


async def same_lines(path: Path, lines: bytes) -> None:
    async with open_store(url_of(path)) as store:
        assert await exported(store) == lines
        assert len(await all_pages(store, 100)) == lines.count(b"\n")
        await store.describe()


@pytest.mark.parametrize("mode", MODES)
def test_a_closed_store_in_an_unwritable_folder_is_read(open_folder: Path, mode: str) -> None:
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 300, journal_mode=mode))
    no_writing(path)
    before = file_hash(path)
    unprivileged(lambda: same_lines(path, make_lines(300)))
    assert file_hash(path) == before
    assert names_beside(path) == set()


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_cannot_be_written_is_read_in_a_folder_that_can(open_folder: Path, mode: str) -> None:
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 300, journal_mode=mode))
    path.chmod(0o444)
    open_folder.chmod(0o777)
    before = file_hash(path)
    unprivileged(lambda: same_lines(path, make_lines(300)))
    assert file_hash(path) == before


def test_a_writable_file_in_an_unwritable_folder_is_read(open_folder: Path) -> None:
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 300))
    path.chmod(0o666)
    open_folder.chmod(0o555)
    unprivileged(lambda: same_lines(path, make_lines(300)))


def copy_with_log(source: Path, folder: Path) -> Path:
    """A store whose log nobody folded in, as a crash or a careless copy leaves it."""

    async def copy() -> None:
        async with open_store(url_of(source)) as store:
            await store.save_event(SAVED)
            for suffix in ("", "-wal"):
                shutil.copy(f"{source}{suffix}", folder / f"copy.db{suffix}")

    asyncio.run(copy())
    return folder / "copy.db"


def test_a_log_that_cannot_be_folded_in_is_refused_with_the_reason(tmp_path: Path, open_folder: Path) -> None:
    asyncio.run(make_store(tmp_path / "a.db", 10))
    path = copy_with_log(tmp_path / "a.db", open_folder)
    no_writing(path)

    async def refused() -> None:
        async with open_store(url_of(path)) as store:
            with pytest.raises(ReadOnlyStoreError, match=r"copy\.db-wal"):
                await exported(store)
            with pytest.raises(ReadOnlyStoreError):
                await store.describe()

    unprivileged(refused)
    assert names_beside(path) == {"copy.db-wal"}


def test_a_log_that_can_be_folded_in_is_read(tmp_path: Path) -> None:
    asyncio.run(make_store(tmp_path / "a.db", 10))
    (tmp_path / "elsewhere").mkdir()
    path = copy_with_log(tmp_path / "a.db", tmp_path / "elsewhere")

    async def read() -> None:
        async with open_store(url_of(path)) as store:
            assert len(events_of(await exported(store))) == 11

    asyncio.run(read())


def test_a_store_that_somebody_else_writes_is_read_without_the_right_to_write(open_folder: Path) -> None:
    """The log and its shared memory are there while a writer lives."""
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 10))
    with connect(path) as writer:
        writer.execute(
            'INSERT INTO "events" VALUES (?, ?, ?, ?, ?, ?, ?)', (9, 1, FAR_FUTURE, "new", 1, "T", "7")
        )
        no_writing(path)

        async def reads() -> None:
            async with open_store(url_of(path)) as store:
                assert [event.payload for event in events_of(await exported(store))][-1] == 7

        unprivileged(reads)


@pytest.mark.parametrize("mode", MODES)
def test_without_the_right_to_write_every_change_is_refused_by_name(open_folder: Path, mode: str) -> None:
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 10, journal_mode=mode))
    no_writing(path)
    before = file_hash(path)

    async def refused() -> None:
        async with open_store(url_of(path)) as store:
            calls: list[Callable[[], Any]] = [
                lambda: store.save_event(SAVED),
                store.freeze,
                store.drop,
                lambda: store.set_secret("id", KEY),
                lambda: store.incremental_import([at(FAR_FUTURE, 1)]),
                store.begin_incremental_import,
                lambda: import_lines(store, make_lines(5)),
                lambda: import_lines(store, [make_event(20)], maintenance_mode=MANUAL),
                lambda: exported(store, maintenance_mode=AUTO),
                lambda: store.save_snapshot("key", "content"),
            ]
            for call in calls:
                with pytest.raises(ReadOnlyStoreError):
                    await call()
            assert await exported(store) == make_lines(10)

    unprivileged(refused)
    assert file_hash(path) == before
    assert names_beside(path) == set()


def test_a_file_that_cannot_be_read_is_refused_by_name(open_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 10))
    path.chmod(0o600)

    async def refused() -> None:
        async with open_store(url_of(path)) as store:
            with pytest.raises(ReadOnlyStoreError, match=r"a\.db"):
                await store.describe()

    unprivileged(refused)

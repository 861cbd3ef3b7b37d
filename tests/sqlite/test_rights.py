"""Files and folders that cannot be written."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    ReadOnlyStoreError,
    StoreBusyError,
    open_store,
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
from tests.support.sqlite import (
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
    assert names_beside(path) == set()  # they would be the reader's, and its owner could not write any more


def test_a_writable_file_in_an_unwritable_folder_is_read(open_folder: Path) -> None:
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 300))
    path.chmod(0o666)
    open_folder.chmod(0o555)
    unprivileged(lambda: same_lines(path, make_lines(300)))


def copy_with_log(source: Path, folder: Path, suffixes: Sequence[str] = ("", "-wal")) -> Path:
    """A store whose log nobody folded in, as a crash or a careless copy leaves it."""

    async def copy() -> None:
        async with open_store(url_of(source)) as store:
            await store.save_event(SAVED)
            for suffix in suffixes:
                shutil.copy(f"{source}{suffix}", folder / f"copy.db{suffix}")

    asyncio.run(copy())
    return folder / "copy.db"


@pytest.mark.parametrize("folder_mode", [0o555, 0o777])
def test_a_log_that_cannot_be_folded_in_is_refused_with_the_reason(
    tmp_path: Path, open_folder: Path, folder_mode: int
) -> None:
    asyncio.run(make_store(tmp_path / "a.db", 10))
    path = copy_with_log(tmp_path / "a.db", open_folder)
    no_writing(path)
    open_folder.chmod(folder_mode)

    async def refused() -> None:
        async with open_store(url_of(path)) as store:
            with pytest.raises(ReadOnlyStoreError, match=r"copy\.db-wal"):
                await exported(store)
            with pytest.raises(ReadOnlyStoreError):
                await store.describe()

    unprivileged(refused)
    assert names_beside(path) == {"copy.db-wal"}


def test_a_log_of_somebody_else_is_read_and_left(tmp_path: Path, open_folder: Path) -> None:
    """As one who was killed leaves it, with its shared memory."""
    asyncio.run(make_store(tmp_path / "a.db", 10))
    path = copy_with_log(tmp_path / "a.db", open_folder, ("", "-wal", "-shm"))
    no_writing(path)
    open_folder.chmod(0o777)
    before = {other.name: file_hash(other) for other in open_folder.iterdir()}

    async def read() -> None:
        async with open_store(url_of(path)) as store:
            assert len(events_of(await exported(store))) == 11

    unprivileged(read)
    assert {other.name: file_hash(other) for other in open_folder.iterdir()} == before


def test_a_log_that_cannot_be_written_is_named(open_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 10))
    path.chmod(0o666)
    log = open_folder / "a.db-wal"
    log.touch(0o444)
    open_folder.chmod(0o777)

    async def refused() -> None:
        async with open_store(url_of(path)) as store:
            assert await exported(store) == make_lines(10)
            with pytest.raises(ReadOnlyStoreError, match=r"no right to write a\.db-wal"):
                await store.save_event(SAVED)

    unprivileged(refused)


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


class Turns:
    """Two processes that take turns: this one and a child."""

    def __init__(self) -> None:
        self._to_child, self._to_parent = os.pipe(), os.pipe()

    def for_child(self) -> None:
        """In the parent: let the child go on, and wait until it has its turn behind it."""
        os.write(self._to_child[1], b".")
        self._read(self._to_parent[0])

    def wait(self) -> None:
        """In the child: wait for the next turn."""
        self._read(self._to_child[0])

    def _read(self, end: int) -> None:
        assert select.select([end], [], [], 30)[0], "the other one has ended"
        os.read(end, 1)

    def is_over(self) -> None:
        """In the child."""
        os.write(self._to_parent[1], b".")


def beside(function: Callable[[Turns], Any], parent: Callable[[Turns], Any]) -> None:
    """Run the one in a child without rights, and the other here meanwhile."""
    turns = Turns()
    with ThreadPoolExecutor(1) as pool:
        child = pool.submit(unprivileged, lambda: function(turns))
        try:
            result = parent(turns)
            if asyncio.iscoroutine(result):
                asyncio.run(result)
        finally:
            child.result(timeout=60)


def test_a_log_is_found_through_a_link(open_folder: Path) -> None:
    path = open_folder / "real" / "a.db"
    path.parent.mkdir()
    link = open_folder / "links" / "a.db"
    link.parent.mkdir()
    link.symlink_to(path)
    asyncio.run(make_store(path, 10))
    with connect(path) as writer:
        writer.execute(
            'INSERT INTO "events" VALUES (?, ?, ?, ?, ?, ?, ?)', (9, 1, FAR_FUTURE, "new", 1, "T", "7")
        )
        no_writing(path)
        link.parent.chmod(0o555)

        async def reads() -> None:
            async with open_store(url_of(link)) as store:
                assert [event.payload for event in events_of(await exported(store))][-1] == 7

        unprivileged(reads)


@pytest.mark.parametrize("folder_mode", [0o555, 0o777])
def test_a_reader_of_a_closed_store_sees_what_is_written_later(open_folder: Path, folder_mode: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 10))

    def shut() -> None:
        no_writing(path)
        open_folder.chmod(folder_mode)

    shut()

    async def follow(turns: Turns) -> None:
        async with open_store(url_of(path)) as store:
            for count in (10, 11, 12, 12):
                turns.wait()
                try:
                    assert (await store.describe()).event_count == count
                    assert len(await all_pages(store, 5)) == count
                finally:
                    turns.is_over()

    async def write(turns: Turns) -> None:
        turns.for_child()
        async with open_store(url_of(path)) as store:
            for version in (1, 2):
                await store.save_event(SAVED | {"aggregateVersion": version})
                shut()
                turns.for_child()
        turns.for_child()

    beside(follow, write)


def test_what_was_read_without_a_lock_while_somebody_wrote_is_not_given(open_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 10))
    no_writing(path)

    async def read(turns: Turns) -> None:
        async with open_store(url_of(path)) as store, store._database.reading() as reading:
            assert (await reading.state()).growth == 10
            turns.wait()
            try:
                with pytest.raises(StoreBusyError, match="read again"):
                    await reading.state()
            finally:
                turns.is_over()

    async def write(turns: Turns) -> None:
        await asyncio.sleep(1)
        async with open_store(url_of(path)) as store:
            await store.save_event(SAVED)
        turns.for_child()

    beside(read, write)


def test_reading_drops_no_lock_that_this_process_has_on_the_file(open_folder: Path) -> None:
    """As closing any descriptor of the file would."""
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 10, journal_mode="delete"))
    no_writing(path)

    async def read(turns: Turns) -> None:
        with connect(path) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM events").fetchone()
            async with open_store(url_of(path)) as store:
                await exported(store)
                await store.describe()
                turns.wait()
                turns.is_over()
                turns.wait()

    def write(turns: Turns) -> None:
        turns.for_child()
        with connect(path) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("DELETE FROM events")
            try:
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    other.execute("COMMIT")
            finally:
                os.write(turns._to_child[1], b".")
            other.execute("ROLLBACK")

    beside(read, write)


def test_an_owner_that_cannot_be_asked_is_named_with_what_to_do(open_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    path = open_folder / "a.db"
    asyncio.run(make_store(path, 10))
    open_folder.chmod(0o777)
    with connect(path) as other:
        other.execute(
            'CREATE TABLE "events-freeze"(-- RESOLVE EVENT STORE "events" FREEZE MARKER\n'
            "-- EVENTFERRY FREEZE OWNER '0123456789ab' SINCE '1'\nsurrogate)"
        )
    for made in open_folder.iterdir():
        made.chmod(0o666)
    lock = open_folder / "a.db-owner-0123456789ab"
    lock.touch()
    lock.chmod(0o600)

    async def asks() -> None:
        async with open_store(url_of(path)) as store:
            with pytest.raises(
                ReadOnlyStoreError, match=r"a\.db-owner-0123456789ab cannot be read.*remove it"
            ):
                await store.save_event(SAVED)
            lock.unlink()
            await store.save_event(SAVED)

    unprivileged(asks)

"""What an owner that died has left."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    DatabaseError,
    EventStore,
    NotFrozenError,
    StoreBusyError,
    StoreChangedError,
    StoreFrozenError,
    open_store,
)
from eventferry.databases.sqlite import owners
from tests.support import (
    exported,
    import_lines,
    make_lines,
)
from tests.support.sqlite import (
    SAVED,
    connect,
    file_hash,
    make_store,
    names_beside,
    rows,
    url_of,
)

IMPORT_AND_WAIT = """
import asyncio, sys
from eventferry import open_store

async def main():
    async with open_store(sys.argv[1]) as store, store.import_events(freeze=True) as stream:
        line = '{"threadCounter":%d,"threadId":0,"type":"T","timestamp":%d,"aggregateId":"a","aggregateVersion":%d,'
        line += '"payload":"' + "x" * 1_000_000 + '"}\\n'
        for i in range(10):
            await stream.write((line % (i, i, i + 1)).encode())
        while not stream.saved_events_count:
            await asyncio.sleep(0.01)
        print(stream.saved_events_count, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


EXPORT_AND_WAIT = """
import asyncio, sys
from eventferry import AUTO, open_store

async def main():
    async with open_store(sys.argv[1]) as store:
        async for block in store.export_events(maintenance_mode=AUTO):
            print(len(block), flush=True)
            await asyncio.sleep(600)

asyncio.run(main())
"""


def start(script: str, path: Path) -> subprocess.Popen[bytes]:
    """A child process that has said that it is in the middle of its work."""
    child = subprocess.Popen([sys.executable, "-c", script, url_of(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert int(child.stdout.readline()) > 0
    return child


def kill(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


@pytest.mark.parametrize("script", [IMPORT_AND_WAIT, EXPORT_AND_WAIT], ids=["import", "export"])
async def test_the_freeze_of_an_owner_that_was_killed_counts_as_absent(tmp_path: Path, script: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    child = start(script, path)
    try:
        async with open_store(url_of(path)) as store:
            description = await store.describe()
            assert (description.is_frozen, description.frozen_by) == (True, "operation")
            with pytest.raises(StoreFrozenError):
                await store.save_event(SAVED)
    finally:
        kill(child)
    before = {other.name: file_hash(other) for other in tmp_path.iterdir() if not other.name.endswith("-shm")}
    async with open_store(url_of(path)) as store:
        description = await store.describe()
        assert (description.is_frozen, description.frozen_by) == (False, None)
        assert await exported(store) == make_lines(20)
        after = {
            other.name: file_hash(other) for other in tmp_path.iterdir() if not other.name.endswith("-shm")
        }
        assert after == before  # who only reads removes nothing
        with pytest.raises(NotFrozenError):
            await store.unfreeze()
        await store.save_event(SAVED)
        assert rows(path, "SELECT 1 FROM sqlite_master WHERE name = 'events-freeze'") == []
        await import_lines(store, make_lines(50))
        assert await exported(store) == make_lines(50)
    assert names_beside(path) == set()
    assert len(rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")) == 4


async def test_a_user_can_freeze_what_a_dead_owner_left_frozen(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    kill(start(EXPORT_AND_WAIT, path))
    async with open_store(url_of(path)) as store:
        await store.freeze()
        assert (await store.describe()).frozen_by == "user"
        await store.unfreeze()
    assert names_beside(path) == set()


async def test_the_stage_of_an_owner_that_was_killed_is_gone_with_the_next_import(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    child = start(IMPORT_AND_WAIT, path)
    try:
        async with open_store(url_of(path)) as store:
            with pytest.raises((StoreBusyError, StoreFrozenError)):
                await import_lines(store, make_lines(30))
    finally:
        kill(child)
    async with open_store(url_of(path)) as store:
        await import_lines(store, make_lines(30))
        assert await exported(store) == make_lines(30)
    assert names_beside(path) == set()
    assert len(rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")) == 4


async def test_drop_removes_what_a_dead_owner_left(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    kill(start(IMPORT_AND_WAIT, path))
    async with open_store(url_of(path)) as store:
        await store.drop()
    assert rows(path, "SELECT name FROM sqlite_master") == []
    assert names_beside(path) == set()


COUNT_FROZEN = """
import asyncio, sys
from eventferry import open_store

async def main():
    async with open_store(sys.argv[1]) as store:
        print(sum([(await store.describe()).is_frozen for _ in range(800)]))

asyncio.run(main())
"""


@pytest.mark.slow
async def test_readers_who_ask_at_once_agree_that_an_owner_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    kill(start(EXPORT_AND_WAIT, path))
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", COUNT_FROZEN, url_of(path), stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    answers = [await child.communicate() for child in children]
    assert [int(answer) for answer, _ in answers] == [0, 0, 0, 0]


INCREMENT_AND_WAIT = """
import asyncio, sys
from eventferry import open_store

async def blocks():
    yield b'{"type":"T","timestamp":1,"aggregateId":"a"}\\n'
    print(1, flush=True)
    await asyncio.sleep(600)

async def main():
    async with open_store(sys.argv[1]) as store:
        await store.incremental_import(blocks())

asyncio.run(main())
"""


def owners_beside(path: Path) -> set[str]:
    return {name for name in names_beside(path) if "-owner-" in name}


@pytest.mark.slow
async def test_the_next_operation_removes_the_lock_files_of_all_that_were_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    living = start(EXPORT_AND_WAIT, path)
    try:
        kept = owners_beside(path)
        rows(
            path, 'DROP TABLE "events-freeze"'
        )  # what is frozen is not imported into, which is no part of this
        dead = [start(INCREMENT_AND_WAIT, path) for _ in range(2)]
        for child in dead:
            kill(child)
        assert len(owners_beside(path)) == len(kept) + 2
        for name in ("a.db-owner-0123456789ab", "a.db-owner-notes", "other.db-owner-0123456789ab"):
            (tmp_path / name).write_text("of somebody else")
        async with open_store(url_of(path)) as store:
            await store.incremental_import([])
        assert owners_beside(path) == kept | {
            "a.db-owner-0123456789ab",
            "a.db-owner-notes",
            "other.db-owner-0123456789ab",
        }
    finally:
        kill(living)


async def test_who_begins_while_others_sweep_owns_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()
    is_over = threading.Event()

    def sweep() -> None:
        while not is_over.is_set():
            owners.sweep(path)

    sweepers = [threading.Thread(target=sweep) for _ in range(3)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for _ in range(300):
            owner = owners.FileOwner(path)
            assert owners.is_alive(path, owner.id)
            assert owners.lock_path(path, owner.id).exists()
            owner.release()
            assert not owners.is_alive(path, owner.id)
    finally:
        is_over.set()
        for sweeper in sweepers:
            sweeper.join()
    owners.sweep(path)
    assert names_beside(path) == set()


async def test_everybody_can_ask_whether_an_owner_lives_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    before = os.umask(0o077)
    try:
        await make_store(path, 20)
        async with open_store(url_of(path)) as store, store.import_events() as stream:
            await stream.write(make_lines(30))
            [owner] = owners_beside(path)
            assert stat.S_IMODE((tmp_path / owner).stat().st_mode) == 0o644
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_a_store_that_is_closed_owns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        database = store._database
        owner = await database.own()
        assert await database.is_alive(owner)
    assert not await database.is_alive(owner)
    assert not owners_beside(path)


async def test_a_process_that_is_stopped_keeps_what_it_owns(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    child = start(IMPORT_AND_WAIT, path)
    try:
        with connect(
            path, timeout=60
        ) as other:  # nor may it be stopped in a transaction, which all would wait for
            other.execute("BEGIN IMMEDIATE")
            child.send_signal(signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)  # on a busy machine it goes on for a while
            other.execute("ROLLBACK")
        async with open_store(url_of(path)) as store:
            assert (await store.describe()).is_frozen
            with pytest.raises(StoreFrozenError):
                await store.save_event(SAVED)
            with pytest.raises((StoreBusyError, StoreFrozenError)):
                await import_lines(store, make_lines(30))
            assert await exported(store) == make_lines(20)
    finally:
        kill(child)


# an owner that has lost its lock


def lose_locks(path: Path) -> None:
    """Take all locks away from their owners: as when somebody tidies up what lies beside the file."""
    for name in owners_beside(path):
        (path.parent / name).unlink()


def interrupted(
    monkeypatch: pytest.MonkeyPatch, database: Any, number: int, interfere: Callable[[], Awaitable[None]]
) -> list[int]:
    """Let something else happen before the transaction of that number; what is given is filled with their numbers."""
    real = type(database).writing
    begun: list[int] = []

    @asynccontextmanager
    async def writing(*kind: Any, **options: Any) -> AsyncIterator[Any]:
        begun.append(len(begun) + 1)
        if len(begun) == number:
            await interfere()
        async with real(database, *kind, **options) as transaction:
            yield transaction

    monkeypatch.setattr(database, "writing", writing)
    return begun


@pytest.mark.parametrize(
    ("then", "freeze"), [("import", True), ("resume", False), ("drop", True), ("save", False)]
)
async def test_an_import_that_lost_its_lock_is_refused_whatever_happens_before_any_of_its_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, freeze: bool
) -> None:
    lines, first_lines = make_lines(60), len(make_lines(40))
    refused = 0
    for number in itertools.count(1):
        path = tmp_path / f"{number}.db"
        await make_store(path, 20)
        async with open_store(url_of(path)) as first, open_store(url_of(path)) as second:
            begun = interrupted(
                monkeypatch, first._database, number, partial(something_else, then, second, path)
            )
            stream = first.import_events(freeze=freeze)
            try:
                await stream.write(lines[:first_lines])
                await stream._batches.commit()
                await stream.write(lines[first_lines:])
                await stream.close()
            except (StoreBusyError, StoreChangedError):
                refused += 1
                stored = await exported(second)
                if then == "save":
                    assert b'"SAVED"' in stored
                    assert stored.count(b"\n") == 21
                else:
                    assert stored == {"import": make_lines(30), "resume": make_lines(80), "drop": b""}[then]
            else:
                assert await exported(second) == lines
            assert not (await second.describe()).is_frozen
            await second.save_event(SAVED | {"aggregateVersion": 2}, allow_gaps=True)
        assert {name for name in names_beside(path) if name.startswith(path.name)} == set(), number
        assert len(rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")) == 4
        if len(begun) < number:
            break
    print(f"{number - 1} transactions, refused at {refused} of them")
    assert refused >= 4


async def something_else(what: str, store: EventStore, path: Path) -> None:
    lose_locks(path)
    if what == "import":
        await import_lines(store, make_lines(30))
    elif what == "resume":
        sink = store.import_events(resume=True)
        await sink.begin()
        await sink.write(make_lines(80)[sink.byte_offset :])
        await sink.close()
    elif what == "drop":
        await store.drop()
        await store.init()
    else:
        await store.save_event(SAVED)


async def test_of_two_who_resume_at_once_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    async with open_store(url_of(path)) as first:
        stopped = first.import_events()
        await stopped.write(make_lines(60))
        stopped.stop()
        await stopped.close()
        stores = [open_store(url_of(path)) for _ in range(4)]
        sinks = [store.import_events(resume=True) for store in stores]
        begun = await asyncio.gather(*(sink.begin() for sink in sinks), return_exceptions=True)
        [winner] = [sink for sink, error in zip(sinks, begun, strict=True) if error is None]
        assert [type(error) for error in begun if error is not None] == [StoreBusyError] * 3
        assert winner.byte_offset == len(make_lines(60))
        await winner.write(make_lines(80)[winner.byte_offset :])
        await winner.close()
        assert await exported(first) == make_lines(80)
        for store in stores:
            await store.close()
    assert names_beside(path) == set()


async def test_a_full_disk_is_no_lack_of_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = tmp_path / "a.db", os.open

    def full(name: Any, flags: int, *rest: Any, **others: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(name, flags, *rest, **others)

    await make_store(path, 3)
    async with open_store(url_of(path)) as store, open_store(url_of(tmp_path / "b.db")) as other:
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", full)
            for call in (store.import_events().begin(), store.incremental_import([]), other.init()):
                with pytest.raises(DatabaseError, match="disk is full"):
                    await call
        assert await exported(store) == make_lines(3)
        await import_lines(store, make_lines(5))
        await other.init()

"""What an owner that died has left."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eventferry import (
    NotFrozenError,
    StoreBusyError,
    StoreFrozenError,
    open_store,
)
from tests.sqlite.files import (
    SAVED,
    file_hash,
    make_store,
    names_beside,
    rows,
    url_of,
)
from tests.support import (
    exported,
    import_lines,
    make_lines,
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

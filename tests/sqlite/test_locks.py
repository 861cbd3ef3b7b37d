"""Locks, cancellation, and several processes on one file."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    AUTO,
    StoreBusyError,
    StoreExistsError,
    open_store,
)
from tests.support import (
    FAR_FUTURE,
    all_pages,
    as_dict,
    exported,
    make_lines,
)
from tests.support.sqlite import (
    KEY,
    MODES,
    SAVED,
    at,
    check_no_gaps,
    connect,
    make_store,
    names_beside,
    url_of,
)


@pytest.mark.parametrize("mode", MODES)
async def test_a_writer_gives_up_after_busy_timeout(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 10, journal_mode=mode)
    async with open_store(url_of(path), busy_timeout=0.4) as store:
        with connect(path) as other:
            other.execute("BEGIN IMMEDIATE")
            for call in (lambda: store.save_event(SAVED), lambda: store.incremental_import([at(1, 1)])):
                began = time.monotonic()
                with pytest.raises(StoreBusyError, match=r"0\.4"):
                    await call()
                assert 0.3 < time.monotonic() - began < 20
            assert await exported(store) == make_lines(10)
            other.execute("ROLLBACK")
        await store.save_event(SAVED)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
async def test_a_writer_waits_for_another_one(tmp_path: Path, mode: str, lock: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 10, journal_mode=mode)
    with connect(path) as other:
        other.execute(f"BEGIN {lock}")
        async with open_store(url_of(path), busy_timeout=20) as store:
            save = asyncio.create_task(store.save_event(SAVED))
            await asyncio.sleep(0.5)
            assert not save.done()
            other.execute("COMMIT")
            assert (await save).event.aggregate_version == 1


async def test_a_reader_waits_where_a_writer_keeps_readers_out(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 10, journal_mode="delete")
    with connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with open_store(url_of(path), busy_timeout=20) as store:
            read = asyncio.create_task(exported(store))
            await asyncio.sleep(0.5)
            assert not read.done()
            other.execute("COMMIT")
            assert await read == make_lines(10)


async def test_a_commit_waits_for_the_readers_that_the_journal_makes_it_wait_for(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 10, journal_mode="delete")
    with connect(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        async with open_store(url_of(path), busy_timeout=20) as store:
            save = asyncio.create_task(store.save_event(SAVED))
            await asyncio.sleep(0.5)
            assert not save.done()
            reader.execute("COMMIT")
            await save
            assert (await store.describe()).event_count == 11


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_task_that_waits_returns_at_once_and_leaves_nothing_open(
    tmp_path: Path, times: int
) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 10)
    async with open_store(url_of(path), busy_timeout=20) as store:
        with connect(path) as other:
            other.execute("BEGIN IMMEDIATE")
            calls: list[Callable[[], Any]] = [
                lambda: store.save_event(SAVED),
                store.freeze,
                lambda: store.set_secret("id", KEY),
            ]
            for call in calls:
                task = asyncio.create_task(call())
                await asyncio.sleep(0.2)
                began = time.monotonic()
                for _ in range(times):
                    task.cancel()
                    await asyncio.sleep(0)
                await asyncio.wait([task])
                assert task.cancelled()
                assert time.monotonic() - began < 10  # not the twenty seconds of its patience
            waiting = asyncio.create_task(store.save_event(SAVED))
            await asyncio.sleep(0.3)
            still_waiting = not waiting.done()  # as patient as ever, whatever became of the others
            other.execute("COMMIT")
            await asyncio.wait([waiting])
            del task
            gc.collect()
            assert (still_waiting, waiting.exception()) == (True, None)
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        assert (await store.describe()).event_count == 11


@pytest.mark.parametrize("called", ["save_snapshot", "set_secret", "incremental_import", "export"])
async def test_a_call_cancelled_at_any_moment_leaves_no_transaction_open(tmp_path: Path, called: str) -> None:
    path = tmp_path / "a.db"
    chance = random.Random(4)
    wrong: list[str] = []
    await make_store(path, 10)
    async with open_store(url_of(path), busy_timeout=5) as store:

        async def call(number: int) -> None:
            if called == "save_snapshot":
                await store.save_snapshot("key", f"{number}")
            elif called == "set_secret":
                await store.set_secret(f"{number}", "x")
            elif called == "incremental_import":
                await store.incremental_import([at(FAR_FUTURE, number)])
            else:
                await exported(store, maintenance_mode=AUTO)

        for number in range(60):
            task = asyncio.create_task(call(number))
            await asyncio.sleep(chance.random() * 0.005)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is not None:
                wrong.append(f"call {number} raised {task.exception()!r}")
            with connect(path) as other:
                try:
                    other.execute("BEGIN IMMEDIATE")
                    other.execute("ROLLBACK")
                except sqlite3.OperationalError as error:
                    wrong.append(f"after call {number}: {error}")
                    break
        del task
        gc.collect()
        assert wrong == []
        await store.save_event(SAVED)
        check_no_gaps(await exported(store))
        assert not (await store.describe()).is_frozen
    assert names_beside(path) == set()


SAVE_MANY = """
import asyncio, sys
from eventferry import ConcurrentError, open_store

async def main(url, name, count):
    async with open_store(url) as store:
        version = 1
        for number in range(int(count)):
            own = {"type": "T", "aggregateId": f"own-{name}", "aggregateVersion": number + 1, "payload": name}
            await store.save_event(own)
            while True:
                shared = {"type": "T", "aggregateId": "shared", "aggregateVersion": version, "payload": name}
                version += 1
                try:
                    await store.save_event(shared)
                    break
                except ConcurrentError:
                    pass

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_several_processes_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", SAVE_MANY, url_of(path), name, "40")
        for name in "xyz"
    ]
    async with open_store(url_of(path)) as store:
        for number in range(40):
            await store.incremental_import([at(FAR_FUTURE + number, number, "imported")])
        assert [await child.wait() for child in children] == [0, 0, 0]
        lines = await exported(store)
        check_no_gaps(lines)
        assert lines.count(b"\n") == 3 * 80 + 40
        assert {as_dict(event)["aggregateId"] for event in await all_pages(store, 50)} == {
            "own-x",
            "own-y",
            "own-z",
            "shared",
            "imported",
        }


async def test_of_many_who_make_one_store_at_once_one_succeeds(tmp_path: Path) -> None:
    stores = [open_store(url_of(tmp_path / "a.db")) for _ in range(6)]
    results = await asyncio.gather(*(store.init() for store in stores), return_exceptions=True)
    for store in stores:
        await store.close()
    assert results.count(None) == 1, results
    assert sum(isinstance(result, StoreExistsError) for result in results) == 5, results


async def test_of_a_group_that_waits_for_another_writer_nothing_goes_on_when_all_callers_are_gone(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with open_store(url) as store:
        await store.init()
        with sqlite3.connect(tmp_path / "a.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            calls = [
                asyncio.ensure_future(
                    store.save_event({"type": "T", "aggregateId": f"a{i}", "aggregateVersion": 1})
                )
                for i in range(6)
            ]
            await asyncio.sleep(0.05)
            calls[0].cancel()
            await asyncio.wait(calls[:1])
            await asyncio.sleep(0.05)  # what waited for it has begun, and waits for the other writer
            for call in calls[1:3]:
                call.cancel()
            await asyncio.wait(calls[1:3])
            assert not any(call.done() for call in calls[3:])
            for call in calls[3:]:
                call.cancel()
            async with asyncio.timeout(5):
                done = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in done)
            other.execute("COMMIT")
        other.close()
        await store.save_event({"type": "T", "aggregateId": "last", "aggregateVersion": 1})
        assert (await store.describe()).event_count == 1


async def test_a_save_that_has_to_wait_for_a_writer_lets_the_loop_go_on(tmp_path: Path) -> None:
    await make_store(tmp_path / "a.db", 10)
    async with open_store(url_of(tmp_path / "a.db")) as store:
        with connect(tmp_path / "a.db") as other:
            for version in range(1, 4):
                other.execute("BEGIN IMMEDIATE")
                # Were the loop waiting with the save, nobody would end the other's transaction.
                asyncio.get_running_loop().call_later(0.3, other.execute, "ROLLBACK")
                assert (
                    await store.save_event(SAVED | {"aggregateVersion": version})
                ).event.aggregate_version == version


async def test_saves_without_a_pause_let_the_loop_have_its_turn(tmp_path: Path) -> None:
    await make_store(tmp_path / "a.db", 10)
    async with open_store(url_of(tmp_path / "a.db")) as store:
        had_turn: list[int] = []
        asyncio.get_running_loop().call_later(0.1, had_turn.append, 1)
        for version in range(1, 10_000):
            if had_turn:
                break
            await store.save_event(SAVED | {"aggregateVersion": version})
        assert had_turn


@pytest.mark.parametrize("others", [0, 1])
async def test_a_save_holds_up_no_other_task_and_where_there_is_none_needs_no_thread(
    tmp_path: Path, others: int
) -> None:
    await make_store(tmp_path / "a.db", 10)
    async with open_store(url_of(tmp_path / "a.db")) as store:
        await store.save_event(SAVED)
        threads: set[int] = set()
        [writer] = store._database._writers._idle  # type: ignore[attr-defined]
        writer.sqlite.set_trace_callback(lambda _: threads.add(threading.get_ident()))
        tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(others)]
        for version in range(2, 500):
            await store.save_event(SAVED | {"aggregateVersion": version})
        writer.sqlite.set_trace_callback(None)
        for task in tasks:
            task.cancel()
        assert (threading.get_ident() in threads) == (not tasks)

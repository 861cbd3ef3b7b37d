"""A process that is forked from one that uses a store: gunicorn with --preload, Celery, multiprocessing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from eventferry import AUTO, StoreClosedError, StoreFrozenError, open_store, sync
from tests.support import NewUrl, events_of, make_lines

SAVES = 20


def in_a_child(work: Callable[[], object]) -> int:
    """The number of a child that does this, and fails if it does."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(60)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def is_well(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def save(store: sync.EventStore, name: str) -> None:
    for version in range(1, SAVES + 1):
        store.save_event({"type": "T", "aggregateId": name, "aggregateVersion": version})


def test_children_and_their_parent_use_one_store_object_and_nothing_is_lost(new_url: NewUrl) -> None:
    with sync.open_store(new_url()) as store:
        store.init()
        save(store, "before")
        list(store.export_events())
        children = [in_a_child(lambda name=name: save(store, name)) for name in ("one", "two")]  # type: ignore[misc]
        save(store, "parent")
        assert [is_well(child) for child in children] == [True, True]
        saved = {
            (event.aggregate_id, event.aggregate_version)
            for event in events_of(b"".join(store.export_events()))
        }
        assert saved == {
            (name, version) for name in ("before", "one", "two", "parent") for version in range(1, SAVES + 1)
        }


def test_a_child_that_goes_to_another_folder_uses_the_same_store(new_url: NewUrl, tmp_path: Path) -> None:
    url = new_url()
    if url.startswith("sqlite:///"):
        url = os.path.relpath(url.removeprefix("sqlite:///"))
    with sync.open_store(url) as store:
        store.init()
        save(store, "before")

        def work() -> None:
            os.chdir(tmp_path)
            save(store, "child")

        assert is_well(in_a_child(work))
        assert store.describe().event_count == 2 * SAVES


def test_a_child_that_closes_the_store_does_not_close_its_parents(new_url: NewUrl) -> None:
    with sync.open_store(new_url()) as store:
        store.init()
        save(store, "a")

        def close() -> None:
            store.describe()
            store.close()
            with pytest.raises(StoreClosedError):
                store.describe()

        assert is_well(in_a_child(close))
        assert is_well(in_a_child(store.close))
        save(store, "b")
        assert store.describe().event_count == 2 * SAVES


def test_what_was_begun_before_a_fork_is_the_parents_alone(new_url: NewUrl) -> None:
    with sync.open_store(new_url()) as store:
        store.init()
        with store.import_events() as sink:
            sink.write(make_lines(3000))

        def use() -> None:
            for call in (lambda: next(export), lambda: sink.write(make_lines(1)), sink.close):
                with pytest.raises(StoreClosedError, match="forked"):
                    call()
            export.close()
            sink.abort()
            with pytest.raises(StoreClosedError), importing:
                pass

        with store.export_events(maintenance_mode=AUTO) as export:
            first = next(export)
            with pytest.raises(StoreFrozenError):
                save(store, "frozen")
        export = store.export_events()
        first = next(export)
        importing = store.import_events(replace=True)
        with importing as sink:
            sink.write(make_lines(500))
            assert is_well(in_a_child(use))
            sink.write(make_lines(700)[len(make_lines(500)) :])
        assert first + make_lines(3000)[len(first) :] == make_lines(3000)
        assert store.describe().event_count == 700


OWNER = """
import os, sys, time
from eventferry.sync import open_store
store = open_store(sys.argv[1])
sink = store.import_events(freeze=True, replace=True)
sink.begin()
if not os.fork():
    time.sleep(60)
    os._exit(0)
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_dead_owner_is_dead_though_its_child_lives(new_url: NewUrl) -> None:
    url = new_url()
    with sync.open_store(url) as store:
        store.init()
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, url], stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"begun\n"
            with pytest.raises(StoreFrozenError):
                save(store, "a")
            owner.kill()
            owner.wait()
            deadline = time.monotonic() + 20
            while store.describe().is_frozen:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            save(store, "a")
        finally:
            os.killpg(owner.pid, signal.SIGKILL)


@pytest.mark.slow
async def test_an_awaited_store_is_opened_anew_in_a_child_too(new_url: NewUrl) -> None:
    async with open_store(new_url()) as store:
        await store.init()
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})

        async def use() -> None:
            await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 2})
            await store.close()

        child = in_a_child(lambda: asyncio.run(use()))
        assert is_well(child)
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 3})
        assert (await store.describe()).event_count == 3

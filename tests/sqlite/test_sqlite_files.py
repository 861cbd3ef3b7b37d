"""What is SQLite's own: files, journals, locks, rights, and tables that others made."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventferry import (
    AUTO,
    MANUAL,
    ConcurrentError,
    DatabaseError,
    EventferryError,
    EventStore,
    ImportReport,
    InputError,
    NotFrozenError,
    ReadOnlyStoreError,
    SecretNotErasedError,
    StoreBusyError,
    StoreExistsError,
    StoreFrozenError,
    StoreNotFoundError,
    UnsupportedStoreError,
    UsageError,
    open_store,
)
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    all_pages,
    as_dict,
    events_of,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
)

MODES = ["wal", "delete"]
KEY = "kEy-0fGr3atWorth"
SAVED: dict[str, Any] = {"type": "SAVED", "aggregateId": "saved", "aggregateVersion": 1, "payload": None}

# As eventstore-lite 0.34 makes them.
RESOLVE_TABLES = """
CREATE TABLE "events"(
  "threadId" BIGINT NOT NULL,
  "threadCounter" BIGINT NOT NULL,
  "timestamp" BIGINT NOT NULL,
  "aggregateId" VARCHAR(700) NOT NULL,
  "aggregateVersion" BIGINT NOT NULL,
  "type" VARCHAR(700) NOT NULL,
  "payload" JSON NULL,
  PRIMARY KEY("threadId", "threadCounter"),
  UNIQUE("aggregateId", "aggregateVersion")
);
CREATE INDEX "aggregateIdAndVersion-idx" ON "events"("aggregateId", "aggregateVersion");
CREATE INDEX "aggregateId-idx" ON "events"("aggregateId");
CREATE INDEX "aggregateVersion-idx" ON "events"("aggregateVersion");
CREATE INDEX "type-idx" ON "events"("type");
CREATE INDEX "timestamp-idx" ON "events"("timestamp");
CREATE TABLE "snapshots" ("snapshotKey" TEXT, "content" TEXT, PRIMARY KEY("snapshotKey"));
CREATE TABLE "subscribers" (
  "applicationName" VARCHAR(700) NOT NULL,
  "eventSubscriber" VARCHAR(700) NOT NULL,
  "destination" JSON NOT NULL,
  "status" JSON NOT NULL,
  PRIMARY KEY("applicationName", "eventSubscriber")
);
CREATE TABLE "secrets" (
  "idx" BIG INT NOT NULL UNIQUE,
  "id" VARCHAR(700) NOT NULL PRIMARY KEY,
  "secret" text
);
CREATE UNIQUE INDEX IF NOT EXISTS "idx-index" ON "secrets"("idx");
"""
RESOLVE_INDEXES = {
    "aggregateIdAndVersion-idx",
    "aggregateId-idx",
    "aggregateVersion-idx",
    "type-idx",
    "timestamp-idx",
}
RESOLVE_OPEN_IMPORT = """CREATE TABLE "events-incremental-import"(
  -- RESOLVE INCREMENTAL-IMPORT 'reSolvesId' OWNED TABLE
  "threadId" BIGINT NOT NULL,
  "threadCounter" BIGINT NULL,
  "timestamp" BIGINT NOT NULL,
  "aggregateId" VARCHAR(700) NOT NULL,
  "aggregateVersion" BIGINT NULL,
  "type" VARCHAR(700) NOT NULL,
  "payload" JSON NULL
)"""


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def connect(path: Path, **options: Any) -> closing[sqlite3.Connection]:
    """Somebody else's connection to the file."""
    return closing(sqlite3.connect(path, isolation_level=None, timeout=0.1, **options))


def rows(path: Path, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with connect(path) as other:
        return other.execute(statement, parameters).fetchall()


def journal_mode(path: Path) -> str:
    """As it stands in the file, for which it need not be opened."""
    return "wal" if path.read_bytes()[18:20] == b"\x02\x02" else "not wal"


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names_beside(path: Path) -> set[str]:
    return {other.name for other in path.parent.iterdir()} - {path.name}


async def make_store(path: Path, count: int = 0, **options: Any) -> None:
    async with open_store(url_of(path), **options) as store:
        await store.init()
        if count:
            await import_lines(store, make_lines(count))


def make_resolve_store(path: Path, count: int = 0) -> None:
    with connect(path) as other:
        other.executescript(f"BEGIN; {RESOLVE_TABLES}")
        for i in range(count):
            event = make_event(i)
            other.execute(
                'INSERT INTO "events" VALUES (?, ?, ?, ?, ?, ?, ?)',
                (
                    event["threadId"],
                    event["threadCounter"],
                    event["timestamp"],
                    event["aggregateId"],
                    event["aggregateVersion"],
                    event["type"],
                    json.dumps(event["payload"], separators=(",", ":")),
                ),
            )
        other.execute("COMMIT")


def at(timestamp: int, payload: Any, aggregate: str = "a") -> dict[str, Any]:
    return {"type": "T", "timestamp": timestamp, "aggregateId": aggregate, "payload": payload}


async def blocks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def check_no_gaps(lines: bytes) -> None:
    threads: dict[int, list[int]] = {}
    versions: dict[str, list[int]] = {}
    for event in events_of(lines):
        threads.setdefault(event.thread_id, []).append(event.thread_counter)
        versions.setdefault(event.aggregate_id, []).append(event.aggregate_version)
    assert all(sorted(found) == list(range(len(found))) for found in threads.values())
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in versions.values())


# journal modes


async def test_a_store_that_is_made_is_in_wal_mode(tmp_path: Path) -> None:
    await make_store(tmp_path / "a.db", 3)
    assert journal_mode(tmp_path / "a.db") == "wal"
    await make_store(tmp_path / "b.db", 3, journal_mode="delete")
    assert journal_mode(tmp_path / "b.db") == "not wal"


@pytest.mark.parametrize("mode", MODES)
async def test_reading_a_store_changes_no_byte_of_its_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 300, journal_mode=mode)
    before, beside = file_hash(path), names_beside(path)
    async with open_store(url_of(path)) as store:
        await store.describe(calculate_cursor=True)
        await exported(store)
        await all_pages(store, 100)
        await store.get_latest_event()
        await store.load_secrets(limit=5)
        await store.load_snapshot("key")
        await store.get_event_subscribers()
        await store.exists()
        loader = await store.get_event_loader(cursor=None)
        await loader.load_events(5)
        await loader.close()
        assert file_hash(path) == before
    assert file_hash(path) == before
    assert names_beside(path) == beside


@pytest.mark.parametrize("mode", MODES)
async def test_writing_keeps_the_journal_mode_that_a_file_has(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 3, journal_mode=mode)
    async with open_store(url_of(path)) as store:
        await store.save_event(SAVED)
        await import_lines(store, make_lines(5))
    assert (journal_mode(path) == "wal") == (mode == "wal")


@pytest.mark.parametrize(("before", "asked"), [("wal", "delete"), ("delete", "wal"), ("wal", "truncate")])
async def test_an_option_changes_the_journal_mode(tmp_path: Path, before: str, asked: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, journal_mode=before)
    async with open_store(f"{url_of(path)}?journal_mode={asked}") as store:
        await store.save_event(SAVED)
    assert (journal_mode(path) == "wal") == (asked == "wal")


def test_an_unknown_journal_mode_is_refused(tmp_path: Path) -> None:
    for wrong in ("off", "memory", "wal2"):
        with pytest.raises(UsageError, match=wrong):
            open_store(url_of(tmp_path / "a.db"), journal_mode=wrong)


# secrets in the file


def bytes_in_files(path: Path, text: str) -> list[str]:
    return [other.name for other in path.parent.iterdir() if text.encode() in other.read_bytes()]


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
@pytest.mark.parametrize("size", [1, 4000])
async def test_a_deleted_secret_stands_in_no_file(tmp_path: Path, mode: str, size: int) -> None:
    """Wherever a page of it, or an overflow page, may have been on the way."""
    path = tmp_path / "a.db"
    await make_store(path, 3, journal_mode=mode)
    async with open_store(url_of(path), journal_mode=mode) as store:
        await store.set_secret("id", KEY * size)
        await store.set_secret("neighbour", "neighbour")
        assert bytes_in_files(path, KEY)
        assert await store.delete_secret("id")
        assert bytes_in_files(path, KEY) == []
        assert bytes_in_files(path, "neighbour")
    assert bytes_in_files(path, KEY) == []


async def test_pages_that_were_split_and_joined_keep_no_deleted_secret(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    chance = random.Random(1)
    ids = [f"{chance.randrange(10**9)} {place}" for place in range(150)]
    await make_store(path)
    async with open_store(url_of(path)) as store:
        lines = b"".join(
            json.dumps(
                {"secret": f"{KEY}-{i}." * chance.choice([1, 5, 40, 300]), "id": i, "idx": idx}
            ).encode()
            + b"\n"
            for idx, i in enumerate(ids)
        )
        async with store.import_secrets() as sink:
            await sink.write(lines)
        chance.shuffle(ids)
        for secret_id in ids[:75]:
            await store.delete_secret(secret_id)
        found = b"".join(other.read_bytes() for other in tmp_path.iterdir())
        assert [i for i in ids[:75] if f"{KEY}-{i}.".encode() in found] == []
        assert all(f"{KEY}-{i}.".encode() in found for i in ids[75:])


async def test_a_secret_that_an_imported_tombstone_deletes_stands_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        await store.set_secret("id", KEY)
        async with store.import_secrets() as sink:
            await sink.write(b'{"secret":null,"id":"id","idx":0}\n')
        assert bytes_in_files(path, KEY) == []


async def test_dropped_secrets_stand_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        await store.set_secret("id", KEY)
        await store.drop()
    assert bytes_in_files(path, KEY) == []


async def test_delete_secret_says_so_when_a_reader_keeps_the_log_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path), busy_timeout=0.3) as store:
        await store.set_secret("id", KEY)
        with connect(path) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            with pytest.raises(SecretNotErasedError, match="wal"):
                await store.delete_secret("id")
            assert await store.get_secret("id") is None
            assert bytes_in_files(path, KEY)
            reader.execute("COMMIT")
        await store.set_secret("other", "x")
        await store.delete_secret("other")
        assert bytes_in_files(path, KEY) == []


# rights


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


# locks


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
                assert 0.3 < time.monotonic() - began < 3
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
                assert time.monotonic() - began < 1
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


# places


async def test_a_store_in_memory_is_private_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    async with open_store("sqlite://:memory:") as store, open_store("sqlite://:memory:") as other:
        await store.init()
        await other.init()
        await import_lines(store, make_lines(300))
        await store.incremental_import([at(FAR_FUTURE, 1)])
        assert (await store.describe()).event_count == 301
        assert await exported(other) == b""
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_file_is_no_store_and_is_not_made(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.db", tmp_path / "missing" / "a.db"):
        async with open_store(url_of(path)) as store:
            assert await store.exists() is False
            calls: list[Callable[[], Any]] = [
                store.describe,
                store.drop,
                store.freeze,
                store.unfreeze,
                store.upgrade,
                store.begin_incremental_import,
                store.rollback_incremental_import,
                store.get_latest_event,
                store.get_event_subscribers,
                lambda: store.save_event(SAVED),
                lambda: exported(store),
                lambda: exported(store, maintenance_mode=AUTO),
                lambda: import_lines(store, make_lines(1)),
                lambda: import_lines(store, make_lines(1), maintenance_mode=MANUAL),
                lambda: store.incremental_import([]),
                lambda: store.load_events(limit=1, cursor=None),
                lambda: store.get_event_loader(cursor=None),
                lambda: store.set_secret("id", KEY),
                lambda: store.get_secret("id"),
                lambda: store.save_snapshot("key", "content"),
            ]
            for call in calls:
                with pytest.raises(StoreNotFoundError, match=r"missing"):
                    await call()
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"These are the notes of somebody, and no database.\n" * 200)
    before = file_hash(path)
    async with open_store(url_of(path)) as store:
        for call in (store.describe, store.init, lambda: store.save_event(SAVED), lambda: exported(store)):
            with pytest.raises(DatabaseError, match="not a SQLite database"):
                await call()
    assert file_hash(path) == before


async def test_a_database_of_somebody_else_is_no_store_until_one_is_made_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with connect(path) as other:
        other.execute("CREATE TABLE theirs(a)")
        other.execute("INSERT INTO theirs VALUES (7)")
    async with open_store(url_of(path)) as store:
        assert await store.exists() is False
        with pytest.raises(StoreNotFoundError):
            await store.describe()
        with pytest.raises(StoreNotFoundError):
            await store.save_event(SAVED)
        await store.init()
        await store.save_event(SAVED)
        await store.drop()
    assert rows(path, "SELECT name FROM sqlite_master") == [("theirs",)]
    assert rows(path, "SELECT a FROM theirs") == [(7,)]


async def test_a_table_in_the_way_makes_init_refuse_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with connect(path) as other:
        other.execute("CREATE TABLE secrets(a)")
    before = file_hash(path)
    async with open_store(url_of(path)) as store:
        with pytest.raises(StoreExistsError, match="secrets"):
            await store.init()
    assert file_hash(path) == before


@pytest.mark.parametrize("name", ["a b.db", "50%41.db", "a?b#c.db", "é😀.db", "it's.db", "a&b=c.sqlite3"])
async def test_a_plain_path_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (name, str(tmp_path / f"absolute {name}")):
        async with open_store(place) as store:
            await store.init()
            await store.save_event(SAVED)
    assert {path.name for path in tmp_path.iterdir()} == {name, f"absolute {name}"}


async def test_three_slashes_are_relative_and_four_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///relative.db", f"sqlite:///{tmp_path}/absolute.db", "sqlite:///a%20b.db"):
        async with open_store(url) as store:
            await store.init()
    assert {path.name for path in tmp_path.iterdir()} == {"relative.db", "absolute.db", "a b.db"}


# tables


def columns(path: Path, table: str) -> list[tuple[str, str, int]]:
    return [
        (name, kind, not_null) for _, name, kind, not_null, *_ in rows(path, f'PRAGMA table_info("{table}")')
    ]


def unique_columns(path: Path, table: str) -> set[tuple[str, ...]]:
    return {
        tuple(column for *_, column in rows(path, f'PRAGMA index_info("{index}")'))
        for _, index, unique, *_ in rows(path, f'PRAGMA index_list("{table}")')
        if unique
    }


@pytest.mark.parametrize("replaced", [False, True])
async def test_the_tables_that_are_made_have_the_columns_of_resolve(tmp_path: Path, replaced: bool) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    make_resolve_store(theirs)
    await make_store(ours, 100 if replaced else 0)
    for table in ("events", "snapshots", "subscribers", "secrets"):
        expected = [
            # JSON would rewrite bare numbers; TEXT those that reSolve's incremental import brings.
            (name, kind if kind != "JSON" else "BLOB" if name == "payload" else "TEXT", not_null)
            for name, kind, not_null in columns(theirs, table)
        ]
        assert columns(ours, table) == expected
        assert unique_columns(ours, table) == unique_columns(theirs, table)
    assert unique_columns(ours, "events") == {
        ("threadId", "threadCounter"),
        ("aggregateId", "aggregateVersion"),
    }


async def test_markers_are_the_tables_that_resolve_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)

    def tables() -> set[str]:
        return {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}

    whole = tables()
    async with open_store(url_of(path)) as store:
        import_id = await store.begin_incremental_import()
        assert tables() - whole == {"events-incremental-import"}
        [(sql,)] = rows(path, "SELECT sql FROM sqlite_master WHERE name = 'events-incremental-import'")
        assert f"-- RESOLVE INCREMENTAL-IMPORT '{import_id}' OWNED TABLE" in sql
        await store.freeze()
        assert tables() - whole == {"events-incremental-import", "events-freeze"}
        await store.unfreeze()
        await store.rollback_incremental_import()
        assert tables() == whole
        await import_lines(store, make_lines(10))
        await store.incremental_import([at(FAR_FUTURE, 1)])
        assert tables() == whole


NAMES = [
    "Events",
    "two words",
    'quo"ted',
    "it's",
    "таблица 😀",
    "semi;colon",
    "-- comment",
    "%_",
    "[b]",
    "`b`",
]


@pytest.mark.parametrize("name", NAMES)
async def test_tables_may_have_any_name(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {
        "events_table_name": name,
        "snapshots_table_name": f"{name} snapshots",
        "secrets_table_name": f"{name} secrets",
        "subscribers_table_name": f"{name} subscribers",
    }
    async with open_store(url_of(tmp_path / "a.db"), **options) as store:
        await store.init()
        await import_lines(store, make_lines(20))
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await store.save_event(SAVED)
        assert (await store.describe()).is_frozen
        await store.unfreeze()
        await store.save_event(SAVED)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(FAR_FUTURE, 1)], import_id, part="1")
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        await store.set_secret("id", KEY)
        assert await store.delete_secret("id")
        await store.save_snapshot("key", "content")
        await import_lines(store, await exported(store))
        assert await store.load_snapshot("key") is None
        await store.ensure_event_subscriber("app", "model", 1)
        assert (await store.describe()).resource_names["eventsTableName"] == name
    tables = rows(tmp_path / "a.db", "SELECT name FROM sqlite_master WHERE type = 'table'")
    assert {table for (table,) in tables} == set(options.values())
    async with open_store(url_of(tmp_path / "a.db"), **options) as store:
        await store.drop()
    assert rows(tmp_path / "a.db", "SELECT name FROM sqlite_master") == []


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\t", "\x1b[31m", "a\r"], ids=repr)
@pytest.mark.parametrize("option", ["events", "snapshots", "secrets", "subscribers"])
def test_a_table_name_with_control_characters_is_refused(tmp_path: Path, option: str, name: str) -> None:
    options: dict[str, Any] = {f"{option}_table_name": name}
    with pytest.raises(UsageError):
        open_store(url_of(tmp_path / "a.db"), **options)


def names_of(events: str) -> dict[str, Any]:
    return {
        f"{kind}_table_name": f"{events}-{kind}" for kind in ("events", "snapshots", "secrets", "subscribers")
    }


async def test_two_stores_live_in_one_file(tmp_path: Path) -> None:
    url = url_of(tmp_path / "a.db")
    async with open_store(url, **names_of("one")) as one, open_store(url, **names_of("two")) as two:
        await one.init()
        await two.init()
        for count in (10, 20, 30):
            await import_lines(one, make_lines(count))
            await import_lines(two, make_lines(2 * count))
        await one.freeze()
        await two.save_event(SAVED)
        await two.set_secret("id", KEY)
        opened_id = await two.begin_incremental_import()
        await one.unfreeze()
        assert (await one.describe()).open_import is None
        assert await one.get_secret("id") is None
        assert await exported(one) == make_lines(30)
        await one.drop()
        assert await two.commit_incremental_import(opened_id) == ImportReport(0, 0, 0)
        assert (await two.describe()).event_count == 62


async def test_two_imports_into_two_stores_of_one_file_go_on_at_once(tmp_path: Path) -> None:
    url = url_of(tmp_path / "a.db")
    async with open_store(url, **names_of("one")) as one, open_store(url, **names_of("two")) as two:
        await one.init()
        await two.init()
        async with one.import_events() as first, two.import_events() as second:
            await first.write(make_lines(100))
            await second.write(make_lines(200))
        assert await exported(one) == make_lines(100)
        assert await exported(two) == make_lines(200)


async def test_triggers_of_the_user_make_the_swap_refuse_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 10)
    with connect(path) as other:
        other.execute("CREATE TABLE log(a)")
        other.execute(
            'CREATE TRIGGER "their trigger" AFTER INSERT ON Events BEGIN INSERT INTO log VALUES (1); END'
        )
    async with open_store(url_of(path)) as store:
        with pytest.raises(UnsupportedStoreError, match="their trigger"):
            await import_lines(store, make_lines(20))
        assert await exported(store) == make_lines(10)
        assert not (await store.describe()).is_frozen
        await store.save_event(SAVED)
        await store.incremental_import([at(FAR_FUTURE, 1)])
    assert rows(path, "SELECT count(*) FROM log") == [(2,)]


async def test_views_of_the_user_outlive_the_swap(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 10)
    with connect(path) as other:
        other.execute("CREATE VIEW theirs AS SELECT type, count(*) AS n FROM events GROUP BY type")
    async with open_store(url_of(path)) as store:
        await import_lines(store, make_lines(30))
    assert rows(path, "SELECT sum(n) FROM theirs") == [(30,)]


# plans


class Explaining(sqlite3.Connection):
    """Notes the plan of each statement before it runs."""

    plans: list[tuple[str, str]]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._explain(sql, parameters)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        given = list(parameters)
        if given:
            self._explain(sql, given[0])
        return super().executemany(sql, given)

    def _explain(self, sql: str, parameters: Any) -> None:
        if '"events"' not in sql or not re.match(r"\s*(SELECT|WITH|INSERT|DELETE|UPDATE|CREATE TEMP)", sql):
            return
        plan = super().execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
        self.plans += [(sql, detail) for *_, detail in plan]


def scans(plans: list[tuple[str, str]]) -> list[str]:
    """Where a plan walks over all events, whether over the table or over an index."""
    found = []
    for sql, detail in plans:
        if re.search(r'FROM "events"\s+ORDER BY [^()]* LIMIT 1$', sql) and "USING" in detail:
            continue  # stops at the first entry of the index
        names = {"events", *re.findall(r'"events" AS (\w+)', sql)}
        if (match := re.match(r"SCAN (?:TABLE )?(\S+)", detail)) and match[1] in names:
            found.append(f"{detail}: {sql}")
    return found


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(Explaining, "plans", found, raising=False)
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Explaining))
    return found


async def test_what_counts_as_a_scan_is_seen_as_one(tmp_path: Path, plans: list[tuple[str, str]]) -> None:
    await make_store(tmp_path / "a.db", 10)
    plans.clear()
    with connect(tmp_path / "a.db") as other:
        other.execute("""SELECT * FROM "events" WHERE payload = '1'""")
        other.execute("""SELECT e.type FROM "events" AS e""")
        other.execute("""SELECT count(*) FROM "events" """)
        other.execute("""SELECT type FROM "events" ORDER BY payload LIMIT 1""")
        other.execute("""SELECT type FROM "events" WHERE type = 'x' ORDER BY timestamp LIMIT 1""")
        assert len(scans(plans)) == 5
        plans.clear()
        other.execute("""SELECT * FROM "events" AS e WHERE e.threadId = 3""")
        other.execute("""SELECT type FROM "events" ORDER BY timestamp DESC LIMIT 1""")
        assert len(plans) == 2
        assert scans(plans) == []


@pytest.mark.parametrize("made_by", ["init", "import", "resolve, upgraded"])
async def test_no_page_save_or_incremental_import_walks_over_all_events(
    tmp_path: Path, plans: list[tuple[str, str]], made_by: str
) -> None:
    path = tmp_path / "a.db"
    if made_by == "resolve, upgraded":
        make_resolve_store(path, 2000)
    else:
        await make_store(path, 2000 if made_by == "import" else 0)
    async with open_store(url_of(path)) as store:
        if made_by == "resolve, upgraded":
            await store.upgrade()
        elif made_by == "init":
            await import_lines(store, make_lines(2000), maintenance_mode=MANUAL)
        halfway = store.get_next_cursor(None, events_of(make_lines(1000)))
        steps: dict[str, Callable[[], Any]] = {
            "the first page": lambda: store.load_events(limit=10, cursor=None),
            "a later page": lambda: store.load_events(limit=10, cursor=halfway),
            "a page of a type": lambda: store.load_events(limit=10, cursor=halfway, event_types=["TYPE_1"]),
            "a page of an aggregate": lambda: store.load_events(
                limit=10, cursor=halfway, aggregate_ids=["aggregate-3"]
            ),
            "a page by time": lambda: store.load_events(
                limit=10, start_time=LONG_AGO + 500, finish_time=LONG_AGO + 600
            ),
            "all pages": lambda: all_pages(store, 500),
            "an export": lambda: exported(store, cursor=halfway),
            "a save": lambda: store.save_event(SAVED),
            "a save behind others": lambda: store.save_event(
                {"type": "T", "aggregateId": "aggregate-1", "aggregateVersion": 1000}
            ),
            "an incremental import": lambda: store.incremental_import(
                [
                    *(
                        {key: make_event(i)[key] for key in ("type", "timestamp", "aggregateId", "payload")}
                        for i in range(9)
                    ),
                    at(FAR_FUTURE, 1, "aggregate-1"),
                ]
            ),
            "one in steps": lambda: import_in_steps(store),
        }
        for name, step in steps.items():
            plans.clear()
            await step()
            assert plans, name
            assert scans(plans) == [], name
            if name in ("the first page", "a later page", "a page of a type", "all pages", "an export"):
                sorting = [sql for sql, detail in plans if "USE TEMP B-TREE" in detail]
                assert not any("ORDER BY timestamp" in sql for sql in sorting), name


async def import_in_steps(store: EventStore) -> None:
    import_id = await store.begin_incremental_import()
    await store.push_incremental_import([at(FAR_FUTURE, 1, "aggregate-1"), at(FAR_FUTURE + 1, 2)], import_id)
    assert await store.commit_incremental_import(import_id) == ImportReport(1, 1, 0)


# stores that reSolve made


async def test_a_store_of_resolve_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 300)
    before = file_hash(path)
    async with open_store(url_of(path)) as store:
        assert await exported(store) == make_lines(300)
        assert await all_pages(store, 7) == events_of(make_lines(300))
        description = await store.describe(calculate_cursor=True)
        assert (description.event_count, description.is_frozen) == (300, False)
        assert description.cursor == store.get_next_cursor(None, events_of(make_lines(300)))
        await store.get_latest_event(aggregate_ids=["aggregate-1"])
    assert file_hash(path) == before
    assert names_beside(path) == set()


async def test_a_store_of_resolve_is_saved_to_and_merged_into(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 30)
    async with open_store(url_of(path)) as store:
        await store.save_event(SAVED | {"payload": {"a": 1}})
        with pytest.raises(ConcurrentError):
            await store.save_event(SAVED)
        batch = [*(as_dict(event) for event in events_of(make_lines(30))), at(FAR_FUTURE, {"b": [None, "é"]})]
        assert await store.incremental_import(batch) == ImportReport(1, 30, 0)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([*batch, at(FAR_FUTURE, "c")], import_id, part="1")
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 31, 0)
        events = events_of(await exported(store))
        assert [event.payload for event in events[30:]] == [{"a": 1}, {"b": [None, "é"]}, "c"]
        check_no_gaps(await exported(store))
    assert journal_mode(path) == "not wal"
    assert rows(path, "SELECT DISTINCT typeof(payload) FROM events") == [("text",)]
    indexes = {name for _, name, *_ in rows(path, 'PRAGMA index_list("events")')}
    assert indexes >= RESOLVE_INDEXES
    assert len(indexes) == 7


async def test_an_upgrade_adds_the_index_for_the_order_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 30)
    async with open_store(url_of(path)) as store:
        [added] = await store.upgrade()
        assert await store.upgrade() == []
        assert await exported(store) == make_lines(30)
    assert [name for *_, name in rows(path, f'PRAGMA index_info("{added}")')] == [
        "timestamp",
        "threadCounter",
        "threadId",
    ]
    assert {name for _, name, *_ in rows(path, 'PRAGMA index_list("events")')} >= RESOLVE_INDEXES | {added}
    await make_store(tmp_path / "ours.db", 10)
    async with open_store(url_of(tmp_path / "ours.db")) as store:
        assert await store.upgrade() == []


async def test_an_import_replaces_the_events_of_a_store_of_resolve(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 30)
    async with open_store(url_of(path)) as store:
        await import_lines(store, make_lines(100))
        assert await exported(store) == make_lines(100)
        assert await store.upgrade() == []
        await store.save_event(SAVED)
    assert unique_columns(path, "events") == {
        ("threadId", "threadCounter"),
        ("aggregateId", "aggregateVersion"),
    }


async def test_markers_of_resolve_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 3)
    with connect(path) as other:
        other.execute(
            """CREATE TABLE "events-freeze"(
            -- RESOLVE EVENT STORE "events" FREEZE MARKER
            "surrogate" BIGINT NOT NULL, PRIMARY KEY("surrogate"))"""
        )
        other.execute(RESOLVE_OPEN_IMPORT)
        other.execute(
            'INSERT INTO "events-incremental-import" VALUES (?, NULL, ?, ?, NULL, ?, ?)',
            (5, FAR_FUTURE, "a", "T", '{"by":"reSolve"}'),
        )
    async with open_store(url_of(path)) as store:
        description = await store.describe()
        assert (description.is_frozen, description.frozen_by) == (True, "user")
        assert description.open_import is not None
        assert (description.open_import.id, description.open_import.since) == ("reSolvesId", None)
        with pytest.raises(StoreFrozenError):
            await store.save_event(SAVED)
        await store.unfreeze()
        await store.push_incremental_import([at(FAR_FUTURE, {"by": "us"})], "reSolvesId")
        assert await store.commit_incremental_import("reSolvesId") == ImportReport(2, 0, 0)
        assert [event.payload for event in events_of(await exported(store))][3:] == [
            {"by": "reSolve"},
            {"by": "us"},
        ]


WHITE = [
    ('{ "a" : [ 1 , 2 ] ,\n\t"b" : "  kept  " }\r\n', '{"a":[1,2],"b":"  kept  "}'),
    (" [ ] ", "[]"),
    ('" in a string "', '" in a string "'),
    ('{"tab":"\\t \\u0020","n":1.0}', '{"tab":"\\t \\u0020","n":1.0}'),
    (None, "null"),
    ("null", "null"),
    (" true ", "true"),
]


@pytest.mark.parametrize(("stored", "expected"), WHITE)
async def test_white_space_that_a_foreign_writer_left_is_removed_by_an_export(
    tmp_path: Path, stored: str | None, expected: str
) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path)
    with connect(path) as other:
        other.execute("INSERT INTO events VALUES (3, 0, 5, 'a', 1, 'T', ?)", (stored,))
    async with open_store(url_of(path)) as store:
        assert (
            await exported(store)
            == (
                '{"threadCounter":0,"threadId":3,"type":"T","timestamp":5,"aggregateId":"a","aggregateVersion":1,'
                f'"payload":{expected}}}\n'
            ).encode()
        )
        again = b'{"type":"T","timestamp":5,"aggregateId":"a","payload":%s}' % expected.encode()
        assert await store.incremental_import(blocks(again)) == ImportReport(0, 1, 0)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (5, "5"),
        (-5, "-5"),
        (1.5, "1.5"),
        (1e21, "1e+21"),
        (1e-7, "1e-7"),
        (123456789012.5, "123456789012.5"),
        (2**53, "9007199254740992"),
        (0.1, "0.1"),
        (1e20, "100000000000000000000"),
    ],
)
async def test_a_number_that_stands_bare_in_a_column_of_resolve_is_written_as_resolve_writes_it(
    tmp_path: Path, number: float, expected: str
) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path)
    with connect(path) as other:
        other.execute("INSERT INTO events VALUES (3, 0, 5, 'a', 1, 'T', ?)", (json.dumps(number),))
    async with open_store(url_of(path)) as store:
        assert (await exported(store)).endswith(f'"payload":{expected}}}\n'.encode())


LOST = ["12345678901234567890", "0.1000000000000000055511151231257827", "1e400", "-1e400", "1e-400"]


@pytest.mark.parametrize("number", LOST)
async def test_a_bare_number_that_resolves_column_would_rewrite_is_refused_by_line_and_field(
    tmp_path: Path, number: str
) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 3)
    good = line(make_event(5))
    bad = line(make_event(6, payload="@")).replace(b'"@"', number.encode())
    async with open_store(url_of(path)) as store:
        with pytest.raises(InputError) as caught:
            await store.incremental_import(blocks(good + bad))
        assert (caught.value.line, caught.value.field, caught.value.byte_offset) == (2, "payload", len(good))
        with pytest.raises(InputError) as caught:
            await import_lines(store, good + bad, maintenance_mode=MANUAL)
        assert (caught.value.line, caught.value.field, caught.value.byte_offset) == (2, "payload", len(good))
        import_id = await store.begin_incremental_import()
        with pytest.raises(InputError):
            await store.push_incremental_import(blocks(bad), import_id)
        await store.rollback_incremental_import()
        assert await exported(store) == make_lines(3)
        nested = bad.replace(number.encode(), f"[{number}]".encode())
        await store.incremental_import(blocks(nested))
        assert f'"payload":[{number}]'.encode() in await exported(store)


@pytest.mark.parametrize("number", [*LOST, "1.0", "1e0", "-0", "0.10", "1E+2"])
async def test_in_our_own_tables_every_number_survives_as_it_is_spelled(tmp_path: Path, number: str) -> None:
    own = tmp_path / "own.db"
    await make_store(own)
    replaced = tmp_path / "replaced.db"
    make_resolve_store(replaced, 3)
    text = line(make_event(0, payload="@")).replace(b'"@"', number.encode())
    for path in (own, replaced):
        async with open_store(url_of(path)) as store:
            await import_lines(store, text)
            assert await exported(store) == text
            await store.incremental_import(blocks(text.replace(b"aggregate-0", b"another")))
            assert (await exported(store)).count(f'"payload":{number}}}'.encode()) == 2


async def test_a_number_is_not_rewritten_on_its_way_through_a_stage_of_resolve(tmp_path: Path) -> None:
    """The store is ours and keeps numbers; the open import is reSolve's and would not."""
    path = tmp_path / "a.db"
    await make_store(path)
    with connect(path) as other:
        other.execute(RESOLVE_OPEN_IMPORT)
    number = "12345678901234567890"
    text = b'{"type":"T","timestamp":5,"aggregateId":"a","payload":%s}' % number.encode()
    async with open_store(url_of(path)) as store:
        with contextlib.suppress(InputError):  # to refuse it is right too
            await store.push_incremental_import(blocks(text), "reSolvesId")
        await store.commit_incremental_import("reSolvesId")
        payloads = [event.payload for event in events_of(await exported(store))]
        assert payloads in ([], [int(number)])


@pytest.mark.parametrize("number", [5, 1.5, 3.141592653589793, 1e300, 12345678901234567890])
async def test_a_bare_number_as_status_survives_in_a_column_of_resolve_or_is_refused(
    tmp_path: Path, number: float
) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path)
    async with open_store(url_of(path)) as store:
        await store.ensure_event_subscriber("app", "model", {"at": number}, {"at": number})
        with contextlib.suppress(InputError):
            await store.ensure_event_subscriber("app", "model", {"at": number}, number)
        [row] = await store.get_event_subscribers()
        assert row.destination == {"at": number}
        assert row.status in (number, {"at": number})


NUMBERS = st.one_of(
    st.integers(-(10**22), 10**22).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-(10**9), 10**9, allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
    st.tuples(st.integers(-999, 999), st.integers(-340, 340)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
).filter(lambda text: re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?", text) is not None)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=40))
async def test_a_bare_number_survives_in_a_column_of_resolve_or_is_refused(
    tmp_path: Path, numbers: list[str]
) -> None:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.db"
    make_resolve_store(path)
    kept: list[str] = []
    refused: list[tuple[str, str | None]] = []
    async with open_store(url_of(path), journal_mode="wal") as store:
        for place, number in enumerate(numbers):
            text = b'{"type":"T","timestamp":5,"aggregateId":"%d","payload":%s}' % (place, number.encode())
            try:
                await store.incremental_import(blocks(text))
                kept.append(number)
            except InputError as error:
                refused.append((number, error.field))
        found = [
            text.decode().partition(',"payload":')[2][:-1] for text in (await exported(store)).splitlines()
        ]
        assert list(map(Decimal, found)) == list(map(Decimal, kept))
        assert {field for _, field in refused} <= {"payload"}
        assert not any(re.fullmatch(r"-?\d{1,15}", number) for number, _ in refused)


# owners that died

IMPORT_AND_WAIT = """
import asyncio, sys
from eventferry import open_store

async def main():
    async with open_store(sys.argv[1]) as store, store.import_events(freeze=True) as stream:
        line = '{"threadCounter":%d,"threadId":0,"type":"T","timestamp":%d,"aggregateId":"a","aggregateVersion":%d,'
        line += '"payload":"' + "x" * 1_000_000 + '"}\\n'
        for i in range(10):
            await stream.write((line % (i, i, i + 1)).encode())
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


# options


@pytest.mark.parametrize(
    "url", ["sqlite://a.db", "sqlite:///", "sqlite:///a.db?colour=red", "sqlite:///a.db?busy_timeout=soon"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


async def test_options_come_in_the_url_too(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    url = f"{url_of(path)}?events_table_name=mine&busy_timeout=0.2"
    async with open_store(url) as store:
        await store.init()
        assert (await store.describe()).resource_names["eventsTableName"] == "mine"
        with connect(path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusyError):
                await store.save_event(SAVED)
    with pytest.raises(UsageError):
        open_store(url, events_table_name="other")


async def test_every_error_of_a_broken_file_is_one_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 3000, journal_mode="delete")
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = random.Random(1).randbytes(len(content) - 4096 * 3)
    path.write_bytes(content)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    async with open_store(url_of(path)) as store:
        for call in (lambda: exported(store), store.describe, lambda: store.save_event(SAVED)):
            with pytest.raises(EventferryError):
                await call()


@pytest.mark.parametrize("good", [True, False])
async def test_an_import_that_froze_the_store_leaves_nothing_but_the_tables_of_a_store(
    tmp_path: Path, good: bool
) -> None:
    """reSolve looks for the marker's table and cannot know that its owner is dead."""
    path = tmp_path / "a.db"
    await make_store(path, 5)
    async with open_store(url_of(path)) as store:
        with contextlib.nullcontext() if good else pytest.raises(InputError):
            await import_lines(store, make_lines(9) + (b"" if good else b"{bad\n"), freeze=True)
    tables = {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"events", "snapshots", "secrets", "subscribers"}
    assert names_beside(path) == set()

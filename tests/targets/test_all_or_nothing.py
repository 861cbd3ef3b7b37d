"""All or nothing: whatever ends an import into another product's table, its old state or the new one is there, and no
connection is left."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventferry import (
    ForeignTarget,
    StoreBusyError,
    StoreClosedError,
    StoreUnreachableError,
    UsageError,
    open_target,
    pipeline,
)
from tests.support import line, make_event, make_lines
from tests.support.foreign import message_db
from tests.support.foreign import pyeventsourcing as school

EVENTS = 20_000
PATIENCE = 30


class Place:
    """An empty table of a product.

    Attributes:
        url: of its database.
        product: whose it is.
    """

    def __init__(self, url: str, product: str) -> None:
        self.url = url
        self.product = product

    @property
    def is_file(self) -> bool:
        return self.url.startswith("sqlite:")

    def opened(self, **options: Any) -> ForeignTarget:
        more = {"originator_id_type": "text"} if self.is_file else {}
        return open_target(self.url, self.product, **more | options)

    def count(self) -> int:
        """How many events are there."""
        if self.is_file:
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=0)) as connection:
                found = connection.execute("SELECT count(*) FROM stored_events").fetchone()
        else:
            with psycopg.connect(self.url) as other:
                found = other.execute("SELECT count(*) FROM message_store.messages").fetchone()
        assert found is not None
        return int(found[0])

    def refuse_leftovers(self) -> None:
        """Somebody else may write at once, and on a server no connection of ours is left."""
        if self.is_file:
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=0)) as connection:
                connection.execute("BEGIN IMMEDIATE")
            return
        deadline = time.monotonic() + PATIENCE
        while self._connections():
            assert time.monotonic() < deadline, "a connection is left"
            time.sleep(0.05)
        with psycopg.connect(self.url, options="-c lock_timeout=1") as other:
            other.execute("LOCK TABLE message_store.messages IN EXCLUSIVE MODE")

    def _connections(self) -> int:
        with psycopg.connect(self.url) as other:
            found = other.execute(
                """SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'eventferry'"""
            ).fetchone()
        assert found is not None
        return int(found[0])


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        store = school.on_sqlite(tmp_path / "school.sqlite")
        with store.school():
            pass
        yield Place(store.url, "pyeventsourcing")
    else:
        with message_db.new_store() as url:
            yield Place(url, "message-db")


async def endless() -> AsyncIterator[bytes]:
    """Events without end."""
    number = 0
    while True:
        yield b"".join(line(make_event(i)) for i in range(number, number + 500))
        number += 500


@pytest.mark.parametrize("twice", [False, True])
async def test_a_cancelled_import_leaves_nothing(place: Place, twice: bool) -> None:
    async with place.opened() as target:
        for delay in (0, 0.001, 0.01, 0.05, random.uniform(0, 0.5), random.uniform(0, 1)):
            task = asyncio.create_task(pipeline(endless(), target.import_events()))
            await asyncio.sleep(delay)
            task.cancel()
            if twice:
                await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            place.refuse_leftovers()
            assert place.count() == 0
        await pipeline([make_lines(3)], target.import_events())
    assert place.count() == 3


@pytest.mark.parametrize("delay", [0.01, 0.3])
async def test_close_ends_a_running_import_and_leaves_nothing(place: Place, delay: float) -> None:
    target = place.opened()
    task = asyncio.create_task(pipeline(endless(), target.import_events()))
    await asyncio.sleep(delay)
    await target.close()
    with pytest.raises(StoreClosedError):
        await task
    place.refuse_leftovers()
    assert place.count() == 0
    with pytest.raises(StoreClosedError):
        await pipeline([make_lines(1)], target.import_events())
    await target.close()


@pytest.mark.slow
async def test_readers_see_nothing_of_it_before_its_end(place: Place) -> None:
    async with place.opened() as target, target.import_events() as stream:
        for start in range(0, EVENTS, 1000):
            await stream.write(b"".join(line(make_event(i)) for i in range(start, start + 1000)))
        await asyncio.sleep(0.3)
        assert await asyncio.to_thread(place.count) == 0
        report = await stream.close()
        assert report.imported == EVENTS
    assert place.count() == EVENTS


async def test_an_error_of_the_source_leaves_nothing(place: Place) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield make_lines(EVENTS)
        raise OSError("the tape tore")

    async with place.opened() as target:
        with pytest.raises(OSError, match="the tape tore"):
            await pipeline(broken(), target.import_events())
        place.refuse_leftovers()
    assert place.count() == 0


async def test_a_stop_half_way_is_not_possible(place: Place) -> None:
    async with place.opened() as target:
        stream = target.import_events()
        with pytest.raises(UsageError, match="all or nothing"):
            stream.stop()


async def test_another_writer_is_waited_for_and_then_named(place: Place) -> None:
    if place.is_file:
        with closing(sqlite3.connect(place.url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            await refused_as_busy(place)
    else:
        with message_db.connect(place.url) as connection, connection.transaction():
            message_db.write_message(connection, "a-1", "T", {})
            await refused_as_busy(place)
            raise psycopg.Rollback
    assert place.count() == 0


@pytest.mark.slow
async def test_writers_wait_for_the_end_and_go_on_behind_it() -> None:
    with message_db.new_store() as url:
        async with open_target(url, "message-db") as target, target.import_events() as stream:
            await stream.write(make_lines(EVENTS))
            writing = asyncio.create_task(asyncio.to_thread(write_one, url))
            await asyncio.sleep(0.5)
            assert not writing.done()
            await stream.close()
            await writing
        last = message_db.messages(url)[-1]
    assert (last.stream_name, last.global_position) == ("late-1", EVENTS + 1)


def write_one(url: str) -> None:
    with message_db.connect(url) as connection:
        message_db.write_message(connection, "late-1", "T", {})


async def refused_as_busy(place: Place) -> None:
    async with place.opened(busy_timeout=0.2) as target:
        with pytest.raises(StoreBusyError, match="held by"):
            await pipeline([make_lines(1)], target.import_events())


PROGRAM = """
import asyncio, sys
sys.path.insert(0, {root!r})
from tests.targets.test_all_or_nothing import Place
from tests.support import make_lines
from eventferry import pipeline

async def main(url, product, count):
    async with Place(url, product).opened() as target:
        await pipeline([make_lines(int(count))], target.import_events())
    print("done", flush=True)

print("begins", flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_the_old_state_or_the_new_one(place: Place) -> None:
    program = [
        sys.executable,
        "-c",
        PROGRAM.format(root=str(Path(__file__).parents[2])),
        place.url,
        place.product,
        str(EVENTS),
    ]
    took = whole(program, place)
    seen: set[int] = set()
    for share in (0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0):
        with subprocess.Popen(program, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"begins\n"
            time.sleep(took * share)
            child.send_signal(signal.SIGKILL)
        place.refuse_leftovers()
        seen.add(place.count())
        assert seen <= {0, EVENTS}
        clear(place)
    assert 0 in seen


def whole(program: list[str], place: Place) -> float:
    """How many seconds an import takes that nobody kills."""
    with subprocess.Popen(program, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        began = time.monotonic()
        assert child.stdout.readline() == b"done\n"
        took = time.monotonic() - began
    assert place.count() == EVENTS
    clear(place)
    return took


def clear(place: Place) -> None:
    if place.is_file:
        with closing(sqlite3.connect(place.url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute("DELETE FROM stored_events")
    else:
        with psycopg.connect(place.url) as other:
            other.execute("TRUNCATE message_store.messages RESTART IDENTITY")


async def test_a_lost_connection_is_told_and_leaves_nothing() -> None:
    with message_db.new_store() as url:
        async with open_target(url, "message-db") as target:
            stream = target.import_events()
            await stream.write(make_lines(EVENTS))
            with psycopg.connect(url, autocommit=True) as other:
                other.execute(
                    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'eventferry'"""
                )
            with pytest.raises(StoreUnreachableError, match="broke"):
                await stream.close()
        place = Place(url, "message-db")
        place.refuse_leftovers()
        assert place.count() == 0


async def test_no_message_holds_the_password() -> None:
    secret = "hunter2secret"
    for url, error in (
        (f"postgresql://ann:{secret}@127.0.0.1:1/a", StoreUnreachableError),
        (f"postgresql://ann:{secret}@127.0.0.1:1/a?nothing_known={secret}", UsageError),
        (f"mysql://ann:{secret}@127.0.0.1:1/a", UsageError),
        (f"postgresql://ann:{secret}@127.0.0.1:1/a?positions=sometimes", UsageError),
    ):
        with pytest.raises(error) as raised:
            async with open_target(url, "message-db") as target:
                await pipeline([make_lines(1)], target.import_events())
        assert secret not in str(raised.value)


def test_what_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"'kafka' is not a product .* message-db, pyeventsourcing"):
        open_target("a.db", "kafka")
    with pytest.raises(UsageError, match="message-db is on postgresql, not on sqlite"):
        open_target("a.db", "message-db")
    with pytest.raises(UsageError, match="pyeventsourcing has no option messages"):
        open_target("a.db", "pyeventsourcing", messages="m")
    with pytest.raises(UsageError, match="given both in the URL and as an argument"):
        open_target("sqlite:///a.db?events=a", "pyeventsourcing", events="b")

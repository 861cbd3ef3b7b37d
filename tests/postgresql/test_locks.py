"""Who waits for whom; and a call that is cancelled leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    AlreadyFrozenError,
    ConcurrentError,
    EventStore,
    ImportOpenError,
    NotFrozenError,
    StoreBusyError,
    StoreChangedError,
    StoreFrozenError,
    open_store,
)
from eventferry.reading import order
from tests.support import FAR_FUTURE, NewUrl, exported, import_lines, line, make_event, make_lines
from tests.support.postgresql import (
    SAVED,
    STORE_TABLES,
    at,
    check_no_gaps,
    connect,
    make_store,
    rows,
    schema_of,
    tables,
    with_options,
)


def new_event(aggregate: str, version: int = 1) -> dict[str, Any]:
    return {"type": "T", "aggregateId": aggregate, "aggregateVersion": version}


# freeze and saves

RESOLVE_SAVE = """
WITH "vector_id" AS (
  SELECT "threadId", "threadCounter" FROM "events-threads" WHERE "threadId" = 7 FOR NO KEY UPDATE LIMIT 1
), "update_vector_id" AS (
  UPDATE "events-threads" SET "threadCounter" = "threadCounter" + 1 WHERE "threadId" = 7
)
INSERT INTO "events" SELECT "threadId", "threadCounter", 1, 'theirs', 1, 'T', 'null', 99 FROM "vector_id"
"""


async def waits_for_a_lock(url: str) -> None:
    """Comes back when somebody waits for a lock on the table of threads."""
    async with asyncio.timeout(20):
        while not rows(
            url,
            """SELECT 1 FROM pg_locks WHERE NOT granted
            AND (relation = '"events-threads"'::regclass OR locktype = 'transactionid')""",
        ):
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("outcome", ["COMMIT", "ROLLBACK"])
async def test_a_freeze_waits_for_a_write_that_had_begun_and_lets_none_in_behind_it(
    new_url: NewUrl, outcome: str
) -> None:
    url = new_url()
    await make_store(url)
    async with open_store(url) as store, open_store(url) as application:
        with connect(url, autocommit=False) as writer:
            writer.execute(RESOLVE_SAVE)
            freezing = asyncio.create_task(store.freeze())
            await waits_for_a_lock(url)
            done, _ = await asyncio.wait([freezing], timeout=0.5)
            assert not done
            writer.execute(outcome)
        await freezing
        lines = await exported(store)
        assert lines.count(b"\n") == (outcome == "COMMIT")
        for version in range(20):
            with pytest.raises(StoreFrozenError):
                await application.save_event(new_event(f"late-{version}"))
        assert await exported(store) == lines


async def test_no_save_comes_in_behind_a_freeze_however_many_are_on_their_way(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url)
    over = asyncio.Event()

    async def save(store: EventStore, name: str) -> int:
        stored = 0
        while not over.is_set():
            try:
                await store.save_event(new_event(name, stored + 1))
                stored += 1
            except StoreFrozenError:
                await asyncio.sleep(0.001)
        return stored

    async with open_store(url) as store, open_store(url) as application:
        saving = [asyncio.create_task(save(application, f"s{i}")) for i in range(8)]
        for _ in range(10):
            await asyncio.sleep(0.03)
            await store.freeze()
            before = (await store.describe(calculate_cursor=True)).cursor
            await asyncio.sleep(0.03)
            assert (await store.describe(calculate_cursor=True)).cursor == before
            await store.unfreeze()
        over.set()
        stored = sum([await task for task in saving])
        assert (await store.describe()).event_count == stored > 0
    check_no_gaps(url)


def aggregate_of_thread(thread: int, but: bool = False) -> str:
    """A name that hashes to a thread (or to any other one)."""
    return next(
        name for name in (f"a{i}" for i in range(100_000)) if (order.thread_of(name) == thread) is not but
    )


async def test_saves_of_other_threads_do_not_wait_for_one_that_is_held(new_url: NewUrl) -> None:
    url = with_options(new_url(), "busy_timeout=1")
    await make_store(url)
    held = aggregate_of_thread(7)
    others = [name for name in (f"b{i}" for i in range(60)) if order.thread_of(name) != 7]
    async with open_store(url) as store:
        with connect(url, autocommit=False) as writer:
            writer.execute(RESOLVE_SAVE)
            await asyncio.gather(*[store.save_event(new_event(name)) for name in others])
            start = time.perf_counter()
            with pytest.raises(StoreBusyError):
                await store.save_event(new_event(held))
            assert 0.9 < time.perf_counter() - start < 20
            waiting = asyncio.create_task(store.save_event(new_event(held)))
            await waits_for_a_lock(url)
            writer.execute("COMMIT")
        saved = await waiting
        assert (saved.event.thread_id, saved.event.thread_counter) == (7, 1)
    check_no_gaps(url)


async def test_saves_that_meet_one_who_locks_in_another_order_are_stored_all_the_same(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await make_store(url)
    names = [aggregate_of_thread(thread) for thread in (3, 5, 7, 9)]
    async with open_store(url) as store:
        with connect(url, autocommit=False) as writer:
            writer.execute("SET deadlock_timeout = '1min'")  # so it is our transaction that the server ends
            writer.execute(RESOLVE_SAVE)
            saving = asyncio.gather(*[store.save_event(new_event(name)) for name in names])
            await waits_for_a_lock(url)
            crossing = 'UPDATE "events-threads" SET "threadCounter" = "threadCounter" WHERE "threadId" = 5'
            await asyncio.to_thread(writer.execute, crossing)
            writer.execute("COMMIT")
        saved = await saving
        assert {each.event.aggregate_id for each in saved} == set(names)
    check_no_gaps(url)


async def test_two_saves_of_one_version_are_one_stored_and_one_refused_even_in_different_threads(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await make_store(url)
    async with open_store(url) as store:
        for i in range(20):
            found = await asyncio.gather(
                *[store.save_event(new_event(f"fought-{i}")) for _ in range(6)], return_exceptions=True
            )
            assert sum(isinstance(each, ConcurrentError) for each in found) == 5
    check_no_gaps(url)


async def test_staging_an_import_takes_no_lock_that_a_save_waits_for(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 20)
    large = b"".join(line(make_event(i, payload="x" * 2000)) for i in range(5000))
    saved = 0
    async with open_store(with_options(url, "busy_timeout=5")) as store, open_store(url) as application:
        stream = store.import_events()
        await stream.begin()
        with connect(url, autocommit=False) as writer:
            writer.execute(RESOLVE_SAVE)  # its locks are those of a save, and it holds them
            for start in range(0, len(large), 1_000_000):
                await stream.write(large[start : start + 1_000_000])
                saved += 1
                await application.save_event(new_event("s", saved))
            async with asyncio.timeout(20):  # some are committed; when, is a matter of time
                while not stream.saved_events_count:
                    await asyncio.sleep(0.01)
            writer.execute("COMMIT")
        with pytest.raises(StoreChangedError):
            await stream.close()
        assert (await store.describe()).event_count == 20 + 1 + saved
    assert tables(url) == STORE_TABLES


# connections


@pytest.mark.slow
async def test_there_are_no_more_connections_than_allowed_and_none_after_close(new_url: NewUrl) -> None:
    url = with_options(new_url(), "max_connections=3&application_name=limited")
    await make_store(url)
    store = open_store(url)
    over = asyncio.Event()
    counts: list[int] = []

    async def count() -> None:
        while not over.is_set():
            counts.append(connections(url, "limited"))
            await asyncio.sleep(0.005)

    counting = asyncio.create_task(count())
    await asyncio.gather(
        *[store.save_event(new_event(f"s{i}")) for i in range(60)],
        *[store.load_events(limit=5, cursor=None) for _ in range(60)],
        *[exported(store) for _ in range(10)],
    )
    over.set()
    await counting
    assert max(counts) == 3
    await store.close()
    await gone(url, "limited")


async def test_calls_one_after_the_other_share_one_connection(new_url: NewUrl) -> None:
    url = with_options(new_url(), "application_name=shared-" + schema_of(new_url()))
    await make_store(url, 20)
    pids = set()
    async with open_store(url) as store:
        for i in range(10):
            await store.load_events(limit=5, cursor=None)
            await exported(store)
            await store.save_event(new_event(f"s{i}"))
            with pytest.raises(ConcurrentError):
                await store.save_event(new_event(f"s{i}"))
            pids |= set(
                rows(
                    url,
                    "SELECT pid FROM pg_stat_activity WHERE application_name = %s",
                    url.rpartition("=")[2],
                )
            )
    assert len(pids) == 1


def connections(url: str, name: str) -> int:
    [(count,)] = rows(url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", name)
    return int(count)


async def gone(url: str, name: str) -> None:
    """A server notices an ended connection a moment later."""
    async with asyncio.timeout(10):
        while connections(url, name):
            await asyncio.sleep(0.01)


async def test_close_in_the_middle_of_calls_leaves_no_connection(new_url: NewUrl) -> None:
    url = with_options(new_url(), "application_name=closing")
    await make_store(url, 2000)
    store = open_store(url)
    calls = [
        *[asyncio.create_task(exported(store)) for _ in range(5)],
        *[asyncio.create_task(store.save_event(new_event(f"s{i}"))) for i in range(5)],
    ]
    await asyncio.sleep(0.05)
    await store.close()
    await asyncio.gather(*calls, return_exceptions=True)
    await gone(url, "closing")


# cancelled calls

CALLS: dict[str, Callable[[EventStore], Awaitable[Any]]] = {
    "save": lambda store: store.save_event(new_event(str(random.random()))),
    "import": lambda store: import_lines(store, make_lines(1000)),
    "import that freezes": lambda store: import_lines(store, make_lines(1000), freeze=True),
    "import that appends": lambda store: import_lines(store, make_lines(1000), maintenance_mode=MANUAL),
    "incremental import": lambda store: store.incremental_import([at(FAR_FUTURE, i) for i in range(1000)]),
    "export": exported,
    "export that freezes": lambda store: exported(store, maintenance_mode=AUTO),
    "freeze": lambda store: store.freeze(),
    "unfreeze": lambda store: store.unfreeze(),
    "begin": lambda store: store.begin_incremental_import(),
    "roll back": lambda store: store.rollback_incremental_import(),
    "describe": lambda store: store.describe(),
    "page": lambda store: store.load_events(limit=500, cursor=None),
    "secret": lambda store: store.set_secret(str(random.random()), "secret"),
}
REFUSALS = (AlreadyFrozenError, NotFrozenError, StoreFrozenError, ImportOpenError, StoreChangedError)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_is_cancelled_at_any_moment_leaves_no_transaction_and_no_lock(
    new_url: NewUrl, name: str, chance: random.Random
) -> None:
    url = with_options(new_url(), "busy_timeout=5&application_name=cancelled-" + schema_of(new_url()))
    application = url.rpartition("=")[2]
    await make_store(url, 300)
    async with open_store(url) as store:
        if name == "unfreeze":
            await store.freeze()
        start = time.perf_counter()
        await CALLS[name](store)
        whole = time.perf_counter() - start
        for _ in range(6):
            call = asyncio.ensure_future(CALLS[name](store))
            await asyncio.wait([call], timeout=chance.random() * whole)
            call.cancel()
            async with asyncio.timeout(10):
                try:
                    await call
                except (asyncio.CancelledError, *REFUSALS):
                    pass
            await nothing_is_open(url, application)
            if (await store.describe()).is_frozen:
                assert name in ("freeze", "unfreeze")
                await store.unfreeze()
            await store.rollback_incremental_import()
            await store.save_event(new_event(str(random.random())))
            if name == "unfreeze":
                await store.freeze()
    if name not in ("import that appends", "import", "import that freezes"):
        check_no_gaps(url)


async def nothing_is_open(url: str, application: str) -> None:
    """A server notices a moment later that the connection which was being made is gone."""
    statement = """SELECT state, mode, relation::regclass::text, query FROM pg_stat_activity
        LEFT JOIN pg_locks USING (pid) WHERE application_name = %s AND (state <> 'idle' OR mode IS NOT NULL)"""
    deadline = time.monotonic() + 20
    while left := rows(url, statement, application):
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.005)


async def test_whoever_resumes_at_once_does_not_take_the_interrupted_import_for_running(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await make_store(url, 20)
    async with open_store(url) as store:
        for _ in range(8):
            async with store.import_events(resume=True) as stream:
                await stream.write(make_lines(2))
                stream.stop()
        await import_lines(store, make_lines(30))
        assert await exported(store) == make_lines(30)


async def test_a_cancellation_is_never_lost(new_url: NewUrl, chance: random.Random) -> None:
    url = new_url()
    await make_store(url, 300)

    async def forever(store: EventStore) -> None:
        while True:
            await store.load_events(limit=1, cursor=None)

    async with open_store(url) as store:
        for _ in range(25):
            task = asyncio.create_task(forever(store))
            await asyncio.sleep(0.01 + chance.random() * 0.01)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=0.5)
            lost = not done
            task.cancel()
            await asyncio.wait([task])
            assert not lost


async def test_a_call_whose_time_is_over_ends_as_such(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 20)
    async with open_store(url) as store:
        with connect(url, autocommit=False) as other:
            other.execute('LOCK TABLE "events" IN ACCESS EXCLUSIVE MODE')
            for call in (store.describe(), store.save_event(SAVED), exported(store), store.unfreeze()):
                with pytest.raises((TimeoutError, NotFrozenError)):
                    await asyncio.wait_for(call, 0.3)
        await store.save_event(new_event("next"))


@pytest.mark.parametrize("together", [1, 5])
async def test_what_others_store_in_a_thread_while_saves_wait_for_it_counts(
    new_url: NewUrl, together: int
) -> None:
    url = new_url()
    await make_store(url)
    thread = order.thread_of("waits")
    theirs = RESOLVE_SAVE.replace('"threadId" = 7', f'"threadId" = {thread}').replace(", 1, 't", ", %s, 't")
    async with open_store(url) as store:
        await store.save_event(new_event("warm"))
        with connect(url, autocommit=False) as writer:
            writer.execute(theirs, (FAR_FUTURE,))
            first = asyncio.ensure_future(store.save_event(new_event("waits")))
            await waits_for_a_lock(url)
            others = [
                asyncio.ensure_future(store.save_event(new_event("waits", 1 + i))) for i in range(1, together)
            ]
            await asyncio.sleep(0)
            writer.execute("COMMIT")
        saved = await asyncio.gather(first, *others)
    # Behind an event dated in the future, they would make the thread fall.
    assert all(one.event.thread_id != thread for one in saved)
    check_no_gaps(url)


async def test_saves_go_on_while_secrets_are_imported(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 0)
    async with open_store(url) as store:
        with connect(url, autocommit=False) as other:
            # Not committed yet: the import waits for it, in the middle of its work.
            other.execute("INSERT INTO secrets VALUES (7, 'id', 'x')")
            sink = store.import_secrets()
            await sink.write(b'{"secret":"y","id":"another","idx":7}\n')
            importing = asyncio.create_task(sink.close())
            await asyncio.sleep(0.3)
            async with asyncio.timeout(20):
                await store.save_event(new_event("a"))
            assert not importing.done()
            other.rollback()
        assert (await importing).imported == 1

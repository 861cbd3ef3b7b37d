"""Servers that are killed, connections that break: the old state or the new one, and nothing in the next one's way."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from eventferry import (
    ConcurrentError,
    EventferryError,
    EventInput,
    EventStore,
    ImportReport,
    StoreUnreachableError,
    open_store,
)
from eventferry.databases.mysql.reading import MysqlReading
from eventferry.databases.mysql.wire import Wire
from eventferry.reading import exporting
from tests.support import FAR_FUTURE, exported, import_lines, line, make_event, make_lines
from tests.support.mysql import Database, made_on
from tests.support.servers import Server

OLD = make_lines(300)
NEW = b"".join(
    line(make_event(i, aggregateId=f"new-{i % 7}", aggregateVersion=i + 1, payload="x" * 4000))
    for i in range(5000)
)


async def killed_in_the_middle(server: Server, work: Awaitable[Any], seconds: float) -> BaseException | None:
    """Kill the server so long after some work began, and start it again; what became of the work."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.kill)
    with suppress(EventferryError):
        await asyncio.wait([task], timeout=30)
    assert task.done()
    await asyncio.to_thread(server.start)
    return task.exception()


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True])
async def test_a_server_killed_in_an_import_has_the_old_events_or_the_new_ones(
    own_server: Server, freeze: bool
) -> None:
    database = made_on(own_server.url(f"imports_{freeze}"))
    async with open_store(database.url) as store:
        await store.init()
    for moment in (0.1, 0.5, 0.9, 1.2):
        async with open_store(database.url) as store:
            await import_lines(store, OLD)
            await store.save_snapshot("key", "content")
            error = await killed_in_the_middle(own_server, import_lines(store, NEW, freeze=freeze), moment)
            assert error is None or isinstance(error, StoreUnreachableError)
            left = await exported(store)
            assert left == NEW if error is None else left in (OLD, NEW)
            assert await store.load_snapshot("key") == ("content" if left == OLD else None)
            assert not (await store.describe()).is_frozen
            await store.save_event({"type": "T", "aggregateId": f"a{moment}", "aggregateVersion": 1})
            await import_lines(store, OLD)
            assert await exported(store) == OLD
    assert database.tables() == {"events", "events-threads", "snapshots", "subscribers", "secrets"}


@pytest.mark.slow
async def test_a_server_killed_in_an_incremental_import_has_all_of_it_or_nothing(own_server: Server) -> None:
    database = made_on(own_server.url("merges"))
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, OLD)
        count = 300
        for k, moment in enumerate((0.02, 0.2, 0.4, 0.6)):
            batch = [
                make_event(i, timestamp=FAR_FUTURE + k * 10**6 + i // 3, payload=[k, i]) for i in range(5000)
            ]
            error = await killed_in_the_middle(own_server, store.incremental_import(batch), moment)
            assert error is None or isinstance(error, StoreUnreachableError)
            came_in = (await store.describe()).event_count - count
            assert came_in in (0, 5000)
            assert await store.incremental_import(batch) == ImportReport(5000 - came_in, came_in, 0)
            count += 5000


@pytest.mark.slow
async def test_a_server_killed_among_saves_has_each_that_was_confirmed_and_none_twice(
    own_server: Server,
) -> None:
    database = made_on(own_server.url("saves"))
    confirmed: set[tuple[str, int]] = set()

    async def save_on(store: EventStore, aggregate: str) -> None:
        for version in range(1, 100_000):
            event = {"type": "T", "aggregateId": aggregate, "aggregateVersion": version}
            try:
                await store.save_event(event)
            except StoreUnreachableError:
                return
            confirmed.add((aggregate, version))

    async with open_store(database.url) as store:
        await store.init()
        tasks = [asyncio.create_task(save_on(store, f"a{i}")) for i in range(10)]
        for _ in range(2):  # a server that is back within the second loses nobody's save
            await asyncio.sleep(0.5)
            await asyncio.to_thread(own_server.kill)
            await asyncio.to_thread(own_server.start)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_server.kill)
        await asyncio.wait(tasks)
        await asyncio.to_thread(own_server.start)
        events = (await store.load_events(limit=1_000_000, cursor=None)).events
        stored = [(event.aggregate_id, event.aggregate_version) for event in events]
        assert len(set(stored)) == len(stored)
        assert confirmed <= set(stored)
        assert len(stored) <= len(confirmed) + 10
        positions = sorted((event.thread_id, event.thread_counter) for event in events)
        heads: dict[int, int] = {}
        for thread, counter in positions:
            assert counter == heads.get(thread, 0)
            heads[thread] = counter + 1


def broken_after(
    monkeypatch: pytest.MonkeyPatch, words: bytes, times: int = 1, *, before: bool = False
) -> list[int]:
    """Break connections behind (or before) the statements in which this pattern is found: their answers are lost.
    Returns how many are left to break."""
    query = Wire.query
    left = [times]

    def fails(self: Wire, sql: Any, unbuffered: bool = False) -> Any:
        text = sql if isinstance(sql, bytes) else sql.encode()
        if not re.search(words, text) or not left[0]:
            return query(self, sql, unbuffered)
        left[0] -= 1
        if not before:
            query(self, sql, unbuffered)
            while self._result is not None and self._result.has_next:
                self.next_result()
        self._force_close()
        return query(self, "SELECT 1")

    monkeypatch.setattr(Wire, "query", fails)
    return left


def broken_lines(self: Wire, statement: str, *_: Any) -> Any:
    """As `Wire.lines` when the network ends."""
    self._sock.shutdown(socket.SHUT_RDWR)
    return next(self._rows(statement))


@pytest.mark.parametrize("before", [False, True])
async def test_a_save_whose_answer_was_lost_is_stored_once_and_returned(
    database: Database, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": {"a": "it's"}}
    async with open_store(database.url) as store:
        await store.init()
        await store.save_event(event | {"aggregateId": "b"})
        broken_after(monkeypatch, b"COMMIT", before=before)
        saved = await store.save_event(event)
        assert (saved.event.aggregate_version, saved.event.payload) == (1, {"a": "it's"})
        [_, stored] = (await store.load_events(limit=9, cursor=None)).events
        assert stored == saved.event
        with pytest.raises(ConcurrentError):
            await store.save_event(event)


@pytest.mark.parametrize("before", [False, True])
async def test_an_append_whose_answer_was_lost_is_stored_once_and_returned(
    database: Database, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    events: list[EventInput] = [{"type": "T", "payload": {"a": "it's"}}, {"type": "U"}]
    async with open_store(database.url) as store:
        await store.init()
        await store.append_events("a", events, idempotency_key="first")
        left = broken_after(monkeypatch, rb"^COMMIT$", before=before)
        appended = await store.append_events("a", events, expected_version=2, idempotency_key="second")
        assert left == [0]
        assert not appended.is_repeated
        page = await store.load_events(limit=9, cursor=None)
        assert page.events[2:] == appended.events
        assert page.cursor == appended.cursor
        again = await store.append_events("a", events, expected_version=2, idempotency_key="second")
        assert again.events == appended.events
        assert again.is_repeated


async def test_a_save_that_somebody_else_made_meanwhile_is_not_taken_for_ours(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": 1}
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        await store.save_event(event | {"aggregateId": "b"})
        await other.save_event(event | {"payload": 2})
        broken_after(monkeypatch, b"COMMIT", before=True)
        with pytest.raises(ConcurrentError):
            await store.save_event(event)


@pytest.mark.parametrize("before", [True, False])
async def test_an_append_that_expects_a_version_is_stored_once_when_its_answer_was_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    events: list[EventInput] = [{"type": "T", "payload": {"a": "it's"}}, {"type": "U"}, {"type": "T"}]
    async with open_store(database.url) as store:
        await store.init()
        await store.append_events("a", events, expected_version="none")
        left = broken_after(monkeypatch, b"COMMIT", before=before)
        appended = await store.append_events("a", events, expected_version=3)
        assert left == [0]
        page = await store.load_events(limit=9, cursor=None)
        assert page.events[3:] == appended.events
        assert page.cursor == appended.cursor


async def test_an_append_of_which_somebody_else_stored_one_event_is_not_taken_for_ours(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    event: dict[str, Any] = {"type": "T", "timestamp": FAR_FUTURE, "payload": 1}
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        await store.append_events("b", [event], expected_version="none")
        await other.append_events("a", [event, event | {"payload": 2}], expected_version="none")
        broken_after(monkeypatch, b"COMMIT", before=True)
        with pytest.raises(ConcurrentError):
            await store.append_events("a", [event, event], expected_version="none")
        assert (await other.describe()).event_count == 3


@pytest.mark.slow
async def test_a_save_of_which_nothing_can_be_learnt_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await store.save_event({"type": "T", "aggregateId": "b", "aggregateVersion": 1})
        broken_after(monkeypatch, b"COMMIT", times=100, before=True)
        with pytest.raises(StoreUnreachableError, match="not known"):
            await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})


async def kill_connections(database: Database) -> None:
    """End all connections to a database, as an administrator does."""
    me = database.connect()
    with me, me.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (database.name,))
        for (connection,) in cursor.fetchall():
            if connection != me.thread_id():  # type: ignore[no-untyped-call]
                with suppress(Exception):
                    cursor.execute(f"KILL {connection}")


async def test_connections_that_ended_while_idle_are_replaced_unseen(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await asyncio.gather(*(store.describe() for _ in range(5)))
        uses: list[Callable[[], Awaitable[object]]] = [
            lambda: store.describe(),
            lambda: store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1}),
            lambda: store.freeze(),
            lambda: store.unfreeze(),
        ]
        for use in uses:
            await kill_connections(database)
            await use()


@pytest.mark.slow
async def test_a_connection_that_ends_in_an_export_is_an_error_and_no_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, NEW)
        got = b""
        export = store.export_events()
        while len(got) < 5_000_000:
            got += await anext(export)
        with monkeypatch.context() as breaking:
            breaking.setattr(Wire, "lines", broken_lines)
            breaking.setattr(exporting, "RECONNECTIONS", (0.1, 0.2))
            with pytest.raises(StoreUnreachableError):
                got += b"".join([block async for block in export])  # some had been read already
        assert NEW.startswith(got)
        assert not got.endswith(b"\n")
        assert await exported(store) == NEW


@pytest.mark.slow
async def test_an_import_whose_connections_end_can_be_resumed(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, OLD)
        stream = store.import_events()
        await stream.write(NEW[:9_000_000])
        while not (reached := stream.byte_offset):
            await asyncio.sleep(0.01)
        await kill_connections(database)
        await stream.abort(StoreUnreachableError("the network is gone"))
        assert await exported(store) == OLD
        async with store.import_events(resume=True) as again:
            assert again.byte_offset >= reached  # more may have been staged until the connections ended
            await again.write(NEW[again.byte_offset :])
        assert await exported(store) == NEW


async def test_an_import_that_lost_its_lock_replaces_nothing(database: Database) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        await import_lines(store, OLD)
        stream = store.import_events()
        await stream.write(NEW[:9_000_000])
        await kill_connections(database)
        await import_lines(other, make_lines(5))  # takes the stage for a dead one's
        with pytest.raises(EventferryError):
            await stream.write(NEW[9_000_000:])
        with pytest.raises(EventferryError):
            await stream.close()
        assert await exported(store) == make_lines(5)


@pytest.mark.slow
async def test_a_call_ends_although_the_server_tells_nothing_behind_a_killed_query(
    database: Database,
) -> None:
    async with open_store(database.url) as store:
        await store.init()
        async with store._database.reading() as reading:
            assert isinstance(reading, MysqlReading)
            connection = reading.connection
            # As behind a kill between two statements: the client waits for a result, the server for a statement.
            wire: Any = connection.wire
            call = asyncio.ensure_future(connection.run(wire._read_query_result))
            await asyncio.sleep(0.2)
            assert not call.done()
            call.cancel()
            async with asyncio.timeout(20):
                with pytest.raises(asyncio.CancelledError):
                    await call
        await store.save_event({"type": "T", "aggregateId": "z", "aggregateVersion": 1})


@pytest.mark.slow
async def test_a_cancelled_call_leaves_no_transaction_open(database: Database) -> None:
    chance = random.Random(1)

    async def slowly() -> AsyncIterator[bytes]:
        yield NEW

    async with open_store(database.url) as store:
        await store.init()
        for _ in range(8):
            for work in (
                import_lines(store, NEW[:2_000_000], allow_empty=True),
                store.incremental_import(slowly()),
                exported(store),
            ):
                task = asyncio.ensure_future(work)
                await asyncio.sleep(chance.random() * 0.3)
                task.cancel()
                with suppress(asyncio.CancelledError, EventferryError):
                    await task
        left = database.run(
            """SELECT COUNT(*) FROM information_schema.innodb_trx AS t
            JOIN information_schema.processlist AS p ON p.id = t.trx_mysql_thread_id
            WHERE p.db = DATABASE() AND p.id <> CONNECTION_ID()"""
        )
        assert left == [(0,)]
        await store.save_event({"type": "T", "aggregateId": "z", "aggregateVersion": 1})

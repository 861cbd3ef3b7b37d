"""Who waits for whom, and who never does."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from eventferry import ImportOpenError, NotFrozenError, StoreBusyError, StoreFrozenError, open_store
from tests.support import FAR_FUTURE, exported, import_lines, line, make_event, make_lines
from tests.support.mysql import Database


@pytest.mark.slow
async def test_nothing_comes_in_behind_a_freeze_however_many_save(database: Database) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()

        async def save_on(aggregate: str) -> None:
            for version in range(1, 10_000):
                try:
                    await store.save_event(
                        {"type": "T", "aggregateId": aggregate, "aggregateVersion": version}
                    )
                except StoreFrozenError:
                    return

        for round_ in range(5):
            tasks = [asyncio.create_task(save_on(f"a{round_}-{i}")) for i in range(12)]
            await asyncio.sleep(0.1)
            await other.freeze()
            count = (await other.describe()).event_count
            await asyncio.gather(*tasks)
            assert (await other.describe()).event_count == count
            await other.unfreeze()


async def test_a_freeze_waits_for_a_push_that_had_begun(database: Database) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        order: list[str] = []

        async def write() -> None:
            async with store._database.writing():
                await asyncio.sleep(0.5)
                order.append("written")

        async def freeze() -> None:
            await asyncio.sleep(0.2)
            await other.freeze()
            order.append("frozen")

        await asyncio.gather(write(), freeze())
        assert order == ["written", "frozen"]


async def test_a_push_does_not_hold_up_saves(database: Database) -> None:
    async with open_store(database.url, busy_timeout=1) as store:
        await store.init()
        async with store._database.writing():
            await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})


@pytest.mark.slow
async def test_readers_go_on_during_an_import(database: Database) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        many = b"".join(line(make_event(i, payload="x" * 500)) for i in range(10_000))
        done = asyncio.Event()
        pages = 0

        async def read_on() -> None:
            nonlocal pages
            while not done.is_set():
                await other.load_events(limit=1, cursor=None)
                pages += 1

        reading = asyncio.create_task(read_on())
        for _ in range(2):
            await import_lines(store, many)
        done.set()
        await reading
        assert await exported(store) == many
        assert pages > 20, "each waits for an import to end"


@pytest.mark.slow
async def test_a_reader_that_stays_holds_up_the_swap_and_hardly_anybody_else(database: Database) -> None:
    async with open_store(database.url, busy_timeout=3) as store, open_store(database.url) as other:
        await store.init()
        await import_lines(store, make_lines(9))
        with closing(database.connect()) as reader, reader.cursor() as cursor:
            cursor.execute("START TRANSACTION")
            cursor.execute("SELECT COUNT(*) FROM events")
            swap = asyncio.create_task(import_lines(store, make_lines(5)))
            pages = 0
            while not swap.done():
                await other.load_events(limit=1, cursor=None)
                pages += 1
            with pytest.raises(StoreBusyError):
                await swap
            assert pages > 5
            cursor.execute("ROLLBACK")
        assert await exported(store) == make_lines(9)
        await import_lines(store, make_lines(5))
        assert await exported(store) == make_lines(5)


async def test_saves_that_meet_a_swap_wait_for_it_and_are_in_the_new_events(database: Database) -> None:
    async with open_store(database.url, busy_timeout=30) as store, open_store(database.url) as other:
        await store.init()
        with closing(database.connect()) as reader, reader.cursor() as cursor:
            cursor.execute("START TRANSACTION")
            cursor.execute("SELECT COUNT(*) FROM events")
            swap = asyncio.create_task(import_lines(store, make_lines(5)))
            while not (database_is_marked(database) or swap.done()):
                await asyncio.sleep(0.02)
            assert not (await other.describe()).is_frozen
            save = asyncio.create_task(
                other.save_event(
                    {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "timestamp": FAR_FUTURE}
                )
            )
            await asyncio.sleep(0.3)
            assert not save.done()
            cursor.execute("ROLLBACK")
            await swap
            await save
        assert (await exported(store)).startswith(make_lines(5))
        assert (await store.describe()).event_count == 6


def database_is_marked(database: Database) -> bool:
    return "events-freeze" in database.tables()


@pytest.mark.slow
async def test_a_hundred_clients_that_save_at_once_leave_no_gap_and_a_reader_misses_nothing(
    database: Database,
) -> None:
    stores = [open_store(database.url, max_connections=10) for _ in range(10)]
    await stores[0].init()
    done = asyncio.Event()
    seen: list[tuple[str, int]] = []

    async def read_on() -> None:
        cursor = None
        async with open_store(database.url) as reader:
            while True:
                last = done.is_set()
                page = await reader.load_events(limit=200, cursor=cursor)
                cursor = page.cursor
                seen.extend((event.aggregate_id, event.aggregate_version) for event in page.events)
                if last and not page.events:
                    return

    async def save_on(client: int) -> None:
        for version in range(1, 31):
            await stores[client % 10].save_event(
                {"type": "T", "aggregateId": f"a{client}", "aggregateVersion": version}
            )

    reading = asyncio.create_task(read_on())
    await asyncio.gather(*(save_on(client) for client in range(100)))
    done.set()
    await reading
    assert sorted(seen) == sorted(
        (f"a{client}", version) for client in range(100) for version in range(1, 31)
    )
    gaps = database.run(
        "SELECT threadId FROM events GROUP BY threadId HAVING MAX(threadCounter) + 1 <> COUNT(*)"
    )
    assert list(gaps) == []
    for store in stores:
        await store.close()


async def test_of_two_who_unfreeze_at_once_one_is_told_that_it_is_not_frozen(database: Database) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        for _ in range(15):
            await store.freeze()
            answers = await asyncio.gather(store.unfreeze(), other.unfreeze(), return_exceptions=True)
            assert [type(answer) for answer in answers if answer is not None] == [NotFrozenError]
            assert not (await store.describe()).is_frozen


@pytest.mark.slow
async def test_an_import_that_begins_while_another_ends_is_neither_held_up_nor_lost(
    database: Database,
) -> None:
    """An import that is over goes with its table, behind the transaction that closed it: somebody may be between."""
    async with (
        open_store(database.url, busy_timeout=3) as store,
        open_store(database.url, busy_timeout=3) as other,
    ):
        await store.init()

        async def begin_when_it_is_over() -> str:
            while True:
                try:
                    return await other.begin_incremental_import()
                except ImportOpenError:
                    continue

        import_id = await store.begin_incremental_import()
        for round_ in range(40):
            await store.push_incremental_import(
                [{"type": "T", "aggregateId": "a", "timestamp": FAR_FUTURE + round_}], import_id
            )
            report, import_id = await asyncio.gather(
                store.commit_incremental_import(import_id), begin_when_it_is_over()
            )
            assert report.imported == 1
        await store.commit_incremental_import(import_id)


async def test_what_is_left_of_an_import_whose_process_died_when_it_was_over_goes_with_the_next(
    database: Database,
) -> None:
    async with open_store(database.url) as store:
        await store.init()
        for next_one in (store.begin_incremental_import, lambda: import_lines(store, make_lines(5))):
            import_id = await store.begin_incremental_import()
            with closing(database.connect()) as connection, connection.cursor() as cursor:
                cursor.execute(
                    """INSERT INTO `events-incremental-import`(`rowid`, `timestamp`, `aggregateId`, `type`)
                    VALUES ('closed', -4611686018427387904, '', '')"""
                )
                connection.commit()
            assert (await store.describe()).open_import is None
            assert "events-incremental-import" in database.tables()
            await next_one()
            left = (await store.describe()).open_import
            assert left is None or left.id != import_id
            await store.rollback_incremental_import()
            assert "events-incremental-import" not in database.tables()


async def test_saves_go_on_while_secrets_are_imported(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        with closing(database.connect()) as other, other.cursor() as cursor:
            # Not committed yet: the import waits for it, in the middle of its work.
            cursor.execute("START TRANSACTION")
            cursor.execute("INSERT INTO secrets VALUES (7, 'id', 'x')")
            sink = store.import_secrets()
            await sink.write(b'{"secret":"y","id":"another","idx":7}\n')
            importing = asyncio.create_task(sink.close())
            await asyncio.sleep(0.3)
            async with asyncio.timeout(20):
                await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
            assert not importing.done()
            other.rollback()
        assert (await importing).imported == 1

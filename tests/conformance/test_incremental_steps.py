"""The life of an incremental import: begin, push, commit, rollback."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from eventferry import (
    ImportNotFoundError,
    ImportOpenError,
    ImportReport,
    StoreFrozenError,
    open_store,
)
from eventferry.database import StageKind
from tests.support import (
    FAR_FUTURE,
    NewUrl,
    Opened,
    exported,
    import_lines,
    make_lines,
)
from tests.support.incremental import (
    at,
    contents,
    make_new,
    payloads,
    state,
)


async def test_begin_twice_says_since_when_the_first_is_open_and_how_to_end_it(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        with pytest.raises(ImportOpenError) as caught:
            await store.begin_incremental_import()
        message = str(caught.value)
        assert import_id in message
        assert time.strftime("%Y-%m-%d", time.gmtime()) in message
        assert "commit" in message
        assert "roll" in message
        await store.push_incremental_import([at(1, 1)], import_id)
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)


async def test_describe_tells_of_the_open_import(opened: Opened) -> None:
    async with opened() as store:
        assert (await store.describe()).open_import is None
        earliest = time.time() * 1000 - 1
        import_id = await store.begin_incremental_import()
        found = (await store.describe()).open_import
        assert found is not None
        assert found.id == import_id
        assert found.since is not None
        assert earliest <= found.since <= time.time() * 1000 + 1
        await store.rollback_incremental_import()
        assert (await store.describe()).open_import is None


async def test_a_wrong_id_changes_nothing(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        for wrong in ("", "wrong", "' OR 1=1"):
            with pytest.raises(ImportNotFoundError):
                await store.push_incremental_import([make_new(50)], wrong)
            with pytest.raises(ImportNotFoundError):
                await store.commit_incremental_import(wrong)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([make_new(20)], import_id, part="1")
        before = await state(store)
        for wrong in ("", "wrong", import_id.swapcase(), import_id[:-1], f"{import_id} ", f"{import_id}%"):
            with pytest.raises(ImportNotFoundError):
                await store.push_incremental_import([make_new(30)], wrong, part="1")
            with pytest.raises(ImportNotFoundError):
                await store.commit_incremental_import(wrong)
        assert await state(store) == before
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        assert (await payloads(store))[-1] == {"number": 20}


async def test_an_id_ends_with_its_import(opened: Opened) -> None:
    async with opened() as store:
        committed = await store.begin_incremental_import()
        await store.push_incremental_import([at(1, 1)], committed)
        await store.commit_incremental_import(committed)
        rolled_back = await store.begin_incremental_import()
        await store.push_incremental_import([at(2, 2)], rolled_back)
        await store.rollback_incremental_import()
        for over in (committed, rolled_back):
            with pytest.raises(ImportNotFoundError):
                await store.push_incremental_import([at(3, 3)], over)
            with pytest.raises(ImportNotFoundError):
                await store.commit_incremental_import(over)
            with pytest.raises(ImportNotFoundError):
                await store.rollback_incremental_import(over)
        assert await payloads(store) == [1]


async def test_a_repeated_commit_returns_the_report_of_the_first_and_adds_nothing(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(2, 2)])
        import_id = await store.begin_incremental_import(repeatable=True)
        await store.push_incremental_import([at(1, 1), at(2, 2), at(3, 3), at(4, 4)], import_id)
        reports = await asyncio.gather(*(store.commit_incremental_import(import_id) for _ in range(3)))
        assert reports == [ImportReport(2, 1, 1)] * 3
        await store.begin_incremental_import()  # is in the way of nobody
        assert await store.commit_incremental_import(import_id, older="accept") == reports[0]
        assert await payloads(store) == [2, 3, 4]


async def test_rollback_leaves_nothing_and_is_fine_without_an_import(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        before = await state(store)
        await store.rollback_incremental_import()
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([make_new(i) for i in range(20)], import_id)
        await store.rollback_incremental_import()
        await store.rollback_incremental_import()
        assert await state(store) == before
        import_id = await store.begin_incremental_import()
        assert await store.commit_incremental_import(import_id) == ImportReport(0, 0, 0)


async def test_what_is_pushed_is_not_read_before_the_commit(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(1, 1)], import_id)
        assert await exported(store) == b""
        assert (await store.describe()).event_count == 0
        assert await store.get_latest_event() is None


@pytest.mark.once
async def test_a_whole_import_is_not_in_the_way_of_an_open_one(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(100, 1), at(300, 3)], import_id)
        assert await store.incremental_import([at(200, 2), at(300, 3)]) == ImportReport(2, 0, 0)
        await store.push_incremental_import([at(300, 4)], import_id)
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 1, 1)
        assert await payloads(store) == [2, 3, 4]


async def test_saves_go_on_while_an_import_is_open(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(FAR_FUTURE, 2)], import_id)
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": 1})
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        events = await contents(store)
        assert [(event.payload, event.aggregate_version) for event in events] == [(1, 1), (2, 2)]


@pytest.mark.once
async def test_an_open_import_outlives_the_store_object(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(1, 1)], import_id, part="1")
    async with open_store(url) as store:
        with pytest.raises(ImportOpenError):
            await store.begin_incremental_import()
        await store.push_incremental_import([at(2, 2)], import_id)
    async with open_store(url) as store:
        assert await store.commit_incremental_import(import_id) == ImportReport(2, 0, 0)
        assert await payloads(store) == [1, 2]


BEGIN_AND_DIE = """
import asyncio, os, sys
from eventferry import open_store

async def main():
    store = open_store(sys.argv[1])
    import_id = await store.begin_incremental_import()
    event = {"type": "T", "timestamp": 1, "aggregateId": "a", "payload": 1}
    await store.push_incremental_import([event], import_id)
    print(import_id, flush=True)
    os._exit(9)

asyncio.run(main())
"""


async def test_an_open_import_outlives_the_process_that_began_it(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        child = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", BEGIN_AND_DIE, url], stdout=subprocess.PIPE, check=False
        )
        assert child.returncode == 9
        import_id = child.stdout.decode().strip()
        await store.incremental_import([at(2, 2)])
        found = (await store.describe()).open_import
        assert found is not None
        assert found.id == import_id
        report = await store.commit_incremental_import(import_id, older="accept")
        assert report == ImportReport(1, 0, 0)
        assert await payloads(store) == [1, 2]


async def test_a_frozen_store_refuses_every_step_but_rollback(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([make_new(20)], import_id)
        await store.freeze()
        before = await state(store)
        with pytest.raises(StoreFrozenError):
            await store.incremental_import([make_new(30)])
        with pytest.raises(StoreFrozenError):
            await store.push_incremental_import([make_new(30)], import_id)
        with pytest.raises(StoreFrozenError):
            await store.commit_incremental_import(import_id)
        assert await state(store) == before
        await store.rollback_incremental_import()
        with pytest.raises(StoreFrozenError):
            await store.begin_incremental_import()
        await store.unfreeze()
        assert await exported(store) == before[0]
        assert (await store.describe()).open_import is None


@pytest.mark.parametrize("kind", ["open", "parts"])
async def test_a_reader_that_began_before_an_import_was_rolled_back_is_not_stopped_by_it(
    opened: Opened, kind: StageKind
) -> None:
    async with opened() as store:
        is_open = kind == "open"
        import_id = await (store.begin_incremental_import() if is_open else store.begin_import())
        async with store._database.reading() as reading:
            await reading.heads()
            await (store.rollback_incremental_import if is_open else store.rollback_import)(import_id)
            async with asyncio.timeout(5):
                assert [stage.id for stage in await reading.stages(kind)] in ([], [import_id])
        assert (await store.describe()).open_import is None

"""What only a SQLite file can show: it stays as it is byte by byte, its payload column rewrites bare numbers, and it
keeps texts that no other database does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventferry import InputError, open_store
from tests.support import FAR_FUTURE, all_pages, exported, line, make_event, make_lines
from tests.support.interop.both import (
    FLOATS,
    about,
    assert_both_agree,
    assert_no_gap,
    made_by_resolve,
    make_store,
    makers,
    new_event,
    save_of,
)
from tests.support.interop.resolve import ResolvePackages
from tests.support.interop.stores import Stores

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="session"),
]


async def test_reading_a_store_leaves_its_file_as_it_is(written: str) -> None:
    file = Path(written)
    before = file.read_bytes()
    async with open_store(written) as store:
        await store.describe(calculate_cursor=True)
        await exported(store)
        await all_pages(store, 50)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("payload", [{"half": "\ud800"}, "\x00\x01", {"b": 1, "a": 2}])
async def test_a_text_that_only_sqlite_keeps_can_be_read(
    resolve: ResolvePackages, stores: Stores, payload: Any
) -> None:
    place = stores.new()
    async with made_by_resolve(resolve, place) as real:
        await real.save(save_of("a", 1, payload=payload))
        lines = await real.exported()
    async with open_store(place) as store:
        assert await exported(store) == lines
        page = await store.load_events(limit=10, cursor=None)
        assert json.dumps(page.events[0].payload) == json.dumps(payload)


async def test_both_write_a_store_of_ours_at_once_without_wal(
    resolve: ResolvePackages, stores: Stores
) -> None:
    place = stores.new()
    async with open_store(place, journal_mode="delete") as store:
        await store.init()
        async with resolve(place) as real:
            for version in range(1, 20, 2):
                theirs = await real.save(save_of("shared", version))
                mine = await store.save_event(save_of("shared", version + 1))
                assert (await store.load_events(limit=10, cursor=theirs["cursor"])).events == [mine.event]
    assert_no_gap(await assert_both_agree(resolve, place))


@pytest.mark.parametrize(
    "payload",
    ["12345678901234567890", "9007199254740993.5", "1e400", "0.1234567890123456789"],
)
async def test_a_number_that_its_column_would_rewrite_is_refused(
    written: str, stores: Stores, payload: str
) -> None:
    bare = line(make_event(0)).replace(b'{"number":0}', payload.encode())
    within = line(make_event(0)).replace(b'{"number":0}', b'{"n":' + payload.encode() + b"}")
    async with open_store(written) as store:
        with pytest.raises(InputError) as refusal:
            await store.incremental_import(_blocks(bare))
        assert (refusal.value.line, refusal.value.field) == (1, "payload")
        await store.incremental_import(_blocks(within), older="accept")
        assert b'"payload":{"n":' + payload.encode() + b"}}" in await exported(store)
    async with open_store(stores.new()) as store:
        await store.init()
        await store.incremental_import(_blocks(bare))
        assert b'"payload":' + payload.encode() + b"}" in await exported(store)


async def _blocks(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


@makers
@pytest.mark.parametrize("begun_by", ["reSolve", "eventferry"])
@pytest.mark.parametrize("committed_by", ["reSolve", "eventferry"])
async def test_bare_numbers_stay_the_same_whoever_imports_them(
    resolve: ResolvePackages, stores: Stores, maker: str, begun_by: str, committed_by: str
) -> None:
    """In three kinds of columns: reSolve's have numeric affinity, ours have not."""
    place = stores.new()
    await make_store(maker, resolve, place, make_lines(1))
    batches = [
        [
            new_event(i, timestamp=FAR_FUTURE + turn, payload=number, aggregateId=f"pushed by {pusher}")
            for i, number in enumerate(FLOATS)
        ]
        for turn, pusher in enumerate(("reSolve", "eventferry"))
    ]
    async with resolve(place) as real, open_store(place) as store:
        await real.call("describe")  # connects, and so leaves WAL, before we hold the file
        if begun_by == "reSolve":
            import_id = await real.call("beginIncrementalImport")
        else:
            import_id = await store.begin_incremental_import()
        await real.call("pushIncrementalImport", batches[0], import_id)
        await store.push_incremental_import(batches[1], import_id)
        if committed_by == "reSolve":
            await real.call("commitIncrementalImport", import_id)
        else:
            await store.commit_incremental_import(import_id)
    batch = [*batches[0], *batches[1]]
    assert about((await assert_both_agree(resolve, place))[1:]) == about(batch)
    async with open_store(place) as store:
        assert (await store.incremental_import(batch)).skipped_existing == len(batch)
    async with resolve(place) as real:
        await real.call("incrementalImport", batch)
        assert (await real.call("describe"))["eventCount"] == 1 + len(batch)


@pytest.mark.parametrize("payload", ["12345678901234567890", "0.1234567890123456789", "1.0"])
async def test_a_number_pushed_to_an_import_that_resolve_began_is_kept_or_refused(
    resolve: ResolvePackages, stores: Stores, payload: str
) -> None:
    """The store is ours and keeps any number, but the stage is reSolve's, whose column rewrites some."""
    place = stores.new()
    async with open_store(place) as store:
        await store.init()
    async with resolve(place) as real:
        import_id = await real.call("beginIncrementalImport")
    bare = line(make_event(0)).replace(b'{"number":0}', payload.encode())
    async with open_store(place) as store:
        try:
            await store.push_incremental_import(_blocks(bare), import_id)
        except InputError as refusal:
            assert (refusal.line, refusal.field) == (1, "payload")  # noqa: PT017 -- either is right
            return
        await store.commit_incremental_import(import_id)
        text = (await exported(store)).decode()
        assert text.endswith((f'"payload":{payload}}}\n', f'"payload":{payload.removesuffix(".0")}}}\n'))

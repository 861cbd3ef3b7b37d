"""An owner that has lost its lock: the server refuses what it goes on with, and nobody else's is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from eventferry import (
    AUTO,
    ImportStream,
    NotFrozenError,
    StoreBusyError,
    StoreFrozenError,
    UnsupportedStoreError,
    open_store,
)
from tests.support import FAR_FUTURE, NewUrl, exported, import_lines, make_lines
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


def owner_of(stream: ImportStream) -> str:
    owner: str = stream._target._owner.id  # type: ignore[attr-defined]
    return owner


async def cut_off(url: str, owner: str | None = None) -> None:
    """End the connection that holds an owner's lock, or all those that hold one; come back when the locks are gone."""
    held = """FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND (
        application_name = %s OR classid::bigint << 32 | objid::bigint = %s)"""
    values = (schema_of(url), -1 if owner is None else int(owner, 16))
    assert rows(url, f"SELECT pg_terminate_backend(pid) {held}", *values)
    async with asyncio.timeout(20):
        while rows(url, f"SELECT 1 {held}", *values):
            await asyncio.sleep(0.01)


async def begun(stream: ImportStream, lines: bytes) -> None:
    """An import that has staged these lines."""
    await stream.begin()
    await stream.write(lines)
    await stream._batches.commit()


async def ended(stream: ImportStream, lines: bytes) -> None:
    """An import that goes on with these lines to its end."""
    await stream.write(lines)
    await stream.close()


async def waits(task: asyncio.Task[Any], url: str, table: str) -> None:
    """Comes back when somebody waits for a lock on a table; the task is not over then."""
    async with asyncio.timeout(20):
        while not rows(
            url,
            "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = to_regclass(%s)",
            f'"{schema_of(url)}"."{table}"',
        ):
            assert not task.done()
            await asyncio.sleep(0.005)


def one_like(url: str, prefix: str) -> str:
    [table] = [name for name in tables(url) if name.startswith(prefix)]
    return table


async def test_an_import_that_was_taken_for_dead_touches_nothing_of_the_one_that_came_behind(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await make_store(url, 20)
    async with open_store(url) as store, open_store(url) as other:
        first = store.import_events()
        await begun(first, make_lines(3000))
        await cut_off(url, owner_of(first))
        second = other.import_events()
        await begun(second, make_lines(50))
        with pytest.raises(StoreBusyError, match="considered dead"):
            await ended(first, make_lines(6000)[len(make_lines(3000)) :])
        await second.close()
        assert await exported(store) == make_lines(50)
    assert tables(url) == STORE_TABLES


async def test_an_import_that_was_taken_for_dead_at_its_end_replaces_nothing(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 20)
    async with open_store(url) as store, open_store(url) as other:
        first = store.import_events()
        await begun(first, make_lines(300))
        with connect(url, autocommit=False) as reader:
            reader.execute('SELECT count(*) FROM "events"')
            closing = asyncio.create_task(first.close())
            await waits(closing, url, "events")
            await cut_off(url, owner_of(first))
            second = other.import_events()
            await begun(second, make_lines(50))
        with pytest.raises(StoreBusyError, match="considered dead"):
            await closing
        assert await exported(store) == make_lines(20)
        await second.close()
        assert await exported(store) == make_lines(50)
    assert tables(url) == STORE_TABLES


@pytest.mark.parametrize("outcome", ["COMMIT", "ROLLBACK"])
async def test_whoever_resumes_waits_for_the_step_that_the_former_owner_is_in_the_middle_of(
    new_url: NewUrl, outcome: str
) -> None:
    url = new_url()
    await make_store(url, 20)
    lines = make_lines(900)
    async with open_store(url) as store, open_store(url) as other:
        first = store.import_events()
        await begun(first, make_lines(300))
        stage, steps = one_like(url, "events-stage-"), one_like(url, "events-steps-")
        with connect(url, autocommit=False) as former:
            # As it stages a block: an event, and how far it is with it.
            former.execute(
                f"""INSERT INTO "{stage}" SELECT 255, 7, 1, 'between', 1, 'T', NULL, 99, 301;
                INSERT INTO "{steps}"("byteOffset", "line", "events", "digest")
                SELECT "byteOffset" + 9, 302, 301, '' FROM "{steps}" ORDER BY "commit" DESC LIMIT 1"""
            )
            await cut_off(url, owner_of(first))
            second = other.import_events(resume=True)
            resuming = asyncio.create_task(second.begin())
            await waits(resuming, url, stage)
            # Saves need not wait for it.
            async with open_store(url) as application, asyncio.timeout(20):
                await application.save_event(SAVED)
            former.execute(outcome)
        await resuming
        is_in = outcome == "COMMIT"
        assert second.byte_offset == len(make_lines(300)) + 9 * is_in
        assert second.saved_events_count == 300 + is_in
        assert rows(url, f'SELECT count(*) FROM "{one_like(url, "events-stage-")}"') == [(300 + is_in,)]
        with pytest.raises(StoreBusyError, match="considered dead"):
            await ended(first, lines[len(make_lines(300)) :])


@pytest.mark.slow
async def test_of_many_who_resume_at_once_exactly_one_does(new_url: NewUrl) -> None:
    url = with_options(new_url(), "busy_timeout=20")
    await make_store(url)
    lines = make_lines(2000)
    for _ in range(8):
        async with open_store(url) as store, store.import_events(resume=True) as stream:
            await stream.write(lines[:100_000])
            await stream._batches.commit()
            stream.stop()
        stores = [open_store(url) for _ in range(4)]
        streams = [store.import_events(resume=True) for store in stores]
        found = await asyncio.gather(*[stream.begin() for stream in streams], return_exceptions=True)
        assert sorted(type(each).__name__ for each in found) == ["NoneType", *["StoreBusyError"] * 3]
        [winner] = [stream for stream, each in zip(streams, found, strict=True) if each is None]
        assert winner.byte_offset > 0
        await winner.write(lines[winner.byte_offset :])
        await winner.close()
        assert await exported(stores[0]) == lines
        check_no_gaps(url)
        for store in stores:
            await store.close()
    assert tables(url) == STORE_TABLES


async def test_an_incremental_import_that_was_taken_for_dead_stores_nothing_and_says_so(
    new_url: NewUrl,
) -> None:
    url = with_options(new_url(), "application_name=")
    url += schema_of(url)
    await make_store(url, 20)

    async def blocks() -> AsyncIterator[bytes]:
        yield b'{"type":"T","timestamp":4000000000000,"aggregateId":"a"}\n'
        await cut_off(url)
        async with open_store(url) as other:
            await other.incremental_import([at(FAR_FUTURE, 1, "theirs")])

    async with open_store(url) as store:
        with pytest.raises(StoreBusyError, match="considered dead"):
            await store.incremental_import(blocks())
        assert (await store.describe()).event_count == 21
        # What begin opened goes on, whoever is cut off.
        import_id = await store.begin_incremental_import()
        with pytest.raises(StoreBusyError, match="considered dead"):
            await store.push_incremental_import(blocks(), import_id)
        await store.push_incremental_import([at(FAR_FUTURE, 2, "pushed")], import_id)
        assert (await store.commit_incremental_import(import_id)).imported == 1
    check_no_gaps(url)
    assert tables(url) == STORE_TABLES


async def test_a_freeze_that_was_set_in_place_of_a_dead_owner_s_is_not_removed_for_it(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await make_store(url, 20)
    async with open_store(url) as store, open_store(url) as application:
        export = store.export_events(maintenance_mode=AUTO)
        await export.__anext__()
        await cut_off(url, export._export._owner)
        with connect(url, autocommit=False) as resolve:
            # It takes no lock of ours.
            resolve.execute(
                """DROP TABLE "events-freeze"; CREATE TABLE "events-freeze"("surrogate" BIGINT NOT NULL);
                COMMENT ON TABLE "events-freeze" IS 'RESOLVE EVENT STORE "events" FREEZE MARKER'"""
            )
            saving = asyncio.create_task(application.incremental_import([at(FAR_FUTURE, 1)]))
            await waits(saving, url, "events-freeze")
            resolve.execute("COMMIT")
        with pytest.raises(StoreFrozenError):
            await saving
        assert "events-freeze" in tables(url)
        with pytest.raises(StoreFrozenError):
            await application.save_event(SAVED)
        await export.aclose()
        assert "events-freeze" in tables(url)


async def make_neighbour(url: str, name: str) -> dict[str, list[tuple[Any, ...]]]:
    """A store and a stage of it, under names that no store of ours can be told to have, but an older one or another
    program's can; what is in its tables."""
    async with open_store(named(url, "made")) as store:
        await store.init()
        await import_lines(store, make_lines(20))
        async with store.import_events(resume=True) as stream:
            await stream.write(make_lines(30))
            await stream._batches.commit()
            stream.stop()
    for table in tables(url):
        rows(url, f'ALTER TABLE "{table}" RENAME TO "{name}{table.removeprefix("made")}"')
    found = in_tables(url, name)
    assert len(found[name]) == 20
    assert [len(content) for table, content in found.items() if table.startswith(f"{name}-stage-")] == [30]
    return found


def named(url: str, name: str) -> str:
    others = "&".join(f"{kind}_table_name={name}-{kind}" for kind in ("snapshots", "secrets", "subscribers"))
    return with_options(url, f"events_table_name={name}&{others}")


def in_tables(url: str, prefix: str) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: rows(url, f'SELECT * FROM "{table}" ORDER BY 1, 2')
        for table in tables(url)
        if table.startswith(prefix)
    }


NEIGHBOURS = (
    "-freeze",
    "-incremental-import",
    "-import",
    "-import-progress",
    "-stage-0123456789ab",
    "-steps-0123456789ab",
    "-merge-0123456789abcdef",
    "-merge-0123456789abcdef-merge-0123456789ab",
)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", NEIGHBOURS)
async def test_a_store_whose_tables_are_called_as_markers_and_stages_of_another_stays_whole(
    new_url: NewUrl, suffix: str
) -> None:
    url = new_url()
    before = await make_neighbour(url, f"o{suffix}")
    async with open_store(named(url, "o")) as store:
        await store.init()
        calls = (
            lambda: import_lines(store, make_lines(10)),
            lambda: import_lines(store, make_lines(10), resume=True),
            lambda: import_lines(store, make_lines(10), freeze=True),
            store.freeze,
            store.unfreeze,
            lambda: store.incremental_import([at(FAR_FUTURE, 1)]),
            store.begin_incremental_import,
            store.rollback_incremental_import,
            lambda: store.save_event(SAVED),
            store.describe,
            store.drop,
        )
        refusals: list[str] = []
        for call in calls:
            try:
                await call()
            except NotFrozenError:
                pass
            except UnsupportedStoreError as error:
                refusals.append(str(error))
            assert in_tables(url, f"o{suffix}") == before
        # Only where the two cannot be beside one another, and then by name.
        assert bool(refusals) is (suffix in ("-freeze", "-incremental-import"))
        assert all(f"o{suffix}" in refusal for refusal in refusals)
    assert (tables(url) != set(before)) is bool(refusals)  # then it is not dropped either

"""What only a PostgreSQL store can show: eventferry and several real adapters write it at the same time, its
columns have lengths, its secrets a sequence, and nothing but locks keeps the counters of its threads right."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventferry import (
    MANUAL,
    AlreadyFrozenError,
    ConcurrentError,
    InputError,
    StoreFrozenError,
    StoreReplacedError,
    open_store,
)
from eventferry.reading import exporting
from eventferry.reading.order import thread_of
from tests.support import FAR_FUTURE, all_pages, exported, import_lines, line, make_event, make_lines
from tests.support.interop.both import (
    ORIGINAL_EVENTS,
    about,
    assert_both_agree,
    assert_both_agree_on_events,
    assert_no_gap,
    assert_threads_right,
    by_position,
    dicts_of,
    make_store,
    makers,
    new_event,
    save_of,
    several,
)
from tests.support.interop.resolve import Resolve, ResolveError, ResolvePackages
from tests.support.interop.stores import Stores, query, rows_and_tables, threads, transaction

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.parametrize("database", ["postgresql"], indirect=True, scope="session"),
]


async def test_opening_and_reading_change_nothing(written: str) -> None:
    before = rows_and_tables(written)
    async with open_store(written) as store:
        await store.describe(calculate_cursor=True, estimate_counts=True)
        await exported(store)
        await all_pages(store, 50)
        await store.load_events(limit=10, start_time=0)
        await store.get_latest_event()
        await store.get_cursor_until_event_types(None, ["SAVED"])
        await store.load_secrets(limit=10)
        await store.get_event_subscribers()
        await store.load_snapshot("other")
    assert rows_and_tables(written) == before


async def test_a_store_of_resolve_keeps_its_tables_but_for_events_that_were_replaced(written: str) -> None:
    columns = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = '{schema}.events'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname"
    )
    before = query(written, columns)
    async with open_store(written) as store:
        await store.save_event(save_of("ours", 1))
        await store.incremental_import([new_event(0, timestamp=FAR_FUTURE + 5000)])
        assert query(written, columns) == before
        await import_lines(store, make_lines(10))
    assert [name for name, _ in query(written, columns)] == [name for name, _ in before]


# what its columns cannot hold


@pytest.mark.parametrize("field", ["aggregateId", "type"])
async def test_a_text_too_long_for_its_columns_is_refused_by_line_and_field(written: str, field: str) -> None:
    before = rows_and_tables(written)
    long = {field: "x" * 191}
    async with open_store(written) as store:
        with pytest.raises(InputError) as refusal:
            await store.save_event(save_of("a", 1) | long)
        assert refusal.value.field == field

        lines = line(make_event(1000)) + line(make_event(1001) | long)
        with pytest.raises(InputError) as refusal:
            await import_lines(store, lines, maintenance_mode=MANUAL)
        assert (refusal.value.line, refusal.value.field) == (2, field)

        with pytest.raises(InputError) as refusal:
            await store.incremental_import([new_event(0), new_event(1) | long])
        assert (refusal.value.line, refusal.value.field) == (2, field)
        assert rows_and_tables(written) == before
        await store.save_event(save_of("a", 1) | {field: "x" * 190})


async def test_a_name_too_long_for_its_other_tables_is_refused_by_field(written: str) -> None:
    async with open_store(written) as store:
        for field, names in (("applicationName", ("x" * 191, "y")), ("eventSubscriber", ("x", "y" * 191))):
            with pytest.raises(InputError) as refusal:
                await store.ensure_event_subscriber(*names, destination={}, status={})
            assert refusal.value.field == field
        with pytest.raises(InputError) as refusal:
            await store.set_secret("x" * 191, "key")
        assert refusal.value.field == "id"
        with pytest.raises(InputError) as refusal:
            async with store.import_secrets() as secrets:
                await secrets.write(
                    b'{"secret":"k","id":"a","idx":90}\n{"secret":"k","id":"%b","idx":91}\n' % (b"x" * 191)
                )
        assert (refusal.value.line, refusal.value.field) == (2, "id")
        assert await store.get_secret("a") is None
        assert (await store.describe()).event_count == ORIGINAL_EVENTS


async def test_a_taken_version_is_known_where_postgresql_cut_the_name_of_its_index(written: str) -> None:
    """As it does for a table of events with a name of more than 41 bytes."""
    query(
        written, 'ALTER INDEX {schema}."events-aggregateIdAndVersion" RENAME TO "events-aggregateIdAndVersi"'
    )
    async with open_store(written) as store:
        with pytest.raises(ConcurrentError):
            await store.save_event(save_of("plain", 1))


async def test_a_text_too_long_for_its_stage_is_refused_in_a_store_of_ours_too(
    resolve: ResolvePackages, stores: Stores
) -> None:
    place = stores.new()
    await make_store("eventferry", resolve, place, make_lines(3))
    async with resolve(place) as real, open_store(place) as store:
        import_id = await real.call("beginIncrementalImport")
        with pytest.raises(InputError) as refusal:
            await store.push_incremental_import(
                [new_event(0), new_event(1, aggregateId="x" * 191)], import_id
            )
        assert (refusal.value.line, refusal.value.field) == (2, "aggregateId")
        await store.push_incremental_import([new_event(2)], import_id)
        await real.call("commitIncrementalImport", import_id)
        await store.save_event(save_of("x" * 191, 1))
        assert [e["aggregateId"] for e in await real.events()][3:] == ["x" * 191, "aggregate-2"]


async def test_an_open_store_notices_that_resolve_replaced_its_columns_by_shorter_ones(
    resolve: ResolvePackages, stores: Stores
) -> None:
    place = stores.new()
    await make_store("eventferry", resolve, place, make_lines(3))
    async with resolve(place) as real, open_store(place) as store:
        await store.save_event(save_of("x" * 191, 1))
        await real.call("importEvents", make_lines(3).decode())
        with pytest.raises(InputError) as refusal:
            await store.save_event(save_of("x" * 191, 1))
        assert refusal.value.field == "aggregateId"
        await store.save_event(save_of("x" * 190, 1))
    await assert_both_agree(resolve, place)


# replaced by the real adapter while we read


async def test_an_export_ends_by_name_when_resolve_replaces_the_events(
    resolve: ResolvePackages, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "PAGE_BYTES", 64 * 1024)  # not all of it is read ahead at once
    place = stores.new()
    await make_store("reSolve", resolve, place, make_lines(9000))
    async with resolve(place) as real, open_store(place) as store, store.export_events() as export:
        await anext(export)
        await real.call("importEvents", make_lines(10).decode())
        with pytest.raises(StoreReplacedError):
            async for _ in export:
                pass


# secrets: both take the next number


async def test_secrets_of_both_by_turns_have_numbers_of_their_own(
    resolve: ResolvePackages, stores: Stores
) -> None:
    for maker in ("reSolve", "eventferry"):
        place = stores.new()
        await make_store(maker, resolve, place, make_lines(1))
        async with resolve(place) as real, open_store(place) as store:
            for i in range(0, 6, 2):
                await real.call("setSecret", f"secret-{i}", "key")
                await store.set_secret(f"secret-{i + 1}", "key")
            async with store.import_secrets() as secrets:
                await secrets.write(b'{"secret":"key","id":"far","idx":100}\n')
            await real.call("setSecret", "after", "key")
            await store.set_secret("last", "key")
            found = (await store.load_secrets(limit=100)).secrets
            assert [secret.id for secret in found] == [
                *(f"secret-{i}" for i in range(6)),
                "far",
                "after",
                "last",
            ]
            assert [secret.idx for secret in found][-3:] == [100, 101, 102]
            theirs = await real.call("loadSecrets", {"limit": 100})
            assert [secret["idx"] for secret in theirs["secrets"]] == [secret.idx for secret in found]
        await assert_both_agree(resolve, place)


async def test_a_counter_that_resolve_skipped_is_in_nobodys_way(
    resolve: ResolvePackages, written: str
) -> None:
    """Its deleteSecret takes a counter even where there is nothing to delete, on a frozen store too."""
    async with resolve(written) as real, open_store(written) as store:
        events = await real.events()
        assert not await real.call("deleteSecret", "unknown")
        kept, found = threads(written)
        assert sum(kept.values()) == sum(found.values()) + 1
        assert (await store.describe(calculate_cursor=True)).cursor == (
            await real.call("describe", {"calculateCursor": True})
        )["cursor"]
        # Both fill every thread, behind what it holds.
        batch = [new_event(i, timestamp=FAR_FUTURE + 5000 + i) for i in range(300)]
        assert (await store.incremental_import(batch)).imported == 300
        for version in range(1, 11):
            await real.save(save_of("theirs", version, timestamp=FAR_FUTURE + 9000))
        after = await real.events()
        assert len(after) == len(events) + 310
        lines = await exported(store)
        assert len(lines.splitlines()) == len(after)
        await import_lines(store, lines)
        assert await exported(store) == lines


# at the same time


async def _save_many(real: Resolve, aggregate_id: str, count: int) -> list[dict[str, Any]]:
    return [await real.save(save_of(aggregate_id, version)) for version in range(1, count + 1)]


@makers
async def test_600_saves_of_both_at_once_neither_collide_nor_leave_a_gap(
    resolve: ResolvePackages, stores: Stores, maker: str
) -> None:
    place = stores.new()
    await make_store(maker, resolve, place, make_lines(100))
    async with several(resolve, place, 3) as adapters, open_store(place) as store:
        read: list[dict[str, Any]] = []
        done = asyncio.Event()

        async def follow() -> None:
            cursor = None
            while True:
                was_done = done.is_set()
                page = await store.load_events(limit=40, cursor=cursor)
                read.extend({"threadId": e.thread_id, "threadCounter": e.thread_counter} for e in page.events)
                cursor = page.cursor
                if was_done and not page.events:
                    return

        async def ours(aggregate_id: str) -> list[Any]:
            return [await store.save_event(save_of(aggregate_id, version)) for version in range(1, 11)]

        # All of ours prefer the same few threads.
        crowded = [f"ours-{number}" for number in range(6000) if thread_of(f"ours-{number}") < 2][:30]
        follower = asyncio.ensure_future(follow())
        theirs, mine = await asyncio.gather(
            asyncio.gather(
                *(_save_many(real, f"theirs-{number}", 100) for number, real in enumerate(adapters))
            ),
            asyncio.gather(*map(ours, crowded)),
        )
        done.set()
        await follower
        # A cursor is never ahead of what is stored: whoever reads on from one misses nothing.
        cursors = [save["cursor"] for saves in theirs for save in saves]
        cursors += [save.cursor for saves in mine for save in saves]
        for cursor in cursors[::50]:
            unread = dicts_of((await store.load_events(limit=10_000, cursor=cursor)).events)
            assert by_position((await adapters[0].page(10_000, cursor))["events"]) == by_position(unread)
    events = await assert_both_agree_on_events(resolve, place)
    assert len(events) == 700
    assert_no_gap(events)
    assert len({(event["threadId"], event["threadCounter"]) for event in read}) == len(read) == 700


async def test_our_freeze_waits_for_saves_of_resolve_and_then_nothing_comes_in(
    resolve: ResolvePackages, written: str
) -> None:
    async with several(resolve, written, 4) as adapters, open_store(written) as store:

        async def save_until_frozen(real: Resolve, aggregate_id: str) -> int:
            for version in range(1, 10_000):
                try:
                    await real.save(save_of(aggregate_id, version))
                except ResolveError as error:
                    if error.name != "EventstoreFrozenError":
                        raise
                    return version - 1
            raise AssertionError("the freeze did not stop it")

        before = (await store.describe()).event_count
        savers = [
            asyncio.ensure_future(save_until_frozen(real, f"a{number}"))
            for number, real in enumerate(adapters)
        ]
        await asyncio.sleep(0.3)
        await store.freeze()
        frozen = await store.describe(calculate_cursor=True)
        saved = await asyncio.gather(*savers)
        assert sum(saved) > 4
        assert frozen.event_count == before + sum(saved)
        assert await store.describe(calculate_cursor=True) == frozen
        with pytest.raises(AlreadyFrozenError):
            await store.freeze()
        for number, real in enumerate(adapters):
            with pytest.raises(ResolveError, match="frozen"):
                await real.call("setSecret", f"id-{number}", "key")
        assert await store.describe(calculate_cursor=True) == frozen
        await store.unfreeze()
        await asyncio.gather(
            *(real.save(save_of(f"a{number}", saved[number] + 1)) for number, real in enumerate(adapters))
        )
    assert_threads_right(written)


_WAITING = """SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE NOT granted AND datname = current_database()"""


async def test_our_freeze_waits_for_a_save_of_resolve_that_is_under_way(
    resolve: ResolvePackages, written: str
) -> None:
    async with resolve(written) as real, open_store(written) as store:
        before = (await store.describe()).event_count
        with transaction(written) as somebody:
            # Until somebody decides about this version, nobody can say whether it is taken.
            somebody.execute(
                "INSERT INTO \"of resolve\".events VALUES (999, 0, 0, 'held', 1, 'SAVED', 'null', 0)"
            )
            save = asyncio.ensure_future(real.save(save_of("held", 1)))
            while not query(written, _WAITING):
                assert not save.done()
                await asyncio.sleep(0.01)
            freeze = asyncio.ensure_future(store.freeze())
            await asyncio.sleep(0.7)
            assert not freeze.done()
            assert not (await store.describe()).is_frozen
            somebody.rollback()
        await asyncio.gather(save, freeze)
        described = await store.describe()
        assert (described.event_count, described.is_frozen) == (before + 1, True)


async def test_a_freeze_of_resolve_stops_our_saves(resolve: ResolvePackages, written: str) -> None:
    async with resolve(written) as real, open_store(written) as store:

        async def save_until_frozen(aggregate_id: str) -> int:
            for version in range(1, 10_000):
                try:
                    await store.save_event(save_of(aggregate_id, version))
                except StoreFrozenError:
                    return version - 1
            raise AssertionError("the freeze did not stop it")

        before = (await store.describe()).event_count
        savers = [asyncio.ensure_future(save_until_frozen(f"a{number}")) for number in range(8)]
        await asyncio.sleep(0.3)
        await real.call("freeze")
        saved = await asyncio.gather(*savers)
        assert sum(saved) > 8
        assert (await real.call("describe"))["eventCount"] == before + sum(saved)
    assert_threads_right(written)


async def test_our_imports_go_between_the_saves_of_resolve(resolve: ResolvePackages, stores: Stores) -> None:
    place = stores.new()
    await make_store("reSolve", resolve, place, make_lines(300))
    batches = [
        [new_event(i, timestamp=FAR_FUTURE + 1000 * number + i, aggregateId=f"b{number}") for i in range(50)]
        for number in range(4)
    ]
    async with several(resolve, place, 2) as adapters, open_store(place) as store:

        async def import_all() -> None:
            for number, batch in enumerate(batches):
                if number % 2:
                    import_id = await store.begin_incremental_import()
                    await store.push_incremental_import(batch, import_id)
                    report = await store.commit_incremental_import(import_id)
                else:
                    report = await store.incremental_import(batch)
                assert (report.imported, report.skipped_older) == (50, 0)
                await store.set_secret(f"secret-{number}", "key")

        await asyncio.gather(
            import_all(),
            *(_save_many(real, f"theirs-{number}", 60) for number, real in enumerate(adapters)),
        )
    events = await assert_both_agree_on_events(resolve, place)
    assert len(events) == 300 + 4 * 50 + 4 + 2 * 60
    assert about([event for batch in batches for event in batch]) <= about(events)
    assert_no_gap(events)


async def test_our_saves_go_between_the_imports_of_resolve(resolve: ResolvePackages, stores: Stores) -> None:
    """Its commit may lose against a save, and with it all that was pushed: docs/postgresql.md says so. Ours do not."""
    place = stores.new()
    await make_store("reSolve", resolve, place, make_lines(300))
    imported = 0
    async with resolve(place) as real, open_store(place) as store:
        done = False

        async def save(aggregate_id: str) -> int:
            version = 0
            while not done:
                version += 1
                await store.save_event(save_of(aggregate_id, version))
            return version

        savers = [asyncio.ensure_future(save(f"ours-{number}")) for number in range(6)]
        for number in range(10):
            batch = [
                new_event(i, timestamp=FAR_FUTURE + 1000 * number + i, aggregateId=f"b{number}")
                for i in range(50)
            ]
            try:
                await real.call("incrementalImport", batch)
            except ResolveError as error:
                # It locks the threads in another order: the server may also end it instead of a save.
                if not any(words in str(error) for words in ("duplicate key", "deadlock detected")):
                    raise
            else:
                imported += 50
        done = True
        saved = sum(await asyncio.gather(*savers))
        assert (await store.describe()).event_count == 300 + imported + saved
    assert_no_gap(await assert_both_agree_on_events(resolve, place))


async def test_a_replacement_waits_for_the_export_of_resolve(
    resolve: ResolvePackages, stores: Stores
) -> None:
    place = stores.new()
    await make_store("reSolve", resolve, place, make_lines(3000))
    async with resolve(place) as real, open_store(place) as store:
        export, _ = await asyncio.gather(
            real.call("exportEvents", {"maintenanceMode": "MANUAL"}), import_lines(store, make_lines(100))
        )
        assert export["text"].encode() in (make_lines(3000), make_lines(100))
    assert len(await assert_both_agree(resolve, place)) == 100

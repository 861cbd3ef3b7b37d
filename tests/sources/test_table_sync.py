"""Sync from another product's table: each row once, in the order of the positions, with dense versions."""

from __future__ import annotations

import asyncio
import functools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from eventferry import (
    AggregateConflictError,
    Changes,
    Event,
    EventStore,
    ForeignSource,
    InputError,
    MappingError,
    SourceRowError,
    StoreClosedError,
    StoreReplacedError,
    SyncReport,
    TargetChangedError,
    UnsupportedStoreError,
    UsageError,
    cutover,
    open_source,
    open_store,
    verify,
)
from eventferry.sources.mapping import Position
from eventferry.sources.positions import SourceBookmark
from tests.support import NewUrl, all_pages
from tests.support.foreign.own import OwnTable, mapping, own_table
from tests.support.places import DATABASES, Places

SETTLE = 0.3

opened = functools.partial(open_source, settle=SETTLE)


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def table(database: str, tmp_path: Path) -> Iterator[OwnTable]:
    """A table of events on each database."""
    with own_table(database, tmp_path) as table:
        yield table


@pytest.fixture
def new_url(tmp_path: Path) -> Iterator[NewUrl]:
    """Where a target can be made."""
    with Places("sqlite" if "sqlite" in DATABASES else DATABASES[0], tmp_path) as places:
        yield places.new_url


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[OwnTable]:
    """A table on SQLite, for what does not depend on the database."""
    with own_table("sqlite", tmp_path) as table:
        yield table


@pytest.fixture
def pg() -> Iterator[OwnTable]:
    """A table on PostgreSQL."""
    with own_table("postgresql", Path()) as table:
        yield table


async def brought(store: EventStore) -> list[tuple[int, str, int]]:
    """Position, aggregate and version of all events, in the order in which they are read."""
    return [
        (event.payload["meta"]["position"], event.aggregate_id, event.aggregate_version)
        for event in await all_pages(store, 1000)
    ]


async def are_equal(source: ForeignSource, target: EventStore) -> bool:
    return (await verify(source.export_events(), target.export_events())).equal


def dense(events: list[tuple[int, str, int]]) -> bool:
    """Whether the versions of each aggregate count from 1."""
    seen: dict[str, int] = defaultdict(int)
    for _, name, version in events:
        seen[name] += 1
        if version != seen[name]:
            return False
    return True


async def test_a_mapping_may_hold_percent_signs(table: OwnTable, new_url: NewUrl) -> None:
    every = mapping().select
    assert isinstance(every, str)
    select = every + " WHERE stream LIKE 'stream-%' AND type <> '%s' AND id % 5 <> 0"
    table.add(*range(1, 10))
    async with opened(table.url, mapping(select=select)) as source, open_store(new_url()) as target:
        assert (await target.sync(source)).events == 8
        table.add(10, 11)
        assert (await target.sync(source)).events == 1
        assert await are_equal(source, target)


async def test_what_is_new_comes_over_once_and_in_order(table: OwnTable, new_url: NewUrl) -> None:
    table.add(*range(1, 11))
    async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
        assert (await target.sync(source)).events == 10
        assert (await target.sync(source)).events == 0
        table.add(*range(11, 15))
        report = await target.sync(source)
        assert report.events == 4
        assert report.mode == "replica"
        assert report.bookmark.startswith("es1.")
        events = await brought(target)
        assert [position for position, *_ in events] == list(range(1, 15))
        assert dense(events)
        assert {event.thread_id for event in await all_pages(target, 100)} == {0}
        assert await are_equal(source, target)


async def test_positions_that_are_missing_for_good_hold_up_nothing(table: OwnTable, new_url: NewUrl) -> None:
    table.add(3, 4, 7)
    async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
        assert (await target.sync(source)).events == 3
        table.add(9, 12)
        assert (await target.sync(source)).events == 2
        assert await are_equal(source, target)


async def test_the_report_says_whether_a_late_commit_may_be_missed(
    table: OwnTable, database: str, new_url: NewUrl
) -> None:
    table.add(1)
    async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
        exactness = (await target.sync(source)).exactness
    assert exactness is not None
    if database in ("sqlite", "postgresql"):
        assert exactness == "exact"
    else:
        assert exactness.startswith("not exact, because ")


async def test_it_follows_what_is_written_meanwhile(table: OwnTable, new_url: NewUrl) -> None:
    table.add(*range(1, 6))
    reached = asyncio.Event()

    def tell_whether(is_there: bool) -> None:
        if is_there:
            reached.set()

    async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
        following = asyncio.create_task(
            target.sync(source, follow=True, tell=lambda report: tell_whether(report.events == 105))
        )
        for position in range(6, 106):
            await asyncio.to_thread(table.add, position)
        async with asyncio.timeout(30):
            await reached.wait()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        assert [position for position, *_ in await brought(target)] == table.positions()
        assert await are_equal(source, target)


async def test_a_row_that_commits_late_comes_over(pg: OwnTable, new_url: NewUrl) -> None:
    pg.run("INSERT INTO events(stream, type, data, at) VALUES ('a', 'T', '{}', 1)")
    with psycopg.connect(pg.url) as late:
        async with opened(pg.url, mapping()) as source, open_store(new_url()) as target:
            await target.sync(source)
            late.execute("INSERT INTO events(stream, type, data, at) VALUES ('late', 'T', '{}', 1)")
            pg.run("INSERT INTO events(stream, type, data, at) VALUES ('a', 'T', '{}', 1)")
            report = await target.sync(source)
            assert (report.events, report.waiting) == (0, 1)
            [status] = await target.sync_status(source)
            assert status.lag_events == 1
            late.commit()
            report = await target.sync(source)
            assert (report.events, report.waiting) == (2, 0)
            assert await brought(target) == [(1, "a", 1), (2, "late", 1), (3, "a", 2)]


@pytest.mark.slow
async def test_a_first_fill_ends_where_a_row_may_still_appear(pg: OwnTable, new_url: NewUrl) -> None:
    add = "INSERT INTO events(stream, type, data, at) VALUES ('a', 'T', '{}', 1)"
    with psycopg.connect(pg.url) as late:
        pg.run(add)
        late.execute(add)
        pg.run(add)
        async with opened(pg.url, mapping()) as source, open_store(new_url()) as target:
            assert (await target.sync(source)).events in (0, 1)
            late.commit()
            await target.sync(source)
            assert [position for position, *_ in await brought(target)] == [1, 2, 3]
            assert await are_equal(source, target)


async def test_one_that_follows_goes_on_after_its_connections_broke(pg: OwnTable, new_url: NewUrl) -> None:
    """Also where it was waiting for a transaction that is over by then."""
    add = "INSERT INTO events(stream, type, data, at) VALUES ('a', 'T', '{}', 1)"
    reached = asyncio.Event()

    def tell(report: SyncReport) -> None:
        if report.events == 3:
            reached.set()

    async with opened(pg.url, mapping()) as source, open_store(new_url()) as target:
        pg.run(add)
        following = asyncio.create_task(target.sync(source, follow=True, tell=tell))
        await asyncio.sleep(0.5)
        with psycopg.connect(pg.url) as late:
            late.execute(add)
            pg.run(add)
            await asyncio.sleep(0.3)
            cut = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'eventferry'"
            )
            for _ in range(5):
                pg.run(f"{cut} AND datname = current_database()")
                await asyncio.sleep(0.05)
            late.commit()
        async with asyncio.timeout(30):
            await reached.wait()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        assert [position for position, *_ in await brought(target)] == [1, 2, 3]


async def test_closing_the_source_ends_what_reads_it_and_leaves_no_connection(
    pg: OwnTable, new_url: NewUrl
) -> None:
    pg.run("INSERT INTO events(stream, type, data, at) VALUES ('a', 'T', '{}', 1)")
    async with open_store(new_url()) as target:
        for pause in (0.0, 0.02, 0.1, 0.5, 0.7):
            source = opened(pg.url, mapping())
            following = asyncio.create_task(target.sync(source, follow=True))
            await asyncio.sleep(pause)
            await source.close()
            with pytest.raises(StoreClosedError):
                await following
        async with opened(pg.url, mapping()) as source:
            await target.sync(source)
        left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'eventferry'"
        async with asyncio.timeout(10):
            while pg.run(f"{left} AND datname = current_database()") != [(0,)]:
                await asyncio.sleep(0.02)
        assert len(await brought(target)) == 1


@pytest.mark.parametrize("pause", [0.0, 0.003, 0.02, 0.1, 0.4])
async def test_one_that_is_cancelled_twice_leaves_nothing_behind(
    table: OwnTable, new_url: NewUrl, pause: float
) -> None:
    table.add(*range(1, 40))
    async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
        following = asyncio.create_task(target.sync(source, follow=True))
        await asyncio.sleep(pause)
        for _ in range(2):
            following.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(20):
                await following
        await target.sync(source)
        assert [position for position, *_ in await brought(target)] == table.positions()
        assert await are_equal(source, target)


TRANSACTIONS: dict[str, Any] = {
    "select": "SELECT id AS position, stream AS aggregate, type, data, at AS time, transaction FROM {events}",
    "position": Position(kind="transaction"),
}


async def synced(target: EventStore, source: ForeignSource, count: int) -> str | None:
    """Sync until so many events have come, and no more: the oldest transaction of the server may be another test's.
    What the last report says of exactness."""
    came = 0
    async with asyncio.timeout(60):
        while True:
            report = await target.sync(source)
            came += report.events
            if came >= count:
                assert came == count
                return report.exactness
            await asyncio.sleep(0.05)


async def test_rows_are_ordered_by_their_transactions_where_the_mapping_says_so(
    pg: OwnTable, new_url: NewUrl
) -> None:
    pg.run("ALTER TABLE events ADD COLUMN transaction xid8 NOT NULL DEFAULT pg_current_xact_id()")
    add = "INSERT INTO events(stream, type, data, at) VALUES ('a', 'T', '{}', 1)"
    async with opened(pg.url, mapping(**TRANSACTIONS)) as source, open_store(new_url()) as target:
        with psycopg.connect(pg.url) as one, psycopg.connect(pg.url) as other:
            one.execute("SELECT pg_current_xact_id()")
            other.execute(add)
            one.execute(add)
            one.commit()
            assert await synced(target, source, 1) == "exact"
            other.commit()
        await synced(target, source, 1)
        assert [position for position, *_ in await brought(target)] == [2, 1]
        assert await are_equal(source, target)


async def test_a_sync_that_has_brought_some_rows_waits_for_those_that_are_held_back(
    pg: OwnTable, new_url: NewUrl
) -> None:
    pg.run("ALTER TABLE events ADD COLUMN transaction xid8 NOT NULL DEFAULT pg_current_xact_id()")
    add = "INSERT INTO events(stream, type, data, at) VALUES ('a', 'T', '{}', 1)"
    pg.run(add)
    # Patient, for the oldest transaction of the server may be another test's.
    patient = open_source(pg.url, mapping(**TRANSACTIONS), settle=30)
    async with patient as source, open_store(new_url()) as target:
        await synced(target, source, 1)
        pg.run(add)
        with psycopg.connect(pg.url) as late:
            late.execute("SELECT pg_current_xact_id()")
            pg.run(add)
            syncing = asyncio.create_task(target.sync(source))
            await asyncio.sleep(0.5)
            late.execute(add)
            late.commit()
        report = await syncing
        assert (report.events, report.waiting) == (3, 0)
        assert [position for position, *_ in await brought(target)] == [1, 2, 4, 3]


async def test_transactions_of_another_server_are_refused(pg: OwnTable, new_url: NewUrl) -> None:
    """As a dump of another server brings them."""
    pg.run("ALTER TABLE events ADD COLUMN transaction xid8 NOT NULL DEFAULT '4611686018427387904'")
    pg.add(1)
    async with opened(pg.url, mapping(**TRANSACTIONS)) as source, open_store(new_url()) as target:
        with pytest.raises(UnsupportedStoreError, match="came here from another server"):
            await target.sync(source)


async def test_a_mapping_by_transactions_must_give_them(pg: OwnTable, new_url: NewUrl) -> None:
    lacking = mapping(position=Position(kind="transaction"))
    async with opened(pg.url, lacking) as source, open_store(new_url()) as target:
        with pytest.raises(MappingError, match="must give transaction"):
            await target.sync(source)


async def test_rows_that_are_no_events_are_left_out(table: OwnTable, new_url: NewUrl) -> None:
    table.add(*range(1, 9))
    select = """SELECT id AS position, stream AS aggregate, type, data, at AS time,
        CASE WHEN type = 'TYPE_1' THEN 'link' END AS kind FROM {events}"""
    async with opened(table.url, mapping(select=select)) as source, open_store(new_url()) as target:
        assert (await target.sync(source)).events == 4
        table.add(9, 10, 11)
        assert (await target.sync(source)).events == 1
        assert [position for position, *_ in await brought(target)] == [2, 4, 6, 8, 10]
        [status] = await target.sync_status(source)
        assert status.lag_events == 0
        assert await are_equal(source, target)


VERSIONED = "SELECT id AS position, stream AS aggregate, id AS version, type, data, at AS time FROM {events}"


async def test_versions_are_compared_with_the_sources_in_every_run(table: OwnTable, new_url: NewUrl) -> None:
    table.add(1, 2, stream="a")
    async with opened(table.url, mapping(select=VERSIONED)) as source, open_store(new_url()) as target:
        assert (await target.sync(source)).renumbered == 0
        table.add(3, stream="a")
        assert (await target.sync(source)).renumbered == 0
        table.add(5, 6, stream="a")
        assert (await target.sync(source)).renumbered == 2
        async with open_store(new_url()) as other:
            assert (await other.sync(source)).renumbered == 2
    async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
        assert (await target.sync(source)).renumbered == 5  # the source has none


async def test_rows_that_were_left_out_are_counted_once(table: OwnTable, new_url: NewUrl) -> None:
    kinds = "CASE type WHEN 'TYPE_1' THEN 'link' WHEN 'OLD' THEN 'archived' END AS kind"
    select = f"SELECT id AS position, stream AS aggregate, type, data, at AS time, {kinds} FROM {{events}}"
    told: list[SyncReport] = []
    table.add(*range(1, 10))
    async with (
        opened(table.url, mapping(select=select), skip=["archived"]) as source,
        open_store(new_url()) as target,
    ):
        assert (await target.sync(source)).skipped == {"link": 5}
        assert (await target.sync(source)).skipped == {}
        table.add(10, 11)
        table.run("UPDATE events SET type = 'OLD' WHERE id = 10")
        report = await target.sync(source, tell=told.append)
        assert (report.events, report.skipped) == (0, {"archived": 1, "link": 1})
        assert told[-1].skipped == report.skipped
        assert (await target.sync(source)).skipped == {}
        table.add(12, 13)
        assert (await target.preview_sync(source)).skipped == {"link": 1}
        report = await target.sync(source)
        assert (report.events, report.skipped) == (1, {"link": 1})
        following = asyncio.create_task(target.sync(source, follow=True, tell=told.append))
        table.add(15)
        async with asyncio.timeout(30):
            while told[-1].skipped != {"link": 1}:
                await asyncio.sleep(0.05)
        following.cancel()
        await asyncio.wait([following])
        assert (await target.sync(source)).skipped == {}


class TestMerging:
    async def test_events_come_behind_those_of_the_target(self, table: OwnTable, new_url: NewUrl) -> None:
        table.add(*range(1, 7))
        async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
            await target.init()
            await save(target, "own", 1)
            assert (await target.sync(source, mode="merge")).events == 6
            table.add(*range(7, 10))
            await save(target, "own", 2)
            assert (await target.sync(source)).events == 3
            events = [event for event in await all_pages(target, 100) if event.aggregate_id != "own"]
            assert [event.payload["meta"]["position"] for event in events] == list(range(1, 10))
            assert [event.aggregate_version for event in events if event.aggregate_id == "stream-1"] == [
                1,
                2,
                3,
            ]
            assert len({event.thread_id for event in events}) == 1

    async def test_an_aggregate_with_events_of_its_own_is_refused(
        self, table: OwnTable, new_url: NewUrl
    ) -> None:
        table.add(1, 2, 3)
        url = new_url()
        async with opened(table.url, mapping()) as source, open_store(url) as target:
            await target.init()
            assert (await target.sync(source, mode="merge")).events == 3
        async with opened(table.url, mapping()) as source, open_store(url) as target:
            table.add(4)
            assert (await target.sync(source)).events == 1
            await save(target, "stream-1", 3)
            table.add(5, stream="stream-1")
            with pytest.raises(AggregateConflictError):
                await target.sync(source)
            assert len(await all_pages(target, 100)) == 5
            assert (await target.sync(source, same_aggregate="renumber")).events == 1
            versions = [
                e.aggregate_version for e in await all_pages(target, 100) if e.aggregate_id == "stream-1"
            ]
            assert sorted(versions) == [1, 2, 3, 4]

    async def test_a_prefix_keeps_them_apart(self, table: OwnTable, new_url: NewUrl) -> None:
        table.add(1, 2, 3)
        async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
            await target.init()
            await save(target, "stream-1", 1)
            await target.sync(source, mode="merge", same_aggregate="prefix=old-")
            table.add(4)
            await target.sync(source)
            events = await all_pages(target, 100)
            assert [e.aggregate_version for e in events if e.aggregate_id == "old-stream-1"] == [1, 2]

    async def test_several_tables_of_one_database_go_into_one_store(
        self, lite: OwnTable, new_url: NewUrl
    ) -> None:
        lite.add(1, 2, 3)
        lite.run("CREATE TABLE others AS SELECT * FROM events")
        other = mapping(tables={"events": "others"})
        async with open_store(new_url()) as target:
            await target.init()
            async with opened(lite.url, mapping()) as source:
                await target.sync(source, mode="merge")
            async with opened(lite.url, other) as source:
                await target.sync(source, mode="merge", same_aggregate="prefix=other-")
            lite.add(4)
            lite.run("INSERT INTO others SELECT * FROM events WHERE id = 4")
            for each in (mapping(), other):
                async with opened(lite.url, each) as source:
                    assert (await target.sync(source)).events == 1
            assert len(await target.sync_status()) == 2


async def save(store: EventStore, aggregate: str, version: int) -> None:
    await store.save_event(
        {
            "type": "OWN",
            "timestamp": 1,
            "aggregateId": aggregate,
            "aggregateVersion": version,
            "payload": None,
        }
    )


class TestAnotherHistory:
    async def test_a_row_that_was_changed_is_noticed(self, table: OwnTable, new_url: NewUrl) -> None:
        table.add(1, 2, 3)
        async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
            await target.sync(source)
            before = await brought(target)
            table.run("UPDATE events SET type = 'OTHER' WHERE id = 2")
            table.add(4)
            with pytest.raises(StoreReplacedError, match="position 2 is another"):
                await target.sync(source)
            [status] = await target.sync_status(source)
            assert "StoreReplacedError" in (status.problem or "")
            assert await brought(target) == before

    async def test_a_backup_that_was_restored_is_noticed_also_when_it_has_grown(
        self, table: OwnTable, new_url: NewUrl
    ) -> None:
        table.add(1, 2, 3, 4, 5)
        async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
            await target.sync(source)
            table.run("DELETE FROM events WHERE id > 1")
            with pytest.raises(StoreReplacedError, match="gone"):
                await target.sync(source)
            table.add(2, stream="another")
            with pytest.raises(StoreReplacedError, match="gone"):
                await target.sync(source)
            table.add(3, 4, 5, 6, stream="another")
            with pytest.raises(StoreReplacedError, match="another than was read"):
                await target.sync(source)
            table.run("DELETE FROM events WHERE id > 3")
            table.run("UPDATE events SET stream = 'stream-0' WHERE id = 3")
            with pytest.raises(StoreReplacedError, match="ends before position 5"):
                await target.sync(source)
            assert len(await brought(target)) == 5

    async def test_rows_may_be_deleted_as_long_as_one_of_the_last_is_there(
        self, table: OwnTable, new_url: NewUrl
    ) -> None:
        table.add(1, 2, 3, 4, 5)
        async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
            await target.sync(source)
            table.run("DELETE FROM events WHERE id IN (1, 2, 3, 4)")
            table.add(6)
            assert (await target.sync(source)).events == 1

    async def test_one_that_follows_notices_it_too(self, lite: OwnTable, new_url: NewUrl) -> None:
        lite.add(1, 2, 3)
        async with opened(lite.url, mapping()) as source, open_store(new_url()) as target:
            following = asyncio.create_task(target.sync(source, follow=True))
            await asyncio.sleep(0.3)
            lite.run("DELETE FROM events")
            with pytest.raises(StoreReplacedError):
                async with asyncio.timeout(10):
                    await following

    async def test_another_mapping_is_refused(self, lite: OwnTable, new_url: NewUrl) -> None:
        lite.add(1, 2, 3)
        async with open_store(new_url()) as target:
            async with opened(lite.url, mapping()) as source:
                await target.sync(source)
            other = msgspec.structs.replace(
                mapping(),
                select="SELECT id AS position, 'all' AS aggregate, type, data, at AS time FROM {events}",
            )
            for changed in (opened(lite.url, other), opened(lite.url, mapping(), payload="data")):
                async with changed as source:
                    with pytest.raises(UsageError, match="gives other events of a row"):
                        await target.sync(source)
            assert len(await brought(target)) == 3


class TestRefusals:
    async def test_positions_that_tell_nothing_cannot_be_synced(
        self, lite: OwnTable, new_url: NewUrl
    ) -> None:
        unordered = mapping(position=Position(kind="none"))
        async with opened(lite.url, unordered) as source, open_store(new_url()) as target:
            with pytest.raises(MappingError, match="not followed or synced"):
                await target.sync(source)

    async def test_a_cutover_is_refused(self, lite: OwnTable, new_url: NewUrl) -> None:
        async with opened(lite.url, mapping()) as source, open_store(new_url()) as target:
            with pytest.raises(UsageError, match="cannot be frozen"):
                await cutover(source, target)  # type: ignore[arg-type]

    async def test_a_replica_that_somebody_wrote_to_is_refused(self, lite: OwnTable, new_url: NewUrl) -> None:
        lite.add(1, 2, 3)
        async with opened(lite.url, mapping()) as source, open_store(new_url()) as target:
            await target.sync(source)
            await save(target, "own", 1)
            lite.add(4)
            with pytest.raises(TargetChangedError):
                await target.sync(source)

    @pytest.mark.parametrize("following", [False, True])
    async def test_a_row_that_is_no_event_is_named(
        self, lite: OwnTable, new_url: NewUrl, following: bool
    ) -> None:
        lite.add(1, 2, 3)
        async with opened(lite.url, mapping()) as source, open_store(new_url()) as target:
            if following:
                await target.sync(source)
            lite.add(4, 5)
            lite.run("UPDATE events SET data = '{' WHERE id = 4")
            with pytest.raises(SourceRowError, match="own, position 4, column data"):
                await target.sync(source)
            assert len(await brought(target)) == (3 if following else 0)

    async def test_two_rows_at_one_position_are_refused(self, lite: OwnTable, new_url: NewUrl) -> None:
        lite.add(1, 2, 3)
        twice = """SELECT id AS position, stream AS aggregate, type, data, at AS time
            FROM {events} JOIN (SELECT 1 AS n UNION SELECT 2) AS twice"""
        async with opened(lite.url, mapping(select=twice)) as source, open_store(new_url()) as target:
            with pytest.raises(SourceRowError, match="two rows have this position"):
                await target.sync(source)

    async def test_an_event_that_the_target_cannot_hold_is_named(
        self, lite: OwnTable, new_url: NewUrl
    ) -> None:
        lite.add(1)
        async with opened(lite.url, mapping()) as source, open_store(new_url()) as target:
            await target.sync(source)
            lite.add(2, stream="x" * 701)
            with pytest.raises(Exception, match="position 2"):
                await target.sync(source)

    @pytest.mark.parametrize("settle", [-1, float("nan"), True, "10"])
    def test_a_settle_time_is_seconds(self, lite: OwnTable, settle: Any) -> None:
        with pytest.raises(UsageError, match="settle is a number of seconds"):
            open_source(lite.url, mapping(), settle=settle)


class TestChanges:
    async def test_what_is_new_comes_over_changed(self, table: OwnTable, new_url: NewUrl) -> None:
        changes = Changes(event_types=["TYPE_1"], function=twice)
        table.add(*range(1, 21))
        async with opened(table.url, mapping()) as source, open_store(new_url()) as target:
            assert (await target.sync(source, changes=changes)).events == 20
            table.add(22, 24)
            report = await target.sync(source, changes=changes)
            assert (report.read, report.events) == (2, 0)
            table.add(25, 26)
            report = await target.sync(source, changes=changes)
            assert (report.read, report.events) == (2, 2)
            compared = await verify(source.export_events(), target.export_events(), changes=changes)
            assert (compared.equal, compared.events) == (True, 22)

    async def test_they_are_merged_behind_events_of_the_targets_own(
        self, lite: OwnTable, new_url: NewUrl
    ) -> None:
        changes = Changes(function=twice)
        lite.add(1, 2, 3)
        async with opened(lite.url, mapping()) as source, open_store(new_url()) as target:
            await target.init()
            await save(target, "stream-1", 1)
            for position in (4, 7):
                lite.add(position)
                await target.sync(source, mode="merge", same_aggregate="renumber", changes=changes)
            events = await all_pages(target, 100)
            versions = [event.aggregate_version for event in events if event.aggregate_id == "stream-1"]
            assert sorted(versions) == [1, 2, 3, 4, 5, 6, 7]

    @pytest.mark.parametrize("following", [False, True])
    async def test_an_event_that_becomes_none_is_told_by_its_row(
        self, lite: OwnTable, new_url: NewUrl, following: bool
    ) -> None:
        changes = Changes(function=too_long)
        lite.add(1)
        async with opened(lite.url, mapping()) as source, open_store(new_url()) as target:
            if following:
                await target.sync(source, changes=changes)
            lite.add(3, 7, 8)
            with pytest.raises(InputError, match="position 8"):
                await target.sync(source, changes=changes)
            assert len(await brought(target)) == following


def twice(event: Event) -> list[Event]:
    return [event, event]


def too_long(event: Event) -> Event:
    if event.aggregate_id != "stream-2":
        return event
    return msgspec.structs.replace(event, type="x" * 701)


class TestBookmarks:
    @pytest.mark.parametrize("text", ["ef1.AAAA", "es1.AAAA", "es1.!", "es1.", "x"])
    def test_a_text_that_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="bookmark"):
            SourceBookmark.parse(text)

    def test_it_is_read_as_it_was_written(self) -> None:
        from eventferry.sources.positions import RowPlace, Witness

        bookmark = SourceBookmark(b"12345678")
        assert SourceBookmark.parse(str(bookmark)) == bookmark
        for position in (-(2**63), 5, 2**63 - 1, 6):
            place = RowPlace(position and 7, position)
            bookmark = bookmark.moved(place, [Witness.of(place, b"line")])
            assert SourceBookmark.parse(str(bookmark)) == bookmark
        assert len(bookmark.witnesses) == 3
        assert len(str(bookmark)) < 200

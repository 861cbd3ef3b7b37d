"""No statement walks over all events."""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    MANUAL,
    EventStore,
    ImportReport,
    open_store,
)
from eventferry.databases.sqlite import library
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    all_pages,
    back_and_forth,
    events_of,
    exported,
    import_lines,
    make_event,
    make_lines,
    one_aggregate,
    pages_beside_a_writer,
    refused,
)
from tests.support.sqlite import (
    SAVED,
    at,
    connect,
    make_resolve_store,
    make_store,
    url_of,
)


class Explaining(library._Python):
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
    monkeypatch.setattr(library, "_Python", Explaining)
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
                {"type": "T", "aggregateId": "aggregate-1", "aggregateVersion": 1000}, allow_gaps=True
            ),
            "a save that would leave a gap": lambda: refused(
                store.save_event({"type": "T", "aggregateId": "aggregate-1", "aggregateVersion": 2000})
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


async def test_one_thread_is_read_by_its_counters_whatever_its_timestamps(
    tmp_path: Path, plans: list[tuple[str, str]]
) -> None:
    async with open_store(url_of(tmp_path / "a.db")) as store:
        await store.init()
        await import_lines(store, back_and_forth(2000))
        plans.clear()
        await all_pages(store, 200)
        await exported(store)
    stretches = [
        (sql, detail) for sql, detail in plans if "LIMIT :walk" in sql and '"events"' in detail + sql
    ]
    by_counter = [detail for sql, detail in stretches if "ORDER BY threadCounter" in sql]
    assert any("threadId=? AND threadCounter>?" in detail for detail in by_counter)
    assert not any("TEMP B-TREE" in detail for detail in by_counter)
    assert scans(plans) == []
    # Only the first page was read in order of timestamps; one merge was begun, and found a single thread.
    assert len({sql for sql, _ in stretches if "ORDER BY timestamp" in sql}) == 1
    assert sum("LIMIT :count" in sql for sql, _ in plans) <= 256


class Counting(library._Python):
    """Counts what SQLite does, in hundreds of its instructions."""

    count = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.set_progress_handler(self._count, 100)

    def _count(self) -> None:
        Counting.count += 1


@pytest.mark.slow
async def test_what_pages_of_one_aggregate_cost_beside_a_writer_does_not_grow_with_its_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Counting))
    monkeypatch.setattr(library, "_Python", Counting)
    costs = []
    async with open_store(url_of(tmp_path / "a.db")) as store:
        await store.init()
        for count in (2_000, 8_000):
            await import_lines(store, one_aggregate(count))
            before = Counting.count
            assert len(await pages_beside_a_writer(store, "one", 50)) == count
            costs.append(Counting.count - before)
    assert costs[1] < 8 * costs[0], costs

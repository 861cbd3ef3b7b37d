"""No statement walks over all events: what it reads of them is what it needs, as the server itself counts it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventferry import AUTO, MANUAL, EventStore, ImportReport, open_store
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
from tests.support.postgresql import SAVED, Own, at, make_resolve_store, make_store, rows

COUNT = 50_000
PAGE = 4096
"""The most that a page reads, and that a filter walks over in one statement."""

_PLAN = re.compile(r"duration: [^\n]*plan:\n((?:\t[^\n]*\n)+)")


class Plans:
    """The plans that the server writes into its log, with what they read."""

    def __init__(self, own: Own) -> None:
        self._log = own.server.folder / "log"
        self._seen = 0

    def new(self) -> list[dict[str, Any]]:
        """Those since the last call."""
        with self._log.open() as log:
            log.seek(self._seen)
            text = log.read()
            self._seen = log.tell()
        return [json.loads(found) for found in _PLAN.findall(text)]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def read(plan: dict[str, Any]) -> int:
    """How many events a statement looks at, those that it then leaves out with them."""
    count = 0
    for node in nodes(plan["Plan"]):
        if node.get("Relation Name") == "events" and "Scan" in node["Node Type"]:
            left_out = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            count += round((node["Actual Rows"] + left_out) * node["Actual Loops"])
    return count


def scans(plans: list[dict[str, Any]]) -> list[str]:
    """Where a plan walks over all events."""
    return [
        json.dumps(plan, indent=1)
        for plan in plans
        if any(
            node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "events"
            for node in nodes(plan["Plan"])
        )
    ]


@pytest.fixture(scope="module")
def explaining(server: Own) -> Own:
    """A server that explains every statement in its log."""
    rows(
        server.new_url(),
        """ALTER DATABASE postgres SET session_preload_libraries = 'auto_explain';
        ALTER DATABASE postgres SET auto_explain.log_min_duration = 0;
        ALTER DATABASE postgres SET auto_explain.log_analyze = on;
        ALTER DATABASE postgres SET auto_explain.log_timing = off;
        ALTER DATABASE postgres SET auto_explain.log_nested_statements = on;
        ALTER DATABASE postgres SET auto_explain.log_format = 'json'""",
    )
    return server


async def import_in_steps(store: EventStore) -> None:
    import_id = await store.begin_incremental_import()
    await store.push_incremental_import([at(FAR_FUTURE, 1, "aggregate-1"), at(FAR_FUTURE + 1, 2)], import_id)
    assert await store.commit_incremental_import(import_id) == ImportReport(1, 1, 0)


async def test_what_counts_as_a_scan_is_seen_as_one(explaining: Own) -> None:
    url = explaining.new_url()
    plans = Plans(explaining)
    await make_store(url, 500)
    plans.new()
    rows(url, 'SELECT max("payload"::text) FROM "events" AS e')
    rows(url, """SET enable_seqscan = off; SELECT "type" FROM "events" WHERE "payload" = '1'""")
    found = plans.new()
    assert [read(plan) for plan in found] == [500, 500]
    assert len(scans(found)) >= 1


@pytest.mark.parametrize("made_by", ["init", "import", "resolve, upgraded"])
@pytest.mark.slow
async def test_no_page_save_or_incremental_import_walks_over_all_events(
    explaining: Own, made_by: str
) -> None:
    url = explaining.new_url()
    plans = Plans(explaining)
    if made_by == "resolve, upgraded":
        make_resolve_store(url, COUNT)
    else:
        await make_store(url)
    async with open_store(url) as store:
        if made_by == "resolve, upgraded":
            assert await store.upgrade() == ["events-order"]
            assert await store.upgrade() == []
        else:
            await import_lines(
                store, make_lines(COUNT), maintenance_mode=MANUAL if made_by == "init" else AUTO
            )
            rows(url, 'ANALYZE "events"')  # as autovacuum does before long
        halfway = store.get_next_cursor(None, events_of(make_lines(COUNT // 2)))
        batch = [
            *(
                {key: make_event(i)[key] for key in ("type", "timestamp", "aggregateId", "payload")}
                for i in range(9)
            ),
            at(FAR_FUTURE, 1, "aggregate-1"),
        ]
        steps: dict[str, tuple[Callable[[], Any], int]] = {
            "the first page": (lambda: store.load_events(limit=10, cursor=None), 600),
            "a later page": (lambda: store.load_events(limit=10, cursor=halfway), 600),
            "a page of a type": (
                lambda: store.load_events(limit=10, cursor=halfway, event_types=["TYPE_1"]),
                PAGE + 600,
            ),
            "a page of an aggregate": (
                lambda: store.load_events(limit=10, cursor=halfway, aggregate_ids=["aggregate-3"]),
                COUNT // 10 + 600,
            ),
            "a page by time": (
                lambda: store.load_events(limit=10, start_time=LONG_AGO + 500, finish_time=LONG_AGO + 600),
                300,
            ),
            "the latest event": (lambda: store.get_latest_event(), 10),
            "all pages": (lambda: all_pages(store, PAGE), 2 * PAGE),
            "an export": (lambda: exported(store, cursor=halfway), 2 * PAGE),
            "a save": (lambda: store.save_event(SAVED), 600),
            "a save behind others": (
                lambda: store.save_event(
                    {"type": "T", "aggregateId": "aggregate-1", "aggregateVersion": COUNT}, allow_gaps=True
                ),
                600,
            ),
            "a save that would leave a gap": (
                lambda: refused(
                    store.save_event(
                        {"type": "T", "aggregateId": "aggregate-1", "aggregateVersion": 2 * COUNT}
                    )
                ),
                600,
            ),
            "a save in the future": (
                lambda: store.save_event(
                    {"type": "T", "aggregateId": "f", "aggregateVersion": 1, "timestamp": FAR_FUTURE - 9}
                ),
                600,
            ),
            "another behind it": (
                lambda: store.save_event({"type": "T", "aggregateId": "f", "aggregateVersion": 2}),
                600,
            ),
            "an incremental import": (lambda: store.incremental_import(batch), 600),
            "one in steps": (lambda: import_in_steps(store), 600),
            "a later page where a thread falls": (
                lambda: store.load_events(limit=500, cursor=halfway),
                20_000,
            ),
        }
        plans.new()
        for name, (step, most) in steps.items():
            await step()
            await store.exists()  # a transaction that reads ends behind its call
            found = plans.new()
            assert found, name
            assert scans(found) == [], name
            worst = max(found, key=read)
            assert read(worst) <= most, f"{name}: {json.dumps(worst, indent=1)}"


@pytest.mark.slow
async def test_one_thread_is_read_by_its_counters_whatever_its_timestamps(explaining: Own) -> None:
    url, count = explaining.new_url(), 5_000
    plans = Plans(explaining)
    await make_store(url)
    async with open_store(url) as store:
        await import_lines(store, back_and_forth(count))
        rows(url, 'ANALYZE "events"')
        plans.new()
        await exported(store)
        found = plans.new()
        assert sum(map(read, found)) < 1.2 * count
        assert scans(found) == []
        await all_pages(store, 500)
        # The first page is read twice, and a merge is begun once.
        assert sum(map(read, plans.new())) < 1.5 * count


@pytest.mark.slow
async def test_what_pages_of_one_aggregate_read_beside_a_writer_does_not_grow_with_its_square(
    explaining: Own,
) -> None:
    url = explaining.new_url()
    plans = Plans(explaining)
    await make_store(url)
    reads = []
    async with open_store(url) as store:
        for count in (2_000, 8_000):
            await import_lines(store, one_aggregate(count))
            rows(url, 'ANALYZE "events"')
            plans.new()
            assert len(await pages_beside_a_writer(store, "one", 50)) == count
            reads.append(sum(map(read, plans.new())))
    assert reads[1] < 8 * reads[0], reads

"""The flights of one airline go to another store, with tail numbers that nobody can look up: nothing else is lost."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from eventferry import Changes, Event, open_store, pipeline, verify
from eventferry.demo import flights
from tests.demo.test_flights import make_archive, row
from tests.support import exported

RULES = """
    pseudonyms = {key_file = "key"}
    [[rule]]
    type = "FLIGHT_DEPARTED"
    rename = "TAKEN_OFF"
    [[rule]]
    aggregate_prefix = "aircraft-"
    pseudonym_aggregate = true
"""


def of_united(event: Event) -> Event | None:
    return event if event.payload["carrier"] == "UA" else None


async def test_flights_of_one_airline_go_over_with_pseudonyms_and_versions_without_gap(
    tmp_path: Path,
) -> None:
    (tmp_path / "key").write_text("0123456789abcdef")
    (tmp_path / "rules.toml").write_text(RULES)
    rows = [
        row(f"{1 + i // 28}-{1 + i % 28}", "500", carrier="UA" if i % 3 else "AA", tailnum=f"N{i % 5}")
        for i in range(90)
    ]
    lines = b"".join(flights.lines(make_archive(tmp_path, rows)))
    came = [json.loads(text) for text in lines.splitlines()]
    changes = Changes(rules=tmp_path / "rules.toml", function=of_united)
    async with open_store(str(tmp_path / "a.db")) as source, open_store(str(tmp_path / "b.db")) as target:
        await source.init()
        await target.init()
        await source.incremental_import(came)
        await pipeline(source.export_events(), changes, target.import_events())
        made = [json.loads(text) for text in (await exported(target)).splitlines()]
        proven = await verify(source.export_events(), target.export_events(), changes=changes)
    assert proven.equal
    kept = [event for event in came if event["payload"]["carrier"] == "UA"]
    assert [event["payload"] for event in made] == [event["payload"] for event in kept]
    assert [event["type"] for event in made] == [
        event["type"].replace("FLIGHT_DEPARTED", "TAKEN_OFF") for event in kept
    ]
    assert [event["threadCounter"] for event in made] == list(range(len(kept)))
    names = {event["aggregateId"]: other["aggregateId"] for event, other in zip(kept, made, strict=True)}
    assert [names[event["aggregateId"]] for event in kept] == [event["aggregateId"] for event in made]
    assert all(re.fullmatch("aircraft-[0-9a-f]{32}", name) for name in names.values())
    seen: Counter[str] = Counter()
    for event in made:
        seen[event["aggregateId"]] += 1
        assert event["aggregateVersion"] == seen[event["aggregateId"]]
    report = changes.report
    assert (report.read, report.dropped, report.written) == (len(came), len(came) - len(kept), len(kept))
    assert report.types_after == Counter(event["type"] for event in made)

"""A copy of the demo's flights that is changed: a type renamed, tail numbers as pseudonyms, one airline only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventferry import Changes, Event, check, open_store, pipeline, verify
from eventferry.demo import flights
from tests.demo.test_flights import make_archive, row
from tests.support import all_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = """
[pseudonyms]
key_file = "tails.key"

[[rule]]
type = "FLIGHT_DEPARTED"
rename = "DEPARTED"

[[rule]]
aggregate_prefix = "aircraft-"
pseudonym_aggregate = true
"""


def of_united(event: Event) -> Event | None:
    return event if event.payload["carrier"] == "UA" else None


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """How the flights are changed."""
    (tmp_path / "tails.key").write_text("a key of at least sixteen bytes")
    (tmp_path / "rules.toml").write_text(RULES)
    return {"rules": tmp_path / "rules.toml", "function": of_united}


def rows() -> Iterator[str]:
    """Flights of three airlines on one day, every seventh cancelled; ten aircraft."""
    for number in range(300):
        fields = {"carrier": ("UA", "EV", "MQ")[number % 3], "tailnum": f"N{number % 10}{number % 3}"}
        if number % 7 == 0:
            fields |= {
                "dep_time": "NA",
                "dep_delay": "NA",
                "arr_time": "NA",
                "arr_delay": "NA",
                "air_time": "NA",
            }
        yield row("3-1", f"{500 + number % 60}", **fields)


async def test_a_changed_copy_of_the_flights_is_without_a_gap_and_its_counts_are_proven(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    archive = make_archive(tmp_path, list(rows()))
    changes = Changes(**options)
    async with open_store(f"{tmp_path}/a.db") as a, open_store(f"{tmp_path}/b.db") as b:
        await a.init()
        await b.init()
        await a.incremental_import(_blocks(archive), older="accept")
        await pipeline(a.export_events(), changes, b.import_events())
        before, after = await all_pages(a, 1000), await all_pages(b, 1000)
        whole = await verify(a.export_events(), b.export_events(), changes=Changes(**options))
        sound = await check(b)
        other = await verify(a.export_events(), b.export_events(), changes=Changes(function=of_united))
    united = [event for event in before if of_united(event)]
    report = changes.report

    # what is left is one airline's, in its order
    assert [event.payload for event in after] == [event.payload for event in united]
    tails = {old.aggregate_id: new.aggregate_id for old, new in zip(united, after, strict=True)}
    assert len(set(tails.values())) == len(tails) == 10
    assert all(new.startswith("aircraft-") and new[9:] not in old for old, new in tails.items())

    # positions and versions are dense
    assert [event.thread_counter for event in after] == list(range(len(after)))
    assert (sound.sound, sound.missing_counters, sound.missing_versions) == (True, 0, 0)

    # counts
    assert (report.read, report.dropped, report.written) == (
        len(before),
        len(before) - len(after),
        len(after),
    )
    assert report.types_before == Counter(event.type for event in before)
    assert report.types_after == Counter(event.type for event in after)
    assert report.types_after["DEPARTED"] == sum(event.type == "FLIGHT_DEPARTED" for event in united)

    # and by running the rules again
    assert whole.equal
    assert not other.equal


async def _blocks(archive: Path) -> Any:
    for block in flights.lines(archive):
        yield block

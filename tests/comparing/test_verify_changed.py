"""Verify of a copy that was changed on its way: the changes are made again, and their events compared."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import Changes, Event, open_source, open_store, pipeline, verify
from eventferry.comparing.abreast import Abreast
from tests.support import examples, import_lines, line, make_event, make_lines, open_new
from tests.support.foreign.own import mapping, own_table
from tests.support.places import DATABASES, Places

MEGABYTE = 1024 * 1024


def changed(event: Event) -> Iterable[Event]:
    """One type is dropped, one becomes two, and the third gets a payload that databases spell in different ways."""
    if event.type == "TYPE_0":
        return []
    if event.type == "TYPE_1":
        return [event, event]
    payload = {"z": 1.50, "a": [event.payload, None, "é"], "": {}}
    return [Event(type="T", timestamp=event.timestamp, aggregate_id="one", payload=payload)]


async def copied(source: Any, target: Any, changes: Changes) -> None:
    await pipeline(source.export_events(), changes, target.import_events(replace=True, allow_empty=True))


@pytest.mark.parametrize(("one", "two"), list(zip(DATABASES, (*DATABASES[1:], DATABASES[0]), strict=True)))
async def test_a_changed_copy_is_equal_to_what_the_changes_make_of_its_source(
    tmp_path: Path, one: str, two: str
) -> None:
    changes = Changes(function=changed)
    with Places(one, tmp_path) as here, Places(two, tmp_path) as there:
        async with open_new(here.new_url) as source, open_new(there.new_url) as target:
            await import_lines(source, make_lines(300))
            await copied(source, target, changes)
            for content in (False, True):
                report = await verify(
                    source.export_events(), target.export_events(), changes=changes, content=content
                )
                assert (report.equal, report.events, report.other_events) == (True, 300, 300)
            report = await verify(source.export_events(), target.export_events())
            assert not report.equal


LOST, CHANGED, MORE = "lost", "changed", "more"


@pytest.mark.parametrize(
    ("fault", "expected"), [(LOST, (1, 0, 0)), (CHANGED, (0, 0, 1)), (MORE, (0, 1, 0)), (None, (0, 0, 0))]
)
async def test_each_event_that_is_not_as_the_changes_make_it_is_named(
    fault: str | None, expected: tuple[int, int, int]
) -> None:
    source = [make_event(i) for i in range(90)]
    changes = Changes(event_types=["TYPE_1"])
    made = [
        make_event(i, threadId=0, threadCounter=k, aggregateVersion=k // 10 + 1)
        for k, i in enumerate(range(1, 90, 3))
    ]
    if fault == LOST:
        del made[-1]
    elif fault == CHANGED:
        made[7]["payload"] = {"number": -1}
    elif fault == MORE:
        made.append(make_event(91, threadId=0, threadCounter=30, aggregateVersion=4))
    report = await verify(blocks(source), blocks(made), changes=changes)
    assert (report.missing, report.extra, report.changed) == expected
    if fault == CHANGED:
        [difference] = report.differences
        assert (difference.thread_counter, difference.fields) == (7, ("payload",))


async def test_other_changes_than_those_of_the_copy_are_found_out(tmp_path: Path) -> None:
    with Places("sqlite", tmp_path) as places:
        async with open_new(places.new_url) as source, open_new(places.new_url) as target:
            await import_lines(source, make_lines(90))
            await copied(source, target, Changes(event_types=["TYPE_1"]))
            other = Changes(event_types=["TYPE_2"])
            report = await verify(source.export_events(), target.export_events(), changes=other)
            assert (report.equal, report.changed) == (False, 30)


async def test_a_file_is_verified_against_a_store(tmp_path: Path) -> None:
    changes = Changes(function=changed)
    file, other = tmp_path / "source.jsonl", tmp_path / "copy.jsonl"
    file.write_bytes(make_lines(60))
    await pipeline(file, changes, other)
    assert (await verify(file, other, changes=changes)).equal
    with Places("sqlite", tmp_path) as places:
        async with open_new(places.new_url) as target:
            await pipeline(file, changes, target.import_events())
            assert (await verify(file, target.export_events(), changes=changes)).equal


async def test_another_products_table_is_verified_through_its_mapping(tmp_path: Path) -> None:
    changes = Changes(event_types=["TYPE_1"])
    with own_table("sqlite", tmp_path) as table, Places("sqlite", tmp_path) as places:
        table.add(*range(1, 41))
        async with open_source(table.url, mapping()) as source, open_store(places.new_url()) as target:
            assert (await target.sync(source, changes=changes)).events == 20
            table.add(*range(41, 61))
            assert (await target.sync(source, changes=changes)).events == 10
            report = await verify(source.export_events(), target.export_events(), changes=changes)
            assert (report.equal, report.events) == (True, 30)


async def test_what_came_after_the_bookmark_of_a_sync_is_no_difference(tmp_path: Path) -> None:
    changes = Changes(event_types=["TYPE_1", "SAVED"])
    with Places("sqlite", tmp_path) as places:
        async with open_new(places.new_url) as source, open_store(places.new_url()) as target:
            await import_lines(source, make_lines(90))
            bookmark = (await target.sync(source, changes=changes)).bookmark
            for version in range(1, 6):
                await source.save_event({"type": "SAVED", "aggregateId": "a", "aggregateVersion": version})
                await target.sync(source, changes=changes)
            report = await verify(
                source.export_events(until=bookmark),
                target.export_events(),
                changes=changes,
                other_grows=True,
            )
            assert (report.equal, report.events, report.other_events) == (True, 30, 30)
            report = await verify(
                source.export_events(until=bookmark), target.export_events(), changes=changes
            )
            assert (report.equal, report.extra) == (False, 5)


async def blocks(events: Iterable[dict[str, Any]]) -> AsyncIterator[bytes]:
    for event in events:
        yield line(event)


async def cut(text: bytes, places: Iterable[int]) -> AsyncIterator[bytes]:
    at = 0
    for place in (*sorted(places), len(text)):
        yield text[at:place]
        at = place


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_two_sources_abreast_end_together_however_they_are_cut_and_read(data: st.DataObject) -> None:
    texts = [b"".join(b"%d\n" % i for i in range(data.draw(st.integers(0, 20)))) for _ in range(2)]
    is_whole = data.draw(st.booleans())
    first, second = (text if is_whole else text[:-1] for text in texts)
    places = st.lists(st.integers(0, 60), max_size=8)
    turns = data.draw(st.lists(st.booleans(), max_size=30))

    async def read() -> tuple[bytes, bytes, int]:
        pair = Abreast(cut(first, data.draw(places)), cut(second, data.draw(places)))
        one, two = pair.first(), pair.second()
        found = [b"", b""]
        most = 0
        for turn in [*turns, *[False] * 60, *[True] * 60]:
            found[turn] += await anext(two if turn else one, b"")
            most = max(most, len(pair._waiting))
        return found[0], found[1], most

    one, two, most = asyncio.run(read())
    assert one.splitlines() == first.splitlines()
    assert two.splitlines() == second.splitlines()[: len(first.splitlines())]
    assert most <= 21


SCRIPT = """
import asyncio
from pathlib import Path
from eventferry import Changes, verify

async def many(step):
    text = b"x" * 180
    counter = 0
    for i in range(0, 300_000, step):
        yield (b'{"threadCounter":%d,"threadId":0,"type":"T%d","timestamp":%d,"aggregateId":"a-%d",'
            b'"aggregateVersion":1,"payload":{"number":%d,"text":"%s"}}\\n'
            % (counter, i % 3, 1600000000000 + i, i, i, text))
        counter += 1

report = asyncio.run(verify(many(1), many(3), changes=Changes(event_types=["T0"]), other_grows=True))
assert report.equal and report.events == 100_000, report
status = Path("/proc/self/status").read_text()
print(next(int(text.split()[1]) for text in status.splitlines() if text.startswith("VmHWM")) * 1024)
"""


@pytest.mark.slow
@pytest.mark.scale
def test_a_hundred_thousand_changed_events_of_as_many_aggregates_stay_under_120_megabytes() -> None:
    child = subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, check=True)
    print(f"{int(child.stdout) / MEGABYTE:.0f} MB")
    assert int(child.stdout) < 120 * MEGABYTE

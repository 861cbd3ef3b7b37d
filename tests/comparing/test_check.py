"""Check, and `verify` with one source: is it sound, all by itself?"""

from __future__ import annotations

import importlib
import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from eventferry import check
from tests.support import line, make_event, make_lines
from tests.support.cli import Ferry, new_ferry

ferry = pytest.fixture(new_ferry)
EVENTS = [make_event(i) for i in range(1000)]


async def blocks(events: Iterable[dict[str, Any] | bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event if isinstance(event, bytes) else line(event)


async def test_an_export_of_a_whole_store_is_sound() -> None:
    report = await check(blocks(EVENTS))
    assert (report.sound, report.events, report.threads, report.aggregates) == (True, 1000, 256, 10)
    assert report.remarks == []


async def test_what_foreign_stores_may_have_is_told_and_sound() -> None:
    events = [
        make_event(0, threadId=0, threadCounter=2, timestamp=50, aggregateId="a", aggregateVersion=4),
        make_event(0, threadId=0, threadCounter=3, timestamp=40, aggregateId="a", aggregateVersion=5),
        make_event(0, threadId=0, threadCounter=5, timestamp=60, aggregateId="b", aggregateVersion=1),
    ]
    report = await check(blocks(events))
    assert report.sound
    assert (report.missing_counters, report.missing_versions, report.backward_timestamps) == (3, 3, 1)
    assert [remark.text for remark in report.remarks] == [
        "thread 0 lacks 0 to 1",
        "thread 0 counter 3: 40 follows 50",
        "thread 0 lacks 4",
        "aggregate 'a' lacks 1 to 3",
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda events: [*events, events[5]], "duplicate_positions"),
        (
            lambda events: [*events, make_event(1000, aggregateId="aggregate-1", aggregateVersion=1)],
            "duplicate_versions",
        ),
        (lambda events: [*events[:9], b'{"threadCounter":1,\n', *events[9:]], "malformed"),
        (lambda events: [*events[:9], line(make_event(9, aggregateVersion=0)), *events[10:]], "malformed"),
    ],
    ids=["a position twice", "a version twice", "half a line", "a version that is none"],
)
async def test_what_no_store_may_have_is_unsound(change: Any, field: str) -> None:
    report = await check(blocks(change(EVENTS)))
    assert not report.sound
    assert getattr(report, field) == 1


async def test_versions_that_wait_in_files_are_looked_at_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("eventferry.comparing.checking"), "VERSIONS_IN_MEMORY", 7)
    chance = random.Random(1)
    versions = [(f"aggregate-{i % 90}", i // 90 + 1) for i in range(2000)]
    chance.shuffle(versions)
    versions.remove(("aggregate-8", 5))
    versions.append(("aggregate-9", 5))
    events = [
        make_event(i, aggregateId=name, aggregateVersion=version)
        for i, (name, version) in enumerate(versions)
    ]
    report = await check(blocks(events))
    assert (report.aggregates, report.duplicate_versions, report.missing_versions) == (90, 1, 1)


def test_the_command_says_what_it_found_and_its_status_whether_that_is_sound(ferry: Ferry) -> None:
    store = ferry.store("a.db", 300)
    assert ferry.done("verify", store).err == "sound: 300 events of 10 aggregates in 256 threads\n"
    twice = ferry.file("twice.jsonl", make_lines(300) + line(make_event(7)))
    outcome = ferry("verify", twice)
    assert outcome.status == 1
    assert "duplicate position: thread 7 counter 0" in outcome.out
    assert "unsound" in outcome.err
    told = ferry("verify", twice, "--json")
    assert (told.status, told.json["duplicatePositions"], told.json["sound"]) == (1, 1, False)
    assert "two" in ferry.refused("verify", store, "--content", status=2)

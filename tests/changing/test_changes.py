"""What a change on the way makes of lines: which stay, what they become, how they are numbered, what is reported."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from eventferry import ChangeError, ChangeReport, Changes, InputError, RulesError
from eventferry.changing.rules import Rule, Rules
from tests.support import LONG_AGO, line, make_event, make_lines


async def one_by_one(blocks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


async def changed(changes: Changes, *blocks: bytes) -> bytes:
    """The lines that come out."""
    return b"".join([block async for block in changes(one_by_one(blocks))])


def by_rules(*rules: Rule, **others: Any) -> Changes:
    return Changes(rules=Rules(rules=rules), **others)


def dicts(lines: bytes) -> list[dict[str, Any]]:
    return [json.loads(text) for text in lines.splitlines()]


async def test_what_no_rule_is_about_only_gets_new_places() -> None:
    changes = Changes()
    events = dicts(await changed(changes, make_lines(300)))
    assert events == [make_event(i, threadId=0, threadCounter=i) for i in range(300)]
    assert changes.report == ChangeReport(
        read=300,
        untouched=300,
        written=300,
        types_before={f"TYPE_{i}": 100 for i in range(3)},
        types_after={f"TYPE_{i}": 100 for i in range(3)},
    )


async def test_a_rule_renames_the_type_of_the_events_that_it_is_about() -> None:
    changes = by_rules(Rule(type="TYPE_1", aggregate_id="aggregate-1", rename="OTHER"))
    events = dicts(await changed(changes, make_lines(30)))
    assert [event["type"] for event in events] == [
        "OTHER" if i % 3 == 1 and i % 10 == 1 else f"TYPE_{i % 3}" for i in range(30)
    ]
    assert changes.report.changed == 1
    assert changes.report.types_after == {"TYPE_0": 10, "TYPE_1": 9, "TYPE_2": 10, "OTHER": 1}


async def test_a_rule_drops_events_and_the_rest_is_numbered_without_a_gap() -> None:
    changes = by_rules(Rule(type=("TYPE_0", "TYPE_1"), aggregate_prefix="aggregate-", drop=True))
    events = dicts(await changed(changes, make_lines(60)))
    assert [event["threadCounter"] for event in events] == list(range(20))
    assert [event["aggregateVersion"] for event in events] == [i // 10 + 1 for i in range(20)]
    assert {event["type"] for event in events} == {"TYPE_2"}
    assert (changes.report.read, changes.report.dropped, changes.report.written) == (60, 40, 20)


async def test_a_rule_sees_what_the_rules_before_it_have_made() -> None:
    changes = by_rules(
        Rule(type="B", rename="NEVER"), Rule(type="TYPE_0", rename="B"), Rule(type="B", rename="C")
    )
    assert [event["type"] for event in dicts(await changed(changes, make_lines(3)))] == [
        "C",
        "TYPE_1",
        "TYPE_2",
    ]


async def test_filters_come_before_the_rules_and_are_counted() -> None:
    changes = by_rules(Rule(type="TYPE_0", rename="B"), event_types=["TYPE_0"], start_time=LONG_AGO + 3)
    events = dicts(await changed(changes, make_lines(9)))
    assert [event["timestamp"] for event in events] == [LONG_AGO + 3, LONG_AGO + 6]
    assert (changes.report.left_out, changes.report.changed) == (7, 2)


async def test_positions_are_kept_where_nothing_is_lost() -> None:
    lines = make_lines(600)
    assert await changed(Changes(keep_positions=True), lines) == lines


@pytest.mark.parametrize(
    "others", [{"rules": Rules(rules=(Rule(type="TYPE_2", drop=True),))}, {"finish_time": LONG_AGO + 1}]
)
async def test_positions_are_not_kept_where_an_event_is_lost(others: dict[str, Any]) -> None:
    with pytest.raises(ChangeError, match=r"threadId 2, threadCounter 0: .* positions cannot be kept"):
        await changed(Changes(keep_positions=True, **others), make_lines(9))


async def test_lines_changed_without_new_places_keep_those_of_their_events() -> None:
    changes = by_rules(Rule(type="TYPE_0", drop=True), Rule(type="TYPE_1", rename="B"))
    assert changes.change(make_lines(3)) == line(make_event(1, type="B")) + line(make_event(2))
    assert changes.report.read == 3


async def test_a_line_that_is_no_event_is_refused_by_its_place() -> None:
    with pytest.raises(InputError, match="line 4, byte 441, field type"):
        await changed(Changes(), make_lines(3) + line(make_event(3, type=5)))


def test_a_rule_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text('[[rule]]\nrenam = "B"\n')
    with pytest.raises(RulesError, match=r"rules\.toml: .*renam"):
        Changes(rules=tmp_path / "rules.toml")

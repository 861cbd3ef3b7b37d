"""What a change on the way makes of lines: which stay, what they become, how they are numbered, what is reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from eventferry import ChangeError, ChangeReport, Changes, InputError, RulesError, pipeline
from eventferry.changing.numbering import Numbering
from eventferry.changing.report import OTHER_TYPES
from eventferry.changing.rules import Rule, Rules
from eventferry.lines.decoder import Line
from tests.support import LONG_AGO, events_of, examples, line, make_event, make_lines


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


async def test_merged_aggregates_are_numbered_in_the_order_of_arrival() -> None:
    lines = b"".join(line(make_event(i, aggregateVersion=1, aggregateId=f"a{i}")) for i in range(50))
    events = dicts(await changed(by_rules(Rule(rename_aggregate="one")), lines))
    assert [event["aggregateVersion"] for event in events] == list(range(1, 51))


async def test_versions_go_on_where_more_aggregates_come_than_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eventferry.sources.aggregates.SourceAggregates.__init__.__defaults__", (7,))
    events = dicts(await changed(Changes(), make_lines(500)))
    assert [event["aggregateVersion"] for event in events] == [i // 10 + 1 for i in range(500)]


@given(
    st.lists(st.sampled_from(["{}", '{"a":1.0}', "null", '"\\u00e9"', '"two\\nlines"']), max_size=20),
    st.lists(st.integers(0, 3000), max_size=10),
)
@settings(max_examples=examples(100))
def test_blocks_may_be_cut_anywhere(payloads: list[str], places: list[int]) -> None:
    whole = b"".join(
        line(make_event(i, payload=0)).replace(b":0}", b":" + payload.encode() + b"}")
        for i, payload in enumerate(payloads)
    )
    changes = by_rules(Rule(type="TYPE_0", set={"/a": 2}), Rule(type="TYPE_1", drop=True))
    ends = sorted(place % (len(whole) + 1) for place in places)
    blocks = [whole[start:end] for start, end in zip([0, *ends], [*ends, len(whole)], strict=True)]
    at_once = asyncio.run(changed(changes, whole))
    report = changes.report
    assert asyncio.run(changed(changes, *blocks)) == at_once
    assert changes.report == report
    assert asyncio.run(changed(changes, whole[:-1])) == at_once


async def test_what_breaks_off_never_ends_behind_an_event() -> None:
    out = b""

    async def gather() -> None:
        nonlocal out
        async for block in Changes()(one_by_one([make_lines(5000), b"no event\n"])):
            out += block

    with pytest.raises(InputError):
        await gather()
    assert len(out) > 100_000
    with pytest.raises(json.JSONDecodeError):
        json.loads(out.splitlines()[-1])


async def test_an_input_that_is_cut_off_is_refused_as_such() -> None:
    with pytest.raises(InputError, match=r"line 3, byte 294: the input ends inside an event \(is not whole"):
        await changed(Changes(), make_lines(3)[:-5])


async def test_the_report_begins_anew_with_each_passage() -> None:
    changes = by_rules(Rule(type="TYPE_0", drop=True))
    for _ in range(2):
        await changed(changes, make_lines(3))
        assert (changes.report.read, changes.report.dropped) == (3, 1)
    changes.change(make_lines(3))
    assert (changes.report.read, changes.report.dropped) == (6, 2)


async def test_the_first_changed_events_are_kept_to_be_shown() -> None:
    changes = by_rules(Rule(type="TYPE_0", drop=True), Rule(type="TYPE_1", rename="B"))
    await changed(changes, make_lines(60))
    shown = changes.first_changed
    assert [event.before for event in shown] == events_of(
        b"".join(line(make_event(i)) for i in (1, 4, 7, 10, 13))
    )
    assert shown[0].after == events_of(line(make_event(1, type="B", threadId=0, threadCounter=0)))


async def test_an_untouched_payload_that_is_changed_all_the_same_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def spoil(numbering: Numbering, lines: Iterable[Line]) -> None:
        for each in lines:
            each.payload = Raw(b"{}")

    monkeypatch.setattr(Numbering, "number", spoil)
    out: list[bytes] = []
    with pytest.raises(ChangeError, match="payloads that no rule touched are not the same"):
        out += [block async for block in Changes()(one_by_one([make_lines(3)]))]
    assert not out


@pytest.mark.parametrize("lost", [slice(0, 2), slice(0, 0)])
async def test_an_event_that_is_lost_on_the_way_is_found_out(
    monkeypatch: pytest.MonkeyPatch, lost: slice
) -> None:
    def lose(numbering: Numbering, lines: list[Line]) -> None:
        del lines[lost.stop :]

    monkeypatch.setattr(Numbering, "number", lose)
    with pytest.raises(ChangeError, match="does not add up"):
        await changed(Changes(), make_lines(3))


async def test_more_types_than_anybody_reads_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventferry.changing.report._TYPES", 2)
    changes = Changes()
    await changed(changes, make_lines(9))
    assert changes.report.types_before == {"TYPE_0": 3, "TYPE_1": 3, OTHER_TYPES: 3}


async def test_what_the_target_refuses_is_told_by_the_event_that_came_in() -> None:
    rules = Rule(type="TYPE_2", set={"/text": "x" * 100})
    changes = by_rules(Rule(aggregate_id="aggregate-1", drop=True), rules)

    class Narrow:
        def __init__(self) -> None:
            self.text = b""

        async def write(self, block: bytes) -> None:
            self.text += block
            for number, text in enumerate(self.text.split(b"\n")[:-1], 1):
                if len(text) > 200:
                    raise InputError("is too long", line=number, byte_offset=1, field="payload")

        async def close(self) -> None: ...

        async def abort(self, error: BaseException | None = None) -> None: ...

    with pytest.raises(
        InputError, match=r"line 3, byte 294, field payload: the event at threadId 2, .* is too long"
    ):
        await pipeline(one_by_one([make_lines(2), make_lines(500)[294:]]), changes, Narrow())


async def test_what_came_in_wrong_is_told_by_its_own_line_to_the_end(tmp_path: Path) -> None:
    lines = make_lines(3) + line(make_event(3, type=5))
    with pytest.raises(InputError, match=r"^line 4, byte 441, field type: must be a string"):
        await pipeline(one_by_one([lines]), by_rules(Rule(type="TYPE_0", drop=True)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


SOME = Rules(rules=(Rule(type="A", rename="B"),))


def test_other_changes_have_another_digest() -> None:
    different: list[dict[str, Any]] = [
        {},
        {"event_types": ["A"]},
        {"exclude_types": ["A"]},
        {"aggregate_ids": ["A"]},
        {"aggregate_prefixes": ["A"]},
        {"start_time": 1},
        {"finish_time": 1},
        {"keep_positions": True},
        {"function": "os.path:join"},
        {"function": lambda event: event},
        {"rules": SOME},
        {"rules": Rules(rules=(Rule(type="A", rename="C"),))},
        {"rules": Rules(rules=SOME.rules * 2)},
        {"rules": Rules(rules=(Rule(copy={"/a": "/b", "/b": "/c"}),))},
        {"rules": Rules(rules=(Rule(copy={"/b": "/c", "/a": "/b"}),))},
    ]
    digests = [Changes(**others).digest for others in different]
    assert len(set(digests)) == len(different)
    assert [Changes(**others).digest for others in different] == digests

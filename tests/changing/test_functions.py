"""A function of the user's own: one event in, none or more out, and what it may not give."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventferry import ChangeError, Changes, Event, InputError, UsageError
from eventferry.changing.rules import Rule, Rules
from eventferry.lines.event import NewRow
from tests.changing.test_changes import changed, dicts
from tests.support import LONG_AGO, line, make_event, make_lines

ODD = '{"b":1.50,"a":"\\u00e9","n":12345678901234567890,"e":1e2}'


def odd_line(i: int = 0) -> bytes:
    """An event whose payload is spelled as no program of ours would."""
    return line(make_event(i, payload=0)).replace(b":0}", b":" + ODD.encode() + b"}")


def replaced(event: Event, **changes: Any) -> Event:
    return msgspec.structs.replace(event, **changes)


def test_it_is_given_the_event_with_its_place() -> None:
    given: list[Event] = []
    Changes(function=given.append).change(make_lines(3))
    assert given[2] == Event(
        thread_counter=0,
        thread_id=2,
        type="TYPE_2",
        timestamp=LONG_AGO + 2,
        aggregate_id="aggregate-2",
        aggregate_version=1,
        payload={"number": 2},
    )


async def test_an_event_becomes_none_or_one_or_several() -> None:
    def split(event: Event) -> Event | list[Event] | None:
        number = event.payload["number"]
        if number % 3 == 0:
            return None
        if number % 3 == 1:
            return replaced(event, type="OTHER")
        return [replaced(event, payload=part) for part in range(3)]

    changes = Changes(function=split)
    events = dicts(await changed(changes, make_lines(30)))
    assert [event["threadCounter"] for event in events] == list(range(40))
    assert [event["payload"] for event in events[:4]] == [{"number": 1}, 0, 1, 2]
    report = changes.report
    assert (report.read, report.dropped, report.changed, report.split, report.written) == (30, 10, 20, 20, 40)
    assert report.types_after == {"TYPE_2": 30, "OTHER": 10}


def test_it_may_be_a_generator() -> None:
    def twice(event: Event) -> Iterator[Event]:
        yield event
        yield event

    assert Changes(function=twice).change(odd_line()) == odd_line() * 2


def test_an_event_that_it_gives_back_is_untouched_byte_for_byte() -> None:
    changes = Changes(function=lambda event: event)
    assert changes.change(odd_line()) == odd_line()
    assert (changes.report.untouched, changes.report.changed) == (1, 0)


def test_a_payload_that_it_leaves_alone_keeps_its_spelling() -> None:
    changes = Changes(function=lambda event: replaced(event, type="B"))
    assert changes.change(odd_line()) == odd_line().replace(b"TYPE_0", b"B")


def test_a_payload_that_it_changes_in_place_is_changed() -> None:
    def change(event: Event) -> Event:
        event.payload["b"] = True
        return event

    changes = Changes(function=change)
    assert b'"b":true' in changes.change(odd_line())
    assert changes.report.changed == 1


def test_it_sees_what_the_rules_have_made_and_what_they_drop_it_never_sees() -> None:
    given: list[str] = []
    rules = Rules(rules=(Rule(type="TYPE_0", rename="A"), Rule(type="TYPE_1", drop=True)))
    Changes(rules=rules, function=lambda event: given.append(event.type)).change(make_lines(3))
    assert given == ["A", "TYPE_2"]


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        ({"type": 5}, "field type: .* must be a string of at most 700 characters, not 5"),
        ({"aggregate_id": "x" * 701}, "field aggregateId: .* must be a string of at most 700"),
        ({"aggregate_id": "\0"}, r"field aggregateId: .* holds the character U\+0000"),
        ({"timestamp": 1.5}, "field timestamp: .* must be a whole number"),
        ({"payload": float("nan")}, "field payload: .* nan is not a JSON value"),
        ({"payload": {1: 2}}, "field payload: .* the key 1 of an object is not a string"),
        ({"payload": "\ud800"}, "field payload: .* lone surrogate"),
    ],
)
def test_what_it_gives_is_checked_and_refused_by_the_event_that_came_in(
    outcome: dict[str, Any], says: str
) -> None:
    changes = Changes(function=lambda event: replaced(event, **outcome) if event.thread_id == 2 else event)
    with pytest.raises(InputError, match=f"line 3, byte 294, {says}") as refused:
        changes.change(make_lines(5))
    assert "the event at threadId 2, threadCounter 0 becomes an event that cannot be" in str(refused.value)


@pytest.mark.parametrize("outcome", [5, {"type": "A"}, ["A"], "text", [None], object()])
def test_what_is_no_event_is_refused(outcome: Any) -> None:
    with pytest.raises(
        ChangeError, match=r"threadId 0, threadCounter 0: .* gave (int|str|NoneType|object), and"
    ):
        Changes(function=lambda _: outcome).change(make_lines(1))


def test_what_it_raises_is_told_with_the_event() -> None:
    def fail(event: Event) -> Event:
        raise KeyError(event.payload["number"])

    with pytest.raises(ChangeError, match=r"threadId 0, .*test_functions:.*fail raised KeyError: 0"):
        Changes(function=fail).change(make_lines(1))


def test_an_exit_is_told_with_the_event() -> None:
    def leave(event: Event) -> Event:
        sys.exit(0)

    with pytest.raises(ChangeError, match=r"threadId 0, .*test_functions:.*leave raised SystemExit: 0"):
        Changes(function=leave).change(make_lines(1))


def test_a_module_that_exits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_that_exits.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="'module_that_exits:f' cannot be loaded: SystemExit: 0"):
        Changes(function="module_that_exits:f")


async def test_positions_are_not_kept_where_it_splits_an_event() -> None:
    with pytest.raises(ChangeError, match="threadId 0, threadCounter 0: the function makes 2 of it"):
        await changed(Changes(function=lambda event: [event, event], keep_positions=True), make_lines(1))


def test_it_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_change.py").write_text("def drop(event):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        changes = Changes(function="own_change:drop")
        digest = changes.digest
        assert changes.change(make_lines(3)) == b""
    finally:
        sys.modules.pop("own_change", None)
    (tmp_path / "own_change.py").write_text("def drop(event):\n    return event  # other source\n")
    try:
        assert Changes(function="own_change:drop").digest != digest
    finally:
        sys.modules.pop("own_change", None)


@pytest.mark.parametrize("name", ["no_such_module:f", "os:no_such", "os", "os:", 5])
def test_what_is_no_function_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="function: "):
        Changes(function=name)


def test_events_for_an_incremental_import_are_changed_without_places() -> None:
    rules = Rules(rules=(Rule(type="A", drop=True), Rule(type="B", redact=("/x",))))
    changes = Changes(rules=rules, function=lambda event: [event] * event.timestamp)
    rows = [(1, "a", "A", b"{}"), (2, "b", "B", b'{"x":1.0,"y":2.0}')]
    assert changes.change_new(rows) == [(2, NewRow(2, "b", "B", b'{"x":null,"y":2.0}'))] * 2
    assert (changes.report.dropped, changes.report.changed, changes.report.written) == (1, 1, 2)
    with pytest.raises(InputError, match="event 2, field timestamp: an event of aggregate 'b' becomes"):
        Changes(function=lambda event: replaced(event, timestamp="x" if event.type == "B" else 1)).change_new(
            rows
        )

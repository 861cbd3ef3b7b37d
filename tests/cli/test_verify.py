"""The command that compares: verify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from tests.support import line, make_event, make_lines
from tests.support.cli import Ferry, Outcome, new_ferry
from tests.support.places import Places
from tests.support.servers import PASSWORD

ferry = pytest.fixture(new_ferry)

Change: TypeAlias = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def one_byte(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event | {"payload": {"number": 100}} if i == 101 else event for i, event in enumerate(events)]


def other_type(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event | {"type": "OTHER"} if i == 101 else event for i, event in enumerate(events)]


def one_missing(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return events[:101] + events[102:]


def last_missing(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return events[:-1]


def swapped(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two events have changed their places in the store."""
    one, two = events[100], events[101]
    places = [{key: event[key] for key in ("threadId", "threadCounter")} for event in (one, two)]
    return [*events[:100], one | places[1], two | places[0], *events[102:]]


@pytest.fixture
def pair(ferry: Ferry) -> Callable[[str, Change], tuple[str, str]]:
    """Two sources, 300 events and the same after a change; each a file, a packed file or a store."""

    def made(kinds: str, change: Change) -> tuple[str, str]:
        events = [make_event(i) for i in range(300)]
        names = []
        for kind, name, content in zip(kinds.split(), "AB", (events, change(events)), strict=True):
            if kind == "file":
                names.append(ferry.file(f"{name}.jsonl", content))
            else:
                store = ferry.store(f"{name}.db", content)
                names.append(store)
                if kind == "zst":
                    names[-1] = f"{name}.jsonl.zst"
                    ferry.done("export", store, names[-1])
        return names[0], names[1]

    return made


MIXES = pytest.mark.parametrize(
    "kinds", ["file file", "file store", "store file", "store store", "zst store"]
)


@MIXES
@pytest.mark.parametrize("content", [(), ("--content",)])
def test_equal_sources_are_equal(ferry: Ferry, pair: Any, kinds: str, content: tuple[str, ...]) -> None:
    told = ferry.done("verify", *pair(kinds, list), *content)
    assert told.out == ""
    assert "300" in told.err


def unequal(ferry: Ferry, *words: str) -> Outcome:
    outcome = ferry("verify", *words)
    assert outcome.status == 1
    return outcome


@MIXES
@pytest.mark.parametrize(
    ("change", "counts", "kind", "fields"),
    [
        (one_byte, {"missing": 0, "extra": 0, "changed": 1}, "changed", ["payload"]),
        (other_type, {"missing": 0, "extra": 0, "changed": 1}, "changed", ["type"]),
        (one_missing, {"missing": 1, "extra": 0, "changed": 0}, "missing", []),
        (last_missing, {"missing": 1, "extra": 0, "changed": 0}, "missing", []),
    ],
)
def test_one_difference_among_many_is_found_counted_and_named(
    ferry: Ferry, pair: Any, kinds: str, change: Change, counts: dict[str, int], kind: str, fields: list[str]
) -> None:
    names = pair(kinds, change)
    told = unequal(ferry, *names)
    assert told.out.startswith(kind)
    assert len(told.out.splitlines()) == 1
    assert "unequal" in told.err
    report = unequal(ferry, *names, "--json").json
    assert report["equal"] is False
    assert {name: report[name] for name in counts} == counts
    (difference,) = report["differences"]
    assert (difference["kind"], difference["fields"]) == (kind, fields)
    place = make_event(299 if change is last_missing else 101)
    assert {key: difference[key] for key in ("threadId", "threadCounter")} == {
        key: place[key] for key in ("threadId", "threadCounter")
    }


@MIXES
def test_two_swapped_positions_are_two_changes_but_the_same_content(
    ferry: Ferry, pair: Any, kinds: str
) -> None:
    names = pair(kinds, swapped)
    assert unequal(ferry, *names, "--json").json["changed"] == 2
    assert ferry.done("verify", *names, "--content").status == 0


@pytest.mark.parametrize("content", [(), ("--content",)])
def test_a_doubled_line_in_a_file_is_extra_on_its_side(ferry: Ferry, content: tuple[str, ...]) -> None:
    store = ferry.store("a.db", 300)
    doubled = ferry.file("doubled.jsonl", make_lines(300) + line(make_event(101)))
    report = unequal(ferry, store, doubled, "--json", *content).json
    assert (report["events"], report["otherEvents"], report["extra"], report["missing"]) == (300, 301, 1, 0)
    report = unequal(ferry, doubled, store, "--json", *content).json
    assert (report["extra"], report["missing"]) == (0, 1)


@pytest.mark.parametrize("content", [(), ("--content",)])
def test_one_doubled_and_another_missing_are_not_equal(ferry: Ferry, content: tuple[str, ...]) -> None:
    events = [make_event(i) for i in range(300)]
    other = ferry.file("b.jsonl", [*events[:299], events[101]])
    report = unequal(ferry, ferry.file("a.jsonl", events), other, "--json", *content).json
    assert (report["missing"], report["extra"]) == (1, 1)


def test_by_content_one_changed_payload_is_one_missing_and_one_extra(ferry: Ferry, pair: Any) -> None:
    report = unequal(ferry, *pair("store store", one_byte), "--content", "--json").json
    assert (report["missing"], report["extra"]) == (1, 1)


def test_a_merged_store_is_equal_by_content_only(ferry: Ferry) -> None:
    ferry.store(
        "a.db", [make_event(i, threadId=(i + 7) % 256, threadCounter=i // 256 + 1) for i in range(300)]
    )
    for count in (100, 300):
        ferry.done("incremental-import", "-", "b.db", stdin=make_lines(count))
    unequal(ferry, "a.db", "b.db")
    told = ferry.done("verify", "a.db", "b.db", "--content")
    assert told.out == ""


def test_payloads_are_equal_as_json_values(ferry: Ferry) -> None:
    one = ferry.file("a.jsonl", make_lines(1).replace(b'{"number":0}', b'{"a":1,"b":[1.0,true]}'))
    two = ferry.file("b.jsonl", make_lines(1).replace(b'{"number":0}', b'{ "b": [1e0, true], "a": 1.0 }'))
    three = ferry.file("c.jsonl", make_lines(1).replace(b'{"number":0}', b'{"a":true,"b":[1,1]}'))
    for content in ((), ("--content",)):
        assert ferry.done("verify", one, two, *content).status == 0
        unequal(ferry, one, three, *content)


def test_either_side_may_be_standard_input(ferry: Ferry) -> None:
    store = ferry.store("a.db", 300)
    for words in ((store, "-"), ("-", store)):
        assert ferry.done("verify", *words, stdin=make_lines(300)).status == 0
        assert ferry("verify", *words, stdin=make_lines(299)).status == 1


def test_standard_input_cannot_be_both_sides(ferry: Ferry) -> None:
    ferry.refused("verify", "-", "-", status=2)


def test_as_json_equal_sources_have_the_same_keys_as_unequal_ones(ferry: Ferry) -> None:
    same = ferry.done("verify", ferry.store("a.db", 3), ferry.file("a.jsonl", make_lines(3)), "--json")
    assert same.err == ""
    assert same.json == {
        "equal": True,
        "events": 3,
        "otherEvents": 3,
        "missing": 0,
        "extra": 0,
        "changed": 0,
        "archived": 0,
        "differences": [],
    }


def test_many_differences_are_counted_and_the_first_told(ferry: Ferry) -> None:
    one = ferry.file("a.jsonl", [make_event(i) for i in range(300)])
    two = ferry.file("b.jsonl", [make_event(i, payload=None) for i in range(300)])
    told = unequal(ferry, one, two)
    assert 0 < len(told.out.splitlines()) < 300
    assert "300 changed" in told.err


def test_a_source_that_breaks_off_is_a_failure_not_a_difference(ferry: Ferry) -> None:
    cut = ferry.file("cut.jsonl", make_lines(300)[:-9])
    told = ferry.refused("verify", ferry.store("a.db", 300), cut)
    assert "line 300" in told


def test_two_empty_sources_are_equal(ferry: Ferry) -> None:
    assert ferry.done("verify", ferry.store("a.db"), ferry.file("b.jsonl", b"")).status == 0


def test_the_password_of_a_store_is_not_in_what_is_said(ferry: Ferry) -> None:
    with Places("postgresql", ferry.directory) as places:
        url = places.new_url()
        ferry.done("init", url)
        told = unequal(ferry, ferry.store("a.db", 3), url)
    assert PASSWORD in url
    assert PASSWORD not in told.out + told.err

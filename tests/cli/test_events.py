"""The commands that bring events out: events and export."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.support import LONG_AGO, make_event, make_lines
from tests.support.cli import CURSOR_LENGTH, Ferry, new_ferry

ferry = pytest.fixture(new_ferry)

MILLISECOND = LONG_AGO + 5  # 2020-09-13T12:26:40.005Z


@pytest.fixture
def store(ferry: Ferry) -> str:
    return ferry.store("a.db", 300)


def numbers(lines: str) -> list[int]:
    """Which of `make_event` these are."""
    return [json.loads(line)["payload"]["number"] for line in lines.splitlines()]


def test_events_prints_lines_on_stdout_and_a_cursor_on_stderr_only_behind_a_cursor(
    ferry: Ferry, store: str
) -> None:
    told = ferry.done("events", store, "--limit", "2")
    assert (told.out.encode(), told.err) == (make_lines(2), "")
    paged = ferry.done("events", store, "--limit", "2", "--cursor", "A" * CURSOR_LENGTH)
    assert (paged.out, len(paged.err)) == (told.out, CURSOR_LENGTH + 1)
    rest = ferry.done("events", store, "--cursor", paged.err.strip())
    assert paged.out.encode() + rest.out.encode() == make_lines(300)


def test_events_tells_the_bookmark_if_asked(ferry: Ferry, store: str) -> None:
    told = ferry.done("events", store, "--limit", "2", "--bookmark")
    rest = ferry.done("events", store, "--since", told.err.strip())
    assert told.out.encode() + rest.out.encode() == make_lines(300)


def test_events_as_json_is_one_object_on_stdout(ferry: Ferry, store: str) -> None:
    told = ferry.done("events", store, "--limit", "2", "--json")
    assert told.err == ""
    assert list(told.json) == ["events", "cursor", "bookmark"]
    assert told.json["events"] == [make_event(0), make_event(1)]
    rest = ferry.done("events", store, "--json", "--cursor", told.json["cursor"])
    assert len(rest.json["events"]) == 298


def test_events_of_an_empty_store_are_no_lines_and_a_cursor(ferry: Ferry) -> None:
    empty = ferry.store("empty.db")
    told = ferry.done("events", empty)
    assert (told.out, told.err) == ("", "")
    told = ferry.done("events", empty, "--json")
    assert (told.json["events"], told.json["cursor"]) == ([], "A" * CURSOR_LENGTH)
    assert told.json["bookmark"].startswith("ef1.")


def test_events_stops_at_a_thousand_unless_told(ferry: Ferry) -> None:
    many = ferry.store("many.db", 1001)
    assert len(ferry.done("events", many).out.splitlines()) == 1000
    assert len(ferry.done("events", many, "--limit", "2000").out.splitlines()) == 1001


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--type", "TYPE_1"], lambda i: i % 3 == 1),
        (["--type", "TYPE_1", "--type", "TYPE_2"], lambda i: i % 3 != 0),
        (["--type", "NONE"], lambda i: False),
        (["--aggregate-id", "aggregate-7"], lambda i: i % 10 == 7),
        (["--aggregate-id", "aggregate-7", "--aggregate-id", "aggregate-8"], lambda i: i % 10 in (7, 8)),
        (["--type", "TYPE_1", "--aggregate-id", "aggregate-7"], lambda i: i % 3 == 1 and i % 10 == 7),
        (["--exclude-type", "TYPE_1"], lambda i: i % 3 != 1),
        (["--exclude-type", "TYPE_1", "--type", "TYPE_1", "--exclude-type", "TYPE_2"], lambda i: False),
        (["--aggregate-prefix", "aggregate-7"], lambda i: i % 10 == 7),
        (["--aggregate-prefix", "aggregate-7x", "--aggregate-prefix", "aggregate-"], lambda i: True),
        (["--aggregate-prefix", "aggregate-7", "--aggregate-id", "aggregate-8"], lambda i: i % 10 in (7, 8)),
        (
            ["--aggregate-prefix", "aggregate-7", "--exclude-type", "TYPE_0"],
            lambda i: i % 10 == 7 and i % 3 != 0,
        ),
        (["--from", str(MILLISECOND)], lambda i: i >= 5),
        (["--until", str(MILLISECOND)], lambda i: i <= 5),
        (["--from", str(MILLISECOND), "--until", str(MILLISECOND)], lambda i: i == 5),
        (["--from", "2020-09-13T12:26:40.005Z"], lambda i: i >= 5),
        (["--from", "2020-09-13T12:26:40.005"], lambda i: i >= 5),
        (["--from", "2020-09-13 12:26:40.005"], lambda i: i >= 5),
        (["--from", "2020-09-13T14:26:40.005+02:00"], lambda i: i >= 5),
        (["--until", "2020-09-13T07:26:40.005-05:00"], lambda i: i <= 5),
        (["--from", "2020-09-13"], lambda i: True),
        (["--until", "2020-09-13"], lambda i: False),
        (["--from", "2020-09-14"], lambda i: False),
        (["--from", "-1"], lambda i: True),
        (["--from", "1969-12-31", "--until", "9999-12-31"], lambda i: True),
        (["--type", "TYPE_0", "--from", str(MILLISECOND)], lambda i: i % 3 == 0 and i >= 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_choose_the_same_events_for_events_and_export(
    ferry: Ferry, store: str, filters: list[str], expected: Any
) -> None:
    chosen = [i for i in range(300) if expected(i)]
    assert numbers(ferry.done("events", store, *filters).out) == chosen
    assert numbers(ferry.done("export", store, "-", *filters).out) == chosen


@pytest.mark.parametrize("command", [("events",), ("export", "-"), ("follow", "--once")])
def test_an_empty_prefix_is_refused(ferry: Ferry, store: str, command: tuple[str, ...]) -> None:
    name, *rest = command
    told = ferry.refused(name, store, *rest, "--aggregate-prefix", "", status=2)
    assert (
        told == "eventferry: --aggregate-prefix contains an empty string, with which every aggregate begins\n"
    )


def test_a_time_without_a_zone_is_utc_wherever_the_machine_stands(
    ferry: Ferry, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        told = ferry.done("events", store, "--from", "2020-09-13T12:26:40.005", "--limit", "1")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert numbers(told.out) == [5]


@pytest.mark.parametrize("command", [("events",), ("export", "-")])
@pytest.mark.parametrize("bound", ["--from", "--until"])
def test_a_cursor_and_a_time_do_not_go_together(
    ferry: Ferry, store: str, command: tuple[str, ...], bound: str
) -> None:
    name, *dest = command
    cursor = "A" * CURSOR_LENGTH
    assert "--cursor" in ferry.refused(name, store, *dest, "--cursor", cursor, bound, "0", status=2)


def test_a_cursor_goes_together_with_types_and_aggregates(ferry: Ferry, store: str) -> None:
    first = ferry.done("events", store, "--json", "--limit", "1", "--type", "TYPE_1").json
    second = ferry.done("events", store, "--type", "TYPE_1", "--limit", "1", "--cursor", first["cursor"])
    assert numbers(second.out) == [4]


def test_export_writes_the_file_and_says_how_many(ferry: Ferry, store: str) -> None:
    told = ferry.done("export", store, "out.jsonl")
    assert (ferry.directory / "out.jsonl").read_bytes() == make_lines(300)
    assert told.out == ""
    assert "300" in told.err
    assert ferry.names() == {store, "out.jsonl"}


def test_export_to_stdout_is_lines_only(ferry: Ferry, store: str) -> None:
    assert ferry.done("export", store, "-").out.encode() == make_lines(300)


def test_export_as_json_reports_on_stdout(ferry: Ferry, store: str) -> None:
    told = ferry.done("export", store, "out.jsonl", "--json")
    assert list(told.json) == ["exported", "cursor", "bookmark"]
    assert told.json["exported"] == 300
    assert told.err == ""
    assert ferry.done("export", store, "-", "--cursor", told.json["cursor"]).out == ""


def test_export_to_stdout_as_json_reports_on_stderr(ferry: Ferry, store: str) -> None:
    told = ferry.done("export", store, "-", "--json")
    assert told.out.encode() == make_lines(300)
    report = json.loads(told.err)
    assert list(report) == ["exported", "cursor", "bookmark"]
    assert report["exported"] == 300
    assert len(report["cursor"]) == CURSOR_LENGTH


def test_a_later_export_goes_on_from_the_cursor_of_an_earlier_one(ferry: Ferry, store: str) -> None:
    cursor = ferry.done("export", store, "one.jsonl", "--json").json["cursor"]
    ferry.done("incremental-import", "-", store, stdin=make_lines(301))
    assert numbers(ferry.done("export", store, "-", "--cursor", cursor).out) == [300]


def test_export_packs_by_the_ending_of_the_name(ferry: Ferry, store: str) -> None:
    for name in ("out.jsonl.gz", "out.jsonl.zst"):
        ferry.done("export", store, name)
        assert ferry.done("verify", name, store).status == 0
    assert gzip.decompress((ferry.directory / "out.jsonl.gz").read_bytes()) == make_lines(300)
    assert (ferry.directory / "out.jsonl.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


def test_the_same_events_give_the_same_packed_file(ferry: Ferry, store: str) -> None:
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        ferry.done("export", store, name)
    one, two = ((ferry.directory / f"{name}.jsonl.gz").read_bytes() for name in ("one", "two"))
    assert one == two


def test_export_over_a_file_puts_the_new_one_in_its_place(ferry: Ferry, store: str) -> None:
    ferry.file("out.jsonl", b"x" * 1_000_000)
    ferry.done("export", store, "out.jsonl")
    assert (ferry.directory / "out.jsonl").read_bytes() == make_lines(300)


def test_export_through_a_link_writes_what_it_points_to(ferry: Ferry, store: str) -> None:
    (ferry.directory / "link.jsonl").symlink_to("target.jsonl")
    ferry.done("export", store, "link.jsonl")
    assert (ferry.directory / "link.jsonl").is_symlink()
    assert (ferry.directory / "target.jsonl").read_bytes() == make_lines(300)


def test_an_export_that_fails_leaves_the_file_that_was_there(ferry: Ferry) -> None:
    ferry.file("out.jsonl", b"precious")
    ferry.refused("export", "missing.db", "out.jsonl")
    assert (ferry.directory / "out.jsonl").read_bytes() == b"precious"
    assert ferry.names() == {"out.jsonl"}


def test_an_export_that_freezes_leaves_the_store_as_it_found_it(ferry: Ferry, store: str) -> None:
    assert ferry.done("export", store, "-", "--freeze").out.encode() == make_lines(300)
    assert ferry.done("describe", store, "--json").json["isFrozen"] is False
    ferry.done("freeze", store)
    assert ferry.done("export", store, "-", "--freeze").out.encode() == make_lines(300)
    assert ferry.done("describe", store, "--json").json["frozenBy"] == "user"


def test_an_empty_store_exports_to_an_empty_file(ferry: Ferry) -> None:
    told = ferry.done("export", ferry.store("empty.db"), "out.jsonl", "--json")
    assert told.json["exported"] == 0
    assert (ferry.directory / "out.jsonl").read_bytes() == b""


def test_a_payload_comes_out_as_it_went_in(ferry: Ferry) -> None:
    line = (
        '{"threadCounter":0,"threadId":0,"type":"T","timestamp":1,"aggregateId":"größe 🚢","aggregateVersion":1,'
        '"payload":{"z":1.0,"a":12345678901234567890,"line":"\\u2028\u2028\\n"}}\n'
    )
    ferry.done("import", "-", "a.db", stdin=line.encode())
    assert ferry.done("export", "a.db", "-").out == line
    assert ferry.done("events", "a.db").out == line
    assert f'{{"events":[{line.rstrip()}],"cursor":"' in ferry.done("events", "a.db", "--json").out

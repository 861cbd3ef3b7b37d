"""Filters, rules and functions on the way, by the command: what comes out, what is told of it, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from eventferry import Changes, EventStore, StoreNotFoundError, pipeline
from eventferry.importing.replace import Replacement
from tests.support import line, make_event
from tests.support.cli import Ferry, new_ferry, sent

ferry = pytest.fixture(new_ferry)

RULES = b"""
[[rule]]
type = "TYPE_1"
rename = "RENAMED"

[[rule]]
type = "TYPE_2"
drop = true
"""

MODULE = b"""
import msgspec

def shout(event):
    return msgspec.structs.replace(event, payload={"text": "LOUD", **event.payload})

def twice(event):
    return [event, msgspec.structs.replace(event, type="COPY")] if event.type == "TYPE_0" else event

def broken(event):
    raise ValueError("what now")
"""

COUNT = 60


@pytest.fixture
def store(ferry: Ferry, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of sixty events, with rules and a module of functions beside it."""
    ferry.file("rules.toml", RULES)
    ferry.file("loud.py", MODULE)
    monkeypatch.syspath_prepend(str(ferry.directory))
    return ferry.store("a.db", COUNT)


def parsed(lines: bytes | str) -> list[dict[str, Any]]:
    return [json.loads(each) for each in lines.splitlines()]


def places(events: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(event["threadId"], event["threadCounter"]) for event in events]


def changed(numbers: range = range(COUNT)) -> list[tuple[int, str]]:
    """What the rules leave of the events: number and type."""
    types = {0: "TYPE_0", 1: "RENAMED"}
    return [(number, types[number % 3]) for number in numbers if number % 3 != 2]


def told_of(events: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(event["payload"]["number"], event["type"]) for event in events]


def assert_dense(events: list[dict[str, Any]]) -> None:
    """Positions and versions have no gap."""
    assert places(events) == [(0, number) for number in range(len(events))]
    versions: dict[str, int] = {}
    for event in events:
        name = event["aggregateId"]
        assert event["aggregateVersion"] == versions.get(name, 0) + 1
        versions[name] = event["aggregateVersion"]


FILTERS: dict[tuple[str, ...], Callable[[int], bool]] = {
    ("--type", "TYPE_1"): lambda i: i % 3 == 1,
    ("--exclude-type", "TYPE_1", "--exclude-type", "TYPE_2"): lambda i: i % 3 == 0,
    ("--aggregate-id", "aggregate-7", "--aggregate-prefix", "aggregate-8"): lambda i: i % 10 in (7, 8),
    ("--from", str(make_event(20)["timestamp"]), "--until", str(make_event(29)["timestamp"])): lambda i: (
        20 <= i < 30
    ),
    ("--aggregate-prefix", "aggregate-", "--exclude-type", "TYPE_0"): lambda i: i % 3 != 0,
}


@pytest.mark.parametrize("way", ["copy", "import", "incremental-import", "export"])
@pytest.mark.parametrize("filters", FILTERS, ids=" ".join)
def test_filters_mean_the_same_on_every_way(
    ferry: Ferry, store: str, way: str, filters: tuple[str, ...]
) -> None:
    if way == "export":
        events = parsed(ferry.done("export", store, "-", "--report", "r.json", *filters).out)
    else:
        source = store if way != "import" else ferry.file("a.jsonl", ferry.exported(store))
        ferry.done(way, source, "b.db", *filters)
        events = parsed(ferry.exported("b.db"))
    expected = [i for i in range(COUNT) if FILTERS[filters](i)]
    assert [event["payload"]["number"] for event in events] == expected
    if way != "incremental-import":
        assert_dense(events)


@pytest.mark.parametrize("way", ["copy", "import", "export"])
def test_rules_change_what_is_copied_and_positions_stay_dense(ferry: Ferry, store: str, way: str) -> None:
    if way == "export":
        events = parsed(ferry.done("export", store, "-", "--rules", "rules.toml").out)
    else:
        source = store if way == "copy" else ferry.file("a.jsonl", ferry.exported(store))
        told = ferry.done(way, source, "b.db", "--rules", "rules.toml").err
        assert "60 read, 20 dropped, 20 changed, 20 untouched" in told
        events = parsed(ferry.exported("b.db"))
    assert told_of(events) == changed()
    assert_dense(events)


def test_an_import_from_a_pipe_is_changed(ferry: Ferry, store: str) -> None:
    ferry.done("import", "-", "b.db", "--rules", "rules.toml", stdin=ferry.exported(store))
    assert told_of(parsed(ferry.exported("b.db"))) == changed()


def test_an_incremental_import_is_changed_and_again_changes_nothing(ferry: Ferry, store: str) -> None:
    words = ("incremental-import", store, "b.db", "--rules", "rules.toml")
    assert ferry.done(*words, "--json").json["imported"] == 40
    again = ferry.done(*words, "--json").json
    assert (again["imported"], again["skippedExisting"]) == (0, 40)
    assert again["changes"]["dropped"] == 20
    assert told_of(parsed(ferry.exported("b.db"))) == changed()


def test_a_json_array_is_changed_by_an_incremental_import(ferry: Ferry, store: str) -> None:
    event = {"type": "TYPE_1", "timestamp": 5, "aggregateId": "x"}
    ferry.file("new.json", json.dumps([event, event | {"type": "TYPE_2"}]).encode())
    ferry.done("incremental-import", "new.json", "b.db", "--rules", "rules.toml")
    assert [event["type"] for event in parsed(ferry.exported("b.db"))] == ["RENAMED"]


def test_a_function_makes_one_event_or_several(ferry: Ferry, store: str) -> None:
    told = ferry.done("copy", store, "b.db", "--function", "loud:twice", "--json").json
    assert (told["imported"], told["changes"]["split"]) == (80, 20)
    events = parsed(ferry.exported("b.db"))
    assert [event["type"] for event in events[:4]] == ["TYPE_0", "COPY", "TYPE_1", "TYPE_2"]
    assert_dense(events)


def test_what_a_function_raises_names_the_event_and_stores_nothing(ferry: Ferry, store: str) -> None:
    told = ferry.refused("copy", store, "b.db", "--function", "loud:broken")
    assert "the event at threadId 0, threadCounter 0: loud:broken raised ValueError: what now" in told
    assert "b.db" not in ferry.names()


def test_positions_can_be_kept_where_no_event_is_lost(ferry: Ferry, store: str) -> None:
    words = ("--function", "loud:shout", "--keep-positions")
    ferry.done("copy", store, "b.db", *words)
    before, after = parsed(ferry.exported(store)), parsed(ferry.exported("b.db"))
    assert [event | {"payload": None} for event in before] == [event | {"payload": None} for event in after]
    assert {event["payload"]["text"] for event in after} == {"LOUD"}
    told = ferry.refused("copy", store, "c.db", "--type", "TYPE_0", "--keep-positions")
    assert "positions cannot be kept (--keep-positions)" in told


def test_an_export_from_a_bookmark_on_changes_what_is_new(ferry: Ferry, store: str) -> None:
    first = ferry.done("export", store, "a.jsonl", "--rules", "rules.toml", "--json").json
    new = [
        {"type": kind, "timestamp": 4_000_000_000_000, "aggregateId": "x"} for kind in ("TYPE_1", "TYPE_2")
    ]
    ferry.done("incremental-import", ferry.file("new.json", json.dumps(new).encode()), store)
    words = ("export", store, "-", "--rules", "rules.toml", "--since")
    events = parsed(ferry.done(*words, first["bookmark"]).out)
    assert [event["type"] for event in events] == ["RENAMED"]
    assert_dense(events)
    assert "cannot be combined" in ferry.refused(*words, first["bookmark"], "--until", "2030-01-01", status=2)


def test_a_changed_export_can_be_a_table_or_have_an_end_mark(ferry: Ferry, store: str) -> None:
    ferry.done("export", store, "a.csv", "--format", "csv", "--rules", "rules.toml")
    assert (ferry.directory / "a.csv").read_text().count("RENAMED") == 20
    ferry.done("export", store, "a.jsonl", "--end-mark", "--rules", "rules.toml")
    ferry.done("import", "a.jsonl", "b.db", "--expect-end", "--type", "RENAMED")
    assert told_of(parsed(ferry.exported("b.db"))) == [each for each in changed() if each[1] == "RENAMED"]


# the report


def test_the_report_is_a_file_of_json(ferry: Ferry, store: str) -> None:
    told = ferry.done("copy", store, "b.db", "--rules", "rules.toml", "--report", "r.json", "--json").json
    report = json.loads((ferry.directory / "r.json").read_bytes())
    assert report == told["changes"]
    assert report["read"] == 60
    assert report["typesBefore"] == {"TYPE_0": 20, "TYPE_1": 20, "TYPE_2": 20}
    assert report["typesAfter"] == {"TYPE_0": 20, "RENAMED": 20}
    assert "byteOffset" not in told  # it would be of no file


def test_without_any_change_the_report_says_so(ferry: Ferry, store: str) -> None:
    ferry.done("copy", store, "b.db", "--report", "r.json")
    report = json.loads((ferry.directory / "r.json").read_bytes())
    assert (report["read"], report["written"], report["untouched"]) == (60, 60, 60)


def test_where_the_report_cannot_be_written_nothing_is_read_or_stored(ferry: Ferry, store: str) -> None:
    told = ferry.refused("copy", store, "b.db", "--rules", "rules.toml", "--report", "none/r.json")
    assert "none/r.json cannot be written" in told
    assert "b.db" not in ferry.names()


def test_a_copy_that_fails_leaves_the_report_of_the_last_one(ferry: Ferry, store: str) -> None:
    ferry.file("r.json", b"the last one")
    ferry.refused("copy", store, "b.db", "--function", "loud:broken", "--report", "r.json")
    assert (ferry.directory / "r.json").read_bytes() == b"the last one"
    assert [name for name in ferry.names() if "part" in name] == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("import e.jsonl b.db --rules rules.toml --report e.jsonl", "SRC"),
        ("import e.jsonl b.db --rules rules.toml --report ./link.jsonl", "SRC"),
        ("import e.jsonl b.db --rules rules.toml --report rules.toml", "--rules"),
        ("import e.jsonl b.db --rules rules.toml --report b.db", "STORE"),
        ("incremental-import e.jsonl b.db --report e.jsonl", "SRC"),
        ("copy a.db b.db --report b.db", "TO_STORE"),
        ("copy a.db b.db --from map.toml --report map.toml", "--from"),
        ("sync a.db b.db --rules rules.toml --report rules.toml", "--rules"),
        ("verify e.jsonl a.db --rules rules.toml --report e.jsonl", "A"),
        ("verify a.db e.jsonl --rules rules.toml --identity key --report key", "--identity"),
        ("diff a.db e.jsonl --rules rules.toml --report rules.toml", "--rules"),
        ("export a.db new.jsonl --rules rules.toml --report new.jsonl", "--report"),
        ("export a.db rules.toml --rules rules.toml", "--rules"),
    ],
)
def test_a_file_that_the_command_uses_is_not_written_over(
    ferry: Ferry, store: str, words: str, named: str
) -> None:
    ferry.file("e.jsonl", ferry.exported(store))
    ferry.file("map.toml", b"[event]")
    ferry.file("key", b"AGE-SECRET-KEY-1")
    (ferry.directory / "link.jsonl").symlink_to("e.jsonl")
    before = {name: (ferry.directory / name).read_bytes() for name in ferry.names()}
    assert f"cannot be written: it is what '{named}" in ferry.refused(*words.split(), status=2)
    assert {name: (ferry.directory / name).read_bytes() for name in ferry.names()} == before


def test_what_is_no_file_may_be_written_twice(ferry: Ferry, store: str) -> None:
    ferry.done("export", store, "/dev/null", "--rules", "rules.toml", "--report", "/dev/null")


# dry runs

DIFF = """\
TYPE_1 of 'aggregate-1' at threadId 1, threadCounter 0
  - /type "TYPE_1"
  + /type "RENAMED"
"""

TYPES = """\
      before        after
          20           20 TYPE_0
          20            0 TYPE_1
          20            0 TYPE_2
           0           20 RENAMED
"""


@pytest.mark.parametrize("way", ["copy", "import", "export", "incremental-import"])
def test_a_dry_run_shows_the_first_changes_and_stores_nothing(ferry: Ferry, store: str, way: str) -> None:
    source = store if way != "import" else ferry.file("a.jsonl", ferry.exported(store))
    before = ferry.names()
    outcome = ferry.done(
        way, source, "out" if way == "export" else "b.db", "--rules", "rules.toml", "--dry-run"
    )
    if way != "incremental-import":
        assert outcome.out.startswith(DIFF)
        assert "60 read, 20 dropped, 20 changed, 20 untouched" in outcome.err
    assert outcome.out.endswith(TYPES)
    assert outcome.out.count("RENAMED") == 6  # five events, and the count
    assert ferry.names() == before


def test_a_dry_run_needs_no_change_and_reads_all(ferry: Ferry, store: str) -> None:
    ferry.file("a.jsonl", ferry.exported(store))
    outcome = ferry.done("import", "a.jsonl", "b.db", "--dry-run")
    assert "20           20 TYPE_0" in outcome.out
    assert outcome.err == "nothing was stored; 60 read, 60 untouched\n"
    (ferry.directory / "a.jsonl").write_bytes(ferry.exported(store) + b"{}\n")
    assert "line 61" in ferry.refused("import", "a.jsonl", "b.db", "--dry-run")


def test_a_dry_run_as_json_has_the_first_changes(ferry: Ferry, store: str) -> None:
    told = ferry.done("copy", store, "b.db", "--function", "loud:twice", "--dry-run", "--json").json
    assert told["changes"]["split"] == 20
    first = told["firstChanged"][0]
    assert first["before"] == make_event(0)
    assert [event["type"] for event in first["after"]] == ["TYPE_0", "COPY"]
    assert len(told["firstChanged"]) == 5


def test_the_diff_shows_members_that_come_go_and_change(ferry: Ferry, store: str) -> None:
    event = make_event(0, payload={"a/b": [1, {"x": None}], "gone": 1, "same": 2})
    ferry.file("one.jsonl", line(event))
    ferry.file(
        "edit.py",
        b"import msgspec\n"
        b"def edit(event):\n"
        b"    payload = {'a/b': [1, {'x': 'new'}, 3], 'same': 2}\n"
        b"    return msgspec.structs.replace(event, payload=payload)\n",
    )
    outcome = ferry.done("import", "one.jsonl", "b.db", "--function", "edit:edit", "--dry-run")
    assert outcome.out.splitlines()[1:6] == [
        "  - /payload/a~1b/1/x null",
        '  + /payload/a~1b/1/x "new"',
        "  + /payload/a~1b/2 3",
        "  - /payload/gone 1",
        "      before        after",
    ]


# resume


def interrupted(ferry: Ferry, source: bytes, **changes: Any) -> None:
    """Begin a changed import into b.db whose source breaks off when some of it is committed."""

    async def begin(store: EventStore) -> None:
        await store.init()
        sink = store.import_events()

        async def broken() -> AsyncIterator[bytes]:
            for at in range(0, len(source), 500):
                yield source[at : at + 500]
            while not sink.saved_events_count:
                await asyncio.sleep(0.01)
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await pipeline(broken(), Changes(**changes), sink)

    ferry.in_store("b.db", begin)


def test_a_changed_import_goes_on_where_it_was_interrupted(
    ferry: Ferry, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replacement, "batch_bytes", 500)
    source = ferry.exported(store)
    interrupted(ferry, source[:5000], rules=ferry.directory / "rules.toml")
    words = ("import", ferry.file("a.jsonl", source), "b.db", "--resume")
    told = ferry.refused(*words, "--type", "TYPE_1")
    assert "changed in another way (by other rules): import without --resume to start over" in told
    told = ferry.done(*words, "--rules", "rules.toml", "--json").json
    assert (told["imported"], told["changes"]["read"]) == (40, 60)
    assert told_of(parsed(ferry.exported("b.db"))) == changed()


@pytest.mark.slow
def test_a_changed_import_that_was_killed_goes_on_as_if_nothing_had_been(ferry: Ferry, store: str) -> None:
    source = b"".join(line(make_event(i, payload={"number": i, "text": "x" * 1000})) for i in range(12_000))
    child = ferry.start("import", "-", "b.db", "--rules", "rules.toml")
    sent(child.stdin).write(source[:12_500_000])
    sent(child.stdin).flush()
    begun = None
    while begun is None or not begun.imported:
        assert child.poll() is None
        with suppress(StoreNotFoundError):  # it is about to be made
            begun = ferry.in_store("b.db", EventStore.import_progress)
    child.kill()
    child.wait()
    told = ferry.done("import", "-", "b.db", "--rules", "rules.toml", "--resume", "--json", stdin=source).json
    assert (told["imported"], told["changes"]["dropped"]) == (8_000, 4_000)
    ferry.done("import", "-", "c.db", "--rules", "rules.toml", stdin=source)
    assert ferry.exported("b.db") == ferry.exported("c.db")


# what is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--rules", "none.toml"), "none.toml"),
        (("--function", "none:f"), "function: 'none:f' cannot be loaded"),
        (("--function", "loud"), "MODULE:FUNCTION"),
        (("--aggregate-prefix", ""), "--aggregate-prefix contains an empty string"),
        (("--report", "-"), "--report writes a file"),
        (("--from", "2026-01-02", "--until", "2026-01-01"), "--from is later than --until"),
        (("--from", "2026-01-02", "--from", "2026-01-01"), "--from is given once for a time"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("way", ["copy", "incremental-import"])
def test_what_is_wrong_is_told_before_a_store_is_made(
    ferry: Ferry, store: str, way: str, words: tuple[str, ...], told: str
) -> None:
    outcome = ferry(way, store, "b.db", *words)
    assert outcome.status in (1, 2)
    assert told in outcome.err
    assert "b.db" not in ferry.names()


@pytest.mark.parametrize("words", [("--rules", "rules.toml"), ("--type", "T"), ("--until", "2026-01-01")])
def test_a_manual_import_changes_nothing(ferry: Ferry, store: str, words: tuple[str, ...]) -> None:
    ferry.file("a.jsonl", ferry.exported(store))
    assert "--manual" in ferry.refused("import", "a.jsonl", "b.db", "--manual", *words, status=2)


def test_an_unknown_key_is_refused_or_dropped_as_without_changes(ferry: Ferry, store: str) -> None:
    ferry.file("a.jsonl", line(make_event(0) | {"extra": 1}))
    assert "extra" in ferry.refused("import", "a.jsonl", "b.db", "--rules", "rules.toml")
    ferry.done("import", "a.jsonl", "b.db", "--rules", "rules.toml", "--ignore-unknown-keys")
    assert ferry.exported("b.db") == line(make_event(0))


def test_a_wrong_line_is_told_by_its_place_in_the_source(ferry: Ferry, store: str) -> None:
    lines = [line(make_event(i, type="TYPE_2")) for i in range(5)]
    ferry.file("a.jsonl", b"".join(lines) + b"{}\n")
    told = ferry.refused("import", "a.jsonl", "b.db", "--rules", "rules.toml")
    assert told.startswith(f"eventferry: line 6, byte {sum(map(len, lines))}")

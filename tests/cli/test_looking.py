"""The commands that look into a store: what people read, what machines read, and no secret in either."""

from __future__ import annotations

import json
import stat
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from eventferry.looking.counting import Point, Timeline
from eventferry.looking.plots import bars, sparkline
from tests.cli.test_words import MOVING, NASTY, SHOWN
from tests.support import line, make_event, make_lines
from tests.support.cli import PATIENCE, Ferry, new_ferry, sent
from tests.support.sqlite import connect

ferry = pytest.fixture(new_ferry)

HISTORY = [
    make_event(
        0, aggregateId="a", aggregateVersion=1, payload={"name": "Ann", "password": "p4ss", "mail": "a@x"}
    ),
    make_event(1, aggregateId="b", aggregateVersion=1, payload=None),
    make_event(
        3, aggregateId="a", aggregateVersion=2, payload={"name": "Eve", "password": "n3w", "mail": "e@x"}
    ),
]


def store_of(ferry: Ferry, events: list[dict[str, object]]) -> str:
    ferry.done("import", "-", "a.db", stdin=b"".join(map(line, events)))
    return "a.db"


def test_stats_are_told_to_people_and_to_machines(ferry: Ferry) -> None:
    ferry.done("import", "-", "a.db", stdin=make_lines(1200))
    told = ferry.done("stats", "a.db", "--top", "2", "--plot", "plot.svg")
    assert "1,200 events of 3 types and 10 aggregates" in told.out
    assert told.out.count("TYPE_") == 4
    assert "█" in told.out
    root = ET.fromstring((ferry.directory / "plot.svg").read_text())
    assert root.tag.endswith("svg")
    found = ferry.done("stats", "a.db", "--json", "--type", "TYPE_0", "--by", "second").json
    assert found["types"]["events"] == 400
    assert sum(point["events"] for point in found["timeline"]["points"]) == 400
    ferry.done("init", "empty.db")
    assert ferry.done("stats", "empty.db", "--plot", "none.svg").out == "no events\n"


def test_a_plot_is_written_like_every_other_file(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    before = (ferry.directory / "a.db").read_bytes()
    assert "it is a SQLite database" in ferry.refused("stats", "a.db", "--plot", "a.db")
    assert "belongs to one" in ferry.refused("stats", "a.db", "--plot", "a.db-wal")
    assert (ferry.directory / "a.db").read_bytes() == before
    (ferry.directory / "plot.svg").touch(0o640)
    ferry.done("stats", "a.db", "--plot", "plot.svg")
    assert stat.S_IMODE((ferry.directory / "plot.svg").stat().st_mode) == 0o640
    assert ferry.names() == {"a.db", "plot.svg"}


def test_the_tail_is_shown_without_secrets(ferry: Ferry) -> None:
    store = store_of(ferry, HISTORY)
    lines = ferry.done("tail", store, "-n", "1", "--mask", "/mail").out
    assert lines.count("\n") == 1
    assert '{"name":"Eve","password":"***","mail":"***"}' in lines
    [event] = map(
        json.loads, ferry.done("tail", store, "-n", "1", "--json", "--show-secrets").out.splitlines()
    )
    assert event["payload"]["password"] == "n3w"
    assert ferry.done("tail", store, "-n", "0").out == ""


def test_the_tail_goes_on_with_what_comes(ferry: Ferry) -> None:
    store = store_of(ferry, HISTORY)
    child = ferry.start("tail", store, "--follow", "-n", "1", "--type", "TYPE_0", "--json")

    def shown() -> dict[str, Any]:
        event: dict[str, Any] = json.loads(sent(child.stdout).readline())
        return event

    assert shown()["payload"]["name"] == "Eve"
    for number, kind in enumerate(("TYPE_0", "TYPE_1", "TYPE_0")):
        event = make_event(9, type=kind, aggregateId=f"n{number}", payload={"password": number})
        ferry.done("incremental-import", "-", store, "--older", "accept", stdin=line(event))
    assert [(shown()["aggregateId"], shown()["aggregateId"])] == [("n0", "n2")]
    child.terminate()
    assert child.wait(PATIENCE) == 143
    assert sent(child.stdout).read() == b""


def test_a_history_shows_what_changed(ferry: Ferry) -> None:
    store = store_of(ferry, HISTORY)
    told = ferry.done("show", store, "a").out.splitlines()
    assert told[0].endswith("0:0  TYPE_0  a v1")
    assert told[-3:] == [
        '  ~ /name: "Ann" → "Eve"',
        '  ~ /password: "***" → "***"',
        '  ~ /mail: "a@x" → "e@x"',
    ]
    page = ferry.done("show", store, "a", "--limit", "1", "--json").json
    assert page["nextVersion"] == 2
    assert "continue with --from-version 2" in ferry.done("show", store, "a", "--limit", "1").err
    assert ferry("show", store, "nobody").status == 1


def test_an_event_is_shown_by_its_position(ferry: Ferry) -> None:
    store = store_of(ferry, [*HISTORY, make_event(4, aggregateId="0:0", aggregateVersion=1)])
    assert '  "name": "Ann",' in ferry.done("show", store, "0:0").out
    assert ferry.done("show", store, "1:0", "--json").json["aggregateId"] == "b"
    assert "0:0 v1" in ferry.done("show", store, "0:0", "--aggregate").out
    assert "--aggregate" in ferry("show", store, "9:9").err


def test_a_search_goes_on_from_its_cursor(ferry: Ferry) -> None:
    ferry.done("import", "-", "a.db", stdin=make_lines(300))
    first = ferry.done("search", "a.db", "--path", "/number=7", "--scan", "100", "--json").json
    assert [event["payload"] for event in first["events"]] == [{"number": 7}]
    assert (first["scanned"], first["isEnd"]) == (100, False)
    rest = ferry.done("search", "a.db", "--path", "/number=107", "--cursor", first["cursor"])
    assert "1 event found among 200" in rest.err
    assert "aggregate-7 v11" in rest.out
    assert ferry.done("search", "a.db", "AGGREGATE-3", "--type", "TYPE_0", "--json").json["scanned"] == 300
    assert ferry("search", "a.db").status == 2
    assert ferry("search", "a.db", "--path", "number").status == 2


def test_a_trace_shows_effects_below_their_causes(ferry: Ferry) -> None:
    def meta(id: str, cause: str | None) -> dict[str, object]:
        metadata = {"correlationid": "c1"} | ({} if cause is None else {"causationid": cause})
        return {
            "data": id,
            "meta": {"id": id, "position": None, "version": None, "time": None, "metadata": metadata},
        }

    events = [
        make_event(0, aggregateId="a", aggregateVersion=1, payload=meta("1", None)),
        make_event(1, aggregateId="b", aggregateVersion=1, payload=meta("2", None)),
        make_event(2, aggregateId="c", aggregateVersion=1, payload=meta("3", "1")),
    ]
    told = ferry.done("trace", store_of(ferry, events), "c1")
    assert [text[: text.index("2020")] for text in told.out.splitlines()] == ["", "  ", ""]
    assert "c v1" in told.out.splitlines()[1]
    assert "3 events found" in told.err
    masked = ferry.done(
        "trace", "a.db", "c1", "--json", "--mask", "/meta/id", "--mask", "/meta/metadata/causationid"
    )
    assert {(each["id"], each["causationId"]) for each in masked.json["events"]} == {
        ("***", None),
        ("***", "***"),
    }


def test_the_event_that_a_function_refuses_is_found(ferry: Ferry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ferry.directory)
    ferry.done("import", "-", "a.db", stdin=make_lines(20))
    ferry.file("my_check.py", b"def check(event):\n    assert event.payload['number'] != 7, 'no seven'\n")
    found = ferry("find-poison", "a.db", "my_check:check", "--json")
    assert found.status == 1
    assert (found.json["event"]["payload"], found.json["error"]) == (
        {"number": 7},
        "AssertionError: no seven",
    )
    rest = ferry.done("find-poison", "a.db", "my_check:check", "--cursor", found.json["cursor"])
    assert "none of 12 events was refused" in rest.err
    assert ferry("find-poison", "a.db", "nothing").status == 2


REFUSALS = """
import os, sys, time


def check(event):
    print("looking at", event.payload["number"])
    if event.payload["number"] == 7:
        WHAT


def fork(event):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
"""


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("os._exit(3)", "the process of the function my_check:check was ended with status 3"),
        ("os.kill(os.getpid(), 11)", "the process of the function my_check:check was ended by signal 11"),
        ("os.fork() or time.sleep(600); os._exit(0)", "ended with status 0"),
        pytest.param("while True: pass", "it took longer than 10 s", marks=pytest.mark.slow),
        ("sys.exit(4)", "SystemExit: 4"),
    ],
)
def test_a_function_may_end_its_process_or_never_come_back(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch, what: str, error: str
) -> None:
    monkeypatch.syspath_prepend(ferry.directory)
    ferry.done("import", "-", "a.db", stdin=make_lines(20))
    ferry.file("my_check.py", REFUSALS.replace("WHAT", what).encode())
    found = ferry("find-poison", "a.db", "my_check:check", "--json", "--timeout", "10")
    assert found.status == 1
    assert found.json["event"]["payload"] == {"number": 7}
    assert error in found.json["error"]
    assert found.json["scanned"] == 8
    assert "looking at 7" in found.err


def test_a_function_may_fork(ferry: Ferry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ferry.directory)
    ferry.done("import", "-", "a.db", stdin=make_lines(20))
    ferry.file("my_fork.py", REFUSALS.encode())
    assert "none of 20 events was refused" in ferry.done("find-poison", "a.db", "my_fork:fork").err


def test_what_events_hold_harms_no_terminal(ferry: Ferry) -> None:
    event = make_event(0, aggregateId=f"a{NASTY}", type=f"T{NASTY}", payload={NASTY: NASTY})
    store = store_of(ferry, [event, event | {"threadCounter": 1, "aggregateVersion": 2, "payload": NASTY}])
    for words in (("stats", store), ("tail", store), ("show", store, "0:1"), ("search", store, "title")):
        told = ferry.done(*words)
        assert not MOVING.search(told.out + told.err)
        assert SHOWN in told.out


def test_a_sparkline_is_as_high_as_its_events() -> None:
    timeline = Timeline(10, [Point(0, 1), Point(10, 8), Point(30, 4)])
    assert sparkline(timeline, 80) == "▁█ ▄"
    assert bars(timeline, 2) == [9, 4]
    assert sparkline(Timeline(10, []), 80) == ""


def test_all_differences_are_shown_side_by_side(ferry: Ferry) -> None:
    events = [make_event(i, payload={"number": i, "token": i}) for i in range(40)]
    a = ferry.file("a.jsonl", b"".join(map(line, events)))
    others = [event | {"payload": {"number": -1, "token": "t"}} for event in events[:30]] + [make_event(99)]
    b = ferry.file("b.jsonl", b"".join(map(line, others)))
    told = ferry("diff", a, b)
    assert told.status == 1
    assert told.out.count("  ~ /number: ") == 30
    assert '  ~ /number: 3 → -1\n  ~ /token: "***" → "***"' in told.out
    assert '  A: {"number":35,"token":"***"}' in told.out
    assert '  B: {"number":99}' in told.out
    assert "10 missing in b.jsonl, 1 extra, 30 changed; 40 and 31 events" in told.err
    found = [json.loads(text) for text in ferry("diff", a, b, "--json").out.splitlines()]
    assert len(found) == 41
    assert {each["difference"]["kind"] for each in found} == {"missing", "extra", "changed"}
    assert ferry.done("diff", a, a).err == "equal: 40 events\n"
    content = ferry("diff", a, b, "--content", "--json").out.splitlines()
    assert len(content) == 71


def test_differences_are_told_of_the_events_that_are_asked_for(ferry: Ferry) -> None:
    store = ferry.store("a.db", 40)
    ferry.done("export", store, "some.jsonl", "--type", "TYPE_1")
    assert (
        ferry.done("diff", store, "some.jsonl", "--type", "TYPE_1", "--content").err == "equal: 13 events\n"
    )
    assert ferry("diff", store, "some.jsonl").err.endswith(
        "27 missing in some.jsonl, 0 extra, 0 changed; 40 and 13 events\n"
    )
    until = ferry.done("follow", store, "--once").err.strip()
    ferry.done("copy", store, "b.db")
    ferry.done("incremental-import", "-", store, stdin=line(make_event(50)))
    assert "1 missing in b.db" in ferry("diff", store, "b.db").err
    assert ferry.done("diff", store, "b.db", "--until", until).err == "equal: 40 events\n"
    ferry.file("rules.toml", b"[[rule]]\nremove = ['/number']\n")
    told = ferry("diff", store, "b.db", "--until", until, "--rules", "rules.toml", "--keep-positions")
    assert told.out.count("+ /number: ") == 40


def test_what_a_foreign_writer_let_in_is_shown_or_refused_by_name(ferry: Ferry) -> None:
    ferry.done("import", "-", "a.db", stdin=make_lines(2))
    with connect(ferry.directory / "a.db") as file, file:
        file.execute(r"""UPDATE events SET payload = '{"a":"\ud800"}' WHERE "threadId" = 0""")
    for command in (("tail", "a.db"), ("tail", "a.db", "--json"), ("search", "a.db", "a", "--path", "/a")):
        assert r'{"a":"\ud800"}' in ferry.done(*command).out
    assert r"\ud800" in ferry.done("show", "a.db", "0:0").out
    with connect(ferry.directory / "a.db") as file, file:
        file.execute("UPDATE events SET payload = 'no JSON' WHERE \"threadId\" = 0")
    for command in (("tail", "a.db"), ("show", "a.db", "0:0"), ("show", "a.db", "aggregate-0")):
        assert "damaged: the payload is not JSON: ***" in ferry.done(*command).out
    [first, second] = map(json.loads, ferry.done("tail", "a.db", "--json", "--show-secrets").out.splitlines())
    assert (first["payload"], first["damage"]) == ("no JSON", "the payload is not JSON")
    assert "damage" not in second
    found = ferry("find-poison", "a.db", "builtins:repr")
    assert (found.status, "refused: the payload is not JSON" in found.err) == (1, True)

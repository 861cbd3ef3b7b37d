"""What the command says to people: nothing that moves a terminal, its own options, rates that mean something."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from eventferry.cli.terminal import Extent, progress_text, rate
from eventferry.visible import visible
from tests.support import line, make_event, make_lines
from tests.support.cli import PATIENCE, Ferry, environment, new_ferry, process

ferry = pytest.fixture(new_ferry)

NASTY = "\x1b[31m\x1b]0;title\x07\n\r\x9b2J\u202edrow\u2066\u2028\x7f"
SHOWN = r"\u001b[31m\u001b]0;title\u0007\n\r\u009b2J\u202edrow\u2066\u2028\u007f"
MOVING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def new(**fields: object) -> bytes:
    return json.dumps({"type": "T", "timestamp": 1, "aggregateId": "a"} | fields).encode() + b"\n"


def test_what_would_move_a_terminal_is_escaped_as_json_escapes_it() -> None:
    assert visible(NASTY) == SHOWN
    assert json.loads(f'"{visible(NASTY)}"') == NASTY
    assert visible("größe 🚢 \\ 'x' \"y\"") == "größe 🚢 \\ 'x' \"y\""
    assert visible("\udcff.jsonl") == r"\udcff.jsonl"


def test_ids_and_types_of_events_are_told_on_one_line_and_harm_no_terminal(ferry: Ferry) -> None:
    a = ferry.file("a.jsonl", new(type=f"T{NASTY}", aggregateId=f"a{NASTY}"))
    b = ferry.file("b.jsonl", new())
    told = ferry("verify", "--content", a, b)
    assert told.status == 1
    assert len(told.out.splitlines()) == 2
    assert not MOVING.search(told.out + told.err)
    assert f"a{SHOWN}, T{SHOWN}" in told.out

    sick = [make_event(0, aggregateId=NASTY), make_event(0, aggregateId=NASTY)]
    told = ferry("verify", ferry.file("sick.jsonl", b"".join(map(line, sick))))
    assert told.status == 1
    assert not MOVING.search(told.out + told.err)


@pytest.mark.parametrize(
    "words",
    [
        ["verify", f"{NASTY}.jsonl"],
        ["import", f"{NASTY}.jsonl", "a.db"],
        ["export", "a.db", f"nowhere/{NASTY}"],
        ["describe", f"{NASTY}.db"],
        ["describe", NASTY],
        ["init", f"sqlite:///{NASTY}/a.db"],
        ["init", f"sqlite:///a.db?{NASTY}=1"],
        ["init", "a.db", NASTY],
        [NASTY],
        ["export", f"--{NASTY}"],
        ["events", "a.db", "--from", NASTY],
        ["events", "a.db", "--cursor", NASTY],
        ["incremental", "commit", NASTY, "a.db"],
        ["token", "revoke", NASTY, "--tokens", "tokens.json"],
    ],
    ids=lambda words: " ".join(words)[:30].encode("unicode_escape").decode(),
)
def test_an_argument_is_told_without_what_moves_a_terminal(ferry: Ferry, words: list[str]) -> None:
    ferry.store("a.db", 3)
    told = ferry(*words)
    assert told.status != 0
    assert not MOVING.search(told.out + told.err)


def test_names_in_a_description_and_in_the_log_are_escaped(ferry: Ferry) -> None:
    place = "new\x1b[31m\nline.db"
    told = process("-v", "init", place)
    assert told.status == 0
    assert not MOVING.search(told.err)
    told = process("describe", place)
    assert "new\\u001b[31m\\nline.db" in told.out
    assert not MOVING.search(told.out)
    logged = process("freeze", place, "-v", "--log-format", "json")
    assert not MOVING.search(logged.err)
    assert json.loads(logged.err.splitlines()[0])["store"] == place


def test_lines_of_data_are_not_touched(ferry: Ferry) -> None:
    ferry.done("incremental-import", "-", "a.db", stdin=new(aggregateId=NASTY))
    (event,) = ferry.done("events", "a.db", "--json").json["events"]
    assert event["aggregateId"] == NASTY
    report = ferry("verify", "a.db", ferry.file("b.jsonl", make_lines(1)), "--json").json
    assert NASTY in {each["aggregateId"] for each in report["differences"]}


# options


@pytest.mark.parametrize(
    ("words", "stdin", "names"),
    [
        ("import - new.db", line(make_event(0)).replace(b"}\n", b',"more":1}\n'), "--ignore-unknown-keys"),
        ("incremental-import - a.db", new(more=1), "--ignore-unknown-keys"),
        ("import - a.db --replace", b"", "--allow-empty"),
        ("events a.db --from 2 --until 1", b"", "--from is later than --until"),
    ],
)
def test_errors_name_the_options_of_the_command(ferry: Ferry, words: str, stdin: bytes, names: str) -> None:
    ferry.store("a.db", 3)
    told = ferry(*words.split(), stdin=stdin)
    assert told.status in (1, 2)
    assert names in told.err
    assert not re.search(r"ignore_unknown_keys|allow_empty|start_time|max_line_bytes", told.err)


@pytest.mark.slow
def test_a_resume_from_another_source_names_the_option(ferry: Ferry) -> None:
    many = b"".join(line(make_event(i, payload="x" * 400)) for i in range(40_000))
    child = ferry.start("import", "-", "a.db")
    assert child.stdin is not None
    child.stdin.write(many[:12_000_000])
    child.kill()
    child.wait()
    told = ferry.refused("import", "-", "a.db", "--resume", stdin=many.replace(b"x", b"y"))
    assert "--resume" in told


# --quiet


def test_quiet_says_nothing_unless_something_is_wrong(ferry: Ferry) -> None:
    for words in (
        "init a.db -q",
        "incremental-import - a.db --quiet",
        "-q export a.db a.jsonl",
        "copy a.db b.db -q",
        "sync b.db c.db -q",
        "verify a.db b.db -q",
        "backup -q a.db repo",
        "restore repo d.db -q",
        "backup check repo -q",
        "freeze a.db -q",
        "erase b.db --list -q",
        "drop b.db --yes -q",
    ):
        told = ferry.done(*words.split(), stdin=new())
        assert (told.out, told.err) == ("", ""), words
    assert ferry.done("describe", "a.db", "-q").out != ""
    assert ferry.done("events", "a.db", "-q").out.encode() != b""
    assert "a.db" in ferry.refused("init", "a.db", "-q")
    assert ferry(
        "verify", "--content", "a.db", ferry.file("b.jsonl", new(aggregateId="b")), "-q"
    ).err.startswith("unequal")
    assert (
        "warning: skipped 1 event older"
        in ferry.done("incremental-import", "-", "d.db", "-q", stdin=new(timestamp=0)).err
    )


# progress


def test_progress_tells_share_size_rate_and_time_left() -> None:
    assert (
        progress_text(Extent(2_700_000), 1_215_000, 10) == "45 %, 1.2 MB of 2.7 MB, 121.5 kB/s, 0:00:12 left"
    )
    assert progress_text(Extent(1000, "event"), 250, 2) == "25 %, 250 of 1,000 events, 125/s, 0:00:06 left"
    assert progress_text(Extent(None, "event"), 2500, 2) == "2,500 events, 1,250/s"
    assert progress_text(Extent(None), 5_000_000, 2) == "5.0 MB, 2.5 MB/s"
    assert progress_text(Extent(1000), 0, 2) == "0 %, 0 bytes of 1.0 kB, 0 bytes/s"
    assert progress_text(Extent(1000), 2000, 2).startswith("100 %, ")  # a file that grows


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("incremental-import packed.jsonl new.db", "importing"),  # whatever its name is, it is packed
        ("copy a.db c.db", "of 3,000 events"),
        ("export a.db new.jsonl", "of 3,000 events"),
        ("verify a.db a.db", "of 3,000 events"),
    ],
)
def test_a_long_operation_shows_on_a_terminal_how_far_it_is(ferry: Ferry, words: str, shown: str) -> None:
    store = ferry.store("a.db", 3000)
    ferry.file("packed.jsonl", gzip.compress(ferry.exported(store)))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 200))
    child = ferry.start(*words.split(), stderr=theirs, env=environment(TERM="xterm-256color"))
    os.close(theirs)
    told = b""
    with contextlib.suppress(OSError):  # it has ended
        while part := os.read(ours, 65536):
            told += part
    os.close(ours)
    assert child.wait(PATIENCE) == 0
    assert shown in told.decode()
    assert "100 %, " in told.decode()
    assert "left" in told.decode()


# rates


def test_a_rate_is_told_of_many_events_only() -> None:
    assert rate(1, 0.0127) == "1 event in 0.0 s"
    assert rate(999, 0.1) == "999 events in 0.1 s"
    assert rate(650_000, 2.1) == "650,000 events in 2.1 s (309,524/s)"


# times


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--until 2026-01-31T23:59:59.999999", ["JANUARY"]),
        ("--until 2026-01-31T23:59:59.999", ["JANUARY"]),
        ("--until 2026-01-31T23:59:59.998999", []),
        ("--from 2026-01-31T23:59:59.999", ["JANUARY", "FEBRUARY"]),
        ("--from 2026-01-31T23:59:59.999001", ["FEBRUARY"]),
        ("--from 2026-01-31T23:59:59.9990001Z", ["FEBRUARY"]),
        ("--from 2026-01-31T23:59:59.9990000Z", ["JANUARY", "FEBRUARY"]),
        ("--from 20260131T235959,999000001+00:00", ["FEBRUARY"]),
        ("--until 2026-01-31T23:59:59.9990001Z", ["JANUARY"]),
        ("--from 2026-02-01", ["FEBRUARY"]),
    ],
)
def test_a_time_between_two_milliseconds_takes_in_neither_too_much_nor_too_little(
    ferry: Ferry, words: str, found: list[str]
) -> None:
    lines = new(type="JANUARY", timestamp=1769903999999) + new(type="FEBRUARY", timestamp=1769904000000)
    ferry.done("incremental-import", "-", "a.db", stdin=lines)
    events = ferry.done("events", "a.db", "--json", *words.split()).json["events"]
    assert [event["type"] for event in events] == found


def test_times_before_1970_are_exact_too(ferry: Ferry) -> None:
    ferry.store("a.db", [make_event(0, timestamp=0)])
    assert ferry.done("events", "a.db", "--until", "1969-12-31T23:59:59.999999").out == ""
    assert ferry.done("events", "a.db", "--from", "1969-12-31T23:59:59.999999").out != ""


# what was skipped


def test_a_status_of_its_own_says_that_older_events_were_skipped(ferry: Ferry) -> None:
    ferry.done("incremental-import", "-", "a.db", stdin=new(timestamp=5))
    older, mixed = new(timestamp=4), new(timestamp=4) + new(timestamp=6)
    assert ferry.done("incremental-import", "-", "a.db", stdin=older).status == 0
    for words in (["--dry-run"], [], ["--json"]):
        told = ferry("incremental-import", "-", "a.db", "--fail-if-skipped", *words, stdin=mixed)
        assert told.status == 3
        assert "skipped 1 event older" in told.err
    assert ferry.done("describe", "a.db", "--json").json["eventCount"] == 2  # what was not skipped is in
    for words in ([], ["--older", "accept"]):
        stdin = new(timestamp=6) if not words else older
        assert ferry("incremental-import", "-", "a.db", "--fail-if-skipped", *words, stdin=stdin).status == 0


def test_a_commit_tells_it_too(ferry: Ferry) -> None:
    ferry.done("incremental-import", "-", "a.db", stdin=new(timestamp=5))
    import_id = ferry.done("incremental", "begin", "a.db").out.strip()
    ferry.done("incremental", "push", import_id, "-", "a.db", stdin=new(timestamp=4) + new(timestamp=6))
    told = ferry("incremental", "commit", import_id, "a.db", "--fail-if-skipped", "--json")
    assert (told.status, told.json["skippedOlder"], told.json["imported"]) == (3, 1, 1)


# a store that an import was to make


@pytest.mark.parametrize(
    ("command", "content"),
    [
        ("import folder new.db", b""),
        ("incremental-import folder new.db", b""),
        ("import - new.db", b"{oops}\n"),
        ("import - new.db", new()),  # which has no position
        ("import - new.db --manual", b"{oops}\n"),
        ("import - new.db", make_lines(1)[:-9]),
        ("incremental-import - new.db", b"oops\n"),
        ("incremental-import - new.db", new(more=1)),
        ("copy missing.db new.db", b""),
    ],
)
def test_an_import_that_is_refused_at_its_first_line_makes_no_store(
    ferry: Ferry, command: str, content: bytes
) -> None:
    (ferry.directory / "folder").mkdir()
    told = ferry.refused(*command.split(), stdin=content)
    assert ferry.names() == {"folder"}
    if content == b"{oops}\n":
        assert "line 1" in told


# a process that is short of files


@pytest.mark.parametrize(
    ("ready", "call"),
    [
        ("", "store.describe()"),
        ("", "store.init()"),
        ("await store.describe()", "store.import_events(replace=True).begin()"),
        ("await store.describe()", "store.incremental_import([])"),
        ("await anext(export)", "store.describe()"),  # which asks whether the owner of the freeze lives
    ],
)
def test_too_many_open_files_are_no_lack_of_rights(ferry: Ferry, ready: str, call: str) -> None:
    if "init" not in call:
        ferry.store("a.db", 3)
    script = f"""
import asyncio, os, resource
from eventferry import AUTO, EventferryError, open_store

async def main():
    async with open_store("other.db") as other, open_store("a.db") as store, open_store("a.db") as freezer:
        await other.init()  # which loads what is needed
        await other.incremental_import([])
        export = freezer.export_events(maintenance_mode=AUTO)
        {ready}
        if "export" in {ready!r}:
            await store.describe()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        files = []
        try:
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        try:
            await {call}
        except EventferryError as error:
            told = error
        for file in files:
            os.close(file)
        print(type(told).__name__, told)
        await export.aclose()
        print(await store.exists() and (await store.describe()).event_count)

asyncio.run(main())
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=30)
    words, count = told.stdout.decode().splitlines()
    assert words.startswith("DatabaseError")
    assert "as many files open as it may" in words
    assert count == ("False" if "init" in call else "3")

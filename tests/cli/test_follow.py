"""The command follow, and bookmarks on the command line: each event at least once, or an error by name."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from eventferry.cli.checkpoint import Checkpoint
from eventferry.lines.files import FileSink
from eventferry.reading import bookmarks
from tests.support import line, make_event, make_lines
from tests.support.cli import Ferry, new_ferry, sent
from tests.support.restoring import heads_of, restore, save_more

ferry = pytest.fixture(new_ferry)

AT_ONCE = 20.0
"""Seconds within which a process ends, on a loaded machine too; what does not end would stay for ever."""

SMALL = ("--limit", "7")


def add(ferry: Ferry, store: str, *numbers: int) -> None:
    """Import more events of `make_event`, with new positions."""
    lines = b"".join(line(make_event(number)) for number in numbers)
    ferry.done("incremental-import", "-", store, stdin=lines)


def numbers(lines: bytes | str) -> list[int]:
    """Which of `make_event` these are."""
    return [json.loads(line)["payload"]["number"] for line in lines.splitlines()]


def lines_from(child: subprocess.Popen[bytes], count: int) -> bytes:
    return b"".join(sent(child.stdout).readline() for _ in range(count))


def bookmark_in(place: str) -> bookmarks.Written:
    """What a checkpoint holds."""
    return bookmarks.decode(Path(place).read_text().removesuffix("\n"))


# following


def test_it_prints_what_is_there_and_then_what_comes(ferry: Ferry) -> None:
    store = ferry.store("a.db", 20)
    child = ferry.start("follow", store, *SMALL)
    assert lines_from(child, 20) == make_lines(20)
    for number in (20, 21):
        add(ferry, store, number)
        assert numbers(lines_from(child, 1)) == [number]
    child.terminate()
    assert child.wait(AT_ONCE) == 143


def test_once_ends_when_all_is_read_with_the_bookmark_on_stderr(ferry: Ferry) -> None:
    store = ferry.store("a.db", 20)
    told = ferry.done("follow", store, "--once", *SMALL)
    assert told.out.encode() == make_lines(20)
    bookmark = told.err.strip()
    add(ferry, store, 20)
    again = ferry.done("follow", store, "--once", "--since", bookmark)
    assert numbers(again.out) == [20]
    assert ferry.done("follow", store, "--once", "--since", "now").out == ""
    assert ferry.done("follow", store, "--once", "--since", "start").out.encode() == ferry.exported(store)


def test_filters_choose_events(ferry: Ferry) -> None:
    store = ferry.store("a.db", 60)
    told = ferry.done("follow", store, "--once", "--type", "TYPE_1", "--aggregate-id", "aggregate-7")
    assert numbers(told.out) == [number for number in range(60) if number % 3 == 1 and number % 10 == 7]
    told = ferry.done(
        "follow", store, "--once", "--exclude-type", "TYPE_1", "--aggregate-prefix", "aggregate-7"
    )
    assert numbers(told.out) == [number for number in range(60) if number % 3 != 1 and number % 10 == 7]


def test_what_is_no_bookmark_is_a_usage_error(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    assert "a bookmark begins with" in ferry.refused("follow", store, "--since", "yesterday", status=2)
    assert "this is a cursor" in ferry.refused("follow", store, "--since", "A" * 2048, status=2)


# the checkpoint


def test_the_next_run_goes_on_at_the_checkpoint(ferry: Ferry) -> None:
    store = ferry.store("a.db", 20)
    words = ("follow", store, "--once", "--checkpoint", "at", *SMALL)
    assert ferry.done(*words).out.encode() == make_lines(20)
    assert ferry.done(*words).out == ""
    add(ferry, store, 20, 21)
    # --since is where one begins that has no checkpoint.
    assert numbers(ferry.done(*words, "--since", "start").out) == [20, 21]
    assert ferry.names() == {"a.db", "at"}


def test_from_now_on_is_not_forgotten_before_the_first_event(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    words = ("follow", store, "--since", "now", "--checkpoint", "at")
    child = ferry.start(*words)
    while "at" not in ferry.names():
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    add(ferry, store, 3)
    assert numbers(ferry.done(*words, "--once").out) == [3]


def test_where_it_begins_is_kept_before_anything_is_printed(ferry: Ferry) -> None:
    store = ferry.store("a.db", [make_event(i, payload="x" * 1000) for i in range(1000)])
    child = ferry.start("follow", store, "--checkpoint", "at")
    deadline = time.monotonic() + 20
    while "at" not in ferry.names():  # which its first page, that nobody reads, would never let come
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sum(bookmark_in("at").unread) == 0


def test_a_filter_does_not_hold_the_checkpoint_back(ferry: Ferry) -> None:
    store = ferry.store("a.db", 20)
    ferry.done("follow", store, "--once", "--checkpoint", "at", "--type", "NONE")
    assert sum(bookmark_in("at").unread) == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda each: each.name
)
def test_whatever_ends_it_each_event_comes(ferry: Ferry, number: signal.Signals) -> None:
    """A signal that can be heard cuts no line, and repeats none; after a kill the last page may come again."""
    count = 1500
    store = ferry.store("a.db", count)
    found: list[int] = []
    chance = random.Random(17)
    runs = 0
    while len(set(found)) < count:
        runs += 1
        child = ferry.start("follow", store, "--checkpoint", "at", "--limit", "40", bufsize=0)
        first = sent(child.stdout).readline()  # when it is at it
        time.sleep(chance.random() / 10)
        child.send_signal(number)
        out = first + sent(child.stdout).read()
        child.wait(AT_ONCE)
        whole, _, torn = out.rpartition(b"\n")
        new = numbers(whole)
        if number == signal.SIGKILL:
            assert new[0] <= len(set(found)), "an event is missing"
        else:
            assert not torn
            assert new[0] == len(found)
        found += new
        assert new == list(range(new[0], new[-1] + 1))
        assert sum(bookmark_in("at").unread) <= found[-1] + 1
    assert runs > 2
    ferry.done("follow", store, "--once", "--checkpoint", "at")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"torn", b"not a bookmark\n", b"\xff\x00" * 40_000], ids=repr
)
def test_a_checkpoint_that_holds_no_bookmark_is_an_error(ferry: Ferry, content: bytes) -> None:
    store = ferry.store("a.db", 3)
    if content == b"torn":
        ferry.done("follow", store, "--once", "--checkpoint", "at")
        content = (ferry.directory / "at").read_bytes()[:-9]
    ferry.file("at", content)
    told = ferry.refused("follow", store, "--once", "--checkpoint", "at")
    assert "the checkpoint at cannot be used" in told
    assert (ferry.directory / "at").read_bytes() == content


def test_a_checkpoint_of_another_store_is_an_error(ferry: Ferry) -> None:
    a, b = ferry.store("a.db", 3), ferry.store("b.db", 3)
    ferry.done("follow", a, "--once", "--checkpoint", "at")
    before = bookmark_in("at")
    assert "another store" in ferry.refused("follow", b, "--once", "--checkpoint", "at")
    assert bookmark_in("at") == before


def test_a_store_that_was_restored_or_replaced_is_an_error(ferry: Ferry) -> None:
    store = ferry.store("a.db", 30)
    backup = ferry.in_store(store, heads_of)
    words = ("follow", store, "--once", "--checkpoint", "at")

    async def save(opened: object) -> None:
        await save_more(f"sqlite:///{ferry.directory}/a.db", 5, "lost")

    ferry.in_store(store, save)
    ferry.done(*words)
    restore(f"sqlite:///{ferry.directory}/a.db", backup)
    assert "a backup was restored" in ferry.refused(*words)
    ferry.in_store(store, save)
    assert "a backup was restored" in ferry.refused(*words)
    ferry.done("import", "-", store, "--replace", stdin=make_lines(30))
    assert "replaced" in ferry.refused(*words)


def test_the_checkpoint_keeps_its_mode_and_a_link_stays_one(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    folder = ferry.directory / "state"
    folder.mkdir()
    os.symlink("state/at", "link")
    ferry.done("follow", store, "--once", "--checkpoint", "link")
    (folder / "at").chmod(0o640)
    add(ferry, store, 3)
    ferry.done("follow", store, "--once", "--checkpoint", "link")
    assert (ferry.directory / "link").is_symlink()
    assert stat.S_IMODE((folder / "at").stat().st_mode) == 0o640
    assert sum(bookmark_in("state/at").unread) == 4
    assert [path.name for path in folder.iterdir()] == ["at"]


@pytest.mark.parametrize(
    "place", ["/proc/at", "missing/at", "a.db", "a.db-wal", "/dev/null", "/dev/stdout", ".", "new/"]
)
def test_what_cannot_be_a_checkpoint_is_refused_before_the_first_line(ferry: Ferry, place: str) -> None:
    store = ferry.store("a.db", 3)
    ferry.refused("follow", store, "--once", "--checkpoint", place)
    assert ferry.exported(store) == make_lines(3)


def test_a_checkpoint_has_one_user_as_long_as_that_lives(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    os.symlink("at", "link")
    child = ferry.start("follow", store, "--checkpoint", "at")
    lines_from(child, 3)
    for name in ("at", "link"):
        assert "another process uses it" in ferry.refused("follow", store, "--once", "--checkpoint", name)
    child.kill()
    child.wait()
    ferry.file(".at.0123abcd.part", b"what a kill in the middle of a write leaves")
    ferry.done("follow", store, "--once", "--checkpoint", "link")
    assert ferry.names() == {"a.db", "at", "link"}


async def test_a_checkpoint_leaves_alone_what_is_being_written_beside_it_by_others(tmp_path: Path) -> None:
    for other in ("at.jsonl", "at.eu", "at.0123abcd.part", "x" * 100, "x" * 121):
        sink = FileSink(tmp_path / other)
        await sink.write(make_lines(1))
        for name in ("at", "x" * 120):
            with Checkpoint(str(tmp_path / name)):
                pass
        await sink.close()
        assert (tmp_path / other).read_bytes() == make_lines(1)


@pytest.mark.parametrize("length", [250, 255])
def test_a_checkpoint_has_any_name_that_a_file_can_have(ferry: Ferry, length: int) -> None:
    store = ferry.store("a.db", 3)
    for printed in (make_lines(3).decode(), ""):
        assert ferry.done("follow", store, "--once", "--checkpoint", "x" * length).out == printed
    assert ferry.names() == {"a.db", "x" * length}


async def test_a_checkpoint_with_a_long_name_removes_what_a_killed_user_left(tmp_path: Path) -> None:
    place = tmp_path / ("x" * 120)
    await FileSink(place).write(b"a bookmark")  # and nothing comes of it
    assert len(os.listdir(tmp_path)) == 1
    with Checkpoint(str(place)):
        pass
    assert os.listdir(tmp_path) == []


# a pipe


def test_a_checkpoint_is_not_ahead_of_a_reader_that_has_gone(ferry: Ferry) -> None:
    store = ferry.store(
        "a.db", [make_event(i, payload={"number": i, "fill": "x" * 500}) for i in range(2000)]
    )
    child = ferry.start("follow", store, "--checkpoint", "at", *SMALL, bufsize=0)
    seen = lines_from(child, 100)
    sent(child.stdout).close()
    assert child.wait(AT_ONCE) == 141
    # What is in the pipe when its reader goes is lost with it: 64 KiB at most.
    unread = sum(bookmark_in("at").unread)
    assert unread < 100 + 64 * 1024 // 500
    rest = numbers(ferry.done("follow", store, "--checkpoint", "at", "--once").out)
    assert rest == list(range(unread, 2000))
    assert numbers(seen) == list(range(100))


@pytest.mark.slow
def test_a_reader_that_goes_while_nothing_comes_is_noticed(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    child = ferry.start("follow", store)
    lines_from(child, 3)
    sent(child.stdout).close()
    assert child.wait(AT_ONCE) == 141


# bookmarks of the other commands


def test_events_and_exports_go_on_from_a_bookmark(ferry: Ferry) -> None:
    store = ferry.store("a.db", 30)
    page = ferry.done("events", store, "--limit", "10", "--json").json
    told = ferry.done("events", store, "--limit", "5", "--since", page["bookmark"])
    assert numbers(told.out) == list(range(10, 15))
    exported = ferry.done("export", store, "-", "--since", told.err.strip(), "--json")
    assert numbers(exported.out) == list(range(15, 30))
    end = json.loads(exported.err)["bookmark"]
    assert end == ferry.done("follow", store, "--once").err.strip()
    assert ferry.done("events", store, "--since", end).out == ""
    for words in (("--cursor", "A" * 2048), ("--from", "0"), ("--until", "2100-01-01")):
        assert "--since" in ferry.refused("events", store, "--since", end, *words, status=2)


def test_exports_and_copies_tell_the_bookmark_of_what_they_read(ferry: Ferry) -> None:
    store = ferry.store("a.db", 30)
    end = ferry.done("follow", store, "--once").err.strip()
    told = ferry.done("export", store, "a.jsonl", "--bookmark").err
    assert told.endswith(f"; bookmark {end}\n")
    assert ferry.done("export", store, "-", "--since", end).err.endswith(f"; bookmark {end}\n")
    assert ferry.done("export", store, "a.jsonl", "--json").json["bookmark"] == end
    told = ferry.done("copy", store, "b.db", "--bookmark").err
    assert told.endswith(f"; bookmark of the source {end}\n")
    for words in (("export", store, "a.jsonl"), ("copy", store, "c.db"), ("sync", store, "d.db")):
        assert "bookmark" not in ferry.done(*words).err
    assert ferry.done("copy", store, "b.db", "--replace", "--json").json["bookmark"] == end
    part = ferry.done("export", store, "part.jsonl", "--type", "TYPE_1", "--json").json
    assert part["bookmark"] == end
    early = ferry.done(
        "export", store, "early.jsonl", "--until", str(make_event(9)["timestamp"]), "--json"
    ).json
    assert len(ferry.done("events", store, "--since", early["bookmark"]).out.splitlines()) == 20
    assert "bookmark" not in ferry.done("import", "a.jsonl", "e.db", "--json").json

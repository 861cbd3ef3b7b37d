"""Imports and copies by several processes, and the steps of an import in parts."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import signal
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventferry import open_store
from tests.support import exported, line, make_event, make_lines
from tests.support.cli import Ferry, new_ferry
from tests.support.places import Places
from tests.support.raw import tables
from tests.support.small_backups import KEY, RECIPIENT

ferry = pytest.fixture(new_ferry)

SOME = 8000
BIG = b"".join(line(make_event(i, payload={"text": "x" * 200, "number": i})) for i in range(SOME))
"""Enough for more than one part, in the spelling of PostgreSQL."""


LINES = make_lines(6).splitlines(keepends=True)


@pytest.fixture(params=["postgresql", "mariadb"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with Places(request.param, tmp_path) as places:
        yield places.new_url()


def contents(url: str) -> bytes:
    async def read() -> bytes:
        async with open_store(url) as store:
            return await exported(store)

    return asyncio.run(read())


@pytest.mark.slow
def test_an_import_by_two_processes_is_the_same_store(ferry: Ferry, target: str) -> None:
    ferry.file("big.jsonl", BIG)
    told = ferry.done("import", "big.jsonl", target, "--jobs", "2", "--json")
    assert told.json == {"imported": SOME, "byteOffset": len(BIG)}
    assert contents(target) == BIG
    ferry.done("import", "big.jsonl", "b.db")
    copied = ferry.done("copy", "b.db", target, "--jobs", "2", "--replace", "--json").json
    assert copied["imported"] == SOME
    assert copied["bookmark"].startswith("ef1.")
    assert contents(target) == BIG


@pytest.mark.slow
def test_a_copy_by_two_processes_tells_the_bookmark_only_if_it_is_asked_for(
    ferry: Ferry, target: str
) -> None:
    ferry.store("a.db", 30)
    end = ferry.done("follow", "a.db", "--once").err.strip()
    copy = ("copy", "a.db", target, "--jobs", "2")
    assert "bookmark" not in ferry.done(*copy).err
    assert ferry.done(*copy, "--replace", "--bookmark").err.endswith(f"; bookmark of the source {end}\n")


@pytest.mark.slow
def test_a_wrong_line_is_told_by_its_place_in_the_file(ferry: Ferry) -> None:
    ferry.file("bad.jsonl", BIG + b"{}\n")
    told = ferry.refused("import", "bad.jsonl", "a.db", "--jobs", "2")
    assert f"line {SOME + 1}, byte {len(BIG)}" in told
    assert "a.db" not in ferry.names()


def test_several_files_of_every_kind_are_one_import_in_whatever_order_they_stand(ferry: Ferry) -> None:
    first, second, third = (b"".join(LINES[begin : begin + 2]) for begin in (0, 2, 4))
    ferry.file("1.jsonl", first.rstrip(b"\n"))
    ferry.file("2.jsonl.gz", gzip.compress(second))
    crc = f"{zlib.crc32(third):08x}"
    ferry.file("3.jsonl", third + b'{"endMark":{"events":2,"crc32":"%s"}}\n' % crc.encode())
    told = ferry.done("import", "3.jsonl", "1.jsonl", "2.jsonl.gz", "a.db", "--json")
    assert told.json == {"imported": 6, "files": 3}
    assert ferry.exported("a.db") == b"".join(LINES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"{}\n",
            "line 1, byte 0, field threadCounter: is missing (an incremental import gives positions to events), in "
            "bad.jsonl",
        ),
        (LINES[0], "of the part 'file 2 (bad.jsonl), bytes 0 to "),
        (
            LINES[2] + b'{"endMark":{"events":2,"crc32":"00000000"}}\n',
            "bad.jsonl: 2 events were exported, and 1 came",
        ),
    ],
)
def test_of_several_files_a_wrong_one_is_named_and_nothing_is_imported(
    ferry: Ferry, content: bytes, words: str
) -> None:
    ferry.file("good.jsonl", b"".join(LINES[:2]))
    ferry.file("bad.jsonl", content)
    assert words in ferry.refused("import", "good.jsonl", "./bad.jsonl", "a.db")
    assert "a.db" not in ferry.names()


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("-", (), "need ordinary files"),
        ("packed.jsonl", (), "needs a plain file"),
        ("marked.jsonl", (), "has an end mark"),
        ("a.jsonl a.jsonl", ("--type", "T"), "cannot be combined"),
        ("a.jsonl -", (), "need ordinary files"),
        ("a.jsonl sqlite:///other.db", (), "is a store: copy takes one"),
        ("a.jsonl", ("--type", "T"), "cannot be combined"),
        ("a.jsonl", ("--resume",), "cannot be combined"),
        ("a.jsonl", ("--manual",), "cannot be combined"),
        ("missing.jsonl", (), "there is no file"),
    ],
)
def test_what_several_processes_cannot_import_is_refused(
    ferry: Ferry, source: str, options: tuple[str, ...], words: str
) -> None:
    ferry.file("a.jsonl", make_lines(3))
    ferry.file("packed.jsonl", gzip.compress(make_lines(3)))
    ferry.file("marked.jsonl", make_lines(3) + b'{"endMark":{"events":3,"crc32":"00000000"}}\n')
    outcome = ferry("import", *source.split(), "b.db", "--jobs", "2", *options)
    assert outcome.status in (1, 2)
    assert words in outcome.err
    assert "b.db" not in ferry.names()


def test_the_steps_of_an_import_in_parts(ferry: Ferry) -> None:
    ferry.store("a.db", 5)
    first, second = ferry.file("first.jsonl", make_lines(2)), ferry.file("all.jsonl", make_lines(4))
    rest = ferry.file("second.jsonl", make_lines(4)[len(make_lines(2)) :])
    assert "already holds events" in ferry.refused("parts", "begin", "a.db")
    import_id = ferry.done("parts", "begin", "a.db", "--replace").out.strip()
    assert f"partsImport           {import_id}" in ferry.done("describe", "a.db").out
    ferry.done("parts", "push", import_id, "1", second, "a.db")
    assert ferry.done("parts", "push", import_id, "1", first, "a.db").err == "pushed 2 events\n"
    again = ferry.done("parts", "push", import_id, "1", first, "a.db").err
    assert again == "pushed 2 events, which were there already\n"
    ferry.done("parts", "push", import_id, "2", rest, "a.db")
    assert ferry.done("parts", "commit", import_id, "a.db", "--json").json == {"imported": 4}
    assert "imported 4 events" in ferry.done("parts", "commit", import_id, "a.db").err
    assert ferry.exported("a.db") == make_lines(4)
    assert "no import in parts with the id no" in ferry.refused("parts", "commit", "no", "a.db")
    ferry.done("parts", "rollback", "a.db")


def workers_of(driver: subprocess.Popen[bytes]) -> list[int]:
    """The processes that push for a command, as soon as there are some."""
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [int(child) for child in children.read_text().split()]
        if workers := [child for child in found if b"eventferry.importing.jobs" in command_of(child)]:
            return workers
        time.sleep(0.01)
    raise AssertionError("no worker came")


def command_of(process: int) -> bytes:
    """The command line of a process; empty when it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


@pytest.mark.slow
def test_a_killed_worker_ends_the_import_and_leaves_nothing(ferry: Ferry, target: str) -> None:
    ferry.file("big.jsonl", BIG)
    ferry.done("import", ferry.file("old.jsonl", make_lines(10)), target)
    before = tables(target)
    driver = ferry.start("import", "big.jsonl", target, "--jobs", "2", "--replace", stderr=subprocess.PIPE)
    os.kill(workers_of(driver)[0], signal.SIGKILL)
    _, told = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert b"the process of an import was ended by signal 9" in told
    assert contents(target) == make_lines(10)
    assert tables(target) == before | {"events-committed-imports"}


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along_and_is_in_nobodys_way(ferry: Ferry, target: str) -> None:
    ferry.file("big.jsonl", BIG)
    ferry.done("import", ferry.file("old.jsonl", make_lines(10)), target)
    driver = ferry.start("import", "big.jsonl", target, "--jobs", "2", "--replace", "--freeze")
    workers = workers_of(driver)
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 60
    while any(map(command_of, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(command_of, workers))
    assert contents(target) == make_lines(10)
    ferry.done("import", "big.jsonl", target, "--jobs", "2", "--replace")
    assert contents(target) == BIG
    assert not [name for name in tables(target) if "stage" in name or "steps" in name or "freeze" in name]


@pytest.mark.slow
def test_a_restore_by_two_processes_is_the_store_that_was_backed_up(ferry: Ferry, target: str) -> None:
    ferry.store("a.db", 3000)
    ferry.done("backup", "a.db", "repository")
    for count in (5000, 8000):  # each run makes a part
        ferry.done("import", ferry.file("more.jsonl", make_lines(count)), "a.db", "--manual")
        ferry.done("backup", "a.db", "repository")
    told = ferry.done("restore", "repository", target, "--jobs", "2", "--json").json
    assert told == ferry.done("restore", "repository", "one.db", "--json").json
    assert contents(target) == make_lines(8000)
    # Readers of the store that was backed up go on here.
    assert ferry.done("export", target, "-", "--since", told["bookmark"]).out == ""
    # An older state, from which something was erased since: that does not come back.
    rules = ferry.file("rules.toml", b'[[rule]]\ntype = "TYPE_1"\nredact = ["/number"]\n')
    ferry.done("erase", "a.db", "--rules", rules)
    ferry.done("backup", "a.db", "repository")
    assert "already holds events" in ferry.refused("restore", "repository", target, "--jobs", "2")
    ferry.done("restore", "repository", target, "--jobs", "2", "--replace", "--manifest", "2")
    ferry.done("restore", "repository", "one.db", "--replace", "--manifest", "2")
    assert contents(target) == ferry.exported("one.db")
    ferry.done("import", "more.jsonl", target, "--replace")
    assert b'"number":1}' not in contents(target)


@pytest.mark.slow
def test_an_encrypted_backup_is_restored_by_two_processes_with_its_key(ferry: Ferry, target: str) -> None:
    key = ferry.file("key", KEY.encode())
    ferry.store("a.db", 300)
    ferry.done("backup", "a.db", "repository", "--recipient", RECIPIENT)
    ferry.done("import", ferry.file("more.jsonl", make_lines(500)), "a.db", "--manual")
    ferry.done("backup", "a.db", "repository", "--recipient", RECIPIENT)
    restore = ("restore", "repository", target, "--jobs", "2")
    assert "is encrypted: give the key" in ferry.refused(*restore)
    ferry.done(*restore, "--identity", key)
    assert contents(target) == make_lines(500)

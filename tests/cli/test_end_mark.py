"""Pipes with an end mark on the command line, with other programs between export and import."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import make_lines
from tests.support.cli import PATIENCE, Ferry, new_ferry

ferry = pytest.fixture(new_ferry)


def test_a_marked_file_goes_in_whole_and_the_mark_stays_out(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    ferry.done("export", "a.db", "a.jsonl", "--end-mark")
    assert Path("a.jsonl").read_bytes().splitlines()[-1].startswith(b'{"endMark":{"events":20,')
    assert "sound: 20 events" in ferry.done("verify", "a.jsonl").err
    ferry.done("import", "a.jsonl", "b.db", "--expect-end")
    ferry.done("incremental-import", "a.jsonl", "b.db", "--expect-end")
    assert ferry.exported("b.db") == make_lines(20)


def test_an_import_that_expects_an_end_stores_nothing_of_an_input_without_one(ferry: Ferry) -> None:
    for command in ("import", "incremental-import"):
        told = ferry.refused(command, "-", "b.db", "--expect-end", stdin=make_lines(20))
        assert "no end mark" in told
        assert not Path("b.db").exists()


def test_what_a_filter_leaves_out_must_be_said(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    marked = ferry.done("export", "a.db", "-", "--end-mark").out.encode()
    fewer = b"".join(each for each in marked.splitlines(keepends=True) if b"TYPE_1" not in each)
    assert "20 events were exported" in ferry.refused("import", "-", "b.db", stdin=fewer)
    told = ferry.done("import", "-", "b.db", "--expect-end", "--filtered", stdin=fewer)
    assert f"imported {fewer.count(b'threadId')} events" in told.err


def test_a_mark_is_for_one_file_of_lines(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    for more in (["--format", "csv"], ["--split-by", "day"]):
        assert "--end-mark is for one file" in ferry.refused(
            "export", "a.db", "x", "--end-mark", *more, status=2
        )
    assert "JSON Lines" in ferry.refused(
        "import", "x.csv", "b.db", "--format", "csv", "--expect-end", status=2
    )


BETWEEN = ["jq -c .", "sed -u s/a/a/", "head -n 100000000", "awk 1"]
"""Each of these adds the line feed that is missing, or drops the half line."""


@pytest.mark.slow
@pytest.mark.parametrize("between", BETWEEN)
def test_an_export_that_is_killed_in_front_of_another_program_never_looks_whole(
    ferry: Ferry, between: str
) -> None:
    kill_exports(ferry, between, 6)


@pytest.mark.storm
@pytest.mark.parametrize("between", BETWEEN)
def test_a_hundred_exports_killed_in_front_of_another_program_never_look_whole(
    ferry: Ferry, between: str
) -> None:
    kill_exports(ferry, between, 100)


def kill_exports(ferry: Ferry, between: str, kills: int) -> None:
    ferry.store("a.db", 20_000)
    eventferry = f"{sys.executable} -m eventferry"
    wait = random.Random(1)
    refused = 0
    for _ in range(kills):
        Path("b.db").unlink(missing_ok=True)
        shell = subprocess.Popen(
            f"({eventferry} export a.db - --end-mark & echo $! > pid; wait) | {between} "
            f"| {eventferry} import - b.db --expect-end",
            shell=True,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(wait.uniform(0, 1.5))
        subprocess.run("kill -9 $(cat pid)", shell=True, stderr=subprocess.DEVNULL, check=False)
        status = shell.wait(PATIENCE)
        stored = ferry.exported("b.db").count(b"\n") if Path("b.db").exists() else 0
        assert (status, stored) in ((0, 20_000), (1, 0))
        refused += status
    print(f"{between}: {kills} exports killed, {refused} imports refused")

"""The command archive, and what export, verify and backup say of archived events."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from tests.support import LONG_AGO, line, make_event
from tests.support.cli import Ferry, new_ferry
from tests.support.places import DATABASES, Places

ferry = pytest.fixture(new_ferry)


def fill(ferry: Ferry) -> None:
    events = [make_event(i, payload={"number": i, "note": "n" * 50}) for i in range(30)]
    later = make_event(30) | {"timestamp": LONG_AGO + 1000, "aggregateVersion": 4}
    ferry.store("a.db", [*events, later])


def test_old_events_are_archived_and_recalled(ferry: Ferry) -> None:
    fill(ferry)
    before = ferry.exported("a.db")
    ferry.done("backup", "a.db", "repo")
    archive = ("archive", "a.db", "repo", "--until", str(LONG_AGO + 500))
    assert "would archive 27 events" in ferry.done(*archive, "--dry-run").err
    assert ferry.exported("a.db") == before
    told = ferry.done(*archive).err
    assert told.startswith("archived 27 events, ")
    assert "; 3 of aggregates with later events" in told
    assert ferry.exported("a.db") != before
    assert ferry.done(*archive, "--quiet").err == ""
    [listed] = map(json.loads, ferry.done("archive", "list", "a.db", "--json").out.splitlines())
    assert (listed["events"], listed["chosen"]) == (27, {"until": LONG_AGO + 500})
    assert listed["repository"] == str(ferry.directory / "repo")  # found from any other folder
    assert "there is no backup in rep\n" in ferry.refused("archive", "recall", "a.db", "rep")
    assert f"{listed['id']}  " in ferry.done("archive", "list", "a.db").out
    assert ferry.done("archive", "recall", "a.db", "repo", "--archive", listed["id"]).err == (
        "recalled 27 events\n"
    )
    assert ferry.exported("a.db") == before
    assert ferry.done("archive", "recall", "a.db", "repo").err == "recalled 0 events\n"
    assert "there is no backup in rep\n" in ferry.refused("archive", "recall", "a.db", "rep")
    assert "knows no archive" in ferry.refused(
        "archive", "recall", "a.db", "repo", "--archive", "0" * 16, status=2
    )


def test_archived_events_are_left_out_or_accepted_where_that_is_asked_for(ferry: Ferry) -> None:
    fill(ferry)
    ferry.done("archive", "a.db", "repo", "--until", str(LONG_AGO + 500), "--aggregate-prefix", "aggregate-1")
    assert ferry.done("export", "a.db", "-", "--archived", "skip").out.count("\n") == 28
    assert ferry.done("events", "a.db", "--archived", "skip").out.count("\n") == 28
    assert ferry.done("follow", "a.db", "--once", "--archived", "skip").out.count("\n") == 28
    assert "3 changed in a.db" in ferry("verify", "repo", "a.db").err
    assert ferry.done("verify", "repo", "a.db", "--archived").err == (
        "equal: 31 events, but for 3 archived payloads\n"
    )
    assert "choose content or archived" in ferry.refused(
        "verify", "repo", "a.db", "--archived", "--content", status=2
    )
    ferry.done("export", "a.db", "all.jsonl")
    assert "line 2" in ferry.refused("import", "all.jsonl", "b.db")
    assert "recall the events first" in ferry.refused("copy", "a.db", "b.db")


@pytest.mark.storm
@pytest.mark.parametrize("database", DATABASES)
def test_killed_archives_and_recalls_leave_each_event_whole(
    ferry: Ferry, database: str, tmp_path: Path
) -> None:
    events = [make_event(i, payload={"number": i, "note": "n" * 200}) for i in range(20_000)]
    archive = ("--until", str(LONG_AGO + 10**9))
    with Places(database, tmp_path) as places:
        url = places.new_url()
        Path("events.jsonl").write_bytes(b"".join(map(line, events)))
        ferry.done("import", "events.jsonl", url)
        ferry.done("backup", url, "repo")
        before = ferry.exported(url)
        kills = 0
        for number in range(40):
            words = ("archive", url, "repo", *archive) if number % 2 else ("archive", "recall", url, "repo")
            child = ferry.start(*words)
            time.sleep(random.uniform(0.5, 4))
            kills += child.poll() is None
            child.kill()
            child.wait()
            assert ferry("verify", "repo", url, "--archived").status == 0
            held = [
                json.loads(one)["events"]
                for one in ferry.done("archive", "list", url, "--json").out.splitlines()
            ]
            assert sum(held) == ferry.exported(url).count(b'"$archived"')
        print(f"{database}: {kills} kills")
        ferry.done("archive", "recall", url, "repo")
        assert ferry.exported(url) == before
        assert ferry.done("backup", "check", "repo", "--read-data", "all").status == 0

"""The command erase, and what copy and verify do with what was erased."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eventferry import RepositoryError
from eventferry.backup.chain import Chain
from tests.support import line, make_event
from tests.support.cli import Ferry, new_ferry

ferry = pytest.fixture(new_ferry)

NAME = "Ada Lovelace"
RULES = '[[rule]]\nredact = ["/name"]\nremove = ["/missing"]\n'


def fill(ferry: Ferry, store: str) -> None:
    Path("events.jsonl").write_bytes(
        b"".join(line(make_event(i, payload={"i": i, "name": NAME})) for i in range(30))
    )
    Path("person.toml").write_text(RULES)
    ferry.done("import", "events.jsonl", store)


def names_in(ferry: Ferry, store: str) -> set[str]:
    """The aggregates of which a name is left."""
    lines = ferry.done("export", store, "-").out.splitlines()
    return {event["aggregateId"] for event in map(json.loads, lines) if event["payload"]["name"] == NAME}


ERASE = ("erase", "a.db", "--rules", "person.toml", "--aggregate-id", "aggregate-3")


def test_a_person_is_erased_and_stays_so(ferry: Ferry) -> None:
    fill(ferry, "a.db")
    dry = ferry.done(*ERASE, "--dry-run")
    assert dry.err == "found nothing: rule 1: remove /missing\nlooked at 3 events, would change 3\n"
    assert "aggregate-3" in names_in(ferry, "a.db")
    assert ferry.done("erase", "a.db", "--list").out == ""
    report = ferry.done(*ERASE, "--json").json
    assert (report["events"], report["changed"], report["snapshots"]) == (3, 3, 0)
    assert report["neverMatched"] == ["rule 1: remove /missing"]
    ferry.done("import", "events.jsonl", "a.db", "--replace")
    assert names_in(ferry, "a.db") == {f"aggregate-{i}" for i in range(10)} - {"aggregate-3"}
    [listed] = map(json.loads, ferry.done("erase", "a.db", "--list").out.splitlines())
    assert listed["at"] == report["at"]
    assert listed["aggregate_ids"] == ["aggregate-3"]
    assert NAME not in json.dumps(listed)


def test_a_person_is_in_no_backup_that_was_named_when_they_were_erased(ferry: Ferry) -> None:
    fill(ferry, "a.db")
    for repository in ("one", "two"):
        ferry.done("backup", "a.db", repository)
        ferry.done("backup", "a.db", repository)
    noted = (*ERASE, "--repository", "one", "--repository", "two")
    assert "noted" not in ferry.done(*noted, "--dry-run").err
    assert not [*Path("one").rglob("erasures"), *Path("two").rglob("erasures")]
    assert ferry.done(*noted).err.endswith("looked at 3 events, changed 3\nnoted in one, two\n")
    for repository in ("one", "two"):
        ferry.done("restore", repository, "b.db", "--manifest", "1", "--replace")
        assert "aggregate-3" not in names_in(ferry, "b.db")


def test_without_a_word_of_them_backups_know_of_an_erasure_from_the_next_run_on(ferry: Ferry) -> None:
    fill(ferry, "a.db")
    ferry.done("backup", "a.db", "repo")
    told = ferry.done(*ERASE).err
    assert told.endswith(" changed 3; backups do not know of it until the next eventferry backup\n")
    ferry.done("restore", "repo", "b.db")
    assert "aggregate-3" in names_in(ferry, "b.db")
    ferry.done("backup", "a.db", "repo")
    ferry.done("restore", "repo", "b.db", "--manifest", "1", "--replace")
    assert "aggregate-3" not in names_in(ferry, "b.db")


def test_an_erasure_that_its_backup_could_not_note_does_not_begin(ferry: Ferry) -> None:
    fill(ferry, "a.db")
    told = ferry.refused(*ERASE, "--repository", "mistyped")
    assert "nothing was erased, since mistyped cannot note it: mistyped holds no backup of the store" in told
    assert "mistyped" not in ferry.names()
    assert "aggregate-3" in names_in(ferry, "a.db")


def test_an_erasure_that_was_not_noted_is_noted_by_the_same_command_again(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise RepositoryError("the disk is full")

    fill(ferry, "a.db")
    ferry.done("backup", "a.db", "repo")
    with monkeypatch.context() as patched:
        patched.setattr(Chain, "add_erasures", full)
        ended = ferry(*ERASE, "--repository", "repo")
    assert ended.status == 1
    assert "it is erased, and repo knows nothing of it until you run this again, or a backup" in ended.err
    assert "aggregate-3" not in names_in(ferry, "a.db")
    assert "changed 0" in ferry.done(*ERASE, "--repository", "repo").err
    ferry.done("restore", "repo", "b.db")
    assert "aggregate-3" not in names_in(ferry, "b.db")


def test_a_copy_gets_the_list(ferry: Ferry) -> None:
    fill(ferry, "a.db")
    ferry.done("erase", "a.db", "--rules", "person.toml", "--type", "TYPE_1")
    ferry.done("copy", "a.db", "b.db")
    ferry.done("import", "events.jsonl", "b.db", "--replace")
    ferry.done("verify", "a.db", "b.db")
    assert ferry.done("erase", "b.db", "--list").out == ferry.done("erase", "a.db", "--list").out


def test_an_older_copy_verifies_with_what_was_erased(ferry: Ferry) -> None:
    fill(ferry, "a.db")
    ferry.done("copy", "a.db", "older.db")
    ferry.done("erase", "a.db", "--rules", "person.toml", "--aggregate-prefix", "aggregate-")
    for older in ("events.jsonl", "older.db"):
        assert ferry("verify", older, "a.db").status == 1
        assert ferry.done("verify", older, "a.db", "--erased").err == "equal: 30 events\n"
        ferry.done("verify", "a.db", older, "--erased", "--content")


def test_what_would_not_erase_is_refused_by_name(ferry: Ferry) -> None:
    fill(ferry, "a.db")
    assert ferry("erase", "a.db").status == 2
    assert ferry("erase", "a.db", "--rules", "person.toml", "--list").status == 2
    for option in ("--type", "--repository"):
        refused = ferry("erase", "a.db", "--list", option, "TYPE_1")
        assert (refused.status, refused.out) == (2, "")
    Path("wrong.toml").write_text('[[rule]]\nrename = "OTHER"\n')
    refused = ferry("erase", "a.db", "--rules", "wrong.toml")
    assert refused.status == 2
    assert "rule 1 has 'rename'" in refused.err
    refused = ferry("verify", "a.db", "--erased")
    assert refused.status == 2
    assert "--erased needs two sources" in refused.err
    assert ferry("erase", "missing.db", "--rules", "person.toml").status == 1
    assert not Path("missing.db").exists()

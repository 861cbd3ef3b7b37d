"""The commands of a backup repository: what they print, what they exit with, and what they leave alone."""

from __future__ import annotations

import json
import random
import re
import time

import msgspec
import pytest

from eventferry import StoreUnreachableError
from eventferry.backup import format
from eventferry.clock import now
from tests.support import make_event
from tests.support.cli import Ferry, new_ferry
from tests.support.small_backups import KEY, RECIPIENT

ferry = pytest.fixture(new_ferry)

HOUR = 3600 * 1000


@pytest.fixture
def backed_up(ferry: Ferry) -> Ferry:
    """Two runs of a store that has grown since: 5 events, then 3, then 2 that are in no backup."""
    for count in (5, 8, 10):
        lines = b"".join(json.dumps(make_event(i)).encode() + b"\n" for i in range(count))
        ferry.file("events.jsonl", lines)
        ferry.done("incremental-import", "events.jsonl", "a.db")
        if count < 10:
            ferry.done("backup", "a.db", "repo")
    return ferry


def test_a_backup_is_listed_run_by_run(backed_up: Ferry) -> None:
    runs = backed_up.done("backup", "list", "repo", "--json").json
    assert [(run["manifest"], run["events"]) for run in runs] == [(1, 5), (2, 8)]
    listed = backed_up.done("backup", "list", "repo").out.splitlines()
    assert len(listed) == 2
    assert "8 events" in listed[1]


def test_a_restored_store_is_equal_to_its_backup(backed_up: Ferry) -> None:
    told = backed_up.done("restore", "repo", "b.db").err
    assert re.fullmatch(r"restored 8 events in \d+\.\d s from manifest 2 of .*\n", told)
    assert backed_up.done("verify", "repo", "b.db").err == "equal: 8 events\n"


def test_a_backup_is_compared_with_a_store_that_has_grown_since(backed_up: Ferry) -> None:
    assert backed_up.done("verify", "repo", "a.db").err == "equal: 8 events\n"


def test_a_store_that_lacks_events_of_its_backup_is_unequal(backed_up: Ferry) -> None:
    backed_up.done("restore", "repo", "b.db", "--manifest", "1")
    outcome = backed_up("verify", "repo", "b.db")
    assert outcome.status == 1
    assert "3 missing" in outcome.err


def test_a_restore_asks_before_it_replaces(backed_up: Ferry) -> None:
    assert "use --replace" in backed_up.refused("restore", "repo", "a.db")
    backed_up.done("restore", "repo", "a.db", "--replace")
    assert backed_up.exported("a.db").count(b"\n") == 8


def test_a_restore_ends_at_a_bookmark_or_a_time(backed_up: Ferry) -> None:
    first = backed_up.done("backup", "list", "repo", "--json").json[0]
    assert (
        backed_up.done("restore", "repo", "b.db", "--until", first["bookmark"], "--json").json["imported"]
        == 5
    )
    moment = str(make_event(3)["timestamp"])
    assert backed_up.done("restore", "repo", "c.db", "--until", moment, "--json").json["imported"] == 4


def test_a_failed_restore_leaves_no_store(backed_up: Ferry) -> None:
    for part in (backed_up.directory / "repo").rglob("*.zst"):
        part.unlink()
    assert "it is missing" in backed_up.refused("restore", "repo", "b.db")
    assert "b.db" not in backed_up.names()


def test_a_quiet_command_says_nothing_if_all_is_well(backed_up: Ferry) -> None:
    for words in (
        ("backup", "--quiet", "a.db", "repo"),
        ("backup", "check", "repo", "--quiet", "--read-data", "all"),
        ("backup", "drill", "repo", "--quiet"),
        ("backup", "status", "repo", "--quiet", "--max-age", "26h"),
        ("backup", "prune", "repo", "--quiet", "--compact"),
        ("restore", "repo", "b.db", "--quiet"),
    ):
        outcome = backed_up.done(*words)
        assert (outcome.out, outcome.err) == ("", ""), words


def test_the_log_of_a_run_and_of_a_drill_is_json_also_where_all_else_is_quiet(backed_up: Ferry) -> None:
    for words, operation, fields in (
        (("backup", "a.db", "repo"), "backup", {"events": 2, "manifest": 3}),
        (("backup", "drill", "repo"), "drill", {"events": 10, "manifest": 3, "equal": True}),
    ):
        told = backed_up.done(*words, "--quiet", "--verbose", "--log-format", "json").err
        last = [json.loads(line) for line in told.splitlines()][-1]
        assert (last["operation"], last["outcome"]) == (operation, "done")
        assert {name: last[name] for name in fields} == fields


def test_a_quiet_command_tells_what_is_wrong(backed_up: Ferry) -> None:
    outcome = backed_up("backup", "status", "repo", "--quiet", "--max-age", "0s")
    assert (outcome.status, outcome.err[:9]) == (1, "too old: ")
    [first, *_] = sorted((backed_up.directory / "repo").rglob("*.zst"))
    first.write_bytes(first.read_bytes()[:-1])
    outcome = backed_up("backup", "check", "repo", "--quiet")
    assert outcome.status == 1
    assert first.name in outcome.out
    assert first.name in backed_up.refused("backup", "drill", "repo", "--quiet")


def test_a_backup_of_a_time_to_come_is_not_young(backed_up: Ferry) -> None:
    [newest] = (backed_up.directory / "repo").glob("*/manifests/00000002.json")
    manifest = format.unseal(newest.read_bytes(), format.Manifest, "")
    newest.write_bytes(format.seal(msgspec.structs.replace(manifest, created=now() + 48 * HOUR)))
    outcome = backed_up("backup", "status", "repo", "--max-age", "26h")
    assert outcome.status == 1
    assert outcome.err.startswith("a clock is or was wrong: manifest 2 of ")
    assert " 48 h in the future: " in outcome.err or " 2 d in the future: " in outcome.err
    assert backed_up.done("backup", "status", "repo", "--json").json["ageSeconds"] < 0
    assert backed_up.done("backup", "status", "repo", "--max-age", "72h").err.startswith("manifest 2 of ")


def test_the_age_decides_the_exit_status(backed_up: Ferry) -> None:
    assert backed_up.done("backup", "status", "repo", "--max-age", "26h", "--json").json["tooOld"] is False
    assert backed_up("backup", "status", "repo", "--max-age", "0s").status == 1
    assert "such as 26h or 90d" in backed_up.refused("backup", "status", "repo", "--max-age", "26", status=2)


def test_the_figures_are_those_of_the_textfile_collector(backed_up: Ferry) -> None:
    backed_up.done("backup", "status", "repo", "--quiet", "--metrics", "backup.prom")
    lines = (backed_up.directory / "backup.prom").read_text().splitlines()
    found = re.findall(r"^(\w+)\{[^}]*\} ([\d.]+)$", "\n".join(lines), re.MULTILINE)
    values: dict[str, str] = dict(found)
    assert len(values) == len(lines) // 3
    assert values["eventferry_backup_events"] == "8"
    assert values["eventferry_backup_parts"] == "2"
    age = now() - float(values["eventferry_backup_last_success_timestamp_seconds"]) * 1000
    assert 0 <= age < HOUR
    assert [line.split()[1] for line in lines if line[0] == "#"] == ["HELP", "TYPE"] * (len(lines) // 3)


def test_a_kept_head_shows_that_a_backup_was_put_back(backed_up: Ferry) -> None:
    head = backed_up.done("backup", "head", "repo").out.strip()
    assert backed_up.done("backup", "check", "repo", "--head", head).err.startswith("sound: 2 manifests")
    [newest] = (backed_up.directory / "repo").rglob("00000002.json")
    newest.unlink()
    outcome = backed_up("backup", "check", "repo", "--head", head)
    assert outcome.status == 1
    assert "put back to an older state" in outcome.out


def test_the_lines_of_a_backup_are_those_of_an_export(backed_up: Ferry) -> None:
    lines = backed_up.done("backup", "cat", "repo").out.encode()
    assert backed_up.exported("a.db").startswith(lines)
    assert lines.count(b"\n") == 8
    first = backed_up.done("backup", "cat", "repo", "--manifest", "1").out
    assert first.count("\n") == 5


def test_chosen_lines_of_a_backup_stay_as_they_are(backed_up: Ferry) -> None:
    lines = backed_up.done("backup", "cat", "repo").out.splitlines()
    chosen = backed_up.done("backup", "cat", "repo", "--type", "TYPE_1", "--type", "TYPE_2").out.splitlines()
    assert chosen == [line for line in lines if '"TYPE_0"' not in line]
    assert backed_up.done("backup", "cat", "repo", "--exclude-type", "TYPE_0").out.splitlines() == chosen
    of_one = backed_up.done("backup", "cat", "repo", "--aggregate-prefix", "aggregate-3").out.splitlines()
    assert of_one == [line for line in lines if '"aggregate-3"' in line]


def test_a_part_is_imported_as_a_file(backed_up: Ferry) -> None:
    parts = sorted((backed_up.directory / "repo").rglob("*.zst"))
    for number, part in enumerate(parts):
        backed_up.done("import", str(part), f"part-{number}.db")
    assert sum(backed_up.exported(f"part-{number}.db").count(b"\n") for number in range(2)) == 8


def test_a_store_is_no_repository(backed_up: Ferry) -> None:
    assert "is a store" in backed_up.refused("backup", "check", "a.db", status=2)


def test_what_is_to_be_pruned_is_said(backed_up: Ferry) -> None:
    assert "say what to prune" in backed_up.refused("backup", "prune", "repo", status=2)
    told = backed_up.done("backup", "prune", "repo", "--compact", "--dry-run").err
    assert told == "would have removed 0 chains and 0 objects of 0 bytes; joined 2 parts into 1\n"


def test_an_unknown_share_is_refused(backed_up: Ferry) -> None:
    assert "percentage" in backed_up.refused("backup", "check", "repo", "--read-data", "half", status=2)


def test_without_its_list_of_erasures_a_restore_needs_a_word(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    ferry.in_store("a.db", lambda store: store.set_secret("gone", "a key"))
    ferry.done("backup", "a.db", "repo", "--with-secrets")
    ferry.in_store("a.db", lambda store: store.delete_secret("gone"))
    ferry.done("backup", "a.db", "repo")
    [erasures] = (ferry.directory / "repo").rglob("erasures/*.json")
    erasures.unlink()
    assert "with --without-erasures, what was erased comes back" in ferry.refused("restore", "repo", "b.db")
    told = ferry.done("restore", "repo", "b.db", "--without-erasures", "--with-secrets").err
    assert told.startswith("restored 5 events in ")
    assert "and 1 secret from manifest 2" in told


def test_rules_and_filters_change_a_restore_on_its_way(backed_up: Ferry) -> None:
    backed_up.file("rules.toml", b"""[[rule]]\ntype = "TYPE_1"\nredact = ["/number"]\n""")
    words = ("restore", "repo", "b.db", "--rules", "rules.toml", "--exclude-type", "TYPE_0")
    told = backed_up.done(*words, "--dry-run").err
    assert "8 read, 3 left out by filters, 3 changed, 2 untouched" in told
    assert "b.db" not in backed_up.names()
    result = backed_up.done(*words, "--report", "report.json", "--json").json
    assert (result["imported"], result["bookmark"], result["changes"]["leftOut"]) == (5, None, 3)
    assert json.loads((backed_up.directory / "report.json").read_text())["changed"] == 3
    lines = backed_up.exported("b.db").decode().splitlines()
    assert [json.loads(line)["threadCounter"] for line in lines] == [0, 1, 2, 3, 4]
    assert sum('{"number":null}' in line for line in lines) == 3


def test_each_store_is_compared_with_its_own_backup(backed_up: Ferry) -> None:
    backed_up.store("other.db", 3)
    backed_up.done("backup", "other.db", "repo")
    assert backed_up.done("verify", "repo", "other.db").err == "equal: 3 events\n"
    assert backed_up.done("verify", "repo", "a.db").err == "equal: 8 events\n"
    assert "say which chain" in backed_up.refused("restore", "repo", "b.db", status=2)
    chains = {run["source"]: run["chain"] for run in backed_up.done("backup", "list", "repo", "--json").json}
    backed_up.done("restore", "repo", "b.db", "--chain", chains["other.db"])
    assert backed_up.exported("b.db") == backed_up.exported("other.db")


def test_an_encrypted_backup_is_read_with_its_key_and_checked_without(backed_up: Ferry) -> None:
    key = backed_up.file("key", KEY.encode())
    backed_up.done("backup", "a.db", "secret", "--recipient", RECIPIENT)
    backed_up.done("backup", "check", "secret", "--read-data", "all")
    for words in (("verify", "secret", "a.db"), ("backup", "drill", "secret"), ("restore", "secret", "b.db")):
        assert "is encrypted: give the key" in backed_up.refused(*words)
        backed_up.done(*words, "--identity", key)
    assert "b.db" in backed_up.names()
    assert backed_up.done("backup", "cat", "secret", "--identity", key).out.count("\n") == 10


def test_a_restore_that_was_interrupted_says_how_to_go_on(
    backed_up: Ferry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: object) -> None:
        raise StoreUnreachableError("the connection was lost")

    monkeypatch.setattr("eventferry.importing.replace.Replacement.finish", unreachable)
    assert "run it again with --resume" in backed_up.refused("restore", "repo", "b.db")


@pytest.mark.slow
def test_a_restore_that_is_killed_again_and_again_comes_to_its_end(ferry: Ferry) -> None:
    ferry.store("a.db", 20_000)
    ferry.done("backup", "a.db", "repo")
    ferry.store("b.db", 5)
    before = ferry.exported("b.db")
    words = ("restore", "repo", "b.db", "--replace", "--resume")
    for _ in range(8):
        restoring = ferry.start(*words)
        time.sleep(random.uniform(0.3, 2.5))
        restoring.kill()
        restoring.wait()
        assert ferry.exported("b.db") in (before, ferry.exported("a.db"))
    ferry.done(*words)
    assert ferry.done("verify", "repo", "b.db").err == "equal: 20,000 events\n"
    assert ferry.exported("b.db") == ferry.exported("a.db")

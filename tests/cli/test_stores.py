"""The command line's commands about a store as a whole: help, init, drop, describe, freeze, upgrade, demo."""

from __future__ import annotations

import re
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventferry import __version__
from eventferry.demo import flights
from tests.demo.test_flights import CANCELLED, ON_TIME, make_archive, row
from tests.support import LONG_AGO
from tests.support.cli import CURSOR_LENGTH, Ferry, new_ferry

if TYPE_CHECKING:
    from eventferry import EventStore

ferry = pytest.fixture(new_ferry)

_REPLACING = ("--replace", "--allow-empty", "--resume", "--freeze", "--ignore-unknown-keys", "--json")
_FILTERS = ("--type", "--aggregate-id", "--from", "--until", "--cursor", "--since")
COMMANDS: dict[str, tuple[str, ...]] = {
    "init": (),
    "drop": ("--yes",),
    "describe": ("--json", "--cursor"),
    "events": (*_FILTERS, "--limit", "--json"),
    "follow": ("--since", "--checkpoint", "--type", "--aggregate-id", "--limit", "--once"),
    "export": (*_FILTERS, "--freeze", "--format", "--split-by", "--end-mark", "--set", "--dry-run"),
    "import": (
        *_REPLACING,
        "--jobs",
        "--manual",
        "--byte-offset",
        "--mapping",
        "--format",
        "--expect-end",
        "--filtered",
        "--to",
    ),
    "incremental-import": (
        "--older",
        "--dry-run",
        "--json",
        "--mapping",
        "--format",
        "--expect-end",
        "--filtered",
    ),
    "incremental begin": (),
    "incremental push": ("--part",),
    "incremental commit": (),
    "incremental rollback": (),
    "parts begin": ("--replace",),
    "parts push": ("--ignore-unknown-keys",),
    "parts commit": ("--allow-empty", "--json"),
    "parts rollback": (),
    "copy": (*_REPLACING, "--from", "--to", "--rules", "--function", "--report", "--dry-run"),
    "export-secrets": ("--tombstones",),
    "import-secrets": (),
    "freeze": (),
    "unfreeze": (),
    "serve": (),
    "token": (),
    "upgrade": (),
    "sources": ("--json",),
    "sync": (
        "--follow",
        "--once",
        "--merge",
        "--rate",
        "--status",
        "--max-lag",
        "--rules",
        "--dry-run",
        "--json",
    ),
    "cutover": ("--leave-frozen", "--json"),
    "erase": (
        "--rules",
        "--type",
        "--aggregate-id",
        "--aggregate-prefix",
        "--repository",
        "--dry-run",
        "--list",
        "--json",
    ),
    "verify": ("--content", "--until", "--rules", "--erased", "--archived"),
    "archive": (),
    "archive run": (
        "--until",
        "--type",
        "--aggregate-prefix",
        "--recipient",
        "--identity",
        "--dry-run",
        "--json",
    ),
    "archive recall": ("--archive", "--identity", "--json"),
    "archive list": ("--json",),
    "backup": (),
    "backup check": ("--read-data", "--identity", "--json"),
    "backup drill": ("--identity", "--json"),
    "backup status": ("--max-age", "--json"),
    "backup list": ("--json",),
    "backup head": (),
    "backup cat": ("--manifest", "--until"),
    "backup prune": ("--compact", "--json"),
    "restore": ("--manifest", "--until", "--replace", "--without-erasures", "--rules", "--json"),
    "stats": ("--json",),
    "tail": ("--follow", "--json"),
    "show": ("--mask", "--json"),
    "search": ("--json",),
    "trace": ("--json",),
    "find-poison": ("--json",),
    "diff": ("--type", "--until", "--rules", "--json"),
    "mcp": (),
    "console": ("--aggregate", "--port", "--scope", "--no-browser"),
    "stores": ("--json",),
    "completion": (),
    "demo": (),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_names_all_its_options(ferry: Ferry, command: str) -> None:
    told = ferry.done(*command.split(), "--help")
    assert f"Usage: eventferry {command}" in told.out
    for option in COMMANDS[command]:
        assert f"{option} " in told.out or f"{option}\n" in told.out
    assert told.err == ""


def test_copy_has_no_manual(ferry: Ferry) -> None:
    assert "--manual" not in ferry.done("copy", "--help").out


def test_help_lists_every_command(ferry: Ferry) -> None:
    told = ferry.done("--help").out
    listed = told.partition("Events:\n")[2].partition("Messages and help:")[0]
    commands = {line.split()[0] for line in listed.splitlines() if re.match(r"  \S", line)}
    assert commands == {name.split()[0] for name in COMMANDS}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_sections_and_cuts_no_sentence(ferry: Ferry, command: str) -> None:
    told = ferry.done(*command.split(), "--help").out
    assert "..." not in told.replace("[ARGS]...", "").replace("SRC...", "")
    assert "Messages and help:\n" in told
    assert told.index("Messages and help:") < told.index("--quiet")
    if "--type TYPE" in told:
        assert told.index("Which events:") < told.index("--type TYPE")


def test_version_is_told_on_stdout(ferry: Ferry) -> None:
    assert __version__ in ferry.done("--version").out


def test_init_makes_an_empty_store_and_says_so_in_words_only(ferry: Ferry) -> None:
    made = ferry.done("init", "a.db")
    assert made.out == ""
    assert "a.db" in made.err
    assert ferry.done("describe", "a.db", "--json").json["eventCount"] == 0


def test_init_of_a_store_that_is_there_is_refused(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    assert "a.db" in ferry.refused("init", "a.db")
    assert ferry.done("describe", "a.db", "--json").json["eventCount"] == 3


@pytest.mark.parametrize("name", ["a.db", "a.sqlite", "a.sqlite3", "sqlite:///a.db", "sqlite:///a.events"])
def test_a_store_is_a_relative_path_or_url(ferry: Ferry, name: str) -> None:
    ferry.done("init", name)
    assert ferry.names() == {name.removeprefix("sqlite:///")}
    assert ferry.done("describe", name, "--json").json["eventCount"] == 0


def test_four_slashes_are_an_absolute_path(ferry: Ferry, tmp_path: Path) -> None:
    ferry.done("init", f"sqlite:///{tmp_path}/elsewhere.db")
    assert (tmp_path / "elsewhere.db").is_file()


@pytest.mark.parametrize(
    ("store", "file"),
    [
        ("sqlite:///two%20words.db", "two words.db"),
        ("two words.db", "two words.db"),
        ("sqlite:///two words.db", "two words.db"),
        ("größe 🚢.db", "größe 🚢.db"),
        ("sqlite:///gr%C3%B6%C3%9Fe.db", "größe.db"),
        ("sqlite:///100%25.db", "100%.db"),
        ("100%25.db", "100%25.db"),
        ("sqlite:///a%3Fb.db", "a?b.db"),
        ("what?.db", "what?.db"),
        ("sqlite:///number%231.db", "number#1.db"),
        ("number#1.db", "number#1.db"),
        ("-dash.db", "-dash.db"),
    ],
)
def test_any_character_may_stand_in_a_stores_path(ferry: Ferry, store: str, file: str) -> None:
    ferry.done("init", "--", store)
    assert ferry.names() == {file}
    ferry.done("import", "--", "-", store, stdin=b"")
    assert ferry.done("describe", "--json", "--", store).json["resourceNames"]["databaseFile"] == file
    ferry.done("drop", "--yes", "--", store)


def test_any_character_may_stand_in_a_files_path(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    for name in ("two words.jsonl", "größe 🚢.jsonl", "100%25?#.jsonl", "new\nline.jsonl.gz"):
        ferry.done("export", "a.db", name)
        assert name in ferry.names()
        assert ferry.done("verify", name, "a.db").status == 0


def test_table_names_in_the_url_make_two_stores_of_one_file(ferry: Ferry) -> None:
    other = (
        "sqlite:///a.db?events_table_name=other%20events&snapshots_table_name=s2&secrets_table_name=k2"
        "&subscribers_table_name=r2"
    )
    ferry.store("a.db", 3)
    ferry.store(other, 5)
    names = ferry.done("describe", other, "--json").json["resourceNames"]
    assert names == {
        "databaseFile": "a.db",
        "eventsTableName": "other events",
        "snapshotsTableName": "s2",
        "secretsTableName": "k2",
        "subscribersTableName": "r2",
    }
    assert ferry.done("describe", "a.db", "--json").json["eventCount"] == 3
    assert ferry.done("describe", other, "--json").json["eventCount"] == 5
    ferry.done("drop", other, "--yes")
    assert ferry.done("describe", "a.db", "--json").json["eventCount"] == 3


def test_drop_needs_yes(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    assert "--yes" in ferry.refused("drop", "a.db", status=2)
    assert ferry.done("describe", "a.db", "--json").json["eventCount"] == 3


def test_drop_removes_the_store(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    assert ferry.done("drop", "a.db", "--yes").out == ""
    ferry.refused("describe", "a.db")
    ferry.done("init", "a.db")


def test_describe_as_json_has_the_keys_that_are_documented(ferry: Ferry) -> None:
    ferry.store("a.db", 300)
    told = ferry.done("describe", "a.db", "--json")
    assert told.err == ""
    description = told.json
    assert list(description)[:7] == [
        "eventCount",
        "secretCount",
        "setSecretCount",
        "deletedSecretCount",
        "lastEventTimestamp",
        "isFrozen",
        "resourceNames",
    ]
    assert description["eventCount"] == 300
    assert description["lastEventTimestamp"] == LONG_AGO + 299
    assert description["isFrozen"] is False
    assert description["frozenBy"] is None
    assert description["openImport"] is None
    assert "cursor" not in description


def test_describe_counts_secrets(ferry: Ferry) -> None:
    async def three_secrets(store: EventStore) -> None:
        for name in ("a", "b", "c"):
            await store.set_secret(name, name)
        await store.delete_secret("b")

    ferry.in_store(ferry.store("a.db"), three_secrets)
    description = ferry.done("describe", "a.db", "--json").json
    counts = [description[f"{kind}Count"] for kind in ("secret", "setSecret", "deletedSecret")]
    assert counts == [3, 2, 1]


def test_describe_gives_the_cursor_if_asked(ferry: Ferry) -> None:
    ferry.store("a.db", 300)
    cursor = ferry.done("describe", "a.db", "--json", "--cursor").json["cursor"]
    assert len(cursor) == CURSOR_LENGTH
    assert ferry.done("events", "a.db", "--cursor", cursor).out == ""
    assert cursor in ferry.done("describe", "a.db", "--cursor").out


def test_describe_for_people_is_a_table_on_stdout(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    told = ferry.done("describe", "a.db")
    assert told.err == ""
    table = dict(line.split(maxsplit=1) for line in told.out.splitlines())
    assert table["eventCount"] == "3"
    assert table["isFrozen"] == "no"
    assert "2020-09-13T12:26:40.002" in table["lastEventTimestamp"]


def test_describe_tells_an_open_incremental_import(ferry: Ferry) -> None:
    ferry.store("a.db")
    import_id = ferry.done("incremental", "begin", "a.db").out.strip()
    left = ferry.done("describe", "a.db", "--json").json["openImport"]
    assert left["id"] == import_id
    assert left["since"] > LONG_AGO


def test_freeze_keeps_writers_out_until_unfreeze(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    assert ferry.done("freeze", "a.db").out == ""
    description = ferry.done("describe", "a.db", "--json").json
    assert (description["isFrozen"], description["frozenBy"]) == (True, "user")
    more = ferry.file("more.jsonl", b"")
    for words in (
        ("import", more, "a.db", "--replace", "--allow-empty"),
        ("incremental-import", more, "a.db"),
        ("incremental", "begin", "a.db"),
        ("freeze", "a.db"),
    ):
        assert "frozen" in ferry.refused(*words)
    assert ferry.done("unfreeze", "a.db").out == ""
    ferry.done("incremental-import", more, "a.db")


def test_unfreeze_of_a_store_that_is_not_frozen_is_refused(ferry: Ferry) -> None:
    assert "not frozen" in ferry.refused("unfreeze", ferry.store("a.db"))


def test_rollback_is_allowed_on_a_frozen_store(ferry: Ferry) -> None:
    ferry.store("a.db")
    ferry.done("incremental", "begin", "a.db")
    ferry.done("freeze", "a.db")
    ferry.done("incremental", "rollback", "a.db")


def test_upgrade_adds_the_index_for_the_order_once(ferry: Ferry, tmp_path: Path) -> None:
    ferry.store("a.db", 3)
    with sqlite3.connect(tmp_path / "a.db") as file:
        ((index,),) = file.execute("SELECT name FROM sqlite_master WHERE name LIKE '%-order'").fetchall()
        file.execute(f'DROP INDEX "{index}"')
    file.close()
    assert "-order" in ferry.done("upgrade", "a.db").err
    again = ferry.done("upgrade", "a.db")
    assert "nothing" in again.err
    assert again.out == ""


def test_the_demo_runs_the_main_job_on_the_flights(
    ferry: Ferry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (ON_TIME, CANCELLED, row("3-10", "500"), row("3-11", "500"), row("3-12", "500"))
    archive = make_archive(tmp_path, rows)
    monkeypatch.setattr(flights, "fetch", lambda directory: archive)
    monkeypatch.setattr(sys, "argv", [".venv/bin/eventferry"])
    monkeypatch.setenv("PATH", "/nowhere")
    for _ in range(2):  # again, over what the first left
        told = ferry.done("demo", "here")
        assert "  .venv/bin/eventferry console here/first.db --aggregate aircraft-N14228\n" in told.err
        assert told.out == ""
        assert "equal" in told.err
    events = len(b"".join(flights.lines(archive)).splitlines())
    for name in ("first", "second", "third"):
        assert ferry.done("describe", f"here/{name}.db", "--json").json["eventCount"] == events
    assert ferry.done("verify", "here/first.db", "here/flights.jsonl").status == 0

"""Another product's table on the command line: --from on every command that takes it, and `sources`."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.cli import Ferry, new_ferry, process

ferry = pytest.fixture(new_ferry)

MAPPING = """
select = '''
SELECT id AS position, stream AS aggregate, version, type, data, meta AS metadata, at AS time, kind FROM {events}
'''
[tables]
events = "events"
[time]
zone = "UTC"
"""

ROWS = (
    (1, "a", 1, "Opened", '{"n": 1.50}', None, "2024-01-01 00:00:00.250", None),
    (2, "b", 1, "Opened", "{}", '{"by": "me"}', "2024-01-02 00:00:00", None),
    (3, "a", None, "Linked", "{}", None, "2024-01-02 00:00:00", "link"),
    (4, "a", 3, "Closed", json.dumps("x" * 3000), None, "2023-12-31 00:00:00", None),
)


@pytest.fixture
def app(ferry: Ferry) -> str:
    """A database with a table of events, a mapping app.toml beside it; its name."""
    ferry.file("app.toml", MAPPING.encode())
    with closing(sqlite3.connect(ferry.directory / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE events (id, stream, version, type, data, meta, at, kind)")
        connection.executemany(f"INSERT INTO events VALUES ({', '.join('?' * 8)})", ROWS)
    return "app.db"


def change(ferry: Ferry, statement: str) -> None:
    with closing(sqlite3.connect(ferry.directory / "app.db")) as connection, connection:
        connection.execute(statement)


COMMANDS = (
    ("import", "app.db", "b.db"),
    ("copy", "app.db", "b.db"),
    ("incremental-import", "app.db", "b.db", "--older", "accept"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_the_events_of_a_table_come_into_a_store(ferry: Ferry, app: str, words: tuple[str, ...]) -> None:
    ferry.done(*words, "--from", "app.toml")
    types = sorted(json.loads(line)["type"] for line in ferry.exported("b.db").splitlines())
    assert types == ["Closed", "Opened", "Opened"]


def test_a_dry_run_tells_what_would_come(ferry: Ferry, app: str) -> None:
    outcome = ferry.done("import", "--from", "app.toml", app, "b.db", "--dry-run")
    first, second, third, *types = outcome.out.splitlines()
    assert first.startswith('2024-01-01T00:00:00.250+00:00 Opened of \'a\', version 1: {"data":{"n":1.5},')
    assert second.startswith("2024-01-02T00:00:00.000+00:00 Opened of 'b', version 1: ")
    assert third.startswith('2023-12-31T00:00:00.000+00:00 Closed of \'a\', version 2: {"data":"xxx')
    assert len(third) < 700, "a large payload is cut"
    assert [line.split() for line in types] == [["2", "Opened"], ["1", "Closed"]]
    assert outcome.err == (
        "3 events, from 2023-12-31T00:00:00.000+00:00 to 2024-01-02T00:00:00.000+00:00; 1 link row left out; "
        "1 with another version than in the source\n"
    )
    assert "b.db" not in ferry.names()


def test_a_dry_run_names_the_first_trouble(ferry: Ferry, app: str) -> None:
    change(ferry, "INSERT INTO events VALUES (5, 'a', 4, NULL, '{}', NULL, '2024-01-01', NULL)")
    outcome = ferry("copy", "--from", "app.toml", app, "b.db", "--dry-run")
    assert outcome.status == 1
    assert "3 events, from" in outcome.err
    assert "trouble: app.toml, position 5, column type: a text is needed here, not null" in outcome.err
    told = ferry("copy", "--from", "app.toml", app, "b.db", "--dry-run", "--json")
    assert told.status == 1
    assert set(told.json) == {
        "first", "events", "types", "firstTime", "lastTime", "renumbered", "skipped", "trouble",
    }  # fmt: skip
    assert (told.json["events"], told.json["types"], told.json["skipped"]) == (
        3, {"Opened": 2, "Closed": 1}, {"link": 1},
    )  # fmt: skip
    assert told.json["trouble"].startswith("app.toml, position 5")
    assert [event["aggregateId"] for event in told.json["first"]] == ["a", "b", "a"]


def test_a_dry_run_of_an_incremental_import_tells_what_would_come_and_changes_nothing(
    ferry: Ferry, app: str
) -> None:
    words = (app, "b.db", "--from", "app.toml", "--dry-run")
    preview = ferry.done("import", *words)
    outcome = ferry.done("incremental-import", *words, "--older", "accept")
    assert outcome.out == preview.out
    assert outcome.err.startswith(f"{preview.err}would import 3, skipped 0 duplicates; 3 events in ")
    told = ferry.done("incremental-import", *words, "--older", "accept", "--json").json
    counts = {"imported": 3, "skippedExisting": 0, "skippedOlder": 0}
    assert told == counts | ferry.done("import", *words, "--json").json
    assert "b.db" not in ferry.names()


@pytest.mark.parametrize("row", [2, 4])
def test_a_dry_run_of_an_incremental_import_names_the_first_trouble(ferry: Ferry, app: str, row: int) -> None:
    change(ferry, f"UPDATE events SET data = '{{' WHERE id = {row}")
    words = (app, "b.db", "--from", "app.toml", "--dry-run")
    for more in ((), ("--json",)):
        preview, outcome = (ferry(name, *words, *more) for name in ("import", "incremental-import"))
        assert f"position {row}, column data: not JSON" in outcome.out + outcome.err
        assert (outcome.status, outcome.out, outcome.err) == (1, preview.out, preview.err)
        assert f"{row // 2} event" in outcome.err or f'"events":{row // 2},' in outcome.out


def test_a_dry_run_of_an_incremental_import_of_csv_reads_it_once(ferry: Ferry) -> None:
    columns = "aggregate = 'a'\ntype = 'b'\ndata = 'c'\ntime = 'd'\nkind = 'e'\n"
    ferry.file("csv.toml", f"[columns]\n{columns}[time]\nzone = 'UTC'\n".encode())
    rows = b"a,b,c,d,e\nx,Opened,1,2024-01-01,\nx,Linked,,2024-01-01,link\nx,Closed,2,2024-01-02,\n"
    words = ("-", "b.db", "--format", "csv", "--mapping", "csv.toml", "--dry-run")
    outcome = ferry.done("incremental-import", *words, stdin=rows)
    assert [line.split() for line in outcome.out.splitlines()[2:]] == [["1", "Opened"], ["1", "Closed"]]
    assert "to 2024-01-02T00:00:00.000+00:00; 1 link row left out; 2 with another version" in outcome.err
    assert "would import 2" in outcome.err


def test_a_row_that_is_no_event_ends_an_import_that_stores_nothing(ferry: Ferry, app: str) -> None:
    ferry.store("b.db", 4)
    before = ferry.exported("b.db")
    change(ferry, "UPDATE events SET data = '{' WHERE id = 2")
    for words in COMMANDS:
        replace = () if words[0] == "incremental-import" else ("--replace",)
        assert "app.toml, position 2, column data: not JSON" in ferry.refused(
            *words, *replace, "--from", "app.toml"
        )
        assert ferry.exported("b.db") == before
    for words in COMMANDS:
        ferry.refused(words[0], app, "new.db", "--from", "app.toml")
        assert "new.db" not in ferry.names()
    ferry.refused("export", app, "out.jsonl", "--from", "app.toml")
    assert "out.jsonl" not in ferry.names()


def test_an_export_is_what_an_import_of_it_would_be(ferry: Ferry, app: str) -> None:
    lines = ferry.done("export", app, "-", "--from", "app.toml").out
    assert [json.loads(line)["threadCounter"] for line in lines.splitlines()] == [0, 1, 2]
    told = ferry.done("export", app, "a.jsonl", "--from", "app.toml", "--json").json
    assert told == {"exported": 3, "source": {"events": 3, "renumbered": 1, "skipped": {"link": 1}}}
    ferry.done("import", app, "b.db", "--from", "app.toml")
    assert (ferry.directory / "a.jsonl").read_text() == lines == ferry.exported("b.db").decode()


def test_an_import_tells_what_became_of_the_rows(ferry: Ferry, app: str) -> None:
    told = ferry.done("import", app, "b.db", "--from", "app.toml", "--json").json
    assert told["imported"] == 3
    assert told["source"] == {"events": 3, "renumbered": 1, "skipped": {"link": 1}}
    words = ferry.done("import", app, "c.db", "--from", "app.toml").err
    assert re.match(r"imported 3 events in .*; 1 link row left out; 1 with another version than", words)


def test_an_incremental_import_tells_what_became_of_the_rows(ferry: Ferry, app: str) -> None:
    words = ("incremental-import", app, "b.db", "--from", "app.toml", "--older", "accept")
    told = ferry.done(*words).err
    assert re.match(r"imported 3, .*; 1 link row left out; 1 with another version than in the source\n", told)
    result = ferry.done(*words, "--json").json
    assert (result["imported"], result["skippedExisting"]) == (0, 3)
    assert result["source"] == {"events": 3, "renumbered": 1, "skipped": {"link": 1}}
    only = ferry.done(*words, "--type", "Opened", "--dry-run")
    assert "; 1 link row left out; 1 with another version" in only.err


def test_a_table_and_a_store_are_verified(ferry: Ferry, app: str) -> None:
    ferry.done("import", app, "b.db", "--from", "app.toml")
    assert ferry.done("verify", app, "b.db", "--from", "app.toml").err == "equal: 3 events\n"
    change(ferry, "UPDATE events SET type = 'Other' WHERE id = 4")
    outcome = ferry("verify", app, "b.db", "--from", "app.toml", "--json")
    assert outcome.status == 1
    assert outcome.json["equal"] is False


def test_options_change_what_comes(ferry: Ferry, app: str) -> None:
    lines = ferry.done("export", app, "-", "--from", "app.toml", "--keep", "link").out.splitlines()
    assert len(lines) == 4
    bare = ("--from", "app.toml", "--payload", "data")
    assert "--drop-metadata" in ferry.refused("import", app, "b.db", *bare)
    ferry.done("import", app, "b.db", *bare, "--drop-metadata")
    assert b'"payload":{"n":1.50}}' in ferry.exported("b.db")
    change(ferry, "ALTER TABLE events RENAME TO history")
    assert "no such table" in ferry.refused("export", app, "-", "--from", "app.toml", status=2)
    told = ferry.done("export", app, "-", "--from", "app.toml", "--set", "events=history")
    assert len(told.out.splitlines()) == 3


WRONG = {
    "an unknown preset": (("--from", "no-such"), "neither a preset nor a file"),
    "no mapping": (("--from", "a b"), "neither a preset"),
    "a missing file": (("--from", "none.toml"), "none.toml cannot be read: No such file"),
    "a preset for another database": (
        ("--from", "message-db"),
        "no SELECT for sqlite; it has one for postgresql",
    ),
    "an unknown table": (("--from", "app.toml", "--set", "x=y"), "no table named 'x'; it has events"),
    "no table": (("--from", "app.toml", "--set", "events"), "--set takes NAME=TABLE"),
    "an unknown kind": (("--from", "app.toml", "--keep", "odd"), "odd"),
    "a kind both ways": (("--from", "app.toml", "--keep", "link", "--skip", "link"), "both to be kept"),
    "metadata in the envelope": (("--from", "app.toml", "--drop-metadata"), "envelope"),
    "options without a mapping": (("--keep", "link"), "need --from"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_on_the_command_line_is_told(ferry: Ferry, app: str, name: str) -> None:
    words, told = WRONG[name]
    for command in ("import", "copy"):
        assert told in ferry.refused(command, app, "b.db", *words, status=2)
    assert told in ferry.refused("export", app, "-", *words, status=2)
    assert "b.db" not in ferry.names()


def test_a_mapping_reads_a_database_and_no_file(ferry: Ferry, app: str) -> None:
    ferry.file("a.jsonl", b"")
    assert "a.jsonl is not one" in ferry.refused("import", "a.jsonl", "b.db", "--from", "app.toml", status=2)
    told = ferry.refused("import", "none.db", "b.db", "--from", "app.toml")
    assert told == "eventferry: there is no store at none.db\n"
    assert "none.db" not in ferry.names()


def test_an_export_takes_a_time_or_a_mapping(ferry: Ferry, app: str) -> None:
    ferry.store("store.db", 4)
    assert ferry.done("export", "store.db", "-", "--from", "2100-01-01").out == ""
    for words in (("--freeze",), ("--jobs", "2"), ("--from", "emmett")):
        ferry.refused("export", app, "-", "--from", "app.toml", *words, status=2)


@pytest.mark.parametrize("words", [*COMMANDS, ("export", "app.db", "-")], ids=lambda words: words[0])
def test_the_events_of_a_table_are_filtered_and_changed(
    ferry: Ferry, app: str, words: tuple[str, ...]
) -> None:
    options = ("--from", "app.toml", "--from", "2023-06-01", "--aggregate-prefix", "a")
    ferry.file("rules.toml", b'[[rule]]\ntype = "Closed"\nrename = "Ended"\n')
    told = ferry.done(*words, *options, "--rules", "rules.toml")
    lines = told.out if words[0] == "export" else ferry.exported("b.db").decode()
    types = sorted(json.loads(line)["type"] for line in lines.splitlines())
    assert types == ["Ended", "Opened"]
    assert "1 left out by filters, 1 changed, 1 untouched" in told.err


def test_a_dry_run_with_changes_tells_of_them(ferry: Ferry, app: str) -> None:
    words = ("copy", app, "b.db", "--from", "app.toml", "--dry-run")
    assert "Opened of 'a', version 1" in ferry.done(*words).out  # what the source gives
    told = ferry.done(*words, "--type", "Closed")
    assert told.out.splitlines()[0].split() == ["before", "after"]
    assert told.err == "nothing was stored; 3 read, 2 left out by filters, 1 untouched\n"
    assert "b.db" not in ferry.names()


def test_the_presets_are_listed(ferry: Ferry) -> None:
    outcome = ferry.done("sources")
    line = next(line for line in outcome.out.splitlines() if line.startswith("message-db "))
    assert line.endswith("(tested with stores that it wrote itself)")
    assert "docs/mapping.md" in outcome.err
    found = {each["name"]: each for each in ferry.done("sources", "--json").json["sources"]}
    assert found["emmett"]["databases"] == ["postgresql", "sqlite"]
    assert found["emmett"]["checked"] == "store"
    assert found["emmett"]["tables"] == {"messages": "emt_messages"}
    assert set(found) >= {"message-db", "pyeventsourcing", "castore", "marten"}


@pytest.mark.parametrize(
    "way",
    [
        "; DELETE FROM events",
        ") AS mapped; COMMIT; SELECT * FROM (SELECT 1",
        ") AS mapped; DELETE FROM events; SELECT * FROM (SELECT 1",
    ],
)
def test_a_mapping_with_several_statements_is_refused_by_the_newer_library_too(
    ferry: Ferry, app: str, way: str
) -> None:
    # The command as a process of its own opens files by another SQLite library than Python's.
    ferry.file("evil.toml", MAPPING.replace("{events}\n", f"{{events}} {way}\n").encode())
    before = (ferry.directory / "app.db").read_bytes()
    outcome = process("export", app, "-", "--from", "evil.toml")
    assert (outcome.status, outcome.out) == (2, "")
    assert "more than one statement" in outcome.err
    assert (ferry.directory / "app.db").read_bytes() == before


def test_a_file_that_cannot_be_written_is_read(ferry: Ferry, app: str) -> None:
    before = (ferry.directory / "app.db").read_bytes()
    (ferry.directory / "app.db").chmod(0o444)
    assert len(ferry.done("export", app, "-", "--from", "app.toml").out.splitlines()) == 3
    (ferry.directory / "link.db").symlink_to(ferry.directory / "app.db")
    assert len(ferry.done("export", "link.db", "-", "--from", "app.toml").out.splitlines()) == 3
    assert (ferry.directory / "app.db").read_bytes() == before


def test_a_store_may_be_in_the_same_file_as_the_table(ferry: Ferry, app: str) -> None:
    change(ferry, "ALTER TABLE events RENAME TO history")
    ferry.done("import", app, app, "--from", "app.toml", "--set", "events=history")
    assert len(ferry.exported(app).splitlines()) == 3
    assert ferry.done("verify", app, app, "--from", "app.toml", "--set", "events=history").status == 0
    ferry.done("import", app, app, "--from", "app.toml", "--set", "events=history", "--replace")


def test_a_stores_own_table_is_a_source(ferry: Ferry) -> None:
    ferry.store("a.db", 30)
    ferry.file(
        "store.toml",
        b"""select = '''SELECT threadCounter * 256 + threadId AS position, aggregateId AS aggregate,
          aggregateVersion AS version, type, timestamp AS time, payload AS data FROM events'''
        [time]
        unit = "ms"
        """,
    )
    ferry.done("import", "a.db", "b.db", "--from", "store.toml", "--payload", "data")
    assert ferry.done("verify", "--content", "a.db", "b.db").err == "equal: 30 events\n"


def test_an_interrupted_import_of_a_table_is_resumed(ferry: Ferry, app: str) -> None:
    ferry.done("import", app, "b.db", "--from", "app.toml")
    ferry.done("import", app, "b.db", "--from", "app.toml", "--replace", "--resume")
    assert len(ferry.exported("b.db").splitlines()) == 3


def test_a_mapping_in_a_folder_of_its_own_is_found(ferry: Ferry, app: str, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (ferry.directory / "app.toml").rename(tmp_path / "more" / "app.toml")
    ferry.done("import", app, "b.db", "--from", "more/app.toml")

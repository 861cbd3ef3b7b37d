"""Stores by name: the configuration file, and where the passwords come from."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path

import pytest

from eventferry.cli import configuration
from eventferry.cli.configuration import url_named
from tests.support import make_lines
from tests.support.cli import Ferry, new_ferry

ferry = pytest.fixture(new_ferry)

STORES = """
[stores]
prod = "prod.db"
staging = "sqlite:///staging.db"
"""


@pytest.fixture
def named(ferry: Ferry, monkeypatch: pytest.MonkeyPatch) -> Ferry:
    ferry.file("config.toml", STORES.encode())
    monkeypatch.setenv("EVENTFERRY_CONFIG", "config.toml")
    return ferry


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "config.toml").write_text(text)
    monkeypatch.setenv("EVENTFERRY_CONFIG", str(folder / "config.toml"))


def test_a_name_stands_wherever_a_store_does(named: Ferry) -> None:
    named.store("prod", 20)
    named.done("copy", "prod", "staging")
    named.done("export", "prod", "events.jsonl")
    named.done("import", "prod", "third.db")
    assert named.done("verify", "prod", "staging").err == "equal: 20 events\n"
    assert named.exported("staging.db") == named.exported("third.db") == make_lines(20)
    named.done("backup", "prod", "repo")
    assert named.done("verify", "repo", "prod").err == "equal: 20 events\n"
    told = named.done("describe", "prod", "--json").json
    assert told["eventCount"] == 20


def test_a_file_may_begin_with_a_byte_order_mark(named: Ferry) -> None:
    named.file("config.toml", codecs.BOM_UTF8 + STORES.encode())
    named.done("init", "prod")
    assert "prod.db" in named.names()


def test_a_path_is_relative_to_the_file_that_names_it(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a folder?").mkdir()
    written(tmp_path / "a folder?", monkeypatch, STORES)
    ferry.done("init", "prod")
    ferry.done("init", "staging")
    assert {path.name for path in (tmp_path / "a folder?").glob("*.db")} == {"prod.db", "staging.db"}


def test_the_file_is_looked_for_where_programs_keep_theirs(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("EVENTFERRY_CONFIG")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ferry.done("stores").out == ""
    folder = tmp_path / ".config" / "eventferry"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(STORES)
    assert ferry.done("stores").out.splitlines() == [
        f"prod     {folder}/prod.db",
        f"staging  sqlite:///{folder}/staging.db",
    ]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert ferry.done("stores", "--json").json == {"stores": []}
    monkeypatch.setenv("EVENTFERRY_CONFIG", "missing.toml")
    assert "no such file" in ferry.refused("stores", status=2)
    monkeypatch.setenv("EVENTFERRY_CONFIG", "~no-such-user/missing.toml")
    assert "no such file" in ferry.refused("stores", status=2)


def test_where_no_folder_can_be_looked_into_there_is_no_file(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVENTFERRY_CONFIG", raising=False)
    for folder in (
        "~no-such-user",
        300 * "x",
    ):  # no home; and an error that is_file of a path raises, like EACCES
        monkeypatch.setenv("XDG_CONFIG_HOME", folder)
        assert ferry.done("stores", "--json").json == {"stores": []}
        assert "is not a store" in ferry.refused("describe", "prod", status=2)


def test_a_name_that_may_be_a_file_too_is_refused(named: Ferry) -> None:
    named.store("prod", 3)
    named.file("prod", make_lines(5))
    assert "write ./prod for the file" in named.refused("import", "prod", "a.db", status=2)
    named.done("import", "./prod", "a.db")
    assert named.exported("a.db") == make_lines(5)


def test_an_export_to_a_name_is_no_file_of_this_name(named: Ferry) -> None:
    named.store("prod", 3)
    assert "staging is a store: use copy" in named.refused("export", "prod", "staging", status=2)
    assert "is not a store" in named.refused("describe", "nobody", status=2)


def test_a_repository_is_no_store_by_name(named: Ferry) -> None:
    named.store("prod", 3)
    for words in (("backup", "prod", "staging"), ("restore", "prod", "staging"), ("backup", "list", "prod")):
        assert "write ./" in named.refused(*words, status=2)
    assert not (named.directory / "staging").exists()
    named.done("backup", "prod", "./staging")
    assert "restored 3 events" in named.done("restore", "staging", "staging").err


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("password_env", "FERRY_PASSWORD"),
        ("password_file", "secret"),
        ("password_command", "printf '%s\\n' 'p@ss w/?:ö'"),
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_password_comes_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str, scheme: str
) -> None:
    monkeypatch.setenv("FERRY_PASSWORD", "p@ss w/?:ö")
    (tmp_path / "secret").write_text("p@ss w/?:ö\n")
    for user, query in (("app@", "?application_name=a@b"), ("", "")):
        store = {"url": f"{scheme}://{user}db.example.org:1/events{query}", place: text}
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in store.items())
        written(tmp_path, monkeypatch, f"[stores.prod]\n{lines}")
        url = url_named("prod")
        quoted = "p%40ss%20w%2F%3F%3A%C3%B6"
        assert url == f"{scheme}://{user.removesuffix('@')}:{quoted}@db.example.org:1/events{query}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("oops", "not TOML"),
        ("[store]\n", "one table, stores, and not store"),
        ('stores = "a.db"\n', "one table"),
        ('[stores]\n"a.b" = "a.db"\n', "begins with a letter"),
        ("[stores.a]\n", "give a URL"),
        ("[stores]\na = 5\n", "give a URL"),
        ('[stores]\na = ""\n', "give a URL"),
        ("a = " + 3000 * "[" + 3000 * "]", "not TOML"),
        ('[stores.a]\nurl = "a.db"\npasword_env = "B"\n', "the keys are url, password_env"),
        ('[stores.a]\nurl = "a.db"\npassword_env = "B"\n', "a SQLite store has no password"),
        ('[stores]\na = "oracle://b/c"\n', "is not a store URL"),
        ('[stores]\na = "postgresql://app:hunter2@b/c"\n', "must not hold a password"),
        ('[stores]\na = "postgresql://b/c?password=hunter2"\n', "must not hold a password"),
        ('[stores]\na = "mysql://b/c?ssl_passwd=hunter2"\n', "must not hold a password"),
        ('[stores.a]\nurl = "mysql://b/c"\npassword_env = "B"\npassword_file = "f"\n', "give one of"),
        ('[stores.a]\nurl = "mysql://b/c"\npassword_env = "NOT_SET"\n', "NOT_SET is not set"),
        ('[stores.a]\nurl = "mysql://b/c"\npassword_file = "missing"\n', "cannot be read"),
        ('[stores.a]\nurl = "mysql://b/c"\npassword_file = "~no-such-user/b"\n', "cannot be read"),
        ('[stores.a]\nurl = "mysql://b/c"\npassword_file = "b\\u0000"\n', "is not a path"),
        ('[stores.a]\nurl = "mysql://b/c?read_default_file=~no-such-user/b"\n', "cannot be read"),
        ('[stores.a]\nurl = "mysql://b/c"\npassword_command = "no-such-program"\n', "cannot be run"),
        ('[stores.a]\nurl = "mysql://b/c"\npassword_command = ""\n', "cannot be run: it is empty"),
        ('[stores.a]\nurl = "mysql://b/c"\npassword_command = "sh -c \'exit 3\'"\n', "ended with status 3"),
        ('[stores.a]\nurl = "mysql://b/c"\npassword_command = "true"\n', "gives none"),
    ],
)
def test_a_wrong_file_is_refused_without_its_secrets(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    written(ferry.directory, monkeypatch, text)
    told = ferry.refused("describe", "a", status=2)
    assert reason in told
    assert "hunter2" not in told


def test_a_password_that_is_no_utf8_is_refused_without_it(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ferry.file("secret", b"hunter2\xff")
    written(ferry.directory, monkeypatch, '[stores.a]\nurl = "mysql://b/c"\npassword_file = "secret"\n')
    told = ferry.refused("describe", "a", status=2)
    assert "does not give UTF-8" in told
    assert "hunter2" not in told


def test_a_password_command_that_does_not_end_is_ended(ferry: Ferry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "COMMAND_SECONDS", 0.2)
    written(ferry.directory, monkeypatch, '[stores.a]\nurl = "mysql://b/c"\npassword_command = "sleep 600"\n')
    assert "'sleep 600' was ended: it took more than" in ferry.refused("describe", "a", status=2)


def test_a_password_command_takes_nothing_of_the_input(ferry: Ferry, monkeypatch: pytest.MonkeyPatch) -> None:
    written(ferry.directory, monkeypatch, '[stores.a]\nurl = "mysql://b/c"\npassword_command = "cat"\n')
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as sent, os.fdopen(reader, "rb"):
        sent.write(b"data\n")
        sent.flush()
        before = os.dup(0)
        os.dup2(reader, 0)
        try:
            assert "gives none" in ferry.refused("describe", "a", status=2)
        finally:
            os.dup2(before, 0)
            os.close(before)


def test_messages_of_a_named_store_hold_no_password(ferry: Ferry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERRY_PASSWORD", "hunter2")
    store = '[stores.a]\nurl = "postgresql://app@127.0.0.1:1/events"\npassword_env = "FERRY_PASSWORD"\n'
    written(ferry.directory, monkeypatch, store)
    told = ferry("describe", "a", "-vv")
    assert told.status == 1
    assert "127.0.0.1" in told.err
    assert "hunter2" not in told.err
    assert "hunter2" not in ferry.done("stores", "--json").out

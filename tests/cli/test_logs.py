"""-v and --log-format: what operations tell, on standard error, beside the words that are there anyway."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys

import pytest

from eventferry.cli.records import JSON
from tests.support import make_lines
from tests.support.cli import Ferry, new_ferry
from tests.support.places import Places
from tests.support.servers import PASSWORD

ferry = pytest.fixture(new_ferry)
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"


def test_without_the_option_nothing_is_logged(ferry: Ferry) -> None:
    assert ferry.done("init", "a.db").err == "created the store a.db\n"
    assert ferry.refused("init", "a.db") == "eventferry: a.db has a table 'events' already\n"


@pytest.mark.parametrize("before", [True, False], ids=["before the command", "behind it"])
def test_once_the_ends_of_operations_are_logged_and_twice_their_beginnings_too(
    ferry: Ferry, before: bool
) -> None:
    ferry.done("init", "a.db")

    def imported(*option: str) -> list[str]:
        words = ["import", "-", "a.db", "--replace"]
        told = ferry.done(*([*option, *words] if before else [*words, *option]), stdin=make_lines(30))
        assert told.out == ""
        return told.err.splitlines()

    first, words = imported("-v")
    assert re.fullmatch(
        rf"{STAMP} INFO eventferry.operations import a.db: done mode=auto imported=30 byte_offset=\d+ seconds=[\d.e-]+",
        first,
    )
    assert words.startswith("imported 30 events")
    begins, ends, _ = imported("-vv")
    assert " DEBUG eventferry.operations import a.db: begins" in begins
    assert " INFO " in ends
    assert len(imported("-v", "-v", "--verbose")) == 3


def test_a_command_within_a_group_takes_the_option_too(ferry: Ferry) -> None:
    ferry.done("init", "a.db")
    assert "incremental begin a.db: done" in ferry.done("incremental", "begin", "a.db", "-v").err
    assert "incremental rollback a.db: done" in ferry.done("-v", "incremental", "rollback", "a.db").err


def test_a_failure_is_logged_by_the_name_of_its_error_beside_the_words(ferry: Ferry) -> None:
    ferry.done("init", "a.db")
    log, words = ferry.refused("-v", "init", "a.db").splitlines()
    assert " WARNING eventferry.operations init a.db: failed: StoreExistsError seconds=" in log
    assert words == "eventferry: a.db has a table 'events' already"


def test_as_json_every_record_is_an_object_with_the_fields(ferry: Ferry) -> None:
    ferry.store("a.db", 30)
    told = ferry.done("export", "a.db", "-", "-vv", "--log-format", "json")
    assert told.out.encode() == make_lines(30)
    first, second, _ = told.err.splitlines()
    begins, ends = json.loads(first), json.loads(second)
    assert begins.keys() == {"time", "level", "logger", "message", "operation", "store", "outcome"}
    assert ends.pop("seconds") > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", ends.pop("time"))
    assert ends.pop("message").startswith("export a.db: done events=30")
    assert ends == {
        "level": "INFO",
        "logger": "eventferry.operations",
        "operation": "export",
        "store": "a.db",
        "outcome": "done",
        "events": 30,
    }


def test_a_log_ends_with_its_command(ferry: Ferry) -> None:
    before = logging.getLogger("eventferry").handlers[:]
    ferry.done("init", "a.db", "-vv")
    assert ferry.done("freeze", "a.db").err == "froze the store a.db\n"
    assert logging.getLogger("eventferry").handlers == before
    assert logging.getLogger("eventferry").level == logging.NOTSET


@pytest.mark.parametrize("database", ["postgresql", "mariadb"])
def test_of_a_server_s_address_the_log_has_no_password(ferry: Ferry, database: str) -> None:
    with Places(database, ferry.directory) as places:
        url = places.new_url()
        told = ferry.done("init", url, "-vv").err + ferry("init", url, "-vv", "--log-format", "json").err
    assert PASSWORD in url
    assert "init 127.0.0.1/" in told
    assert PASSWORD not in told


def test_a_name_that_would_forge_a_line_stays_one(ferry: Ferry) -> None:
    name = "a\n2026-01-01 forged\x1b[31m.db"
    log, *_ = ferry.done("-v", "init", name).err.splitlines()
    assert r"init a\n2026-01-01 forged\x1b[31m.db: done" in log


def test_a_library_says_nothing_unless_it_is_asked(ferry: Ferry) -> None:
    script = """
from eventferry import StoreExistsError
from eventferry.sync import open_store
with open_store("a.db") as store:
    store.init()
    try:
        store.init()
    except StoreExistsError:
        print("there")
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (child.stdout, child.stderr) == ("there\n", "")


def test_an_error_in_json_has_its_traceback() -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        record = logging.LogRecord("eventferry", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    told = json.loads(JSON.format(record))
    assert told["message"] == "failed"
    assert told["traceback"].startswith("Traceback")
    assert told["traceback"].endswith("RuntimeError: broken")

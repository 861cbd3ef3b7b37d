"""copy and import with --to: a store's events go into another product's database."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.support import make_lines
from tests.support.cli import Ferry, new_ferry
from tests.support.foreign import message_db
from tests.support.foreign import pyeventsourcing as school

ferry = pytest.fixture(new_ferry)


@pytest.fixture
def empty(ferry: Ferry) -> str:
    """The URL of a database that an application of pyeventsourcing has made; its ids are texts."""
    store = school.on_sqlite(ferry.directory / "school.sqlite")
    with store.school():
        pass
    return f"{store.url}?originator_id_type=text"


def test_copy_tells_how_many_events_of_how_many_streams_went_over(ferry: Ferry, empty: str) -> None:
    ferry.store("a.db", 25)
    told = ferry.done("copy", "a.db", empty, "--to", "pyeventsourcing").err
    assert told.startswith("imported 25 events in ")
    assert told.endswith(", 10 streams\n")


def test_copy_gives_the_same_as_json(ferry: Ferry, empty: str) -> None:
    ferry.store("a.db", 25)
    told = ferry.done("copy", "a.db", empty, "--to", "pyeventsourcing", "--json").json
    assert (told["imported"], told["streams"]) == (25, 10)
    assert told["bookmark"]


def test_what_goes_over_can_be_filtered_and_changed(ferry: Ferry, empty: str) -> None:
    ferry.store("a.db", 25)
    ferry.file("rules.toml", b'[[rule]]\ntype = "TYPE_1"\nrename = "OTHER"\n')
    words = (
        "copy",
        "a.db",
        empty,
        "--to",
        "pyeventsourcing",
        "--rules",
        "rules.toml",
        "--exclude-type",
        "TYPE_0",
    )
    assert "nothing was stored; 25 read, 9 left out by filters" in ferry.done(*words, "--dry-run").err
    told = ferry.done(*words, "--json").json
    assert (told["imported"], told["changes"]["leftOut"], told["changes"]["changed"]) == (16, 9, 8)
    with closing(sqlite3.connect(ferry.directory / "school.sqlite")) as connection:
        types = connection.execute("SELECT topic, count(*) FROM stored_events GROUP BY topic").fetchall()
    assert sorted(types) == [("OTHER", 8), ("TYPE_2", 8)]


def test_import_takes_a_file_or_standard_input(ferry: Ferry) -> None:
    with message_db.new_store() as url:
        told = ferry.done("import", "-", url, "--to", "message-db", stdin=make_lines(25)).err
        assert told.startswith("imported 25 events in ")
        assert len(message_db.messages(url)) == 25
        assert "clear-messages.sh" in ferry.refused(
            "import", "-", url, "--to", "message-db", stdin=make_lines(25)
        )


def test_what_is_for_stores_alone_is_refused(ferry: Ferry, empty: str) -> None:
    ferry.store("a.db", 3)
    for option in ("--replace", "--allow-empty", "--resume", "--freeze"):
        words = ferry.refused("copy", "a.db", empty, "--to", "pyeventsourcing", option, status=2)
        assert f"{option} cannot be combined with --to" in words
    assert "--manual cannot be" in ferry.refused(
        "import", "-", empty, "--to", "pyeventsourcing", "--manual", status=2
    )


def test_a_product_that_is_not_known_is_refused(ferry: Ferry) -> None:
    assert "'message-db', 'pyeventsourcing'" in ferry.refused(
        "copy", "a.db", "b.db", "--to", "kafka", status=2
    )


def test_a_missing_source_is_told_before_the_target_is_touched(ferry: Ferry, empty: str) -> None:
    assert "there is no store at a.db" in ferry.refused("copy", "a.db", empty, "--to", "pyeventsourcing")


def test_from_one_product_to_another_nothing_lies_between(ferry: Ferry) -> None:
    old, new = (school.on_sqlite(ferry.directory / name) for name in ("old.sqlite", "new.sqlite"))
    school.write(old, dogs=4, tricks=2)
    with new.school():
        pass
    both = ("--from", "pyeventsourcing", "--to", "pyeventsourcing")
    told = ferry.done("copy", old.url, new.url, *both, "--json").json
    assert told["source"]["events"] == told["imported"] == len(old.notifications())
    assert new.dogs() == old.dogs()
    assert "Dog.Registered" in ferry.done("copy", old.url, new.url, *both, "--dry-run").out


def test_set_gives_an_option_of_the_target_or_with_from_of_the_source(ferry: Ferry, empty: str) -> None:
    bare = empty.partition("?")[0]
    ferry.store("a.db", 3)
    ferry.done("copy", "a.db", bare, "--to", "pyeventsourcing", "--set", "originator_id_type=text")
    assert "no option table" in ferry.refused(
        "copy", "a.db", bare, "--to", "pyeventsourcing", "--set", "table=b", status=2
    )
    words = ferry.refused(
        "copy",
        bare,
        "b.db",
        "--from",
        "pyeventsourcing",
        "--to",
        "pyeventsourcing",
        "--set",
        "table=b",
        status=2,
    )
    assert "the mapping pyeventsourcing has no table named 'table'" in words

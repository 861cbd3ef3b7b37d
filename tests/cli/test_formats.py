"""CSV, Parquet and CloudEvents on the command line."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from tests.support import line, make_event, make_lines
from tests.support.cli import PATIENCE, Ferry, new_ferry, sent

ferry = pytest.fixture(new_ferry)


@pytest.mark.parametrize("name", ["events.csv", "events.csv.gz", "events.parquet"])
def test_a_store_comes_back_equal_from_a_file(ferry: Ferry, name: str) -> None:
    ferry.store("a.db", 3000)
    file_format = name.split(".")[1]
    assert "exported 3,000 events" in ferry.done("export", "a.db", name, "--format", file_format).err
    assert "imported 3,000 events" in ferry.done("import", name, "b.db", "--format", file_format).err
    assert ferry.exported("b.db") == make_lines(3000)
    ferry.done("incremental-import", name, "b.db", "--format", file_format)
    assert ferry.exported("b.db") == make_lines(3000)
    ferry.done("incremental-import", name, "c.db", "--format", file_format)
    assert "equal" in ferry.done("verify", "b.db", "c.db", "--content").err


def test_csv_goes_through_a_pipe(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    written = ferry.done("export", "a.db", "-", "--format", "csv").out.encode()
    assert written.count(b"\r\n") == 21
    ferry.done("import", "-", "b.db", "--format", "csv", stdin=written)
    assert ferry.exported("b.db") == make_lines(20)
    told = ferry.refused("import", "-", "c.db", "--format", "csv", stdin=written[:-3])
    assert "ends inside quotes" in told
    assert not Path("c.db").exists()


def test_an_export_takes_filters_and_its_result_is_the_same_in_any_format(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    plain = ferry.done("export", "a.db", "a.jsonl", "--type", "TYPE_1", "--json").json
    for file_format in ("csv", "parquet"):
        told = ferry.done("export", "a.db", "a", "--format", file_format, "--type", "TYPE_1", "--json").json
        assert told == plain
    assert duckdb.execute("SELECT DISTINCT type FROM read_parquet('a')").fetchall() == [("TYPE_1",)]


@pytest.mark.parametrize("file_format", ["jsonl", "csv", "parquet"])
def test_an_export_is_split_into_a_folder(ferry: Ferry, file_format: str) -> None:
    ferry.store("a.db", 20)
    told = ferry.done("export", "a.db", "out", "--format", file_format, "--split-by", "type")
    assert "exported 20 events in" in told.err
    assert told.err.endswith("to 3 files\n")
    assert sorted(os.listdir("out")) == [f"TYPE_{i}.{file_format}" for i in range(3)]
    result = ferry.done("export", "a.db", "days", "--format", file_format, "--split-by", "day", "--json").json
    assert (result["exported"], result["files"]) == (20, 1)
    assert "is not empty" in ferry.refused("export", "a.db", "out", "--split-by", "type")


@pytest.mark.parametrize(
    ("words", "says", "status"),
    [
        (("export", "a.db", "-", "--split-by", "day"), "standard output is not", 2),
        (("export", "a.db", "/dev/stdout", "--split-by", "day"), "standard output is not", 2),
        (("export", "a.db", "a.parquet.gz", "--format", "parquet"), "compressed by itself", 2),
        (("export", "a.db", "a.Parquet"), "add --format parquet: without it", 2),
        (("export", "a.db", "a.csv.zst"), "add --format csv: without it", 2),
        (("export", "a.db", "a.xlsx", "--format", "xlsx"), "'xlsx' is not one of", 2),
        (("import", "-", "b.db", "--format", "parquet"), "standard input is none", 2),
        (("export", "a.db", "a", "--format", "cloudevents"), "needs --source URI", 2),
        (("export", "a.db", "a", "--format", "cloudevents", "--source", ""), "must be a URI", 2),
        (("export", "a.db", "a", "--source", "/shop"), "--source is for --format cloudevents", 2),
        (
            ("import", "lines", "b.db", "--aggregate-attribute", "orderid"),
            "--aggregate-attribute is for --format cloudevents",
            2,
        ),
        (
            ("import", "lines", "b.db", "--format", "cloudevents", "--from", "message-db"),
            "--from reads a database, or with --format csv a file",
            2,
        ),
        (("import", "lines", "b.db", "--format", "cloudevents"), "field specversion: is missing", 1),
        (("import", "a.db", "b.db", "--format", "csv"), "a.db is a store: --format is for files", 2),
        (("import", "none.parquet", "b.db", "--format", "parquet"), "there is no file none.parquet", 1),
        (("import", "none.csv", "b.db", "--format", "csv"), "there is no file none.csv", 1),
        (
            ("import", "lines", "b.db", "--format", "parquet"),
            "lines is damaged or cut off, or is not Parquet",
            1,
        ),
        (("import", "lines", "b.db", "--format", "csv"), "line 1: field 1 has a quote", 1),
        (("import", "few.csv", "b.db", "--format", "csv"), "field threadCounter: is missing", 1),
        (
            ("incremental-import", "bad.csv", "b.db", "--format", "csv"),
            "row 2, line 3, field timestamp: must be",
            1,
        ),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_left(
    ferry: Ferry, words: tuple[str, ...], says: str, status: int
) -> None:
    ferry.store("a.db", 20)
    ferry.file("lines", make_lines(3))
    ferry.file("few.csv", b"type,timestamp,aggregateId\nT,0,a\n")
    ferry.file("bad.csv", b"type,timestamp,aggregateId\nT,0,a\nT,yesterday,a\n")
    before = ferry.names()
    assert says in ferry.refused(*words, status=status)
    assert ferry.names() == before


def parts(ferry: Ferry) -> set[str]:
    """What stands there under a hidden name."""
    return {name for name in ferry.names() if name.startswith(".out.") and name.endswith(".part")}


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
@pytest.mark.parametrize("split_by", [(), ("--split-by", "type")], ids=["file", "folder"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_export_that_is_killed_leaves_nothing_that_looks_whole(
    ferry: Ferry, file_format: str, split_by: tuple[str, ...], number: int
) -> None:
    ferry.store("a.db", (make_event(i, payload="x" * 5000) for i in range(8000)))
    died = 0
    for delay in (0, 0.1, 0.3):
        known = ferry.names()
        child = ferry.start("export", "a.db", "out", "--format", file_format, *split_by)
        while child.poll() is None and not parts(ferry) - known:
            time.sleep(0.001)
        time.sleep(delay)
        child.send_signal(number)
        child.wait(PATIENCE)
        if "out" in ferry.names():  # it was at its end
            place = "out/*" if split_by else "out"
            found = duckdb.execute(f"SELECT count(*) FROM read_{file_format}('{place}')").fetchall()
            assert found == [(8000,)]
            break
        died += 1
        if number == signal.SIGTERM:
            assert not parts(ferry)
    assert died


@pytest.mark.slow
def test_a_pipe_that_ends_early_gives_nothing_that_looks_whole(ferry: Ferry) -> None:
    """Whoever reads the pipe has no other sign than what came through."""
    ferry.store("a.db", (make_event(i, payload="x" * 5000) for i in range(2000)))
    child = ferry.start("export", "a.db", "-", "--format", "csv")
    written = sent(child.stdout).read(3_000_000)
    child.kill()
    written += sent(child.stdout).read()
    assert len(written) < 10_000_000
    assert "ends inside quotes" in ferry.refused("import", "-", "b.db", "--format", "csv", stdin=written)
    assert not Path("b.db").exists()


def test_another_products_table_is_exported_in_any_format(ferry: Ferry) -> None:
    with closing(sqlite3.connect("shop.db")) as shop, shop:
        shop.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, stream TEXT, type TEXT, data TEXT)")
        shop.executemany(
            "INSERT INTO events (stream, type, data) VALUES (?, 'Placed', ?)",
            [(f"order-{i % 7}", f'{{"at": {i}}}') for i in range(100)],
        )
    ferry.file(
        "shop.toml",
        b"select = 'SELECT id AS position, stream AS aggregate, type, data FROM events'\n"
        b"[time]\nunit = 'ms'\npointer = '/at'\n",
    )
    for file_format in ("csv", "parquet"):
        words = ("export", "shop.db", "out", "--from", "shop.toml", "--format", file_format)
        assert ferry.done(*words, "--json").json["source"]["events"] == 100
        ferry.done("import", "out", f"{file_format}.db", "--format", file_format)
        assert "equal" in ferry.done("verify", "--from", "shop.toml", "shop.db", f"{file_format}.db").err


@pytest.mark.slow
def test_a_store_comes_back_equal_from_cloudevents(ferry: Ferry) -> None:
    ferry.store("a.db", 3000)
    cloud = ("--format", "cloudevents")
    words = ("export", "a.db", "a.jsonl.gz", *cloud, "--source", "/shop", "--end-mark")
    assert "exported 3,000 events" in ferry.done(*words).err
    assert "imported 3,000 events" in ferry.done("import", "a.jsonl.gz", "b.db", *cloud, "--expect-end").err
    assert ferry.exported("b.db") == make_lines(3000)
    told = ferry.done("incremental-import", "a.jsonl.gz", "b.db", *cloud).err
    assert "imported 0, skipped 3,000 duplicates" in told
    ferry.done("export", "a.db", "types", *cloud, "--source", "/shop", "--split-by", "type")
    assert sorted(os.listdir("types")) == [f"TYPE_{i}.jsonl" for i in range(3)]


def test_cloudevents_of_others_are_taken_in_by_the_attribute_that_is_chosen(ferry: Ferry) -> None:
    event = b'{"specversion":"1.0","id":"1","source":"/a","type":"T","time":"2026-01-01T00:00:00Z","orderid":"o-1"}\n'
    cloud = ("--format", "cloudevents")
    told = ferry.refused("import", "-", "b.db", *cloud, stdin=event)
    assert "line 1, field subject: is missing" in told
    assert not Path("b.db").exists()
    for command in ("import", "incremental-import"):
        ferry.done(command, "-", f"{command}.db", *cloud, "--aggregate-attribute", "orderid", stdin=event)
        assert b'"aggregateId":"o-1","aggregateVersion":1' in ferry.exported(f"{command}.db")


def test_cloudevents_that_are_cut_off_are_no_input(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    cloud = ("--format", "cloudevents")
    written = ferry.done("export", "a.db", "-", *cloud, "--source", "/shop").out.encode()
    assert "is not whole" in ferry.refused("import", "-", "b.db", *cloud, stdin=written[:-2])
    ferry.done("import", "-", "b.db", *cloud, stdin=written[:-1])
    assert ferry.exported("b.db") == make_lines(20)


def test_what_a_store_refuses_is_told_by_the_number_of_the_event(ferry: Ferry) -> None:
    """The bytes and the lines that an import counts are not those of the file."""
    ferry.file("few.csv", b"type,timestamp,aggregateId\nT,0,a\n")
    told = ferry.refused("import", "few.csv", "b.db", "--format", "csv")
    assert "event 1, field threadCounter: is missing" in told
    written = (
        b"threadCounter,threadId,type,timestamp,aggregateId,aggregateVersion,payload\n"
        b"0,0,T,0,a,1,null\n0,0,T,0,a,2,null\n"
    )
    told = ferry.refused("import", "-", "b.db", "--format", "csv", stdin=written)
    assert "byte" not in told
    assert not Path("b.db").exists()


def test_without_the_package_for_parquet_the_error_says_what_to_install(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ferry.store("a.db", 3)
    import eventferry

    for name in ("to_parquet", "read_parquet"):
        monkeypatch.delitem(vars(eventferry), name, raising=False)
    monkeypatch.delitem(sys.modules, "eventferry.tabular.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'eventferry[parquet]'" in ferry.refused(
        "export", "a.db", "a.parquet", "--format", "parquet"
    )
    ferry.done("export", "a.db", "a.csv", "--format", "csv")
    assert line(make_event(0)) in ferry.exported("a.db")

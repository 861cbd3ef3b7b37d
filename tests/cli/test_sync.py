"""The commands sync and cutover, and verify up to a bookmark."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing

import pytest

from eventferry.sync import open_store
from tests.support.cli import Ferry, new_ferry
from tests.support.restoring import heads_of, restore

ferry = pytest.fixture(new_ferry)


def save(name: str, count: int, first: int = 1, aggregate: str = "a") -> None:
    with open_store(name) as store:
        if not store.exists():
            store.init()
        for version in range(first, first + count):
            store.save_event({"type": "T", "aggregateId": aggregate, "aggregateVersion": version})


def test_a_store_is_brought_over_and_then_what_is_new(ferry: Ferry) -> None:
    save("a.db", 5)
    told = ferry.done("sync", "a.db", "b.db", "--bookmark")
    assert told.err.startswith("brought over 5 events; bookmark ef1.")
    assert told.out == ""
    save("a.db", 2, 6)
    report = ferry.done("sync", "a.db", "b.db", "--json").json
    assert (report["mode"], report["events"], report["secrets"]) == ("replica", 2, 0)
    ferry.done("verify", "a.db", "b.db")
    save("a.db", 1, 8)
    assert ferry("verify", "a.db", "b.db").status == 1
    told = ferry.done("verify", "a.db", "b.db", "--until", report["bookmark"])
    assert told.err == "equal: 7 events\n"


def test_a_store_with_events_of_its_own_is_merged_into(ferry: Ferry) -> None:
    save("a.db", 3)
    save("b.db", 2, aggregate="mine")
    assert ferry("sync", "a.db", "b.db").status == 2
    assert "brought over 3 events" in ferry.done("sync", "a.db", "b.db", "--merge").err
    save("b.db", 1, 4)
    save("a.db", 1, 4)
    refused = ferry("sync", "a.db", "b.db")
    assert refused.status == 1
    assert "'a' lives on both sides" in refused.err
    assert "--same-aggregate" in refused.err


def test_the_status_tells_how_it_is_and_exits_for_a_monitor(ferry: Ferry) -> None:
    save("a.db", 3)
    save("b.db", 0)
    assert ferry("sync", "a.db", "b.db", "--status").status == 1
    ferry.done("sync", "a.db", "b.db")
    assert ferry.done("sync", "a.db", "b.db", "--status").err.startswith("replica: 3 events brought over")
    assert ferry.done("sync", "a.db", "b.db", "--status", "--max-lag", "0").status == 0
    save("a.db", 1, 4)
    time.sleep(0.01)
    late = ferry("sync", "a.db", "b.db", "--status", "--max-lag", "0", "--json")
    assert (late.status, late.json["lagEvents"]) == (1, 1)
    assert ferry.done("sync", "a.db", "b.db", "--status", "--max-lag", "3600").status == 0
    save("b.db", 1, aggregate="mine")
    assert ferry("sync", "a.db", "b.db").status == 1
    for words in (("--max-lag", "3600"), ()):
        failed = ferry("sync", "a.db", "b.db", "--status", *words)
        assert failed.status == 1
        assert "; 1 event behind, " in failed.err
        assert "the last try failed: TargetChangedError" in failed.err


def test_the_status_tells_the_position(ferry: Ferry) -> None:
    save("a.db", 3)
    bookmark = ferry.done("sync", "a.db", "b.db", "--json").json["bookmark"]
    told = ferry.done("sync", "a.db", "b.db", "--status").err
    assert told.endswith(f"; 0 events behind, 0.0 s; bookmark of the source {bookmark}\n")


def test_a_source_that_is_behind_what_was_synced_is_not_fine(ferry: Ferry) -> None:
    save("a.db", 1)
    backup = ferry.in_store("a.db", heads_of)
    save("a.db", 1, 2)
    ferry.done("sync", "a.db", "b.db")
    restore(f"sqlite:///{ferry.directory / 'a.db'}", backup)
    for try_it in (False, True):
        if try_it:
            told = ferry.refused("sync", "a.db", "b.db")
            assert "a.db" in told
            assert "is behind what was synced" in told
            assert "the target is whole" in told
            assert "restore it again; otherwise sync into an empty store" in told
        status = ferry("sync", "a.db", "b.db", "--status")
        assert status.status == 1
        assert "how far behind is not known" in status.err
        assert "it cannot go on: CursorAheadError: the source " in status.err
        assert "0 events behind" not in status.err
        as_json = ferry("sync", "a.db", "b.db", "--status", "--json")
        assert (as_json.status, as_json.json["lagEvents"], as_json.json["lagSeconds"]) == (1, None, None)


def test_options_that_do_not_go_together_are_refused(ferry: Ferry) -> None:
    save("a.db", 1)
    assert ferry("sync", "a.db", "b.db", "--max-lag", "1").status == 2
    assert ferry("sync", "a.db", "b.db", "--same-aggregate", "renumber").status == 2
    assert ferry("sync", "a.db", "b.db", "--merge", "--same-aggregate", "x").status == 2
    assert ferry("verify", "a.db", "--until", "ef1.x").status == 2
    assert ferry("sync", "missing.db", "b.db").status == 1


def test_whoever_follows_ends_by_a_signal_and_goes_on_later(ferry: Ferry) -> None:
    save("a.db", 10)
    child = ferry.start("sync", "a.db", "b.db", "--follow")
    deadline = time.monotonic() + 30
    with open_store("b.db") as target:
        while not target.exists() or target.describe().event_count < 10:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    save("a.db", 5, 11)
    with open_store("b.db") as target:
        while target.describe().event_count < 15:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 143
    save("a.db", 1, 16)
    ferry.done("sync", "a.db", "b.db")
    ferry.done("verify", "a.db", "b.db")


def test_a_cutover_freezes_the_source(ferry: Ferry) -> None:
    save("a.db", 4)
    ferry.done("sync", "a.db", "b.db")
    save("a.db", 2, 5)
    told = ferry.done("cutover", "a.db", "b.db")
    assert told.err.startswith("cut over: 2 events brought over, 0 of them while a.db was frozen")
    assert "eventferry unfreeze a.db" in told.err
    assert ferry("cutover", "a.db", "b.db").status == 1
    ferry.done("verify", "a.db", "b.db")
    ferry.done("unfreeze", "a.db")
    assert ferry.done("cutover", "a.db", "b.db", "--json").json["events"] == 0


def test_stores_are_told_by_the_names_that_they_were_given_by(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ferry.file("config.toml", b"[stores]\nold = 'a.db'\nnew = 'b.db'\n")
    monkeypatch.setenv("EVENTFERRY_CONFIG", "config.toml")
    assert ferry.done("init", "old").err == "created the store old\n"
    save("a.db", 4)
    told = ferry.done("cutover", "old", "new").err
    assert "while old was frozen" in told
    assert "use new now" in told
    assert told.endswith("eventferry unfreeze old\n")


MAPPING = """
select = "SELECT id AS position, stream AS aggregate, type, data, at AS time FROM {events}"
[tables]
events = "events"
[time]
unit = "ms"
"""


LINKS = MAPPING.replace("at AS time", "at AS time, CASE WHEN type = 'LINK' THEN 'link' END AS kind")


class Shop:
    """Another product's table, and its mapping `shop.toml`."""

    def __init__(self, ferry: Ferry) -> None:
        (ferry.directory / "shop.toml").write_text(MAPPING)
        self.from_it = ("--from", "shop.toml")
        self._file = ferry.directory / "shop.db"
        self.run("CREATE TABLE events(id INTEGER PRIMARY KEY, stream TEXT, type TEXT, data TEXT, at INTEGER)")

    def run(self, statement: str) -> None:
        with closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute(statement)

    def add(self, count: int) -> None:
        for _ in range(count):
            self.run("INSERT INTO events(stream, type, data, at) VALUES ('cart', 'ADDED', '{\"item\":1}', 1)")


@pytest.fixture
def shop(ferry: Ferry) -> Shop:
    return Shop(ferry)


def test_another_products_table_is_brought_over_and_then_what_is_new(ferry: Ferry, shop: Shop) -> None:
    shop.add(3)
    told = ferry.done("sync", "shop.db", "b.db", *shop.from_it, "--bookmark")
    assert told.err.startswith("brought over 3 events; bookmark es1.")
    assert told.err.endswith("; exact; 3 with another version than in the source\n")
    shop.add(2)
    report = ferry.done("sync", "shop.db", "b.db", *shop.from_it, "--json").json
    assert (report["mode"], report["events"], report["exactness"]) == ("replica", 2, "exact")
    assert ferry.done("verify", "shop.db", "b.db", *shop.from_it).err == "equal: 5 events\n"


def test_rows_that_are_left_out_are_told_by_the_run_that_reads_them(ferry: Ferry, shop: Shop) -> None:
    (ferry.directory / "shop.toml").write_text(LINKS)
    shop.add(3)
    shop.run("UPDATE events SET type = 'LINK' WHERE id = 2")
    words = ("sync", "shop.db", "b.db", *shop.from_it)
    told = ferry.done(*words, "--dry-run")
    assert told.err == (
        "the first fill of a replica would bring over 2 events, from 1970-01-01T00:00:00.001+00:00 to "
        "1970-01-01T00:00:00.001+00:00; 1 link row left out; nothing was stored\n"
    )
    assert ferry.done(*words, "--dry-run", "--json").json["skipped"] == {"link": 1}
    assert ferry.done(*words).err == (
        "brought over 2 events; exact; 1 link row left out; 2 with another version than in the source\n"
    )
    assert ferry.done(*words).err == "brought over 0 events; exact\n"
    shop.add(2)
    shop.run("UPDATE events SET type = 'LINK' WHERE id > 3")
    report = ferry.done(*words, "--json").json
    assert (report["events"], report["skipped"]) == (0, {"link": 2})
    assert ferry.done(*words).err == "brought over 0 events; exact\n"


def test_the_status_of_one_from_a_table_tells_how_it_is(ferry: Ferry, shop: Shop) -> None:
    shop.add(3)
    ferry.done("sync", "shop.db", "b.db", *shop.from_it)
    status = ("sync", "shop.db", "b.db", *shop.from_it, "--status")
    assert ferry.done(*status, "--max-lag", "0").err.startswith("replica: 3 events brought over")
    shop.add(2)
    late = ferry(*status, "--max-lag", "60", "--json")
    assert (late.status, late.json["lagEvents"]) == (1, 2)
    assert ferry("sync", "shop.db", "b.db", "--from", "shop.toml", "--payload", "data").status == 2
    elsewhere = ("sync", str(ferry.directory / "shop.db"), "b.db", *shop.from_it)
    assert "brought over 2 events" in ferry.done(*elsewhere).err
    shop.run("UPDATE events SET type = 'OTHER'")
    assert ferry("sync", "shop.db", "b.db", *shop.from_it).status == 1
    replaced = ferry(*status)
    assert replaced.status == 1
    assert "StoreReplacedError" in replaced.err


@pytest.mark.slow
def test_whoever_follows_a_table_is_killed_and_goes_on(ferry: Ferry, shop: Shop) -> None:
    shop.add(4)
    child = ferry.start("sync", "shop.db", "b.db", *shop.from_it, "--follow")
    deadline = time.monotonic() + 30

    def wait_for(count: int) -> None:
        with open_store("b.db") as target:
            while not target.exists() or target.describe().event_count < count:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    wait_for(4)
    shop.add(3)
    wait_for(7)
    child.kill()
    child.wait(30)
    shop.add(1)
    child = ferry.start("sync", "shop.db", "b.db", *shop.from_it, "--follow")
    wait_for(8)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 143
    ferry.done("verify", "shop.db", "b.db", *shop.from_it)


def test_options_of_a_mapping_need_one(ferry: Ferry, shop: Shop) -> None:
    save("a.db", 1)
    assert ferry("sync", "a.db", "b.db", "--settle", "1").status == 2
    assert ferry("sync", "a.db", "b.db", "--keep", "link").status == 2
    assert ferry("sync", "shop.db", "b.db", "--from", "unheard-of").status == 2
    assert ferry.done("sync", "shop.db", "b.db", *shop.from_it, "--settle", "0").status == 0

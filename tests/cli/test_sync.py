"""The commands sync and cutover, and verify up to a bookmark."""

from __future__ import annotations

import signal
import time

import pytest

from eventferry.sync import open_store
from tests.support.cli import Ferry, new_ferry

ferry = pytest.fixture(new_ferry)


def save(name: str, count: int, first: int = 1, aggregate: str = "a") -> None:
    with open_store(name) as store:
        if not store.exists():
            store.init()
        for version in range(first, first + count):
            store.save_event({"type": "T", "aggregateId": aggregate, "aggregateVersion": version})


def test_a_store_is_brought_over_and_then_what_is_new(ferry: Ferry) -> None:
    save("a.db", 5)
    told = ferry.done("sync", "a.db", "b.db")
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
    failed = ferry("sync", "a.db", "b.db", "--status", "--max-lag", "3600")
    assert failed.status == 1
    assert "the last try failed: TargetChangedError" in failed.err


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

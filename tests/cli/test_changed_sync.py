"""The commands sync and verify with filters, rules and a function."""

from __future__ import annotations

import json

import pytest

from eventferry.sync import open_store
from tests.cli.test_sync import Shop
from tests.support import make_event
from tests.support.cli import Ferry, new_ferry

ferry = pytest.fixture(new_ferry)

RULES = """
[pseudonyms]
key_file = "staging.key"
[[rule]]
type = "TYPE_0"
rename = "FIRST"
[[rule]]
type = "TYPE_1"
drop = true
[[rule]]
aggregate_prefix = "aggregate-"
pseudonym_aggregate = true
"""


@pytest.fixture
def shop(ferry: Ferry) -> Shop:
    return Shop(ferry)


@pytest.fixture
def rules(ferry: Ferry) -> tuple[str, str]:
    """The option with a file of rules."""
    (ferry.directory / "staging.toml").write_text(RULES)
    (ferry.directory / "staging.key").write_bytes(b"sixteen bytes and more")
    return "--rules", "staging.toml"


def add(name: str, count: int, first: int = 1) -> None:
    with open_store(name) as store:
        for version in range(first, first + count):
            store.save_event(
                {"type": f"TYPE_{version % 3}", "aggregateId": "new", "aggregateVersion": version}
            )


def test_a_changed_copy_is_kept_in_step_and_verified_by_its_rules(
    ferry: Ferry, rules: tuple[str, str]
) -> None:
    ferry.store("a.db", [make_event(i) for i in range(90)])
    told = ferry.done("sync", "a.db", "b.db", *rules).err
    assert told.startswith("brought over 60 events; 90 read")
    assert "90 read, 30 dropped, 60 changed, 0 untouched" in told
    add("a.db", 6)
    report = ferry.done("sync", "a.db", "b.db", *rules, "--json").json
    assert (report["read"], report["events"], report["changes"]["dropped"]) == (6, 4, 2)
    assert ferry.done("verify", "a.db", "b.db", *rules).err.startswith("equal: 64 events\n")
    assert ferry.done("verify", "a.db", "b.db", *rules, "--content").err.startswith("equal: 64 events\n")
    ferry.done("verify", "b.db")
    assert ferry("verify", "a.db", "b.db").status == 1
    ferry.done("export", "b.db", "b.jsonl")
    assert b"aggregate-0" not in (ferry.directory / "b.jsonl").read_bytes()


def test_other_rules_over_a_half_copied_target_are_refused(ferry: Ferry, rules: tuple[str, str]) -> None:
    ferry.store("a.db", [make_event(i) for i in range(9)])
    ferry.done("sync", "a.db", "b.db", *rules)
    for other in ((), (*rules, "--type", "TYPE_0"), ("--exclude-type", "TYPE_1")):
        refused = ferry("sync", "a.db", "b.db", *other)
        assert refused.status == 2
        assert "was begun with other changes" in refused.err
    (ferry.directory / "staging.key").write_bytes(b"another key of pseudonyms")
    refused = ferry("sync", "a.db", "b.db", *rules)
    assert refused.status == 2
    assert "a.db" in refused.err
    assert "sync into an empty store" in refused.err
    assert "another key" not in refused.err


def test_filters_have_the_meaning_that_they_have_elsewhere(ferry: Ferry) -> None:
    ferry.store("a.db", [make_event(i) for i in range(90)])
    for number, (filters, count) in enumerate(
        (
            (("--type", "TYPE_0", "--type", "TYPE_1"), 60),
            (("--exclude-type", "TYPE_0"), 60),
            (("--aggregate-id", "aggregate-1", "--aggregate-prefix", "aggregate-2"), 18),
            (("--from", "1600000000010", "--until", "1600000000019"), 10),
        )
    ):
        target = f"{number}.db"
        assert ferry.done("sync", "a.db", target, *filters, "--json").json["events"] == count
        assert ferry.done("verify", "a.db", target, *filters, "--json").json["events"] == count


def test_a_source_that_grows_is_verified_up_to_a_bookmark(ferry: Ferry, rules: tuple[str, str]) -> None:
    ferry.store("a.db", [make_event(i) for i in range(90)])
    bookmark = ferry.done("sync", "a.db", "b.db", *rules, "--json").json["bookmark"]
    add("a.db", 3)
    until = ("verify", "a.db", "b.db", *rules, "--until", bookmark)
    assert ferry.done(*until).err.startswith("equal: 60 events\n")
    ferry.done("sync", "a.db", "b.db", *rules)
    assert ferry.done(*until).err.startswith("equal: 60 events\n")
    assert ferry.done(*until, "--until", "2040-01-31T12:00:00.000000+00:00").status == 0
    assert ferry(*until, "--until", bookmark).status == 2


def test_the_bookmark_of_an_empty_source_is_no_time(ferry: Ferry) -> None:
    ferry.store("a.db", [])
    bookmark = ferry.done("sync", "a.db", "b.db", "--json").json["bookmark"]
    add("a.db", 3)
    assert ferry.done("verify", "a.db", "b.db", "--until", bookmark).err == "equal: 0 events\n"


def test_a_dry_run_tells_what_would_come_and_stores_nothing(ferry: Ferry, rules: tuple[str, str]) -> None:
    ferry.store("a.db", [make_event(i) for i in range(9)])
    told = ferry.done("sync", "a.db", "b.db", *rules, "--dry-run")
    assert "the first fill of a replica would bring over 6 events" in told.err
    assert "nothing was stored" in told.err
    assert '+ /type "FIRST"' in told.out
    assert not (ferry.directory / "b.db").exists()
    told = ferry.done("sync", "a.db", "b.db", "--dry-run")
    assert "2020-09-13T12:26:40.000+00:00 TYPE_0 of 'aggregate-0': {\"number\":0}" in told.out
    ferry.done("sync", "a.db", "b.db", *rules)
    add("a.db", 3)
    preview = ferry.done("sync", "a.db", "b.db", *rules, "--dry-run", "--json").json
    assert (preview["isFirst"], preview["read"], preview["events"]) == (False, 3, 2)
    assert preview["types"] == {"FIRST": 1, "TYPE_2": 1}
    assert ferry.done("sync", "a.db", "b.db", *rules, "--json").json["events"] == 2
    assert ferry("sync", "a.db", "b.db", *rules, "--dry-run", "--follow").status == 2


def test_a_dry_run_of_another_products_table_tells_its_first_trouble(ferry: Ferry, shop: Shop) -> None:
    shop.add(3)
    told = ferry.done("sync", "shop.db", "b.db", *shop.from_it, "--dry-run")
    assert "the first fill of a replica would bring over 3 events" in told.err
    assert "           3 ADDED" in told.out
    shop.run("UPDATE events SET data = '{' WHERE id = 2")
    told = ferry("sync", "shop.db", "b.db", *shop.from_it, "--dry-run")
    assert told.status == 1
    assert "position 2" in told.err
    assert not (ferry.directory / "b.db").exists()


def test_a_table_is_synced_with_a_mapping_and_changes(
    ferry: Ferry, shop: Shop, rules: tuple[str, str]
) -> None:
    shop.add(4)
    changes = (*rules, "--exclude-type", "OTHER", "--from", "1970-01-01")
    assert "brought over 4 events" in ferry.done("sync", "shop.db", "b.db", *shop.from_it, *changes).err
    assert ferry.done("verify", "shop.db", "b.db", *shop.from_it, *changes).err.startswith("equal: 4 events")


def test_a_report_says_what_was_changed(ferry: Ferry, rules: tuple[str, str]) -> None:
    ferry.store("a.db", [make_event(i) for i in range(9)])
    ferry.done("sync", "a.db", "b.db", *rules, "--report", "report.json")
    report = json.loads((ferry.directory / "report.json").read_text())
    assert (report["read"], report["dropped"], report["written"]) == (9, 3, 6)
    assert report["typesAfter"] == {"FIRST": 3, "TYPE_2": 3}


def test_secrets_stay_behind_where_events_are_changed(ferry: Ferry) -> None:
    ferry.store("a.db", [make_event(i) for i in range(9)])
    with open_store("a.db") as store:
        store.set_secret("one", "1")
    filters = ("--aggregate-prefix", "aggregate-")
    ferry.done("sync", "a.db", "b.db", *filters)
    ferry.done("sync", "a.db", "c.db", *filters, "--secrets")
    with open_store("b.db") as without, open_store("c.db") as with_them:
        assert without.get_secret("one") is None
        assert with_them.get_secret("one") == "1"


def test_one_store_is_not_checked_with_changes(ferry: Ferry, rules: tuple[str, str]) -> None:
    ferry.store("a.db", [make_event(0)])
    for options in (rules, ("--type", "TYPE_0"), ("--until", "2020-01-01")):
        assert ferry("verify", "a.db", *options).status == 2

"""Verify of secrets: what is missing, extra, deleted or another one is found, and no secret is ever told."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import EventStore, InputError, SecretDifference, open_store, sync, verify_secrets
from eventferry.comparing.spill import Spill
from tests.support.cli import Ferry, new_ferry
from tests.support.places import DATABASES, Places

ferry = pytest.fixture(new_ferry)
KEY = "kEy-0fGr3atWorth"
OTHER_KEY = "0th3r-kEy-0fGr3atWorth"


def line(name: str, secret: str | None, idx: int) -> bytes:
    return json.dumps({"secret": secret, "id": name, "idx": idx}).encode() + b"\n"


async def blocks(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    for text in lines:
        yield text


SIDES = st.dictionaries(st.integers(0, 8), st.tuples(st.sampled_from([None, "a", "b"]), st.integers(0, 3)))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, st.booleans(), st.sampled_from([0, 10**9]), st.randoms(use_true_random=False))
async def test_what_differs_is_what_differs_by_id(
    first: dict[int, Any], second: dict[int, Any], content: bool, waiting_bytes: int, chance: Any
) -> None:
    texts = [[line(f"id-{name}", *row) for name, row in side.items()] for side in (first, second)]
    chance.shuffle(texts[1])
    report = await verify_secrets(
        blocks(texts[0]), blocks(texts[1]), content=content, waiting_bytes=waiting_bytes
    )
    both = first.keys() & second.keys()
    changed = {
        name for name in both if first[name][: 1 if content else 2] != second[name][: 1 if content else 2]
    }
    assert (report.secrets, report.other_secrets) == (len(first), len(second))
    assert (report.missing, report.extra) == (len(first.keys() - second), len(second.keys() - first))
    assert report.changed == len(changed)
    assert report.equal == (not report.differences) == (not changed and first.keys() == second.keys())
    for difference in report.differences:
        name = int(difference.id[3:])
        deleted, other = (None if name not in side else side[name][0] is None for side in (first, second))
        assert (difference.deleted, difference.other_deleted) == (deleted, other)
        if difference.kind == "changed":
            assert ("deleted" in difference.fields) == (deleted != other)
            assert ("idx" in difference.fields) == (not content and first[name][1] != second[name][1])


async def test_of_many_differences_the_first_are_told_and_all_counted() -> None:
    many = [line(f"{i:05}", "same", i) for i in range(3000)]
    report = await verify_secrets(blocks(many), blocks([]), waiting_bytes=50_000)
    assert (report.missing, [difference.id for difference in report.differences]) == (
        3000,
        [f"{i:05}" for i in range(10)],
    )


async def test_an_id_that_a_file_has_twice_is_a_difference() -> None:
    once, twice = [line("a", KEY, 0)], [line("a", KEY, 0)] * 2
    assert (await verify_secrets(blocks(once), blocks(twice))).extra == 1
    assert (await verify_secrets(blocks(twice), blocks(twice))).equal


async def test_what_waits_is_not_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    put = Spill.put

    def watched(self: Spill[Any], records: Iterable[Any]) -> None:
        found = list(records)
        seen.extend(found)
        put(self, found)

    monkeypatch.setattr(Spill, "put", watched)
    await verify_secrets(blocks([line("a", KEY, 0)]), blocks([line("b", OTHER_KEY, 1)]), waiting_bytes=0)
    assert seen
    assert "kEy" not in repr(seen)


async def fill(store: EventStore) -> None:
    await store.init()
    for name in ("anna", "bert", "carl"):
        await store.set_secret(name, f"{KEY} of {name}")
    await store.delete_secret("bert")


@pytest.mark.parametrize(
    ("one", "two"), [("sqlite", "postgresql"), ("sqlite", "mariadb"), ("mariadb", "postgresql")]
)
async def test_stores_on_different_databases_have_equal_secrets_until_one_differs(
    tmp_path: Path, one: str, two: str
) -> None:
    with Places(one, tmp_path) as here, Places(two, tmp_path) as there:
        async with open_store(here.new_url()) as a, open_store(there.new_url()) as b:
            await fill(a)
            await fill(b)

            async def differences() -> list[SecretDifference]:
                report = await verify_secrets(
                    a.export_secrets(tombstones=True), b.export_secrets(tombstones=True)
                )
                assert report.equal == (not report.differences)
                return report.differences

            assert await differences() == []
            await b.delete_secret("anna")
            assert await differences() == [SecretDifference("changed", "anna", False, True, ("deleted",))]
            await a.delete_secret("anna")
            await a.set_secret("dora", KEY)
            assert await differences() == [SecretDifference("missing", "dora", False, None)]
            await b.set_secret("dora", OTHER_KEY)
            assert await differences() == [SecretDifference("changed", "dora", False, False, ("secret",))]


def secrets_file(ferry: Ferry, name: str, *rows: tuple[str, str | None]) -> str:
    return ferry.file(name, b"".join(line(*row, idx) for idx, row in enumerate(rows)))


def test_the_command_compares_events_and_secrets_of_two_stores(ferry: Ferry) -> None:
    for name in ("a.db", "b.db"):
        ferry.store(name, 30)
        ferry.done("import-secrets", "-", name, stdin=line("anna", KEY, 0) + line("bert", KEY, 1))
    told = ferry.done("verify", "a.db", "b.db", "--secrets")
    assert (told.out, told.err) == ("", "equal: 30 events\nequal: 2 secrets\n")
    ferry.done("import-secrets", "-", "b.db", stdin=line("bert", None, 1))
    assert ferry.done("verify", "a.db", "b.db").status == 0
    told = ferry("verify", "a.db", "b.db", "--secrets")
    assert told.status == 1
    assert told.out == "changed (deleted in B): secret 'bert'\n"
    assert told.err == ("equal: 30 events\nunequal: 2 and 2 secrets; 0 missing, 0 extra, 1 changed in b.db\n")
    report = ferry("verify", "a.db", "b.db", "--secrets", "--json").json
    assert (report["equal"], report["events"], report["secrets"]["changed"]) == (False, 30, 1)
    assert report["secrets"]["differences"] == [
        {"kind": "changed", "id": "bert", "deleted": False, "otherDeleted": True, "fields": ["deleted"]}
    ]
    assert KEY not in json.dumps(report)


def test_the_command_compares_files_of_secrets_with_one_another_and_with_stores(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    ferry.done("import-secrets", "-", "a.db", stdin=line("anna", KEY, 0) + line("bert", None, 1))
    ferry.done("export-secrets", "a.db", "all.jsonl", "--tombstones")
    ferry.done("export-secrets", "a.db", "living.jsonl")
    assert ferry.done("verify", "all.jsonl", "a.db", "--secrets").err == "equal: 2 secrets\n"
    told = ferry("verify", "a.db", "living.jsonl", "--secrets")
    assert (told.status, told.out) == (1, "missing: secret 'bert'\n")
    other = secrets_file(ferry, "other.jsonl", ("anna", OTHER_KEY), ("bert", None))
    told = ferry("verify", "all.jsonl", other, "--secrets")
    assert (told.status, told.out) == (1, "changed (secret): secret 'anna'\n")
    moved = ferry.file("moved.jsonl", line("bert", None, 7) + line("anna", KEY, 0))
    told = ferry("verify", "all.jsonl", moved, "--secrets")
    assert (told.status, told.out) == (1, "changed (idx): secret 'bert'\n")
    assert ferry.done("verify", "all.jsonl", moved, "--secrets", "--content").out == ""


def test_no_secret_stands_in_what_verify_says_or_logs(ferry: Ferry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good = secrets_file(ferry, "good.jsonl", ("anna", KEY), ("bert", KEY))
    other = secrets_file(ferry, "other.jsonl", ("anna", OTHER_KEY), ("carl", KEY))
    broken = [
        ferry.file(f"{place}.jsonl", text)
        for place, text in enumerate(
            (
                line("anna", KEY, 0)[:-9],
                b'{"secret":["%s"],"id":"anna","idx":0}\n' % KEY.encode(),
                b'{"secret":"%s\\ud800","id":"anna","idx":0}\n' % KEY.encode(),
                b'{"secret":"%s","id":"anna","idx":"%s"}\n' % (KEY.encode(), KEY.encode()),
                b'{"secret":"%s\xff","id":"anna","idx":0}\n' % KEY.encode(),
                b'"%s"\n' % KEY.encode(),
            )
        )
    ]
    for words in ((good, other, "--json"), (good, other), *((good, name) for name in broken)):
        told = ferry("verify", *words, "--secrets")
        assert told.status == 1
        assert "kEy" not in told.out + told.err + caplog.text
    for name in (good, *broken):  # whoever forgets the option
        told = ferry("verify", good, name)
        assert "kEy" not in told.out + told.err
        told = ferry("verify", name)
        assert "kEy" not in told.out + told.err


def test_one_source_alone_has_no_secrets_to_compare(ferry: Ferry) -> None:
    assert "two" in ferry.refused("verify", ferry.store("a.db"), "--secrets", status=2)


async def test_a_line_that_is_no_secret_is_refused_by_its_number() -> None:
    with pytest.raises(InputError) as caught:
        await verify_secrets(blocks([line("a", KEY, 0), b"\n", b'{"id":"b"}\n']), blocks([line("a", KEY, 0)]))
    assert caught.value.line == 3


@pytest.mark.parametrize("database", DATABASES)
def test_without_await(tmp_path: Path, database: str) -> None:
    with Places(database, tmp_path) as places, sync.open_store(places.new_url()) as store:
        store.init()
        store.set_secret("anna", KEY)
        [text] = [b"".join(store.export_secrets())]
        assert sync.verify_secrets(store.export_secrets(tombstones=True), [text]).equal

"""The commands of incremental imports, whole and in steps, and those of secrets."""

from __future__ import annotations

import json
import re
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support import make_event, make_lines
from tests.support.cli import Ferry, new_ferry

if TYPE_CHECKING:
    from eventferry import EventStore

ferry = pytest.fixture(new_ferry)


def contents(lines: bytes) -> list[int]:
    return [json.loads(line)["payload"]["number"] for line in lines.splitlines()]


def array(count: int) -> bytes:
    return json.dumps([make_event(i) for i in range(count)], indent=2).encode()


def test_incremental_import_brings_what_the_store_lacks_and_says_so(ferry: Ferry) -> None:
    store = ferry.store("a.db", 200)
    told = ferry.done("incremental-import", ferry.file("in.jsonl", make_lines(300)), store)
    assert told.out == ""
    assert "100" in told.err
    assert "200" in told.err
    assert contents(ferry.exported(store)) == list(range(300))


def test_incremental_import_as_json_has_the_keys_that_are_documented(ferry: Ferry) -> None:
    store = ferry.store("a.db", 200)
    told = ferry.done("incremental-import", "-", store, "--json", stdin=make_lines(300))
    assert list(told.json.items()) == [("imported", 100), ("skippedExisting", 200), ("skippedOlder", 0)]
    assert told.err == ""
    again = ferry.done("incremental-import", "-", store, "--json", stdin=make_lines(300))
    assert again.json == {"imported": 0, "skippedExisting": 300, "skippedOlder": 0}


def test_incremental_import_makes_a_missing_store(ferry: Ferry) -> None:
    ferry.done("incremental-import", "-", "new.db", stdin=make_lines(300))
    assert contents(ferry.exported("new.db")) == list(range(300))


def test_incremental_import_takes_a_store_as_its_source(ferry: Ferry) -> None:
    ferry.store("a.db", 300)
    told = ferry.done("incremental-import", "a.db", ferry.store("b.db", 200), "--json")
    assert told.json["imported"] == 100
    assert ferry.done("verify", "a.db", "b.db", "--content").status == 0


@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf", b" \n\t"], ids=["plain", "mark", "blank"])
def test_incremental_import_takes_one_json_array(ferry: Ferry, lead: bytes) -> None:
    told = ferry.done("incremental-import", "-", "a.db", "--json", stdin=lead + array(300) + b"\n")
    assert told.json["imported"] == 300
    assert contents(ferry.exported("a.db")) == list(range(300))


@pytest.mark.parametrize("nothing", [b"", b"\n", b"[]", b" [ ] \n"])
def test_incremental_import_of_nothing_is_a_report_of_zeros(ferry: Ferry, nothing: bytes) -> None:
    told = ferry.done("incremental-import", "-", ferry.store("a.db", 3), "--json", stdin=nothing)
    assert told.json == {"imported": 0, "skippedExisting": 0, "skippedOlder": 0}


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (array(3)[:-1], "array"),
        (array(3) + b"more", "behind"),
        (b"[1]", "element 1"),
        (b'[{"type":"T"}]', "element 1"),
        (b'{"type":"T"}\n', "line 1"),
        (make_lines(3)[:-9], "line 3"),
    ],
)
def test_bad_input_is_named_by_its_place_and_nothing_comes_in(
    ferry: Ferry, damaged: bytes, words: str
) -> None:
    store = ferry.store("a.db", 1)
    assert words in ferry.refused("incremental-import", "-", store, stdin=damaged)
    assert ferry.exported(store) == make_lines(1)


def test_older_events_are_skipped_with_a_warning(ferry: Ferry) -> None:
    store = ferry.store("a.db", [make_event(100)])
    told = ferry.done("incremental-import", "-", store, "--json", stdin=make_lines(103))
    assert told.json == {"imported": 2, "skippedExisting": 1, "skippedOlder": 100}
    assert "warning" in told.err
    assert "100" in told.err
    assert "--older" in told.err


def test_no_warning_where_none_was_older(ferry: Ferry) -> None:
    told = ferry.done("incremental-import", "-", ferry.store("a.db", 3), stdin=make_lines(5))
    assert "warning" not in told.err


def test_older_reject_refuses_the_whole_batch(ferry: Ferry) -> None:
    store = ferry.store("a.db", [make_event(100)])
    before = ferry.exported(store)
    ferry.refused("incremental-import", "-", store, "--older", "reject", stdin=make_lines(103))
    assert ferry.exported(store) == before


def test_older_accept_takes_them_in(ferry: Ferry) -> None:
    store = ferry.store("a.db", [make_event(100)])
    told = ferry.done("incremental-import", "-", store, "--older", "accept", "--json", stdin=make_lines(103))
    assert told.json == {"imported": 102, "skippedExisting": 1, "skippedOlder": 0}
    assert told.err == ""


def test_a_dry_run_reports_and_changes_nothing(ferry: Ferry) -> None:
    store = ferry.store("a.db", 200)
    before = ferry.exported(store)
    words = ("incremental-import", "-", store, "--dry-run")
    assert ferry.done(*words, "--json", stdin=make_lines(300)).json == {
        "imported": 100,
        "skippedExisting": 200,
        "skippedOlder": 0,
    }
    assert "would" in ferry.done(*words, stdin=make_lines(300)).err
    assert ferry.exported(store) == before


def test_a_dry_run_on_a_missing_store_creates_nothing(ferry: Ferry) -> None:
    told = ferry.done("incremental-import", "-", "new.db", "--dry-run", "--json", stdin=make_lines(300))
    assert told.json == {"imported": 300, "skippedExisting": 0, "skippedOlder": 0}
    assert ferry.names() == set()


def test_incremental_import_drops_unknown_keys_if_asked(ferry: Ferry) -> None:
    source = ferry.file("in.jsonl", [make_event(0, surplus=1)])
    assert "surplus" in ferry.refused("incremental-import", source, ferry.store("a.db"))
    ferry.done("incremental-import", source, "a.db", "--ignore-unknown-keys")
    assert ferry.exported("a.db") == make_lines(1)


# in steps


@pytest.fixture
def import_id(ferry: Ferry) -> str:
    """Of an import that is open in a.db."""
    return ferry.done("incremental", "begin", ferry.store("a.db", 2)).out.strip()


def test_begin_prints_only_the_id(ferry: Ferry) -> None:
    told = ferry.done("incremental", "begin", ferry.store("a.db"))
    assert re.fullmatch(r"\S+\n", told.out)
    assert told.err == ""


def test_a_second_begin_says_since_when_one_is_open_and_how_to_end_it(ferry: Ferry, import_id: str) -> None:
    told = ferry.refused("incremental", "begin", "a.db")
    assert import_id in told
    assert re.search(r"\d{4}-\d\d-\d\d", told)
    assert "commit" in told
    assert "roll" in told


def test_push_and_commit_bring_the_events_in(ferry: Ferry, import_id: str) -> None:
    told = ferry.done("incremental", "push", import_id, "-", "a.db", stdin=make_lines(3))
    assert told.out == ""
    assert "3" in told.err
    ferry.done("incremental", "push", import_id, "-", "a.db", stdin=array(5))
    assert contents(ferry.exported("a.db")) == [0, 1]
    report = ferry.done("incremental", "commit", import_id, "a.db", "--json")
    assert list(report.json) == ["imported", "skippedExisting", "skippedOlder"]
    # 0, 1 and 2 were pushed twice: one each of 0 and 1 is known, the other 0 is older than the store's 1.
    assert report.json == {"imported": 5, "skippedExisting": 2, "skippedOlder": 1}
    assert report.err.startswith("warning")


def test_commit_tells_in_words_and_warns_of_older_ones(ferry: Ferry) -> None:
    ferry.store("a.db", [make_event(100)])
    import_id = ferry.done("incremental", "begin", "a.db").out.strip()
    ferry.done("incremental", "push", import_id, "-", "a.db", stdin=make_lines(103))
    told = ferry.done("incremental", "commit", import_id, "a.db")
    assert told.out == ""
    assert "warning" in told.err


@pytest.mark.parametrize(("older", "count"), [("accept", 103), ("skip", 3)])
def test_commit_takes_older(ferry: Ferry, older: str, count: int) -> None:
    ferry.store("a.db", [make_event(100)])
    import_id = ferry.done("incremental", "begin", "a.db").out.strip()
    ferry.done("incremental", "push", import_id, "-", "a.db", stdin=make_lines(103))
    ferry.done("incremental", "commit", import_id, "a.db", "--older", older)
    assert len(ferry.exported("a.db").splitlines()) == count


def test_pushing_a_part_again_replaces_it(ferry: Ferry, import_id: str) -> None:
    for _ in range(2):
        ferry.done("incremental", "push", import_id, "-", "a.db", "--part", "one", stdin=make_lines(5))
    report = ferry.done("incremental", "commit", import_id, "a.db", "--json").json
    assert report == {"imported": 3, "skippedExisting": 2, "skippedOlder": 0}


def test_a_part_has_a_name(ferry: Ferry, import_id: str) -> None:
    ferry.refused("incremental", "push", import_id, "-", "a.db", "--part", "", status=2)


def test_a_push_that_fails_adds_nothing(ferry: Ferry, import_id: str) -> None:
    told = ferry.refused("incremental", "push", import_id, "-", "a.db", stdin=make_lines(5)[:-9])
    assert "line 5" in told
    report = ferry.done("incremental", "commit", import_id, "a.db", "--json").json
    assert report == {"imported": 0, "skippedExisting": 0, "skippedOlder": 0}


def test_push_and_commit_with_a_wrong_id_change_nothing(ferry: Ferry, import_id: str) -> None:
    ferry.done("incremental", "push", import_id, "-", "a.db", stdin=make_lines(5))
    assert "wrong" in ferry.refused("incremental", "push", "wrong", "-", "a.db", stdin=make_lines(9))
    assert "wrong" in ferry.refused("incremental", "commit", "wrong", "a.db")
    assert ferry.done("incremental", "commit", import_id, "a.db", "--json").json["imported"] == 3


def test_rollback_drops_the_open_import(ferry: Ferry, import_id: str) -> None:
    ferry.done("incremental", "push", import_id, "-", "a.db", stdin=make_lines(5))
    assert ferry.done("incremental", "rollback", "a.db").out == ""
    ferry.refused("incremental", "commit", import_id, "a.db")
    assert contents(ferry.exported("a.db")) == [0, 1]
    ferry.done("incremental", "begin", "a.db")


def test_a_whole_incremental_import_leaves_the_open_one_alone(ferry: Ferry, import_id: str) -> None:
    ferry.done("incremental", "push", import_id, "-", "a.db", stdin=make_lines(5))
    ferry.done("incremental-import", "-", "a.db", stdin=make_lines(3))
    assert ferry.done("incremental", "commit", import_id, "a.db", "--json").json["imported"] == 2


# secrets


@pytest.fixture
def secrets(ferry: Ferry) -> str:
    """A store with the secrets a and c, and b deleted."""

    async def set_them(store: EventStore) -> None:
        for name in ("a", "b", "c"):
            await store.set_secret(name, f"secret of {name}")
        await store.delete_secret("b")

    store = ferry.store("secrets.db")
    ferry.in_store(store, set_them)
    return store


A = b'{"secret":"secret of a","id":"a","idx":0}\n'
B = b'{"secret":null,"id":"b","idx":1}\n'
C = b'{"secret":"secret of c","id":"c","idx":2}\n'


def test_export_secrets_writes_lines(ferry: Ferry, secrets: str) -> None:
    told = ferry.done("export-secrets", secrets, "out.jsonl")
    assert told.out == ""
    assert "2" in told.err
    assert (ferry.directory / "out.jsonl").read_bytes() == A + C
    assert ferry.done("export-secrets", secrets, "-").out.encode() == A + C


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_exported_secrets_are_for_nobody_else_to_read(ferry: Ferry, secrets: str, ending: str) -> None:
    ferry.done("export-secrets", secrets, f"out.jsonl{ending}")
    assert stat.S_IMODE((ferry.directory / f"out.jsonl{ending}").stat().st_mode) == 0o600


def test_export_secrets_gives_tombstones_if_asked(ferry: Ferry, secrets: str) -> None:
    assert ferry.done("export-secrets", secrets, "-", "--tombstones").out.encode() == A + B + C


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_import_secrets_brings_them_back_and_again_changes_nothing(
    ferry: Ferry, secrets: str, ending: str
) -> None:
    ferry.done("export-secrets", secrets, f"out.jsonl{ending}", "--tombstones")
    ferry.store("other.db")
    told = ferry.done("import-secrets", f"out.jsonl{ending}", "other.db")
    assert told.out == ""
    assert "3" in told.err
    ferry.done("import-secrets", f"out.jsonl{ending}", "other.db")
    assert ferry.done("export-secrets", "other.db", "-", "--tombstones").out.encode() == A + B + C


def test_import_secrets_reads_standard_input_and_reports_as_json(ferry: Ferry, secrets: str) -> None:
    told = ferry.done("import-secrets", "-", secrets, "--json", stdin=A + B)
    assert told.err == ""
    assert told.json["imported"] == 0
    assert told.json["skippedExisting"] == 2


def test_import_secrets_never_brings_a_deleted_one_back(ferry: Ferry, secrets: str) -> None:
    live = b'{"secret":"revived","id":"b","idx":1}\n'
    told = ferry.done("import-secrets", "-", secrets, "--json", stdin=live)
    assert told.json["skippedDeleted"] == 1
    assert ferry.done("export-secrets", secrets, "-").out.encode() == A + C


def test_another_secret_under_an_id_is_refused_and_neither_is_printed(ferry: Ferry, secrets: str) -> None:
    other = b'{"secret":"new","id":"z","idx":9}\n{"secret":"hunter2","id":"a","idx":0}\n'
    told = ferry.refused("import-secrets", "-", secrets, stdin=other)
    assert "'a'" in told
    assert "hunter2" not in told
    assert "secret of a" not in told
    assert ferry.done("export-secrets", secrets, "-").out.encode() == A + C


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"secret":"hunter2","id":"z"}\n',
        b'{"secret":"hunter2","id":"z","idx":-1}\n',
        b'{"secret":"hunter2","id":5,"idx":1}\n',
        b'{"secret":["hunter2"],"id":"z","idx":1}\n',
        b'{"secret":"hunter2","id":"z","idx":1,"hunter2":1}\n',
        b'{"secret":"hunter2","id":"z","idx":1',
        b'"hunter2"\n',
    ],
)
def test_a_line_that_is_no_secret_is_named_by_its_place_and_not_printed(
    ferry: Ferry, secrets: str, damaged: bytes
) -> None:
    told = ferry.refused("import-secrets", "-", secrets, stdin=A + damaged)
    assert "line 2" in told
    assert ferry.done("export-secrets", secrets, "-").out.encode() == A + C
    if b'"hunter2":1' not in damaged:  # a key's name may be told
        assert "hunter2" not in told


def test_a_frozen_store_refuses_secrets(ferry: Ferry, secrets: str) -> None:
    ferry.done("freeze", secrets)
    assert "frozen" in ferry.refused("import-secrets", "-", secrets, stdin=A)


def test_import_and_copy_bring_no_secrets(ferry: Ferry, secrets: str) -> None:
    ferry.done("copy", secrets, "b.db")
    assert ferry.done("export-secrets", "b.db", "-", "--tombstones").out == ""

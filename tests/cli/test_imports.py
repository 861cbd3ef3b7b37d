"""The commands that replace or append events: import and copy."""

from __future__ import annotations

import contextlib
import gzip
import sqlite3
import time
from typing import Any

import pytest

from eventferry import EventStore, StoreUnreachableError
from tests.support import LONG_AGO, line, make_event, make_lines
from tests.support.cli import Ferry, new_ferry

ferry = pytest.fixture(new_ferry)


async def snapshot(store: EventStore) -> None:
    await store.save_snapshot("key", "of the old events")


def test_import_makes_a_missing_store_and_reports_in_words(ferry: Ferry) -> None:
    source = ferry.file("in.jsonl", make_lines(300))
    told = ferry.done("import", source, "new.db")
    assert told.out == ""
    assert "300" in told.err
    assert ferry.exported("new.db") == make_lines(300)


def test_import_as_json_reports_on_stdout(ferry: Ferry) -> None:
    source = ferry.file("in.jsonl", make_lines(300))
    told = ferry.done("import", source, "new.db", "--json")
    assert list(told.json.items()) == [("imported", 300), ("byteOffset", len(make_lines(300)))]
    assert told.err == ""


def test_import_reads_standard_input(ferry: Ferry) -> None:
    ferry.done("import", "-", "new.db", stdin=make_lines(300))
    assert ferry.exported("new.db") == make_lines(300)


def test_import_reads_a_store_too(ferry: Ferry) -> None:
    ferry.done("import", ferry.store("a.db", 300), "b.db")
    assert ferry.exported("b.db") == make_lines(300)


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_import_unpacks_by_the_ending_of_the_name(ferry: Ferry, ending: str) -> None:
    ferry.done("export", ferry.store("a.db", 300), f"packed.{ending}")
    told = ferry.done("import", f"packed.{ending}", "b.db", "--json")
    assert told.json == {"imported": 300, "byteOffset": len(make_lines(300))}
    assert ferry.exported("b.db") == make_lines(300)


def test_import_reads_packed_files_joined_end_to_end(ferry: Ferry) -> None:
    lines = make_lines(300)
    source = ferry.file("in.gz", gzip.compress(lines[:1000]) + gzip.compress(lines[1000:]))
    ferry.done("import", source, "b.db")
    assert ferry.exported("b.db") == lines


def test_import_takes_blank_lines_a_byte_order_mark_and_crlf(ferry: Ferry) -> None:
    source = b"\xef\xbb\xbf\n" + make_lines(3).replace(b"\n", b"\r\n\r\n")
    ferry.done("import", "-", "a.db", stdin=source)
    assert ferry.exported("a.db") == make_lines(3)


def test_import_into_a_store_that_holds_events_needs_replace(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    source = ferry.file("in.jsonl", make_lines(5))
    assert "--replace" in ferry.refused("import", source, store)
    assert ferry.exported(store) == make_lines(3)
    ferry.done("import", source, store, "--replace")
    assert ferry.exported(store) == make_lines(5)


def test_import_does_not_replace_what_is_being_stored_while_it_begins(ferry: Ferry) -> None:
    ferry.done("init", "a.db")
    source = ferry.file("in.jsonl", make_lines(5))
    with contextlib.closing(sqlite3.connect("a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO events VALUES (0, 0, 1, 'somebody', 1, 'SAVED', 'null')")
        child = ferry.start("import", source, "a.db")
        time.sleep(1.5)  # it has looked into the store by now, and waits to write
        other.execute("COMMIT")
    _, told = child.communicate()
    assert child.returncode == 1
    assert b"--replace" in told
    assert b"SAVED" in ferry.exported("a.db")


def test_import_into_an_empty_store_needs_no_replace(ferry: Ferry) -> None:
    ferry.done("init", "a.db")
    ferry.done("import", "-", "a.db", stdin=make_lines(5))
    assert ferry.exported("a.db") == make_lines(5)


def test_replace_takes_the_snapshots_with_it_and_leaves_the_secrets(ferry: Ferry) -> None:
    async def secret(store: EventStore) -> None:
        await snapshot(store)
        await store.set_secret("id", "hidden")

    async def both(store: EventStore) -> tuple[str | None, str | None]:
        return await store.load_snapshot("key"), await store.get_secret("id")

    store = ferry.store("a.db", 3)
    ferry.in_store(store, secret)
    ferry.done("import", "-", store, "--replace", stdin=make_lines(5))
    assert ferry.in_store(store, both) == (None, "hidden")


def test_an_empty_input_does_not_empty_a_store_unless_asked(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    assert "--allow-empty" in ferry.refused("import", "-", store, "--replace", stdin=b"\n")
    assert ferry.exported(store) == make_lines(3)
    ferry.done("import", "-", store, "--replace", "--allow-empty", stdin=b"\n")
    assert ferry.exported(store) == b""


def test_allow_empty_alone_does_not_replace(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    assert "--replace" in ferry.refused("import", "-", store, "--allow-empty", stdin=b"")
    assert ferry.exported(store) == make_lines(3)


def test_an_empty_input_into_an_empty_store_is_fine(ferry: Ferry) -> None:
    told = ferry.done("import", "-", "a.db", "--json", stdin=b"")
    assert told.json == {"imported": 0, "byteOffset": 0}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: [*lines[:2], b"{oops}\n", *lines[3:]], ("line 3", "byte")),
        (lambda lines: [*lines[:4], lines[4][:-20]], ("line 5", "ends inside an event")),
        (lambda lines: [*lines, lines[0]], ("line 1", "line 6")),
        (lambda lines: [*lines[:4], line(make_event(4) | {"surplus": 1})], ("line 5", "surplus")),
        (
            lambda lines: [
                *lines[:4],
                line({key: value for key, value in make_event(4).items() if key != "type"}),
            ],
            ("line 5", "type"),
        ),
        (lambda lines: [*lines[:4], line(make_event(4, threadId=256))], ("line 5", "threadId")),
        (lambda lines: [*lines[:4], b"\xff\xfe\n"], ("line 5", "UTF-8")),
    ],
    ids=["malformed", "cut off", "doubled", "unknown key", "missing type", "wrong thread", "not UTF-8"],
)
def test_bad_input_is_named_by_its_place_and_changes_nothing(
    ferry: Ferry, damage: Any, words: tuple[str, ...]
) -> None:
    store = ferry.store("a.db", 3)
    source = ferry.file("in.jsonl", b"".join(damage(make_lines(5).splitlines(keepends=True))))
    told = ferry.refused("import", source, store, "--replace", "--freeze")
    for word in words:
        assert word in told
    assert ferry.exported(store) == make_lines(3)
    assert ferry.done("describe", store, "--json").json["isFrozen"] is False


def test_unknown_keys_are_dropped_if_asked(ferry: Ferry) -> None:
    source = ferry.file("in.jsonl", [make_event(0, surplus=1), make_event(1, surplus=2)])
    ferry.refused("import", source, ferry.store("a.db"))
    ferry.done("import", source, "a.db", "--ignore-unknown-keys")
    assert ferry.exported("a.db") == make_lines(2)


def test_a_frozen_store_refuses_an_import_that_replaces(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    ferry.done("freeze", store)
    for more in ((), ("--freeze",)):
        assert "unfreeze" in ferry.refused("import", "-", store, "--replace", *more, stdin=make_lines(5))
    assert ferry.exported(store) == make_lines(3)
    assert ferry.done("describe", store, "--json").json["frozenBy"] == "user"


def test_an_import_that_freezes_unfreezes_at_its_end(ferry: Ferry) -> None:
    ferry.done("import", "-", "a.db", "--freeze", stdin=make_lines(5))
    assert ferry.done("describe", "a.db", "--json").json["isFrozen"] is False


def test_resume_with_nothing_to_go_on_with_begins_at_the_start(ferry: Ferry) -> None:
    told = ferry.done("import", "-", "a.db", "--resume", "--json", stdin=make_lines(5))
    assert told.json["imported"] == 5
    assert ferry.exported("a.db") == make_lines(5)


def test_manual_appends_to_what_is_there(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    rest = ferry.file("rest.jsonl", map(make_event, range(3, 8)))
    told = ferry.done("import", rest, store, "--manual", "--json")
    assert told.json["imported"] == 5
    assert ferry.exported(store) == make_lines(8)


def test_manual_may_be_sent_again(ferry: Ferry) -> None:
    store = ferry.store("a.db")
    for _ in range(2):
        ferry.done("import", "-", store, "--manual", stdin=make_lines(8))
    assert ferry.exported(store) == make_lines(8)


def test_manual_goes_into_a_frozen_store_and_leaves_it_frozen(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    ferry.done("freeze", store)
    ferry.done("import", "-", store, "--manual", stdin=make_lines(8))
    assert ferry.exported(store) == make_lines(8)
    assert ferry.done("describe", store, "--json").json["isFrozen"] is True


def test_manual_refuses_other_content_at_a_position_that_is_taken(ferry: Ferry) -> None:
    store = ferry.store("a.db", 3)
    told = ferry.refused("import", "-", store, "--manual", stdin=line(make_event(1, payload="other")))
    assert "line 1" in told
    assert "threadCounter" in told
    assert ferry.exported(store) == make_lines(3)


def test_manual_byte_offset_skips_so_much_of_the_source(ferry: Ferry) -> None:
    lines = make_lines(8)
    offset = len(make_lines(3))
    source = ferry.file("in.jsonl", lines)
    told = ferry.done("import", source, "a.db", "--manual", "--byte-offset", str(offset), "--json")
    assert told.json == {"imported": 5, "byteOffset": len(lines)}
    assert ferry.exported("a.db") == lines[offset:]
    ferry.done("import", source, "a.db", "--manual")
    assert ferry.exported("a.db") == lines


def test_manual_byte_offset_counts_unpacked_bytes_and_works_on_standard_input(ferry: Ferry) -> None:
    lines, offset = make_lines(8), len(make_lines(3))
    packed = ferry.file("in.gz", gzip.compress(lines))
    words = ("--manual", "--byte-offset", str(offset))
    ferry.done("import", packed, "a.db", *words)
    ferry.done("import", "-", "b.db", *words, stdin=lines)
    assert ferry.exported("a.db") == ferry.exported("b.db") == lines[offset:]


def test_manual_byte_offset_beyond_the_end_is_not_taken_for_a_success(ferry: Ferry) -> None:
    told = ferry("import", "-", "a.db", "--manual", "--byte-offset", "1000000", "--json", stdin=make_lines(3))
    assert told.status == 1


def test_manual_that_fails_says_where_to_go_on(ferry: Ferry) -> None:
    first, second = make_lines(3), make_lines(8)
    wrong = first + b"{oops}\n"
    told = ferry.refused("import", ferry.file("in.jsonl", wrong), "a.db", "--manual")
    offset = told.partition("--byte-offset ")[2].split()[0]
    ferry.file("in.jsonl", second)
    ferry.done("import", "in.jsonl", "a.db", "--manual", "--byte-offset", offset)
    assert ferry.exported("a.db") == second


def test_copy_makes_a_missing_store_and_keeps_every_field(ferry: Ferry) -> None:
    told = ferry.done("copy", ferry.store("a.db", 300), "b.db")
    assert told.out == ""
    assert "300" in told.err
    assert ferry.exported("b.db") == make_lines(300)
    assert ferry.done("verify", "a.db", "b.db").status == 0


def test_copy_as_json_reports_on_stdout(ferry: Ferry) -> None:
    told = ferry.done("copy", ferry.store("a.db", 3), "b.db", "--json")
    assert list(told.json) == ["imported", "byteOffset", "bookmark"]
    assert (told.json["imported"], told.json["byteOffset"]) == (3, len(make_lines(3)))
    assert told.err == ""


def test_copy_into_a_store_that_holds_events_needs_replace(ferry: Ferry) -> None:
    ferry.store("a.db", 5)
    ferry.store("b.db", 3)
    assert "--replace" in ferry.refused("copy", "a.db", "b.db")
    assert ferry.exported("b.db") == make_lines(3)
    ferry.done("copy", "a.db", "b.db", "--replace")
    assert ferry.exported("b.db") == make_lines(5)


def test_copy_of_an_empty_store_needs_allow_empty(ferry: Ferry) -> None:
    ferry.store("a.db")
    ferry.store("b.db", 3)
    assert "--allow-empty" in ferry.refused("copy", "a.db", "b.db", "--replace")
    assert ferry.exported("b.db") == make_lines(3)
    ferry.done("copy", "a.db", "b.db", "--replace", "--allow-empty")
    assert ferry.exported("b.db") == b""


def test_copy_reads_a_frozen_store_and_leaves_it_frozen(ferry: Ferry) -> None:
    ferry.done("freeze", ferry.store("a.db", 5))
    ferry.done("copy", "a.db", "b.db")
    states = [ferry.done("describe", name, "--json").json["isFrozen"] for name in ("a.db", "b.db")]
    assert states == [True, False]


def test_copy_between_two_stores_of_one_file(ferry: Ferry) -> None:
    other = (
        "sqlite:///a.db?events_table_name=e2&snapshots_table_name=s2&secrets_table_name=k2"
        "&subscribers_table_name=r2"
    )
    ferry.done("copy", ferry.store("a.db", 300), other)
    assert ferry.exported(other) == ferry.exported("a.db") == make_lines(300)


def test_a_large_event_passes(ferry: Ferry) -> None:
    event = make_event(0, payload="ü" * 3_000_000, timestamp=LONG_AGO)
    source = ferry.file("in.jsonl", [event])
    ferry.done("import", source, "a.db")
    ferry.done("export", "a.db", "out.jsonl.zst")
    assert ferry.done("verify", "out.jsonl.zst", source).status == 0


@pytest.mark.parametrize("options", [("import",), ("import", "--manual"), ("incremental-import",)])
def test_a_line_that_is_refused_in_the_middle_leaves_no_new_file(
    ferry: Ferry, options: tuple[str, ...]
) -> None:
    source = ferry.file("in.jsonl", make_lines(300) + b"no event\n" + make_lines(300))
    assert "line 301" in ferry.refused(options[0], source, "new.db", *options[1:])
    assert ferry.names() == {source}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_new_store_that_cannot_be_removed_is_told_beside_the_error(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    async def broken(_: object) -> None:
        raise StoreUnreachableError("the disk is gone")

    monkeypatch.setattr(EventStore, "undo_init", broken)
    keys = b"threadCounter,threadId,type,timestamp,aggregateId,aggregateVersion,payload"
    rows = b"\n".join([keys, *(b"%d,0,T,1,a,%d,{}" % (i, i + 1) for i in range(20_000)), b"0,x,T,1,a,2,{}"])
    source = ferry.file("in", rows if form == "csv" else make_lines(3) + b'{"type":1}\n')
    first, second = ferry.refused("import", source, "new.db", "--format", form).splitlines()
    assert "field t" in first
    assert second == "eventferry: the empty store was not removed: the disk is gone"

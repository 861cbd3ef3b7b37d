"""A file whose indexes do not agree with its tables, broken on purpose: `check` finds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventferry import DatabaseError, check, open_store
from tests.support.sqlite import connect, make_resolve_store, make_store, rows, url_of


def without_an_index(path: Path, index: str, statement: str) -> None:
    """Run a statement of which an index hears nothing."""
    with connect(path) as other:
        [entry] = other.execute("SELECT * FROM sqlite_master WHERE name = ?", (index,)).fetchall()
        other.execute("PRAGMA writable_schema = ON")
        other.execute("DELETE FROM sqlite_master WHERE name = ?", (index,))
    with connect(path) as other:
        other.execute(statement)
        other.execute("PRAGMA writable_schema = ON")
        other.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", entry)


def index_on(path: Path, first: str) -> str:
    """The index of the events that begins with a column."""
    [name] = [
        name
        for (name,) in rows(path, "SELECT name FROM pragma_index_list('events')")
        if rows(path, "SELECT name FROM pragma_index_info(?)", name)[0] == (first,)
    ]
    return str(name)


@pytest.mark.parametrize("column", ["threadId", "aggregateId", "timestamp"])
@pytest.mark.parametrize(
    "statement",
    [
        """INSERT INTO events VALUES (7, 9, 1, 'secret', 1, 'T', '"secret"')""",
        "DELETE FROM events WHERE threadId = 7",
        "UPDATE events SET threadCounter = 9, aggregateVersion = 99, timestamp = 5 WHERE threadId = 7",
    ],
    ids=["a row more", "a row less", "another row"],
)
async def test_an_index_that_does_not_hold_what_the_table_holds_is_a_fault(
    tmp_path: Path, column: str, statement: str
) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 200)
    without_an_index(path, index_on(path, column), statement)
    async with open_store(url_of(path)) as store:
        report = await check(store)
    assert not report.sound
    assert report.faults > 0
    assert report.remarks[0].kind == "fault"
    assert "index" in report.remarks[0].text
    assert not any("secret" in remark.text for remark in report.remarks)


@pytest.mark.parametrize(
    ("column", "words"), [("threadId", "threadId and threadCounter"), ("aggregateId", "aggregateId")]
)
async def test_a_missing_unique_index_is_a_fault_although_no_line_is_wrong(
    tmp_path: Path, column: str, words: str
) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 20)
    index = index_on(path, column)
    rows(path, f'DROP INDEX "{index}"')
    async with open_store(url_of(path)) as store:
        report = await check(store)
        assert (report.sound, report.faults, report.malformed) == (False, 1, 0)
        assert words in report.remarks[0].text
        # One that leaves rows out is none.
        columns = {"threadId": "threadId, threadCounter", "aggregateId": "aggregateId, aggregateVersion"}[
            column
        ]
        rows(path, f"CREATE UNIQUE INDEX part ON events({columns}) WHERE threadId < 0")
        assert (await check(store)).faults == 1


async def test_damaged_pages_are_a_fault_or_an_error_but_never_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 2000)
    rows(path, "VACUUM")  # so that no page is unused
    whole = path.read_bytes()
    for page in range(2, len(whole) // 4096, 7):
        damaged = tmp_path / f"{page}.db"
        damaged.write_bytes(whole[: page * 4096] + os.urandom(512) + whole[page * 4096 + 512 :])
        async with open_store(url_of(damaged)) as store:
            try:
                report = await check(store)
            except DatabaseError:
                continue
            assert not report.sound, f"page {page}"


async def test_a_store_of_resolve_is_sound_also_without_the_right_to_write(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_resolve_store(path, 300)
    before = path.read_bytes()
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        async with open_store(url_of(path)) as store:
            report = await check(store)
    finally:
        tmp_path.chmod(0o700)
    assert (report.sound, report.events, report.remarks) == (True, 300, [])
    assert path.read_bytes() == before

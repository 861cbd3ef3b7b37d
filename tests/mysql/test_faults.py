"""A database whose counters and keys do not agree with the events, broken on purpose: `check` finds it."""

from __future__ import annotations

import pytest

from eventferry import check, open_store
from tests.mysql.test_rights import make_reader
from tests.support import import_lines, make_lines
from tests.support.mysql import Database


async def fill(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(256))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE `events-threads` SET threadCounter = 0 WHERE threadId = 7",
            "thread 7: the next counter is 0",
        ),
        (
            "UPDATE `events-threads` SET threadCounter = 9 WHERE threadId = 7",
            "thread 7: the next counter is 9",
        ),
        ("DELETE FROM `events-threads` WHERE threadId = 7", "255 rows"),
        ("UPDATE events SET threadId = 256 WHERE threadId = 7", "thread 256"),
        ("ALTER TABLE events DROP KEY aggregate", "no unique index on aggregateId"),
        ("ALTER TABLE events DROP PRIMARY KEY", "no unique index on threadId"),
        (
            "ALTER TABLE events DROP KEY aggregate, ADD UNIQUE KEY aggregate (aggregateId(40), aggregateVersion)",
            "no unique index on aggregateId",
        ),
    ],
    ids=["behind", "ahead", "a row less", "no thread", "no versions", "no positions", "half a key"],
)
async def test_counters_and_unique_keys_that_are_wrong_are_faults(
    database: Database, statement: str, words: str
) -> None:
    await fill(database)
    database.run(statement)
    async with open_store(database.url) as store:
        report = await check(store)
    assert not report.sound
    assert any(words in remark.text for remark in report.remarks)


async def test_a_user_with_the_right_to_select_checks_all_of_it_and_changes_nothing(
    database: Database,
) -> None:
    await fill(database)
    before = database.definitions()
    async with open_store(make_reader(database)) as store:
        report = await check(store)
    assert (report.sound, report.events, report.remarks) == (True, 256, [])
    assert database.definitions() == before


async def test_a_store_of_resolve_is_sound(database: Database) -> None:
    database.make_resolve_store(300)
    async with open_store(database.url) as store:
        report = await check(store)
    assert (report.sound, report.events, report.faults, report.unchecked) == (True, 300, 0, 0)

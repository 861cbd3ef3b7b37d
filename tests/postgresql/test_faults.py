"""A schema whose counters and indexes do not agree with the events, broken on purpose: `check` finds it."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from eventferry import DatabaseError, check, open_store
from eventferry.databases.inspecting import index_fault
from tests.postgresql.test_rights import READER, role
from tests.support import NewUrl, exported
from tests.support.postgresql import connect, make_resolve_store, make_store, rows, schema_of


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            """UPDATE "events-threads" SET "threadCounter" = 0 WHERE "threadId" = 7""",
            "thread 7: the next counter is 0",
        ),
        (
            """UPDATE "events-threads" SET "threadCounter" = 9 WHERE "threadId" = 7""",
            "thread 7: the next counter is 9",
        ),
        ("""DELETE FROM "events-threads" WHERE "threadId" = 7""", "255 rows"),
        ("""UPDATE "events" SET "threadId" = 256 WHERE "threadId" = 7""", "thread 256"),
        ("""DROP INDEX "events-aggregateIdAndVersion" """, "no unique index on aggregateId"),
        (
            """DROP INDEX "events-aggregateIdAndVersion";
            CREATE INDEX "plain" ON "events"("aggregateId", "aggregateVersion")""",
            "no unique index on aggregateId",
        ),
        (
            """DROP INDEX "events-aggregateIdAndVersion";
            CREATE UNIQUE INDEX "part" ON "events"("aggregateId", "aggregateVersion") WHERE "threadId" < 0""",
            "no unique index on aggregateId",
        ),
        ("""ALTER TABLE "events" DROP CONSTRAINT "events-pkey" """, "no unique index on threadId"),
    ],
    ids=[
        "behind",
        "ahead",
        "a row less",
        "no thread",
        "no versions",
        "versions twice",
        "some versions",
        "no positions",
    ],
)
async def test_counters_and_unique_indexes_that_are_wrong_are_faults(
    new_url: NewUrl, statement: str, words: str
) -> None:
    url = new_url()
    await make_store(url, 256)
    rows(url, statement)
    async with open_store(url) as store:
        report = await check(store)
    assert not report.sound
    assert any(words in remark.text for remark in report.remarks)


async def test_an_export_of_a_store_without_all_counters_says_so(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 256)
    rows(url, """DELETE FROM "events-threads" WHERE "threadId" = 7""")
    async with open_store(url) as store:
        with pytest.raises(DatabaseError, match="255 rows, not 256"):
            await exported(store)


def without_an_index(url: str, index: str, statement: str) -> None:
    """Run a statement of which an index hears nothing."""
    with connect(url) as other:
        for ready in (False, True):
            other.execute(
                "UPDATE pg_index SET indisready = %s WHERE indexrelid = %s::regclass",
                (ready, sql.Identifier(index).as_string(other)),
            )
            if not ready:
                other.execute(statement)


ROW = """INSERT INTO "events" VALUES (9, 1, 4000000000000, 'secret', 1, 'T', '"secret"', 100)"""
HEAD = """UPDATE "events-threads" SET "threadCounter" = 2 WHERE "threadId" = 9"""


@pytest.mark.parametrize("index", ["events-pkey", "events-aggregateIdAndVersion", "events-order"])
async def test_an_index_that_does_not_hold_what_the_table_holds_is_a_fault(
    new_url: NewUrl, index: str
) -> None:
    url = new_url()
    await make_store(url, 256)
    rows(url, HEAD)
    without_an_index(url, index, ROW)
    async with open_store(url) as store:
        report = await check(store)
    assert [remark.text for remark in report.remarks if remark.kind == "fault"] == [
        f"the index '{index}' has 256 entries, but the table 257 events: rebuild it"
    ]
    rows(url, f'REINDEX INDEX "{index}"')
    async with open_store(url) as store:
        assert (await check(store)).remarks == []


def test_an_index_with_as_many_entries_but_other_values_is_a_fault() -> None:
    """Only damage to its pages makes such an index, so what is counted is given here."""
    assert index_fault("i", (256, 77), (256, 77)) is None
    assert "other values" in (index_fault("i", (256, 77), (256, 78)) or "")


async def test_an_invalid_index_is_a_fault(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 20)
    rows(url, """UPDATE pg_index SET indisvalid = false WHERE indexrelid = '"events-order"'::regclass""")
    async with open_store(url) as store:
        report = await check(store)
    assert [remark.text for remark in report.remarks] == ["the index 'events-order' is not valid: rebuild it"]


async def test_a_store_of_resolve_is_sound_for_a_role_that_may_only_read(new_url: NewUrl) -> None:
    url = new_url()
    make_resolve_store(url, 300)
    with role(url, *READER) as reader:
        async with open_store(reader) as store:
            report = await check(store)
    assert (report.sound, report.events, report.remarks) == (True, 300, [])


async def test_amcheck_is_asked_where_it_is_installed_and_may_be_run(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url, 256)
    schema = schema_of(url)
    with connect(url) as other:
        try:
            other.execute(sql.SQL("CREATE EXTENSION amcheck SCHEMA {}").format(sql.Identifier(schema)))
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this PostgreSQL comes without amcheck")
        try:
            async with open_store(url) as store:
                assert (await check(store)).remarks == []
            with role(url, *READER) as reader:
                async with open_store(reader) as store:
                    report = await check(store)
                assert (report.sound, report.unchecked) == (True, 1)
                assert "may not run bt_index_check" in report.remarks[0].text
            rows(url, HEAD)
            without_an_index(url, "events-order", ROW)
            async with open_store(url) as store:
                report = await check(store)
            assert any("amcheck" in remark.text for remark in report.remarks)
            assert not any("secret" in remark.text for remark in report.remarks)
        finally:
            other.execute("DROP EXTENSION amcheck")

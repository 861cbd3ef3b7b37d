"""Who may only read reads everything and changes nothing; each step needs the rights that docs/postgresql.md names."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from eventferry import (
    AUTO,
    MANUAL,
    AlreadyFrozenError,
    EventStore,
    ImportNotFoundError,
    NotFrozenError,
    ReadOnlyStoreError,
    Rule,
    Rules,
    StoreFrozenError,
    archive,
    back_up,
    open_source,
    open_store,
    pipeline,
    verify,
)
from tests.conformance.test_stores import OTHER_WRITES, READS, WRITES_THAT_A_FREEZE_REFUSES, Use
from tests.support import (
    FAR_FUTURE,
    NewUrl,
    all_pages,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
    servers,
)
from tests.support.foreign.own import mapping, own_table
from tests.support.postgresql import (
    SAVED,
    STORE_TABLES,
    Own,
    at,
    connect,
    make_resolve_store,
    rows,
    schema_of,
    tables,
    with_options,
)
from tests.support.servers import shared_url

WRITES: dict[str, Use] = (
    WRITES_THAT_A_FREEZE_REFUSES
    | OTHER_WRITES
    | {
        "import_events, MANUAL": lambda store: import_lines(
            store, [make_event(9999)], maintenance_mode=MANUAL
        )
    }
)
NOTHING_TO_DO = (AlreadyFrozenError, NotFrozenError, StoreFrozenError, ImportNotFoundError)
"""What a write may say where it finds out before it writes."""
ON_TABLES = ("events", "events-threads", "snapshots", "secrets", "subscribers")


@contextmanager
def role(url: str, *grants: str) -> Iterator[str]:
    """The store's URL for a role that has been granted this on its tables (or "schema: " on its schema)."""
    name = f"role_{schema_of(url)}"
    with connect(url) as other:
        schema = sql.Identifier(schema_of(url))
        user = sql.Identifier(name)
        other.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(user))
        for right in grants:
            where, _, what = right.rpartition(": ")
            targets = sql.SQL("SCHEMA {}").format(schema)
            if where != "schema":
                named = sql.SQL(", ").join([sql.Identifier(table) for table in ON_TABLES])
                targets = sql.SQL("TABLE {}").format(named)
            other.execute(sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(what), targets, user))
        try:
            _, _, rest = url.partition("@")
            yield f"postgresql://{name}:secret@{rest}"
        finally:
            other.execute(sql.SQL("DROP OWNED BY {} CASCADE; DROP ROLE {}").format(user, user))


READER = ("schema: USAGE", "SELECT")
SAVER = (*READER, "INSERT, UPDATE, DELETE")


def snapshot(url: str) -> list[Any]:
    """All that a write, or even a lock on a row, would change."""
    found: list[Any] = rows(
        url,
        """SELECT c.oid, relname, relfilenode, relkind::text, relacl::text, relowner, c.xmin::text,
          obj_description(c.oid, 'pg_class')
        FROM pg_class AS c WHERE relnamespace = to_regnamespace(%s) ORDER BY relname""",
        schema_of(url),
    )
    for table in sorted(tables(url)):
        found += rows(
            url, f'SELECT xmin::text, xmax::text, ctid::text, t::text FROM "{table}" AS t ORDER BY ctid'
        )
    return found


def kill_owners(url: str) -> None:
    """Cut off whoever holds the lock of an owner: its freeze is then a dead one's."""
    rows(url, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")


async def fill(url: str) -> None:
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, make_lines(300))
        await store.set_secret("kept", "secret")
        await store.save_snapshot("key", "content")
        await store.ensure_event_subscriber("app", "model", {}, {})


# who may only read


@pytest.mark.parametrize("made_by", ["init", "resolve"])
async def test_who_may_only_read_reads_everything_and_changes_nothing(new_url: NewUrl, made_by: str) -> None:
    url = new_url()
    if made_by == "init":
        await fill(url)
    else:
        make_resolve_store(url, 300)
    with role(url, *READER) as address:
        before = snapshot(url)
        async with open_store(address) as store:
            for use in READS.values():
                await use(store)
            lines = await exported(store)
            assert lines.startswith(make_lines(300))
            assert len(await all_pages(store, 70)) == lines.count(b"\n")
            assert (await verify(store.export_events(), store.export_events())).equal
        assert snapshot(url) == before


@pytest.mark.parametrize("made_by", ["init", "resolve"])
async def test_a_sync_only_reads_its_source(new_url: NewUrl, made_by: str) -> None:
    url = new_url()
    if made_by == "init":
        await fill(url)
    else:
        make_resolve_store(url, 300)
    with role(url, *READER) as address:
        before = snapshot(url)
        async with open_store(address) as source:
            for mode in ("replica", "merge"):
                async with open_store(new_url()) as target:
                    await target.sync(source, mode=mode)
                    assert (await target.sync(source)).events == 0
                    assert (await verify(source.export_events(), target.export_events())).equal == (
                        mode == "replica"
                    )
        assert snapshot(url) == before


@pytest.mark.parametrize("frozen", [False, True])
async def test_each_write_of_who_may_only_read_is_refused_as_such(new_url: NewUrl, frozen: bool) -> None:
    url = new_url()
    await fill(url)
    async with open_store(url) as store:
        if frozen:
            await store.freeze()
    with role(url, *READER) as address:
        before = snapshot(url)
        async with open_store(address) as store:
            assert {name for name, use in WRITES.items() if await outcome(store, use) != "read only"} == set()
            assert snapshot(url) == before
            assert (await store.describe()).is_frozen == frozen


@pytest.mark.parametrize("frozen", [False, True])
async def test_a_connection_that_is_set_to_read_only_writes_nothing(new_url: NewUrl, frozen: bool) -> None:
    url = new_url()
    await fill(url)
    async with open_store(url) as store:
        if frozen:
            await store.freeze()
    before = snapshot(url)
    async with open_store(with_options(url, "options=-c%20default_transaction_read_only%3Don")) as store:
        await exported(store)
        done = {name for name, use in WRITES.items() if await outcome(store, use) == "done"}
        assert done <= {"rollback_incremental_import", "export_events, AUTO"}  # nothing to do there
        assert snapshot(url) == before


async def outcome(store: EventStore, use: Use) -> str:
    """What becomes of a write."""
    try:
        await use(store)
    except ReadOnlyStoreError:
        return "read only"
    except NOTHING_TO_DO:
        return "refused"
    return "done"


async def test_who_may_only_read_sees_a_running_freeze_and_takes_that_of_the_dead_for_none(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await fill(url)
    with role(url, *READER) as address:
        async with open_store(url) as writer, open_store(address) as store:
            export = writer.export_events(maintenance_mode=AUTO)
            await anext(export)
            assert (await store.describe()).frozen_by == "operation"
            kill_owners(url)
            before = snapshot(url)
            assert (await store.describe()).is_frozen is False
            assert (await exported(store)).startswith(make_lines(300))
            assert snapshot(url) == before
            await export.aclose()


# what else needs which right


async def test_who_may_insert_and_update_saves_and_appends(new_url: NewUrl) -> None:
    url = new_url()
    await fill(url)
    with role(url, *SAVER) as address:
        user = address.partition("//")[2].partition(":")[0]
        rows(url, f'GRANT UPDATE ON SEQUENCE "secrets_idx_seq" TO {user}')
        async with open_store(address) as store:
            # Behind every thread's events, wherever the secret of `fill` is.
            more = b"".join(line(make_event(i, threadCounter=9)) for i in range(300, 310))
            await import_lines(store, more, maintenance_mode=MANUAL)
            await store.save_event(SAVED)
            await store.set_secret("new", "secret")
            await store.delete_secret("new")
            await store.save_snapshot("key", "other")
            await store.drop_snapshot("key")
            await store.remove_event_subscriber("app", "model")
            with pytest.raises(ReadOnlyStoreError):
                await store.freeze()
            with pytest.raises(ReadOnlyStoreError):
                await import_lines(store, make_lines(5))
            with pytest.raises(ReadOnlyStoreError):
                await store.incremental_import([at(FAR_FUTURE, 1)])
            assert (await store.describe()).event_count == 314
    assert tables(url) == STORE_TABLES


async def test_who_may_only_read_backs_up_a_store_whose_first_erasure_and_archive_come_later(
    new_url: NewUrl, tmp_path: Path
) -> None:
    url = new_url()
    await fill(url)
    with role(url, *READER) as reader:
        async with open_store(url) as store, open_store(reader) as other:
            await import_lines(
                store, [make_event(i, payload={"note": "n" * 100}) for i in range(99)], replace=True
            )
            await back_up(store, tmp_path / "one")
            await store.erase(Rules(rules=(Rule(redact=("/name",)),)))
            await archive(store, tmp_path / "one", until=FAR_FUTURE)
            await back_up(other, tmp_path / "one")
            assert len(await other.archives()) == 1


async def test_who_may_save_uses_tables_that_another_has_made_and_the_owner_those_of_who_may_save(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await fill(url)
    with role(url, "schema: USAGE, CREATE", *SAVER[1:]) as saver:
        async with open_store(url) as store, open_store(saver) as other:
            await other.append_events("a", [{"type": "T"}], idempotency_key="one")
            await store.append_events("b", [{"type": "T"}], idempotency_key="two")
            await store.erase(Rules(rules=(Rule(redact=("/number",)),)))
            late = {"type": "T", "timestamp": FAR_FUTURE, "aggregateId": "late"}
            assert (await other.incremental_import([late])).imported == 1


async def test_a_save_that_may_not_remove_a_dead_freeze_says_who_may_and_unfreeze_does(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await fill(url)
    with role(url, *SAVER) as saver:
        async with open_store(url) as store, open_store(saver) as other:
            export = store.export_events(maintenance_mode=AUTO)
            await anext(export)
            kill_owners(url)
            with pytest.raises(ReadOnlyStoreError, match="unfreeze it as a user who may freeze it"):
                await other.save_event(SAVED)
            with pytest.raises(NotFrozenError):
                await store.unfreeze()
            await other.save_event(SAVED)
            await export.aclose()


async def test_who_may_create_in_the_schema_freezes_and_imports_incrementally_but_replaces_nothing(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await fill(url)
    with role(url, *SAVER, "schema: CREATE") as address:
        async with open_store(address) as store:
            await store.freeze()
            await store.unfreeze()
            assert (await store.incremental_import([at(FAR_FUTURE, 1)])).imported == 1
            import_id = await store.begin_incremental_import()
            await store.push_incremental_import([at(FAR_FUTURE, 2)], import_id)
            assert (await store.commit_incremental_import(import_id)).imported == 1
            before = await exported(store)
            for freeze in (False, True):
                with pytest.raises(ReadOnlyStoreError):
                    await import_lines(store, make_lines(5), freeze=freeze)
                assert tables(url) == STORE_TABLES
                assert await exported(store) == before
            with pytest.raises(ReadOnlyStoreError):
                await store.drop()


async def test_a_member_of_the_owning_role_replaces_the_events(new_url: NewUrl) -> None:
    url = new_url()
    await fill(url)
    owner = f"owner_{schema_of(url)}"
    with role(url, "schema: ALL", "ALL") as address:
        member = address.partition("//")[2].partition(":")[0]
        rows(url, f"CREATE ROLE {owner}")
        try:
            rows(url, f"GRANT {owner} TO {member}")
            rows(url, f"GRANT ALL ON SCHEMA {schema_of(url)} TO {owner}")
            rows(url, f'ALTER TABLE "events" OWNER TO {owner}')
            async with open_store(address) as store:
                await import_lines(store, make_lines(50), freeze=True)
                assert await exported(store) == make_lines(50)
            [(found,)] = rows(
                url, "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'events'::regclass"
            )
            assert found == owner
        finally:
            rows(url, f"REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}")


async def test_a_schema_is_made_without_the_right_to_make_one_where_it_is_there(new_url: NewUrl) -> None:
    url = new_url()
    rows(shared_url("postgresql", "postgres?database_name=public"), f"CREATE SCHEMA {schema_of(url)}")
    name = f"role_{schema_of(url)}"
    rows(url, f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    rows(url, f"GRANT USAGE, CREATE ON SCHEMA {schema_of(url)} TO {name}")
    address = f"postgresql://{name}:secret@{url.partition('@')[2]}"
    try:
        async with open_store(address) as store:
            await store.init()
            await import_lines(store, make_lines(20), freeze=True)
            await store.set_secret("id", "secret")
            await store.drop()
        async with open_store(address.replace("database_name=", "database_name=another_")) as store:
            with pytest.raises(ReadOnlyStoreError):
                await store.init()
    finally:
        rows(url, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


# a standby


@pytest.fixture
def standby(server: Own) -> Iterator[servers.Postgres]:
    """A standby of the server, with what that holds."""
    folder = server.server.folder.with_name(f"{server.server.folder.name}-standby")
    folder.mkdir(mode=0o755)
    servers._give(folder)
    copy = servers.Postgres(folder)
    subprocess.run(
        [
            *(servers._postgres("pg_basebackup"), "-R", "-X", "stream", "-c", "fast"),
            *("-D", str(copy.data), "-d", server.server.url("postgres")),
        ],
        check=True,
        capture_output=True,
        **servers._AS,
    )
    standby = Own(copy)
    copy.start()
    yield copy
    standby.end()


@pytest.mark.slow
async def test_a_standby_is_exported_and_every_write_there_is_refused(
    server: Own, request: pytest.FixtureRequest
) -> None:
    url = server.new_url()
    await fill(url)
    copy: servers.Postgres = request.getfixturevalue("standby")
    address = copy.url(url.rpartition("/")[2])
    async with open_store(url) as primary, open_store(address) as store:
        for use in READS.values():
            await use(store)
        assert (await exported(store)).startswith(make_lines(300))
        await primary.save_event(SAVED)
        await caught_up(url, address)
        mine, theirs = [await each.describe(calculate_cursor=True) for each in (store, primary)]
        assert (mine.event_count, mine.cursor) == (302, theirs.cursor)
        assert (await verify(primary.export_events(), store.export_events())).equal
        for name, use in WRITES.items():
            assert await outcome(store, use) in ("read only", "refused"), name
        # An operation that freezes on the primary: its lock is not to be seen here.
        export = primary.export_events(maintenance_mode=AUTO)
        await anext(export)
        await caught_up(url, address)
        assert (await store.describe()).frozen_by == "operation"
        await export.aclose()
        async with open_store(server.new_url()) as other:
            await other.init()
            await pipeline(store.export_events(), other.import_events())
            assert (await verify(primary.export_events(), other.export_events())).equal
        async with open_store(server.new_url()) as replica:
            await replica.sync(store)
            await primary.save_event(SAVED | {"aggregateId": "new"})
            await caught_up(url, address)
            assert (await replica.sync(store)).events == 1
            assert (await verify(primary.export_events(), replica.export_events())).equal


@pytest.mark.slow
async def test_another_products_table_on_a_standby_is_read_and_synced(
    server: Own, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with own_table("postgresql", tmp_path, server.server) as table:
        table.fill(2500)
        copy: servers.Postgres = request.getfixturevalue("standby")
        address = table.url.replace(f":{server.server.port}/", f":{copy.port}/")
        async with (
            open_source(address, mapping(), settle=0.1) as source,
            open_store(f"sqlite:///{tmp_path / 'replica.db'}") as replica,
        ):
            assert (await replica.sync(source)).events == 2500
            table.fill(1)
            await caught_up(f"{table.url}?database_name=public", f"{address}?database_name=public")
            report = await replica.sync(source)
            assert (report.events, report.exactness) == (
                1, "not exact, because this is a standby, which does not know who holds a number",
            )  # fmt: skip
            assert (await verify(source.export_events(), replica.export_events())).equal


async def caught_up(url: str, standby: str) -> None:
    """Wait until the standby has replayed what the primary wrote."""
    [(position,)] = rows(url, "SELECT pg_current_wal_lsn()::text")
    async with asyncio.timeout(30):
        while rows(standby, "SELECT pg_last_wal_replay_lsn() < %s::pg_lsn", position) == [(True,)]:
            await asyncio.sleep(0.02)


# another product's table


@pytest.mark.slow
async def test_a_role_that_may_only_select_reads_and_syncs_another_products_table(tmp_path: Path) -> None:
    with own_table("postgresql", tmp_path) as table:
        table.fill(2500)
        name = f"reader_{secrets.token_hex(6)}"
        table.run(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        try:
            table.run(f"GRANT SELECT ON events TO {name}")
            address = f"postgresql://{name}:secret@{table.url.partition('@')[2]}"
            async with (
                open_source(address, mapping()) as source,
                open_store(f"sqlite:///{tmp_path / 'replica.db'}") as replica,
            ):
                assert (await source.preview()).events == 2500
                report = await replica.sync(source)
                assert (report.events, report.exactness) == (2500, "exact")
        finally:
            table.run(f"DROP OWNED BY {name}; DROP ROLE {name}")

"""Behind a pgbouncer in transaction mode, where every transaction may get another server connection."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    ConcurrentError,
    Event,
    ImportReport,
    StoreFrozenError,
    cutover,
    open_source,
    open_store,
    pipeline,
    verify,
)
from tests.support import FAR_FUTURE, NewUrl, all_pages, exported, import_lines, make_lines, servers
from tests.support.foreign.own import mapping, own_table
from tests.support.postgresql import SAVED, STORE_TABLES, at, check_no_gaps, rows, tables, with_options

SETTINGS = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
query_wait_timeout = 30
logfile = {folder}/log
pidfile = {folder}/pidfile
"""


@pytest.fixture(scope="module")
def bouncer() -> Iterator[int]:
    """The port of a pgbouncer with four server connections, before the shared server."""
    program = servers._tool("pgbouncer", "pgbouncer")
    address = urlsplit(servers.shared_url("postgresql", ""))
    folder = Path(os.environ[servers.FOLDER]) / f"pgbouncer-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o755)
    servers._give(folder)
    port = servers.free_port()
    (folder / "users").write_text(f'"{address.username}" "{address.password}"\n')
    (folder / "ini").write_text(
        SETTINGS.format(host=address.hostname, port=address.port, own_port=port, folder=folder)
    )
    process = subprocess.Popen([program, str(folder / "ini")], stderr=subprocess.DEVNULL, **servers._AS)
    (folder / "pid").write_text(str(process.pid))
    deadline = time.monotonic() + 20
    ready = [servers._postgres("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False).returncode:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield port
    process.kill()
    process.wait()


def through(bouncer: int, url: str) -> str:
    return url.replace(f":{urlsplit(url).port}/", f":{bouncer}/")


@pytest.mark.slow
async def test_everything_works_through_it(bouncer: int, new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(through(bouncer, url)) as store, open_store(through(bouncer, url)) as other:
        await store.init()

        async def save(i: int) -> None:
            for version in range(1, 11):
                await store.save_event({"type": "T", "aggregateId": f"s{i}", "aggregateVersion": version})

        await asyncio.gather(*[save(i) for i in range(20)])
        with pytest.raises(ConcurrentError):
            await save(3)
        check_no_gaps(url)
        assert (await exported(store)).count(b"\n") == 200
        assert len(await all_pages(other, 30)) == 200

        await import_lines(store, make_lines(3000), freeze=True)
        await import_lines(store, make_lines(3100), maintenance_mode=MANUAL)
        assert await exported(other) == make_lines(3100)
        await pipeline(store.export_events(maintenance_mode=AUTO), other.import_events())

        batch = [at(FAR_FUTURE, i) for i in range(300)]
        assert await store.incremental_import(batch) == ImportReport(300, 0, 0)
        assert await other.incremental_import(batch) == ImportReport(0, 300, 0)
        import_id = await store.begin_incremental_import()
        # One after the other: each holds a server connection as its owner, and needs two more for a moment.
        for i in range(3):
            await other.push_incremental_import([at(FAR_FUTURE + 1, i)], import_id, part=str(i))
        assert await store.commit_incremental_import(import_id) == ImportReport(3, 0, 0)

        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await other.save_event(SAVED)
        await other.unfreeze()
        await store.save_event(SAVED)
        await store.set_secret("id", "secret")
        await store.save_snapshot("key", "content")
        assert await store.upgrade() == []
        assert (await other.describe()).event_count == 3405
        check_no_gaps(url)
        assert tables(url) == STORE_TABLES
        await store.drop()
        assert not await other.exists()
    assert tables(url) == set()


async def test_an_owner_behind_it_is_seen_to_live_and_to_have_died(bouncer: int, new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(through(bouncer, url)) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, make_lines(20))
        export = store.export_events(maintenance_mode=AUTO)
        await anext(export)
        for _ in range(10):
            await store.load_events(limit=1, cursor=None)
            assert (await other.describe()).frozen_by == "operation"
            with pytest.raises(StoreFrozenError):
                await other.save_event(SAVED)
        rows(url, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        assert not (await store.describe()).is_frozen
        await other.save_event(SAVED)
        await export.aclose()


async def test_what_one_client_sets_no_other_inherits(bouncer: int, new_url: NewUrl) -> None:
    url = with_options(new_url(), f"application_name={secrets.token_hex(6)}")
    async with open_store(through(bouncer, url)) as store:
        await store.init()
        await import_lines(store, make_lines(200), freeze=True)
        await store.incremental_import([at(FAR_FUTURE, 1)])
        await store.save_event(SAVED)
        await exported(store)
    shown = {
        tuple(rows(through(bouncer, url), "SELECT current_setting(%s)", name)[0])
        for name in ["lock_timeout"] * 12
    }
    assert shown == {("0",)}
    locks = rows(
        url,
        "SELECT mode FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE application_name = %s",
        url.rpartition("=")[2],
    )
    assert locks == []
    assert rows(url, "SELECT relname FROM pg_class WHERE relpersistence = 't'") == []
    # What is prepared stays, under a name that nobody gives to anything else.
    kept = {
        name
        for _ in range(12)
        for (name,) in rows(through(bouncer, url), "SELECT name FROM pg_prepared_statements")
    }
    assert all(name.startswith("eventferry_") for name in kept)


async def test_what_is_prepared_may_be_missing_on_any_server_connection(
    bouncer: int, new_url: NewUrl
) -> None:
    url = new_url()
    async with open_store(through(bouncer, url)) as store, open_store(through(bouncer, url)) as other:
        await store.init()
        for version in range(1, 13):
            rows(through(bouncer, url), "DEALLOCATE ALL")
            await asyncio.gather(
                *[
                    each.save_event({"type": "T", "aggregateId": f"{i}", "aggregateVersion": version})
                    for i, each in enumerate([store, other, store, other, store])
                ]
            )
            rows(through(bouncer, url), "DEALLOCATE ALL")
            found = await asyncio.gather(
                *[each.load_aggregate(f"{i}") for i, each in enumerate([store, other])]
            )
            assert [len(page.events) for page in found] == [version, version]
            rows(through(bouncer, url), "DEALLOCATE ALL")
            assert len((await store.load_events(cursor=None, limit=99)).events) == 5 * version
        assert (await store.describe()).event_count == 60
    check_no_gaps(url)


@pytest.mark.slow
async def test_stores_are_synced_and_followed_through_it(bouncer: int, new_url: NewUrl) -> None:
    source_url, target_url = new_url(), new_url()
    met: list[Event] = []
    async with (
        open_store(through(bouncer, source_url)) as source,
        open_store(through(bouncer, target_url)) as target,
        open_store(through(bouncer, target_url)) as reader,
    ):
        await source.init()
        await import_lines(source, make_lines(2500))
        await source.set_secret("id", "secret")
        assert (await target.sync(source)).events == 2501

        async def read() -> None:
            async for page in reader.follow(limit=300):
                met.extend(page.events)
                if len(met) >= 2601:
                    return

        reading = asyncio.create_task(read())
        following = asyncio.create_task(target.sync(source, follow=True))
        try:
            for version in range(1, 101):
                if version % 10 == 0:
                    rows(through(bouncer, source_url), "DEALLOCATE ALL")
                await source.save_event({"type": "T", "aggregateId": "s", "aggregateVersion": version})
            async with asyncio.timeout(60):
                await reading
        finally:
            reading.cancel()
            following.cancel()
            await asyncio.wait([reading, following])
        assert following.cancelled()
        assert met == await all_pages(source, 1000)
        assert await exported(target) == await exported(source)
        assert await reader.get_secret("id") == "secret"
        report = await cutover(source, target)
        assert (report.events, report.frozen_events) == (0, 0)
        with pytest.raises(StoreFrozenError):
            await source.save_event(SAVED)
    check_no_gaps(target_url)


async def test_another_products_table_is_read_and_synced_through_it(bouncer: int, tmp_path: Path) -> None:
    with own_table("postgresql", tmp_path) as table:
        table.fill(2500)
        async with (
            open_source(through(bouncer, table.url), mapping()) as source,
            open_store(f"sqlite:///{tmp_path / 'replica.db'}") as replica,
        ):
            assert (await replica.sync(source)).events == 2500
            table.fill(1)
            report = await replica.sync(source)
            assert (report.events, report.exactness) == (1, "exact")
            assert (await verify(source.export_events(), replica.export_events())).equal

"""Connections that cannot be had or break: a clear error or a safe retry, and a store that is whole."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import psycopg.waiting
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from eventferry import (
    AUTO,
    Appended,
    ConcurrentError,
    DatabaseError,
    EventInput,
    EventStore,
    MissingExtraError,
    StoreFrozenError,
    StoreNotFoundError,
    StoreUnreachableError,
    UsageError,
    open_store,
)
from eventferry.database import FIRST, Reading, ReadScope, Stretch
from eventferry.databases.postgresql.address import server_at
from eventferry.reading.stretches import stretch_of
from eventferry.results import SavedEvent
from tests.support import (
    FAR_FUTURE,
    NewUrl,
    Opened,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
    servers,
)
from tests.support.postgresql import (
    SAVED,
    STORE_TABLES,
    Own,
    at,
    check_no_gaps,
    connect,
    make_store,
    rows,
    schema_of,
    tables,
    with_options,
)
from tests.support.proxy import proxied
from tests.support.servers import PASSWORD

# no connection


async def every_message(address: str, expected: type[Exception]) -> str:
    """What each kind of call says."""
    words = ""
    async with open_store(address) as store:
        calls = [
            store.save_event(SAVED),
            store.describe(),
            exported(store),
            import_lines(store, make_lines(3)),
            store.incremental_import([at(1, 1)]),
            store.freeze(),
        ]
        for call in calls:
            with pytest.raises(expected) as caught:
                await call
            words += f"{caught.value}\n{caught.value!r}\n{caught.value.__cause__!r}\n"
    assert PASSWORD not in words
    assert "s3cret" not in words
    return words


@pytest.mark.slow
async def test_a_server_that_is_not_there_is_unreachable(new_url: NewUrl) -> None:
    url = new_url()
    port = str(servers.free_port())
    address = url.rpartition("@")[0] + f"@127.0.0.1:{port}/postgres"
    assert port in await every_message(address, StoreUnreachableError)


@pytest.mark.slow
async def test_a_wrong_password_is_said_without_the_password(new_url: NewUrl) -> None:
    address = new_url().replace(PASSWORD, "s3cret")
    assert "password authentication failed" in await every_message(address, StoreUnreachableError)


def test_a_certificate_is_that_of_the_folder_in_which_the_store_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url, files = "postgresql://localhost/db", {"sslrootcert": "ca.pem", "sslcrl": "", "passfile": "pass"}
    known = conninfo_to_dict(server_at(url, files).info)
    assert (known["sslrootcert"], known["passfile"]) == (str(tmp_path / "ca.pem"), str(tmp_path / "pass"))
    assert not known.get("sslcrl")
    of_the_system = conninfo_to_dict(server_at(f"{url}?sslrootcert=system", {}).info)
    assert of_the_system["sslrootcert"] == "system"


async def test_an_unknown_database_or_schema_is_no_store(new_url: NewUrl) -> None:
    url = new_url()
    assert "no_such_db" in await every_message(url.replace("/postgres?", "/no_such_db?"), StoreNotFoundError)
    await every_message(url, StoreNotFoundError)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:s3cret%zz@localhost/db",
        "postgresql://me:s3cret%@localhost/db",
        "postgresql://me:s3c%00ret@localhost/db",
        "postgresql://me:s3cret@local:host:9/db",
        "postgresql://me:s3cret@[::1/db",
        "postgresql://me:s3cret@localhost:port/db",
        "postgresql://me:s3cret@localhost/db?no_such_option=s3cret",
        "postgresql://localhost/db?password=s3cret&connect_timeout=soon",
        "postgresql://me:s3cret@localhost/db?busy_timeout=s3",
        "postgresql://me:s3cret@localhost/db%zz",
        "postgresql://me:s3/cret@localhost/db",
        "postgresql://me:s3cret@localhost/db?sslmode=never",
    ],
)
async def test_a_url_that_is_wrong_is_refused_without_its_password(address: str) -> None:
    with pytest.raises((UsageError, DatabaseError)) as caught:
        async with open_store(address) as store:
            await store.describe()
    words = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert "s3cret" not in words
    assert "s3c%" not in words
    assert "cret" not in words.replace("secret", "")


def test_a_missing_driver_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text(
        "raise ModuleNotFoundError('No module named psycopg', name='psycopg')"
    )
    script = "from eventferry import open_store; open_store('postgresql://localhost/db')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert MissingExtraError.__name__ in done.stderr
    assert "pip install 'eventferry[postgresql]'" in done.stderr


# connections that break

WORK: dict[str, Any] = {
    "saves": lambda store, i: store.save_event(
        {"type": "T", "aggregateId": f"saved-{i}", "aggregateVersion": 1}
    ),
    "an export": lambda store, i: exported(store),
    "an export that freezes": lambda store, i: exported(store, maintenance_mode=AUTO),
    "an import": lambda store, i: import_lines(store, make_lines(900)),
    "an import that freezes": lambda store, i: import_lines(store, make_lines(900), freeze=True),
    "an incremental import": lambda store, i: store.incremental_import(
        [at(FAR_FUTURE + i, k) for k in range(500)]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
async def test_backends_that_are_terminated_in_the_middle_double_and_lose_nothing(
    new_url: NewUrl, name: str, chance: Any
) -> None:
    url = new_url()
    application = f"victim-{time.monotonic_ns()}"
    await make_store(url, 900)
    failures = 0
    async with open_store(with_options(url, f"application_name={application}")) as store:
        start = time.perf_counter()
        await WORK[name](store, 0)
        whole = time.perf_counter() - start
        for i in range(1, 60):
            if i > 8 and (failures or "import" not in name):
                break
            [(before,)] = rows(url, 'SELECT count(*) FROM "events"')
            call = asyncio.ensure_future(WORK[name](store, i))
            await asyncio.wait([call], timeout=chance.random() * whole)
            rows(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
                application,
            )
            done = True
            try:
                await call
            except DatabaseError:
                done = False
                failures += 1
            [(after,)] = rows(url, 'SELECT count(*) FROM "events"')
            match name:
                case "saves":
                    assert done
                    assert after == before + 1
                case "an incremental import":
                    assert after - before in ((500,) if done else (0, 500))
                case _:
                    assert after == 900
            # The next command works, on connections that died.
            assert not (await store.describe()).is_frozen
            if name == "an incremental import":
                report = await WORK[name](store, i)
                assert report.imported == before + 500 - after
    if "import" in name:
        assert failures
    if name in ("saves", "an incremental import"):
        check_no_gaps(url)
    async with open_store(url) as store:
        await store.save_event(SAVED)
        await import_lines(store, make_lines(20))
    assert tables(url) == STORE_TABLES


def is_save(data: bytes) -> bool:
    return b"COMMIT; BEGIN" in data and b"EXECUTE" in data


@pytest.mark.parametrize("passes_on", [True, False])
async def test_a_save_whose_answer_is_lost_is_looked_up_and_stored_once(
    new_url: NewUrl, passes_on: bool
) -> None:
    url = new_url()
    await make_store(url)
    async with proxied(url) as (proxy, address), open_store(address) as store:
        for version in range(1, 5):
            proxy.passes_on, proxy.cut_after = passes_on, is_save
            event = {
                "type": "T",
                "aggregateId": "a",
                "aggregateVersion": version,
                "payload": {"b": [1.0, "é"], "a": None},
            }
            saved = await store.save_event(event)
            assert proxy.cuts == version
            [stored] = (await store.load_events(limit=9, start_time=saved.event.timestamp)).events[-1:]
            assert saved.event == stored
            assert (await store.describe(calculate_cursor=True)).cursor == saved.cursor
        assert rows(url, 'SELECT "aggregateVersion" FROM "events" ORDER BY 1') == [(1,), (2,), (3,), (4,)]
    check_no_gaps(url)


def is_group(data: bytes) -> bool:
    return is_save(data) and data.count(b"EXECUTE") > 4


@pytest.mark.parametrize("passes_on", [True, False])
async def test_of_a_group_whose_answer_is_lost_each_is_stored_once_and_answered(
    new_url: NewUrl, passes_on: bool
) -> None:
    url = new_url()
    await make_store(url)
    async with proxied(url) as (proxy, address), open_store(address) as store:
        await store.save_event({"type": "T", "aggregateId": "taken", "aggregateVersion": 1})
        proxy.passes_on, proxy.cut_after = passes_on, is_group
        names = [f"a{i}" for i in range(20)] + ["taken", "a7"]
        answers = await asyncio.gather(
            *[
                store.save_event({"type": "T", "aggregateId": name, "aggregateVersion": 1, "payload": number})
                for number, name in enumerate(names)
            ],
            return_exceptions=True,
        )
        assert proxy.cuts == 1
        assert [type(one) for one in answers[20:]] == [ConcurrentError] * 2
        stored = (await store.load_events(limit=50, cursor=None)).events
        assert len(stored) == 21
        for one in answers[:20]:
            assert isinstance(one, SavedEvent)
            assert one.event in stored
            # Behind its cursor, too, nothing comes that it counts.
            rest = (await store.load_events(limit=50, cursor=one.cursor)).events
            assert one.event not in rest
    check_no_gaps(url)


@pytest.mark.parametrize("passes_on", [True, False])
@pytest.mark.parametrize("expected", ["any", "none"])
async def test_appends_whose_answer_is_lost_are_looked_up_and_stored_once(
    new_url: NewUrl, passes_on: bool, expected: Literal["any", "none"]
) -> None:
    url = new_url()
    await make_store(url)
    async with proxied(url) as (proxy, address), open_store(address) as store:
        await store.append_events("taken", [{"type": "T"}])
        proxy.passes_on, proxy.cut_after = passes_on, lambda data: b"COMMIT\0" in data
        events: list[EventInput] = [{"type": "T", "payload": {"b": [1.0, "é"], "a": None}}, {"type": "U"}]
        answers = await asyncio.gather(
            *(store.append_events(f"a{number}", events, expected_version=expected) for number in range(9)),
            store.append_events("taken", events, expected_version="none"),
            return_exceptions=True,
        )
        assert proxy.cuts == 1
        assert type(answers[9]) is ConcurrentError
        stored = (await store.load_events(limit=50, cursor=None)).events
        assert len(stored) == 1 + 9 * 2
        for answer in answers[:9]:
            assert isinstance(answer, Appended)
            assert not answer.is_repeated
            assert all(event in stored for event in answer.events)
    check_no_gaps(url)


@pytest.mark.parametrize("change", [{"payload": {"a": 2}}, {"type": "U"}, {"payload": None}])
async def test_a_save_without_an_answer_whose_version_somebody_else_took_is_a_conflict(
    new_url: NewUrl, change: dict[str, Any]
) -> None:
    url = new_url()
    await make_store(url)
    # At one time, so that the time does not tell them apart.
    event = {
        "type": "T",
        "aggregateId": "a",
        "aggregateVersion": 1,
        "timestamp": FAR_FUTURE,
        "payload": {"a": 1},
    }
    async with proxied(url) as (proxy, address), open_store(address) as store, open_store(url) as other:
        await store.save_event({"type": "T", "aggregateId": "warm", "aggregateVersion": 1})
        await other.save_event({"type": "T", "aggregateId": "warm", "aggregateVersion": 2})
        proxy.passes_on, proxy.cut_after = False, is_save
        saving = asyncio.create_task(store.save_event(event))
        async with asyncio.timeout(10):
            while not proxy.cuts:
                await asyncio.sleep(0)
            await other.save_event(event | change)
        with pytest.raises(ConcurrentError):
            await saving
        assert (await other.describe()).event_count == 3
    check_no_gaps(url)


@pytest.mark.parametrize("change", [{"payload": {"a": 2}}, {"type": "U"}])
async def test_an_append_without_an_answer_of_which_somebody_else_took_a_version_is_a_conflict(
    new_url: NewUrl, change: dict[str, Any]
) -> None:
    url = new_url()
    await make_store(url)
    event = {"type": "T", "timestamp": FAR_FUTURE, "payload": {"a": 1}}
    async with proxied(url) as (proxy, address), open_store(address) as store, open_store(url) as other:
        await store.append_events("warm", [event], expected_version="none")
        await other.append_events("warm", [event], expected_version=1)
        proxy.passes_on, proxy.cut_after = False, is_save
        appending = asyncio.create_task(store.append_events("a", [event, event], expected_version="none"))
        async with asyncio.timeout(10):
            while not proxy.cuts:
                await asyncio.sleep(0)
            await other.append_events("a", [event, event | change], expected_version="none")
        with pytest.raises(ConcurrentError):
            await appending
        assert (await other.describe()).event_count == 4
    check_no_gaps(url)


async def test_a_save_that_was_stored_is_not_called_frozen_when_its_answer_was_lost(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url)
    event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1}
    async with proxied(url) as (proxy, address), open_store(address) as store, open_store(url) as other:
        await store.save_event({"type": "T", "aggregateId": "warm", "aggregateVersion": 1})
        proxy.passes_on, proxy.cut_after, proxy.refuse = True, is_save, True
        saving = asyncio.create_task(store.save_event(event))
        async with asyncio.timeout(10):
            while not proxy.cuts:
                await asyncio.sleep(0)
        await other.freeze()
        proxy.refuse = False
        try:
            saved = await saving
        except StoreFrozenError:
            assert (await other.describe()).event_count == 1, "it was stored"
        else:
            assert saved.event.aggregate_version == 1


@pytest.mark.slow
async def test_a_save_that_gets_no_answer_at_all_says_that_it_does_not_know(new_url: NewUrl) -> None:
    url = new_url()
    await make_store(url)
    async with proxied(url) as (proxy, address), open_store(address) as store:
        await store.save_event(SAVED)
        proxy.refuse = True
        proxy.cut_all()
        with pytest.raises(StoreUnreachableError, match="version 2 of 'saved' was stored is not known"):
            await store.save_event(SAVED | {"aggregateVersion": 2})
        proxy.refuse = False
        await store.save_event(SAVED | {"aggregateVersion": 2})


async def test_a_commit_of_an_import_whose_answer_is_lost_leaves_the_old_or_the_new_events(
    new_url: NewUrl,
) -> None:
    url = new_url()
    await make_store(url, 20)
    async with proxied(url) as (proxy, address), open_store(address) as store:
        commits = 0

        def is_last_commit(data: bytes) -> bool:
            nonlocal commits
            commits += b"RENAME TO" in data and b"DROP TABLE" in data
            return bool(commits) and b"COMMIT" in data

        proxy.cut_after = is_last_commit
        with pytest.raises(StoreUnreachableError):
            await import_lines(store, make_lines(30), freeze=True)
        assert proxy.cuts == 1
        assert await exported(store) == make_lines(30)
        assert not (await store.describe()).is_frozen
        await store.save_event(SAVED)
    assert tables(url) == STORE_TABLES


# idle connections that died


@pytest.mark.slow
async def test_idle_connections_that_died_with_the_server_are_replaced_without_an_error(server: Own) -> None:
    url = server.new_url()
    await make_store(url, 20)
    uses: list[Callable[[EventStore], Awaitable[Any]]] = [
        lambda store: store.save_event(SAVED),
        lambda store: store.describe(),
        lambda store: exported(store),
        lambda store: import_lines(store, make_lines(20)),
        lambda store: store.incremental_import([at(FAR_FUTURE, 1)]),
    ]
    stores: list[EventStore] = [open_store(url) for _ in uses]
    try:
        for store in stores:
            await asyncio.gather(*[store.load_events(limit=1, cursor=None) for _ in range(5)])
        server.restart()
        for store, use in zip(stores, uses, strict=True):
            await use(store)
    finally:
        for store in stores:
            await store.close()


# a full disk


@pytest.fixture
def small_disk_url(server: Own) -> Iterator[str]:
    """A place for a store on a small disk; the server's log of writes is elsewhere."""
    folder = Path(os.environ[servers.FOLDER]) / f"small-{time.monotonic_ns()}"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=777", "tmpfs", folder], check=True)
    inside = folder / "data"
    inside.mkdir()
    servers._give(inside)
    url = server.new_url()
    rows(url, f"CREATE TABLESPACE small LOCATION '{inside}'")
    rows(url, "CREATE DATABASE small TABLESPACE small")
    try:
        yield url.replace("/postgres?", "/small?")
    finally:
        rows(url, "DROP DATABASE small WITH (FORCE)")
        rows(url, "DROP TABLESPACE small")
        subprocess.run(["umount", "-l", folder], check=True)


def random_block(i: int) -> bytes:
    """Forty events that do not compress."""
    noise = os.urandom(15_000).hex()
    return b"".join(line(make_event(k, payload=noise)) for k in range(i * 40, i * 40 + 40))


async def import_until_full(store: EventStore, **options: Any) -> None:
    async with store.import_events(**options) as stream:
        for i in range(200):
            await stream.write(random_block(i))


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.slow
async def test_a_full_disk_leaves_the_store_whole_and_the_stage_removable(
    small_disk_url: str, freeze: bool
) -> None:
    url = small_disk_url
    await make_store(url, 300)
    async with open_store(url) as store:
        with pytest.raises(DatabaseError, match="disk is full"):
            await import_until_full(store, freeze=freeze)
        assert await exported(store) == make_lines(300)
        assert not (await store.describe()).is_frozen
        await import_lines(store, make_lines(400))
        assert await exported(store) == make_lines(400)
        await store.drop()
    assert tables(url) == set()


@pytest.mark.slow
async def test_a_disk_that_an_incremental_import_fills_leaves_the_store_as_it_was(
    small_disk_url: str,
) -> None:
    url = small_disk_url
    await make_store(url, 300)
    batch = [at(FAR_FUTURE, os.urandom(15_000).hex()) for _ in range(700)]
    async with open_store(url) as store:
        with pytest.raises(DatabaseError, match="disk is full"):
            await store.incremental_import(batch)
        assert await exported(store) == make_lines(300)
        assert tables(url) == STORE_TABLES
        assert (await store.incremental_import([at(FAR_FUTURE, 1)])).imported == 1
        await store.save_event(SAVED)


async def test_an_incremental_import_that_is_in_is_no_failure_because_its_stage_stays(
    new_url: NewUrl,
) -> None:
    url = new_url()
    name = f"refuse {schema_of(url)}"
    refuse = sql.SQL(
        """CREATE FUNCTION {schema}.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
          IF current_query() LIKE '%merge-%' AND position({text} IN current_query()) > 0 THEN
            RAISE EXCEPTION 'nothing is dropped now'; END IF;
        END $$;
        CREATE EVENT TRIGGER {name} ON ddl_command_start WHEN TAG IN ('DROP TABLE')
          EXECUTE FUNCTION {schema}.refuse()"""
    ).format(
        schema=sql.Identifier(schema_of(url)), text=sql.Literal(schema_of(url)), name=sql.Identifier(name)
    )
    async with open_store(url) as store:
        await store.init()
        with connect(url) as other:
            other.execute(refuse)
            try:
                report = await store.incremental_import([at(FAR_FUTURE, 1)])
                assert report.imported == 1
            finally:
                other.execute(sql.SQL("DROP EVENT TRIGGER {}").format(sql.Identifier(name)))
        assert any("merge-" in table for table in tables(url))
        # The next one drops what the one before left.
        assert (await store.incremental_import([at(FAR_FUTURE, 1)])).skipped_existing == 1
        assert tables(url) == STORE_TABLES


@pytest.mark.slow
async def test_a_question_that_is_given_up_leaves_the_connection_in_order(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    # psycopg gives the loop a turn whenever that has been busy for some time; now always.
    monkeypatch.setattr(psycopg.waiting, "MAX_BUSY_TIME", 0)
    async with opened() as store:
        await import_lines(store, make_lines(600))

        def read(reading: Reading) -> asyncio.Future[Stretch]:
            return asyncio.ensure_future(stretch_of(reading, FIRST, ReadScope(), 300, 10**6))

        for steps in range(12):
            async with store._database.reading() as reading:
                given_up = read(reading)
                for _ in range(steps):
                    await asyncio.sleep(0)
                given_up.cancel()
                await asyncio.gather(given_up, return_exceptions=True)
            async with store._database.reading() as reading:
                assert (await read(reading)).number == 300

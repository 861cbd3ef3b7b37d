"""Logins, rights, and servers that are not there: each says what it is."""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventferry import (
    EventferryError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreNotFoundError,
    StoreUnreachableError,
    UsageError,
    open_source,
    open_store,
    verify,
)
from tests.support import exported, import_lines, make_lines
from tests.support.foreign.own import mapping, own_table
from tests.support.mysql import Database
from tests.support.servers import PASSWORD

SAVED = {"type": "T", "aggregateId": "saved", "aggregateVersion": 1}


def make_reader(database: Database) -> str:
    """The URL for a user who may select and nothing else."""
    user = f"r_{database.name[-12:]}"
    database.run(
        f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'readonly'",
        f"GRANT SELECT ON `{database.name}`.* TO {user}@'127.0.0.1'",
    )
    return database.url_as(user, "readonly")


async def test_a_user_with_the_right_to_select_exports_and_reads(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(600))
        await store.begin_incremental_import()
    before = database.definitions()
    async with open_store(make_reader(database)) as reader:
        assert await exported(reader) == make_lines(600)
        assert len((await reader.load_events(limit=1000, cursor=None)).events) == 600
        description = await reader.describe(calculate_cursor=True)
        assert description.event_count == 600
        assert description.open_import is not None
        for refused in (
            reader.save_event(SAVED),
            reader.freeze(),
            reader.incremental_import([]),
            import_lines(reader, make_lines(3)),
            reader.save_snapshot("key", "content"),
            reader.drop(),
        ):
            with pytest.raises(ReadOnlyStoreError, match="denied"):
                await refused
    assert database.definitions() == before


async def test_a_user_with_rights_to_the_events_alone_saves_them(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
    user = f"s_{database.name[-12:]}"
    database.run(
        f"CREATE USER {user} IDENTIFIED BY 'saver'",
        f"GRANT SELECT, INSERT ON `{database.name}`.`events` TO {user}",
        f"GRANT SELECT, UPDATE ON `{database.name}`.`events-threads` TO {user}",
    )
    async with open_store(database.url_as(user, "saver")) as store:
        await store.save_event(SAVED)
        await store.append_events("appended", [{"type": "T"}, {"type": "T"}], expected_version="none")
        assert len(await store.last_events(10)) == 3
        with pytest.raises(ReadOnlyStoreError, match="denied"):
            await store.save_snapshot("key", "content")


@pytest.mark.slow
async def test_a_user_with_the_right_to_select_reads_and_syncs_another_products_table(tmp_path: Path) -> None:
    with own_table("mariadb", tmp_path) as table:
        table.fill(2500)
        reader = make_reader(Database(table.url))
        async with (
            open_source(reader, mapping(), settle=0.1) as source,
            open_store(f"sqlite:///{tmp_path / 'replica.db'}") as replica,
        ):
            assert (await source.preview()).events == 2500
            assert (await replica.sync(source)).events == 2500


async def test_reading_a_store_changes_nothing_in_it(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(600))
    before = database.definitions()
    async with open_store(database.url) as store:
        await exported(store)
        await store.describe(calculate_cursor=True)
        await store.load_secrets(limit=10)
        await store.get_event_subscribers()
        await store.load_snapshot("key")
    assert database.definitions() == before


async def test_a_wrong_password_is_told_and_not_repeated(database: Database) -> None:
    url = database.url.replace(PASSWORD, "wrong-one")
    async with open_store(url) as store:
        with pytest.raises(StoreUnreachableError, match="Access denied") as refused:
            await exported(store)
        assert "wrong-one" not in str(refused.value)
        with pytest.raises(StoreUnreachableError, match="Access denied"):
            await store.save_event(SAVED)


async def test_a_user_who_may_ask_no_more_for_now_is_told_so(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(3))
    user = f"q_{database.name[-12:]}"
    database.run(
        f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'often' WITH MAX_QUERIES_PER_HOUR 40",
        f"GRANT ALL ON `{database.name}`.* TO {user}@'127.0.0.1'",
    )
    async with open_store(database.url_as(user, "often"), busy_timeout=1) as store:
        assert await exported(store) == make_lines(3)

        async def ask_often() -> None:
            for _ in range(40):
                await store.describe()

        for call in (
            ask_often,
            lambda: store.save_event(SAVED),
            lambda: store.freeze(),
            lambda: import_lines(store, make_lines(5)),
        ):
            with pytest.raises(StoreBusyError, match="allows this user no more for now"):
                await call()
    async with open_store(database.url) as store:
        assert await exported(store) == make_lines(3)
        assert not (await store.describe()).is_frozen


async def test_a_server_that_is_not_there_is_told_by_its_place() -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with open_store(f"mysql://root:secret@127.0.0.1:{port}/events") as store:
        for use in (store.describe(), store.save_event(SAVED), store.init(), store.exists()):
            with pytest.raises(StoreUnreachableError, match=f"127.0.0.1:{port}/events") as refused:
                await use
            assert "secret" not in str(refused.value)


async def test_a_database_that_is_not_there_has_no_store(database: Database) -> None:
    async with open_store(f"{database.url}_other") as store:
        assert not await store.exists()
        with pytest.raises(StoreNotFoundError, match=f"{database.name}_other"):
            await store.describe()


async def test_a_database_without_the_tables_has_no_store(database: Database) -> None:
    async with open_store(database.url) as store:
        assert not await store.exists()
        with pytest.raises(StoreNotFoundError, match="events"):
            await store.describe()
        with pytest.raises(StoreNotFoundError, match="events"):
            await store.save_event(SAVED)


async def test_the_password_can_come_from_the_environment_and_from_an_option_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(database.url) as store:
        await store.init()
    without = database.url.replace(f":{PASSWORD}", "")
    options = tmp_path / "my.cnf"
    options.write_text(f"[client]\nuser = root\npassword = {PASSWORD}\n")
    async with open_store(without, read_default_file=str(options)) as store:
        assert await store.exists()
    monkeypatch.setenv("MYSQL_PWD", PASSWORD)
    async with open_store(without) as store:
        assert await store.exists()


async def test_a_password_may_hold_any_character(database: Database) -> None:
    user = f"p_{database.name[-12:]}"
    database.run(
        f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'p@ss/wörd:?'",
        f"GRANT SELECT ON `{database.name}`.* TO {user}@'127.0.0.1'",
    )
    async with open_store(database.url_as(user, "p%40ss%2Fw%C3%B6rd%3A%3F")) as store:
        assert not await store.exists()


_TLS = 0x0800
"""Among the capabilities that a server greets with."""


@asynccontextmanager
async def without_tls(database: Database) -> AsyncIterator[str]:
    """The URL of a server that does not offer TLS: newer ones always do."""
    server = urlsplit(database.url)

    async def pass_on(source: StreamReader, target: StreamWriter) -> None:
        while block := await source.read(65536):
            target.write(block)
        target.close()

    async def meet(from_client: StreamReader, to_client: StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(server.hostname, server.port)
        greeting = bytearray(await from_server.readexactly(4))
        greeting += await from_server.readexactly(int.from_bytes(greeting[:3], "little"))
        # Behind the version, which ends in a zero: a number, eight bytes of the nonce, and a zero.
        place = greeting.index(0, 5) + 1 + 4 + 8 + 1
        offered = int.from_bytes(greeting[place : place + 2], "little") & ~_TLS
        greeting[place : place + 2] = offered.to_bytes(2, "little")
        to_client.write(greeting)
        await asyncio.gather(pass_on(from_server, to_client), pass_on(from_client, to_server))

    async with await asyncio.start_server(meet, "127.0.0.1") as relay:
        port = relay.sockets[0].getsockname()[1]
        yield database.url.replace(f":{server.port}/", f":{port}/")


async def test_tls_that_the_server_does_not_have_is_refused_when_it_is_asked_for(database: Database) -> None:
    async with without_tls(database) as url:
        async with open_store(f"{url}?ssl_verify=none") as store:
            with pytest.raises(EventferryError, match="offers no TLS"):
                await store.describe()
        async with open_store(f"{url}?ssl_verify=off") as store:
            assert not await store.exists()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost",
        "mysql://localhost/",
        "mysql://localhost/a/b",
        "mysql://localhost:port/a",
        "mysql://localhost/a?ssl_verify=perhaps",
        "mysql://localhost/a?busy_timeout=long",
        "mysql://localhost/a?max_connections=0",
        "mysql://localhost/a?no_such_option=1",
    ],
)
async def test_an_address_that_cannot_be_one_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


async def test_resource_names_hold_no_password(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        names = (await store.describe()).resource_names
    assert names["database"] == database.name
    assert PASSWORD not in str(names)


async def test_a_sync_needs_no_more_of_its_source_than_the_right_to_select(
    database: Database, tmp_path: Path
) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(300))
    reader = make_reader(database)
    async with open_store(reader) as source, open_store(f"sqlite:///{tmp_path}/replica.db") as target:
        assert (await target.sync(source)).events == 300
        async with open_store(database.url) as store:
            await store.save_event(SAVED)
            await store.set_secret("a", "b")
        assert (await target.sync(source)).events == 2
        assert (await verify(source.export_events(), target.export_events())).equal
    async with open_store(reader) as source, open_store(f"sqlite:///{tmp_path}/merged.db") as target:
        assert (await target.sync(source, mode="merge")).events == 302

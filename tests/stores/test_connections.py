"""How many connections a store has on a server, and what it does where there is room for few."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from eventferry import EventStore, StoreBusyError, open_store
from tests.support import FAR_FUTURE, exported, import_lines, make_lines, mysql
from tests.support.places import Places

SERVERS = ("postgresql", "mariadb")
LIMIT = 4


class User:
    """A user of one server who may have a few connections.

    Attributes:
        url: of a fresh place, for this user.
    """

    def __init__(self, url: str, name: str) -> None:
        self._root = urlsplit(url)
        self.name = name
        self.url = url.replace(f"{self._root.username}:{self._root.password}@", f"{name}:secret@")

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """As the administrator."""
        address = self._root
        host, port, user, password = address.hostname, address.port, address.username, address.password
        if address.scheme == "mysql":
            with contextlib.closing(mysql.connect(address.geturl())) as raw, raw.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        with psycopg.connect(
            host=host, port=port, user=user, password=password, dbname="postgres", autocommit=True
        ) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    def connections(self) -> int:
        """How many this user has."""
        table = (
            "information_schema.processlist WHERE user"
            if self._root.scheme == "mysql"
            else "pg_stat_activity WHERE usename"
        )
        [(count,)] = self.run(f"SELECT count(*) FROM {table} = '{self.name}'")
        return int(count)


@pytest.fixture(params=SERVERS)
def user_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[int], User]]:
    """A factory: a fresh user who may have so many connections, and a place for stores."""
    with Places(request.param, tmp_path) as places, contextlib.ExitStack() as stack:

        def make(limit: int) -> User:
            user = User(places.new_url(), f"few_{secrets.token_hex(6)}")
            if request.param == "mariadb":
                user.run(
                    f"CREATE USER {user.name}@'%' IDENTIFIED BY 'secret' WITH MAX_USER_CONNECTIONS {limit}"
                )
                user.run(f"GRANT ALL ON *.* TO {user.name}@'%'")
                stack.callback(user.run, f"DROP USER {user.name}@'%'")
            else:
                user.run(f"CREATE ROLE {user.name} LOGIN PASSWORD 'secret' CONNECTION LIMIT {limit}")
                user.run(f"GRANT CREATE ON DATABASE postgres TO {user.name}")
                stack.callback(user.run, f"DROP OWNED BY {user.name} CASCADE; DROP ROLE {user.name}")
            return user

        yield make


def event(i: int) -> dict[str, Any]:
    return {"type": "T", "timestamp": FAR_FUTURE, "aggregateId": f"a{i % 7}", "payload": i}


async def pushed(store: EventStore, count: int) -> int:
    """So many pushes at once, committed; how many events came in."""
    import_id = await store.begin_incremental_import()
    await asyncio.gather(
        *[store.push_incremental_import([event(i)], import_id, part=str(i)) for i in range(count)]
    )
    return (await store.commit_incremental_import(import_id)).imported


@pytest.mark.slow
async def test_pushes_however_many_share_few_connections(user_of: Callable[[int], User]) -> None:
    user = user_of(100)
    most = before = 0
    async with open_store(user.url) as store:
        await store.init()
        pushing = asyncio.create_task(pushed(store, 60))
        while not pushing.done():
            count = await asyncio.to_thread(user.connections)
            # A server still counts one that was closed just now.
            most, before = max(most, min(before, count)), count
            await asyncio.sleep(0.02)
        assert await pushing == 60
    # Eight and the owners'; on MariaDB a definition beside each.
    assert most <= (9 if user.url.startswith("postgresql") else 17)


async def test_a_store_waits_for_its_own_connections_where_the_server_has_room_for_few(
    user_of: Callable[[int], User],
) -> None:
    user = user_of(LIMIT)
    async with open_store(user.url) as store:
        await store.init()
        await import_lines(store, make_lines(300))
        calls = [
            *[exported(store) for _ in range(10)],
            *[store.describe() for _ in range(10)],
            *[
                store.save_event({"type": "T", "aggregateId": f"s{i}", "aggregateVersion": 1})
                for i in range(20)
            ],
        ]
        await asyncio.gather(*calls)
        assert (await store.describe()).event_count == 320


@pytest.mark.slow
async def test_many_stores_of_one_process_wait_for_room_on_a_server_that_is_full(
    user_of: Callable[[int], User],
) -> None:
    user = user_of(LIMIT)
    async with open_store(user.url) as first:
        await first.init()

    async def use(store: EventStore, number: int) -> None:
        async with store:
            await asyncio.gather(*[store.describe() for _ in range(5)])
            await store.save_event({"type": "T", "aggregateId": f"s{number}", "aggregateVersion": 1})

    await asyncio.gather(*[use(open_store(user.url), number) for number in range(10)])
    async with open_store(user.url) as last:
        assert (await last.describe()).event_count == 10


async def test_a_store_that_finds_no_room_at_all_says_so_when_its_time_is_over(
    user_of: Callable[[int], User],
) -> None:
    user = user_of(2)
    sign = "&" if "?" in user.url else "?"
    async with (
        open_store(user.url) as first,
        open_store(user.url) as second,
        open_store(f"{user.url}{sign}busy_timeout=0.5") as store,
    ):
        await first.init()
        assert await second.exists()
        with pytest.raises(StoreBusyError, match="takes no more connections"):
            await store.describe()

"""message-db, Emmett and Castore write with eight writers while a sync follows them and is killed: every event arrives
once, and in the source's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.foreign import message_db, new_database
from tests.support.foreign.killing import follow_and_kill
from tests.support.foreign.node import run

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.usefixtures("node")]

WRITERS = 8
STREAMS = 5  # of each writer


def by_message_db(url: str, writer: int, events: int) -> None:
    with message_db.connect(url) as connection:
        for number in range(events):
            stream = f"{('account', 'transfer')[writer % 2]}-{writer}+{number % STREAMS}"
            with connection.transaction():  # each other one is still open when the next begins
                message_db.write_message(connection, stream, "Happened", {"number": number})
                if number % 10 == 0:
                    connection.execute("SELECT pg_sleep(0.01)")


def by_emmett(place: str, writer: int, events: int) -> None:
    appends = [
        {"stream": f"cart-{writer}-{number % STREAMS}", "events": [{"type": "T", "data": {"number": number}}]}
        for number in range(events)
    ]
    run("emmett", "write", place, appends)


def by_castore(url: str, writer: int, events: int) -> None:
    written = [
        {
            "store": "POKEMONS",
            "event": {
                "aggregateId": str(UUID(int=writer * STREAMS + number % STREAMS)),
                "version": number // STREAMS + 1,
                "type": "CAUGHT",
                "payload": {"number": number},
            },
        }
        for number in range(events)
    ]
    run("castore", "write", url, written)


Writer = Callable[[str, int, int], None]


@pytest.fixture(params=["castore", "emmett on sqlite", "emmett", "message-db"])
def product(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str, Writer]]:
    """The preset, an empty store, and what writes into it."""
    if request.param == "emmett on sqlite":
        place = str(tmp_path / "emmett.db")
        by_emmett(place, WRITERS, 1)  # makes the tables
        yield "emmett", place, by_emmett
        return
    with new_database() as url:
        if request.param == "castore":
            run("castore", "create", url, {})
            by_castore(url, WRITERS, 1)
        elif request.param == "emmett":
            by_emmett(url, WRITERS, 1)
        else:
            message_db.install(url)
            by_message_db(url, WRITERS, 1)
        writers: dict[str, Writer] = {"castore": by_castore, "emmett": by_emmett, "message-db": by_message_db}
        yield request.param, url, writers[request.param]


async def storm(product: tuple[str, str, Writer], target: Path, *, kills: int, events: int) -> None:
    preset, place, writer = product

    def write() -> None:
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda number: writer(place, number, events // WRITERS), range(WRITERS)))

    url = place if "://" in place else f"sqlite:///{place}"
    came = await follow_and_kill(url, preset, target, write, kills=kills)
    assert len(came) == events + 1
    versions: dict[str, int] = {}
    for event in came:
        expected = versions[event["aggregateId"]] = versions.get(event["aggregateId"], 0) + 1
        assert event["aggregateVersion"] == expected
        assert event["payload"]["meta"]["version"] == expected - (preset == "message-db")


async def test_a_sync_that_is_killed_while_a_product_writes_misses_nothing(
    product: tuple[str, str, Writer], tmp_path: Path
) -> None:
    await storm(product, tmp_path / "replica.db", kills=3, events=400)


@pytest.mark.storm
async def test_a_long_storm_of_a_product(product: tuple[str, str, Writer], tmp_path: Path) -> None:
    await storm(product, tmp_path / "replica.db", kills=20, events=10_000)

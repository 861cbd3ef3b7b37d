"""The preset `castore`, on stores that Castore itself writes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.foreign import new_database, read
from tests.support.foreign.node import run

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TEXT = 'Zürich, 東京, 🐕 \u2028 a\ttab and "quotes"'
WRITERS = 4


@pytest.fixture
def url(node: None) -> Iterator[str]:
    with new_database() as made:
        run("castore", "create", made, {})
        yield made


def aggregate(number: int) -> str:
    return str(UUID(int=number))


def written(store: str, number: int, version: int, **changes: Any) -> dict[str, Any]:
    event = {
        "aggregateId": aggregate(number),
        "version": version,
        "type": "CAUGHT",
        "payload": {"level": version},
    }
    return {"store": store, "event": event | changes}


def write(url: str) -> None:
    """A history: all that an event may have or lack, then writers at the same time."""
    payload: dict[str, Any] = {"text": TEXT, "numbers": [1, 2.5, -0.5, 1e21], "none": None, "": {"list": []}}
    kinds: list[dict[str, Any]] = [
        {"payload": payload, "metadata": {"user": "Zoë"}, "type": f"TYPE {TEXT}"},
        {"payload": None},
        {"payload": {"large": "x" * 300_000}, "timestamp": "1969-12-31T23:59:59.999Z"},
    ]
    run(
        "castore",
        "write",
        url,
        [written("POKEMONS", 1, version, **kind) for version, kind in enumerate(kinds, 1)],
    )
    run("castore", "write", url, [written("TRAINERS", 1, 1)])  # the same id in another event store

    def push(writer: int) -> None:
        numbers = range(10 * writer, 10 * writer + 4)
        run("castore", "write", url, [written("POKEMONS", n, v) for v in range(1, 6) for n in numbers])

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(push, range(1, WRITERS + 1)))


async def test_every_event_of_castore_is_as_castore_reads_it(url: str) -> None:
    write(url)
    events, report = await read(url, "castore")
    with psycopg.connect(url) as connection:
        order = [position for (position,) in connection.execute("SELECT id FROM event ORDER BY id")]
    assert [event["payload"]["meta"]["position"] for event in events] == order
    assert [event["threadCounter"] for event in events] == list(range(len(events)))
    names = list(dict.fromkeys(event["aggregateId"] for event in events))
    asked = [dict(zip(("store", "aggregateId"), name.split(":"), strict=True)) for name in names]
    for name, found in zip(names, run("castore", "read", url, asked), strict=True):
        assert [as_castore_has_it(event) for event in events if event["aggregateId"] == name] == found
    assert (len(names), report.renumbered, report.skipped) == (2 + 4 * WRITERS, 0, {})


def as_castore_has_it(event: dict[str, Any]) -> dict[str, Any]:
    meta = event["payload"]["meta"]
    assert meta["version"] == event["aggregateVersion"]
    assert meta["id"] is None
    parts = {"payload": event["payload"]["data"], "metadata": meta["metadata"]}
    return {
        "aggregateId": event["aggregateId"].partition(":")[2],
        "version": meta["version"],
        "type": event["type"],
        "timestamp": f"{meta['time'][:23]}Z",
        **{name: part for name, part in parts.items() if part is not None},
    }


async def test_a_table_of_castore_may_have_another_name_and_text_as_ids(node: None) -> None:
    with new_database() as url:
        varchar = {"type": "VARCHAR", "length": 40}
        run("castore", "create", url, {"tableName": "history", "aggregateId": varchar, "idType": "SERIAL"})
        with psycopg.connect(url) as connection:
            connection.execute(
                """INSERT INTO history (aggregate_name, aggregate_id, version, type, data)
                VALUES ('POKEMONS', 'pikachu', 1, 'CAUGHT', '{}')"""
            )
        [event], _ = await read(url, "castore", tables={"events": "history"})
        assert event["aggregateId"] == "POKEMONS:pikachu"

"""The preset `emmett`, on stores that Emmett itself writes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventferry.errors import SourceRowError
from tests.support.foreign import new_database, read
from tests.support.foreign.node import run
from tests.test_docs import ROOT

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TEXT = 'Zürich, 東京, 🐕 \u2028 a\ttab and "quotes"'
DATA: tuple[Any, ...] = (
    {"text": TEXT, "numbers": [1, 2.5, -0.5, 1e21], "none": None, "": {"list": []}},
    {},
    {"large": "x" * 300_000},
)
WRITERS = 4


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, node: None, tmp_path: Path) -> Iterator[str]:
    """Where Emmett finds its store: a file, or a database's URL."""
    if request.param == "sqlite":
        yield str(tmp_path / "emmett.db")
    else:
        with new_database() as url:
            yield url


def write(place: str, writers: int) -> list[str]:
    """A history: one stream with all that JSON holds, then writers at the same time; the names of the streams."""
    events = [{"type": f"TYPE {TEXT}", "data": data, "metadata": {"user": "Zoë"}} for data in DATA]
    run(
        "emmett", "write", place, [{"stream": "cart-東京", "events": [{"type": "BARE", "data": {}}, *events]}]
    )

    def append(writer: int) -> list[str]:
        streams = [f"cart-{writer}-{number}" for number in range(4)]
        batch = [{"type": f"T{number}", "data": {"number": number}} for number in range(3)]
        run("emmett", "write", place, [{"stream": s, "events": batch} for _ in range(3) for s in streams])
        return streams

    with ThreadPoolExecutor(writers) as pool:
        return ["cart-東京", *(stream for streams in pool.map(append, range(writers)) for stream in streams)]


def rows(place: str) -> list[tuple[str, str]]:
    """Id and time of each message, in the order in which Emmett's consumers get them."""
    if "://" not in place:
        with closing(sqlite3.connect(place)) as file:
            return list(
                file.execute(
                    """SELECT message_id, strftime('%Y-%m-%dT%H:%M:%SZ', created)
                    FROM emt_messages ORDER BY global_position"""
                )
            )
    with psycopg.connect(place) as connection:
        return connection.execute(
            """SELECT message_id, to_char(created AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            FROM emt_messages ORDER BY transaction_id, global_position"""
        ).fetchall()


def url(place: str) -> str:
    return place if "://" in place else f"sqlite:///{place}"


async def test_every_event_of_emmett_is_as_emmett_reads_it(place: str) -> None:
    streams = write(place, WRITERS)
    events, report = await read(url(place), "emmett")
    stored = rows(place)
    assert [event["payload"]["meta"]["id"] for event in events] == [message_id for message_id, _ in stored]
    assert [event["payload"]["meta"]["time"] for event in events] == [time for _, time in stored]
    assert [event["threadCounter"] for event in events] == list(range(len(events)))
    for stream, messages in zip(streams, run("emmett", "read", place, streams), strict=True):
        assert [as_emmett_has_it(event) for event in events if event["aggregateId"] == stream] == messages
    assert (report.renumbered, report.skipped) == (0, {})


def as_emmett_has_it(event: dict[str, Any]) -> dict[str, Any]:
    meta = event["payload"]["meta"]
    assert meta["version"] == event["aggregateVersion"]
    assert meta["time"].endswith("Z")
    own = {
        "messageId": meta["id"],
        "streamName": event["aggregateId"],
        "streamPosition": str(meta["version"]),
        "globalPosition": str(meta["position"]),
    }
    return {
        "type": event["type"],
        "data": event["payload"]["data"],
        "metadata": meta["metadata"] | own,
        "kind": "Event",
    }


async def test_a_stream_of_emmett_is_told_from_that_of_another_partition(place: str) -> None:
    run("emmett", "write", place, [{"stream": "cart", "events": [{"type": "T", "data": {}}]}])
    copy = "INSERT INTO emt_messages ({0}) SELECT {1} FROM emt_messages"
    names = (
        "stream_id, stream_position, message_kind, message_data, message_metadata, message_schema_version, \
message_type, message_id, is_archived, partition"
    )
    values = names.replace("partition", "'acme'")
    if "://" in place:
        with psycopg.connect(place) as connection:
            connection.execute("SELECT emt_add_partition('acme')")
            connection.execute(
                copy.format(f"{names}, transaction_id", f"{values}, pg_current_xact_id()").encode()
            )
    else:
        with closing(sqlite3.connect(place)) as file, file:
            file.execute(copy.format(names, values))
    events, _ = await read(url(place), "emmett")
    assert [(event["aggregateId"], event["aggregateVersion"]) for event in events] == [
        ("cart", 1),
        ("acme/cart", 1),
    ]


async def test_what_was_archived_in_emmett_can_be_left_out(place: str) -> None:
    run("emmett", "write", place, [{"stream": s, "events": [{"type": "T", "data": {}}]} for s in ("a", "b")])
    archive = "UPDATE emt_messages SET is_archived = TRUE WHERE stream_id = 'a'"
    if "://" in place:
        with psycopg.connect(place) as connection:
            connection.execute(archive)
    else:
        with closing(sqlite3.connect(place)) as file, file:
            file.execute(archive)
    events, _ = await read(url(place), "emmett")
    assert [event["aggregateId"] for event in events] == ["a", "b"]
    events, report = await read(url(place), "emmett", skip=["archived"])
    assert [event["aggregateId"] for event in events] == ["b"]
    assert report.skipped == {"archived": 1}


async def test_a_stream_of_emmett_that_its_transactions_put_in_the_wrong_order_is_read_by_position(
    node: None, tmp_path: Path
) -> None:
    with new_database() as place:
        run("emmett", "write", place, [{"stream": "cart-1", "events": [{"type": "FIRST", "data": {}}]}])
        with psycopg.connect(place) as connection:
            connection.execute(
                "SELECT pg_current_xact_id()"
            )  # as whoever does something else before it appends
            run("emmett", "write", place, [{"stream": "cart-1", "events": [{"type": "SECOND", "data": {}}]}])
            connection.execute(
                """SELECT emt_append_to_stream(
                    ARRAY['id'], ARRAY['{}'::jsonb], ARRAY['{}'::jsonb], ARRAY['1'], ARRAY['THIRD'], ARRAY['E'],
                    'cart-1', 'cart', NULL, 'emt:default')"""
            )
        with pytest.raises(
            SourceRowError, match='version 2 of the aggregate "cart-1" comes after its version 3'
        ):
            await read(place, "emmett")
        page = (ROOT / "docs" / "moving-from-emmett.md").read_text()
        mapping = tmp_path / "by-position.toml"
        mapping.write_text(
            re.sub("^> ", "", page.split("<<'END'\n")[1].split("> END")[0], flags=re.MULTILINE)
        )
        events, _ = await read(place, str(mapping))
        assert [event["type"] for event in events] == ["FIRST", "SECOND", "THIRD"]

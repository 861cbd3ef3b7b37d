"""The preset `message-db`, on stores that message-db's own functions write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import pytest

from tests.support.foreign import message_db, read
from tests.support.foreign.message_db import Message, connect, write_message

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TEXT = 'Zürich, 東京, 🐕 \u2028 a\ttab and "quotes"'


@pytest.fixture
def url(node: None) -> Iterator[str]:
    with message_db.new_store() as made:
        yield made


def write(url: str) -> None:
    """A history: all that a message may hold, then writers at the same time in two categories."""
    with connect(url) as connection:
        values: list[Any] = [
            None,
            [],
            TEXT,
            2.50,
            {"": {"list": [1, 1e300, 10**30, True]}},
            {"large": "x" * 300_000},
        ]
        for value in values:
            write_message(connection, "account-東京+1", f"Type {TEXT}", value, {"user": "Zoë"})
        write_message(connection, "account", "Category", {})  # a stream without an id
        connection.execute("SELECT write_message(%s, 'account:position-1', 'Read', NULL)", (MESSAGE_ID,))
    message_db.write(url, streams=16, messages=10, writers=4)


MESSAGE_ID = "00000000-0000-0000-0000-000000000f0c"


async def test_every_message_of_message_db_is_as_it_reads_it_itself(url: str) -> None:
    write(url)
    events, report = await read(url, "message-db")
    assert events == [expected(number, row) for number, row in enumerate(message_db.messages(url))]
    assert (report.events, report.renumbered, report.skipped) == (6 + 2 + 160, 0, {})
    for category in ("account", "transfer", "account:position"):
        own = [e for e in events if e["aggregateId"].partition("-")[0] == category]
        assert [e["payload"]["meta"]["id"] for e in own] == [
            row.id for row in message_db.category_messages(url, category)
        ]


async def test_a_stream_of_message_db_with_a_hole_is_numbered_without_it(url: str) -> None:
    with connect(url) as connection:
        for number in range(4):
            write_message(connection, "account-1", "Opened", {"number": number})
        connection.execute("DELETE FROM messages WHERE position = 1")
    events, report = await read(url, "message-db")
    assert [event["aggregateVersion"] for event in events] == [1, 2, 3]
    assert [event["payload"]["meta"]["version"] for event in events] == [0, 2, 3]
    assert report.renumbered == 2


def expected(number: int, row: Message) -> dict[str, Any]:
    """The event of a message as message-db's functions give it; its time is UTC."""
    microseconds = int(row.time.replace(tzinfo=UTC).timestamp()) * 10**6 + row.time.microsecond
    return {
        "threadCounter": number,
        "threadId": 0,
        "type": row.type,
        "timestamp": microseconds // 1000,
        "aggregateId": row.stream_name,
        "aggregateVersion": row.position + 1,
        "payload": {
            "data": None if row.data is None else json.loads(row.data),
            "meta": {
                "id": row.id,
                "position": row.global_position,
                "version": row.position,
                "time": f"{row.time:%Y-%m-%dT%H:%M:%S.%f}Z",
                "metadata": None if row.metadata is None else json.loads(row.metadata),
            },
        },
    }

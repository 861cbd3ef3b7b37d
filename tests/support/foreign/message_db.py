"""message-db as its own installer makes it, and its own functions to write and to read with."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
import pytest

from tests.support.foreign import new_database

PACKAGE = "@eventide/message-db@1.3.1"
CACHE = Path(__file__).parents[3] / "build" / "message-db"


class Message(NamedTuple):
    """A message, as message-db's functions give it: data and metadata are texts."""

    id: str
    stream_name: str
    type: str
    position: int
    global_position: int
    data: str | None
    metadata: str | None
    time: datetime


def _package() -> Path:
    """The folder `database` of the package, fetched once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / "fetched").exists():
            if shutil.which("npm") is None:
                pytest.skip("message-db's own SQL comes by npm, not found here")
            subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=CACHE, check=True, capture_output=True)
            [archive] = CACHE.glob("*.tgz")
            subprocess.run(["tar", "xzf", archive.name], cwd=CACHE, check=True)
            (CACHE / "fetched").touch()
    return CACHE / "package" / "database"


# In the order of the package's own install.sh.
_FILES = (
    "roles/message-store",
    "schema/message-store",
    "extensions/pgcrypto",
    "tables/messages",
    "types/message",
    *(
        f"functions/{name}"
        for name in (
            "message-store-version",
            "hash-64",
            "acquire-lock",
            "category",
            "is-category",
            "id",
            "cardinal-id",
            "stream-version",
            "write-message",
            "get-stream-messages",
            "get-category-messages",
            "get-last-stream-message",
        )
    ),
    "indexes/messages-id",
    "indexes/messages-stream",
    "indexes/messages-category",
)


def install(url: str) -> None:
    """Make an empty message store in a database."""
    folder = _package()
    with (CACHE / "lock").open("w") as lock, psycopg.connect(url, autocommit=True) as connection:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the role is the whole server's, and other tests make it too
        for name in _FILES:
            connection.execute((folder / f"{name}.sql").read_text())


@contextmanager
def new_store() -> Iterator[str]:
    """The URL of a database of its own with an empty message store."""
    with new_database() as url:
        install(url)
        yield url


@contextmanager
def connect(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection on which message-db's functions find one another."""
    with psycopg.connect(url, autocommit=True, options="-c search_path=message_store,public") as connection:
        yield connection


def write_message(
    connection: psycopg.Connection[Any],
    stream: str,
    kind: str,
    data: Any,
    metadata: Any = None,
    expected: int | None = None,
) -> int:
    """Write a message by message-db's own function; its position in the stream."""
    row = connection.execute(
        "SELECT write_message(%s, %s, %s, %s::jsonb, %s::jsonb, %s)",
        (
            str(uuid4()),
            stream,
            kind,
            json.dumps(data),
            None if metadata is None else json.dumps(metadata),
            expected,
        ),
    ).fetchone()
    assert row is not None
    return int(row[0])


def write(url: str, *, streams: int = 12, messages: int = 5, writers: int = 4) -> None:
    """A history by concurrent writers, each with streams of its own in two categories."""

    def work(writer: int) -> None:
        with connect(url) as connection:
            for number in range(messages):
                for stream in range(streams // writers):
                    write_message(
                        connection,
                        f"{('account', 'transfer')[stream % 2]}-{writer}+{stream}",
                        f"Happened{number % 3}",
                        {
                            "n": number,
                            "text": 'Zürich, 東京, 🐕 "\\" \t',
                            "amount": 20.5,
                            "list": [1, None, {}],
                        },
                        {"correlationStreamName": f"account-{writer}", "n": number} if number % 2 else None,
                        number - 1,
                    )

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(work, range(writers)))


def messages(url: str) -> list[Message]:
    """All messages in the order of the whole store."""
    with connect(url) as connection:
        return [
            Message(*row)
            for row in connection.execute(
                """SELECT id::text, stream_name, type, position, global_position, data::text, metadata::text, time
                FROM messages ORDER BY global_position"""
            )
        ]


def category_messages(url: str, category: str, position: int = 1) -> list[Message]:
    """A category, by message-db's own function."""
    with connect(url) as connection:
        return [
            Message(*row)
            for row in connection.execute(
                "SELECT * FROM get_category_messages(%s, %s, -1)", (category, position)
            )
        ]


def stream_messages(url: str, stream: str) -> list[Message]:
    """A stream, by message-db's own function."""
    with connect(url) as connection:
        return [
            Message(*row)
            for row in connection.execute("SELECT * FROM get_stream_messages(%s, 0, -1)", (stream,))
        ]


def version(url: str, stream: str) -> int | None:
    """The position of a stream's last message, by message-db's own function."""
    with connect(url) as connection:
        row = connection.execute("SELECT stream_version(%s)", (stream,)).fetchone()
    assert row is not None
    return None if row[0] is None else int(row[0])

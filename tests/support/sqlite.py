"""What the tests of SQLite files share: connections of somebody else, and stores as reSolve makes them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from eventferry import EventStore, open_store
from tests.support import (
    events_of,
    import_lines,
    make_event,
    make_lines,
)

MODES = ["wal", "delete"]


KEY = "kEy-0fGr3atWorth"


SAVED: dict[str, Any] = {"type": "SAVED", "aggregateId": "saved", "aggregateVersion": 1, "payload": None}


# As eventstore-lite 0.34 makes them.
RESOLVE_TABLES = """
CREATE TABLE "events"(
  "threadId" BIGINT NOT NULL,
  "threadCounter" BIGINT NOT NULL,
  "timestamp" BIGINT NOT NULL,
  "aggregateId" VARCHAR(700) NOT NULL,
  "aggregateVersion" BIGINT NOT NULL,
  "type" VARCHAR(700) NOT NULL,
  "payload" JSON NULL,
  PRIMARY KEY("threadId", "threadCounter"),
  UNIQUE("aggregateId", "aggregateVersion")
);
CREATE INDEX "aggregateIdAndVersion-idx" ON "events"("aggregateId", "aggregateVersion");
CREATE INDEX "aggregateId-idx" ON "events"("aggregateId");
CREATE INDEX "aggregateVersion-idx" ON "events"("aggregateVersion");
CREATE INDEX "type-idx" ON "events"("type");
CREATE INDEX "timestamp-idx" ON "events"("timestamp");
CREATE TABLE "snapshots" ("snapshotKey" TEXT, "content" TEXT, PRIMARY KEY("snapshotKey"));
CREATE TABLE "subscribers" (
  "applicationName" VARCHAR(700) NOT NULL,
  "eventSubscriber" VARCHAR(700) NOT NULL,
  "destination" JSON NOT NULL,
  "status" JSON NOT NULL,
  PRIMARY KEY("applicationName", "eventSubscriber")
);
CREATE TABLE "secrets" (
  "idx" BIG INT NOT NULL UNIQUE,
  "id" VARCHAR(700) NOT NULL PRIMARY KEY,
  "secret" text
);
CREATE UNIQUE INDEX IF NOT EXISTS "idx-index" ON "secrets"("idx");
"""


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def connect(path: Path, timeout: float = 0.1, **options: Any) -> closing[sqlite3.Connection]:
    """Somebody else's connection to the file."""
    return closing(sqlite3.connect(path, isolation_level=None, timeout=timeout, **options))


def rows(path: Path, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with connect(path) as other:
        return other.execute(statement, parameters).fetchall()


def journal_mode(path: Path) -> str:
    """As it stands in the file, for which it need not be opened."""
    return "wal" if path.read_bytes()[18:20] == b"\x02\x02" else "not wal"


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names_beside(path: Path) -> set[str]:
    return {other.name for other in path.parent.iterdir()} - {path.name}


async def make_store(path: Path, count: int = 0, **options: Any) -> None:
    async with open_store(url_of(path), **options) as store:
        await store.init()
        if count:
            await import_lines(store, make_lines(count))


async def store_at(path: Path, lines: bytes) -> EventStore:
    """An open store with these events."""
    store = open_store(f"sqlite:///{path}")
    await store.init()
    await import_lines(store, lines)
    return store


def make_resolve_store(path: Path, count: int = 0) -> None:
    with connect(path) as other:
        other.executescript(f"BEGIN; {RESOLVE_TABLES}")
        for i in range(count):
            event = make_event(i)
            other.execute(
                'INSERT INTO "events" VALUES (?, ?, ?, ?, ?, ?, ?)',
                (
                    event["threadId"],
                    event["threadCounter"],
                    event["timestamp"],
                    event["aggregateId"],
                    event["aggregateVersion"],
                    event["type"],
                    json.dumps(event["payload"], separators=(",", ":")),
                ),
            )
        other.execute("COMMIT")


def at(timestamp: int, payload: Any, aggregate: str = "a") -> dict[str, Any]:
    return {"type": "T", "timestamp": timestamp, "aggregateId": aggregate, "payload": payload}


def check_no_gaps(lines: bytes) -> None:
    threads: dict[int, list[int]] = {}
    versions: dict[str, list[int]] = {}
    for event in events_of(lines):
        threads.setdefault(event.thread_id, []).append(event.thread_counter)
        versions.setdefault(event.aggregate_id, []).append(event.aggregate_version)
    assert all(sorted(found) == list(range(len(found))) for found in threads.values())
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in versions.values())


def unique_columns(path: Path, table: str) -> set[tuple[str, ...]]:
    return {
        tuple(column for *_, column in rows(path, f'PRAGMA index_info("{index}")'))
        for _, index, unique, *_ in rows(path, f'PRAGMA index_list("{table}")')
        if unique
    }

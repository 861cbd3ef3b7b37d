"""What the tests of PostgreSQL share: connections of somebody else, and stores as reSolve makes them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg import sql

from eventferry import EventStore, ImportReport, open_store
from tests.support import FAR_FUTURE, import_lines, make_event, make_lines
from tests.support.servers import Server

SAVED: dict[str, Any] = {"type": "SAVED", "aggregateId": "saved", "aggregateVersion": 1, "payload": None}

# As eventstore-postgresql 0.34 makes them.
RESOLVE_TABLES = """
CREATE TABLE "events"(
  "threadId" BIGINT NOT NULL,
  "threadCounter" INT8 NOT NULL,
  "timestamp" BIGINT NOT NULL,
  "aggregateId" VARCHAR(700) COLLATE "default" NOT NULL,
  "aggregateVersion" BIGINT NOT NULL,
  "type" VARCHAR(190) COLLATE "default" NOT NULL,
  "payload" JSONB,
  "eventSize" BIGINT NOT NULL,
  PRIMARY KEY("threadId", "threadCounter")
);
CREATE UNIQUE INDEX "events-aggregateIdAndVersion" ON "events" USING BTREE("aggregateId", "aggregateVersion");
CREATE INDEX "events-aggregateId" ON "events" USING BTREE("aggregateId");
CREATE INDEX "events-aggregateVersion" ON "events" USING BTREE("aggregateVersion");
CREATE INDEX "events-type" ON "events" USING BTREE("type");
CREATE INDEX "events-timestamp" ON "events" USING BTREE("timestamp");
CREATE TABLE "snapshots"("snapshotKey" TEXT NOT NULL, "snapshotContent" TEXT, PRIMARY KEY("snapshotKey"));
CREATE TABLE "events-threads"(
  "threadId" BIGINT NOT NULL, "threadCounter" BIGINT NOT NULL, PRIMARY KEY("threadId")
);
INSERT INTO "events-threads" SELECT id, 0 FROM generate_series(0, 255) AS id;
CREATE TABLE "subscribers"(
  "applicationName" VARCHAR(190) NOT NULL,
  "eventSubscriber" VARCHAR(190) NOT NULL,
  "destination" JSONB NOT NULL,
  "status" JSONB NOT NULL,
  PRIMARY KEY("applicationName", "eventSubscriber")
);
CREATE TABLE "secrets"("idx" BIGSERIAL, "id" VARCHAR(700) NOT NULL PRIMARY KEY, "secret" TEXT);
CREATE UNIQUE INDEX "secrets-global" ON "secrets"("idx");
"""


class Own:
    """A server of a test's own: stores on it are made in schemas that end with it."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def new_url(self) -> str:
        return self.server.url(f"postgres?database_name=test_{secrets.token_hex(6)}")

    def restart(self) -> None:
        self.server.stop()
        self.server.start()

    def kill(self) -> None:
        """kill -9 of all its processes. Those that only wait for their parent to take notice are gone."""
        postmaster = int((self.server.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        children = [
            int(name) for name in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        ]
        Server.kill(self.server)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        while any(map(_runs, children)):
            time.sleep(0.002)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.kill()
        shutil.rmtree(self.server.folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def schema_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["database_name"][0]


def with_options(url: str, options: str) -> str:
    return f"{url}&{options}"


@contextlib.contextmanager
def connect(url: str, **options: Any) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection to a store's server, with the store's schema in front."""
    given = {"autocommit": True} | options
    with psycopg.connect(url.partition("?")[0], **given) as connection:
        connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema_of(url))))
        if not given["autocommit"]:
            connection.commit()
        yield connection


def rows(url: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What somebody else's statement gives."""
    with connect(url) as connection:
        cursor = connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def relations(url: str) -> dict[str, str]:
    """Everything in the store's schema: the kind by the name."""
    return dict(
        rows(
            url,
            "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(%s))",
            schema_of(url),
        )
    )


def tables(url: str) -> set[str]:
    return {name for name, kind in relations(url).items() if kind == "r"}


STORE_TABLES = {"events", "events-threads", "snapshots", "secrets", "subscribers"}


def heads(url: str) -> list[int]:
    return [
        head for (head,) in rows(url, """SELECT "threadCounter" FROM "events-threads" ORDER BY "threadId" """)
    ]


def heads_by_events(url: str) -> list[int]:
    """What the table of threads must say."""
    return [
        head
        for (head,) in rows(
            url,
            """SELECT coalesce((SELECT max("threadCounter") + 1 FROM "events" WHERE "threadId" = id), 0)
            FROM generate_series(0, 255) AS id ORDER BY id""",
        )
    ]


async def make_store(url: str, count: int = 0) -> None:
    async with open_store(url) as store:
        await store.init()
        if count:
            await import_lines(store, make_lines(count))


def make_resolve_store(url: str, count: int = 0) -> None:
    """A store as the real reSolve would have left it."""
    with psycopg.connect(url.partition("?")[0]) as connection:
        schema = sql.Identifier(schema_of(url))
        connection.execute(sql.SQL("CREATE SCHEMA {}; SET search_path = {}").format(schema, schema))
        connection.execute(RESOLVE_TABLES)
        with connection.cursor() as cursor, cursor.copy('COPY "events" FROM STDIN') as copy:
            for i in range(count):
                event = make_event(i)
                payload = json.dumps(event["payload"], separators=(",", ":"))
                names = ("threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type")
                copy.write_row((*[event[name] for name in names], payload, 66 + len(payload) + 30))
        connection.execute(
            """UPDATE "events-threads" AS t SET "threadCounter" = coalesce((
              SELECT max("threadCounter") + 1 FROM "events" AS e WHERE e."threadId" = t."threadId"), 0)"""
        )


def check_no_gaps(url: str) -> None:
    """No thread and no aggregate of the store lacks a number, and the heads are right."""
    assert (
        rows(
            url,
            """SELECT "threadId", array_agg("threadCounter") FROM "events" GROUP BY 1
        HAVING min("threadCounter") <> 0 OR max("threadCounter") + 1 <> count(*)""",
        )
        == []
    )
    assert (
        rows(
            url,
            """SELECT "aggregateId", array_agg("aggregateVersion") FROM "events" GROUP BY 1
        HAVING min("aggregateVersion") <> 1 OR max("aggregateVersion") <> count(*)""",
        )
        == []
    )
    assert heads(url) == heads_by_events(url)


def at(timestamp: int, payload: Any, aggregate: str = "a") -> dict[str, Any]:
    return {"type": "T", "timestamp": timestamp, "aggregateId": aggregate, "payload": payload}


async def import_in_steps(store: EventStore) -> None:
    import_id = await store.begin_incremental_import()
    await store.push_incremental_import([at(FAR_FUTURE, i) for i in range(9)], import_id, part="b")
    await store.push_incremental_import([at(FAR_FUTURE, i) for i in range(5, 12)], import_id, part="a")
    assert await store.commit_incremental_import(import_id) == ImportReport(16, 0, 0)

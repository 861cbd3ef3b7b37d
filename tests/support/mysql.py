"""Databases as others leave them: tables by reSolve's definitions, users with few rights."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pymysql

from tests.support import make_event

_TEXT = "VARCHAR(700) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NOT NULL"

# init-events.ts and init-secrets.ts of eventstore-mysql; utf8mb4_0900_ai_ci, which MariaDB lacks, by its nearest.
RESOLVE_TABLES = (
    f"""CREATE TABLE `events`(
      `threadId` BIGINT NOT NULL,
      `threadCounter` BIGINT NOT NULL,
      `timestamp` BIGINT NOT NULL,
      `aggregateId` {_TEXT},
      `aggregateVersion` BIGINT NOT NULL,
      `type` {_TEXT},
      `payload` JSON NULL,
      PRIMARY KEY(`threadId`, `threadCounter`),
      UNIQUE KEY `aggregate`(`aggregateId`, `aggregateVersion`),
      INDEX USING BTREE(`aggregateId`),
      INDEX USING BTREE(`aggregateVersion`),
      INDEX USING BTREE(`type`),
      INDEX USING BTREE(`timestamp`)
    )""",
    """CREATE TABLE `events-threads`(
      `threadId` BIGINT NOT NULL, `threadCounter` BIGINT NOT NULL, PRIMARY KEY(`threadId`)
    )""",
    """CREATE TABLE `snapshots` (
      `SnapshotKey` MEDIUMBLOB NOT NULL, `SnapshotContent` LONGBLOB, PRIMARY KEY(`SnapshotKey`(255))
    )""",
    f"""CREATE TABLE `subscribers` (
      `applicationName` {_TEXT}, `eventSubscriber` {_TEXT}, `destination` JSON NULL, `status` JSON NULL,
      PRIMARY KEY(`applicationName`(127), `eventSubscriber`(127))
    )""",
    f"CREATE TABLE `secrets`(`idx` BIGINT NOT NULL, `id` {_TEXT}, `secret` {_TEXT}, PRIMARY KEY(`id`, `idx`))",
)

# begin-incremental-import.ts
RESOLVE_OPEN_IMPORT = """CREATE TABLE `events-incremental-import`(
  `rowid` VARCHAR(100) NOT NULL,
  `sortedIdx` BIGINT NULL,
  `threadId` BIGINT NULL,
  `threadCounter` BIGINT NULL,
  `timestamp` BIGINT NOT NULL,
  `aggregateId` VARCHAR(700) NOT NULL,
  `aggregateVersion` BIGINT NULL,
  `type` VARCHAR(700) NOT NULL,
  `payload` JSON NULL,
  PRIMARY KEY(`rowid`)
) COMMENT = 'RESOLVE INCREMENTAL-IMPORT ''reSolvesId'' OWNED TABLE' ENGINE = "InnoDB" """

# freeze.ts
RESOLVE_FREEZE = """CREATE TABLE `events-freeze`(`surrogate` BIGINT NOT NULL, PRIMARY KEY(`surrogate`))
COMMENT = "RESOLVE EVENT STORE `events` FREEZE MARKER" """


def connect(url: str, **options: Any) -> pymysql.Connection[Any]:
    """A connection in autocommit, without TLS if the server lets this user in so.

    With TLS the driver reads all certificates of the system first: ten times the time of all the rest.
    """
    parts = urlsplit(url)
    given: dict[str, Any] = {
        "host": parts.hostname or "",
        "port": parts.port or 0,
        "user": parts.username or "",
        "password": parts.password or "",
        "autocommit": True,
    } | options
    try:
        return pymysql.connect(**given, ssl_disabled=True)
    except (RuntimeError, pymysql.err.OperationalError):  # a password that is sent by TLS alone
        return pymysql.connect(**given)


@dataclass(frozen=True)
class Database:
    """A database, by its URL."""

    url: str

    @property
    def name(self) -> str:
        return urlsplit(self.url).path[1:]

    def connect(self, *, database: bool = True) -> pymysql.Connection[Any]:
        """A connection beside the store's."""
        return connect(self.url, database=self.name if database else None)

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements; the rows of the last."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def url_as(self, user: str, password: str) -> str:
        """The URL for another user."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))

    def make_resolve_store(self, count: int) -> None:
        """A store as the real reSolve leaves it, with the first events of `make_event`."""
        self.run(*RESOLVE_TABLES)
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            heads = [0] * 256
            for event in map(make_event, range(count)):
                heads[event["threadId"]] = event["threadCounter"] + 1
                cursor.execute(
                    "INSERT INTO events VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    (
                        event["threadId"],
                        event["threadCounter"],
                        event["timestamp"],
                        event["aggregateId"],
                        event["aggregateVersion"],
                        event["type"],
                        json.dumps(event["payload"]),  # with white space, as MySQL's JSON prints it
                    ),
                )
            cursor.executemany("INSERT INTO `events-threads` VALUES (%s, %s)", list(enumerate(heads)))

    def definitions(self) -> dict[str, str]:
        """How the tables are defined, and what is in them."""
        found = {}
        for (name,) in self.run("SHOW TABLES"):
            [(_, definition)] = self.run(f"SHOW CREATE TABLE `{name}`")
            [(_, checksum)] = self.run(f"CHECKSUM TABLE `{name}`")
            found[name] = f"{definition} {checksum}"
        return found

    def tables(self) -> set[str]:
        return {name for (name,) in self.run("SHOW TABLES")}


def made_on(url: str) -> Database:
    """Make the database of a URL."""
    database = Database(url)
    with closing(database.connect(database=False)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{database.name}`")
    return database

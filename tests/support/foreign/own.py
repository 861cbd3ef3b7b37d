"""A table of events as anybody could have made it, on all databases."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from eventferry.sources.mapping import Mapping, Position, Time
from tests.support.foreign import new_database
from tests.support.mysql import connect
from tests.support.places import drop_databases
from tests.support.servers import Server, shared_url

_TABLE = """
CREATE TABLE events(id {key}, stream varchar(100) NOT NULL, type varchar(100) NOT NULL, data {json}, at bigint NOT NULL)
"""
_TYPES = {
    "sqlite": {"key": "integer PRIMARY KEY", "json": "text"},
    "postgresql": {"key": "bigserial PRIMARY KEY", "json": "jsonb"},
    "mariadb": {"key": "bigint AUTO_INCREMENT PRIMARY KEY", "json": "json"},
}

BEGAN = 1_700_000_000_000
"""The time of the row at position 0; each next one is a second later."""


def mapping(**changes: Any) -> Mapping:
    """Of the table."""
    values: dict[str, Any] = {
        "name": "own",
        "select": "SELECT id AS position, stream AS aggregate, type, data, at AS time FROM {events}",
        "tables": {"events": "events"},
        "position": Position(kind="sequence", table="{events}", column="id"),
        "time": Time(unit="ms"),
    }
    return Mapping(**values | changes)


class OwnTable:
    """The table, and somebody who writes into it.

    Attributes:
        url: of its database.
    """

    def __init__(self, url: str, connection: Any, mark: str) -> None:
        self.url = url
        self._connection = connection
        self._mark = mark

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement; its rows."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(statement.replace("%s", self._mark), values)
            return list(cursor.fetchall()) if cursor.description else []

    def add(self, *positions: int, stream: str | None = None) -> None:
        """Rows at these positions, of three streams if not of the given one."""
        for position in positions:
            self.run(
                "INSERT INTO events(id, stream, type, data, at) VALUES (%s, %s, %s, %s, %s)",
                position,
                stream or f"stream-{position % 3}",
                f"TYPE_{position % 2}",
                json.dumps({"number": position}),
                BEGAN + position * 1000,
            )

    def fill(self, count: int) -> None:
        """So many more rows, at once."""
        rows = ", ".join(f"('stream-{seq % 3}', 'T', '{{}}', {seq})" for seq in range(1, count + 1))
        self.run(f"INSERT INTO events(stream, type, data, at) VALUES {rows}")

    def positions(self) -> list[int]:
        """Those of all rows."""
        return [position for (position,) in self.run("SELECT id FROM events ORDER BY id")]


@contextmanager
def own_table(database: str, folder: Path, server: Server | None = None) -> Iterator[OwnTable]:
    """The table on "sqlite", "postgresql" or "mariadb", or on this server of PostgreSQL; removed at the end."""
    statement = _TABLE.format(**_TYPES[database])
    if database == "sqlite":
        file = folder / f"{secrets.token_hex(6)}.db"
        with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as connection:
            connection.execute(statement)
            yield OwnTable(f"sqlite:///{file}", connection, "?")
    elif database == "postgresql":
        with new_database(server) as url, psycopg.connect(url, autocommit=True) as postgres:
            postgres.execute(statement.encode())
            yield OwnTable(url, postgres, "%s")
    else:
        name = f"test_{secrets.token_hex(6)}"
        try:
            with connect(shared_url("mariadb", "")) as mysql, mysql.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
                cursor.execute(f"USE {name}")
                cursor.execute(statement)
                mysql.autocommit(True)
                yield OwnTable(shared_url("mariadb", name), mysql, "%s")
        finally:
            drop_databases([name])

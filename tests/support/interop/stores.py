"""Places where both eventferry and the real reSolve can make a store, and copies of stores."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg import sql

from tests.support.servers import shared_url

DATABASES = ("sqlite", "postgresql")
_SCHEMA = "of resolve"


class Stores:
    """A factory of places, each as `open_store` and `ResolvePackages` take it; removed at the end.

    Args:
        database: one of `DATABASES`.
        folder: for files.
    """

    def __init__(self, database: str, folder: Path) -> None:
        self.database = database
        self._folder = folder
        self._schemas: list[str] = []
        self._databases: list[str] = []

    def new(self) -> str:
        """A place where no store has been made yet; the schema, which reSolve does not make, is there."""
        name = f"test_{secrets.token_hex(6)}"
        if self.database == "sqlite":
            return str(self._folder / f"{name}.db")
        self._schemas.append(name)
        with _connection("postgres") as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        return shared_url("postgresql", f"postgres?database_name={name}")

    def new_original(self) -> str:
        """The same, for a store that is to be copied: there PostgreSQL copies databases, not schemas."""
        if self.database == "sqlite":
            return self.new()
        name = self._new_database("template1")
        with _connection(name) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(_SCHEMA)))
        return self._url(name)

    def copy(self, original: str) -> str:
        """A copy of a store that nobody is connected to."""
        if self.database == "sqlite":
            copy = self._folder / f"copy-{secrets.token_hex(6)}.db"
            return str(shutil.copy(original, copy))
        return self._url(self._new_database(urlsplit(original).path.removeprefix("/")))

    def _new_database(self, template: str) -> str:
        name = f"test_{secrets.token_hex(6)}"
        self._databases.append(name)
        with _connection("postgres") as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(sql.Identifier, (name, template)))
            )
        return name

    @staticmethod
    def _url(name: str) -> str:
        return shared_url("postgresql", f"{name}?database_name={_SCHEMA.replace(' ', '%20')}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._schemas and not self._databases:
            return
        with _connection("postgres") as connection:
            connection.execute("SET client_min_messages = error")
            for name in self._schemas:
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))
            for name in self._databases:
                connection.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
                )


def is_postgresql(place: str) -> bool:
    return place.startswith("postgresql:")


def tables(place: str) -> list[str]:
    """Everything with a name that stands at a place: tables, indexes, sequences."""
    if not is_postgresql(place):
        with closing(sqlite3.connect(place)) as file:
            return [name for (name,) in file.execute("SELECT name FROM sqlite_master ORDER BY name")]
    return [name for (name,) in query(place, "SELECT relname FROM pg_class {in_schema} ORDER BY relname")]


def threads(place: str) -> tuple[dict[int, int], dict[int, int]]:
    """Of a PostgreSQL store: the next counters as `events-threads` has them, and as the events have them."""
    kept = query(place, 'SELECT "threadId", "threadCounter" FROM {schema}."events-threads"')
    found = query(place, 'SELECT "threadId", max("threadCounter") + 1 FROM {schema}.events GROUP BY 1')
    assert len(kept) == 256
    return dict(kept), dict.fromkeys(range(256), 0) | dict(found)


def rows_and_tables(place: str) -> list[Any]:
    """All that a write to a PostgreSQL store would change: every row of every table with the transaction that wrote
    it, every table, index and sequence with its place on disk, every comment."""
    found: list[Any] = query(
        place,
        "SELECT oid, relname, relfilenode, relacl::text, xmin::text, obj_description(oid, 'pg_class') "
        "FROM pg_class {in_schema} ORDER BY oid",
    )
    for table, kind in query(place, "SELECT relname, relkind FROM pg_class {in_schema} ORDER BY relname"):
        if kind in ("r", "S"):
            row = "t::text" if kind == "r" else "last_value, is_called"
            found += query(
                place, f'SELECT ctid::text, xmin::text, {row} FROM {{schema}}."{table}" AS t ORDER BY ctid'
            )
    return found


def query(place: str, statement: str) -> list[Any]:
    """Rows from a PostgreSQL store; `{schema}` and `{in_schema}` in the statement stand for its schema."""
    [schema] = parse_qs(urlsplit(place).query)["database_name"]
    text = statement.replace("{schema}", f'"{schema}"').replace(
        "{in_schema}", f"WHERE relnamespace = '\"{schema}\"'::regnamespace"
    )
    with transaction(place) as connection:
        cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []


def transaction(place: str) -> psycopg.Connection[Any]:
    """Somebody else's transaction in the database of a PostgreSQL store; used by `with`, it commits at the end."""
    return psycopg.connect(urlsplit(place)._replace(query="").geturl())


def _connection(database: str) -> psycopg.Connection[Any]:
    return psycopg.connect(shared_url("postgresql", database), autocommit=True)

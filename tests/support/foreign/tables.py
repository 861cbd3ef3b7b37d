"""Tables made of another product's schema, for what its own library cannot write here."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import psycopg

from tests.support.foreign import new_database
from tests.support.mysql import connect
from tests.support.places import drop_databases
from tests.support.servers import shared_url

SCHEMAS = Path(__file__).parent / "schemas"

Value: TypeAlias = str | int | bytes | bool | None


class _Cursor(Protocol):
    def execute(self, statement: Any, values: Any = ..., /) -> Any: ...


class Tables:
    """A database with a product's tables.

    Attributes:
        url: as eventferry takes it.
    """

    def __init__(self, url: str, cursor: _Cursor, mark: str) -> None:
        self.url = url
        self._cursor = cursor
        self._mark = mark

    def insert(self, table: str, **values: Any) -> None:
        """Insert a row."""
        marks = ", ".join([self._mark] * len(values))
        names = ", ".join(f"`{name}`" if self.url.startswith("mysql") else f'"{name}"' for name in values)
        self.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", *values.values())

    def execute(self, statement: str, *values: Value) -> None:
        """Run a statement."""
        self._cursor.execute(statement, values)


@contextmanager
def made_of(preset: str, database: str, folder: Path) -> Iterator[Tables]:
    """The tables that a preset reads, on "sqlite", "postgresql" or "mariadb"; removed at the end."""
    schema = (SCHEMAS / f"{preset}.{database}.sql").read_text()
    if database == "sqlite":
        file = folder / f"{preset}.db"
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.executescript(schema)
            yield Tables(f"sqlite:///{file}", connection.cursor(), "?")
    elif database == "postgresql":
        with new_database() as url, psycopg.connect(url, autocommit=True) as postgres:
            postgres.execute(schema.encode())
            yield Tables(url, postgres.cursor(), "%s")
    else:
        name = f"test_{secrets.token_hex(6)}"
        url = shared_url("mariadb", name)
        try:
            with connect(shared_url("mariadb", "")) as mysql, mysql.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
                cursor.execute(f"USE {name}")
                for statement in schema.split(";\n")[:-1]:
                    cursor.execute(statement)
                yield Tables(url, cursor, "%s")
        finally:
            drop_databases([name])


def databases_of(preset: str) -> list[str]:
    """The databases for which there is a schema of the product."""
    return sorted(file.name.split(".")[1] for file in SCHEMAS.glob(f"{preset}.*.sql"))

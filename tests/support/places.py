"""Fresh places for stores, on every database; what was made there is removed at the end."""

from __future__ import annotations

import functools
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.servers import ON, shared_url

if TYPE_CHECKING:
    import psycopg
    import pymysql

DATABASES = (ON,) if ON else ("sqlite", "postgresql", "mariadb")
"""What is tested: what the machine has, or the one that `EVENTFERRY_TEST_ON` names."""


class Places:
    """A factory of URLs of stores that are not made yet.

    Args:
        database: one of `DATABASES`.
        folder: for files.
    """

    def __init__(self, database: str, folder: Path) -> None:
        self.database = database
        self._folder = folder
        self._names: list[str] = []

    def new_url(self) -> str:
        """A URL of a fresh place."""
        name = f"test_{secrets.token_hex(6)}"
        self._names.append(name)
        if self.database == "sqlite":
            return f"sqlite:///{self._folder / name}.db"
        if "postgresql" in self.database:
            return shared_url(self.database, f"postgres?database_name={name}")
        return shared_url(self.database, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._names and "postgresql" in self.database:
            drop_schemas(self._names)
        elif self._names and self.database != "sqlite":
            drop_databases(self._names)


def drop_schemas(names: list[str]) -> None:
    """Remove schemas of the shared PostgreSQL, if they are there."""
    from psycopg import sql

    drop = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE")
    _postgresql().execute(drop.format(sql.SQL(", ").join(map(sql.Identifier, names))))


def drop_databases(names: list[str]) -> None:
    """Remove databases of the shared MariaDB or MySQL, if they are there."""
    with _mariadb().cursor() as cursor:
        for name in names:
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")


# A connection costs a server more than all that is removed by it, and thousands of tests remove something.


@functools.cache
def _postgresql() -> psycopg.Connection:
    import psycopg

    connection = psycopg.connect(shared_url("postgresql", "postgres"), autocommit=True)
    connection.execute("SET client_min_messages = error")
    return connection


@functools.cache
def _mariadb() -> pymysql.Connection[Any]:
    from tests.support.mysql import connect

    return connect(shared_url("mariadb", ""))

"""A database as another program uses it: one connection, SQL that all three understand, names in double quotes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from eventferry.databases.sqlite import library


def run(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements where a store is or could be, each by itself; the rows of the last."""
    rows: list[tuple[Any, ...]] = []
    if urlsplit(url).scheme == "sqlite":
        # By the library that opens stores: a second one in this process would take their locks away.
        file = f"{Path(urlsplit(url).path[1:]).absolute().as_uri()}?mode=rwc"
        with closing(library.connect(file, 5, {})) as sqlite:
            for statement in statements:
                rows = [tuple(row) for row in sqlite.execute(statement).fetchall()]
        return rows
    with closing(connection(url)) as server, closing(server.cursor()) as cursor:
        for statement in statements:
            cursor.execute(statement)
            rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
    return rows


def tables(url: str) -> set[str]:
    """The names of all tables."""
    named = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
        "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
        "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
    }
    return {name for (name,) in run(url, named[urlsplit(url).scheme])}


def connection(url: str) -> Any:
    """A connection to keep. To a file it is Python's: not beside a newer library in this process."""
    address = urlsplit(url)
    if address.scheme == "sqlite":
        return sqlite3.connect(address.path[1:], isolation_level=None)
    if address.scheme == "postgresql":
        import psycopg

        schema = parse_qs(address.query)["database_name"][0]
        connection = psycopg.connect(url.partition("?")[0], autocommit=True)
        connection.execute("SET client_min_messages = error")
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        connection.execute(f'SET search_path = "{schema}"')
        return connection
    from tests.support import mysql

    server = mysql.connect(url, init_command="SET sql_mode = 'ANSI_QUOTES'")
    with server.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE IF NOT EXISTS "{address.path[1:]}"')
    server.select_db(address.path[1:])
    return server

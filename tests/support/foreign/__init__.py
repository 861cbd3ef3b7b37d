"""Stores of other products, written by their own libraries or made of their schema."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from tests.support.servers import shared_url


@contextmanager
def new_database() -> Iterator[str]:
    """The URL of a PostgreSQL database of its own, removed at the end: some products name their schema themselves."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(shared_url("postgresql", "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield shared_url("postgresql", name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

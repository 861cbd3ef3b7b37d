"""Stores of other products, written by their own libraries or made of their schema."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

from eventferry.sources.mapping import Mapping
from eventferry.sources.source import SourceReport, open_source
from tests.support.servers import Server, shared_url


@contextmanager
def new_database(server: Server | None = None) -> Iterator[str]:
    """The URL of a PostgreSQL database of its own, on the shared server or on this one, removed at the end: some
    products name their schema themselves."""
    url = partial(shared_url, "postgresql") if server is None else server.url
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield url(name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def read(url: str, mapping: str | Mapping, **options: Any) -> tuple[list[dict[str, Any]], SourceReport]:
    """The events of a source, and what is reported of its rows."""
    async with open_source(url, mapping, **options) as source:
        export = source.export_events()
        text = b"".join([block async for block in export])
    return [json.loads(line) for line in text.split(b"\n")[:-1]], export.report

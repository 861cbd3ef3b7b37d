"""A table of events that nobody checks: any type of column, any value, on all databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pymysql.err import MySQLError

from eventferry.sources.mapping import Mapping, Time
from eventferry.sources.source import SourceReport
from tests.support import raw
from tests.support.foreign import read
from tests.support.places import Places

MOMENT = "2024-02-29 23:59:59.123456"
"""The time of a row that says no other, in UTC."""

IN_MS = 1709251199123

_TYPES = {
    "sqlite": {
        "text": "TEXT",
        "json": "JSON",
        "bytes": "BLOB",
        "time": "TEXT",
        "local": "TEXT",
        "whole": "INTEGER",
    },
    "postgresql": {
        "text": "text",
        "json": "jsonb",
        "bytes": "bytea",
        "time": "timestamptz",
        "local": "timestamp",
        "whole": "bigint",
    },
    "mariadb": {
        "text": "longtext",
        "json": "json",
        "bytes": "longblob",
        "time": "timestamp(6) NULL",
        "local": "datetime(6)",
        "whole": "bigint",
    },
}

_COLUMNS = {
    "id": "whole",
    "stream": "text",
    "version": "whole",
    "type": "text",
    "data": "text",
    "meta": "text",
    "name": "text",
    "kind": "text",
    "at": "local",
}

SELECT = """SELECT id AS position, stream AS aggregate, version, type, at AS time, data, meta AS metadata,
  name AS id, kind
FROM {events}"""


class Rows:
    """The table, in a database that eventferry may read.

    Attributes:
        database: "sqlite", "postgresql" or "mariadb".
        url: of the database.
    """

    def __init__(self, database: str, place: str) -> None:
        self.database = database
        self.url = place.partition("?")[0] if database == "postgresql" else place
        self._place = place
        self._connection = raw.connection(place)
        self._count = 0
        self.is_made = False

    @property
    def table(self) -> str:
        """Its name, with the schema where it needs one."""
        return f"{self.schema}.events" if self.database == "postgresql" else "events"

    @property
    def schema(self) -> str:
        """Its schema on PostgreSQL, its database on MariaDB."""
        address = urlsplit(self._place)
        return parse_qs(address.query)["database_name"][0] if address.query else address.path[1:]

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement; its rows."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(statement.replace("%s", "?") if self.database == "sqlite" else statement, values)
            rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        if self.database == "mariadb":
            self._connection.commit()
        return rows

    def make(self, **types: str) -> None:
        """Make it, with other types of columns than the usual ones: names of `_TYPES`, or SQL."""
        known = _TYPES[self.database]
        columns = ", ".join(f'"{name}" {known.get(kind, kind)}' for name, kind in (_COLUMNS | types).items())
        self.run(
            f"CREATE TABLE events({columns})"
            + (" CHARACTER SET utf8mb4" if self.database == "mariadb" else "")
        )
        self.is_made = True

    def add(self, **values: Any) -> None:
        """Add a row: an event of the aggregate "a" if nothing else is said, without a version."""
        if not self.is_made:
            self.make()
        self._count += 1
        usual = {"id": self._count, "stream": "a", "type": "T", "data": "{}", "at": MOMENT}
        row = usual | values
        names = ", ".join(f'"{name}"' for name in row)
        self.run(f"INSERT INTO events({names}) VALUES ({', '.join(['%s'] * len(row))})", *row.values())

    def mapping(self, select: str = SELECT, **changes: Any) -> Mapping:
        """A mapping of it."""
        usual: dict[str, Any] = {"time": Time(zone="UTC"), "tables": {"events": self.table}}
        return Mapping(**{"name": "own", "select": select} | usual | changes)

    def file(self, folder: Path, toml: str = "", select: str = SELECT) -> str:
        """The same in a file; its path."""
        path = folder / "own.toml"
        path.write_text(
            f"select = {json.dumps(select)}\n{toml}\n[tables]\nevents = {json.dumps(self.table)}\n"
            + ("" if "[time]" in toml else '[time]\nzone = "UTC"\n')
        )
        return str(path)

    async def read(
        self, mapping: Mapping | None = None, **options: Any
    ) -> tuple[list[dict[str, Any]], SourceReport]:
        """Its events, and what is reported of its rows."""
        return await read(self.url, mapping or self.mapping(), **options)

    async def events(self, mapping: Mapping | None = None, **options: Any) -> list[dict[str, Any]]:
        """Its events alone."""
        return (await self.read(mapping, **options))[0]

    def close(self) -> None:
        """Close the connection to it; twice is fine."""
        with suppress(MySQLError):
            self._connection.close()


@contextmanager
def rows_on(database: str, folder: Path) -> Iterator[Rows]:
    """The table in a fresh place; removed at the end."""
    with Places(database, folder) as places, closing(Rows(database, places.new_url())) as rows:
        yield rows

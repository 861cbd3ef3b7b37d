"""What is a store: known by the columns of its tables before anything is read from it or written to it.

A file may be another program's, with tables that happen to have the same names, and may have been made in ways in which
a statement means something else than on tables that reSolve or eventferry made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from eventferry.databases.names import Tables
from eventferry.databases.sqlite.file import File
from eventferry.databases.sqlite.library import Sqlite
from eventferry.databases.sqlite.tables import quoted
from eventferry.errors import StoreNotFoundError, UnsupportedStoreError

_EVENTS = {
    "threadId": "number",
    "threadCounter": "number",
    "timestamp": "number",
    "aggregateId": "text",
    "aggregateVersion": "number",
    "type": "text",
    "payload": "JSON",
}
_SNAPSHOTS = {"snapshotKey": "text", "content": "text"}
_SECRETS = {"idx": "number", "id": "text", "secret": "text"}
_SUBSCRIBERS = {
    "applicationName": "text",
    "eventSubscriber": "text",
    "destination": "JSON",
    "status": "JSON",
}

_COLLATED = re.compile(r"\bCOLLATE\s+(?![\"'`\[]?BINARY\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KnownStore:
    """A store that was found in a file.

    Attributes:
        version: of the definitions in the file: while it stands, nothing of this is another.
        definition: the SQL of the events table.
        lacks: what of a store is missing besides the events; None where it is whole.
    """

    version: int
    definition: str
    lacks: str | None

    def refuse_part(self) -> None:
        """Raises unless all tables of a store are there: only then it may be changed."""
        if self.lacks is not None:
            raise StoreNotFoundError(self.lacks)


def schema_version(sqlite: Sqlite) -> int:
    """A number that moves when any definition in the file changes."""
    version: int = sqlite.execute("PRAGMA schema_version").fetchone()[0]
    return version


def known_store(sqlite: Sqlite, tables: Tables, file: File) -> KnownStore:
    """The store in a file, in this transaction.

    Raises:
        StoreNotFoundError: there is none, or what is there is another program's.
        UnsupportedStoreError: there is one that keeps what is put into it in another way.
    """
    version = schema_version(sqlite)
    found: dict[str, list[tuple[str, str, str]]] = {}
    wanted = {
        tables.events: _EVENTS,
        tables.snapshots: _SNAPSHOTS,
        tables.secrets: _SECRETS,
        tables.subscribers: _SUBSCRIBERS,
    }
    for table, definition, column, declared in sqlite.execute(
        """SELECT m.name, m.sql, c.name, c.type FROM sqlite_master AS m JOIN pragma_table_xinfo(m.name) AS c
        WHERE m.type = 'table' AND m.name IN (?, ?, ?, ?) AND c.hidden = 0""",
        tuple(wanted),
    ):
        found.setdefault(table, []).append((definition, column, declared))
    lacking = [words for name in wanted if (words := _lacking(name, wanted[name], found.get(name, [])))]
    events = found.get(tables.events, [])
    if (words := _lacking(tables.events, _EVENTS, events)) is not None:
        raise StoreNotFoundError(f"there is no store in {file}: {words}")
    refuse_encoding(sqlite, file)
    for name, columns in found.items():
        if name == tables.events or not lacking:
            _refuse_other_kinds(name, wanted[name], columns, file)
    _refuse_without_rowid(sqlite, tables.events, file)
    return KnownStore(
        version,
        events[0][0],
        f"there is no whole store in {file}: {lacking[0]}" if lacking else None,
    )


def refuse_encoding(sqlite: Sqlite, file: File) -> None:
    """Texts go in and come out as the bytes of UTF-8, without a detour through strings."""
    (encoding,) = sqlite.execute("PRAGMA encoding").fetchone()
    if encoding != "UTF-8":
        _refuse(
            file,
            f"it keeps texts in {encoding}, and a store must have UTF-8: make a new file by "
            "`sqlite3 OLD .dump | sqlite3 NEW`",
        )


def _lacking(name: str, wanted: dict[str, str], columns: list[tuple[str, str, str]]) -> str | None:
    if not columns:
        return f"it has no table {name!r}"
    have = [column for _, column, _ in columns]
    lacking = [column for column in wanted if column not in have]
    return f"its table {name!r} is another program's and has no column {lacking[0]!r}" if lacking else None


def _refuse_other_kinds(
    name: str, wanted: dict[str, str], columns: list[tuple[str, str, str]], file: File
) -> None:
    if _COLLATED.search(columns[0][0]):
        _refuse(file, f"its table {name!r} has a COLLATE, by which different texts are equal")
    for _, column, declared in columns:
        kind = wanted.get(column)
        affinity = _affinity(declared)
        if kind == "text" and affinity not in ("TEXT", "BLOB"):
            _refuse(
                file,
                f"the column {column!r} of its table {name!r} is declared {declared}, which makes numbers of "
                "texts that look like one",
            )
        if kind == "number" and affinity in ("TEXT", "REAL"):
            _refuse(
                file,
                f"the column {column!r} of its table {name!r} is declared {declared}, which keeps no whole numbers",
            )


def _affinity(declared: str) -> str:
    """What SQLite makes of a declared type (https://sqlite.org/datatype3.html, 3.1)."""
    declared = declared.upper()
    if "INT" in declared:
        return "INTEGER"
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in declared or not declared:
        return "BLOB"
    if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


def _refuse_without_rowid(sqlite: Sqlite, events: str, file: File) -> None:
    try:
        sqlite.execute(f"SELECT 1 FROM {quoted(events)} WHERE rowid = 0").fetchall()
    except Exception as error:
        if "no such column" not in str(error):
            raise
        _refuse(file, f"its table {events!r} is made WITHOUT ROWID, so what came last cannot be known")


def _refuse(file: File, why: str) -> NoReturn:
    raise UnsupportedStoreError(f"{file} cannot be used: {why}")

"""What is a store: known by the columns of its tables before anything is read from it or written to it.

A file may be another program's, with tables that happen to have the same names, and may have been made in ways in which
a statement means something else than on tables that reSolve or eventferry made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from eventferry.databases.names import EVENT, Tables, beside_events, refuse_foreign
from eventferry.databases.sqlite.file import File
from eventferry.databases.sqlite.library import Sqlite, pragma
from eventferry.databases.sqlite.tables import quoted
from eventferry.errors import StoreNotFoundError, UnsupportedStoreError

_NUMBERS = ("threadId", "threadCounter", "timestamp", "aggregateVersion", "idx")
_JSON = ("payload", "destination", "status")
"""The columns of whole numbers, and of JSON, which has its own rules; all others are of texts."""

_COLLATED = re.compile(r"\bCOLLATE\s+(?![\"'`\[]?BINARY\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KnownStore:
    """A store found in a file: its definitions, which stand while their version does."""

    version: int
    definition: str
    columns: Mapping[str, Sequence[str]]


def has_name(sqlite: Sqlite, name: str) -> bool:
    """Whether anything in the file has a name; case does not tell names apart."""
    found = sqlite.execute("SELECT 1 FROM sqlite_master WHERE name = ? COLLATE NOCASE", (name,))
    return found.fetchone() is not None


def known_store(sqlite: Sqlite, tables: Tables, file: File) -> KnownStore:
    """The store in a file, in this transaction. Raises StoreNotFoundError, also if what is there is another program's;
    UnsupportedStoreError for one that keeps what is put into it in another way."""
    version = pragma(sqlite, "schema_version")
    needed = {tables.events: EVENT} | beside_events(tables, "content")
    found = sqlite.execute(
        """SELECT m.name, m.sql, c.name, c.type FROM sqlite_master AS m JOIN pragma_table_xinfo(m.name) AS c
        WHERE m.type = 'table' AND m.name IN (?, ?, ?, ?) AND c.hidden = 0""",
        tuple(needed),
    ).fetchall()
    definitions = {table: definition for table, definition, _, _ in found}
    columns = {table: [column for name, _, column, _ in found if name == table] for table in definitions}
    _refuse_foreign(tables.events, needed, columns, file)
    refuse_encoding(sqlite, file)
    for table, definition, column, declared in found:
        if not set(needed[table]) <= set(columns[table]):
            continue  # another program's, which hinders no reader
        if _COLLATED.search(definition):
            _refuse(file, f"its table {table!r} has a COLLATE, by which different texts are equal")
        if column in needed[table]:
            _refuse_other_kind(table, column, declared, file)
    _refuse_without_rowid(sqlite, tables.events, file)
    return KnownStore(version, definitions[tables.events], columns)


def refuse_part(store: KnownStore, tables: Tables, file: File) -> None:
    """Raises StoreNotFoundError unless all tables of a store are there: only then it may be changed."""
    needed = beside_events(tables, "content")
    for table in needed:
        _refuse_foreign(table, needed, store.columns, file)


def _refuse_foreign(
    table: str, needed: Mapping[str, Sequence[str]], columns: Mapping[str, Sequence[str]], file: File
) -> None:
    if table not in columns:
        raise StoreNotFoundError(f"there is no store in {file}: it has no table {table!r}")
    refuse_foreign(str(file), table, needed[table], columns[table])


def refuse_encoding(sqlite: Sqlite, file: File) -> None:
    """Texts go in and come out as the bytes of UTF-8, without a detour through strings."""
    if (encoding := pragma(sqlite, "encoding")) != "UTF-8":
        _refuse(
            file,
            f"it keeps texts in {encoding}, and a store must have UTF-8: make a new file by "
            "`sqlite3 OLD .dump | sqlite3 NEW`",
        )


def _refuse_other_kind(table: str, column: str, declared: str, file: File) -> None:
    affinity = next((kind for kind, words in _AFFINITIES if words.search(declared)), "NUMERIC")
    place = f"the column {column!r} of its table {table!r} is declared {declared}"
    if column in _NUMBERS:
        if affinity in ("TEXT", "REAL"):
            _refuse(file, f"{place}, which keeps no whole numbers")
    elif column not in _JSON and affinity not in ("TEXT", "BLOB"):
        _refuse(file, f"{place}, which makes numbers of texts that look like one")


_AFFINITIES = [
    (kind, re.compile(words, re.IGNORECASE))
    for kind, words in (
        ("INTEGER", "INT"),
        ("TEXT", "CHAR|CLOB|TEXT"),
        ("BLOB", "BLOB|^$"),
        ("REAL", "REAL|FLOA|DOUB"),
    )
]
"""What SQLite makes of a declared type (https://sqlite.org/datatype3.html, 3.1)."""


def _refuse_without_rowid(sqlite: Sqlite, events: str, file: File) -> None:
    try:
        sqlite.execute(f"SELECT 1 FROM {quoted(events)} WHERE rowid = 0").fetchall()
    except Exception as error:
        if "no such column" not in str(error):
            raise
        _refuse(file, f"its table {events!r} is made WITHOUT ROWID, so what came last cannot be known")


def _refuse(file: File, why: str) -> NoReturn:
    raise UnsupportedStoreError(f"{file} cannot be used: {why}")

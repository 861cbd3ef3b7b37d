"""The databases, by the scheme of a store's URL. A database's module is imported only when it is used."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qsl, unquote

from eventferry.database import Database
from eventferry.errors import UsageError

SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")

_NAMES = {
    "events_table_name": "events",
    "snapshots_table_name": "snapshots",
    "secrets_table_name": "secrets",
    "subscribers_table_name": "subscribers",
}


def is_store(place: str) -> bool:
    """Whether a command-line argument names a store; any other is a file of lines."""
    return "://" in place or PurePath(place).suffix in SQLITE_SUFFIXES


def without_password(place: str) -> str:
    """A URL as it may be shown: no user and password before the host, and no options, which may hold one."""
    scheme, separator, rest = place.partition(":/")
    if not separator or (scheme == "sqlite" and "@" not in rest and "password" not in rest):
        return place
    address, _, query = rest.partition("?")
    if "@" in address:
        address = "/" + address.rpartition("@")[2].lstrip("/")
    return f"{scheme}:/{address}" + ("?…" if query else "")


def open_database(url: str, options: dict[str, Any]) -> Database:
    """The database of a URL; connects to nothing yet.

    Raises:
        UsageError: the URL or an option is not understood.
    """
    if "\0" in unquote(url):
        raise UsageError("a store's URL cannot hold the character U+0000")
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, path, query = "sqlite", url, ""
    else:
        path, _, query = rest.partition("?")
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError:
        raise UsageError(f"the options of {without_password(url)} are not of the form name=value") from None
    both = given.keys() & options.keys()
    if both:
        raise UsageError(f"{', '.join(sorted(both))}: given in the URL and beside it")
    settings = given | options
    names = {field: str(settings.pop(name, field)) for name, field in _NAMES.items()}
    if scheme == "sqlite":
        return _sqlite(_sqlite_path(url, path, has_scheme=bool(separator)), names, settings)
    raise UsageError(f"{without_password(url)} is no store's URL: sqlite:///path")


def _sqlite(path: str, names: dict[str, str], settings: dict[str, Any]) -> Database:
    from eventferry.databases.sqlite import SqliteDatabase
    from eventferry.databases.sqlite.tables import Tables

    busy_timeout = settings.pop("busy_timeout", 60.0)
    journal_mode = settings.pop("journal_mode", None)
    if settings:
        raise UsageError(f"a SQLite store has no option {', '.join(sorted(settings))}")
    try:
        seconds = float(busy_timeout)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= 1e6:
        raise UsageError(f"busy_timeout is a number of seconds from 0, not {busy_timeout!r}")
    return SqliteDatabase(path, Tables(**names), busy_timeout=seconds, journal_mode=journal_mode)


def _sqlite_path(url: str, rest: str, *, has_scheme: bool) -> str:
    """Three slashes: relative; four: absolute. A plain path stays as it is."""
    if not has_scheme or rest == ":memory:":
        return rest
    if not rest.startswith("/") or rest == "/":
        raise UsageError(
            f"{without_password(url)}: a SQLite store is sqlite:///relative/path or sqlite:////absolute/path"
        )
    return unquote(rest[1:])

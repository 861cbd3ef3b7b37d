"""The databases, by the scheme of a store's URL. A database's module is imported only when it is used."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

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


def open_database(url: str, options: dict[str, Any]) -> Database:
    """The database of a URL; connects to nothing yet.

    Raises:
        UsageError: the URL or an option is not understood.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, path, query = "sqlite", url, ""
    else:
        parts = urlsplit(url)
        path, query = rest.partition("?")[0], parts.query
    given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))) if query else {}
    both = given.keys() & options.keys()
    if both:
        raise UsageError(f"{', '.join(sorted(both))}: given in the URL and beside it")
    settings = given | options
    names = {field: str(settings.pop(name, field)) for name, field in _NAMES.items()}
    if scheme == "sqlite":
        return _sqlite(_sqlite_path(url, path, has_scheme=bool(separator)), names, settings)
    raise UsageError(
        f"{url.partition('@')[0] if '@' not in url else scheme + '://…'} is no store's URL: sqlite:///path"
    )


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
        raise UsageError(f"busy_timeout is a number of seconds, not {busy_timeout!r}") from None
    return SqliteDatabase(path, Tables(**names), busy_timeout=seconds, journal_mode=journal_mode)


def _sqlite_path(url: str, rest: str, *, has_scheme: bool) -> str:
    """Three slashes: relative; four: absolute. A plain path stays as it is."""
    if not has_scheme or rest == ":memory:":
        return rest
    if not rest.startswith("/") or rest == "/":
        raise UsageError(f"{url}: a SQLite store is sqlite:///relative/path or sqlite:////absolute/path")
    return unquote(rest[1:])

"""The databases, by the scheme of a store's URL. A database's module is imported only when it is used."""

from __future__ import annotations

import importlib
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import parse_qsl, unquote

from eventferry.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from eventferry.database import Database
    from eventferry.databases.names import Tables

SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")

_NAMES = {
    "events_table_name": "events",
    "snapshots_table_name": "snapshots",
    "secrets_table_name": "secrets",
    "subscribers_table_name": "subscribers",
}

_MODULES = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}


class _Module(Protocol):
    """What the module of a database has."""

    def open_url(self, address: str, tables: Tables, settings: dict[str, Any]) -> Database:
        """The database at an address, which is a URL without its query, or a plain path.

        Takes the settings that it knows out of `settings`; what it leaves there is refused. Connects to nothing.
        """


_ADDRESS = re.compile(
    r"""//(?:[^@/?]*@)?                                            # a user and a password
    ((?:\[[0-9A-Fa-f:.]*\]|[^\[\]@:/?\s]*)(?::[0-9]*)?             # a host and a port; of several with commas, each
    (?:,(?:\[[0-9A-Fa-f:.]*\]|[^\[\]@:/?,\s]*)(?::[0-9]*)?)*
    (?:/[^@?:]*)?)(\?[^@]*)?""",
    re.VERBOSE,
)
"""What stands behind a server's scheme, where nothing in it can be a password: a ? or / in one would end the host."""

_PASSWORD = re.compile(r"^.*:.*@", re.DOTALL)


def is_store(place: str) -> bool:
    """Whether a command-line argument names a store; any other is a file of lines. A server's scheme that is not
    followed by // names one too, which is told when it is opened."""
    scheme, separator, _ = place.partition(":")
    is_server = bool(separator) and _MODULES.get(scheme, "sqlite") != "sqlite"
    return "://" in place or is_server or PurePath(place).suffix in SQLITE_SUFFIXES


def without_password(place: str) -> str:
    """A URL as it may be shown: no user and password before the host, and no options, which may hold one; where it is
    not clear which is which, nothing behind the scheme."""
    scheme, separator, rest = place.partition(":")
    if not separator or (scheme == "sqlite" and "@" not in rest and "password" not in rest):
        return place
    if scheme not in _MODULES and "://" not in place and _PASSWORD.search(place) is None:
        return place  # a path
    address = _ADDRESS.fullmatch(rest)
    if address is None:
        return f"{scheme}:…" if scheme in _MODULES else "…"
    return f"{scheme}://{address[1]}" + ("?…" if address[2] else "")


def open_database(url: str, options: dict[str, Any]) -> Database:
    """The database of a URL; connects to nothing yet.

    Raises:
        UsageError: the URL or an option is not understood.
        MissingExtraError: the database's driver is not installed.
    """
    from eventferry.databases.names import Tables, check_names

    if "\0" in unquote(url):
        raise UsageError("a store's URL cannot hold the character U+0000")
    scheme, separator, rest = url.partition("://")
    if not separator:
        if url.partition(":")[0] in _MODULES and ":" in url:
            raise UsageError(f"a store's URL begins with {url.partition(':')[0]}://")
        scheme, address, query = "sqlite", url, ""
    else:
        path, _, query = rest.partition("?")
        address = f"{scheme}://{path}"
        if (
            path.partition("/")[0].count("@") > 1
        ):  # a driver could take half a password for the host, and tell it
            raise UsageError(f"{without_password(url)}: an @ in a user's name or password is written %40")
        if _MODULES.get(scheme, "sqlite") != "sqlite" and _ADDRESS.fullmatch(f"//{path}") is None:
            raise UsageError(
                f"{scheme}:… is no store's URL: {scheme}://user:password@host:port/database, and in a password "
                "? is written %3F, / %2F, @ %40, : %3A"
            )
    if scheme not in _MODULES:
        known = "sqlite:///path, postgresql://host/database, mysql://host/database"
        raise UsageError(f"{without_password(url)} is no store's URL: {known}")
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError:
        raise UsageError(f"the options of {without_password(url)} are not of the form name=value") from None
    both = given.keys() & options.keys()
    if both:
        raise UsageError(f"{', '.join(sorted(both))}: given in the URL and beside it")
    settings = given | options
    tables = Tables(**{field: str(settings.pop(name, field)) for name, field in _NAMES.items()})
    check_names(tables)
    database = _module(_MODULES[scheme]).open_url(address, tables, settings)
    if settings:
        raise UsageError(f"a {scheme} store has no option {', '.join(sorted(settings))}")
    return database


def _module(name: str) -> _Module:
    try:
        return cast(_Module, importlib.import_module(f"eventferry.databases.{name}"))
    except ImportError as error:
        if error.name is not None and error.name.startswith("eventferry"):
            raise
        raise MissingExtraError(
            f"a {name} store needs its driver: pip install 'eventferry[{name}]' ({error})"
        ) from None

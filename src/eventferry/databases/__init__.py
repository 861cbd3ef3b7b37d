"""The databases, by the scheme of a store's URL. The module of a database is imported only when it is used."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from pathlib import PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from eventferry.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from eventferry.database import Database
    from eventferry.sources.foreign import ForeignDatabase

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

_ADDRESS = re.compile(
    r"""//(?:[^@/?]*@)?                                            # a user and a password
    ((?:\[[0-9A-Fa-f:.]*\]|[^\[\]@:/?\s]*)(?::[0-9]*)?             # a host and a port; of several with commas, each
    (?:,(?:\[[0-9A-Fa-f:.]*\]|[^\[\]@:/?,\s]*)(?::[0-9]*)?)*
    (?:/[^@?:]*)?)(\?[^@]*)?""",
    re.VERBOSE,
)
"""The rest of a server's URL, if it is clear what may be a password: an unescaped ? or / in one would end the host."""

_LOST_SLASHES = re.compile(r"(postgres(ql)?|mysql|mariadb|sqlite)(:|/)")

_PASSWORD = re.compile(r"^.*:.*@", re.DOTALL)

_NAMED_PASSWORD = re.compile(r"(password|passwd|pwd)\s*=", re.IGNORECASE)
"""As in a connection string of libpq or ODBC, which is no URL: host=localhost password=…"""


def is_store(place: str) -> bool:
    """Whether a command-line argument is a store; any other is a file. A server's scheme without // counts as a store,
    and is refused when it is opened."""
    return "://" in place or is_on_server(place) or PurePath(place).suffix in SQLITE_SUFFIXES


def is_on_server(place: str) -> bool:
    """Whether a command-line argument is a store on a server."""
    scheme, separator, _ = place.partition(":")
    return bool(separator) and _MODULES.get(scheme, "sqlite") != "sqlite"


def is_connection_string(place: str) -> bool:
    """Whether a place names a password, and is no URL."""
    return "://" not in place and _NAMED_PASSWORD.search(place) is not None


def without_password(place: str) -> str:
    """A URL without user and password, and without options, which may contain one. If it is not clear what may be a
    password, only the scheme."""
    scheme, separator, rest = place.partition(":")
    if is_connection_string(place):
        return f"{scheme}:…" if scheme in _MODULES else "…"
    if not separator or (scheme == "sqlite" and "@" not in rest and "password" not in rest):
        return place
    if scheme not in _MODULES and "://" not in place and _PASSWORD.search(place) is None:
        return place  # a path
    address = _ADDRESS.fullmatch(rest)
    if address is None:
        return f"{scheme}:…" if scheme in _MODULES else "…"
    return f"{scheme}://{address[1]}" + ("?…" if address[2] else "")


def is_broken_url(place: str) -> bool:
    """Whether what would be taken for a path is a mistyped store URL by its looks, which may hold a password."""
    if is_store(place) or os.path.lexists(place):
        return False
    has_password = without_password(place) != place and not os.path.isdir(PurePath(place).parent)
    return has_password or is_connection_string(place) or _LOST_SLASHES.match(place) is not None


class Address(NamedTuple):
    """What a store's URL says: the database by its name here, the URL without its query (a plain path as it is), and
    the options of the query."""

    scheme: str
    database: str
    place: str
    options: dict[str, str]


def address_of(url: str) -> Address:
    """The parts of a URL, which must be one of the databases here. Raises UsageError."""
    if "\0" in unquote(url):
        raise UsageError("a store URL must not contain the character U+0000")
    scheme, separator, rest = url.partition("://")
    if not separator:
        if url.partition(":")[0] in _MODULES and ":" in url:
            raise UsageError(f"a store URL begins with {url.partition(':')[0]}://")
        scheme, place, query = "sqlite", url, ""
    else:
        path, _, query = rest.partition("?")
        place = f"{scheme}://{path}"
        if path.partition("/")[0].count("@") > 1:  # a driver could show half a password as the host
            raise UsageError(f"{without_password(url)}: write %40 for an @ in a user name or password")
        if _MODULES.get(scheme, "sqlite") != "sqlite" and _ADDRESS.fullmatch(f"//{path}") is None:
            raise UsageError(
                f"{scheme}:… is not a store URL, which looks like {scheme}://user:password@host:port/database; "
                "in a password, write %3F for ?, %2F for /, %40 for @ and %3A for :"
            )
    if scheme not in _MODULES:
        known = "sqlite:///path, postgresql://host/database or mysql://host/database"
        raise UsageError(f"{without_password(url)} is not a store URL, which looks like {known}")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError:
        raise UsageError(f"the options of {without_password(url)} must have the form name=value") from None
    return Address(scheme, _MODULES[scheme], place, options)


def driver_of(name: str, module: str) -> ModuleType:
    """A module that needs the driver of a database. Raises MissingExtraError where that is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.startswith("eventferry"):
            raise
        raise MissingExtraError(
            f"a {name} store needs its driver: pip install 'eventferry[{name}]' ({error})"
        ) from None


def database_at(url: str, options: dict[str, Any]) -> Callable[[], Database]:
    """What makes the database of a URL. Does not connect. Called again, as in a forked process, it leads to the same
    place: paths are resolved now, and the folder may be another one by then.

    Raises:
        UsageError: the URL or an option is not valid.
        MissingExtraError: the database's driver is not installed.
    """
    from eventferry.databases.names import Tables, check_names

    address, settings, module = _opened(url, options)
    tables = Tables(**{field: str(settings.pop(name, field)) for name, field in _NAMES.items()})
    check_names(tables)
    # It takes a URL without its query, or a plain path, and removes the settings that it knows.
    make: Callable[[], Database] = module.open_url(address.place, tables, settings)
    _refuse_unknown(address, settings)
    return make


def open_foreign(url: str, options: dict[str, Any]) -> ForeignDatabase:
    """A database with another product's tables, by the same URLs. Does not connect. Raises as `database_at`."""
    address, settings, module = _opened(url, options)
    database: ForeignDatabase = module.open_foreign(address.place, settings)
    _refuse_unknown(address, settings)
    return database


def _opened(url: str, options: dict[str, Any]) -> tuple[Address, dict[str, Any], ModuleType]:
    address = address_of(url)
    settings = settings_of(address, options)
    return address, settings, driver_of(address.database, f"eventferry.databases.{address.database}")


def settings_of(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a URL, and those that are given beside it. Raises UsageError for one that is given twice."""
    if both := address.options.keys() & options.keys():
        raise UsageError(f"{', '.join(sorted(both))}: given both in the URL and as an argument")
    return address.options | options


def _refuse_unknown(address: Address, settings: dict[str, Any]) -> None:
    if settings:
        raise UsageError(f"a {address.scheme} store has no option {', '.join(sorted(settings))}")

"""What a URL says of a PostgreSQL server, for libpq and for messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg
from psycopg import conninfo

from eventferry.databases.settings import full_path
from eventferry.errors import UsageError

_FILES = "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir", "passfile"
_NO_FILE = "system"  # for sslrootcert: the certificate authorities of the system


class Server(NamedTuple):
    """A database on a server: libpq's connection string, and without what may be a password its URL and its parts."""

    info: str
    place: str
    names: dict[str, str]


def server_at(url: str, options: Mapping[str, str]) -> Server:
    """The server at a URL without its query. The options are libpq's. Raises UsageError."""
    _, _, rest = url.partition("://")
    if "@" in rest.partition("/")[2]:
        raise UsageError(
            "this is not a valid URL of a PostgreSQL store: write %2F for a / in a password, "
            "and %40 for an @ after the host"
        )
    try:
        known = conninfo.conninfo_to_dict(f"postgresql://{rest}", **options)
        defaults: dict[str, Any] = {
            "application_name": "eventferry",
            "connect_timeout": "10",
            # The system's own would find out after two hours that the network is gone.
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            "tcp_user_timeout": "60000",
        }
        files = {
            name: full_path(str(known[name])) for name in _FILES if name in known and known[name] != _NO_FILE
        }
        # What we send and read is UTF-8, whatever the environment, the role or the database has set.
        full = conninfo.make_conninfo(**defaults | known | files | {"client_encoding": "UTF8"})
    except (psycopg.Error, ValueError) as error:
        words = _without_quotes_of(rest, str(error).strip())
        raise UsageError(f"this is not a valid URL of a PostgreSQL store: {words}") from None
    host = quote(str(known.get("host") or known.get("hostaddr") or ""), safe="")
    port = f":{known['port']}" if known.get("port") else ""
    names = {
        name: str(known.get(key) or "")
        for name, key in (("host", "host"), ("port", "port"), ("database", "dbname"))
    }
    return Server(full, f"postgresql://{host}{port}/{names['database']}", names)


def _without_quotes_of(address: str, words: str) -> str:
    """What libpq says about a URL, which may quote any part of it, a password too."""

    def shown(quote: re.Match[str]) -> str:
        return '"…"' if quote[1] in address or address in quote[1] else quote[0]

    return re.sub(r'"([^"]*)"', shown, words)

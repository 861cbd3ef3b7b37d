"""The configuration file: stores by name, without their passwords."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eventferry.databases import address_of
from eventferry.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

COMMAND_SECONDS = 60
"""How long a `password_command` may take: it may ask a person."""


@dataclass(frozen=True)
class NamedStore:
    """A store in the file: its URL, and where its password is to be found."""

    url: str
    password_env: str | None = None
    password_file: str | None = None
    password_command: str | None = None


_FIELDS = [field.name for field in fields(NamedStore)]


def configuration_path() -> Path | None:
    """The file: of EVENTFERRY_CONFIG, or in the folder for configuration. None if there is none, and if the variable is
    empty. Raises UsageError where the variable names a file that does not exist."""
    given = os.environ.get("EVENTFERRY_CONFIG")
    if given is not None:
        path = _expanded(given)
        if given and not os.path.isfile(path):
            raise UsageError(f"EVENTFERRY_CONFIG names {path}, and there is no such file")
        return path if given else None
    path = _expanded(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "eventferry" / "config.toml"
    # Not Path.is_file, which raises where the folder of another user must not be looked into.
    return path if os.path.isfile(path) else None


def _expanded(path: str) -> Path:
    """A path with the home folder for ~. Where there is none, as in a container whose user has no name, it stays as it
    is; Path.expanduser raises there."""
    return Path(os.path.expanduser(path))


def named_stores() -> dict[str, NamedStore]:
    """The stores of the configuration file by name; none without a file. A path of SQLite is absolute here.

    Raises:
        UsageError: the file cannot be read, or is not valid; the message repeats no URL, which may hold a password.
    """
    import tomllib

    path = configuration_path()
    if path is None:
        return {}
    try:
        # Some editors begin a file with a byte order mark.
        given = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML in UTF-8: {error}") from None
    stores = given.pop("stores", {})
    if given or not isinstance(stores, dict):
        raise UsageError(
            f"{path} has one table, stores, and not {', '.join(given) or 'a value of this name'}"
        )
    found = {}
    for name, each in stores.items():
        try:
            found[name] = _checked(name, each, path.absolute().parent)
        except UsageError as error:
            raise UsageError(f"{path}, stores.{name}: {error}") from None
    return found


def _checked(name: str, given: Any, folder: Path) -> NamedStore:
    if _NAME.fullmatch(name) is None:
        raise UsageError("a name has letters, digits, - and _, and begins with a letter or a digit")
    table = {"url": given} if isinstance(given, str) else given
    if not isinstance(table, dict) or not table.get("url"):
        raise UsageError("give a URL, or a table with a url")
    for key, value in table.items():
        if key not in _FIELDS or not isinstance(value, str):
            raise UsageError(f"{key}: the keys are {', '.join(_FIELDS)}, and their values are strings")
    store = NamedStore(**table)
    address = address_of(store.url)
    if len(table) > 2:
        raise UsageError("give one of password_env, password_file and password_command")
    if address.database == "sqlite":
        if len(table) > 1:
            raise UsageError("a SQLite store has no password")
        return NamedStore(_absolute(store.url, folder))
    _, user, _ = _parts(store.url)
    if ":" in user or any("passw" in option.lower() for option in address.options):
        raise UsageError(
            "the file must not hold a password: use password_env, password_file or password_command instead"
        )
    if store.password_file is not None:
        return replace(store, password_file=str(folder / _expanded(store.password_file)))
    return store


def _absolute(url: str, folder: Path) -> str:
    """The URL or path of a SQLite file, which is relative to the folder of the configuration."""
    scheme, separator, path = url.partition(":///")
    if not separator:
        return url if "://" in url else str(folder / _expanded(url))
    return f"{scheme}:///{quote(str(folder))}/{path}" if not path.startswith("/") else url


def is_named(name: str) -> bool:
    """Whether a store in the configuration file has this name. Raises as `named_stores`."""
    return _NAME.fullmatch(name) is not None and name in named_stores()


def url_named(name: str) -> str | None:
    """The URL of a store by its name, with its password; None if no store has it.

    Raises:
        UsageError: as `named_stores`, or its password cannot be found.
    """
    if _NAME.fullmatch(name) is None:
        return None
    store = named_stores().get(name)
    if store is None:
        return None
    try:
        password = _password_of(store)
    except UsageError as error:
        raise UsageError(f"the password of the store {name}: {error}") from None
    if password is None:
        return store.url
    scheme, user, rest = _parts(store.url)
    return f"{scheme}://{user}:{quote(password, safe='')}@{rest}"


def _parts(url: str) -> tuple[str, str, str]:
    """Scheme and user of a server's URL, and what comes behind them."""
    place, mark, query = url.partition("?")
    scheme, _, rest = place.partition("://")
    user, _, server = rest.rpartition("@")
    return scheme, user, f"{server}{mark}{query}"


def _password_of(store: NamedStore) -> str | None:
    if store.password_env is not None:
        password = os.environ.get(store.password_env)
        if password is None:
            raise UsageError(f"the variable {store.password_env} is not set")
        source = f"the variable {store.password_env}"
    elif store.password_file is not None:
        source = store.password_file
        password = _decoded(_read(store.password_file), source)
    elif store.password_command is not None:
        source = f"the command {store.password_command!r}"
        password = _decoded(_printed(store.password_command), source)
    else:
        return None
    if not password:
        raise UsageError(f"{source} gives none")
    return password


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path!r} is not a path: it holds the character U+0000") from None


def _printed(command: str) -> bytes:
    """What a command prints. It is split into words as a shell does, and run without one; standard input may be the
    data of an import, and is kept from it."""
    import subprocess

    try:
        words = shlex.split(command)
        if not words:
            raise ValueError("it is empty")
        ended = subprocess.run(  # noqa: S603
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the command {command!r} was ended: it took more than {COMMAND_SECONDS} s"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"the command {command!r} cannot be run: {reason}") from None
    if ended.returncode:
        raise UsageError(f"the command {command!r} ended with status {ended.returncode}")
    return ended.stdout


def _decoded(text: bytes, source: str) -> str:
    try:
        return text.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError(f"{source} does not give UTF-8") from None

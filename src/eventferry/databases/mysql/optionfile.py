"""Option files, as the servers' own clients read them: `~/.my.cnf` and what it includes.

Python's configparser reads another language: it knows no `!includedir`, refuses an option or a section that comes
twice, and takes a comment behind a value for a part of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from eventferry.errors import UsageError

_SECTIONS = ("client", "client-server", "client-mariadb")
_DEPTH = 10
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "r": "\r", "s": " ", "\\": "\\", '"': '"', "'": "'"}
_VALUE = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^#]*))""")


def read_options(path: str) -> dict[str, str]:
    """A file's options for clients, by names with dashes; UsageError tells nothing of what is in it."""
    found: dict[str, str] = {}
    _read(Path(os.path.expanduser(path)), found, _DEPTH)  # Path.expanduser raises where there is no home
    return found


def _read(path: Path, found: dict[str, str], depth: int) -> None:
    if depth == 0:
        raise UsageError(f"the option file {path} includes others too deeply")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"the option file {path} cannot be read: {reason}") from None
    section = ""
    for number, text in enumerate(lines, 1):
        line = text.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("!"):
            _include(path, line, found, depth)
        elif line.startswith("["):
            section, closed, _ = line[1:].partition("]")
            if not closed:
                raise UsageError(f"the option file {path}, line {number}: a section ends in ]")
        elif section.strip() in _SECTIONS:
            name, _, value = line.partition("=")
            found[name.partition("#")[0].strip().replace("_", "-").lower()] = _value(value)


def _include(path: Path, line: str, found: dict[str, str], depth: int) -> None:
    word, _, place = line.partition(" ")
    # A client looks beside where it was started; beside the file is what is meant.
    other = path.parent / place.strip()
    if word == "!include":
        _read(other, found, depth - 1)
    elif word == "!includedir" and other.is_dir():
        for each in sorted(other.iterdir()):
            if each.suffix in (".cnf", ".ini"):
                _read(each, found, depth - 1)


def _value(text: str) -> str:
    match = _VALUE.match(text)
    double, single, bare = match.groups() if match else (None, None, text)
    given = double if double is not None else single if single is not None else (bare or "").strip()
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[0]), given)

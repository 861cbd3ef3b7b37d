"""Bare numbers as payloads in a column that SQLite gives numeric affinity (reSolve declares it `JSON`).

There a payload `5` is kept as an integer and `1e21` as a float: what comes out must be what the real reSolve
writes, and what would come out as another value must not go in.
"""

from __future__ import annotations

from contextlib import closing
from math import isfinite

from eventferry.comparing.canonical import canonical
from eventferry.databases.sqlite import library
from eventferry.lines.numbers import javascript_number

_SURELY_KEPT = 18
"""Digits of a whole number that SQLite keeps as one."""


def refuse_number(payload: bytes) -> str | None:
    """Why a payload would not survive in a column of numeric affinity; None if it would."""
    if payload[:1] not in b"-0123456789":
        return None
    text = payload.decode()
    if text.lstrip("-").isdigit() and len(text) <= _SURELY_KEPT:
        return None
    kept = _kept(text)
    printed = str(kept) if isinstance(kept, int) else javascript_number(kept)
    if isfinite(kept) and canonical(printed.encode()) == canonical(payload):
        return None
    return f"the number {text[:40]} would be rewritten in this store's payload column, which is declared JSON"


def _kept(text: str) -> int | float:
    """What SQLite makes of a number in such a column. It is asked, for of very small and very large ones it does not
    always take the nearest float, and its versions differ. The connection is for this one number: it is no thread's,
    and nothing of it is there when a process forks."""
    with closing(library.connect(":memory:", 0, {})) as sqlite:
        sqlite.execute("CREATE TABLE kept(payload JSON)")
        sqlite.execute("INSERT INTO kept VALUES (?)", (text,))
        found: int | float = sqlite.execute("SELECT payload FROM kept").fetchone()[0]
        return found

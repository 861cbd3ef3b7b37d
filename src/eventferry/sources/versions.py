"""The versions of aggregates: dense from 1 in the order of arrival, in bounded memory however many aggregates there
are."""

from __future__ import annotations

import sqlite3
import weakref
from typing import NamedTuple

AT_HAND = 100_000
"""How many aggregates are remembered in memory; beyond, in a temporary file."""


class Last(NamedTuple):
    """Of an aggregate."""

    events: int  # of it so far
    version: int | None  # of its last event in the source that said one


class Versions:
    """What the aggregates of one reading have come to."""

    def __init__(self, at_hand: int = AT_HAND) -> None:
        self._at_hand = at_hand
        self._known: dict[str, Last] = {}
        self._file: sqlite3.Connection | None = None

    def last(self, aggregate: str) -> Last:
        """What an aggregate has come to."""
        found = self._known.get(aggregate)
        if found is None:
            found = _NONE if self._file is None else self._looked_up(self._file, aggregate)
        return found

    def note(self, aggregate: str, last: Last) -> None:
        """What it has come to now."""
        if len(self._known) >= self._at_hand and aggregate not in self._known:
            self._put_away()
        self._known[aggregate] = last

    def _put_away(self) -> None:
        if self._file is None:
            # "" is a temporary file of SQLite's own, which is gone when it is closed. This module's own connection, in
            # whichever thread: what is in it no other connection sees.
            self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._file.close)
            self._file.execute("PRAGMA journal_mode = OFF")
            self._file.execute("CREATE TABLE last(aggregate TEXT PRIMARY KEY, events, version) WITHOUT ROWID")
        self._file.execute("BEGIN")
        self._file.executemany(
            "INSERT OR REPLACE INTO last VALUES (?, ?, ?)",
            sorted((aggregate, *last) for aggregate, last in self._known.items()),
        )
        self._file.execute("COMMIT")
        self._known.clear()

    @staticmethod
    def _looked_up(file: sqlite3.Connection, aggregate: str) -> Last:
        row = file.execute("SELECT events, version FROM last WHERE aggregate = ?", (aggregate,)).fetchone()
        return _NONE if row is None else Last(*row)


_NONE = Last(0, None)

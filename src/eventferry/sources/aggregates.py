"""What the aggregates of one reading have come to, in bounded memory however many there are."""

from __future__ import annotations

import sqlite3
import weakref

AT_HAND = 100_000
"""How many aggregates are remembered in memory; beyond, in a temporary file."""


class SourceAggregate:
    """One aggregate.

    Attributes:
        shown: its id as JSON.
        events: how many there have been of it.
        version: of its last event in the source that had one.
    """

    __slots__ = ("events", "shown", "version")

    def __init__(self, shown: bytes, events: int = 0, version: int | None = None) -> None:
        self.shown = shown
        self.events = events
        self.version = version


class SourceAggregates:
    """The aggregates, by their ids as the source has them.

    Attributes:
        at_hand: how many are remembered in memory.
        known: those.
    """

    def __init__(self, at_hand: int = AT_HAND) -> None:
        self.at_hand = at_hand
        self._file: sqlite3.Connection | None = None
        self.known: dict[object, SourceAggregate] = {}

    def new(self, own_id: str, shown: bytes) -> SourceAggregate:
        """One that is not among the `known`."""
        self.make_room(1)
        found = None if self._file is None else self._looked_up(self._file, shown)
        aggregate = self.known[own_id] = found or SourceAggregate(shown)
        return aggregate

    def make_room(self, count: int) -> None:
        """Have room for so many new ones, `at_hand` at most: none of the `known` is put away until they are there."""
        if len(self.known) + count > self.at_hand:
            self._put_away()

    def _put_away(self) -> None:
        if self._file is None:
            # "" is a temporary file of SQLite's own, which is gone when it is closed.
            self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._file.close)
            self._file.execute("PRAGMA journal_mode = OFF")
            self._file.execute("CREATE TABLE last(shown BLOB PRIMARY KEY, events, version) WITHOUT ROWID")
        self._file.execute("BEGIN")
        self._file.executemany(
            "INSERT OR REPLACE INTO last VALUES (?, ?, ?)",
            sorted((each.shown, each.events, each.version) for each in self.known.values()),
        )
        self._file.execute("COMMIT")
        self.known.clear()

    @staticmethod
    def _looked_up(file: sqlite3.Connection, shown: bytes) -> SourceAggregate | None:
        row = file.execute("SELECT events, version FROM last WHERE shown = ?", (shown,)).fetchone()
        return None if row is None else SourceAggregate(shown, *row)

"""What was erased from a store: one row for each erasure, written in the transaction that rewrites the events.

An erasure stays in force: it is applied to whatever enters the store later, and copies and syncs bring it along. The
same selection and rules are one erasure, however often they are given; it then concerns events up to the last time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from eventferry.database import Reading, Writing
from eventferry.errors import UsageError
from eventferry.state.small_tables import KeptTable

MAX_WHAT = 60_000
"""Bytes of what an erasure says, which the columns of every database can hold."""

_TABLE = KeptTable(
    lambda tables: tables.erasures,
    {"id": "VARCHAR(64) NOT NULL PRIMARY KEY", "at": "BIGINT NOT NULL", "what": "TEXT NOT NULL"},
    "what was erased from the store would be kept there",
)
make_table = _TABLE.make


class Erasure(msgspec.Struct, frozen=True, rename="camel"):
    """A row.

    Attributes:
        at: events with a timestamp up to this one are concerned, in ms since 1970.
        what: which events, and what becomes of their payloads, as JSON. `changing/erased.py` reads it.
    """

    at: int
    what: str

    @property
    def id(self) -> str:
        """Of what it says, in hex: the key of its row."""
        return hashlib.blake2b(self.what.encode(), digest_size=16).hexdigest()


def check_size(what: str) -> None:
    """Raises UsageError for more than a row can hold."""
    if len(what.encode()) > MAX_WHAT:
        raise UsageError(
            f"the selection and the rules of an erasure take at most {MAX_WHAT} bytes, and these take "
            f"{len(what.encode())}: erase in several steps, or name a prefix of the aggregates"
        )


def digest_of(erasures: Iterable[Erasure]) -> str:
    """A digest of a store's erasures; empty where there are none."""
    told = sorted(f"{erasure.id} {erasure.at}" for erasure in erasures)
    return hashlib.blake2b("\n".join(told).encode(), digest_size=16).hexdigest() if told else ""


async def load(reading: Reading) -> list[Erasure]:
    """What was erased, in the order in which it was."""
    if not await _TABLE.is_there(reading):
        return []
    table, name, at, what = _TABLE.names(reading)
    rows = await reading.ask(f"SELECT {at}, {what} FROM {table} ORDER BY {at}, {name}")
    return [Erasure(moment, text) for moment, text in rows]


async def save(writing: Writing, erasure: Erasure) -> None:
    """Add a row, or let the one that says the same be of a later time, in the transaction that rewrites the events."""
    table, name, at, what = _TABLE.names(writing)
    changed = await writing.change(
        f"UPDATE {table} SET {at} = %s WHERE {name} = %s", (erasure.at, erasure.id)
    )
    if not changed:
        await writing.change(
            f"INSERT INTO {table}({name}, {at}, {what}) VALUES (%s, %s, %s)",
            (erasure.id, erasure.at, erasure.what),
        )

"""Idempotency keys: which appends were stored under which key, written in the same transaction as their events.

A row says nothing any more when the store's events have been replaced; then it counts as absent, as a sync's does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from eventferry.clock import now
from eventferry.database import Reading, Writing
from eventferry.state.small_tables import KeptTable

KEPT_MS = 7 * 24 * 3600 * 1000
"""How long a key is kept, in ms."""

_TABLE = KeptTable(
    lambda tables: tables.appends,
    {"id": "VARCHAR(64) NOT NULL PRIMARY KEY", "at": "BIGINT NOT NULL", "record": "TEXT NOT NULL"},
    "idempotency keys would be kept there",
    unique=("at", "id"),
)
make_table = _TABLE.make
_SWEPT = 200  # keys that are removed at a time, twice as many as come between two times


class AppendRecord(msgspec.Struct, frozen=True):
    """What was stored under a key."""

    target: str  # the identity of the store's events, in hex
    digest: str  # of what was asked
    runs: list[tuple[int, int, int]]  # where the events are: thread, first counter, number


def id_of(key: str) -> str:
    """What stands for a key in the table: no column takes two keys for the same."""
    return hashlib.sha256(key.encode()).hexdigest()


async def has_table(reading: Reading) -> bool:
    """Whether the table is there. Raises UnsupportedStoreError where another program's table has its name."""
    return await _TABLE.is_ours(reading)


async def load(reading: Reading, ids: Iterable[str], target: str) -> dict[str, AppendRecord]:
    """What is known of these keys in a store with these events, by their ids."""
    table, name, _, record = _TABLE.names(reading)
    wanted = tuple(ids)
    rows = await reading.ask(
        f"SELECT {name}, {record} FROM {table} WHERE {name} IN ({', '.join(['%s'] * len(wanted))})", wanted
    )
    found = {key: msgspec.json.decode(text, type=AppendRecord) for key, text in rows}
    return {key: known for key, known in found.items() if known.target == target}


async def save(writing: Writing, records: Mapping[str, AppendRecord]) -> None:
    """Keep what was stored, by the ids of the keys, in the transaction that stores it."""
    table, name, at, record = _TABLE.names(writing)
    ids, moment = tuple(records), now()
    # What stands there is of events that have been replaced.
    await writing.change(f"DELETE FROM {table} WHERE {name} IN ({', '.join(['%s'] * len(ids))})", ids)
    await writing.change(
        f"INSERT INTO {table}({name}, {at}, {record}) VALUES {', '.join(['(%s, %s, %s)'] * len(ids))}",
        [
            value
            for key, known in records.items()
            for value in (key, moment, msgspec.json.encode(known).decode())
        ],
    )


class Sweeping:
    """Removes old keys, a few at a time: once when the first key is stored, then whenever half as many have been stored
    as are removed. So the table does not grow, and appends hardly notice."""

    def __init__(self) -> None:
        self._stored = _SWEPT

    async def sweep(self, writing: Writing, stored: int) -> None:
        """So many keys have been stored in this transaction."""
        self._stored += stored
        if self._stored < _SWEPT // 2:
            return
        table, name, at, _ = _TABLE.names(writing)
        old = await writing.ask(
            f"SELECT {name} FROM {table} WHERE {at} < %s ORDER BY {at} LIMIT {_SWEPT}", (now() - KEPT_MS,)
        )
        if old:
            marks = ", ".join(["%s"] * len(old))
            await writing.change(f"DELETE FROM {table} WHERE {name} IN ({marks})", [key for (key,) in old])
        self._stored = 0

"""Which imports in parts were committed: a row for each, written in the transaction that swaps, so that to commit once
more does no harm.

On MySQL the tables get their names behind that transaction. So a row counts only where the import's stage is gone, and
goes before a stage that was not swapped.
"""

from __future__ import annotations

from eventferry.clock import now
from eventferry.database import Database, Reading, Writing
from eventferry.state import owners
from eventferry.state.small_tables import KeptTable

KEPT_MS = 30 * 24 * 3600 * 1000
"""How long a row is kept, in ms."""

_TABLE = KeptTable(
    lambda tables: tables.imports,
    {"id": "VARCHAR(64) NOT NULL PRIMARY KEY", "at": "BIGINT NOT NULL", "events": "BIGINT NOT NULL"},
    "committed imports would be kept there",
)


async def make_table(database: Database) -> None:
    """Make the table where it is missing. In a transaction of its own, since on MySQL this ends one."""
    async with owners.writing(database, "exclusive") as writing:
        await _TABLE.make(writing)


async def committed(reading: Reading, import_id: str) -> int | None:
    """How many events a committed import had; None where none is known by this id."""
    if reading.dialect.refuse_text(import_id) is not None or not await _TABLE.is_ours(reading):
        return None
    table, name, _, events = _TABLE.names(reading)
    rows = await reading.ask(f"SELECT {events} FROM {table} WHERE {name} = %s", (import_id,))
    return int(rows[0][0]) if rows else None


async def save(writing: Writing, import_id: str, events: int) -> None:
    """Keep that an import is committed, in the transaction that swaps. Rows that are old go."""
    table, name, at, count = _TABLE.names(writing)
    await writing.change(f"DELETE FROM {table} WHERE {name} = %s OR {at} < %s", (import_id, now() - KEPT_MS))
    await writing.change(
        f"INSERT INTO {table}({name}, {at}, {count}) VALUES (%s, %s, %s)", (import_id, now(), events)
    )


async def forget(writing: Writing, import_id: str) -> None:
    """An import is not committed after all: in the transaction that drops its stage, before that."""
    if await _TABLE.is_ours(writing):
        table, name, *_ = _TABLE.names(writing)
        await writing.change(f"DELETE FROM {table} WHERE {name} = %s", (import_id,))

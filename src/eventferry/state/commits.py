"""Which imports in steps were committed: a row for each with its report, written in the transaction that swaps or
merges, so that to commit once more does no harm.

On MySQL a swap gives the tables their names behind that transaction. So a row counts only where the import's stage is
gone, and goes before a stage that was not swapped.
"""

from __future__ import annotations

import msgspec

from eventferry.clock import now
from eventferry.database import Reading, Writing
from eventferry.results import ImportReport
from eventferry.state.small_tables import KeptTable

KEPT_MS = 30 * 24 * 3600 * 1000
"""How long a row is kept, in ms."""

_TABLE = KeptTable(
    lambda tables: tables.imports,
    {
        "id": "VARCHAR(64) NOT NULL PRIMARY KEY",
        "at": "BIGINT NOT NULL",
        "imported": "BIGINT NOT NULL",
        "skippedExisting": "BIGINT NOT NULL",
        "skippedOlder": "BIGINT NOT NULL",
    },
    "committed imports would be kept there",
)


async def make_table(writing: Writing) -> None:
    """Make the table where it is missing. In a transaction of its own, since on MySQL this ends one."""
    await _TABLE.make(writing)


async def committed(reading: Reading, import_id: str) -> ImportReport | None:
    """The report of a committed import; None where none is known by this id."""
    if reading.dialect.refuse_text(import_id) is not None or not await _TABLE.is_ours(reading):
        return None
    table, name, _, *counts = _TABLE.names(reading)
    rows = await reading.ask(f"SELECT {', '.join(counts)} FROM {table} WHERE {name} = %s", (import_id,))
    return ImportReport(*map(int, rows[0])) if rows else None


async def save(writing: Writing, import_id: str, report: ImportReport) -> None:
    """Keep that an import is committed, in the transaction that does it, if the store has the table. Rows that are old
    go."""
    if not await _TABLE.is_ours(writing):
        return
    table, *columns = _TABLE.names(writing)
    name, at, *_ = columns
    await writing.change(f"DELETE FROM {table} WHERE {name} = %s OR {at} < %s", (import_id, now() - KEPT_MS))
    await writing.change(
        f"INSERT INTO {table}({', '.join(columns)}) VALUES (%s, %s, %s, %s, %s)",
        (import_id, now(), *msgspec.structs.astuple(report)),
    )


async def forget(writing: Writing, import_id: str) -> None:
    """An import is not committed after all: in the transaction that drops its stage, before that."""
    if await _TABLE.is_ours(writing):
        table, name, *_ = _TABLE.names(writing)
        await writing.change(f"DELETE FROM {table} WHERE {name} = %s", (import_id,))

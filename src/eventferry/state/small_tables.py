"""The small tables of a store: what their statements have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventferry.database import Reading, Writing
from eventferry.databases.dialect import Column, Condition, Dialect
from eventferry.databases.names import beside_events, refuse_foreign
from eventferry.errors import InputError, UnsupportedStoreError


async def columns(reading: Reading, table: str) -> dict[str, Column]:
    """The columns of a table by their names; none where there is no such table."""
    found = [Column(*row) for row in await reading.ask(*reading.dialect.columns(table))]
    return {column.name: column for column in found}


def text_of(value: Any) -> str:
    """A text, which some drivers give as its bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def all_of(*conditions: Condition) -> Condition:
    """That each of the conditions holds."""
    return Condition(
        " AND ".join(condition.text for condition in conditions) or "1 = 1",
        tuple(value for condition in conditions for value in condition.values),
    )


def check_text(dialect: Dialect, field: str, text: str) -> None:
    """Raises InputError for a text that the database cannot hold."""
    if (reason := dialect.refuse_text(text)) is not None:
        raise InputError(reason, field=field)


async def refuse_foreign_tables(reading: Reading, place: str) -> None:
    """Raises StoreNotFoundError where a table only has the name of one of a store's: it must not be removed."""
    dialect = reading.dialect
    for table, needed in beside_events(dialect.tables, dialect.snapshot_content).items():
        if known := await columns(reading, table):
            refuse_foreign(place, table, needed, known)


async def put(
    writing: Writing, table: str, key: Mapping[str, str], content: Mapping[str, str], clash: str
) -> None:
    """Insert or replace a row. Raises UnsupportedStoreError, with `clash`, where the table takes another row's key for
    the same."""
    dialect = writing.dialect
    same = all_of(*(dialect.among(column, [value]) for column, value in key.items()))
    changes = ", ".join(f"{dialect.column(column)} = %s" for column in content)
    update = f"UPDATE {dialect.table(table)} SET {changes} WHERE {same.text}"
    values = (*content.values(), *same.values)
    if await writing.change(update, values):
        return
    names = ", ".join(map(dialect.column, (*key, *content)))
    marks = ", ".join(["%s"] * (len(key) + len(content)))
    added = await writing.change(
        f"INSERT INTO {dialect.table(table)}({names}) VALUES ({marks}) {dialect.if_absent(tuple(key))}",
        (*key.values(), *content.values()),
    )
    # Otherwise a row of this key has come meanwhile, or the key is the same as that of another row.
    if not (added and dialect.insert_tells) and not await writing.change(update, values):
        raise UnsupportedStoreError(clash)

"""The small tables of a store: what their statements have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from eventferry.database import Database, Frozen, Reading, Writing
from eventferry.databases.dialect import Column, Condition, Dialect
from eventferry.databases.names import Tables, beside_events, refuse_foreign
from eventferry.errors import InputError, UnsupportedStoreError
from eventferry.state import owners


async def columns(reading: Reading, table: str) -> dict[str, Column]:
    """The columns of a table by their names; none where there is no such table."""
    found = [Column(*row) for row in await reading.ask(*reading.dialect.columns(table))]
    return {column.name: column for column in found}


class KeptTable(NamedTuple):
    """A table that is made when something is first kept in it.

    Attributes:
        name: which of the tables of a store it is.
        columns: what each column holds, in SQL that all databases have.
        kept: what would be kept there, for the error where another program's table has its name.
        unique: a further key, beside the primary one.
    """

    name: Callable[[Tables], str]
    columns: Mapping[str, str]
    kept: str
    unique: tuple[str, ...] = ()

    def names(self, reading: Reading) -> Sequence[str]:
        """The table and its columns, quoted."""
        dialect = reading.dialect
        return dialect.table(self.name(dialect.tables)), *map(dialect.column, self.columns)

    async def is_there(self, reading: Reading) -> bool:
        """Whether it is there; another program's is not."""
        return self.columns.keys() <= (await columns(reading, self.name(reading.dialect.tables))).keys()

    async def is_ours(self, reading: Reading) -> bool:
        """Whether it is there. Raises UnsupportedStoreError where another program's table has its name."""
        name = self.name(reading.dialect.tables)
        known = await columns(reading, name)
        if known and not self.columns.keys() <= known.keys():
            raise UnsupportedStoreError(f"the table {name!r} belongs to another program; {self.kept}")
        return bool(known)

    async def make(self, database: Database, *, frozen: Frozen = "refuse") -> None:
        """Make it where it is missing: in a transaction of its own, since on MySQL this ends one, and an exclusive one,
        since many may begin at once. Raises UnsupportedStoreError where another program's table has its name."""
        async with owners.writing(database, "exclusive", frozen=frozen) as writing:
            await self.make_within(writing)

    async def make_within(self, writing: Writing) -> None:
        """The same in a transaction that does nothing else."""
        if await self.is_ours(writing):
            return
        dialect = writing.dialect
        parts = [f"{dialect.column(column)} {holds}" for column, holds in self.columns.items()]
        if self.unique:
            parts.append(f"UNIQUE ({', '.join(map(dialect.column, self.unique))})")
        table, *_ = self.names(writing)
        await writing.change(f"CREATE TABLE IF NOT EXISTS {table}({', '.join(parts)}){dialect.of_table}")
        # Whoever may read or change the events may do so here: a backup by a user who may only read needs erasures.
        if (grants := dialect.grants(self.name(dialect.tables))) is not None:
            for (grant,) in await writing.ask(*grants):
                await writing.change(grant.replace("%", "%%"))


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

"""What a database supplies to read another product's tables: less than a store needs, and never a write."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from eventferry.errors import MappingError
from eventferry.lifecycle import Life
from eventferry.sources.mapper import TimeKind
from eventferry.sources.mapping import NEEDED, OUTPUT

ColumnKind: TypeAlias = Literal[
    "whole", "number", "text", "bytes", "json", "plain json", "time", "local time", "any", "other"
]
"""What a column of a SELECT holds; "any" where that differs from row to row, as in SQLite. "plain json" has no number
with an exponent."""

BLOCK_ROWS = 1000
"""Rows that are read at a time, at most."""

BLOCK_BYTES = 2 * 1024 * 1024
"""With the row by which it has so many bytes, a block ends before."""


def block_of(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The next block of rows that come one by one: it ends with the row by which it is large."""
    block: list[tuple[Any, ...]] = []
    size = 0
    for row in islice(rows, BLOCK_ROWS):
        block.append(row)
        size += sum([len(value) for value in row if type(value) in _LONG])
        if size >= BLOCK_BYTES:
            break
    return block


_LONG = frozenset((str, bytes))


class SelectedColumn(NamedTuple):
    """A column that a SELECT gives, and its type as the database calls it."""

    kind: ColumnKind
    type: str


class Snapshot(Protocol):
    """One state of the database, read by the rights of the user and unable to write."""

    async def columns(self, select: str) -> dict[str, SelectedColumn]:
        """What a SELECT gives. Raises MappingError where the database refuses it."""

    def rows(self, statement: str) -> AsyncGenerator[list[tuple[Any, ...]], None]:
        """The rows of a statement, in blocks of `BLOCK_ROWS` or fewer, without holding more than one of them."""

    async def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of a small statement."""


class ForeignDatabase(Protocol):
    """A database with another product's tables."""

    @property
    def scheme(self) -> str:
        """Of its URL: "sqlite", "postgresql" or "mysql"."""

    @property
    def place(self) -> str:
        """Where it is, without a password."""

    @property
    def life(self) -> Life:
        """What is under way on it. At its end what it holds open is closed."""

    @property
    def epoch(self) -> datetime:
        """The moment from which times are counted, at the beginning of a minute."""

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A read-only transaction that sees one state; it leaves nothing open."""

    def expression(self, name: str, column: SelectedColumn) -> str:
        """What to select so that a column of `mapped` comes as `Mapper` wants it: whole numbers as int, text as str,
        JSON as str or bytes, times as microseconds since the `epoch`."""

    def text(self, value: str) -> str:
        """A text in SQL, whatever it holds."""


class Reader(NamedTuple):
    """How the rows of a mapping are read from one database.

    Attributes:
        statement: gives those columns of `OUTPUT` that the SELECT does; the rows are `mapped`, and without an order.
        columns: these, in their order.
        table: what stands behind FROM in it.
        aggregate: the expression for the aggregate's id in it.
        time: what comes as the time.
        plain: columns of "plain json".
    """

    statement: str
    columns: tuple[str, ...]
    table: str
    aggregate: str
    time: TimeKind
    plain: tuple[str, ...]

    @property
    def has_transaction(self) -> bool:
        """Whether the last column is `transaction`."""
        return "transaction" in self.columns


_GOOD: dict[str, tuple[ColumnKind, ...]] = {
    "position": ("whole", "any"),
    "version": ("whole", "any"),
    "aggregate": ("whole", "text", "any"),
    "type": ("text", "any"),
    "time": ("time", "local time", "text", "number", "whole", "any"),
    "data": ("json", "plain json", "text", "bytes", "any"),
    "metadata": ("json", "plain json", "text", "bytes", "any"),
    "id": ("whole", "text", "any"),
    "kind": ("text", "any"),
    "transaction": ("whole", "any"),
}


async def reader_of(database: ForeignDatabase, snapshot: Snapshot, select: str, mapping: str) -> Reader:
    """How a mapping's SELECT is read, after a look at its columns. Raises MappingError where they do not fit."""
    found = await snapshot.columns(select)
    if missing := [name for name in NEEDED if name not in found]:
        raise MappingError(f"the SELECT of the mapping {mapping} does not give {', '.join(missing)}")
    if unknown := [name for name in found if name not in OUTPUT]:
        raise MappingError(
            f"the SELECT of the mapping {mapping} gives {unknown[0]!r}, which is none of {', '.join(OUTPUT)}"
        )
    for name, column in found.items():
        if column.kind not in _GOOD[name]:
            raise MappingError(
                f"the column {name} of the mapping {mapping} is of the type {column.type}: cast it in the SELECT to "
                f"{' or '.join(_WORDS[kind] for kind in _GOOD[name] if kind in _WORDS)}"
            )
    columns = tuple(name for name in OUTPUT if name in found)
    expressions = [database.expression(name, found[name]) for name in columns]
    time: TimeKind = _TIMES.get(found["time"].kind, "any") if "time" in found else "any"
    table = f"({select}\n) AS mapped"
    statement = f"SELECT {', '.join(expressions)} FROM {table}"
    aggregate = expressions[columns.index("aggregate")]
    plain = tuple(name for name in columns if found[name].kind == "plain json")
    return Reader(statement, columns, table, aggregate, time, plain)


_WORDS: dict[ColumnKind, str] = {
    "whole": "bigint",
    "text": "text",
    "json": "json",
    "bytes": "bytes",
    "time": "a timestamp with a time zone",
}
_TIMES: dict[ColumnKind, TimeKind] = {"time": "microseconds", "local time": "local microseconds"}

"""The small dialect: in what statements on a store's small tables differ from database to database.

Such a statement is written once, above the boundary, and runs by `Reading.ask` or `Writing.change`. Values are bound
as `%s`, names are put in by `table` and `column`, and a per cent sign is doubled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from eventferry.databases.names import Tables
from eventferry.lines.limits import MAX_SAFE_INTEGER

Value: TypeAlias = int | str | bytes | None


COUNTED = 100_000
"""Fewer events than that are counted also where an estimate is asked for; a server estimates them all."""


class Condition(NamedTuple):
    """A condition in a statement, and the values that it binds."""

    text: str
    values: tuple[Value, ...] = ()


class Column(NamedTuple):
    """What is known of a column: its length in characters, None for any, and its type as the database calls it."""

    name: str
    length: int | None
    is_nullable: bool
    kind: str


class Dialect:
    """How statements are written, as most databases do it."""

    snapshot_key = "snapshotKey"
    snapshot_content = "snapshotContent"

    arrival = "rowid"
    """The column by which the rows of a "merge" or "open" stage are told apart."""

    line = "line"
    """The column, unquoted, that holds the numbers of the lines in a stage that keeps positions."""

    is_standby = "0"
    """An expression: whether the server is a standby, which may lag behind."""

    of_table = ""
    """What stands behind the columns of a table that is made."""

    computed_once = ""
    """What at the end of a subquery keeps its columns from being computed again for each place where they stand."""

    insert_tells = True
    """Whether an insert with `if_absent` tells by its count that the row was there."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def table(self, name: str) -> str:
        """A table's name as it stands in a statement."""
        raise NotImplementedError

    def column(self, name: str) -> str:
        """A column's name as it stands in a statement."""
        return f'"{name}"'

    def columns(self, table: str) -> tuple[str, tuple[Value, ...]]:
        """A statement for the columns of a table, as the fields of `Column`; none if there is no such table."""
        raise NotImplementedError

    def among(self, column: str, texts: Sequence[str]) -> Condition:
        """That a column is one of these texts, byte by byte."""
        kept = tuple(text for text in texts if self.refuse_text(text) is None)
        if not kept:
            return Condition("1 = 0")
        return Condition(f"{self.column(column)} IN ({', '.join(['%s'] * len(kept))})", kept)

    def begins(self, column: str, prefix: str) -> Condition:
        """That a column begins with a text, byte by byte."""
        raise NotImplementedError

    def grouped(self, column: str) -> str:
        """A column of texts to group by, byte by byte, when an index on it would lead to each event alone."""
        return self.column(column)

    def json(self, column: str) -> str:
        """The JSON text of a column."""
        raise NotImplementedError

    @property
    def payload_size(self) -> str:
        """An expression: about the bytes of an event's payload, which it does not print for that."""
        raise NotImplementedError

    @property
    def is_time(self) -> str:
        """That an event's timestamp is one: SQLite holds texts in any column, and sorts them behind all numbers."""
        return f"{self.column('timestamp')} <= {MAX_SAFE_INTEGER}"

    def if_absent(self, key: Sequence[str]) -> str:
        """What at the end of an INSERT makes it leave out a row whose key is taken."""
        return "ON CONFLICT DO NOTHING"

    def refuse_text(self, text: str) -> str | None:
        """Why no column can hold a text; None if one can."""
        return None

    def refuse_json(self, payload: bytes, column: Column) -> str | None:
        """Why a JSON value would not survive in a column; None if it would."""
        return None

    def grants(self, table: str) -> tuple[str, tuple[Value, ...]] | None:
        """A statement for the statements that give a new table the rights that there are to the events; None where a
        store has no rights of its own, or rights to a database are the rule."""
        return None

    @property
    def estimate(self) -> str | None:
        """An expression that estimates the number of events; None where counting is all there is."""
        return None

    @property
    def after_secrets(self) -> str | None:
        """What must run when secrets were inserted; None where nothing must."""
        return None

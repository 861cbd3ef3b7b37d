"""What a product's module says of it, and nothing of how rows come into its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from eventferry.lines.envelope import Original
from eventferry.lines.event import NumberedRow
from eventferry.lines.limits import ColumnLimits

DatabaseKind: TypeAlias = Literal["sqlite", "postgresql"]

Value: TypeAlias = int | str | bytes | None

ProductRow: TypeAlias = tuple[Value, ...]
"""What goes into the table's columns."""


@dataclass(frozen=True, slots=True)
class Table:
    """The table of a product's events.

    Attributes:
        name: dots separate a schema from a table.
        columns: those of a `ProductRow`, in its order.
        position, stream, version: the columns that say where an event stands among all, whose it is, and which of them.
        first: the version of a stream's first event.
        channel: whom to notify of new events.
    """

    name: str
    columns: tuple[str, ...]
    position: str
    stream: str
    version: str
    first: int
    channel: str | None = None


class Product(Protocol):
    """A product whose tables can be filled.

    Attributes:
        name: of the product.
        install: what to do where its table is missing.
        clear: what to do where it holds events.
    """

    name: str
    install: str
    clear: str

    @property
    def limits(self) -> ColumnLimits:
        """What its columns can hold of an event."""

    @property
    def table(self) -> Table:
        """Its table."""

    def meet(self, types: Mapping[str, str]) -> None:
        """Learn the types of the columns as they were found. Raises UsageError where the options don't fit them."""

    def row(self, event: NumberedRow, original: Original, position: int) -> ProductRow:
        """The row of an event. Raises InputError, without a place."""

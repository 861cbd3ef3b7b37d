"""How the table of another product is filled, in one transaction that has it alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from eventferry.database import Progress
from eventferry.errors import StoreFullError, StoreNotFoundError, UnsupportedStoreError
from eventferry.importing.batch import Batch
from eventferry.targets.product import Product, ProductRow


class Misplaced(NamedTuple):
    """An event that does not continue its stream: the how-manieth of all it is by position, from 1, its stream and
    version, and the version that the event before it has, None if it is the stream's first."""

    rank: int
    stream: str
    version: int
    before: int | None


class Doubled(Exception):  # noqa: N818 -- told as an InputError by whoever knows the event's line
    """An event with something unique that an earlier one has: the how-manieth that came it is, from 1, and the
    column."""

    def __init__(self, event: int, column: str) -> None:
        super().__init__(event, column)
        self.event = event
        self.column = column


class Filling(Protocol):
    """An empty table, alone in one transaction; nothing of it is seen before `commit`."""

    async def put(self, batch: Batch[ProductRow, Progress]) -> None:
        """Insert rows. Raises Doubled."""

    async def misplaced(self) -> Misplaced | None:
        """The first event, in the order of positions, whose version is not one above that of its stream's event before
        it; None if there is none."""

    async def commit(self, last: int) -> None:
        """Keep it all; new events of the product are numbered behind the position `last`."""

    async def close(self) -> None:
        """Keep nothing that was not committed, and leave no connection. Twice is fine."""


class TargetPlace(NamedTuple):
    """Where a table is: what begins to fill it, what messages call it, and its parts for the log."""

    begin: Callable[[Product, float], Awaitable[Filling]]
    name: str
    names: dict[str, str]


def missing(place: str, product: Product) -> StoreNotFoundError:
    """The error where there is no such table."""
    return StoreNotFoundError(f"there is no table {product.table.name} in {place}: {product.install}")


def foreign(place: str, product: Product, reason: str) -> UnsupportedStoreError:
    """The error where the table is another one."""
    return UnsupportedStoreError(
        f"the table {product.table.name} in {place} is not one of {product.name}: {reason}. Nothing was changed"
    )


def full(place: str, product: Product) -> StoreFullError:
    """The error where there are events."""
    return StoreFullError(
        f"the table {product.table.name} in {place} holds events already, and eventferry neither removes nor mixes "
        f"those of another product: {product.clear}"
    )

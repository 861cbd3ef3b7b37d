"""An import into another product's table: all of it or nothing, in one transaction that has the table alone.

Lines, errors and ends are those of any import (`importing/stream.py`); only where rows go differs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeAlias

from eventferry.database import Progress, Traits
from eventferry.databases import Address, address_of, driver_of, settings_of
from eventferry.databases.settings import seconds
from eventferry.errors import InputError, UsageError
from eventferry.importing.batch import BATCH_BYTES, Batch, Batches
from eventferry.importing.stream import ImportStream, StreamReport
from eventferry.lifecycle import Life, to_the_end
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES, Lines
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.envelope import Original, opened
from eventferry.lines.limits import ColumnLimits
from eventferry.lines.marker import refuse_marker
from eventferry.operation_log import Operation
from eventferry.targets import PRODUCTS
from eventferry.targets.filling import Doubled, Filling, TargetPlace
from eventferry.targets.message_db import MessageDb
from eventferry.targets.product import Product, ProductRow
from eventferry.targets.pyeventsourcing import PyEventSourcing

Begin: TypeAlias = Callable[[], Awaitable[Filling]]

_POSITIONS = ("keep", "new")
_NEW = "events of several sources need new positions: the option positions=new"


class TargetReport(StreamReport, frozen=True, rename="camel", kw_only=True):
    """What an import into another product's table returns.

    Attributes:
        streams: how many aggregates the events belong to.
    """

    streams: int


def open_target(url: str, product: str, **options: Any) -> ForeignTarget:
    """Open the table of another product as a target. It connects when an import begins.

    Args:
        url: of the database, as for `open_store`; the product's own table must be there, and empty.
        product: "message-db" (on PostgreSQL) or "pyeventsourcing" (on SQLite and PostgreSQL).
        options: may also be given in the query of the URL. Of each product: `positions`, "keep" by default, or "new";
            `busy_timeout`, in seconds. Of message-db: `messages`, the name of its table, and `category`. Of
            pyeventsourcing: `events`, the name of its table; `encode`; `drop_metadata`; `originator_id_type`;
            `first_version`. On PostgreSQL also libpq's. What each means: docs/targets.md.

    Raises:
        UsageError: the product, the URL or an option is not valid.
        MissingExtraError: the database's driver is not installed.
    """
    if product not in PRODUCTS:
        raise UsageError(f"{product!r} is not a product that can be a target; they are {', '.join(PRODUCTS)}")
    address = address_of(url)
    if address.database not in PRODUCTS[product]:
        raise UsageError(f"{product} is on {' or '.join(PRODUCTS[product])}, not on {address.database}")
    return ForeignTarget(address, product, settings_of(address, options))


class ForeignTarget:
    """The table of another product; made by `open_target`."""

    def __init__(self, address: Address, product: str, settings: dict[str, Any]) -> None:
        busy_timeout = seconds(settings, "busy_timeout", 60.0)
        self._positions: str = settings.pop("positions", "keep")
        if self._positions not in _POSITIONS:
            raise UsageError(f"positions is keep or new, not {self._positions!r}")
        filling = driver_of(address.database, f"eventferry.databases.{address.database}.filling")
        self._product: Product
        if product == "message-db":
            self._product = MessageDb(settings)
        else:
            self._product = PyEventSourcing(
                settings, "sqlite" if address.database == "sqlite" else "postgresql"
            )
        self._place: TargetPlace = filling.place_of(address.place, settings)
        if settings:
            raise UsageError(f"{product} has no option {', '.join(sorted(settings))}")
        self._busy_timeout = busy_timeout
        self.life = Life(self._place.name)
        self.traits = Traits(self._place.names | {"tableName": self._product.table.name}, saves_at_once=1)

    async def __aenter__(self) -> ForeignTarget:
        self.life.check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close it. A running import ends as if cancelled: nothing of it is stored. Twice is fine."""
        if not self.life.is_inherited:
            await to_the_end(self.life.end())

    def import_events(
        self, *, ignore_unknown_keys: bool = False, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES
    ) -> TargetStream:
        """Store events, all of them or none: the sink of a `pipeline`, or to be used with `async with`.

        An event is stored as its product knew it where a source has put that into the payload; docs/targets.md says
        what becomes of others. Until the end, other writers wait and readers see the empty table.

        Args:
            ignore_unknown_keys: drop keys that an event does not have, instead of refusing them.
            max_line_bytes: the longest line.

        Raises (as do the stream's methods):
            StoreNotFoundError, UnsupportedStoreError: there is no such table, or it is another one.
            StoreFullError: it holds events.
            InputError: an event cannot be stored. The versions of an aggregate must come in order, from 1, without gap.
        """
        return TargetStream(
            _Filled(
                partial(self._place.begin, self._product, self._busy_timeout), self._product, self._positions
            ),
            Operation("import", self),
            self.life,
            max_line_bytes=max_line_bytes,
            ignore_unknown_keys=ignore_unknown_keys,
        )


class TargetStream(ImportStream):
    """A sink for blocks of lines, cut anywhere; made by `ForeignTarget.import_events`. Leaving its `async with` block
    normally commits, an exception leaves the table as it was."""

    def __init__(self, target: _Filled, *rest: Any, **options: Any) -> None:
        super().__init__(target, *rest, **options)
        self._filled = target

    def stop(self) -> None:
        """Not possible: an import of one transaction has no part that could be kept."""
        raise UsageError("an import into another product's table is all or nothing: abort it instead")

    async def close(self) -> TargetReport:
        """Commit everything; returns the report. Calling it again is fine."""
        return self._whole(await super().close())

    async def finish(self) -> TargetReport:
        """The same."""
        return self._whole(await super().finish())

    def _whole(self, report: StreamReport) -> TargetReport:
        return TargetReport(
            imported=report.imported,
            byte_offset=report.byte_offset,
            is_end=report.is_end,
            streams=self._filled.streams,
        )


class _Filled:
    """The target of the stream."""

    def __init__(self, begin: Begin, product: Product, positions: str) -> None:
        self._begin = begin
        self._product = product
        self._positions = positions
        self._filling: Filling | None = None
        self._rows = _Rows(product, positions)

    @property
    def streams(self) -> int:
        return self._rows.streams

    async def begin(self) -> list[Progress]:
        """Take the table."""
        self._filling = await self._begin()
        return []

    async def limits(self) -> ColumnLimits:
        """Those of the product's columns."""
        return self._product.limits

    def intake(self, progress: Callable[[], Progress], done: Callable[[Progress], None]) -> _Intake:
        """What makes rows and has them inserted."""

        async def put(batch: Batch[ProductRow, Progress]) -> None:
            try:
                await self._its_filling.put(batch)
            except Doubled as error:
                raise self._doubled(error) from error.__cause__

        return _Intake(put, progress, done, self._rows)

    async def finish(self, progress: Progress) -> None:
        """Everything is in the transaction: check what only all of it shows, and commit."""
        filling = self._its_filling
        wrong = await filling.misplaced()
        if wrong is not None:
            first = self._product.table.first
            due = 1 if wrong.before is None else wrong.before + 2 - first
            raise self._rows.refused_at(
                wrong.rank,
                f"is {wrong.version + 1 - first}, and {due} is due in the aggregate {wrong.stream!r}: versions must "
                "come in order, from 1 and without gap",
                "aggregateVersion",
            )
        await filling.commit(self._rows.last)
        self._filling = None
        await to_the_end(filling.close())

    async def abort(self, *, keep: bool) -> None:
        """Nothing is kept of a transaction, whatever interrupted it."""
        filling, self._filling = self._filling, None
        if filling is not None:
            await to_the_end(filling.close())

    def _doubled(self, error: Doubled) -> InputError:
        if error.column == self._product.table.version:
            return self._rows.refused(
                error.event, "an event of this aggregate with this version came before", "aggregateVersion"
            )
        if error.column == self._product.table.position:
            return self._rows.refused(
                error.event, f"an event with this meta.position came before ({_NEW})", "payload"
            )
        # Two events of one version that have no id of their own get the same.
        return self._rows.refused(
            error.event,
            f"an event with this {error.column}, or of this aggregate with this version, came before",
        )

    @property
    def _its_filling(self) -> Filling:
        if self._filling is None:
            raise AssertionError("the import has not begun, or is over")
        return self._filling


class _Rows:
    """Makes rows of events, numbers them, and knows which came from which line.

    Attributes:
        last: the last position that was given, 0 before the first.
        streams: how many streams have begun.
    """

    def __init__(self, product: Product, positions: str) -> None:
        self._product = product
        self._keeps = positions == "keep"
        self.last = 0
        self.streams = 0
        self._events = 0
        self._plain: int | None = None
        self._rises = True

    def of(self, lines: Lines, decoder: LineDecoder) -> list[ProductRow]:
        """The rows of lines. Raises InputError."""
        rows = []
        for event in lines.rows(decoder):
            self._events += 1
            if event[0] != self._events and self._plain is None:
                self._plain = self._events
            try:
                refuse_marker(event[7])
                original = opened(event[7])
                rows.append(self._product.row(event, original, self._place(original)))
            except InputError as error:
                raise lines.placed(error, event[0]) from None
            self.streams += event[5] == 1
        return rows

    def _place(self, original: Original) -> int:
        """Its own position where it has one that is to be kept: it may be below another, whose transaction was over
        sooner. Else the one behind all before it."""
        if not self._keeps or original.position is None:
            self.last += 1
            return self.last
        if original.position < 1:
            raise InputError(f"meta.position must be at least 1 ({_NEW})", field="payload")
        self._rises = self._rises and original.position > self.last
        self.last = max(self.last, original.position)
        return original.position

    def refused_at(self, rank: int, reason: str, field: str) -> InputError:
        """The error for an event of which only is known the how-manieth it is by position."""
        return self.refused(rank, reason, field) if self._rises else InputError(reason, field=field)

    def refused(self, event: int, reason: str, field: str | None = None) -> InputError:
        """The error for an event that the database refused, by its line; where there were blank ones before, by which
        event it is."""
        unit = "line" if self._plain is None or event < self._plain else "event"
        return InputError(reason, line=event, field=field, unit=unit)


class _Intake(Batches[ProductRow, Progress]):
    """Rows go into the one transaction batch by batch, and are committed with it alone."""

    def __init__(
        self,
        put: Callable[[Batch[ProductRow, Progress]], Coroutine[None, None, None]],
        progress: Callable[[], Progress],
        done: Callable[[Progress], None],
        rows: _Rows,
    ) -> None:
        super().__init__(put, progress, BATCH_BYTES)
        self._all = progress
        self._done = done
        self._makes = rows

    def rows(self, lines: Lines, decoder: LineDecoder) -> Sequence[ProductRow]:
        return self._makes.of(lines, decoder)

    async def end_block(self) -> None:
        """Nothing happens: batches are ended by their size."""

    async def commit(self) -> None:
        """Wait until all is in the transaction."""
        await super().commit()
        self._done(self._all())

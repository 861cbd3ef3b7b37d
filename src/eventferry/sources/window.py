"""Which rows of another product's table may be taken yet, so that no late commit is missed.

A row gets its position when it is inserted and is seen when its transaction commits. So a row may appear below others
that were there before, and whoever reads "position > last" misses it: 6 % of the events of eight writers.

Rows are taken in the order of their positions, up to the first missing number that may still appear; what is above it
waits. So what was taken is always everything up to some position, and a reader needs to keep nothing else.

**Which missing number may still appear.** `nextval` locks the sequence (ROW EXCLUSIVE) before it draws a number, and
keeps that lock to the end of the whole transaction: also where a savepoint is rolled back, where the number was drawn
in an earlier statement, and where the transaction is prepared. Numbers are drawn in rising order. Let a look see the
position P in its snapshot, and list the holders of the lock after that. Whoever drew a number below P did so before P
was drawn, so before the snapshot: it is among these holders, or has ended. The lock is released after the transaction
has become visible. So a snapshot that is taken when none of these holders is alive any more sees every number up to P
that will ever be seen: those that are missing were rolled back, or deleted, or left out by the SELECT. That is a mark,
of a position and of transactions; no missing number is kept, however many there are.

**Where that is not exact** a mark stands for a settle time instead: where a number may be drawn by one transaction and
used by a later one (CACHE above 1, or an increment above 1, between whose numbers an application counts itself); where
the locks cannot be seen (a standby; MySQL and MariaDB); and where no sequence was found.

Nothing of this is written down: a reader that begins anew sees the missing numbers anew.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

from eventferry.errors import MappingError, UnsupportedStoreError
from eventferry.sources.foreign import ForeignDatabase, Reader, Snapshot
from eventferry.sources.mapping import Mapping
from eventferry.sources.positions import RowPlace

SETTLE = 10.0
"""Seconds for which a missing number may still appear where nothing tells it."""

_MARKS = 16
"""Marks that are kept at most: one more takes the place of the newest."""


class Window(Protocol):
    """Says of row after row whether it may be taken.

    Attributes:
        condition: in SQL, of the rows of `mapped` that may be taken; None for all.
        doubt: why a late commit may be missed; None where none is.
    """

    condition: str | None
    doubt: str | None

    async def prepare(self, database: ForeignDatabase) -> None:
        """Before each look, and before its snapshot."""

    def admits(self, before: RowPlace | None, place: RowPlace) -> bool:
        """Whether a row may be taken that the condition lets pass. `before` is the place of the last one that was."""

    async def stopped(self, snapshot: Snapshot, at: RowPlace, highest: RowPlace) -> bool:
        """A look has met a row that may not be taken; `highest` is the last place that its snapshot sees. Whether the
        next look gets further even at once. Raises UnsupportedStoreError where none ever will."""


async def window_of(
    mapping: Mapping, scheme: str, snapshot: Snapshot, reader: Reader, settle: float = SETTLE
) -> Window:
    """The window of a table.

    Args:
        mapping: says which kind of position it has.
        scheme: of the database: "sqlite", "postgresql" or "mysql".
        snapshot: to look what the database knows of the positions.
        reader: of the mapping.
        settle: seconds for which a missing number may still appear where nothing tells it.

    Raises:
        MappingError: the positions are of kind "none", or count down, or the SELECT lacks the transaction.
    """
    kind = mapping.position.kind
    if kind == "none":
        raise MappingError(
            f"the mapping {mapping.name} has positions of kind 'none': nothing tells which events are new. It can be "
            "imported and exported, but not followed or synced"
        )
    if kind == "commit" or scheme == "sqlite":
        return EveryRow()
    if kind == "transaction":
        if not reader.has_transaction:
            raise MappingError(
                f"the mapping {mapping.name} has positions of kind 'transaction': its SELECT must give transaction"
            )
        return EndedTransactions()
    if scheme != "postgresql":
        return DrawnNumbers(None, settle, "the server does not tell who holds a number of AUTO_INCREMENT")
    return await _of_a_sequence(mapping, snapshot, settle)


class EveryRow:
    """Positions that appear in their order: each writer holds a lock to its commit."""

    condition: str | None = None
    doubt: str | None = None

    async def prepare(self, database: ForeignDatabase) -> None:
        """Nothing to do."""

    def admits(self, before: RowPlace | None, place: RowPlace) -> bool:
        """All of them."""
        return True

    async def stopped(self, snapshot: Snapshot, at: RowPlace, highest: RowPlace) -> bool:
        """At rows that the condition does not let pass."""
        return False


class EndedTransactions(EveryRow):
    """Positions that are ordered by their transactions first: all below the oldest that runs have ended."""

    # The cast refuses what is no xid8, for which this would be wrong, and otherwise does nothing.
    condition: str | None = "mapped.transaction::xid8 < pg_snapshot_xmin(pg_current_snapshot())"

    async def stopped(self, snapshot: Snapshot, at: RowPlace, highest: RowPlace) -> bool:
        """Wait for the oldest transaction that runs; not for one of another server."""
        [(following,)] = await snapshot.ask("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        if highest.transaction >= following:
            raise UnsupportedStoreError(
                f"the row at position {highest.position} is of transaction {highest.transaction}, and this server is "
                f"only at {following}: the table came here from another server, so its transactions tell no order"
            )
        return False


class _Mark:
    """Up to where no number will appear any more, when all these have ended.

    Attributes:
        highest: the position.
        holders: transactions that may hold a number below it.
        at: when it was made, in seconds of a clock that does not go back.
    """

    def __init__(self, highest: int, holders: set[str], at: float) -> None:
        self.highest = highest
        self.holders = holders
        self.at = at


class _Holder(NamedTuple):
    transaction: str
    is_prepared: bool


class DrawnNumbers:
    """Positions of a sequence.

    Args:
        holders: SQL that tells which transactions may hold a number that is not seen yet: their names, and whether
            they are prepared. None where nothing tells it.
        settle: seconds that must pass too.
        doubt: why a late commit may be missed; None where none is.
    """

    condition: str | None = None

    def __init__(self, holders: str | None, settle: float, doubt: str | None) -> None:
        self.doubt = doubt
        self._holders = holders
        self._settle = settle
        self._marks: list[_Mark] = []
        self._settled: int | None = None

    async def prepare(self, database: ForeignDatabase) -> None:
        """See which marks hold. What has ended now is seen by the snapshot that comes after this."""
        if any(mark.holders for mark in self._marks):
            async with database.snapshot() as snapshot:
                alive = await self._alive(snapshot)
            self._forget(alive)
        now = time.monotonic()
        while self._marks and not self._marks[0].holders and now >= self._marks[0].at + self._settle:
            self._settled = self._marks.pop(0).highest

    def _forget(self, alive: set[_Holder]) -> None:
        known = {holder.transaction for holder in alive}
        prepared = {holder.transaction for holder in alive if holder.is_prepared}
        for mark in self._marks:
            if gone := mark.holders - known:
                # One that was prepared meanwhile may have got another name by it.
                mark.holders = mark.holders - gone | prepared

    def admits(self, before: RowPlace | None, place: RowPlace) -> bool:
        """Those up to the last mark that holds, and behind it those that follow one another without a gap."""
        if self._settled is not None and place.position <= self._settled:
            return True
        known = [self._settled, None if before is None else before.position]
        floor = max((position for position in known if position is not None), default=None)
        return floor is not None and place.position == floor + 1

    async def stopped(self, snapshot: Snapshot, at: RowPlace, highest: RowPlace) -> bool:
        """Make a mark."""
        holders = await self._alive(snapshot)
        mark = _Mark(highest.position, {holder.transaction for holder in holders}, time.monotonic())
        if not self._marks or self._marks[-1].highest < mark.highest:
            if self._has_room(mark):
                self._marks.append(mark)
            else:
                self._marks[-1] = mark
        return self._settle == 0 and not self._marks[0].holders

    def _has_room(self, mark: _Mark) -> bool:
        if len(self._marks) < 2:
            return True
        is_soon = self._marks[-1].at - self._marks[-2].at < self._settle / (_MARKS / 2)
        return len(self._marks) < _MARKS and not is_soon

    async def _alive(self, snapshot: Snapshot) -> set[_Holder]:
        if self._holders is None:
            return set()
        return {_Holder(name, prepared) for name, prepared in await snapshot.ask(self._holders)}


_SEQUENCES = """
WITH place AS (
  SELECT attrelid, attnum FROM pg_attribute
  WHERE attrelid = to_regclass({table}) AND attname = {column} AND NOT attisdropped
), found AS (
  SELECT objid AS sequence FROM pg_depend JOIN place ON refobjid = attrelid AND refobjsubid = attnum
  WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
  UNION
  SELECT refobjid FROM pg_attrdef JOIN place ON adrelid = attrelid AND adnum = attnum
  JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
  WHERE refclassid = 'pg_class'::regclass
)
SELECT seqrelid::bigint, seqrelid::regclass::varchar, seqcache, seqincrement
FROM pg_sequence JOIN found ON seqrelid = sequence
"""
"""The sequences that the column owns, or its default names."""

_HOLDERS = """
SELECT virtualtransaction::varchar, pid IS NULL FROM pg_locks
WHERE locktype = 'relation' AND granted AND mode <> 'AccessShareLock' AND relation IN ({sequences})
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_EVERYBODY = """
SELECT virtualtransaction::varchar, false FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'virtualxid' AND mode = 'ExclusiveLock' AND pid <> pg_backend_pid() AND datname = current_database()
UNION ALL SELECT transaction::varchar, true FROM pg_prepared_xacts WHERE database = current_database()
"""
"""All transactions of this database. Those that are being prepared stand in one of the two at any time."""


async def _of_a_sequence(mapping: Mapping, snapshot: Snapshot, settle: float) -> DrawnNumbers:
    [(is_standby,)] = await snapshot.ask("SELECT pg_is_in_recovery()")
    if is_standby:
        return DrawnNumbers(None, settle, "this is a standby, which does not know who holds a number")
    table = mapping.filled(mapping.position.table, "postgresql")
    column = mapping.position.column
    found = (
        await snapshot.ask(_SEQUENCES.format(table=_literal(table), column=_literal(column))) if table else []
    )
    if not found:
        where = (
            f"of the column {column!r} of {table}"
            if table
            else "(position.table and position.column name it)"
        )
        return DrawnNumbers(_EVERYBODY, settle, f"no sequence {where} was found, so its CACHE is not known")
    holders = _HOLDERS.format(sequences=", ".join(str(int(oid)) for oid, *_ in found))
    for _, name, cache, increment in found:
        if increment < 0:
            raise MappingError(
                f"the sequence {name} counts down: which events are new cannot be told by their positions"
            )
        if cache > 1:
            return DrawnNumbers(
                holders,
                settle,
                f"the sequence {name} has CACHE {cache}: numbers are drawn long before they are used",
            )
        if increment != 1:
            return DrawnNumbers(
                holders,
                settle,
                f"the sequence {name} has INCREMENT {increment}: an application may use the numbers between at any "
                "time",
            )
    return DrawnNumbers(holders, 0.0, None)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

"""An incremental import: a stage is merged into the store.

Three steps, in one transaction: what the store holds already goes, counted, not looked up; what is older than
the store's latest event goes (or is refused, or taken, as asked); the rest comes in behind everything.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Literal, TypeAlias

import msgspec

from eventferry.comparing.canonical import canonical
from eventferry.comparing.spill import Spill
from eventferry.cursor import MAX_COUNTER
from eventferry.database import ExclusiveWriting, Shared, Stage
from eventferry.errors import OlderEventsError, UsageError
from eventferry.lines.limits import full_thread
from eventferry.state.figures import latest_timestamp

Older: TypeAlias = Literal["skip", "reject", "accept"]
OLDER: tuple[Older, ...] = ("skip", "reject", "accept")


class ImportReport(msgspec.Struct, frozen=True, rename="camel"):
    """What an incremental import returns.

    Attributes:
        imported: events that came in.
        skipped_existing: events that the store held already.
        skipped_older: events older than the latest one that the store held before.
    """

    imported: int = 0
    skipped_existing: int = 0
    skipped_older: int = 0


def check_older(older: str) -> None:
    """Refuses an unknown way to treat older events."""
    if older not in OLDER:
        raise UsageError(f"older is one of {', '.join(OLDER)}, not {older!r}")


async def merge(writing: ExclusiveWriting, stage: Stage, older: Older) -> ImportReport:
    """Merge a stage into the store.

    Args:
        writing: the transaction in which all of it happens.
        stage: of kind "merge" or "open".
        older: what becomes of events with a timestamp lower than the store's latest: "skip" them, "reject" the
            whole batch, "accept" them too.

    Raises:
        OlderEventsError: there are some and `older` is "reject".
        UnsupportedStoreError: there is no counter or version left for one; nothing of it is stored.
    """
    stage, existing, shared = await writing.compare(stage)
    known = array("q")
    async with aclosing(shared) as blocks:
        with _Group() as group:
            async for block in blocks:
                for row in block:
                    if group.is_over_at(row):
                        known.extend(group.known())
                    group.add(row)
            known.extend(group.known())
    await _discard(writing, stage, known)
    latest = await latest_timestamp(writing)
    skipped = 0
    if latest is not None and older != "accept":
        skipped = await _older(writing, stage, latest, discard=older == "skip")
        if skipped and older == "reject":
            raise OlderEventsError(
                f"the batch has events older than the store's latest, of timestamp {latest}: {skipped}; "
                "nothing was imported"
            )
    placed = await writing.place(stage)
    for thread, head in enumerate(await writing.heads()):
        if head > MAX_COUNTER + 1:
            raise full_thread(thread)
    return ImportReport(placed, existing + len(known), skipped)


_CHUNK = 10_000


async def _discard(writing: ExclusiveWriting, stage: Stage, staged: Sequence[int]) -> None:
    """Take these rows out of the stage."""
    dialect = writing.dialect
    for start in range(0, len(staged), _CHUNK):
        numbers = ", ".join(map(str, staged[start : start + _CHUNK]))
        await writing.change(
            f"DELETE FROM {dialect.table(stage.table)} WHERE {dialect.arrival} IN ({numbers})"
        )


async def _older(writing: ExclusiveWriting, stage: Stage, than: int, *, discard: bool) -> int:
    """How many staged events have a lower timestamp; with `discard` they are taken out."""
    dialect = writing.dialect
    older = f"FROM {dialect.table(stage.table)} WHERE {dialect.column('timestamp')} < %s"
    if discard:
        return await writing.change(f"DELETE {older}", (than,))
    [(count,)] = await writing.ask(f"SELECT count(*) {older}", (than,))
    return int(count)


class _Group:
    """The rows of one group (timestamp, aggregateId, type): in memory, or if they are many in temporary files, equal
    values in the same file."""

    def __init__(self) -> None:
        self._rows: list[Shared] = []
        self._group: tuple[int, str, str] | None = None
        self._size = 0
        self._spill = _new_spill()

    def __enter__(self) -> _Group:
        return self

    def __exit__(self, *error: object) -> None:
        self._spill.__exit__(None, None, None)

    def is_over_at(self, row: Shared) -> bool:
        """Whether a row is of the next group."""
        return self._group is not None and row.group != self._group

    def add(self, row: Shared) -> None:
        """Add a row of the group."""
        self._group = row.group
        self._rows.append(row)
        self._size += len(row.payload) + _OVERHEAD
        if self._size > _HELD:
            self._put_away()

    def _put_away(self) -> None:
        self._spill.put((_digest(row.payload), row.staged) for row in self._rows)
        self._rows, self._size = [], 0

    def known(self) -> Iterator[int]:
        """The staged rows of the group that the store already holds. Then the next group begins."""
        if self._spill.is_used:
            self._put_away()
            for records in self._spill.files():
                yield from _known_by_value(records)
            self._spill.__exit__(None, None, None)
            self._spill = _new_spill()
        else:
            yield from _known(self._rows)
        self._rows, self._size, self._group = [], 0, None


_HELD = 8 * 1024 * 1024
"""How many bytes of a group are held in memory, approximately."""

_OVERHEAD = 200
"""The size of a row without its payload, approximately."""

_Record: TypeAlias = tuple[bytes, int | None]


def _new_spill() -> Spill[_Record]:
    return Spill(tuple[bytes, int | None], key=itemgetter(0))


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(canonical(payload), digest_size=16).digest()


def _known_by_value(records: Iterator[_Record]) -> Iterator[int]:
    """The same as `_known` for rows of which only a digest of the payload's value is left."""
    stored: Counter[bytes] = Counter()
    staged: list[tuple[bytes, int]] = []
    for value, number in records:
        if number is None:
            stored[value] += 1
        else:
            staged.append((value, number))
    for value, number in staged:
        if stored[value] > 0:
            stored[value] -= 1
            yield number


def _known(group: Sequence[Shared]) -> Iterator[int]:
    """The staged rows of a group that the store already holds.

    Counted: where the store holds k equal events and the batch n, k of the n are known and the rest is new.
    Bytes are compared first, for that is nearly always enough; only what is left is compared as JSON values.
    """
    stored = Counter(row.payload for row in group if row.staged is None)
    unmatched: list[Shared] = []
    for row in group:
        if row.staged is None:
            continue
        if stored[row.payload] > 0:
            stored[row.payload] -= 1
            yield row.staged
        else:
            unmatched.append(row)
    if not unmatched:
        return
    values: Counter[bytes] = Counter()
    for payload, count in stored.items():
        if count > 0:
            values[canonical(payload)] += count
    if not values:
        return
    for row in unmatched:
        value = canonical(row.payload)
        if values[value] > 0 and row.staged is not None:
            values[value] -= 1
            yield row.staged

"""An incremental import: a stage is merged into the store.

Three steps, in one transaction: what the store holds already goes, counted, not looked up; what is older than
the store's latest event goes (or is refused, or taken, as asked); the rest comes in behind everything.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Literal, TypeAlias

from eventferry.comparing.canonical import canonical
from eventferry.comparing.spill import Spill
from eventferry.cursor import MAX_COUNTER
from eventferry.database import ExclusiveWriting, Shared, Stage
from eventferry.errors import ArchiveError, OlderEventsError, UsageError
from eventferry.lifecycle import aclosing
from eventferry.lines.limits import full_thread
from eventferry.results import ImportReport
from eventferry.state import archives
from eventferry.state.figures import latest_timestamp

Older: TypeAlias = Literal["skip", "reject", "accept"]
OLDER: tuple[Older, ...] = ("skip", "reject", "accept")


def check_older(older: str) -> None:
    """Refuses an unknown way to treat older events."""
    if older not in OLDER:
        raise UsageError(f"older is one of {', '.join(OLDER)}, not {older!r}")


async def merge(writing: ExclusiveWriting, stage: Stage, older: Older) -> ImportReport:
    """Merge a stage of kind "merge" or "open" into the store, in one transaction.

    Raises OlderEventsError where events are older and `older` is "reject"; ArchiveError where they should be accepted,
    and the store has archived some; and UnsupportedStoreError where there is no counter or version left for one.
    Nothing of it is stored then.
    """
    if older == "accept" and await archives.held(writing):
        raise ArchiveError(
            "events of the store are archived, and it cannot tell whether older ones of the batch are among them: "
            'recall them before you import with older="accept". Nothing was imported'
        )
    stage, existing, shared = await writing.compare(stage)
    known = array("q")
    async with aclosing(shared) as blocks:
        with _Group() as group:
            async for block in blocks:
                for row in block:
                    if row.group != group.key:
                        known.extend(group.known())
                        group.key = row.group
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


_HELD = 8 * 1024 * 1024  # how many bytes of a group are held in memory, approximately
_OVERHEAD = 200  # the size of a row without its payload, approximately

_Record: TypeAlias = tuple[bytes, int | None]
"""What a row is compared by, and its number in the stage; None for an event of the store."""


class _Group:
    """The rows of one group (timestamp, aggregateId, type): in memory, or if they are many in temporary files, equal
    values in the same file."""

    def __init__(self) -> None:
        self.key: tuple[int, str, str] | None = None
        self._rows: list[_Record] = []
        self._size = 0
        self._spill: Spill[_Record] = Spill(tuple[bytes, int | None], key=itemgetter(0))

    def __enter__(self) -> _Group:
        return self

    def __exit__(self, *error: object) -> None:
        self._spill.close()

    def add(self, row: Shared) -> None:
        self._rows.append((row.payload, row.staged))
        self._size += len(row.payload) + _OVERHEAD
        if self._size > _HELD:
            self._put_away()

    def _put_away(self) -> None:
        self._spill.put((_digest(payload), staged) for payload, staged in self._rows)
        self._rows, self._size = [], 0

    def known(self) -> Iterator[int]:
        """The staged rows of the group that the store already holds; then the next group begins. Counted: where the
        store holds k equal events and the batch n, k of the n are known and the rest is new."""
        if self._spill.is_used:
            self._put_away()
            for records in self._spill.files():
                yield from _known(*_sides(records))[0]
            self._spill.close()
        else:
            # Bytes are compared first, for that is nearly always enough; only what is left, as JSON values.
            stored, staged = _sides(self._rows)
            known, unmatched = _known(stored, staged)
            yield from known
            values: Counter[bytes] = Counter()
            if unmatched:
                for payload, count in (+stored).items():
                    values[canonical(payload)] += count
            if values:
                yield from _known(values, [(canonical(payload), number) for payload, number in unmatched])[0]
        self._rows, self._size = [], 0


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(canonical(payload), digest_size=16).digest()


_Staged: TypeAlias = list[tuple[bytes, int]]


def _sides(records: Iterable[_Record]) -> tuple[Counter[bytes], _Staged]:
    """The events of the store, counted, and the staged ones."""
    stored: Counter[bytes] = Counter()
    staged: _Staged = []
    for value, number in records:
        if number is None:
            stored[value] += 1
        else:
            staged.append((value, number))
    return stored, staged


def _known(stored: Counter[bytes], staged: _Staged) -> tuple[list[int], _Staged]:
    """The staged events that the store holds, which are taken out of `stored`, and those that it does not."""
    known: list[int] = []
    unmatched: _Staged = []
    for value, number in staged:
        if stored[value] > 0:
            stored[value] -= 1
            known.append(number)
        else:
            unmatched.append((value, number))
    return known, unmatched

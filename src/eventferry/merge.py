"""An incremental import: a stage is merged into the store.

Three steps, in one transaction: what the store holds already goes, counted, not looked up; what is older than
the store's latest event goes (or is refused, or taken, as asked); the rest comes in behind everything.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Literal, TypeAlias

import msgspec

from eventferry.canonical import canonical
from eventferry.cursor import MAX_COUNTER
from eventferry.database import Shared, SoleWriting, Stage
from eventferry.errors import OlderEventsError, UsageError
from eventferry.event import full_thread

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


async def merge(writing: SoleWriting, stage: Stage, older: Older) -> ImportReport:
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
    existing = await writing.discard_known(stage)
    known = array("q")
    async with aclosing(writing.shared(stage)) as blocks, aclosing(_groups(blocks)) as groups:
        async for group in groups:
            known.extend(_known(group))
    if known:
        await writing.discard(stage, known)
    latest = await writing.latest_timestamp()
    skipped = 0
    if latest is not None and older != "accept":
        skipped = await writing.older(stage, latest, discard=older == "skip")
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


async def _groups(blocks: AsyncIterator[list[Shared]]) -> AsyncGenerator[list[Shared], None]:
    """The rows of one group after another."""
    group: list[Shared] = []
    async for block in blocks:
        for row in block:
            if group and group[0].group != row.group:
                yield group
                group = []
            group.append(row)
    if group:
        yield group


def _known(group: Sequence[Shared]) -> Iterator[int]:
    """Which staged rows of a group the store holds already.

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

"""What the next run of a sync would bring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from eventferry.errors import ChangeError, InputError
from eventferry.lines.event import Event, Row
from eventferry.lines.seen import Seen
from eventferry.state.syncs import Mode
from eventferry.syncing.source import Following


class SyncPreview(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the next run of a sync would bring.

    Attributes:
        mode: "replica" or "merge".
        is_first: whether nothing has been brought over yet.
        read: new events of the source, up to the first trouble.
        events: how many would come over: of those that were read, changed.
        first: the first of them, without positions and versions, which they get when they are stored.
        types: how many of each type would come over; beyond a thousand types, the rest together under "…".
        first_time: the earliest timestamp, in ms since 1970; None if there are no events.
        last_time: the latest one.
        skipped: rows of another product's table that would be left out, by their kind.
        trouble: the first event that cannot come over, and why; None if all can.
    """

    mode: Mode
    is_first: bool
    read: int
    events: int
    first: list[Event]
    types: dict[str, int]
    first_time: int | None
    last_time: int | None
    skipped: dict[str, int]
    trouble: str | None


async def preview_of(
    following: Following, rows_of: Callable[[bytes], Sequence[Row]], *, mode: Mode, is_first: bool
) -> SyncPreview:
    """Read what is new, up to the first trouble. `rows_of` gives what comes over of lines of the source."""
    read = 0
    seen, skipped = Seen(), Counter[str]()
    trouble: str | None = None
    try:
        while True:
            batch = await following.next(0)
            skipped.update(batch.skipped)
            rows = rows_of(batch.text)
            read += batch.number
            seen.note(rows)
            if following.is_complete:
                break
    except (InputError, ChangeError) as error:
        trouble = str(error)
    return SyncPreview(
        mode=mode, is_first=is_first, read=read, **seen.fields, skipped=dict(skipped), trouble=trouble
    )

"""What the next run of a sync would bring."""

from __future__ import annotations

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
    trouble: str | None


async def preview_of(
    following: Following, rows_of: Callable[[bytes], Sequence[Row]], *, mode: Mode, is_first: bool
) -> SyncPreview:
    """Read what is new, up to the first trouble. `rows_of` gives what comes over of lines of the source."""
    read = 0
    seen = Seen()
    trouble: str | None = None
    try:
        while True:
            lines = await following.next(0)
            rows = rows_of(lines.text)
            read += lines.number
            seen.note(rows)
            if following.is_complete:
                break
    except (InputError, ChangeError) as error:
        trouble = str(error)
    return SyncPreview(mode=mode, is_first=is_first, read=read, **seen.fields, trouble=trouble)

"""What the next run of a sync would bring."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from eventferry.changing.changes import Changes
from eventferry.errors import InputError
from eventferry.lines.event import Event, decode_events
from eventferry.state.syncs import Mode
from eventferry.syncing.source import Following

_SHOWN = 3
"""Events that a preview shows."""

_TYPES = 1_000
"""Types that a preview counts one by one."""


class SyncPreview(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the next run of a sync would bring.

    Attributes:
        mode: "replica" or "merge".
        is_first: whether nothing has been brought over yet.
        read: new events of the source, up to the first trouble.
        events: of these, those that would come over, as they would; with changes there may be more.
        first: the first of them. Their positions and versions in the target are not known.
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
    following: Following, changes: Changes | None, *, mode: Mode, is_first: bool
) -> SyncPreview:
    """Read what is new, up to the first trouble."""
    new = _New(following)
    first: list[Event] = []
    types: Counter[str] = Counter()
    times: list[int] = []
    trouble: str | None = None
    try:
        async with aclosing(new.lines()) as blocks:
            async for lines in blocks:
                events = decode_events(lines if changes is None else changes.change(lines))
                first.extend(events[: _SHOWN - len(first)])
                for event in events:
                    types[event.type if event.type in types or len(types) < _TYPES else "…"] += 1
                if events:
                    times = [min(moments := [*times, *(e.timestamp for e in events)]), max(moments)]
    except InputError as error:
        trouble = str(error)
    return SyncPreview(
        mode=mode,
        is_first=is_first,
        read=new.read,
        events=types.total(),
        first=first,
        types=dict(types.most_common()),
        first_time=times[0] if times else None,
        last_time=times[-1] if times else None,
        trouble=trouble,
    )


class _New:
    """The lines that are new in a source."""

    def __init__(self, following: Following) -> None:
        self._following = following
        self.read = 0

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Whole lines."""
        while True:
            lines = await self._following.next(0)
            self.read += lines.number
            if lines.text:
                yield lines.text
            if self._following.is_complete:
                return

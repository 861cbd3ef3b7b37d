"""Reading what an application needs to decide and to show: the events of one aggregate, and the last of the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from eventferry import cursor as vector
from eventferry.database import EVERYTHING, Database, Filter, HistoryRequest, Reading, ReadScope
from eventferry.lines.damaged import seen_event, seen_events
from eventferry.lines.event import Event, decode_events
from eventferry.reading.bookmarks import Bookmark
from eventferry.reading.loading import PAGE_BYTES
from eventferry.reading.pages import Pages
from eventferry.reading.questions import states_at
from eventferry.results import Page

_PART = 1000  # events that are read at a time
_PART_BYTES = 1024 * 1024


async def of_aggregate(
    database: Database,
    aggregate_id: str,
    from_version: int,
    limit: int | None,
    max_bytes: int,
    *,
    tidied: bool = True,
) -> tuple[list[bytes], int | None]:
    """The lines of an aggregate from a version on, in order of their versions, and the next version; None at the end.
    They end at so many bytes, after at least one. Tidied or not: see `Reading.lines_of`."""
    found: list[bytes] = []
    room = max_bytes

    def part() -> HistoryRequest:
        wanted = _PART if limit is None else min(limit - len(found), _PART)
        # One more, which tells where a next page begins.
        return HistoryRequest(aggregate_id, from_version, wanted + 1, min(room, _PART_BYTES))

    async with database.reading(part()) as reading:
        while True:
            history = part()
            lines, is_end = await reading.lines_of(history, tidied=tidied)
            wanted = history.limit - 1
            found += lines[:wanted]
            room -= sum(map(len, lines))
            if not is_end and len(lines) <= wanted:
                behind = HistoryRequest(aggregate_id, version_of(lines[-1]) + 1, 1, 1)
                lines, is_end = await reading.lines_of(behind)
            if is_end:
                return found, None
            from_version = version_of(lines[-1])
            if len(found) == limit or room <= 0:
                return found, from_version


def version_of(line: bytes) -> int:
    """Which event of its aggregate it is."""
    return seen_event(line).aggregate_version


async def last_events(database: Database, count: int) -> list[Event]:
    """The last events in the order."""
    async with database.reading() as reading:
        return await _last(reading, await reading.heads(), count, EVERYTHING, decode_events)


async def tail(database: Database, count: int, only: Filter) -> Page:
    """The last events that match, damaged ones too, in the order, with the cursor and the bookmark behind the store's
    last event."""
    async with database.reading() as reading:
        heads = await reading.heads()
        events = [] if only.is_empty else await _last(reading, heads, count, only, seen_events)
        bookmark = await Bookmark.at(reading, heads)
    return Page(events, vector.encode(heads), str(bookmark))


async def _last(
    reading: Reading, heads: Sequence[int], count: int, only: Filter, decode: Callable[[bytes], list[Event]]
) -> list[Event]:
    """They are among what comes behind the state of the merge in which all is out that is earlier than the last ones
    by time; where no thread falls, that is hardly more."""
    found, _ = await reading.select(ReadScope(until=heads, only=only), count, PAGE_BYTES, backwards=True)
    if not found:
        return []
    [state] = await states_at(reading, [found[-1][2]], vector.decode(None), heads)
    last: deque[Event] = deque(maxlen=len(found))
    pages = Pages(state, heads, only, decode=decode)
    while not pages.is_end:
        page = await pages.page(reading, len(found), PAGE_BYTES)
        last.extend(page.events)
    return list(last)

"""Walking over a bounded number of events in order, page by page; a cursor says where the next walk goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from eventferry import cursor as vector
from eventferry.changing.selection import Selection
from eventferry.database import Database, Filter
from eventferry.lines.event import Event
from eventferry.reading.exporting import PAGE_BYTES, PAGE_EVENTS
from eventferry.reading.pages import PageLines, Pages


class Scan:
    """One walk. Each page is a transaction of its own.

    Only times and named aggregates are asked of the database. Types and prefixes are judged here, event by event:
    the database would walk over what it leaves out, without a bound.

    Attributes:
        scanned: how many events were looked at.
        is_end: whether the end of the store was reached.
    """

    def __init__(self, database: Database, cursor: str | None, only: Filter, most: int) -> None:
        self._database = database
        self._most = most
        self._selection = Selection.of_filter(only)
        asked = Filter(
            aggregate_ids=only.aggregate_ids if only.names_aggregates else None,
            start_time=only.start_time,
            finish_time=only.finish_time,
        )
        self._asked = asked
        self._pages = Pages(vector.decode(cursor), None, asked)
        self._unread = list(self._pages.unread)
        self._is_nothing = only.is_empty
        self.scanned = 0
        self.is_end = False

    @property
    def cursor(self) -> str:
        """Behind the last event that was looked at."""
        return vector.encode(self._unread)

    async def pages(self) -> AsyncGenerator[PageLines, None]:
        """The pages. Whoever stops within one says so by `stop`."""
        pages = self._pages
        self.is_end = self._is_nothing
        while not self.is_end and self.scanned < self._most:
            async with self._database.reading() as reading:
                lines = await pages.page(reading, min(PAGE_EVENTS, self._most - self.scanned), PAGE_BYTES)
            before = self._unread
            # Behind what was given and no further, so that it can be gone on with other filters.
            self._unread = lines.behind(before) if self._asked.finish_time is not None else list(pages.unread)
            self.scanned += lines.number
            self.is_end = pages.is_end
            self._before = before, lines
            if lines.number:
                yield lines

    def stop(self, number: int) -> None:
        """No more of the present page was looked at than its line of this number, counted from 0."""
        before, lines = self._before
        looked_at = number + 1
        if looked_at == lines.number:
            return
        self._unread = PageLines(b"", lines.threads[:looked_at], lines.counters[:looked_at]).behind(before)
        self.scanned -= lines.number - looked_at
        self.is_end = False

    def takes(self, event: Event) -> bool:
        """Whether the filter lets an event pass."""
        return self._selection.takes(event.type, event.aggregate_id, event.timestamp)

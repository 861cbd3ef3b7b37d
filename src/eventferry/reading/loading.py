"""Loading events into memory: pages by cursor, by bookmark and by time, and the latest event."""

from __future__ import annotations

from collections.abc import Callable

from eventferry import cursor as vector
from eventferry.database import Database, Filter, ReadScope
from eventferry.errors import StoreClosedError
from eventferry.lines.event import Event, decode_event, decode_events
from eventferry.reading.arguments import check_integer
from eventferry.reading.bookmarks import Bookmark
from eventferry.reading.pages import Pages
from eventferry.reading.questions import refuse_ahead
from eventferry.results import Page

PAGE_BYTES = 64 * 1024 * 1024

_REMEMBERED = 16  # for how many readers a store remembers where their last page ended


class EventLoader:
    """Loads one page after another, from a cursor on; created by `EventStore.get_event_loader`."""

    def __init__(self, database: Callable[[], Database], cursor: str | None, only: Filter) -> None:
        self._database = database
        self._only = only
        self._cursor = vector.encode(vector.decode(cursor))
        self._pages: Pages | None = None
        self._closed = False

    @property
    def cursor(self) -> str:
        """The cursor after the loaded events."""
        return self._cursor

    async def load_events(self, limit: int) -> Page:
        """The next events, at most `limit`. An empty page means that there are no more at the moment. A call that was
        cancelled, or has failed, has loaded nothing: the next one begins where it did."""
        if self._closed:
            raise StoreClosedError("this event loader is closed")
        check_integer("limit", limit, 1)
        pages, self._pages = self._pages or _pages(self._cursor, self._only), None
        page = await _next_page(self._database(), pages, limit)
        self._pages, self._cursor = pages, vector.encode(pages.unread)
        return page

    async def close(self) -> None:
        """Close the loader. Calling it again does nothing."""
        self._closed = True


class Readers:
    """The readers of a store object: who reads on from the end of a page need not look for its beginning again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read_up_to: dict[tuple[str | None, Filter], Pages] = {}

    async def page(self, cursor: str | None, only: Filter, limit: int) -> Page:
        """The page at a cursor."""
        pages = self._pages_from(cursor, only)
        page = await _next_page(self._database, pages, limit)
        self._remember(page, only, pages)
        return page

    async def page_since(self, since: str | None, only: Filter, limit: int) -> Page:
        """The page at a bookmark, with the bookmark after it."""
        async with self._database.reading() as reading:
            if since is None:
                bookmark = await Bookmark.at(reading, vector.decode(None))
            else:
                bookmark = await Bookmark.open(reading, since)
            pages = self._pages_from(vector.encode(bookmark.unread), only)
            pages.is_end = pages.is_barred
            found = await pages.page(reading, limit, PAGE_BYTES)
            bookmark = await bookmark.moved(reading, found, pages.unread)
        page = Page(list(found.events), vector.encode(pages.unread), str(bookmark))
        self._remember(page, only, pages)
        return page

    def _pages_from(self, cursor: str | None, only: Filter) -> Pages:
        return self._read_up_to.pop((cursor, only), None) or _pages(cursor, only)

    def _remember(self, page: Page, only: Filter, pages: Pages) -> None:
        self._read_up_to[page.cursor, only] = pages
        if len(self._read_up_to) > _REMEMBERED:
            del self._read_up_to[next(iter(self._read_up_to))]


async def selected(database: Database, only: Filter, limit: int, *, backwards: bool = False) -> list[Event]:
    """The first or the last matching events, in the order of their timestamps."""
    async with database.reading() as reading:
        if only.is_empty:
            return []
        found, _ = await reading.select(ReadScope(only=only), limit, PAGE_BYTES, backwards=backwards)
    return [decode_event(line) for *_, line in found if line is not None]


async def cursor_until(database: Database, cursor: str | None, event_types: tuple[str, ...]) -> str:
    """The cursor before the first event of these types in each thread."""
    unread = vector.decode(cursor)
    async with database.reading() as reading:
        heads = await reading.heads()
        await refuse_ahead(reading, unread, heads)
        matching = ReadScope(unread, only=Filter(event_types=event_types))
        first = {thread: counter for _, thread, counter in await reading.least_counters([], matching)}
    return vector.encode([first.get(thread, head) for thread, head in enumerate(heads)])


def _pages(cursor: str | None, only: Filter) -> Pages:
    return Pages(vector.decode(cursor), None, only, decode=decode_events)


async def _next_page(database: Database, pages: Pages, limit: int) -> Page:
    # What was the end at the last look need not be any more.
    pages.is_end = pages.is_barred
    async with database.reading("state") as reading:
        found = await pages.page(reading, limit, PAGE_BYTES)
    return Page(list(found.events), vector.encode(pages.unread))

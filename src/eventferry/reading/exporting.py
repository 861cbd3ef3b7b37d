"""Export: a store's events as blocks of lines.

An export is a cut: the 256 heads at its start, then pages of events below them, each read in a transaction of
its own. Events don't change and become visible in order of their counters, so what lies below the heads is one
consistent state, however long reading it takes. The next page is read while the one before is on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import TypeAlias

from eventferry import cursor as vector
from eventferry.database import EVERYTHING, Database, Filter, Reading
from eventferry.errors import StoreReplacedError, StoreUnreachableError
from eventferry.lifecycle import aclosing, to_the_end
from eventferry.lines.held_back import HeldBack
from eventferry.operation_log import Operation
from eventferry.reading.ahead import in_turn
from eventferry.reading.bookmarks import Bookmark, counters_of, decode
from eventferry.reading.maintenance import AUTO, MANUAL, MaintenanceMode
from eventferry.reading.pages import NO_LINES, PageLines, Pages
from eventferry.reading.partition import cut as cut_order
from eventferry.reading.questions import refuse_ahead
from eventferry.state import owners

PAGE_EVENTS = 4096
PAGE_BYTES = 768 * 1024

SLICE_EVENTS = 12_000
"""Events of a slice, where several are read at the same time: a few pages, for they wait for their turn in memory."""

MAX_SLICES = 1024

RECONNECTIONS = (0.1, 0.5, 2.0, 5.0)
"""Seconds before each further attempt to read a page: enough for a server to restart."""


_Step: TypeAlias = tuple[PageLines, list[int], bool]
"""A page, how far the order has been read behind it, and whether that is the end."""


class ExportStream:
    """An async iterator of blocks of lines; made by `EventStore.export_events`.

    The last two bytes of a block are held back until the next block or the proper end: an export that dies
    ends inside an event, which no reader takes for an end.

    One that is left (`break`) and forgotten ends by itself.
    """

    def __init__(self, export: Export) -> None:
        self._export = export

    @property
    def cursor(self) -> str:
        """Behind the last event that was given out whole; an export from there goes on."""
        return vector.encode(self._export.unread)

    @property
    def is_end(self) -> bool:
        """Whether the end of the store was reached."""
        return self._export.is_end

    @property
    def is_buffer_overflow(self) -> bool:
        """Whether it ended because of `buffer_size`."""
        return self._export.is_buffer_overflow

    @property
    def exported(self) -> int:
        """How many events have been given out."""
        return self._export.exported

    async def begin(self) -> str:
        """Fix the state that is exported, as asking for the first block does; twice is fine. Returns the cursor behind
        it: where a later export goes on when this one has come to its end."""
        with self._export.life.running():
            _, heads = await self._export.begun()
        return vector.encode(heads)

    async def bookmark(self) -> str:
        """A bookmark behind the last event that was given out whole; an export since then goes on. Raises
        StoreReplacedError where the events have been replaced."""
        with self._export.life.running():
            return await self._export.bookmark_at(self._export.unread)

    async def bookmark_behind(self) -> str:
        """A bookmark behind the state that is exported, for which `begin` gives the cursor."""
        with self._export.life.running():
            _, heads = await self._export.begun()
            return await self._export.bookmark_at(heads)

    def stop(self) -> None:
        """End properly at the next block, or behind the first; `cursor` then says where to go on."""
        self._export.is_stopped = True

    def __aiter__(self) -> ExportStream:
        return self

    async def __anext__(self) -> bytes:
        with self._export.life.running():
            return await anext(self._export.blocks)

    async def aclose(self) -> None:
        """End now, and unfreeze what this export froze; twice is fine."""
        await self._export.end()

    def __del__(self) -> None:
        if hasattr(self, "_export"):
            self._export.life.forget(self._export.end)

    async def __aenter__(self) -> ExportStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Export:
    """What an export does, up to the bookmark or cursor `until`. Its generators hold it, and not the stream: that can
    be forgotten. `cut` is which events are exported, and up to where; None: those that are there when it begins.
    `jobs` slices are read at the same time."""

    def __init__(
        self,
        database: Database,
        cursor: str | None = None,
        maintenance_mode: MaintenanceMode = MANUAL,
        buffer_size: int | None = None,
        limit: int | None = None,
        only: Filter = EVERYTHING,
        cut: tuple[str, list[int]] | None = None,
        jobs: int = 1,
        since: str | None = None,
        until: str | None = None,
    ) -> None:
        self._database = database
        self._mode = maintenance_mode
        self._room = buffer_size
        self._limit = limit
        self._only = only
        self._owner: str | None = None
        self._cut = cut
        self._since = since
        self._until = None if until is None else counters_of(until)
        self._operation = Operation("export", database)
        # The next page of an export with a limit depends on what came before it.
        self._jobs = jobs if limit is None else 1
        self.life = database.life
        self.unread = vector.decode(cursor) if since is None else list(decode(since).unread)
        self.blocks = self._read()
        self._leaving = asyncio.Lock()
        self.is_stopped = False
        self.is_end = False
        self.is_buffer_overflow = False
        self.exported = 0

    async def end(self, error: BaseException | None = None) -> None:
        """End now, and unfreeze what this export froze; twice is fine."""
        if not self.life.is_inherited:
            await to_the_end(self._leave())

    async def _leave(self) -> None:
        async with self._leaving:  # its user and its store may both end it
            try:
                await self.blocks.aclose()
            finally:
                self.life.remove(self.end)
                await self._thaw()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        self._operation.begin()
        try:
            held = HeldBack()
            first = after = list(self.unread)
            is_end = False
            async with aclosing(self._pages()) as pages:
                async for found, unread, is_last in pages:
                    is_end = is_last
                    lines = self._within_room(found)
                    # With a last time the cursor stays at the events given out, not behind later ones that were
                    # only passed by: whoever goes on from it without the filter must get those.
                    lags = self.is_buffer_overflow or self._only.finish_time is not None
                    after = lines.behind(after) if lags else unread
                    if lines.number:
                        out = held.all_but_the_end(lines.text)
                        # The last event is not out before its last two bytes are.
                        thread, counter = lines.threads[-1], lines.counters[-1]
                        self.unread = [*after[:thread], counter, *after[thread + 1 :]]
                        self.exported += lines.number
                        # Whoever takes the block may take long: only that is held meanwhile.
                        del found, lines
                        yield out
                        del out
                    if self.is_buffer_overflow or (self.is_stopped and after != first):
                        break
            self.unread = after
            if held.rest:
                yield held.rest
            self.is_end = is_end and not self.is_buffer_overflow
            await self._thaw()
            self._operation.end(
                "stopped" if self.is_stopped and not self.is_end else "done", events=self.exported
            )
        except BaseException as error:
            self._operation.fail(error, events=self.exported)
            raise
        finally:
            self.life.remove(self.end)
            await self._thaw()

    async def _pages(self) -> AsyncGenerator[_Step, None]:
        """Page after page, of one slice or of several that are read at the same time."""
        identity, heads = await self.begun()
        if self._limit == 0:
            return
        bounds = await self._bounds(heads) if self._jobs > 1 and self._only.is_open else []
        states = bounds or [self.unread, heads]
        slices = (
            self._slice(identity, since, until, is_last=until is states[-1])
            for since, until in pairwise(states)
        )
        # Nothing is read ahead that `buffer_size` may have no room for.
        is_ahead = self._room is None or self._jobs > 1
        async with aclosing(in_turn(slices, self._jobs) if is_ahead else next(slices)) as pages:
            async for page in pages:
                yield page
                del page

    async def _bounds(self, heads: list[int]) -> list[Sequence[int]]:
        """Between which states of the order the slices lie that are read at the same time."""
        count = sum(max(head - counter, 0) for head, counter in zip(heads, self.unread, strict=True))
        async with self._database.reading() as reading:
            return await cut_order(reading, min(-(-count // SLICE_EVENTS), MAX_SLICES), self.unread, heads)

    async def _slice(
        self, identity: str, since: Sequence[int], until: Sequence[int], *, is_last: bool
    ) -> AsyncGenerator[_Step, None]:
        # Each of several slices is read while others are checked, without more.
        is_alone = self._jobs == 1 and self._limit is None and self._room is None and self._only.is_open
        pages = Pages(since, until, self._only, partial(self._reading, identity) if is_alone else None)
        read = 0
        try:
            while True:
                lines = NO_LINES if pages.is_end else await self._page(pages, identity, self._rest(read))
                read += lines.number
                is_done = pages.is_end or not self._rest(read)
                step = lines, list(pages.unread), is_last and pages.is_end
                del lines
                yield step
                del step
                if is_done:
                    return
        finally:
            await pages.close()

    async def _page(self, pages: Pages, identity: str, limit: int) -> PageLines:
        """The next page. Where the connection broke it is read again: that changes nothing and doubles nothing."""
        unread = list(pages.unread)
        pauses = iter(RECONNECTIONS)
        while True:
            try:
                if (lines := await pages.ready()) is not None:
                    return lines
                async with self._reading(identity) as reading:
                    return await pages.page(reading, limit, PAGE_BYTES)
            except StoreUnreachableError:
                pause = next(pauses, None)
                if pause is None:
                    raise
                await asyncio.sleep(pause)
                await pages.begin_again(unread)

    async def bookmark_at(self, unread: Sequence[int]) -> str:
        """The bookmark at these counters, of the events that are exported."""
        identity, _ = self._cut or await self.begun()
        async with self._reading(identity) as reading:
            return str(await Bookmark.at(reading, unread))

    @asynccontextmanager
    async def _reading(self, identity: str) -> AsyncIterator[Reading]:
        async with self._database.reading() as reading:
            if (await reading.state()).identity != identity:
                raise StoreReplacedError("the events were replaced while they were being exported")
            yield reading

    def _rest(self, read: int) -> int:
        return PAGE_EVENTS if self._limit is None else min(PAGE_EVENTS, self._limit - read)

    async def begun(self) -> tuple[str, list[int]]:
        """Whose events are exported, and up to where."""
        self.life.add(self.end)
        if self._cut is None:
            try:
                if self._mode is AUTO:
                    await self._freeze()
                async with self._database.reading() as reading:
                    heads = await reading.heads()
                    if self._since is None:
                        await refuse_ahead(reading, self.unread, heads)
                    else:
                        await Bookmark.open(reading, self._since)
                    if self._until is not None:
                        await refuse_ahead(reading, self._until, heads)
                        heads = self._until
                    self._cut = (await reading.state()).identity, heads
            except BaseException:
                await self._thaw()
                raise
        return self._cut

    def _within_room(self, lines: PageLines) -> PageLines:
        """The events that `buffer_size` has room for, but the first of all in any case."""
        if self._room is None or len(lines.text) <= self._room:
            self._room = None if self._room is None else self._room - len(lines.text)
            return lines
        count = end = 0
        for line in lines.text.split(b"\n")[:-1]:
            size = len(line) + 1
            if size > self._room and (count or self.exported):
                self.is_buffer_overflow = True
                break
            self._room -= size
            end += size
            count += 1
        return PageLines(lines.text[:end], lines.threads[:count], lines.counters[:count])

    async def _freeze(self) -> None:
        """Freeze for the duration, unless somebody has frozen the store already: then it stays theirs."""
        self._owner = await self._database.own()
        if not await owners.freeze_by_operation(self._database, self._owner):
            owner, self._owner = self._owner, None
            await to_the_end(self._database.release(owner))

    async def _thaw(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            await to_the_end(owners.leave(self._database, owner))

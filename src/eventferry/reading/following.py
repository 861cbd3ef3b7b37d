"""Following: pages of a store for ever, each event once, by asking again and again whether there is more.

It polls. A trigger or NOTIFY would need a change of the store's schema, and other writers (reSolve's) do not notify.
What it asks is what a store counts anyway, so polling while idle costs one small query.

Each look is one read transaction: is the history still the one that was read, and what comes next? No connection is
held between looks. A look that fails or is cancelled changes nothing, and the next one begins where it did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from eventferry import cursor as vector
from eventferry.database import Database, Filter, Reading, State
from eventferry.errors import StoreReplacedError, StoreUnreachableError
from eventferry.lines.event import Event
from eventferry.reading.bookmarks import Bookmark
from eventferry.reading.exporting import PAGE_BYTES, RECONNECTIONS
from eventferry.reading.pages import NO_LINES, PageLines, Pages
from eventferry.results import Page

NOW = "now"  # follow from the current end of the store
BUSY_PAUSE = 0.02
IDLE_PAUSE = 0.5  # seconds between two looks: at first, and when nothing has come for a while
_CHECK_AFTER = 1.0
"""Seconds after which the history is checked even though the store's state looks the same: a backup that was restored
and has grown by as many events as were lost has the same counts."""

_EVERY_THREAD = range(vector.THREADS)

Found = TypeVar("Found", bound="LookResult")


class LookResult(Protocol):
    """What a look has found."""

    @property
    def number(self) -> int:
        """How many events."""


class Polling(Generic[Found]):
    """Looks again and again: soon while events come, and seldom when none have come for a while.

    Args:
        look: one look.
        is_caught_up: whether the last look has seen the end, so that the next one can wait.
    """

    def __init__(self, look: Callable[[], Awaitable[Found]], is_caught_up: Callable[[], bool]) -> None:
        self._look = look
        self._is_caught_up = is_caught_up
        self._pause = BUSY_PAUSE

    async def next(self, idle: float | None) -> Found | None:
        """What comes next, as soon as there is something, or None after `idle` seconds; None waits for ever."""
        clock = asyncio.get_running_loop().time
        deadline = None if idle is None else clock() + idle
        while not (found := await self._looked()).number:
            left = None if deadline is None else deadline - clock()
            if left is not None and left <= 0:
                return None
            if self._is_caught_up():
                await asyncio.sleep(self._pause if left is None else min(self._pause, left))
                self._pause = min(2 * self._pause, IDLE_PAUSE)
        self._pause = BUSY_PAUSE
        return found

    async def _looked(self) -> Found:
        """One look, or more where the server restarts meanwhile."""
        pauses = iter(RECONNECTIONS)
        while True:
            try:
                return await self._look()
            except StoreUnreachableError:
                pause = next(pauses, None)
                if pause is None:
                    raise
                await asyncio.sleep(pause)


class Follower:
    """Follows a store from `since` on (a bookmark; `NOW`; None for the start), in lines; for whoever passes them on.
    `decode` makes events of them.

    `bookmark` is behind the last page, and None before the first look; `is_caught_up` says whether the last look has
    seen the end of the store.
    """

    def __init__(
        self,
        database: Database,
        since: str | None,
        only: Filter,
        limit: int,
        decode: Callable[[bytes], list[Event]] | None = None,
    ) -> None:
        self.bookmark: Bookmark | None = None
        self.is_caught_up = False
        self._turn = asyncio.Lock()
        self._database = database
        self._since = since
        self._only = only
        self._limit = limit
        self._decode = decode
        self._polling = Polling(self._look, lambda: self.is_caught_up)
        self._pages: Pages | None = None
        self._state: State | None = None
        self._checked = 0.0
        self._witnesses: Collection[int] = _EVERY_THREAD

    async def begin(self) -> Bookmark:
        """Find where to begin, as the first look does. Calling it again is fine. Raises as `Bookmark.open`."""
        if self.bookmark is None:
            with self._database.life.running():
                async with self._database.reading() as reading:
                    bookmark, state = await self._begun(reading)
            self.bookmark, self._state = bookmark, state
        return self.bookmark

    async def next(self, idle: float | None) -> PageLines:
        """The next page, as soon as there is one, or none after `idle` seconds; None waits for ever.

        Raises CursorAheadError or StoreReplacedError where what was read is no longer the store's history.
        """
        # Two steps at the same time must not begin at the same event.
        with self._database.life.running():
            async with self._turn:
                return await self._polling.next(idle) or NO_LINES

    async def _look(self) -> PageLines:
        before = await self.begin()
        pages, self._pages = self._pages, None
        async with self._database.reading() as reading:
            state = await reading.state()
            is_same = state == self._state
            await self._check(reading, before, state)
            if is_same and self.is_caught_up:
                lines, after = NO_LINES, before
            else:
                pages = pages or Pages(before.unread, None, self._only, decode=self._decode)
                pages.is_end = pages.is_barred
                lines = await pages.page(reading, self._limit, PAGE_BYTES)
                after = await before.moved(reading, lines, pages.unread)
        # From here on nothing waits, so a cancelled look has changed nothing.
        if pages is not None and after is not before:
            is_in_step = self.is_caught_up and pages.is_end
            self.is_caught_up = pages.is_end
            # Where nothing that is wanted has come, the last event that was read is among those of before.
            moved = _moved(before.unread, after.unread) or self._witnesses
            self._witnesses = moved if is_in_step else _EVERY_THREAD
        self._pages, self._state, self.bookmark = pages, state, after
        return lines

    async def _check(self, reading: Reading, bookmark: Bookmark, state: State) -> None:
        """Whether what was read is still the store's history.

        Whoever has read all that there was at two looks has to check only the threads that moved between them: a
        restore takes away the events that were committed last, and of those that were read the last is among these.
        """
        if self._state is not None and state.identity != self._state.identity:
            raise StoreReplacedError("the events were replaced while they were being followed")
        now = asyncio.get_running_loop().time()
        if state != self._state or now >= self._checked + _CHECK_AFTER:
            await bookmark.check(reading, self._witnesses)
            self._checked = now

    async def _begun(self, reading: Reading) -> tuple[Bookmark, State]:
        state = await reading.state()
        if self._since is None:
            return await Bookmark.at(reading, [0] * vector.THREADS), state
        if self._since == NOW:
            return await Bookmark.at(reading, await reading.heads()), state
        return await Bookmark.open(reading, self._since), state


def _moved(before: Sequence[int], after: Sequence[int]) -> list[int]:
    return [thread for thread in _EVERY_THREAD if before[thread] != after[thread]]


class FollowStream:
    """An endless async iterator of pages; made by `EventStore.follow`.

    It can be left at any time, also by a timeout around a step: the next step goes on where the last page ended.
    """

    def __init__(self, follower: Follower, idle: float | None) -> None:
        self._follower = follower
        self._idle = idle

    @property
    def bookmark(self) -> str | None:
        """The bookmark behind the last page; None before the first."""
        return None if self._follower.bookmark is None else str(self._follower.bookmark)

    def __aiter__(self) -> FollowStream:
        return self

    async def __anext__(self) -> Page:
        lines = await self._follower.next(self._idle)
        bookmark = await self._follower.begin()
        return Page(list(lines.events), vector.encode(bookmark.unread), str(bookmark))

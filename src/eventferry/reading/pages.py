"""Pages of the order, one after another: stretches that have passed the checks, or what the merge gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain, compress, repeat
from typing import NamedTuple

from eventferry.database import EVERYTHING, FIRST, Filter, Key, Reading, ReadScope, State, Stretch
from eventferry.lifecycle import end_tasks
from eventferry.lines.event import Event
from eventferry.lines.marker import archived_among
from eventferry.reading import order
from eventferry.reading.aggregates import AggregateLookup
from eventferry.reading.merge import Merge
from eventferry.reading.questions import next_keys, refuse_ahead, states_at
from eventferry.reading.stretches import DEPTH, OpenReading, Stretches, stretch_of

_PIECE = 128 * 1024  # bytes of lines that are made compact in one go
MANY = 64
"""Threads of a page to look for the next events in; of more, they mostly are among the events that sort next, which
the next page takes anyhow."""

_KEPT_BYTES = 1024 * 1024  # bytes of lines that are kept for the next page at most, about
_LONG_AGO = FIRST.timestamp


class PageLines(NamedTuple):
    """The lines of a page, where their events are, and for those who want them the events themselves."""

    text: bytes
    threads: Sequence[int] = ()
    counters: Sequence[int] = ()
    events: Sequence[Event] = ()

    @property
    def number(self) -> int:
        """How many lines there are."""
        return len(self.threads)

    def behind(self, unread: Sequence[int]) -> list[int]:
        """The counters behind the page."""
        after = list(unread)
        for thread, counter in zip(self.threads, self.counters, strict=True):
            after[thread] = counter + 1
        return after


NO_LINES = PageLines(b"")


class Pages:
    """Reads the order page by page; after each page `unread` says how far it has come.

    Args:
        unread: 256 next counters to begin at.
        until: 256 next counters to end before, or None for no end.
        only: which events to give.
        ahead: opens a reading for what sorts behind a page, which is then read while the page is checked. A page may
            be smaller then than asked for. Only where there is an end and no filter; `close` at the end.
        decode: makes events of lines, which stay as the database prints JSON.
    """

    def __init__(
        self,
        unread: Sequence[int],
        until: Sequence[int] | None = None,
        only: Filter = EVERYTHING,
        ahead: OpenReading | None = None,
        *,
        decode: Callable[[bytes], list[Event]] | None = None,
    ) -> None:
        self._until = until
        self._decode, self._only, self._open_reading = decode, only, ahead
        self._begin(unread)

    def _begin(self, unread: Sequence[int]) -> None:
        self.unread = list(unread)
        self.is_end = self._only.is_empty
        self._source = Stretches(ReadScope(only=self._only), self._open_reading)
        self._start = self._only.start_time
        # Nothing unread sorts before the bound, but for what lies behind a higher event of its own thread.
        self._bound: Key | None = FIRST if not any(unread) and self._start is None else None
        self._state: State | None = None
        self._is_still = True
        self._aggregates = AggregateLookup()
        if (thread := order.only_thread(unread, self._until)) is not None and self._start is None:
            self._go_by_counter(thread)

    async def begin_again(self, unread: Sequence[int]) -> None:
        """Go back to where these counters are the next."""
        await self.close()
        self._begin(unread)

    async def close(self) -> None:
        """Read nothing ahead any more; twice is fine."""
        await self._source.close()

    @property
    def is_barred(self) -> bool:
        """Whether no event can ever come."""
        return self._only.is_empty

    async def ready(self) -> PageLines | None:
        """The next page, where what has been read ahead is enough to tell that it comes next. Not inside a reading."""
        source = self._source
        if not source.is_ahead or not await source.reach(1) or self._bound is None:
            return None
        stretch = source.first
        if stretch is None or not source.begins_at(self._bound):
            return None
        after = self._behind(stretch)
        if after is None:
            return None
        count = 1
        while self._may_hide(stretch, after):
            count += 1
            if count > DEPTH or not await source.reach(count):
                return None
        self._go_behind(stretch, after)
        return await self._lines_of(stretch)

    async def page(self, reading: Reading, limit: int, max_bytes: int) -> PageLines:
        """The next events that the filter lets pass: `limit` of them, or fewer where about `max_bytes` of lines are
        reached (at least one). Fewer than that at the end, and then `is_end` is true, and where the next ones are
        read ahead already.
        """
        found: list[PageLines] = []
        count = size = 0
        is_failed = True
        try:
            if self._until is None and not self._only.names_aggregates:
                await self._look_for_growth(reading, limit)
            elif self._until is None and any(self.unread):
                await refuse_ahead(reading, self.unread)
            while not self.is_end and count < limit and (size < max_bytes // 2 or not count):
                lines = await self._next(reading, limit - count, max_bytes - size)
                found.append(lines)
                count += lines.number
                size += len(lines.text)
                if self._source.is_ahead:
                    break
            is_failed = False
        finally:
            await self._source.settle(is_failed=is_failed)
        if len(found) == 1:
            return found[0]
        texts, *columns = zip(*found, strict=True) if found else ((), (), (), ())
        return PageLines(b"".join(texts), *(list(chain.from_iterable(column)) for column in columns))

    async def _look_for_growth(self, reading: Reading, limit: int) -> None:
        """Nothing holds the store still from page to page: what was saved meanwhile may sort anywhere. Where it mostly
        has not grown, what is needed then is asked for in the same breath, and the database is at it while what was
        kept is made into events. Where it has since the page before, it grows on, and nothing is kept."""
        looking = asyncio.ensure_future(reading.state())
        self._source.begin_to_look(reading, limit, _KEPT_BYTES)
        state = await looking
        if any(self.unread) and (self._state is None or state.growth < self._state.growth):
            await refuse_ahead(reading, self.unread)
        self._is_still = state == self._state or not any(self.unread)
        if not self._is_still:
            self._go_by_key()
        self._state = state

    async def _next(self, reading: Reading, limit: int, max_bytes: int) -> PageLines:
        if self._only.names_aggregates:
            lines = await self._from_aggregates(reading, limit, max_bytes)
            if lines is not None:
                return lines
        left = order.left_of(self.unread, self._until)
        if not left or (self._bound is None and not await self._find_bound(reading)):
            self.is_end = True
            return NO_LINES
        # Asked for no more than can come, the database does not look for more to the end of the store.
        lines = await self._from_stretch(reading, min(limit, left), max_bytes)
        return lines if lines is not None else await self._merged(reading, limit, max_bytes)

    async def _from_stretch(self, reading: Reading, limit: int, max_bytes: int) -> PageLines | None:
        """The stretch behind the bound, if it passes the checks."""
        bound = self._bound or FIRST
        left = order.left_of(self.unread, self._until)
        # Mostly all that lies behind the bound is unread. To see afterwards whether it is costs less than to ask.
        stretch = await self._source.peek(reading, bound, limit, max_bytes, left)
        after = self._behind(stretch)
        if after is None:
            if not order.are_unread(stretch, self.unread, self._until):
                self._source.give_up()
                stretch = await stretch_of(reading, bound, self._selection, limit, max_bytes)
            after = list(self.unread)
            # Every unread event was walked over, so a counter that was passed by must be a gap, whatever its time.
            places = zip(stretch.threads, stretch.counters, repeat(_LONG_AGO))
            passed = order.passed_by(places, after)
            if passed is None or (passed and await reading.any_later(passed)):
                return None
        looking = asyncio.ensure_future(self._hides(reading, stretch, after, limit))
        try:
            await asyncio.sleep(0)  # the question is on its way
            lines = await self._lines_of(stretch)
            hides = await looking
        except BaseException:
            await end_tasks(looking)
            raise
        if hides:
            return None
        self._go_behind(stretch, after)
        finish = self._only.finish_time
        if finish is not None and stretch.threads and stretch.last > finish:
            self.is_end = self.is_end or not await self._finish_time_is_ahead(reading)
        return lines

    @property
    def _selection(self) -> ReadScope:
        return ReadScope(self.unread, self._until, self._only)

    def _behind(self, stretch: Stretch) -> list[int] | None:
        """The counters behind a stretch that needs no more looks at what it passes by; None where it does."""
        thread = self._source.scope.thread
        if thread is None:
            return order.behind(stretch, self.unread, self._until)
        after = list(self.unread)
        if stretch.counters:
            after[thread] = stretch.counters[-1] + 1
        return after

    def _may_hide(self, stretch: Stretch, after: Sequence[int]) -> set[int]:
        if self._source.scope.thread is not None:
            return set()
        return order.may_hide(stretch, after, self._until, self._source.behind)

    async def _hides(self, reading: Reading, stretch: Stretch, after: Sequence[int], limit: int) -> bool:
        """Whether what comes next in a thread of a stretch sorts before the bound, where no page would see it."""
        threads = self._may_hide(stretch, after)
        is_worth_it = self._is_still and self._only.is_open and stretch is self._source.first
        if len(threads) >= MANY and is_worth_it and not self._source.is_ahead:
            await self._source.look(reading, limit, _KEPT_BYTES)
            threads = self._may_hide(stretch, after)
            self._source.forget_large(2 * _KEPT_BYTES)
        bound = self._bound
        if bound is None or bound == FIRST or not threads:
            return False
        return any(key < bound for key in await next_keys(reading, after, self._until, threads))

    def _go_behind(self, stretch: Stretch, after: list[int]) -> None:
        """Read on from behind a stretch, which has been found to come next."""
        self.unread = after
        self.is_end = stretch.is_end or not order.left_of(after, self._until)
        if stretch is self._source.first:
            self._source.take()
        if stretch.threads:
            self._bound = stretch.behind

    def _go_by_key(self) -> None:
        """Read on in order of keys, from a bound that is to be found."""
        self._bound = None
        self._source.turn_to(ReadScope(only=self._only), None)

    def _go_by_counter(self, thread: int) -> None:
        """Read on in order of counters: whatever is unread is in one thread, and needs no check."""
        self._bound = Key(_LONG_AGO, self.unread[thread], thread)
        self._source.turn_to(ReadScope(until=self._until, only=self._only, thread=thread), self._open_reading)

    async def _find_bound(self, reading: Reading) -> bool:
        """Find the least key that any thread still owes; False if there is none. At first, go on to where the merge
        first comes to an event of the filter's first time, or a later one: what is out before that is earlier, so no
        event of it is asked for."""
        keys = await next_keys(reading, self.unread, self._until)
        start, self._start = self._start, None
        if keys and start is not None and min(keys).timestamp < start:
            until = await reading.heads() if self._until is None else self._until
            [state] = await states_at(reading, [start], self.unread, until)
            self.unread = list(state)
            keys = await next_keys(reading, self.unread, self._until)
        if len(keys) == 1:
            self._go_by_counter(keys[0].thread_id)
        elif keys:
            self._bound = min(keys)
        return bool(keys)

    async def _finish_time_is_ahead(self, reading: Reading) -> bool:
        """Whether, past the last time asked for, there are unread events of an earlier time: behind a higher event of
        their own thread. Without this look every export of an early day would walk to the end of the store."""
        start, finish = self._only.start_time, self._only.finish_time
        first = Key(_LONG_AGO if start is None else start, -1, -1)
        rest = await stretch_of(reading, first, ReadScope(self.unread, self._until), 1, 1)
        ahead = bool(rest.threads) and finish is not None and rest.last <= finish
        if ahead and self._source.scope.thread is None:
            self._bound = None
        return ahead

    async def _from_aggregates(self, reading: Reading, limit: int, max_bytes: int) -> PageLines | None:
        """A page found by the index on aggregateId; None where timestamps go backwards and the page must be merged.
        `unread` moves behind the events found, and no further: the index passes over the others again, at no cost."""
        positions, is_end = await self._aggregates.page(reading, self._selection, limit, max_bytes)
        after = list(self.unread)
        # Events of other aggregates were passed by; only one with a later time would move an event found.
        passed = order.passed_by([position[:3] for position in positions], after)
        if passed is None or (passed and await reading.any_later(passed)):
            self._aggregates.forget()
            self._go_by_key()
            return None
        self.unread, self.is_end = after, is_end
        self._go_by_key()
        threads, counters, _, lines = zip(*positions, strict=True) if positions else ((), (), (), ())
        return self._lines(b"".join(filter(None, lines)), threads, counters)

    async def _merged(self, reading: Reading, limit: int, max_bytes: int) -> PageLines:
        merge = Merge(reading, self.unread, self._until, self._only, limit)
        if (thread := await merge.begin()) is not None:
            self._go_by_counter(thread)
            return await self._next(reading, limit, max_bytes)
        self._bound = None
        merged = await merge.take(limit)
        self.is_end = not merged
        wanted = [(key.thread_id, key.thread_counter) for key, passes in merged if passes]
        lines = await reading.lines_at(wanted, max_bytes)
        left = len(lines)
        for key, passes in merged:
            if passes and not left:
                break  # the rest did not fit
            left -= passes
            self.unread[key.thread_id] = key.thread_counter + 1
        threads, counters = zip(*wanted[: len(lines)], strict=True) if lines else ((), ())
        return self._lines(b"".join(lines), threads, counters)

    async def _lines_of(self, stretch: Stretch) -> PageLines:
        threads, counters = stretch.threads, stretch.counters
        if stretch.passing is not None:
            threads = list(compress(threads, stretch.passing))
            counters = list(compress(counters, stretch.passing))
        text = stretch.printed if self._decode is not None else await tidied(stretch)
        return self._lines(text, threads, counters)

    def _lines(self, text: bytes, threads: Sequence[int], counters: Sequence[int]) -> PageLines:
        if self._only.skips_archived:
            text, threads, counters = _without_archived(text, threads, counters)
        return PageLines(text, threads, counters, () if self._decode is None else self._decode(text))


def _without_archived(
    text: bytes, threads: Sequence[int], counters: Sequence[int]
) -> tuple[bytes, Sequence[int], Sequence[int]]:
    """The lines of the events whose payloads are not in an archive, and where these are."""
    archived = archived_among(text)
    if archived is None or len(archived) != len(threads):  # a foreign writer left line feeds inside lines
        return text, threads, counters
    lines = text.split(b"\n")[:-1]
    left = [number for number, is_archived in enumerate(archived) if not is_archived]
    kept = b"".join(lines[number] + b"\n" for number in left)
    return kept, [threads[number] for number in left], [counters[number] for number in left]


async def tidied(stretch: Stretch) -> bytes:
    """The lines of a stretch as an export gives them; between some of them the database can be answered."""
    if stretch.tidied is bytes:
        return stretch.printed
    pieces: list[bytes] = []
    start = 0
    while start < len(stretch.printed):
        end = stretch.printed.find(b"\n", start + _PIECE) + 1 or len(stretch.printed)
        pieces.append(stretch.tidied(stretch.printed[start:end]))
        start = end
        await asyncio.sleep(0)
    return b"".join(pieces)

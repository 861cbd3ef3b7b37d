"""The order of events, and pages of it.

The order is the merge of the 256 threads: always the least (timestamp, threadCounter, threadId) among the
threads' next events. Where timestamps within a thread never fall that is the sort by this key, which a
database gives from an index; where they fall (a future-dated save, a clock set back) the sort would take
events of a thread before earlier ones, and a cursor behind them would lose those. So a page is read in the
sort's order, then checked, and merged properly only where the check fails. Why the check is enough:
docs/order.md.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

from eventferry import cursor as vector
from eventferry.database import (
    EVERYTHING,
    Filter,
    Key,
    Position,
    Reading,
    Segment,
    Selection,
    State,
    Stretch,
)
from eventferry.errors import UsageError
from eventferry.lifecycle import to_the_end
from eventferry.lines.event import Event
from eventferry.reading.ahead import DEPTH, Ahead, Reader

_EVERY_THREAD = range(vector.THREADS)
_THREADS = frozenset(_EVERY_THREAD)
WALK = 4096
"""How many events that a filter leaves out one merge walks over at most."""

_PIECE = 128 * 1024
"""Bytes of lines that are made compact in one go."""

_PLACES = 20_000
"""Of how many events of aggregates, at most, it is looked up at once where they are."""

MANY = 64
"""Threads of a page to look for the next events in; of more, they mostly are among the events that sort next, which
the next page takes anyhow."""

_KEPT_BYTES = 1024 * 1024
"""Bytes of lines that are kept for the next page at most, about."""

_LONG_AGO = -(2**63)
_OPEN_END = [2**63] * vector.THREADS


def thread_of(aggregate_id: str) -> int:
    """The thread that a save of this aggregate prefers: the same one always, so that its versions keep order."""
    return zlib.crc32(aggregate_id.encode()) % vector.THREADS


UNNAMED = b"\xff"
"""The sort key of pushes without a name: behind all named parts, among themselves as they were committed."""


def part_key(part: str | None) -> bytes:
    """The sort key of a part of an incremental import: whole numbers by their value, then other names by their
    bytes, then what has no name. A part is often called as its file is: bytes of that name that are not UTF-8 are
    lone surrogates in Python (`os.fsdecode`), and the same bytes here.
    """
    if part is None:
        return UNNAMED
    if not isinstance(part, str) or not part:
        raise UsageError(f"the name of a part is a string that is not empty, not {part!r}")
    if part.isascii() and part.isdigit():
        digits = part.lstrip("0")
        return b"\x00%08d" % len(digits) + digits.encode() + b"\x00" + part.encode()
    try:
        name = part.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        name = b""
    if name.decode(errors="surrogateescape") != part:
        raise UsageError("the name of a part holds a lone surrogate, which is no character")
    return b"\x01" + name


class Lines(NamedTuple):
    """The lines of a page, how many they are, and for who wants those, their events."""

    text: bytes
    number: int
    events: Sequence[Event] = ()


async def stretch_of(
    reading: Reading, bound: Key | None, selection: Selection, limit: int, max_bytes: int
) -> Stretch:
    """The next stretch, alone."""
    found: list[Stretch] = []
    await reading.read_on(bound, selection, limit, max_bytes, 1, found.append)
    return found[0]


async def next_keys(
    reading: Reading,
    unread: Sequence[int],
    until: Sequence[int] | None,
    threads: Iterable[int] = _EVERY_THREAD,
) -> list[Key]:
    """The key of the next unread event of each of these threads that has one."""
    starts = {thread: unread[thread] for thread in threads}
    return [key for key, _ in await reading.in_threads(starts, until, EVERYTHING, 1)]


async def states_at(
    reading: Reading, times: Sequence[int], since: Sequence[int], until: Sequence[int]
) -> list[list[int]]:
    """For each of these times, which rise: the state of the merge of the unread events when all is out that comes
    before any event of that time or a later one. Each thread then stands at its first such event.
    """
    if not times:
        return []
    state = [max(counters) for counters in zip(since, until, strict=True)]
    states: list[list[int]] = []
    # From the last time on: what is least behind a time is the least of all stretches from there on.
    found = sorted(await reading.least_counters(times, Selection(since, until)), reverse=True)
    at = 0
    for stretch in reversed(range(len(times))):
        while at < len(found) and found[at][0] == stretch:
            _, thread, counter = found[at]
            if 0 <= thread < vector.THREADS:  # a foreign table may hold an event in what is no thread
                state[thread] = min(state[thread], counter)
            at += 1
        states.append(list(state))
    return states[::-1]


async def _tidied(stretch: Stretch) -> bytes:
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


async def _over(future: asyncio.Future[Any]) -> None:
    """Wait until nothing is under way for it any more."""
    await asyncio.gather(future, return_exceptions=True)


async def _close(given_up: Iterable[Ahead]) -> None:
    for each in given_up:
        await each.close()


class Pages:
    """Reads the order page by page; after each page `unread` says how far it has come.

    Args:
        unread: 256 next counters to begin at.
        until: 256 next counters to end before, or None for no end.
        only: which events to give. A filter comes after the order: it changes no event's place.
        ahead: opens a reading for what sorts behind a page, which is then read while the page is checked. A page may
            be smaller then than asked for. Only where there is an end and no filter; `close` when no more pages are
            wanted.
        decode: makes events of lines. They are decoded while the database is asked whether they come next, and stay as
            it prints JSON, which is enough for that.
    """

    def __init__(
        self,
        unread: Sequence[int],
        until: Sequence[int] | None = None,
        only: Filter = EVERYTHING,
        ahead: Reader | None = None,
        *,
        decode: Callable[[bytes], list[Event]] | None = None,
    ) -> None:
        self._until = until
        self._decode = decode
        self._state: State | None = None
        self._places_of: State | None = None
        self._may_have_grown = False
        self._is_still = True
        self._only = only
        self._reader = ahead
        self._ahead: Ahead | None = None
        self._given_up: list[Ahead] = []
        self._begin(unread)

    def _begin(self, unread: Sequence[int]) -> None:
        self.unread = list(unread)
        self.is_end = self._only.is_empty
        self._kept: tuple[Key, Stretch] | None = None
        self._following: tuple[Key, asyncio.Future[Stretch]] | None = None
        # Nothing unread sorts before the bound, but for what lies behind a higher event of its own thread.
        self._bound: Key | None = None
        self._bound_known = not any(self.unread) and self._only.start_time is None
        self._may_be_early = self._only.start_time is not None
        self._places: deque[Key] | None = None
        self._places_are_all = False

    async def begin_again(self, unread: Sequence[int]) -> None:
        """Go back to where these counters are the next."""
        await self.close()
        self._begin(unread)

    async def close(self) -> None:
        """Read nothing ahead any more; twice is fine."""
        self._give_up()
        given_up, self._given_up = self._given_up, []
        if given_up:
            await to_the_end(_close(given_up))

    def _give_up(self) -> None:
        """Want nothing of what is read ahead. In a reading nobody waits for that to end: it may need the reading's
        connection for it."""
        if self._ahead is not None:
            self._ahead.stop()
            self._given_up.append(self._ahead)
            self._ahead = None

    @property
    def is_barred(self) -> bool:
        """Whether no event can ever come."""
        return self._only.is_empty

    async def ready(self) -> Lines | None:
        """The next page, where what has been read ahead is enough to tell that it comes next. Not inside a reading."""
        ahead = self._ahead
        if ahead is None or not await ahead.reach(1) or ahead.bound != self._bound:
            return None
        stretch = ahead.hand[0]
        after = self._behind(stretch)
        if after is None:
            return None
        count = 1
        while self._may_hide(stretch, after):
            count += 1
            if count > DEPTH or not await ahead.reach(count):
                return None
        self._go_behind(ahead.take(), after)
        return await self._lines_of(stretch)

    async def page(self, reading: Reading, limit: int, max_bytes: int) -> Lines:
        """The next events that the filter lets pass: `limit` of them, or fewer where about `max_bytes` of lines are
        reached (at least one). Fewer than that at the end, and then `is_end` is true, and where the next ones are
        read ahead already.
        """
        self._may_have_grown = self._until is None
        found: list[Lines] = []
        count = size = 0
        try:
            while not self.is_end and count < limit and (size < max_bytes // 2 or not count):
                lines = await self._next(reading, limit - count, max_bytes - size)
                found.append(lines)
                count += lines.number
                size += len(lines.text)
                if self._ahead is not None:
                    break
        except BaseException:
            if self._following is not None:
                self._following[1].cancel()
            raise
        finally:
            await self._end_following()
        if len(found) == 1:
            return found[0]
        text = b"".join([lines.text for lines in found])
        return Lines(text, count, list(chain.from_iterable(lines.events for lines in found)))

    async def _look_for_growth(self, reading: Reading, limit: int) -> None:
        """Nothing holds the store still from page to page: what was saved meanwhile may sort anywhere.

        Where it mostly has not, what is needed then is asked for in the same breath, and the database is at it while
        what was kept is made into events. Where it has grown since the page before, it grows on, and nothing is kept.
        """
        looking = asyncio.ensure_future(reading.state())
        if self._kept is not None and not self._kept[1].is_end:
            self._read_following(reading, self._kept[1].behind, limit)
        state = await looking
        self._is_still = state == self._state or not any(self.unread)
        if not self._is_still:
            self._bound_known = False
            self._kept = None
        self._state = state
        self._may_have_grown = False

    async def _next(self, reading: Reading, limit: int, max_bytes: int) -> Lines:
        if self._only.aggregate_ids is not None:
            lines = await self._from_aggregates(reading, limit, max_bytes)
            if lines is not None:
                return lines
        if self._may_be_early:
            await self._pass_early(reading)
        if self._may_have_grown:
            await self._look_for_growth(reading, limit)
        left = self._left
        if not left or (not self._bound_known and not await self._find_bound(reading)):
            self.is_end = True
            return Lines(b"", 0)
        # Asked for no more than can come, the database does not look for more to the end of the store.
        limit = min(limit, left)
        # Mostly all that lies behind the bound is unread. To see afterwards whether it is costs less than to ask.
        stretch = await self._stretch(reading, limit, max_bytes)
        after = self._behind(stretch)
        overtakes = False
        if after is None:
            if not self._are_unread(stretch):
                stretch = await stretch_of(reading, self._bound, self._selection, limit, max_bytes)
            after = list(self.unread)
            # Every unread event was walked over, so a counter that was passed by must be a gap, whatever its time.
            places = zip(stretch.threads, stretch.counters, repeat(_LONG_AGO))
            overtakes = await self._overtakes(reading, places, after)
        if overtakes:
            return await self._merged(reading, limit, max_bytes)
        looking = asyncio.ensure_future(self._hides(reading, stretch, after, limit))
        try:
            await asyncio.sleep(0)  # the question is on its way
            lines = await self._lines_of(stretch)
            hides = await looking
        except BaseException:
            looking.cancel()
            await to_the_end(_over(looking))
            raise
        if hides:
            return await self._merged(reading, limit, max_bytes)
        self._go_behind(stretch, after)
        finish = self._only.finish_time
        if finish is not None and stretch.threads and stretch.last > finish:
            self.is_end = self.is_end or not await self._finish_time_is_ahead(reading)
        return lines

    def _go_behind(self, stretch: Stretch, after: list[int]) -> None:
        """Read on from behind a stretch, which has been found to come next."""
        self.unread = after
        self.is_end = stretch.is_end or not self._left
        if stretch.threads:
            self._bound = stretch.behind

    async def _lines_of(self, stretch: Stretch) -> Lines:
        if self._decode is not None:
            return self._lines(stretch.printed, stretch.number)
        return self._lines(await _tidied(stretch), stretch.number)

    def _lines(self, text: bytes, number: int) -> Lines:
        return Lines(text, number, () if self._decode is None else self._decode(text))

    async def _stretch(self, reading: Reading, limit: int, max_bytes: int) -> Stretch:
        """What sorts behind the bound, read or unread; from then on what sorts behind that is read ahead."""
        ahead, kept, self._kept = self._ahead, self._kept, None
        if ahead is not None and ahead.hand and ahead.bound == self._bound:
            return ahead.take()
        if kept is not None and kept[0] == self._bound and kept[1].number <= limit:
            return kept[1]
        if ahead is not None:
            # Threads fall here: then they often do, and what is read ahead is seldom what comes next.
            self._reader = None
            self._give_up()
        stretch = await stretch_of(reading, self._bound, Selection(only=self._only), limit, max_bytes)
        left = self._left - len(stretch.threads)
        if self._reader is not None and not stretch.is_end and left > 0:
            self._ahead = Ahead(self._reader, stretch.behind, left, max_bytes)
        return stretch

    def _behind(self, stretch: Stretch) -> list[int] | None:
        """The counters behind a stretch of which each event is what comes next in its thread; None where one is not, or
        lies beyond the end."""
        threads = set(stretch.threads)
        # A foreign table may hold an event in what is no thread.
        if not threads <= _THREADS:
            return None
        after = list(self.unread)
        for thread, counter in zip(stretch.threads, stretch.counters, strict=True):
            if after[thread] != counter:
                return None
            after[thread] = counter + 1
        end = self._until or _OPEN_END
        return after if all(after[thread] <= end[thread] for thread in threads) else None

    def _are_unread(self, stretch: Stretch) -> bool:
        end = self._until or _OPEN_END
        unread = self.unread
        # A foreign table may hold an event in what is no thread: it is left out, as by the counters.
        return all(
            0 <= thread < 256 and unread[thread] <= counter < end[thread]
            for thread, counter in zip(stretch.threads, stretch.counters, strict=True)
        )

    @property
    def _selection(self) -> Selection:
        return Selection(self.unread, self._until, self._only)

    @property
    def _left(self) -> int:
        """How many unread events there can be at most."""
        if self._until is None:
            return sys.maxsize
        return sum(max(end - counter, 0) for counter, end in zip(self.unread, self._until, strict=True))

    async def _finish_time_is_ahead(self, reading: Reading) -> bool:
        """Whether, past the last time asked for, there are unread events of an earlier time.

        They can only stand behind a higher event of their own thread. Without this look every export of an
        early day would walk to the end of the store.
        """
        first = Key(self._first_time(), -1, -1)
        rest = await stretch_of(reading, first, Selection(self.unread, self._until), 1, 1)
        finish = self._only.finish_time
        ahead = bool(rest.threads) and finish is not None and rest.last <= finish
        self._bound_known = not ahead
        return ahead

    def _first_time(self) -> int:
        return _LONG_AGO if self._only.start_time is None else self._only.start_time

    async def _pass_early(self, reading: Reading) -> None:
        """Go on to where the merge first comes to an event of the filter's first time, or a later one: what is out
        before that is earlier, so no event of it is asked for.
        """
        self._may_be_early = False
        start = self._first_time()
        first = await next_keys(reading, self.unread, self._until)
        if first and min(first).timestamp < start:
            until = await reading.heads() if self._until is None else self._until
            [self.unread] = await states_at(reading, [start], self.unread, until)

    async def _find_bound(self, reading: Reading) -> bool:
        keys = await next_keys(reading, self.unread, self._until)
        if keys:
            self._bound = min(keys)
        self._bound_known = True
        return bool(keys)

    @staticmethod
    async def _overtakes(reading: Reading, places: Iterable[tuple[int, int, int]], after: list[int]) -> bool:
        """Whether an event of the page, given as (thread, counter, time), has an unread one of its own thread before
        it that is not on the page and has a later time than that.

        Moves `after` behind the page.
        """
        passed: list[Segment] = []
        for thread, counter, time in places:
            expected = after[thread]
            if counter != expected:
                if counter < expected:
                    return True
                passed.append(Segment(thread, expected, counter, time))
            after[thread] = counter + 1
        return bool(passed) and await reading.any_later(passed)

    def _may_hide(self, stretch: Stretch, after: Sequence[int]) -> set[int]:
        """The threads of a stretch of which it is not known that what comes next in them sorts behind it.

        It does where that is part of what has been read ahead.
        """
        end = self._until or _OPEN_END
        threads = {thread for thread in set(stretch.threads) if after[thread] < end[thread]}
        kept = () if self._kept is None else (self._kept[1],)
        for each in kept if self._ahead is None else self._ahead.hand:
            if not threads:
                break
            if each is not stretch:
                first = dict(zip(reversed(each.threads), reversed(each.counters), strict=True))
                threads = {thread for thread in threads if first.get(thread) != after[thread]}
        return threads

    async def _hides(self, reading: Reading, stretch: Stretch, after: Sequence[int], limit: int) -> bool:
        """Whether what comes next in a thread of a stretch sorts before the bound, where no page would see it."""
        bound = self._bound
        threads = self._may_hide(stretch, after)
        is_worth_it = self._is_still and self._only.is_open and not stretch.is_end
        if len(threads) >= MANY and self._ahead is None and is_worth_it:
            following = self._following
            if following is None or following[0] != stretch.behind:
                await self._end_following()
                following = self._read_following(reading, stretch.behind, limit)
            self._kept = following[0], await following[1]
            self._following = None
            threads = self._may_hide(stretch, after)
            if len(self._kept[1].printed) > 2 * _KEPT_BYTES:
                self._kept = None
        if bound is None or not threads:
            return False
        return any(key < bound for key in await next_keys(reading, after, self._until, threads))

    def _read_following(
        self, reading: Reading, bound: Key, limit: int
    ) -> tuple[Key, asyncio.Future[Stretch]]:
        """Ask for what sorts behind a page; to see what is next in its threads, and for the next page."""
        stretch = stretch_of(reading, bound, Selection(only=self._only), limit, _KEPT_BYTES)
        self._following = bound, asyncio.ensure_future(stretch)
        return self._following

    async def _end_following(self) -> None:
        """Leave the reading to others. What was asked for is not wanted, but waited for: a server that is told to stop
        a statement ends the transaction with it, and there may be more to read."""
        following, self._following = self._following, None
        if following is not None:
            await to_the_end(_over(following[1]))

    async def _from_aggregates(self, reading: Reading, limit: int, max_bytes: int) -> Lines | None:
        """A page found by the index on aggregateId; None where a thread falls and the page must be merged.

        `unread` moves behind the events found, and no further: what the filter left out is passed over again,
        by the index, and at no cost.
        """
        if self._places is None:
            positions, ended = await reading.select(self._selection, limit, max_bytes)
            if not ended:
                self._places, self._places_are_all = deque(), False
        else:
            positions, ended = await self._at_places(reading, self._places, limit, max_bytes)
        after = list(self.unread)
        # Events of other aggregates were passed by; only one with a later time would move an event found.
        if await self._overtakes(reading, [position[:3] for position in positions], after):
            self._places = None
            return None
        self.unread = after
        self.is_end = ended
        self._bound_known = False
        return self._lines(b"".join([line for *_, line in positions if line is not None]), len(positions))

    async def _at_places(
        self, reading: Reading, places: deque[Key], limit: int, max_bytes: int
    ) -> tuple[list[Position], bool]:
        """What `Reading.select` would find, by what was looked up before: for each page anew, that would go through
        all events of the aggregates, read and unread."""
        if self._may_have_grown:
            state = await reading.state()
            if state != self._places_of:
                places.clear()
                self._places_are_all = False
            self._places_of = state
        if not places and not self._places_are_all:
            found, _ = await reading.select(self._selection, _PLACES, None)
            places += [Key(timestamp, counter, thread) for thread, counter, timestamp, _ in found]
            self._places_are_all = len(places) < _PLACES
        wanted = list(islice(places, limit))
        lines = await reading.lines_at([(key.thread_id, key.thread_counter) for key in wanted], max_bytes)
        for _ in lines:
            places.popleft()
        positions: list[Position] = [
            (key.thread_id, key.thread_counter, key.timestamp, line)
            for key, line in zip(wanted, lines, strict=False)
        ]
        return positions, not places and self._places_are_all

    async def _merged(self, reading: Reading, limit: int, max_bytes: int) -> Lines:
        """A page by the merge itself."""
        self._bound_known = False
        merge = _Merge(reading, self.unread, self._until, self._only, limit)
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
        return self._lines(b"".join(lines), len(lines))


class _Merge:
    """The merge of the threads, fed from each thread by a few events at a time."""

    def __init__(
        self,
        reading: Reading,
        unread: Sequence[int],
        until: Sequence[int] | None,
        only: Filter,
        limit: int,
    ) -> None:
        self._reading = reading
        self._until = until
        self._only = only
        self._unread = dict(enumerate(unread))
        self._count = min(max(limit // 64, 2), 64)
        self._queues: list[deque[tuple[Key, bool]]] = [deque() for _ in _EVERY_THREAD]
        self._heap: list[tuple[Key, bool]] = []

    async def take(self, limit: int) -> list[tuple[Key, bool]]:
        """The next events until `limit` of them pass the filter, or very many did not."""
        await self._refill(_EVERY_THREAD)
        taken: list[tuple[Key, bool]] = []
        passed = 0
        while self._heap and passed < limit and len(taken) < max(20 * limit, WALK):
            key, passes = heapq.heappop(self._heap)
            taken.append((key, passes))
            passed += passes
            await self._advance(key.thread_id)
        return taken

    async def _advance(self, thread: int) -> None:
        if not self._queues[thread] and thread in self._unread:
            await self._refill([thread])
        elif self._queues[thread]:
            heapq.heappush(self._heap, self._queues[thread].popleft())

    async def _refill(self, threads: Sequence[int]) -> None:
        """Fetch more of these threads, whose queues are empty, and put the first of each on the heap."""
        unread = {thread: self._unread[thread] for thread in threads if thread in self._unread}
        for key, passes in await self._reading.in_threads(unread, self._until, self._only, self._count):
            self._queues[key.thread_id].append((key, passes))
        for thread in unread:
            queue = self._queues[thread]
            if len(queue) < self._count:
                del self._unread[thread]
            else:
                self._unread[thread] = queue[-1][0].thread_counter + 1
            if queue:
                heapq.heappush(self._heap, queue.popleft())

"""The source of stretches: the first one, and those behind it that have been read before they are asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from eventferry.database import FIRST, Key, Reading, ReadScope, Stretch
from eventferry.lifecycle import to_the_end
from eventferry.reading.ahead import Ahead, close_all

DEPTH = 12  # how many stretches are at hand at most
_AT_A_TIME = 24
"""How many stretches one reading gives at most, so that it stays short. It ends sooner where enough are at hand: no
reading is open while its reader waits for anything but the database."""

OpenReading: TypeAlias = Callable[[], AbstractAsyncContextManager[Reading]]  # opens a reading


async def stretch_of(reading: Reading, bound: Key, scope: ReadScope, limit: int, max_bytes: int) -> Stretch:
    """The stretch that begins at a bound, alone."""
    found: list[Stretch] = []
    await reading.read_on(bound, scope, limit, max_bytes, 1, found.append)
    return found[0]


class Stretches:
    """Stretches of a scope, one behind the other; `first` comes next, if it is at hand.

    It does not know what has been read before, nor whether timestamps go backwards: whoever takes them checks that.
    What comes behind the first stretch is read from then on, in readings that `open_reading` opens. Without it,
    `look` reads one more stretch in a reading that is lent.
    """

    def __init__(self, scope: ReadScope, open_reading: OpenReading | None = None) -> None:
        self.scope = scope
        self.first: Stretch | None = None
        self._bound = FIRST
        self._open_reading = open_reading
        self._ahead: Ahead[Stretch] | None = None
        self._kept: Stretch | None = None
        self._look: tuple[Key, Ahead[Stretch]] | None = None
        self._given_up: list[Ahead[Stretch]] = []

    @property
    def is_ahead(self) -> bool:
        """Whether readings of its own are read ahead."""
        return self._ahead is not None

    @property
    def behind(self) -> Sequence[Stretch]:
        """What is at hand behind the first."""
        if self._ahead is not None:
            return self._ahead.hand
        return () if self._kept is None else (self._kept,)

    def turn_to(self, scope: ReadScope, open_reading: OpenReading | None) -> None:
        """Read other stretches from now on."""
        self.give_up()
        self.scope, self._open_reading = scope, open_reading

    def begins_at(self, bound: Key) -> bool:
        """Whether the first stretch is at hand and begins there."""
        return self.first is not None and self._bound == bound

    async def reach(self, count: int) -> bool:
        """Wait until this many stretches, the first included, are at hand; False if there are not that many.

        Not inside a reading: where connections are few, this may need that one's.
        """
        if self.first is None and self._ahead is not None and await self._ahead.reach(1):
            self.first = self._ahead.take()
        if self.first is None or count == 1:
            return self.first is not None
        return self._ahead is not None and await self._ahead.reach(count - 1)

    async def peek(self, reading: Reading, bound: Key, limit: int, max_bytes: int, left: int) -> Stretch:
        """The stretch that begins at the bound, of at most `limit` lines. What sorts behind it is read ahead from then
        on, if it can open readings and more than that is left."""
        if self.first is None and self._ahead is not None and self._ahead.hand:
            self.first = self._ahead.take()
        if self.first is not None and self.begins_at(bound) and self.first.number <= limit:
            return self.first
        self.give_up()
        self.first = stretch = await stretch_of(reading, bound, self.scope, limit, max_bytes)
        self._bound = bound
        left -= len(stretch.threads)
        if self._open_reading is not None and not stretch.is_end and left > 0:
            self._ahead = Ahead(
                self._read_on(self._open_reading, stretch.behind, left, max_bytes), DEPTH // 2
            )
        return stretch

    def take(self) -> None:
        """Go on to the next stretch."""
        if self.first is not None and self.first.threads:
            self._bound = self.first.behind
        self.first, self._kept = self._kept, None

    def _read_on(
        self, open_reading: OpenReading, bound: Key, left: int, max_bytes: int
    ) -> Callable[[Ahead[Stretch]], Awaitable[None]]:
        async def read(ahead: Ahead[Stretch]) -> None:
            nonlocal bound, left
            is_end = False
            given = 0

            def give(stretch: Stretch) -> None:
                nonlocal bound, left, is_end, given
                ahead.give(stretch)
                given += 1
                left -= len(stretch.threads)
                is_end = stretch.is_end or not left
                bound = stretch.behind if stretch.threads else bound

            while not is_end:
                await ahead.room()
                given = 0
                async with open_reading() as reading:
                    while not (is_end or ahead.is_enough or given >= _AT_A_TIME):
                        count = DEPTH - len(ahead.hand)
                        await reading.read_on(bound, self.scope, left, max_bytes, count, give)

        return read

    def begin_to_look(self, reading: Reading, limit: int, max_bytes: int) -> None:
        """Ask in a reading, which is lent until `settle`, for what sorts behind the first stretch."""
        if self.first is None or self.first.is_end or self._look is not None:
            return
        self._look = self.first.behind, self._looking(reading, self.first.behind, limit, max_bytes)

    def _looking(self, reading: Reading, bound: Key, limit: int, max_bytes: int) -> Ahead[Stretch]:
        async def read(ahead: Ahead[Stretch]) -> None:
            await reading.read_on(bound, self.scope, limit, max_bytes, 1, ahead.give)

        return Ahead(read, 1)

    async def look(self, reading: Reading, limit: int, max_bytes: int) -> None:
        """Read what sorts behind the first stretch: to see what is next in its threads, and for the next page."""
        if self.first is None or self._kept is not None:
            return
        if self._look is not None and self._look[0] != self.first.behind:
            await self.settle()
        self.begin_to_look(reading, limit, max_bytes)
        if self._look is not None and await self._look[1].reach(1):
            self._kept = self._look[1].take()
            self._look = None

    def forget_large(self, most: int) -> None:
        """Keep nothing behind the first stretch that has more bytes than this."""
        if self._kept is not None and len(self._kept.printed) > most:
            self._kept = None

    async def settle(self, *, is_failed: bool = False) -> None:
        """Give the lent reading back. What was asked for in it is waited for, wanted or not: a server that is told to
        stop a statement ends the transaction with it, and there may be more to read. Where there is not, since the
        reading has failed, it is stopped."""
        look, self._look = self._look, None
        if look is not None:
            await to_the_end(look[1].close() if is_failed else look[1].over())

    def give_up(self) -> None:
        """Want nothing of what is at hand or read ahead, and read ahead no more.

        Nobody waits here for that to end: it may need the connection of the reading in which this is called.
        """
        self.first = self._kept = None
        if self._ahead is not None:
            # Timestamps go backwards here: then they often do, and what is read ahead is seldom what comes next.
            self._open_reading = None
            self._ahead.stop()
            self._given_up.append(self._ahead)
            self._ahead = None

    async def close(self) -> None:
        """Read nothing ahead any more; twice is fine."""
        self.give_up()
        given_up, self._given_up = self._given_up, []
        if given_up:
            await to_the_end(close_all(given_up))

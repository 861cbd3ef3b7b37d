"""Cuts: which events of a backup a restore takes, when it shall not take all.

A cut is a next counter for each of the 256 threads. Since events are committed in order of their counters, what lies
below a cut is a state that the store has had, or could have had.

A time is made a cut too: of each thread, the events before its first one with a later timestamp. Clocks go back, so an
event that was saved later can have an earlier timestamp; by the timestamps alone it would come without the events that
its thread held before it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from eventferry import cursor as vector
from eventferry.changing.selection import Selection
from eventferry.errors import StoreReplacedError, UsageError
from eventferry.lifecycle import aclosing
from eventferry.reading.bookmarks import Bookmark, EventDigest, decode, event_digest


class _Place(msgspec.Struct, rename="camel", gc=False):
    """What of a line says on which side of a cut it is."""

    thread_id: int
    thread_counter: int
    timestamp: int


_PLACE = msgspec.json.Decoder(_Place)


class _Kind(msgspec.Struct, rename="camel", gc=False):
    """What of a line says whether it is selected."""

    type: str
    aggregate_id: str
    timestamp: int


_KIND = msgspec.json.Decoder(_Kind)


class LineBlocks(Protocol):
    """Blocks of whole lines, which can be closed."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Begin."""

    async def aclose(self) -> None:
        """End now; twice is fine."""


class Cut(Protocol):
    """Sees the events of a backup in its order, and says which are before the cut."""

    @property
    def bookmark(self) -> str:
        """Of the backed up store at the cut, once all events were seen."""

    def takes(self, place: _Place, line: bytes) -> bool:
        """Whether this event is before the cut."""

    def end(self) -> None:
        """All events were seen. Raises StoreReplacedError where they are not those that the cut was made of."""


class AtTime:
    """Up to a time: of each thread, the events before its first one with a later timestamp.

    Args:
        time: in ms since 1970.
        reach: the bookmark of the backup's end.
    """

    def __init__(self, time: int, reach: str) -> None:
        self._time = time
        self._identity = decode(reach).identity
        self._closed: set[int] = set()
        self._last: dict[int, tuple[int, bytes]] = {}

    @property
    def bookmark(self) -> str:
        """Behind the last event of each thread that was taken."""
        unread = [0] * vector.THREADS
        for thread, (counter, _) in self._last.items():
            unread[thread] = counter + 1
        digests = {thread: event_digest(line) for thread, (_, line) in self._last.items()}
        return str(Bookmark(self._identity, unread, digests))

    def takes(self, place: _Place, line: bytes) -> bool:
        """Whether no event of its thread so far is later, and this one is not."""
        if place.timestamp > self._time:
            self._closed.add(place.thread_id)
        if place.thread_id in self._closed:
            return False
        self._last[place.thread_id] = place.thread_counter, line
        return True

    def end(self) -> None:
        """There is nothing to compare."""


class AtBookmark:
    """Up to a bookmark.

    Args:
        text: the bookmark.
        reach: the bookmark of the backup's end, behind which it knows nothing.

    Raises:
        UsageError: it is not a bookmark, is one of another store, or has read more than the backup holds.
    """

    def __init__(self, text: str, reach: str) -> None:
        self.bookmark = text
        self._written, end = decode(text), decode(reach)
        if self._written.identity != end.identity:
            raise UsageError("the bookmark is of another store than this chain, or of events replaced since")
        for thread, (counter, head) in enumerate(zip(self._written.unread, end.unread, strict=True)):
            if counter > head:
                raise UsageError(
                    f"the bookmark has read thread {thread} up to {counter}, where the backup ends at {head}: it "
                    "was made behind the last run"
                )
        self._last: dict[int, EventDigest] = {}

    def takes(self, place: _Place, line: bytes) -> bool:
        """Whether the bookmark has read it."""
        unread = self._written.unread[place.thread_id]
        if place.thread_counter == unread - 1:
            self._last[place.thread_id] = event_digest(line)
        return place.thread_counter < unread

    def end(self) -> None:
        """Compares the last events of each thread with the bookmark's fingerprint. From their payloads something may
        have been erased when the bookmark was made."""
        identity, fingerprint, unread = self._written
        if not Bookmark(identity, unread, self._last).is_alike(fingerprint):
            raise StoreReplacedError("the backup does not hold the events that the bookmark has read")


async def until(cut: Cut, lines: LineBlocks) -> AsyncGenerator[bytes, None]:
    """The lines before a cut, of blocks of whole lines."""
    async with aclosing(_kept(lines, lambda line: cut.takes(_PLACE.decode(line), line))) as kept:
        async for block in kept:
            yield block
    cut.end()


def within(unread: Sequence[int], lines: LineBlocks) -> AsyncGenerator[bytes, None]:
    """The lines below these 256 next counters, of blocks of whole lines. What they are is not compared with anything:
    for a cut that the repository itself has made."""

    def is_below(line: bytes) -> bool:
        place = _PLACE.decode(line)
        return place.thread_counter < unread[place.thread_id]

    return _kept(lines, is_below)


def selected(only: Selection, lines: LineBlocks) -> AsyncGenerator[bytes, None]:
    """The lines of the events that are meant, of blocks of whole lines. They stay as they are."""

    def takes(line: bytes) -> bool:
        kind = _KIND.decode(line)
        return only.takes(kind.type, kind.aggregate_id, kind.timestamp)

    return _kept(lines, takes)


async def _kept(lines: LineBlocks, takes: Callable[[bytes], bool]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines):
        async for block in lines:
            if taken := b"".join(line + b"\n" for line in block.split(b"\n")[:-1] if takes(line)):
                yield taken

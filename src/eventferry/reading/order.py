"""The order of events: the checks that a stretch of the sort is a page of the merge. See docs/order.md.

The order is the merge of the 256 threads: always the least (timestamp, threadCounter, threadId) among the
threads' next events. Where timestamps within a thread never go backwards that is the sort by this key, which a
database gives from an index; where they do (a future-dated save, a clock set back) the sort would take
events of a thread before earlier ones, and a cursor behind them would lose those. So a page is read in the
sort's order, then checked, and merged properly only where a check fails.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Sequence

from eventferry import cursor as vector
from eventferry.database import Segment, Stretch
from eventferry.errors import UsageError

_THREADS = frozenset(range(vector.THREADS))
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
        raise UsageError("the name of a part holds a lone surrogate, which is not a character")
    return b"\x01" + name


def left_of(unread: Sequence[int], until: Sequence[int] | None) -> int:
    """How many unread events there can be at most."""
    if until is None:
        return sys.maxsize
    return sum(max(end - counter, 0) for counter, end in zip(unread, until, strict=True))


def only_thread(unread: Sequence[int], until: Sequence[int] | None) -> int | None:
    """The thread that holds whatever is unread, if these counters tell that there is only one."""
    if until is None:
        return None
    threads = [
        thread for thread, (counter, end) in enumerate(zip(unread, until, strict=True)) if counter < end
    ]
    return threads[0] if len(threads) == 1 else None


def behind(stretch: Stretch, unread: Sequence[int], until: Sequence[int] | None) -> list[int] | None:
    """The counters behind a stretch in which each event is the next one of its thread; None where one is not, or is
    beyond the end."""
    threads = set(stretch.threads)
    # A foreign table may hold an event in what is no thread.
    if not threads <= _THREADS:
        return None
    after = list(unread)
    for thread, counter in zip(stretch.threads, stretch.counters, strict=True):
        if after[thread] != counter:
            return None
        after[thread] = counter + 1
    end = until or _OPEN_END
    return after if all(after[thread] <= end[thread] for thread in threads) else None


def are_unread(stretch: Stretch, unread: Sequence[int], until: Sequence[int] | None) -> bool:
    """Whether nothing in a stretch has been read before or is beyond the end."""
    end = until or _OPEN_END
    # A foreign table may hold an event in what is no thread: it is left out, as by the counters.
    return all(
        thread in _THREADS and unread[thread] <= counter < end[thread]
        for thread, counter in zip(stretch.threads, stretch.counters, strict=True)
    )


def passed_by(places: Iterable[tuple[int, int, int]], after: list[int]) -> list[Segment] | None:
    """Check 1: the parts of threads that the events of a page, given as (thread, counter, time), pass by; None if one
    of them comes before an earlier one of its own thread. An unread event in such a part is overtaken if it has a
    later time than the part's. Moves `after` behind the page."""
    passed: list[Segment] = []
    for thread, counter, time in places:
        expected = after[thread]
        if counter < expected:
            return None
        if counter > expected:
            passed.append(Segment(thread, expected, counter, time))
        after[thread] = counter + 1
    return passed


def may_hide(
    stretch: Stretch, after: Sequence[int], until: Sequence[int] | None, following: Iterable[Stretch]
) -> set[int]:
    """Check 2: the threads of a stretch whose next event may sort below it. It does not where it is among the
    stretches that follow."""
    end = until or _OPEN_END
    threads = {thread for thread in set(stretch.threads) if after[thread] < end[thread]}
    for each in following:
        if not threads:
            break
        first = dict(zip(reversed(each.threads), reversed(each.counters), strict=True))
        threads = {thread for thread in threads if first.get(thread) != after[thread]}
    return threads

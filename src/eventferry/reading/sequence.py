"""Whether events come in the order of an export: the check of a sequence as a whole, or of pieces of it. See
docs/order.md.

The order is the merge of the threads. A sequence is the merge of its threads if, and only if, the counters of each
thread rise, and an event whose key (timestamp, threadCounter, threadId) is not above all before it comes directly
behind one of its own thread: where the timestamps of a thread go backwards, the merge stays in it.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from eventferry.errors import OrderError

SortKey: TypeAlias = tuple[int, int, int]
"""The timestamp, the threadCounter and the threadId of an event."""


class SequenceCheck(msgspec.Struct, array_like=True):
    """What of the events so far says whether others may follow. Small, to be sent to whoever joins several.

    Attributes:
        first: the first event.
        turn: the first one of another thread than the first's.
        highest: the highest of all.
        thread: of the last one.
        firsts: the first counter of each thread.
        lasts: the last counter of each thread.
    """

    first: SortKey | None = None
    turn: SortKey | None = None
    highest: SortKey | None = None
    thread: int = -1
    firsts: dict[int, int] = {}
    lasts: dict[int, int] = {}

    def add(self, key: SortKey) -> None:
        """The next event. Raises OrderError where it is not in order."""
        _, counter, thread = key
        last = self.lasts.get(thread)
        if last is None:
            self.firsts[thread] = counter
        elif counter <= last:
            raise _counter_back(thread, counter, last)
        self.lasts[thread] = counter
        if self.highest is None:
            self.first, self.highest, self.thread = key, key, thread
        elif key > self.highest:
            self.highest = key
        elif thread != self.thread:
            raise _key_back(key, self.highest)
        if thread != self.thread:
            self.turn = self.turn or key
            self.thread = thread

    def join(self, other: SequenceCheck) -> None:
        """Events that are in order by themselves follow. Raises OrderError where the two are not. Nothing is joined to
        what is behind something else."""
        if other.first is None or other.highest is None:
            return
        for thread, counter in other.firsts.items():
            if counter <= (last := self.lasts.get(thread, -1)):
                raise _counter_back(thread, counter, last)
        if self.highest is not None:
            # What stays in the thread of the last event may be lower, up to where it is left.
            left = other.turn if other.first[2] == self.thread else other.first
            if left is not None and left <= self.highest:
                raise _key_back(left, self.highest)
        self.lasts.update(other.lasts)
        self.highest = other.highest if self.highest is None else max(self.highest, other.highest)
        self.thread = other.thread


def _counter_back(thread: int, counter: int, last: int) -> OrderError:
    return OrderError(
        f"the event with counter {counter} of thread {thread} comes behind the one with counter {last}"
    )


def _key_back(key: SortKey, highest: SortKey) -> OrderError:
    def told(key: SortKey) -> str:
        return f"timestamp {key[0]}, threadCounter {key[1]}, threadId {key[2]}"

    return OrderError(f"the event with {told(key)} comes behind the one with {told(highest)}")

"""The cursor: what has been read, as the next counter of each thread.

The format is reSolve's (`cursor-operations.ts`): 256 counters of 6 bytes, big-endian, in the order of threads, in
base64: 2,048 characters. `None` is the start.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Sequence
from typing import Protocol

from eventferry.errors import UsageError

THREADS = 256
COUNTER_BYTES = 6
LENGTH = THREADS * COUNTER_BYTES * 4 // 3  # the length of a cursor in characters
MAX_COUNTER = 2 ** (8 * COUNTER_BYTES) - 2
"""The highest counter of an event: the cursor after it must still fit into 6 bytes."""

_EIGHT_BYTES_EACH = struct.Struct(f">{THREADS}Q")


class Positioned(Protocol):
    """Anything with a position: an `Event` or a row."""

    @property
    def thread_id(self) -> int:
        """The thread, 0 to 255."""

    @property
    def thread_counter(self) -> int:
        """The counter, from 0."""


def encode(counters: Sequence[int]) -> str:
    """The cursor for 256 next counters."""
    if len(counters) != THREADS:
        raise UsageError(f"a cursor must have {THREADS} counters, not {len(counters)}")
    try:
        packed = bytearray(_EIGHT_BYTES_EACH.pack(*counters))
    except struct.error:
        packed = bytearray(b"\xff")
    # The first two of the eight bytes of each counter must be 0, and are removed.
    if packed[::8].strip(b"\0") or packed[1::8].strip(b"\0"):
        raise UsageError(f"the counters of a cursor must fit into {COUNTER_BYTES} bytes")
    del packed[::8]
    del packed[::7]
    return binascii.b2a_base64(packed, newline=False).decode("ascii")


def dense(events: int) -> str:
    """The cursor behind so many events in thread 0."""
    return encode([events] + [0] * (THREADS - 1))


def decode(cursor: str | None) -> list[int]:
    """The 256 next counters of a cursor; all zero for `None`.

    Raises:
        UsageError: the text is not a cursor.
    """
    if cursor is None:
        return [0] * THREADS
    try:
        packed = base64.b64decode(cursor, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise UsageError(f"this is not a cursor: {error}") from None
    if len(cursor) != LENGTH:  # with padding, a cursor would have two spellings
        raise UsageError(f"this is not a cursor: it has {len(cursor)} characters instead of {LENGTH}")
    if len(packed) != THREADS * COUNTER_BYTES:
        raise UsageError(
            f"this is not a cursor: it has {len(packed)} bytes instead of {THREADS * COUNTER_BYTES}"
        )
    return [
        int.from_bytes(packed[at : at + COUNTER_BYTES], "big") for at in range(0, len(packed), COUNTER_BYTES)
    ]


def after(cursor: str | None, events: Iterable[Positioned]) -> str:
    """The cursor after `events` have been read from `cursor` on. Counters never go back."""
    counters = decode(cursor)
    for event in events:
        if not (0 <= event.thread_id < THREADS and event.thread_counter >= 0):
            raise UsageError("an event that is not stored has no position to continue from")
        counters[event.thread_id] = max(counters[event.thread_id], event.thread_counter + 1)
    return encode(counters)

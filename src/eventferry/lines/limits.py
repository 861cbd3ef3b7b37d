"""What may stand in an event: what no database can hold, and what the columns of one store cannot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import msgspec

from eventferry.cursor import MAX_COUNTER
from eventferry.errors import InputError, UnsupportedStoreError
from eventferry.lines.event import NewRow
from eventferry.lines.payload import may_have_long_exponent
from eventferry.lines.spelling import LONE_SURROGATE

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest whole number that JavaScript, and so the real reSolve, keeps exactly."""

MAX_ID_LENGTH = 700  # characters in an aggregateId or a type, as reSolve declares its columns

ThreadId = Annotated[int, msgspec.Meta(ge=0, le=255)]
ThreadCounter = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNTER)]
Version = Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)]
Timestamp = Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
Name = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]


BYTES_OF_A_CHARACTER = 4  # in UTF-8, at most


@dataclass(frozen=True, slots=True)
class ColumnLimits:
    """What the columns of one store can hold."""

    id_length: int = MAX_ID_LENGTH  # characters in an aggregateId
    type_length: int = MAX_ID_LENGTH  # characters in a type
    max_id_bytes: int | None = None  # in an aggregateId; None: as many as its characters take
    # Says why a payload would not survive in the payload column; None if it would. Without it, every payload survives.
    refuse_payload: Callable[[bytes], str | None] | None = None
    # Given lines and the length of the longest payload in them, whether each surely survives, and none has a number
    # with an exponent of more digits than any may have; quick. Without it, each is looked at by `refuse_payload`.
    all_survive: Callable[[bytes, int], bool] | None = None

    def surely_take(self, lines: bytes, longest: int) -> bool:
        """Whether surely no payload of these lines is refused; for some it may say no although none is."""
        if self.all_survive is not None:
            return self.all_survive(lines, longest)
        return self.refuse_payload is None and not may_have_long_exponent(lines)

    def surely_fit(self, longest_id: int, longest_type: int) -> bool:
        """Whether an aggregateId and a type of so many characters fit, whatever the characters are."""
        if longest_id > self.id_length or longest_type > self.type_length:
            return False
        return self.max_id_bytes is None or longest_id * BYTES_OF_A_CHARACTER <= self.max_id_bytes


ROOMY = ColumnLimits()  # the limits of tables that eventferry makes


def check_text(field: str, value: str) -> None:
    """Refuses a string that no database here keeps alike: with U+0000, or with half a surrogate pair."""
    if "\0" in value:
        raise InputError("holds the character U+0000", field=field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(LONE_SURROGATE, field=field) from None


def check_limits(limits: ColumnLimits, aggregate_id: str, event_type: str, payload: bytes) -> None:
    """Refuses what the columns of a store cannot hold."""
    if len(aggregate_id) > limits.id_length:
        raise InputError(f"is longer than {limits.id_length} characters", field="aggregateId")
    if limits.max_id_bytes is not None and len(aggregate_id.encode()) > limits.max_id_bytes:
        raise InputError(f"is longer than {limits.max_id_bytes} bytes", field="aggregateId")
    if len(event_type) > limits.type_length:
        raise InputError(f"is longer than {limits.type_length} characters", field="type")
    if limits.refuse_payload is not None and (reason := limits.refuse_payload(payload)) is not None:
        raise InputError(reason, field="payload")


def check_appended(own_id: str | None, version: object, aggregate_id: str) -> None:
    """Refuses an event that names another aggregate than that of its append, or a version."""
    if own_id not in (None, aggregate_id):
        raise InputError(f"must be that of the append, {aggregate_id!r:.100}", field="aggregateId")
    if version not in (None, 0):
        raise InputError(
            "must be left out: an append gives the aggregate's next versions (expected_version says where it "
            "should be)",
            field="aggregateVersion",
        )


def is_within(limits: ColumnLimits, row: NewRow) -> bool:
    """Whether the columns of a store can hold an event."""
    with suppress(InputError):
        check_limits(limits, row.aggregate_id, row.type, row.payload)
        return True
    return False


def full_thread(thread: int) -> UnsupportedStoreError:
    """The error for an event that would go behind the highest counter."""
    return UnsupportedStoreError(
        f"thread {thread} is full: its last event has the counter {MAX_COUNTER}, the highest that a cursor can "
        "hold. Nothing was stored"
    )


def last_version(aggregate_id: str) -> UnsupportedStoreError:
    """The error for an event that would go behind the highest version."""
    return UnsupportedStoreError(
        f"the aggregate {aggregate_id!r} has an event of version {MAX_SAFE_INTEGER}, the highest possible: no "
        "event can follow it. Nothing was stored"
    )

"""The clock for timestamps of events and markers."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


_CUT = re.compile(r".{10}[^+-]*?[.,][0-9]{6}0*[1-9]", re.DOTALL)


def is_cut(text: str) -> bool:
    """Whether a time in ISO 8601 has more of a second than the six digits that a `datetime` of it keeps."""
    return _CUT.match(text) is not None


def milliseconds_of(moment: datetime, text: str, *, up: bool) -> int:
    """Milliseconds since 1970 of a time with a zone that was written so, rounded up or down."""
    whole, rest = divmod(moment - EPOCH, MILLISECOND)
    return whole + 1 if up and (rest or is_cut(text)) else whole


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def iso(time_ms: int) -> str:
    """Such a time in ISO 8601, in UTC and without saying so. Raises OverflowError beyond the years 1 to 9999."""
    return (EPOCH + time_ms * MILLISECOND).replace(tzinfo=None).isoformat(timespec="milliseconds")


def moment(time_ms: int) -> str:
    """Such a time as a message shows it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ms / 1000))

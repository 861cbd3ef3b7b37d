"""The clock for timestamps of events and markers."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def iso(time_ms: int) -> str:
    """Such a time in ISO 8601, in UTC and without saying so. Raises OverflowError beyond the years 1 to 9999."""
    return (EPOCH + time_ms * MILLISECOND).replace(tzinfo=None).isoformat(timespec="milliseconds")


def moment(time_ms: int) -> str:
    """Such a time as a message shows it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ms / 1000))

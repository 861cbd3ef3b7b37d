"""The id and the time that an event gets in another product's table."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from eventferry.errors import InputError
from eventferry.lines.envelope import Original, own_id

_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def uuid_of(original: Original, aggregate_id: str, version: int) -> str:
    """The id of an event as a UUID; one that has no id always gets the same. Raises InputError."""
    if original.id is None:
        return own_id(aggregate_id, version)
    if _UUID.fullmatch(original.id) is not None:
        return original.id
    try:
        return str(UUID(original.id))
    except ValueError:
        raise InputError("meta.id must be a UUID", field="payload") from None


_EPOCH = datetime(1970, 1, 1)  # UTC, as all times here are once they have no zone any more


def utc_of(original: Original, timestamp: int) -> str:
    """When an event happened, in UTC without a zone, to the microsecond. Raises InputError."""
    try:
        if original.time is None:
            return (_EPOCH + timedelta(milliseconds=timestamp)).isoformat()
        moment = datetime.fromisoformat(original.time)
        if moment.tzinfo is None:
            raise InputError("meta.time must say its time zone", field="payload")
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat()
    except (ValueError, OverflowError):
        if original.time is None:
            raise InputError("is beyond the years 1 to 9999", field="timestamp") from None
        raise InputError(
            "meta.time must be a time such as 2026-01-31T12:00:00.123456Z", field="payload"
        ) from None

"""The times of foreign tables: milliseconds for the event, and the full text beside them, as precise as it was."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from eventferry.sources.decoding import UndecodableError
from eventferry.sources.mapping import Time

Moments: TypeAlias = tuple[list[int], list[bytes]]
"""Of some times: milliseconds since 1970, rounded down; and the full texts."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTES_KNOWN = 100_000
_FRACTION = re.compile(r".{10}[^+-]*?[.,]([0-9]+)", re.DOTALL)
"""Of a second, in a time of ISO 8601; not that of a zone."""
_FAR = 10**20  # in any unit further from 1970 than any year that has a name


class Times:
    """Reads the times of one mapping. `epoch` is since when a database counts, at the beginning of a minute."""

    def __init__(self, mapping: Time, epoch: datetime = EPOCH) -> None:
        self._epoch = epoch
        self._zone = None if mapping.zone is None else ZoneInfo(mapping.zone)
        self._nanoseconds = mapping.nanoseconds
        self._minutes: dict[int, bytes] = {}

    def of_microseconds(self, values: Sequence[int]) -> Moments:
        """Times with a zone, as the database gives them: microseconds since the epoch."""
        texts, known = [], self._minutes
        for value in values:
            minute, rest = divmod(value, 60_000_000)
            second, rest = divmod(rest, 1_000_000)
            texts.append(b"%b%02d.%06dZ" % (known.get(minute) or self._new_minute(minute), second, rest))
        start = _milliseconds(self._epoch)
        return [start + value // 1000 for value in values], texts

    def _new_minute(self, minute: int) -> bytes:
        if len(self._minutes) >= _MINUTES_KNOWN:
            self._minutes.clear()
        try:
            text = self._minutes[minute] = (self._epoch + timedelta(minutes=minute)).isoformat()[:17].encode()
        except OverflowError:
            raise UndecodableError(_NO_YEAR) from None
        return text

    def of_local_microseconds(self, values: Sequence[int]) -> Moments:
        """Times without a zone, as the database gives them: as if they were UTC. The mapping says their zone."""
        if self._zone is None:
            raise UndecodableError(_NO_ZONE)
        if self._zone.key == "UTC":
            return self.of_microseconds(values)
        try:
            moments = [
                (self._epoch + timedelta(microseconds=value)).replace(tzinfo=self._zone) for value in values
            ]
        except OverflowError:
            raise UndecodableError(_NO_YEAR) from None
        texts = [moment.isoformat(timespec="microseconds").encode() for moment in moments]
        return list(map(_milliseconds, moments)), texts

    def of(self, values: Sequence[Any]) -> Moments:
        """Numbers or texts."""
        moments = list(map(self._of, values))
        return [milliseconds for milliseconds, _ in moments], [text for _, text in moments]

    def _of(self, value: Any) -> tuple[int, bytes]:
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str):
            return self._of_text(value)
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return self._of_number(value)
        raise UndecodableError(f"a time is a text or a number, not {type(value).__name__}")

    def _of_number(self, value: int | float | Decimal) -> tuple[int, bytes]:
        if self._nanoseconds is None:
            raise UndecodableError("the time is a number, and the mapping does not say its unit (time.unit)")
        exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        if not exact.is_finite():
            raise UndecodableError("the time is not a finite number")
        if abs(exact) > _FAR:
            raise UndecodableError(_NO_YEAR)
        nanoseconds = math.floor(exact * self._nanoseconds)
        second, rest = divmod(nanoseconds, 10**9)
        _, [text] = self.of_microseconds([second * 10**6])
        digits = 9 if rest % 1000 else 6
        return nanoseconds // 10**6, b"%b.%bZ" % (text[:19], (b"%09d" % rest)[:digits])

    def _of_text(self, value: str) -> tuple[int, bytes]:
        text = value.strip()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise UndecodableError(f"{value[:60]!r} is not a time of ISO 8601") from None
        if moment.tzinfo is None:
            if self._zone is None:
                raise UndecodableError(_NO_ZONE)
            moment = moment.replace(tzinfo=self._zone)
        return _milliseconds(moment), _full(moment, text).encode()


def _milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def _full(moment: datetime, text: str) -> str:
    """A time in ISO 8601 with its zone, and with every digit that its text had: Python keeps six. The text itself could
    have any character between day and hour."""
    whole = moment.isoformat(timespec="seconds")
    fraction = _FRACTION.match(text)
    zone = whole[19:] if moment.utcoffset() or "+" in text else "Z"
    return f"{whole[:19]}{'.' + fraction[1] if fraction else ''}{zone}"


_NO_YEAR = "the time is before the year 1, after the year 9999, or infinite"
_NO_ZONE = "the time has no zone, and the mapping does not say which one it is in (time.zone)"


def pointed(pointer: str) -> Callable[[Any], Any]:
    """What finds the value at a JSON Pointer (RFC 6901) in a decoded value; None where there is none."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]

    def find(value: Any) -> Any:
        for step in steps:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
        return value

    return find

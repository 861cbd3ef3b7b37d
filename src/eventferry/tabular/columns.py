"""The columns of events as a table, and the lines that rows of such a table become."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from eventferry.clock import EPOCH, MILLISECOND, is_cut, iso
from eventferry.errors import InputError
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import KEYS
from eventferry.lines.payload import ENCODER, compact
from eventferry.lines.refusal import shown

COLUMNS = tuple(KEYS.values())
"""Those of an export, in their order: the keys of a line."""

NEEDED = ("type", "timestamp", "aggregateId")
"""What an event is not complete without; `import` also needs the position and the version."""

NUMBERS = frozenset(("threadCounter", "threadId", "aggregateVersion"))

_WHOLE = re.compile(r"-?[0-9]{1,40}")


def moment_text(timestamp: int) -> str:
    """A timestamp in ISO 8601, in UTC, with milliseconds. Raises OverflowError beyond the years 1 to 9999."""
    return f"{iso(timestamp)}Z"


def timestamp_of(text: str) -> int:
    """The timestamp of a time in ISO 8601, or of milliseconds since 1970. Raises InputError."""
    if _WHOLE.fullmatch(text) is not None:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"must be a time such as 2026-01-31T12:00:00.000Z, or milliseconds since 1970, not {shown(text)!r}",
            field="timestamp",
        ) from None
    if moment.tzinfo is None:
        raise InputError(f"the time {shown(text)!r} has no time zone, such as Z", field="timestamp")
    timestamp, rest = divmod(moment - EPOCH, MILLISECOND)
    if rest or is_cut(text):
        raise InputError(f"the time {shown(text)!r} is finer than a millisecond", field="timestamp")
    return timestamp


def whole_number(text: str, column: str) -> int:
    """The number that a text is. Raises InputError."""
    if _WHOLE.fullmatch(text) is None:
        raise InputError(f"must be a whole number, not {shown(text)!r}", field=column)
    return int(text)


def payload_of(text: str) -> msgspec.Raw:
    """A payload as it is spelled, without white space between its tokens. Raises InputError."""
    try:
        payload = compact(text.encode())
    except msgspec.DecodeError:
        raise InputError("is not valid JSON", field="payload") from None
    if not payload:
        raise InputError("is empty: an event without payload has the payload null", field="payload")
    return msgspec.Raw(payload)


def refuse_columns(columns: Sequence[str], where: str) -> None:
    """Refuses a table whose columns are not those of events. `where` says where their names stand."""
    for column in columns:
        if column not in COLUMNS:
            raise InputError(
                f"{where} has a column {shown(column)!r}, which is none of an event: {', '.join(COLUMNS)}. "
                "A table of your own needs a mapping"
            )
        if columns.count(column) > 1:
            raise InputError(f"{where} has the column {column} twice")
    for column in NEEDED:
        if column not in columns:
            raise InputError(f"{where} lacks the column {column}")


class LineWriter:
    """Makes lines of rows. `columns` are those that the rows have, in the order of `COLUMNS`."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._is_placed = len(columns) == len(COLUMNS)
        self._decoder = LineDecoder()

    def lines(self, rows: Iterable[Sequence[Any]]) -> bytes:
        """The lines of rows; payloads are JSON texts. Raises RowError for the first that is no event."""
        events = [dict(zip(self._columns, row, strict=True)) for row in rows]
        lines = ENCODER.encode_lines(events)
        decode = self._decoder.whole_rows if self._is_placed else self._decoder.new_rows
        if events and decode(lines, len(events)) is None:
            for index, (event, line) in enumerate(zip(events, lines.split(b"\n"), strict=False)):
                try:
                    self._check(event, line)
                except InputError as error:
                    raise RowError(index, error) from None
        return lines

    def _check(self, event: dict[str, Any], line: bytes) -> None:
        if "payload" in event:
            try:
                msgspec.json.decode(event["payload"], type=msgspec.Raw)
            except msgspec.DecodeError:
                raise InputError("is not valid JSON", field="payload") from None
            except RecursionError:  # the line says more
                pass
        if self._is_placed:
            self._decoder.row(line)
        else:
            self._decoder.new_row(line)


class RowError(Exception):
    """A row is no event: its index among those that were given, and what is wrong."""

    def __init__(self, index: int, error: InputError) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error

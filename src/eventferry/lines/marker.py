"""The marker: the payload of an event whose own is in an archive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from eventferry.errors import InputError
from eventferry.lines.payload import JsonText

ID_LENGTH = 16
LENGTH = len('{"$archived":""}') + ID_LENGTH
"""Bytes of a marker. A payload that is no longer than that gains nothing from being archived."""

_MARKER = re.compile(rb'\{"\$archived": ?"([0-9a-f]{16})"\}')
_AT_THE_END = re.compile(rb'"payload": ?' + _MARKER.pattern + rb"\}$", re.MULTILINE)
_BEGINNING = b'{"$archived":'


def marker_of(archive: str) -> bytes:
    """What stands in place of a payload that was archived under this id, 16 hex digits."""
    return b'{"$archived":"%b"}' % archive.encode()


def archive_of(payload: JsonText) -> str | None:
    """The id of the archive that holds the payload; None where this is one itself."""
    found = _MARKER.fullmatch(payload) if len(payload) in (LENGTH, LENGTH + 1) else None
    return None if found is None else found[1].decode()


def archives_in(lines: bytes) -> set[str]:
    """The ids of the archives that hold the payloads of these whole lines."""
    return {found.decode() for found in _AT_THE_END.findall(lines)} if _BEGINNING in lines else set()


def archived_among(lines: bytes) -> list[bool] | None:
    """Of each of these whole lines, whether its payload is in an archive; None where none is."""
    if _BEGINNING not in lines:
        return None
    return [_AT_THE_END.search(line) is not None for line in lines.split(b"\n")[:-1]]


def refuse_marker(payload: JsonText, line: int | None = None) -> None:
    """Raises InputError for a marker on its way into a store: it leads nowhere there."""
    if archive_of(payload) is not None:
        raise InputError(
            "is the marker of an archived event, which no store takes in: recall the events first (eventferry archive "
            "recall), or leave them out (eventferry export --archived skip)",
            line=line,
            field="payload",
        )


def refuse_markers(rows: Sequence[tuple[Any, ...]], payload: int, line: int | None = None) -> None:
    """The same for many rows, whose payloads, and numbers of lines if they have any, stand in these places. Quick where
    no payload is just as long."""
    if LENGTH in map(len, map(itemgetter(payload), rows)):
        for row in rows:
            refuse_marker(row[payload], None if line is None else row[line])

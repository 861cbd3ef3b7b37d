"""Search: the events that hold a text, or a value in some place of their payloads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Protocol

import msgspec

from eventferry.changing.pointers import Pointer, parsed
from eventferry.database import Database, Filter
from eventferry.errors import RulesError, UsageError
from eventferry.lifecycle import aclosing
from eventferry.lines.damaged import seen_event, seen_lines
from eventferry.lines.event import Event
from eventferry.looking.scanning import Scan
from eventferry.reading.pages import PageLines

FOUND_BYTES = 16 * 1024 * 1024
"""Bytes of the lines of the events that a call gives, at most, after at least one."""

_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,9})?")
_HIDDEN = re.compile(r'["\\/\x00-\x1f]')


class SearchPage(msgspec.Struct, frozen=True, rename="camel"):
    """What a search has found.

    Attributes:
        events: in order.
        cursor: behind the last event that was looked at; the search goes on from there.
        scanned: how many events were looked at.
        is_end: whether the end of the store was reached.
    """

    events: list[Event]
    cursor: str
    scanned: int
    is_end: bool


class Needle:
    """A text that is looked for in JSON texts, without decoding them where they surely do not hold it. Upper and lower
    case are the same; for a text in ASCII those of ASCII letters, which is found ten times as fast."""

    def __init__(self, text: str) -> None:
        self._fold: Callable[[bytes], bytes] = bytes.lower if text.isascii() else _folded
        self._text = self._fold(_encoded(text))
        # An escape \\u may hide any character, the others only these.
        self._escape = b"\\" if _HIDDEN.search(text) else b"\\u"

    def may_be_in(self, json: bytes) -> bool:
        """Whether a string of a JSON text may hold it."""
        return self._text in self._fold(json) or self._escape in json

    def is_in(self, text: str) -> bool:
        """Whether a text holds it."""
        return self._text in self._fold(_encoded(text))


class Wanted(Protocol):
    """What is searched for."""

    @property
    def needles(self) -> Sequence[Needle]:
        """What every event holds that can match."""

    def matches(self, event: Event) -> bool:
        """Whether an event is one."""


class Holding:
    """Events that hold a text, or a value in some place of their payloads, or both.

    Args:
        text: stands in a type, an aggregateId, or a key or value of a payload. Upper and lower case are the same.
        path: a JSON Pointer into the payload; `*` stands for each member or element.
        value: what the pointer finds, as a JSON value; a string that is a number also finds that number, however it is
            written. If it is not given, any.
    """

    def __init__(self, text: str | None = None, path: str | None = None, value: Any = msgspec.UNSET) -> None:
        if text is None and path is None:
            raise UsageError("give a text or a path to search for")
        if text is not None and (not isinstance(text, str) or not text):
            raise UsageError(f"text must be a string that is not empty, not {text!r:.100}")
        if path is None and value is not msgspec.UNSET:
            raise UsageError("a value needs a path")
        try:
            self._pointer: Pointer | None = None if path is None else parsed(path)
        except RulesError as error:
            raise UsageError(f"path: {error}") from None
        self._text = None if text is None else Needle(text)
        self._value = value
        self._number = Decimal(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else None
        needles = (text, value if self._number is None else None)
        self.needles = [Needle(needle) for needle in needles if isinstance(needle, str)]

    def matches(self, event: Event) -> bool:
        """Whether an event is one."""
        if self._text is not None and not any(map(self._text.is_in, _texts_of(event))):
            return False
        return self._pointer is None or any(map(self._is_value, found_at(event.payload, self._pointer)))

    def _is_value(self, found: Any) -> bool:
        value = self._value
        if value is msgspec.UNSET:
            return True
        if isinstance(found, bool) != isinstance(value, bool):
            return False
        if self._number is not None and _is_number(found):
            return Decimal(_text_of(found)) == self._number
        return bool(found == value)


def typed_value(text: str) -> Any:
    """A value as a person types it: as JSON, but a number as a text, which finds both; and what is no JSON, as a text.
    Raises UsageError."""
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    except RecursionError:
        raise UsageError("a value to search for nests too deep") from None
    return text if _is_number(value) else value


async def search(
    database: Database, wanted: Wanted, only: Filter, cursor: str | None, limit: int, scan: int
) -> SearchPage:
    """The next events from a cursor on that match, at most `limit`, among the next `scan`."""
    walk = Scan(database, cursor, only, scan)
    found: list[Event] = []
    room = FOUND_BYTES
    async with aclosing(walk.pages()) as pages:
        async for lines in pages:
            for number, line in _candidates(wanted, lines):
                event = seen_event(line)
                if not walk.takes(event) or not wanted.matches(event):
                    continue
                found.append(event)
                room -= len(line)
                if len(found) == limit or room <= 0:
                    walk.stop(number)
                    return SearchPage(found, walk.cursor, walk.scanned, walk.is_end)
    return SearchPage(found, walk.cursor, walk.scanned, walk.is_end)


def _candidates(wanted: Wanted, page: PageLines) -> Iterator[tuple[int, bytes]]:
    """The lines that may match, with their numbers: most of them are told by their text, without decoding it."""
    needles = wanted.needles
    if all(needle.may_be_in(page.text) for needle in needles):
        for number, line in enumerate(seen_lines(page.text, page.number)):
            if all(needle.may_be_in(line) for needle in needles):
                yield number, line


def found_at(value: Any, pointer: Pointer) -> list[Any]:
    """What a pointer finds in a value."""
    found = [value]
    for token in pointer:
        found = [inner for each in found for inner in _inner(each, token)]
    return found


def _inner(value: Any, name: str | None) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values()) if name is None else [value[name]] if name in value else []
    if isinstance(value, list):
        if name is None:
            return value
        return [value[int(name)]] if _INDEX.fullmatch(name) and int(name) < len(value) else []
    return []


def _texts_of(event: Event) -> Iterator[str]:
    yield event.type
    yield event.aggregate_id
    waiting = [event.payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        else:
            yield value if isinstance(value, str) else _text_of(value)


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _folded(text: bytes) -> bytes:
    try:
        return _encoded(text.decode(errors="surrogatepass").casefold())
    except UnicodeDecodeError:  # a foreign writer let in what is no text
        return text.decode(errors="backslashreplace").casefold().encode()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _text_of(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else msgspec.json.encode(value).decode()

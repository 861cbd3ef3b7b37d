"""Lines: from blocks of bytes cut anywhere to whole lines with their places, and from lines to rows.

The place (line number, byte offset) is worked out only for the line that is wrong, so a right one pays
nothing for it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from eventferry.errors import InputError
from eventferry.lines.decoder import Line, LineDecoder
from eventferry.lines.event import NewRowValues, NumberedRow, Row

DEFAULT_MAX_LINE_BYTES = 256 * 1024 * 1024
"""How long a line may be by default; far above any event, far below what would take the machine down."""

BOM = codecs.BOM_UTF8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines that follow one another in the input, without the line feed of the last: from `byte_offset` on, where
    line number `line` begins, up to `end`."""

    text: bytes
    count: int
    line: int
    byte_offset: int
    end: int

    @property
    def texts(self) -> list[bytes]:
        """The bytes of each, without the line feed."""
        return self.text.split(b"\n") if self.count else []

    @property
    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """(line number, bytes) of each line that isn't blank."""
        for number, text in enumerate(self.texts, self.line):
            # Most lines begin with a brace: only others are looked at for being blank.
            if text and (text[0] > 32 or not text.isspace()):
                yield number, text

    def decoded(self, decode: Callable[[bytes], T]) -> Iterator[tuple[int, T]]:
        """(line number, what `decode` makes of it) for each line that isn't blank. An InputError comes out with its
        place."""
        for number, text in self.numbered:
            try:
                yield number, decode(text)
            except InputError as error:
                raise self.placed(error, number) from None

    def rows(self, decoder: LineDecoder) -> Iterable[NumberedRow]:
        """The row of each line that isn't blank: all at once, or where that cannot be, one by one. Raises
        InputError."""
        if self.count and (rows := decoder.rows(self.text + b"\n", self.count, self.line)) is not None:
            return rows
        return ((number, *row) for number, row in self.decoded(decoder.row))

    def whole_rows(self, decoder: LineDecoder) -> Iterable[tuple[int, Row]]:
        """The same as (line number, row), each with its payload as bytes of its own."""
        if self.count and (rows := decoder.whole_rows(self.text + b"\n", self.count)) is not None:
            return enumerate(rows, self.line)
        return self.decoded(decoder.row)

    def events(self, decoder: LineDecoder) -> tuple[Sequence[int], list[Line]]:
        """The line numbers, and the same as events."""
        if self.count and (events := decoder.events(self.text + b"\n", self.count)) is not None:
            return range(self.line, self.line + self.count), events
        found = dict(self.decoded(decoder.event))
        return list(found), list(found.values())

    def new_rows(self, decoder: LineDecoder) -> Iterable[NewRowValues]:
        """The same for lines whose position and version are ignored and may be missing, without their numbers."""
        if self.count and (rows := decoder.new_rows(self.text + b"\n", self.count)) is not None:
            return rows
        return (row for _, row in self.decoded(decoder.new_row))

    def placed(self, error: InputError, number: int) -> InputError:
        """The same error, with the place of line `number`."""
        before = self.texts[: number - self.line]
        offset = self.byte_offset + sum(map(len, before)) + len(before)
        return InputError(error.reason, line=number, byte_offset=offset, field=error.field)


class LineSplitter:
    """Cuts blocks of bytes, which may end anywhere, in the middle of a character too, into lines. The first block
    begins at `byte_offset` in the input, with the line of this number.

    A byte order mark at the start is dropped. What is not UTF-8, or longer than `max_line_bytes`, is refused by its
    place.
    """

    def __init__(
        self, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES, *, byte_offset: int = 0, line: int = 1
    ) -> None:
        self.max_line_bytes = max_line_bytes
        # Where the line that is still incomplete begins, and its number.
        self.byte_offset, self.line = byte_offset, line
        self._pieces: list[bytes] = []
        self._pending = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._at_start = byte_offset == 0

    def feed(self, block: bytes) -> Lines:
        """The lines that this block makes whole. Raises InputError."""
        if self._at_start:
            block = self._without_bom(block)
        self._check_utf8(block)
        head, found, tail = block.rpartition(b"\n")
        if not found:
            self._keep(block)
            return Lines(b"", 0, self.line, self.byte_offset, self.byte_offset)
        if self._pieces:
            head = self._taken(head)
        if len(head) > self.max_line_bytes:
            self._refuse_long(head.split(b"\n"))
        count = head.count(b"\n") + 1
        lines = Lines(head, count, self.line, self.byte_offset, self.byte_offset + len(head) + 1)
        self.line += count
        self.byte_offset = lines.end
        self._keep(tail)
        return lines

    def finish(self) -> Lines:
        """The last line, where the input did not end with a line feed."""
        if self._at_start:  # fewer bytes than a byte order mark has came in at all
            self._at_start = False
            self._check_utf8(b"".join(self._pieces))
        if self._utf8.getstate()[0]:
            raise InputError(
                "the input ends inside a character", line=self.line, byte_offset=self.byte_offset
            )
        rest = self._taken()
        end = self.byte_offset + len(rest)
        return Lines(rest, 1 if rest else 0, self.line, self.byte_offset, end)

    def _taken(self, more: bytes = b"") -> bytes:
        """What was kept, and more behind it; nothing is kept then."""
        whole = b"".join((*self._pieces, more))
        self._pieces.clear()
        self._pending = 0
        return whole

    def _without_bom(self, block: bytes) -> bytes:
        start = self._taken(block)
        if len(start) < len(BOM) and BOM.startswith(start):
            self._pieces.append(start)
            return b""
        self._at_start = False
        if start.startswith(BOM):
            self.byte_offset += len(BOM)
        return start.removeprefix(BOM)

    def _keep(self, tail: bytes) -> None:
        if tail:
            self._pieces.append(tail)
            self._pending += len(tail)
        if self._pending > self.max_line_bytes:
            self._refuse_long([b"".join(self._pieces)])

    def _refuse_long(self, texts: list[bytes]) -> None:
        """Refuses the first of the next lines that is too long, if one is."""
        offset = self.byte_offset
        for number, text in enumerate(texts, start=self.line):
            if len(text) > self.max_line_bytes:
                raise InputError(
                    f"the line is longer than {self.max_line_bytes} bytes (the setting max_line_bytes)",
                    line=number,
                    byte_offset=offset,
                )
            offset += len(text) + 1

    def _check_utf8(self, block: bytes) -> None:
        try:
            self._utf8.decode(block)
        except UnicodeDecodeError as error:
            # The decoder may have carried bytes of a cut character over from the block before.
            whole = b"".join((*self._pieces, block))
            position = max(len(whole) - len(error.object) + error.start, 0)
            before = whole[:position]
            start = before.rfind(b"\n") + 1
            raise InputError(
                f"byte {self.byte_offset + position} is not UTF-8: {error.reason}",
                line=self.line + before.count(b"\n"),
                byte_offset=self.byte_offset + start,
            ) from None


_TOKEN = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


class ArraySplitter:
    """Cuts one JSON array into the texts of its elements, block by block, so that its size doesn't matter. The first
    block begins at `byte_offset`; an element longer than `max_element_bytes` is refused by its place.

    Only brackets, commas and strings are followed here; whether an element is JSON is for its decoder to say.
    """

    def __init__(self, max_element_bytes: int = DEFAULT_MAX_LINE_BYTES, *, byte_offset: int = 0) -> None:
        self.max_element_bytes = max_element_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = bytearray()  # grows in place: an element may come in very many blocks
        self._at = 0  # how far `_text` has been looked at
        self._depth = 0
        self._in_string = False
        self._ended = False
        self._elements = 0
        self._after_comma = False
        self._offset = byte_offset  # of `_text` in the input

    def feed(self, block: bytes) -> list[tuple[int, int, bytes]]:
        """(place from 1, byte offset, text) of each element that this block makes whole."""
        try:
            self._utf8.decode(block)
        except UnicodeDecodeError as error:
            whole = bytes(self._text) + block
            good = whole[: max(len(whole) - len(error.object) + error.start, 0)]
            self._scan(good[len(self._text) :])  # to know which element it stands in
            raise self._error(f"is not UTF-8: {error.reason}", 0) from None
        return self._scan(block)

    def _scan(self, block: bytes) -> list[tuple[int, int, bytes]]:
        self._text += block
        found: list[tuple[int, int, bytes]] = []
        start = 0
        while not self._ended:
            if self._in_string:
                rest = _IN_STRING.match(self._text, self._at)
                self._at = rest.end() if rest is not None else self._at
                if (
                    self._text[self._at : self._at + 1] != b'"'
                ):  # it, or what is escaped, comes with the next block
                    break
                self._in_string = False
                self._at += 1
                continue
            if (match := _TOKEN.search(self._text, self._at)) is None:
                self._at = len(self._text)
                break
            self._at = match.end()
            token = match[0]
            if token == b'"':
                self._in_string = True
            elif token in b"[{":
                self._depth += 1
                if self._depth == 1:
                    self._refuse_unless_blank(
                        self._text[start : match.start()].removeprefix(BOM), "before the array"
                    )
                    start = self._at
            elif token in b"]}":
                self._depth -= 1
                if self._depth == 0:
                    if token == b"}":
                        raise self._error("the array ends with a brace", start)
                    self._ended = True
                    last = self._text[start : match.start()]
                    if last and not last.isspace():
                        found.append(self._element(start, last))
                    elif self._after_comma:
                        raise self._error("the array has a comma with nothing behind it", start)
                    start = self._at
            elif self._depth == 1:  # a comma
                found.append(self._element(start, self._text[start : match.start()]))
                self._after_comma = True
                start = self._at
        del self._text[:start]
        self._offset += start
        self._at -= start
        if self._ended:
            self._refuse_unless_blank(self._text, "behind the array")
            self._text.clear()
        elif len(self._text) > self.max_element_bytes:
            raise self._error(f"the element is longer than {self.max_element_bytes} bytes", 0)
        return found

    def finish(self) -> None:
        """Refuses an array that is not closed."""
        if not self._ended:
            raise self._error("the input ends inside the array", 0)

    def _element(self, start: int, text: bytearray) -> tuple[int, int, bytes]:
        if len(text) > self.max_element_bytes:
            raise self._error(f"the element is longer than {self.max_element_bytes} bytes", start)
        self._elements += 1
        return self._elements, self._offset + start, bytes(text)

    def _refuse_unless_blank(self, text: bytes | bytearray, where: str) -> None:
        if text and not text.isspace():
            raise self._error(f"there is something {where}", 0)

    def _error(self, reason: str, at: int) -> InputError:
        return InputError(reason, line=self._elements + 1, byte_offset=self._offset + at, unit="element")

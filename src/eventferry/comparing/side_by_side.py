"""Reads two sources side by side and matches their rows; matched rows are dropped.

Unmatched rows wait in memory, and beyond a limit in temporary files. So memory is bounded, in whatever order the rows
come and however much the sources differ.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from eventferry.comparing.spill import Spill
from eventferry.errors import InputError
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.piping import Source, blocks_of

R = TypeVar("R")
D = TypeVar("D")

Side: TypeAlias = Literal[0, 1]
SIDES: tuple[Side, Side] = (0, 1)

WAITING_BYTES = 48 * 1024 * 1024
"""Size of the rows that may wait in memory; with Python's overhead it is about twice as much."""

FIRST = 10  # how many differences are reported one by one

DifferenceKind: TypeAlias = Literal["missing", "extra", "changed"]
# The kind of difference of an unmatched row, by its side.
_ALONE: tuple[DifferenceKind, DifferenceKind] = ("missing", "extra")
_AT_ONCE = 1024  # how many lines of each side are read between two checks of the waiting size


class Comparison(Generic[R, D]):
    """The rows of both sides that have not been matched yet, and the differences found so far.

    Rows with the same key match, one with one, even if they differ otherwise. What a row and a difference are, a
    subclass says; `shape` is the msgspec type of a row, and `decode` makes one of a line.
    """

    def __init__(self, shape: Any, decode: Callable[[bytes], R]) -> None:
        self._decode = decode
        self._shape = tuple[shape, Side]
        self._spill: Spill[tuple[R, Side]] = Spill(self._shape, key=lambda record: self.value(record[0]))
        self._sides: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        self._waiting = 0  # bytes, approximately
        self._counts: dict[str, int] = {"missing": 0, "extra": 0, "changed": 0}
        self._first: list[D] = []

    def key(self, row: R) -> Hashable:
        """Rows with the same one match."""
        raise NotImplementedError

    def value(self, row: R) -> Hashable:
        """Only rows with the same one can match: they go to the same temporary file."""
        return self.key(row)

    def size(self, row: R) -> int:
        """Of a row in memory, in bytes, approximately."""
        raise NotImplementedError

    def are_equal(self, row: R, other: R) -> bool:
        """Whether two rows match and do not differ; for those at the same place, before either waits."""
        raise NotImplementedError

    def difference(self, kind: DifferenceKind, row: R, other: R) -> D | None:
        """What a row of the first source and one of the second with its key differ in; of an unmatched row, both are
        it."""
        raise NotImplementedError

    def tell(self, difference: D, row: R, other: R) -> None:
        """Called with each difference as it is found, and with what `difference` was made of."""

    def place(self, difference: D) -> tuple[Any, ...]:
        """The sort key of a difference."""
        raise NotImplementedError

    def add(self, row: R, side: Side) -> None:
        """Match a row with a waiting one, or let it wait."""
        key, others = self.key(row), self._sides[1 - side]
        waiting = others.get(key)
        if waiting is None:
            self._sides[side].setdefault(key, []).append(row)
            self._waiting += self.size(row)
            return
        other = waiting.pop(0)
        if not waiting:
            del others[key]
        self._waiting -= self.size(other)
        if row != other:
            self._note("changed", *((other, row) if side else (row, other)))

    def waiting(self, side: Side) -> Iterator[R]:
        """The waiting rows of a side."""
        for rows in self._sides[side].values():
            yield from rows

    async def run(self, source: Source, other: Source, waiting_bytes: int) -> tuple[int, int]:
        """Read both sources in turns and match all rows; returns the number of rows of each. If both have the same
        bytes at the same place, only one of the two lines is decoded. Raises InputError."""
        with self._spill as spill:
            async with AsyncExitStack() as stack:
                left, right = _Lines(blocks_of(source), stack), _Lines(blocks_of(other), stack)
                while (has_left := await left.fill()) & (has_right := await right.fill()):
                    self._add_pairs(left, right)
                    self._put_away(waiting_bytes)
                for lines, side, has_more in ((left, SIDES[0], has_left), (right, SIDES[1], has_right)):
                    while has_more:
                        self._add_all(lines, side)
                        self._put_away(waiting_bytes)
                        has_more = await lines.fill()
            if spill.is_used:
                self._put_away(-1)
            for size, records in spill.sized_files():
                if size <= waiting_bytes:
                    self._match(records)
                else:
                    self._match_apart(records)
        self._note_rest()
        return left.count, right.count

    def outcome(self) -> dict[str, Any]:
        """What every report says, by its fields."""
        is_equal = not any(self._counts.values())
        return dict(self._counts, equal=is_equal, differences=self._least())

    def _add_pairs(self, left: _Lines, right: _Lines) -> None:
        """Compare as many lines as both sides have available."""
        size = min(left.left, right.left, _AT_ONCE)
        ours, theirs = left.take(size), right.take(size)
        decode, are_equal = self._decode, self.are_equal
        lines, number = left, 0
        try:
            for number, text in enumerate(ours):
                lines = left
                row = decode(text)
                if text == theirs[number]:
                    continue
                lines = right
                other = decode(theirs[number])
                if not are_equal(row, other):
                    self.add(row, 0)
                    self.add(other, 1)
        except InputError as error:
            raise lines.placed(error, lines.at - size + number) from None

    def _add_all(self, lines: _Lines, side: Side) -> None:
        start = lines.at
        for place, text in enumerate(lines.take(min(lines.left, _AT_ONCE)), start):
            try:
                row = self._decode(text)
            except InputError as error:
                raise lines.placed(error, place) from None
            self.add(row, side)

    def _put_away(self, most: int) -> None:
        """Write the waiting rows to temporary files if they are larger than this."""
        if self._waiting > most:
            for side in SIDES:
                self._spill.put((row, side) for row in self.waiting(side))
            self._sides, self._waiting = ({}, {}), 0

    def _match(self, records: Iterator[tuple[R, Side]]) -> None:
        """Match rows of which none matches any that are not among them."""
        for row, side in records:
            self.add(row, side)
        self._note_rest()

    def _match_apart(self, records: Iterator[tuple[R, Side]]) -> None:
        """The same where they may be too many for memory, and all of one value: the n-th of a side matches the n-th of
        the other."""
        counts: Counter[tuple[Hashable, Side]] = Counter()

        def place(record: tuple[R, Side]) -> Hashable:
            row, side = record
            value = self.value(row)
            counts[value, side] += 1
            return value, counts[value, side]

        with Spill[tuple[R, Side]](self._shape, place) as spill:
            spill.put(records)
            for part in spill.files():
                self._match(part)

    def _note_rest(self) -> None:
        """What waits still is matched by nothing."""
        for side in SIDES:
            for row in self.waiting(side):
                self._note(_ALONE[side], row, row)
        self._sides, self._waiting = ({}, {}), 0

    def _note(self, kind: DifferenceKind, row: R, other: R) -> None:
        difference = self.difference(kind, row, other)
        if difference is not None:
            self._counts[kind] += 1
            self.tell(difference, row, other)
            self._first.append(difference)
            if len(self._first) >= 100 * FIRST:
                self._first = self._least()

    def _least(self) -> list[D]:
        return heapq.nsmallest(FIRST, self._first, key=self.place)


class _Lines:
    """The lines of a source without blank ones, block by block."""

    def __init__(self, blocks: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        self._blocks = blocks
        if hasattr(blocks, "aclose"):
            stack.push_async_callback(blocks.aclose)
        self._splitter = LineSplitter()
        self._lines = Lines(b"", 0, 1, 0, 0)
        self._texts: list[bytes] = []
        self._is_over = False
        self.at = 0
        self.count = 0

    @property
    def left(self) -> int:
        return len(self._texts) - self.at

    async def fill(self) -> bool:
        """Make lines available; False at the end of the source."""
        while self.at == len(self._texts):
            if self._is_over:
                return False
            block = await anext(self._blocks, None)
            self._is_over = block is None
            self._lines = self._splitter.finish() if block is None else self._splitter.feed(block)
            # Not by `numbered`, which takes longer.
            self._texts = [
                text for text in self._lines.texts if text and (text[0] > 32 or not text.isspace())
            ]
            self.at = 0
            self.count += len(self._texts)
        return True

    def take(self, size: int) -> list[bytes]:
        self.at += size
        return self._texts[self.at - size : self.at]

    def placed(self, error: InputError, place: int) -> InputError:
        """The error with its line number and offset; `place` counts the lines of this block without blank ones."""
        return self._lines.placed(error, [number for number, _ in self._lines.numbered][place])

"""Reads two sources side by side and matches their rows; matched rows are dropped.

Unmatched rows wait in memory, and beyond a limit in temporary files. So memory is bounded, in whatever order the rows
come and however much the sources differ.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from eventferry.comparing.spill import Spill
from eventferry.errors import InputError
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.piping import Source, blocks_of

R = TypeVar("R")

Side: TypeAlias = Literal[0, 1]
SIDES: tuple[Side, Side] = (0, 1)

WAITING_BYTES = 48 * 1024 * 1024
"""Size of the rows that may wait in memory; with Python's overhead it is about twice as much."""

FIRST = 10
"""How many differences are reported one by one."""

Kind: TypeAlias = Literal["missing", "extra", "changed"]
ALONE: tuple[Kind, Kind] = ("missing", "extra")
"""The kind of difference of an unmatched row, by its side."""

_AT_ONCE = 1024
"""How many lines of each side are read between two checks of the waiting size."""


class Finding(Protocol):
    """A difference of any type."""

    @property
    def kind(self) -> Kind:
        """The kind of difference."""


D = TypeVar("D", bound=Finding)


class Findings(Generic[D]):
    """The number of differences of each kind, and the first ones.

    Args:
        place: the sort key of a difference.
    """

    def __init__(self, place: Callable[[D], tuple[Any, ...]]) -> None:
        self.counts: dict[Kind, int] = {"missing": 0, "extra": 0, "changed": 0}
        self._place = place
        self._first: list[D] = []

    def note(self, difference: D) -> None:
        """Count a difference, and keep it if it is among the first."""
        self.counts[difference.kind] += 1
        self._first.append(difference)
        if len(self._first) >= 100 * FIRST:
            self._first = self.first

    @property
    def first(self) -> list[D]:
        """The first differences, in order."""
        return heapq.nsmallest(FIRST, self._first, key=self._place)

    @property
    def are_none(self) -> bool:
        """Whether there are no differences."""
        return not any(self.counts.values())


class Comparison(Generic[R]):
    """The rows of both sides that have not been matched yet.

    Attributes:
        waiting: their approximate size in bytes.
    """

    waiting: int = 0

    def are_equal(self, row: R, other: R) -> bool:
        """Whether two rows match; for rows that come at the same place, before either waits."""
        raise NotImplementedError

    def add(self, row: R, side: Side) -> None:
        """Match a row with a waiting one, or let it wait."""
        raise NotImplementedError

    def take(self) -> Iterator[tuple[R, Side]]:
        """Remove and return all waiting rows."""
        raise NotImplementedError

    def note_alone(self, row: R, side: Side) -> None:
        """Note an unmatched row."""
        raise NotImplementedError


class ByKey(Comparison[R]):
    """Rows with the same key match, one with one, even if they differ otherwise.

    Args:
        key: of a row.
        size: of a row, in bytes, approximately.
    """

    def __init__(self, key: Callable[[R], Hashable], size: Callable[[R], int]) -> None:
        self._key_of = key
        self._size_of = size
        self._sides: tuple[dict[Hashable, list[R]], dict[Hashable, list[R]]] = ({}, {})

    def note_changed(self, row: R, other: R) -> None:
        """Note the differences, if any, between a row of the first source and one of the second with its key."""
        raise NotImplementedError

    def add(self, row: R, side: Side) -> None:
        """Match a row with a waiting one, or let it wait."""
        key, others = self._key_of(row), self._sides[1 - side]
        waiting = others.get(key)
        if waiting is None:
            self._sides[side].setdefault(key, []).append(row)
            self.waiting += self._size_of(row)
            return
        other = waiting.pop(0)
        if not waiting:
            del others[key]
        self.waiting -= self._size_of(other)
        self.note_changed(*((other, row) if side else (row, other)))

    def take(self) -> Iterator[tuple[R, Side]]:
        """Remove and return all waiting rows."""
        sides, self._sides, self.waiting = self._sides, ({}, {}), 0
        for side in SIDES:
            for rows in sides[side].values():
                for row in rows:
                    yield row, side


async def compare(
    source: Source,
    other: Source,
    decode: Callable[[bytes], R],
    comparison: Comparison[R],
    spill: Spill[tuple[R, Side]],
    waiting_bytes: int,
) -> tuple[int, int]:
    """Read both sources in turns and match all rows; returns the number of rows of each.

    If both have the same bytes at the same place, only one of the two lines is decoded.

    Raises:
        InputError: a line cannot be decoded.
    """
    async with AsyncExitStack() as stack:
        left, right = _Lines(blocks_of(source), stack), _Lines(blocks_of(other), stack)
        while (has_left := await left.fill()) & (has_right := await right.fill()):
            _compare_pairs(left, right, decode, comparison)
            if comparison.waiting > waiting_bytes:
                spill.put(comparison.take())
        for lines, side, has_more in ((left, SIDES[0], has_left), (right, SIDES[1], has_right)):
            while has_more:
                for row in lines.rows(decode):
                    comparison.add(row, side)
                if comparison.waiting > waiting_bytes:
                    spill.put(comparison.take())
                has_more = await lines.fill()
    if spill.is_used:
        spill.put(comparison.take())
        for rows in spill.files():
            for row, side in rows:
                comparison.add(row, side)
            _note_rest(comparison)
    else:
        _note_rest(comparison)
    return left.count, right.count


def _note_rest(comparison: Comparison[R]) -> None:
    for row, side in comparison.take():
        comparison.note_alone(row, side)


def _compare_pairs(
    left: _Lines, right: _Lines, decode: Callable[[bytes], R], comparison: Comparison[R]
) -> None:
    """Compare as many lines as both sides have available."""
    size = min(left.left, right.left, _AT_ONCE)
    ours, theirs = left.take(size), right.take(size)
    lines, number = left, 0
    try:
        for number, text in enumerate(ours):
            lines = left
            row = decode(text)
            if text == theirs[number]:
                continue
            lines = right
            other = decode(theirs[number])
            if not comparison.are_equal(row, other):
                comparison.add(row, 0)
                comparison.add(other, 1)
    except InputError as error:
        raise lines.placed(error, lines.at - size + number) from None


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
        """How many lines are available."""
        return len(self._texts) - self.at

    async def fill(self) -> bool:
        """Make lines available; False at the end of the source."""
        while self.at == len(self._texts):
            if self._is_over:
                return False
            block = await anext(self._blocks, None)
            self._is_over = block is None
            self._lines = self._splitter.finish() if block is None else self._splitter.feed(block)
            # Most lines begin with a brace: only others may be blank.
            self._texts = [
                text for text in self._lines.texts if text and (text[0] > 32 or not text.isspace())
            ]
            self.at = 0
            self.count += len(self._texts)
        return True

    def take(self, size: int) -> list[bytes]:
        """Take the next lines."""
        self.at += size
        return self._texts[self.at - size : self.at]

    def rows(self, decode: Callable[[bytes], R]) -> Iterator[R]:
        """Decode some of the available lines."""
        start = self.at
        for place, text in enumerate(self.take(min(self.left, _AT_ONCE)), start):
            try:
                row = decode(text)
            except InputError as error:
                raise self.placed(error, place) from None
            yield row

    def placed(self, error: InputError, place: int) -> InputError:
        """The error with its line number and offset; `place` counts the lines of this block without blank ones."""
        numbers = [
            number
            for number, text in enumerate(self._lines.texts, start=self._lines.line)
            if text and not text.isspace()
        ]
        return self._lines.placed(error, numbers[place])

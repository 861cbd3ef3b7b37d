"""Two sources of lines side by side: what has met its equal is forgotten.

What waits for its equal waits in memory, and beyond a bound in files, so that two sources in any order, however
unlike, take no more.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterator
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
"""How much may wait in memory, as it is counted here; with what Python adds it is about twice as much."""

FIRST = 10
"""How many differences are told one by one."""

Kind: TypeAlias = Literal["missing", "extra", "changed"]
ALONE: tuple[Kind, Kind] = ("missing", "extra")
"""What a row without an equal is, by its side."""

_AT_ONCE = 1024
"""How many lines of each side are looked at between two looks at how much waits."""


class Finding(Protocol):
    """A difference, of whatever."""

    @property
    def kind(self) -> Kind:
        """What it is."""


D = TypeVar("D", bound=Finding)


class Findings(Generic[D]):
    """The differences: how many of each kind, and the first of all.

    Args:
        place: where a difference stands among others.
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
        """Whether there is no difference."""
        return not any(self.counts.values())


class Comparison(Generic[R]):
    """The rows of two sides that have not met their equal yet.

    Attributes:
        waiting: about how many bytes they take.
    """

    waiting: int = 0

    def are_equal(self, row: R, other: R) -> bool:
        """Whether two rows are no difference; for rows that came side by side, before either waits."""
        raise NotImplementedError

    def add(self, row: R, side: Side) -> None:
        """Let a row meet its equal, or wait for it."""
        raise NotImplementedError

    def take(self) -> Iterator[tuple[R, Side]]:
        """All rows that wait; none waits any more."""
        raise NotImplementedError

    def note_alone(self, row: R, side: Side) -> None:
        """A row has no equal."""
        raise NotImplementedError


async def meet(
    source: Source,
    other: Source,
    decode: Callable[[bytes], R],
    comparison: Comparison[R],
    spill: Spill[tuple[R, Side]],
    waiting_bytes: int,
) -> tuple[int, int]:
    """Read both to their ends, in turns, and let all rows meet; how many each side had.

    Two lines of the same bytes have met as soon as they are seen, and one of them need not be read.

    Raises:
        InputError: a line is no row.
    """
    async with AsyncExitStack() as stack:
        left, right = _Lines(blocks_of(source), stack), _Lines(blocks_of(other), stack)
        while (has_left := await left.fill()) & (has_right := await right.fill()):
            _pair(left, right, decode, comparison)
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
            _end(comparison)
    else:
        _end(comparison)
    return left.count, right.count


def _end(comparison: Comparison[R]) -> None:
    for row, side in comparison.take():
        comparison.note_alone(row, side)


def _pair(left: _Lines, right: _Lines, decode: Callable[[bytes], R], comparison: Comparison[R]) -> None:
    """Take as many lines of both sides as both have."""
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
    """The lines of a source that are not blank, block by block."""

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
        """How many lines are at hand."""
        return len(self._texts) - self.at

    async def fill(self) -> bool:
        """Have lines at hand; False where there are no more."""
        while self.at == len(self._texts):
            if self._is_over:
                return False
            block = await anext(self._blocks, None)
            self._is_over = block is None
            self._lines = self._splitter.finish() if block is None else self._splitter.feed(block)
            # Most lines begin with a brace: only others are looked at for being blank.
            self._texts = [
                text for text in self._lines.texts if text and (text[0] > 32 or not text.isspace())
            ]
            self.at = 0
            self.count += len(self._texts)
        return True

    def take(self, size: int) -> list[bytes]:
        """The next lines."""
        self.at += size
        return self._texts[self.at - size : self.at]

    def rows(self, decode: Callable[[bytes], R]) -> Iterator[R]:
        """The rows of some of the lines at hand."""
        start = self.at
        for place, text in enumerate(self.take(min(self.left, _AT_ONCE)), start):
            try:
                row = decode(text)
            except InputError as error:
                raise self.placed(error, place) from None
            yield row

    def placed(self, error: InputError, place: int) -> InputError:
        """The error with the place of a line, given as its place among those of this block that are not blank."""
        numbers = [
            number
            for number, text in enumerate(self._lines.texts, start=self._lines.line)
            if text and not text.isspace()
        ]
        return self._lines.placed(error, numbers[place])

"""Two sources of lines, of which the second is read no further than the first: where it goes on growing."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator


class Abreast:
    """Gives all lines of the first source, and as many of the second, without blank ones in either. They may be read by
    turns in any way: what the second needs to know of the first is read, and waits."""

    def __init__(self, first: AsyncIterator[bytes], second: AsyncIterator[bytes]) -> None:
        self._first = _whole(first)
        self._second = _whole(second)
        self._waiting: deque[bytes] = deque()
        self._lead = 0  # lines that were read of the first and not given of the second

    async def first(self) -> AsyncGenerator[bytes, None]:
        """All of it."""
        while self._waiting or await self._read():
            yield self._waiting.popleft()

    async def _read(self) -> bool:
        lines = await anext(self._first, None)
        if lines is None:
            return False
        self._waiting.append(lines)
        self._lead += lines.count(b"\n")
        return True

    async def second(self) -> AsyncGenerator[bytes, None]:
        """As many lines."""
        async for lines in self._second:
            rest = lines
            while rest:
                while not self._lead:
                    if not await self._read():
                        return
                some, rest = _cut(rest, self._lead)
                self._lead -= some.count(b"\n")
                yield some


async def _whole(blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Blocks of whole lines, the last one too."""
    begun: list[bytes] = []
    async for block in blocks:
        lines, end, rest = block.rpartition(b"\n")
        if end:
            yield b"".join((*begun, lines, end))
            begun = []
        if rest:
            begun.append(rest)
    if begun:
        yield b"".join((*begun, b"\n"))


def _cut(lines: bytes, most: int) -> tuple[bytes, bytes]:
    """The first of these lines, and the rest."""
    if lines.count(b"\n") <= most:
        return lines, b""
    end = 0
    for _ in range(most):
        end = lines.index(b"\n", end) + 1
    return lines[:end], lines[end:]

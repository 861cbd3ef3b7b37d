"""The end mark: a last line that says how many events stand before it, so that a pipe that was cut cannot look whole.

An export that dies ends inside an event, which an import refuses. But a program between the two may drop that half
line: jq does, sed adds the line feed that is missing. Then what came looks like all there was. `set -o pipefail` does
not help: it tells of the failure when the import has ended, and the events are stored.

The mark is a line of its own, `{"endMark":{"events":N,"crc32":"…"}}`: the number of lines before it, and the CRC-32
(ISO 3309, as in gzip) of their bytes with their line feeds, in hex. The CRC-32 shows damage, not forgery.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import msgspec

from eventferry.errors import EndMarkError
from eventferry.lines.files import Blocks

_BEGIN = b'{"endMark":'

_MOST = 200  # bytes of a mark


class _Facts(msgspec.Struct, forbid_unknown_fields=True):
    events: int
    crc32: str


class _Mark(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    end_mark: _Facts


class _Sum:
    """Of the lines so far."""

    def __init__(self) -> None:
        self.events = 0
        self._crc = 0

    def add(self, lines: bytes) -> None:
        self.events += lines.count(b"\n")
        self._crc = zlib.crc32(lines, self._crc)

    @property
    def crc32(self) -> str:
        return f"{self._crc:08x}"


async def mark_end(blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """A transform for `pipeline`: adds the end mark behind the lines of an export. Only an end that is the proper one
    gets it."""
    found = _Sum()
    async for block in blocks:
        found.add(block)
        yield block
    yield msgspec.json.encode(_Mark(_Facts(found.events, found.crc32))) + b"\n"


class CheckEnd:
    """A transform for `pipeline`: takes the end mark off, and sees whether what stands before it is what was exported.

    Args:
        required: refuse an input without a mark.
        filtered: programs on the way filter or change events: only the mark itself must have come.

    Raises:
        EndMarkError: the mark is missing, or is not the last line; or there are fewer or other events than it says.
    """

    def __init__(self, *, required: bool = False, filtered: bool = False) -> None:
        self._required = required
        self._filtered = filtered

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The blocks without the mark. What looks like one is held back until it is known to be the end."""
        found = _Sum()
        held = b""
        is_at_start = True  # of a line
        async for block in blocks:
            text = held + block if held else block
            last = text.rfind(b"\n", 0, -1) + 1
            may_be_mark = (last or is_at_start) and text[last : last + len(_BEGIN)] == _BEGIN[
                : len(text) - last
            ]
            cut = last if may_be_mark and len(text) - last <= _MOST else len(text)
            held = text[cut:]
            if cut:
                if (is_at_start and text.startswith(_BEGIN)) or text.find(b"\n" + _BEGIN, 0, cut) >= 0:
                    raise EndMarkError(
                        "an end mark stands in the middle: several exports were joined. Import them one after the "
                        "other, or export without --end-mark"
                    )
                text = text[:cut]
                is_at_start = text.endswith(b"\n")
                found.add(text)
                yield text
        if held.startswith(_BEGIN):
            self._check(_parsed(held), found)
        elif self._required:
            raise EndMarkError(
                "the input has no end mark: it was cut off on the way, or exported without --end-mark. Nothing of it "
                "was stored"
            )
        elif held:
            yield held

    def _check(self, mark: _Facts, found: _Sum) -> None:
        if self._filtered:
            return
        if found.events != mark.events:
            raise EndMarkError(
                f"{mark.events:,} events were exported, and {found.events:,} came: something was lost on the way, or a "
                "program there filters events (then say --filtered). Nothing of it was stored"
            )
        if found.crc32 != mark.crc32:
            raise EndMarkError(
                f"{mark.events:,} events were exported, and as many came, but not the same bytes: a program on the way "
                "changes them (then say --filtered), or they were damaged. Nothing of it was stored"
            )


class CheckedLines(AsyncIterator[bytes]):
    """Lines of a file whose end mark is checked, if they have one or must."""

    def __init__(self, blocks: Blocks, end: CheckEnd | None = None) -> None:
        self._blocks = blocks
        self._lines = (end or CheckEnd())(blocks)

    @property
    def is_unchecked(self) -> bool:
        """Whether damage may go unnoticed."""
        return self._blocks.is_unchecked

    def __aiter__(self) -> CheckedLines:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._lines)

    async def aclose(self) -> None:
        """End now; twice is fine."""
        await self._lines.aclose()
        await self._blocks.aclose()


def ends_with_mark(path: Path) -> bool:
    """Whether the last line of a file is an end mark."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _MOST, 0))
        return file.read().rstrip(b"\n").rpartition(b"\n")[2].startswith(_BEGIN)


def _parsed(line: bytes) -> _Facts:
    try:
        return msgspec.json.decode(line, type=_Mark).end_mark
    except msgspec.MsgspecError:
        raise EndMarkError(
            "the end mark is damaged or cut off: what comes before it may be too. Nothing of it was stored"
        ) from None

"""Conversions: transforms between lines and other formats, which work in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol


class Codec(Protocol):
    """Turns blocks of one format, cut anywhere, into blocks of another."""

    def feed(self, block: bytes) -> bytes:
        """What this block makes whole; empty where that is nothing yet."""

    def finish(self) -> bytes:
        """What comes at the end."""


class Unchanged:
    """The codec of what stays as it is."""

    def feed(self, block: bytes) -> bytes:
        """The same block."""
        return block

    def finish(self) -> bytes:
        """Nothing."""
        return b""


class Conversion:
    """A transform for `pipeline`, also for that of `eventferry.sync`. It can be used any number of times.

    Attributes:
        codec: makes the codec of one use.
    """

    def __init__(self, codec: Callable[[], Codec]) -> None:
        self.codec = codec

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """The blocks in the other format."""
        codec = self.codec()
        async for block in blocks:
            if converted := await asyncio.to_thread(codec.feed, block):
                yield converted
        if converted := await asyncio.to_thread(codec.finish):
            yield converted

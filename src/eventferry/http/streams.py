"""Streamed answers: blocks are sent as fast as the client receives them, and only one is in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventferry.http.packing import compressor
from eventferry.lifecycle import end_tasks, to_the_end

T = TypeVar("T")

log = logging.getLogger("eventferry.http")

LINES = "application/x-ndjson"

PIECE = 64 * 1024
"""Bytes that are sent at once. A client that does not receive this much within the timeout is too slow."""


class CutError(Exception):
    """An answer was cut. The server then closes the connection, so that the client notices."""


class LinesResponse(Response):
    """Lines, streamed from a store; of this media type, by default JSON Lines.

    The client must receive each piece within `timeout` seconds. `ended` is called at the end, whatever happens.
    """

    def __init__(
        self,
        blocks: AsyncIterator[bytes],
        *,
        media_type: str = LINES,
        headers: Mapping[str, str] | None = None,
        timeout: float,
        ended: Callable[[], Awaitable[None]],
        coding: str = "identity",
    ) -> None:
        super().__init__(
            media_type=media_type,
            headers={"Cache-Control": "no-store", **(headers or {})}
            | ({} if coding == "identity" else {"Content-Encoding": coding}),
        )
        del self.headers["content-length"]
        self._blocks = _packed(blocks, coding)
        self._timeout = timeout
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines. Raises CutError if not all can be sent."""
        gone = asyncio.create_task(until_gone(receive))
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            if scope["method"] != "HEAD":
                while (block := await first_of(anext(self._blocks, None), gone)) is not None:
                    await self._give(block, send, gone)
                if gone.done():
                    raise _gone()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except CutError:
            raise
        except Exception as error:
            log.warning("an answer was cut: %s: %s", type(error).__name__, error)
            raise CutError(type(error).__name__) from error
        finally:
            await to_the_end(self._end(gone))

    async def _end(self, gone: asyncio.Task[None]) -> None:
        await end_tasks(gone)
        try:
            await self._blocks.aclose()
        finally:
            await self._ended()

    async def _give(self, block: bytes, send: Send, gone: asyncio.Task[None]) -> None:
        view = memoryview(block)
        for start in range(0, len(block), PIECE):
            if gone.done():
                raise _gone()
            try:
                async with asyncio.timeout(self._timeout):
                    await send(
                        {
                            "type": "http.response.body",
                            "body": bytes(view[start : start + PIECE]),
                            "more_body": True,
                        }
                    )
            except TimeoutError:
                raise CutError(f"the client received nothing for {self._timeout:g} seconds") from None


async def _packed(blocks: AsyncIterator[bytes], coding: str) -> AsyncGenerator[bytes, None]:
    """Compress the blocks, in a worker thread, so as not to block the event loop."""
    packing = compressor(coding)
    async for block in blocks:
        if packing is None:
            yield block
        elif packed := await asyncio.to_thread(packing.compress, block):
            yield packed
    if packing is not None:
        yield await asyncio.to_thread(packing.flush)


def _gone() -> CutError:
    return CutError("the client has disconnected")


async def first_of(work: Awaitable[T], *ends: asyncio.Future[Any]) -> T | None:
    """The result of some work; None if one of the ends comes first, and then the work is cancelled."""
    step = asyncio.ensure_future(work)
    try:
        await asyncio.wait({step, *ends}, return_when=asyncio.FIRST_COMPLETED)
        return step.result() if step.done() else None
    finally:
        if not step.done():
            await end_tasks(step)


async def until_gone(receive: Receive) -> None:
    """Wait until the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass

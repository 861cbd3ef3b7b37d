"""Streamed answers: blocks are sent as fast as the client receives them, and only one is in memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventferry.http.packing import packer

log = logging.getLogger("eventferry.http")

LINES = "application/x-ndjson"

PIECE = 64 * 1024
"""Bytes that are sent at once. A client that does not receive this much within the timeout is too slow."""


class CutError(Exception):
    """An answer was cut. The server then closes the connection, so that the client notices."""


class LinesResponse(Response):
    """JSON Lines, streamed from a store.

    The client must receive each piece within `timeout` seconds. `ended` is called at the end, whatever happens.
    """

    def __init__(
        self,
        blocks: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float,
        ended: Callable[[], Awaitable[None]],
        coding: str = "identity",
    ) -> None:
        super().__init__(
            media_type=LINES,
            headers={"Cache-Control": "no-store", **(headers or {})}
            | ({} if coding == "identity" else {"Content-Encoding": coding}),
        )
        del self.headers["content-length"]
        self._blocks = _packed(blocks, coding)
        self._timeout = timeout
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines. Raises CutError if not all can be sent."""
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            if scope["method"] != "HEAD":
                async for block in self._blocks:
                    await self._give(block, send, gone)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except CutError:
            raise
        except Exception as error:
            log.warning("an answer was cut: %s: %s", type(error).__name__, error)
            raise CutError(type(error).__name__) from error
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone
            await self._blocks.aclose()
            await self._ended()

    async def _give(self, block: bytes, send: Send, gone: asyncio.Task[None]) -> None:
        view = memoryview(block)
        for start in range(0, len(block), PIECE):
            if gone.done():
                raise CutError("the client has disconnected")
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
    packing = packer(coding)
    async for block in blocks:
        if packing is None:
            yield block
        elif packed := await asyncio.to_thread(packing.compress, block):
            yield packed
    if packing is not None:
        yield await asyncio.to_thread(packing.flush)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

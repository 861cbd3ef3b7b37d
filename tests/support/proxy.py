"""A TCP proxy that can cut connections at chosen moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

ANSWER_SECONDS = 1.0


class Proxy:
    """Forwards everything, but cuts a connection where it is told to.

    Attributes:
        cut_after: cut as soon as the client has sent what this accepts.
        passes_on: whether the server still gets that; if so, it is cut when the server has answered.
        refuse: let nobody in any more.
        cuts: how many connections were cut.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.port = 0
        self.cut_after: Callable[[bytes], bool] | None = None
        self.passes_on = True
        self.refuse = False
        self.cuts = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        try:
            there, out = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, out}
        answering = asyncio.create_task(self._answer(there, writer))
        try:
            while data := await reader.read(65536):
                if self.cut_after is not None and self.cut_after(data):
                    self.cut_after = None
                    self.cuts += 1
                    answering.cancel()
                    await asyncio.wait([answering])  # only one may read what the server says
                    if self.passes_on:
                        out.write(data)
                        await out.drain()
                        # The server has answered: so it has carried out what it got; but in the middle of what
                        # it is sent it says nothing.
                        with suppress(TimeoutError):
                            await asyncio.wait_for(there.read(65536), ANSWER_SECONDS)
                    break
                out.write(data)
                await out.drain()
        except OSError:
            pass
        finally:
            answering.cancel()
            for end in (writer, out):
                end.transport.abort()
                self._open.discard(end)

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await there.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def cut_all(self) -> None:
        for end in list(self._open):
            end.transport.abort()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server of a store, and the store's URL through it."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    proxy = Proxy(address.hostname, address.port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy, url.replace(f":{address.port}/", f":{proxy.port}/")
    finally:
        server.close()
        proxy.cut_all()

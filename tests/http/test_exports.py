"""Exports over HTTP: streams that hold nothing, and cannot be taken for whole where they are not."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventferry import InputError, StoreReplacedError
from eventferry.http import Limits, create_app
from eventferry.http.streams import PIECE, CutError
from tests.http.service import opened, serving
from tests.support import exported, import_lines, make_lines

FAR_MORE_THAN_IS_READ_AHEAD = 150_000


class Reader:
    """A client of `GET /export` that takes one message after another, when it likes."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=1)
        self._gone = asyncio.Event()
        self.running: asyncio.Task[None] | None = None
        self.messages: list[dict[str, Any]] = []

    def start(self) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/export",
            "raw_path": b"/export",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self.running = asyncio.create_task(self._app(scope, self._receive, self._messages.put))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def next(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._messages.get(), 20)

    def leave(self) -> None:
        self._gone.set()

    async def rest(self) -> list[dict[str, Any]]:
        """The messages that are still to come; raises what ended the answer."""
        assert self.running is not None
        messages: list[dict[str, Any]] = []
        while not self.running.done():
            with contextlib.suppress(TimeoutError):
                messages.append(await asyncio.wait_for(self._messages.get(), 0.05))
        while not self._messages.empty():
            messages.append(self._messages.get_nowait())
        self.messages = messages
        await self.running
        return messages


async def test_an_export_reads_no_further_than_its_client(tmp_path: Path) -> None:
    async with opened(tmp_path, 30_000) as store:
        reads = 0
        real = store._database.reading

        def counting() -> Any:
            nonlocal reads
            reads += 1
            return real()

        store._database.reading = counting  # type: ignore[method-assign]
        reader = Reader(create_app(store, insecure=True))
        reader.start()
        await reader.next()
        sizes = [len((await reader.next())["body"])]
        await asyncio.sleep(0.3)
        # The heads, the page that is out, the next one with what was read ahead for it, and what is behind that.
        assert reads <= 5
        while (message := await reader.next())["more_body"]:
            sizes.append(len(message["body"]))
        assert sum(sizes) == len(make_lines(30_000))
        assert max(sizes) <= PIECE


async def test_an_export_whose_client_has_gone_ends(tmp_path: Path) -> None:
    async with opened(tmp_path, 30_000) as store:
        reader = Reader(create_app(store, insecure=True))
        reader.start()
        await reader.next()
        reader.leave()
        with pytest.raises(CutError, match="gone"):
            await reader.rest()
        assert len(reader.messages) <= 2


async def test_an_export_whose_client_takes_nothing_is_cut(tmp_path: Path) -> None:
    async with opened(tmp_path, 30_000) as store:
        reader = Reader(create_app(store, insecure=True, limits=Limits(timeout=0.2)))
        reader.start()
        await reader.next()
        assert reader.running is not None
        with pytest.raises(CutError, match="took nothing"):
            await asyncio.wait_for(reader.running, 20)


async def test_an_export_that_breaks_sends_no_end_and_stops_inside_an_event(tmp_path: Path) -> None:
    async with opened(tmp_path, FAR_MORE_THAN_IS_READ_AHEAD) as store, opened(tmp_path) as other:
        reader = Reader(create_app(store, insecure=True))
        reader.start()
        await reader.next()
        body = (await reader.next())["body"]
        await import_lines(other, make_lines(3))
        with pytest.raises(CutError) as raised:
            await reader.rest()
        assert all(message["more_body"] for message in reader.messages), "what broke off must send no end"
        body += b"".join(message["body"] for message in reader.messages)
        assert isinstance(raised.value.__cause__, StoreReplacedError)
        with pytest.raises(InputError, match="ends inside an event"):
            await import_lines(other, body)


def test_a_client_sees_that_an_export_was_cut(tmp_path: Path) -> None:
    async def made() -> None:
        async with opened(tmp_path, FAR_MORE_THAN_IS_READ_AHEAD):
            pass

    async def replaced() -> None:
        async with opened(tmp_path) as store:
            await import_lines(store, make_lines(3))

    asyncio.run(made())
    with serving(f"sqlite:///{tmp_path}/store.db", tmp_path) as server, server.client() as client:
        body = b""
        with client.stream("GET", "/export") as response:
            assert response.headers["transfer-encoding"] == "chunked"
            blocks = response.iter_raw()
            body += next(blocks)
            asyncio.run(replaced())
            taken: list[bytes] = []
            with pytest.raises(httpx.RemoteProtocolError):
                taken.extend(blocks)
            body += b"".join(taken)
        assert not body.endswith(b"\n")
        assert "Traceback" not in server.log
        assert "cut=yes" in server.log
        assert client.get("/export").content == make_lines(3)


async def test_a_store_that_is_replaced_before_the_first_block_is_no_error(tmp_path: Path) -> None:
    async with opened(tmp_path, 10) as store:
        stream = store.export_events()
        cut = await stream.begin()
        assert await stream.begin() == cut
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        assert b"".join([block async for block in stream]) == make_lines(10)
        assert stream.cursor == cut
        later = await exported(store, cursor=cut)
        assert later.count(b"\n") == 1


async def test_the_cut_is_never_before_where_an_export_began(tmp_path: Path) -> None:
    async with opened(tmp_path, 300) as store:
        ahead = store.get_next_cursor(None, (await store.load_events(limit=300, cursor=None)).events)
        await import_lines(store, make_lines(2))
        stream = store.export_events(cursor=ahead)
        assert await stream.begin() == ahead
        assert b"".join([block async for block in stream]) == b""
        assert stream.cursor == ahead

"""Following in the console: rows of new events, for as long as the visitor may see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from eventferry.console import following
from eventferry.console.page import ROOT
from eventferry.http import Limits, TokenFile, create_app
from tests.support.console import Markup, Visitor
from tests.support.service import URL, new_event, opened

PATIENCE = 30


@asynccontextmanager
async def stream(app: Starlette, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[str]]:
    """The messages of the stream of rows, each as soon as it comes; at the end its reader goes."""
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200
        elif message.get("more_body"):
            pieces.put_nowait(message["body"])
        else:
            pieces.put_nowait(None)

    async def messages() -> AsyncIterator[str]:
        text = b""
        while (piece := await asyncio.wait_for(pieces.get(), PATIENCE)) is not None:
            *whole, text = (text + piece).split(b"\n\n")
            for message in whole:
                yield message.decode()

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"{ROOT}/follow/rows",
        "query_string": query.encode(),
        "headers": [
            (b"host", b"127.0.0.1"),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ],
        "http_version": "1.1",
        "scheme": "http",
    }
    task = asyncio.create_task(app(scope, receive, send))
    try:
        yield messages()
    finally:
        gone.set()
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.done()
        task.exception()


def rows_of(message: str) -> str:
    """What a message shows in the table."""
    rows = "\n".join(line.removeprefix("data: ") for line in message.split("\n") if line.startswith("data: "))
    return Markup(f"<table>{rows}</table>").text


async def test_new_events_come_as_rows_and_go_on_where_a_browser_was(tmp_path: Path) -> None:
    async with opened(tmp_path, 5) as store:
        app = create_app(store, insecure=True, console=True)
        async with stream(app, "type=ADDED") as messages:
            begin = await anext(messages)
            assert rows_of(begin) == ""
            await store.incremental_import([new_event(1, payload="<b>bold</b>"), new_event(2, type="OTHER")])
            shown = await anext(messages)
            assert "<b>bold</b>" in rows_of(shown)
            assert "OTHER" not in rows_of(shown)
        await store.incremental_import([new_event(3, payload="third")])
        last = shown.partition("\n")[0].removeprefix("id: ")
        async with stream(app, **{"last-event-id": last}) as messages:
            await anext(messages)
            found = rows_of(await anext(messages))
            assert "third" in found
            assert "bold" not in found


async def test_the_stream_of_a_session_ends_when_its_token_is_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "HEARTBEAT", 0.05)
    file = TokenFile(tmp_path / "tokens.json")
    token = file.add("ada", ["read"])
    async with opened(tmp_path, 5) as store:
        app = create_app(store, tokens=file, console=True)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
            await Visitor(client).sign_in(token)
            [(name, value)] = client.cookies.items()
        async with stream(app, cookie=f"{name}={value}") as messages:
            await anext(messages)
            await anext(messages)  # a heartbeat
            file.revoke("ada")
            left = [message async for message in messages]
            assert len(left) <= 2


async def test_a_session_that_ended_while_nothing_came_does_not_see_what_comes(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    token = file.add("ada", ["read"])
    async with opened(tmp_path, 5) as store:
        app = create_app(store, tokens=file, console=True)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
            await Visitor(client).sign_in(token)
            [(name, value)] = client.cookies.items()
        async with stream(app, cookie=f"{name}={value}") as messages:
            await anext(messages)
            await asyncio.sleep(0.2)  # it waits for events now
            file.revoke("ada")
            await store.incremental_import([new_event(1, payload="not for ada")])
            assert not [message async for message in messages]


async def test_a_service_that_ends_or_has_too_many_followers_keeps_none(tmp_path: Path) -> None:
    async with opened(tmp_path, 5) as store:
        app = create_app(store, insecure=True, console=True, limits=Limits(max_followers=1))
        async with stream(app) as messages:
            await anext(messages)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
                assert (await client.get(f"{ROOT}/follow/rows")).status_code == 429
            app.state.leaving.set()
            assert not [message async for message in messages]

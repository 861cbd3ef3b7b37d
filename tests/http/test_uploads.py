"""Uploads that break off: whatever byte was the last, nothing has changed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from eventferry import EventStore, open_store
from eventferry.http import create_app
from tests.support import exported, make_lines
from tests.support.service import lines_of, new_event, opened, serving

JSON = b'{"type":"T","aggregateId":"a","aggregateVersion":1}'
UPLOADS = {
    "/events": ("POST", JSON),
    "/import?replace=true": ("POST", make_lines(2)),
    "/import?replace=true&freeze=true": ("POST", make_lines(1)),
    "/incremental-import": ("POST", lines_of([new_event(1), new_event(2)])),
    "/incremental-imports/{id}/parts/1": ("PUT", lines_of([new_event(3), new_event(4)])),
    "/secrets": ("POST", b'{"secret":"s","id":"a","idx":0}\n{"secret":"t","id":"b","idx":1}\n'),
}


async def cut_upload(app: Any, method: str, target: str, body: bytes) -> list[dict[str, Any]]:
    """Send the beginning of a body to an application and go away; what it answered."""
    path, _, query = target.partition("?")
    messages: Iterator[dict[str, Any]] = iter(
        [{"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"}]
    )
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return answers


async def state_of(store: EventStore) -> tuple[Any, ...]:
    description = await store.describe(calculate_cursor=True)
    secrets = b"".join([block async for block in store.export_secrets()])
    return await exported(store), description.cursor, description.open_import, description.is_frozen, secrets


@pytest.mark.parametrize("target", UPLOADS)
@pytest.mark.slow
async def test_an_upload_cut_at_any_byte_changes_nothing(tmp_path: Path, target: str) -> None:
    method, body = UPLOADS[target]
    async with opened(tmp_path, 3) as store:
        import_id = await store.begin_incremental_import()
        before = await state_of(store)
        app = create_app(store, insecure=True)
        for end in range(len(body) + 1):  # also where all has come but the end itself
            answers = await cut_upload(app, method, target.replace("{id}", import_id), body[:end])
            assert answers == []
        assert await state_of(store) == before
        report = await store.commit_incremental_import(import_id)
        assert report.imported == 0


def send_and_cut(url: str, head: bytes, body: bytes) -> None:
    """Send these bytes to a server, and cut the connection when they have arrived."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall(head + body)
        time.sleep(0.002)


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.slow
def test_a_connection_cut_at_any_byte_of_an_import_changes_nothing(tmp_path: Path, chunked: bool) -> None:
    url = f"sqlite:///{tmp_path}/a.db"

    async def in_store(work: Callable[[EventStore], Awaitable[Any]]) -> Any:
        async with open_store(url) as store:
            if not await store.exists():
                await store.init()
                await store.incremental_import([new_event(0)])
            return await work(store)

    before = asyncio.run(in_store(state_of))
    lines = make_lines(2)
    pieces = [lines[:60], lines[60:]]
    body = (
        b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        if chunked
        else lines
    )
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(lines)
    head = b"POST /import?replace=true HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % length
    with serving(url, tmp_path, "--quiet") as server:
        for end in range(len(head) + len(body)):
            send_and_cut(server.url, head[:end], body[: max(end - len(head), 0)])
        with server.client() as client:
            deadline = time.monotonic() + 20
            while "eventferry_open_imports 0.0" not in client.get("/metrics").text:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert asyncio.run(in_store(state_of)) == before
        with server.client() as client:
            assert client.post("/import?replace=true", content=lines).json()["imported"] == 2
        assert "Traceback" not in server.log


def test_an_upload_that_is_cut_frees_its_place_for_the_next(tmp_path: Path) -> None:
    with (
        contextlib.ExitStack() as stack,
        serving(_made(tmp_path), tmp_path, "--max-imports", "1") as server,
        server.client() as client,
    ):
        address = urlsplit(server.url)
        held = stack.enter_context(socket.create_connection((address.hostname or "", address.port or 0)))
        held.sendall(b"POST /import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        deadline = time.monotonic() + 20
        while (busy := client.post("/incremental-import", json=[])).status_code != 429:
            assert time.monotonic() < deadline
        assert int(busy.headers["retry-after"]) >= 1
        held.close()
        while client.post("/incremental-import", json=[]).status_code == 429:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _made(folder: Path) -> str:
    async def make() -> None:
        async with opened(folder):
            pass

    asyncio.run(make())
    return f"sqlite:///{folder}/store.db"

"""Exports over HTTP: streams that hold nothing, and cannot be taken for whole where they are not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventferry import InputError, StoreReplacedError
from eventferry.database import First
from eventferry.http import Limits, create_app
from eventferry.http.streams import PIECE, CutError
from eventferry.lines.unpacking import zstd_module
from tests.support import exported, import_lines, make_event, make_lines
from tests.support.service import lines_of, new_event, opened, problem_of, service, serving

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


@pytest.mark.slow
async def test_an_export_reads_no_further_than_its_client(tmp_path: Path) -> None:
    async with opened(tmp_path, 30_000) as store:
        reads = 0
        real = store._database.reading

        def counting(first: First | None = None) -> Any:
            nonlocal reads
            reads += 1
            return real(first)

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
        with pytest.raises(CutError, match="disconnected"):
            await reader.rest()
        assert len(reader.messages) <= 2


@pytest.mark.slow
async def test_an_export_whose_client_takes_nothing_is_cut(tmp_path: Path) -> None:
    async with opened(tmp_path, 30_000) as store:
        reader = Reader(create_app(store, insecure=True, limits=Limits(timeout=0.2)))
        reader.start()
        await reader.next()
        assert reader.running is not None
        with pytest.raises(CutError, match="received nothing"):
            await asyncio.wait_for(reader.running, 20)


@pytest.mark.slow
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


@pytest.mark.slow
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


async def test_a_cursor_that_has_read_more_than_there_is_is_a_problem(tmp_path: Path) -> None:
    async with service(tmp_path, 300) as (client, store):
        ahead = (await store.load_events(limit=300, cursor=None)).cursor
        await import_lines(store, make_lines(2))
        for path in ("/export", "/events"):
            told = problem_of(await client.get(path, params={"cursor": ahead}))
            assert (told["type"], told["status"]) == ("urn:eventferry:cursor-ahead", 409)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"type": "TYPE_1"}, lambda event: event["type"] == "TYPE_1"),
        ({"type": ["TYPE_1", "TYPE_2"]}, lambda event: event["type"] != "TYPE_0"),
        ({"aggregateId": "aggregate-3"}, lambda event: event["aggregateId"] == "aggregate-3"),
        ({"excludeType": ["TYPE_1", "TYPE_2"]}, lambda event: event["type"] == "TYPE_0"),
        ({"excludeType": "TYPE_1", "type": ["TYPE_1", "TYPE_0"]}, lambda event: event["type"] == "TYPE_0"),
        ({"aggregatePrefix": ["aggregate-3", "%"]}, lambda event: event["aggregateId"] == "aggregate-3"),
        (
            {"aggregatePrefix": "aggregate-3", "aggregateId": "aggregate-4"},
            lambda event: event["aggregateId"] in ("aggregate-3", "aggregate-4"),
        ),
        ({"startTime": make_event(20)["timestamp"]}, lambda event: event["payload"]["number"] >= 20),
        ({"finishTime": make_event(20)["timestamp"]}, lambda event: event["payload"]["number"] <= 20),
        ({"limit": 7}, lambda event: event["payload"]["number"] < 7),
    ],
)
async def test_an_export_takes_the_filters_that_pages_take(
    tmp_path: Path, query: dict[str, Any], wanted: Callable[[dict[str, Any]], bool]
) -> None:
    async with service(tmp_path, 100) as (client, store):
        response = await client.get("/export", params=query)
        assert response.content == lines_of(event for event in map(make_event, range(100)) if wanted(event))
        cut = (await store.describe(calculate_cursor=True)).cursor
        # Behind a limit there is more, which nobody must skip.
        assert response.headers.get("eventferry-cursor") == (None if "limit" in query else cut)


async def test_an_export_of_a_selection_goes_on_from_its_cursor(tmp_path: Path) -> None:
    async with service(tmp_path, 30) as (client, store):
        first = await client.get("/export?type=ADDED")
        assert first.content == b""
        await store.incremental_import([new_event(1), new_event(2, type="OTHER")])
        asking = {"type": "ADDED", "cursor": first.headers["eventferry-cursor"]}
        assert [
            json.loads(line)["type"] for line in (await client.get("/export", params=asking)).iter_lines()
        ] == ["ADDED"]


@pytest.mark.parametrize(
    "query", ["limit=0", "startTime=2&finishTime=1", "limit=1&limit=2", "types=a", "aggregatePrefix="]
)
async def test_a_selection_that_is_none_is_refused_before_anything_goes_out(
    tmp_path: Path, query: str
) -> None:
    async with service(tmp_path, 3) as (client, _):
        assert (await client.get(f"/export?{query}")).status_code == 400


PACKED = [
    ("", None),
    ("*", None),
    ("br", None),
    ("identity", None),
    ("gzip", "gzip"),
    ("x-gzip", "gzip"),
    ("GZIP;q=0.5", "gzip"),
    ("gzip, deflate, br, zstd", "zstd"),
    ("zstd;q=0.1, gzip;q=0.9", "gzip"),
    ("gzip;q=0, zstd;q=0", None),
    ("gzip;q=0.2, identity;q=0.9", None),
    ("gzip;q=nonsense", None),
    ("gzip, *;q=0", "gzip"),
]


@pytest.mark.slow
async def test_an_export_is_packed_as_it_is_asked_for(tmp_path: Path) -> None:
    unpacked = {None: bytes, "gzip": gzip.decompress, "zstd": zstd_module().decompress}
    async with service(tmp_path, 5000) as (client, _):
        for asked, coding in PACKED:
            async with client.stream("GET", "/export", headers={"Accept-Encoding": asked}) as response:
                assert response.headers.get("content-encoding") == coding
                assert response.headers["vary"] == "Accept-Encoding"
                raw = b"".join([block async for block in response.aiter_raw()])
            assert coding is None or len(raw) < 200_000
            assert unpacked[coding](raw) == make_lines(5000)


async def test_an_export_that_nobody_could_read_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path, 3) as (client, _):
        for asked in ("identity;q=0", "*;q=0", "br, identity;q=0"):
            response = await client.get("/export", headers={"Accept-Encoding": asked})
            assert response.status_code == 406
            assert "gzip" in problem_of(response)["detail"]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_packed_export_goes_into_another_store_as_it_is(tmp_path: Path, coding: str) -> None:
    (tmp_path / "b").mkdir()
    async with service(tmp_path, 3000) as (source, _), service(tmp_path / "b") as (target, _):
        async with source.stream("GET", "/export", headers={"Accept-Encoding": coding}) as response:
            packed = [block async for block in response.aiter_raw()]
        cut = b"".join(packed)[:-9]
        headers = {"Content-Encoding": coding}
        assert (await target.post("/import", content=cut, headers=headers)).status_code == 422
        told = await target.post("/import", content=b"".join(packed), headers=headers)
        assert told.json()["imported"] == 3000

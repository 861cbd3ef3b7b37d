"""Following over HTTP: streams of server-sent events and long polls. Each event once, or a problem by name."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from eventferry import cursor as vector
from eventferry.http import Limits, create_app, following
from eventferry.http.streams import CutError
from eventferry.reading import bookmarks
from tests.support import exported, import_lines, make_event, make_lines
from tests.support.restoring import heads_of, restore, save_more
from tests.support.service import Server, lines_of, new_event, opened, problem_of, service, serving

STREAM = {"Accept": "text/event-stream"}


class Message(NamedTuple):
    """A message of a stream, as a browser reads it."""

    id: str
    event: str
    data: list[str]

    @property
    def numbers(self) -> list[int]:
        """Which of `make_event` its events are."""
        return [json.loads(line)["payload"]["number"] for line in self.data]


def messages_of(lines: Iterable[str]) -> Iterator[Message]:
    """The messages of a stream, those without data too. Anything that is no line of one is an error."""
    message = Message("", "message", [])
    for line in lines:
        name, _, value = line.partition(":")
        assert name in ("", "id", "data", "event"), line
        if not line:
            yield message
            message = Message("", "message", [])
        elif name == "data":
            message.data.append(value.removeprefix(" "))
        elif name:
            message = Message(**message._asdict() | {name: value.removeprefix(" ")})


@contextmanager
def stream(client: httpx.Client, query: str = "", **headers: str) -> Iterator[Iterator[Message]]:
    with client.stream("GET", f"/follow{query}", headers=STREAM | headers, timeout=20) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield messages_of(response.iter_lines())


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder}/store.db"


def made(folder: Path, events: int) -> str:
    """A store with so many events; its URL."""

    async def make() -> None:
        async with opened(folder, events):
            pass

    asyncio.run(make())
    return url_of(folder)


def add(folder: Path, *numbers: int) -> None:
    async def merge() -> None:
        async with opened(folder) as store:
            await store.incremental_import([make_event(number) for number in numbers])

    asyncio.run(merge())


def followers_of(server: Server) -> float:
    with server.client() as client:
        found = re.search(r"^eventferry_open_followers (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def wait_for_followers(server: Server, count: int) -> None:
    deadline = time.monotonic() + 10
    while followers_of(server) != count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# streams


@pytest.mark.slow
def test_a_stream_goes_on_where_its_client_was(tmp_path: Path) -> None:
    """Over a restart of the service, with what a browser sends when it connects again."""
    store = made(tmp_path, 25)
    found: list[int] = []
    last = ""
    for new in (25, 26, 27):
        with serving(store, tmp_path) as server, server.client() as client:
            headers = {"Last-Event-ID": last} if last else {}
            with stream(client, "?limit=10&since=start", **headers) as messages:
                if not last:
                    assert next(messages).data == [], "the first one only says where it begins"
                    for count in (10, 10, 5):
                        message = next(messages)
                        assert len(message.data) == count
                        found += message.numbers
                        last = message.id
                add(tmp_path, new)
                while not (message := next(messages)).data:
                    assert not last or message.id == last
                found += message.numbers
                last = message.id
    assert found == list(range(28))


def test_a_line_of_data_is_the_line_of_an_event(tmp_path: Path) -> None:
    store = made(tmp_path, 3)
    with serving(store, tmp_path) as server, server.client() as client, stream(client) as messages:
        next(messages)
        assert "".join(f"{line}\n" for line in next(messages).data).encode() == make_lines(3)


@pytest.mark.slow
def test_who_begins_now_does_not_begin_later_after_a_break(tmp_path: Path) -> None:
    store = made(tmp_path, 3)
    with serving(store, tmp_path) as server, server.client() as client:
        with stream(client, "?since=now") as messages:
            begun = next(messages)
        add(tmp_path, 3)
        with stream(client, f"?since=now&lastEventId={begun.id}") as messages:
            next(messages)
            assert next(messages).numbers == [3]


@pytest.mark.slow
def test_a_stream_that_is_left_ends_though_nothing_comes(tmp_path: Path) -> None:
    store = made(tmp_path, 3)
    with serving(store, tmp_path) as server:
        for query in ("?since=now", "?type=NONE"):
            with server.client() as client, stream(client, query) as messages:
                next(messages)
                wait_for_followers(server, 1)
            wait_for_followers(server, 0)


@pytest.mark.slow
def test_the_service_does_not_wait_for_its_followers(tmp_path: Path) -> None:
    store = made(tmp_path, 3)

    async def poll(url: str) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return (await client.get("/follow?since=now&wait=60")).json()  # type: ignore[no-any-return]

    async def run(server: Server) -> None:
        polling = asyncio.create_task(poll(server.url))
        with server.client() as client, stream(client, "?since=now") as messages:
            await asyncio.to_thread(next, messages)
            await asyncio.to_thread(wait_for_followers, server, 2)
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            # The answers are whole: their clients connect again, or ask again.
            assert await asyncio.to_thread(list, messages) == []
            assert (await polling)["events"] == []
            assert await asyncio.to_thread(server.ended) == 0
            assert time.monotonic() - began < 25  # not the grace of thirty

    with serving(store, tmp_path, "--grace", "30") as server:
        asyncio.run(run(server))


async def test_a_silent_store_is_a_comment_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "HEARTBEAT", 0.05)
    async with opened(tmp_path, 3) as store:
        reader = Reader(create_app(store, insecure=True))
        lines = make_lines(3).decode().splitlines()
        assert [(await reader.next()).data for _ in range(4)] == [[], lines, [], []]
        await reader.leave()


async def test_a_stream_whose_events_are_replaced_ends_with_the_problem(tmp_path: Path) -> None:
    async with opened(tmp_path, 3) as store, opened(tmp_path) as other:
        reader = Reader(create_app(store, insecure=True))
        await reader.next()
        last = await reader.next()
        await import_lines(other, make_lines(5))
        told = await reader.next()
        assert told.event == "error"
        problem = json.loads("".join(told.data))
        assert (problem["type"], problem["status"]) == ("urn:eventferry:store-replaced", 409)
        await reader.end()
        async with client(store) as asking:
            again = await asking.get("/follow", headers=STREAM | {"Last-Event-ID": last.id})
            assert problem_of(again)["status"] == 409


async def test_a_store_that_is_restored_ends_a_stream_and_refuses_its_client(tmp_path: Path) -> None:
    async with opened(tmp_path, 10) as store:
        backup = await heads_of(store)
        await save_more(url_of(tmp_path), 20, "lost")
        reader = Reader(create_app(store, insecure=True))
        await reader.next()
        last = await reader.next()
        assert len(last.data) == 30
        restore(url_of(tmp_path), backup)
        told = json.loads("".join((await reader.next()).data))
        assert told["type"] == "urn:eventferry:cursor-ahead"
        await reader.end()
        await save_more(url_of(tmp_path), 40, "lost")
        async with client(store) as asking:
            for request in (
                f"/follow?since={last.id}",
                f"/events?since={last.id}",
                f"/export?since={last.id}",
            ):
                told = problem_of(await asking.get(request))
                assert (told["type"], told["status"]) == ("urn:eventferry:store-replaced", 409)


async def test_a_store_that_is_closed_ends_a_stream_with_a_problem(tmp_path: Path) -> None:
    async with opened(tmp_path, 3) as store:
        reader = Reader(create_app(store, insecure=True))
        await reader.next()
        await reader.next()
        await store.close()
        assert json.loads("".join((await reader.next()).data))["status"] == 503
        await reader.end()


async def test_a_client_that_takes_nothing_is_cut(tmp_path: Path) -> None:
    async with opened(tmp_path, 30_000) as store:
        app = create_app(store, insecure=True, limits=Limits(timeout=0.2))
        reader = Reader(app, "limit=10000")
        await reader.next()
        with pytest.raises(CutError, match="received nothing"):
            await asyncio.wait_for(reader.running, 20)
        async with client(store, app) as asking:
            assert "eventferry_open_followers 0.0" in (await asking.get("/metrics")).text


async def test_followers_have_a_limit(tmp_path: Path) -> None:
    async with opened(tmp_path, 3) as store:
        app = create_app(store, insecure=True, limits=Limits(max_followers=2))
        readers = [Reader(app), Reader(app)]
        for reader in readers:
            await reader.next()
        async with client(store, app) as asking:
            for headers in (STREAM, {}):
                refused = await asking.get("/follow", headers=headers)
                assert problem_of(refused)["type"] == "urn:eventferry:too-many-followers"
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            assert "eventferry_open_followers 2.0" in (await asking.get("/metrics")).text
            await readers[0].leave()
            # What is refused gives its place back too.
            for _ in range(3):
                assert (await asking.get("/follow?since=nonsense")).status_code == 400
            assert (await asking.get("/follow")).status_code == 200
            await readers[1].leave()
            assert "eventferry_open_followers 0.0" in (await asking.get("/metrics")).text


async def test_a_cancelled_stream_gives_its_place_back(tmp_path: Path) -> None:
    async with opened(tmp_path, 3) as store:
        app = create_app(store, insecure=True)
        for _ in range(20):
            reader = Reader(app)
            await reader.next()
            while not reader.running.done():  # by level, as anyio cancels
                reader.running.cancel()
                await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        async with client(store, app) as asking:
            assert "eventferry_open_followers 0.0" in (await asking.get("/metrics")).text


# long polls


async def test_a_poll_gives_pages_and_waits_when_there_is_none(tmp_path: Path) -> None:
    async with service(tmp_path, 25) as (client, store):
        events: list[Any] = []
        since = "start"
        for count in (10, 10, 5, 0):
            page = (await client.get(f"/follow?limit=10&wait=0&since={since}")).json()
            assert list(page) == ["events", "cursor", "bookmark"]
            assert len(page["events"]) == count
            assert page["cursor"] == vector.encode(bookmarks.decode(page["bookmark"]).unread)
            events += page["events"]
            since = page["bookmark"]
        assert events == [make_event(number) for number in range(25)]
        waiting = asyncio.create_task(client.get(f"/follow?since={since}"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        saved = await store.save_event(new_event(1) | {"aggregateVersion": 1})
        page = (await asyncio.wait_for(waiting, 15)).json()
        assert [event["threadId"] for event in page["events"]] == [saved.event.thread_id]
        assert (await client.head(f"/follow?since={since}")).status_code == 200


async def test_a_poll_filters(tmp_path: Path) -> None:
    async with service(tmp_path, 30) as (client, _):
        page = (
            await client.get("/follow?type=TYPE_1&aggregateId=aggregate-7&aggregateId=aggregate-4")
        ).json()
        assert page["events"] == [make_event(n) for n in range(30) if n % 3 == 1 and n % 10 in (4, 7)]
        page = (await client.get("/follow?excludeType=TYPE_1&aggregatePrefix=aggregate-7")).json()
        assert page["events"] == [make_event(n) for n in range(30) if n % 3 != 1 and n % 10 == 7]


@pytest.mark.parametrize(
    "query",
    [
        "since=nonsense",
        "since=",
        f"since={'A' * 2048}",
        "since=now%00",
        "since=%FF",
        "lastEventId=nonsense",
        "wait=-1",
        "wait=61",
        "wait=nan",
        "limit=0",
        "limit=10001",
        "cursor=",
    ],
)
@pytest.mark.parametrize("headers", [{}, STREAM], ids=["poll", "stream"])
async def test_what_is_wrong_is_a_problem_before_anything_is_sent(
    tmp_path: Path, query: str, headers: dict[str, str]
) -> None:
    async with service(tmp_path, 3) as (client, _):
        assert problem_of(await client.get(f"/follow?{query}", headers=headers))["status"] == 400


@pytest.mark.parametrize("last", [b"nonsense", b"\xff", "ef1.größe".encode(), b"ef1.\xc3"])
async def test_a_last_id_that_is_no_bookmark_is_a_problem(tmp_path: Path, last: bytes) -> None:
    async with service(tmp_path, 3) as (client, _):
        told = problem_of(await client.get("/follow", headers=[(b"Last-Event-ID", last)]))
        assert told["status"] == 400


async def test_a_bookmark_that_is_cut_or_changed_is_a_problem(tmp_path: Path) -> None:
    async with service(tmp_path, 300) as (client, store):
        good = await store.bookmark()
        assert (await client.get(f"/follow?wait=0&since={good}")).json()["events"] == []
        for wrong in (good[:-1], good[:-9], good + "A", good.replace("ef1.", "ef1.A"), good.swapcase()):
            assert problem_of(await client.get("/follow", params={"since": wrong}))["status"] == 400


# pages and exports


async def test_pages_and_exports_go_on_from_a_bookmark(tmp_path: Path) -> None:
    async with service(tmp_path, 300) as (client, store):
        page = (await client.get("/events?limit=100")).json()
        rest = (await client.get(f"/events?limit=100&since={page['bookmark']}")).json()
        assert page["events"] + rest["events"] == [make_event(number) for number in range(200)]
        answer = await client.get(f"/export?since={rest['bookmark']}")
        assert answer.content == lines_of([make_event(number) for number in range(200, 300)])
        assert answer.headers["eventferry-bookmark"] == await store.bookmark()
        assert "eventferry-bookmark" not in (await client.get("/export?limit=3")).headers
        assert (await client.get("/events?since=start&limit=1")).json()["bookmark"] is not None
        assert (await client.get(f"/events?cursor={'A' * 2048}")).json()["bookmark"] is None
        both = await client.get(f"/events?cursor={'A' * 2048}&since={rest['bookmark']}")
        assert problem_of(both)["status"] == 400
        assert await exported(store) == make_lines(300)


async def test_the_description_names_both_ways_to_follow(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        told = (await client.get("/openapi.json")).json()["paths"]["/follow"]["get"]
        assert set(told["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
        assert {"name": "Last-Event-ID", "in": "header"}.items() <= told["parameters"][-1].items()
        assert {"409", "429"} <= set(told["responses"])


# a client in this process


def client(store: Any, app: Any = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app or create_app(store, insecure=True))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=30)


class Reader:
    """A client of a stream that takes one message after another, when it likes."""

    def __init__(self, app: Any, query: str = "") -> None:
        self._pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=1)
        self._gone = asyncio.Event()
        self.body = b""
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/follow",
            "raw_path": b"/follow",
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"localhost"), (b"accept", b"text/event-stream")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self.running = asyncio.create_task(app(scope, self._receive, self._pieces.put))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def next(self) -> Message:
        while b"\n\n" not in self.body:
            piece = await asyncio.wait_for(self._pieces.get(), 20)
            assert piece.get("more_body", True), "the stream has ended"
            self.body += piece.get("body", b"")
        text, _, self.body = self.body.partition(b"\n\n")
        [message] = messages_of([*text.decode().split("\n"), ""])
        return message

    async def end(self) -> None:
        """The stream has come to its proper end."""
        piece = await asyncio.wait_for(self._pieces.get(), 20)
        assert (piece["body"], piece["more_body"]) == (b"", False)
        await asyncio.wait_for(self.running, 20)

    async def leave(self) -> None:
        self._gone.set()
        with pytest.raises(CutError, match="disconnected"):
            await asyncio.wait_for(self.running, 20)

"""`eventferry serve`: what it listens on, how it ends, and what it never says."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from eventferry import open_store
from eventferry.http import SCOPES, TokenFile
from tests.support import exported, import_lines, make_certificate, make_lines
from tests.support.cli import Ferry, hear_signals, new_ferry
from tests.support.service import lines_of, new_event, serving

ferry = pytest.fixture(new_ferry)

MANY = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of 100,000 events, about 14 MB: more than all buffers between a server and its client."""
    url = f"sqlite:///{tmp_path_factory.mktemp('large')}/large.db"

    async def made() -> None:
        async with open_store(url) as store:
            await store.init()
            await import_lines(store, make_lines(MANY))

    asyncio.run(made())
    return url


def events_in(url: str) -> int:
    async def counted() -> int:
        async with open_store(url) as store:
            return (await store.describe()).event_count

    return asyncio.run(counted())


def tables_in(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def new_store(folder: Path, lines: bytes = b"") -> str:
    url = f"sqlite:///{folder}/new.db"

    async def made() -> None:
        async with open_store(url) as store:
            await store.init()
            if lines:
                await import_lines(store, lines)

    asyncio.run(made())
    return url


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_others_are_let_in_with_tokens_only(ferry: Ferry, host: str) -> None:
    store = ferry.store("a.db")
    words = ferry.refused("serve", store, "--host", host, "--port", "0", status=2)
    assert "--tokens" in words
    assert "this machine only" in words


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["nowhere.db"], 1, "no store"),
        (["a.db", "--tokens", "nowhere.json"], 1, "cannot be read"),
        (["a.db", "--tls-cert", "a.db"], 2, "must be used together"),
        (["a.db", "--tls-cert", "a.db", "--tls-key", "a.db"], 1, "certificate"),
        (["a.db", "--exchange-dir", "nowhere"], 2, "exchange-dir"),
        (["a.db", "--rate", "often"], 2, "rate"),
        (["a.db", "--host", "192.0.2.1", "--tokens", "t.json"], 1, "cannot listen"),
        (["a.db", "--timeout", "0"], 2, "timeout"),
    ],
)
def test_what_cannot_be_served_is_told_at_once(
    ferry: Ferry, words: list[str], status: int, told: str
) -> None:
    ferry.store("a.db")
    ferry.done("token", "add", "x", "--scope", "read", "--tokens", "t.json")
    outcome = ferry("serve", *words, "--port", "0")
    assert outcome.status == status
    assert told in outcome.err


def test_it_says_where_it_listens_and_that_it_is_for_this_machine_only(tmp_path: Path) -> None:
    with serving(new_store(tmp_path), tmp_path) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert "without tokens, on this machine only" in server.log
        server.signal()
        assert server.ended() == 0
        assert server.log.endswith("stopped\n")


@pytest.mark.parametrize("host", ["localhost", "::1", "127.0.0.2"])
def test_every_loopback_name_is_this_machine_only(tmp_path: Path, host: str) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with (
        serving(new_store(tmp_path, make_lines(3)), tmp_path, "--host", host) as server,
        server.client() as client,
    ):
        assert "this machine only" in server.log
        assert client.post("/freeze", headers={"Origin": server.url}).status_code == 204
        assert client.get("/export").content == make_lines(3)


def test_with_tokens_it_is_reached_by_address_and_by_the_names_that_are_allowed(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    token = tokens.add("reader", ["read"])
    words = ("--host", "0.0.0.0", "--tokens", str(tokens.path), "--allowed-host", "events.example")
    with serving(new_store(tmp_path), tmp_path, *words) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.2")
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
            assert client.get("/describe").status_code == 200
            assert client.get("/describe", headers={"Host": "events.example"}).status_code == 200
            assert client.get("/describe", headers={"Host": "127.0.0.3"}).status_code == 403
            assert client.get("/describe", headers={"Host": "other.example"}).status_code == 403


@pytest.mark.parametrize("trusted", [True, False])
def test_only_a_proxy_that_is_trusted_says_who_calls(tmp_path: Path, trusted: bool) -> None:
    words = ("--trusted-proxy", "127.0.0.1") if trusted else ()
    with serving(new_store(tmp_path), tmp_path, *words) as server, server.client() as client:
        client.get("/describe", headers={"X-Forwarded-For": "203.0.113.9"})
        server.signal()
        assert server.ended() == 0  # what it has logged is all there
        assert ("client=203.0.113.9 " in server.log) == trusted


def test_a_port_that_is_taken_is_told(tmp_path: Path, ferry: Ferry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ferry.refused("serve", ferry.store("a.db"), "--port", str(taken.getsockname()[1]))
        assert "in use" in words


def test_tls(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    words = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    with serving(new_store(tmp_path, make_lines(10)), tmp_path, *words) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with httpx.Client(base_url=server.url, verify=context) as client:
            assert client.get("/export").content == make_lines(10)
            assert client.post("/freeze", headers={"Origin": server.url}).status_code == 204
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz")


@pytest.mark.slow
@pytest.mark.parametrize("begins", ["nothing", "a head", "a body that is refused"])
def test_a_connection_without_a_request_is_not_kept_for_ever(tmp_path: Path, begins: str) -> None:
    with serving(new_store(tmp_path, make_lines(3)), tmp_path, "--timeout", "1") as server:
        address = urlsplit(server.url)
        head = b"GET /describe HTTP/1.1\r\nHost: localhost\r\nX-Long: "
        if begins == "a body that is refused":
            head = b"POST /import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
        with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
            if begins != "nothing":
                connection.sendall(head)
            start = time.monotonic()
            connection.settimeout(0.1)
            while time.monotonic() < start + 20:
                try:
                    if begins != "nothing":
                        connection.sendall(b"x")
                    if not connection.recv(1000):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            assert 0.5 < time.monotonic() - start < 10


@pytest.mark.slow
def test_a_connection_that_waits_between_requests_is_kept(tmp_path: Path) -> None:
    with serving(new_store(tmp_path, make_lines(3)), tmp_path, "--timeout", "1") as server:
        address = urlsplit(server.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        connection.connect()
        first = connection.sock
        for _ in range(3):
            connection.request("GET", "/export")
            assert connection.getresponse().read() == make_lines(3)
            assert connection.sock is first
            time.sleep(1.3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.slow
def test_an_export_that_runs_when_the_end_comes_is_finished(tmp_path: Path, large: str, number: int) -> None:
    with (
        serving(large, tmp_path) as server,
        server.client() as client,
        client.stream("GET", "/export") as response,
    ):
        blocks = response.iter_raw(64 * 1024)
        body = next(blocks)
        server.signal(number)
        time.sleep(0.5)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/healthz")
        for block in blocks:
            body += block
        assert server.ended() == 0
    assert body.count(b"\n") == MANY
    assert body.endswith(b"\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ignored", "other"), [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]
)
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(
    tmp_path: Path, ignored: signal.Signals, other: signal.Signals
) -> None:
    """As a shell's background job wants it of Ctrl-C."""

    def ignore() -> None:
        hear_signals()
        signal.signal(ignored, signal.SIG_IGN)

    with serving(new_store(tmp_path), tmp_path, prepare=ignore) as server:
        server.signal(ignored)
        with pytest.raises(subprocess.TimeoutExpired):
            server.ended(0.5)
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        server.signal(other)
        assert server.ended(20) == 0


@pytest.mark.slow
def test_an_export_that_takes_too_long_is_cut_and_the_client_is_told(tmp_path: Path, large: str) -> None:
    with serving(large, tmp_path, "--grace", "1") as server, server.client() as client:
        with client.stream("GET", "/export") as response:
            blocks = response.iter_raw(64 * 1024)
            next(blocks)
            server.signal()
            assert server.ended(30) == 0
            with pytest.raises(httpx.TransportError):
                list(blocks)
        assert "Traceback" not in server.log


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path: Path, large: str) -> None:
    with (
        serving(large, tmp_path, "--grace", "600") as server,
        server.client() as client,
        client.stream("GET", "/export") as response,
    ):
        blocks = response.iter_raw()
        next(blocks)
        server.signal()
        time.sleep(0.5)
        assert server.process.poll() is None
        start = time.monotonic()
        server.signal()
        assert server.ended(20) == 0
        assert time.monotonic() - start < 10


def upload(url: str, body: Iterator[bytes], answers: list[int]) -> threading.Thread:
    """Import a body that comes piece by piece, in a thread of its own."""

    def send() -> None:
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            connection.request(
                "POST",
                "/import?replace=true",
                body=body,
                encode_chunked=True,
                headers={"Transfer-Encoding": "chunked"},
            )
            answers.append(connection.getresponse().status)
        except OSError:
            answers.append(0)
        finally:
            connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("in_time", [True, False])
def test_an_import_that_runs_when_the_end_comes_is_whole_or_not_at_all(tmp_path: Path, in_time: bool) -> None:
    url = new_store(tmp_path, make_lines(3))
    tables = tables_in(tmp_path / "new.db")
    go_on, begun = threading.Event(), threading.Event()
    lines = make_lines(2000)

    def body() -> Iterator[bytes]:
        yield lines[:100_000]
        begun.set()
        go_on.wait(60)
        yield lines[100_000:]

    answers: list[int] = []
    with serving(url, tmp_path, "--grace", "20" if in_time else "1") as server:
        thread = upload(server.url, body(), answers)
        begun.wait(20)
        time.sleep(0.3)
        server.signal()
        if in_time:
            time.sleep(0.5)
            go_on.set()
        assert server.ended(60) == 0
        go_on.set()
        thread.join(60)
        assert "Traceback" not in server.log
    assert answers == ([200] if in_time else [0])
    assert events_in(url) == (2000 if in_time else 3)
    assert tables_in(tmp_path / "new.db") == tables, "an import that was cut leaves nothing behind"

    async def usable() -> None:
        async with open_store(url) as store:
            assert not (await store.describe()).is_frozen
            await import_lines(store, make_lines(5))

    asyncio.run(usable())


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("-v",), ("-vv",), ("--quiet",)])
def test_with_log_format_json_every_line_is_an_object(tmp_path: Path, words: tuple[str, ...]) -> None:
    with serving(new_store(tmp_path), tmp_path, "--log-format", "json", *words) as server:
        with server.client() as client:
            client.get("/describe?secret")
            client.post("/events", json={"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            connection.recv(1000)
        server.signal()
        assert server.ended() == 0
        told = [json.loads(line) for line in server.log.splitlines()]
    assert "serving" in told[0]["message"]
    assert told[-1]["message"] == "stopped"
    assert any(record["level"] == "WARNING" and record["logger"] == "uvicorn.error" for record in told)
    accesses = [record for record in told if record["logger"] == "eventferry.http.access"]
    saved = [
        (one["method"], one["route"], one["status"], one["cut"])
        for one in accesses
        if one["operation"] == "save"
    ]
    assert saved == ([] if "--quiet" in words else [("POST", "/events", 201, False)])


@pytest.mark.slow
def test_no_secret_and_no_token_ever_stands_in_a_log(tmp_path: Path) -> None:
    url = new_store(tmp_path, make_lines(3))
    tokens = TokenFile(tmp_path / "tokens.json")
    token = tokens.add("admin", SCOPES)
    words = ("--tokens", str(tokens.path), "--exchange-dir", str(tmp_path))
    said = ["hidden-one", "hidden-two", "hidden-three", token]
    with (
        serving(url, tmp_path, *words) as server,
        server.client(headers={"Authorization": f"Bearer {token}"}) as client,
    ):
        secret = '{"secret":"hidden-one","id":"a","idx":0}\n'
        assert client.post("/secrets", content=secret).status_code == 200
        assert client.post("/secrets", content=secret.replace("one", "two")).status_code == 409
        assert client.post("/secrets", content=secret[:-5]).status_code == 422
        assert client.post("/secrets", content=secret.replace('"a"', "hidden-two")).status_code == 422
        assert "hidden-one" in client.get("/secrets").text
        assert client.get("/api/event-store/export?directory=x").text == "ok"
        assert client.get("/api/event-store/import?directory=x").text == "ok"
        for body in ("hidden-three", '{"type":"hidden-three"}', '{"hidden-three":1}', '["hidden-three"'):
            assert client.post("/incremental-import", content=body).status_code == 422
            assert client.post("/events", content=body).status_code == 422
        client.get(f"/describe?token={token}")
        client.get("/describe", headers={"Authorization": f"Basic {token}"})
        client.get("/describe", headers={"Authorization": f"Bearer {token}x"})
        client.post("/incremental-import", json=[new_event(1, payload="hidden-three")])
        server.signal()
        assert server.ended() == 0
        for word in said:
            assert word not in server.log
    assert "hidden" not in tokens.path.read_text()
    assert token not in tokens.path.read_text()


@pytest.mark.slow
def test_memory_stays_flat_whatever_goes_through(tmp_path: Path, large: str) -> None:
    source = new_store(tmp_path)
    with serving(source, tmp_path, "--quiet") as target, target.client() as client:
        client.post("/import", content=make_lines(100))
        before = target.peak_memory()

        def body() -> Iterator[bytes]:
            with serving(large, tmp_path, "--quiet") as other, other.client() as reader:
                with reader.stream("GET", "/export") as response:
                    yield from response.iter_raw()
                assert other.peak_memory() < 130 * 1024 * 1024

        assert client.post("/import?replace=true", content=body()).json()["imported"] == MANY
        assert client.get("/describe").json()["eventCount"] == MANY
        assert target.peak_memory() - before < 90 * 1024 * 1024


def test_a_store_in_use_by_others_too_is_served(tmp_path: Path) -> None:
    url = new_store(tmp_path, make_lines(3))
    with serving(url, tmp_path) as server, server.client() as client:

        async def beside() -> bytes:
            async with open_store(url) as store:
                await store.incremental_import([new_event(1)])
                return await exported(store)

        assert client.get("/export").content == make_lines(3)
        lines = asyncio.run(beside())
        assert client.get("/export").content == lines
        assert (
            client.post("/incremental-import", content=lines_of([new_event(1)])).json()["skippedExisting"]
            == 1
        )
        assert json.loads(client.get("/describe").text)["eventCount"] == 4

"""What comes over the wire as no client should send it: one request is never two, and no log shows a traceback."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from eventferry import open_store
from eventferry.http import SCOPES, TokenFile
from tests.support import import_lines, make_lines
from tests.support.service import Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with tokens; the one for everything is beside its store."""
    folder = tmp_path_factory.mktemp("wire")
    url = f"sqlite:///{folder}/store.db"

    async def made() -> None:
        async with open_store(url) as store:
            await store.init()
            await import_lines(store, make_lines(3))

    asyncio.run(made())
    tokens = TokenFile(folder / "tokens.json")
    (folder / "token").write_text(tokens.add("all", SCOPES))
    with serving(url, folder, "--tokens", str(tokens.path)) as server:
        server.token = (folder / "token").read_text()  # type: ignore[attr-defined]
        yield server


def exchanged(server: Server, *pieces: bytes, leave: bool = False) -> bytes:
    """All that is answered to these bytes, until the service closes the connection (or they are sent, and we leave)."""
    address = urlsplit(server.url)
    answered = b""
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.2)
        if leave:
            return b""
        try:
            while data := connection.recv(65536):
                answered += data
        except ConnectionError:
            pass
    return answered


def statuses(answered: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", answered)]


def head(server: Server, line: str, *headers: str, token: bool = True) -> bytes:
    allowed = [f"Authorization: Bearer {server.token}"] if token else []  # type: ignore[attr-defined]
    return "\r\n".join([line, "Host: localhost", *allowed, *headers, "", ""]).encode("latin-1")


def log_of(server: Server, found: str) -> str:
    """The log, when it shows this."""
    deadline = time.monotonic() + 20
    while not re.search(found, server.log):
        assert time.monotonic() < deadline, server.log
        time.sleep(0.05)
    return server.log


SECOND = b"GET /describe HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ("POST /incremental-import HTTP/1.1", ["Content-Length: 5", "Transfer-Encoding: chunked"]),
        ("POST /incremental-import HTTP/1.1", ["Transfer-Encoding: chunked", "Content-Length: 60"]),
        ("POST /incremental-import HTTP/1.1", ["Content-Length: 5", "Content-Length: 6"]),
        ("POST /incremental-import HTTP/1.1", ["Content-Length: 5, 6"]),
        ("POST /incremental-import HTTP/1.1", ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]),
        ("POST /incremental-import HTTP/1.1", ["Transfer-Encoding: identity, chunked"]),
        ("POST /incremental-import HTTP/1.1", ["Transfer-Encoding: xchunked"]),
        ("POST /incremental-import HTTP/1.1", ["Transfer-Encoding : chunked"]),
        ("POST /incremental-import HTTP/1.1", ["Content-Length: +5"]),
        ("POST /incremental-import HTTP/1.0", ["Transfer-Encoding: chunked"]),
        ("GET /describe HTTP/1.1", ["Content-Length: 5", "Transfer-Encoding: chunked"]),
        ("GET /nowhere HTTP/1.1", ["Content-Length: 5", "Transfer-Encoding: chunked"]),
    ],
)
@pytest.mark.parametrize("token", [True, False])
def test_a_request_whose_end_is_unclear_is_refused_and_nothing_behind_it_is_answered(
    server: Server, line: str, headers: list[str], token: bool
) -> None:
    answered = exchanged(server, head(server, line, *headers, token=token) + b"0\r\n\r\n" + SECOND)
    assert len(statuses(answered)) == 1, answered
    assert statuses(answered)[0] in (400, 501)


def test_a_chunk_that_is_none_is_refused_without_a_traceback(server: Server) -> None:
    for token, expected in ((False, {400, 401}), (True, {400})):
        begin = head(server, "POST /incremental-import HTTP/1.1", "Transfer-Encoding: chunked", token=token)
        for pieces in ([begin + b"nonsense\r\n"], [begin, b"5\r\n[    \r\n", b"zz\r\n"]):
            [status] = statuses(exchanged(server, *pieces))
            assert status in expected
    assert "Traceback" not in server.log
    assert "Exception" not in server.log


def test_an_upload_that_is_cut_is_told_as_cut(server: Server) -> None:
    begin = head(server, "POST /import?replace=true HTTP/1.1", "Content-Length: 100000")
    exchanged(server, begin, make_lines(3), leave=True)
    log = log_of(server, r"path=/import\?? .* status=499|route=/import .* status=499")
    [line] = [line for line in log.splitlines() if "route=/import " in line and "status=499" in line]
    assert "cut=yes" in line
    whole = head(server, "GET /describe HTTP/1.1", "Connection: close")
    assert statuses(exchanged(server, whole)) == [200]
    assert "cut=no" in [line for line in server.log.splitlines() if "route=/describe " in line][-1]


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/describe", "localhost", 200),
        ("HTTP://LOCALHOST:80/describe?estimateCounts=true", "localhost", 200),
        ("http://localhost/describe", "evil.example", 200),
        ("http://evil.example/describe", "localhost", 403),
        ("http://localhost@evil.example/describe", "localhost", 403),
        ("http://localhost", "localhost", 404),
        ("http://localhost?cursor=x", "localhost", 404),
        ("http:///describe", "localhost", 403),
        ("ftp://localhost/describe", "localhost", 404),
        ("localhost:80", "localhost", 404),
        ("//localhost/describe", "localhost", 404),
    ],
)
def test_the_absolute_form_is_answered_by_the_host_that_it_names(
    server: Server, target: str, host: str, status: int
) -> None:
    line = head(server, f"GET {target} HTTP/1.1", "Connection: close").replace(
        b"Host: localhost", b"Host: " + host.encode()
    )
    assert statuses(exchanged(server, line)) == [status]


def test_requests_one_behind_the_other_are_still_answered_one_by_one(server: Server) -> None:
    first = head(server, "GET /describe HTTP/1.1")
    last = head(server, "GET http://localhost/describe HTTP/1.1", "Connection: close")
    assert statuses(exchanged(server, first + first + last)) == [200, 200, 200]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Content-Type: text/plain; charset=utf-8", "Content-Type: text/plain; charset=latin-1"], 400),
        (["Content-Type: text/plain; charset=utf-8; charset=latin-1"], 400),
        (["Content-Encoding: gzip", "Content-Encoding: identity"], 415),
        (["Content-Encoding: identity, gzip"], 415),
        (["Content-Type: text/plain; charset=caf\xe9"], 415),
        (["Content-Type: \xe9"], 422),
        (["Content-Encoding: gzip\xe9"], 415),
        (["Content-Encoding: gzip"], 422),
    ],
)
def test_headers_that_contradict_each_other_are_refused(
    server: Server, headers: list[str], status: int
) -> None:
    begin = head(
        server, "POST /incremental-import HTTP/1.1", "Content-Length: 2", "Connection: close", *headers
    )
    assert statuses(exchanged(server, begin + b"[{")) == [status]
    assert "Traceback" not in server.log

"""Real clients: curl and httpx against a real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from eventferry import open_store
from tests.support import exported, import_lines, make_lines, program
from tests.support.service import Server, new_event, serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    async def made() -> None:
        async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
            await store.init()
            await import_lines(store, make_lines(5000))

    asyncio.run(made())
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path) as started:
        yield started


def curl(*words: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        [program("curl"), "-sS", "--fail-with-body", *words],
        input=stdin,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout


@pytest.mark.slow
def test_curl_pipes_an_export_into_an_import(server: Server, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    lines = curl("-D", str(headers), f"{server.url}/export")
    assert lines == make_lines(5000)
    assert "eventferry-cursor: " in headers.read_text()
    told = curl("--data-binary", "@-", f"{server.url}/import?replace=true", stdin=lines)
    assert json.loads(told)["imported"] == 5000
    chunked = curl(
        "-T", "-", "-X", "POST", f"{server.url}/import?replace=true", stdin=lines[: len(make_lines(10))]
    )
    assert json.loads(chunked)["imported"] == 10


@pytest.mark.parametrize("charset", ["utf-8", "latin1", "shift_jis", "utf-16", "utf-16le", "windows-1252"])
def test_curl_posts_events_in_any_charset(server: Server, charset: str) -> None:
    text = "日本語テキスト" if charset == "shift_jis" else "äöü ß é"
    body = json.dumps([new_event(1, payload=text)], ensure_ascii=False).encode(charset)
    header = f"Content-Type: application/json; charset={charset}"
    told = curl("-H", header, "--data-binary", "@-", f"{server.url}/incremental-import", stdin=body)
    assert json.loads(told)["imported"] == 1
    page = json.loads(curl(f"{server.url}/events?type=ADDED"))
    assert page["events"][0]["payload"] == text


def test_curl_sends_what_gzip_and_zstd_packed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(make_lines(5000))
    for packer, coding in (("gzip", "gzip"), ("zstd", "zstd")):
        packed = subprocess.run(
            [program(packer), "-c", str(tmp_path / "lines")], capture_output=True, check=True
        ).stdout
        told = curl(
            *("-H", f"Content-Encoding: {coding}", "--data-binary", "@-"),
            f"{server.url}/import?replace=true",
            stdin=packed,
        )
        assert json.loads(told)["imported"] == 5000


def test_curl_is_not_asked_for_a_body_that_would_be_refused(server: Server) -> None:
    told = subprocess.run(
        [
            program("curl"),
            "-sS",
            "-v",
            "-H",
            "Expect: 100-continue",
            "--data-binary",
            "@-",
            f"{server.url}/import",
        ],
        input=make_lines(5000),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert b"409 Conflict" in told.stderr
    assert b"100 Continue" not in told.stderr
    assert b"store-full" in told.stdout


@pytest.mark.slow
def test_httpx_pipes_one_service_into_another(server: Server, tmp_path: Path) -> None:
    async def made() -> None:
        async with open_store(f"sqlite:///{tmp_path}/b.db") as store:
            await store.init()

    asyncio.run(made())
    with serving(f"sqlite:///{tmp_path}/b.db", tmp_path) as other:
        with httpx.stream("GET", f"{server.url}/export") as response:
            told = httpx.post(f"{other.url}/import", content=response.iter_bytes(), timeout=60)
        assert told.json()["imported"] == 5000
        cursor = response.headers["eventferry-cursor"]
        httpx.post(f"{server.url}/incremental-import", json=[new_event(1)])
        with httpx.stream("GET", f"{server.url}/export", params={"cursor": cursor}) as response:
            told = httpx.post(f"{other.url}/incremental-import", content=response.iter_bytes(), timeout=60)
        assert told.json()["imported"] == 1

        async def both() -> tuple[bytes, int]:
            async with (
                open_store(f"sqlite:///{tmp_path}/a.db") as a,
                open_store(f"sqlite:///{tmp_path}/b.db") as b,
            ):
                return await exported(a), (await b.describe()).event_count

        lines, count = asyncio.run(both())
        assert lines.count(b"\n") == count == 5001


@pytest.mark.slow
def test_a_connection_is_used_again_after_every_kind_of_answer(server: Server) -> None:
    with server.client() as client:
        for _ in range(3):
            assert client.get("/nowhere").status_code == 404
            assert client.post("/import", content=make_lines(100)).status_code == 409
            assert client.post("/events", content="nonsense").status_code == 422
            assert client.request("PATCH", "/events", content="x" * 100_000).status_code == 405
            assert client.post("/import?nonsense=1", content=make_lines(1000)).status_code == 400
            assert client.get("/describe").json()["eventCount"] == 5000

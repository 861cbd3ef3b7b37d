"""An import over HTTP that was interrupted goes on where it was, if its sender wants that, and with its source only."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventferry import EventStore, open_store
from eventferry.http import create_app
from eventferry.http.limits import Limits
from eventferry.importing.replace import Replacement
from tests.http.test_uploads import cut_upload
from tests.support import exported, import_lines, make_lines
from tests.support.places import DATABASES, Places
from tests.support.service import client_of, problem_of, serving

COMMIT = 100_000
SOURCE = make_lines(6000)
OLD = make_lines(5)
RESUME = "/import?replace=true&resume=true"


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place for a store whose imports commit often."""
    monkeypatch.setattr(Replacement, "batch_bytes", COMMIT)
    with Places(request.param, tmp_path) as places:
        yield places.new_url()


@asynccontextmanager
async def filled(url: str) -> AsyncIterator[EventStore]:
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, OLD)
        yield store


async def interrupted(store: EventStore, target: str = RESUME, upto: int = 600_000) -> None:
    """Send the beginning of the source and go away."""
    assert await cut_upload(create_app(store, insecure=True), "POST", target, SOURCE[:upto]) == []


async def progress(client: httpx.AsyncClient) -> dict[str, Any]:
    response = await client.get("/import")
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    head = await client.head("/import")
    assert head.headers["upload-offset"] == response.headers["upload-offset"] == str(told["byteOffset"])
    return told


async def test_an_interrupted_import_goes_on_at_its_offset(url: str) -> None:
    async with filled(url) as store, client_of(store) as client:
        assert (await client.get("/import")).status_code == 404
        await interrupted(store)
        told = await progress(client)
        offset = told["byteOffset"]
        assert COMMIT <= offset <= 600_000
        assert SOURCE[offset - 1 : offset] == b"\n"
        assert told == {"imported": SOURCE[:offset].count(b"\n"), "byteOffset": offset, "isRunning": False}
        assert await exported(store) == OLD
        response = await client.post(f"{RESUME}&byteOffset={offset}", content=SOURCE[offset:])
        assert response.json() == {"imported": 6000, "byteOffset": len(SOURCE)}
        assert await exported(store) == SOURCE
        assert (await client.get("/import")).status_code == 404


async def test_it_goes_on_from_the_whole_source_too_if_that_is_the_same(url: str) -> None:
    async with filled(url) as store, client_of(store) as client:
        await interrupted(store)
        kept = await progress(client)
        other = SOURCE.replace(b'"number":7}', b'"number":8}')
        refused = await client.post(RESUME, content=other)
        assert refused.status_code == 409
        assert "not the source" in problem_of(refused)["detail"]
        ends = await client.post(RESUME, content=SOURCE[: kept["byteOffset"] // 2])
        assert ends.status_code == 409
        assert await progress(client) == kept
        assert (await client.post(RESUME, content=SOURCE)).json()["imported"] == 6000
        assert await exported(store) == SOURCE


async def test_another_offset_than_the_one_reached_is_refused_and_nothing_is_lost(url: str) -> None:
    async with filled(url) as store, client_of(store) as client:
        await interrupted(store)
        kept = await progress(client)
        for offset in (0, kept["byteOffset"] - 1, kept["byteOffset"] + 1, len(SOURCE)):
            refused = await client.post(f"{RESUME}&byteOffset={offset}", content=SOURCE[offset:])
            assert refused.status_code == 409
            assert str(kept["byteOffset"]) in problem_of(refused)["detail"]
        assert await progress(client) == kept
        assert await exported(store) == OLD


async def test_an_import_is_interrupted_again_and_again(url: str) -> None:
    async with filled(url) as store, client_of(store) as client:
        reached = 0
        while reached + 400_000 < len(SOURCE):
            part = SOURCE[reached : reached + 400_000]
            target = f"{RESUME}&byteOffset={reached}"
            assert await cut_upload(create_app(store, insecure=True), "POST", target, part) == []
            told = await progress(client)
            assert told["byteOffset"] > reached
            reached = told["byteOffset"]
        rest = await client.post(f"{RESUME}&byteOffset={reached}", content=SOURCE[reached:])
        assert rest.json()["imported"] == 6000
        assert await exported(store) == SOURCE


async def test_nothing_is_kept_for_who_does_not_ask_or_sends_a_bad_line(url: str) -> None:
    async with filled(url) as store, client_of(store) as client:
        await interrupted(store, "/import?replace=true")
        assert (await client.get("/import")).status_code == 404
        bad = SOURCE[:500_000].rpartition(b"\n")[0] + b"\nnonsense\n"
        assert (await client.post(RESUME, content=bad)).status_code == 422
        assert (await client.get("/import")).status_code == 404
        await interrupted(store)
        assert (await client.post("/import?replace=true", content=make_lines(7))).json()["imported"] == 7
        assert (await client.get("/import")).status_code == 404


async def test_a_resume_replaces_what_is_there_only_if_it_is_asked_to(url: str) -> None:
    async with filled(url) as store, client_of(store) as client:
        await interrupted(store)
        assert (await client.post("/import?resume=true", content=SOURCE)).status_code == 409
        assert await exported(store) == OLD
        kept = await progress(client)
        await store.save_event({"type": "T", "aggregateId": "new", "aggregateVersion": 1})
        rest = SOURCE[kept["byteOffset"] :]
        refused = await client.post(f"{RESUME}&byteOffset={kept['byteOffset']}", content=rest)
        assert problem_of(refused)["type"] == "urn:eventferry:store-changed"
        assert (await store.describe()).event_count == 6


async def test_while_an_import_runs_its_progress_is_told_and_nobody_else_goes_on_with_it(
    url: str,
) -> None:
    async with filled(url) as store, client_of(store) as client:
        go_on = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield SOURCE[:600_000]
            await go_on.wait()
            yield SOURCE[600_000:]

        running = asyncio.create_task(client.post(RESUME, content=slow()))
        while (await client.get("/import")).json().get("byteOffset", 0) < COMMIT:
            await asyncio.sleep(0.05)
        assert (await client.get("/import")).json()["isRunning"]
        assert (await client.post(RESUME, content=SOURCE)).status_code == 503
        go_on.set()
        assert (await running).json()["imported"] == 6000
        assert await exported(store) == SOURCE


async def test_a_request_that_is_refused_takes_nothing_from_its_source(url: str) -> None:
    async with filled(url) as store, client_of(store) as client:
        await interrupted(store)
        kept = await progress(client)
        for headers in (
            {"Content-Encoding": "br"},
            {"Content-Type": "image/png"},
            {"Content-Type": "a; charset=x"},
        ):
            refused = await client.post(RESUME, content=SOURCE, headers=headers)
            assert refused.status_code == 415
        assert await progress(client) == kept


@pytest.mark.slow
async def test_a_body_that_stands_still_is_an_interruption(url: str) -> None:
    async with filled(url) as store, client_of(store, limits=Limits(timeout=2)) as client:

        async def stalled() -> AsyncIterator[bytes]:
            yield SOURCE[:600_000]
            await asyncio.sleep(3600)

        assert (await client.post(RESUME, content=stalled())).status_code == 408
        assert (await progress(client))["byteOffset"] >= COMMIT


@pytest.mark.parametrize(
    ("query", "headers", "words"),
    [
        ("byteOffset=0", {}, "resume"),
        ("resume=true&byteOffset=-1", {}, "byteOffset"),
        ("resume=true&byteOffset=x", {}, "byteOffset"),
        ("resume=true", {"Content-Type": "text/plain; charset=utf-16"}, "UTF-8"),
    ],
)
async def test_what_cannot_be_resumed_is_refused(
    url: str, query: str, headers: dict[str, str], words: str
) -> None:
    async with filled(url) as store, client_of(store) as client:
        refused = await client.post(f"/import?replace=true&{query}", content=SOURCE, headers=headers)
        assert refused.status_code == 400
        assert words in problem_of(refused)["detail"]


@pytest.mark.slow
def test_curl_goes_on_after_the_service_was_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    source = tmp_path / "source.jsonl"
    source.write_bytes(make_lines(150_000))  # more than two commits

    async def made() -> None:
        async with open_store(url) as store:
            await store.init()

    asyncio.run(made())
    with serving(url, tmp_path) as server, httpx.Client(base_url=server.url) as client:
        script = (
            f"(head -c 20000000 {source}; sleep 60) | curl -sS -T - -X POST '{server.url}/import?resume=true'"
        )
        sending = subprocess.Popen(script, shell=True, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            while client.get("/import").json().get("byteOffset", 0) == 0:
                pass
            server.process.kill()
        finally:
            sending.terminate()
            sending.wait()
    with serving(url, tmp_path) as server:
        script = f"""
            at=$(curl -sS --fail '{server.url}/import' | sed 's/.*"byteOffset":\\([0-9]*\\).*/\\1/')
            test $at -gt 8000000
            tail -c +$((at + 1)) {source} | gzip |
              curl -sS --fail -H 'Content-Encoding: gzip' -T - -X POST \
                "{server.url}/import?resume=true&byteOffset=$at"
        """
        told = subprocess.run(script, shell=True, check=True, capture_output=True, text=True)
        assert '"imported":150000' in told.stdout

    async def content() -> bytes:
        async with open_store(url) as store:
            return await exported(store)

    assert asyncio.run(content()) == source.read_bytes()

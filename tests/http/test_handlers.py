"""Handlers one by one, and the application mounted, in frameworks of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route

import eventferry.http as http
from eventferry import EventStore
from eventferry.http import create_app
from tests.support import exported, make_event, make_lines
from tests.support.service import URL, lines_of, new_event, opened, problem_of

HANDLERS: dict[tuple[str, str], http.Handler[Any]] = {
    ("GET", "/describe"): http.describe_handler,
    ("GET", "/events"): http.events_handler,
    ("GET", "/bookmark"): http.bookmark_handler,
    ("POST", "/events"): http.save_handler,
    ("GET", "/export"): http.export_handler,
    ("POST", "/freeze"): http.freeze_handler,
    ("POST", "/unfreeze"): http.unfreeze_handler,
    ("GET", "/import"): http.import_progress_handler,
    ("POST", "/import"): http.import_handler,
    ("POST", "/incremental-import"): http.incremental_import_handler,
    ("POST", "/begin"): http.begin_handler,
    ("PUT", "/part/{id}/{part}"): http.part_handler,
    ("POST", "/commit/{id}"): http.commit_handler,
    ("DELETE", "/rollback/{id}"): http.rollback_handler,
    ("GET", "/secrets"): http.secrets_handler,
    ("POST", "/secrets"): http.import_secrets_handler,
}


def in_starlette(store: EventStore) -> Any:
    return Starlette(
        routes=[Route(path, handler(store), methods=[method]) for (method, path), handler in HANDLERS.items()]
    )


def in_fastapi(store: EventStore) -> Any:
    app = FastAPI()
    for (method, path), handler in HANDLERS.items():
        app.add_api_route(path, handler(store), methods=[method])
    return app


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL)


@pytest.mark.parametrize("framework", [in_starlette, in_fastapi])
async def test_every_handler_works_alone(tmp_path: Path, framework: Any) -> None:
    async with opened(tmp_path) as store, client_of(framework(store)) as client:
        assert (await client.post("/import", content=make_lines(3))).json()["imported"] == 3
        assert (await client.get("/describe")).json()["eventCount"] == 3
        assert (await client.get("/export")).content == make_lines(3)
        assert (await client.get("/events?limit=1")).json()["events"] == [make_event(0)]
        event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1}
        assert (await client.post("/events", json=event)).status_code == 201
        problem_of(await client.post("/events", json=event))
        assert (await client.get("/bookmark")).json() == {"bookmark": await store.bookmark()}
        assert (await client.post("/freeze")).status_code == 204
        assert (await client.post("/unfreeze")).status_code == 204
        new = lines_of([new_event(1, timestamp=5_000_000_000_000)])
        assert (await client.post("/incremental-import", content=new)).json()["imported"] == 1
        begun = (await client.post("/begin")).json()["id"]
        assert (await client.put(f"/part/{begun}/1", content=new)).json() == {"events": 1}
        assert (await client.post(f"/commit/{begun}")).json()["skippedExisting"] == 1
        begun = (await client.post("/begin")).json()["id"]
        assert (await client.delete(f"/rollback/{begun}")).status_code == 204
        assert (await client.post("/secrets", content='{"secret":"s","id":"a","idx":0}')).json()[
            "imported"
        ] == 1
        assert (await client.get("/secrets")).text == '{"secret":"s","id":"a","idx":0}\n'
        assert (await client.get("/events?limit=none")).status_code == 400


async def test_the_application_is_mounted_under_a_path(tmp_path: Path) -> None:
    async with opened(tmp_path, 3) as store:
        inner = create_app(store, insecure=True)
        fastapi = FastAPI()
        fastapi.mount("/store", inner)
        for app in (fastapi, Starlette(routes=[Mount("/store", inner)])):
            async with client_of(app) as client:
                assert (await client.get("/store/export")).content == make_lines(3)
                assert (await client.get("/store/openapi.json")).json()["servers"] == [{"url": "/store"}]
                problem_of(await client.get("/store/nowhere"))
                assert (
                    await client.post("/store/freeze", headers={"Origin": "https://evil.example"})
                ).status_code == 403
        assert await exported(store) == make_lines(3)


async def test_a_framework_may_put_a_slash_behind_the_path_as_litestar_does(tmp_path: Path) -> None:
    async with opened(tmp_path, 3) as store:
        inner = create_app(store, insecure=True)

        async def mounting(scope: Any, receive: Any, send: Any) -> None:
            await inner(scope | {"path": scope["path"].removeprefix("/store") + "/"}, receive, send)

        async with client_of(mounting) as client:
            assert (await client.get("/store/export")).content == make_lines(3)
            assert (await client.put("/store/incremental-imports/1/parts/2", json=[])).status_code == 404
            assert (await client.post("/store/freeze", headers={"Host": "evil.example"})).status_code == 403

"""Who may call: tokens and their scopes on every route, and nothing that a web page could send."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventferry import EventferryError, UsageError
from eventferry.http import SCOPES, Limits, TokenFile, create_app
from eventferry.http.route import Handler
from eventferry.http.routes import ROUTES
from tests.support import exported
from tests.support.service import URL, client_of, opened, problem_of, service

OPEN_TO_ALL = {"/healthz", "/openapi.json", "/docs"}

# By hand, not from the table: a route that changes its scope must change this too.
SCOPE_OF = {
    "GET /describe": {"read"},
    "GET /events": {"read"},
    "GET /bookmark": {"read"},
    "POST /events": {"write"},
    "POST /append": {"write"},
    "GET /aggregate": {"read"},
    "GET /export": {"read"},
    "GET /follow": {"read"},
    "GET /import": {"import"},
    "POST /import": {"import"},
    "POST /incremental-import": {"import"},
    "POST /incremental-imports": {"import"},
    "PUT /incremental-imports/{id}/parts/{part}": {"import"},
    "POST /incremental-imports/{id}/commit": {"import"},
    "DELETE /incremental-imports/{id}": {"import"},
    "POST /imports": {"import"},
    "PUT /imports/{id}/parts/{part}": {"import"},
    "POST /imports/{id}/commit": {"import"},
    "DELETE /imports/{id}": {"import"},
    "POST /freeze": {"write"},
    "POST /unfreeze": {"write"},
    "GET /secrets": {"secrets"},
    "POST /secrets": {"secrets"},
    "GET /metrics": {"read"},
    "GET /api/event-store/export": {"read", "secrets"},
    "GET /api/event-store/import": {"import", "secrets"},
    "GET /api/event-store/incremental-import": {"import"},
    "GET /api/event-store/freeze": {"write"},
    "GET /api/event-store/unfreeze": {"write"},
}


def name_of(route: Handler[Any]) -> str:
    return f"{route.method} {route.path}"


def target(route: Handler[Any]) -> str:
    return route.path.replace("{id}", "1").replace("{part}", "1")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"user:{token}".encode()).decode()}


def new_tokens(folder: Path) -> tuple[TokenFile, dict[str, str]]:
    """A file of tokens with one for each scope, one for all, and one for none that is left."""
    file = TokenFile(folder / "tokens.json")
    made: dict[str, str] = {scope: file.add(scope, [scope]) for scope in SCOPES}
    made["all"] = file.add("all", SCOPES)
    made["revoked"] = file.add("revoked", SCOPES)
    file.revoke("revoked")
    return file, made


def places_of(app: Any) -> set[str]:
    """The paths that an application has, asked of itself."""
    return {place.path.rstrip("/") for place in app.routes}


async def test_every_route_is_walked_here(tmp_path: Path) -> None:
    assert {name_of(route) for route in ROUTES if route.path not in OPEN_TO_ALL} == set(SCOPE_OF)
    async with opened(tmp_path) as store:
        assert places_of(create_app(store, insecure=True)) == {route.path for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
async def test_a_route_is_closed_to_whoever_has_no_token_or_too_small_a_one(
    tmp_path: Path, route: Handler[Any]
) -> None:
    file, made = new_tokens(tmp_path)
    async with service(tmp_path, 3, tokens=file, exchange_dir=tmp_path) as (client, store):
        before = await exported(store)

        async def status(headers: dict[str, str]) -> int:
            return (await client.request(route.method, target(route), headers=headers)).status_code

        if route.path in OPEN_TO_ALL:
            assert await status({}) == 200
            return
        needed = SCOPE_OF[name_of(route)]
        nobody: list[dict[str, str]] = [
            {},
            bearer("nonsense"),
            bearer(made["revoked"]),
            bearer(made["all"][:-1]),
            bearer(made["all"] + "x"),
            bearer(""),
            {"Authorization": made["all"]},
            {"Authorization": f"Token {made['all']}"},
            {"X-Api-Key": made["all"]},
            {"Cookie": f"token={made['all']}"},
            basic("nonsense"),
            {"Authorization": "Basic !!!"},
            *([] if route.is_plain else [basic(made["all"])]),
        ]
        for headers in nobody:
            assert await status(headers) == 401, headers
        query = f"{target(route)}?token={made['all']}&access_token={made['all']}"
        assert (await client.request(route.method, query)).status_code == 401
        for scope in SCOPES:
            if {scope} != needed:
                assert await status(bearer(made[scope])) == 403, scope
        assert await exported(store) == before
        assert not (await store.describe()).is_frozen
        assert await status(bearer(made["all"])) not in (401, 403)
        if route.is_plain:
            assert await status(basic(made["all"])) not in (401, 403)


async def test_a_refusal_says_what_is_missing_and_never_asks_a_browser_for_a_password(tmp_path: Path) -> None:
    file, made = new_tokens(tmp_path)
    async with service(tmp_path, tokens=file, exchange_dir=tmp_path) as (client, _):
        for path in ("/describe", "/api/event-store/freeze"):
            nobody = await client.get(path)
            assert nobody.headers["www-authenticate"].startswith("Bearer")
            assert "Basic" not in nobody.headers["www-authenticate"]
        little = await client.get("/describe", headers=bearer(made["write"]))
        assert "read" in problem_of(little)["detail"]
        assert 'scope="read"' in little.headers["www-authenticate"]
        assert (await client.get("/api/event-store/freeze")).headers["content-type"].startswith("text/plain")


async def test_a_token_ends_with_the_request_after_it_was_revoked_and_begins_when_it_is_made(
    tmp_path: Path,
) -> None:
    file, made = new_tokens(tmp_path)
    elsewhere = TokenFile(file.path)
    async with service(tmp_path, tokens=file) as (client, _):
        assert (await client.get("/describe", headers=bearer(made["read"]))).status_code == 200
        elsewhere.revoke("read")
        assert (await client.get("/describe", headers=bearer(made["read"]))).status_code == 401
        new = elsewhere.add("read", ["read"])
        assert (await client.get("/describe", headers=bearer(new))).status_code == 200


@pytest.mark.parametrize("harm", ["gone", "open to others", "garbled"])
async def test_nobody_is_let_in_while_the_tokens_cannot_be_trusted(tmp_path: Path, harm: str) -> None:
    file, made = new_tokens(tmp_path)
    async with service(tmp_path, tokens=file) as (client, _):
        whole = file.path.read_bytes()
        if harm == "gone":
            file.path.unlink()
        elif harm == "garbled":
            file.path.write_bytes(whole[:-9])
        else:
            file.path.chmod(0o640)
        for _ in range(2):
            response = await client.get("/describe", headers=bearer(made["all"]))
            assert response.status_code == 503
            assert str(tmp_path) not in response.text
        file.path.write_bytes(whole)
        file.path.chmod(0o600)
        assert (await client.get("/describe", headers=bearer(made["all"]))).status_code == 200


async def test_an_application_without_tokens_must_be_asked_for_by_name(tmp_path: Path) -> None:
    file, _ = new_tokens(tmp_path)
    async with opened(tmp_path) as store:
        with pytest.raises(UsageError, match="insecure"):
            create_app(store)
        with pytest.raises(UsageError, match="insecure"):
            create_app(store, tokens=file, insecure=True)
        with pytest.raises(EventferryError, match="cannot be read"):
            create_app(store, tokens=tmp_path / "nowhere.json")
        with pytest.raises(UsageError, match="exchange"):
            create_app(store, insecure=True, exchange_dir=tmp_path / "nowhere")
        with pytest.raises(UsageError, match="rate"):
            create_app(store, insecure=True, rate="often")


CHANGING = [route for route in ROUTES if route.method != "GET" or route.is_plain]

FOREIGN: list[dict[str, str]] = [
    {"Host": "evil.example"},
    {"Host": "evil.example:80"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "203.0.113.5"},
    {"Host": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": URL},
    {"Sec-Fetch-Site": "nonsense"},
]


@pytest.mark.parametrize("route", CHANGING, ids=name_of)
async def test_a_request_that_changes_things_is_none_that_a_web_page_can_send(
    tmp_path: Path, route: Handler[Any]
) -> None:
    file, made = new_tokens(tmp_path)
    async with opened(tmp_path, 3) as store:
        before = await exported(store)
        for tokens in (None, file):
            async with client_of(
                store,
                exchange_dir=tmp_path,
                **({"insecure": True} if tokens is None else {"tokens": tokens}),
            ) as client:
                token = (
                    {} if tokens is None else basic(made["all"]) if route.is_plain else bearer(made["all"])
                )
                for headers in FOREIGN:
                    response = await client.request(route.method, target(route), headers=headers | token)
                    assert response.status_code == 403, headers
                assert await exported(store) == before
                assert not (await store.describe()).is_frozen
                for headers in ({}, {"Origin": URL}, {"Origin": URL, "Sec-Fetch-Site": "same-origin"}):
                    response = await client.request(route.method, target(route), headers=headers | token)
                    assert response.status_code != 403, headers
                await store.describe()
                if (await store.describe()).is_frozen:
                    await store.unfreeze()
                await store.rollback_incremental_import()


@pytest.mark.parametrize("route", [route for route in ROUTES if route not in CHANGING], ids=name_of)
async def test_nothing_is_read_by_a_name_that_somebody_let_point_here(
    tmp_path: Path, route: Handler[Any]
) -> None:
    async with service(tmp_path, 3) as (client, _):
        response = await client.get(target(route), headers={"Host": "rebound.example"})
        assert response.status_code == (200 if route.path in OPEN_TO_ALL else 403)


async def test_names_and_sites_can_be_allowed(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "allowed_hosts": ["Events.example"],
        "allowed_origins": ["https://admin.example"],
    }
    async with service(tmp_path, **options) as (client, _):
        named = {"Host": "events.example:8443"}
        assert (await client.get("/describe", headers=named)).status_code == 200
        site = {"Origin": "https://admin.example", "Sec-Fetch-Site": "cross-site"}
        allowed = await client.post("/freeze", headers=named | site)
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == "https://admin.example"
        preflight = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert (await client.options("/unfreeze", headers=named | site | preflight)).status_code == 200
        other = {"Origin": "https://other.example"}
        assert (await client.options("/unfreeze", headers=named | other | preflight)).status_code == 400
        assert (await client.post("/unfreeze", headers=named | other)).status_code == 403
        same = {"Origin": "https://events.example:8443", "Sec-Fetch-Site": "same-origin"}
        assert (await client.post("/unfreeze", headers=named | same)).status_code == 204


async def test_no_page_of_another_site_can_read_an_answer(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        response = await client.get("/describe", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in response.headers


async def test_whoever_asks_too_often_is_told_to_wait(tmp_path: Path) -> None:
    file, made = new_tokens(tmp_path)
    async with service(tmp_path, tokens=file, rate="5/minute") as (client, _):
        statuses = [
            (await client.get("/describe", headers=bearer(made["read"]))).status_code for _ in range(8)
        ]
        assert statuses == [200] * 5 + [429] * 3
        waiting = await client.get("/describe", headers=bearer(made["read"]))
        assert 1 <= int(waiting.headers["retry-after"]) <= 120
        problem_of(waiting)
        assert (
            await client.get("/describe", headers=bearer(made["all"]))
        ).status_code == 200  # another token
        guesses = [(await client.get("/describe", headers=bearer(str(n)))).status_code for n in range(8)]
        assert guesses == [401] * 5 + [429] * 3
        assert (await client.get("/healthz")).status_code == 200


async def test_only_so_many_imports_run_at_once(tmp_path: Path) -> None:
    async with service(tmp_path, limits=Limits(max_imports=2)) as (client, _):
        go_on = asyncio.Event()

        async def slow() -> Any:
            yield b"["
            await go_on.wait()
            yield b"]"

        running = [asyncio.create_task(client.post("/incremental-import", content=slow())) for _ in range(2)]
        await asyncio.sleep(0.2)
        refused = await client.post("/incremental-import", json=[])
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1}
        assert (await client.post("/events", json=event)).status_code == 201  # saves are no imports
        go_on.set()
        answers: list[httpx.Response] = await asyncio.gather(*running)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert (await client.post("/incremental-import", json=[])).status_code == 200

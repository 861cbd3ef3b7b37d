"""Who may see the console's pages: tokens in a form, sessions in a cookie, forms that are a visitor's own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventferry.console.app import PAGES
from eventferry.console.page import ROOT, ConsolePage
from eventferry.console.sessions import SESSION_SECONDS
from eventferry.http import SCOPES, TokenFile
from tests.support.console import Visitor, console, markup_of
from tests.support.service import URL, client_of, service

OPEN_TO_ALL = {"GET /sign-in", "POST /sign-in", "POST /sign-out", "GET /asset"}

# By hand, not from the table: a page that changes its scope must change this too.
SCOPE_OF = {
    "GET ": "read",
    "GET /events": "read",
    "GET /event": "read",
    "GET /aggregate": "read",
    "GET /chart": "read",
    "GET /types": "read",
    "GET /aggregates": "read",
    "GET /search": "read",
    "GET /trace": "read",
    "GET /download": "read",
    "GET /follow": "read",
    "GET /follow/rows": "read",
    "GET /operations": "read",
    "GET /checks": "read",
    "GET /examine": "write",
    "POST /examine": "write",
    "POST /examine/cancel": "write",
    "GET /freeze": "write",
    "POST /freeze": "write",
    "GET /unfreeze": "write",
    "POST /unfreeze": "write",
    "GET /rollback": "import",
    "POST /rollback": "import",
}

GUARDED = [page for page in PAGES if page.scope is not None]


def name_of(page: ConsolePage[Any]) -> str:
    return f"{page.method} {page.path}"


async def asked(visitor: Visitor, page: ConsolePage[Any], **headers: str) -> httpx.Response:
    """Ask for a page; for what a form does, with a form that has the visitor's key. A stream would not end."""
    if page.path == "/follow/rows":
        return await visitor.client.head(ROOT + page.path, headers=headers)
    if page.method == "GET":
        return await visitor.client.get(ROOT + page.path, headers=headers)
    key = (await visitor.see("/operations")).forms[0]["formKey"]
    return await visitor.client.post(
        ROOT + page.path, data={"formKey": key, "id": "1", "steps": "parts"}, headers=headers
    )


def test_every_page_is_walked_here() -> None:
    assert {name_of(page) for page in GUARDED} == set(SCOPE_OF)
    assert {name_of(page) for page in PAGES if page.scope is None} == OPEN_TO_ALL


@pytest.mark.parametrize("page", GUARDED, ids=name_of)
async def test_a_page_is_closed_to_whoever_has_not_signed_in_or_has_too_small_a_scope(
    tmp_path: Path, page: ConsolePage[Any]
) -> None:
    async with console(tmp_path, 3) as (visitor, store, tokens):
        for headers in (
            {},
            {"Authorization": f"Bearer {tokens['all']}"},
            {"Cookie": f"eventferry={tokens['all']}"},
            {"Cookie": "eventferry=.."},
        ):
            response = await visitor.client.request(page.method, ROOT + page.path, headers=headers)
            assert response.status_code == 303
            assert response.headers["location"].startswith(f"{ROOT}/sign-in")
        for scope in SCOPES:
            if scope != SCOPE_OF[name_of(page)]:
                await visitor.sign_in(tokens[scope])
                response = await visitor.client.request(page.method, ROOT + page.path)
                assert response.status_code == 403, scope
                assert SCOPE_OF[name_of(page)] in markup_of(response).text
                visitor.client.cookies.clear()
        assert not (await store.describe()).is_frozen
        await visitor.sign_in(tokens["all"])
        assert (await asked(visitor, page)).status_code not in (401, 403, 500)


async def test_a_cookie_is_one_that_no_script_reads_and_no_other_site_sends(tmp_path: Path) -> None:
    async with console(tmp_path) as (visitor, _, tokens):
        cookie = (await visitor.sign_in(tokens["read"])).headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert f"max-age={SESSION_SECONDS}" in cookie
        assert "secure" not in cookie
        assert tokens["read"].lower() not in cookie
        visitor.client.base_url = httpx.URL("https://127.0.0.1")
        cookie = (await visitor.sign_in(tokens["read"])).headers["set-cookie"]
        assert cookie.startswith("__Host-eventferry=")
        assert "; Secure" in cookie
        assert "; Path=/" in cookie
        assert "domain" not in cookie.lower()


async def test_a_session_ends_with_its_token(tmp_path: Path) -> None:
    async with console(tmp_path) as (visitor, _, tokens):
        await visitor.sign_in(tokens["read"])
        await visitor.see("")
        TokenFile(tmp_path / "tokens.json").revoke("read")
        await visitor.see("/sign-in")
        assert (await visitor.client.get(ROOT)).status_code == 303


async def test_a_session_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with console(tmp_path) as (visitor, _, tokens):
        await visitor.sign_in(tokens["read"])
        [cookie] = visitor.client.cookies.jar
        later = time.time() + SESSION_SECONDS + 1
        visitor.client.cookies.clear()
        headers = {"Cookie": f"{cookie.name}={cookie.value}"}  # of a browser whose clock stands still
        assert (await visitor.client.get(ROOT, headers=headers)).status_code == 200
        monkeypatch.setattr("eventferry.console.sessions.now", lambda: later * 1000)
        assert (await visitor.client.get(ROOT, headers=headers)).status_code == 303


async def test_whoever_signs_out_makes_every_copy_of_the_cookie_worthless(tmp_path: Path) -> None:
    async with console(tmp_path) as (visitor, _, tokens):
        await visitor.sign_in(tokens["read"])
        copy = dict(visitor.client.cookies)
        await visitor.sign_in(tokens["all"])
        other = dict(visitor.client.cookies)
        await visitor.send("/sign-out")
        assert not dict(visitor.client.cookies)
        visitor.client.cookies.update(other)
        assert (await visitor.client.get(ROOT)).status_code == 303
        visitor.client.cookies.update(copy)
        await visitor.see("")


async def test_a_cookie_that_was_made_elsewhere_or_changed_is_none(tmp_path: Path) -> None:
    async with console(tmp_path) as (visitor, store, tokens):
        await visitor.sign_in(tokens["read"])
        [(name, value)] = visitor.client.cookies.items()
        session, until, digest, signature = value.split(".")
        stronger = TokenFile(tmp_path / "tokens.json").find(tokens["all"])
        assert stronger is not None
        for forged in (
            f"{session}.{int(until) + 1}.{digest}.{signature}",
            f"{session}.{until}.{stronger.sha256}.{signature}",
            f"{session}.{until}.{digest}.{'0' * 64}",
            f"{session}.{until}.{digest}.",
            f"{session}.{until}.{digest}.é",
            f"{value}.",
            "é",
        ):
            visitor.client.cookies.clear()
            headers = {"Cookie": f"{name}={forged}".encode()}
            assert (await visitor.client.get(ROOT, headers=headers)).status_code == 303, forged  # type: ignore[arg-type]
        async with client_of(store, tokens=TokenFile(tmp_path / "tokens.json"), console=True) as other:
            other.cookies.set(name, value)
            assert (await other.get(ROOT)).status_code == 303


async def test_the_key_of_a_form_is_no_session(tmp_path: Path) -> None:
    async with console(tmp_path) as (visitor, _, _):
        key = (await visitor.see("/sign-in")).forms[0]["formKey"]
        for cookie in (f'eventferry="form .{key}"', f'eventferry=".{key}"'):
            response = await visitor.client.get(ROOT, headers={"Cookie": cookie})
            assert response.status_code == 303


async def test_a_wrong_token_is_told_of_and_is_counted(tmp_path: Path) -> None:
    async with console(tmp_path, rate="3/minute") as (visitor, _, tokens):
        for wrong in ("nonsense", "", tokens["read"] + "x"):
            page = markup_of(await visitor.sign_in(wrong, 401))
            assert "unknown, or was revoked" in page.text
            assert not visitor.client.cookies
        assert (await visitor.sign_in("nonsense", 429)).headers["retry-after"]


async def test_nobody_is_let_in_while_the_tokens_cannot_be_trusted(tmp_path: Path) -> None:
    async with console(tmp_path) as (visitor, _, tokens):
        await visitor.sign_in(tokens["read"])
        (tmp_path / "tokens.json").chmod(0o640)
        response = await visitor.client.get(ROOT)
        assert response.status_code == 503
        assert str(tmp_path) not in response.text


@pytest.mark.parametrize(
    ("back", "place"),
    [
        ("/events?type=A", "/console/events?type=A"),
        ("", "/console"),
        ("https://evil.example", "/console"),
        ("//evil.example", "/console//evil.example"),
        ("@evil.example", "/console"),
        ("/\r\nX: y", "/console/%0D%0AX:%20y"),
    ],
)
async def test_after_signing_in_one_is_where_one_wanted_to_be_and_never_elsewhere(
    tmp_path: Path, back: str, place: str
) -> None:
    async with console(tmp_path) as (visitor, _, tokens):
        assert (await visitor.sign_in(tokens["read"], back=back)).headers["location"] == place


async def test_the_form_for_signing_in_knows_where_one_came_from(tmp_path: Path) -> None:
    async with console(tmp_path, 3) as (visitor, _, tokens):
        sent = await visitor.client.get(f"{ROOT}/events?type=TYPE_1&aggregateId=a%26b")
        form = markup_of(await visitor.client.get(sent.headers["location"])).forms[0]
        back = await visitor.sign_in(tokens["read"], back=form["back"])
        assert back.headers["location"] == f"{ROOT}/events?type=TYPE_1&aggregateId=a%26b"


FOREIGN = [
    {"Host": "evil.example"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


async def test_a_form_changes_nothing_unless_it_is_the_visitors_own(tmp_path: Path) -> None:
    async with console(tmp_path, 3) as (visitor, store, tokens):
        client = visitor.client
        await visitor.sign_in(tokens["all"])
        own = (await visitor.see("")).forms[0]["formKey"]
        await visitor.sign_in(tokens["all"])  # another session
        await visitor.send("/freeze", 403, formKey=own)
        key = (await visitor.see("/freeze")).forms[-1]["formKey"]
        for wrong in ("", "0" * 64, key[:-1], "é"):
            page = await visitor.send("/freeze", 403, formKey=wrong)
            assert "open the page again" in markup_of(page).text
        path = f"{ROOT}/freeze"
        for headers in FOREIGN:
            assert (await client.post(path, data={"formKey": key}, headers=headers)).status_code == 403, (
                headers
            )
        assert (await client.post(path, json={"formKey": key})).status_code == 415
        assert (await client.post(path, data={"id": "1"})).status_code == 400
        assert (await client.post(path, data={"formKey": key, "a": "b" * 70_000})).status_code == 413
        assert (await client.get(path, params={"formKey": key})).status_code == 400
        assert (await client.put(path)).status_code == 405
        assert not (await store.describe()).is_frozen
        await visitor.send("/freeze", formKey=key)
        assert (await store.describe()).is_frozen


async def test_a_service_without_tokens_shows_its_pages_to_everybody_but_other_sites(tmp_path: Path) -> None:
    async with service(tmp_path, 3, console=True) as (client, _):
        visitor = Visitor(client)
        assert "Sign out" not in (await visitor.see("")).text
        assert (await client.get(f"{ROOT}/sign-in")).headers["location"] == ROOT
        assert (await client.get(ROOT, headers={"Host": "evil.example"})).status_code == 403


async def test_a_service_without_tokens_lets_nobody_change_anything_and_says_how(tmp_path: Path) -> None:
    async with service(tmp_path, 3, console=True) as (client, store):
        for page in (page for page in GUARDED if page.scope != "read"):
            response = await client.request(
                page.method,
                ROOT + page.path,
                data={"formKey": "", "does": "check", "id": "1", "steps": "parts"},
            )
            assert response.status_code == 403, page.path
            told = markup_of(response).text
            assert f"a token with the scope {page.scope} is needed; the service takes none without" in told
        await store.begin_import()
        for path in ("/operations", "/checks"):
            shown = await Visitor(client).see(path)
            assert "--tokens FILE" in shown.text
            assert not shown.forms
            assert not [
                link for link in shown.links if any(map(link.count, ("freeze", "rollback", "examine")))
            ]


async def test_a_person_who_comes_to_the_service_is_led_to_the_console_and_a_program_is_not(
    tmp_path: Path,
) -> None:
    async with console(tmp_path) as (visitor, _, tokens):
        person = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        for path in ("/describe", "/export", "/metrics"):
            sent = await visitor.client.get(path, headers=person)
            assert sent.headers["location"] == f"{ROOT}/sign-in"
            assert (await visitor.client.get(path)).status_code == 401
        assert (await visitor.client.get("/")).headers["location"] == ROOT
        assert "<a href=console>" in (await visitor.client.get("/docs")).text
        await visitor.sign_in(tokens["all"])
        assert (await visitor.client.get("/describe")).status_code == 401  # the cookie is for the pages alone
        assert (await visitor.client.post("/freeze")).status_code == 401


async def test_without_being_asked_for_there_is_no_console(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        for page in PAGES:
            assert (await client.get(f"{URL}{ROOT}{page.path}")).status_code == 404
        assert (await client.get(URL)).status_code == 404
        assert "href=console" not in (await client.get("/docs")).text

"""The console as the tests visit it, and what a page may hold."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from eventferry import EventStore
from eventferry.console.page import ROOT
from eventferry.console.rendering import POLICY
from eventferry.http import SCOPES, TokenFile
from tests.support.service import service

LOADING = {"src", "href", "action", "formaction", "data", "poster", "srcset"}
"""Attributes that make a browser go somewhere."""


class Markup(HTMLParser):
    """The elements of a page, each checked: nothing that runs or loads, but what the package brings.

    Attributes:
        tags: the names of the elements.
        text: what a reader sees.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.text = ""
        self._in_script = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert len(given) == len(attrs), attrs
        assert tag not in ("style", "iframe", "object", "embed", "base", "img"), attrs
        for name, value in attrs:
            assert not name.startswith("on"), (tag, attrs)
            assert name != "style", (tag, attrs)
            if name in LOADING or (name.startswith("hx-") and value and value.startswith("/")):
                parts = urlsplit(value or "")
                assert not parts.scheme, attrs
                assert not parts.netloc, attrs
                assert parts.path.startswith(ROOT) or (value or "").startswith("#"), attrs
        if tag == "script":
            assert given["src"], attrs
            self._in_script = True
        if tag == "a":
            self.links.append(given["href"] or "")
        if tag == "form":
            self.forms.append({"action": given["action"] or "", "method": given["method"] or ""})
        if tag == "input" and self.forms:
            self.forms[-1][given["name"] or ""] = given.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._in_script = False

    def handle_data(self, data: str) -> None:
        assert not (self._in_script and data.strip()), data
        self.text += data


def markup_of(response: httpx.Response) -> Markup:
    """The markup of a page, which must be one, with all that protects its reader."""
    assert response.headers["content-type"] == "text/html; charset=utf-8", response.text
    assert response.headers["content-security-policy"] == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "same-origin"
    assert response.headers["cache-control"] == "no-store"
    return Markup(response.text)


class Visitor:
    """Who visits the console of a service, without following redirects."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def see(self, path: str, status: int = 200, /, **query: Any) -> Markup:
        """A page."""
        response = await self.client.get(ROOT + path, params=query)
        assert response.status_code == status, (response.status_code, response.text)
        return markup_of(response)

    async def send(self, path: str, status: int = 303, /, **fields: Any) -> httpx.Response:
        """Send a form with the key of this visitor, unless another is given."""
        if "formKey" not in fields:
            page = await self.client.get(f"{ROOT}/sign-in", follow_redirects=True)
            found = re.search(r'name="formKey" value="(\w+)"', page.text)
            fields["formKey"] = found[1] if found else ""
        response = await self.client.post(ROOT + path, data=fields)
        assert response.status_code == status, (response.status_code, response.text)
        return response

    async def sign_in(self, token: str, status: int = 303, back: str = "") -> httpx.Response:
        """Sign in."""
        return await self.send("/sign-in", status, token=token, back=back)


@asynccontextmanager
async def console(
    folder: Path, events: int | bytes = 0, **options: Any
) -> AsyncIterator[tuple[Visitor, EventStore, dict[str, str]]]:
    """A visitor of a service with tokens, its store, and a token for each scope, which nobody has signed in with; one
    has all."""
    file = TokenFile(folder / "tokens.json")
    tokens = {scope: file.add(scope, [scope]) for scope in SCOPES} | {"all": file.add("all", SCOPES)}
    async with service(folder, events, tokens=file, console=True, **options) as (client, store):
        yield Visitor(client), store, tokens

"""A browser, and a service with a console that it visits."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eventferry import open_store, with_metadata
from eventferry.backup.storage import open_storage
from eventferry.http import SCOPES, TokenFile
from tests.support import LONG_AGO, program
from tests.support.service import Server, serving
from tests.support.small_backups import back_up

DAY = 86_400_000
CITIES = ("Lisbon", "Paris", "Oslo", "Rome", "Kyiv", "Bern", "Riga")
MIDNIGHT = LONG_AGO - LONG_AGO % DAY


@dataclass(frozen=True)
class Place:
    """A service that a browser visits.

    Attributes:
        url: of its console.
        store: the URL of its store.
        tokens: a token for each scope, and one for all.
    """

    url: str
    store: str
    tokens: dict[str, str]
    server: Server


def orders() -> Iterator[dict[str, Any]]:
    """Events of 120 orders, of 90 days."""
    for number in range(120):
        day = number * 7919 % 90
        address = {"name": f"Person {number % 17}", "city": CITIES[number % 7]}
        steps = [
            ("ORDER_PLACED", {"total": 10 + number % 90, "address": address, "apiKey": "k-1"}),
            ("ADDRESS_CHANGED", {"address": address | {"street": f"Road {number}"}}),
            ("ADDRESS_CHANGED", {"address": address | {"street": f"Road {number + 1}", "floor": number % 5}}),
            ("ORDER_SHIPPED", {"by": "ferry", "parcels": number % 3 + 1}),
        ]
        for version, (kind, payload) in enumerate(steps[: 2 + number % 3], 1):
            yield {
                "type": kind,
                "aggregateId": f"order-{number:03d}",
                "timestamp": MIDNIGHT + day * DAY + number * 60_000 + version * 3_600_000,
                "payload": payload,
            }


def caused() -> list[dict[str, Any]]:
    """An event, and the one that it caused, at the time of the first orders."""
    asked: dict[str, Any] = {
        "type": "MAIL_ASKED",
        "aggregateId": "mail-1",
        "timestamp": MIDNIGHT,
        "payload": {},
    }
    sent = asked | {"type": "MAIL_SENT"}
    return [
        with_metadata(asked, id="asked", correlation_id="c-1"),
        with_metadata(sent, correlation_id="c-1", causation_id="asked"),
    ]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A service with a store of orders and its backup."""
    folder = tmp_path_factory.mktemp("console")
    store = f"sqlite:///{folder}/orders.db"

    async def made() -> None:
        async with open_store(store) as opened:
            await opened.init()
            await opened.incremental_import([*caused(), *orders()])
            await back_up(opened, open_storage(folder / "backup"), per_part=100, source="orders.db")

    asyncio.run(made())
    file = TokenFile(folder / "tokens.json")
    tokens = {scope: file.add(scope, [scope]) for scope in SCOPES} | {"all": file.add("ada", SCOPES)}
    words = ("--console", "--tokens", str(file.path), "--repository", str(folder / "backup"))
    with serving(store, folder, *words) as server:
        yield Place(f"{server.url}/console", store, tokens, server)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def new_page(browser: Any, place: Place) -> Iterator[Callable[..., Any]]:
    """Makes a page in a window of its own. An error that the browser tells of (a script that fails, something that the
    policy of the pages forbids) fails the test."""
    problems: list[str] = []
    with contextlib.ExitStack() as stack:

        def made(scopes: str | None = "all", **options: Any) -> Any:
            context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}} | options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.on("console", lambda told: problems.append(told.text) if told.type == "error" else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("dialog", lambda dialog: problems.append(dialog.message))
            if scopes is not None:
                sign_in(page, place.url, place.tokens[scopes])
            return page

        yield made
    assert not [each for each in problems if "status of 40" not in each], problems


def sign_in(page: Any, url: str, token: str) -> None:
    """Sign in by the form."""
    page.goto(f"{url}/sign-in")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_load_state()


def screenshot(page: Any, name: str) -> None:
    """Keep a picture for the documentation, if that is what the run is for."""
    folder = os.environ.get("EVENTFERRY_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")

"""The command console: the service's pages for one person on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import eventferry
from eventferry import open_store
from eventferry.cli.commands import command
from eventferry.cli.logs import announce, formatter
from eventferry.cli.options import REPOSITORY, STORE, WholeNumber, flag, option, shown, together
from eventferry.cli.places import store_at
from eventferry.cli.repositories import identity_option
from eventferry.cli.running import run

if TYPE_CHECKING:
    import webbrowser

    from eventferry.http.tokens import Scope

console_options = together(
    option(
        "--repository repository",
        "REPO",
        "A backup that the pages show (repeatable).",
        multiple=True,
        type=REPOSITORY,
    ),
    identity_option,
    option(
        "--source sources",
        "STORE",
        "A store that is synced into this one: the pages show how far behind this one is (repeatable).",
        multiple=True,
        type=STORE,
    ),
    option(
        "--mask mask",
        "POINTER",
        "Show *** in place of what this JSON Pointer finds in payloads, as for secrets (repeatable).",
        multiple=True,
    ),
)

NAME = "you"
"""The name of the token, which the pages show."""


@contextlib.asynccontextmanager
async def beside_the_store(
    repository: tuple[str, ...], identity: tuple[str, ...], sources: tuple[str, ...], mask: tuple[str, ...]
) -> AsyncIterator[dict[str, Any]]:
    """The values of `console_options` as `create_app` takes them."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            "repositories": [eventferry.Repository(place, identity) for place in repository],
            "sources": [await stack.enter_async_context(open_store(place)) for place in sources],
            "mask": eventferry.Mask(mask),
        }


@command()
@click.argument("store", type=STORE)
@option("--aggregate", "ID", "Open the history of this aggregate.  [default: the overview]")
@option("--port", "N", "Port to listen on; 0 picks a free one.", type=WholeNumber(0, 65535), default=0)
@option(
    "--scope -S scopes",
    "SCOPE",
    "What the pages may do beside reading: write, import (repeatable).",
    multiple=True,
    type=click.Choice(["write", "import"]),
)
@console_options
@flag("--no-browser", "Print the address only.")
@click.pass_context
def console(
    context: click.Context,
    /,
    store: str,
    aggregate: str | None,
    port: int,
    scopes: tuple[Scope, ...],
    no_browser: bool,
    **options: tuple[str, ...],
) -> None:
    """Look around in a store with a browser, until Ctrl-C.

    Only this machine can connect, and only with the address that is printed.
    """
    import logging

    from eventferry.http import create_app
    from eventferry.http.serving import Serving, listen, log_to_stderr, serve, url_of
    from eventferry.http.tokens import OneToken

    serving = Serving(port=port)
    token = OneToken(NAME, ("read", *scopes))

    async def work() -> None:
        async with store_at(store) as opened, beside_the_store(**options) as others:
            app = create_app(opened, tokens=token, console=True, **others)
            with listen(serving) as listener, contextlib.ExitStack() as stack:
                log_to_stderr(logging.WARNING, formatter(context))
                address = f"{url_of(listener, serving)}/console/sign-in{_to(aggregate)}#{token.token}"
                announce(context, f"the console of {shown(store)} is at {address}")
                if not no_browser and (browser := _browser()) is not None:
                    listener.listen()  # the browser may be there first
                    browser.open(stack.enter_context(_page_to(address)))
                await serve(app, serving, listener)
        announce(context, "stopped")

    run(work())


def _to(aggregate: str | None) -> str:
    """Where the page of signing in leads to, as its query."""
    if aggregate is None:
        return ""
    from urllib.parse import urlencode

    return "?" + urlencode({"back": "/aggregate?" + urlencode({"id": aggregate})})


def _browser() -> webbrowser.BaseBrowser | None:
    """The user's browser; None if there is none but in the terminal, where it would be in the way of this command."""
    import webbrowser

    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return None
    return None if type(found) is webbrowser.GenericBrowser else found


@contextlib.contextmanager
def _page_to(address: str) -> Iterator[str]:
    """A page that leads to an address, as a URL. Other users of the machine see the arguments of a browser's process,
    but not what stands in a file that only its owner can read."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="eventferry-console-") as folder:
        page = Path(folder, "console.html")
        page.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8"
        )
        yield page.as_uri()

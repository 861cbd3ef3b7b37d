"""The HTTP service: serve, and the tokens of those who may call it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from eventferry import open_store
from eventferry.cli.logs import announce, formatter
from eventferry.cli.options import STORE, json_option
from eventferry.cli.terminal import say
from eventferry.cli.words import print_json, print_words, run
from eventferry.databases import without_password
from eventferry.errors import StoreNotFoundError, UsageError

TOKENS = click.Path(dir_okay=False, path_type=Path)
_SIZE = click.IntRange(1)


@click.command()
@click.argument("store", type=STORE)
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen here; with --tokens anywhere.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free."
)
@click.option("--tokens", type=TOKENS, metavar="FILE", help="Who may call: made by `token add`.")
@click.option(
    "--exchange-dir",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    metavar="DIR",
    help="Let reSolve's module-admin export to and import from this folder.",
)
@click.option("--tls-cert", type=click.Path(dir_okay=False), metavar="FILE", help="Certificates (PEM).")
@click.option("--tls-key", type=click.Path(dir_okay=False), metavar="FILE", help="Their key (PEM).")
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="A name of this service."
)
@click.option(
    "--allowed-origin",
    "allowed_origins",
    multiple=True,
    metavar="URL",
    help="A site whose pages may call it.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy whose X-Forwarded-For is believed.",
)
@click.option("--max-body-bytes", type=_SIZE, help="Of a request, over the wire; 64 GiB if not given.")
@click.option("--max-unpacked-bytes", type=_SIZE, help="Of a packed body, unpacked; 256 GiB if not given.")
@click.option("--max-event-bytes", type=_SIZE, help="Of one event; 16 MiB if not given.")
@click.option("--max-imports", type=click.IntRange(1), help="At once; 8 if not given.")
@click.option("--rate", metavar="N/PERIOD", help="Requests of one token or address: 100/minute, 20/second.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    help="Seconds in which a client must send or take a piece; 60 if not given.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    help="Seconds that running requests get after SIGTERM or Ctrl-C; 20 if not given.",
)
@click.option("--quiet", is_flag=True, help="Log only warnings and errors, no requests.")
@click.pass_context
def serve(
    context: click.Context,
    /,
    store: str,
    tokens: Path | None,
    exchange_dir: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Serve a store over HTTP, until SIGTERM or Ctrl-C. Without --tokens on this machine only."""
    import logging

    from eventferry.http import Limits, TokenFile, create_app
    from eventferry.http.serving import Serving, is_loopback, listen, log_to_stderr, url_of
    from eventferry.http.serving import serve as serve_app

    given = {name: value for name, value in options.items() if value is not None}
    host = given["host"]
    if tokens is None and not is_loopback(host):
        raise UsageError(
            f"--host {host} lets others reach this service, so it needs --tokens FILE "
            "(eventferry token add makes one); without, it listens on this machine only"
        )
    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise UsageError("--tls-cert and --tls-key go together")
    allowed_hosts, rate = given.pop("allowed_hosts"), given.pop("rate", None)
    allowed_origins = given.pop("allowed_origins")
    limits = Limits(**{name: given.pop(name) for name in list(given) if name in Limits.__slots__})
    serving = Serving(**given, timeout=limits.timeout)

    async def work() -> None:
        async with open_store(store) as opened:
            if not await opened.exists():
                raise StoreNotFoundError(f"there is no store at {without_password(store)}")
            app = create_app(
                opened,
                tokens=TokenFile(tokens) if tokens is not None else None,
                insecure=tokens is None,
                exchange_dir=exchange_dir,
                limits=limits,
                rate=rate,
                allowed_hosts=(*allowed_hosts, *([] if is_loopback(host) else [host])),
                allowed_origins=allowed_origins,
            )
            with listen(serving) as listener:
                log_to_stderr(logging.WARNING if quiet else logging.INFO, formatter(context))
                who = "with a token" if tokens is not None else "without tokens: for this machine only"
                announce(context, f"serving {without_password(store)} on {url_of(listener, serving)} {who}")
                await serve_app(app, serving, listener)
        announce(context, "stopped")

    run(work())


@click.group()
def token() -> None:
    """The tokens of those who may call a service: add, list, revoke."""


_tokens_option = click.option(
    "--tokens", type=TOKENS, metavar="FILE", required=True, help="The file of tokens."
)


@token.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "-S",
    "scopes",
    multiple=True,
    required=True,
    metavar="SCOPE",
    help="What it may do: read, write, import, secrets (repeatable, or with commas).",
)
@_tokens_option
def add(name: str, scopes: tuple[str, ...], tokens: Path) -> None:
    """Make a token and print it: nothing else will ever show it again."""
    from eventferry.http.tokens import TokenFile

    wanted = [scope.strip() for given in scopes for scope in given.split(",")]
    print_words(TokenFile(tokens).add(name, wanted))
    say(f"{name} may {', '.join(wanted)}; keep the token: {tokens} holds only its hash")


@token.command("list")
@_tokens_option
@json_option
def list_(tokens: Path, as_json: bool) -> None:
    """Print names, scopes and when they were made."""
    from eventferry.http.tokens import TokenFile

    found = TokenFile(tokens).tokens()
    if as_json:
        print_json(
            {"tokens": [{"name": one.name, "scopes": one.scopes, "created": one.created} for one in found]}
        )
        return
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        made = datetime.fromtimestamp(one.created, UTC).isoformat()
        print_words(f"{one.name:<{width}}  {','.join(one.scopes)}  {made}")


@token.command()
@click.argument("name")
@_tokens_option
def revoke(name: str, tokens: Path) -> None:
    """Take a token out: a running service refuses it from the next request on."""
    from eventferry.http.tokens import TokenFile

    TokenFile(tokens).revoke(name)
    say(f"revoked the token of {name}")

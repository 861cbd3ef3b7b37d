"""The commands serve and token."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from eventferry import open_store
from eventferry.cli.logs import announce, formatter
from eventferry.cli.options import STORE, json_option
from eventferry.cli.output import print_json, print_line
from eventferry.cli.running import run
from eventferry.cli.terminal import say
from eventferry.databases import without_password
from eventferry.errors import StoreNotFoundError, UsageError

TOKENS = click.Path(dir_okay=False, path_type=Path)
_SIZE = click.IntRange(1)


@click.command()
@click.argument("store", type=STORE)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on. Others than loopback need --tokens.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=8080,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option("--tokens", type=TOKENS, metavar="FILE", help="Require tokens from this file; see `token add`.")
@click.option(
    "--exchange-dir",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    metavar="DIR",
    help="Allow reSolve's module-admin to export to and import from this directory.",
)
@click.option(
    "--tls-cert",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Serve HTTPS with this certificate (PEM).",
)
@click.option(
    "--tls-key", type=click.Path(dir_okay=False), metavar="FILE", help="Private key of the certificate (PEM)."
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A host name by which clients call this service (repeatable).",
)
@click.option(
    "--allowed-origin",
    "allowed_origins",
    multiple=True,
    metavar="URL",
    help="A web site whose pages may call this service (repeatable).",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy whose X-Forwarded-For is trusted (repeatable).",
)
@click.option(
    "--max-body-bytes",
    type=_SIZE,
    metavar="N",
    help="Limit of a request body as it is sent.  [default: 64 GiB]",
)
@click.option(
    "--max-unpacked-bytes",
    type=_SIZE,
    metavar="N",
    help="Limit of a decompressed request body.  [default: 256 GiB]",
)
@click.option("--max-event-bytes", type=_SIZE, metavar="N", help="Limit of one event.  [default: 16 MiB]")
@click.option(
    "--max-imports", type=click.IntRange(1), metavar="N", help="Limit of concurrent imports.  [default: 8]"
)
@click.option(
    "--rate", metavar="N/PERIOD", help="Limit of requests per token or address: 100/minute, 20/second."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Seconds for a client to send or receive the next piece.  [default: 60]",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Seconds for running requests to finish after SIGTERM or Ctrl-C.  [default: 20]",
)
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
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
    """Serve a store over HTTP until SIGTERM or Ctrl-C.

    Without --tokens, only on this machine.
    """
    import logging

    from eventferry.http import Limits, TokenFile, create_app
    from eventferry.http.serving import Serving, is_loopback, listen, log_to_stderr, url_of
    from eventferry.http.serving import serve as serve_app

    given = {name: value for name, value in options.items() if value is not None}
    host = given["host"]
    if tokens is None and not is_loopback(host):
        raise UsageError(
            f"--host {host} needs --tokens FILE (see eventferry token add), because others can reach it; "
            "without tokens the service listens on this machine only"
        )
    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise UsageError("--tls-cert and --tls-key must be used together")
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
                who = "with tokens" if tokens is not None else "without tokens, on this machine only"
                announce(context, f"serving {without_password(store)} on {url_of(listener, serving)} {who}")
                await serve_app(app, serving, listener)
        announce(context, "stopped")

    run(work())


@click.group()
def token() -> None:
    """Manage the tokens of a service: add, list, revoke."""


_tokens_option = click.option("--tokens", type=TOKENS, metavar="FILE", required=True, help="The token file.")


@token.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "-S",
    "scopes",
    multiple=True,
    required=True,
    metavar="SCOPE",
    help="read, write, import or secrets (repeatable, or separated by commas).",
)
@_tokens_option
def add(name: str, scopes: tuple[str, ...], tokens: Path) -> None:
    """Create a token and print it. It cannot be shown again."""
    from eventferry.http.tokens import TokenFile

    wanted = [scope.strip() for given in scopes for scope in given.split(",")]
    print_line(TokenFile(tokens).add(name, wanted))
    say(f"{name} has the scopes {', '.join(wanted)}; keep the token, since {tokens} holds only its hash")


@token.command("list")
@_tokens_option
@json_option
def list_(tokens: Path, as_json: bool) -> None:
    """List names, scopes and creation times."""
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
        print_line(f"{one.name:<{width}}  {','.join(one.scopes)}  {made}")


@token.command()
@click.argument("name")
@_tokens_option
def revoke(name: str, tokens: Path) -> None:
    """Remove a token. A running service refuses it from the next request on."""
    from eventferry.http.tokens import TokenFile

    TokenFile(tokens).revoke(name)
    say(f"revoked the token of {name}")

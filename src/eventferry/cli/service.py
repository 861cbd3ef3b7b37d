"""The commands serve and token."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from eventferry.cli.commands import Group, command, section
from eventferry.cli.console import beside_the_store, console_options
from eventferry.cli.logs import announce, formatter
from eventferry.cli.options import STORE, Seconds, WholeNumber, flag, json_option, option, shown
from eventferry.cli.output import print_json, print_line
from eventferry.cli.places import store_at
from eventferry.cli.running import run
from eventferry.cli.terminal import inform, is_quiet
from eventferry.errors import UsageError

TOKENS = click.Path(dir_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False)
_SIZE = WholeNumber(1)


@command()
@click.argument("store", type=STORE)
@section(
    "Address",
    option(
        "--host", "ADDRESS", "Address to listen on. Others than loopback need --tokens.", default="127.0.0.1"
    ),
    option("--port", "N", "Port to listen on; 0 picks a free one.", type=WholeNumber(0, 65535), default=8080),
    option("--tls-cert", "FILE", "Serve HTTPS with this certificate (PEM).", type=_FILE),
    option("--tls-key", "FILE", "Private key of the certificate (PEM).", type=_FILE),
)
@section(
    "Who may do what",
    option("--tokens", "FILE", "Require tokens from this file; see `token add`.", type=TOKENS),
    option(
        "--allowed-host allowed_hosts",
        "NAME",
        "A host name by which clients call this service (repeatable).",
        multiple=True,
    ),
    option(
        "--allowed-origin allowed_origins",
        "URL",
        "A web site whose pages may call this service (repeatable).",
        multiple=True,
    ),
    option(
        "--trusted-proxy trusted_proxies",
        "ADDRESS",
        "A proxy whose X-Forwarded-For is trusted (repeatable).",
        multiple=True,
    ),
    option(
        "--exchange-dir",
        "DIR",
        "Allow reSolve's module-admin to export to and import from this directory.",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
    ),
)
@section(
    "Limits",
    option("--max-body-bytes", "N", "Limit of a request body as it is sent.  [default: 64 GiB]", type=_SIZE),
    option(
        "--max-unpacked-bytes", "N", "Limit of a decompressed request body.  [default: 256 GiB]", type=_SIZE
    ),
    option("--max-event-bytes", "N", "Limit of one event.  [default: 16 MiB]", type=_SIZE),
    option("--max-imports", "N", "Limit of concurrent imports.  [default: 8]", type=_SIZE),
    option("--max-followers", "N", "Limit of clients that follow the store.  [default: 100]", type=_SIZE),
    option("--rate", "N/PERIOD", "Limit of requests per token or address: 100/minute, 20/second."),
    option(
        "--timeout",
        "SECONDS",
        "Seconds for a client to send or receive the next piece.  [default: 60]",
        type=Seconds(0, min_open=True),
    ),
    option(
        "--grace",
        "SECONDS",
        "Seconds for running requests to finish after SIGTERM or Ctrl-C.  [default: 20]",
        type=Seconds(0),
    ),
)
@section(
    "Console",
    flag("--console", "Serve pages for people too, at /console. Without --tokens they change nothing."),
    console_options,
)
@click.pass_context
def serve(
    context: click.Context,
    /,
    store: str,
    tokens: Path | None,
    exchange_dir: Path | None,
    console: bool,
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
    shown_there = {name: given.pop(name) for name in ("repository", "identity", "sources", "mask")}
    if any(shown_there.values()) and not console:
        raise UsageError("--repository, --identity, --source and --mask are for --console")
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
        async with store_at(store) as opened, beside_the_store(**shown_there) as others:
            app = create_app(
                opened,
                tokens=TokenFile(tokens) if tokens is not None else None,
                insecure=tokens is None,
                exchange_dir=exchange_dir,
                limits=limits,
                rate=rate,
                allowed_hosts=(*allowed_hosts, *([] if is_loopback(host) else [host])),
                allowed_origins=allowed_origins,
                console=console,
                **others,
            )
            with listen(serving) as listener:
                log_to_stderr(logging.WARNING if is_quiet() else logging.INFO, formatter(context))
                who = "with tokens" if tokens is not None else "without tokens, on this machine only"
                announce(context, f"serving {shown(store)} on {url_of(listener, serving)} {who}")
                await serve_app(app, serving, listener)
        announce(context, "stopped")

    run(work())


@click.group(cls=Group)
def token() -> None:
    """Manage the tokens of a service: add, list, revoke."""


_tokens_option = option("--tokens", "FILE", "The token file.", type=TOKENS, required=True)


@token.command("add")
@click.argument("name")
@option(
    "--scope -S scopes",
    "SCOPE",
    "read, write, import or secrets (repeatable, or separated by commas).",
    multiple=True,
    required=True,
)
@_tokens_option
def add(name: str, scopes: tuple[str, ...], tokens: Path) -> None:
    """Create a token and print it. It cannot be shown again."""
    from eventferry.http.tokens import TokenFile

    wanted = [scope.strip() for given in scopes for scope in given.split(",")]
    file = TokenFile(tokens)
    token = file.add(name, wanted)
    try:
        print_line(token)
    except Exception:  # nobody knows it
        file.revoke(name)
        raise
    inform(f"{name} has the scopes {', '.join(wanted)}; keep the token, since {tokens} holds only its hash")


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
    inform(f"revoked the token of {name}")

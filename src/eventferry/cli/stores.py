"""The store itself: init, drop, upgrade, freeze, unfreeze, describe."""

from __future__ import annotations

from typing import Any

import click

import eventferry
from eventferry import open_store
from eventferry.cli.options import (
    STORE,
    json_option,
)
from eventferry.cli.places import on_store
from eventferry.cli.terminal import say
from eventferry.cli.words import moment_text, print_json, print_words, run
from eventferry.databases import without_password
from eventferry.errors import UsageError


@click.command()
@click.argument("store", type=STORE)
def init(store: str) -> None:
    """Make a store."""

    on_store(store, eventferry.EventStore.init)
    say(f"made the store {without_password(store)}")


@click.command()
@click.argument("store", type=STORE)
@click.option("--yes", is_flag=True, help="Yes, drop it.")
def drop(store: str, yes: bool) -> None:
    """Remove a store with everything in it."""
    if not yes:
        raise UsageError("drop removes all events, secrets and snapshots: say --yes")

    on_store(store, eventferry.EventStore.drop)
    say(f"dropped the store {without_password(store)}")


@click.command()
@click.argument("store", type=STORE)
def upgrade(store: str) -> None:
    """Give a store that reSolve made the index that reading in order needs."""

    added = on_store(store, eventferry.EventStore.upgrade)
    say(f"added {', '.join(added)}" if added else "nothing was missing")


@click.command()
@click.argument("store", type=STORE)
def freeze(store: str) -> None:
    """Make writes fail until unfreeze."""

    on_store(store, eventferry.EventStore.freeze)
    say(f"froze the store {without_password(store)}")


@click.command()
@click.argument("store", type=STORE)
def unfreeze(store: str) -> None:
    """Let writes in again."""

    on_store(store, eventferry.EventStore.unfreeze)
    say(f"unfroze the store {without_password(store)}")


@click.command()
@click.argument("store", type=STORE)
@json_option
@click.option("--cursor", is_flag=True, help="Also the cursor behind the last event.")
@click.option("--estimate-counts", is_flag=True, help="Let a server estimate how many events there are.")
def describe(store: str, as_json: bool, cursor: bool, estimate_counts: bool) -> None:
    """Say what a store holds."""
    import msgspec

    async def work() -> eventferry.Description:
        async with open_store(store) as opened:
            return await opened.describe(calculate_cursor=cursor, estimate_counts=estimate_counts)

    description = run(work())
    fields: dict[str, Any] = msgspec.to_builtins(description)
    if not cursor:
        del fields["cursor"]
    if as_json:
        print_json(fields)
        return
    fields |= fields.pop("resourceNames")
    if fields["openImport"] is not None:
        fields["openImport"] = fields["openImport"]["id"]
    width = max(map(len, fields))
    for name, value in fields.items():
        if name in ("lastEventTimestamp", "frozenSince") and value:
            value = f"{value} ({moment_text(value)})"
        print_words(f"{name:<{width}}  {_word(value)}")


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)

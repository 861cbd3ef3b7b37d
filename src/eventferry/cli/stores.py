"""The commands init, drop, upgrade, freeze, unfreeze and describe."""

from __future__ import annotations

from typing import Any

import click

import eventferry
from eventferry.cli.options import STORE, flag, json_option
from eventferry.cli.output import moment_text, print_json, print_line
from eventferry.cli.places import on_store
from eventferry.cli.terminal import say
from eventferry.databases import without_password
from eventferry.errors import UsageError


@click.command()
@click.argument("store", type=STORE)
def init(store: str) -> None:
    """Create a store."""
    on_store(store, eventferry.EventStore.init)
    say(f"created the store {without_password(store)}")


@click.command()
@click.argument("store", type=STORE)
@flag("--yes", "Confirm; without it nothing is removed.")
def drop(store: str, yes: bool) -> None:
    """Remove a store and everything in it."""
    if not yes:
        raise UsageError("drop removes all events, secrets and snapshots: add --yes to confirm")
    on_store(store, eventferry.EventStore.drop)
    say(f"dropped the store {without_password(store)}")


@click.command()
@click.argument("store", type=STORE)
def upgrade(store: str) -> None:
    """Add a missing index to a store of reSolve.

    It makes reading in order faster.
    """
    added = on_store(store, eventferry.EventStore.upgrade)
    say(f"added {', '.join(added)}" if added else "nothing to add")


@click.command()
@click.argument("store", type=STORE)
def freeze(store: str) -> None:
    """Make all writes fail until unfreeze."""
    on_store(store, eventferry.EventStore.freeze)
    say(f"froze the store {without_password(store)}")


@click.command()
@click.argument("store", type=STORE)
def unfreeze(store: str) -> None:
    """Allow writes again."""
    on_store(store, eventferry.EventStore.unfreeze)
    say(f"unfroze the store {without_password(store)}")


@click.command()
@click.argument("store", type=STORE)
@json_option
@flag("--cursor", "Include the cursor after the last event.")
@flag("--estimate-counts", "Let a server estimate the number of events.")
def describe(store: str, as_json: bool, cursor: bool, estimate_counts: bool) -> None:
    """Show what a store holds."""
    import msgspec

    description = on_store(store, lambda opened: opened.describe(cursor, estimate_counts))
    fields: dict[str, Any] = msgspec.to_builtins(description)
    if not cursor:
        del fields["cursor"]
    if as_json:
        print_json(fields)
        return
    fields |= fields.pop("resourceNames")
    for name in ("openImport", "partsImport"):
        if fields[name] is not None:
            fields[name] = fields[name]["id"]
    width = max(map(len, fields))
    for name, value in fields.items():
        if name in ("lastEventTimestamp", "frozenSince") and value:
            value = f"{value} ({moment_text(value)})"
        print_line(f"{name:<{width}}  {_word(value)}")


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)

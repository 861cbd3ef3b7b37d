"""The commands init, drop, upgrade, freeze, unfreeze, describe and stores."""

from __future__ import annotations

from typing import Any

import click

import eventferry
from eventferry.cli.commands import command
from eventferry.cli.configuration import named_stores
from eventferry.cli.options import STORE, flag, json_option, shown
from eventferry.cli.output import moment_text, print_json, print_line
from eventferry.cli.places import on_store
from eventferry.cli.terminal import inform
from eventferry.errors import UsageError


@command()
@click.argument("store", type=STORE)
def init(store: str) -> None:
    """Create a store."""
    on_store(store, eventferry.EventStore.init)
    inform(f"created the store {shown(store)}")


@command()
@click.argument("store", type=STORE)
@flag("--yes", "Confirm; without it nothing is removed.")
def drop(store: str, yes: bool) -> None:
    """Remove a store and everything in it."""
    if not yes:
        raise UsageError("drop removes all events, secrets and snapshots: add --yes to confirm")
    on_store(store, eventferry.EventStore.drop)
    inform(f"dropped the store {shown(store)}")


@command()
@click.argument("store", type=STORE)
def upgrade(store: str) -> None:
    """Add a missing index to a store of reSolve.

    It makes reading in order faster.
    """
    added = on_store(store, eventferry.EventStore.upgrade)
    inform(f"added {', '.join(added)}" if added else "nothing to add")


@command()
@click.argument("store", type=STORE)
def freeze(store: str) -> None:
    """Make all writes fail until unfreeze."""
    on_store(store, eventferry.EventStore.freeze)
    inform(f"froze the store {shown(store)}")


@command()
@click.argument("store", type=STORE)
def unfreeze(store: str) -> None:
    """Allow writes again."""
    on_store(store, eventferry.EventStore.unfreeze)
    inform(f"unfroze the store {shown(store)}")


@command()
@click.argument("store", type=STORE)
@json_option
@flag("--cursor", "Include the cursor after the last event.")
@flag("--estimate-counts", "Let the database estimate the number of events.")
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


@command()
@json_option
def stores(as_json: bool) -> None:
    """List the stores of the configuration file."""
    found = named_stores()
    if as_json:
        print_json({"stores": [{"name": name, "url": store.url} for name, store in found.items()]})
        return
    width = max(map(len, found), default=0)
    for name, store in found.items():
        print_line(f"{name:<{width}}  {store.url}")
    if not found:
        inform("there are none; docs/cli.md says how to name stores")

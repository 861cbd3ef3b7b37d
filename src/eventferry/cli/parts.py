"""The commands for imports in parts, which replace."""

from __future__ import annotations

import click

import eventferry
from eventferry import open_store
from eventferry.cli.commands import Group
from eventferry.cli.options import SOURCE, STORE, flag, ignore_unknown_keys_option, json_option
from eventferry.cli.output import print_result
from eventferry.cli.places import on_store, print_begun, source_of
from eventferry.cli.running import cancellable
from eventferry.cli.terminal import Meter, counted, inform, rate


@click.group(cls=Group)
def parts() -> None:
    """Import in parts, from many processes and machines at once.

    The steps are begin, push (one for each part, also in parallel), and commit or rollback. Until the commit, the store
    keeps its events; the commit replaces them all.
    """


@parts.command()
@click.argument("store", type=STORE)
@flag("--replace", "Allow replacing the events of a store.")
def begin(store: str, replace: bool) -> None:
    """Begin an import in parts and print its id."""
    print_begun(
        store,
        lambda opened: opened.begin_import(replace=replace),
        eventferry.EventStore.rollback_import,
    )


@parts.command()
@click.argument("import_id", metavar="ID")
@click.argument("part")
@click.argument("src", type=SOURCE)
@click.argument("store", type=STORE)
@ignore_unknown_keys_option
@cancellable
async def push(import_id: str, part: str, src: str, store: str, ignore_unknown_keys: bool) -> None:
    """Push the events of SRC, with their positions, as the part PART. Pushing a part again replaces it."""
    async with source_of(src) as (blocks, total), open_store(store) as opened:
        with Meter("pushing", total) as meter:
            report = await opened.push_import(
                import_id, part, meter(blocks), ignore_unknown_keys=ignore_unknown_keys
            )
    again = ", which were there already" if report.is_repeated else ""
    inform(f"pushed {counted(report.events, 'event')}{again}")


@parts.command()
@click.argument("import_id", metavar="ID")
@click.argument("store", type=STORE)
@flag("--allow-empty", "Allow an import without events, which empties the store.")
@json_option
@cancellable
async def commit(import_id: str, store: str, allow_empty: bool, as_json: bool) -> None:
    """Replace the store's events by those of the parts. Repeating it does no harm."""
    async with open_store(store) as opened:
        with Meter("importing") as meter:
            report = await opened.commit_import(import_id, allow_empty=allow_empty)
            seconds = meter.seconds
    print_result({"imported": report.imported}, f"imported {rate(report.imported, seconds)}", as_json=as_json)


@parts.command()
@click.argument("store", type=STORE)
def rollback(store: str) -> None:
    """Discard the open import in parts."""
    on_store(store, eventferry.EventStore.rollback_import)
    inform("rolled back")

"""The commands export-secrets and import-secrets."""

from __future__ import annotations

import click

import eventferry
from eventferry import open_store
from eventferry.cli.commands import command
from eventferry.cli.options import DESTINATION, SOURCE, STORE, flag, json_option
from eventferry.cli.output import print_result
from eventferry.cli.places import destination_of, refuse_store, source_of
from eventferry.cli.running import cancellable
from eventferry.cli.terminal import counted, inform


@command("export-secrets")
@click.argument("store", type=STORE)
@click.argument("dest", type=DESTINATION)
@flag("--tombstones", "Include deleted secrets.")
@cancellable
async def export_secrets(store: str, dest: str, tombstones: bool) -> None:
    """Export secrets to a JSON Lines file.

    Only you can read the file.
    """
    refuse_store(dest, "secrets are exported to a file")

    async with open_store(store) as opened:
        stream = opened.export_secrets(tombstones=tombstones)
        await eventferry.pipeline(stream, destination_of(dest, private=True))
    inform(f"exported {counted(stream.exported, 'secret')}")


@command("import-secrets")
@click.argument("src", type=SOURCE)
@click.argument("store", type=STORE)
@json_option
@cancellable
async def import_secrets(src: str, store: str, as_json: bool) -> None:
    """Import secrets from a JSON Lines file.

    Deleted secrets stay deleted.
    """
    refuse_store(src, "secrets are imported from a file")
    async with source_of(src) as (blocks, _), open_store(store) as opened:
        report = await eventferry.pipeline(blocks, opened.import_secrets())
    print_result(
        report,
        f"imported {counted(report.imported, 'secret')}, skipped {report.skipped_existing:,} existing and "
        f"{report.skipped_deleted:,} deleted in this store, deleted {report.deleted:,}",
        as_json=as_json,
    )

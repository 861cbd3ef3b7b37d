"""Secrets: export-secrets, import-secrets."""

from __future__ import annotations

import click

import eventferry
from eventferry import open_store
from eventferry.cli.options import (
    STORE,
    json_option,
)
from eventferry.cli.places import destination_of, refuse_store, source_of
from eventferry.cli.terminal import say
from eventferry.cli.words import print_json, run


@click.command("export-secrets")
@click.argument("store", type=STORE)
@click.argument("dest")
@click.option("--tombstones", is_flag=True, help="Deleted secrets too.")
def export_secrets(store: str, dest: str, tombstones: bool) -> None:
    """Write secrets as lines to a file that only you can read."""
    refuse_store(dest, "secrets go to a file")

    async def work() -> int:
        async with open_store(store) as opened:
            stream = opened.export_secrets(tombstones=tombstones)
            await eventferry.pipeline(stream, destination_of(dest, private=True))
            return stream.exported

    say(f"exported {run(work()):,} secrets")


@click.command("import-secrets")
@click.argument("src")
@click.argument("store", type=STORE)
@json_option
def import_secrets(src: str, store: str, as_json: bool) -> None:
    """Import secrets from lines; deleted ones stay deleted."""
    refuse_store(src, "secrets come from a file")

    async def work() -> eventferry.SecretsReport:
        async with source_of(src) as (blocks, _), open_store(store) as opened:
            report: eventferry.SecretsReport = await eventferry.pipeline(blocks, opened.import_secrets())
            return report

    report = run(work())
    if as_json:
        print_json(report)
        return
    say(
        f"imported {report.imported:,} secrets, skipped {report.skipped_existing:,} that are there and "
        f"{report.skipped_deleted:,} that this store has deleted, deleted {report.deleted:,}"
    )

"""The command archive, and the commands below it."""

from __future__ import annotations

import click

import eventferry
from eventferry.cli.backups import RunGroup
from eventferry.cli.commands import command
from eventferry.cli.options import (
    REPOSITORY,
    STORE,
    MomentType,
    flag,
    included_kinds,
    json_option,
    option,
    together,
)
from eventferry.cli.output import moment_text, print_data, print_line, print_result
from eventferry.cli.places import store_at
from eventferry.cli.repositories import identity_option, parts_jobs_option
from eventferry.cli.running import cancellable
from eventferry.cli.terminal import counted

_repository = together(
    click.argument("store", type=STORE), click.argument("repository", metavar="REPO", type=REPOSITORY)
)


@command("archive")
@_repository
@option(
    "--until",
    "TIME",
    "Archive events at or before this time, of aggregates that have no later event.",
    required=True,
    type=MomentType(up=False),
)
@included_kinds
@option(
    "--recipient recipients",
    "KEY",
    "As for backup: encrypt to this public key, or to those in this file (repeatable).",
    multiple=True,
)
@identity_option
@parts_jobs_option
@flag("--dry-run", "Only report what would be archived of what the repository holds.")
@json_option
@cancellable
async def run(
    store: str,
    repository: str,
    until: int,
    types: tuple[str, ...],
    ids: tuple[str, ...],
    prefixes: tuple[str, ...],
    recipients: tuple[str, ...],
    identity: tuple[str, ...],
    jobs: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Move the payloads of old events from a store into a backup repository.

    What is new is backed up first. Each event is read back from the repository and compared before its payload is
    replaced by a marker. Positions, versions, timestamps, types and the order stay. An archive that was ended or
    killed has lost nothing: run it again to continue it.
    """
    async with store_at(store) as opened:
        report = await eventferry.archive(
            opened,
            repository,
            until=until,
            event_types=types or None,
            aggregate_ids=ids or None,
            aggregate_prefixes=prefixes or None,
            recipients=recipients,
            identities=identity,
            jobs=jobs,
            dry_run=dry_run,
        )
    did = "would archive" if dry_run else "archived"
    stay = [
        f"; {count:,} {why}"
        for count, why in (
            (report.archived_before, "archived before"),
            (report.open, "of aggregates with later events"),
            (report.kept, "kept"),
        )
        if count
    ]
    print_result(
        report,
        f"{did} {counted(report.events, 'event')}, {report.bytes:,} bytes of payloads{''.join(stay)}",
        as_json=as_json,
    )


@command("recall")
@_repository
@option("--archive archives", "ID", "Only what is in this archive (repeatable).", multiple=True)
@identity_option
@parts_jobs_option
@json_option
@cancellable
async def recall(
    store: str,
    repository: str,
    archives: tuple[str, ...],
    identity: tuple[str, ...],
    jobs: int,
    as_json: bool,
) -> None:
    """Bring back the payloads of archived events, each in its place.

    What was erased from the store since is erased from them on their way.
    """
    async with store_at(store) as opened:
        report = await eventferry.recall(
            opened, repository, archive_ids=archives or None, identities=identity, jobs=jobs
        )
    print_result(report, f"recalled {counted(report.events, 'event')}", as_json=as_json)


@command("list")
@click.argument("store", type=STORE)
@flag("--json as_json", "Print each archive as a line of JSON.")
@cancellable
async def list_(store: str, as_json: bool) -> None:
    """List the archives of a store: id, time, events that it holds now, and where."""
    import msgspec

    async with store_at(store) as opened:
        for archive in await opened.archives():
            if as_json:
                print_data(msgspec.json.encode(archive))
            else:
                print_line(
                    f"{archive.id}  {moment_text(archive.at)}  {archive.events:>12,}  until "
                    f"{moment_text(archive.chosen.until)}  {archive.repository}"
                )


@click.group(cls=RunGroup)
def archive() -> None:
    """Archive old events of a store in a backup repository; recall and list them.

    \b
    eventferry archive STORE REPO --until TIME   move the payloads of old events into the repository
    eventferry archive recall STORE REPO         bring them back
    eventferry archive list STORE                which archives there are
    """


archive.add_command(run, "run")
for below in (recall, list_):
    archive.add_command(below)

"""The command erase."""

from __future__ import annotations

from collections.abc import Sequence

import click

import eventferry
from eventferry.cli.commands import command
from eventferry.cli.options import REPOSITORY, STORE, flag, included_kinds, json_option, option
from eventferry.cli.output import print_line, print_result
from eventferry.cli.places import store_at
from eventferry.cli.running import cancellable
from eventferry.cli.terminal import counted, inform, say
from eventferry.errors import EventferryError, RepositoryError, UsageError


@command()
@click.argument("store", type=STORE)
@option("--rules", "FILE", "What is erased: a TOML file of rules, which may only redact, remove and set.")
@included_kinds
@option(
    "--repository repositories",
    "REPO",
    "Note it in this backup of the store at once, so that no restore brings it back (repeatable). Without it the next "
    "backup does.",
    multiple=True,
    type=REPOSITORY,
)
@flag("--dry-run", "Only report what would be erased.")
@flag("--list list_", "Only list what was erased, as JSON Lines.")
@json_option
@cancellable
async def erase(
    store: str,
    rules: str | None,
    types: tuple[str, ...],
    ids: tuple[str, ...],
    prefixes: tuple[str, ...],
    repositories: tuple[str, ...],
    dry_run: bool,
    list_: bool,
    as_json: bool,
) -> None:
    """Erase personal data from the events of a store, in place and all or nothing.

    Positions, versions and order stay. What was erased is kept as a list in the store, and applied to whatever enters
    it later: by import, copy, incremental import or sync.
    """
    if (rules is None) != list_:
        raise UsageError("give either --rules FILE or --list")
    if list_ and (types or ids or prefixes or repositories or dry_run):
        raise UsageError(
            "--list tells all that was erased; it takes no filters, no --repository and no --dry-run"
        )
    backups = [eventferry.Repository(place) for place in repositories if not dry_run]
    async with store_at(store) as opened:
        if rules is None:
            for erasure in (await opened.erased()).erasures:
                print_line(f'{{"at":{erasure.at},{erasure.what[1:]}')
            return
        # A list cannot be taken back: so it follows the erasure. That it can, is seen before.
        await _note(backups, opened, "nothing was erased, since {} cannot note it")
        report = await opened.erase(
            rules,
            event_types=types or None,
            aggregate_ids=ids or None,
            aggregate_prefixes=prefixes or None,
            dry_run=dry_run,
        )
        _tell(report, dry_run=dry_run, is_noted=bool(backups), as_json=as_json)
        await _note(
            backups, opened, "it is erased, and {} knows nothing of it until you run this again, or a backup"
        )
    if backups:
        inform(f"noted in {', '.join(each.place for each in backups)}")


async def _note(
    backups: Sequence[eventferry.Repository], store: eventferry.EventStore, otherwise: str
) -> None:
    for each in backups:
        try:
            await each.note_erasures(store)
        except EventferryError as error:
            raise RepositoryError(f"{otherwise.format(each.place)}: {error}") from error


def _tell(report: eventferry.EraseReport, *, dry_run: bool, is_noted: bool, as_json: bool) -> None:
    if not as_json:
        for event_type, count in report.types.items():
            print_line(f"{count:>12,} {event_type}")
        for what in report.never_matched:
            say(f"found nothing: {what}")
    snapshots = f", removed {counted(report.snapshots, 'snapshot')}" if report.snapshots else ""
    did = "would change" if dry_run else "changed"
    backups = "" if dry_run or is_noted else "; backups do not know of it until the next eventferry backup"
    print_result(
        report,
        f"looked at {counted(report.events, 'event')}, {did} {report.changed:,}{snapshots}{backups}",
        as_json=as_json,
    )

"""The commands for incremental imports, whole and in steps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

import eventferry
from eventferry import open_store
from eventferry.cli.changing import Changing, change_options, from_csv_option
from eventferry.cli.commands import Group, command
from eventferry.cli.foreign import fields_of, foreign_details, tell_preview
from eventferry.cli.formats import FileFormat
from eventferry.cli.incoming import Incoming, told_rows
from eventferry.cli.options import (
    SOURCE,
    STORE,
    aggregate_attribute_option,
    end_options,
    flag,
    format_option,
    ignore_unknown_keys_option,
    jobs_option,
    json_option,
    merging_options,
    option,
)
from eventferry.cli.output import print_result
from eventferry.cli.places import made, on_store, print_begun, source_of
from eventferry.cli.running import cancellable
from eventferry.cli.terminal import Meter, counted, inform, rate, say
from eventferry.errors import InputError

if TYPE_CHECKING:
    from eventferry.sources.source import Previewing

_SKIPPED = 3
"""The exit status if older events were skipped and --fail-if-skipped was given."""


@command("incremental-import")
@click.argument("src", type=SOURCE)
@click.argument("store", type=STORE)
@from_csv_option
@foreign_details
@change_options
@end_options
@merging_options
@flag("--dry-run", "Report what would happen, and change nothing.")
@format_option
@aggregate_attribute_option
@jobs_option
@ignore_unknown_keys_option
@json_option
@cancellable
async def incremental_import(
    src: str,
    store: str,
    file_format: FileFormat,
    older: Any,
    fail_if_skipped: bool,
    dry_run: bool,
    jobs: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Add the events that a store lacks.

    SRC has JSON Lines or one JSON array, or what --format says. Duplicates are skipped, and so are events older than
    the store's latest event, unless --older says otherwise. A missing store is created.
    """
    incoming = Incoming(src, options, file_format=file_format, jobs=jobs)
    changing, ignore_unknown_keys = incoming.changing, options["ignore_unknown_keys"]
    previewing: Previewing | None = None
    try:
        async with (
            incoming.opened() as (source, extent),
            _target(store, dry_run=dry_run) as opened,
            made(opened, source, placed=False, ignore_unknown_keys=ignore_unknown_keys) as blocks,
        ):
            previewing = incoming.previewing(source) if dry_run else None
            with Meter("importing", extent) as meter:
                report = await opened.incremental_import(
                    meter(blocks if previewing is None else previewing(blocks)),
                    older=older,
                    dry_run=dry_run,
                    ignore_unknown_keys=ignore_unknown_keys,
                    changes=changing.changes,
                )
                seconds = meter.seconds
    except InputError as error:
        if previewing is None:
            raise
        tell_preview(previewing.preview(str(error)), as_json=as_json)
        return
    rows: dict[str, Any] = {}
    words = ""
    if previewing is None:
        words = told_rows(source, rows)
    elif as_json:
        rows = fields_of(previewing.preview())
    else:
        tell_preview(previewing.preview(), as_json=False)
    _tell_merged(
        report,
        seconds,
        as_json=as_json,
        dry_run=dry_run,
        fail_if_skipped=fail_if_skipped,
        changing=changing,
        rows=rows,
        words=words,
    )


@asynccontextmanager
async def _target(store: str, *, dry_run: bool) -> AsyncIterator[eventferry.EventStore]:
    """The store to merge into. A dry run uses an empty one in place of a missing one."""
    async with open_store(store) as opened:
        if not dry_run or await opened.exists():
            yield opened
            return
    async with open_store("sqlite://:memory:") as empty:
        await empty.init()
        yield empty


def _tell_merged(
    report: eventferry.ImportReport,
    seconds: float,
    *,
    as_json: bool,
    fail_if_skipped: bool,
    dry_run: bool = False,
    changing: Changing = Changing(None, None),  # noqa: B008
    rows: Mapping[str, Any] = {},
    words: str = "",
) -> None:
    """Print what was merged. `rows`, and `words`, are to be added: what a mapping has made."""
    import msgspec

    seen = report.imported + report.skipped_existing + report.skipped_older
    did = "would import" if dry_run else "imported"
    told = msgspec.to_builtins(report) | changing.result | dict(rows)
    if dry_run:
        told |= changing.first_changed
        if not as_json:
            changing.print_changes()
    print_result(
        told,
        f"{did} {report.imported:,}, skipped {counted(report.skipped_existing, 'duplicate')}; "
        f"{rate(seen, seconds)}{changing.told}{words}",
        as_json=as_json,
    )
    changing.warn()
    if report.skipped_older:
        say(
            f"warning: skipped {counted(report.skipped_older, 'event')} older than the store's latest event; "
            "--older accept imports them"
        )
        if fail_if_skipped:
            raise click.exceptions.Exit(_SKIPPED)


@click.group(cls=Group)
def incremental() -> None:
    """Import incrementally in several steps.

    The steps are begin, push (as often as needed, also in parallel), and commit or rollback.
    """


@incremental.command()
@click.argument("store", type=STORE)
def begin(store: str) -> None:
    """Begin an incremental import and print its id."""
    print_begun(
        store,
        eventferry.EventStore.begin_incremental_import,
        eventferry.EventStore.rollback_incremental_import,
    )


@incremental.command()
@click.argument("import_id", metavar="ID")
@click.argument("src", type=SOURCE)
@click.argument("store", type=STORE)
@option("--part", "NAME", "Name of this push. Pushing the same part again replaces it.")
@ignore_unknown_keys_option
@cancellable
async def push(import_id: str, src: str, store: str, part: str | None, ignore_unknown_keys: bool) -> None:
    """Add events to an open import."""
    async with source_of(src) as (blocks, extent), open_store(store) as opened:
        with Meter("pushing", extent) as meter:
            count = await opened.push_incremental_import(
                meter(blocks), import_id, part, ignore_unknown_keys=ignore_unknown_keys
            )
    inform(f"pushed {counted(count, 'event')}")


@incremental.command()
@click.argument("import_id", metavar="ID")
@click.argument("store", type=STORE)
@merging_options
@json_option
@cancellable
async def commit(import_id: str, store: str, older: Any, fail_if_skipped: bool, as_json: bool) -> None:
    """Merge the pushed events into the store."""
    async with open_store(store) as opened:
        with Meter("merging") as meter:
            report = await opened.commit_incremental_import(import_id, older=older)
            seconds = meter.seconds
    _tell_merged(report, seconds, as_json=as_json, fail_if_skipped=fail_if_skipped)


@incremental.command()
@click.argument("store", type=STORE)
def rollback(store: str) -> None:
    """Discard the open import."""
    on_store(store, eventferry.EventStore.rollback_incremental_import)
    inform("rolled back")

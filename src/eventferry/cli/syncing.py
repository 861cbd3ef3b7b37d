"""The commands sync and cutover."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

import eventferry
from eventferry import open_store
from eventferry.cli.changing import (
    beginnings,
    change_options,
    changing_of,
    from_option,
    keep_positions_option,
)
from eventferry.cli.commands import command
from eventferry.cli.foreign import (
    Foreign,
    foreign_details,
    taken,
    tell_first,
    told_events,
    told_left_out,
    told_of,
)
from eventferry.cli.options import (
    STORE,
    Seconds,
    WholeNumber,
    bookmark_option,
    choice,
    flag,
    json_option,
    option,
    shown,
)
from eventferry.cli.output import moment_text, print_json, print_result
from eventferry.cli.places import store_at
from eventferry.cli.running import cancellable, exit_unless
from eventferry.cli.terminal import counted, inform, say
from eventferry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventferry import EventStore, ForeignSource, SyncPreview
    from eventferry.cli.changing import Changing
    from eventferry.state.syncs import Mode


@command()
@click.argument("src", metavar="FROM_STORE", type=STORE)
@click.argument("dst", metavar="TO_STORE", type=STORE)
@choice("--follow/--once", "Go on for ever; or end when all is brought over (the default).", default=False)
@flag(
    "--merge",
    "Add the events to those of TO_STORE, which may have others; without it, TO_STORE is a replica.",
)
@option(
    "--same-aggregate",
    "POLICY",
    "With --merge, for an aggregate with events on both sides: refuse (the default), renumber, or prefix=X for all "
    "aggregates of FROM_STORE.",
)
@choice(
    "--secrets/--no-secrets",
    "Bring secrets over, or leave them out. Without either: unless events are changed, for a secret may open "
    "what rules closed.",
    default=None,
)
@option("--rate", "N", "Bring over at most N events a second.", type=WholeNumber(1))
@flag(
    "--status",
    "Only report how far the sync has come, and how far behind it is; exit with status 1 if it cannot go on, or if the "
    "last try failed.",
)
@option(
    "--max-lag",
    "SECONDS",
    "With --status: exit with status 1 also if events wait for longer.",
    type=Seconds(0),
)
@from_option
@foreign_details
@change_options
@keep_positions_option
@option(
    "--settle",
    "SECONDS",
    "With a mapping: how long a missing position may still appear, where the database does not tell it (10).",
    type=Seconds(0),
)
@flag("--dry-run", "Only report what would be brought over, and the first trouble in it. Nothing is stored.")
@bookmark_option
@json_option
@cancellable
async def sync(
    src: str,
    dst: str,
    follow: bool,
    merge: bool,
    same_aggregate: str | None,
    secrets: bool | None,
    rate: int | None,
    status: bool,
    max_lag: float | None,
    settle: float | None,
    starts: tuple[Any, ...],
    dry_run: bool,
    with_bookmark: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Bring over to TO_STORE what is new in FROM_STORE.

    Each event comes over exactly once, however often this is ended or killed and run again. A missing TO_STORE is
    created. FROM_STORE is only read; with --from it is a database with another product's tables. Filters, --rules and
    --function select and change the events on their way; a sync goes on only with those with which it was begun.
    """
    if max_lag is not None and not status:
        raise UsageError("--max-lag needs --status")
    start, mapping = beginnings(starts)
    foreign = taken(options, mapping)
    changing = changing_of(options, start, dry_run=False)
    if dry_run and (follow or status):
        raise UsageError(f"--dry-run cannot be combined with --{'follow' if follow else 'status'}")
    if settle is not None:
        if foreign is None:
            raise UsageError("--settle needs --from PRESET or --from FILE.toml")
        foreign = Foreign(foreign.mapping, foreign.options | {"settle": settle})
    if status:
        await _tell_status(src, dst, max_lag, foreign, as_json=as_json)
        return
    mode: Mode | None = "merge" if merge else None
    async with (
        changing.reported(),
        _source_at(src, foreign) as source,
        open_store(dst) as target,
    ):
        if dry_run:
            preview = await target.preview_sync(
                source, mode=mode, same_aggregate=same_aggregate, changes=changing.changes
            )
        else:
            report = await target.sync(
                source,
                mode=mode,
                same_aggregate=same_aggregate,
                follow=follow,
                with_secrets=secrets,
                changes=changing.changes,
                rate=rate,
            )
    if dry_run:
        _tell_preview(preview, changing, as_json=as_json)
        return
    also = f" and {counted(report.secrets, 'secret')}" if report.secrets else ""
    exactness = f"; {report.exactness}" if report.exactness else ""
    waiting = f"; {counted(report.waiting, 'event')} held back by open transactions" if report.waiting else ""
    bookmark = f"; bookmark {report.bookmark}" if with_bookmark else ""
    import msgspec

    print_result(
        msgspec.to_builtins(report) | changing.result,
        f"brought over {counted(report.events, 'event')}{also}{bookmark}{exactness}{changing.told}"
        f"{told_of(report)}{waiting}",
        as_json=as_json,
    )


def _tell_preview(preview: SyncPreview, changing: Changing, *, as_json: bool) -> None:
    """Print what a sync would bring; exits with 1 where something of it cannot be brought over."""
    if as_json:
        import msgspec

        print_json(msgspec.to_builtins(preview) | changing.result | changing.first_changed)
    else:
        if changing.changes is None:
            tell_first(preview)
        else:
            changing.print_changes()
        first = (
            f"the first fill of a {preview.mode}" if preview.is_first else f"the next run of a {preview.mode}"
        )
        inform(
            f"{first} would bring over {told_events(preview)}{told_left_out(preview.skipped)}{changing.told}; "
            "nothing was stored"
        )
        if preview.is_first:  # later runs have too few events to tell
            changing.warn()
        if preview.trouble is not None:
            say(f"trouble: {preview.trouble}")
    exit_unless(preview.trouble is None)


@asynccontextmanager
async def _source_at(src: str, foreign: Foreign | None) -> AsyncIterator[EventStore | ForeignSource]:
    opened = store_at(src) if foreign is None else foreign.opened(src)
    async with opened as source:
        yield source


async def _tell_status(
    src: str, dst: str, max_lag: float | None, foreign: Foreign | None, *, as_json: bool
) -> None:
    async with _source_at(src, foreign) as source, store_at(dst) as target:
        found = await target.sync_status(source)
    if not found:
        say(f"nothing has been synced from {shown(src)} into {shown(dst)} yet")
    exit_unless(bool(found))
    [status] = found
    if status.lag_events is None or status.lag_seconds is None:
        is_late, behind, trouble = False, "how far behind is not known", "it cannot go on"
    else:
        is_late = max_lag is not None and status.lag_seconds > max_lag
        behind = f"{counted(status.lag_events, 'event')} behind, {status.lag_seconds:.1f} s"
        trouble = "the last try failed"
    is_well = not (is_late or status.problem)
    bookmark = f"; bookmark of the source {status.bookmark}" if status.bookmark else ""
    problem = f"; {trouble}: {status.problem}" if status.problem else ""
    print_result(
        status,
        f"{status.mode}: {counted(status.events, 'event')} brought over, the last at {moment_text(status.at)}; "
        f"{behind}{bookmark}{problem}",
        as_json=as_json,
        is_well=is_well,
    )
    exit_unless(is_well)


@command()
@click.argument("src", metavar="FROM_STORE", type=STORE)
@click.argument("dst", metavar="TO_STORE", type=STORE)
@choice(
    "--unfreeze-on-failure/--leave-frozen",
    "What becomes of FROM_STORE if anything goes wrong; it is unfrozen by default.",
    default=True,
)
@json_option
@cancellable
async def cutover(src: str, dst: str, unfreeze_on_failure: bool, as_json: bool) -> None:
    """Freeze FROM_STORE when TO_STORE, its replica, has everything.

    Sync with --follow first, so that little is left to bring over. Afterwards the application uses TO_STORE, and
    FROM_STORE stays frozen.
    """

    async with store_at(src) as source, open_store(dst) as target:
        report = await eventferry.cutover(source, target, unfreeze_on_failure=unfreeze_on_failure)
    old, new = shown(src), shown(dst)
    print_result(
        report,
        f"cut over: {counted(report.events, 'event')} brought over, {report.frozen_events:,} of them while {old} was "
        f"frozen, for {report.downtime_seconds:.2f} s until both were found equal. It stays frozen: use {new} now. "
        f"To go back before anything is saved there: eventferry unfreeze {old}",
        as_json=as_json,
    )

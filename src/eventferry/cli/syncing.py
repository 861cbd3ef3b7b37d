"""The commands sync and cutover."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

import eventferry
from eventferry import open_store
from eventferry.cli.foreign import Foreign, foreign_options, taken
from eventferry.cli.options import STORE, flag, json_option, option
from eventferry.cli.output import moment_text, print_result
from eventferry.cli.places import store_at
from eventferry.cli.running import cancellable
from eventferry.cli.terminal import counted, say
from eventferry.databases import without_password
from eventferry.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventferry import EventStore, ForeignSource


@click.command()
@click.argument("src", metavar="FROM_STORE", type=STORE)
@click.argument("dst", metavar="TO_STORE", type=STORE)
@click.option(
    "--follow/--once", default=False, help="Go on for ever; or end when all is brought over (the default)."
)
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
@flag("--no-secrets", "Leave secrets out.")
@option("--rate", "N", "Bring over at most N events a second.", type=click.IntRange(1))
@flag("--status", "Only tell how far the sync has come, and how far behind it is.")
@option(
    "--max-lag",
    "SECONDS",
    "With --status: exit with status 1 if events wait for longer, or if the last try failed.",
    type=click.FloatRange(0),
)
@foreign_options
@option(
    "--settle",
    "SECONDS",
    "With a mapping: how long a missing position may still appear, where the database does not tell it (10).",
    type=click.FloatRange(0),
)
@json_option
@cancellable
async def sync(
    src: str,
    dst: str,
    follow: bool,
    merge: bool,
    same_aggregate: str | None,
    no_secrets: bool,
    rate: int | None,
    status: bool,
    max_lag: float | None,
    settle: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Bring over to TO_STORE what is new in FROM_STORE.

    Each event comes over exactly once, however often this is ended or killed and run again. A missing TO_STORE is
    created. FROM_STORE is only read; with --from it is a database with another product's tables.
    """
    if max_lag is not None and not status:
        raise UsageError("--max-lag needs --status")
    foreign = taken(options)
    if settle is not None:
        if foreign is None:
            raise UsageError("--settle needs --from PRESET or --from FILE.toml")
        foreign = Foreign(foreign.mapping, foreign.options | {"settle": settle})
    if status:
        await _tell_status(src, dst, max_lag, foreign, as_json=as_json)
        return
    async with _source_at(src, foreign) as source, open_store(dst) as target:
        report = await target.sync(
            source,
            mode="merge" if merge else None,
            same_aggregate=same_aggregate,
            follow=follow,
            with_secrets=not no_secrets,
            rate=rate,
        )
    secrets = f" and {counted(report.secrets, 'secret')}" if report.secrets else ""
    exactness = f"; {report.exactness}" if report.exactness else ""
    print_result(
        report,
        f"brought over {counted(report.events, 'event')}{secrets}; bookmark {report.bookmark}{exactness}",
        as_json=as_json,
    )


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
        say(f"nothing has been synced from {without_password(src)} into {without_password(dst)} yet")
        sys.exit(1)
    [status] = found
    lag = status.lag_seconds or 0.0
    problem = f"; the last try failed: {status.problem}" if status.problem else ""
    print_result(
        status,
        f"{status.mode}: {counted(status.events, 'event')} brought over, the last at {moment_text(status.at)}; "
        f"{counted(status.lag_events or 0, 'event')} behind, {lag:.1f} s{problem}",
        as_json=as_json,
    )
    if max_lag is not None and (lag > max_lag or status.problem):
        sys.exit(1)


@click.command()
@click.argument("src", metavar="FROM_STORE", type=STORE)
@click.argument("dst", metavar="TO_STORE", type=STORE)
@click.option(
    "--unfreeze-on-failure/--leave-frozen",
    default=True,
    help="What becomes of FROM_STORE if anything goes wrong; it is unfrozen by default.",
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
    old, new = without_password(src), without_password(dst)
    print_result(
        report,
        f"cut over: {counted(report.events, 'event')} brought over, {report.frozen_events:,} of them while {old} was "
        f"frozen, for {report.downtime_seconds:.2f} s until both were found equal. It stays frozen: use {new} now. "
        f"To go back before anything is saved there: eventferry unfreeze {old}",
        as_json=as_json,
    )

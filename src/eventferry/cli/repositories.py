"""The commands that read a backup repository: restore, and those below backup."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

import eventferry
from eventferry import open_store
from eventferry.cli.changing import changing_of, rule_options
from eventferry.cli.commands import command, section
from eventferry.cli.options import (
    REPOSITORY,
    STORE,
    IntParam,
    MomentType,
    StrParam,
    WholeNumber,
    flag,
    json_option,
    kinds,
    kinds_of,
    option,
)
from eventferry.cli.output import moment_text, print_data, print_json, print_line
from eventferry.cli.places import destination_of, source_of, store_at
from eventferry.cli.running import cancellable, exit_unless
from eventferry.cli.terminal import Extent, Meter, conclude, counted, inform, is_quiet, is_watched, rate, say
from eventferry.databases import is_on_server
from eventferry.errors import StoreUnreachableError, UsageError
from eventferry.lines.held_back import HeldBack

if TYPE_CHECKING:
    from eventferry.cli.foreign import Foreign

if TYPE_CHECKING:  # as in options.py
    FloatParam = click.ParamType[float]
else:
    FloatParam = click.ParamType

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class DurationType(IntParam):
    """How long, as milliseconds: a number and a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Refuse anything else."""
        found = re.fullmatch(r"(\d{1,9})([smhdw])", str(value))
        if found is None:
            self.fail(f"{value!r} is not a duration such as 26h or 90d (s, m, h, d, w)", param, ctx)
        return int(found[1]) * _SECONDS[found[2]] * 1000


class ShareType(FloatParam):
    """How much of the data: a percentage, or all."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """From 0 to 1."""
        if isinstance(value, float):
            return value
        if value == "all":
            return 1.0
        found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%", value)
        if found is None or float(found[1]) > 100:
            self.fail(f"{value!r} is neither a percentage such as 5% nor all", param, ctx)
        return float(found[1]) / 100


class CutType(StrParam):
    """A bookmark, or a time."""

    name = "time or bookmark"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A text, or milliseconds since 1970."""
        from eventferry.reading.bookmarks import PREFIX

        is_bookmark = isinstance(value, str) and value.startswith(PREFIX)
        return value if is_bookmark else MomentType(up=False).convert(value, param, ctx)


chain_option = option(
    "--chain", "ID", "Which chain, where the repository holds those of several stores (see backup list)."
)
identity_option = option(
    "--identity identity",
    "FILE",
    "Secret key of age or SSH, for encrypted parts (repeatable).",
    multiple=True,
    type=click.Path(dir_okay=False),
)
without_erasures_option = flag(
    "--without-erasures", "With what was erased since; also where the list of erasures cannot be read."
)
parts_jobs_option = option(
    "--jobs", "N", "Fetch this many parts at the same time.", type=WholeNumber(1), default=2
)
state_options = section(
    "Which state",
    option(
        "--manifest",
        "N",
        "The state at the end of this run; without it the last one.",
        type=WholeNumber(1),
    ),
    option(
        "--until stop",
        "TIME|BOOKMARK",
        "Only what this bookmark has read; or of each thread the events before its first one later than this time.",
        type=CutType(),
    ),
    chain_option,
    identity_option,
)


def is_repository(place: str) -> bool:
    """Whether a source is a backup repository, by its looks: a folder, or the URL of an object storage."""
    from eventferry.backup.storage import is_repository_url

    return is_repository_url(place) or os.path.isdir(place)


@asynccontextmanager
async def lines_of(
    place: str,
    until: str | None,
    identities: tuple[str, ...] = (),
    foreign: Foreign | None = None,
    chain: str | None = None,
) -> AsyncIterator[tuple[AsyncIterator[bytes], Extent]]:
    """The lines of a source for `verify`, which may be a repository; and how much there is of them."""
    if foreign is None and is_repository(place):
        found = eventferry.Repository(place, identities)
        async with contextlib.aclosing(found.export_events(until=until, chain=chain)) as lines:
            yield lines, await _extent(found, chain) if until is None else Extent(None)
        return
    async with source_of(place, until=until, foreign=foreign) as (blocks, extent):
        yield blocks, extent


async def backup_of(store: str, repository: str) -> tuple[str | None, str | None]:
    """What to compare a store with, as `Repository._end_of` tells."""
    async with store_at(store) as opened:
        return await eventferry.Repository(repository)._end_of(opened)


async def _meter(repository: eventferry.Repository, chain: str | None) -> Meter:
    """The progress of a restore, for who watches."""
    return Meter("restoring", await _extent(repository, chain))


async def _extent(repository: eventferry.Repository, chain: str | None) -> Extent:
    """The bytes of the newest state, which are looked up only for somebody who watches."""
    return Extent((await repository.status(chain)).newest.plain_bytes if is_watched() else None)


@command()
@click.argument("repository", metavar="REPO", type=REPOSITORY)
@click.argument("store", type=STORE)
@state_options
@option("--from start", "TIME", "Only events at or after this time.", type=MomentType(up=True))
@kinds
@rule_options
@flag("--dry-run", "Read all and store nothing: tell what would be changed, and show the first changes.")
@flag("--with-secrets", "Restore the secrets too, as they were when they were last backed up.")
@without_erasures_option
@flag("--replace", "Allow replacing the events of a store.")
@flag("--allow-empty", "Allow a backup without events, which empties the store.")
@flag("--resume", "Continue an interrupted restore of the same state.")
@flag("--freeze", "Freeze the store during the restore.")
@option(
    "--jobs",
    "N",
    "Restore with this many processes into a store on a server. With 1, with --until, --resume, filters or rules, and "
    "into SQLite, one process does it, and fetches as many parts at the same time, at least 2.",
    type=WholeNumber(1),
    default=1,
)
@json_option
@cancellable
async def restore(
    repository: str,
    store: str,
    manifest: int | None,
    stop: str | int | None,
    chain: str | None,
    start: int | None,
    dry_run: bool,
    identity: tuple[str, ...],
    jobs: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Restore a store's events from a backup.

    This is all or nothing, as an import. A missing store is created. Filters and rules change events on the way, as
    those of import do.
    """
    import asyncio

    import msgspec

    from eventferry.backup.reading import JOBS

    found = eventferry.Repository(repository, identity)
    options["finish"] = None  # a restore ends at a cut
    changing = changing_of(options, start, dry_run=dry_run)
    if dry_run:
        read = found.export_events(
            manifest, stop, chain, max(jobs, JOBS), without_erasures=options["without_erasures"]
        )
        async with contextlib.aclosing(read) as lines:
            await changing.tell(lines, await _extent(found, chain), as_json=as_json)
        return
    # One process alone changes events, knows where to end, and resumes.
    is_one = stop is not None or changing.changes is not None or options["resume"]
    async with changing.reported(), open_store(store) as opened:
        with await _meter(found, chain) as meter:
            if jobs > 1 and is_on_server(store) and not is_one:
                del options["resume"]
                report = await found._restore_by(
                    store, opened, manifest=manifest, chain=chain, jobs=jobs, tell=meter.show, **options
                )
            else:
                try:
                    report = await found.restore(
                        opened,
                        manifest=manifest,
                        until=stop,
                        chain=chain,
                        changes=changing.changes,
                        tell=meter,
                        jobs=max(jobs, JOBS),
                        **options,
                    )
                except (asyncio.CancelledError, StoreUnreachableError):
                    say("the restore was interrupted: run it again with --resume to continue")
                    raise
    if as_json:
        print_json(msgspec.to_builtins(report) | changing.result)
    else:
        told = "" if report.secrets is None else f" and {counted(report.secrets, 'secret')}"
        inform(
            f"restored {rate(report.imported, meter.seconds)}{told} from manifest {report.manifest} of "
            f"{moment_text(report.created)}{changing.told}"
        )
    changing.warn()


@command()
@click.argument("repository", metavar="REPO", type=REPOSITORY)
@option(
    "--read-data",
    "SHARE",
    "Read this much of the parts too, others each time: a percentage, or all.",
    type=ShareType(),
    default=0.0,
    show_default=False,
)
@option("--head", "HEAD", "What backup head printed once: that state must be part of what is there now.")
@identity_option
@json_option
@cancellable
async def check(
    repository: str,
    read_data: float,
    head: str | None,
    identity: tuple[str, ...],
    as_json: bool,
) -> None:
    """Look for damage in a repository.

    It needs no key. The exit status is 1 if anything is wrong.
    """
    report = await eventferry.Repository(repository, identity).check(read_data, head)
    if as_json:
        print_json(report)
    else:
        for problem in report.problems:
            print_line(f"{problem.name}: {problem.reason}")
        for remark in () if is_quiet() else report.remarks:
            print_line(f"remark: {remark.name}: {remark.reason}")
        problems = f"; {counted(len(report.problems), 'problem')}" if report.problems else ""
        conclude(
            f"{'sound' if report.sound else 'damaged'}: {counted(report.manifests, 'manifest')}, "
            f"{counted(report.parts, 'part')}, {counted(report.events, 'event')}; "
            f"read {counted(report.read_parts, 'part')}{problems}",
            is_well=report.sound,
        )
    exit_unless(report.sound)


@command()
@click.argument("repository", metavar="REPO", type=REPOSITORY)
@click.argument("store", type=STORE, required=False)
@option("--manifest", "N", "The state at the end of this run; without it the last one.", type=WholeNumber(1))
@chain_option
@identity_option
@parts_jobs_option
@json_option
@cancellable
async def drill(
    repository: str,
    store: str | None,
    manifest: int | None,
    chain: str | None,
    identity: tuple[str, ...],
    jobs: int,
    as_json: bool,
) -> None:
    """Restore a backup, and compare what was restored with it, event by event.

    It is restored into a temporary SQLite file, or into STORE, where there must be none, and removed afterwards. The
    exit status is 1 if anything is missing or different.
    """
    found = eventferry.Repository(repository, identity)
    async with contextlib.AsyncExitStack() as stack:
        place = None if store is None else await stack.enter_async_context(open_store(store))
        with await _meter(found, chain) as meter:
            report = await found.drill(place, manifest=manifest, chain=chain, tell=meter, jobs=jobs)
    if as_json:
        print_json(report)
    else:
        outcome = (
            f"equal: {counted(report.events, 'event')}"
            if report.equal
            else f"unequal: {report.events:,} and {counted(report.restored_events, 'event')}"
        )
        conclude(
            f"restored manifest {report.manifest} of {moment_text(report.created)} in "
            f"{report.restore_seconds:.1f} s; {outcome}",
            is_well=report.equal,
        )
    exit_unless(report.equal)


@command("list")
@click.argument("repository", metavar="REPO", type=REPOSITORY)
@chain_option
@option("--limit", "N", "The last runs of each chain.", type=WholeNumber(1), default=20)
@json_option
@cancellable
async def list_(repository: str, chain: str | None, limit: int, as_json: bool) -> None:
    """List the runs of a repository."""
    import msgspec

    found = await eventferry.Repository(repository).runs(chain, limit)
    if as_json:
        print_data(msgspec.json.encode(found))
        return
    for run in found:
        print_line(
            f"{run.chain} {run.manifest:>5} {moment_text(run.created)} {counted(run.events, 'event'):>14} "
            f"{counted(run.parts, 'part'):>9} {run.stored_bytes:>12,} bytes "
            f"{'encrypted ' if run.is_encrypted else ''}{run.source}"
        )


@command()
@click.argument("repository", metavar="REPO", type=REPOSITORY)
@chain_option
@cancellable
async def head(repository: str, chain: str | None) -> None:
    """Print the digest of the newest manifest, to be kept elsewhere, for backup check --head."""
    print_data((await eventferry.Repository(repository).head(chain)).encode())


@command()
@click.argument("repository", metavar="REPO", type=REPOSITORY)
@chain_option
@option(
    "--max-age", "DURATION", "Exit with status 1 if the last run is older, such as 26h.", type=DurationType()
)
@option("--metrics", "FILE", "Write the figures for node_exporter's textfile collector.")
@json_option
@cancellable
async def status(
    repository: str,
    chain: str | None,
    max_age: int | None,
    metrics: str | None,
    as_json: bool,
) -> None:
    """Say how old the last backup is."""
    import msgspec

    from eventferry.backup.describing import metrics_of
    from eventferry.lines.files import FileSink

    found = await eventferry.Repository(repository).status(chain)
    # A time to come says nothing of the age: with a wrong clock it would be young for years.
    is_old = max_age is not None and abs(found.age_seconds) * 1000 > max_age
    if metrics is not None:
        await eventferry.pipeline([metrics_of(found).encode()], FileSink(metrics))
    newest = found.newest
    told = (
        f"manifest {newest.manifest} of {moment_text(newest.created)}, {_age(found.age_seconds)}: "
        f"{counted(newest.events, 'event')} in {counted(newest.parts, 'part')}, {newest.stored_bytes:,} bytes"
    )
    if as_json:
        print_json(msgspec.to_builtins(found) | {"tooOld": is_old})
    else:
        conclude(f"{_reason(found.age_seconds)}: {told}" if is_old else told, is_well=not is_old)
    exit_unless(not is_old)


@command()
@click.argument("repository", metavar="REPO", type=REPOSITORY)
@state_options
@parts_jobs_option
@kinds
@without_erasures_option
@cancellable
async def cat(
    repository: str,
    manifest: int | None,
    stop: str | int | None,
    chain: str | None,
    identity: tuple[str, ...],
    jobs: int,
    without_erasures: bool,
    **filters: Any,
) -> None:
    """Print the events of a backup as JSON Lines."""
    found = eventferry.Repository(repository, identity)
    lines = found.export_events(
        manifest, stop, chain, jobs, **kinds_of(**filters), without_erasures=without_erasures
    )
    await eventferry.pipeline(lines, _held_back, destination_of("-"))


async def _held_back(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held = HeldBack()
    async for block in blocks:
        yield held.all_but_the_end(block)
    if held.rest:
        yield held.rest


@command()
@click.argument("repository", metavar="REPO", type=REPOSITORY)
@option(
    "--keep-replaced",
    "DURATION",
    "Remove chains of stores whose events were replaced longer ago than this, such as 90d.",
    type=DurationType(),
)
@option(
    "--keep-manifests",
    "DURATION",
    "Remove the manifests below one that lists all parts, once all are older than this, such as 400d.",
    type=DurationType(),
)
@flag("--compact", "Join small parts, and write parts anew that hold what was erased from the store.")
@identity_option
@flag("--dry-run", "Only say what would be done.")
@json_option
@cancellable
async def prune(
    repository: str,
    keep_replaced: int | None,
    keep_manifests: int | None,
    compact: bool,
    identity: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove what is not needed any more, and join small parts.

    What was joined is removed by the next call, so that a restore which runs meanwhile finds its parts.
    """
    if keep_replaced is None and keep_manifests is None and not compact:
        raise UsageError("say what to prune: --keep-replaced, --keep-manifests or --compact")
    report = await eventferry.Repository(repository, identity).prune(
        keep_replaced=keep_replaced,
        keep_manifests=keep_manifests,
        compact=compact,
        dry_run=dry_run,
    )
    if as_json:
        print_json(report)
    else:
        would = "would have " if dry_run else ""
        inform(
            f"{would}removed {counted(len(report.removed_chains), 'chain')} and "
            f"{counted(report.removed_objects, 'object')} of {report.removed_bytes:,} bytes; "
            f"joined {counted(report.joined_parts, 'part')} into {report.into_parts:,}"
            + (f"; erased from {counted(report.erased_parts, 'part')}" if report.erased_parts else "")
            + "".join(
                f"; chain {name} stays, for events are archived there" for name in report.archived_chains
            )
        )


def _reason(age: float) -> str:
    return "too old" if age > 0 else "a clock is or was wrong"


def _age(seconds: float) -> str:
    told = "old" if seconds >= 0 else "in the future"
    for unit in ("d", "h", "m"):
        if abs(seconds) >= 2 * _SECONDS[unit]:
            return f"{abs(seconds) / _SECONDS[unit]:.0f} {unit} {told}"
    return f"{abs(seconds):.0f} s {told}"

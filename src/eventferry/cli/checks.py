"""The commands verify and demo."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import eventferry
from eventferry.cli.changing import (
    Changing,
    beginnings,
    changing_of,
    from_option,
    has_filters,
    has_rules,
    keep_positions_option,
    rule_options,
)
from eventferry.cli.commands import command
from eventferry.cli.foreign import Foreign, foreign_details, taken
from eventferry.cli.options import (
    SOURCE,
    flag,
    json_option,
    kinds,
    option,
)
from eventferry.cli.output import moment_text, print_json, print_line
from eventferry.cli.places import blocks_of, events_of, secrets_of, store_at
from eventferry.cli.repositories import CutType, backup_of, identity_option, is_repository, lines_of
from eventferry.cli.running import cancellable, run
from eventferry.cli.terminal import Meter, conclude, counted, inform, is_quiet, say
from eventferry.databases import is_store, without_password
from eventferry.errors import UsageError

if TYPE_CHECKING:
    from eventferry.changing.erased import Erased
    from eventferry.state.erasures import Erasure


@command()
@click.argument("a", type=SOURCE)
@click.argument("b", type=SOURCE, required=False)
@flag("--content", "Ignore positions and versions, which differ in merged stores.")
@option(
    "--until ends",
    "TIME|BOOKMARK",
    "Compare stores only up to this bookmark, such as copy and sync print: then A may go on growing. Or: only events "
    "at or before this time.",
    multiple=True,
    type=CutType(),
)
@flag(
    "--erased",
    "Erase from both what was erased from either of the two that is a store: so an older copy is equal to it.",
)
@flag(
    "--archived", "Accept the marker of an archived event for any payload; all else of the event is compared."
)
@identity_option
@flag("--secrets", "Also compare secrets. Files then hold secrets, and only those are compared.")
@from_option
@foreign_details
@kinds
@rule_options
@keep_positions_option
@json_option
@cancellable
async def verify(
    a: str,
    b: str | None,
    content: bool,
    ends: tuple[Any, ...],
    erased: bool,
    archived: bool,
    identity: tuple[str, ...],
    secrets: bool,
    starts: tuple[Any, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Compare two stores or files, or check one.

    A may be a backup repository: a store is compared with it up to the end of the backup, and may have grown since.
    With filters, --rules or --function, B is compared with what they make of A, as copy, import and sync do. The exit
    status is 1 if the two differ, or if the one has duplicates or damage. - is standard input.
    """
    start, mapping = beginnings(starts)
    finish, until = _endings(ends)
    options["finish"] = finish
    if b is None and (has_filters(options | {"starts": starts}) or has_rules(options)):
        raise UsageError("filters, --rules and --function need two sources to compare")
    if until is not None and not (
        b is not None and all(is_store(each) or is_repository(each) for each in (a, b))
    ):
        raise UsageError("--until needs two stores to compare")
    foreign = taken(options, mapping)
    changing = changing_of(options, start, dry_run=False)
    if foreign is not None and (b is None or secrets or until is not None):
        raise UsageError(
            "--from needs two sources to compare, A being the other product's, and no bookmark or --secrets"
        )
    if b is None:
        for name, given in {
            "content": content,
            "erased": erased,
            "archived": archived,
            "secrets": secrets,
        }.items():
            if given:
                raise UsageError(f"--{name} needs two sources to compare")
        is_sound = await _check(a, as_json=as_json)
    elif a == b == "-":
        raise UsageError("only one of the two can be standard input")
    else:
        is_sound = await _compare(
            a,
            b,
            content=content,
            until=until,
            erased=erased,
            archived=archived,
            identities=identity,
            secrets=secrets,
            foreign=foreign,
            changing=changing,
            as_json=as_json,
        )
    if not is_sound:
        raise click.exceptions.Exit(1)


def _endings(ends: tuple[Any, ...]) -> tuple[int | None, str | None]:
    """The time and the bookmark that --until gives. Raises UsageError for two of a kind."""
    times = [end for end in ends if isinstance(end, int)]
    bookmarks = [end for end in ends if isinstance(end, str)]
    if len(times) > 1 or len(bookmarks) > 1:
        raise UsageError("--until is given once for a time, and once for a bookmark")
    return next(iter(times), None), next(iter(bookmarks), None)


async def _check(a: str, *, as_json: bool) -> bool:
    if is_store(a):
        async with store_at(a) as store:
            with Meter("checking", await events_of(store)) as meter:
                report = await eventferry.check(store, meter)
    else:
        async with blocks_of(a) as (blocks, extent):
            with Meter("checking", extent) as meter:
                report = await eventferry.check(blocks, meter, eventferry.CheckEnd())
    if as_json:
        print_json(report)
    else:
        for remark in () if report.sound and is_quiet() else report.remarks:
            print_line(f"{remark.kind}: {remark.text}")
        counts = {
            "malformed": report.malformed,
            "duplicate positions": report.duplicate_positions,
            "duplicate versions": report.duplicate_versions,
            "missing counters": report.missing_counters,
            "missing versions": report.missing_versions,
            "backward timestamps": report.backward_timestamps,
            "faults": report.faults,
            "not checked": report.unchecked,
        }
        told = [f"{count:,} {what}" for what, count in counts.items() if count]
        conclude(
            f"{'sound' if report.sound else 'unsound'}: {counted(report.events, 'event')} of "
            f"{counted(report.aggregates, 'aggregate')} in {counted(report.threads, 'thread')}"
            + (f"; {', '.join(told)}" if told else ""),
            is_well=report.sound,
        )
    return report.sound


async def _compare(
    a: str,
    b: str,
    *,
    content: bool,
    until: str | None,
    erased: bool,
    archived: bool,
    identities: tuple[str, ...],
    secrets: bool,
    foreign: Foreign | None,
    changing: Changing,
    as_json: bool,
) -> bool:
    report: eventferry.VerifyReport | None = None
    kept: eventferry.SecretsVerifyReport | None = None
    if not secrets or (is_store(a) and is_store(b)):
        changes = changing.changes
        chain: str | None = None
        if changes is None and is_repository(a) and is_store(b):
            chain, cut = await backup_of(b, a)
            until = until or cut
        # The bookmark, or the end of a backup, is of A: where B was changed on its way, as many events of it are
        # compared as come of A.
        async with (
            changing.reported(),
            lines_of(a, until, identities, foreign, chain) as (left, extent),
            lines_of(b, until if changes is None else None, identities) as (right, _),
        ):
            with Meter("comparing", extent) as meter:
                report = await eventferry.verify(
                    meter(left),
                    right,
                    content=content,
                    changes=changes,
                    other_grows=changes is not None and (until is not None or is_repository(a)),
                    erased=await _erased_from(a, b) if erased else None,
                    archived=archived,
                )
    if secrets:
        async with secrets_of(a) as left, secrets_of(b) as right:
            kept = await eventferry.verify_secrets(left, right, content=content)
    is_equal = all(each.equal for each in (report, kept) if each is not None)
    if as_json:
        import msgspec

        fields = {} if report is None else msgspec.to_builtins(report)
        fields |= {"equal": is_equal}
        if report is not None:
            fields |= changing.result
        print_json(fields if kept is None else fields | {"secrets": msgspec.to_builtins(kept)})
    else:
        if report is not None:
            _tell(report, report.events, report.other_events, "event", map(told_of, report.differences), b)
            changing.warn()
        if kept is not None:
            _tell(
                kept, kept.secrets, kept.other_secrets, "secret", map(_secret_difference, kept.differences), b
            )
    return is_equal


async def _erased_from(*places: str) -> Erased:
    """What was erased from those of the places that are stores."""
    from eventferry.changing.erased import Erased

    found: list[Erasure] = []
    for place in filter(is_store, places):
        async with store_at(place) as store:
            found += (await store.erased()).erasures
    return Erased(found)


def _tell(
    report: eventferry.VerifyReport | eventferry.SecretsVerifyReport,
    count: int,
    other_count: int,
    what: str,
    differences: Iterable[str],
    b: str,
) -> None:
    for difference in differences:
        print_line(difference)
    if report.equal:
        archived = report.archived if isinstance(report, eventferry.VerifyReport) else 0
        inform(
            f"equal: {counted(count, what)}"
            + (f", but for {archived:,} archived payloads" if archived else "")
        )
    else:
        say(
            f"unequal: {count:,} and {other_count:,} {what}s; {report.missing:,} missing, "
            f"{report.extra:,} extra, {report.changed:,} changed in {without_password(b)}"
        )


def _secret_difference(difference: eventferry.SecretDifference) -> str:
    where = f"deleted in {'A' if difference.deleted else 'B'}"
    fields = [where if field == "deleted" else field for field in difference.fields]
    told = f" ({', '.join(fields)})" if fields else ""
    return f"{difference.kind}{told}: secret {difference.id!r}"


def told_of(difference: eventferry.Difference) -> str:
    """A difference in one line."""
    fields = f" ({', '.join(difference.fields)})" if difference.fields else ""
    place = (
        ""
        if difference.thread_id is None
        else f"thread {difference.thread_id} counter {difference.thread_counter}, "
    )
    version = "" if difference.aggregate_version is None else f" version {difference.aggregate_version}"
    return (
        f"{difference.kind}{fields}: {place}{difference.aggregate_id}{version}, {difference.type} "
        f"at {moment_text(difference.timestamp)}"
    )


@command()
@click.argument(
    "directory", metavar="[DIR]", default="demo", type=click.Path(file_okay=False, path_type=Path)
)
def demo(directory: Path) -> None:
    """Run a demo on 664,122 real events in DIR.

    They are exported, imported, imported incrementally, and verified.
    """
    from eventferry.demo.run import run_demo

    run(run_demo(directory))

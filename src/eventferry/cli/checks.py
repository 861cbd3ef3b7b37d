"""The commands verify and demo."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

import eventferry
from eventferry.cli.commands import command
from eventferry.cli.comparing import TwoSources, comparing_options, refuse_comparing
from eventferry.cli.options import SOURCE, flag, json_option, shown
from eventferry.cli.output import moment_text, print_json, print_line
from eventferry.cli.places import blocks_of, events_of, secrets_of, store_at
from eventferry.cli.running import cancellable, exit_unless, run
from eventferry.cli.terminal import Meter, conclude, counted, inform, is_quiet, say
from eventferry.databases import is_store
from eventferry.errors import UsageError


@command()
@click.argument("a", type=SOURCE)
@click.argument("b", type=SOURCE, required=False)
@flag("--secrets", "Also compare secrets. Files then hold secrets, and only those are compared.")
@comparing_options
@json_option
@cancellable
async def verify(a: str, b: str | None, secrets: bool, as_json: bool, **options: Any) -> None:
    """Compare two stores or files, or check one.

    A may be a backup repository: a store is compared with it up to the end of the backup, and may have grown since.
    With filters, --rules or --function, B is compared with what they make of A, as copy, import and sync do. The exit
    status is 1 if the two differ, or if the one has duplicates or damage. - is standard input.
    """
    if b is None:
        refuse_comparing(options)
        if secrets:
            raise UsageError("--secrets needs two sources to compare")
        is_sound = await _check(a, as_json=as_json)
    else:
        comparison = TwoSources.of(a, b, options)
        if secrets and (comparison.until is not None or comparison.foreign is not None):
            raise UsageError("--secrets cannot be combined with a bookmark or with --from PRESET")
        is_sound = await _compare(comparison, secrets=secrets, as_json=as_json)
    exit_unless(is_sound)


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


async def _compare(comparison: TwoSources, *, secrets: bool, as_json: bool) -> bool:
    a, b, changing = comparison.a, comparison.b, comparison.changing
    report: eventferry.VerifyReport | None = None
    kept: eventferry.SecretsVerifyReport | None = None
    if not secrets or (is_store(a) and is_store(b)):
        report = await comparison.report()
    if secrets:
        async with secrets_of(a) as left, secrets_of(b) as right:
            kept = await eventferry.verify_secrets(left, right, content=comparison.content)
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
            f"{report.extra:,} extra, {report.changed:,} changed in {shown(b)}"
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

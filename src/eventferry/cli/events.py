"""The commands events, export, import and copy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import click

import eventferry
from eventferry import open_store
from eventferry.cli.changing import (
    Changing,
    beginnings,
    change_options,
    changing_of,
    dry_run_option,
    from_csv_option,
    from_option,
    has_filters,
    has_rules,
    keep_positions_option,
    rule_options,
)
from eventferry.cli.commands import command
from eventferry.cli.foreign import Foreign, foreign_details, named, taken, told_of
from eventferry.cli.formats import Destination, FileFormat
from eventferry.cli.incoming import Incoming, Mark
from eventferry.cli.jobs import can_copy_by_jobs, copy_by_jobs, import_by_jobs, jobs_of
from eventferry.cli.options import (
    DEFAULT_LIMIT,
    DESTINATION,
    SOURCE,
    STORE,
    WholeNumber,
    aggregate_attribute_option,
    archived_option,
    bookmark_option,
    copying_option,
    end_options,
    filter_of,
    filters,
    filters_but_from,
    flag,
    format_option,
    jobs_option,
    json_option,
    option,
    processes_option,
    refuse_overwriting,
    replacing_options,
    to_option,
)
from eventferry.cli.output import print_data, print_json, print_result
from eventferry.cli.places import destination_of, events_of, made, refuse_store, store_at
from eventferry.cli.running import cancellable, run
from eventferry.cli.terminal import Extent, Meter, counted, inform, rate, say
from eventferry.errors import EventferryError, StoreUnreachableError, UsageError
from eventferry.lines.page import json_page

if TYPE_CHECKING:
    from eventferry import SplitBy
    from eventferry.reading.arguments import ArchivedAs


@command()
@click.argument("store", type=STORE)
@filters
@option("--limit", "N", "Print at most this many.", type=WholeNumber(1), default=DEFAULT_LIMIT)
@archived_option
@bookmark_option
@json_option
@cancellable
async def events(
    store: str, limit: int, archived: ArchivedAs, with_bookmark: bool, as_json: bool, **filters: Any
) -> None:
    """Print events as JSON Lines.

    With --cursor, the next cursor is printed on standard error; with --since or --bookmark, the next bookmark.
    """
    only = filter_of(**filters)
    async with (
        open_store(store) as opened,
        contextlib.aclosing(opened.export_events(limit=limit, archived=archived, **only)) as export,
    ):
        if as_json:
            blocks = [block async for block in export]
            print_data(json_page(blocks, export.cursor, await export.bookmark()))
        else:
            await eventferry.pipeline(export, destination_of("-"))
            if with_bookmark or only["since"] is not None:
                say(await export.bookmark())
            elif only["cursor"] is not None:
                say(export.cursor)


@command()
@click.argument("store", type=STORE)
@click.argument("dest", type=DESTINATION)
@from_option
@filters_but_from
@rule_options
@keep_positions_option
@foreign_details
@format_option
@option(
    "--split-by",
    None,
    "Make DEST a folder with a file for each day (UTC) or each type.",
    type=click.Choice(("day", "type")),
)
@option("--source", "URI", "With --format cloudevents: whose events these are, such as /shop/orders.")
@flag("--end-mark", "Add a last line by which an import sees that nothing was lost on the way.")
@flag("--freeze", "Freeze the store during the export.")
@archived_option
@jobs_option
@dry_run_option
@bookmark_option
@json_option
@cancellable
async def export(
    store: str,
    dest: str,
    starts: tuple[Any, ...],
    file_format: FileFormat,
    split_by: SplitBy | None,
    source: str | None,
    end_mark: bool,
    freeze: bool,
    archived: ArchivedAs,
    jobs: int,
    dry_run: bool,
    with_bookmark: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export events to a file: JSON Lines, CSV or Parquet for analysis, or CloudEvents.

    The file appears when it is complete.
    """
    refuse_store(dest, "use copy to go from store to store")
    if dest != "-":
        refuse_overwriting(dest, "dest", "store")  # that of a store is refused with any other store's
    start, mapping = beginnings(starts)
    foreign = taken(options, mapping)
    places = {name: options.pop(name) for name in ("cursor", "since")}
    only, changing = _selected(options, start, places, foreign, dry_run=dry_run)
    if foreign is not None and (freeze or jobs != 1 or archived != "marker" or any(places.values())):
        raise UsageError("--cursor, --since, --freeze, --archived and --jobs are for a store")
    destination = Destination(dest, file_format, split_by, has_end=end_mark, source=source)
    async with changing.reported():
        if foreign is None:
            mode = eventferry.AUTO if freeze else eventferry.MANUAL
            async with (
                open_store(store) as opened,
                contextlib.aclosing(
                    opened.export_events(maintenance_mode=mode, jobs=jobs, archived=archived, **only)
                ) as export,
            ):
                if dry_run:
                    await changing.tell(export, Extent(None, "event"), as_json=as_json)
                    return
                is_part = any(only.values())
                extent = Extent(None, "event") if is_part else await events_of(opened)
                with_bookmark = with_bookmark or only["since"] is not None
                await _export_store(
                    export, extent, destination, changing, with_bookmark=with_bookmark, as_json=as_json
                )
        elif dry_run and changing.changes is None:
            await foreign.tell(store, as_json=as_json)
        else:
            async with foreign.lines(store) as lines:
                if dry_run:
                    await changing.tell(lines, Extent(None, "event"), as_json=as_json)
                else:
                    await _export_foreign(lines, destination, changing, as_json=as_json)


def _selected(
    options: dict[str, Any],
    start: int | None,
    places: dict[str, Any],
    foreign: Foreign | None,
    *,
    dry_run: bool,
) -> tuple[dict[str, Any], Changing]:
    """What to ask a store for, and what to change. Filters alone are a question to the database; with rules, and where
    there is no store, they are of what is changed, so that a report counts what they leave out."""
    kinds = {name: options[name] for name in ("types", "excluded", "ids", "prefixes")}
    only = filter_of(start, options["finish"], **places, **kinds)
    if foreign is None and not dry_run and not has_rules(options):
        return only, Changing(None, None)
    return places, changing_of(options, start, dry_run=dry_run and foreign is None)


async def _export_store(
    stream: eventferry.ExportStream,
    extent: Extent,
    dest: Destination,
    changing: Changing,
    *,
    with_bookmark: bool,
    as_json: bool,
) -> None:
    with Meter("exporting", extent) as meter:
        mark = Mark(stream)
        transforms = [*changing.transforms, *dest.transforms]
        await eventferry.pipeline(stream, meter, mark, *transforms, dest.sink)
        exported = changing.written(stream.exported)
        told = rate(exported, meter.seconds)
    if as_json:
        result = {"exported": exported, "cursor": stream.cursor, "bookmark": mark.bookmark}
        print_json(result | changing.result | dest.result, to_stderr=dest.is_standard_output)
    else:
        bookmark = f"; bookmark {mark.bookmark}" if with_bookmark else ""
        inform(f"exported {told}{dest.told}{changing.told}{bookmark}")
    changing.warn()


async def _export_foreign(
    stream: eventferry.ForeignExport, dest: Destination, changing: Changing, *, as_json: bool
) -> None:
    with Meter("exporting", Extent(None, "event")) as meter:
        transforms = [*changing.transforms, *dest.transforms]
        await eventferry.pipeline(stream, meter, *transforms, dest.sink)
        exported = changing.written(stream.exported)
        told = rate(exported, meter.seconds)
    if as_json:
        result = {"exported": exported, "source": stream.report}
        print_json(result | changing.result | dest.result, to_stderr=dest.is_standard_output)
    else:
        inform(f"exported {told}{dest.told}{changing.told}{told_of(stream.report)}")
    changing.warn()


@command("import")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=SOURCE)
@click.argument("store", type=STORE)
@from_csv_option
@foreign_details
@change_options
@keep_positions_option
@dry_run_option
@format_option
@aggregate_attribute_option
@end_options
@processes_option
@replacing_options
@bookmark_option
@flag("--manual", "Append instead of replacing, and commit on the way; works on a frozen store.")
@option("--byte-offset", "N", "Skip this many bytes of SRC. Needs --manual.", type=WholeNumber(0), default=0)
@to_option
def import_(
    sources: tuple[str, ...],
    store: str,
    file_format: FileFormat,
    manual: bool,
    byte_offset: int,
    product: str | None,
    jobs: int,
    **options: Any,
) -> None:
    """Replace a store's events by those of SRC.

    This is all or nothing. A missing store is created. Several files are imported in parts, as with --jobs: each event
    says where it belongs, so their order does not matter.
    """
    if jobs > 1 or len(sources) > 1:
        if manual or byte_offset or product is not None or file_format != "jsonl":
            raise UsageError(
                "--jobs, as well as several files, cannot be combined with --manual, --byte-offset, --to or another "
                "format than JSON Lines"
            )
        run(import_by_jobs(sources, store, jobs_of(jobs, options), as_json=options["as_json"]))
        return
    [src] = sources
    if product is not None:
        run(
            _fill(
                src,
                store,
                product,
                file_format=file_format,
                manual=manual,
                byte_offset=byte_offset > 0,
                **options,
            )
        )
        return
    if byte_offset and not manual:
        raise UsageError("--byte-offset needs --manual; to continue an interrupted import, use --resume")
    if manual and (has_rules(options) or has_filters(options)):
        raise UsageError(
            "--manual appends events where they say that they belong: it cannot filter or change them"
        )
    if manual and (options["replace"] or options["allow_empty"] or options["resume"] or options["freeze"]):
        raise UsageError("--manual cannot be combined with --replace, --allow-empty, --resume or --freeze")
    run(_import(src, store, file_format=file_format, manual=manual, byte_offset=byte_offset, **options))


@command()
@click.argument("src", metavar="FROM_STORE", type=STORE)
@click.argument("store", metavar="TO_STORE", type=STORE)
@from_option
@foreign_details
@change_options
@keep_positions_option
@dry_run_option
@copying_option
@replacing_options
@bookmark_option
@to_option
def copy(src: str, store: str, jobs: int, product: str | None, **options: Any) -> None:
    """Replace a store's events by another store's.

    This is all or nothing. A missing TO_STORE is created.
    """
    if product is not None:
        run(_fill(src, store, product, jobs, **options))
        return
    if jobs > 1 and can_copy_by_jobs(store, options):
        told = {name: options[name] for name in ("with_bookmark", "as_json")}
        run(copy_by_jobs(src, store, jobs_of(jobs, options), **told))
        return
    run(_import(src, store, jobs, **options))


async def _import(
    src: str,
    store: str,
    jobs: int = 1,
    *,
    as_json: bool,
    dry_run: bool,
    with_bookmark: bool,
    file_format: FileFormat = "jsonl",
    manual: bool = False,
    byte_offset: int = 0,
    **options: Any,
) -> None:
    import asyncio

    incoming = Incoming(src, options, file_format=file_format, jobs=jobs, dry_run=dry_run)
    if dry_run:
        await incoming.tell(as_json=as_json)
        return
    changing, ignore_unknown_keys = incoming.changing, options.pop("ignore_unknown_keys")
    async with (
        incoming.opened() as (source, extent),
        open_store(store) as opened,
        made(opened, source, placed=True, ignore_unknown_keys=ignore_unknown_keys) as blocks,
        contextlib.AsyncExitStack() as stack,
    ):
        if incoming.is_unchanged_store:
            options["erased_from"] = await stack.enter_async_context(store_at(src))
        sink = opened.import_events(
            byte_offset,
            eventferry.MANUAL if manual else eventferry.AUTO,
            ignore_unknown_keys=ignore_unknown_keys,
            **({} if manual else options),
        )
        mark = Mark(source)
        with Meter("importing", extent) as meter:
            try:
                report = await eventferry.pipeline(
                    blocks, meter, _skipping(byte_offset), mark, *changing.transforms, sink
                )
            except (EventferryError, asyncio.CancelledError) as error:
                if manual:
                    committed = counted(sink.saved_events_count, "event")
                    say(f"{committed} committed; continue with --byte-offset {sink.byte_offset}")
                elif isinstance(error, asyncio.CancelledError | StoreUnreachableError):
                    say("the import was interrupted: run it again with --resume to continue")
                raise
        told: dict[str, Any] = {"imported": report.imported}
        if changing.changes is None:  # otherwise it is of what the changes gave
            told["byteOffset"] = report.byte_offset
        told |= changing.result
        sentence = f"imported {rate(report.imported, meter.seconds)}{changing.told}"
        sentence += mark.told(told, with_bookmark=with_bookmark)
        print_result(told, sentence, as_json=as_json)
        changing.warn()


async def _fill(
    src: str,
    database: str,
    product: str,
    jobs: int = 1,
    *,
    as_json: bool,
    dry_run: bool,
    with_bookmark: bool,
    file_format: FileFormat = "jsonl",
    **options: Any,
) -> None:
    """Import into the table of another product."""
    settings: dict[str, str] = {}
    if beginnings(options["starts"])[1] is None:  # otherwise they are the source's
        settings = named(options["tables"])
        options["tables"] = ()
    incoming = Incoming(src, options, file_format=file_format, jobs=jobs, dry_run=dry_run)
    changing, ignore_unknown_keys = incoming.changing, options.pop("ignore_unknown_keys")
    for name, given in options.items():
        if given:
            raise UsageError(
                f"--{name.replace('_', '-')} cannot be combined with --to: the table of another product must be empty, "
                "and gets all events or none"
            )
    if dry_run:
        await incoming.tell(as_json=as_json)
        return
    async with (
        eventferry.open_target(database, product, **settings) as target,
        incoming.opened() as (source, extent),
    ):
        mark = Mark(source)
        with Meter("importing", extent) as meter:
            report = await eventferry.pipeline(
                source,
                meter,
                mark,
                *changing.transforms,
                target.import_events(ignore_unknown_keys=ignore_unknown_keys),
            )
    told: dict[str, Any] = {"imported": report.imported, "streams": report.streams} | changing.result
    streams = counted(report.streams, "stream")
    sentence = f"imported {rate(report.imported, meter.seconds)}, {streams}{changing.told}"
    sentence += mark.told(told, with_bookmark=with_bookmark)
    print_result(told, sentence, as_json=as_json)
    changing.warn()


def _skipping(count: int) -> Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]:
    """A transform that drops the first bytes."""

    async def skip(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        left = count
        async for block in blocks:
            if left < len(block):
                yield block[left:]
            left = max(left - len(block), 0)
        if left:
            raise EventferryError(f"--byte-offset {count} is beyond the end of the input")

    return skip

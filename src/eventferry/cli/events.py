"""The commands events, export, import and copy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import click

import eventferry
from eventferry import open_store
from eventferry.cli.options import (
    DEFAULT_LIMIT,
    STORE,
    filter_of,
    filters,
    jobs_option,
    json_option,
    replacing_options,
)
from eventferry.cli.output import print_data, print_json
from eventferry.cli.places import destination_of, is_standard_output, made, refuse_store, source_of
from eventferry.cli.running import run
from eventferry.cli.terminal import Meter, counted, is_terminal, rate, say
from eventferry.errors import EventferryError, StoreUnreachableError, UsageError
from eventferry.lines.page import json_page


@click.command()
@click.argument("store", type=STORE)
@filters
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    default=DEFAULT_LIMIT,
    show_default=True,
    help="Print at most this many.",
)
@json_option
def events(store: str, limit: int, as_json: bool, **filters: Any) -> None:
    """Print events as JSON Lines.

    The cursor after them is printed on standard error; with --since, the bookmark.
    """
    only = filter_of(**filters)

    async def work() -> str:
        async with (
            open_store(store) as opened,
            contextlib.aclosing(opened.export_events(limit=limit, **only)) as export,
        ):
            if not as_json:
                await eventferry.pipeline(export, destination_of("-"))
                return await export.bookmark() if only["since"] is not None else export.cursor
            blocks = [block async for block in export]
            print_data(json_page(blocks, export.cursor, await export.bookmark()))
            return ""

    place = run(work())
    if not as_json:
        say(place)


@click.command()
@click.argument("store", type=STORE)
@click.argument("dest")
@filters
@click.option("--freeze", is_flag=True, help="Freeze the store during the export.")
@jobs_option
@json_option
def export(store: str, dest: str, freeze: bool, jobs: int, as_json: bool, **filters: Any) -> None:
    """Export events to a JSON Lines file.

    The file appears when it is complete.
    """
    refuse_store(dest, "use copy to go from store to store")
    only = filter_of(**filters)

    async def work() -> tuple[dict[str, Any], float]:
        async with open_store(store) as opened:
            stream = opened.export_events(
                maintenance_mode=eventferry.AUTO if freeze else eventferry.MANUAL, jobs=jobs, **only
            )
            # Counting takes time: only for somebody who watches.
            whole = is_terminal() and not any(only.values())
            total = (await opened.describe()).event_count if whole else None
            with Meter("exporting", total, lambda: stream.exported) as meter:
                mark = _Mark(stream)
                await eventferry.pipeline(stream, meter, mark, destination_of(dest))
                told = {"exported": stream.exported, "cursor": stream.cursor, "bookmark": mark.bookmark}
                return told, meter.seconds

    told, seconds = run(work())
    if as_json:
        print_json(told, to_stderr=is_standard_output(dest))
    else:
        say(f"exported {rate(told['exported'], seconds)}; bookmark {told['bookmark']}")


class _Mark:
    """A transform that takes the bookmark of a source when all of it is read: if there is none, nothing appears.

    Attributes:
        bookmark: behind what was read; None if the source is not a store.
    """

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self.bookmark: str | None = None

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            yield block
        if isinstance(self._source, eventferry.ExportStream):
            self.bookmark = await self._source.bookmark()


@click.command("import")
@click.argument("src")
@click.argument("store", type=STORE)
@replacing_options
@click.option(
    "--manual",
    is_flag=True,
    help="Append instead of replacing, and commit on the way; works on a frozen store.",
)
@click.option(
    "--byte-offset",
    type=click.IntRange(0),
    metavar="N",
    default=0,
    show_default=True,
    help="Skip this many bytes of SRC. Needs --manual.",
)
def import_(src: str, store: str, manual: bool, byte_offset: int, **options: Any) -> None:
    """Replace a store's events by those of SRC.

    This is all or nothing. A missing store is created.
    """
    if byte_offset and not manual:
        raise UsageError("--byte-offset needs --manual; to continue an interrupted import, use --resume")
    if manual:
        run(_append(src, store, byte_offset, options))
    else:
        run(_replace(src, store, options))


@click.command()
@click.argument("src", metavar="FROM_STORE", type=STORE)
@click.argument("store", metavar="TO_STORE", type=STORE)
@jobs_option
@replacing_options
def copy(src: str, store: str, jobs: int, **options: Any) -> None:
    """Replace a store's events by another store's.

    This is all or nothing. A missing TO_STORE is created.
    """
    run(_replace(src, store, options, jobs))


async def _replace(src: str, store: str, options: dict[str, Any], jobs: int = 1) -> None:
    import asyncio

    unknown = options["ignore_unknown_keys"]
    async with (
        source_of(src, jobs) as (source, total),
        open_store(store) as opened,
        made(opened, source, placed=True, ignore_unknown_keys=unknown) as blocks,
    ):
        sink = opened.import_events(
            replace=options["replace"],
            freeze=options["freeze"],
            resume=options["resume"],
            allow_empty=options["allow_empty"],
            ignore_unknown_keys=unknown,
        )
        mark = _Mark(source)
        with Meter("importing", total) as meter:
            try:
                report = await eventferry.pipeline(blocks, meter, mark, sink)
            except (asyncio.CancelledError, StoreUnreachableError):
                say("the import was interrupted: run it again with --resume to continue")
                raise
        _tell(report, meter.seconds, mark.bookmark, as_json=options["as_json"])


async def _append(src: str, store: str, byte_offset: int, options: dict[str, Any]) -> None:
    import asyncio

    if options["replace"] or options["allow_empty"] or options["resume"] or options["freeze"]:
        raise UsageError("--manual cannot be combined with --replace, --allow-empty, --resume or --freeze")
    unknown = options["ignore_unknown_keys"]
    async with (
        source_of(src) as (source, total),
        open_store(store) as opened,
        made(opened, source, placed=True, ignore_unknown_keys=unknown) as blocks,
    ):
        sink = opened.import_events(
            byte_offset=byte_offset,
            maintenance_mode=eventferry.MANUAL,
            ignore_unknown_keys=unknown,
        )
        with Meter("importing", total) as meter:
            try:
                report = await eventferry.pipeline(blocks, meter, _skipping(byte_offset), sink)
            except (EventferryError, asyncio.CancelledError):
                say(
                    f"{counted(sink.saved_events_count, 'event')} committed; "
                    f"continue with --byte-offset {sink.byte_offset}"
                )
                raise
        _tell(report, meter.seconds, None, as_json=options["as_json"])


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


def _tell(report: eventferry.StreamReport, seconds: float, bookmark: str | None, *, as_json: bool) -> None:
    if as_json:
        told: dict[str, Any] = {"imported": report.imported, "byteOffset": report.byte_offset}
        print_json(told if bookmark is None else told | {"bookmark": bookmark})
    else:
        of_source = "" if bookmark is None else f"; bookmark of the source {bookmark}"
        say(f"imported {rate(report.imported, seconds)}{of_source}")

"""The command line: a thin layer over the library, with the same words.

Data goes to standard output, words to standard error. Exit status: 0 done; 1 failed, refused or unequal;
2 wrong usage; 130 interrupted; 141 the reader of a pipe has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import click
import msgspec

import eventferry
from eventferry import (
    EventferryError,
    EventStore,
    StoreNotFoundError,
    UsageError,
    open_store,
    pipeline,
    read_blocks,
)
from eventferry.databases import is_store, without_password
from eventferry.event import MAX_SAFE_INTEGER
from eventferry.exporting import AUTO, MANUAL
from eventferry.merge import OLDER
from eventferry.terminal import Meter, rate, say

Command = TypeVar("Command", bound=Callable[..., Any])
if TYPE_CHECKING:  # generic for the type checker, and in newer versions of click only
    StrParam = click.ParamType[str]
    IntParam = click.ParamType[int]
else:
    StrParam = IntParam = click.ParamType
COMPRESSED = (".gz", ".zst")
DEFAULT_LIMIT = 1000


class StoreType(StrParam):
    """A store: a URL, or a path that ends as a SQLite file does."""

    name = "store"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no store."""
        if not is_store(value):
            self.fail(
                f"{without_password(value)!r} is no store: that is a URL such as sqlite:///path, or a path "
                "ending in .db, .sqlite or .sqlite3",
                param,
                ctx,
            )
        return str(value)


class MomentType(IntParam):
    """A moment: ISO 8601 (UTC where it names no zone), or milliseconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since 1970."""
        if isinstance(value, int):
            return value
        try:
            if value.isascii() and value.removeprefix("-").isdigit():
                if abs(int(value)) > MAX_SAFE_INTEGER:
                    raise ValueError
                return int(value)
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time: 2026-01-31T12:00:00Z, or milliseconds since 1970", param, ctx)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)


STORE = StoreType()
MOMENT = MomentType()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(eventferry.__version__)
def cli() -> None:
    """Move events between event stores, without losing or doubling one.

    A STORE is a URL (sqlite:///relative.db, sqlite:////absolute.db) or a path ending in .db, .sqlite or .sqlite3.
    SRC and DEST are files of lines (.gz and .zst are packed and unpacked), or - for standard input and output.
    """


# what the commands share


def _filters(command: Command) -> Command:
    for option in reversed(
        (
            click.option(
                "--type", "types", multiple=True, metavar="TYPE", help="Only this type (repeatable)."
            ),
            click.option(
                "--aggregate-id",
                "ids",
                multiple=True,
                metavar="ID",
                help="Only of this aggregate (repeatable).",
            ),
            click.option("--from", "start", type=MOMENT, help="Only from this time on."),
            click.option("--until", "finish", type=MOMENT, help="Only up to and including this time."),
            click.option("--cursor", help="Go on from here."),
        )
    ):
        command = option(command)
    return command


def _filter(
    types: tuple[str, ...], ids: tuple[str, ...], start: int | None, finish: int | None, cursor: str | None
) -> dict[str, Any]:
    if cursor is not None and (start is not None or finish is not None):
        raise UsageError("--cursor does not go together with --from and --until")
    return {
        "event_types": types or None,
        "aggregate_ids": ids or None,
        "start_time": start,
        "finish_time": finish,
        "cursor": cursor,
    }


_json = click.option("--json", "as_json", is_flag=True, help="The report as JSON on standard output.")
_ignore_unknown = click.option(
    "--ignore-unknown-keys", is_flag=True, help="Drop keys that an event does not have, instead of refusing."
)


def _replacing(command: Command) -> Command:
    for option in reversed(
        (
            click.option("--replace", is_flag=True, help="Replace the events of a store that holds some."),
            click.option("--allow-empty", is_flag=True, help="Let an input without events empty the store."),
            click.option("--resume", is_flag=True, help="Go on where an interrupted import was."),
            click.option("--freeze", is_flag=True, help="Keep writers out meanwhile."),
            _ignore_unknown,
            _json,
        )
    ):
        command = option(command)
    return command


def _print_json(report: msgspec.Struct | dict[str, Any], *, to_stderr: bool = False) -> None:
    if to_stderr:
        say(msgspec.json.encode(report).decode())
    else:
        _print(msgspec.json.encode(report))


def _print(data: bytes | str) -> None:
    """A line of data: UTF-8, whatever the locale says."""
    if sys.stdout is None:
        raise EventferryError("standard output is closed")
    sys.stdout.flush()
    sys.stdout.buffer.write(
        (data.encode(errors="surrogateescape") if isinstance(data, str) else data) + b"\n"
    )
    sys.stdout.flush()


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@asynccontextmanager
async def _made(store: EventStore) -> AsyncIterator[None]:
    """Make a missing store."""
    if not await store.exists():
        await store.init()
    yield


async def _refuse_full(store: EventStore, *, replace: bool) -> None:
    if not replace and (await store.get_latest_event()) is not None:
        raise EventferryError(
            "the store holds events: --replace replaces them, incremental-import adds to them"
        )


@asynccontextmanager
async def _source(place: str) -> AsyncIterator[tuple[AsyncIterator[bytes], int | None]]:
    """Blocks of lines from a file, standard input or a store; and how many bytes, where that is known."""
    if place == "-":
        # The raw file: a read that Ctrl-C left behind must not hold a lock that Python wants at its end.
        yield read_blocks(_raw(sys.stdin)), None
    elif is_store(place):
        async with open_store(place) as store, contextlib.aclosing(store.export_events()) as export:
            if not await store.exists():  # before a missing target is made
                raise StoreNotFoundError(f"there is no store at {without_password(place)}")
            yield export, None
    else:
        if not await asyncio.to_thread(os.path.exists, place):
            raise EventferryError(f"there is no file {place}")
        async with contextlib.aclosing(read_blocks(place)) as blocks:
            yield blocks, _size(Path(place))


def _size(path: Path) -> int | None:
    """How many bytes a file will give, where that is known beforehand."""
    return path.stat().st_size if path.suffix not in COMPRESSED and path.is_file() else None


def _destination(place: str) -> str | IO[bytes]:
    return _raw(sys.stdout) if place == "-" else place


def _raw(stream: Any) -> IO[bytes]:
    if stream is None:
        raise EventferryError("standard input or output is closed")
    return cast("IO[bytes]", getattr(stream.buffer, "raw", stream.buffer))


def _refuse_store(place: str, instead: str) -> None:
    if is_store(place):
        raise UsageError(f"{without_password(place)} is a store: {instead}")


# the store itself


@cli.command()
@click.argument("store", type=STORE)
def init(store: str) -> None:
    """Make a store."""

    async def work() -> None:
        async with open_store(store) as opened:
            await opened.init()

    _run(work())
    say(f"made the store {without_password(store)}")


@cli.command()
@click.argument("store", type=STORE)
@click.option("--yes", is_flag=True, help="Yes, drop it.")
def drop(store: str, yes: bool) -> None:
    """Remove a store with everything in it."""
    if not yes:
        raise UsageError("drop removes all events, secrets and snapshots: say --yes")

    async def work() -> None:
        async with open_store(store) as opened:
            await opened.drop()

    _run(work())
    say(f"dropped the store {without_password(store)}")


@cli.command()
@click.argument("store", type=STORE)
def upgrade(store: str) -> None:
    """Give a store that reSolve made the index that reading in order needs."""

    async def work() -> list[str]:
        async with open_store(store) as opened:
            return await opened.upgrade()

    added = _run(work())
    say(f"added {', '.join(added)}" if added else "nothing was missing")


@cli.command()
@click.argument("store", type=STORE)
def freeze(store: str) -> None:
    """Make writes fail until unfreeze."""

    async def work() -> None:
        async with open_store(store) as opened:
            await opened.freeze()

    _run(work())
    say(f"froze the store {without_password(store)}")


@cli.command()
@click.argument("store", type=STORE)
def unfreeze(store: str) -> None:
    """Let writes in again."""

    async def work() -> None:
        async with open_store(store) as opened:
            await opened.unfreeze()

    _run(work())
    say(f"unfroze the store {without_password(store)}")


@cli.command()
@click.argument("store", type=STORE)
@_json
@click.option("--cursor", is_flag=True, help="Also the cursor behind the last event.")
def describe(store: str, as_json: bool, cursor: bool) -> None:
    """Say what a store holds."""

    async def work() -> eventferry.Description:
        async with open_store(store) as opened:
            return await opened.describe(calculate_cursor=cursor)

    description = _run(work())
    fields: dict[str, Any] = msgspec.to_builtins(description)
    if not cursor:
        del fields["cursor"]
    if as_json:
        _print_json(fields)
        return
    fields |= fields.pop("resourceNames")
    if fields["openImport"] is not None:
        fields["openImport"] = fields["openImport"]["id"]
    width = max(map(len, fields))
    for name, value in fields.items():
        if name in ("lastEventTimestamp", "frozenSince") and value:
            value = f"{value} ({_moment(value)})"
        _print(f"{name:<{width}}  {_word(value)}")


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _moment(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return "beyond the calendar"


# events


@cli.command()
@click.argument("store", type=STORE)
@_filters
@click.option(
    "--limit", type=click.IntRange(1), default=DEFAULT_LIMIT, show_default=True, help="At most so many."
)
@_json
def events(store: str, limit: int, as_json: bool, **filters: Any) -> None:
    """Print events as lines, and on standard error the cursor behind them."""
    only = _filter(**filters)

    async def work() -> str:
        async with (
            open_store(store) as opened,
            contextlib.aclosing(opened.export_events(limit=limit, **only)) as export,
        ):
            if not as_json:
                await pipeline(export, _destination("-"))
                return export.cursor
            text = b"".join([block async for block in export])
            listed = b",".join(text.splitlines())
            _print(b'{"events":[%s],"cursor":"%s"}' % (listed, export.cursor.encode()))
            return export.cursor

    cursor = _run(work())
    if not as_json:
        say(cursor)


@cli.command()
@click.argument("store", type=STORE)
@click.argument("dest")
@_filters
@click.option("--freeze", is_flag=True, help="Keep writers out meanwhile.")
@_json
def export(store: str, dest: str, freeze: bool, as_json: bool, **filters: Any) -> None:
    """Write events as lines to a file that appears, whole, at the end."""
    _refuse_store(dest, "copy STORE STORE goes from store to store")
    only = _filter(**filters)

    async def work() -> tuple[int, str, float]:
        async with open_store(store) as opened:
            stream = opened.export_events(maintenance_mode=AUTO if freeze else MANUAL, **only)
            with Meter("exporting") as meter:
                await pipeline(stream, meter, _destination(dest))
                return stream.exported, stream.cursor, meter.seconds

    exported, cursor, seconds = _run(work())
    if as_json:
        _print_json({"exported": exported, "cursor": cursor}, to_stderr=dest == "-")
    else:
        say(f"exported {rate(exported, seconds)}")


@cli.command("import")
@click.argument("src")
@click.argument("store", type=STORE)
@_replacing
@click.option(
    "--manual", is_flag=True, help="Append as it comes, committing as it goes; also to a frozen store."
)
@click.option(
    "--byte-offset", type=click.IntRange(0), default=0, help="With --manual: skip so many bytes of SRC."
)
def import_(src: str, store: str, manual: bool, byte_offset: int, **options: Any) -> None:
    """Import lines into a store, replacing its events, all or nothing; a missing store is made."""
    if byte_offset and not manual:
        raise UsageError("--byte-offset goes with --manual; an interrupted import goes on with --resume")
    if manual:
        _run(_append(src, store, byte_offset, options))
    else:
        _run(_replace(src, store, options))


@cli.command()
@click.argument("src", metavar="FROM_STORE", type=STORE)
@click.argument("store", metavar="TO_STORE", type=STORE)
@_replacing
def copy(src: str, store: str, **options: Any) -> None:
    """Copy the events of one store to another, all or nothing; a missing one is made."""
    _run(_replace(src, store, options))


async def _replace(src: str, store: str, options: dict[str, Any]) -> None:
    async with _source(src) as (blocks, total), open_store(store) as opened, _made(opened):
        await _refuse_full(opened, replace=options["replace"])
        sink = opened.import_events(
            freeze=options["freeze"],
            resume=options["resume"],
            allow_empty=options["allow_empty"],
            ignore_unknown_keys=options["ignore_unknown_keys"],
        )
        with Meter("importing", total) as meter:
            try:
                report = await pipeline(blocks, meter, sink)
            except asyncio.CancelledError:
                say("--resume goes on with it")
                raise
        _tell(report, meter.seconds, as_json=options["as_json"])


async def _append(src: str, store: str, byte_offset: int, options: dict[str, Any]) -> None:
    if options["replace"] or options["allow_empty"] or options["resume"] or options["freeze"]:
        raise UsageError(
            "--manual appends: --replace, --allow-empty, --resume and --freeze do not go with it"
        )
    async with _source(src) as (blocks, total), open_store(store) as opened, _made(opened):
        sink = opened.import_events(
            byte_offset=byte_offset,
            maintenance_mode=MANUAL,
            ignore_unknown_keys=options["ignore_unknown_keys"],
        )
        with Meter("importing", total) as meter:
            try:
                report = await pipeline(blocks, meter, _skipping(byte_offset), sink)
            except (EventferryError, asyncio.CancelledError):
                say(f"{sink.saved_events_count:,} events are in; go on with --byte-offset {sink.byte_offset}")
                raise
        _tell(report, meter.seconds, as_json=options["as_json"])


def _skipping(count: int) -> Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]:
    """A transform that leaves the first bytes out."""

    async def skip(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        left = count
        async for block in blocks:
            if left < len(block):
                yield block[left:]
            left = max(left - len(block), 0)
        if left:
            raise EventferryError(f"--byte-offset {count} lies behind the end of the input")

    return skip


def _tell(report: eventferry.StreamReport, seconds: float, *, as_json: bool) -> None:
    if as_json:
        _print_json({"imported": report.imported, "byteOffset": report.byte_offset})
    else:
        say(f"imported {rate(report.imported, seconds)}")


# incremental imports

_older = click.option(
    "--older",
    type=click.Choice(OLDER),
    default="skip",
    show_default=True,
    help="What becomes of events older than the store's latest.",
)


@cli.command("incremental-import")
@click.argument("src")
@click.argument("store", type=STORE)
@_older
@click.option("--dry-run", is_flag=True, help="Change nothing, only report.")
@_ignore_unknown
@_json
def incremental_import(
    src: str, store: str, older: Any, dry_run: bool, ignore_unknown_keys: bool, as_json: bool
) -> None:
    """Import what a store lacks, from lines or one JSON array; a missing store is made."""

    async def work() -> tuple[eventferry.ImportReport, float]:
        async with _source(src) as (blocks, total), _target(store, dry_run=dry_run) as opened:
            with Meter("importing", total) as meter:
                report = await opened.incremental_import(
                    meter(blocks), older=older, dry_run=dry_run, ignore_unknown_keys=ignore_unknown_keys
                )
                return report, meter.seconds

    report, seconds = _run(work())
    _tell_merged(report, seconds, as_json=as_json, dry_run=dry_run)


@asynccontextmanager
async def _target(store: str, *, dry_run: bool) -> AsyncIterator[EventStore]:
    """The store to merge into; a missing one is made, but for a dry run an empty one stands in for it."""
    async with open_store(store) as opened:
        if not dry_run or await opened.exists():
            async with _made(opened):
                yield opened
            return
    async with open_store("sqlite://:memory:") as empty:
        await empty.init()
        yield empty


def _tell_merged(
    report: eventferry.ImportReport, seconds: float, *, as_json: bool, dry_run: bool = False
) -> None:
    if as_json:
        _print_json(report)
    else:
        seen = report.imported + report.skipped_existing + report.skipped_older
        did = "would import" if dry_run else "imported"
        say(
            f"{did} {report.imported:,}, skipped {report.skipped_existing:,} that are there; {rate(seen, seconds)}"
        )
    if report.skipped_older:
        say(
            f"warning: {report.skipped_older:,} events were skipped because they are older than the store's latest "
            "event: --older accept takes them in"
        )


@cli.group()
def incremental() -> None:
    """An incremental import in steps: begin, push, commit or rollback."""


@incremental.command()
@click.argument("store", type=STORE)
def begin(store: str) -> None:
    """Open an incremental import and print its id."""

    async def work() -> str:
        async with open_store(store) as opened:
            return await opened.begin_incremental_import()

    _print(_run(work()))


@incremental.command()
@click.argument("import_id", metavar="ID")
@click.argument("src")
@click.argument("store", type=STORE)
@click.option("--part", help="A name; pushing the same part again replaces it.")
@_ignore_unknown
def push(import_id: str, src: str, store: str, part: str | None, ignore_unknown_keys: bool) -> None:
    """Add events to the open import."""

    async def work() -> int:
        async with _source(src) as (blocks, total), open_store(store) as opened:
            with Meter("pushing", total) as meter:
                return await opened.push_incremental_import(
                    meter(blocks), import_id, part, ignore_unknown_keys=ignore_unknown_keys
                )

    say(f"pushed {_run(work()):,} events")


@incremental.command()
@click.argument("import_id", metavar="ID")
@click.argument("store", type=STORE)
@_older
@_json
def commit(import_id: str, store: str, older: Any, as_json: bool) -> None:
    """Merge the open import into the store."""

    async def work() -> tuple[eventferry.ImportReport, float]:
        async with open_store(store) as opened:
            with Meter("merging") as meter:
                return await opened.commit_incremental_import(import_id, older=older), meter.seconds

    report, seconds = _run(work())
    _tell_merged(report, seconds, as_json=as_json)


@incremental.command()
@click.argument("store", type=STORE)
def rollback(store: str) -> None:
    """Drop the open import."""

    async def work() -> None:
        async with open_store(store) as opened:
            await opened.rollback_incremental_import()

    _run(work())
    say("rolled back")


# secrets


@cli.command("export-secrets")
@click.argument("store", type=STORE)
@click.argument("dest")
@click.option("--tombstones", is_flag=True, help="Deleted secrets too.")
def export_secrets(store: str, dest: str, tombstones: bool) -> None:
    """Write secrets as lines to a file."""
    _refuse_store(dest, "secrets go to a file")

    async def work() -> int:
        async with open_store(store) as opened:
            stream = opened.export_secrets(tombstones=tombstones)
            await pipeline(stream, _destination(dest))
            return stream.exported

    say(f"exported {_run(work()):,} secrets")


@cli.command("import-secrets")
@click.argument("src")
@click.argument("store", type=STORE)
@_json
def import_secrets(src: str, store: str, as_json: bool) -> None:
    """Import secrets from lines; deleted ones stay deleted."""
    _refuse_store(src, "secrets come from a file")

    async def work() -> eventferry.SecretsReport:
        async with _source(src) as (blocks, _), open_store(store) as opened:
            report: eventferry.SecretsReport = await pipeline(blocks, opened.import_secrets())
            return report

    report = _run(work())
    if as_json:
        _print_json(report)
        return
    say(
        f"imported {report.imported:,} secrets, skipped {report.skipped_existing:,} that are there and "
        f"{report.skipped_deleted:,} that this store has deleted, deleted {report.deleted:,}"
    )


# verify and demo


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option("--content", is_flag=True, help="Compare what happened, not positions: for merged stores.")
@_json
def verify(a: str, b: str, content: bool, as_json: bool) -> None:
    """Compare two stores or exported files (or -); status 1 if they differ."""
    if a == b == "-":
        raise UsageError("only one of the two can be standard input")

    async def work() -> eventferry.VerifyReport:
        async with _source(a) as (left, _), _source(b) as (right, _):
            with Meter("comparing") as meter:
                return await eventferry.verify(meter(left), right, content=content)

    report = _run(work())
    if as_json:
        _print_json(report)
    else:
        for difference in report.differences:
            _print(_difference(difference))
        if report.equal:
            say(f"equal: {report.events:,} events")
        else:
            say(
                f"unequal: {report.events:,} and {report.other_events:,} events; {report.missing:,} missing, "
                f"{report.extra:,} extra, {report.changed:,} changed in {b}"
            )
    if not report.equal:
        sys.exit(1)


def _difference(difference: eventferry.Difference) -> str:
    fields = f" ({', '.join(difference.fields)})" if difference.fields else ""
    place = (
        ""
        if difference.thread_id is None
        else f"thread {difference.thread_id} counter {difference.thread_counter}, "
    )
    version = "" if difference.aggregate_version is None else f" version {difference.aggregate_version}"
    return (
        f"{difference.kind}{fields}: {place}{difference.aggregate_id}{version}, {difference.type} "
        f"at {_moment(difference.timestamp)}"
    )


@cli.command()
@click.argument(
    "directory", metavar="[DIR]", default="demo", type=click.Path(file_okay=False, path_type=Path)
)
def demo(directory: Path) -> None:
    """Run the main job on 664,122 real events in DIR: export, import, incremental import, verify."""
    from eventferry.demo import run_demo

    _run(run_demo(directory))


# the way out


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status. Never a traceback."""
    try:
        # Not cli.main(): that keeps a closed pipe to itself, and takes an end of file for Ctrl-C.
        with cli.make_context(
            "eventferry", sys.argv[1:] if arguments is None else list(arguments)
        ) as context:
            cli.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _interrupted()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except UsageError as error:
        say(f"eventferry: {error}")
        return 2
    except BrokenPipeError:
        # Nobody reads any more: what Python would still flush goes nowhere.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (EventferryError, OSError) as error:
        say(f"eventferry: {error}")
        return 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:
        if os.environ.get("EVENTFERRY_TRACEBACK"):
            raise
        say(
            f"eventferry: this should not happen: {type(error).__name__}: {error} "
            "(EVENTFERRY_TRACEBACK=1 shows where; please report it)"
        )
        return 1
    return 0


def _interrupted() -> int:
    say("eventferry: interrupted")
    return 130

"""The options by which another product's tables are a source, and the command sources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from eventferry.cli.commands import command, section
from eventferry.cli.options import TABLES, FileParam, MomentType, flag, json_option, option
from eventferry.cli.output import moment_text, print_json, print_line
from eventferry.cli.running import exit_unless
from eventferry.cli.terminal import counted, inform, say
from eventferry.databases import is_store
from eventferry.errors import UsageError

if TYPE_CHECKING:
    from eventferry.sources.source import ForeignExport, ForeignSource, SourcePreview, SourceReport
    from eventferry.syncing.preview import SyncPreview
    from eventferry.syncing.sync import SyncReport
    from eventferry.tabular.csv_mapping import MappedCsv

_SHOWN = 500
"""Characters of a payload that a preview shows."""

_KINDS = ("link", "snapshot", "archived", "deleted")


class MappingType(FileParam):
    """A preset, or a file with a mapping."""

    name = "preset|file.toml"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is neither; whether a preset is known is looked at when it is read."""
        if not (value.endswith(".toml") or value.replace("-", "").isalnum()):
            self.fail(
                f"{value!r} is neither a preset (see `eventferry sources`) nor a .toml file", param, ctx
            )
        return str(value)


class MomentOrMappingType(FileParam):
    """A time, for a filter; or a mapping. A preset's name is never a time."""

    name = "time|preset|file.toml"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Milliseconds since 1970, or the mapping as it is."""
        if isinstance(value, int) or value[:1].isdigit() or value[:1] in "-+":
            return MomentType(up=True).convert(value, param, ctx)
        return MappingType().convert(value, param, ctx)


foreign_details = section(
    TABLES,
    option(
        "--set tables", "NAME=TABLE", "With a mapping: another name for one of its tables.", multiple=True
    ),
    option(
        "--keep",
        None,
        "With a mapping: import rows of this kind too.",
        multiple=True,
        type=click.Choice(_KINDS),
    ),
    option(
        "--skip",
        None,
        "With a mapping: leave rows of this kind out.",
        multiple=True,
        type=click.Choice(_KINDS),
    ),
    option(
        "--payload",
        None,
        "With a mapping: what a payload holds, data and all else that is known of an event, or data alone.",
        type=click.Choice(("envelope", "data")),
        default="envelope",
    ),
    flag("--drop-metadata", "With --payload data: leave out metadata that is not empty."),
)


foreign_options = section(
    TABLES,
    option(
        "--from mapping",
        "PRESET|FILE.toml",
        "Read another product's tables by a mapping: a preset, or a file of your own.",
        type=MappingType(),
    ),
    foreign_details,
)


class Foreign(NamedTuple):
    """How another product's tables are to be read."""

    mapping: str
    options: dict[str, Any]

    @asynccontextmanager
    async def opened(self, place: str) -> AsyncIterator[ForeignSource]:
        """The source at a place. Raises UsageError where that is no database."""
        from eventferry.sources.source import open_source

        if not is_store(place):
            raise UsageError(f"--from {self.mapping} reads a database, and {place} is not one")
        async with open_source(place, self.mapping, **self.options) as source:
            yield source

    @asynccontextmanager
    async def lines(self, place: str) -> AsyncIterator[ForeignExport]:
        """Its events as lines."""
        async with self.opened(place) as source, aclosing(source.export_events()) as export:
            yield export

    def csv(self) -> MappedCsv:
        """What makes its lines of a CSV file."""
        from eventferry.tabular.csv_mapping import from_mapped_csv

        if self.options["tables"]:
            raise UsageError("--set is for the SELECT of a mapping: a CSV file has no tables")
        return from_mapped_csv(
            self.mapping, **{name: value for name, value in self.options.items() if name != "tables"}
        )

    async def tell(self, place: str, *, as_json: bool) -> None:
        """Print what the source would give; exits with 1 where something is wrong in it."""
        async with self.opened(place) as source:
            tell_preview(await source.preview(), as_json=as_json)


def tell_preview(preview: SourcePreview, *, as_json: bool) -> None:
    """Print what a source would give; exits with 1 where something is wrong in it."""
    if as_json:
        print_json(preview)
    else:
        tell_first(preview)
        inform(f"{told_events(preview)}{told_of(preview)}")
        if preview.trouble is not None:
            say(f"trouble: {preview.trouble}")
    exit_unless(preview.trouble is None)


def fields_of(preview: SourcePreview) -> dict[str, Any]:
    """A preview as a part of a result."""
    names = zip(preview.__struct_encode_fields__, preview.__struct_fields__, strict=True)
    return {key: getattr(preview, name) for key, name in names}


def tell_first(preview: SourcePreview | SyncPreview) -> None:
    """Print the first events, and how many there are of each type."""
    from eventferry.lines.payload import encode_payload

    for event in preview.first:
        payload = encode_payload(event.payload).decode()
        version = f", version {event.aggregate_version}" if event.aggregate_version else ""
        print_line(
            f"{moment_text(event.timestamp)} {event.type} of {event.aggregate_id!r}{version}: "
            f"{payload if len(payload) <= _SHOWN else payload[:_SHOWN] + '…'}"
        )
    for name, count in preview.types.items():
        print_line(f"{count:>12,} {name}")


def told_events(preview: SourcePreview | SyncPreview) -> str:
    """How many events there are, and from when to when."""
    times = ""
    if preview.first_time is not None and preview.last_time is not None:
        times = f", from {moment_text(preview.first_time)} to {moment_text(preview.last_time)}"
    return f"{counted(preview.events, 'event')}{times}"


def taken(options: dict[str, Any], mapping: str | None = None) -> Foreign | None:
    """Takes the values of `foreign_options` out of those of a command; None without a mapping. Raises UsageError for
    options that need one."""
    chosen: str | None = options.pop("mapping", mapping)
    given = {name: options.pop(name) for name in ("tables", "keep", "skip", "payload", "drop_metadata")}
    if chosen is None:
        if any(value not in ((), "envelope", False) for value in given.values()):
            raise UsageError(
                "--set, --keep, --skip, --payload and --drop-metadata need --from PRESET or --from FILE.toml"
            )
        return None
    return Foreign(chosen, given | {"tables": named(given["tables"])})


def named(given: tuple[str, ...]) -> dict[str, str]:
    """What --set says. Raises UsageError."""
    names: dict[str, str] = {}
    for each in given:
        name, equals, table = each.partition("=")
        if not (name and equals and table):
            raise UsageError(f"--set takes NAME=TABLE, not {each!r}")
        names[name] = table
    return names


def told_of(report: SourceReport | SourcePreview | SyncReport) -> str:
    """What to add to a sentence about a source's events."""
    other = f"; {report.renumbered:,} with another version than in the source" if report.renumbered else ""
    return told_left_out(report.skipped) + other


def told_left_out(skipped: dict[str, int]) -> str:
    """The rows that were left out, to be added to a sentence."""
    return "".join(f"; {counted(count, f'{kind} row')} left out" for kind, count in skipped.items())


@command()
@json_option
def sources(as_json: bool) -> None:
    """List the presets: whose event tables can be read with --from."""
    from eventferry.sources.mapping import presets

    found = presets()
    if as_json:
        keys = ("name", "about", "checked", "tables")
        told = [
            {key: getattr(each, key) for key in keys} | {"databases": sorted(each.select)} for each in found
        ]
        print_json({"sources": told})
        return
    width = max(len(each.name) for each in found)
    for each in found:
        print_line(f"{each.name:<{width}}  {each.about} ({_CHECKED[each.checked]})")
    inform("--from FILE.toml reads any other table; docs/mapping.md says how to write one")


_CHECKED = {
    "store": "tested with stores that it wrote itself",
    "schema": "tested with tables of its schema",
    "own": "",
}

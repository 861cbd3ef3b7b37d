"""Types of arguments (stores, times), and the options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from eventferry.cli.commands import Option, section
from eventferry.cli.configuration import is_named, named_stores, url_named
from eventferry.clock import milliseconds_of
from eventferry.databases import is_broken_url, is_store, without_password
from eventferry.errors import UsageError
from eventferry.targets import PRODUCTS

if TYPE_CHECKING:
    from eventferry.lines.end_mark import CheckEnd

Command = TypeVar("Command", bound=Callable[..., Any])


if TYPE_CHECKING:  # generic for the type checker, and in newer versions of click only
    StrParam = click.ParamType[str]
    IntParam = click.ParamType[int]
else:
    StrParam = IntParam = click.ParamType


class WholeNumber(click.IntRange):
    """A whole number within bounds, and one that every database takes. click calls it an "integer range" where a word
    is none."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is too large; the help need not say how large that is."""
        from eventferry.lines.limits import MAX_SAFE_INTEGER

        number = super().convert(value, param, ctx)
        if number > MAX_SAFE_INTEGER:
            self.fail(f"{value} is more than {MAX_SAFE_INTEGER}", param, ctx)
        return number


class Seconds(click.FloatRange):
    """A number of seconds that can be waited for."""

    name = "number of seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is too long, and what is no number."""
        seconds = super().convert(value, param, ctx)
        if not seconds <= _MAX_SECONDS:  # nan is neither less nor more
            self.fail(f"{value} is not a number of seconds up to {_MAX_SECONDS}", param, ctx)
        return seconds


_MAX_SECONDS = 2_000_000
"""The system takes milliseconds that fit into 32 bits, which are some more."""


DEFAULT_LIMIT = 1000

EVENTS = "Which events"
CHANGES = "Changes on the way"
TABLES = "Another product's tables"
FILE = "The file"
"""Sections of the help."""


def shown(place: str) -> str:
    """An argument as a message may repeat it: the name where a store was given by its name, and without anything that
    may be a password."""
    if (context := click.get_current_context(silent=True)) and place in (names := _names_in(context)):
        return names[place]
    before, at, host = place.rpartition("@")
    if "://" in place or not at or ":" not in before:
        return without_password(place)
    return f"…@{host}"  # a URL without scheme, or without the slashes after it


def _names_in(context: click.Context) -> dict[str, str]:
    """The names that this command was given for stores, by their URLs."""
    names: dict[str, str] = context.meta.setdefault(f"{__name__}.names", {})
    return names


def _url_given(name: str, context: click.Context | None) -> str | None:
    """The URL of a store by its name, which messages then repeat."""
    url = url_named(name)
    if url is not None and context is not None:
        _names_in(context)[url] = name
    return url


def refuse_broken_url(place: str) -> None:
    """Refuse a mistyped store URL, which would be taken for a file name: it may hold a password."""
    if is_broken_url(place):
        raise UsageError(
            f"{shown(place)!r} is neither a file nor a store URL, "
            "which looks like scheme://user:password@host/database"
        )


class FileParam(StrParam):
    """What may be the path of a file."""


class PlaceType(FileParam):
    """A path that is checked where it is opened.

    Args:
        name: what it is: `file` and `dir` are completed by a shell.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The shell knows the files."""
        return [CompletionItem(incomplete, type=self.name)]


class StoreType(FileParam):
    """A store: a URL, a path with an ending of SQLite files, or a name in the configuration file."""

    name = "store"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The URL or path. Refuse anything else."""
        if is_store(value) or _is_completing(ctx):
            return str(value)
        url = _url_given(value, ctx)
        if url is None:
            self.fail(
                f"{shown(value)!r} is not a store. A store is a URL such as sqlite:///path or "
                "postgresql://host/database, a path ending in .db, .sqlite or .sqlite3, or a name in the "
                "configuration file",
                param,
                ctx,
            )
        return url

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names in the configuration file, and files."""
        return stores_like(incomplete)


class SourceType(FileParam):
    """Where events come from: a store, or a file."""

    name = "source"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The URL of a store in the configuration file; anything else as it is. Refuse what may be two things."""
        url = None if is_store(value) or _is_completing(ctx) else _url_given(value, ctx)
        if url is not None and os.path.lexists(value):
            self.fail(
                f"{value!r} is a file here, and a store in the configuration file: write ./{value} for the file",
                param,
                ctx,
            )
        return url or str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names in the configuration file, and files."""
        return stores_like(incomplete)


class RepositoryType(PlaceType):
    """A backup repository: a folder, or the URL of a bucket."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As it is. Refuse the name of a store, unless there is a folder of this name."""
        place = str(value)
        if not _is_completing(ctx) and not os.path.lexists(place) and is_named(place):
            self.fail(
                f"{place!r} is a store in the configuration file, and a repository is a folder: write ./{place} for a "
                "folder of this name",
                param,
                ctx,
            )
        return place


def refuse_overwriting(path: str, *names: str) -> None:
    """Refuse to write a file that the command reads, or writes for another purpose: that would be lost. `names` are the
    parameter that gives the path, and others that are not looked at. Raises UsageError."""
    context = click.get_current_context()
    for other in context.command.params:
        if other.name in names or not isinstance(other.type, FileParam | click.Path):
            continue
        given = context.params.get(str(other.name))
        for place in given if isinstance(given, tuple) else (given,):
            if isinstance(place, str | Path) and _is_same_file(path, place):
                raise UsageError(
                    f"{path} cannot be written: it is what {other.get_error_hint(context)} names"
                )


def _is_same_file(path: str, other: str | Path) -> bool:
    """Whether two paths lead to one file, which may not be there yet. Devices and pipes keep nothing to be lost."""
    try:
        return os.path.samefile(path, other) and os.path.isfile(path)
    except FileNotFoundError:
        return os.path.realpath(path) == os.path.realpath(other)
    except (OSError, ValueError):  # no path: whoever opens it says so
        return False


def _is_completing(context: click.Context | None) -> bool:
    """Whether a shell completes another word: then no store is opened, and no password is asked for."""
    return context is not None and context.resilient_parsing


def stores_like(incomplete: str) -> list[CompletionItem]:
    """The names in the configuration file that begin like this, and files."""
    try:
        names = named_stores()
    except UsageError:  # a shell that completes a word has no place for it
        names = {}
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [CompletionItem(incomplete, type="file"), *found]  # behind names, bash would drop them


class MomentType(IntParam):
    """A time: ISO 8601 (UTC if it has no time zone), or milliseconds since 1970.

    Args:
        up: round up to whole milliseconds, so that no event before that time matches "from"; otherwise down.
    """

    name = "time"

    def __init__(self, *, up: bool) -> None:
        self._up = up

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since 1970."""
        from eventferry.lines.limits import MAX_SAFE_INTEGER

        if isinstance(value, int):
            return value
        try:
            if value.isascii() and value.removeprefix("-").isdigit():
                if abs(int(value)) > MAX_SAFE_INTEGER:
                    raise ValueError
                return int(value)
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is not a time such as 2026-01-31T12:00:00Z, nor milliseconds since 1970",
                param,
                ctx,
            )
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return milliseconds_of(moment, value, up=self._up)


STORE = StoreType()
SOURCE = SourceType()
DESTINATION = PlaceType("file")
REPOSITORY = RepositoryType("dir")


def option(names: str, metavar: str | None, help: str, **more: Any) -> Callable[[Command], Command]:
    """An option with a value, whose default is shown. `names` are those of `click.option`."""
    more.setdefault("show_default", "default" in more)
    if metavar in ("FILE", "DIR"):
        more.setdefault("type", PlaceType(metavar.lower()))
    return click.option(*names.split(), cls=Option, metavar=metavar, help=help, **more)


def flag(names: str, help: str) -> Callable[[Command], Command]:
    """An option without a value."""
    return click.option(*names.split(), cls=Option, is_flag=True, help=help)


def choice(names: str, help: str, *, default: bool | None) -> Callable[[Command], Command]:
    """An option without a value, and the one that says the opposite: `--this/--that`."""
    return click.option(names, cls=Option, default=default, help=help)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options, for commands that have all of them."""

    def add(command: Command) -> Command:
        for each in reversed(options):
            command = each(command)
        return command

    return add


_type = option("--type types", "TYPE", "Only events of this type (repeatable).", multiple=True)
_aggregates = together(
    option("--aggregate-id ids", "ID", "Only events of this aggregate (repeatable).", multiple=True),
    option(
        "--aggregate-prefix prefixes",
        "PREFIX",
        "Only events of aggregates whose id begins with this (repeatable).",
        multiple=True,
    ),
)
included_kinds = section(EVENTS, _type, _aggregates)
kinds = section(
    EVENTS,
    _type,
    option("--exclude-type excluded", "TYPE", "No events of this type (repeatable).", multiple=True),
    _aggregates,
)
until_option = section(
    EVENTS,
    option("--until finish", None, "Only events at or before this time.", type=MomentType(up=False)),
)
filters_but_from = section(
    EVENTS,
    kinds,
    until_option,
    option("--cursor", "CURSOR", "Start at this cursor; not with --from or --until."),
    option("--since", "BOOKMARK", "Start at this bookmark; not with --from or --until."),
)
filters = section(
    EVENTS,
    option("--from start", None, "Only events at or after this time.", type=MomentType(up=True)),
    filters_but_from,
)


def kinds_of(
    types: tuple[str, ...], excluded: tuple[str, ...], ids: tuple[str, ...], prefixes: tuple[str, ...]
) -> dict[str, Any]:
    """The values of `kinds` as arguments of the library."""
    return {
        "event_types": types or None,
        "exclude_types": excluded or None,
        "aggregate_ids": ids or None,
        "aggregate_prefixes": prefixes or None,
    }


def filter_of(
    start: int | None, finish: int | None, cursor: str | None, since: str | None, **kinds: tuple[str, ...]
) -> dict[str, Any]:
    """The values of `filters` as arguments of an export. Raises UsageError for two beginnings."""
    by_time = start is not None or finish is not None
    if [cursor is not None, since is not None, by_time].count(True) > 1:
        raise UsageError("--cursor, --since, and --from or --until cannot be combined")
    times = {"start_time": start, "finish_time": finish}
    return kinds_of(**kinds) | times | {"cursor": cursor, "since": since}


archived_option = option(
    "--archived",
    None,
    "What to print for archived events: the marker in place of the payload, or nothing.",
    type=click.Choice(("marker", "skip")),
    default="marker",
)
bookmark_option = flag(
    "--bookmark with_bookmark",
    "Print the bookmark behind the last event that was read, from which --since goes on; --json always does.",
)
json_option = flag("--json as_json", "Print the result as JSON.")
ignore_unknown_keys_option = flag(
    "--ignore-unknown-keys", "Drop unknown keys of events instead of refusing them."
)
format_option = section(
    FILE,
    option(
        "--format file_format",
        None,
        "Format of the file.",
        type=click.Choice(("jsonl", "csv", "parquet", "cloudevents")),
        default="jsonl",
    ),
)
aggregate_attribute_option = section(
    FILE,
    option(
        "--aggregate-attribute",
        "NAME",
        "With --format cloudevents: the attribute that is the aggregate of other programs' events.  "
        "[default: subject]",
    ),
)
to_option = option(
    "--to product",
    "PRODUCT",
    "The target is a database of this product, whose own empty table is filled: message-db or pyeventsourcing. "
    "Without --from, --set gives its options.",
    type=click.Choice(tuple(PRODUCTS)),
)
processes_option = option(
    "--jobs",
    "N",
    "Import with this many processes, each with a connection; for files of JSON Lines, into a store on a server.",
    type=WholeNumber(1),
    default=1,
)
copying_option = option(
    "--jobs",
    "N",
    "Copy with this many processes into a store on a server. Into SQLite: read with this many connections.",
    type=WholeNumber(1),
    default=1,
)
jobs_option = option(
    "--jobs",
    "N",
    "Read the store with this many connections; useful with servers.",
    type=WholeNumber(1),
    default=1,
)
replacing_options = together(
    flag("--replace", "Allow replacing the events of a store."),
    flag("--allow-empty", "Allow an input without events, which empties the store."),
    flag("--resume", "Continue an interrupted import of the same source."),
    flag("--freeze", "Freeze the store during the import."),
    ignore_unknown_keys_option,
    json_option,
)
merging_options = together(
    option(
        "--older",
        None,
        "What to do with events older than the store's latest event.",
        type=click.Choice(("skip", "reject", "accept")),
        default="skip",
    ),
    flag("--fail-if-skipped", "Exit with status 3 if older events were skipped."),
)

end_options = section(
    FILE,
    flag("--expect-end", "Refuse an input without an end mark (see export --end-mark)."),
    flag("--filtered", "Programs on the way filter or change events: of an end mark, only see that it came."),
)


def end_of(options: dict[str, Any]) -> CheckEnd | None:
    """Takes the values of `end_options` out of those of a command: how an end mark is checked; None as usual."""
    from eventferry.lines.end_mark import CheckEnd

    required, filtered = options.pop("expect_end", False), options.pop("filtered", False)
    return CheckEnd(required=required, filtered=filtered) if required or filtered else None

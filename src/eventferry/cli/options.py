"""Types of arguments (stores, times), and the options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eventferry.databases import is_store, without_password
from eventferry.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


if TYPE_CHECKING:  # generic for the type checker, and in newer versions of click only
    StrParam = click.ParamType[str]
    IntParam = click.ParamType[int]
else:
    StrParam = IntParam = click.ParamType


DEFAULT_LIMIT = 1000


def shown(place: str) -> str:
    """An argument as a message may repeat it: without anything that may be a password."""
    before, at, host = place.rpartition("@")
    if "://" in place or not at or ":" not in before:
        return without_password(place)
    return f"…@{host}"  # a URL without scheme, or without the slashes after it


_LOST_SLASHES = re.compile(r"(postgres(ql)?|mysql|mariadb|sqlite)(:|/)")


def refuse_broken_url(place: str) -> None:
    """Refuse a mistyped store URL, which would be taken for a file name: it may hold a password."""
    is_meant = _LOST_SLASHES.match(place) or (shown(place) != place and not os.path.isdir(Path(place).parent))
    if is_meant and not is_store(place) and not os.path.lexists(place):
        raise UsageError(
            f"{shown(place)!r} is neither a file nor a store URL, "
            "which looks like scheme://user:password@host/database"
        )


class StoreType(StrParam):
    """A store: a URL, or a path with an ending of SQLite files."""

    name = "store"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse anything else."""
        if not is_store(value):
            self.fail(
                f"{shown(value)!r} is not a store. A store is a URL such as sqlite:///path or "
                "postgresql://host/database, or a path ending in .db, .sqlite or .sqlite3",
                param,
                ctx,
            )
        return str(value)


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
        since = moment - _EPOCH
        return -(-since // _MILLISECOND) if self._up else since // _MILLISECOND


STORE = StoreType()


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def kinds(command: Command) -> Command:
    """Add the filters by type and by aggregate."""
    for option in reversed(
        (
            click.option(
                "--type",
                "types",
                multiple=True,
                metavar="TYPE",
                help="Only events of this type (repeatable).",
            ),
            click.option(
                "--aggregate-id",
                "ids",
                multiple=True,
                metavar="ID",
                help="Only events of this aggregate (repeatable).",
            ),
        )
    ):
        command = option(command)
    return command


def filters(command: Command) -> Command:
    """Add the filters of `events` and `export`."""
    for option in reversed(
        (
            click.option(
                "--from", "start", type=MomentType(up=True), help="Only events at or after this time."
            ),
            click.option(
                "--until", "finish", type=MomentType(up=False), help="Only events at or before this time."
            ),
            click.option(
                "--cursor", metavar="CURSOR", help="Start at this cursor; not with --from or --until."
            ),
            click.option(
                "--since", metavar="BOOKMARK", help="Start at this bookmark; not with --from or --until."
            ),
        )
    ):
        command = option(command)
    return kinds(command)


def filter_of(
    types: tuple[str, ...],
    ids: tuple[str, ...],
    start: int | None,
    finish: int | None,
    cursor: str | None,
    since: str | None,
) -> dict[str, Any]:
    """The values of `filters` as arguments of an export. Raises UsageError for two beginnings."""
    by_time = start is not None or finish is not None
    if [cursor is not None, since is not None, by_time].count(True) > 1:
        raise UsageError("--cursor, --since, and --from or --until cannot be combined")
    return {
        "event_types": types or None,
        "aggregate_ids": ids or None,
        "start_time": start,
        "finish_time": finish,
        "cursor": cursor,
        "since": since,
    }


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


ignore_unknown_keys_option = click.option(
    "--ignore-unknown-keys", is_flag=True, help="Drop unknown keys of events instead of refusing them."
)


jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    default=1,
    show_default=True,
    help="Read the store with this many connections; useful with servers.",
)


def replacing_options(command: Command) -> Command:
    """Add the options of `import` and `copy`."""
    for option in reversed(
        (
            click.option("--replace", is_flag=True, help="Allow replacing the events of a store."),
            click.option(
                "--allow-empty", is_flag=True, help="Allow an input without events, which empties the store."
            ),
            click.option("--resume", is_flag=True, help="Continue an interrupted import of the same source."),
            click.option("--freeze", is_flag=True, help="Freeze the store during the import."),
            ignore_unknown_keys_option,
            json_option,
        )
    ):
        command = option(command)
    return command


fail_if_skipped_option = click.option(
    "--fail-if-skipped", is_flag=True, help="Exit with status 3 if older events were skipped."
)


older_option = click.option(
    "--older",
    type=click.Choice(("skip", "reject", "accept")),
    default="skip",
    show_default=True,
    help="What to do with events older than the store's latest event.",
)

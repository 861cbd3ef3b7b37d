"""What commands take: stores, moments, filters, and the options that several of them share."""

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
    """An argument as it may be repeated: nothing of it that may be a password."""
    before, at, host = place.rpartition("@")
    if "://" in place or not at or ":" not in before:
        return without_password(place)
    return f"…@{host}"  # a URL without its scheme, or with a scheme that lacks its slashes


_LOST_SLASHES = re.compile(r"(postgres(ql)?|mysql|mariadb|sqlite)(:|/)")


def refuse_broken_url(place: str) -> None:
    """Refuse what is meant as the URL of a store and would be taken for the name of a file: it may hold a password."""
    is_meant = _LOST_SLASHES.match(place) or (shown(place) != place and not os.path.isdir(Path(place).parent))
    if is_meant and not is_store(place) and not os.path.lexists(place):
        raise UsageError(
            f"{shown(place)!r} is neither a file nor the URL of a store: that is "
            "scheme://user:password@host/database, with both slashes"
        )


class StoreType(StrParam):
    """A store: a URL, or a path that ends as a SQLite file does."""

    name = "store"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no store."""
        if not is_store(value):
            self.fail(
                f"{shown(value)!r} is no store: that is a URL such as sqlite:///path or "
                "postgresql://host/database, or a path ending in .db, .sqlite or .sqlite3",
                param,
                ctx,
            )
        return str(value)


class MomentType(IntParam):
    """A moment: ISO 8601 (UTC where it names no zone), or milliseconds since 1970.

    Args:
        up: whether a moment between two milliseconds is the later one: events from then on are not before it.
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
            self.fail(f"{value!r} is no time: 2026-01-31T12:00:00Z, or milliseconds since 1970", param, ctx)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        since = moment - _EPOCH
        return -(-since // _MILLISECOND) if self._up else since // _MILLISECOND


STORE = StoreType()


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def filters(command: Command) -> Command:
    """The filters of `events` and `export`."""
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
            click.option("--from", "start", type=MomentType(up=True), help="Only from this time on."),
            click.option(
                "--until", "finish", type=MomentType(up=False), help="Only up to and including this time."
            ),
            click.option("--cursor", help="Go on from here."),
        )
    ):
        command = option(command)
    return command


def filter_of(
    types: tuple[str, ...], ids: tuple[str, ...], start: int | None, finish: int | None, cursor: str | None
) -> dict[str, Any]:
    """What `filters` gave, as the arguments of an export. Raises UsageError for a cursor beside times."""
    if cursor is not None and (start is not None or finish is not None):
        raise UsageError("--cursor does not go together with --from and --until")
    return {
        "event_types": types or None,
        "aggregate_ids": ids or None,
        "start_time": start,
        "finish_time": finish,
        "cursor": cursor,
    }


json_option = click.option("--json", "as_json", is_flag=True, help="The report as JSON on standard output.")


ignore_unknown_keys_option = click.option(
    "--ignore-unknown-keys", is_flag=True, help="Drop keys that an event does not have, instead of refusing."
)


jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Read the store with so many connections; pays on servers.",
)


def replacing_options(command: Command) -> Command:
    """The options of `import` and `copy`."""
    for option in reversed(
        (
            click.option("--replace", is_flag=True, help="Replace the events of a store that holds some."),
            click.option("--allow-empty", is_flag=True, help="Let an input without events empty the store."),
            click.option("--resume", is_flag=True, help="Go on where an interrupted import was."),
            click.option("--freeze", is_flag=True, help="Keep writers out meanwhile."),
            ignore_unknown_keys_option,
            json_option,
        )
    ):
        command = option(command)
    return command


fail_if_skipped_option = click.option(
    "--fail-if-skipped", is_flag=True, help="Status 3 where older events were skipped; what came in stays."
)


older_option = click.option(
    "--older",
    type=click.Choice(("skip", "reject", "accept")),
    default="skip",
    show_default=True,
    help="What becomes of events older than the store's latest.",
)

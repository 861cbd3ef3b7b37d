"""The commands stats, tail, show, search, trace, diff, find-poison and mcp."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from eventferry import open_store
from eventferry.cli.checks import told_of
from eventferry.cli.commands import command, section
from eventferry.cli.comparing import TwoSources, comparing_options
from eventferry.cli.options import (
    EVENTS,
    SOURCE,
    STORE,
    MomentType,
    Seconds,
    WholeNumber,
    flag,
    json_option,
    kinds,
    kinds_of,
    option,
    shown,
    until_option,
)
from eventferry.cli.output import moment_text, print_data, print_line
from eventferry.cli.running import cancellable, exit_unless
from eventferry.cli.tables import is_shown, print_table, width
from eventferry.cli.terminal import Extent, Meter, counted, inform, is_watched, say
from eventferry.errors import EventferryError, UsageError
from eventferry.looking.encoding import encoded, indented

if TYPE_CHECKING:
    from eventferry import Change, Event, EventStore, LargeEvent, Mask, SideBySide, Stats

_PAGE = 1000  # events that come at a time while a tail is followed
_STEP = 20_000  # events of a search between two looks at the progress
_PLACE = re.compile(r"([0-9]{1,3}):([0-9]{1,15})")

_filters = section(
    EVENTS,
    option("--from start", None, "Only events at or after this time.", type=MomentType(up=True)),
    until_option,
    kinds,
)
_masks = section(
    "Masks",
    option(
        "--mask masked",
        "POINTER",
        "Mask what stands there in payloads, as /customer/email (repeatable).",
        multiple=True,
    ),
    flag("--show-secrets", "Do not mask members such as password or token."),
)
_steps = section(
    "How far",
    option("--limit", "N", "Stop after so many matches.", type=WholeNumber(1), default=100),
    option("--scan", "N", "Stop after so many events were looked at.  [default: all]", type=WholeNumber(1)),
    option("--cursor", "CURSOR", "Go on from here; printed where a search ends early."),
)


def _filters_of(start: int | None, finish: int | None, **kinds: tuple[str, ...]) -> dict[str, Any]:
    return kinds_of(**kinds) | {"start_time": start, "finish_time": finish}


def _mask(masked: tuple[str, ...], show_secrets: bool) -> Mask:
    from eventferry import Mask

    return Mask(masked, secrets=not show_secrets)


@command()
@click.argument("store", type=STORE)
@_filters
@option(
    "--by span",
    None,
    "Length of the spans in which events over time are counted.",
    type=click.Choice(("second", "minute", "hour", "day", "week")),
)
@option(
    "--top", "N", "List at most so many types, aggregates and large events.", type=WholeNumber(1), default=10
)
@option("--plot", "FILE", "Also draw events over time into this SVG file.")
@json_option
@cancellable
async def stats(
    store: str, span: str | None, top: int, plot: str | None, as_json: bool, **filters: Any
) -> None:
    """Count what is in a store: types, aggregates, events over time, the largest payloads.

    The database counts. Sizes are about those of the payloads.
    """
    async with open_store(store) as opened:
        found = await opened.stats(span=span, top=top, **_filters_of(**filters))
    if plot is not None:
        from eventferry import pipeline
        from eventferry.lines.files import FileSink
        from eventferry.looking.plots import svg

        await pipeline([svg(found.timeline).encode()], FileSink(plot))
    if as_json:
        print_data(encoded(found))
    else:
        _print_stats(found)


def _print_stats(found: Stats) -> None:
    from eventferry.looking.plots import sparkline

    types, total = found.types, found.types.events
    if types.first_timestamp is None or types.last_timestamp is None:
        print_line("no events")
        return
    print_line(
        f"{counted(total, 'event')} of {counted(types.count, 'type')} and "
        f"{counted(found.aggregates.count, 'aggregate')}; payloads of {types.bytes:,} bytes"
    )
    print_line(f"from {moment_text(types.first_timestamp)} to {moment_text(types.last_timestamp)}")
    if found.events_per_day is not None and found.busiest is not None:
        print_line(
            f"{found.events_per_day:,.1f} events a day on average; "
            f"at most {found.busiest.events:,} in {_length(found.timeline.span)}, "
            f"from {moment_text(found.busiest.start)}"
        )
    print_line(sparkline(found.timeline, min(width() - 1, 120)))
    print_line("")
    print_table(
        "Types",
        ("events", "bytes", "largest", "last", "type"),
        [
            (each.events, each.bytes, each.largest, _when(each.last_timestamp), each.type)
            for each in types.types
        ],
    )
    print_table(
        "Aggregates",
        ("events", "aggregate"),
        [(each.events, each.aggregate_id) for each in found.aggregates.aggregates],
    )
    print_table(
        "Largest payloads", ("bytes", "position", "type", "aggregate", "version"), map(_large, found.largest)
    )


def _when(timestamp: int | None) -> str:
    return "" if timestamp is None else moment_text(timestamp)


def _large(event: LargeEvent) -> tuple[object, ...]:
    place = f"{event.thread_id}:{event.thread_counter}"
    return event.bytes, place, event.type, event.aggregate_id, event.aggregate_version


def _length(span: int) -> str:
    for name, length in (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000)):
        if span % length == 0:
            return counted(span // length, name)
    return f"{span} ms"


@command()
@click.argument("store", type=STORE)
@option("-n count", "N", "How many events.", type=WholeNumber(0), default=10)
@flag("--follow", "Go on with events that are saved or imported, until SIGTERM or Ctrl-C.")
@kinds
@_masks
@json_option
@cancellable
async def tail(
    store: str,
    count: int,
    follow: bool,
    masked: tuple[str, ...],
    show_secrets: bool,
    as_json: bool,
    **kinds: tuple[str, ...],
) -> None:
    """Show the last events, each on a line; with --json as JSON Lines. Secrets in payloads are masked."""
    from eventferry.lines.damaged import seen_events
    from eventferry.reading.arguments import filter_of
    from eventferry.reading.following import FollowStream

    mask, only = _mask(masked, show_secrets), kinds_of(**kinds)
    async with open_store(store) as opened:
        page = await opened.tail(max(count, 1), **only)
        _print_events(page.events[-count:] if count else [], mask, as_json=as_json)
        if follow:
            follower = opened._follower(page.bookmark, filter_of(**only), _PAGE, seen_events)
            async for more in FollowStream(follower, None):
                _print_events(more.events, mask, as_json=as_json)


def _print_events(events: Iterable[Event], mask: Mask, *, as_json: bool) -> None:
    for event in map(mask.event, events):
        if as_json:
            print_data(encoded(event))
        else:
            print_line(_cut(f"{_head(event)}  {_body(event)}"))


def _head(event: Event) -> str:
    return (
        f"{moment_text(event.timestamp)}  {event.thread_id}:{event.thread_counter}  {event.type}  "
        f"{event.aggregate_id} v{event.aggregate_version}"
    )


def _shown(value: Any) -> str:
    return encoded(value).decode()


def _body(event: Event, payload: Callable[[Any], str] = _shown) -> str:
    """The payload of an event, on one line or as given; of a damaged one, what is wrong with it and its text."""
    damage = getattr(event, "damage", None)
    return payload(event.payload) if damage is None else f"damaged: {damage}: {event.payload}"


def _cut(text: str) -> str:
    """A line that fits the terminal; all of it elsewhere."""
    room = width()
    return text if not is_shown() or len(text) <= room else f"{text[: room - 1]}…"


@command()
@click.argument("store", type=STORE)
@click.argument("what")
@flag("--aggregate", "WHAT is an aggregateId, even if it looks like a position.")
@option("--from-version", "N", "Begin with this version.", type=WholeNumber(1), default=1)
@option("--limit", "N", "Show at most so many events.", type=WholeNumber(1), default=100)
@_masks
@json_option
@cancellable
async def show(
    store: str,
    what: str,
    aggregate: bool,
    from_version: int,
    limit: int,
    masked: tuple[str, ...],
    show_secrets: bool,
    as_json: bool,
) -> None:
    """Show the history of an aggregate, or the event at a position such as 17:4.

    In a history, each event stands with what differs from the event of the same type before it. Secrets in payloads are
    masked.
    """
    mask = _mask(masked, show_secrets)
    place = None if aggregate else _PLACE.fullmatch(what)
    async with open_store(store) as opened:
        if place is not None:
            event = await opened.event_at(int(place[1]), int(place[2]))
            if event is None:
                raise EventferryError(
                    f"there is no event at {what}; an aggregate of that name is shown with --aggregate"
                )
            _print_event(mask.event(event), as_json=as_json)
            return
        history = await opened.history(what, from_version, limit)
    if not history.entries:
        behind = "" if from_version == 1 else f" from version {from_version} on"
        raise EventferryError(f"there is no event of an aggregate {what!r}{behind}")
    from msgspec.structs import replace

    history = replace(history, entries=list(map(mask.entry, history.entries)))
    if as_json:
        print_data(encoded(history))
        return
    for entry in history.entries:
        print_line(_head(entry.event))
        print_line(_cut(f"  {_body(entry.event)}"))
        for change in entry.changes:
            print_line(_cut(f"  {_told(change)}"))
    if history.next_version is not None:
        say(f"continue with --from-version {history.next_version}")


def _print_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        print_data(encoded(event))
        return
    print_line(_head(event))
    for line in _body(event, indented).split("\n"):
        print_line(f"  {line}")


def _told(change: Change) -> str:
    path = change.path or "the payload"
    if change.kind == "added":
        return f"+ {path}: {_shown(change.after)}"
    if change.kind == "removed":
        return f"- {path}: {_shown(change.before)}"
    return f"~ {path}: {_shown(change.before)} → {_shown(change.after)}"


@command()
@click.argument("store", type=STORE)
@click.argument("text", required=False)
@option(
    "--path",
    "POINTER[=VALUE]",
    "What stands there in payloads, as /customer/city=Oslo; without a value, anything.",
)
@_steps
@_filters
@_masks
@json_option
@cancellable
async def search(
    store: str,
    text: str | None,
    path: str | None,
    limit: int,
    scan: int | None,
    cursor: str | None,
    masked: tuple[str, ...],
    show_secrets: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Search events for a text, in any case, or for a value in a place of their payloads.

    It looks at the events one after another. Secrets in payloads are searched, and masked.
    """
    if text is None and path is None:
        raise UsageError("give a TEXT, or --path")
    wanted = {"text": text} | _path_of(path)
    mask, only = _mask(masked, show_secrets), _filters_of(**filters)
    tell = (lambda _: None) if as_json else partial(_print_events, mask=mask, as_json=False)
    async with open_store(store) as opened:
        walk = _Walk(opened, scan, cursor)
        found: list[Event] = await walk.find(partial(opened.search, **wanted), limit, only, tell)
    if as_json:
        print_data(encoded({"events": list(map(mask.event, found))} | walk.result))
    else:
        inform(f"{counted(len(found), 'event')} found among {walk.scanned:,}{walk.rest}")


def _path_of(given: str | None) -> dict[str, Any]:
    """A pointer and a value."""
    from eventferry.looking.searching import typed_value

    if given is None:
        return {}
    path, has_value, text = given.partition("=")
    return {"path": path, "value": typed_value(text)} if has_value else {"path": path}


class _Walk:
    """A search that goes on until its end, in steps between which the progress is shown."""

    def __init__(self, store: EventStore, scan: int | None, cursor: str | None) -> None:
        self._store = store
        self._most = scan
        self._is_end = False
        self.cursor = cursor
        self.scanned = 0

    async def meter(self, title: str, only: dict[str, Any]) -> Meter:
        total = self._most
        if total is None and is_watched() and self.cursor is None and not any(only.values()):
            total = (await self._store.describe(estimate_counts=True)).event_count
        return Meter(title, Extent(total, "event"))

    async def find(
        self,
        look: Callable[..., Awaitable[Any]],
        limit: int,
        only: dict[str, Any],
        tell: Callable[[Any], None] = lambda _: None,
    ) -> list[Any]:
        """What matches, `limit` at most; `tell` is called with what each step has found."""
        found: list[Any] = []
        with await self.meter("searching", only) as meter:
            while self.step and len(found) < limit:
                page = await look(cursor=self.cursor, limit=limit - len(found), scan=self.step, **only)
                self.went(page.scanned, page.cursor, page.is_end)
                meter.show(self.scanned)
                tell(page.events)
                found += page.events
        return found

    @property
    def step(self) -> int:
        """How many events to look at next; 0 where it ends."""
        left = _STEP if self._most is None else min(_STEP, self._most - self.scanned)
        return 0 if self._is_end else left

    def went(self, scanned: int, cursor: str, is_end: bool) -> None:
        self.scanned += scanned
        self.cursor = cursor
        self._is_end = is_end

    @property
    def result(self) -> dict[str, Any]:
        return {"scanned": self.scanned, "isEnd": self._is_end, "cursor": self.cursor}

    @property
    def rest(self) -> str:
        return "" if self._is_end else f"; go on with --cursor {self.cursor}"


@command()
@click.argument("store", type=STORE)
@click.argument("correlation")
@_steps
@_filters
@_masks
@json_option
@cancellable
async def trace(
    store: str,
    correlation: str,
    limit: int,
    scan: int | None,
    cursor: str | None,
    masked: tuple[str, ...],
    show_secrets: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Show the events of a correlation, each below what caused it.

    Their metadata say the correlation id; those that have it as their own id, or as their cause's, belong to it too.
    """
    from eventferry import TracedEvent, by_cause

    mask, only = _mask(masked, show_secrets), _filters_of(**filters)
    async with open_store(store) as opened:
        walk = _Walk(opened, scan, cursor)
        found: list[TracedEvent] = await walk.find(partial(opened.trace, correlation), limit, only)
    if as_json:
        print_data(encoded({"events": list(map(mask.traced, found))} | walk.result))
        return
    for depth, each in by_cause(found):
        event = mask.event(each.event)
        print_line(_cut(f"{'  ' * depth}{_head(event)}  {_body(event)}"))
    inform(f"{counted(len(found), 'event')} found among {walk.scanned:,}{walk.rest}")


@command()
@click.argument("a", type=SOURCE)
@click.argument("b", type=SOURCE)
@comparing_options
@_masks
@json_option
@cancellable
async def diff(
    a: str, b: str, masked: tuple[str, ...], show_secrets: bool, as_json: bool, **options: Any
) -> None:
    """Show all differences between two stores or files, with the values of both sides.

    What is told of a difference, and which events are compared, is as for verify; with --json as JSON Lines. The exit
    status is 1 if there is any. Secrets in payloads are masked.
    """
    mask = _mask(masked, show_secrets)
    comparison = TwoSources.of(a, b, options)

    def tell(found: SideBySide) -> None:
        found = mask.side_by_side(found)
        if as_json:
            print_data(encoded(found))
        else:
            _print_difference(found)

    report = await comparison.report(tell)
    comparison.changing.warn()
    if not report.equal:
        say(
            f"{report.missing:,} missing in {shown(b)}, {report.extra:,} extra, {report.changed:,} changed; "
            f"{report.events:,} and {report.other_events:,} events"
        )
    exit_unless(report.equal)
    inform(f"equal: {counted(report.events, 'event')}")


def _print_difference(found: SideBySide) -> None:
    print_line(told_of(found.difference))
    for sign, event in (("A", found.event), ("B", found.other)):
        if event is None:
            continue
        if found.difference.kind != "changed":
            print_line(_cut(f"  {sign}: {_shown(event.payload)}"))
        elif found.difference.fields != ("payload",):
            print_line(_cut(f"  {sign}: {_head(event)}"))
    for change in found.changes:
        print_line(_cut(f"  {_told(change)}"))


@command("find-poison")
@click.argument("store", type=STORE)
@click.argument("function", metavar="MODULE:FUNCTION")
@option("--scan", "N", "Stop after so many events were looked at.  [default: all]", type=WholeNumber(1))
@option("--cursor", "CURSOR", "Go on from here; printed where it ends early.")
@option(
    "--timeout max_seconds",
    "SECONDS",
    "An event for which the function takes longer is refused.",
    type=Seconds(0, min_open=True),
    default=60,
)
@_filters
@_masks
@json_option
@cancellable
async def find_poison(
    store: str,
    function: str,
    scan: int | None,
    cursor: str | None,
    max_seconds: float,
    masked: tuple[str, ...],
    show_secrets: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Find the first event that a Python function refuses.

    It is given one event after another, as an eventferry.Event, in a process of its own, until it raises something,
    ends the process or does not return; then the exit status is 1. What it prints goes to standard error.
    """
    from eventferry.lines.limits import MAX_SAFE_INTEGER

    mask, only = _mask(masked, show_secrets), _filters_of(**filters)
    async with open_store(store) as opened:
        walk = _Walk(opened, scan, cursor)
        with await walk.meter("looking", only) as meter:
            found = await opened.find_poison(
                function,
                cursor=cursor,
                scan=scan or MAX_SAFE_INTEGER,
                max_seconds=max_seconds,
                tell=meter.show,
                **only,
            )
        walk.went(found.scanned, found.cursor, found.is_end)
    event = None if found.event is None else mask.event(found.event)
    if as_json:
        print_data(encoded({"event": event, "error": found.error} | walk.result))
    elif event is None:
        inform(f"none of {counted(walk.scanned, 'event')} was refused{walk.rest}")
    else:
        _print_event(event, as_json=False)
        say(f"refused: {found.error}; looked at {counted(walk.scanned, 'event')}{walk.rest}")
    exit_unless(event is None)


@command()
@click.argument("store", type=STORE)
@_masks
@cancellable
async def mcp(store: str, masked: tuple[str, ...], show_secrets: bool) -> None:
    """Let an agent look into a store, by the Model Context Protocol on standard input and output.

    It can change nothing. Answers are short, and secrets in payloads are masked.
    """
    from eventferry.looking.agents import server_of

    async with open_store(store) as opened:
        await opened.describe(estimate_counts=True)  # a store that is not there is told here
        await server_of(opened, _mask(masked, show_secrets)).run_stdio_async()

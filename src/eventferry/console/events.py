"""Events: selected ones page by page, one of them, and all of one aggregate."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from eventferry import Event
from eventferry.console.page import PageAnswer, View, Visit, page
from eventferry.console.queries import Period
from eventferry.errors import InputError
from eventferry.http.handling import Query
from eventferry.http.problems import RefusedError
from eventferry.lines.damaged import seen_events
from eventferry.lines.limits import MAX_SAFE_INTEGER
from eventferry.lines.metadata import metadata_of
from eventferry.looking.masks import MASK

PAGE = 50
"""Events of a page."""

PAGE_BYTES = 4 * 1024 * 1024
"""The maximum size of a page's events; it has at least one."""


class EventsQuery(Period, kw_only=True):
    """Which events, in which order, and from where on: `since` is a bookmark."""

    order: Literal["newest", "oldest"] = "newest"
    since: str = ""


@page("GET", "/events", "read")
async def events_page(visit: Visit[EventsQuery]) -> PageAnswer:
    """Selected events, page by page: the last ones, or from a place on in their order."""
    given = visit.given
    following = older = None
    if given.order == "newest" and not given.since:
        events = (await visit.store.tail(PAGE, **given.arguments())).events[::-1]
        if len(events) == PAGE and events[-1].timestamp < events[0].timestamp:
            older = events[-1].timestamp
    else:
        async with visit.store.export_events(
            since=given.since or None, **given.arguments(), limit=PAGE, buffer_size=PAGE_BYTES
        ) as export:
            events = seen_events(b"".join([block async for block in export]))
            following = None if export.is_end else await export.bookmark()
    values = {"given": given, "events": visit.masked(events), "following": following, "older": older}
    return View("events.html", values)


class PositionQuery(Query, kw_only=True):
    """A position."""

    thread: Annotated[int, msgspec.Meta(ge=0, le=255)]
    counter: Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]


@page("GET", "/event", "read")
async def event_page(visit: Visit[PositionQuery]) -> PageAnswer:
    """One event."""
    event = await visit.store.event_at(visit.given.thread, visit.given.counter)
    if event is None:
        raise RefusedError(404, "no-such-event", "there is no event at this position")
    [shown] = visit.masked([event])
    return View("event.html", {"event": shown, "correlation": _correlation_of(shown)})


def _correlation_of(shown: Event) -> str | None:
    """What an event belongs to, by its metadata; None where that is not known, or masked."""
    try:
        found = metadata_of(shown).correlation_id
    except InputError:  # not one of ours
        return None
    return None if found == MASK else found


class AggregateQuery(Query, kw_only=True):
    """An aggregate, and from which version on."""

    id: str
    version: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)] = 1


@page("GET", "/aggregate", "read")
async def aggregate_page(visit: Visit[AggregateQuery]) -> PageAnswer:
    """The history of an aggregate, and what differs from event to event."""
    given = visit.given
    found = await visit.store.history(given.id, given.version, PAGE)
    if not found.entries and given.version == 1:
        raise RefusedError(404, "no-such-aggregate", "this aggregate has no events")
    entries = map(visit.house.mask.entry, found.entries)
    return View("aggregate.html", {"given": given, "entries": entries, "next_version": found.next_version})

"""Events: selected ones page by page, one of them, and all of one aggregate."""

from __future__ import annotations

from typing import Annotated

import msgspec

from eventferry import Event, EventStore
from eventferry import cursor as vector
from eventferry.console.page import Answer, View, Visit, page
from eventferry.console.selection import Period
from eventferry.http.handling import Query
from eventferry.http.problems import RefusedError
from eventferry.lines.event import decode_events
from eventferry.lines.limits import MAX_SAFE_INTEGER

PAGE = 50
"""Events of a page."""

PAGE_BYTES = 4 * 1024 * 1024
"""The maximum size of a page's events; it has at least one."""


class EventsQuery(Period, kw_only=True):
    """Which events, and from where on."""

    since: str = ""


@page("GET", "/events", "read")
async def events_page(visit: Visit[EventsQuery]) -> Answer:
    """Selected events, page by page."""
    given = visit.given
    async with visit.store.export_events(
        since=given.since or None,
        **given.arguments(),
        limit=PAGE,
        buffer_size=PAGE_BYTES,
    ) as export:
        events = decode_events(b"".join([block async for block in export]))
        following = None if export.is_end else await export.bookmark()
    return View("events.html", {"given": given, "events": events, "following": following})


class EventQuery(Query, kw_only=True):
    """A position."""

    thread: Annotated[int, msgspec.Meta(ge=0, le=255)]
    counter: Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]


@page("GET", "/event", "read")
async def event_page(visit: Visit[EventQuery]) -> Answer:
    """One event."""
    event = await _at(visit.store, visit.given.thread, visit.given.counter)
    if event is None:
        raise RefusedError(404, "no-such-event", "there is no event at this position")
    return View("event.html", {"event": event})


async def _at(store: EventStore, thread: int, counter: int) -> Event | None:
    """The event at a position; None if there is none."""
    heads = vector.decode((await store.describe(calculate_cursor=True, estimate_counts=True)).cursor)
    if counter >= heads[thread]:
        return None
    ends = [[*heads[:thread], at, *heads[thread + 1 :]] for at in (counter, counter + 1)]
    begin, end = map(vector.encode, ends)
    async with store.export_events(cursor=begin, until=end) as export:
        events = decode_events(b"".join([block async for block in export]))
    return events[0] if events else None


class AggregateQuery(Query, kw_only=True):
    """An aggregate, and from which version on."""

    id: str
    version: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)] = 1


@page("GET", "/aggregate", "read")
async def aggregate_page(visit: Visit[AggregateQuery]) -> Answer:
    """The history of an aggregate."""
    given = visit.given
    found = await visit.store.load_aggregate(given.id, given.version, PAGE)
    if not found.events and given.version == 1:
        raise RefusedError(404, "no-such-aggregate", "this aggregate has no events")
    return View("aggregate.html", {"given": given, "page": found})

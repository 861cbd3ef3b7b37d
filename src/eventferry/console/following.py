"""Following: events as they come, while one looks.

The stream is that of the service's `GET /follow`, with rows of a table instead of lines. A browser that connects again
with the last id that it has seen goes on behind that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack

from eventferry.console.page import PageAnswer, View, Visit, page
from eventferry.console.queries import EventQuery
from eventferry.http.following import HEARTBEAT, LAST_ID, message, stream_of
from eventferry.http.streams import first_of
from eventferry.lines.damaged import seen_events
from eventferry.reading.arguments import filter_of
from eventferry.reading.following import Follower

_ROWS = 200
"""Events of a message."""


class FollowQuery(EventQuery, kw_only=True):
    """Which events, and whether the page stands still."""

    stopped: bool = False


@page("GET", "/follow", "read")
async def follow_page(visit: Visit[FollowQuery]) -> PageAnswer:
    """Events as they come."""
    return View("follow.html", {"given": visit.given})


@page("GET", "/follow/rows", "read")
async def follow_rows_page(visit: Visit[EventQuery]) -> PageAnswer:
    """The rows of the table of events as they come, as server-sent events."""
    since = visit.request.headers.get(LAST_ID) or "now"
    follower = visit.store._follower(since, filter_of(**visit.given.arguments()), _ROWS)
    with ExitStack() as stack:
        stack.enter_context(visit.house.service.following())
        await follower.begin()  # what is refused is refused before a stream begins
        running = stack.pop_all()
    return stream_of(
        _messages(visit, follower),
        running,
        visit.house.service.limits.timeout,
        {"X-Content-Type-Options": "nosniff"},
    )


async def _messages(visit: Visit[EventQuery], follower: Follower) -> AsyncGenerator[bytes, None]:
    leaving = asyncio.ensure_future(visit.house.service.leaving.wait())
    try:
        yield message(follower)
        while (lines := await first_of(follower.next(HEARTBEAT), leaving)) is not None:
            # A session that has ended meanwhile sees no more, and neither does one whose token was revoked.
            if visit.house.sessions.visitor(visit.request) is None:
                return
            events = seen_events(lines.text)
            shown = View("rows.html", {"events": visit.masked(events[::-1])})
            yield message(follower, _rows(visit, shown) if events else b"")
    finally:
        leaving.cancel()


def _rows(visit: Visit[EventQuery], shown: View) -> bytes:
    """The markup of rows, as lines of a message."""
    markup = visit.house.markup(visit.request, visit.visitor, shown)
    return "".join(f"{line}\n" for line in markup.splitlines()).encode()

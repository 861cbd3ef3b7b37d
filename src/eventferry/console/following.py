"""Following: events as they come, while one looks.

The stream is that of the service's `GET /follow`, with rows of a table instead of lines. A browser that connects again
with the last id that it has seen goes on behind that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack

from eventferry.console.page import Answer, View, Visit, page
from eventferry.console.selection import Selection
from eventferry.http.following import HEARTBEAT, LAST_ID, MESSAGES
from eventferry.http.streams import LinesResponse, first_of
from eventferry.lines.event import decode_events
from eventferry.reading.arguments import filter_of
from eventferry.reading.following import Follower

_ROWS = 200
"""Events of a message."""


class FollowQuery(Selection, kw_only=True):
    """Which events, and whether the page stands still."""

    stopped: bool = False


@page("GET", "/follow", "read")
async def follow_page(visit: Visit[FollowQuery]) -> Answer:
    """Events as they come."""
    return View("follow.html", {"given": visit.given})


@page("GET", "/follow/rows", "read")
async def follow_rows_page(visit: Visit[Selection]) -> Answer:
    """The rows of the table of events as they come, as server-sent events."""
    since = visit.request.headers.get(LAST_ID) or "now"
    follower = visit.store._follower(since, filter_of(**visit.given.arguments()), _ROWS)
    with ExitStack() as stack:
        stack.enter_context(visit.house.service.following())
        await follower.begin()  # what is refused is refused before a stream begins
        running = stack.pop_all()
    messages = _messages(visit, follower)

    async def ended() -> None:
        try:
            await messages.aclose()
        finally:
            running.close()

    return LinesResponse(
        messages,
        media_type=MESSAGES,
        headers={"X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"},
        timeout=visit.house.service.limits.timeout,
        ended=ended,
    )


async def _messages(visit: Visit[Selection], follower: Follower) -> AsyncGenerator[bytes, None]:
    leaving = asyncio.ensure_future(visit.house.service.leaving.wait())
    try:
        yield _message(follower, "")
        while (lines := await first_of(follower.next(HEARTBEAT), leaving)) is not None:
            # A session that has ended meanwhile sees no more, and neither does one whose token was revoked.
            if visit.house.sessions.visitor(visit.request) is None:
                return
            events = decode_events(lines.text)
            shown = View("rows.html", {"events": visit.masked(events[::-1])})
            yield _message(
                follower, visit.house.markup(visit.request, visit.visitor, shown) if events else ""
            )
    finally:
        leaving.cancel()


def _message(follower: Follower, rows: str) -> bytes:
    """A message with these rows. Without any it is a comment, which clients pass by, but for the id."""
    data = "".join(f"data: {line}\n" for line in rows.splitlines()) if rows else ":\n"
    return f"id: {follower.bookmark}\n{data}\n".encode()

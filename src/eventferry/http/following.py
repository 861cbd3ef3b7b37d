"""The handler of `GET /follow`: a stream of server-sent events, or long polls.

Each message of a stream is a page: its id is the bookmark behind it, and each of its events is a line of data. A client
that connects again with the last id that it has seen (`Last-Event-ID`, as browsers do) goes on behind that page.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack
from typing import Annotated

import msgspec
from starlette.datastructures import Headers
from starlette.responses import Response

from eventferry import cursor as vector
from eventferry.http.bodies import ClientGoneError
from eventferry.http.events import DEFAULT_LIMIT, MAX_LIMIT, START, KindsQuery, PageAnswer
from eventferry.http.handling import Call
from eventferry.http.packing import weight
from eventferry.http.parameters import as_text
from eventferry.http.route import JSON, answers, route
from eventferry.http.streams import LinesResponse, first_of, until_gone
from eventferry.lines.page import json_page
from eventferry.reading.arguments import filter_of
from eventferry.reading.following import Follower

MESSAGES = "text/event-stream"
LAST_ID = "Last-Event-ID"
HEARTBEAT = 15.0
"""Seconds without events after which a comment is sent: proxies cut a connection that is silent."""


class _FollowQuery(KindsQuery):
    since: str | None = None
    last_event_id: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    wait: Annotated[float, msgspec.Meta(ge=0, le=60)] = 20


@route(
    "GET",
    "/follow",
    "read",
    refuses=(409,),
    headers={LAST_ID: "The id of the last message: go on behind it."},
)
@answers(
    "A page as soon as there is an event, or an empty one after `wait` seconds. As a stream: a message per page, whose "
    "id is the bookmark behind it and whose lines of data are events; it does not end by itself.",
    PageAnswer,
    stream=MESSAGES,
)
async def follow_handler(call: Call[_FollowQuery]) -> Response:
    """Follow the store from a bookmark, `now` or the `start` on: a stream, or a page for each request."""
    query = call.query
    follower = call.store._follower(_since(call), filter_of(**query.kinds()), query.limit)
    with ExitStack() as stack:
        stack.enter_context(call.service.following())
        await follower.begin()  # what is refused is refused before a stream begins
        if not _wants_messages(call.request.headers):
            return await _polled(call, follower)
        running = stack.pop_all()
    return stream_of(_messages(call, follower), running, call.service.limits.timeout, {"Vary": "Accept"})


def stream_of(
    messages: AsyncGenerator[bytes, None], running: ExitStack, timeout: float, headers: Mapping[str, str]
) -> LinesResponse:
    """A stream of messages. What is `running` is closed with it, however it ends."""

    async def ended() -> None:
        try:
            await messages.aclose()
        finally:
            running.close()

    return LinesResponse(
        messages,
        media_type=MESSAGES,
        headers={"X-Accel-Buffering": "no", **headers},
        timeout=timeout,
        ended=ended,
    )


def _since(call: Call[_FollowQuery]) -> str | None:
    """Where to begin: a client that connects again sends what it began with, and the last id that it has seen."""
    last = [
        value for name, value in call.request.scope["headers"] if name.lower() == LAST_ID.lower().encode()
    ]
    seen = as_text(b"".join(last), f"the header {LAST_ID}") or call.query.last_event_id
    since = seen or call.query.since
    return None if since == START else since


def _wants_messages(headers: Headers) -> bool:
    for item in ",".join(headers.getlist("accept")).lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if name == MESSAGES:
            return weight(parameters) > 0
    return False


async def _polled(call: Call[_FollowQuery], follower: Follower) -> Response:
    gone = asyncio.ensure_future(until_gone(call.request.receive))
    leaving = asyncio.ensure_future(call.service.leaving.wait())
    try:
        wait = 0 if call.request.method == "HEAD" else call.query.wait
        lines = await first_of(follower.next(wait), gone, leaving)
        if lines is None and gone.done():
            raise ClientGoneError
    finally:
        gone.cancel()
        leaving.cancel()
    bookmark = await follower.begin()
    call.went_out(0 if lines is None else lines.number)
    text = b"" if lines is None else lines.text
    return Response(
        json_page([text], vector.encode(bookmark.unread), str(bookmark)),
        media_type=JSON,
        headers={"Cache-Control": "no-store", "Vary": "Accept"},
    )


async def _messages(call: Call[_FollowQuery], follower: Follower) -> AsyncGenerator[bytes, None]:
    leaving = asyncio.ensure_future(call.service.leaving.wait())
    try:
        # At once: whoever begins now, and connects again before the first event, must not begin later.
        yield message(follower)
        while (lines := await first_of(follower.next(HEARTBEAT), leaving)) is not None:
            yield message(follower, lines.text)
            call.went_out(lines.number)
    except Exception as error:
        follow_handler.tell_refusal(error)
        told = follow_handler.refusal(error, call.service.metrics)
        yield b"event: error\ndata: %s\n\n" % bytes(told.body)
    finally:
        leaving.cancel()


def message(follower: Follower, lines: bytes = b"") -> bytes:
    """A message with these lines. Without any it is a comment, which clients pass by, but for the id."""
    data = b"data: %s\n" % lines[:-1].replace(b"\n", b"\ndata: ") if lines else b":\n"
    return b"id: %s\n%s\n" % (str(follower.bookmark).encode(), data)

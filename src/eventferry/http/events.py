"""Handlers of the store and its events: describe, pages, saves, export, freeze."""

from __future__ import annotations

import asyncio
import codecs
from contextlib import AsyncExitStack
from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from eventferry import Description, Event, EventStore, InputError, UsageError
from eventferry.http.handling import Call, Query
from eventferry.http.packing import accepted_coding
from eventferry.http.route import Body, JsonResponse, answers, route
from eventferry.http.streams import LINES, LinesResponse
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import NewRow
from eventferry.lines.limits import MAX_ID_LENGTH, MAX_SAFE_INTEGER
from eventferry.lines.page import json_page
from eventferry.lines.payload import LARGE
from eventferry.reading.arguments import Kinds
from eventferry.reading.exporting import ExportStream

CURSOR_HEADER = "Eventferry-Cursor"
BOOKMARK_HEADER = "Eventferry-Bookmark"
START = "start"
"""Instead of a bookmark: begin at the start of the store."""

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
PAGE_BYTES = 16 * 1024**2
"""The maximum size of a page, except that a page has at least one event. It is held in memory."""


Name = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
Cursor = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]{2048}$")]
Time = Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
"""Milliseconds since 1970."""
Prefix = Annotated[str, msgspec.Meta(min_length=1)]


class _DescribeQuery(Query):
    cursor: bool = False
    estimate_counts: bool = False


class _BookmarkQuery(Query):
    cursor: Cursor | None = None


class _SaveQuery(Query):
    allow_gaps: bool = False


class KindsQuery(Query):
    """Which events are meant, whenever they happened."""

    type: list[str] | None = None
    exclude_type: list[str] | None = None
    aggregate_id: list[str] | None = None
    aggregate_prefix: list[Prefix] | None = None

    def kinds(self) -> Kinds:
        """The same as arguments of the store's methods."""
        return {
            "event_types": self.type,
            "exclude_types": self.exclude_type,
            "aggregate_ids": self.aggregate_id,
            "aggregate_prefixes": self.aggregate_prefix,
        }


class _Selection(KindsQuery):
    cursor: Cursor | None = None
    since: str | None = None
    start_time: Time | None = None
    finish_time: Time | None = None


class _PageQuery(_Selection):
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT


class _ExportQuery(_Selection):
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)] | None = None


class PageAnswer(msgspec.Struct):
    """A page of events. The last page of a period has no cursor, and a page from a cursor or a time no bookmark."""

    events: list[Event]
    cursor: str | None
    bookmark: str | None


class BookmarkAnswer(msgspec.Struct, frozen=True):
    """A bookmark."""

    bookmark: str


class EventToSave(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An event to save. Its position is ignored."""

    type: Name
    aggregate_id: Name
    aggregate_version: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)]
    timestamp: Time = 0
    payload: Any = None
    thread_counter: Any = None
    thread_id: Any = None


_EVENT = Body(
    "An event with type, aggregateId and aggregateVersion; timestamp and payload are optional.",
    EventToSave,
    lines=False,
)


class SavedAnswer(msgspec.Struct, frozen=True):
    """A saved event, and the cursor after it."""

    event: Event
    cursor: str


@route("GET", "/describe", "read")
@answers("What the store holds. The cursor is included if asked for.", Description)
async def describe_handler(call: Call[_DescribeQuery]) -> dict[str, Any]:
    """Describe the store."""
    description = await call.store.describe(
        calculate_cursor=call.query.cursor, estimate_counts=call.query.estimate_counts
    )
    fields: dict[str, Any] = msgspec.to_builtins(description)
    if not call.query.cursor:
        del fields["cursor"]
    return fields


def _selected(
    store: EventStore, query: _Selection, limit: int | None, buffer_size: int | None = None
) -> ExportStream:
    if query.cursor is not None and query.since == START:  # the store refuses a cursor and a bookmark
        raise UsageError("give a cursor or a bookmark as since, but not both")
    return store.export_events(
        cursor=query.cursor,
        since=None if query.since == START else query.since,
        buffer_size=buffer_size,
        **query.kinds(),
        start_time=query.start_time,
        finish_time=query.finish_time,
        limit=limit,
    )


@route("GET", "/events", "read", refuses=(409,))
@answers(
    "The events in order, and the cursor after them, which is null at the end of a period; and unless a cursor or a "
    "time was given, the bookmark after them.",
    PageAnswer,
)
async def events_handler(call: Call[_PageQuery]) -> Response:
    """Get a page of events, from a cursor or a bookmark on; without one, from the start or from a time."""
    query = call.query
    async with _selected(call.store, query, query.limit, PAGE_BYTES) as export:
        blocks = [block async for block in export]
        call.went_out(export.exported)
        by_time = query.start_time is not None or query.finish_time is not None
        # A period ends, and then there is no next page. Without one, more events may come.
        cursor = None if by_time and export.is_end else export.cursor
        # Who goes on by cursors does not look at it, and it costs as much as reading 256 events.
        bookmark = None if by_time or query.cursor is not None else await export.bookmark()
    return JsonResponse(msgspec.Raw(json_page(blocks, cursor, bookmark)))


@route("GET", "/bookmark", "read", refuses=(409,))
@answers("The bookmark.", BookmarkAnswer)
async def bookmark_handler(call: Call[_BookmarkQuery]) -> BookmarkAnswer:
    """Get the bookmark at a cursor, such as that of a save; without one, at the end of the store."""
    cursor = call.query.cursor
    return BookmarkAnswer(await (call.store.bookmark() if cursor is None else call.store.bookmark(cursor)))


@route("POST", "/events", "write", refuses=(409, 423), body=_EVENT)
@answers("The event as stored, and the cursor after it.", SavedAnswer, status=201)
async def save_handler(call: Call[_SaveQuery]) -> SavedAnswer:
    """Save one event. Its version must be the aggregate's next one, or with allowGaps any that is free."""
    text = (await call.text()).removeprefix(codecs.BOM_UTF8)
    if not text.strip():
        raise InputError("the body is empty")
    row, version = _saved_row(text) if len(text) < LARGE else await asyncio.to_thread(_saved_row, text)
    saved = await call.store._save_row(row, version, allow_gaps=call.query.allow_gaps)
    call.came_in(1)
    return SavedAnswer(saved.event, saved.cursor)


def _saved_row(text: bytes) -> tuple[NewRow, int]:
    """The event of a body. Raises InputError."""
    check_utf8(text)
    return LineDecoder().saved_row(text)


def check_utf8(text: bytes) -> None:
    """Raises InputError. A decoder of lines relies on this: it does not look into payloads."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} of the body is not UTF-8: {error.reason}") from None


@route("GET", "/export", "read", refuses=(406, 409))
@answers(
    "JSON Lines. If the connection ends before the answer does, the export is truncated.",
    media_type=LINES,
    headers={
        CURSOR_HEADER: "The cursor after the exported state, from which a later export can continue; "
        "absent if there is a limit.",
        BOOKMARK_HEADER: "The bookmark there.",
    },
)
async def export_handler(call: Call[_ExportQuery]) -> Response:
    """Export all or selected events as JSON Lines, from a cursor or a bookmark on."""
    metrics = call.service.metrics
    coding = accepted_coding(call.request.headers.getlist("accept-encoding"))
    places = {}
    async with AsyncExitStack() as stack:
        export = await stack.enter_async_context(_selected(call.store, call.query, call.query.limit))
        cut = await export.begin()
        # With a limit it is not known yet where the export will end: these would skip events.
        if call.query.limit is None:
            places = {CURSOR_HEADER: cut, BOOKMARK_HEADER: await export.bookmark_behind()}
        stack.pop_all()
    metrics.open_exports.inc()

    async def ended() -> None:
        metrics.open_exports.dec()
        call.went_out(export.exported)
        await export.aclose()

    return LinesResponse(
        export,
        headers={"Vary": "Accept-Encoding"} | places,
        timeout=call.service.limits.timeout,
        ended=ended,
        coding=coding,
    )


@route("POST", "/freeze", "write", refuses=(409,))
@answers("The store is frozen.", status=204)
async def freeze_handler(call: Call[Query]) -> None:
    """Make writes fail until unfreeze."""
    await call.store.freeze()


@route("POST", "/unfreeze", "write", refuses=(409,))
@answers("The store is no longer frozen.", status=204)
async def unfreeze_handler(call: Call[Query]) -> None:
    """Allow writes again."""
    await call.store.unfreeze()

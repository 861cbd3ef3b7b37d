"""Handlers of the store and its events: describe, pages, saves, export, freeze."""

from __future__ import annotations

import asyncio
import codecs
from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from eventferry import EventStore, InputError
from eventferry.http.handling import Call, Handler, JsonResponse, NoQuery
from eventferry.http.packing import accepted_coding
from eventferry.http.streams import LinesResponse
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import NewRow
from eventferry.lines.limits import MAX_SAFE_INTEGER
from eventferry.lines.page import json_page
from eventferry.lines.payload import LARGE
from eventferry.reading.exporting import ExportStream

CURSOR_HEADER = "Eventferry-Cursor"
DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
PAGE_BYTES = 16 * 1024**2
"""The maximum size of a page, except that a page has at least one event. It is held in memory."""


Time = Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
"""Milliseconds since 1970."""


Cursor = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]{2048}$")]


class DescribeQuery(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters of `describe`."""

    cursor: bool = False
    estimate_counts: bool = False


class Selection(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters that pages and exports share: which events."""

    cursor: Cursor | None = None
    type: list[str] | None = None
    aggregate_id: list[str] | None = None
    start_time: Time | None = None
    finish_time: Time | None = None


class PageQuery(Selection):
    """The parameters of a page."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT


class ExportQuery(Selection):
    """The parameters of an export."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)] | None = None


async def _describe(call: Call[DescribeQuery]) -> Response:
    description = await call.store.describe(
        calculate_cursor=call.query.cursor, estimate_counts=call.query.estimate_counts
    )
    fields: dict[str, Any] = msgspec.to_builtins(description)
    if not call.query.cursor:
        del fields["cursor"]
    return JsonResponse(fields)


def _selected(
    store: EventStore, query: Selection, limit: int | None, buffer_size: int | None = None
) -> ExportStream:
    return store.export_events(
        cursor=query.cursor,
        buffer_size=buffer_size,
        event_types=query.type,
        aggregate_ids=query.aggregate_id,
        start_time=query.start_time,
        finish_time=query.finish_time,
        limit=limit,
    )


async def _page(call: Call[PageQuery]) -> Response:
    query = call.query
    async with _selected(call.store, query, query.limit, PAGE_BYTES) as export:
        blocks = [block async for block in export]
        call.went_out(export.exported)
        by_time = query.start_time is not None or query.finish_time is not None
        # A period ends, and then there is no next page. Without one, more events may come.
        cursor = None if by_time and export.is_end else export.cursor
    return Response(
        json_page(blocks, cursor, None), media_type="application/json", headers={"Cache-Control": "no-store"}
    )


async def _save(call: Call[NoQuery]) -> Response:
    text = (await call.text()).removeprefix(codecs.BOM_UTF8)
    if not text.strip():
        raise InputError("the body is empty")
    row, version = _saved_row(text) if len(text) < LARGE else await asyncio.to_thread(_saved_row, text)
    saved = await call.store._save_row(row, version)
    call.came_in(1)
    return JsonResponse(saved, 201)


def _saved_row(text: bytes) -> tuple[NewRow, int]:
    """The event of a body. Raises InputError."""
    try:
        text.decode()  # a decoder of lines relies on this: it does not look into payloads
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} of the body is not UTF-8: {error.reason}") from None
    return LineDecoder().saved_row(text)


async def _export(call: Call[ExportQuery]) -> Response:
    metrics = call.service.metrics
    coding = accepted_coding(call.request.headers.getlist("accept-encoding"))
    export = _selected(call.store, call.query, call.query.limit)
    cut = await export.begin()
    metrics.open_exports.inc()

    async def ended() -> None:
        metrics.open_exports.dec()
        call.went_out(export.exported)
        await export.aclose()

    return LinesResponse(
        export,
        # With a limit it is not known yet where the export will end: this cursor would skip events.
        headers={"Vary": "Accept-Encoding"} | ({CURSOR_HEADER: cut} if call.query.limit is None else {}),
        timeout=call.service.limits.timeout,
        ended=ended,
        coding=coding,
    )


async def _freeze(call: Call[NoQuery]) -> Response:
    await call.store.freeze()
    return Response(status_code=204)


async def _unfreeze(call: Call[NoQuery]) -> Response:
    await call.store.unfreeze()
    return Response(status_code=204)


describe_handler = Handler("describe", DescribeQuery, _describe)
events_handler = Handler("events", PageQuery, _page)
save_handler = Handler("save", NoQuery, _save)
export_handler = Handler("export", ExportQuery, _export)
freeze_handler = Handler("freeze", NoQuery, _freeze)
unfreeze_handler = Handler("unfreeze", NoQuery, _unfreeze)

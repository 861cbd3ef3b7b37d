"""Handlers of the store and its events: describe, pages, saves, export, freeze."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from eventferry import EventStore, InputError
from eventferry.http.bodies import refuse_empty
from eventferry.http.handling import Call, Handler, JsonResponse, NoQuery
from eventferry.http.packing import accepted_coding
from eventferry.http.streams import LinesResponse
from eventferry.lines.limits import MAX_SAFE_INTEGER
from eventferry.lines.payload import LARGE
from eventferry.reading.exporting import ExportStream

CURSOR_HEADER = "Eventferry-Cursor"
DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
PAGE_BYTES = 16 * 1024**2
"""How many bytes of lines a page has at most (but at least one event): it is held whole."""


Time = Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
"""Milliseconds since 1970."""


Cursor = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]{2048}$")]


class DescribeQuery(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters of `describe`."""

    cursor: bool = False
    estimate_counts: bool = False


class Selection(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Which events: the parameters that a page and an export share."""

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
    # As lines: payloads go out as they are spelled in the store, and no event becomes an object on the way.
    async with _selected(call.store, query, query.limit, PAGE_BYTES) as export:
        lines = b"".join([block async for block in export])
        call.went_out(export.exported)
        listed = b",".join(lines.splitlines())
        by_time = query.start_time is not None or query.finish_time is not None
        # Who follows a store goes on behind its end, too; a span of time has an end.
        cursor = b"null" if by_time and export.is_end else b'"%s"' % export.cursor.encode()
        return Response(
            b'{"events":[%s],"cursor":%s}' % (listed, cursor),
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )


async def _save(call: Call[NoQuery]) -> Response:
    text = refuse_empty(await call.text())
    event = decoded_event(text) if len(text) < LARGE else await asyncio.to_thread(decoded_event, text)
    saved = await call.store.save_event(event)
    call.came_in(1)
    return JsonResponse(saved, 201)


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
        # Where a limit will end it, nobody knows yet: a cursor behind all of it would skip what did not come.
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


def decoded_event(text: bytes) -> dict[str, Any]:
    """The event of a body, its numbers exact.

    Raises:
        InputError: it is not a JSON object, or a key stands twice in it.
    """
    try:
        event = json.loads(text.decode().removeprefix("\ufeff"), parse_float=_exact, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start} of the body is not UTF-8: {error.reason}") from None
    except ValueError as error:
        raise InputError(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise InputError("nests more deeply than can be read") from None
    if not isinstance(event, dict):
        raise InputError("the body is not a JSON object")
    return event


def _exact(text: str) -> float | Decimal:
    """A float where that spells the number as it came, else the number itself."""
    number = float(text)
    return number if repr(number) == text else Decimal(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise InputError("this key stands twice", field=name)
            seen.add(name)
    return members

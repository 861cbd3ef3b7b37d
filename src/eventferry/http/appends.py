"""Handlers of appends: several events that belong together; and of reading one aggregate."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from starlette.responses import Response

from eventferry import AggregatePage, Append, Event, InputError
from eventferry.http.events import DEFAULT_LIMIT, MAX_LIMIT, PAGE_BYTES, Name, Time, check_utf8
from eventferry.http.handling import Call, Query
from eventferry.http.route import Body, JsonResponse, answers, route
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import NewRow
from eventferry.lines.limits import MAX_SAFE_INTEGER
from eventferry.lines.payload import LARGE
from eventferry.lines.refusal import refuse_duplicate_key, refused_line

KEY_HEADER = "Idempotency-Key"

Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]
Expected: TypeAlias = Version | Literal["any", "none"]


class EventToAppend(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An event to append. Its position is ignored."""

    type: Name
    timestamp: Time = 0
    payload: Any = None
    aggregate_id: Name | None = None
    thread_counter: Any = None
    thread_id: Any = None


class EventsToAppend(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Events of one aggregate, and the last version that it must have; "none" or 0 if it must have no events."""

    aggregate_id: Name
    events: Annotated[list[EventToAppend], msgspec.Meta(min_length=1)]
    expected_version: Expected = "any"


class _Asked(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The same, with events that are not decoded yet."""

    aggregate_id: Name
    events: list[msgspec.Raw]
    expected_version: Expected = "any"


class _AggregateQuery(Query):
    id: Name
    from_version: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)] = 1
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT


class AppendedAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """Appended events, and the cursor after them."""

    events: list[Event]
    cursor: str
    is_repeated: bool


_APPEND = Body(
    "One append, or an array of appends to different aggregates, which are stored together.",
    EventsToAppend | list[EventsToAppend],
    lines=False,
)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_ONE = msgspec.json.Decoder(_Asked)


@route(
    "POST",
    "/append",
    "write",
    refuses=(409, 423),
    body=_APPEND,
    headers={KEY_HEADER: "Makes it safe to send the same append again: it is stored once."},
)
@answers(
    "The events as stored, the cursor after them, and whether they were stored before.",
    AppendedAnswer,
    status=201,
)
async def append_handler(call: Call[Query]) -> AppendedAnswer:
    """Store several events, all or none."""
    text = (await call.text()).removeprefix(codecs.BOM_UTF8).strip()
    if not text:
        raise InputError("the body is empty")
    appends = _appends(text) if len(text) < LARGE else await asyncio.to_thread(_appends, text)
    appended = await call.store._append_rows(appends, call.request.headers.get(KEY_HEADER))
    call.came_in(0 if appended.is_repeated else len(appended.events))
    return AppendedAnswer(appended.events, appended.cursor, appended.is_repeated)


def _appends(text: bytes) -> list[tuple[Append, Sequence[NewRow]]]:
    """The appends of a body, with their events as rows. Raises InputError; the line is the number of the event."""
    check_utf8(text)
    texts: Sequence[bytes] = [text]
    if text.startswith(b"["):
        try:
            texts = [bytes(raw) for raw in _ARRAY.decode(text)]
        except (msgspec.MsgspecError, RecursionError):
            raise InputError("the body is not JSON") from None
    appends: list[tuple[Append, Sequence[NewRow]]] = []
    decoder, number = LineDecoder(), 0
    for each in texts:
        try:
            asked = _ONE.decode(each)
        except (msgspec.MsgspecError, RecursionError):
            raise refused_line(each, _Asked) from None
        refuse_duplicate_key(each)
        rows: list[NewRow] = []
        for event in asked.events:
            number += 1
            try:
                rows.append(decoder.appended_row(bytes(event), asked.aggregate_id))
            except InputError as error:
                raise InputError(error.reason, line=number, field=error.field, unit="event") from None
        appends.append((Append(asked.aggregate_id, (), asked.expected_version), rows))
    return appends


@route("GET", "/aggregate", "read")
@answers(
    "The events in the order of their versions, and the next version, which is null at the end.",
    AggregatePage,
)
async def aggregate_handler(call: Call[_AggregateQuery]) -> Response:
    """Get the events of one aggregate, from a version on."""
    query = call.query
    lines, next_version = await call.store._aggregate_lines(
        query.id, query.from_version, query.limit, PAGE_BYTES
    )
    call.went_out(len(lines))
    # Events are not decoded, so payloads stay as spelled.
    events = b",".join(line.rstrip(b"\n") for line in lines)
    return JsonResponse(
        msgspec.Raw(b'{"events":[%s],"nextVersion":%s}' % (events, msgspec.json.encode(next_version)))
    )

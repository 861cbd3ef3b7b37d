"""The table of routes: what a service answers, who may ask, and what the answers are.

From it come the application's routes, their guards, the OpenAPI description and the page of documentation. What is not
in it does not exist; what is in it cannot go without a scope.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from eventferry import Description, Event, ImportProgress, ImportReport, SecretsReport
from eventferry.http import about, events, exchange, imports, secrets
from eventferry.http.handling import Handler, NoQuery
from eventferry.http.metrics import MEDIA_TYPE as METRICS
from eventferry.http.route import HTML, TEXT, Answer, Body, Route
from eventferry.http.streams import LINES
from eventferry.lines.limits import MAX_ID_LENGTH, MAX_SAFE_INTEGER


class SavedAnswer(msgspec.Struct):
    """The answer to a save."""

    event: Event
    cursor: str


class PageAnswer(msgspec.Struct):
    """A page; the last one by time has no cursor."""

    events: list[Event]
    cursor: str | None


class ImportedAnswer(msgspec.Struct, rename="camel"):
    """The report of an import: how many events, and how many bytes of UTF-8 they were."""

    imported: int
    byte_offset: int


class BegunAnswer(msgspec.Struct):
    """The id of an incremental import."""

    id: str


class PartAnswer(msgspec.Struct):
    """How many events a part brought."""

    events: int


class HealthAnswer(msgspec.Struct):
    """Whether the store answers."""

    status: str


_Name = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
_Timestamp = Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]


class NewEvent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An event that comes in incrementally; its position and version are ignored."""

    type: _Name
    timestamp: _Timestamp
    aggregate_id: _Name
    payload: Any = None
    thread_counter: Any = None
    thread_id: Any = None
    aggregate_version: Any = None


class EventToSave(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An event to save; its position is ignored."""

    type: _Name
    aggregate_id: _Name
    aggregate_version: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)]
    timestamp: _Timestamp = 0
    payload: Any = None
    thread_counter: Any = None
    thread_id: Any = None


_LINES_OR_ARRAY = Body(
    what="Events as lines, or as one JSON array; positions and versions are ignored.", json=list[NewEvent]
)
_WRITES = (409, 423)
_BODY = (408, 413, 415, 422)

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/describe",
        scopes=("read",),
        handler=events.describe_handler,
        summary="Figures about the store.",
        answer=Answer(what="What the store holds; cursor only if asked for.", shape=Description),
    ),
    Route(
        method="GET",
        path="/events",
        scopes=("read",),
        handler=events.events_handler,
        summary="A page of events, from a cursor on (none is the start), of a span of time if wanted.",
        answer=Answer(
            what="The events in order, and the cursor behind them: null where a span of time is at its end.",
            shape=PageAnswer,
        ),
    ),
    Route(
        method="POST",
        path="/events",
        scopes=("write",),
        handler=events.save_handler,
        summary="Save one event.",
        answer=Answer(
            status=201, what="The event as it is stored, and the cursor behind it.", shape=SavedAnswer
        ),
        body=Body(
            what="An event: type, aggregateId, aggregateVersion, and timestamp and payload if it has them.",
            json=EventToSave,
            lines=False,
        ),
        refusals=(*_WRITES, *_BODY),
    ),
    Route(
        method="GET",
        path="/export",
        scopes=("read",),
        handler=events.export_handler,
        summary="All events from a cursor on, or those selected, as lines.",
        answer=Answer(
            what="The lines. Where the connection ends before the answer does, it broke off.",
            media_type=LINES,
            headers={
                events.CURSOR_HEADER: "The cursor behind the state that is exported, if there is no limit: "
                "a later export goes on there."
            },
        ),
        refusals=(406, 409),
    ),
    Route(
        method="POST",
        path="/import",
        scopes=("import",),
        handler=imports.import_handler,
        summary="Import lines, replacing all events, all or nothing; resume=true goes on with what was interrupted.",
        answer=Answer(what="How many events came in.", shape=ImportedAnswer),
        body=Body(what="Events as lines, with positions and versions."),
        refusals=(*_WRITES, *_BODY),
    ),
    Route(
        method="GET",
        path="/import",
        scopes=("import",),
        handler=imports.import_progress_handler,
        summary="How far the import has come that is running or was interrupted.",
        answer=Answer(
            what="How many events are staged, and where in its source a resume goes on.",
            shape=ImportProgress,
            headers={imports.OFFSET_HEADER: "The byte offset again, for HEAD."},
        ),
        refusals=(404,),
    ),
    Route(
        method="POST",
        path="/incremental-import",
        scopes=("import",),
        handler=imports.incremental_import_handler,
        summary="Import what the store lacks, in one step.",
        answer=Answer(what="What came in and what was skipped.", shape=ImportReport),
        body=_LINES_OR_ARRAY,
        refusals=(*_WRITES, *_BODY),
    ),
    Route(
        method="POST",
        path="/incremental-imports",
        scopes=("import",),
        handler=imports.begin_handler,
        summary="Open an incremental import in parts.",
        answer=Answer(status=201, what="Its id.", shape=BegunAnswer),
        refusals=_WRITES,
    ),
    Route(
        method="PUT",
        path="/incremental-imports/{id}/parts/{part}",
        scopes=("import",),
        handler=imports.part_handler,
        summary="Send a part; sent again it replaces the part.",
        answer=Answer(what="How many events it has.", shape=PartAnswer),
        body=_LINES_OR_ARRAY,
        refusals=(404, *_WRITES, *_BODY),
    ),
    Route(
        method="POST",
        path="/incremental-imports/{id}/commit",
        scopes=("import",),
        handler=imports.commit_handler,
        summary="Merge the parts into the store, in one step.",
        answer=Answer(what="What came in and what was skipped.", shape=ImportReport),
        refusals=(404, *_WRITES),
    ),
    Route(
        method="DELETE",
        path="/incremental-imports/{id}",
        scopes=("import",),
        handler=imports.rollback_handler,
        summary="Drop an open incremental import.",
        answer=Answer(status=204, what="It is gone.", media_type=None),
        refusals=(404,),
    ),
    Route(
        method="POST",
        path="/freeze",
        scopes=("write",),
        handler=events.freeze_handler,
        summary="Make writes fail until unfreeze.",
        answer=Answer(status=204, what="The store is frozen.", media_type=None),
        refusals=(409,),
    ),
    Route(
        method="POST",
        path="/unfreeze",
        scopes=("write",),
        handler=events.unfreeze_handler,
        summary="Let writes in again.",
        answer=Answer(status=204, what="The store is not frozen any more.", media_type=None),
        refusals=(409,),
    ),
    Route(
        method="GET",
        path="/secrets",
        scopes=("secrets",),
        handler=secrets.secrets_handler,
        summary="The secrets as lines.",
        answer=Answer(what="Lines of secret, id and idx.", media_type=LINES),
    ),
    Route(
        method="POST",
        path="/secrets",
        scopes=("secrets",),
        handler=secrets.import_secrets_handler,
        summary="Import secrets from lines, all or nothing.",
        answer=Answer(what="What came in and what was skipped.", shape=SecretsReport),
        body=Body(what="Lines of secret, id and idx."),
        refusals=(*_WRITES, *_BODY),
    ),
    Route(
        method="GET",
        path="/healthz",
        scopes=(),
        handler=about.healthz_handler,
        summary="Whether the store answers.",
        answer=Answer(what="It does.", shape=HealthAnswer),
    ),
    Route(
        method="GET",
        path="/metrics",
        scopes=("read",),
        handler=about.metrics_handler,
        summary="Metrics for Prometheus.",
        answer=Answer(what="The metrics.", media_type=METRICS),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        scopes=(),
        handler=Handler("openapi", NoQuery, lambda call: about.openapi(call, ROUTES)),
        summary="This description.",
        answer=Answer(what="OpenAPI 3.1.", shape=dict),
    ),
    Route(
        method="GET",
        path="/docs",
        scopes=(),
        handler=Handler("docs", NoQuery, lambda call: about.docs(call, ROUTES)),
        summary="This description, for people.",
        answer=Answer(what="A page.", media_type=HTML),
    ),
    Route(
        method="GET",
        path="/api/event-store/export",
        scopes=("read", "secrets"),
        handler=exchange.exchange_export_handler,
        summary="reSolve's client: export events and secrets into a directory of the folder of exchange.",
        answer=Answer(what="ok", media_type=TEXT),
        refusals=(404, 409, 423),
        is_plain=True,
    ),
    Route(
        method="GET",
        path="/api/event-store/import",
        scopes=("import", "secrets"),
        handler=exchange.exchange_import_handler,
        summary="reSolve's client: import events and secrets from a directory, replacing all events.",
        answer=Answer(what="ok", media_type=TEXT),
        refusals=(404, 409, 422, 423),
        is_plain=True,
    ),
    Route(
        method="GET",
        path="/api/event-store/incremental-import",
        scopes=("import",),
        handler=exchange.exchange_incremental_import_handler,
        summary="reSolve's client: import what the store lacks from a file.",
        answer=Answer(what="ok", media_type=TEXT),
        refusals=(404, 409, 422, 423),
        is_plain=True,
    ),
    Route(
        method="GET",
        path="/api/event-store/freeze",
        scopes=("write",),
        handler=exchange.exchange_freeze_handler,
        summary="reSolve's client: make writes fail.",
        answer=Answer(what="EventStore is frozen, or is already frozen.", media_type=TEXT),
        refusals=(404,),
        is_plain=True,
    ),
    Route(
        method="GET",
        path="/api/event-store/unfreeze",
        scopes=("write",),
        handler=exchange.exchange_unfreeze_handler,
        summary="reSolve's client: let writes in again.",
        answer=Answer(what="EventStore is unfrozen, or is already unfrozen.", media_type=TEXT),
        refusals=(404,),
        is_plain=True,
    ),
)

"""The table of routes.

The routes of the application, their guards, the OpenAPI description and the documentation page are all made from it.
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
    """A saved event, and the cursor after it."""

    event: Event
    cursor: str


class PageAnswer(msgspec.Struct):
    """A page of events. The last page of a period has no cursor. A page that begins at a cursor or at a time has no
    bookmark."""

    events: list[Event]
    cursor: str | None
    bookmark: str | None


class ImportedAnswer(msgspec.Struct, rename="camel"):
    """The report of an import: the number of events, and the bytes of the source in UTF-8."""

    imported: int
    byte_offset: int


class BegunAnswer(msgspec.Struct):
    """The id of an incremental import."""

    id: str


class PartAnswer(msgspec.Struct):
    """The number of events of a part."""

    events: int


class HealthAnswer(msgspec.Struct):
    """The health of the service."""

    status: str


_Name = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
_Timestamp = Annotated[int, msgspec.Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]


class NewEvent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An event for an incremental import. Its position and version are ignored."""

    type: _Name
    timestamp: _Timestamp
    aggregate_id: _Name
    payload: Any = None
    thread_counter: Any = None
    thread_id: Any = None
    aggregate_version: Any = None


class EventToSave(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An event to save. Its position is ignored."""

    type: _Name
    aggregate_id: _Name
    aggregate_version: Annotated[int, msgspec.Meta(ge=1, le=MAX_SAFE_INTEGER)]
    timestamp: _Timestamp = 0
    payload: Any = None
    thread_counter: Any = None
    thread_id: Any = None


_LINES_OR_ARRAY = Body(
    what="Events as JSON Lines or as one JSON array. Positions and versions are ignored.", json=list[NewEvent]
)
_WRITES = (409, 423)
_BODY = (408, 413, 415, 422)

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/describe",
        scopes=("read",),
        handler=events.describe_handler,
        summary="Describe the store.",
        answer=Answer(what="What the store holds. The cursor is included if asked for.", shape=Description),
    ),
    Route(
        method="GET",
        path="/events",
        scopes=("read",),
        handler=events.events_handler,
        summary="Get a page of events, from a cursor on; without one, from the start or from a time.",
        answer=Answer(
            what="The events in order, and the cursor after them, which is null at the end of a period.",
            shape=PageAnswer,
        ),
    ),
    Route(
        method="POST",
        path="/events",
        scopes=("write",),
        handler=events.save_handler,
        summary="Save one event.",
        answer=Answer(status=201, what="The event as stored, and the cursor after it.", shape=SavedAnswer),
        body=Body(
            what="An event with type, aggregateId and aggregateVersion; timestamp and payload are optional.",
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
        summary="Export all or selected events as JSON Lines, from a cursor on.",
        answer=Answer(
            what="JSON Lines. If the connection ends before the answer does, the export is truncated.",
            media_type=LINES,
            headers={
                events.CURSOR_HEADER: "The cursor after the exported state, from which a later export can continue; "
                "absent if there is a limit."
            },
        ),
        refusals=(406, 409),
    ),
    Route(
        method="POST",
        path="/import",
        scopes=("import",),
        handler=imports.import_handler,
        summary="Replace all events, all or nothing; resume=true continues an interrupted import.",
        answer=Answer(what="The number of imported events.", shape=ImportedAnswer),
        body=Body(what="Events as JSON Lines, with positions and versions."),
        refusals=(*_WRITES, *_BODY),
    ),
    Route(
        method="GET",
        path="/import",
        scopes=("import",),
        handler=imports.import_progress_handler,
        summary="Get the progress of a running or interrupted import.",
        answer=Answer(
            what="The number of staged events, and the offset in the source where a resume continues.",
            shape=ImportProgress,
            headers={imports.OFFSET_HEADER: "The byte offset, for HEAD requests."},
        ),
        refusals=(404,),
    ),
    Route(
        method="POST",
        path="/incremental-import",
        scopes=("import",),
        handler=imports.incremental_import_handler,
        summary="Add the events that the store lacks, in one transaction.",
        answer=Answer(what="The numbers of imported and skipped events.", shape=ImportReport),
        body=_LINES_OR_ARRAY,
        refusals=(*_WRITES, *_BODY),
    ),
    Route(
        method="POST",
        path="/incremental-imports",
        scopes=("import",),
        handler=imports.begin_handler,
        summary="Begin an incremental import in parts.",
        answer=Answer(status=201, what="Its id.", shape=BegunAnswer),
        refusals=_WRITES,
    ),
    Route(
        method="PUT",
        path="/incremental-imports/{id}/parts/{part}",
        scopes=("import",),
        handler=imports.part_handler,
        summary="Send a part. Sending it again replaces it.",
        answer=Answer(what="The number of events of the part.", shape=PartAnswer),
        body=_LINES_OR_ARRAY,
        refusals=(404, *_WRITES, *_BODY),
    ),
    Route(
        method="POST",
        path="/incremental-imports/{id}/commit",
        scopes=("import",),
        handler=imports.commit_handler,
        summary="Merge the parts into the store, in one transaction.",
        answer=Answer(what="The numbers of imported and skipped events.", shape=ImportReport),
        refusals=(404, *_WRITES),
    ),
    Route(
        method="DELETE",
        path="/incremental-imports/{id}",
        scopes=("import",),
        handler=imports.rollback_handler,
        summary="Discard an open incremental import.",
        answer=Answer(status=204, what="It was discarded.", media_type=None),
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
        summary="Allow writes again.",
        answer=Answer(status=204, what="The store is no longer frozen.", media_type=None),
        refusals=(409,),
    ),
    Route(
        method="GET",
        path="/secrets",
        scopes=("secrets",),
        handler=secrets.secrets_handler,
        summary="Export the secrets as JSON Lines.",
        answer=Answer(what="JSON Lines with secret, id and idx.", media_type=LINES),
    ),
    Route(
        method="POST",
        path="/secrets",
        scopes=("secrets",),
        handler=secrets.import_secrets_handler,
        summary="Import secrets, all or nothing.",
        answer=Answer(what="The numbers of imported, skipped and deleted secrets.", shape=SecretsReport),
        body=Body(what="JSON Lines with secret, id and idx."),
        refusals=(*_WRITES, *_BODY),
    ),
    Route(
        method="GET",
        path="/healthz",
        scopes=(),
        handler=about.healthz_handler,
        summary="Check that the store answers.",
        answer=Answer(what="The store answers.", shape=HealthAnswer),
    ),
    Route(
        method="GET",
        path="/metrics",
        scopes=("read",),
        handler=about.metrics_handler,
        summary="Get metrics for Prometheus.",
        answer=Answer(what="The metrics.", media_type=METRICS),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        scopes=(),
        handler=Handler("openapi", NoQuery, lambda call: about.openapi(call, ROUTES)),
        summary="Get this description.",
        answer=Answer(what="OpenAPI 3.1.", shape=dict),
    ),
    Route(
        method="GET",
        path="/docs",
        scopes=(),
        handler=Handler("docs", NoQuery, lambda call: about.docs(call, ROUTES)),
        summary="Get this description for people.",
        answer=Answer(what="A page.", media_type=HTML),
    ),
    Route(
        method="GET",
        path="/api/event-store/export",
        scopes=("read", "secrets"),
        handler=exchange.exchange_export_handler,
        summary="reSolve's client: export events and secrets to a directory inside the exchange directory.",
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
        summary="reSolve's client: add the events that the store lacks, from a file.",
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
        summary="reSolve's client: allow writes again.",
        answer=Answer(what="EventStore is unfrozen, or is already unfrozen.", media_type=TEXT),
        refusals=(404,),
        is_plain=True,
    ),
)

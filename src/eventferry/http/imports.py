"""Handlers of imports, and of incremental imports, whole and in steps."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from eventferry import ImportProgress, ImportReport, ImportStream, Older, ResumeError, UsageError
from eventferry.http.bodies import ClientGoneError, charset_of
from eventferry.http.charsets import UTF_8
from eventferry.http.events import Name, Time
from eventferry.http.handling import Call, Query
from eventferry.http.problems import RefusedError
from eventferry.http.route import Body, JsonResponse, answers, route
from eventferry.lifecycle import aclosing
from eventferry.lines.limits import MAX_SAFE_INTEGER

OFFSET_HEADER = "Upload-Offset"


_OPEN = "/incremental-imports/{id}"
WRITES = (409, 423)
EVENTS = Body("Events as JSON Lines, with positions and versions.")


class _ImportQuery(Query):
    replace: bool = False
    freeze: bool = False
    resume: bool = False
    byte_offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)] | None = None
    allow_empty: bool = False
    ignore_unknown_keys: bool = False


class _IncrementalQuery(Query):
    older: Older = "skip"
    dry_run: bool = False
    ignore_unknown_keys: bool = False


class PartQuery(Query):
    """The options of a part."""

    ignore_unknown_keys: bool = False


class _CommitQuery(Query):
    older: Older = "skip"


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


class NewEvent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An event for an incremental import. Its position and version are ignored."""

    type: Name
    timestamp: Time
    aggregate_id: Name
    payload: Any = None
    thread_counter: Any = None
    thread_id: Any = None
    aggregate_version: Any = None


_NEW_EVENTS = Body(
    "Events as JSON Lines or as one JSON array. Positions and versions are ignored.", list[NewEvent]
)


@route("POST", "/import", "import", refuses=WRITES, body=EVENTS, is_import=True)
@answers("The number of imported events.", ImportedAnswer)
async def import_handler(call: Call[_ImportQuery]) -> ImportedAnswer:
    """Replace all events, all or nothing; resume=true continues an interrupted import."""
    query = call.query
    if query.resume and charset_of(call.request) not in UTF_8:
        raise UsageError(
            "an import with resume=true must be in UTF-8, because it is resumed at a byte offset"
        )
    if query.byte_offset is not None and not query.resume:
        raise UsageError("byteOffset needs resume=true")
    sink = call.store.import_events(
        replace=query.replace,
        freeze=query.freeze,
        resume=query.resume,
        allow_empty=query.allow_empty,
        ignore_unknown_keys=query.ignore_unknown_keys,
        max_line_bytes=call.service.limits.max_event_bytes,
    )
    await sink.begin()  # if the import is refused, then before the client sends its body
    try:
        await _take(sink, call)
        report = await sink.close()
    except BaseException as error:
        # Without resume=true nothing is kept: the client could not continue.
        await sink.abort(_as_interruption(error) if query.resume else None)
        raise
    call.came_in(report.imported)
    return ImportedAnswer(report.imported, report.byte_offset)


async def _take(sink: ImportStream, call: Call[_ImportQuery]) -> None:
    """Write the body to an import: the whole source, or with `byteOffset` the rest of it."""
    offset = call.query.byte_offset
    if offset is not None and offset != sink.byte_offset:
        raise ResumeError(f"the import continues at byte {sink.byte_offset} of its source, not at {offset}")
    async with aclosing(call.blocks()) as blocks:
        async for block in blocks:
            rest = block if offset is not None or sink.is_verified else await sink.verify(block)
            if rest:
                await sink.write(rest)
    if offset is None and not sink.is_verified:
        raise ResumeError("the source ends before the point where the import was interrupted")


def _as_interruption(error: BaseException) -> BaseException:
    """An error as the import should see it. A refused request (its body is too slow, or has an unknown encoding) says
    nothing about the source, so it counts as a lost connection, after which the import can be resumed.
    """
    return ClientGoneError() if isinstance(error, RefusedError) else error


@route("GET", "/import", "import", refuses=(404,))
@answers(
    "The number of staged events, and the offset in the source where a resume continues.",
    ImportProgress,
    headers={OFFSET_HEADER: "The byte offset, for HEAD requests."},
)
async def import_progress_handler(call: Call[Query]) -> Response:
    """Get the progress of a running or interrupted import."""
    progress = await call.store.import_progress()
    if progress is None:
        raise RefusedError(404, "no-import", "no import is running or interrupted")
    response = JsonResponse(progress)
    response.headers[OFFSET_HEADER] = str(progress.byte_offset)
    return response


@route("POST", "/incremental-import", "import", refuses=WRITES, body=_NEW_EVENTS, is_import=True)
@answers("The numbers of imported and skipped events.", ImportReport)
async def incremental_import_handler(call: Call[_IncrementalQuery]) -> ImportReport:
    """Add the events that the store lacks, in one transaction. Older ones are skipped unless `older` says otherwise."""
    query = call.query
    report = await call.store.incremental_import(
        call.blocks(),
        older=query.older,
        dry_run=query.dry_run,
        ignore_unknown_keys=query.ignore_unknown_keys,
        max_line_bytes=call.service.limits.max_event_bytes,
    )
    return report if query.dry_run else merged(call, report)


@route("POST", "/incremental-imports", "import", refuses=WRITES)
@answers("Its id.", BegunAnswer, status=201)
async def begin_handler(call: Call[Query]) -> BegunAnswer:
    """Begin an incremental import in several steps."""
    return BegunAnswer(await call.store.begin_incremental_import())


@route("PUT", _OPEN + "/parts/{part}", "import", refuses=(404, *WRITES), body=_NEW_EVENTS, is_import=True)
@answers("The number of events of the part.", PartAnswer)
async def part_handler(call: Call[PartQuery]) -> PartAnswer:
    """Send a part. Sending it again replaces it."""
    count = await call.store.push_incremental_import(
        call.blocks(),
        call.path_text("id"),
        part=call.path["part"].decode(errors="surrogateescape"),  # often the name of a file
        ignore_unknown_keys=call.query.ignore_unknown_keys,
        max_line_bytes=call.service.limits.max_event_bytes,
    )
    return PartAnswer(count)


@route("POST", _OPEN + "/commit", "import", refuses=(404, *WRITES), is_import=True)
@answers("The numbers of imported and skipped events.", ImportReport)
async def commit_handler(call: Call[_CommitQuery]) -> ImportReport:
    """Merge the parts into the store, in one transaction."""
    report = await call.store.commit_incremental_import(call.path_text("id"), older=call.query.older)
    return merged(call, report)


@route("DELETE", _OPEN, "import", refuses=(404,))
@answers("It was discarded.", status=204)
async def rollback_handler(call: Call[Query]) -> None:
    """Discard an open incremental import."""
    await call.store.rollback_incremental_import(call.path_text("id"))


def merged(call: Call[Any], report: ImportReport) -> ImportReport:
    """Count the results of an incremental import."""
    call.came_in(report.imported)
    skipped = call.service.metrics.skipped
    skipped.labels("existing").inc(report.skipped_existing)
    skipped.labels("older").inc(report.skipped_older)
    return report

"""Handlers of imports, and of incremental imports, whole and in steps."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from eventferry import ImportStream, ResumeError, UsageError
from eventferry.http.bodies import ClientGoneError, charset_of
from eventferry.http.charsets import UTF_8
from eventferry.http.handling import Call, Handler, JsonResponse, NoQuery
from eventferry.http.problems import RefusedError
from eventferry.importing.merge import ImportReport, Older
from eventferry.lines.limits import MAX_SAFE_INTEGER

OFFSET_HEADER = "Upload-Offset"


class ImportQuery(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters of an import."""

    replace: bool = False
    freeze: bool = False
    resume: bool = False
    byte_offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)] | None = None
    allow_empty: bool = False
    ignore_unknown_keys: bool = False


class IncrementalQuery(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters of an incremental import."""

    older: Older = "skip"
    dry_run: bool = False
    ignore_unknown_keys: bool = False


class PartQuery(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters of a part."""

    ignore_unknown_keys: bool = False


class CommitQuery(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters of a commit."""

    older: Older = "skip"


async def _import(call: Call[ImportQuery]) -> Response:
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
    return JsonResponse({"imported": report.imported, "byteOffset": report.byte_offset})


async def _take(sink: ImportStream, call: Call[ImportQuery]) -> None:
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


async def _progress(call: Call[NoQuery]) -> Response:
    progress = await call.store.import_progress()
    if progress is None:
        raise RefusedError(404, "no-import", "no import is running or interrupted")
    response = JsonResponse(progress)
    response.headers[OFFSET_HEADER] = str(progress.byte_offset)
    return response


async def _incremental(call: Call[IncrementalQuery]) -> Response:
    query = call.query
    report = await call.store.incremental_import(
        call.blocks(),
        older=query.older,
        dry_run=query.dry_run,
        ignore_unknown_keys=query.ignore_unknown_keys,
        max_line_bytes=call.service.limits.max_event_bytes,
    )
    if not query.dry_run:
        merged(call, report)
    return JsonResponse(report)


async def _begin(call: Call[NoQuery]) -> Response:
    return JsonResponse({"id": await call.store.begin_incremental_import()}, 201)


async def _part(call: Call[PartQuery]) -> Response:
    events = await call.store.push_incremental_import(
        call.blocks(),
        call.path_text("id"),
        part=call.path["part"].decode(errors="surrogateescape"),  # often the name of a file
        ignore_unknown_keys=call.query.ignore_unknown_keys,
        max_line_bytes=call.service.limits.max_event_bytes,
    )
    return JsonResponse({"events": events})


async def _commit(call: Call[CommitQuery]) -> Response:
    report = await call.store.commit_incremental_import(call.path_text("id"), older=call.query.older)
    merged(call, report)
    return JsonResponse(report)


async def _roll_back(call: Call[NoQuery]) -> Response:
    await call.store.rollback_incremental_import(call.path_text("id"))
    return Response(status_code=204)


def merged(call: Call[Any], report: ImportReport) -> None:
    """Count the results of an incremental import."""
    call.came_in(report.imported)
    call.service.metrics.skipped_some(report.skipped_existing, report.skipped_older)


import_handler = Handler("import", ImportQuery, _import, is_import=True)
import_progress_handler = Handler("import-progress", NoQuery, _progress)
incremental_import_handler = Handler("incremental-import", IncrementalQuery, _incremental, is_import=True)
begin_handler = Handler("begin", NoQuery, _begin)
part_handler = Handler("part", PartQuery, _part, is_import=True)
commit_handler = Handler("commit", CommitQuery, _commit, is_import=True)
rollback_handler = Handler("rollback", NoQuery, _roll_back)

"""Handlers of imports: whole, incremental, and incremental in steps."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import msgspec
from starlette.responses import Response

from eventferry.http.handling import Call, Handler, JsonResponse, NoQuery
from eventferry.merge import ImportReport, Older


class ImportQuery(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The parameters of an import."""

    replace: bool = False
    freeze: bool = False
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
    sink = call.store.import_events(
        replace=query.replace,
        freeze=query.freeze,
        allow_empty=query.allow_empty,
        ignore_unknown_keys=query.ignore_unknown_keys,
        max_line_bytes=call.service.limits.max_event_bytes,
    )
    await sink.begin()  # what refuses the import does before a byte of the body is asked for
    try:
        async with aclosing(call.blocks()) as blocks:
            async for block in blocks:
                await sink.write(block)
        report = await sink.close()
    except BaseException:
        # Without saying why: nobody goes on with an upload that ended early, so nothing of it is kept.
        await sink.abort()
        raise
    call.came_in(report.imported)
    return JsonResponse({"imported": report.imported, "byteOffset": report.byte_offset})


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
    path = call.request.path_params
    events = await call.store.push_incremental_import(
        call.blocks(),
        path["id"],
        part=path["part"],
        ignore_unknown_keys=call.query.ignore_unknown_keys,
        max_line_bytes=call.service.limits.max_event_bytes,
    )
    return JsonResponse({"events": events})


async def _commit(call: Call[CommitQuery]) -> Response:
    report = await call.store.commit_incremental_import(
        call.request.path_params["id"], older=call.query.older
    )
    merged(call, report)
    return JsonResponse(report)


async def _roll_back(call: Call[NoQuery]) -> Response:
    await call.store.rollback_incremental_import(call.request.path_params["id"])
    return Response(status_code=204)


def merged(call: Call[Any], report: ImportReport) -> None:
    """Count what an incremental import did."""
    call.came_in(report.imported)
    call.service.metrics.skipped_some(report.skipped_existing, report.skipped_older)


import_handler = Handler("import", ImportQuery, _import, is_import=True)
incremental_import_handler = Handler("incremental-import", IncrementalQuery, _incremental, is_import=True)
begin_handler = Handler("begin", NoQuery, _begin)
part_handler = Handler("part", PartQuery, _part, is_import=True)
commit_handler = Handler("commit", CommitQuery, _commit, is_import=True)
rollback_handler = Handler("rollback", NoQuery, _roll_back)

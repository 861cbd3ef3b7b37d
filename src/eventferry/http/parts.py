"""Handlers of imports in parts, which replace."""

from __future__ import annotations

from eventferry import ImportReport, PartReport
from eventferry.http.handling import Call, Query
from eventferry.http.imports import EVENTS, WRITES, BegunAnswer, PartQuery
from eventferry.http.route import answers, route

_OPEN = "/imports/{id}"


class _BeginQuery(Query):
    replace: bool = False


class _CommitQuery(Query):
    allow_empty: bool = False


@route("POST", "/imports", "import", refuses=WRITES)
@answers("Its id.", BegunAnswer, status=201)
async def begin_import_handler(call: Call[_BeginQuery]) -> BegunAnswer:
    """Begin an import in parts, which replaces all events."""
    return BegunAnswer(await call.store.begin_import(replace=call.query.replace))


@route("PUT", _OPEN + "/parts/{part}", "import", refuses=(404, *WRITES), body=EVENTS, is_import=True)
@answers("The number of events of the part, and its bytes in UTF-8.", PartReport)
async def push_import_handler(call: Call[PartQuery]) -> PartReport:
    """Send a part of an import that replaces. Sending it again replaces the part."""
    return await call.store.push_import(
        call.path_text("id"),
        call.path["part"].decode(errors="surrogateescape"),  # often the name of a file
        call.blocks(),
        ignore_unknown_keys=call.query.ignore_unknown_keys,
        max_line_bytes=call.service.limits.max_event_bytes,
    )


@route("POST", _OPEN + "/commit", "import", refuses=(404, *WRITES), is_import=True)
@answers("The number of imported events.", ImportReport)
async def commit_import_handler(call: Call[_CommitQuery]) -> ImportReport:
    """Replace all events by those of the parts, in one step. Repeating it gives the same answer."""
    report = await call.store.commit_import(call.path_text("id"), allow_empty=call.query.allow_empty)
    call.came_in(report.imported)
    return report


@route("DELETE", _OPEN, "import", refuses=(404,))
@answers("It was discarded.", status=204)
async def rollback_import_handler(call: Call[Query]) -> None:
    """Discard an open import in parts."""
    await call.store.rollback_import(call.path_text("id"))

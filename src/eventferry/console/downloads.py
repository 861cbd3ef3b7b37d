"""Downloads: selected events as a file of JSON Lines."""

from __future__ import annotations

from contextlib import AsyncExitStack

from eventferry.console.page import PageAnswer, Visit, page
from eventferry.console.queries import Period
from eventferry.http.streams import LinesResponse


@page("GET", "/download", "read")
async def download_page(visit: Visit[Period]) -> PageAnswer:
    """Selected events, as a file. A browser tells if it was cut."""
    metrics = visit.house.service.metrics
    async with AsyncExitStack() as stack:
        export = visit.store.export_events(**visit.given.arguments())
        await stack.enter_async_context(export)
        await export.begin()  # what is refused is refused before a file begins
        stack.pop_all()
    metrics.open_exports.inc()

    async def ended() -> None:
        metrics.open_exports.dec()
        metrics.events.labels(visit.operation, "out").inc(export.exported)
        await export.aclose()

    return LinesResponse(
        export,
        headers={
            "Content-Disposition": 'attachment; filename="events.jsonl"',
            "X-Content-Type-Options": "nosniff",
        },
        timeout=visit.house.service.limits.timeout,
        ended=ended,
    )

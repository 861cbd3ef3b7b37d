"""The overview: what the store holds, and in which state it is."""

from __future__ import annotations

from eventferry.console.page import Answer, View, Visit, page
from eventferry.http.handling import Query


@page("GET", "", "read")
async def overview_page(visit: Visit[Query]) -> Answer:
    """What the store holds."""
    description = await visit.store.describe(estimate_counts=True)
    return View("overview.html", {"store": description, "last": await visit.store.last_events(10)})

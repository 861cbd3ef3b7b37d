"""The overview: what the store holds, in which state it is, and what it is made of."""

from __future__ import annotations

from functools import partial

from eventferry.console.chart import chart_of
from eventferry.console.page import PageAnswer, View, Visit, page
from eventferry.console.queries import Period
from eventferry.databases.dialect import COUNTED
from eventferry.http.handling import Query

_LAST = 10
_TOP = 100


@page("GET", "", "read")
async def overview_page(visit: Visit[Period]) -> PageAnswer:
    """What the store holds. The chart comes behind the page, for it may take longer."""
    store = visit.store
    described = await store.describe(estimate_counts=True)
    is_counted = "databaseFile" in described.resource_names and described.event_count < COUNTED
    values = {
        "given": visit.given,
        "store": described,
        "is_counted": is_counted,
        "last": visit.masked((await store.tail(_LAST)).events),
    }
    return View("overview.html", values)


@page("GET", "/chart", "read")
async def chart_page(visit: Visit[Period]) -> PageAnswer:
    """Events over time."""
    given = visit.given
    timeline = await visit.counted(partial(visit.store.timeline, **given.arguments()))
    return View("chart.html", {"given": given, "chart": chart_of(timeline)})


@page("GET", "/types", "read")
async def types_page(visit: Visit[Query]) -> PageAnswer:
    """The types of events."""
    return View("types.html", {"found": await visit.counted(partial(visit.store.event_types, top=_TOP))})


class AggregatesQuery(Query, kw_only=True):
    """Aggregates that begin so."""

    prefix: str = ""


@page("GET", "/aggregates", "read")
async def aggregates_page(visit: Visit[AggregatesQuery]) -> PageAnswer:
    """The aggregates."""
    prefix = visit.given.prefix
    prefixes = [prefix] if prefix else None
    found = await visit.counted(partial(visit.store.aggregates, top=_TOP, aggregate_prefixes=prefixes))
    return View("aggregates.html", {"given": visit.given, "found": found})

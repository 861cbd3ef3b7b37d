"""Search: events that hold a text or a value, and those of a correlation.

A search looks at so many events in one request, and says where it goes on: so a page is there soon, however large the
store is.
"""

from __future__ import annotations

import msgspec

from eventferry import by_cause
from eventferry.console.page import PageAnswer, View, Visit, page
from eventferry.console.queries import Period
from eventferry.errors import UsageError
from eventferry.looking.searching import typed_value

_FOUND = 50
_SCAN = 100_000


class SearchQuery(Period, kw_only=True):
    """What is searched for, among which events, and from which cursor on."""

    text: str = ""
    path: str = ""
    value: str = ""
    cursor: str = ""


@page("GET", "/search", "read")
async def search_page(visit: Visit[SearchQuery]) -> PageAnswer:
    """Search events."""
    given = visit.given
    if not (given.text or given.path):
        if given.value:
            raise UsageError("a value is searched for at a path, such as /customer/email")
        return View("search.html", {"given": given, "found": None, "events": []})
    found = await visit.store.search(
        given.text or None,
        path=given.path or None,
        value=typed_value(given.value) if given.value else msgspec.UNSET,
        cursor=given.cursor or None,
        limit=_FOUND,
        scan=_SCAN,
        **given.arguments(),
    )
    return View("search.html", {"given": given, "found": found, "events": visit.masked(found.events)})


class TraceQuery(Period, kw_only=True):
    """Which correlation, and from which cursor on."""

    correlation: str = ""
    cursor: str = ""


@page("GET", "/trace", "read")
async def trace_page(visit: Visit[TraceQuery]) -> PageAnswer:
    """The events of a correlation, each behind what caused it."""
    given = visit.given
    if not given.correlation:
        return View("trace.html", {"given": given, "found": None, "traced": []})
    found = await visit.store.trace(
        given.correlation, cursor=given.cursor or None, limit=_FOUND, scan=_SCAN, **given.arguments()
    )
    traced = [(depth, visit.house.mask.traced(each)) for depth, each in by_cause(found.events)]
    return View("trace.html", {"given": given, "found": found, "traced": traced})

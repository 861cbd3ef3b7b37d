"""Looking into a store: statistics, histories, search."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from eventferry.errors import UsageError
from eventferry.facade.opened import Opened
from eventferry.lines.damaged import seen_event
from eventferry.lines.event import Event
from eventferry.lines.limits import MAX_SAFE_INTEGER
from eventferry.looking import counting, searching, tracing
from eventferry.looking.counting import Aggregates, EventTypes, LargeEvent, Stats, Timeline
from eventferry.looking.history import History, history
from eventferry.looking.searching import SearchPage
from eventferry.looking.tracing import Trace
from eventferry.reading import histories
from eventferry.reading.arguments import Filters, check_integer, filter_of, text
from eventferry.results import Page

if TYPE_CHECKING:
    from eventferry.looking.poison import PoisonSearch

SCAN = 100_000
"""Events that a search looks at in one call."""


class Looking(Opened):
    """What is in a store. Nothing here changes it."""

    async def stats(
        self, *, span: str | int | None = None, top: int = 10, **filters: Unpack[Filters]
    ) -> Stats:
        """Count what is in the store: types, aggregates, events over time, the largest payloads.

        The database counts, in one state of the store: it takes about as long as counting by hand.

        Args:
            span: of the timeline: "second", "minute", "hour", "day", "week", or milliseconds. None chooses one by which
                there are about a hundred.
            top: how many types, aggregates and large events are named one by one.
            filters: of which events.

        Raises:
            UsageError: there would be more than 10,000 points in the timeline.
        """
        return await counting.stats(self._database, filter_of(**filters), span, _at_least_one("top", top))

    async def event_types(self, *, top: int = 100, **filters: Unpack[Filters]) -> EventTypes:
        """The types with the most events, and how many events of how many types there are."""
        return await counting.event_types(self._database, filter_of(**filters), _at_least_one("top", top))

    async def aggregates(self, *, top: int = 100, **filters: Unpack[Filters]) -> Aggregates:
        """The aggregates with the most events, and how many aggregates there are."""
        return await counting.aggregates(self._database, filter_of(**filters), _at_least_one("top", top))

    async def timeline(self, *, span: str | int | None = None, **filters: Unpack[Filters]) -> Timeline:
        """Events over time; `span` as in `stats`. It reads the index of the order alone, unless filters need more."""
        return await counting.timeline(self._database, filter_of(**filters), span)

    async def largest_events(self, *, top: int = 10, **filters: Unpack[Filters]) -> list[LargeEvent]:
        """Where the events with the largest payloads are, the largest first."""
        return await counting.largest(self._database, filter_of(**filters), _at_least_one("top", top))

    async def tail(self, n: int = 10, **filters: Unpack[Filters]) -> Page:
        """The last `n` events in the order of docs/order.md, the last one at the end; they also end at 64 MiB.

        The page's cursor and bookmark are those behind the last event of the store: `follow` goes on from there, and
        no event is missed in between.
        """
        return await histories.tail(self._database, _at_least_one("n", n), filter_of(**filters))

    async def history(self, aggregate_id: str, from_version: int = 1, limit: int = 100) -> History:
        """The history of an aggregate: its events from a version on, each with what differs from the event of the same
        type before it."""
        check_integer("from_version", from_version, 1)
        check_integer("limit", limit, 1)
        return await history(self._database, text("aggregate_id", aggregate_id), from_version, limit)

    async def event_at(self, thread_id: int, thread_counter: int) -> Event | None:
        """The event at a position; None if there is none."""
        check_integer("thread_id", thread_id, 0)
        check_integer("thread_counter", thread_counter, 0)
        if max(thread_id, thread_counter) > MAX_SAFE_INTEGER:  # beyond what a database can be asked for
            return None
        async with self._database.reading() as reading:
            lines = await reading.lines_at([(thread_id, thread_counter)], max_bytes=1)
        return seen_event(lines[0]) if lines else None

    async def search(
        self,
        text: str | None = None,
        *,
        path: str | None = None,
        value: Any = msgspec.UNSET,
        cursor: str | None = None,
        limit: int = 100,
        scan: int = SCAN,
        **filters: Unpack[Filters],
    ) -> SearchPage:
        """Search events for a text, or for a value in some place of their payloads, or both.

        Args:
            text: stands in a type, an aggregateId, or a key or value of a payload. Upper and lower case are the same.
            path: a JSON Pointer into the payload, such as /customer/email; `*` stands for each member or element.
            value: what stands there, as a JSON value; a string also finds a number that is written so. If it is not
                given, any.
            cursor: begin at this cursor; None is the start of the store.
            limit: maximum number of events to give.
            scan: maximum number of events to look at. The page's cursor says where to go on.
            filters: only among these events.
        """
        wanted = searching.Holding(text, path, value)
        return await searching.search(
            self._database,
            wanted,
            filter_of(**filters),
            cursor,
            _at_least_one("limit", limit),
            _at_least_one("scan", scan),
        )

    async def trace(
        self,
        correlation: str,
        *,
        cursor: str | None = None,
        limit: int = 100,
        scan: int = SCAN,
        **filters: Unpack[Filters],
    ) -> Trace:
        """Search events that belong together: those whose metadata say this correlation id, and those that have it as
        their own id or as that of their cause. `eventferry.by_cause` puts them behind their causes.

        Args:
            correlation: the id.
            cursor, limit, scan, filters: as in `search`.
        """
        return await tracing.trace(
            self._database,
            correlation,
            filter_of(**filters),
            cursor,
            _at_least_one("limit", limit),
            _at_least_one("scan", scan),
        )

    async def find_poison(
        self,
        function: str | Callable[[Event], Any],
        *,
        cursor: str | None = None,
        scan: int = SCAN,
        max_seconds: float | None = 60,
        tell: Callable[[int], None] | None = None,
        **filters: Unpack[Filters],
    ) -> PoisonSearch:
        """Find the first event that a function refuses: it is given one event after another until it raises something.

        An event that cannot be read counts as refused.

        Args:
            function: takes an `Event`, and may be a coroutine function. By its name, "module:function", it is called in
                a process of its own: if it ends that, the event is refused. What it prints goes to standard error.
            cursor, scan, filters: as in `search`.
            max_seconds: seconds after which an event counts as refused; up to twice as many pass. None for no limit.
                Only for a function that is given by its name.
            tell: called now and then with how many events were looked at.

        Raises:
            UsageError: the function cannot be loaded.
            WorkerError: its process cannot be started, or was ended before the first event.
        """
        # Every store that is opened imports this module, and what starts processes is for those who call this.
        from eventferry.looking import poison

        if max_seconds is not None and not (isinstance(max_seconds, int | float) and max_seconds > 0):
            raise UsageError(f"max_seconds must be a number of seconds, not {max_seconds!r:.100}")
        return await poison.find_poison(
            self._database,
            function,
            filter_of(**filters),
            cursor,
            _at_least_one("scan", scan),
            max_seconds,
            tell,
        )


def _at_least_one(name: str, value: int) -> int:
    check_integer(name, value, 1)
    return value

"""What is in a store, counted by the database itself: types, aggregates, events over time, the largest payloads.

Each question is one statement, which reads the events, or an index that says it, once. What comes back is bounded
however many types and aggregates there are.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventferry.database import Database, Filter, Reading
from eventferry.databases.dialect import Condition, Dialect
from eventferry.errors import UsageError
from eventferry.looking.conditions import matching

MOST_POINTS = 10_000
"""Points of a timeline, at most."""

_USUAL_POINTS = 120  # of a timeline whose spans are not given, about
_DAY = 86_400_000
SPANS = {"second": 1000, "minute": 60_000, "hour": 3_600_000, "day": _DAY, "week": 7 * _DAY}
"""Spans of time by their names, in milliseconds. A week begins on a Thursday, as 1970 did."""

_CHOICE = (
    *(1000 * seconds for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200)),
    *(_DAY * days for days in (1, 2, 7, 14, 28, 91, 364)),
)


class TypeCount(msgspec.Struct, frozen=True, rename="camel"):
    """Events of one type.

    Attributes:
        type: the type.
        events: how many there are.
        bytes: the bytes of their payloads, about.
        largest: the bytes of the largest payload, about.
        first_timestamp, last_timestamp: of the first and the last one, in ms since 1970; None where a foreign writer
            has let in none that is a number.
    """

    type: str
    events: int
    bytes: int
    largest: int
    first_timestamp: int | None
    last_timestamp: int | None


class EventTypes(msgspec.Struct, frozen=True, rename="camel"):
    """The types of events.

    Attributes:
        types: those with the most events, the most first.
        count: how many types there are.
        events: how many events there are, of all types.
        bytes: the bytes of their payloads, about.
        first_timestamp, last_timestamp: of the first and the last event, in ms since 1970; None if there is none.
    """

    types: list[TypeCount]
    count: int
    events: int
    bytes: int
    first_timestamp: int | None
    last_timestamp: int | None


class AggregateCount(msgspec.Struct, frozen=True, rename="camel"):
    """An aggregate and the number of its events."""

    aggregate_id: str
    events: int


class Aggregates(msgspec.Struct, frozen=True, rename="camel"):
    """The aggregates of a store.

    Attributes:
        aggregates: those with the most events, the most first.
        count: how many aggregates there are.
    """

    aggregates: list[AggregateCount]
    count: int


class Point(msgspec.Struct, frozen=True):
    """A span of time: its start, in ms since 1970, and the number of events in it."""

    start: int
    events: int


class Timeline(msgspec.Struct, frozen=True):
    """Events over time.

    Attributes:
        span: the length of each span of time, in ms. Spans of a day or less begin with those of UTC.
        points: the spans that have events, in order.
    """

    span: int
    points: list[Point]


class LargeEvent(msgspec.Struct, frozen=True, rename="camel"):
    """Where an event with a large payload is; `bytes` are the payload's, about."""

    thread_id: int
    thread_counter: int
    type: str
    timestamp: int
    aggregate_id: str
    aggregate_version: int
    bytes: int


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """What is in a store.

    Attributes:
        types: the types, with the number, sizes and times of all events.
        aggregates: the aggregates.
        timeline: events over time.
        largest: the events with the largest payloads, the largest first.
        events_per_day: from the first event to the last, on average; None for less than a second.
        busiest: the span of time with the most events; None without events.
    """

    types: EventTypes
    aggregates: Aggregates
    timeline: Timeline
    largest: list[LargeEvent]
    events_per_day: float | None
    busiest: Point | None


async def stats(database: Database, only: Filter, span: str | int | None, top: int) -> Stats:
    """All of it, of one state of the store."""
    length = _length_of(span)
    async with database.reading() as reading:
        types = await _types(reading, only, top)
        aggregates = await _aggregates(reading, only, top)
        timeline = await _timeline(reading, only, length)
        largest = await _largest(reading, only, top)
    first, last = types.first_timestamp, types.last_timestamp
    lasts = 0 if first is None or last is None else last - first
    return Stats(
        types=types,
        aggregates=aggregates,
        timeline=timeline,
        largest=largest,
        events_per_day=types.events * _DAY / lasts if lasts >= SPANS["second"] else None,
        busiest=max(timeline.points, key=lambda point: point.events, default=None),
    )


async def event_types(database: Database, only: Filter, top: int) -> EventTypes:
    """The types with the most events."""
    async with database.reading() as reading:
        return await _types(reading, only, top)


async def aggregates(database: Database, only: Filter, top: int) -> Aggregates:
    """The aggregates with the most events."""
    async with database.reading() as reading:
        return await _aggregates(reading, only, top)


async def timeline(database: Database, only: Filter, span: str | int | None) -> Timeline:
    """Events over time."""
    length = _length_of(span)
    async with database.reading() as reading:
        return await _timeline(reading, only, length)


async def largest(database: Database, only: Filter, top: int) -> list[LargeEvent]:
    """The events with the largest payloads."""
    async with database.reading() as reading:
        return await _largest(reading, only, top)


def _length_of(span: str | int | None) -> int | None:
    if span is None or (isinstance(span, int) and not isinstance(span, bool) and span > 0):
        return span
    if isinstance(span, str) and span in SPANS:
        return SPANS[span]
    raise UsageError(f"span must be one of {', '.join(SPANS)}, or milliseconds, not {span!r:.100}")


async def _types(reading: Reading, only: Filter, top: int) -> EventTypes:
    dialect = reading.dialect
    time = dialect.column("timestamp")
    table, condition = _events(dialect, only)
    # What goes over all types is counted behind their groups, so that the events are read once.
    rows = await reading.ask(
        f"""SELECT kind, events, bytes, largest, beginning, ending, count(*) OVER (), sum(events) OVER (),
          sum(bytes) OVER (), min(beginning) OVER (), max(ending) OVER ()
        FROM (
          SELECT kind, count(*) AS events, sum(size) AS bytes, max(size) AS largest, min(moment) AS beginning,
            max(moment) AS ending
          FROM (
            SELECT {dialect.grouped("type")} AS kind, CASE WHEN {dialect.is_time} THEN {time} END AS moment,
              {dialect.payload_size} AS size
            FROM {table} WHERE {condition.text} {dialect.computed_once}
          ) AS found GROUP BY kind
        ) AS counted ORDER BY 2 DESC, 1 LIMIT %s""",
        (*condition.values, top),
    )
    if not rows:
        return EventTypes([], 0, 0, 0, None, None)
    count, events, total = map(int, rows[0][6:9])
    types = [
        TypeCount(_name(kind), int(number), int(size), int(largest), *map(_time, times))
        for kind, number, size, largest, *times in (row[:6] for row in rows)
    ]
    return EventTypes(types, count, events, total, *map(_time, rows[0][9:]))


def _name(found: Any) -> str:
    """A type or an id, which some drivers give as its bytes. A foreign writer may have let in what is no UTF-8."""
    return found.decode(errors="backslashreplace") if isinstance(found, bytes) else str(found)


def _time(found: Any) -> int | None:
    return None if found is None else int(found)


async def _aggregates(reading: Reading, only: Filter, top: int) -> Aggregates:
    dialect = reading.dialect
    table, condition = _events(dialect, only)
    # The index on aggregateId says all that is asked, unless it is asked for types or times.
    is_in_index = only == Filter(aggregate_ids=only.aggregate_ids, aggregate_prefixes=only.aggregate_prefixes)
    name = dialect.column("aggregateId") if is_in_index else dialect.grouped("aggregateId")
    rows = await reading.ask(
        f"""SELECT {name}, count(*), count(*) OVER () FROM {table} WHERE {condition.text}
        GROUP BY {name} ORDER BY 2 DESC, 1 LIMIT %s""",
        (*condition.values, top),
    )
    found = [AggregateCount(_name(aggregate), int(events)) for aggregate, events, _ in rows]
    return Aggregates(found, int(rows[0][2]) if rows else 0)


async def _timeline(reading: Reading, only: Filter, span: int | None) -> Timeline:
    dialect = reading.dialect
    table, condition = _events(dialect, only)
    time = dialect.column("timestamp")
    where = f"{condition.text} AND {dialect.is_time}"
    if span is None:
        # Each by itself: so SQLite reads the two ends of an index, and not all of it.
        ends = [f"(SELECT {end}({time}) FROM {table} WHERE {where})" for end in ("min", "max")]
        [(first, last)] = await reading.ask(f"SELECT {', '.join(ends)}", condition.values * 2)
        span = _CHOICE[0] if first is None else _span_for(int(last) - int(first))
    # Not by a division: where it rounds down differs for timestamps before 1970.
    start = f"{time} - (({time} %% {span:d}) + {span:d}) %% {span:d}"
    rows = await reading.ask(
        f"SELECT {start}, count(*) FROM {table} WHERE {where} GROUP BY 1 ORDER BY 1 LIMIT %s",
        (*condition.values, MOST_POINTS + 1),
    )
    if len(rows) > MOST_POINTS:
        raise UsageError(
            f"a timeline with more than {MOST_POINTS:,} points: take a longer span, or a start_time and finish_time"
        )
    return Timeline(span, [Point(int(begin), int(events)) for begin, events in rows])


def _span_for(milliseconds: int) -> int:
    """The span of time for a timeline of this length."""
    wanted = milliseconds / _USUAL_POINTS
    longest = _CHOICE[-1]
    return next((span for span in _CHOICE if span >= wanted), -(-int(wanted) // longest) * longest)


async def _largest(reading: Reading, only: Filter, top: int) -> list[LargeEvent]:
    dialect = reading.dialect
    table, condition = _events(dialect, only)
    names = ("threadId", "threadCounter", "type", "timestamp", "aggregateId", "aggregateVersion")
    rows = await reading.ask(
        f"""SELECT {", ".join(map(dialect.column, names))}, {dialect.payload_size}
        FROM {table} WHERE {condition.text} ORDER BY 7 DESC, 1, 2 LIMIT %s""",
        (*condition.values, top),
    )
    return [LargeEvent(*row) for row in rows]


def _events(dialect: Dialect, only: Filter) -> tuple[str, Condition]:
    return dialect.table(dialect.tables.events), matching(dialect, only)

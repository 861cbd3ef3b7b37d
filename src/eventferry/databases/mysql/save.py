"""Storing events behind their threads' heads, in one round trip where nothing is in the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pymysql.constants import ER
from pymysql.err import MySQLError

from eventferry.cursor import MAX_COUNTER
from eventferry.database import NextPlace, Save, Saved
from eventferry.databases.mysql.connection import TOO_LARGE, Connection, duplicate_key, number_of
from eventferry.databases.mysql.markers import FREEZE
from eventferry.databases.mysql.reading import ALL_HEADS, heads_of
from eventferry.databases.mysql.shape import Shape
from eventferry.databases.mysql.tables import Names, quoted
from eventferry.errors import ConcurrentError, DatabaseError, InputError, UnsupportedStoreError
from eventferry.lines.limits import MAX_SAFE_INTEGER, full_thread
from eventferry.reading import order

BEGIN = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"
_LONG_AGO = -(2**63)


class Place(NamedTuple):
    """A thread to try, and whether its last timestamp must not be later than the event's."""

    thread: int
    in_time: bool


class Found(NamedTuple):
    """What stood in the way of events: the freeze marker's comment, or that they are not the next of their aggregate,
    or the thread of that at this time."""

    marker: str | None
    follows: bool
    thread_at_once: int | None


class Saver:
    """Stores the events of one save."""

    def __init__(self, names: Names, shape: Shape, save: Save) -> None:
        self._names = names
        self._shape = shape
        self._save = save
        self._values: dict[str, Any] = {
            "timestamp": save.timestamp,
            "aggregate": save.aggregate_id,
            "version": save.version,
            "before": MAX_SAFE_INTEGER + 1 if save.is_next else save.version,
            "is_next": save.is_next,
            "number": len(save.events),
        }
        for step, event in enumerate(save.events):
            self._values |= {f"type_{step}": event.type, f"payload_{step}": event.payload.decode()}
        self._events, self._threads = quoted(names.tables.events), quoted(names.threads)
        self.preferred = Place(order.thread_of(save.aggregate_id), in_time=True)

    def store(self, connection: Connection, place: Place) -> Saved | Found:
        [stored] = store(connection, self._names, [(self, place)])
        return stored

    def statements(self, connection: Connection, place: Place) -> list[str]:
        """What stores the events in this thread, whose row is locked, if they belong there; its row says whether they
        did. No counter behind the highest: the column refuses the null."""
        rows = " UNION ALL ".join(
            f"""SELECT %(thread)s, IF(@counter + {step} <= {MAX_COUNTER}, @counter + {step}, NULL),
          %(timestamp)s, %(aggregate)s, %(version)s + {step}, %(type_{step})s, %(payload_{step})s
        FROM DUAL WHERE @goes"""
            for step in range(len(self._save.events))
        )
        follows = "(NOT %(is_next)s OR @version = %(version)s - 1)"
        # Few statements: each costs the server, and us, more than most of what is in it.
        statements = [
            f"""SELECT threadCounter, (SELECT timestamp FROM {self._events}
                WHERE threadId = %(thread)s AND threadCounter = t.threadCounter - 1), 0, NULL
              INTO @counter, @last, @version, @at_once
              FROM {self._threads} AS t WHERE threadId = %(thread)s""",
            f"""SELECT aggregateVersion, at_once INTO @version, @at_once
              FROM ({_before(self._events, self._shape)}) AS before_it""",
            f"""SET @follows = {follows}, @goes = @marker IS NULL AND {follows}
              AND COALESCE(@at_once, %(thread)s) = %(thread)s
              AND (NOT %(in_time)s OR COALESCE(@last, {_LONG_AGO}) <= %(timestamp)s)""",
            f"""INSERT INTO {self._events}
              (threadId, threadCounter, timestamp, aggregateId, aggregateVersion, type, payload)
            {rows}""",
            f"""UPDATE {self._threads} SET threadCounter = threadCounter + %(number)s
            WHERE threadId = %(thread)s AND @goes""",
            "SELECT @goes, @marker, @follows, @at_once, @counter",
        ]
        return connection.packets(statements, self._values | place._asdict())

    def next_place(self, connection: Connection, found: Found) -> Place:
        if found.thread_at_once is not None:
            return Place(found.thread_at_once, in_time=False)
        last = _last_timestamps(connection, self._names)
        return _free_place(self.preferred.thread, self._save.timestamp, last)

    def refusal(self, connection: Connection, place: Place, error: MySQLError) -> Exception:
        """What an error of the server's means that came of storing the events; nothing of them is left."""
        if number_of(error) == ER.BAD_NULL_ERROR:
            return full_thread(place.thread)
        if number_of(error) == TOO_LARGE and len(self._save.events) > 1:
            return UnsupportedStoreError(f"several events at once: {error.args[1]}")
        key = duplicate_key(error)
        if key is None:
            return error
        if key != "aggregate":
            return DatabaseError(
                f"the counters in {self._names.threads!r} are behind the events: {error.args[1]}"
            )
        return taken(connection, self._names, self._shape, self._save.aggregate_id, self._save.version)

    def stored(self, connection: Connection) -> Saved | None:
        same = " OR ".join(
            f"""(aggregateVersion = %(version)s + {step}
              AND CAST(type AS BINARY) = CAST(%(type_{step})s AS BINARY)
              AND CAST(payload AS BINARY) = CAST(%(payload_{step})s AS BINARY))"""
            for step in range(len(self._save.events))
        )
        rows = connection.query(
            f"""SELECT threadId, threadCounter FROM {self._events} AS e
            WHERE {self._shape.same("e.aggregateId", "%(aggregate)s")}
              AND aggregateVersion BETWEEN %(version)s AND %(version)s + %(number)s - 1
              AND timestamp = %(timestamp)s AND ({same}) ORDER BY aggregateVersion""",
            self._values,
        )
        if len(rows) < len(self._save.events):
            return None
        [(heads,)] = connection.query(f"SELECT {ALL_HEADS} FROM {self._threads}")
        thread, counter = rows[0]
        return Saved(thread, counter, heads_of(heads, self._names))


def _before(events: str, shape: Shape) -> str:
    """A statement about the aggregate's last event before a version: which it is, and the thread of the last one before
    it that stands at this very timestamp."""
    same = shape.same("e.aggregateId", "%(aggregate)s")
    return f"""SELECT last.aggregateVersion,
          CASE WHEN last.timestamp = %(timestamp)s THEN last.threadId ELSE (
            SELECT e.threadId FROM {events} AS e {shape.time_hint}
            WHERE e.timestamp = %(timestamp)s AND {same} AND e.aggregateVersion < %(before)s
            ORDER BY e.threadCounter DESC, e.threadId DESC LIMIT 1
          ) END AS at_once FROM (
            SELECT e.aggregateVersion, e.timestamp, e.threadId FROM {events} AS e
            WHERE {same} AND e.aggregateVersion < %(before)s ORDER BY e.aggregateVersion DESC LIMIT 1
          ) AS last"""


def _last_timestamps(connection: Connection, names: Names) -> dict[int, int | None]:
    """The last timestamp of each thread; None where it has no event."""
    return dict(
        connection.query(
            f"""SELECT t.threadId, e.timestamp FROM {quoted(names.threads)} AS t
            LEFT JOIN {quoted(names.tables.events)} AS e
            ON e.threadId = t.threadId AND e.threadCounter = t.threadCounter - 1"""
        )
    )


def _free_place(preferred: int, timestamp: int, last: Mapping[int, int | None]) -> Place:
    """The preferred thread, or the next whose last timestamp is not later; if none is, the preferred one anyhow."""
    for candidate in (*range(preferred, 256), *range(preferred)):
        if (latest := last[candidate]) is None or latest <= timestamp:
            return Place(candidate, in_time=True)
    return Place(preferred, in_time=False)


def next_places(
    connection: Connection, names: Names, shape: Shape, wanted: Sequence[tuple[str, int]]
) -> list[NextPlace]:
    """Where the next event of each aggregate goes at this timestamp, in a transaction that holds the threads."""
    before = _before(quoted(names.tables.events), shape)
    statements = "; ".join(
        connection.with_values(
            before, {"aggregate": aggregate_id, "timestamp": timestamp, "before": MAX_SAFE_INTEGER + 1}
        )
        for aggregate_id, timestamp in wanted
    )
    found = connection.results(statements, None)
    last = _last_timestamps(connection, names)
    places: list[NextPlace] = []
    for (aggregate_id, timestamp), rows in zip(wanted, found, strict=True):
        version, at_once = rows[0] if rows else (0, None)
        if at_once is None:
            at_once = _free_place(order.thread_of(aggregate_id), timestamp, last).thread
        places.append(NextPlace(version, at_once))
    return places


def store(connection: Connection, names: Names, saves: Sequence[tuple[Saver, Place]]) -> list[Saved | Found]:
    """Store the saves in these threads, those that belong there, in a transaction which has ended in any case.

    The threads' rows are locked until the end: within a thread, commit order is counter order. The marker is looked for
    after that, because whoever sets it holds all rows."""
    threads = quoted(names.threads)
    # In order of the threads, as everybody does: nobody waits for one who waits for him.
    numbers = ", ".join({str(place.thread) for _, place in saves})
    lock = f"SELECT COUNT(*) INTO @locked FROM {threads} WHERE threadId IN ({numbers}) ORDER BY threadId FOR UPDATE"
    marker = f"SET @marker = ({FREEZE})"
    found = {"database": connection.access.database, "freeze": names.tables.freeze}
    # The heads are looked at behind the commit: before it, two who save at once don't see each other's event.
    parts = [
        *connection.packets([*BEGIN, lock, marker], found),
        *(packet for saver, place in saves for packet in saver.statements(connection, place)),
        *connection.packets(["COMMIT", f"SELECT {ALL_HEADS} FROM {threads}"], ()),
    ]
    *rows, [(heads,)] = [found for found in connection.sent(parts) if found]
    after = heads_of(heads, names)
    return [
        Saved(place.thread, int(counter), after)
        if goes
        else Found(_text(told), bool(follows), None if at_once is None else int(at_once))
        for (_, place), [(goes, told, follows, at_once, counter)] in zip(saves, rows, strict=True)
    ]


def taken(
    connection: Connection, names: Names, shape: Shape, aggregate_id: str, version: int
) -> ConcurrentError | InputError:
    """The error for a version that the key on aggregates takes for one that exists."""
    rows = connection.query(
        f"""SELECT aggregateId FROM {quoted(names.tables.events)}
        WHERE aggregateId = %s AND aggregateVersion = %s""",
        (aggregate_id, version),
    )
    if not shape.folds or not rows or rows[0][0] == aggregate_id:
        return ConcurrentError(aggregate_id, version)
    return InputError(
        f"{aggregate_id!r} is the same as {rows[0][0]!r} to this store's column, whose collation is "
        f"{shape.collation}, and that has an event of version {version} already",
        field="aggregateId",
    )


def _text(value: object) -> str | None:
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)

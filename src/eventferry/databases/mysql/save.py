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
_FIRST_UPDATE, _OF_A_SAVE = len(BEGIN) + 2, 3  # where the answers tell of the counters that were moved


class Place(NamedTuple):
    """A thread to try, and whether its last timestamp must not be later than the event's."""

    thread: int
    in_time: bool


class Obstacle(NamedTuple):
    """What stood in the way of events: the freeze marker's comment, or that they are not the next of their aggregate,
    or the thread of that at this time."""

    marker: str | None
    follows: bool
    thread_at_once: int | None


class Saver:
    """Stores the events of one save."""

    def __init__(self, names: Names, shape: Shape, save: Save, database: str) -> None:
        self._names = names
        self._shape = shape
        self._save = save
        self._values: dict[str, Any] = {
            "timestamp": save.timestamp,
            "aggregate": save.aggregate_id,
            "version": save.version,
            "before": MAX_SAFE_INTEGER + 1 if save.is_next else save.version,
            "number": len(save.events),
            "database": database,
            "freeze": names.tables.freeze,
        }
        for step, event in enumerate(save.events):
            self._values |= {f"type_{step}": event.type, f"payload_{step}": event.payload.decode()}
        self._events, self._threads = quoted(names.tables.events), quoted(names.threads)
        self.preferred = Place(order.thread_of(save.aggregate_id), in_time=True)

    def statements(self, connection: Connection, place: Place, behind: Sequence[str] = ()) -> list[str]:
        """What stores the events in this thread if they belong there, and what is to be asked `behind` the lock on its
        row. No counter behind the highest: the column refuses the null."""
        conditions = [
            "threadId = %(thread)s",
            "@marker IS NULL",
            f"IFNULL(({_at_once(self._events, self._shape)}), %(thread)s) = %(thread)s",
        ]
        if place.in_time:
            conditions.append("IFNULL(@last <= %(timestamp)s, TRUE)")
        if self._save.is_next:
            last = _last_version(self._events, self._shape)
            conditions.append(f"IFNULL(({last}), 0) = %(version)s - 1")
        rows = " UNION ALL ".join(
            f"""SELECT %(thread)s, LAST_INSERT_ID() + {step},
          %(timestamp)s, %(aggregate)s, %(version)s + {step}, %(type_{step})s, %(payload_{step})s
        FROM DUAL WHERE ROW_COUNT() = 1"""
            for step in range(len(self._save.events))
        )
        # MariaDB cannot say whose rows it locks; MySQL would ask for the right to change the events.
        locked = "FOR UPDATE" if connection.is_mariadb else "FOR UPDATE OF t"
        # Few statements: each costs the server, and us, more than most of what is in it.
        statements = [
            f"""SELECT e.timestamp INTO @last FROM {self._threads} AS t LEFT JOIN {self._events} AS e
              ON e.threadId = t.threadId AND e.threadCounter = t.threadCounter - 1
            WHERE t.threadId = %(thread)s {locked}""",
            *behind,
            f"""UPDATE {self._threads} SET threadCounter = LAST_INSERT_ID(threadCounter)
              + IF(threadCounter + %(number)s <= {MAX_COUNTER + 1}, %(number)s, NULL)
            WHERE {" AND ".join(conditions)}""",
            f"""INSERT INTO {self._events}
              (threadId, threadCounter, timestamp, aggregateId, aggregateVersion, type, payload)
            {rows}""",
        ]
        return connection.packets(statements, self._values | place._asdict())

    def in_the_way(self, connection: Connection) -> Obstacle:
        """Why the events were not stored, as far as that can still be seen."""
        marker, [(version, at_once)] = connection.results(
            f"{FREEZE}; {_before(self._events, self._shape)}", self._values
        )
        follows = not self._save.is_next or version == self._save.version - 1
        return Obstacle(marker[0][0] if marker else None, follows, at_once)

    def next_place(self, connection: Connection, obstacle: Obstacle) -> Place:
        if obstacle.thread_at_once is not None:
            return Place(obstacle.thread_at_once, in_time=False)
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


def _last_version(events: str, shape: Shape) -> str:
    """A statement that selects the version of the aggregate's last event before a version."""
    return f"""SELECT e.aggregateVersion FROM {events} AS e
            WHERE {shape.same("e.aggregateId", "%(aggregate)s")} AND e.aggregateVersion < %(before)s
            ORDER BY e.aggregateVersion DESC LIMIT 1"""


def _at_once(events: str, shape: Shape) -> str:
    """A statement that selects the thread of the last event that the aggregate has, before a version, at this very
    timestamp. If its last version is of this timestamp, that tells. Only if it is of another one are the events of this
    timestamp gone through: there may be very many of them, of other aggregates."""
    return f"""SELECT IF(last.timestamp = %(timestamp)s, last.threadId, (
              SELECT e.threadId FROM {events} AS e {shape.time_hint} WHERE e.timestamp = %(timestamp)s
                AND {shape.same("e.aggregateId", "%(aggregate)s")} AND e.aggregateVersion < %(before)s
              ORDER BY e.threadCounter DESC, e.threadId DESC LIMIT 1))
            FROM {events} AS last
            WHERE {shape.same("last.aggregateId", "%(aggregate)s")} AND last.aggregateVersion < %(before)s
            ORDER BY last.aggregateVersion DESC LIMIT 1"""


def _before(events: str, shape: Shape) -> str:
    """A statement about the aggregate's events before a version: the last version, and the thread of the last one that
    stands at this very timestamp."""
    return f"SELECT IFNULL(({_last_version(events, shape)}), 0), ({_at_once(events, shape)})"


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
    for (aggregate_id, timestamp), [(version, at_once)] in zip(wanted, found, strict=True):
        if at_once is None:
            at_once = _free_place(order.thread_of(aggregate_id), timestamp, last).thread
        places.append(NextPlace(version, at_once))
    return places


def store(connection: Connection, names: Names, saves: Sequence[tuple[Saver, Place]]) -> list[Saved | None]:
    """Store the saves in these threads, those that belong there, in a transaction which has ended in any case.

    The threads' rows are locked until the end: within a thread, commit order is counter order. The marker is looked for
    behind the first of these locks, because whoever sets it holds all rows."""
    # In order of the threads, as everybody does: nobody waits for one who waits for him.
    in_order = sorted(range(len(saves)), key=lambda number: saves[number][1].thread)
    parts = connection.packets(BEGIN, ())
    behind = [f"SET @marker = ({FREEZE})"]
    for number in in_order:
        saver, place = saves[number]
        parts += saver.statements(connection, place, behind)
        behind = []
    # The heads are looked at behind the commit: before it, two who save at once don't see each other's event.
    parts += connection.packets(["COMMIT", f"SELECT {ALL_HEADS} FROM {quoted(names.threads)}"], ())
    answers = connection.answers(parts)
    [(heads,)] = answers[-1].rows
    after = heads_of(heads, names)
    stored: list[Saved | None] = [None] * len(saves)
    for number, moved in zip(in_order, answers[_FIRST_UPDATE:-2:_OF_A_SAVE], strict=True):
        if moved.affected:
            stored[number] = Saved(saves[number][1].thread, moved.insert_id, after)
    return stored


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

"""Reading a store in a MySQL or MariaDB database: the statements stand beside the code that runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pymysql.err import MySQLError

from eventferry.database import (
    NOTHING,
    Filter,
    Freeze,
    Give,
    HistoryRequest,
    Inspection,
    Key,
    OrderedEvent,
    ReadScope,
    Segment,
    Stage,
    StageKind,
    State,
    Stretch,
)
from eventferry.databases.dialect import Value
from eventferry.databases.mysql import markers
from eventferry.databases.mysql.connection import DEFINITION_CHANGED, Connection, Values, number_of
from eventferry.databases.mysql.dialect import MysqlDialect, begins
from eventferry.databases.mysql.inspect import inspect
from eventferry.databases.mysql.markers import comment_of, freeze_of
from eventferry.databases.mysql.shape import OURS, Shape
from eventferry.databases.mysql.tables import Names, quoted
from eventferry.databases.names import Tables, whole_heads
from eventferry.databases.pace import Pace
from eventferry.databases.stretches import (
    OPEN_END,
    WALK,
    WIDTH,
    conditions,
    give_in_turn,
    matching,
    numbers_of,
    page_of,
    vector,
)
from eventferry.databases.thread import from_thread, threaded
from eventferry.errors import InputError
from eventferry.lines.limits import ColumnLimits
from eventferry.lines.payload import compact


def entry(name: str, thread: str) -> str:
    """A thread's counter in a vector, as an SQL expression. Of characters, not bytes, it would be counted through."""
    return f"CAST(SUBSTRING(%({name})s, {thread} * {WIDTH} + 1, {WIDTH}) AS SIGNED)"


_UNREAD = (
    f"e.threadCounter >= {entry('unread', 'e.threadId')} AND e.threadCounter < {entry('until', 'e.threadId')}"
)
_IN_ORDER = "ORDER BY e.timestamp, e.threadCounter, e.threadId"
_BACKWARDS = "ORDER BY e.timestamp DESC, e.threadCounter DESC, e.threadId DESC"


def _json_string(column: str) -> str:
    """A text as JSON.stringify writes it. JSON_QUOTE does, but that MariaDB's writes capital letters in the escapes of
    control characters: where there are any, each is escaped by itself."""
    column = f"({column} COLLATE utf8mb4_bin)"
    escaped = f"""REPLACE(REPLACE({column}, '\\\\', '\\\\\\\\'), '"', '\\\\"')"""
    for code in range(1, 32):
        escape = json.dumps(chr(code))[1:-1].replace("\\", "\\\\")
        escaped = f"REPLACE({escaped}, CHAR({code} USING utf8mb4), '{escape}')"
    return (
        f"CASE WHEN LOCATE('\\\\u00', JSON_QUOTE({column})) THEN CONCAT('\"', {escaped}, '\"') "
        f"ELSE JSON_QUOTE({column}) END"
    )


LINE = f"""CONCAT('{{"threadCounter":', e.threadCounter, ',"threadId":', e.threadId,
  ',"type":', {_json_string("e.type")}, ',"timestamp":', e.timestamp,
  ',"aggregateId":', {_json_string("e.aggregateId")}, ',"aggregateVersion":', e.aggregateVersion,
  ',"payload":', IFNULL(e.payload, 'null'), '}}\\n')"""

_PLACE = "CONCAT(e.threadId, ',', e.threadCounter, ',', e.timestamp)"

_PAYLOAD = re.compile(
    rb'\{"threadCounter":[0-9]+,"threadId":[0-9]+,"type":"(?:[^"\\]|\\.)*","timestamp":-?[0-9]+,'
    rb'"aggregateId":"(?:[^"\\]|\\.)*","aggregateVersion":[0-9]+,"payload":'
)


def compact_line(line: bytes) -> bytes:
    """A line of a foreign store, without the white space that its writer left in the payload."""
    found = _PAYLOAD.match(line)
    return line if found is None else line[: found.end()] + compact_text(line[found.end() : -2]) + b"}\n"


def compact_text(payload: bytes) -> bytes:
    """A payload without white space; one that is not JSON as it is, and `verify` says so."""
    try:
        return compact(payload)
    except (InputError, ValueError):
        return payload


def _stretch(rows: Sequence[OrderedEvent], only: Filter, *, is_end: bool) -> Stretch:
    if not rows:
        return NOTHING
    threads, counters, times, found = zip(*rows, strict=True)
    lines = list(filter(None, found))
    passing = None if only.is_open else bytes(map(bool, found))
    return Stretch(threads, counters, passing, b"".join(lines), bytes, len(lines), max(times), is_end)


class Paces:
    """The two paces of a store: where every row has its line, and where a filter leaves rows out."""

    def __init__(self) -> None:
        self.full, self.filtered = Pace(), Pace()


class MysqlReading:
    """A read transaction on one connection."""

    def __init__(
        self, connection: Connection, names: Names, shape: Shape, identity: str, paces: Paces
    ) -> None:
        self.connection = connection
        self.names = names
        self.dialect = MysqlDialect(names.tables, connection.access.database)
        self.shape = shape
        self._identity = identity
        self._paces = paces
        self._events = quoted(names.tables.events)
        self._threads = quoted(names.threads)

    def undo(self) -> None:
        """End the transaction, of which nothing stays."""
        self.connection.roll_back()
        self.connection.end()

    @property
    def tables(self) -> Tables:
        return self.names.tables

    @threaded
    def ask(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        try:
            return self.connection.query(statement, values)
        except MySQLError as error:
            if number_of(error) != DEFINITION_CHANGED:
                raise
            # The table was made, or rebuilt, after this reading began: it can only be read as it is now.
            return self.connection.apart(statement, values)

    @threaded
    def state(self) -> State:
        [(stored,)] = self.connection.query(f"SELECT COALESCE(SUM(threadCounter), 0) FROM {self._threads}")
        return State(self._identity, int(stored), is_lasting=self.shape is OURS)

    @threaded
    def freeze(self) -> Freeze | None:
        return freeze_of(self.comment_of(self.tables.freeze))

    def comment_of(self, table: str) -> str | None:
        return comment_of(self.connection, table)

    @threaded
    def heads(self) -> list[int]:
        return self._heads()

    def _heads(self) -> list[int]:
        [(text,)] = self.connection.query(f"SELECT {ALL_HEADS} FROM {self._threads}")
        return heads_of(text, self.names)

    async def read_on(
        self, bound: Key, scope: ReadScope, limit: int, max_bytes: int, count: int, give: Give
    ) -> None:
        if scope.only.is_open and self.shape.is_ours:
            read = partial(self._line_by_line, scope, max_bytes)
        else:
            read = partial(give_in_turn, partial(self._row_by_row, scope, max_bytes))
        await self.connection.run(partial(read, bound, limit, count, from_thread(give)))

    def _line_by_line(
        self, scope: ReadScope, max_bytes: int, key: Key, limit: int, count: int, give: Give
    ) -> None:
        """Several stretches by one statement, so that the server works on the next while one is taken."""
        pace = self._paces.full
        left = rows = min(limit, count * pace.rows(max_bytes))
        places: list[bytes] = []
        lines: list[bytes] = []
        size, room = 0, (count + 1) * max_bytes

        def take(more_places: list[bytes], more_lines: list[bytes]) -> bool:
            nonlocal places, lines, size, room, left, count
            places += more_places
            lines += more_lines
            size += (more := sum(map(len, more_lines)))
            room -= more
            left -= len(more_lines)
            if size >= max_bytes and left and count > 1:
                count -= 1
                give(self._stretch_of(places, lines, is_end=False))
                places, lines, size = [], [], 0
            return room <= 0

        cut = self.connection.lines(
            f"SELECT {_PLACE}, {LINE} FROM {self._events} AS e {_walk(scope)} LIMIT %(rows)s",
            self._values(scope) | _from(scope, key) | {"rows": rows},
            take,
        )
        is_end = not cut and left > 0
        if lines or is_end:
            give(self._stretch_of(places, lines, is_end=is_end))

    def _stretch_of(self, places: Sequence[bytes], lines: Sequence[bytes], *, is_end: bool) -> Stretch:
        if not lines:
            return NOTHING
        text = b"".join(lines)
        self._paces.full.note(len(lines), len(text))
        numbers = numbers_of(b",".join(places))
        return Stretch(numbers[::3], numbers[1::3], None, text, bytes, len(lines), max(numbers[2::3]), is_end)

    def _row_by_row(self, scope: ReadScope, max_bytes: int, key: Key, limit: int) -> Stretch:
        only = scope.only
        values = self._values(scope)
        line = LINE if only.is_open else f"CASE WHEN {self._condition(only)} THEN {LINE} END"
        walk = limit if only.is_open else max(limit, WALK)
        pace = self._paces.full if only.is_open else self._paces.filtered
        page: list[OrderedEvent] = []
        least = 16
        while True:
            count = min(walk - len(page), max(pace.rows(max_bytes), least))
            within = self._within(key, scope, count, values)
            rows, cut = self._positions(
                f"SELECT {_PLACE}, {line} FROM {self._events} AS e {_walk(scope, within)} LIMIT %(count)s",
                values | _from(scope, key) | {"count": count},
                limit,
                max_bytes,
            )
            if not rows:
                return _stretch(page, only, is_end=True)
            page += rows
            lines = [row[3] for row in rows if row[3] is not None]
            size = sum(map(len, lines))
            pace.note(len(rows), size)
            limit -= len(lines)
            max_bytes -= size
            if not lines:
                least *= 4
            if not cut and len(rows) < count:
                return _stretch(page, only, is_end=True)
            thread, counter, timestamp, _ = rows[-1]
            # Behind the filter's last time nothing matches any more.
            is_past = only.finish_time is not None and timestamp > only.finish_time
            if limit == 0 or max_bytes <= 0 or len(page) >= walk or is_past:
                return _stretch(page, only, is_end=False)
            key = Key(timestamp, counter, thread + 1)

    def _within(self, key: Key, scope: ReadScope, count: int, values: dict[str, Any]) -> str:
        """In a store without the index for the order, the last timestamp that the next events have: only with that does
        the server sort those of equal timestamps instead of all that is left."""
        if self.shape.order_key is not None or scope.thread is not None:
            return "TRUE"
        last = self.connection.query(
            f"""SELECT e.timestamp FROM {self._events} AS e
            WHERE {_FROM_KEY} AND {_is_in_scope(scope)} ORDER BY e.timestamp LIMIT 1 OFFSET %(count)s""",
            values | _key(key) | {"count": count - 1},
        )
        values["last"] = last[0][0] if last else 2**63 - 1
        return "e.timestamp <= %(last)s"

    def _positions(
        self, statement: str, values: dict[str, Any], limit: int, max_bytes: int
    ) -> tuple[list[OrderedEvent], bool]:
        """The rows of a statement that selects `_PLACE` and a line, until there are `limit` lines or they reach
        `max_bytes`; and whether it ended before all rows had come."""
        found: list[OrderedEvent] = []
        is_cut = False

        def take(places: list[bytes], lines: list[bytes]) -> bool:
            nonlocal limit, max_bytes, is_cut
            if not self.shape.is_ours:
                lines = list(map(compact_line, lines))
            if sum(map(bool, lines)) >= limit or sum(map(len, lines)) >= max_bytes:
                end = _enough(lines, limit, max_bytes)
                is_cut, lines, places = end < len(lines), lines[:end], places[:end]
            numbers = numbers_of(b",".join(places))
            found.extend(
                zip(numbers[::3], numbers[1::3], numbers[2::3], (line or None for line in lines), strict=True)
            )
            limit -= sum(map(bool, lines))
            max_bytes -= sum(map(len, lines))
            return limit <= 0 or max_bytes <= 0

        is_cut_behind = self.connection.lines(statement, values, take)
        return found, is_cut or is_cut_behind

    @threaded
    def select(
        self, scope: ReadScope, limit: int, max_bytes: int | None, *, backwards: bool = False
    ) -> tuple[list[OrderedEvent], bool]:
        only = scope.only
        # Left to itself the server might walk the whole order: the events of an aggregate are few.
        hint = "FORCE INDEX (`aggregate`)" if only.names_aggregates else ""
        rows, is_cut = self._positions(
            f"""SELECT {_PLACE}, {"NULL" if max_bytes is None else LINE} FROM {self._events} AS e {hint}
            WHERE {self._condition(only)} AND {_is_in_scope(scope)}
            {_BACKWARDS if backwards else _IN_ORDER} LIMIT %(count)s""",
            self._values(scope) | {"count": limit},
            limit,
            2**62 if max_bytes is None else max_bytes,
        )
        return page_of(rows, limit, max_bytes, is_cut=is_cut)

    @threaded
    def any_later(self, segments: Sequence[Segment]) -> bool:
        for begin in range(0, len(segments), 256):
            parts = [
                f"""(SELECT 1 FROM {self._events} WHERE threadId = {int(thread)} AND threadCounter >= {int(first)}
                AND threadCounter < {int(end)} AND timestamp > {int(timestamp)} LIMIT 1)"""
                for thread, first, end, timestamp in segments[begin : begin + 256]
            ]
            if self.connection.query(" UNION ALL ".join(parts)):
                return True
        return False

    @threaded
    def lines_of(self, history: HistoryRequest, *, tidied: bool = True) -> tuple[list[bytes], bool]:
        # In the order of the whole key, or all versions of the aggregate would be sorted.
        rows, is_cut = self._positions(
            f"""SELECT {_PLACE}, {LINE} FROM {self._events} AS e
            WHERE {self.shape.same("e.aggregateId", "%(id)s")} AND e.aggregateVersion >= %(from)s
            ORDER BY e.aggregateId, e.aggregateVersion LIMIT %(limit)s""",
            {"id": history.aggregate_id, "from": history.from_version, "limit": history.limit},
            history.limit,
            history.max_bytes,
        )
        lines = [line for *_, line in rows if line is not None]
        return lines, not is_cut and len(rows) < history.limit

    @threaded
    def in_threads(
        self, unread: Mapping[int, int], until: Sequence[int] | None, only: Filter, count: int
    ) -> list[tuple[Key, bool]]:
        if not unread:
            return []
        condition, values = self._condition(only), self._values(ReadScope(only=only))
        ends = until or OPEN_END
        found: list[tuple[Key, bool]] = []
        if count == 1:
            # Mostly the event at the counter itself is there, and 256 of those are found in a millisecond.
            wanted = ", ".join(f"({int(thread)}, {int(start)})" for thread, start in unread.items())
            rows = self.connection.query(
                f"""SELECT e.timestamp, e.threadCounter, e.threadId, {condition}
                FROM {self._events} AS e FORCE INDEX (PRIMARY) WHERE (e.threadId, e.threadCounter) IN ({wanted})""",
                values,
            )
            found = [(Key(*key), bool(passes)) for *key, passes in rows if key[1] < ends[key[2]]]
            # Where it is not, either the thread ends there or the store has a gap.
            missing = unread.keys() - {thread for *_, thread, _ in rows}
            heads = self._heads() if missing else []
            unread = {thread: unread[thread] for thread in missing if unread[thread] < heads[thread]}
        # One small statement for each thread, all in one: only so does each stop where it has enough.
        parts = [
            f"""(SELECT e.timestamp, e.threadCounter, e.threadId, {condition} FROM {self._events} AS e
            WHERE e.threadId = {int(thread)} AND e.threadCounter >= {int(start)}
              AND e.threadCounter < {int(ends[thread])}
            ORDER BY e.threadCounter LIMIT {int(count)})"""
            for thread, start in unread.items()
            if start < ends[thread]
        ]
        rows = self.connection.query(" UNION ALL ".join(parts), values) if parts else []
        found += [(Key(*key), bool(passes)) for *key, passes in rows]
        return sorted(found, key=lambda each: (each[0].thread_id, each[0].thread_counter))

    @threaded
    def lines_at(self, positions: Sequence[tuple[int, int]], max_bytes: int) -> list[bytes]:
        lines: list[bytes] = []
        start = 0
        while start < len(positions) and max_bytes > 0:
            wanted = positions[start : start + self._paces.full.rows(max_bytes)]
            start += len(wanted)
            places = ", ".join(f"({int(thread)}, {int(counter)})" for thread, counter in wanted)
            rows, _ = self._positions(
                f"""SELECT {_PLACE}, {LINE} FROM {self._events} AS e FORCE INDEX (PRIMARY)
                WHERE (e.threadId, e.threadCounter) IN ({places})""",
                {},
                len(wanted) + 1,
                2**62,
            )
            if rows:
                self._paces.full.note(len(rows), sum(len(line or b"") for *_, line in rows))
            line_at = {(thread, counter): line for thread, counter, _, line in rows}
            for position in wanted:
                if (line := line_at.get(position)) is not None and max_bytes > 0:
                    lines.append(line)
                    max_bytes -= len(line)
        return lines

    @threaded
    def least_counters(self, times: Sequence[int], scope: ReadScope) -> list[tuple[int, int, int]]:
        spans = ", ".join(str(int(time)) for time in times)
        return self.connection.query(
            f"""SELECT {f"INTERVAL(e.timestamp, {spans}) - 1" if times else "0"} AS span,
              e.threadId, MIN(e.threadCounter)
            FROM {self._events} AS e WHERE {"e.timestamp >= %(first)s" if times else "TRUE"}
              AND {_is_in_scope(scope)} AND {self._condition(scope.only)}
            GROUP BY span, e.threadId ORDER BY NULL""",
            self._values(scope) | {"first": min(times, default=0)},
        )

    @threaded
    def stages(self, kind: StageKind) -> list[Stage]:
        return self._stages(kind)

    def _stages(self, kind: StageKind) -> list[Stage]:
        return markers.stages(self.connection, self.names, kind, self._look)

    def _look(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Look into a table that another transaction may be about to rename or drop."""
        return self.connection.query(statement, values)

    async def limits(self, stage: Stage | None = None) -> ColumnLimits:
        shape = OURS if stage is not None and stage.keeps_positions else self.shape
        return shape.limits(self.connection.access.max_packet)

    @threaded
    def inspect(self, limit: int) -> Inspection:
        return inspect(self.connection, self.names, limit)

    def _condition(self, only: Filter) -> str:
        return conditions(only, "e.{}", "%({})s", self.shape.among, _begins)

    def _values(self, scope: ReadScope) -> dict[str, Any]:
        return matching(scope, tuple, vector)


def _enough(lines: Sequence[bytes], limit: int, max_bytes: int) -> int:
    """How many rows have so many lines, or lines of so many bytes."""
    for end, line in enumerate(lines, 1):
        limit -= bool(line)
        max_bytes -= len(line)
        if limit <= 0 or max_bytes <= 0:
            return end
    return len(lines)


def _begins(column: str, name: str) -> str:
    return begins(column, f"%({name})s")


def _is_in_scope(scope: ReadScope) -> str:
    return "TRUE" if scope.since is None else _UNREAD


ALL_HEADS = "GROUP_CONCAT(threadCounter ORDER BY threadId)"

# A bound on the whole key is not seen through by MariaDB, which would read the table from its beginning.
_FROM_KEY = """e.timestamp >= %(time)s AND (e.timestamp > %(time)s
  OR e.threadCounter > %(counter)s OR (e.threadCounter = %(counter)s AND e.threadId >= %(thread)s))"""

_IN_THREAD = "e.threadId = %(thread)s AND e.threadCounter >= %(counter)s AND e.threadCounter < %(end)s"


def _walk(scope: ReadScope, within: str = "TRUE") -> str:
    if scope.thread is None:
        return f"WHERE {_FROM_KEY} AND {within} AND {_is_in_scope(scope)} {_IN_ORDER}"
    return f"FORCE INDEX (PRIMARY) WHERE {_IN_THREAD} AND {_is_in_scope(scope)} ORDER BY e.threadCounter"


def _from(scope: ReadScope, key: Key) -> dict[str, int]:
    if scope.thread is None:
        return _key(key)
    begin, end = scope.counters_from(key)
    return {"thread": scope.thread, "counter": begin, "end": end}


def _key(key: Key) -> dict[str, int]:
    return {"time": key.timestamp, "counter": key.thread_counter, "thread": key.thread_id}


def heads_of(text: str | None, names: Names) -> list[int]:
    """The 256 next counters, from `ALL_HEADS`."""
    return whole_heads([int(head) for head in (text or "").split(",") if head], names.threads)

"""Reading a store in a SQLite file: the statements stand beside the code that runs them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

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
from eventferry.databases.names import Tables, fact
from eventferry.databases.sqlite.connection import Connection
from eventferry.databases.sqlite.dialect import SqliteDialect, begins, bound, foreign
from eventferry.databases.sqlite.inspect import inspect
from eventferry.databases.sqlite.markers import freeze_of, stages
from eventferry.databases.sqlite.payloads import refuse_number
from eventferry.databases.sqlite.tables import quoted
from eventferry.databases.stretches import (
    OPEN_END,
    WALK,
    WIDTH,
    conditions,
    flags_of,
    give_in_turn,
    matching,
    numbers_of,
    page_of,
    vector,
)
from eventferry.databases.thread import from_thread, threaded
from eventferry.errors import UnsupportedStoreError
from eventferry.lines.limits import ROOMY, ColumnLimits


def _entry(name: str, thread: str) -> str:
    return f"CAST(substr(:{name}, {thread} * {WIDTH} + 1, {WIDTH}) AS INTEGER)"


NEXT_COUNTER = _entry("unread", "threadId")
END_COUNTER = _entry("until", "threadId")
_UNREAD = f"threadCounter >= {NEXT_COUNTER} AND threadCounter < {END_COUNTER}"
# In tables that eventferry made, the payload is as it came. Only an incremental import by the real reSolve, which
# stages in a column of numeric affinity, can leave a bare number there.
KEPT = "CASE typeof(payload) WHEN 'real' THEN eventferry_number(payload) ELSE ifnull(payload, 'null') END"

_FOREIGN = foreign("payload")


def line_of(payload: str) -> str:
    """An event's line, as an SQL expression; `payload` is that of its payload."""
    # printf copies each part once, where || copies what it has so far for each.
    return f"""printf('{{"threadCounter":%s,"threadId":%s,"type":%s,"timestamp":%s,"aggregateId":%s,'
      || '"aggregateVersion":%s,"payload":%s}}' || char(10), threadCounter, threadId, json_quote(type), timestamp,
      json_quote(aggregateId), aggregateVersion, {payload})"""


class SqliteReading:
    """A read transaction on one connection."""

    def __init__(self, connection: Connection, tables: Tables, events_sql: str) -> None:
        self.connection = connection
        self.sqlite = connection.sqlite
        self.tables = tables
        self.dialect = SqliteDialect(tables)
        self._events = quoted(tables.events)
        self._id = fact(events_sql, "STORE", "id")
        self.is_ours = self._id is not None
        self._text = line_of(KEPT if self.is_ours else _FOREIGN)
        self._line = f"CAST({self._text} AS BLOB)"
        self._payload = KEPT if self.is_ours else _FOREIGN

    @threaded
    def ask(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        return self.sqlite.execute(bound(statement), values).fetchall()

    def _table_sql(self, name: str) -> str | None:
        found = self.sqlite.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)
        ).fetchone()
        return found[0] if found else None

    @threaded
    def state(self) -> State:
        identity = self._id
        if identity is None:
            (root,) = self.sqlite.execute(
                "SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = ?", (self.tables.events,)
            ).fetchone() or (0,)
            identity = f"page {root}"
        return State(identity, self._growth(), is_lasting=self.is_ours)

    @threaded
    def freeze(self) -> Freeze | None:
        return self._freeze()

    def _freeze(self) -> Freeze | None:
        return freeze_of(self._table_sql(self.tables.freeze))

    @threaded
    def heads(self) -> list[int]:
        return self.all_heads()

    def all_heads(self) -> list[int]:
        rows = self.sqlite.execute(
            f"""WITH RECURSIVE thread(id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM thread WHERE id < 255)
            SELECT coalesce((SELECT max(threadCounter) FROM {self._events} WHERE threadId = thread.id), -1) + 1
            FROM thread ORDER BY id"""
        )
        return [head for (head,) in rows]

    def _growth(self) -> int:
        [(stored,)] = self.sqlite.execute(f"SELECT coalesce(max(rowid), 0) FROM {self._events}")
        return int(stored)

    async def read_on(
        self, bound: Key, scope: ReadScope, limit: int, max_bytes: int, count: int, give: Give
    ) -> None:
        read = partial(self._stretch, scope, max_bytes)
        await self.connection.run(partial(give_in_turn, read, bound, limit, count, from_thread(give)))

    def _stretch(self, scope: ReadScope, max_bytes: int, bound: Key, limit: int) -> Stretch:
        only = scope.only
        condition, values = _matching(scope)
        values |= {"limit": limit} | _from(scope, bound)
        rows = min(limit if only.is_open else max(limit, WALK), self.connection.pace.rows(max_bytes))
        statement = self._stretch_sql(scope, condition)
        while True:
            found = self.connection.within(
                max_bytes if rows > 1 else None, statement, values | {"walk": rows}
            )
            if found is not None:
                break
            rows = max(rows // 4, 1)  # events much larger than those before
            self.connection.pace.cut(rows)
        if not found[4]:
            return NOTHING
        threads, counters, passing, lines, walked, count, last = found
        self._refuse_no_time(last)
        self.connection.pace.note(count, len(lines or b""))
        is_end = walked < rows and (only.is_open or count < limit)
        threads, counters = (numbers_of(numbers.encode()) for numbers in (threads, counters))
        flags = None if only.is_open else flags_of(passing.encode())
        return Stretch(threads, counters, flags, lines or b"", bytes, count, last, is_end)

    def _stretch_sql(self, scope: ReadScope, condition: str) -> str:
        """Events from the bound on in one row, until which the thread runs without Python's lock."""
        is_open = scope.only.is_open
        line = self._text if is_open else f"CASE WHEN {condition} THEN {self._text} END"
        events = f"""SELECT timestamp, threadCounter, threadId, {line} AS line FROM {self._events}
            WHERE {_FROM_KEY if scope.thread is None else _IN_THREAD} AND {_is_in_scope(scope)}
            ORDER BY {_BY_KEY if scope.thread is None else "threadCounter"} LIMIT :walk"""
        passing = "NULL"
        if not is_open:
            events = f"""SELECT * FROM (
              SELECT *, count(line) OVER (ROWS UNBOUNDED PRECEDING) AS given
              FROM ({events})
            ) WHERE given <= :limit"""
            passing = "group_concat(line IS NOT NULL, '')"
        return f"""SELECT group_concat(threadId), group_concat(threadCounter), {passing},
          CAST(group_concat(line, '') AS BLOB), count(*), count(line), max(timestamp) FROM ({events})"""

    @threaded
    def select(
        self, scope: ReadScope, limit: int, max_bytes: int | None, *, backwards: bool = False
    ) -> tuple[list[OrderedEvent], bool]:
        condition, values = _matching(scope)
        # +timestamp keeps the planner from walking the whole order: the events of an aggregate are few.
        time = "+timestamp" if scope.only.names_aggregates else "timestamp"
        down = " DESC" if backwards else ""
        rows = self.sqlite.execute(
            f"""SELECT threadId, threadCounter, timestamp, {"NULL" if max_bytes is None else self._line}
            FROM {self._events} WHERE {condition} AND {_is_in_scope(scope)}
            ORDER BY {time}{down}, threadCounter{down}, threadId{down} LIMIT :limit""",
            values | {"limit": limit},
        )
        page, is_end = page_of(rows, limit, max_bytes)
        for position in page[:1] if backwards else page[-1:]:  # a text sorts behind all numbers
            self._refuse_no_time(position[2])
        return page, is_end

    def _refuse_no_time(self, timestamp: object) -> None:
        """A foreign writer may have let in a text, by which no order can be read on. Raises UnsupportedStoreError."""
        if isinstance(timestamp, str | bytes):
            [(thread, counter)] = self.sqlite.execute(
                f"SELECT threadId, threadCounter FROM {self._events} ORDER BY timestamp DESC LIMIT 1"
            )
            raise UnsupportedStoreError(
                f"the timestamp of the event at counter {counter} of thread {thread} is {timestamp!r:.60}, and not a "
                "whole number: until it is corrected, the events have no order"
            )

    @threaded
    def lines_at(self, positions: Sequence[tuple[int, int]], max_bytes: int) -> list[bytes]:
        statement = f"SELECT {self._line} FROM {self._events} WHERE threadId = ? AND threadCounter = ?"
        lines: list[bytes] = []
        for position in positions:
            row = self.sqlite.execute(statement, position).fetchone()
            if row is None:
                continue
            lines.append(row[0])
            max_bytes -= len(row[0])
            if max_bytes <= 0:
                break
        return lines

    async def lines_of(self, history: HistoryRequest, *, tidied: bool = True) -> tuple[list[bytes], bool]:
        return await self.connection.run_briefly(partial(self._lines_of, *history))

    def _lines_of(
        self, aggregate_id: str, from_version: int, limit: int, max_bytes: int
    ) -> tuple[list[bytes], bool]:
        rows = self.sqlite.execute(
            f"""SELECT {self._line} FROM {self._events} WHERE aggregateId = ? AND aggregateVersion >= ?
            ORDER BY aggregateId, aggregateVersion LIMIT ?""",
            (aggregate_id, from_version, limit),
        )
        lines: list[bytes] = []
        for (line,) in rows:
            lines.append(line)
            max_bytes -= len(line)
            if max_bytes <= 0:
                return lines, False
        return lines, len(lines) < limit

    @threaded
    def in_threads(
        self, unread: Mapping[int, int], until: Sequence[int] | None, only: Filter, count: int
    ) -> list[tuple[Key, bool]]:
        condition, values = _matching(ReadScope(only=only))
        ends = OPEN_END if until is None else until
        wanted = [(thread, start, ends[thread]) for thread, start in unread.items()]
        if count == 1:
            # All in one statement. The bounds are of the wanted thread, not of the row's: only so the index leads
            # straight to the row.
            rows = self.sqlite.execute(
                f"""SELECT timestamp, threadCounter, threadId, {condition} FROM {self._events} WHERE rowid IN (
                  SELECT (
                    SELECT rowid FROM {self._events}
                    WHERE threadId = json_extract(value, '$[0]')
                      AND threadCounter >= json_extract(value, '$[1]')
                      AND threadCounter < json_extract(value, '$[2]')
                    ORDER BY threadCounter LIMIT 1
                  ) FROM json_each(:wanted)
                )""",
                values | {"wanted": json.dumps(wanted)},
            )
            keys = [(Key(*key), bool(passes)) for *key, passes in rows]
            for key, _ in keys:
                self._refuse_no_time(key.timestamp)
            return keys
        statement = f"""SELECT timestamp, threadCounter, threadId, {condition} FROM {self._events}
          WHERE threadId = :thread AND threadCounter >= :first AND threadCounter < :last
          ORDER BY threadCounter LIMIT :count"""
        found: list[tuple[Key, bool]] = []
        for thread, first, last in wanted:
            bounds = {"thread": thread, "first": first, "last": last, "count": count}
            rows = self.sqlite.execute(statement, values | bounds)
            found += [(Key(*key), bool(passes)) for *key, passes in rows]
        return found

    @threaded
    def any_later(self, segments: Sequence[Segment]) -> bool:
        statement = f"""SELECT EXISTS (SELECT 1 FROM {self._events}
          WHERE threadId = ? AND threadCounter >= ? AND threadCounter < ? AND timestamp > ?)"""
        return any(self.sqlite.execute(statement, segment).fetchone()[0] for segment in segments)

    @threaded
    def least_counters(self, times: Sequence[int], scope: ReadScope) -> list[tuple[int, int, int]]:
        # One span after another: what is grouped at a time is small, and the index is gone through once.
        condition, values = _matching(scope)
        within = "timestamp >= :first AND timestamp < :next" if times else "TRUE"
        statement = f"""SELECT :span, threadId, min(threadCounter) FROM {self._events}
          WHERE {within} AND {_is_in_scope(scope)} AND {condition} GROUP BY threadId"""
        found: list[tuple[int, int, int]] = []
        for span, (first, behind) in enumerate(pairwise([*times, 2**63 - 1]) if times else [(0, 0)]):
            bounds = {"span": span, "first": first, "next": behind}
            found += self.sqlite.execute(statement, values | bounds)
        return found

    @threaded
    def stages(self, kind: StageKind) -> list[Stage]:
        return stages(self.sqlite, self.tables, kind)

    async def limits(self, stage: Stage | None = None) -> ColumnLimits:
        if stage is not None and stage.keeps_positions:
            return ROOMY
        # A stage that reSolve opened has a column of numeric affinity, and so has its table of events.
        is_ours = self.is_ours and (
            stage is None or await self.connection.run(partial(self._has_parts, stage))
        )
        return ROOMY if is_ours else ColumnLimits(refuse_payload=refuse_number)

    def _has_parts(self, stage: Stage) -> bool:
        """Whether a stage has the column that orders parts; one that the real reSolve opened has none."""
        columns = self.sqlite.execute("SELECT name FROM pragma_table_info(?)", (stage.table,))
        return ("part",) in columns.fetchall()

    @threaded
    def inspect(self, limit: int) -> Inspection:
        return inspect(self.sqlite, self.tables, limit)


def _matching(scope: ReadScope) -> tuple[str, dict[str, Any]]:
    """The condition of a scope's filter, and the values of the whole scope."""
    return conditions(scope.only, "{}", ":{}", _among, _begins), matching(scope, _texts, vector)


def _among(column: str, name: str) -> str:
    return f"{column} IN (SELECT value FROM json_each(:{name}))"


def _begins(column: str, name: str) -> str:
    return begins(column, f":{name}")


def _texts(texts: Sequence[str]) -> str:
    """Those that a type or an id can be: SQLite's JSON functions would end a text at U+0000."""
    return json.dumps([text for text in texts if "\0" not in text])


def _is_in_scope(scope: ReadScope) -> str:
    return "TRUE" if scope.since is None else _UNREAD


_BY_KEY = "timestamp, threadCounter, threadId"
_FROM_KEY = f"({_BY_KEY}) >= (:bound_time, :bound_counter, :bound_thread)"
_IN_THREAD = "threadId = :bound_thread AND threadCounter >= :bound_counter AND threadCounter < :end_counter"


def _from(scope: ReadScope, bound: Key) -> dict[str, int]:
    if scope.thread is not None:
        begin, end = scope.counters_from(bound)
        return {"bound_thread": scope.thread, "bound_counter": begin, "end_counter": end}
    return {
        "bound_time": bound.timestamp,
        "bound_counter": bound.thread_counter,
        "bound_thread": bound.thread_id,
    }

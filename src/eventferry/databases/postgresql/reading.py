"""Reading a store in a PostgreSQL schema: the statements stand beside the code that runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from secrets import token_hex
from typing import Any, NamedTuple

import msgspec

from eventferry.database import (
    FIRST,
    NOTHING,
    Filter,
    First,
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
from eventferry.databases.names import fact, whole_heads
from eventferry.databases.postgresql.connection import Connection, Prepared, Rows, Texts, prepared
from eventferry.databases.postgresql.dialect import PostgresDialect, begins, bound, is_storable
from eventferry.databases.postgresql.inspect import Inspecting
from eventferry.databases.postgresql.markers import (
    freeze_of,
    merge_stage_of,
    open_import_of,
    stage_of,
)
from eventferry.databases.postgresql.payloads import all_survive, refuse_payload
from eventferry.databases.postgresql.tables import Names, literal, quoted
from eventferry.databases.stretches import (
    WALK,
    conditions,
    flags_of,
    matching,
    numbers_of,
    page_of,
    until_full,
)
from eventferry.lines.limits import MAX_SAFE_INTEGER, ColumnLimits

_OPEN_END = "{" + ",".join(["1000000000000000"] * 256) + "}"

# A vector of 256 counters travels as one array; an array of fixed-width numbers is looked up in no time.
NEXT_COUNTER = '(%(unread)s::bigint[])["threadId" + 1]'
_UNREAD = f'"threadCounter" >= {NEXT_COUNTER} AND "threadCounter" < (%(until)s::bigint[])["threadId" + 1]'

LINE = """'{"threadCounter":' || "threadCounter" || ',"threadId":' || "threadId"
      || ',"type":' || to_json("type")::text || ',"timestamp":' || "timestamp"
      || ',"aggregateId":' || to_json("aggregateId")::text || ',"aggregateVersion":' || "aggregateVersion"
      || ',"payload":' || coalesce("payload"::text, 'null') || '}'"""

_WHOLE_LINE = LINE.removesuffix("'}'") + "E'}\\n'"

_MOST_BYTES = 12 * 1024 * 1024
"""What the events of a page take at most if nothing tells before that they are larger than those of the page before;
where more is asked for, the double of that."""

# A statement that goes on from where the one before it in the transaction ended is on its way before that is known.
_KEEP_LAST = """set_config('eventferry.time', max("timestamp")::text, true),
  set_config('eventferry.counter', (array_agg("threadCounter"))[count(*)]::text, true),
  set_config('eventferry.thread', (array_agg("threadId"))[count(*)]::text, true)"""
_KEPT_TIME, _KEPT_COUNTER, _KEPT_THREAD = (
    f"nullif(current_setting('eventferry.{name}'), '')::bigint" for name in ("time", "counter", "thread")
)
_BY_KEY = '"timestamp", "threadCounter", "threadId"'

_SIZE = '("eventSize" + 50)'
"""About the bytes of a line: the names of its keys are longer than what `eventSize` reckons for them."""


def vector(counters: Sequence[int] | None) -> str:
    """Counters as the statements take them: psycopg takes ten times as long for its arrays. None is no end."""
    return _OPEN_END if counters is None else "{" + ",".join(map(str, counters)) + "}"


def _matching(scope: ReadScope) -> tuple[str, dict[str, Any]]:
    """The condition of a scope's filter, and the values of the whole scope."""
    if (prefixes := scope.only.aggregate_prefixes) is not None:
        only = replace(scope.only, aggregate_prefixes=tuple(_storable(prefixes)))
        scope = scope._replace(only=only)
    return conditions(scope.only, '"{}"', "%({})s", _among, _begins), matching(scope, _storable, vector)


def _among(column: str, name: str) -> str:
    return f"{column} = ANY(%({name})s::text[])"


def _begins(column: str, name: str) -> str:
    return begins(column, f"%({name})s")


def _is_in_scope(scope: ReadScope) -> str:
    return "TRUE" if scope.since is None else _UNREAD


def _starts(unread: Mapping[int, int]) -> dict[str, str]:
    return {"threads": vector([*unread]), "starts": vector([*unread.values()])}


def _storable(texts: Sequence[str]) -> list[str]:
    """Those of the texts that PostgreSQL could hold: no other can be found there, nor can it be asked for."""
    return [text for text in texts if is_storable(text)]


class Question(NamedTuple):
    """What is asked as a reading begins."""

    statement: str
    needed: Prepared
    setting: str = ""  # before it


class Questions:
    """What can be asked as a reading of one store begins. It is prepared: to plan it takes longer than to run it."""

    def __init__(self, names: Names) -> None:
        self._state = prepared("", _growth(names))
        # All lines come in one row, and their sizes are not added up: both took a fifth of the time. One that is large
        # by far is not built, and then the history is read otherwise.
        self._history = prepared(
            "text, bigint, bigint, bigint",
            f"""SELECT string_agg(CASE WHEN "eventSize" < $4 THEN {_WHOLE_LINE} END, ''), bool_or("eventSize" >= $4)
            FROM (
              SELECT * FROM {names.events} WHERE "aggregateId" = $1 AND "aggregateVersion" >= $2
              ORDER BY "aggregateId", "aggregateVersion" LIMIT $3
            ) AS walk""",
        )

    def of(self, first: First) -> Question | None:
        """A question; None where it has to be asked later."""
        if first == "state":
            return Question(f"EXECUTE {self._state.name}", self._state)
        if not is_storable(first.aggregate_id):
            return None
        far = max(_MOST_BYTES // first.limit, 1)
        values = f"{literal(first.aggregate_id)}, {min(first.from_version, MAX_SAFE_INTEGER + 1)}, {first.limit}, {far}"
        # A plan that is kept outlives the time when the table was small.
        setting = "SET LOCAL enable_seqscan = off"
        return Question(f"EXECUTE {self._history.name}({values})", self._history, setting)


def _growth(names: Names) -> str:
    return f'SELECT coalesce(sum("threadCounter"), 0)::bigint FROM {names.threads}'


MADE_LIMITS = ColumnLimits(max_id_bytes=2600, refuse_payload=refuse_payload, all_survive=all_survive)
"""Of our own tables: an entry of an index holds at most 2,704 bytes, so 700 characters of 4 bytes do not fit."""


class PostgresReading:
    """A read transaction on one connection; the oid and the comment are those of the events' table, and the answer is
    that to what was asked first."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        oid: int,
        comment: str,
        answer: tuple[First, Rows] | None = None,
    ) -> None:
        self.connection = connection
        self.names = names
        self.dialect = PostgresDialect(names)
        self._oid = oid
        self._comment = comment
        self._first = None if answer is None else answer[0]
        self._answer = [] if answer is None else answer[1]

    async def ask(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        [rows] = await self.connection.run(bound(statement, values, self.connection.literal), None)
        return rows

    async def state(self) -> State:
        answer = self._answer if self._first == "state" else await self.ask(_growth(self.names))
        [(stored,)] = answer
        identity = fact(self._comment, "STORE", "id")
        return State(identity or f"oid {self._oid}", int(stored or 0), is_lasting=identity is not None)

    async def table_comment(self, table: str) -> str | None:
        """A table's comment, empty if it has none; None if there is no such table."""
        rows = await self.connection.run(
            "SELECT coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class AS c "
            "WHERE c.oid = to_regclass(%s)",
            (self.names.of(table).replace("%%", "%"),),
        )
        return str(rows[0][0][0]) if rows[0] else None

    async def freeze(self) -> Freeze | None:
        return freeze_of(self.names, await self.table_comment(self.names.tables.freeze))

    async def heads(self) -> list[int]:
        rows = await self.connection.rows(
            f'SELECT "threadCounter" FROM {self.names.threads} ORDER BY "threadId"'
        )
        return whole_heads([head for (head,) in rows], f"{self.names.tables.events}-threads")

    async def read_on(
        self, bound: Key, scope: ReadScope, limit: int, max_bytes: int, count: int, give: Give
    ) -> None:
        is_open = scope.only.is_open
        pace = self.connection.pace
        rows = walk = large = 0

        def take(row: Texts) -> None:
            nonlocal bound, limit, walk, count, large
            threads, counters, passing, text, lines, last, first_large, *_ = row
            if large or not count:
                return  # it goes on from what was not given, or from the end
            if first_large is not None:
                large = int(first_large)
                return
            stretch = NOTHING
            if threads is not None and counters is not None:
                number, found, text = int(lines or 0), numbers_of(threads[1:-1]), text or b""
                pace.note(number, len(text))
                is_end = len(found) < min(rows, walk) and (is_open or number < limit)
                flags, behind = None if is_open else flags_of(passing or b""), numbers_of(counters[1:-1])
                stretch = Stretch(found, behind, flags, text, compacted_lines, number, int(last or 0), is_end)
                bound = stretch.behind
            limit -= stretch.number
            walk -= len(stretch.threads)
            count = 0 if stretch.is_end or not limit else count - 1
            give(stretch)

        await self.connection.expect_pages(count)
        while count:
            walk = limit if is_open else max(limit, WALK)
            rows, large = min(walk, pace.rows(max_bytes)), 0
            # An event that is larger by far than those before is not built, so that no page takes memory without
            # bound: the page ends before it, and where it is the first it comes alone.
            far = 2**31 - 1 if rows == 1 else max(_MOST_BYTES, 2 * max_bytes) // rows
            # How many lines a filter leaves for the next stretch is not known before.
            ahead = min(count * rows, walk) if is_open else rows
            statements = [
                self._stretch(None if place else bound, scope, limit, min(rows, walk - place), far)
                for place in range(0, ahead, rows)
            ]
            await self.connection.each(statements, take)
            if large:
                pace.cut(max(large - 1, 1))

    def _stretch(self, key: Key | None, scope: ReadScope, limit: int, rows: int, far: int) -> str:
        """A statement for events from a key on, or from behind those that the statement before it found. All come in
        one row, for a row costs the client more than a line costs the server; its seventh column is the number of the
        first event that passes and is as large as `far`."""
        condition, values = _matching(scope)
        # As a number that is not 0 the planner takes the comparison for true nearly always, as it is; otherwise it
        # takes it for true of one event in nine, thinks that the page needs all that is left, and sorts that.
        is_in_scope = f"({_is_in_scope(scope)})::int <> 0"
        if scope.thread is None:
            order = _BY_KEY
            begin = (
                f"({_BY_KEY}) > ({_KEPT_TIME}, {_KEPT_COUNTER}, {_KEPT_THREAD})"
                if key is None
                else f"({_BY_KEY}) >= (%(time)s::bigint, %(counter)s::bigint, %(thread)s::bigint)"
            )
            # As texts: a number without quotes is one without its sign at first, and the least bigint has none.
            names = ("time", "counter", "thread")
            bound = {} if key is None else dict(zip(names, map(str, key), strict=True))
        else:
            order = '"threadCounter"'
            first, end = scope.counters_from(key or FIRST)
            bound = {"thread": str(scope.thread), "counter": str(first), "end": str(end)}
            counter = f"{_KEPT_COUNTER} + 1" if key is None else "%(counter)s::bigint"
            begin = f'"threadId" = %(thread)s::bigint AND {order} >= {counter} AND {order} < %(end)s::bigint'
        events = f"""(
            SELECT * FROM {self.names.events}
            WHERE {begin} AND {is_in_scope} ORDER BY {order} LIMIT %(rows)s
          ) AS walk"""
        passing = "NULL"
        if not scope.only.is_open:
            given = f"count(*) FILTER (WHERE {condition}) OVER (ROWS UNBOUNDED PRECEDING)"
            events = f"(SELECT *, {given} AS given FROM {events}) AS page WHERE given <= %(limit)s"
            passing = f"string_agg(CASE WHEN {condition} THEN '1' ELSE '0' END, '')"
        line = f"""CASE WHEN "eventSize" < %(far)s AND {condition} THEN {_WHOLE_LINE} END"""
        return self.connection.written(
            f"""SELECT array_agg("threadId"), array_agg("threadCounter"), {passing}, string_agg({line}, ''),
              count(*) FILTER (WHERE {condition}), max("timestamp"),
              array_position(array_agg("eventSize" < %(far)s OR NOT ({condition})), FALSE), {_KEEP_LAST}
            FROM {events}""",
            values | bound | {"rows": rows, "limit": limit, "far": far},
        )

    async def select(
        self, scope: ReadScope, limit: int, max_bytes: int | None, *, backwards: bool = False
    ) -> tuple[list[OrderedEvent], bool]:
        condition, values = _matching(scope)
        condition = f"{condition} AND {_is_in_scope(scope)}"
        # An expression keeps the planner from walking the whole order: the events of an aggregate are few.
        time = '"timestamp" + 0' if scope.only.names_aggregates else '"timestamp"'
        order = ", ".join(
            f"{column} DESC" if backwards else column for column in (time, '"threadCounter"', '"threadId"')
        )
        if max_bytes is None:
            rows = await self.connection.rows(
                f"""SELECT "threadId", "threadCounter", "timestamp", NULL FROM {self.names.events}
                WHERE {condition} ORDER BY {order} LIMIT %(limit)s""",
                values | {"limit": limit},
            )
            return page_of(rows, limit, None)
        # The sizes that the store keeps are added up as the page is read, so that nothing behind its end is sent;
        # `behind` is the sum with the row itself. The limit stands below the sum, which looks one row ahead: behind
        # the last event asked for that row may be far away.
        rows = await self.connection.rows(
            f"""SELECT "threadId", "threadCounter", "timestamp", {LINE}, behind FROM (
              SELECT *, sum({_SIZE}::int) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS behind
              FROM (SELECT * FROM {self.names.events} WHERE {condition} ORDER BY {order} LIMIT %(limit)s) AS walked
            ) AS page WHERE behind - {_SIZE} < %(room)s ORDER BY {order}""",
            values | {"limit": limit, "room": max_bytes},
        )
        page = ((thread, counter, time, compacted(line)) for thread, counter, time, line, _ in rows)
        return page_of(page, limit, max_bytes, is_cut=bool(rows) and rows[-1][4] >= max_bytes)

    async def lines_at(self, positions: Sequence[tuple[int, int]], max_bytes: int) -> list[bytes]:
        rows = await self.connection.rows(
            f"""SELECT {LINE} FROM (
              SELECT e.*, place, sum({_SIZE}::int) OVER (ORDER BY place) - {_SIZE} AS before
              FROM unnest(%(threads)s::bigint[], %(counters)s::bigint[])
                WITH ORDINALITY AS wanted(thread, counter, place)
              CROSS JOIN LATERAL (
                SELECT * FROM {self.names.events} WHERE "threadId" = thread AND "threadCounter" = counter OFFSET 0
              ) AS e
            ) AS found WHERE before < %(room)s ORDER BY place""",
            {
                "threads": vector([thread for thread, _ in positions]),
                "counters": vector([counter for _, counter in positions]),
                "room": max_bytes,
            },
        )
        return [compacted(line) for (line,) in rows]

    async def lines_of(self, history: HistoryRequest, *, tidied: bool = True) -> tuple[list[bytes], bool]:
        if self._first == history:
            [(printed, is_left_out)] = self._answer
            if is_left_out != "t":
                text = (printed or "").encode()
                lines = (compacted_lines(text) if tidied else text).splitlines(keepends=True)
                return until_full(lines, history)
        rows = await self.connection.rows(
            f"""SELECT {LINE}, behind FROM (
              SELECT *, sum({_SIZE}::int) OVER (ORDER BY "aggregateVersion" ROWS UNBOUNDED PRECEDING) AS behind
              FROM (
                SELECT * FROM {self.names.events} WHERE "aggregateId" = %(id)s AND "aggregateVersion" >= %(from)s
                ORDER BY "aggregateId", "aggregateVersion" LIMIT %(limit)s
              ) AS walked
            ) AS page WHERE behind - {_SIZE} < %(room)s ORDER BY "aggregateVersion" """,
            {
                "id": history.aggregate_id,
                "from": history.from_version,
                "limit": history.limit,
                "room": history.max_bytes,
            },
        )
        is_cut = bool(rows) and rows[-1][1] >= history.max_bytes
        return [compacted(line) for line, _ in rows], not is_cut and len(rows) < history.limit

    async def in_threads(
        self, unread: Mapping[int, int], until: Sequence[int] | None, only: Filter, count: int
    ) -> list[tuple[Key, bool]]:
        if count > 1 or not unread:
            return await self._behind(unread, until, only, count)
        condition, values = _matching(ReadScope(only=only))
        ends = [2**62] * 256 if until is None else until
        # Mostly the event at the counter itself is there: to join by equality takes half the time.
        rows = await self.connection.rows(
            f"""SELECT e."timestamp", e."threadCounter", e."threadId", {condition}
            FROM unnest(%(threads)s::bigint[], %(starts)s::bigint[]) AS wanted(id, start)
            JOIN {self.names.events} AS e ON e."threadId" = wanted.id AND e."threadCounter" = wanted.start""",
            values | _starts(unread),
        )
        found = [(Key(*key), bool(passes)) for *key, passes in rows if key[1] < ends[key[2]]]
        # Where it is not, either the thread ends there or the store has a gap.
        missing = unread.keys() - {thread for *_, thread, _ in rows}
        left = {thread: unread[thread] for thread in missing if unread[thread] < ends[thread]}
        return found + await self._behind(left, until, only, count)

    async def _behind(
        self, unread: Mapping[int, int], until: Sequence[int] | None, only: Filter, count: int
    ) -> list[tuple[Key, bool]]:
        if not unread:
            return []
        condition, values = _matching(ReadScope(only=only))
        rows = await self.connection.rows(
            f"""SELECT e.* FROM unnest(%(threads)s::bigint[], %(starts)s::bigint[]) AS wanted(id, start)
            CROSS JOIN LATERAL (
              SELECT "timestamp", "threadCounter", "threadId", {condition} AS passes FROM {self.names.events}
              WHERE "threadId" = wanted.id AND "threadCounter" >= wanted.start
                AND "threadCounter" < (%(until)s::bigint[])[wanted.id + 1]
              ORDER BY "threadCounter" LIMIT %(count)s
            ) AS e ORDER BY e."threadId", e."threadCounter" """,
            values | _starts(unread) | {"until": vector(until), "count": count},
        )
        return [(Key(*key), bool(passes)) for *key, passes in rows]

    async def any_later(self, segments: Sequence[Segment]) -> bool:
        rows = await self.connection.rows(
            f"""SELECT EXISTS (
              SELECT FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
                AS part(thread, first, last, time)
              CROSS JOIN LATERAL (
                SELECT FROM {self.names.events}
                WHERE "threadId" = thread AND "threadCounter" >= first AND "threadCounter" < last
                  AND "timestamp" > time LIMIT 1
              ) AS later)""",
            [list(column) for column in zip(*segments, strict=True)],
        )
        return bool(rows[0][0])

    async def least_counters(self, times: Sequence[int], scope: ReadScope) -> list[tuple[int, int, int]]:
        condition, values = _matching(scope)
        span = 'width_bucket("timestamp", %(times)s::bigint[]) - 1' if times else "0"
        return await self.connection.rows(
            f"""SELECT {span}, "threadId", min("threadCounter") FROM {self.names.events}
            WHERE {'"timestamp" >= %(first)s::bigint' if times else "TRUE"}
              AND {_is_in_scope(scope)} AND {condition}
            GROUP BY 1, 2""",
            values | {"times": list(times), "first": min(times, default=0)},
        )

    async def stages(self, kind: StageKind) -> list[Stage]:
        tables = self.names.tables
        if kind == "open":
            return open_import_of(self.names, await self.table_comment(tables.open_import))
        prefix = self.names.merge_prefix if kind == "merge" else tables.progress_of("")
        [rows] = await self.connection.run(
            "SELECT c.relname, coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class AS c "
            "WHERE c.relnamespace = %s::regnamespace AND starts_with(c.relname, %s) AND c.relkind = 'r' ORDER BY 1",
            (quoted(self.names.schema).replace("%%", "%"), prefix),
        )
        read = merge_stage_of if kind == "merge" else partial(stage_of, kind=kind)
        found = (read(self.names, name=str(name), told=str(told)) for name, told in rows)
        return [stage for stage in found if stage is not None]

    async def limits(self, stage: Stage | None = None) -> ColumnLimits:
        if stage is not None and stage.keeps_positions:
            return MADE_LIMITS
        most = MADE_LIMITS.id_length
        columns = self.dialect.columns(self.names.tables.events if stage is None else stage.table)
        lengths = {name: length or most for name, length, *_ in await self.ask(*columns)}
        id_length, type_length = (min(most, lengths.get(name, most)) for name in ("aggregateId", "type"))
        return replace(MADE_LIMITS, id_length=id_length, type_length=type_length)

    async def inspect(self, limit: int) -> Inspection:
        return await Inspecting(self.connection, self.names, self._oid).inspect(limit)


_BEHIND = f',"{token_hex(16)}",'.encode()
"""Stands behind each of the lines that are written anew all at once, in an array: an element that no payload holds."""


def compacted_lines(lines: bytes) -> bytes:
    """Lines of the store without the spaces that jsonb prints."""
    try:
        text = msgspec.json.format(b"[" + lines.replace(b"\n", _BEHIND) + b"0]", indent=-1)
    except (msgspec.DecodeError, RecursionError):
        return b"".join(map(compacted, lines.split(b"\n")[:-1]))
    return text[1:-2].replace(_BEHIND, b"\n")


def compacted(line: bytes) -> bytes:
    """A line of the store with its line feed, without the spaces that jsonb prints."""
    try:
        return msgspec.json.format(line, indent=-1) + b"\n"
    except RecursionError:
        return line + b"\n"

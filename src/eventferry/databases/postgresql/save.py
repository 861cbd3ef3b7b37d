"""Saving events: which thread each goes to (docs/order.md), and the round trip that puts them there.

Within a thread commit order must be counter order. So a save moves its thread's counter in `events-threads`, and
holds that row until it commits; saves of other threads don't wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import psycopg

from eventferry.cursor import MAX_COUNTER
from eventferry.database import Save, Saved
from eventferry.databases.postgresql.connection import DURABLE, Connection, prepared
from eventferry.databases.postgresql.stage import event_size
from eventferry.databases.postgresql.tables import COLUMNS, Names, literal
from eventferry.errors import ConcurrentError, DatabaseError
from eventferry.lines.limits import MAX_SAFE_INTEGER, full_thread
from eventferry.reading import order


class Place(NamedTuple):
    """A thread to try for an event; and whether it is the right one whatever else is saved meanwhile."""

    thread: int
    anyhow: bool


def preferred(save: Save) -> Place:
    """Where to try first."""
    return Place(order.thread_of(save.aggregate_id), anyhow=False)


class Saver:
    """Stores events of one store. What a save runs is prepared: to plan it takes longer than to run it."""

    def __init__(self, names: Names) -> None:
        self._names = names
        events, threads = names.events, names.threads
        self._lock = prepared(
            "bigint[]", f'SELECT FROM {threads} WHERE "threadId" = ANY($1) ORDER BY "threadId" FOR UPDATE'
        )
        # No counter behind the highest: the column refuses the null. The counter is compared with what the snapshot
        # shows: what is asked about the thread holds only if nobody stored an event in it between that and the lock
        # on its row. The freeze is looked up by name, not by what the transaction sees of the catalogue: a freeze waits
        # for the lock on the table of threads that is held here, or is seen here.
        self._insert = prepared(
            "bigint, bigint, text, bigint, text, jsonb, bigint, boolean",
            f"""WITH moved AS (
              UPDATE {threads} SET "threadCounter" = "threadCounter" + 1
              WHERE "threadId" = $1
                AND "threadCounter" = (SELECT "threadCounter" FROM {threads} WHERE "threadId" = $1)
                AND to_regclass({_name(names.freeze)}) IS NULL
                AND {DURABLE}
                AND NOT EXISTS (SELECT FROM {events} WHERE "aggregateId" = $3 AND "aggregateVersion" = $4)
                AND ($8 OR {self._is_right})
              RETURNING "threadCounter" - 1 AS counter
            ) INSERT INTO {events}({COLUMNS})
            SELECT $1, CASE WHEN counter <= {MAX_COUNTER} THEN counter END, $2, $3, $4, $5, $6, $7 FROM moved
            RETURNING "threadCounter" """,
        )
        # The aggregate's last version may change behind the snapshot too, in another thread: if it does, a version that
        # is stored here is taken then, or what was saved there left a gap.
        self._insert_next = prepared(
            "bigint, bigint, text, bigint, text[], jsonb[], bigint[], boolean",
            f"""WITH moved AS (
              UPDATE {threads} SET "threadCounter" = "threadCounter" + cardinality($5)
              WHERE "threadId" = $1
                AND "threadCounter" = (SELECT "threadCounter" FROM {threads} WHERE "threadId" = $1)
                AND to_regclass({_name(names.freeze)}) IS NULL
                AND {DURABLE}
                AND $4 - 1 = coalesce((SELECT max("aggregateVersion") FROM {events} WHERE "aggregateId" = $3), 0)
                AND ($8 OR {self._is_right})
              RETURNING "threadCounter" - cardinality($5) AS first
            ) INSERT INTO {events}({COLUMNS})
            SELECT $1, CASE WHEN first + step - 1 <= {MAX_COUNTER} THEN first + step - 1 END, $2, $3, $4 + step - 1,
              type, payload, size
            FROM moved CROSS JOIN unnest($5, $6, $7) WITH ORDINALITY AS new(type, payload, size, step) ORDER BY step
            RETURNING "threadCounter" """,
        )
        table = f"to_regclass({_name(events)})::oid::bigint"
        self._look = prepared(
            "bigint, bigint, bigint",
            f"""SELECT {table}, CASE
              WHEN $1 = {table} AND ($3 = next OR $2 = (SELECT sum("threadCounter") FROM {threads})) THEN NULL
              ELSE ARRAY(SELECT "threadCounter" FROM {threads} ORDER BY "threadId") END,
              CASE WHEN txid_snapshot_xmin(now) = next THEN next ELSE -1 END
            FROM txid_current_snapshot() AS now, txid_snapshot_xmax(now) AS next""",
        )
        self._prepared = (self._lock, self._insert, self._insert_next, self._look)
        # As they were behind the save before, the table that they are of, and the next transaction then.
        self._heads = [0] * 256
        self._table: str | None = "0"
        self._next = -1

    @property
    def _is_right(self) -> str:
        """The thread's last timestamp is not later, and no other thread has the aggregate at this very time."""
        events = self._names.events
        return f"""NOT EXISTS (
                SELECT FROM (
                  SELECT "timestamp" FROM {events} WHERE "threadId" = $1 ORDER BY "threadCounter" DESC LIMIT 1
                ) AS last WHERE last."timestamp" > $2
              ) AND NOT EXISTS (
                SELECT FROM (
                  SELECT "threadId", "aggregateId", "aggregateVersion" FROM {events} WHERE "timestamp" = $2 OFFSET 0
                ) AS at_once WHERE "aggregateId" = $3 AND "aggregateVersion" < $4 AND "threadId" <> $1
              )"""

    async def store(
        self, connection: Connection, saves: Sequence[tuple[Save, Place]], lock_timeout: int
    ) -> list[Saved | None]:
        """One transaction in one round trip. None: taken, or of another thread, or the store is frozen."""
        begin = (
            f"{connection.begin_for_durable()}; SET LOCAL lock_timeout = {lock_timeout}; "
            # A plan that is kept outlives the time when the table was small.
            "SET LOCAL enable_seqscan = off"
        )
        inserts = [self._execute(connection, save, place) for save, place in saves]
        if len(saves) > 1:  # all rows in one order: nobody waits for one who waits for him
            threads = ",".join({str(place.thread) for _, place in saves})
            inserts.insert(0, f"EXECUTE {self._lock.name}('{{{threads}}}')")
        known = self._heads
        look = self._look_at(sum(known) + sum(len(save.events) for save, _ in saves))
        try:
            with connection.named():
                results = await connection.run_prepared(
                    begin, f"{'; '.join(inserts)}; COMMIT; {look}; COMMIT", self._prepared
                )
        except DatabaseError as error:
            if not isinstance(error.__cause__, _OF_ONE):
                raise
            if len(saves) > 1:
                return [None] * len(saves)
            raise self._refusal(*saves[0], error) from error.__cause__
        looked = len(results) - 2
        counters = [
            int(rows[0][0] or 0) if rows else None for rows in results[looked - 3 - len(saves) : looked - 3]
        ]
        [(table, heads, next_transaction)] = results[looked]
        if heads is not None:
            known = [int(counter) for counter in heads[1:-1].split(",")]
        elif None in counters:
            # As many events as we meant to store have come, but others'.
            [[(known,)]] = await connection.run(self._all_heads)
        else:
            known = list(known)
            for (save, place), counter in zip(saves, counters, strict=True):
                known[place.thread] = (counter or 0) + len(save.events)
        self._heads, self._table, self._next = known, table, int(next_transaction or -1)
        return [
            None if counter is None else Saved(place.thread, counter, known)
            for (_, place), counter in zip(saves, counters, strict=True)
        ]

    def _look_at(self, expected: int) -> str:
        """The heads behind the commit: so they are a state that the store went through, and of the cursors of two
        saves one is always behind the other.

        They are not read again where no other transaction has ended since they were looked at last: none was under way
        then (where one was, there is no `_next`), and if one has begun later, or has taken the number that ours would
        have, the next is not the one behind that. Nor where the sum of the counters is the one expected, for they only
        rise; but to add them up takes a tenth of a save.
        """
        after = -1 if self._next < 0 else self._next + 1
        # In a transaction of its own: a limit of the session's would make an error of a save that is committed.
        look = f"EXECUTE {self._look.name}({self._table}, {expected}, {after})"
        return f"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = 0; {look}"

    async def add(self, connection: Connection, save: Save) -> Saved:
        """Store events in an exclusive transaction, which has checked whether the store is frozen."""
        taken, place = await self.find_place(connection, save)
        if taken:
            raise ConcurrentError(save.aggregate_id, save.version)
        with connection.named():
            await connection.prepare(self._prepared)
            try:
                statement = self._execute(connection, save, place._replace(anyhow=True))
                [added] = await connection.exchange(statement)
            except psycopg.errors.NotNullViolation:
                raise full_thread(place.thread) from None
        if not added:
            raise DatabaseError(f"{self._names.threads} lacks the row of thread {place.thread}")
        [[(heads,)]] = await connection.run(self._all_heads)
        return Saved(place.thread, int(added[0][0] or 0), heads)

    async def find_place(self, connection: Connection, save: Save) -> tuple[bool, Place]:
        """Whether the version is taken, or not the next as it should be; and the right thread, as far as can be told
        without a lock: that of the aggregate's last event at this very timestamp, or the next whose last timestamp is
        not later, or if there is none the preferred one."""
        behind = MAX_SAFE_INTEGER + 1 if save.is_next else save.version + 1
        wanted = save.aggregate_id, behind, save.timestamp
        [(last, thread, anyhow)] = await find_places(connection, self._names, [wanted])
        taken = last >= save.version or (save.is_next and last != save.version - 1)
        return taken, Place(thread, anyhow)

    async def look_up(self, connection: Connection, save: Save) -> Saved | None:
        """Where the events stand, if they were stored; None if others have their versions, or none have."""
        found, [(heads,)] = await connection.run(
            f"""SELECT "threadId", "threadCounter" FROM {self._names.events} AS e
            JOIN unnest(%(types)s::text[], %(payloads)s::jsonb[]) WITH ORDINALITY AS sent(type, payload, step)
              ON "aggregateVersion" = %(version)s + step - 1 AND e."type" = sent.type AND e."payload" = sent.payload
            WHERE "aggregateId" = %(id)s AND "timestamp" = %(time)s ORDER BY step;
            {self._all_heads}""",
            {
                "time": save.timestamp,
                "id": save.aggregate_id,
                "version": save.version,
                "types": [event.type for event in save.events],
                "payloads": [event.payload.decode() for event in save.events],
            },
        )
        if len(found) < len(save.events):
            return None
        thread, counter = found[0]
        return Saved(thread, counter, heads)

    @property
    def _all_heads(self) -> str:
        return f'SELECT array_agg("threadCounter" ORDER BY "threadId") FROM {self._names.threads}'

    def _execute(self, connection: Connection, save: Save, place: Place) -> str:
        identity = save.aggregate_id.encode()
        kinds, payloads, sizes = [], [], []
        for event in save.events:
            kind = event.type.encode()
            kinds.append(connection.literal(kind))
            payloads.append(connection.literal(event.payload))
            sizes.append(str(event_size(identity, kind, event.payload)))
        name, values = self._insert.name, [*kinds, *payloads, *sizes]
        if save.is_next:
            name = self._insert_next.name
            types = ("text", "jsonb", "bigint")
            values = [
                f"ARRAY[{','.join(each)}]::{kind}[]"
                for each, kind in zip((kinds, payloads, sizes), types, strict=True)
            ]
        return (
            f"EXECUTE {name}({place.thread}, {save.timestamp}, {connection.literal(identity)}, {save.version}, "
            f"{', '.join(values)}, {place.anyhow})"
        )

    def _refusal(self, save: Save, place: Place, error: DatabaseError) -> Exception:
        violation = error.__cause__
        if isinstance(violation, psycopg.errors.NotNullViolation):
            return full_thread(place.thread)
        if not isinstance(violation, psycopg.errors.UniqueViolation):
            return error
        if _is_of_version(violation.diag):
            return ConcurrentError(save.aggregate_id, save.version)
        return DatabaseError(
            f"the next counter of thread {place.thread} in {self._names.threads} belongs to a stored event"
        )


async def find_places(
    connection: Connection, names: Names, wanted: Sequence[tuple[str, int, int]]
) -> list[tuple[int, int, bool]]:
    """For each (aggregateId, version, timestamp): the aggregate's last version before that one, 0 if there is none; the
    thread in which what goes behind it belongs; and whether it does whatever else is saved meanwhile.

    A CASE looks through all threads only where the preferred one will not do.
    """
    events = names.events

    def in_time(thread: str) -> str:
        return f"""coalesce((
                  SELECT "timestamp" FROM {events} WHERE "threadId" = {thread} ORDER BY "threadCounter" DESC LIMIT 1
                ), time) <= time"""

    [rows] = await connection.run(
        f"""SELECT coalesce(last, 0), coalesce(at_once, free, preferred), at_once IS NOT NULL OR free IS NULL FROM (
          SELECT place, preferred, last, CASE WHEN last_time = time THEN last_thread WHEN last IS NOT NULL THEN (
              SELECT "threadId" FROM (
                SELECT "threadId", "aggregateId", "aggregateVersion" FROM {events} WHERE "timestamp" = time OFFSET 0
              ) AS at_time WHERE "aggregateId" = id AND "aggregateVersion" < version
              ORDER BY "aggregateVersion" DESC LIMIT 1
            ) END AS at_once, CASE WHEN {in_time("preferred")} THEN preferred ELSE (
              SELECT (preferred + step) %% 256 FROM generate_series(1, 255) AS step
              WHERE {in_time("(preferred + step) %% 256")} ORDER BY step LIMIT 1
            ) END AS free
          FROM unnest(%(ids)s::text[], %(versions)s::bigint[], %(times)s::bigint[], %(preferred)s::bigint[])
            WITH ORDINALITY AS wanted(id, version, time, preferred, place)
          LEFT JOIN LATERAL (
            SELECT "aggregateVersion" AS last, "timestamp" AS last_time, "threadId" AS last_thread FROM {events}
            WHERE "aggregateId" = id AND "aggregateVersion" < version ORDER BY "aggregateVersion" DESC LIMIT 1
          ) AS before_it ON TRUE
        ) AS found ORDER BY place""",
        {
            "ids": [aggregate_id for aggregate_id, _, _ in wanted],
            "versions": [version for _, version, _ in wanted],
            "times": [time for _, _, time in wanted],
            "preferred": [order.thread_of(aggregate_id) for aggregate_id, _, _ in wanted],
        },
    )
    return rows


_OF_ONE = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.StringDataRightTruncation,
    psycopg.errors.NotNullViolation,
)
"""What goes wrong because of one event: of which, is found out one by one."""


def _name(identifier: str) -> str:
    return literal(identifier.replace("%%", "%"))


def _is_of_version(violation: psycopg.errors.Diagnostic) -> bool:
    """Whether what is taken is a version. By this in the index's name reSolve, too, knows it; but where the table's
    name is long PostgreSQL cut the index's, and then the columns tell."""
    return "aggregateidandversion" in (violation.constraint_name or "").lower() or '"aggregateVersion"' in (
        violation.message_detail or ""
    )

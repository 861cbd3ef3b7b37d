"""Saving one event: which thread it goes to, and the round trip that puts it there.

Within a thread commit order must be counter order. So a save locks its thread's row in `events-threads` until it
commits; saves of other threads don't wait for it. The rules for the thread: docs/order.md.
"""

from __future__ import annotations

from typing import Any

import psycopg

from eventferry import order
from eventferry.database import Saved
from eventferry.databases.postgresql.connection import Connection
from eventferry.databases.postgresql.tables import COLUMNS, Names, literal
from eventferry.databases.postgresql.writing import event_size
from eventferry.errors import ConcurrentError, DatabaseError
from eventferry.event import NewRow


def _is_of_version(violation: psycopg.errors.Diagnostic) -> bool:
    """Whether what is taken is a version. By this in the index's name reSolve, too, knows it; but where the table's
    name is long PostgreSQL cut the index's, and then the columns tell."""
    return "aggregateidandversion" in (violation.constraint_name or "").lower() or '"aggregateVersion"' in (
        violation.message_detail or ""
    )


class Placing:
    """An event on its way to a thread."""

    def __init__(self, names: Names, event: NewRow, version: int, timestamp: int) -> None:
        self._names = names
        self._event = event
        self._version = version
        self._timestamp = timestamp
        self.preferred = order.thread_of(event.aggregate_id)

    async def save(
        self, connection: Connection, thread: int, lock_timeout: int, *, anyhow: bool
    ) -> Saved | None:
        """One transaction in one round trip; None if the store is frozen or another thread is the right one.

        What is asked about the thread is asked in a statement behind the one that locks its row, so that it
        sees what was committed while it waited for the lock. The heads are read behind the commit: so they are
        a state that the store went through, and of the cursors of two saves one is always behind the other.

        Args:
            connection: in no transaction.
            thread: to put the event into.
            lock_timeout: how many milliseconds to wait for a lock.
            anyhow: it was found to be the right one already.
        """
        results = await self._run(
            connection,
            f"""BEGIN ISOLATION LEVEL READ COMMITTED;
            SET LOCAL lock_timeout = {lock_timeout};
            SELECT 1 FROM {self._names.threads} WHERE "threadId" = %(thread)s FOR UPDATE;
            {self._add("TRUE" if anyhow else self._is_right)};
            COMMIT;
            {self._heads}""",
            thread,
        )
        return self._saved(thread, results[3], results[5][0][0])

    async def place(self, connection: Connection, thread: int) -> Saved:
        """The same in a sole writing, which has checked everything."""
        added, heads = await self._run(connection, f"{self._add(None)}; {self._heads}", thread)
        saved = self._saved(thread, added, heads[0][0])
        if saved is None:
            raise DatabaseError(f"{self._names.threads} lacks the row of thread {thread}")
        return saved

    async def find_thread(self, connection: Connection) -> tuple[int, bool]:
        """The right thread, as far as can be told without a lock: that of the aggregate's last event at this
        very timestamp, or the next whose last timestamp is not later, or if there is none the preferred one.
        The flag says whether that stands whatever else is saved meanwhile: then `save` need not ask again."""
        [[(at_once, free)]] = await connection.run(
            f"""SELECT (
              SELECT "threadId" FROM (
                SELECT "threadId", "threadCounter", "aggregateId", "aggregateVersion" FROM {self._names.events}
                WHERE "timestamp" = %(time)s OFFSET 0
              ) AS at_once WHERE "aggregateId" = %(id)s AND "aggregateVersion" < %(version)s
              ORDER BY "aggregateVersion" DESC LIMIT 1
            ), (
              SELECT thread FROM unnest(%(threads)s::bigint[]) WITH ORDINALITY AS candidate(thread, place)
              WHERE coalesce((
                SELECT "timestamp" FROM {self._names.events} WHERE "threadId" = thread
                ORDER BY "threadCounter" DESC LIMIT 1
              ), %(time)s) <= %(time)s ORDER BY place LIMIT 1
            )""",
            self._values(self.preferred) | {"threads": [*range(self.preferred, 256), *range(self.preferred)]},
        )
        if at_once is not None:
            return at_once, True
        return (self.preferred, True) if free is None else (free, False)

    async def look_up(self, connection: Connection) -> Saved | None:
        """Where the event stands, if it was stored; None if another one has its version, or none has."""
        [found, heads] = await connection.run(
            f"""SELECT "threadId", "threadCounter" FROM {self._names.events}
            WHERE "aggregateId" = %(id)s AND "aggregateVersion" = %(version)s AND "timestamp" = %(time)s
              AND "type" = %(type)s AND "payload" = %(payload)s::jsonb;
            {self._heads}""",
            self._values(0),
        )
        if not found:
            return None
        thread, counter = found[0]
        return Saved(thread, counter, self._timestamp, heads[0][0])

    async def _run(self, connection: Connection, statements: str, thread: int) -> list[list[tuple[Any, ...]]]:
        with connection.named():
            try:
                return await connection.run_raw(statements, self._values(thread))
            except psycopg.errors.UniqueViolation as error:
                if _is_of_version(error.diag):
                    raise ConcurrentError(self._event.aggregate_id, self._version) from None
                raise DatabaseError(
                    f"the next counter of thread {thread} in {self._names.threads} is that of an event that is there"
                ) from error

    def _add(self, condition: str | None) -> str:
        """Insert behind the thread's head, and move that; the counter, if the condition holds.

        The freeze is looked up by name, not by what the transaction sees of the catalogue: a freeze waits for
        the lock on the table of threads that is held here, or is seen here.
        """
        unless_frozen = f"to_regclass({literal(self._names.freeze.replace('%%', '%'))}) IS NULL"
        checked = "TRUE" if condition is None else f"{unless_frozen} AND {condition}"
        return f"""WITH added AS (
              INSERT INTO {self._names.events}({COLUMNS})
              SELECT "threadId", "threadCounter", %(time)s, %(id)s, %(version)s, %(type)s, %(payload)s::jsonb, %(size)s
              FROM {self._names.threads} WHERE "threadId" = %(thread)s AND {checked}
              RETURNING "threadCounter"
            ), moved AS (
              UPDATE {self._names.threads} SET "threadCounter" = "threadCounter" + 1
              WHERE "threadId" = %(thread)s AND EXISTS (SELECT FROM added)
            ) SELECT "threadCounter" FROM added"""

    @property
    def _heads(self) -> str:
        return f'SELECT array_agg("threadCounter" ORDER BY "threadId") FROM {self._names.threads}'

    @property
    def _is_right(self) -> str:
        """The thread's last timestamp is not later, and no other thread has the aggregate at this very time."""
        return f"""NOT EXISTS (
                SELECT FROM (
                  SELECT "timestamp" FROM {self._names.events} WHERE "threadId" = %(thread)s
                  ORDER BY "threadCounter" DESC LIMIT 1
                ) AS last WHERE last."timestamp" > %(time)s
              ) AND NOT EXISTS (
                SELECT FROM (
                  SELECT "threadId", "aggregateId", "aggregateVersion" FROM {self._names.events}
                  WHERE "timestamp" = %(time)s OFFSET 0
                ) AS at_once WHERE "aggregateId" = %(id)s AND "aggregateVersion" < %(version)s
                  AND "threadId" <> %(thread)s
              )"""

    def _values(self, thread: int) -> dict[str, Any]:
        event = self._event
        return {
            "thread": thread,
            "time": self._timestamp,
            "id": event.aggregate_id,
            "version": self._version,
            "type": event.type,
            "payload": event.payload.decode(),
            "size": event_size(event.aggregate_id.encode(), event.type.encode(), event.payload),
        }

    def _saved(self, thread: int, added: list[tuple[Any, ...]], heads: list[int]) -> Saved | None:
        return Saved(thread, added[0][0], self._timestamp, heads) if added else None

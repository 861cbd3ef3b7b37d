"""Exclusive write transactions on MySQL: appended blocks, and the merge of an incremental import."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from pymysql.cursors import SSCursor
from pymysql.err import MySQLError

from eventferry.database import PLACED, Freeze, NextPlace, Shared, Stage, StageComparison, StageKind
from eventferry.databases.mysql import markers
from eventferry.databases.mysql.cluster import Hold, new_hold
from eventferry.databases.mysql.connection import NO_TABLE, duplicate_key, number_of
from eventferry.databases.mysql.markers import Marker, MarkerChange
from eventferry.databases.mysql.reading import compact_text, entry
from eventferry.databases.mysql.save import next_places, taken
from eventferry.databases.mysql.stage import MysqlWriting
from eventferry.databases.mysql.tables import quoted
from eventferry.databases.names import comment, left_out
from eventferry.databases.statements import thread_of_the_latest
from eventferry.databases.stretches import vector
from eventferry.databases.thread import threaded
from eventferry.errors import ConcurrentError, UnsupportedStoreError
from eventferry.lines.event import Row
from eventferry.lines.limits import MAX_SAFE_INTEGER, last_version

_COLUMNS = "threadId, threadCounter, timestamp, aggregateId, aggregateVersion, type, payload"
_BLOCK = 2000


class MysqlExclusiveWriting(MysqlWriting):
    """A write transaction that holds the rows of all threads: nobody else stores an event before it ends."""

    def __init__(self, *reading: Any, freeze: Freeze | None) -> None:
        super().__init__(*reading, freeze=freeze)
        self._shared_rows: SSCursor | None = None
        self._hold: str | None = None

    def keep(self, hold: Hold) -> None:
        """Keep others out by this until the end."""
        self._hold = hold.marker.owner
        self._afterwards.append(hold.release)
        self._otherwise.append(hold.release)

    def _thawed(self, freeze: Marker) -> MarkerChange | None:
        """On a cluster a hold stands in its place until the end: a save on another node would undo this."""
        node = self.connection.node
        if node is None:
            return super()._thawed(freeze)
        hold = new_hold(self.connection, node, self.names)
        change = markers.put(self.connection, self.names, "marker", hold.marker, freeze)
        if change is not None:
            self._afterwards.append(hold.release)
        return change

    def undo(self) -> None:
        self._close_shared()
        super().undo()

    @threaded
    def append(self, rows: Sequence[Row], *, fills_gaps: bool = False) -> None:
        if not rows:
            return
        head = f"INSERT INTO {self._events}({_COLUMNS}) VALUES "
        self.connection.query("SAVEPOINT append")
        try:
            self.connection.insert(head, rows)
        except MySQLError as error:
            if duplicate_key(error) is None:
                raise
            # Which of the rows it was, their order tells.
            self.connection.query("ROLLBACK TO SAVEPOINT append")
            for row in rows:
                try:
                    self.connection.insert(head, [row])
                except MySQLError as clash:
                    if duplicate_key(clash) is None:
                        raise
                    raise self._taken(row.aggregate_id, row.aggregate_version) from None
        heads = self._heads()
        for row in rows:
            heads[row.thread_id] = max(heads[row.thread_id], row.thread_counter + 1)
        self.connection.execute(
            f"UPDATE {self._threads} SET threadCounter = {entry('heads', 'threadId')}",
            {"heads": vector(heads)},
        )
        if fills_gaps:
            self._overtake()

    @threaded
    def rewrite(self, rows: Sequence[Row]) -> None:
        found = self.connection.update(
            """UPDATE (SELECT -1 AS threadId, -1 AS threadCounter, '' AS payload UNION ALL """,
            ((row.thread_id, row.thread_counter, row.payload) for row in rows),
            f""") AS n STRAIGHT_JOIN {self._events} AS e
            ON e.threadId = n.threadId AND e.threadCounter = n.threadCounter SET e.payload = n.payload""",
        )
        if found != len(rows):
            raise left_out(self.tables.events)

    @threaded
    def next_places(self, wanted: Sequence[tuple[str, int]]) -> list[NextPlace]:
        return next_places(self.connection, self.names, self.shape, wanted) if wanted else []

    def _overtake(self) -> None:
        """Take away the baselines of the imports that are on their way to replace the events."""
        for kind in PLACED:
            self._overtake_one(kind)

    def _overtake_one(self, kind: StageKind) -> None:
        left = self._stages(kind)
        while left:
            try:
                # The first row by its key: behind it somebody may just be adding his.
                self.connection.execute(
                    f"UPDATE {quoted(self._progress_of(left[0]))} SET `baseline` = NULL ORDER BY `step` LIMIT 1"
                )
            except MySQLError as error:
                if number_of(error) != NO_TABLE:
                    raise
                left = self._stages(kind)  # it has gone just now, or somebody else has it
            else:
                return

    def _taken(self, aggregate_id: str, version: int) -> Exception:
        return taken(self.connection, self.names, self.shape, aggregate_id, version)

    async def compare(self, stage: Stage) -> StageComparison:
        stage = await self._comparable(stage)
        return StageComparison(stage, 0, self._shared(stage))

    @threaded
    def _comparable(self, stage: Stage) -> Stage:
        if stage.kind == "open":
            self.keep_out("push")
            if not self._has_column(stage.table, "arrival"):
                return self._copy(stage)
        return stage

    async def _shared(self, stage: Stage) -> AsyncGenerator[list[Shared], None]:
        await self._find_shared(stage)
        while block := await self._fetch_shared():
            yield block

    @threaded
    def _find_shared(self, stage: Stage) -> None:
        """What stands at the staged timestamps is found by an index, so an import costs what its batch costs. It comes
        sorted by timestamp and a hash; groups are made here, byte by byte, whatever the columns' collations are."""
        table = quoted(stage.table)
        with self._its(stage):
            statement = self.connection.with_values(
                f"""SELECT s.timestamp AS t, CAST(s.aggregateId AS BINARY), CAST(s.type AS BINARY), s.arrival AS a,
              s.part AS p, CAST(IFNULL(s.payload, 'null') AS BINARY), {_mark("s")} AS m
            FROM {table} AS s WHERE (
              SELECT 1 FROM {self._events} AS e {self.shape.time_hint} WHERE e.timestamp = s.timestamp LIMIT 1
            ) IS NOT NULL
            UNION ALL
            SELECT e.timestamp, CAST(e.aggregateId AS BINARY), CAST(e.type AS BINARY), NULL, NULL,
              CAST(IFNULL(e.payload, 'null') AS BINARY), {_mark("e")}
            FROM (SELECT DISTINCT timestamp FROM {table}) AS d
            STRAIGHT_JOIN {self._events} AS e {self.shape.time_hint} ON e.timestamp = d.timestamp
            ORDER BY t, m, p, a""",
                (),
            )
            cursor = self.connection.stream(statement)
        self._shared_rows = cursor
        self._shared_blocks = self._blocks_of(groupby(iter(cursor.fetchone, None), key=itemgetter(0, 6)))

    def _copy(self, stage: Stage) -> Stage:
        """A stage that the real reSolve opened, in a table like ours: it has no numbers and no parts."""
        table = self.names.merge_stage(stage.id)
        self._make("merge", table, comment("STAGE", id=stage.id))
        self._drop_afterwards(table)
        self.connection.execute(
            f"""INSERT INTO {quoted(table)}(`timestamp`, `aggregateId`, `type`, `payload`)
            SELECT `timestamp`, `aggregateId`, `type`, `payload` FROM {quoted(stage.table)}
            ORDER BY `timestamp`, `rowid`"""
        )
        return Stage(stage.id, "merge", table)

    @threaded
    def _fetch_shared(self) -> list[Shared]:
        block = next(self._shared_blocks, [])
        if not block:
            self._close_shared()
        return block

    def _blocks_of(self, alike: Iterable[tuple[Any, Iterable[tuple[Any, ...]]]]) -> Iterator[list[Shared]]:
        """Groups one after another, from rows that are sorted so that those of a group are nearly always next to one
        another: of those that have one hash all but the first wait for its end."""
        block: list[Shared] = []
        for _, rows in alike:
            first: tuple[bytes, bytes] | None = None
            others: dict[tuple[bytes, bytes], list[Shared]] = {}
            for timestamp, aggregate_id, event_type, arrival, _, payload, _ in rows:
                name = aggregate_id, event_type
                first = first or name
                group = block if name == first else others.setdefault(name, [])
                # A foreign writer may have left white space, which the comparison of bytes need not see.
                group.append(
                    Shared(
                        (timestamp, aggregate_id.decode(), event_type.decode()),
                        arrival,
                        payload if self.shape.is_ours else compact_text(payload),
                    )
                )
                if len(block) >= _BLOCK:
                    yield block
                    block = []
            for found in others.values():
                block += found
        if block:
            yield block

    def _close_shared(self) -> None:
        if self._shared_rows is not None:
            with contextlib.suppress(MySQLError):
                self._shared_rows.close()
            self._shared_rows = None

    async def place(self, stage: Stage) -> int:
        return await self._place(stage, await thread_of_the_latest(self))

    @threaded
    def _place(self, stage: Stage, behind_all: int) -> int:
        table = quoted(stage.table)
        at_staged_times = f"""(SELECT DISTINCT timestamp FROM {table}) AS d
          STRAIGHT_JOIN {self._events} AS e {self.shape.time_hint} ON e.timestamp = d.timestamp"""
        # Aggregates meet by their hash, which is short enough for an index; if two had the same one, an event
        # would only go where it may go as well. Not MD5 or SHA1, which MySQL 9 no longer has.
        busy = f"""SELECT DISTINCT s.timestamp
          FROM (SELECT DISTINCT timestamp, CRC32(aggregateId) AS hash FROM {table}) AS s
          JOIN (SELECT DISTINCT e.timestamp, CRC32(e.aggregateId) AS hash FROM {at_staged_times}) AS k
          ON k.timestamp = s.timestamp AND k.hash = s.hash"""
        same = self.shape.same_column("e.aggregateId", "q.aggregateId")
        # Places are worked out without the payloads, which would otherwise be sorted along. The latest version is
        # asked for in the order of the whole key, or MySQL reads and sorts all versions of the aggregate.
        self.connection.execute(
            f"""UPDATE {table} AS s JOIN (
              SELECT q.arrival, q.threadId,
                {entry("heads", "q.threadId")} - 1 + ROW_NUMBER() OVER (PARTITION BY q.threadId ORDER BY q.place)
                  AS threadCounter,
                COALESCE((
                  SELECT e.aggregateVersion FROM {self._events} AS e WHERE {same}
                  ORDER BY e.aggregateId DESC, e.aggregateVersion DESC LIMIT 1
                ), 0) + ROW_NUMBER() OVER (PARTITION BY q.aggregateId ORDER BY q.place) AS aggregateVersion
              FROM (
                SELECT r.arrival, r.aggregateId,
                  ROW_NUMBER() OVER (ORDER BY r.timestamp, r.part, r.arrival) AS place,
                  IF(b.timestamp IS NULL, MOD(MOD(r.timestamp, 256) + 256, 256), %(behind_all)s) AS threadId
                FROM {table} AS r LEFT JOIN ({busy}) AS b ON b.timestamp = r.timestamp
              ) AS q
            ) AS p ON p.arrival = s.arrival
            SET s.threadId = p.threadId, s.threadCounter = p.threadCounter, s.aggregateVersion = p.aggregateVersion""",
            {"heads": vector(self._heads()), "behind_all": behind_all},
        )
        at_its_end = self.connection.query(
            f"SELECT aggregateId FROM {table} WHERE aggregateVersion > {MAX_SAFE_INTEGER} LIMIT 1"
        )
        if at_its_end:
            raise last_version(at_its_end[0][0])
        try:
            placed = self.connection.execute(
                f"""INSERT INTO {self._events}({_COLUMNS}) SELECT {_COLUMNS} FROM {table}
                ORDER BY threadId, threadCounter"""
            )
        except MySQLError as error:
            if duplicate_key(error) is None:
                raise
            raise self._clash(table, error) from None
        self.connection.execute(
            f"""UPDATE {self._threads} AS t
            JOIN (SELECT threadId, MAX(threadCounter) + 1 AS head FROM {table} GROUP BY threadId) AS p
            ON p.threadId = t.threadId SET t.threadCounter = p.head"""
        )
        return placed

    def _clash(self, table: str, error: MySQLError) -> Exception:
        """Which event cannot come in, since the store's column takes its aggregate for another."""
        rows = self.connection.query(
            f"""SELECT s.aggregateId, s.aggregateVersion FROM {table} AS s JOIN {self._events} AS e
            ON e.aggregateId = (s.aggregateId COLLATE {self.shape.collation})
              AND e.aggregateVersion = s.aggregateVersion ORDER BY s.arrival LIMIT 1"""
        )
        if not rows:  # two of the batch: the store holds neither yet
            return UnsupportedStoreError(
                f"two aggregates of the batch are the same to this store's column, whose collation is "
                f"{self.shape.collation}: {error.args[1]}"
            )
        refused = self._taken(*rows[0])
        if isinstance(refused, ConcurrentError):
            return UnsupportedStoreError(str(error.args[1]))
        return refused


def _mark(table: str) -> str:
    """A hash of what a group has beside its timestamp, by which its rows are sorted next to one another."""
    return f"CRC32(CAST({table}.aggregateId AS BINARY)) * 4294967296 + CRC32(CAST({table}.type AS BINARY))"

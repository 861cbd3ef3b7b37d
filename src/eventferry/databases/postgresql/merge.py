"""Exclusive write transactions in a PostgreSQL schema: appended blocks, and the merge of an incremental import."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import psycopg

from eventferry.database import PLACED, NextPlace, Shared, Stage, StageComparison
from eventferry.databases.names import left_out
from eventferry.databases.postgresql import tables as ddl
from eventferry.databases.postgresql.markers import stage_comment
from eventferry.databases.postgresql.reading import vector
from eventferry.databases.postgresql.save import find_places
from eventferry.databases.postgresql.stage import NUMBERS, TEXTS, PostgresWriting, copied, event_size
from eventferry.databases.postgresql.tables import COLUMNS, quoted
from eventferry.databases.statements import thread_of_the_latest
from eventferry.errors import ConcurrentError, DatabaseError
from eventferry.importing.batch import PART
from eventferry.lifecycle import aclosing
from eventferry.lines.event import Row
from eventferry.lines.limits import MAX_SAFE_INTEGER, last_version

_GROUP = '"timestamp", "aggregateId", "type"'
_SAME_GROUP = 'k."timestamp" = s."timestamp" AND k."aggregateId" = s."aggregateId" AND k."type" = s."type"'


class PostgresExclusiveWriting(PostgresWriting):
    """A write transaction that holds the lock by which the events are its own."""

    async def append(self, rows: Sequence[Row], *, fills_gaps: bool = False) -> None:
        if not rows:
            return
        await self._refuse_taken(rows)
        await self.connection.copy_in(
            f"COPY {self.names.events}({TEXTS}, {NUMBERS}) FROM STDIN", _parts_of(rows)
        )
        heads = [0] * 256
        for row in rows:
            heads[row.thread_id] = max(heads[row.thread_id], row.thread_counter + 1)
        await self.connection.change(
            f"""UPDATE {self.names.threads} SET "threadCounter" = (%(heads)s::bigint[])["threadId" + 1]
            WHERE "threadCounter" < (%(heads)s::bigint[])["threadId" + 1]""",
            {"heads": vector(heads)},
        )
        if fills_gaps:
            for stage in [stage for kind in PLACED for stage in await self.stages(kind)]:
                _, steps = self.tables_of(stage)
                told = ddl.literal(stage_comment(replace(stage, baseline=None)))
                with self.its_own(stage):
                    await self.execute(f"COMMENT ON TABLE {steps} IS {told}")

    async def rewrite(self, rows: Sequence[Row]) -> None:
        for begin in range(0, len(rows), PART):
            part = rows[begin : begin + PART]
            sizes = [event_size(row.aggregate_id.encode(), row.type.encode(), row.payload) for row in part]
            changed = await self.connection.change(
                f"""UPDATE {self.names.events} AS e SET "payload" = n.payload::jsonb, "eventSize" = n.size
                FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[]) AS n(thread, counter, payload, size)
                WHERE e."threadId" = n.thread AND e."threadCounter" = n.counter""",
                (
                    [row.thread_id for row in part],
                    [row.thread_counter for row in part],
                    [row.payload.decode() for row in part],
                    sizes,
                ),
            )
            if changed != len(part):
                raise left_out(self.names.tables.events)

    async def next_places(self, wanted: Sequence[tuple[str, int]]) -> list[NextPlace]:
        behind = [(aggregate_id, MAX_SAFE_INTEGER + 1, time) for aggregate_id, time in wanted]
        found = await find_places(self.connection, self.names, behind)
        return [NextPlace(last, thread) for last, thread, _ in found]

    async def _refuse_taken(self, rows: Sequence[Row]) -> None:
        found = await self.connection.rows(
            f"""SELECT wanted.id, wanted.version FROM unnest(%s::text[], %s::bigint[]) AS wanted(id, version)
            CROSS JOIN LATERAL (
              SELECT FROM {self.names.events}
              WHERE "aggregateId" = wanted.id AND "aggregateVersion" = wanted.version OFFSET 0
            ) AS found""",
            ([row.aggregate_id for row in rows], [row.aggregate_version for row in rows]),
        )
        taken = {(aggregate_id.decode(), version) for aggregate_id, version in found}
        for row in rows:
            version = row.aggregate_id, row.aggregate_version
            if version in taken:
                raise ConcurrentError(*version)
            taken.add(version)

    async def compare(self, stage: Stage) -> StageComparison:
        return StageComparison(stage, await self._discard_known(stage), self._shared(stage))

    async def _discard_known(self, stage: Stage) -> int:
        """What stands at the staged timestamps is found by the index on them, one look a timestamp, so an import costs
        what its batch costs. The array is what keeps the planner from turning the looks into a scan of the events.

        How large a table is it must know, but not much of what is in it: to look closely took longer than the rest.
        Where tables meet that were made a moment ago, it looked through one of them for each row of the other.

        What the store holds at the times of those that are left is kept for the steps behind this: next to nothing,
        where a copy of all that is known took a tenth of the whole import.
        """
        table, known = self.names.of(stage.table), self._known(stage)
        at_its_times = f"""{self.names.events} WHERE "timestamp" = ANY(ARRAY(
          SELECT DISTINCT "timestamp" FROM {table} WHERE "timestamp" <= {self._latest}
        ))"""
        with self.its_own(stage):
            await self.execute(
                f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE",
                "SET LOCAL work_mem = '64MB'",
                "SET LOCAL enable_nestloop = off",
                "SET LOCAL default_statistics_target = 10",
                f"ANALYZE {table}({_GROUP})",
            )
        count = await self.connection.change(
            f"""DELETE FROM {table} AS s USING (
              SELECT min("rowid") AS id FROM {table} WHERE "timestamp" <= {self._latest}
              GROUP BY {_GROUP} HAVING count(*) = 1
            ) AS alone WHERE s."rowid" = alone.id AND EXISTS (
              SELECT FROM (SELECT {_GROUP}, "payload" FROM {at_its_times}) AS k
              WHERE {_SAME_GROUP} AND k."payload" IS NOT DISTINCT FROM s."payload"
            )"""
        )
        await self.execute(
            f"""CREATE TEMP TABLE {known} ON COMMIT DROP AS
                SELECT {_GROUP}, "payload" FROM {at_its_times}""",
            f"ANALYZE {known}({_GROUP})",
        )
        return count

    async def _shared(self, stage: Stage) -> AsyncGenerator[list[Shared], None]:
        table, known, part = self.names.of(stage.table), self._known(stage), await self.part_of(stage)
        left = f'{table} AS s WHERE s."timestamp" <= {self._latest}'
        blocks = self.connection.blocks(
            f"""SELECT s."timestamp" AS t, s."aggregateId" AS a, s."type" AS y, 0 AS side, {part} AS p, s."rowid" AS r,
              coalesce(s."payload"::text, 'null')
            FROM {left} AND EXISTS (SELECT FROM {known} AS k WHERE {_SAME_GROUP})
            UNION ALL
            SELECT k."timestamp", k."aggregateId", k."type", 1, NULL, NULL, coalesce(k."payload"::text, 'null')
            FROM {known} AS k WHERE EXISTS (SELECT FROM {left} AND {_SAME_GROUP})
            ORDER BY t, a, y, side, p, r""",
            f"{stage.id}-shared",
        )
        async with aclosing(blocks) as found:
            async for block in found:
                yield [
                    Shared((time, aggregate_id.decode(), event_type.decode()), rowid, payload)
                    for time, aggregate_id, event_type, _, _, rowid, payload in block
                ]

    @property
    def _latest(self) -> str:
        """The highest timestamp in the store: an event behind it cannot be known."""
        return f'(SELECT max("timestamp") FROM {self.names.events})'

    @staticmethod
    def _known(stage: Stage) -> str:
        return f"pg_temp.{quoted(f'{stage.id}-known')}"

    async def place(self, stage: Stage) -> int:
        table, known, part = self.names.of(stage.table), self._known(stage), await self.part_of(stage)
        arrival = '"timestamp", "arrivedBy", "rowid"'
        heads = await self.heads()
        statement = f"""WITH crowded AS MATERIALIZED (
              SELECT "timestamp" FROM (
                SELECT "timestamp", "aggregateId" FROM {table} WHERE "timestamp" <= {self._latest}
                INTERSECT SELECT "timestamp", "aggregateId" FROM {known}
              ) AS met
            ), versions AS MATERIALIZED (
              SELECT a."aggregateId", coalesce((
                SELECT max(e."aggregateVersion") FROM {self.names.events} AS e WHERE e."aggregateId" = a."aggregateId"
              ), 0) AS latest FROM (SELECT DISTINCT "aggregateId" FROM {table}) AS a
            ), staged AS (
              SELECT "timestamp", "aggregateId", "type", "payload", "eventSize", {part} AS "arrivedBy", "rowid",
                CASE WHEN "timestamp" IN (SELECT "timestamp" FROM crowded) THEN %(behind_all)s
                  ELSE (("timestamp" %% 256) + 256) %% 256 END AS "threadId"
              FROM {table}
            )
            INSERT INTO {self.names.events}({COLUMNS})
            SELECT "threadId",
              (%(heads)s::bigint[])["threadId" + 1] - 1
                + row_number() OVER (PARTITION BY "threadId" ORDER BY {arrival}),
              "timestamp", "aggregateId",
              nullif(
                latest + row_number() OVER (PARTITION BY "aggregateId" ORDER BY {arrival}), {MAX_SAFE_INTEGER + 1}
              ),
              "type", "payload", "eventSize"
            FROM staged JOIN versions USING ("aggregateId") ORDER BY {arrival}"""
        await self.execute("SAVEPOINT before")
        try:
            count = await self.connection.change(
                statement, {"heads": vector(heads), "behind_all": await thread_of_the_latest(self)}
            )
        except DatabaseError as error:
            # No version behind the highest: the column refuses the null.
            if not isinstance(error.__cause__, psycopg.errors.NotNullViolation):
                raise
            await self.execute("ROLLBACK TO SAVEPOINT before")
            raise await self._refusal(table) from None
        await self.execute(
            f"""UPDATE {self.names.threads} AS t SET "threadCounter" = n.head FROM (
                  SELECT "threadId", (
                    SELECT max(e."threadCounter") + 1 FROM {self.names.events} AS e WHERE e."threadId" = a."threadId"
                  ) AS head FROM {self.names.threads} AS a
                ) AS n WHERE t."threadId" = n."threadId" AND t."threadCounter" < n.head"""
        )
        return count

    async def _refusal(self, table: str) -> Exception:
        [(aggregate_id,)] = await self.connection.rows(
            f"""SELECT "aggregateId" FROM (
              SELECT "aggregateId", count(*) AS staged FROM {table} GROUP BY 1
            ) AS a WHERE staged + (
              SELECT coalesce(max(e."aggregateVersion"), 0) FROM {self.names.events} AS e
              WHERE e."aggregateId" = a."aggregateId"
            ) > {MAX_SAFE_INTEGER} LIMIT 1"""
        )
        return last_version(aggregate_id.decode())


async def _parts_of(rows: Sequence[Row]) -> AsyncGenerator[bytes, None]:
    for begin in range(0, len(rows), PART):
        part = rows[begin : begin + PART]
        numbers = [b"%d\t%d\t%d\t%d" % (*row[:3], row.aggregate_version) for row in part]
        texts = [row.aggregate_id for row in part], [row.type for row in part], [row.payload for row in part]
        yield copied(*texts, numbers)

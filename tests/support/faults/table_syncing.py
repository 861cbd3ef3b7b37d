"""The storm of sync from another product's table: eight writers whose transactions commit late, and a sync that follows
them in a process of its own and is killed again and again.

When the writers have stopped and it has come to the end, the target must hold each row that was committed exactly once,
in the table's order, as SQL and `verify` find independently of each other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import signal
import time
from collections import defaultdict

import psycopg

from eventferry import Mapping, open_source, open_store, verify
from eventferry.clock import now
from tests.support import all_pages
from tests.support.faults.children import Child, make_ready
from tests.support.faults.operations import must
from tests.support.foreign.own import OwnTable

WRITERS = 8

FIRST = 500
"""Rows of the table when the storm begins, of which one in ten is missing."""

HANGS = 120.0
"""Seconds after which the last sync hangs."""


@dataclasses.dataclass
class Totals:
    """What was done, and what came over."""

    kills: int = 0
    batches: int = 0
    events: int = 0
    rolled_back: int = 0
    late: int = 0  # rows that became visible below one that was visible before
    seconds: float = 0.0


class Writers:
    """Write into one table until they are stopped.

    Attributes:
        committed: positions in the order in which the transactions were known to be over.
        rolled_back: how many numbers were drawn for nothing.
    """

    def __init__(self, url: str, chance: random.Random) -> None:
        self.committed: list[int] = []
        self.rolled_back = 0
        self._url = url
        self._chance = chance
        self._is_over = False

    def stop(self) -> None:
        """Let each end what it is at."""
        self._is_over = True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self._write(number))

    async def _write(self, number: int) -> None:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            while not self._is_over:
                await connection.execute("BEGIN")
                drawn: list[int] = []
                for _ in range(self._chance.randrange(1, 6)):
                    drawn += await self._insert(connection, number)
                    await self._rest()
                if self._chance.random() < 0.15:
                    await connection.execute("ROLLBACK")
                    self.rolled_back += len(drawn)
                else:
                    await connection.execute("COMMIT")
                    self.committed += drawn
                await self._rest()

    async def _insert(self, connection: psycopg.AsyncConnection, number: int) -> list[int]:
        how = self._chance.random()
        if how < 0.2:  # a number that is drawn long before it is used
            [position] = await self._row(connection, "SELECT nextval('events_id_seq')")
            await self._rest()
            return await self._row(connection, _INSERT_AT, number, position)
        if how < 0.3:  # and one in a part of the transaction that is undone
            await connection.execute("SAVEPOINT one")
            lost = await self._row(connection, _INSERT, number)
            await connection.execute("ROLLBACK TO one")
            self.rolled_back += len(lost)
        return await self._row(connection, _INSERT, number)

    async def _row(self, connection: psycopg.AsyncConnection, statement: str, *about: int) -> list[int]:
        values: list[object] = []
        if about:
            stream = f"stream-{about[0]}-{self._chance.randrange(20)}"
            values = [*about[1:], stream, json.dumps({"fill": "x" * self._chance.randrange(300)}), now()]
        cursor = await connection.execute(statement.encode(), values)
        row = await cursor.fetchone()
        return [row[0]] if row else []

    async def _rest(self) -> None:
        """Mostly none at all, and now and then long."""
        if (draw := self._chance.random()) > 0.7:
            await asyncio.sleep((draw - 0.7) ** 3 * 10)


_INSERT = "INSERT INTO events(stream, type, data, at) VALUES (%s, 'T', %s, %s) RETURNING id"
_INSERT_AT = "INSERT INTO events(id, stream, type, data, at) VALUES (%s, %s, 'T', %s, %s) RETURNING id"


async def storm(
    table: OwnTable, mapping: Mapping, order: str, url: str, *, kills: int, events: int, seed: int
) -> Totals:
    """Go on until so many kills have met a sync at work, and there are so many events.

    Args:
        table: on PostgreSQL.
        mapping: of it.
        order: in SQL, of its rows.
        url: of the target, a replica.

    Raises:
        BrokenPromiseError: an event is lost or doubled or out of order, or a sync ended by itself.
    """
    make_ready()
    totals, chance = Totals(), random.Random(seed)
    began = time.monotonic()
    table.run(
        """INSERT INTO events(id, stream, type, data, at) SELECT n, 'first-' || mod(n, 7), 'T', 'null', n
        FROM (SELECT nextval('events_id_seq') AS n FROM generate_series(1, %s)) AS drawn WHERE mod(n, 10) <> 3""",
        FIRST,
    )
    writers = Writers(table.url, random.Random(chance.getrandbits(64)))
    child: Child | None = None
    try:
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(writers.run())
            while totals.kills < kills or len(writers.committed) < events:
                child = Child("sync table", table.url, mapping, url, "replica", True)
                await child.until_begun()
                # In the first fill, in the first batches, or when it has come to the end.
                await asyncio.sleep(chance.random() * 4)
                must(not child.is_over, f"a sync that follows ended {child.ended}: {child.error}")
                totals.kills += 1
                child.signal(signal.SIGKILL)
                must(await child.until_over(HANGS), "a child that was killed does not end")
                totals.batches += len(child.words("batch"))
            writers.stop()
            await writing
    finally:
        if child is not None:
            child.signal(signal.SIGKILL)
    last = Child("sync table", table.url, mapping, url, "replica", False)
    must(await last.until_over(HANGS), "the last sync hangs")
    must(last.ended == "well", f"the last sync ended {last.ended}: {last.error}")
    totals.rolled_back = writers.rolled_back
    totals.late = _late(writers.committed)
    totals.seconds = time.monotonic() - began
    await _look(table, mapping, order, url, writers, totals)
    return totals


async def _look(
    table: OwnTable, mapping: Mapping, order: str, url: str, writers: Writers, totals: Totals
) -> None:
    rows = [
        (int(position), stream)
        for position, stream in table.run(f"SELECT id, stream FROM events ORDER BY {order}")
    ]
    lost = set(writers.committed) - {position for position, _ in rows}
    must(not lost, f"the table itself has lost {sorted(lost)[:3]}")
    async with open_store(url) as target, open_source(table.url, mapping) as source:
        events = await all_pages(target, 5_000)
        came = [(event.payload["meta"]["position"], event.aggregate_id) for event in events]
        must(len(came) == len(set(came)), "events are doubled")
        must(set(came) == set(rows), f"lost: {sorted(set(rows) - set(came))[:5]}")
        must(came == rows, "the order is not that of the table")
        versions: dict[str, int] = defaultdict(int)
        for counter, event in enumerate(events):
            versions[event.aggregate_id] += 1
            must((event.thread_id, event.thread_counter) == (0, counter), f"{event} has another place")
            must(event.aggregate_version == versions[event.aggregate_id], f"{event} has another version")
        report = await verify(source.export_events(), target.export_events())
        must(report.equal, f"not equal: {report}")
        [status] = await target.sync_status(source)
        must(status.lag_events == 0 and status.problem is None, f"it lags behind: {status}")
    totals.events = len(events)


def _late(positions: list[int]) -> int:
    """How many came below one that was there before."""
    highest = late = 0
    for position in positions:
        late += position < highest
        highest = max(highest, position)
    return late


def told(totals: Totals) -> str:
    """The totals in a line."""
    figures = ", ".join(f"{name} {count}" for name, count in dataclasses.asdict(totals).items())
    return f"0 lost, 0 doubled, in order ({figures})"

"""Looking whether the counters and indexes of a store agree with its events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from eventferry.database import Inspection
from eventferry.databases.inspecting import counter_faults, index_fault, unique_faults
from eventferry.databases.postgresql.connection import Connection
from eventferry.databases.postgresql.tables import Names, columns, quoted
from eventferry.errors import DatabaseError, ReadOnlyStoreError


class _Index(NamedTuple):
    """An index of the events; plain is a B-tree of whole columns that every event has."""

    name: str
    oid: int
    is_valid: bool
    is_unique: bool
    is_plain: bool
    columns: tuple[str, ...]


_COLUMNS = {
    "threadId": "hashint8extended",
    "threadCounter": "hashint8extended",
    "timestamp": "hashint8extended",
    "aggregateId": "hashtextextended",
    "aggregateVersion": "hashint8extended",
    "type": "hashtextextended",
}
"""What hashes a column of the events."""


def _hash(names: Sequence[str]) -> str:
    seed = "0"
    for name in names:
        seed = f"{_COLUMNS[name]}({quoted(name)}, {seed})"
    return seed


class Inspecting:
    """An inspection in a transaction.

    Every index is read by a scan of its own and compared with the table, which is read without any; beside that
    amcheck is asked, where it is. Settings are the transaction's, so a savepoint takes them back.
    """

    def __init__(self, connection: Connection, names: Names, oid: int) -> None:
        self._connection = connection
        self._names = names
        self._oid = oid

    async def inspect(self, limit: int) -> Inspection:
        run = self._connection.run
        indexes = await self._indexes()
        faults = [
            f"the index {index.name!r} is not valid: rebuild it" for index in indexes if not index.is_valid
        ]
        faults += unique_faults(index.columns for index in indexes if index.is_valid and index.is_unique)
        readable = [index for index in indexes if index.is_valid and index.is_plain]
        unchecked = [
            f"the index {index.name!r}: it is not one of whole columns"
            for index in indexes
            if index.is_valid and not index.is_plain
        ]
        await run("SAVEPOINT inspection")
        sums = "".join(f", sum({_hash(index.columns)}::numeric)::text" for index in readable)
        await self._disable("enable_indexscan", "enable_indexonlyscan")
        [rows] = await run(
            f"""SELECT "threadId", max("threadCounter"), count(*){sums} FROM {self._names.events}
            GROUP BY "threadId" """
        )
        [counters] = await run(
            f'SELECT "threadId", "threadCounter" FROM {self._names.threads} ORDER BY "threadId"'
        )
        await run("ROLLBACK TO inspection")
        faults += counter_faults(counters, {thread: highest for thread, highest, *_ in rows})
        count = sum(row[2] for row in rows)
        for place, index in enumerate(readable, start=3):
            counted = await self._counted(index)
            if counted is None:
                unchecked.append(f"the index {index.name!r}: the server would not read it alone")
            elif fault := index_fault(index.name, counted, (count, sum(int(row[place]) for row in rows))):
                faults.append(fault)
        more_faults, more_unchecked = await self._asked_amcheck(readable)
        return Inspection((faults + more_faults)[:limit], unchecked + more_unchecked)

    async def _indexes(self) -> list[_Index]:
        [rows] = await self._connection.run(
            f"""SELECT c.relname, i.indexrelid::bigint, i.indisvalid AND i.indisready,
              i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL,
              i.indpred IS NULL AND i.indexprs IS NULL AND m.amname = 'btree',
              ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attribute, place)
                JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attribute
                WHERE k.place <= i.indnkeyatts ORDER BY k.place)
            FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m ON m.oid = c.relam
            WHERE i.indrelid = {self._oid} ORDER BY 1"""
        )
        return [
            _Index(name, oid, valid, unique, plain and set(names) <= _COLUMNS.keys(), tuple(names))
            for name, oid, valid, unique, plain, names in rows
        ]

    async def _counted(self, index: _Index) -> tuple[int, int] | None:
        """How many entries an index has and the sum of their hashes; None where the planner takes another way."""
        run = self._connection.run
        names = columns(index.columns)
        scan = f"""SELECT count(*), coalesce(sum({_hash(index.columns)}::numeric), 0)::text
          FROM (SELECT {names} FROM {self._names.events} ORDER BY {names}) AS entries"""
        # An incremental sort would read another index that begins alike.
        await self._disable("enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_incremental_sort")
        [plan] = await run(f"EXPLAIN {scan}")
        found = None
        if any(re.search(rf" using \"?{re.escape(index.name)}\"? on ", line) for (line,) in plan):
            [[(count, total)]] = await run(scan)
            found = count, int(total)
        await run("ROLLBACK TO inspection")
        return found

    async def _disable(self, *ways: str) -> None:
        """Keep the planner from ways to read, as far as this server knows them, until the savepoint."""
        await self._connection.run(
            "SELECT set_config(name, 'off', true) FROM pg_settings WHERE name = ANY(%s)", (list(ways),)
        )

    async def _asked_amcheck(self, indexes: Sequence[_Index]) -> tuple[list[str], list[str]]:
        """What the extension amcheck finds, in (faults, unchecked): nothing where nobody has installed it."""
        run = self._connection.run
        [found] = await run(
            """SELECT p.oid::regproc::text, has_function_privilege(p.oid, 'EXECUTE')
              AND has_schema_privilege(p.pronamespace, 'USAGE')
            FROM pg_extension AS e JOIN pg_depend AS d ON d.refobjid = e.oid AND d.deptype = 'e'
            JOIN pg_proc AS p ON p.oid = d.objid
            WHERE e.extname = 'amcheck' AND p.proname = 'bt_index_check' AND p.pronargs = 2"""
        )
        if not found:
            return [], []
        [(function, is_allowed)] = found
        if not is_allowed:
            return [], ["the indexes by amcheck: it is installed, but this role may not run bt_index_check"]
        faults, unchecked = [], []
        for index in indexes:
            try:
                await run(f"SELECT {function}({index.oid}::regclass, true)")
            except ReadOnlyStoreError as error:
                unchecked.append(f"the index {index.name!r} by amcheck: {error}")
            except DatabaseError as error:
                faults.append(f"amcheck, of the index {index.name!r}: {error}")
            await run("ROLLBACK TO inspection")
        return faults, unchecked

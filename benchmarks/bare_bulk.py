"""What Python takes at least for many events at a time: the drivers that ours uses, given or giving what is ready as it
is, with nothing parsed, checked or compared. It is a floor for what ours does, and no store.

python -m benchmarks.bare_bulk OPERATION PLACE FILE

- import: rows that are in memory before the clock starts, into a table without indexes, which then get made; one
  transaction.
- export: the lines of the bulk tool's statement into a file.
- pages: the same statement for 1,000 at a time, by the place of the last; each line an Event.
- aggregate of 100: the same of one aggregate.
- saves: INSERT and COMMIT of a row by a task that awaits each.
"""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import apsw
import psycopg
import pymysql

from benchmarks.bare import FIRST, HUNDRED, execute_at, make_hundred, mysql_connection
from benchmarks.timing import Timer
from eventferry.databases.mysql.reading import LINE as MYSQL_LINE
from eventferry.databases.postgresql.reading import LINE as POSTGRESQL_LINE
from eventferry.databases.sqlite.reading import line_of
from eventferry.lines.event import decode_events

PAGE = 1000
PIECE = 64 * 1024
timer = Timer()


class Sqlite:
    """A file."""

    line = f"CAST({line_of('payload')} AS BLOB)"
    events, order = "events", ("timestamp", "threadCounter", "threadId")

    def __init__(self, place: str) -> None:
        self.connection = apsw.Connection(place)
        self.connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")

    def rows(self, file: str) -> list[tuple[Any, ...]]:
        """What `put` takes."""
        with Path(file).open("rb") as lines:
            return [_row(line) for line in lines]

    def put(self, rows: list[tuple[Any, ...]]) -> None:
        """Rows into a new table, and then its indexes."""
        with self.connection as connection:
            connection.execute(
                "CREATE TABLE bare(threadId BIGINT NOT NULL, threadCounter BIGINT NOT NULL, timestamp BIGINT NOT NULL, "
                "aggregateId TEXT NOT NULL, aggregateVersion BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT)"
            )
            connection.executemany("INSERT INTO bare VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            connection.execute(
                "CREATE UNIQUE INDEX p ON bare(threadId, threadCounter);"
                "CREATE UNIQUE INDEX v ON bare(aggregateId, aggregateVersion);"
                "CREATE INDEX o ON bare(timestamp, threadCounter, threadId)"
            )

    def lines(self, statement: str, *values: object) -> list[bytes]:
        """The lines that a statement finds."""
        return [line for (line,) in self.connection.execute(statement, values)]

    def export(self, statement: str, file: str) -> int:
        """Those into a file."""
        count = 0
        with Path(file).open("wb") as out:
            for (line,) in self.connection.execute(statement):
                out.write(line)
                count += 1
        return count


class Postgresql:
    """The schema `store`."""

    line = POSTGRESQL_LINE.removesuffix("'}'") + "E'}\\n'"
    events, order = "store.events", ('"timestamp"', '"threadCounter"', '"threadId"')

    def __init__(self, place: str) -> None:
        self.connection = psycopg.connect(place.partition("?")[0], autocommit=True)
        self.connection.prepare_threshold = 0

    def rows(self, file: str) -> list[bytes]:
        """What `put` takes: the text of COPY."""
        text = Path(file).read_bytes()
        return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]

    def put(self, rows: list[bytes]) -> None:
        """Rows into a new table, and then its indexes."""
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.execute("CREATE TABLE store.bare (LIKE store.events)")
            with cursor.copy("COPY store.bare FROM STDIN") as copy:
                for piece in rows:
                    copy.write(piece)
            cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
            cursor.execute('ALTER TABLE store.bare ADD PRIMARY KEY ("threadId", "threadCounter")')
            cursor.execute('CREATE UNIQUE INDEX ON store.bare("aggregateId", "aggregateVersion")')
            cursor.execute('CREATE INDEX ON store.bare("timestamp", "threadCounter", "threadId")')

    def lines(self, statement: str, *values: object) -> list[bytes]:
        """The lines that a statement finds."""
        with self.connection.cursor(binary=True) as cursor:
            cursor.execute(statement.replace("?", "%s").encode(), values)
            return [line.encode() for (line,) in cursor]

    def export(self, statement: str, file: str) -> int:
        """Those into a file."""
        statement = statement.replace(self.line, POSTGRESQL_LINE)  # COPY ends its lines by itself
        count = 0
        with (
            Path(file).open("wb") as out,
            self.connection.cursor() as cursor,
            cursor.copy(f"COPY ({statement}) TO STDOUT".encode()) as copy,
        ):
            for line in copy:
                out.write(line)
                count += 1
        return count


class Mariadb:
    """A database."""

    line = MYSQL_LINE.replace("%%", "%")
    events, order = "events AS e", ("e.timestamp", "e.threadCounter", "e.threadId")

    def __init__(self, place: str) -> None:
        self.connection = mysql_connection(place, local_infile=True, use_unicode=False)

    def rows(self, file: str) -> str:
        """What `put` takes: the file, which the driver reads itself."""
        return file

    def put(self, rows: str) -> None:
        """Rows into a new table, and then its indexes: the faster order here."""
        with self.connection.cursor() as cursor:
            cursor.execute("CREATE TABLE bare SELECT * FROM events LIMIT 0")
            cursor.execute(
                f"LOAD DATA LOCAL INFILE '{rows}' INTO TABLE bare CHARACTER SET utf8mb4 "
                "(threadId, threadCounter, timestamp, aggregateId, aggregateVersion, type, payload)"
            )
            cursor.execute(
                "ALTER TABLE bare ADD PRIMARY KEY (threadId, threadCounter), "
                "ADD UNIQUE KEY (aggregateId, aggregateVersion), ADD KEY (timestamp, threadCounter, threadId)"
            )

    def lines(self, statement: str, *values: object) -> list[bytes]:
        """The lines that a statement finds."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement.replace("%", "%%").replace("?", "%s"), values)
            return [line for (line,) in cursor]

    def export(self, statement: str, file: str) -> int:
        """Those into a file."""
        count = 0
        with Path(file).open("wb") as out, self.connection.cursor(pymysql.cursors.SSCursor) as cursor:
            cursor.execute(statement)
            while rows := cursor.fetchmany(PAGE):
                out.writelines(line for (line,) in rows)
                count += len(rows)
        return count


Driver: TypeAlias = Sqlite | Postgresql | Mariadb


def _opened(place: str) -> Driver:
    if place.startswith("postgresql:"):
        return Postgresql(place)
    return Mariadb(place) if place.startswith("mysql:") else Sqlite(place)


def _row(line: bytes) -> tuple[Any, ...]:
    event = json.loads(line)
    columns = ("threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type")
    return (*(event[column] for column in columns), line[line.index(b'"payload":') + 10 : -2].decode())


def _pages(database: Driver) -> int:
    order = ", ".join(database.order)
    statement = f"SELECT {database.line} FROM {database.events}"
    tail = f" ORDER BY {order} LIMIT {PAGE}"
    count = 0
    lines = database.lines(statement + tail)
    while lines:
        with timer.call():
            events = decode_events(b"".join(lines))
            last = events[-1]
            count += len(events)
            where = f" WHERE ({order}) > (?, ?, ?)"
            if isinstance(database, Mariadb):  # which uses no index for that
                time, counter, thread = database.order
                where = (
                    f" WHERE {time} >= ? AND NOT ({time} = {last.timestamp} AND ({counter} < ? OR {counter} = "
                    f"{last.thread_counter} AND {thread} <= ?))"
                )
            place = last.timestamp, last.thread_counter, last.thread_id
            lines = database.lines(statement + where + tail, *place)
    return count


def _aggregate(database: Driver, times: int) -> int:
    statement = f"SELECT {database.line} FROM {database.events}"
    if isinstance(database, Mariadb):
        statement += " WHERE e.aggregateId = ? ORDER BY e.aggregateVersion"
    else:
        statement += ' WHERE "aggregateId" = ? ORDER BY "aggregateVersion"'
    for _ in range(times):
        with timer.call():
            events = decode_events(b"".join(database.lines(statement, "hundred")))
            assert len(events) == HUNDRED
    return times * HUNDRED


async def _saves(place: str, count: int) -> int:
    if place.startswith("postgresql:"):
        connection = await psycopg.AsyncConnection.connect(
            place.partition("?")[0], autocommit=True, options="-c search_path=store"
        )
        connection.prepare_threshold = 0

        async def insert(number: int) -> None:
            await connection.execute(
                "INSERT INTO events VALUES (%s, %s, %s, %s, %s, %s, %s, 150)", _saved(number)
            )
    else:
        loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1)
        execute = await loop.run_in_executor(thread, execute_at, place)

        async def insert(number: int) -> None:
            statement = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)"
            await loop.run_in_executor(thread, execute, statement, _saved(number))

    timer.begin()
    for number in range(count):
        with timer.call():
            await insert(number)
    return count


def _saved(number: int) -> tuple[object, ...]:
    return 0, FIRST + number, 1_700_000_000_000_000, "saved", FIRST + number, "SAVED", '{"version":1}'


def main(operation: str, place: str, argument: str = "") -> None:
    """The command."""
    if operation == "saves":
        events = asyncio.run(_saves(place, int(argument)))
        print(json.dumps({"events": events} | timer.told()))
        return
    database = _opened(place)
    if operation == "import":
        rows: Any = database.rows(argument)
        timer.begin()
        database.put(rows)
        events = 0  # as many as the file has
    elif operation == "export":
        order = ", ".join(database.order)
        timer.begin()
        events = database.export(f"SELECT {database.line} FROM {database.events} ORDER BY {order}", argument)
    elif operation == "pages":
        timer.begin()
        events = _pages(database)
    else:
        make_hundred(place)
        timer.begin()
        events = _aggregate(database, int(argument))
    print(json.dumps({"events": events} | timer.told()))


if __name__ == "__main__":
    main(*sys.argv[1:])

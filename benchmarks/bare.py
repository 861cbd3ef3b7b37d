"""What one call costs at least: INSERT and COMMIT of a row, as durable as a save; on servers also with the counter of
its thread, which reSolve's tables have moved in the same transaction ("saves with a counter"); a SELECT of the rows of
an aggregate. One after the other, by the drivers that ours uses, without a thread.

python -m benchmarks.bare OPERATION STORE COUNT
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import psycopg
import pymysql
from pymysql.constants import CLIENT

from benchmarks.timing import Timer

Execute: TypeAlias = Callable[[str, Sequence[Any]], Sequence[Any]]

COUNTED = {
    "postgresql": """WITH moved AS (
        UPDATE "events-threads" SET "threadCounter" = "threadCounter" + 1 WHERE "threadId" = ?
        RETURNING "threadId", "threadCounter" - 1
      ) INSERT INTO events SELECT *, ?, ?, ?, ?, ?, 150 FROM moved RETURNING "threadCounter" """,
    "mysql": """BEGIN;
      SELECT threadId, threadCounter INTO @thread, @counter FROM "events-threads" WHERE threadId = ? FOR UPDATE;
      INSERT INTO events VALUES (@thread, @counter, ?, ?, ?, ?, ?);
      UPDATE "events-threads" SET threadCounter = threadCounter + 1 WHERE threadId = @thread;
      COMMIT""",
}
"""The same, and the thread's counter moved, in one round trip."""

FIRST = 10**9
HUNDRED = 100


def _sqlite(place: str) -> Execute:
    connection = sqlite3.connect(place, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    return lambda statement, values: connection.execute(statement, values).fetchall()


def _postgresql(place: str) -> Execute:
    place, _, options = place.partition("?")
    schema = parse_qs(options).get("database_name", ["store"])[0]
    connection = psycopg.connect(place, autocommit=True, options=f"-c search_path={schema}")
    connection.prepare_threshold = 0

    def execute(statement: str, values: Sequence[Any]) -> Sequence[Any]:
        cursor = connection.execute(statement.replace("?", "%s").encode(), values)
        return cursor.fetchall() if cursor.description else ()

    return execute


def mysql_connection(place: str, **options: Any) -> pymysql.Connection[pymysql.cursors.Cursor]:
    """A connection of PyMySQL, with more of its options."""
    url = urlsplit(place)
    return pymysql.connect(
        host=url.hostname,
        port=url.port or 0,
        user=url.username,
        password=url.password or "",
        database=url.path.lstrip("/"),
        autocommit=True,
        **options,
    )


def _mysql(place: str) -> Execute:
    connection = mysql_connection(place, client_flag=CLIENT.MULTI_STATEMENTS)
    cursor = connection.cursor()

    def execute(statement: str, values: Sequence[Any]) -> Sequence[Any]:
        cursor.execute(statement.replace("?", "%s").replace('"', "`"), values)
        found = cursor.fetchall()
        while cursor.nextset():
            pass
        return found

    return execute


def execute_at(place: str) -> Execute:
    """What executes statements, with ? for values and names in double quotes, at the path of a file or a URL."""
    return {"postgresql": _postgresql, "mysql": _mysql}.get(place.partition(":")[0], _sqlite)(place)


def make_hundred(place: str) -> None:
    """An aggregate of 100 events."""
    execute = execute_at(place)
    for number in range(HUNDRED):
        _insert(execute, place, number, "hundred")


def _insert(execute: Execute, place: str, number: int, aggregate: str) -> None:
    size = ", 150" if place.startswith("postgresql:") else ""  # the column eventSize
    execute(
        f"INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?{size})",
        (0, FIRST + number, 1_700_000_000_000_000, aggregate, FIRST + number, "SAVED", '{"version":1}'),
    )


def main(operation: str, place: str, count: str) -> None:
    """The command."""
    execute = execute_at(place)

    def insert_with_counter(number: int) -> None:
        values = 0, 1_700_000_000_000_000, "saved", FIRST + number, "SAVED", '{"version":1}'
        execute(COUNTED["mysql" if place.startswith("mysql:") else "postgresql"], values)

    if operation == "aggregate of 100":
        make_hundred(place)
    timer = Timer()
    events = 0
    for number in range(int(count)):
        with timer.call():
            if operation == "saves":
                _insert(execute, place, number, "saved")
                events += 1
            elif operation == "saves with a counter":
                insert_with_counter(number)
                events += 1
            else:
                statement = 'SELECT * FROM events WHERE "aggregateId" = ? ORDER BY "aggregateVersion"'
                events += len(execute(statement, ("hundred",)))
    print(json.dumps({"events": events} | timer.told()))


if __name__ == "__main__":
    main(*sys.argv[1:])

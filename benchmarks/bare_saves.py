"""What a save costs at least: INSERT and COMMIT of the same row, one after the other, with the same durability.

python -m benchmarks.bare_saves STORE COUNT
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable

import psycopg

ROW = (0, 1_700_000_000_000_000, "saved", "SAVED", '{"version":1}')


def _sqlite(place: str) -> Callable[[int], object]:
    connection = sqlite3.connect(place, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    statement = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)"
    first = 10**9
    thread, timestamp, aggregate, kind, payload = ROW
    return lambda number: connection.execute(
        statement, (thread, first + number, timestamp, aggregate, first + number, kind, payload)
    )


def _postgresql(place: str) -> Callable[[int], object]:
    connection = psycopg.connect(place.partition("?")[0], autocommit=True)
    connection.prepare_threshold = 0
    statement = "INSERT INTO store.events VALUES (%s, %s, %s, %s, %s, %s, %s, 150)"
    first = 10**9
    thread, timestamp, aggregate, kind, payload = ROW
    return lambda number: connection.execute(
        statement, (thread, first + number, timestamp, aggregate, first + number, kind, payload)
    )


def main(place: str, count: str) -> None:
    """The command."""
    insert = _postgresql(place) if place.startswith("postgresql:") else _sqlite(place)
    start = time.perf_counter()
    for number in range(int(count)):
        insert(number)
    print(json.dumps({"events": int(count), "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main(*sys.argv[1:])

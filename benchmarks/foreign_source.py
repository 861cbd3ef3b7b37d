"""The rate of reading another product's table, beside the client of its database.

python -m benchmarks.foreign_source [sqlite|postgresql|mariadb ...] [--events 1000000]

The table is `events(id, stream, version, type, data, created_at)` with rows of about 320 bytes, of writers whose clocks
are an hour apart. The client writes the same columns in the order of the ids, as text: psql's \\copy, the sqlite3
shell, the mariadb client. The readings take turns, and each is a process of its own; "CPU" is of that process alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.support import raw
from tests.support.places import Places
from tests.support.servers import keep_servers

KINDS = ("sqlite", "postgresql", "mariadb")
SELECT = "SELECT id AS position, stream AS aggregate, version, type, created_at AS time, data FROM events"
TYPES = {
    "sqlite": ("INTEGER PRIMARY KEY", "TEXT", "TEXT", "TEXT"),
    "postgresql": ("bigint PRIMARY KEY", "text", "jsonb", "timestamptz"),
    "mariadb": ("bigint PRIMARY KEY", "varchar(100)", "json", "timestamp(6) NULL"),
}
READ = """
import asyncio, sys
from eventferry import open_source
from eventferry.sources.mapping import Mapping, Time

async def main(url, select):
    async with open_source(url, Mapping(name="own", select=select, time=Time(zone="UTC"))) as source:
        export = source.export_events()
        async for _ in export:
            pass
    print(export.exported, file=sys.stderr)

asyncio.run(main(*sys.argv[1:]))
"""


class Reading(NamedTuple):
    """What a process took."""

    seconds: float
    cpu: float
    megabytes: float


def measured(command: Sequence[str], environment: dict[str, str]) -> Reading:
    """Run a process whose output goes nowhere."""
    began = time.monotonic()
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | environment
    )
    told = child.stderr.read() if child.stderr else b""
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {told.decode()}")
    return Reading(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def fill(kind: str, url: str, count: int) -> None:
    """Make the table."""
    key, text, data, moment = TYPES[kind]
    number = {
        "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT i FROM n)",
        "postgresql": "generate_series(1, %d) AS n(i)",
        "mariadb": "(SELECT seq AS i FROM seq_1_to_%d) AS n",
    }[kind] % count
    # Each second writer is an hour ahead.
    seconds = "1700000000 + i + 3600 * (i % 2)"
    at = {
        "sqlite": f"strftime('%Y-%m-%dT%H:%M:%f+00:00', {seconds}, 'unixepoch')",
        "postgresql": f"to_timestamp({seconds})",
        "mariadb": f"FROM_UNIXTIME({seconds})",
    }[kind]
    joined = "CONCAT({})" if kind == "mariadb" else "({})"
    glue = ", " if kind == "mariadb" else " || "
    stream = joined.format(glue.join(("'aggregate-'", "(i % 10000)")))
    payload = joined.format(
        glue.join(("""'{"number": '""", "i", f"""', "text": "{"x" * 190}", "price": 1.50}}'"""))
    )
    cast = "::jsonb" if kind == "postgresql" else ""
    raw.run(
        url,
        f"CREATE TABLE events(id {key}, stream {text}, version int, type {text}, data {data}, created_at {moment})",
        f"INSERT INTO events SELECT i, {stream}, (i - 1) / 10000 + 1, 'SOMETHING_HAPPENED', {payload}{cast}, {at} "
        f"FROM {number}"
        if kind != "mariadb"
        else f"INSERT INTO events SELECT i, {stream}, (i - 1) DIV 10000 + 1, 'SOMETHING_HAPPENED', {payload}, {at} "
        f"FROM {number}",
        *(["COMMIT"] if kind == "mariadb" else ["ANALYZE events"]),
    )


def client(kind: str, url: str, select: str) -> tuple[list[str], dict[str, str]]:
    """The command of the database's own client, and what it needs in its environment."""
    query = f"{select} ORDER BY 1"
    address = urlsplit(url)
    if kind == "sqlite":
        return ["sqlite3", address.path[1:], query], {}
    if kind == "postgresql":
        return ["psql", "-q", url.partition("?")[0], "-c", rf"\copy ({query}) TO STDOUT"], {}
    words = [
        "mariadb",
        "--quick",
        "--batch",
        f"-h{address.hostname}",
        f"-P{address.port}",
        f"-u{address.username}",
    ]
    return [*words, address.path[1:], "-e", query], {"MYSQL_PWD": address.password or ""}


def compare(kind: str, folder: Path, count: int, turns: int) -> None:
    """Print both, as the best of some turns."""
    with Places(kind, folder) as places:
        url = places.new_url()
        fill(kind, url, count)
        select = SELECT
        if kind == "postgresql":
            select = select.replace("events", f'"{url.partition("database_name=")[2]}".events')
        ours, theirs = [], []
        for _ in range(turns):
            source = url.partition("?")[0] if kind == "postgresql" else url
            ours.append(measured([sys.executable, "-c", READ, source, select], {}))
            theirs.append(measured(*client(kind, url, select)))
        one, other = min(ours), min(theirs)
        print(
            f"{kind}, {count:,} rows: eventferry {count / one.seconds:,.0f}/s, CPU {one.cpu / count * 1e6:.2f} µs a "
            f"row, {one.megabytes:.0f} MB; its client {count / other.seconds:,.0f}/s, CPU "
            f"{other.cpu / count * 1e6:.2f} µs a row; {other.seconds / one.seconds:.2f} of its rate",
            flush=True,
        )


def main() -> None:
    """Measure the databases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("databases", nargs="*", choices=[[], *KINDS])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for kind in asked.databases or KINDS:
            compare(kind, Path(folder), asked.events, asked.turns)


if __name__ == "__main__":
    keeper = keep_servers()
    with contextlib.closing(keeper.stdin) if keeper.stdin else contextlib.nullcontext():
        main()

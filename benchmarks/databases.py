"""The databases that are measured on: their servers, stores of n events, copies of them, and their own bulk tools.

What a tool does is written here as its user would write it: the same rows, the same lines in the same order, the same
indexes, and nothing parsed or checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import psycopg
import pymysql
from tests.support.servers import MariaDb, Postgres, Server, new_server

from benchmarks.make_events import make_events
from eventferry.databases.mysql.reading import LINE as MYSQL_LINE
from eventferry.databases.postgresql.reading import LINE as POSTGRESQL_LINE
from eventferry.databases.sqlite.reading import line_of

ROOT = Path(__file__).parents[1]


class Run(NamedTuple):
    """One operation of one side: how many events, how long, and what its processes used.

    Attributes:
        main: seconds of CPU of our main thread in the operation itself.
        others: of our other threads.
        server: of the database's server, while the process ran.
        steps: how often each step was taken, and its seconds, where that was asked for.
        latency: where it consists of many calls, seconds of one: the median, the 99th percentile.
    """

    events: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    main: float = 0.0
    others: float = 0.0
    server: float = 0.0
    steps: dict[str, tuple[int, float]] = {}  # noqa: RUF012 -- nobody changes it
    latency: tuple[float, float] | None = None


class DurablePostgres(Postgres):
    """As a package sets it up: every commit is on the disk."""

    durability: ClassVar[dict[str, str]] = {}


def run(command: Sequence[str], *, words: str = "", to: Path | None = None, at: Path = ROOT) -> Run:
    """Run a command in a folder and measure it as a whole; `words` go to its standard input, its output into a file.

    A command that prints {"events", "seconds"} says itself how long the operation took, without its start.
    """
    with to.open("wb") if to else open(os.devnull, "wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out if to else subprocess.PIPE, cwd=at
        )
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(words.encode())
        told = b""
        if process.stdout is not None:
            with process.stdout:
                told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    found = json.loads(told) if told.startswith(b'{"events"') else {}
    return Run(
        found.get("events") or 0,
        found.get("seconds", seconds),
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024 / 1e6,
        found.get("main", 0.0),
        found.get("others", 0.0),
        steps=found.get("steps") or {},
        latency=found.get("latency"),
    )


class Events:
    """Files of events, made once.

    Args:
        folder: where they are put.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lines(self, n: int) -> Path:
        """n events as an import takes them."""
        return self._made(f"events-{n}.jsonl", lambda: make_events(n))

    def batch(self, n: int, stored: int) -> Path:
        """n events for an incremental import into a store of `stored` events: half of them are in it."""

        def mixed() -> Iterable[bytes]:
            every = max(stored // (n // 2), 1)
            with self.lines(stored).open("rb") as lines:
                for number, line in enumerate(lines):
                    if number % every == 0 and number // every < n // 2:
                        yield line
            yield from make_events(n // 2, seed=2, versionless=True)

        return self._made(f"batch-{n}-{stored}.jsonl", mixed)

    def later(self, n: int) -> Path:
        """n events that are later than any other, without positions and versions."""
        return self._made(f"later-{n}.jsonl", lambda: make_events(n, seed=2, versionless=True))

    def rows(self, name: str, lines: Iterable[bytes], row: Callable[[dict[str, object], str], str]) -> Path:
        """A file for a bulk tool: what `row` makes of each event and its payload's text."""

        def made() -> Iterable[bytes]:
            for line in lines:
                text = line.decode()
                payload = text[text.index('"payload":') + 10 : -2]
                yield row(json.loads(line), payload).encode()

        return self._made(name, made)

    def _made(self, name: str, blocks: Callable[[], Iterable[bytes]]) -> Path:
        file = self.folder / name
        if not file.exists():
            part = file.with_suffix(".part")
            with part.open("wb") as out:
                out.writelines(blocks())
            part.rename(file)
        return file


def placed(n: int, first_counter: int) -> Iterable[bytes]:
    """The lines of `Events.later` with positions and versions, as the rows of a bare insert need them."""
    for number, line in enumerate(make_events(n, seed=2, versionless=True)):
        event = json.loads(line)
        event |= {"threadId": number % 256, "threadCounter": first_counter + number // 256}
        event |= {"aggregateVersion": first_counter + number}
        payload = line[line.index(b'"payload":') :]
        yield (
            json.dumps({key: event[key] for key in event if key != "payload"}).encode()[:-1] + b"," + payload
        )


class Database:
    """A database on which stores are made.

    Args:
        folder: for everything that it makes.
        events: the files of events.
    """

    name: ClassVar[str]
    order: ClassVar[str] = '"timestamp", "threadCounter", "threadId"'
    has_resolve: ClassVar[bool] = True
    has_pyeventsourcing: ClassVar[bool] = True
    has_message_db: ClassVar[bool] = False

    def __init__(self, folder: Path, events: Events) -> None:
        self.folder = folder
        self.events = events
        self._stores: dict[tuple[str, int], str] = {}

    def start(self) -> None:
        """Start what must run."""

    def stop(self) -> None:
        """End it."""

    def cpu_seconds(self) -> float:
        """What its server has used so far."""
        return 0.0

    def new(self) -> str:
        """A place for a store, as eventferry takes it; it takes the place of the one before."""
        raise NotImplementedError

    def store(self, side: str, n: int, make: Callable[[str, str, str], Run]) -> str:
        """A store of n events, made once by the side that it is for."""
        if (side, n) not in self._stores:
            place = self.kept(f"{side.lower()}_{n}")
            make("create", place, "")
            make("import", place, str(self.events.lines(n)))
            self._stores[side, n] = place
        return self._stores[side, n]

    def kept(self, name: str) -> str:
        """A place for a store that stays."""
        raise NotImplementedError

    def copy(self, place: str) -> str:
        """A copy of a store, which may be changed; it takes the place of the one before."""
        raise NotImplementedError

    def for_resolve(self, place: str) -> str:
        """The place as resolve_bench.cjs takes it."""
        raise NotImplementedError

    # what the tools do

    def tool_export(self, place: str, to: Path) -> Run:
        """Print the same lines in the same order."""
        raise NotImplementedError

    def tool_import(self, n: int) -> Run:
        """The same rows, the fastest way, with the same indexes."""
        raise NotImplementedError

    def bare_rows(self, n: int) -> Path:
        """A file of the same rows, as benchmarks/bare_bulk.py takes them."""
        raise NotImplementedError

    def tool_insert(self, place: str, n: int, first_counter: int) -> Run:
        """n new rows into the indexed table of a store."""
        raise NotImplementedError

    def bare(self, operation: str, place: str, count: int) -> Run:
        """INSERT and COMMIT of one row after the other, or a SELECT of an aggregate's hundred."""
        return run([sys.executable, "-m", "benchmarks.bare", operation, place, str(count)])


class Sqlite(Database):
    """Files."""

    name = "sqlite"

    def new(self) -> str:
        for leftover in self.folder.glob("scratch.db*"):
            leftover.unlink()
        return str(self.folder / "scratch.db")

    def kept(self, name: str) -> str:
        return str(self.folder / f"{name}.db")

    def copy(self, place: str) -> str:
        copied = str(shutil.copy(place, self.new()))
        os.sync()  # or the first commits to it wait for the copy
        return copied

    def for_resolve(self, place: str) -> str:
        return place

    def tool_export(self, place: str, to: Path) -> Run:
        statement = f"SELECT {line_of('payload')} FROM events ORDER BY {self.order}"
        return run(["sqlite3", "-batch", "-readonly", "-list", "-newline", "", place, statement], to=to)

    def tool_import(self, n: int) -> Run:
        with self.events.lines(n).open("rb") as lines:
            rows = self.events.rows(f"rows-{n}.ascii", lines, self._row)
        columns = '"threadId" BIGINT NOT NULL, "threadCounter" BIGINT NOT NULL, "timestamp" BIGINT NOT NULL'
        columns += ', "aggregateId" TEXT NOT NULL, "aggregateVersion" BIGINT NOT NULL, "type" TEXT NOT NULL'
        script = f"""CREATE TABLE events({columns}, "payload" TEXT);
.mode ascii
.import {rows} events
CREATE UNIQUE INDEX position ON events("threadId", "threadCounter");
CREATE UNIQUE INDEX version ON events("aggregateId", "aggregateVersion");
CREATE INDEX "order" ON events({self.order});
"""
        return run(["sqlite3", "-batch", "-bail", self.new()], words=script)

    def bare_rows(self, n: int) -> Path:
        return self.events.lines(n)

    def tool_insert(self, place: str, n: int, first_counter: int) -> Run:
        rows = self.events.rows(f"rows-later-{n}-{first_counter}.ascii", placed(n, first_counter), self._row)
        script = f".mode ascii\n.import {rows} events\n"
        return run(["sqlite3", "-batch", "-bail", self.copy(place)], words=script)

    @staticmethod
    def _row(event: dict[str, object], payload: str) -> str:
        columns = ("threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type")
        return "\x1f".join([*(str(event[column]) for column in columns), payload]) + "\x1e"


def cpu_seconds_of(server: Server) -> float:
    """What all processes of a server have used so far, those that have ended among them."""
    leader = int((server.folder / "pid").read_text())
    found, again = _ticks(leader), _ticks(leader)
    while found != again:  # one that ends in between is counted with neither
        found, again = again, _ticks(leader)
    return found / os.sysconf("SC_CLK_TCK")


def _ticks(leader: int) -> int:
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # Behind the name: state, parent, … and from the 12th on the times, with those of children that have ended.
            # A session is not what a server's processes share: each connection of PostgreSQL begins one of its own.
            fields = file.read_text().rpartition(")")[2].split()
            if file.parent.name == str(leader):
                ticks += sum(map(int, fields[11:15]))
            elif fields[1] == str(leader):
                ticks += sum(map(int, fields[11:13]))
    return ticks


class ServerDatabase(Database):
    """What a server of its own has, durable, on a disk."""

    kind: ClassVar[type[Server]]

    def start(self) -> None:
        self.server = new_server(self.kind, self.folder / self.name)

    def stop(self) -> None:
        self.server.stop()

    def cpu_seconds(self) -> float:
        return cpu_seconds_of(self.server)

    def _tab_separated(self, event: dict[str, object], payload: str, *more: object) -> str:
        columns = ("threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type")
        texts = [*(str(event[column]) for column in columns), payload, *map(str, more)]
        return "\t".join(text.replace("\\", "\\\\") for text in texts) + "\n"


class Postgresql(ServerDatabase):
    """Databases of one server; the store's schema is named like its user would."""

    name = "postgresql"
    kind = DurablePostgres
    has_message_db = shutil.which("npm") is not None  # its SQL comes by npm

    def new(self) -> str:
        return self._database("scratch", "template0")

    def kept(self, name: str) -> str:
        return self._database(name, "template0")

    def copy(self, place: str) -> str:
        return self._database("scratch", place.rpartition("/")[2].partition("?")[0])

    def other(self) -> str:
        """A second place, for a copy from store to store."""
        return self._database("other", "template0")

    def _database(self, name: str, template: str) -> str:
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        with psycopg.connect(self.server.url(name), autocommit=True) as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS store")
        return self.server.url(f"{name}?database_name=store")

    def for_resolve(self, place: str) -> str:
        return json.dumps(
            {
                "host": "127.0.0.1",
                "port": self.server.port,
                "user": "postgres",
                "password": "let-me-in",
                "database": place.rpartition("/")[2].partition("?")[0],
                "databaseName": "store",
            }
        )

    def _psql(self, place: str, *commands: str) -> Run:
        words = [word for command in commands for word in ("-c", command)]
        url = place.partition("?")[0]
        return run(["psql", "-q", "-v", "ON_ERROR_STOP=1", "-1", *words, url])

    def tool_export(self, place: str, to: Path) -> Run:
        lines = " ".join(f"SELECT {POSTGRESQL_LINE} FROM store.events ORDER BY {self.order}".split())
        return self._psql(place, f"\\copy ({lines}) TO '{to}'")

    def bare_rows(self, n: int) -> Path:
        with self.events.lines(n).open("rb") as lines:
            return self.events.rows(f"rows-{n}.tsv", lines, self._row)

    def tool_import(self, n: int) -> Run:
        rows = self.bare_rows(n)
        place = self.new()
        run([sys.executable, "-m", "benchmarks.ours", "create", place])
        return self._psql(
            place,
            "CREATE TABLE store.bare (LIKE store.events)",
            f"\\copy store.bare FROM '{rows}'",
            "SET LOCAL maintenance_work_mem = '256MB'",
            'ALTER TABLE store.bare ADD PRIMARY KEY ("threadId", "threadCounter")',
            'CREATE UNIQUE INDEX ON store.bare("aggregateId", "aggregateVersion")',
            f"CREATE INDEX ON store.bare({self.order})",
        )

    def tool_insert(self, place: str, n: int, first_counter: int) -> Run:
        rows = self.events.rows(f"rows-later-{n}-{first_counter}.tsv", placed(n, first_counter), self._row)
        return self._psql(self.copy(place), f"\\copy store.events FROM '{rows}'")

    def tool_copy(self, place: str) -> Run:
        """pg_dump into pg_restore."""
        source, target = (each.partition("?")[0] for each in (place, self.other()))
        pipe = f"pg_dump -Fc -t store.events '{source}' | pg_restore --no-owner -d '{target}'"
        return run(["bash", "-c", f"set -o pipefail; {pipe}"])

    def tool_copy_by_two(self, place: str) -> Run:
        """The same with two workers on both sides, which needs the dump on the disk."""
        source, target = (each.partition("?")[0] for each in (place, self.other()))
        dump = self.folder / "dump"
        shutil.rmtree(dump, ignore_errors=True)
        words = f"pg_dump -Fd -j 2 -f {dump} -t store.events '{source}'"
        return run(["bash", "-c", f"{words} && pg_restore -j 2 --no-owner -d '{target}' {dump}"])

    def _row(self, event: dict[str, object], payload: str) -> str:
        return self._tab_separated(event, payload, len(payload) + 100)


class Mariadb(ServerDatabase):
    """Databases of one server."""

    name = "mariadb"
    kind = MariaDb
    order = "timestamp, threadCounter, threadId"
    has_resolve = False  # its adapter does not start on MariaDB
    has_pyeventsourcing = False

    def new(self) -> str:
        return self._database("scratch")

    def kept(self, name: str) -> str:
        return self._database(name)

    def copy(self, place: str) -> str:
        target = self.new()
        run([sys.executable, "-m", "benchmarks.ours", "copy", place, target])
        return target

    def _database(self, name: str) -> str:
        with (
            pymysql.connect(
                host="127.0.0.1", port=self.server.port, user="root", password="let-me-in"
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")
        return self.server.url(name)

    def _client(self, place: str, *words: str, script: str = "", to: Path | None = None) -> Run:
        connection = ["-h127.0.0.1", f"-P{self.server.port}", "-uroot", "-plet-me-in"]
        command = ["mariadb", "--no-defaults", *connection, "--default-character-set=utf8mb4"]
        return run([*command, *words, place.rpartition("/")[2]], words=script, to=to)

    def tool_export(self, place: str, to: Path) -> Run:
        lines = f"SELECT {MYSQL_LINE} FROM events AS e ORDER BY e.timestamp, e.threadCounter, e.threadId"
        return self._client(place, "--quick", "-N", "-r", "-B", "-e", lines.replace("%%", "%"), to=to)

    def bare_rows(self, n: int) -> Path:
        with self.events.lines(n).open("rb") as lines:
            return self.events.rows(f"rows-{n}.mysql.tsv", lines, self._tab_separated)

    def tool_import(self, n: int) -> Run:
        """With the indexes before the rows and after them: the faster one counts."""
        rows = self.bare_rows(n)
        load = (
            f"LOAD DATA LOCAL INFILE '{rows}' INTO TABLE bare CHARACTER SET utf8mb4 "
            "(threadId, threadCounter, timestamp, aggregateId, aggregateVersion, type, payload);\n"
        )
        keys = (
            "ALTER TABLE bare ADD PRIMARY KEY (threadId, threadCounter), "
            "ADD UNIQUE KEY (aggregateId, aggregateVersion), ADD KEY (timestamp, threadCounter, threadId);\n"
        )
        runs = []
        for steps in ((keys, load), (load, keys)):
            place = self.new()
            run([sys.executable, "-m", "benchmarks.ours", "create", place])
            bare = "CREATE TABLE bare SELECT * FROM events LIMIT 0;\n"
            runs.append(self._client(place, "--local-infile=1", script=bare + "".join(steps)))
        return min(runs, key=lambda each: each.seconds)


DATABASES: dict[str, type[Database]] = {each.name: each for each in (Sqlite, Postgresql, Mariadb)}

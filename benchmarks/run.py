"""eventferry beside each database's own bulk tool and the real reSolve: the same events, in turns, in one run.

python -m benchmarks.run [--databases sqlite,postgresql,mariadb] [--sizes 100000,1000000] [--json RESULTS.json]

Every measurement is a child process of its own. Ours and reSolve's tell the time of the operation alone; a tool is
timed as a whole. Short ones run several times, and the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apsw
from tests.support.interop.resolve import install

from benchmarks.databases import DATABASES, ROOT, Database, Events, Postgresql, Run, run
from benchmarks.measurement import HEAD, Measurement, cells
from benchmarks.targets import (
    BARE,
    COUNTED,
    LIBRARY,
    MESSAGE_DB,
    OURS,
    PYEVENTSOURCING,
    RESOLVE,
    TOOL,
    TWO_WORKERS,
    WITHOUT_AWAIT,
    Rates,
    targets,
)

SAVES = 1000
RESOLVE_SAVES = 200
APPENDED = 5000
LOADS = 500
RUNS = 3
LONG = 6.0
"""Seconds of measuring one thing after which it is not repeated."""

MESSAGE_DB_AT_MOST = 100_000
"""It is filled message by message."""

RESOLVE_AT_MOST = 100_000
"""reSolve's export is quadratic: at a million it would take hours."""

RESOLVE_SAVES_AT = 200_000
"""On SQLite reSolve reads all events for a save; here it is measured once at more of them."""

STEPS_AT = 100_000
"""At how many events the steps of our operations are timed too."""

BATCH = 100_000
SPREAD = 10_000


Runner = Callable[[], Run]


def is_done(measurement: Measurement) -> bool:
    """Whether another run would tell nothing new, or take too long."""
    return len(measurement.seconds) == RUNS or sum(measurement.seconds) >= LONG


class Bench:
    """Measures one database.

    Args:
        database: started.
        packages: the folder with reSolve's; None leaves it out.
        wanted: the operations to measure; None for all.
        sides: whose; None for all.
    """

    def __init__(
        self,
        database: Database,
        packages: Path | None,
        wanted: Sequence[str] | None,
        sides: Sequence[str] | None,
    ) -> None:
        self._database = database
        self._events = database.events
        self._wanted = wanted
        self._sides = sides
        self._scratch = database.folder / "out.jsonl"
        self._has_resolve = packages is not None and database.has_resolve
        if packages is not None:
            os.environ["NODE_PATH"] = str(packages / "node_modules")
        self.measurements: list[Measurement] = []

    def ours(self, operation: str, place: str, argument: str = "") -> Run:
        """One operation of eventferry."""
        before = self._database.cpu_seconds()
        found = run([sys.executable, "-m", "benchmarks.ours", operation, place, argument])
        return found._replace(server=self._database.cpu_seconds() - before)

    def as_library(self, operation: str, place: str, argument: str = "") -> Run:
        """The same in somebody else's process."""
        with in_environment(EVENTFERRY_BENCH_LIBRARY="1"):
            return self.ours(operation, place, argument)

    def without_await(self, operation: str, place: str, argument: str = "") -> Run:
        """The same by the names without await."""
        with in_environment(EVENTFERRY_BENCH_SYNC="1"):
            return self.ours(operation, place, argument)

    def bare(self, operation: str, place: str, argument: str = "") -> Run:
        """The least that it is in Python."""
        return run([sys.executable, "-m", "benchmarks.bare_bulk", operation, place, argument])

    def pyeventsourcing(self, operation: str, place: str, argument: str = "") -> Run:
        """One operation of pyeventsourcing."""
        return run([sys.executable, "-m", "benchmarks.pyeventsourcing_store", operation, place, argument])

    def message_db(self, operation: str, place: str, argument: str = "") -> Run:
        """One operation of message-db."""
        return run([sys.executable, "-m", "benchmarks.message_db_store", operation, place, argument])

    def theirs(self, operation: str, place: str, argument: str = "") -> Run:
        """One operation of reSolve."""
        place = self._database.for_resolve(place)
        return run(["node", str(ROOT / "benchmarks" / "resolve_bench.cjs"), operation, place, argument])

    def in_turns(
        self,
        operation: str,
        stored: int,
        events: int,
        runners: dict[str, Runner | None],
        size: int = 0,
        resolve_at_most: int = RESOLVE_AT_MOST,
    ) -> None:
        """Measure the sides of an operation one after the other until all are done."""
        if self._wanted is not None and operation not in self._wanted:
            return
        open_ones = {
            side: Measurement(self._database.name, operation, side, stored, events, bytes=size)
            for side, runner in runners.items()
            if runner is not None
            and (self._sides is None or side in self._sides)
            and (side != RESOLVE or (self._has_resolve and stored <= resolve_at_most))
            and (side != LIBRARY or self._database.name == "sqlite")
            and (side != PYEVENTSOURCING or self._database.has_pyeventsourcing)
            and (side != MESSAGE_DB or (self._database.has_message_db and stored <= MESSAGE_DB_AT_MOST))
        }
        self.measurements += open_ones.values()
        of_ours = open_ones.get(OURS)
        while open_ones:
            for side, measurement in open_ones.items():
                runner = runners[side]
                assert runner is not None
                found = runner()
                measurement.events = found.events or events
                measurement.seconds.append(found.seconds)
                measurement.cpu_seconds.append(found.cpu_seconds)
                if found.latency is not None:
                    measurement.latencies.append(found.latency)
                if side == OURS:
                    measurement.parts.append((found.main, found.others, found.server))
                measurement.peak_mb = max(measurement.peak_mb, found.peak_mb)
                told = f"  {self._database.name} {operation} at {stored:,}, {side}: {found.seconds:.2f} s"
                print(told, file=sys.stderr, flush=True)
            open_ones = {side: each for side, each in open_ones.items() if not is_done(each)}
        if stored == STEPS_AT and of_ours is not None and (ours := runners[OURS]) is not None:
            with in_environment(EVENTFERRY_BENCH_STEPS="1"):
                found = ours()
            of_ours.steps, of_ours.steps_seconds = found.steps, found.seconds

    def measure(self, n: int) -> None:
        """Everything that is measured at a size."""
        database, events = self._database, self._events
        store = database.store(OURS, n, self.ours)
        lines = events.lines(n)
        size = lines.stat().st_size
        self.in_turns(
            "import",
            n,
            n,
            {
                OURS: lambda: self._import(self.ours, str(lines)),
                LIBRARY: lambda: self._import(self.as_library, str(lines)),
                TOOL: lambda: database.tool_import(n),
                BARE: lambda: self._bare_import(str(database.bare_rows(n))),
                PYEVENTSOURCING: lambda: self._import(self.pyeventsourcing, str(lines)),
                RESOLVE: lambda: self._import(self.theirs, str(lines)),
            },
            size,
        )
        has_theirs = self._has_resolve and n <= RESOLVE_AT_MOST
        original = database.store(RESOLVE, n, self.theirs) if has_theirs else ""
        self.in_turns(
            "export",
            n,
            n,
            {
                OURS: lambda: self._export(self.ours, store, lines),
                LIBRARY: lambda: self._export(self.as_library, store, lines),
                TOOL: lambda: database.tool_export(store, self._scratch),
                BARE: lambda: self.bare("export", store, str(self._scratch)),
                RESOLVE: lambda: self.theirs("export", original, str(self._scratch)),
            },
            size,
        )
        self.in_turns(
            "pages",
            n,
            n,
            {
                OURS: lambda: self.ours("pages", store),
                LIBRARY: lambda: self.as_library("pages", store),
                BARE: lambda: self.bare("pages", store),
                PYEVENTSOURCING: lambda: self.pyeventsourcing("pages", self._of_pyeventsourcing(n)),
                MESSAGE_DB: lambda: self.message_db("pages", self._of_message_db(n)),
                RESOLVE: lambda: self.theirs("pages", original),
            },
        )
        if isinstance(database, Postgresql):
            self.in_turns(
                "copy",
                n,
                n,
                {
                    OURS: lambda: self.ours("copy", store, database.other()),
                    TOOL: lambda: database.tool_copy(store),
                    TWO_WORKERS: lambda: database.tool_copy_by_two(store),
                },
                size,
            )
        self._measure_incremental(n, store, original)
        self._measure_saves(n, store, original)

    def _measure_incremental(self, n: int, store: str, original: str) -> None:
        database, events = self._database, self._events
        if n >= BATCH:
            batch = str(events.batch(BATCH, n))
            self.in_turns(
                "incremental",
                n,
                BATCH,
                {
                    OURS: lambda: self.ours("incremental", database.copy(store), batch),
                    LIBRARY: lambda: self.as_library("incremental", database.copy(store), batch),
                    TOOL: (lambda: database.tool_insert(store, BATCH // 2, n))
                    if database.name != "mariadb"
                    else None,
                    RESOLVE: lambda: self.theirs("incremental", database.copy(original), batch),
                },
            )
        spread = str(events.later(SPREAD))
        self.in_turns(
            "incremental of 10,000",
            n,
            SPREAD,
            {OURS: lambda: self.ours("incremental", database.copy(store), spread)},
        )

    def _measure_saves(self, n: int, store: str, original: str) -> None:
        database = self._database
        for operation, count in (("saves", SAVES), ("appends of 10", APPENDED), ("aggregate of 100", LOADS)):
            self._measure_calls(operation, count, n, store, original)
        self.in_turns(
            "saves of 100 clients",
            n,
            10 * SAVES,
            {
                OURS: lambda: self.ours("saves of 100 clients", database.copy(store), str(10 * SAVES)),
                TOOL: lambda: database.bare("saves", database.copy(store), SAVES),
            },
        )

    def _measure_calls(self, operation: str, count: int, n: int, store: str, original: str) -> None:
        database = self._database

        def on_copy(side: Callable[[str, str, str], Run], of: Callable[[int], str]) -> Runner:
            return lambda: side(operation, database.copy(of(n)), str(count))

        self.in_turns(
            operation,
            n,
            count,
            {
                OURS: on_copy(self.ours, lambda _: store),
                LIBRARY: on_copy(self.as_library, lambda _: store),
                WITHOUT_AWAIT: on_copy(self.without_await, lambda _: store),
                TOOL: None
                if operation == "appends of 10"
                else lambda: database.bare(operation, database.copy(store), count),
                BARE: None if operation == "appends of 10" else on_copy(self.bare, lambda _: store),
                COUNTED: None
                if operation != "saves" or database.name == "sqlite"
                else lambda: database.bare("saves with a counter", database.copy(store), count),
                PYEVENTSOURCING: on_copy(self.pyeventsourcing, self._of_pyeventsourcing),
                MESSAGE_DB: None
                if operation == "appends of 10"
                else on_copy(self.message_db, self._of_message_db),
                RESOLVE: None
                if operation != "saves"
                else lambda: self.theirs("saves", database.copy(original), str(RESOLVE_SAVES)),
            },
        )

    def measure_saves_beside_resolve(self) -> None:
        """What a save costs where the store is larger, beside reSolve."""
        if self._database.name != "sqlite" or not self._has_resolve:
            return
        if self._wanted is not None and "saves" not in self._wanted:
            return
        store = self._database.store(OURS, RESOLVE_SAVES_AT, self.ours)
        original = self._database.store(RESOLVE, RESOLVE_SAVES_AT, self.theirs)
        self.in_turns(
            "saves",
            RESOLVE_SAVES_AT,
            SAVES,
            {
                OURS: lambda: self.ours("saves", self._database.copy(store), str(SAVES)),
                RESOLVE: lambda: self.theirs("saves", self._database.copy(original), str(RESOLVE_SAVES)),
            },
            resolve_at_most=RESOLVE_SAVES_AT,
        )

    def _of_pyeventsourcing(self, n: int) -> str:
        return self._database.store(PYEVENTSOURCING, n, self.pyeventsourcing)

    def _of_message_db(self, n: int) -> str:
        return self._database.store("message_db", n, self.message_db)

    def _import(self, side: Callable[..., Run], lines: str) -> Run:
        place = self._database.new()
        side("create", place)
        return side("import", place, lines)

    def _bare_import(self, rows: str) -> Run:
        place = self._database.new()
        self.ours("create", place)
        return self.bare("import", place, rows)

    def _export(self, side: Callable[..., Run], store: str, lines: Path) -> Run:
        found = side("export", store, str(self._scratch))
        if self._database.name != "postgresql" and not _same(self._scratch, lines):
            raise SystemExit("what was exported is not what was imported")
        return found


@contextmanager
def in_environment(**variables: str) -> Iterator[None]:
    """With these variables."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def _same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", "--silent", one, other], check=False).returncode == 0


COLUMNS = "{:<12}{:<24}{:>10}  {:<10}{:>10}{:>8}{:>9}{:>8}{:>8}{:>6}{:>9}{:>11}"


def _table(measurements: Sequence[Measurement]) -> str:
    rates = Rates(measurements)
    rows = [HEAD, *(cells(each, rates) for each in measurements)]
    return "\n".join(COLUMNS.format(*row).rstrip() for row in rows)


def _about_here() -> dict[str, Any]:
    def told(*command: str) -> str:
        if shutil.which(command[0]) is None:
            return "not there"
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": told("git", "rev-parse", "HEAD"),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "apsw": apsw.sqlite_lib_version(),
        "postgresql": told("psql", "--version"),
        "mariadb": told("mariadb", "--version"),
        "node": told("node", "--version"),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", default=",".join(DATABASES), help="comma-separated")
    parser.add_argument(
        "--sizes", default="10000,100000,1000000", help="events in a store; 10000000 takes hours"
    )
    parser.add_argument("--operations", help="comma-separated; all if not given")
    parser.add_argument("--sides", help="comma-separated, as the table calls them; all if not given")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--folder", type=Path, help="for the stores, on the disk that is to be measured")
    options = parser.parse_args()

    about = _about_here()
    packages = install() if shutil.which("npm") else None
    measurements: list[Measurement] = []
    with tempfile.TemporaryDirectory(dir=options.folder or "/var/tmp", prefix="eventferry-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for database_name in options.databases.split(","):
            database = DATABASES[database_name](folder, Events(folder))
            database.start()
            try:
                wanted = options.operations.split(",") if options.operations else None
                bench = Bench(database, packages, wanted, options.sides.split(",") if options.sides else None)
                sizes = [int(size) for size in options.sizes.split(",")]
                for size in sizes:
                    bench.measure(size)
                if max(sizes) >= RESOLVE_SAVES_AT:
                    bench.measure_saves_beside_resolve()
            finally:
                database.stop()
            measurements += bench.measurements

    print(_table(measurements))
    print()
    found = targets(measurements)
    for target in found:
        word = "met   " if target.is_met else "MISSED"
        sign = ">=" if target.at_least else "<="
        print(f"{word} {target.words}: {target.measured:.2f} (wanted {sign} {target.wanted:g})")
    if options.json:
        results = {
            "about": about,
            "measurements": [asdict(each) | {"events_per_second": round(each.rate)} for each in measurements],
            "targets": [asdict(target) | {"is_met": target.is_met} for target in found],
        }
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

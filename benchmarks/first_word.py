"""The first word on speed: eventferry beside the real reSolve on SQLite, on the same events, in turns, in one run.

python -m benchmarks.first_word [--json RESULTS.json] [--quick]

Every measurement runs in a child process of its own, which tells the time of the operation alone; its peak of
resident memory is what the operating system says. Short ones run several times, and the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from tests.interop.resolve import install

from benchmarks.make_events import make_events

HERE = Path(__file__).parent
ROOT = HERE.parent
OURS, THEIRS = "eventferry", "reSolve"
OPERATIONS = ("import", "export", "pages", "incremental")
SAVES = 200
RUNS = 5
LONG = 10.0
"""Seconds of measuring one thing after which it is not repeated."""


@dataclass
class Measurement:
    """One operation of one side on a store of one size.

    Attributes:
        stored: events in the store (for an import: after it).
        events: how many the operation moved.
        seconds: of each run.
        cpu_seconds: of each run's whole process, start and all: less at the mercy of what else runs.
        peak_mb: the highest resident memory of any run's process.
    """

    side: str
    operation: str
    stored: int
    events: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    @property
    def rate(self) -> float:
        """Events per second, by the median."""
        return self.events / median(self.seconds)

    @property
    def is_done(self) -> bool:
        """Whether another run would tell nothing new, or take too long."""
        return len(self.seconds) == RUNS or sum(self.seconds) >= LONG


@dataclass(frozen=True)
class Target:
    """What issue 3 asks for. `at_least`: the ratio is to be that high; otherwise at most that high."""

    words: str
    wanted: float
    measured: float
    at_least: bool

    @property
    def is_met(self) -> bool:
        """Whether it is."""
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted


class Sides:
    """The two programs that measure."""

    def __init__(self, packages: Path) -> None:
        self._commands: dict[str, list[str]] = {
            OURS: [sys.executable, "-m", "benchmarks.eventferry_bench"],
            THEIRS: ["node", str(HERE / "resolve_bench.cjs")],
        }
        self._environment = {**os.environ, "NODE_PATH": str(packages / "node_modules")}

    def run(
        self, side: str, operation: str, database: Path, argument: str = ""
    ) -> tuple[int, float, resource.struct_rusage]:
        """Events and seconds of one operation, and what its process used."""
        command = [*self._commands[side], operation, str(database), *([argument] if argument else [])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=self._environment)
        assert process.stdout is not None
        with process.stdout:
            told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
        found = json.loads(told)
        return found["events"], found["seconds"], usage


class Bench:
    """Measures in a folder that goes at the end.

    Args:
        sides: the two programs.
        folder: for the stores and the events.
        later: a file of versionless events for incremental imports.
    """

    def __init__(self, sides: Sides, folder: Path, later: Path) -> None:
        self._sides = sides
        self._folder = folder
        self._later = later
        self.measurements: list[Measurement] = []

    def events(self, n: int) -> Path:
        """A file of n events."""
        file = self._folder / f"events-{n}.jsonl"
        if not file.exists():
            with file.open("wb") as lines:
                lines.writelines(make_events(n))
        return file

    def store(self, side: str, n: int) -> Path:
        """A store of n events, imported by the side that it is for."""
        file = self._folder / f"{side}-{n}.db"
        if not file.exists():
            self._sides.run(side, "create", file)
            self._sides.run(side, "import", file, str(self.events(n)))
        return file

    def in_turns(self, operation: str, *stores: tuple[str, int]) -> None:
        """Measure an operation on the stores of these sides and sizes, one after the other until all are done."""
        open_ones = [Measurement(side, operation, stored) for side, stored in stores]
        self.measurements += open_ones
        while open_ones:
            for measurement in open_ones:
                self._measure(measurement)
            open_ones = [measurement for measurement in open_ones if not measurement.is_done]

    def _measure(self, measurement: Measurement) -> None:
        side, operation, stored = measurement.side, measurement.operation, measurement.stored
        scratch = self._folder / "scratch.db"
        for leftover in self._folder.glob("scratch*"):
            leftover.unlink()
        prepare: dict[str, tuple[Callable[[], Any], str]] = {
            "import": (partial(self._sides.run, side, "create", scratch), str(self.events(stored))),
            "export": (partial(self._copy, side, stored, scratch), str(scratch.with_suffix(".jsonl"))),
            "pages": (partial(self._copy, side, stored, scratch), ""),
            "incremental": (partial(self._copy, side, stored, scratch), str(self._later)),
            "saves": (partial(self._copy, side, stored, scratch), str(SAVES)),
        }
        make_ready, argument = prepare[operation]
        make_ready()
        os.sync()
        events, seconds, usage = self._sides.run(side, operation, scratch, argument)
        measurement.events = events if events is not None else stored
        measurement.seconds.append(seconds)
        measurement.cpu_seconds.append(usage.ru_utime + usage.ru_stime)
        measurement.peak_mb = max(measurement.peak_mb, usage.ru_maxrss * 1024 / 1e6)
        if operation == "export" and not _same(scratch.with_suffix(".jsonl"), self.events(stored)):
            raise SystemExit(f"{side} exported something else than it had imported")
        print(f"  {side} {operation} at {stored:,}: {seconds:.2f} s", file=sys.stderr, flush=True)

    def _copy(self, side: str, stored: int, to: Path) -> None:
        shutil.copy(self.store(side, stored), to)

    def found(self, side: str, operation: str, stored: int) -> Measurement:
        """What was measured."""
        return next(
            measurement
            for measurement in self.measurements
            if (measurement.side, measurement.operation, measurement.stored) == (side, operation, stored)
        )


def _same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", "--silent", one, other], check=False).returncode == 0


def _targets(bench: Bench, small: int, large: int) -> list[Target]:
    def times(operation: str, stored: int) -> float:
        return bench.found(OURS, operation, stored).rate / bench.found(THEIRS, operation, stored).rate

    def cost(operation: str) -> float:
        return bench.found(OURS, operation, small).rate / bench.found(OURS, operation, large).rate

    wanted = {"import": 10, "export": 50}
    return [
        *(
            Target(
                f"{operation} at {small:,}, times as fast as reSolve", least, times(operation, small), True
            )
            for operation, least in wanted.items()
        ),
        Target(f"saves at {2 * small:,} stored, times as fast", 20, times("saves", 2 * small), True),
        *(
            Target(
                f"{operation}: cost per event at {large:,} by that at {small:,}", 1.3, cost(operation), False
            )
            for operation in OPERATIONS
        ),
    ]


COLUMNS = "{:<12}{:>10}  {:<10}{:>10}{:>9}{:>8}{:>6}{:>9}{:>8}"


def _table(bench: Bench) -> str:
    rows = [("operation", "stored", "side", "events/s", "seconds", "cpu s", "runs", "peak MB", "ratio")]
    rates = {(each.side, each.operation, each.stored): each.rate for each in bench.measurements}
    for each in bench.measurements:
        theirs = rates.get((THEIRS, each.operation, each.stored))
        rows.append(
            (
                each.operation,
                f"{each.stored:,}",
                each.side,
                f"{each.rate:,.0f}",
                f"{median(each.seconds):.2f}",
                f"{median(each.cpu_seconds):.2f}",
                f"{len(each.seconds)}",
                f"{each.peak_mb:.0f}",
                f"{each.rate / theirs:.1f}" if theirs and each.side == OURS else "",
            )
        )
    return "\n".join(COLUMNS.format(*row).rstrip() for row in rows)


def _about_here() -> dict[str, Any]:
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "node": node,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: to see whether it runs")
    options = parser.parse_args()
    small = 10_000 if options.quick else 100_000
    large = 10 * small

    about = _about_here()
    sides = Sides(install())
    work = ROOT / "build" / "benchmarks"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        later = Path(folder, "later.jsonl")
        with later.open("wb") as lines:
            lines.writelines(make_events(small, seed=2, versionless=True))
        bench = Bench(sides, Path(folder), later)
        for operation in OPERATIONS:
            bench.in_turns(operation, (OURS, small), (THEIRS, small), (OURS, large))
        bench.in_turns("saves", (OURS, 2 * small), (THEIRS, 2 * small), (OURS, large))

    targets = _targets(bench, small, large)
    print(_table(bench))
    print()
    for target in targets:
        word = "met   " if target.is_met else "MISSED"
        sign = ">=" if target.at_least else "<="
        print(f"{word} {target.words}: {target.measured:.2f} (wanted {sign} {target.wanted:g})")
    if options.json:
        results = {
            "about": about,
            "measurements": [
                asdict(measurement) | {"events_per_second": round(measurement.rate)}
                for measurement in bench.measurements
            ],
            "targets": [asdict(target) | {"is_met": target.is_met} for target in targets],
        }
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""This tree beside an earlier commit of it: the same operations on copies of the same stores, in turns.

python -m benchmarks.before COMMIT [--databases sqlite,postgresql,mariadb] [--events 100000] [--turns 7]

Each operation is a process of its own, and which of the two goes first changes from turn to turn. The ratio is that of
the rates, now by before: the median over the turns, so that a machine that others use counts for both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks.databases import DATABASES, ROOT, Database, Events, Postgresql, Run, run
from benchmarks.run import BATCH, SAVES, SPREAD, Bench

Side: TypeAlias = Callable[[str, str, str], Run]


def earlier(database: Database, folder: Path) -> Side:
    """One operation of eventferry as it was in this folder: what `Bench.ours` is of this one."""

    def ours(operation: str, place: str, argument: str = "") -> Run:
        used = database.cpu_seconds()
        modules = f"PYTHONPATH={folder / 'src'}:{folder}"
        words = (operation, place, argument)
        found = run(["env", modules, sys.executable, "-m", "benchmarks.ours", *words], at=folder)
        return found._replace(server=database.cpu_seconds() - used)

    return ours


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """The tree of a commit."""
    place = folder / "before"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", place, commit], cwd=ROOT, check=True)
    try:
        yield place
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", place], cwd=ROOT, check=True)


def operations(database: Database, ours: Side, n: int) -> Iterator[tuple[str, Callable[[Side], Run]]]:
    """The name of each, and what runs it by one of the sides."""
    events = database.events
    store = database.store("now", n, ours)
    lines = str(events.lines(n))
    scratch = str(database.folder / "out.jsonl")

    def imported(side: Side) -> Run:
        place = database.new()
        side("create", place, "")
        return side("import", place, lines)

    yield "import", imported
    yield "export", lambda side: side("export", store, scratch)
    yield "pages", lambda side: side("pages", store, "")
    if isinstance(database, Postgresql):
        yield "copy", lambda side: side("copy", store, database.other())
    batch, spread = str(events.batch(min(BATCH, n), n)), str(events.later(SPREAD))
    yield "incremental", lambda side: side("incremental", database.copy(store), batch)
    yield "incremental of 10,000", lambda side: side("incremental", database.copy(store), spread)
    yield "saves", lambda side: side("saves", database.copy(store), str(SAVES))
    yield (
        "saves of 100 clients",
        lambda side: side("saves of 100 clients", database.copy(store), str(10 * SAVES)),
    )


def measure(database: Database, folder: Path, n: int, turns: int) -> None:
    """All operations of a database, and a line for each."""
    now_side, before_side = Bench(database, None, None, None).ours, earlier(database, folder)
    for name, operation in operations(database, now_side, n):
        found: list[tuple[Run, Run]] = []
        for turn in range(turns):
            if turn % 2:
                now = operation(now_side)
                found.append((operation(before_side), now))
            else:
                before = operation(before_side)
                found.append((before, operation(now_side)))
        rate = median(before.seconds / now.seconds for before, now in found)
        cpu = median(_cpu(before) / _cpu(now) for before, now in found)
        old, new = (median(each[side].seconds for each in found) for side in (0, 1))
        print(f"| {database.name} | {name} | {old:.3f} | {new:.3f} | {rate:.2f} | {cpu:.2f} |", flush=True)


def _cpu(found: Run) -> float:
    """Of the operation alone, the server's with it."""
    return found.main + found.others + found.server


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit")
    parser.add_argument("--databases", default=",".join(DATABASES), help="comma-separated")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--folder", default="/var/tmp", help="for the stores, on the disk that is to be measured"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="eventferry-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with checked_out(given.commit, folder) as before:
            print(
                "| database | operation | seconds, before | now | rate, now by before | CPU, before by now |"
            )
            print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
            for each in given.databases.split(","):
                database = DATABASES[each](folder, Events(folder))
                database.start()
                try:
                    measure(database, before, given.events, given.turns)
                finally:
                    database.stop()


if __name__ == "__main__":
    main()

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

from benchmarks.databases import DATABASES, ROOT, Database, Events, Postgresql, Run, run

SAVES = 1000
BATCH = 100_000
SPREAD = 10_000


class Sides:
    """One operation of eventferry as it is, and as it was.

    Args:
        database: started.
        earlier: the folder of the earlier commit.
    """

    def __init__(self, database: Database, earlier: Path) -> None:
        self._database = database
        self._earlier = earlier

    def now(self, operation: str, place: str, argument: str = "") -> Run:
        """As it is."""
        return self._run(ROOT, operation, place, argument)

    def before(self, operation: str, place: str, argument: str = "") -> Run:
        """As it was."""
        return self._run(self._earlier, operation, place, argument)

    def _run(self, folder: Path, *words: str) -> Run:
        used = self._database.cpu_seconds()
        modules = f"PYTHONPATH={folder / 'src'}:{folder}"
        found = run(["env", modules, sys.executable, "-m", "benchmarks.ours", *words], at=folder)
        return found._replace(server=self._database.cpu_seconds() - used)


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """The tree of a commit."""
    place = folder / "before"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", place, commit], cwd=ROOT, check=True)
    try:
        yield place
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", place], cwd=ROOT, check=True)


def operations(
    database: Database, sides: Sides, n: int
) -> Iterator[tuple[str, Callable[[Callable[..., Run]], Run]]]:
    """The name of each, and what runs it by one of the sides."""
    events = database.events
    store = database.store("now", n, sides.now)
    lines = str(events.lines(n))
    scratch = str(database.folder / "out.jsonl")

    def imported(side: Callable[..., Run]) -> Run:
        place = database.new()
        side("create", place)
        return side("import", place, lines)

    yield "import", imported
    yield "export", lambda side: side("export", store, scratch)
    yield "pages", lambda side: side("pages", store)
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


def measure(database: Database, sides: Sides, n: int, turns: int) -> None:
    """All operations of a database, and a line for each."""
    for name, operation in operations(database, sides, n):
        found: list[tuple[Run, Run]] = []
        for turn in range(turns):
            if turn % 2:
                now = operation(sides.now)
                found.append((operation(sides.before), now))
            else:
                before = operation(sides.before)
                found.append((before, operation(sides.now)))
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
                    measure(database, Sides(database, before), given.events, given.turns)
                finally:
                    database.stop()


if __name__ == "__main__":
    main()

"""An import, a copy and a restore by several processes beside the same by one, and on PostgreSQL `pg_restore -j`.

python -m benchmarks.jobs [--events 1000000] [--jobs 2] [--runs 3] [--kinds postgresql,mariadb]

Every run is a command of its own, and its time is that of the whole command. They take turns; the best of each counts.
Where the machine has no cores to spare beside the database there is little to gain: the seconds of CPU, of the command
with its workers and of the server, tell what a free machine would do.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.databases import Events, Mariadb, Postgresql, Run, ServerDatabase, run
from eventferry import open_store, verify

KINDS: dict[str, type[ServerDatabase]] = {"postgresql": Postgresql, "mariadb": Mariadb}


def eventferry(*words: str) -> Run:
    """Run eventferry as a process of its own."""
    return run([sys.executable, "-m", "eventferry", *words, "--json"])


def restore(database: Postgresql, archive: Path, jobs: int) -> Run:
    """Restore what pg_dump wrote."""
    target = database.new().partition("?")[0]
    return run(["pg_restore", "-j", str(jobs), "--no-owner", "-d", target, str(archive)])


async def same(one: str, other: str) -> bool:
    """Whether two stores hold the same."""
    async with open_store(one) as a, open_store(other) as b:
        return (await verify(a.export_events(), b.export_events())).equal


def measure(database: ServerDatabase, events: int, jobs: int, runs: int) -> None:
    """Measure on one database, and print it."""
    lines = database.events.lines(events)
    source = database.kept("source")
    eventferry("import", str(lines), source)
    repository = str(database.folder / f"repository-{database.name}")
    eventferry("backup", source, repository)
    sides: dict[str, Callable[[], Run]] = {
        "import": lambda: eventferry("import", str(lines), database.new()),
        f"import --jobs {jobs}": lambda: eventferry(
            "import", str(lines), database.new(), "--jobs", str(jobs)
        ),
        "copy": lambda: eventferry("copy", source, database.new()),
        f"copy --jobs {jobs}": lambda: eventferry("copy", source, database.new(), "--jobs", str(jobs)),
        "restore": lambda: eventferry("restore", repository, database.new()),
        f"restore --jobs {jobs}": lambda: eventferry(
            "restore", repository, database.new(), "--jobs", str(jobs)
        ),
    }
    if isinstance(database, Postgresql):
        archive = database.folder / "archive"
        url = source.partition("?")[0]
        run(["pg_dump", "-Fc", "-t", "store.events", "-f", str(archive), url])
        sides[f"pg_restore -j {jobs}"] = lambda: restore(database, archive, jobs)
    took: dict[str, list[Run]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            before = database.cpu_seconds()
            found = side()
            took[name].append(found._replace(server=database.cpu_seconds() - before))
    for words in (["copy", source], ["restore", repository]):
        target = database.new()
        eventferry(*words, target, "--jobs", str(jobs))
        if not asyncio.run(same(source, target)):
            raise SystemExit(f"a {words[0]} by {jobs} processes on {database.name} is another store")
    print(f"\n{database.name}: {events:,} events, {jobs} jobs, {runs} runs")
    for name, each in took.items():
        best = min(each, key=lambda one: one.seconds)
        print(
            f"{name:20} {best.seconds:7.2f} s {events / best.seconds:10,.0f}/s  "
            f"CPU {best.cpu_seconds:6.2f} s, of the server {best.server:6.2f} s"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eventferry-jobs-") as folder:
        Path(folder).chmod(0o755)  # for the server, which runs as another user
        for kind in given.kinds.split(","):
            database = KINDS[kind](Path(folder), Events(Path(folder)))
            database.start()
            try:
                measure(database, given.events, given.jobs, given.runs)
            finally:
                database.stop()


if __name__ == "__main__":
    main()

"""What a billion events would cost: the steps of a parallel read and write, measured one by one on PostgreSQL.

python -m benchmarks.scale [--events 1000000]

One process does what Spark's driver and its tasks do, so that CPU seconds are told apart: ours, and the server's.
docs/scale.md multiplies them.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers import memory, new_server

from benchmarks.command_line import asked
from benchmarks.make_events import make_events
from eventferry.sync import EventStore, open_store, pipeline
from eventferry.tabular.arrow import BatchLines, batches_of
from eventferry.tabular.columns import COLUMNS

_TICKS = os.sysconf("SC_CLK_TCK")
PARTS = 16


def server_seconds() -> float:
    """CPU seconds of all processes of the PostgreSQL that this process started, those that have ended among them."""
    ours = {str(os.getpid())}
    ticks = 0
    # Twice: its connections' processes are children of a child.
    for _ in range(2):
        found = set()
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = place.read_text().rpartition(") ")
            except OSError:
                continue
            fields = rest.split()
            if fields[1] in ours and name.endswith("(postgres"):
                found.add(place.parent.name)
                # Of the first of them also those of its children that have ended.
                ticks += sum(map(int, fields[11:15] if fields[1] == str(os.getpid()) else fields[11:13]))
        ours = found
    return ticks / _TICKS


@contextmanager
def measured(what: str, events: int) -> Iterator[None]:
    """Prints what a step took."""
    wall, ours, server = time.monotonic(), time.process_time(), server_seconds()
    yield
    wall, ours, server = (
        time.monotonic() - wall,
        time.process_time() - ours,
        server_seconds() - server,
    )
    each = 1e6 / events
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{what:36} {wall:8.2f} s  ours {ours:7.2f} s ({ours * each:6.2f} µs/event)  "
        f"server {server:7.2f} s ({server * each:6.2f} µs/event)  peak {peak} MB",
        flush=True,
    )


def plan(url: str, events: int) -> None:
    """What the driver does."""
    for number in (PARTS, 1_000, 10_000):
        with measured(f"partitions({number:,})", events), open_store(url) as store:
            found = store.partitions(number)
        print(f"    {len(found):,} of them")


def read(url: str, events: int) -> None:
    """What the tasks of a read do."""
    with open_store(url) as store:
        parts = store.partitions(PARTS)
    with measured(f"read, {PARTS} partitions", events):
        for part in parts:
            with open_store(url) as store, store.read_partition(part) as lines:
                for batch in batches_of(lines):
                    del batch


def write(url: str, target: EventStore, events: int) -> str:
    """What the tasks of a write do; returns the import's id."""
    with open_store(url) as store:
        parts = store.partitions(PARTS)
        import_id = target.begin_import()
        with measured(f"read and push, {PARTS} parts", events):
            for part in parts:
                writer = BatchLines(COLUMNS)
                with store.read_partition(part) as lines:
                    blocks = (writer.lines(batch) for batch in batches_of(lines))
                    target.push_import(import_id, str(part.number), blocks)
    return import_id


def main() -> None:
    events = asked(__doc__, events=1_000_000).events
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        Path(folder).chmod(0o755)
        server = new_server("postgresql", Path(folder) / "server")
        try:
            print(
                f"{events:,} events, {server.version()}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}"
            )
            a, b = (server.url(f"postgres?database_name={name}") for name in "ab")
            with open_store(a) as store:
                store.init()
                with measured("made, and imported by one process", events):
                    pipeline(make_events(events), store.import_events())
            plan(a, events)
            read(a, events)
            with open_store(b) as target:
                target.init()
                import_id = write(a, target, events)
                with measured("commit", events):
                    target.commit_import(import_id)
        finally:
            server.stop()


if __name__ == "__main__":
    main()

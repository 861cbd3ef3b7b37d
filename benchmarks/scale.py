"""What a billion events would cost: the steps of a parallel write and read, measured one by one on PostgreSQL.

python -m benchmarks.scale [--events 1000000] [--folder FOLDER]

One process does what Spark's driver and its tasks do, so that CPU seconds are told apart: ours, and the server's.
docs/scale.md multiplies them. The database is in memory, or in a folder on a disk with room for it: 100,000,000 events
and their indexes need 60 GB.
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
from benchmarks.make_events import LONG_AGO
from eventferry.sync import EventStore, open_store
from eventferry.tabular.arrow import BatchLines, batches_of
from eventferry.tabular.columns import COLUMNS

_TICKS = os.sysconf("SC_CLK_TCK")
PARTS = 16
SCATTER = 2_654_435_761  # a prime: neighbours come to lie far apart


def server_seconds() -> float:
    """CPU seconds of all processes of the PostgreSQL that this process started, those that have ended among them."""
    found, again = _ticks(), _ticks()
    while found != again:  # one that ends in between is counted with neither
        found, again = again, _ticks()
    return found / _TICKS


def _ticks() -> int:
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
    return ticks


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


def made(part: int, events: int) -> Iterator[bytes]:
    """The lines of a sixteenth of the events, of 325 bytes, in blocks of 1,000. `make_events` would take longer for it
    than what is measured; like there, aggregates have ten events each and lie in no order."""
    aggregates = max(events // 10, 1)
    begin, end = events * part // PARTS, events * (part + 1) // PARTS
    for first in range(begin, end, 1000):
        yield b"".join(
            b'{"threadCounter":%d,"threadId":%d,"type":"ORDER_PLACED","timestamp":%d,"aggregateId":"order-%08d",'
            b'"aggregateVersion":%d,"payload":{"number":%d,"customer":"%016x","note":"%0120x"}}\n'
            % (
                number >> 8,
                number & 255,
                LONG_AGO + 7 * number,
                number % aggregates * SCATTER % aggregates,
                number // aggregates + 1,
                number,
                number * SCATTER,
                number * SCATTER**5,
            )
            for number in range(first, min(first + 1000, end))
        )


def make(events: int) -> None:
    """What making the events takes of our CPU, for it is part of the next step."""
    with measured("make the events", events):
        for part in range(PARTS):
            for block in made(part, events):
                del block


def push(target: EventStore, events: int) -> str:
    """What the tasks of a write do; returns the import's id."""
    import_id = target.begin_import()
    with measured(f"make and push, {PARTS} parts", events):
        for part in range(PARTS):
            target.push_import(import_id, str(part), made(part, events))
    return import_id


def plan(url: str, events: int) -> None:
    """What the driver does."""
    for number in (PARTS, 1_000, 10_000):
        with measured(f"partitions({number:,})", events), open_store(url) as store:
            found = store.partitions(number)
        print(f"    {len(found):,} of them", flush=True)


def read(url: str, events: int) -> None:
    """What the tasks of a read do; and those of a write, which make lines of batches again."""
    with open_store(url) as store:
        parts = store.partitions(PARTS)
    writer, writing, found = BatchLines(COLUMNS), 0.0, 0
    with measured(f"read, {PARTS} partitions, and lines of them", events):
        for part in parts:
            with open_store(url) as store, store.read_partition(part) as lines:
                for batch in batches_of(lines):
                    found += len(batch)
                    begun = time.thread_time()
                    writer.lines(batch)
                    writing += time.thread_time() - begun
    print(f"    lines made of Arrow batches: {writing * 1e6 / events:.2f} µs/event of ours; {found:,} events")


def main() -> None:
    options = asked(__doc__, events=1_000_000, folder="")
    events: int = options.events
    with tempfile.TemporaryDirectory(dir=options.folder or memory()) as folder:
        Path(folder).chmod(0o755)
        server = new_server("postgresql", Path(folder) / "server")
        try:
            print(
                f"{events:,} events, {server.version()}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}"
            )
            url = server.url("postgres?database_name=a")
            make(min(events, 1_000_000))
            with open_store(url) as store:
                store.init()
                import_id = push(store, events)
                with measured("commit", events):
                    store.commit_import(import_id)
            plan(url, events)
            read(url, events)
        finally:
            server.stop()


if __name__ == "__main__":
    main()

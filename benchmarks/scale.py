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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

from tests.support.servers import Server, memory, new_server

from benchmarks.command_line import asked
from benchmarks.databases import cpu_seconds_of
from benchmarks.make_events import LONG_AGO
from eventferry.sync import EventStore, open_store
from eventferry.tabular.arrow import BatchLines, batches_of
from eventferry.tabular.columns import COLUMNS

Measured: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Measures a step, and prints what it took under its name."""

PARTS = 16
SCATTER = 2_654_435_761  # a prime: neighbours come to lie far apart


@contextmanager
def measured(server: Server, events: int, what: str) -> Iterator[None]:
    """Prints what a step took."""
    wall, ours, theirs = time.monotonic(), time.process_time(), cpu_seconds_of(server)
    yield
    wall, ours, theirs = (
        time.monotonic() - wall,
        time.process_time() - ours,
        cpu_seconds_of(server) - theirs,
    )
    each = 1e6 / events
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{what:36} {wall:8.2f} s  ours {ours:7.2f} s ({ours * each:6.2f} µs/event)  "
        f"server {theirs:7.2f} s ({theirs * each:6.2f} µs/event)  peak {peak} MB",
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


def make(measured: Measured, events: int) -> None:
    """What making the events takes of our CPU, for it is part of the next step."""
    with measured("make the events"):
        for part in range(PARTS):
            for block in made(part, events):
                del block


def push(measured: Measured, target: EventStore, events: int) -> str:
    """What the tasks of a write do; returns the import's id."""
    import_id = target.begin_import()
    with measured(f"make and push, {PARTS} parts"):
        for part in range(PARTS):
            target.push_import(import_id, str(part), made(part, events))
    return import_id


def plan(measured: Measured, url: str) -> None:
    """What the driver does."""
    for number in (PARTS, 1_000, 10_000):
        with measured(f"partitions({number:,})"), open_store(url) as store:
            found = store.partitions(number)
        print(f"    {len(found):,} of them", flush=True)


def read(measured: Measured, url: str, events: int) -> None:
    """What the tasks of a read do; and those of a write, which make lines of batches again."""
    with open_store(url) as store:
        parts = store.partitions(PARTS)
    writer, writing, found = BatchLines(COLUMNS), 0.0, 0
    with measured(f"read, {PARTS} partitions, and lines of them"):
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
            some = min(events, 1_000_000)
            make(partial(measured, server, some), some)
            of_all = partial(measured, server, events)
            with open_store(url) as store:
                store.init()
                import_id = push(of_all, store, events)
                with of_all("commit"):
                    store.commit_import(import_id)
            plan(of_all, url)
            read(of_all, url, events)
        finally:
            server.stop()


if __name__ == "__main__":
    main()

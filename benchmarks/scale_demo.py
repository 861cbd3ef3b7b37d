"""Events through a cluster of Spark with two workers: out of PostgreSQL, into Parquet and into a backup repository, and
from each of them back into a store; compared event by event. With --kills, its processes are killed meanwhile.

python -m benchmarks.scale_demo [--events 1000000] [--kills 0] [--seed N] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from pyspark.sql import SparkSession
from tests.support.servers import memory, new_server

import eventferry.spark
from benchmarks.make_events import make_events
from eventferry.sync import open_store, pipeline, verify

EXECUTOR_MB = 1024
_EXECUTOR = "CoarseGrainedExecutorBackend"


@contextmanager
def step(what: str) -> Iterator[None]:
    """Says what is done, and how long it took."""
    print(f"{what} …", end=" ", flush=True)
    begun = time.monotonic()
    yield
    print(f"{time.monotonic() - begun:.1f} s", flush=True)


class Killer:
    """Kills processes of the cluster, one every few seconds: those in which tasks run Python, and now and then an
    executor with all its tasks. What the driver runs is left alone: Spark does not repeat that.

    Attributes:
        kills: what was killed so far.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.kills: list[str] = []
        self._most = most
        self._chance = random.Random(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def is_done(self) -> bool:
        """Whether all were killed that are to be."""
        return len(self.kills) >= self._most

    def _run(self) -> None:
        chance = self._chance
        while not self.is_done and not self._end.wait(chance.uniform(0.5, 5)):
            found = _descendants(os.getpid())
            executors = [pid for pid, command in found if _EXECUTOR in command]
            workers = [pid for executor in executors for pid, _ in _descendants(executor) if _is_forked(pid)]
            what, pids = ("executor", executors) if chance.random() < 0.2 else ("worker", workers)
            if pids:
                try:
                    os.kill(chance.choice(pids), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.kills.append(what)


def _descendants(ancestor: int) -> list[tuple[int, str]]:
    """The processes that a process has started, and those that they have, with their commands."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(") ")[2].split()[1])
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        parents.setdefault(parent, []).append((int(place.name), command))
    found: list[tuple[int, str]] = []
    waiting = [ancestor]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += [pid for pid, _ in children]
    return found


def _is_forked(pid: int) -> bool:
    """Whether it runs a task: the daemon itself only forks."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        return b"pyspark.daemon" in Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:
        return False


def session(folder: Path) -> SparkSession:
    """A cluster of two workers with a core each, in processes of their own."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"  # a machine's name may lead nowhere
    spark = (
        SparkSession.builder.master(f"local-cluster[2,1,{EXECUTOR_MB}]")
        .appName("eventferry")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "1g")
        .config("spark.executor.memory", f"{EXECUTOR_MB}m")
        .config("spark.local.dir", str(folder / "local"))
        .config("spark.sql.shuffle.partitions", "8")
        .config("spark.task.maxFailures", "40")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("OFF")
    eventferry.spark.register(spark)
    return spark


def there_and_back(spark: SparkSession, folder: Path, url: str, other: str) -> None:
    """Out of PostgreSQL by Spark, into Parquet and a backup repository, and from each into another store."""
    parquet, repository = str(folder / "events.parquet"), str(folder / "repository")
    with step("read by Spark, written as Parquet"):
        events = spark.read.format("eventferry").options(url=url, numPartitions="16").load()
        events.write.mode("overwrite").parquet(parquet)
    with step("read by Spark, written as a backup repository"):
        events.write.format("eventferry").option("repository", repository).mode("overwrite").save()
    with step("Parquet, written to another store"):
        found = spark.read.parquet(parquet)
        found.write.format("eventferry").option("url", other).mode("overwrite").save()
    with step("the repository, written to a third store"):
        found = spark.read.format("eventferry").option("repository", repository).load()
        found.write.format("eventferry").option("url", f"{other}_again").mode("overwrite").save()


def plan(spark: SparkSession, url: str) -> None:
    """What the driver does for 10,000 partitions."""
    with step("planned as 10,000 partitions"):
        found = spark.read.format("eventferry").options(url=url, numPartitions="10000").load()
        number = found.rdd.getNumPartitions()
    java = spark.sparkContext._jvm.java.lang
    java.System.gc()
    used = java.Runtime.getRuntime().totalMemory() - java.Runtime.getRuntime().freeMemory()
    print(f"    {number:,} of them; {used >> 20} MB of Java's memory are in use on the driver")


def run(folder: Path, url: str, other: str, events: int, kills: int, seed: int) -> None:
    """The way there and back; again, as long as not all were killed."""
    with step(f"{events:,} events into PostgreSQL"), open_store(url) as store:
        store.init()
        lines = make_events(events)
        pipeline(iter(lambda: b"".join(islice(lines, 1000)), b""), store.import_events())
    with step("a cluster of two workers"):
        spark = session(folder)
    plan(spark, url)
    with Killer(kills, seed) as killer:
        there_and_back(spark, folder, url, other)
        while not killer.is_done:
            there_and_back(spark, folder, url, other)
    spark.stop()
    if kills:
        print(
            f"killed meanwhile: {killer.kills.count('worker')} workers, {killer.kills.count('executor')} executors "
            f"(seed {seed})"
        )
    with step("compared event by event"), open_store(url) as source:
        for place in (other, f"{other}_again"):
            with open_store(place) as copy:
                report = verify(source.export_events(), copy.export_events())
                if not report.equal:
                    raise SystemExit(f"they differ: {report}")
    print(f"{events:,} of {events:,} events are there, byte for byte, in each of the three stores")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument(
        "--folder", help="for all that it makes, on a disk with room for it; in memory if not given"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder or memory()) as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = new_server("postgresql", folder / "server")
        try:
            url, other = (server.url(f"postgres?database_name={name}") for name in ("a", "b"))
            run(folder, url, other, given.events, given.kills, given.seed)
        finally:
            server.stop()


if __name__ == "__main__":
    main()

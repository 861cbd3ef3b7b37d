"""Workers and drivers of Spark that are killed: nothing is lost, nothing is doubled, and what is left is named."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eventferry import ImportOpenError
from eventferry.sync import EventStore, open_store, pipeline, verify
from tests.support import make_lines

pytestmark = pytest.mark.storm

ROOT = Path(__file__).parents[2]
COUNT = 20_000
PATIENCE = 1800

DRIVER = """
import sys

import eventferry.spark
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
eventferry.spark.register(spark)
events = spark.read.format("eventferry").options(url=sys.argv[1], numPartitions="8").load()
events.write.format("eventferry").option("url", sys.argv[2]).mode(sys.argv[3]).save()
"""


def test_twenty_kills_lose_and_double_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale_demo", "--events", "100000", "--kills", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    killed = re.search(r"killed meanwhile: (\d+) workers, (\d+) executors", ended.stdout)
    assert killed is not None
    assert sum(map(int, killed.groups())) == 20, ended.stdout
    assert "100,000 of 100,000 events are there" in ended.stdout


@pytest.fixture
def stores(tmp_path: Path) -> tuple[str, str]:
    """A store of 20,000 events, and one of ten."""
    urls = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    for url, count in zip(urls, (COUNT, 10), strict=True):
        with open_store(url) as store:
            store.init()
            pipeline(iter([make_lines(count)]), store.import_events())
    return urls


def equal(urls: tuple[str, str]) -> bool:
    """Whether both stores hold the same events."""
    with open_store(urls[0]) as source, open_store(urls[1]) as copy:
        return verify(source.export_events(), copy.export_events(), content=True).equal


def opened(store: EventStore) -> str | None:
    """The import that is open, of either kind."""
    found = store.describe()
    left = found.parts_import or found.open_import
    return None if left is None else left.id


def drive(urls: tuple[str, str], mode: str, until: Callable[[EventStore], bool] | None = None) -> None:
    """A driver that writes the first store's events into the second; it is killed, with all that it has started, as
    soon as the second store is so."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *urls, mode],
        env=os.environ | {"PYSPARK_PYTHON": sys.executable},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        with open_store(urls[1]) as store:
            while until is not None and not until(store):
                assert driver.poll() is None, "it ended before it was killed"
                time.sleep(0.05)
        if until is None:
            assert driver.wait(PATIENCE) == 0
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()


@pytest.mark.parametrize("mode", ["overwrite", "append"])
def test_a_driver_that_is_killed_before_the_commit_leaves_an_import_that_is_named_and_can_be_rolled_back(
    stores: tuple[str, str], mode: str
) -> None:
    drive(stores, mode, until=lambda store: opened(store) is not None)
    with open_store(stores[1]) as store:
        assert b"".join(store.export_events()) == make_lines(10)
        left = opened(store)
        assert left is not None
        begin, roll_back = (
            (store.begin_import, store.rollback_import)
            if mode == "overwrite"
            else (store.begin_incremental_import, store.rollback_incremental_import)
        )
        with pytest.raises(ImportOpenError, match=left):
            begin()
        roll_back(left)
        assert opened(store) is None
    drive(stores, mode)
    assert equal(stores)


@pytest.mark.parametrize("mode", ["overwrite", "append"])
def test_a_driver_that_is_killed_behind_the_commit_has_done_its_work_and_may_do_it_again(
    stores: tuple[str, str], mode: str
) -> None:
    drive(stores, mode, until=lambda store: store.describe().event_count == COUNT)
    assert equal(stores)
    with open_store(stores[1]) as store:
        assert opened(store) is None
    drive(stores, mode)
    assert equal(stores)

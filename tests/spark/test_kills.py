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
from eventferry.sync import EventStore, open_store, pipeline
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
events.write.format("eventferry").option("url", sys.argv[2]).mode("overwrite").save()
"""


def test_twenty_kills_lose_and_double_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale_demo", "--events", "300000", "--kills", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    killed = re.search(r"killed meanwhile: (\d+) workers, (\d+) executors", ended.stdout)
    assert killed is not None
    assert sum(map(int, killed.groups())) >= 5, ended.stdout
    assert "300,000 of 300,000 events are there" in ended.stdout


@pytest.fixture
def stores(tmp_path: Path) -> tuple[str, str]:
    """A store of 20,000 events, and one of ten."""
    urls = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    for url, count in zip(urls, (COUNT, 10), strict=True):
        with open_store(url) as store:
            store.init()
            pipeline(iter([make_lines(count)]), store.import_events())
    return urls


def exported(store: EventStore) -> bytes:
    return b"".join(store.export_events())


def drive(urls: tuple[str, str], until: Callable[[EventStore], bool] | None = None) -> None:
    """A driver that overwrites the second store by the first; it is killed, with all that it has started, as soon as
    the second store is so."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *urls],
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


def test_a_driver_that_is_killed_before_the_commit_leaves_an_import_that_can_be_rolled_back(
    stores: tuple[str, str],
) -> None:
    drive(stores, until=lambda store: store.describe().parts_import is not None)
    with open_store(stores[1]) as store:
        assert exported(store) == make_lines(10)
        with pytest.raises(ImportOpenError) as told:
            store.begin_import()
        left = store.describe().parts_import
        assert left is not None
        assert left.id in str(told.value)
        store.rollback_import(left.id)
        drive(stores)
        assert exported(store) == make_lines(COUNT)


def test_a_driver_that_is_killed_behind_the_commit_has_done_its_work_and_may_do_it_again(
    stores: tuple[str, str],
) -> None:
    drive(stores, until=lambda store: store.describe().event_count == COUNT)
    with open_store(stores[1]) as store:
        assert exported(store) == make_lines(COUNT)
        assert store.describe().parts_import is None
        drive(stores)
        assert exported(store) == make_lines(COUNT)

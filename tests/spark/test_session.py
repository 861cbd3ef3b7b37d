"""Spark itself reads, changes and writes events: what only a session can show."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark import TaskContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

import eventferry
from eventferry.spark import changed, numbered
from eventferry.sync import Repository, open_store, pipeline, verify
from tests.support import make_lines

COUNT = 4000


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of 4,000 events."""
    place = f"sqlite:///{tmp_path_factory.mktemp('stores')}/a.db"
    with open_store(place) as store:
        store.init()
        pipeline(iter([make_lines(COUNT)]), store.import_events())
    return place


@pytest.fixture
def target(tmp_path: Path) -> str:
    """Where there is no store yet."""
    return f"sqlite:///{tmp_path}/b.db"


def load(spark: SparkSession, url: str) -> DataFrame:
    return spark.read.format("eventferry").options(url=url, numPartitions="4").load()


def save(events: DataFrame, url: str, mode: str) -> None:
    events.write.format("eventferry").option("url", url).mode(mode).save()


def exported(url: str) -> bytes:
    with open_store(url) as store:
        return b"".join(store.export_events())


def broken(marker: Path, *, times: int, by: Callable[[], None]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """For `mapInArrow`: the second partition breaks behind its first batch, so many times."""
    place = str(marker)

    def pass_on(batches: Iterator[Any]) -> Iterator[Any]:
        context = TaskContext.get()
        for batch in batches:
            yield batch
            done = os.listdir(place)
            if context is not None and context.partitionId() == 1 and len(done) < times:
                Path(place, str(len(done))).touch()
                by()

    return pass_on


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failed() -> None:
    raise ValueError("this task fails")


def only_first_type(event: eventferry.Event) -> eventferry.Event | None:
    """A function of a user's."""
    return None if event.type == "TYPE_0" else event


def test_a_query_hands_its_filters_to_the_store(spark: SparkSession, url: str) -> None:
    found = load(spark, url).where(
        "type in ('TYPE_1', 'TYPE_2') and not type = 'TYPE_2' and aggregateId like 'aggregate-1%' "
        "and timestamp >= timestamp_millis(1600000001000)"
    )
    assert "Filter " not in found._jdf.queryExecution().executedPlan().toString()
    expected = [i for i in range(1000, COUNT) if i % 3 == 1 and i % 10 == 1]
    assert [row["payload"] for row in found.collect()] == [f'{{"number":{i}}}' for i in expected]


def test_events_that_are_changed_and_numbered_replace_a_store_while_workers_are_killed(
    spark: SparkSession, url: str, target: str, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\ntype = "TYPE_1"\nredact = ["/number"]\n')
    function = "tests.spark.test_session:only_first_type"
    (tmp_path / "kills").mkdir()
    limping = load(spark, url).mapInArrow(
        broken(tmp_path / "kills", times=2, by=killed), load(spark, url).schema
    )
    save(numbered(changed(limping, rules=str(rules), function=function)), target, "overwrite")
    assert len(os.listdir(tmp_path / "kills")) == 2
    other = target.replace("b.db", "c.db")
    with open_store(url) as source, open_store(other) as copy:
        copy.init()
        pipeline(
            source.export_events(), eventferry.Changes(rules=rules, function=function), copy.import_events()
        )
    assert exported(target) == exported(other)


def test_events_that_a_store_lacks_are_added_once(spark: SparkSession, url: str, target: str) -> None:
    events = load(spark, url)
    for _ in range(2):
        save(events, target, "append")
    with open_store(url) as source, open_store(target) as copy:
        assert verify(source.export_events(), copy.export_events(), content=True).equal


@pytest.mark.parametrize("mode", ["overwrite", "append"])
def test_a_write_that_fails_leaves_the_store_as_it_was(
    spark: SparkSession, url: str, target: str, tmp_path: Path, mode: str
) -> None:
    with open_store(target) as store:
        store.init()
        store.append_events("a", [{"type": "BEFORE"}])
    before = exported(target)
    (tmp_path / "failures").mkdir()
    events = load(spark, url)
    with pytest.raises(PySparkException, match="this task fails"):
        save(
            events.mapInArrow(broken(tmp_path / "failures", times=100, by=failed), events.schema),
            target,
            mode,
        )
    assert exported(target) == before
    save(events.limit(10), target, mode)  # nothing is left open


def test_what_a_driver_that_died_has_left_is_named_and_can_be_removed(
    spark: SparkSession, url: str, target: str
) -> None:
    with open_store(target) as store:
        store.init()
        left = store.begin_import()
        with pytest.raises(PySparkException, match=left):
            save(load(spark, url), target, "overwrite")
        store.rollback_import(left)
    save(load(spark, url), target, "overwrite")
    assert exported(target) == make_lines(COUNT)


def save_to(events: DataFrame, repository: str) -> None:
    events.write.format("eventferry").option("repository", repository).mode("overwrite").save()


def test_a_repository_is_written_while_workers_are_killed_and_read_again(
    spark: SparkSession, url: str, target: str, tmp_path: Path
) -> None:
    (tmp_path / "kills").mkdir()
    repository, events = str(tmp_path / "repository"), load(spark, url)
    save_to(events.mapInArrow(broken(tmp_path / "kills", times=2, by=killed), events.schema), repository)
    assert len(os.listdir(tmp_path / "kills")) == 2
    again = spark.read.format("eventferry").option("repository", repository).load()
    save(again, target, "overwrite")
    assert exported(target) == make_lines(COUNT)
    found = Repository(repository)
    assert found.drill().equal
    checked = found.check(1.0)
    assert (checked.problems, checked.remarks, checked.parts) == ([], [], 4)
    assert len(list(tmp_path.rglob("*.zst"))) == 4


def test_a_data_frame_that_lost_its_order_is_refused_until_it_is_sorted(
    spark: SparkSession, url: str, tmp_path: Path
) -> None:
    repository = str(tmp_path / "repository")
    shuffled = load(spark, url).repartition(3, "aggregateId")
    with pytest.raises(PySparkException, match="sortWithinPartitions"):
        save_to(shuffled, repository)
    assert list(tmp_path.rglob("*.zst")) == []
    key = ["timestamp", "threadCounter", "threadId"]
    save_to(shuffled.repartitionByRange(3, *key).sortWithinPartitions(*key), repository)
    assert b"".join(Repository(repository).export_events()) == make_lines(COUNT)
    save_to(numbered(load(spark, url)).orderBy("threadCounter"), repository)
    assert Repository(repository).drill().events == COUNT


def test_a_data_frame_without_events_is_a_chain_without_parts(
    spark: SparkSession, url: str, tmp_path: Path
) -> None:
    repository = str(tmp_path / "repository")
    save_to(load(spark, url).where("type = 'NONE'"), repository)
    save_to(load(spark, url).limit(0), repository)
    assert Repository(repository).status().newest.parts == 0
    again = spark.read.format("eventferry").option("repository", repository).load()
    assert again.count() == 0


def test_a_write_to_a_repository_that_fails_leaves_nothing_in_it(
    spark: SparkSession, url: str, tmp_path: Path
) -> None:
    (tmp_path / "failures").mkdir()
    events = load(spark, url)
    with pytest.raises(PySparkException, match="this task fails"):
        save_to(
            events.mapInArrow(broken(tmp_path / "failures", times=100, by=failed), events.schema),
            str(tmp_path / "repository"),
        )
    assert list(tmp_path.rglob("*.zst")) == []


def test_a_stream_that_is_stopped_and_started_again_gives_every_event_once(
    spark: SparkSession, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/growing.db"
    with open_store(url) as store:
        store.init()
        for _ in range(3):
            store.append_events("a", [{"type": "T"}] * 100)
            query = (
                spark.readStream.format("eventferry")
                .options(url=url, maxEventsPerTrigger="150")
                .load()
                .writeStream.format("parquet")
                .options(path=str(tmp_path / "out"), checkpointLocation=str(tmp_path / "checkpoint"))
                .trigger(availableNow=True)
                .start()
            )
            query.awaitTermination()
    versions = [row["aggregateVersion"] for row in spark.read.parquet(str(tmp_path / "out")).collect()]
    assert sorted(versions) == list(range(1, 301))

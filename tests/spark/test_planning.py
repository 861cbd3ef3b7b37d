"""What the driver plans and the tasks read, without a session: Spark calls these objects, in processes of its own."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql.datasource import (
    EqualNullSafe,
    EqualTo,
    Filter,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    InputPartition,
    IsNotNull,
    LessThan,
    LessThanOrEqual,
    Not,
    StringContains,
    StringStartsWith,
)
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.streaming.datasource import ReadAllAvailable, ReadMaxRows
from pyspark.sql.types import StringType, StructField, StructType

from eventferry import InputError, OrderError, StoreNotFoundError, StoreReplacedError, UsageError
from eventferry.spark.repositories import StoredPiece
from eventferry.spark.schema import ARROW, SCHEMA
from eventferry.spark.source import BatchReader, EventferrySource
from eventferry.spark.streaming import StreamReader
from eventferry.sync import Repository, back_up, open_source, open_store, pipeline
from eventferry.tabular.arrow import BatchLines
from eventferry.tabular.columns import COLUMNS
from tests.stores.test_connections import User, user_of
from tests.support import LONG_AGO, make_event, make_lines
from tests.support.cli import Ferry, new_ferry
from tests.support.foreign.pyeventsourcing import on_sqlite, write
from tests.support.small_backups import KEY, RECIPIENT

__all__ = ["user_of"]  # a fixture

ferry = pytest.fixture(new_ferry)


def fill(url: str, lines: bytes) -> None:
    with open_store(url) as store:
        if not store.exists():
            store.init()
        pipeline(iter([lines]), store.import_events())


def save(url: str, name: str, count: int = 1) -> None:
    with open_store(url) as store:
        for _ in range(count):
            store.append_events(name, [{"type": "LATER"}])


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store of 3,000 events."""
    place = f"sqlite:///{tmp_path}/a.db"
    fill(place, make_lines(3000))
    return place


def loaded(**options: str) -> EventferrySource:
    """A data frame's source, as it is when its schema was asked for and it was pickled."""
    source = EventferrySource(options)
    assert source.schema() == SCHEMA
    copied: EventferrySource = pickle.loads(pickle.dumps(source))
    return copied


def lines_of(batches: Any) -> bytes:
    writer = BatchLines(COLUMNS)
    return b"".join(writer.lines(batch) for batch in batches)


def read(reader: BatchReader | StreamReader, partitions: Sequence[Any]) -> bytes:
    """What the tasks read, each with what was pickled for it."""
    copies = [pickle.loads(pickle.dumps((reader, each))) for each in partitions]
    return b"".join(lines_of(copy.read(each)) for copy, each in copies)


def test_batches_have_exactly_the_schema_that_spark_expects() -> None:
    assert to_arrow_schema(SCHEMA, timezone="UTC").equals(ARROW)


def test_tasks_read_a_store_byte_for_byte(url: str) -> None:
    reader = loaded(url=url, numPartitions="7").reader(SCHEMA)
    partitions = reader.partitions()
    assert len(partitions) == 7
    assert read(reader, partitions) == make_lines(3000)


@pytest.mark.parametrize("user_of", ["postgresql"], indirect=True)
def test_a_task_reads_with_one_connection_and_writes_with_two(user_of: Callable[[int], User]) -> None:
    user = user_of(2)
    writer = EventferrySource({"url": user.url}).writer(SCHEMA, overwrite=True)
    with open_store(user.url) as store:
        writer._steps.push(store, writer._import_id, "1", iter([make_lines(3000)]))
    writer.commit([None])
    user.run(f"ALTER ROLE {user.name} CONNECTION LIMIT 1")
    reader = loaded(url=user.url, numPartitions="3").reader(SCHEMA)
    assert read(reader, reader.partitions()) == make_lines(3000)


def test_every_query_reads_the_state_at_which_the_data_frame_was_made(url: str) -> None:
    source = loaded(url=url, numPartitions="3")
    first = source.reader(SCHEMA)
    before = read(first, first.partitions())
    save(url, "new")
    second = source.reader(SCHEMA)
    assert read(second, second.partitions()) == before == make_lines(3000)


def test_a_replacement_is_told_to_a_query_that_is_planned_before_it_or_behind_it(url: str) -> None:
    source = loaded(url=url, numPartitions="3")
    planned = source.reader(SCHEMA)
    partitions = planned.partitions()
    fill(url, make_lines(3000))
    with pytest.raises(StoreReplacedError):
        read(planned, partitions)
    with pytest.raises(StoreReplacedError):
        source.reader(SCHEMA).partitions()


def test_an_empty_store_has_no_partitions_and_a_task_for_none_reads_nothing(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/empty.db"
    with open_store(place) as store:
        store.init()
    reader = loaded(url=place).reader(SCHEMA)
    assert reader.partitions() == []
    assert read(reader, [InputPartition(None)]) == b""


def test_between_two_bookmarks_there_is_what_came_between_them(url: str) -> None:
    with open_store(url) as store:
        since = store.bookmark()
    save(url, "new", 5)
    with open_store(url) as store:
        until = store.bookmark()
    save(url, "new", 5)
    reader = loaded(url=url, since=since, until=until).reader(SCHEMA)
    lines = read(reader, reader.partitions()).splitlines()
    assert [json.loads(each)["aggregateVersion"] for each in lines] == [1, 2, 3, 4, 5]


def test_a_backup_is_read_in_parts_byte_for_byte(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventferry.backup.format.PART_BYTES", 50_000)
    monkeypatch.setattr("eventferry.reading.exporting.PAGE_BYTES", 20_000)
    repository = str(tmp_path / "repository")
    with open_store(url) as store:
        back_up(store, repository)
        source = loaded(repository=repository, numPartitions="4")
        save(url, "new")
        back_up(store, repository)
    reader = source.reader(SCHEMA)
    partitions = reader.partitions()
    assert len(partitions) == 4
    assert read(reader, partitions) == make_lines(3000)


def test_another_products_tables_are_one_partition(tmp_path: Path) -> None:
    write(on_sqlite(tmp_path / "app.db"), dogs=4, tricks=4, writers=1)
    reader = loaded(**{"url": f"sqlite:///{tmp_path}/app.db", "from": "pyeventsourcing"}).reader(SCHEMA)
    partitions = reader.partitions()
    assert len(partitions) == 1
    with open_source(f"sqlite:///{tmp_path}/app.db", "pyeventsourcing") as source:
        assert read(reader, partitions) == b"".join(source.export_events())


T0 = datetime.fromtimestamp(LONG_AGO / 1000, UTC)


def after(microseconds: int) -> datetime:
    return T0 + timedelta(microseconds=microseconds)


PUSHED: list[tuple[list[Filter], Callable[[dict[str, Any]], bool]]] = [
    ([EqualTo(("type",), "TYPE_1")], lambda event: event["type"] == "TYPE_1"),
    ([In(("type",), ("TYPE_1", "TYPE_2"))], lambda event: event["type"] in ("TYPE_1", "TYPE_2")),
    ([Not(EqualTo(("type",), "TYPE_1"))], lambda event: event["type"] != "TYPE_1"),
    ([Not(In(("type",), ("TYPE_1", "TYPE_2")))], lambda event: event["type"] == "TYPE_0"),
    (
        [EqualTo(("type",), "TYPE_1"), In(("type",), ("TYPE_0", "TYPE_1"))],
        lambda event: event["type"] == "TYPE_1",
    ),
    ([EqualTo(("type",), "TYPE_1"), EqualTo(("type",), "TYPE_0")], lambda event: False),
    ([EqualTo(("aggregateId",), "aggregate-7")], lambda event: event["aggregateId"] == "aggregate-7"),
    (
        [StringStartsWith(("aggregateId",), "aggregate-7")],
        lambda event: event["aggregateId"] == "aggregate-7",
    ),
    (
        [StringStartsWith(("aggregateId",), "aggregate-"), EqualTo(("aggregateId",), "aggregate-7")],
        lambda event: event["aggregateId"] == "aggregate-7",
    ),
    (
        [In(("aggregateId",), ("aggregate-7", "other")), StringStartsWith(("aggregateId",), "oth")],
        lambda event: False,
    ),
    ([IsNotNull(("payload",)), IsNotNull(("type",))], lambda event: True),
    ([GreaterThan(("timestamp",), after(2_000))], lambda event: event["timestamp"] > LONG_AGO + 2),
    ([GreaterThan(("timestamp",), after(1_500))], lambda event: event["timestamp"] >= LONG_AGO + 2),
    ([GreaterThanOrEqual(("timestamp",), after(2_000))], lambda event: event["timestamp"] >= LONG_AGO + 2),
    ([GreaterThanOrEqual(("timestamp",), after(2_001))], lambda event: event["timestamp"] >= LONG_AGO + 3),
    ([LessThan(("timestamp",), after(9_000))], lambda event: event["timestamp"] < LONG_AGO + 9),
    ([LessThan(("timestamp",), after(9_001))], lambda event: event["timestamp"] <= LONG_AGO + 9),
    ([LessThanOrEqual(("timestamp",), after(9_999))], lambda event: event["timestamp"] <= LONG_AGO + 9),
    ([EqualTo(("timestamp",), after(9_000))], lambda event: event["timestamp"] == LONG_AGO + 9),
    ([EqualTo(("timestamp",), after(9_001))], lambda event: False),
    (
        [GreaterThan(("timestamp",), after(2_000)), GreaterThan(("timestamp",), after(9_000))],
        lambda event: event["timestamp"] > LONG_AGO + 9,
    ),
]


@pytest.mark.parametrize(("filters", "passes"), PUSHED, ids=lambda value: str(value)[:60])
def test_the_store_applies_a_filter_as_spark_would(
    url: str, filters: list[Filter], passes: Callable[[dict[str, Any]], bool]
) -> None:
    reader = loaded(url=url, numPartitions="2").reader(SCHEMA)
    assert reader.pushFilters(filters) == []
    expected = [event for event in map(make_event, range(3000)) if passes(event)]
    found = [json.loads(each) for each in read(reader, reader.partitions()).splitlines()]
    assert found == expected


@pytest.mark.parametrize(
    "left",
    [
        StringContains(("payload",), "x"),
        EqualTo(("aggregateVersion",), 3),
        EqualNullSafe(("type",), "TYPE_1"),
        Not(EqualTo(("aggregateId",), "aggregate-1")),
        Not(In(("type",), ("TYPE_1", None))),
        In(("type",), (None,)),
        Not(LessThan(("timestamp",), T0)),
        EqualTo(("timestamp",), LONG_AGO),
        EqualTo(("payload", "type"), "TYPE_1"),
    ],
    ids=str,
)
def test_what_the_store_cannot_apply_is_left_to_spark(url: str, left: Filter) -> None:
    reader = loaded(url=url).reader(SCHEMA)
    assert reader.pushFilters([left]) == [left]
    assert read(reader, reader.partitions()) == make_lines(3000)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "either the option url"),
        ({"url": "a.db", "repository": "b"}, "either the option url"),
        ({"url": "a.db", "numPartitons": "3"}, "no option 'numPartitons'"),
        ({"url": "a.db", "numPartitions": "0"}, "numPartitions must be an integer of at least 1"),
        ({"url": "a.db", "chain": "0" * 16}, "chain belongs to repository"),
        ({"url": "a.db", "from": "marten", "until": "x"}, "until is only for a store"),
        ({"repository": "a", "from": "marten"}, "from is only for a database"),
        ({"url": "a.db", "from": "marten", "numPartitions": "3"}, "numPartitions does not go with from"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        EventferrySource(options).schema()


def test_the_option_of_a_stream_is_refused_elsewhere(url: str) -> None:
    with pytest.raises(UsageError, match="maxEventsPerTrigger is for a stream"):
        loaded(url=url, maxEventsPerTrigger="5").reader(SCHEMA)


def test_a_store_that_is_missing_is_told_when_the_data_frame_is_made(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        EventferrySource({"url": f"sqlite:///{tmp_path}/none.db"}).schema()


@pytest.mark.parametrize(
    ("columns", "options", "told"),
    [
        (["type", "timestamp"], {}, "the data frame lacks the column aggregateId"),
        (["type", "timestamp", "aggregateId", "extra"], {}, "the data frame has a column 'extra'"),
        (
            ["type", "timestamp", "aggregateId"],
            {},
            "lacks the column threadCounter: .*spark.numbered gives them",
        ),
        (list(COLUMNS), {"older": "drop"}, "older must be skip, reject or accept"),
        (
            list(COLUMNS),
            {"numPartitions": "3"},
            "no option 'numPartitions' here, but name, older, recipients",
        ),
        (list(COLUMNS), {"recipients": "age1"}, "recipients belongs to repository"),
        (list(COLUMNS), {"singleWriter": "true"}, "singleWriter belongs to repository"),
        (list(COLUMNS), {"repository": "b"}, "give either the option url"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_begun(
    tmp_path: Path, columns: list[str], options: dict[str, str], told: str
) -> None:
    schema = StructType([StructField(name, StringType()) for name in columns])
    source = EventferrySource({"url": f"sqlite:///{tmp_path}/a.db"} | options)
    with pytest.raises((InputError, UsageError), match=told):
        source.writer(schema, overwrite=True)
    assert not (tmp_path / "a.db").exists()


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_commit_that_is_repeated_and_an_abort_behind_it_do_no_harm(
    url: str, tmp_path: Path, overwrite: bool
) -> None:
    target = f"sqlite:///{tmp_path}/b.db"
    writer = EventferrySource({"url": target}).writer(SCHEMA, overwrite=overwrite)
    with open_store(url) as source, open_store(target) as store:
        writer._steps.push(store, writer._import_id, "1", source.export_events())
        for _ in range(2):
            pickle.loads(pickle.dumps(writer)).commit([None])
        save(target, "new")
        writer.commit([None])
        writer.abort([None])
        assert store.describe().event_count == 3001
        EventferrySource({"url": target}).writer(SCHEMA, overwrite=overwrite).abort(
            []
        )  # nothing is in its way


# Repositories


def written(
    source: EventferrySource, target: EventferrySource, monkeypatch: pytest.MonkeyPatch
) -> list[StoredPiece]:
    """What the tasks have stored that write one data frame, each with what was pickled for it."""
    reader, writer = source.reader(SCHEMA), target.writer(SCHEMA, overwrite=True)
    messages = []
    for number, partition in enumerate(reader.partitions()):
        monkeypatch.setattr("eventferry.spark.repositories.partition_id", lambda number=number: number)
        copied = pickle.loads(pickle.dumps(writer))
        messages.append(pickle.loads(pickle.dumps(copied.write(reader.read(partition)))))
    for _ in range(2):  # a commit that is repeated does no harm
        pickle.loads(pickle.dumps(writer)).commit([*reversed(messages)])
    return messages


def test_tasks_write_a_repository_and_it_is_read_and_compared_as_any_other(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ferry: Ferry
) -> None:
    monkeypatch.setattr("eventferry.backup.format.PART_BYTES", 20_000)
    repository, restored = str(tmp_path / "repository"), str(tmp_path / "b.db")
    target = EventferrySource({"repository": repository, "name": "postgresql://app:secret@db/shop"})
    messages = written(loaded(url=url, numPartitions="3"), target, monkeypatch)
    assert [each.number for each in messages] == [0, 1, 2]
    found = Repository(repository)
    assert found.check(1.0).problems == []
    newest = found.status().newest
    assert (newest.manifest, newest.events, newest.source) == (1, 3000, "spark:postgresql://db/shop")
    reader = loaded(repository=repository, numPartitions="4").reader(SCHEMA)
    assert len(partitions := reader.partitions()) == 4
    assert read(reader, partitions) == make_lines(3000)
    assert found.drill().equal
    assert ferry.done("restore", repository, restored).err.startswith("restored 3,000 events")
    assert ferry.done("backup", "cat", repository).out.encode() == make_lines(3000)
    for place in (restored, url):
        assert "equal: 3,000 events" in ferry.done("verify", repository, place).err
    with open_store(restored) as store:
        assert b"".join(store.export_events()) == make_lines(3000)
        assert b"".join(store.export_events(since=newest.bookmark)) == b""


def test_an_encrypted_repository_needs_its_key_and_goes_on_being_encrypted(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = str(tmp_path / "repository")
    (tmp_path / "key").write_text(KEY)
    options = {"repository": repository, "recipients": f" {RECIPIENT} ,"}
    written(loaded(url=url, numPartitions="2"), EventferrySource(options), monkeypatch)
    reader = loaded(repository=repository, identities=str(tmp_path / "key")).reader(SCHEMA)
    assert read(reader, reader.partitions()) == make_lines(3000)
    with pytest.raises(UsageError, match="is encrypted, and this one would not be"):
        EventferrySource({"repository": repository}).writer(SCHEMA, overwrite=True)


@pytest.mark.parametrize("is_whole", [True, False])
def test_what_a_failed_write_has_stored_is_removed_unless_it_may_be_committed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    monkeypatch.setattr("eventferry.spark.repositories.partition_id", lambda: 0)
    reader = loaded(url=url, numPartitions="1").reader(SCHEMA)
    writer = EventferrySource({"repository": str(tmp_path / "r")}).writer(SCHEMA, overwrite=True)
    message = writer.write(reader.read(reader.partitions()[0]))
    writer.abort([message] if is_whole else [message, None])
    assert len(list((tmp_path / "r").rglob("*.zst"))) == int(is_whole)


def test_what_is_not_in_order_is_refused_with_what_to_do(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventferry.spark.repositories.partition_id", lambda: 0)
    reader = loaded(url=url, numPartitions="2").reader(SCHEMA)
    last, first = reader.partitions()[::-1]
    writer = EventferrySource({"repository": str(tmp_path / "r")}).writer(SCHEMA, overwrite=True)
    advice = r"repartitionByRange\(8, \*key\).sortWithinPartitions\(\*key\)"
    with pytest.raises(OrderError, match=rf"^in partition 0, the event with counter .*{advice}"):
        writer.write(iter([*reader.read(last), *reader.read(first)]))
    messages = []
    for number, partition in enumerate((last, first)):
        monkeypatch.setattr("eventferry.spark.repositories.partition_id", lambda number=number: number)
        messages.append(writer.write(reader.read(partition)))
    with pytest.raises(OrderError, match=rf"^where partition 1 begins, the event with counter .*{advice}"):
        writer.commit(messages)
    with pytest.raises(AssertionError, match="when all tasks have told"):
        writer.commit([messages[1], None])
    assert list((tmp_path / "r").rglob("*.zst")) == []


@pytest.mark.parametrize(
    ("columns", "overwrite", "options", "told"),
    [
        (list(COLUMNS), False, {}, r'is written in mode\("overwrite"\)'),
        (
            list(COLUMNS)[1:],
            True,
            {},
            "lacks the column threadCounter: events in a repository keep their positions",
        ),
        (list(COLUMNS), True, {"older": "skip"}, "older is only for a store"),
        (list(COLUMNS), True, {"recipients": ","}, "recipients is empty"),
        (list(COLUMNS), True, {"recipients": "age1"}, "not a public key"),
        (list(COLUMNS), True, {"singleWriter": "yes"}, "singleWriter must be true or false"),
        (list(COLUMNS), True, {"chain": "0" * 16}, "no option 'chain' here"),
    ],
)
def test_what_cannot_be_written_to_a_repository_is_refused_before_anything_is_begun(
    tmp_path: Path, columns: list[str], overwrite: bool, options: dict[str, str], told: str
) -> None:
    schema = StructType([StructField(name, StringType()) for name in columns])
    source = EventferrySource({"repository": str(tmp_path / "r")} | options)
    with pytest.raises((InputError, UsageError), match=told):
        source.writer(schema, overwrite=overwrite)
    assert not (tmp_path / "r").exists()


# Streams


def stream(url: str, **options: str) -> StreamReader:
    return loaded(url=url, **options).streamReader(SCHEMA)


def test_a_stream_gives_every_event_once_batch_by_batch(url: str) -> None:
    reader = stream(url, numPartitions="2")
    start = reader.initialOffset()
    middle = reader.latestOffset(start, ReadAllAvailable())
    save(url, "new", 3)
    end = reader.latestOffset(middle, ReadAllAvailable())
    assert reader.latestOffset(end, ReadAllAvailable()) == end
    first = read(reader, reader.partitions(start, middle))
    assert first == make_lines(3000)
    assert read(reader, reader.partitions(middle, end)).count(b"\n") == 3
    assert read(reader, reader.partitions(start, middle)) == first  # repeated
    reader.stop()


def test_a_batch_is_bounded_and_all_of_them_together_are_the_store(url: str) -> None:
    reader = stream(url, maxEventsPerTrigger="1000")
    limit = reader.getDefaultReadLimit()
    assert limit == ReadMaxRows(1000)
    offset, batches = reader.initialOffset(), []
    while (end := reader.latestOffset(offset, limit)) != offset:
        batches.append(read(reader, reader.partitions(offset, end)))
        offset = end
    reader.stop()
    assert b"".join(batches) == make_lines(3000)
    assert len(batches) >= 3
    assert max(batch.count(b"\n") for batch in batches) <= 1100


def test_a_stream_of_what_is_there_ends_there(url: str) -> None:
    reader = stream(url)
    reader.prepareForTriggerAvailableNow()
    save(url, "new")
    end = reader.latestOffset(reader.initialOffset(), ReadAllAvailable())
    assert reader.latestOffset(end, ReadAllAvailable()) == end
    assert read(reader, reader.partitions(reader.initialOffset(), end)) == make_lines(3000)
    reader.stop()


def test_a_stream_from_now_on_begins_at_the_end(url: str) -> None:
    reader = stream(url, since="now")
    start = reader.initialOffset()
    assert reader.latestOffset(start, ReadAllAvailable()) == start
    save(url, "new")
    end = reader.latestOffset(start, ReadAllAvailable())
    assert read(reader, reader.partitions(start, end)).count(b"\n") == 1
    reader.stop()


def test_a_stream_whose_history_is_gone_says_so(url: str) -> None:
    reader = stream(url)
    start = reader.initialOffset()
    end = reader.latestOffset(start, ReadAllAvailable())
    partitions = reader.partitions(start, end)
    fill(url, make_lines(3000))
    for call in (
        lambda: reader.latestOffset(end, ReadAllAvailable()),
        lambda: reader.partitions(start, end),
        lambda: read(reader, partitions),
    ):
        with pytest.raises(StoreReplacedError):
            call()
    reader.stop()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"until": "x"}, "a stream has no end"), ({"from": "pyeventsourcing"}, "a stream is read from a store")],
)
def test_what_is_no_stream_is_refused(url: str, options: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        EventferrySource({"url": url} | options).streamReader(SCHEMA)

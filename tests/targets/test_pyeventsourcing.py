"""pyeventsourcing as a target: the application of its own tutorial goes on with the copy."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from eventferry import (
    ForeignSource,
    InputError,
    StoreFullError,
    StoreNotFoundError,
    TargetReport,
    UnsupportedStoreError,
    UsageError,
    open_source,
    open_store,
    open_target,
    pipeline,
    verify,
)
from tests.support import line, make_event
from tests.support.foreign import new_database
from tests.support.foreign import pyeventsourcing as school
from tests.support.foreign.pyeventsourcing import Store

DATABASES = ("sqlite", "postgresql")
DOG = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def new_school(database: str, file: Path) -> Iterator[Store]:
    if database == "sqlite":
        yield school.on_sqlite(file)
    else:
        with new_database() as url:
            yield school.on_postgresql(url)


@pytest.fixture
def written(database: str, tmp_path: Path) -> Iterator[Store]:
    """A store in which concurrent writers wrote by the application."""
    for store in new_school(database, tmp_path / "written.sqlite"):
        school.write(store)
        yield store


@pytest.fixture
def empty(database: str, tmp_path: Path) -> Iterator[Store]:
    """A store that the application has made, and in which nothing is."""
    for store in new_school(database, tmp_path / "empty.sqlite"):
        with store.school():
            pass
        yield store


def source_of(store: Store) -> ForeignSource:
    return open_source(store.url, "pyeventsourcing", tables=store.tables)


async def moved(lines: bytes, store: Store, **options: Any) -> TargetReport:
    async with open_target(store.url, "pyeventsourcing", **store.tables | options) as target:
        return await pipeline([lines], target.import_events())


def states(store: Store) -> list[tuple[Any, ...]]:
    """The events as they are stored, byte by byte."""
    return [
        (each.id, each.originator_id, each.originator_version, each.topic, bytes(each.state))
        for each in store.notifications()
    ]


async def test_the_tutorials_application_loads_every_aggregate_from_a_copy(
    written: Store, empty: Store, tmp_path: Path
) -> None:
    async with source_of(written) as source, open_store(str(tmp_path / "between.db")) as store:
        await store.init()
        await pipeline(source.export_events(), store.import_events())
        async with open_target(empty.url, "pyeventsourcing", **empty.tables) as target:
            report = await pipeline(store.export_events(), target.import_events())
    dogs = written.dogs()
    assert (report.imported, report.streams) == (len(written.notifications()), len(dogs))
    assert empty.dogs() == dogs
    assert states(empty) == states(written)


async def test_the_marker_of_an_archived_event_is_refused(empty: Store) -> None:
    with pytest.raises(InputError, match="marker of an archived event"):
        await moved(line(make_event(0, payload={"$archived": "0123456789abcdef"})), empty)


async def test_the_application_goes_on_with_the_copy(written: Store, empty: Store) -> None:
    async with (
        source_of(written) as source,
        open_target(empty.url, "pyeventsourcing", **empty.tables) as target,
    ):
        await pipeline(source.export_events(), target.import_events())
    last = empty.notifications()[-1].id
    dog = next(iter(empty.dogs()))
    with empty.school() as application:
        application.add_trick(dog, "one more")
        assert application.get_dog(dog)["tricks"][-1] == "one more"
    assert empty.notifications()[-1].id == last + 1


async def test_verify_finds_source_and_copy_equal(written: Store, empty: Store) -> None:
    async with (
        source_of(written) as source,
        open_target(empty.url, "pyeventsourcing", **empty.tables) as target,
    ):
        await pipeline(source.export_events(), target.import_events())
        async with source_of(empty) as copy:
            assert (await verify(source.export_events(), copy.export_events())).equal


@pytest.mark.parametrize("other", DATABASES)
async def test_a_store_moves_from_one_database_to_the_other(
    written: Store, other: str, tmp_path: Path
) -> None:
    for copy in new_school(other, tmp_path / "other.sqlite"):
        with copy.school():
            pass
        async with (
            source_of(written) as source,
            open_target(copy.url, "pyeventsourcing", **copy.tables) as target,
        ):
            await pipeline(source.export_events(), target.import_events())
        assert copy.dogs() == written.dogs()
        assert states(copy) == states(written)


async def test_a_compressed_store_goes_back_compressed(database: str, tmp_path: Path, empty: Store) -> None:
    lines = line(dog_event(0))
    await moved(lines, empty, encode="zlib")
    assert empty.with_options(school.ZLIB).dogs()[UUID(DOG)]["name"] == "Fido"


async def test_a_cipher_of_ones_own_is_asked_for_each_state(
    empty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await moved(line(dog_event(0)), empty, encode=["zlib", f"{__name__}:encrypt"])
    assert empty.with_options(school.ZLIB, school.CIPHER).dogs()[UUID(DOG)]["name"] == "Fido"


def encrypt(state: bytes) -> bytes:
    from eventsourcing.cryptography import AESCipher
    from eventsourcing.utils import Environment

    return AESCipher(Environment("", school.CIPHER)).encrypt(state)


def dog_event(i: int, **changes: Any) -> dict[str, Any]:
    """An event of the tutorial's application."""
    moment = {"_type_": "datetime_iso", "_data_": "2024-02-29T23:59:59.123456+00:00"}
    topic = f"{school.__name__}:Dog.{'TrickAdded' if i else 'Registered'}"
    state = {"trick": f"trick {i}"} if i else {"name": "Fido", "originator_topic": f"{school.__name__}:Dog"}
    event = make_event(
        i,
        type=topic,
        aggregateId=DOG,
        aggregateVersion=i + 1,
        payload={"timestamp": moment, **state},
    )
    return event | changes


async def test_events_that_never_were_in_pyeventsourcing_are_loaded_too(empty: Store) -> None:
    lines = b"".join(line(dog_event(i)) for i in range(3))
    await moved(lines, empty)
    dog = empty.dogs()[UUID(DOG)]
    assert (dog["name"], dog["tricks"], dog["version"]) == ("Fido", ("trick 1", "trick 2"), 3)
    assert [each.id for each in empty.notifications()] == [1, 2, 3]


META: dict[str, Any] = {"id": None, "position": None, "version": None, "time": None, "metadata": None}


async def test_what_has_no_column_there_is_not_dropped_in_silence(empty: Store) -> None:
    for lost in ({"id": DOG}, {"metadata": {"user": "ann"}}):
        payload = {"data": dog_event(0)["payload"], "meta": META | lost}
        lines = line(dog_event(0, payload=payload))
        with pytest.raises(InputError, match=rf"line 1.*payload: meta.{next(iter(lost))} has no place"):
            await moved(lines, empty)
    await moved(lines, empty, drop_metadata=True)
    assert empty.dogs()[UUID(DOG)]["name"] == "Fido"


async def test_an_id_that_is_no_uuid_is_refused_by_line(empty: Store) -> None:
    lines = line(dog_event(0)) + line(make_event(1))
    with pytest.raises(InputError, match=r"line 2.*field aggregateId: must be a UUID"):
        await moved(lines, empty)
    assert empty.notifications() == []


async def test_an_application_whose_ids_are_texts_gets_them_as_they_are(
    database: str, tmp_path: Path
) -> None:
    for plain in new_school(database, tmp_path / "texts.sqlite"):
        store = plain.with_options({"ORIGINATOR_ID_TYPE": "text"})
        with store.school():
            pass
        options = {"originator_id_type": "text"} if database == "sqlite" else {}
        await moved(line(make_event(0)) + line(make_event(1, aggregateId=DOG)), store, **options)
        assert [each.originator_id for each in store.notifications()] == ["aggregate-0", DOG]


async def test_on_postgresql_the_column_says_what_ids_are() -> None:
    with new_database() as url:
        store = school.on_postgresql(url)
        with store.school():
            pass
        with pytest.raises(
            UsageError, match="originator_id_type is text, but the column originator_id is uuid"
        ):
            await moved(line(dog_event(0)), store, originator_id_type="text")


async def test_a_store_with_events_is_refused_and_stays_as_it_is(written: Store) -> None:
    before = states(written)
    with pytest.raises(StoreFullError, match="holds events already"):
        await moved(line(dog_event(0)), written)
    assert states(written) == before


async def test_a_database_without_the_table_is_refused_and_gets_none(database: str, tmp_path: Path) -> None:
    for store in new_school(database, tmp_path / "none.sqlite"):
        if database == "sqlite":
            sqlite3.connect(tmp_path / "none.sqlite").execute("CREATE TABLE other (a)")
        with pytest.raises(
            StoreNotFoundError, match=r"no table .*_events in .*: construct the application once"
        ):
            await moved(line(dog_event(0)), store)
        if database == "sqlite":
            with sqlite3.connect(tmp_path / "none.sqlite") as connection:
                assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("other",)]


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    store = school.on_sqlite(tmp_path / "nowhere.sqlite")
    with pytest.raises(StoreNotFoundError, match="construct the application once"):
        await moved(line(dog_event(0)), store)
    assert list(tmp_path.iterdir()) == []


async def test_another_table_of_that_name_is_refused(database: str, tmp_path: Path) -> None:
    for store in new_school(database, tmp_path / "other.sqlite"):
        statement = (
            f"CREATE TABLE {store.tables.get('events', 'stored_events')} (originator_id text, state text)"
        )
        if database == "sqlite":
            sqlite3.connect(tmp_path / "other.sqlite").execute(statement)
        else:
            with psycopg.connect(store.url) as connection:
                connection.execute(statement)
        with pytest.raises(UnsupportedStoreError, match="is not one of pyeventsourcing: it has no column"):
            await moved(line(dog_event(0)), store)


async def test_a_table_without_a_notification_log_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "log.sqlite") as connection:
        connection.execute(
            "CREATE TABLE stored_events (originator_id TEXT, originator_version INTEGER, topic TEXT, state BLOB, "
            "PRIMARY KEY (originator_id, originator_version)) WITHOUT ROWID"
        )
    with pytest.raises(UnsupportedStoreError, match="it has no row ids"):
        await moved(line(dog_event(0)), school.on_sqlite(tmp_path / "log.sqlite"))


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (4, r"line 3, field aggregateVersion: is 4, and 3 is due in the aggregate"),
        (2, r"line 3, field aggregateVersion: an event of this aggregate with this version came before"),
    ],
)
async def test_versions_must_be_dense(empty: Store, version: int, words: str) -> None:
    events = [dog_event(0), dog_event(1), dog_event(2, aggregateVersion=version)]
    with pytest.raises(InputError, match=words):
        await moved(b"".join(map(line, events)), empty)
    assert empty.notifications() == []


async def test_a_position_that_comes_twice_is_refused_by_line(empty: Store) -> None:
    events = [dog_event(i) for i in range(3)]
    for event, position in zip(events, (7, 5, 7), strict=True):
        event["payload"] = {"data": event["payload"], "meta": META | {"position": position}}
    with pytest.raises(
        InputError, match=r"^line 3, field payload: an event with this meta.position came before"
    ):
        await moved(b"".join(map(line, events)), empty)
    await moved(b"".join(map(line, events)), empty, positions="new")
    assert [each.id for each in empty.notifications()] == [1, 2, 3]


async def test_whoever_waits_for_new_events_hears_of_them() -> None:
    with new_database() as url:
        store = school.on_postgresql(url)
        with store.school():
            pass
        with psycopg.connect(url, autocommit=True) as listener:
            listener.execute(f"LISTEN {school.TABLE}")
            await moved(line(dog_event(0)), store)
            assert [each.channel for each in listener.notifies(timeout=10, stop_after=1)] == [school.TABLE]


def test_a_function_that_encodes_must_be_there() -> None:
    for name in ("rot13", "json:nothing", "no_such_module:encode", "json:__doc__"):
        with pytest.raises(UsageError, match=r"^encode: "):
            open_target("a.db", "pyeventsourcing", encode=name)


async def test_what_a_function_makes_must_be_bytes(empty: Store) -> None:
    with pytest.raises(InputError, match=r"line 1.*payload: json:loads makes dict of it, not bytes"):
        await moved(line(dog_event(0)), empty, encode="json:loads")
    with pytest.raises(InputError, match=r"line 1.*payload: zlib:decompress fails on it: error"):
        await moved(line(dog_event(0)), empty, encode="zlib:decompress")


async def test_a_state_is_the_text_of_the_envelope_to_the_byte(empty: Store) -> None:
    text = b'{"b":1.0,"a":1e5,"z\\u00fc\xc3\xbc":"\\\\n","n":12345678901234567890}'
    before = json.dumps({"meta": META})[:-1].encode()
    payload = before.replace(b" ", b"") + b',"data":' + text + b"}"
    event = line(dog_event(0, payload=0))
    await moved(event.replace(b'"payload":0', b'"payload":' + payload), empty)
    assert bytes(empty.notifications()[0].state) == text


async def test_an_application_may_count_versions_from_0(empty: Store) -> None:
    await moved(b"".join(line(dog_event(i)) for i in range(3)), empty, first_version=0)
    assert [each.originator_version for each in empty.notifications()] == [0, 1, 2]
    assert empty.dogs()[UUID(DOG)]["tricks"] == ("trick 1", "trick 2")
    for wrong in (-1, "one", 10**20):
        with pytest.raises(UsageError, match="first_version is a whole number"):
            open_target("a.db", "pyeventsourcing", first_version=wrong)


def awkward(chance: random.Random, count: int) -> bytes:
    """Events whose names and payloads hold whatever JSON can, with every spelling of it."""
    pieces = [
        "a",
        "Z",
        "é",
        "日",
        "🐕",
        "\t",
        "\n",
        "\r",
        "\\",
        '"',
        "'",
        "%",
        "%%",
        "\u2028",
        "\x7f",
        " ",
        "{}",
        "\\N",
        "\\.",
    ]

    def text() -> str:
        return "".join(chance.choices(pieces, k=chance.randrange(8)))

    def value(depth: int) -> Any:
        kind = chance.randrange(8 if depth else 6)
        if kind < 6:
            return [None, True, 1.5, -(10**30), 1e-7, text()][kind]
        if kind == 6:
            return [value(depth - 1) for _ in range(chance.randrange(4))]
        return {text(): value(depth - 1) for _ in range(chance.randrange(4))}

    versions: dict[str, int] = {}
    lines = []
    for i in range(count):
        name = f"stream-{chance.randrange(9)}{chance.choice(pieces)}"
        versions[name] = versions.get(name, 0) + 1
        event = make_event(
            i, threadId=0, threadCounter=i, type=text(), aggregateId=name, aggregateVersion=versions[name]
        )
        event["payload"] = value(3)
        lines.append(
            json.dumps(event, ensure_ascii=chance.random() < 0.5, separators=(",", ":")).encode() + b"\n"
        )
    return b"".join(lines)


async def test_whatever_json_holds_comes_back_from_the_table_as_it_went_in(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    lines = awkward(random.Random(seed), 600)
    store = school.on_sqlite(tmp_path / "awkward.sqlite").with_options({"ORIGINATOR_ID_TYPE": "text"})
    with store.school():
        pass
    await moved(lines, store, originator_id_type="text")
    found = [
        (each.originator_id, each.originator_version, each.topic, bytes(each.state))
        for each in store.notifications()
    ]
    assert found == stored(lines)
    with new_database() as url:
        server = school.on_postgresql(url).with_options({"ORIGINATOR_ID_TYPE": "text"})
        with server.school():
            pass
        await moved(lines, server)
        assert found == [
            (each.originator_id, each.originator_version, each.topic, bytes(each.state))
            for each in server.notifications()
        ]


def stored(lines: bytes) -> list[tuple[str, int, str, bytes]]:
    """What must be stored of lines: payloads to the byte."""
    events = []
    for text in lines.splitlines():
        event = json.loads(text)
        payload = text.partition(b'"payload":')[2][:-1]
        events.append((event["aggregateId"], event["aggregateVersion"], event["type"], payload))
    return events

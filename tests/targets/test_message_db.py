"""message-db as a target: what came from it goes back as it was, and its own functions read what came from anywhere."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import psycopg
import pytest

from eventferry import (
    InputError,
    ReadOnlyStoreError,
    StoreFullError,
    StoreNotFoundError,
    TargetReport,
    UnsupportedStoreError,
    open_source,
    open_store,
    open_target,
    pipeline,
    sync,
    verify,
)
from eventferry.lines.envelope import NAMESPACE
from tests.support import LONG_AGO, line, make_event, make_lines
from tests.support.foreign import message_db, new_database
from tests.targets.test_pyeventsourcing import awkward

CATEGORIES = ("account", "transfer")


@pytest.fixture(scope="module")
def written() -> Iterator[str]:
    """A message store in which concurrent writers wrote by message-db's own function."""
    with message_db.new_store() as url:
        message_db.write(url)
        yield url


@pytest.fixture
def empty() -> Iterator[str]:
    with message_db.new_store() as url:
        yield url


async def moved(lines: bytes, url: str, **options: Any) -> TargetReport:
    async with open_target(url, "message-db", **options) as target:
        return await pipeline([lines], target.import_events())


META: dict[str, Any] = {"id": None, "position": None, "version": None, "time": None, "metadata": None}


def enveloped(i: int, data: Any = None, **meta: Any) -> dict[str, Any]:
    return make_event(
        i,
        payload={
            "data": {"number": i} if data is None else data,
            "meta": META | meta,
        },
    )


@pytest.mark.slow
async def test_a_store_that_went_through_eventferry_is_the_same_to_its_own_functions(
    written: str, empty: str, tmp_path: Path
) -> None:
    between = str(tmp_path / "between.db")
    async with open_source(written, "message-db") as source, open_store(between) as store:
        await store.init()
        await pipeline(source.export_events(), store.import_events())
        async with open_target(empty, "message-db") as target:
            report = await pipeline(store.export_events(), target.import_events())
    original = message_db.messages(written)
    assert (report.imported, report.streams) == (len(original), len({m.stream_name for m in original}))
    assert message_db.messages(empty) == original
    for category in CATEGORIES:
        assert message_db.category_messages(empty, category) == message_db.category_messages(
            written, category
        )
    for stream in {message.stream_name for message in original}:
        assert message_db.stream_messages(empty, stream) == message_db.stream_messages(written, stream)
        assert message_db.version(empty, stream) == message_db.version(written, stream)


async def test_what_syncs_brought_over_while_others_wrote_goes_back_as_it_was(
    empty: str, tmp_path: Path
) -> None:
    with message_db.new_store() as url:
        async with (
            open_source(url, "message-db") as source,
            open_store(str(tmp_path / "replica.db")) as store,
        ):
            await store.init()
            writing = asyncio.create_task(asyncio.to_thread(message_db.write, url, messages=40))
            while not writing.done():
                await store.sync(source)
            await writing
            await store.sync(source)
            async with open_target(empty, "message-db") as target:
                await pipeline(store.export_events(), target.import_events())
        assert len(message_db.messages(url)) == 480
        assert message_db.messages(empty) == message_db.messages(url)


async def test_verify_finds_source_and_copy_equal(written: str, empty: str) -> None:
    async with open_source(written, "message-db") as source, open_target(empty, "message-db") as target:
        await pipeline(source.export_events(), target.import_events())
        async with open_source(empty, "message-db") as copy:
            assert (await verify(source.export_events(), copy.export_events())).equal


async def test_writers_go_on_where_the_copy_ends(written: str, empty: str) -> None:
    async with open_source(written, "message-db") as source, open_target(empty, "message-db") as target:
        await pipeline(source.export_events(), target.import_events())
    last = message_db.messages(empty)[-1]
    with message_db.connect(empty) as connection:
        assert (
            message_db.write_message(connection, last.stream_name, "Next", {}, expected=last.position)
            == last.position + 1
        )
    assert message_db.messages(empty)[-1].global_position == last.global_position + 1


async def test_events_of_eventferry_itself_are_read_as_messages(empty: str) -> None:
    assert await moved(make_lines(25), empty) == TargetReport(
        imported=25, byte_offset=len(make_lines(25)), is_end=True, streams=10
    )
    found = message_db.stream_messages(empty, "aggregate-3")
    assert [(message.position, message.type, message.data) for message in found] == [
        (0, "TYPE_0", '{"number": 3}'),
        (1, "TYPE_1", '{"number": 13}'),
        (2, "TYPE_2", '{"number": 23}'),
    ]
    assert [message.global_position for message in message_db.messages(empty)] == list(range(1, 26))
    assert found[0].metadata is None
    assert found[0].time == datetime(2020, 9, 13, 12, 26, 40, 3000)


async def test_an_event_without_an_id_always_gets_the_same(empty: str) -> None:
    await moved(make_lines(1), empty)
    [message] = message_db.messages(empty)
    assert UUID(message.id) == uuid5(NAMESPACE, "aggregate-0/1")


async def test_time_is_kept_to_the_microsecond_and_comes_in_utc(empty: str) -> None:
    events = [
        enveloped(0, time="2024-02-29T23:59:59.123456Z"),
        enveloped(1, time="2024-03-01T01:00:00.000001+02:00"),
        enveloped(2, time="2024-03-01T01:00:00.1234567Z"),
    ]
    await moved(b"".join(map(line, events)), empty)
    assert [message.time.isoformat() for message in message_db.messages(empty)] == [
        "2024-02-29T23:59:59.123456",
        "2024-02-29T23:00:00.000001",
        "2024-03-01T01:00:00.123456",
    ]


async def test_positions_stay_those_of_the_source_and_holes_stay_holes(empty: str) -> None:
    events = [enveloped(0, position=3), enveloped(1, position=7), make_event(2), enveloped(3, position=20)]
    await moved(b"".join(map(line, events)), empty)
    assert [message.global_position for message in message_db.messages(empty)] == [3, 7, 8, 20]
    with message_db.connect(empty) as connection:
        message_db.write_message(connection, "new-1", "T", {})
    assert message_db.messages(empty)[-1].global_position == 21


async def test_events_of_several_sources_need_new_positions(empty: str) -> None:
    lines = b"".join(map(line, [enveloped(0, position=3), enveloped(1, position=3)]))
    with pytest.raises(
        InputError, match=r"line 2, field payload: an event with this meta.position.*positions=new"
    ):
        await moved(lines, empty)
    assert message_db.messages(empty) == []
    await moved(lines, empty, positions="new")
    assert [message.global_position for message in message_db.messages(empty)] == [1, 2]


async def test_an_event_that_came_late_goes_back_to_its_own_position(empty: str) -> None:
    """As a sync brings over what was committed after events with higher positions."""
    events = [enveloped(0, position=2), enveloped(1, position=1), make_event(2), enveloped(3, position=9)]
    await moved(b"".join(map(line, events)), empty)
    found = [(each.global_position, each.stream_name) for each in message_db.messages(empty)]
    assert found == [(1, "aggregate-1"), (2, "aggregate-0"), (3, "aggregate-2"), (9, "aggregate-3")]


async def test_versions_must_rise_with_positions_too(empty: str) -> None:
    events = [
        enveloped(0, position=2, version=0),
        enveloped(1, position=1) | {"aggregateId": "aggregate-0", "aggregateVersion": 2},
    ]
    with pytest.raises(InputError, match=r"^field aggregateVersion: is 2, and 1 is due"):
        await moved(b"".join(map(line, events)), empty)


async def test_a_number_that_was_given_out_once_does_not_come_again(empty: str) -> None:
    with message_db.connect(empty) as connection:
        for _ in range(9):
            message_db.write_message(connection, "gone-1", "T", {})
        connection.execute("DELETE FROM messages")
    await moved(make_lines(2), empty)
    with message_db.connect(empty) as connection:
        message_db.write_message(connection, "new-1", "T", {})
    assert [message.global_position for message in message_db.messages(empty)] == [1, 2, 10]


async def test_a_store_with_messages_is_refused_and_stays_as_it_is(written: str) -> None:
    before = message_db.messages(written)
    with pytest.raises(StoreFullError, match=r"message_store.messages in postgresql://.*clear-messages.sh"):
        await moved(make_lines(3), written)
    assert message_db.messages(written) == before


async def test_a_payload_that_only_looks_like_an_envelope_is_data(empty: str) -> None:
    payloads: list[Any] = [
        {"data": 1, "meta": 2},
        {"data": 1, "meta": {"id": "x"}},
        {"meta": {"id": None, "position": None, "version": None, "time": None, "metadata": None}},
        ["data", "meta"],
        None,
        {"data": 1, "meta": META, "more": 2},
        {"data": 1, "meta": META | {"more": 2}},
    ]
    await moved(b"".join(line(make_event(i, payload=each)) for i, each in enumerate(payloads)), empty)
    found = [message.data and json.loads(message.data) for message in message_db.messages(empty)]
    assert found == payloads


async def test_an_envelope_with_its_data_twice_is_data_too_and_loses_nothing_before_the_database_does(
    empty: str,
) -> None:
    before = line(make_event(0, payload=0))
    twice = b'{"data":1,"data":2,"meta":%b}' % json.dumps(META, separators=(",", ":")).encode()
    await moved(before.replace(b'"payload":0', b'"payload":' + twice), empty)
    [message] = message_db.messages(empty)
    assert message.data is not None
    assert json.loads(message.data) == {"data": 2, "meta": META}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an id that is no UUID": (enveloped(1, id="42"), r"field payload: meta.id must be a UUID"),
    "an id that is a number": (
        enveloped(1, id=42),
        r"field payload: meta.id must be a string or null, not 42",
    ),
    "a position that is text": (
        enveloped(1, position="1"),
        r"field payload: meta.position must be a whole number",
    ),
    "a position below the first": (
        enveloped(1, position=0),
        r"field payload: meta.position must be at least 1",
    ),
    "a position beyond all": (
        enveloped(1, position=2**53),
        r"field payload: meta.position must be a whole",
    ),
    "a time without a zone": (enveloped(1, time="2024-01-01T00:00:00"), r"field payload: meta.time .*zone"),
    "a time that is none": (
        enveloped(1, time="2024-02-31T00:00:00Z"),
        r"field payload: meta.time must be a time",
    ),
    "a timestamp beyond the calendar": (make_event(1, timestamp=10**15), r"field timestamp: .*years"),
    "a character that jsonb cannot hold": (
        enveloped(1, data="a\0b"),
        r"field payload: holds the character U\+0000",
    ),
    "one in the metadata": (
        enveloped(1, metadata={"a": "\0"}),
        r"field payload: holds .*U\+0000",
    ),
    "a hole in the versions": (
        make_event(1, aggregateId="aggregate-0", aggregateVersion=3),
        r"field aggregateVersion: is 3, and 2 is due in the aggregate 'aggregate-0'",
    ),
    "a version that is not the first": (
        make_event(1, aggregateVersion=2),
        r"field aggregateVersion: is 2, and 1 is due",
    ),
    "a version that comes twice": (
        make_event(1, aggregateId="aggregate-0"),
        r"an event with this id, or of this aggregate with this version, came before",
    ),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_cannot_be_stored_is_refused_by_line_and_nothing_is(empty: str, what: str) -> None:
    event, words = BAD[what]
    lines = b"".join(map(line, [make_event(0), event, make_event(2)]))
    with pytest.raises(InputError, match=rf"^line 2(, byte \d+)?[,:] {words}"):
        await moved(lines, empty)
    assert message_db.messages(empty) == []
    await moved(make_lines(3), empty)
    assert [message.global_position for message in message_db.messages(empty)] == [1, 2, 3]


async def test_an_id_that_comes_twice_is_refused_by_line(empty: str) -> None:
    same = "0b4d6b6e-0001-4000-8000-000000000001"
    with pytest.raises(InputError, match=r"^line 2: an event with this id, or"):
        await moved(b"".join(map(line, [enveloped(0, id=same), enveloped(1, id=same)])), empty)


async def test_versions_in_another_order_are_refused(empty: str) -> None:
    events = [make_event(0, aggregateId="a", aggregateVersion=2), make_event(1, aggregateId="a")]
    with pytest.raises(InputError, match=r"^line 1, field aggregateVersion: is 2, and 1 is due"):
        await moved(b"".join(map(line, events)), empty)


async def test_behind_a_blank_line_the_event_is_named(empty: str) -> None:
    lines = line(make_event(0)) + b"\n" + line(make_event(1, aggregateVersion=5))
    with pytest.raises(InputError, match=r"^event 2, field aggregateVersion: is 5"):
        await moved(lines, empty)


async def test_names_may_hold_what_copy_gives_a_meaning(empty: str) -> None:
    strange = "a-\tb\\c\rd\ne\\N"
    await moved(line(make_event(0, aggregateId=strange, type=strange, timestamp=LONG_AGO)), empty)
    [message] = message_db.stream_messages(empty, strange)
    assert (message.stream_name, message.type) == (strange, strange)


async def test_a_category_goes_before_ids_that_have_none(empty: str) -> None:
    await moved(
        line(make_event(0, aggregateId="7c9e6679-7425-40de-944b-e07fc1f90ae7")), empty, category="order"
    )
    [message] = message_db.category_messages(empty, "order")
    assert message.stream_name == "order-7c9e6679-7425-40de-944b-e07fc1f90ae7"


async def test_a_role_without_the_rights_is_told_so(empty: str) -> None:
    with message_db.connect(empty) as connection:
        connection.execute("GRANT USAGE ON SCHEMA message_store TO message_store")
        connection.execute("GRANT SELECT, INSERT ON messages TO message_store")
        connection.execute("ALTER ROLE message_store PASSWORD 'store'")
    address = urlsplit(empty)
    url = empty.replace(f"{address.username}:{address.password}@", "message_store:store@")
    with pytest.raises(ReadOnlyStoreError, match="rights at hand: permission denied for table messages"):
        await moved(make_lines(1), url)


async def test_a_database_without_message_db_is_told_what_to_install() -> None:
    with new_database() as url:
        with pytest.raises(
            StoreNotFoundError, match=r"no table message_store.messages in .*: install message-db"
        ):
            await moved(make_lines(1), url)
        with psycopg.connect(url) as connection:
            connection.execute("CREATE SCHEMA message_store")
            connection.execute("CREATE VIEW message_store.messages AS SELECT 1 AS global_position")
        with pytest.raises(UnsupportedStoreError, match="not one of message-db: it has no column 'position'"):
            await moved(make_lines(1), url)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regclass('message_store.messages')::text").fetchone()


async def test_the_table_may_have_another_name(empty: str) -> None:
    with message_db.connect(empty) as connection:
        connection.execute('CREATE SCHEMA "Other %"')
        connection.execute('ALTER TABLE messages SET SCHEMA "Other %"')
        connection.execute('ALTER TABLE "Other %".messages RENAME TO "the messages"')
    await moved(make_lines(2), empty, messages="Other %.the messages")
    with message_db.connect(empty) as connection:
        assert connection.execute('SELECT count(*) FROM "Other %"."the messages"').fetchone() == (2,)
        row = connection.execute(
            """INSERT INTO "Other %"."the messages"(position, stream_name, type) VALUES (0, 'a-1', 'T')
            RETURNING global_position"""
        ).fetchone()
    assert row == (3,)


async def test_whatever_json_holds_comes_back_from_the_messages_as_it_went_in(empty: str) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    lines = awkward(random.Random(seed), 600)
    await moved(lines, empty)
    events = [json.loads(each) for each in lines.splitlines()]
    assert [
        (each.stream_name, each.position, each.type, each.data and json.loads(each.data))
        for each in message_db.messages(empty)
    ] == [
        (each["aggregateId"], each["aggregateVersion"] - 1, each["type"], each["payload"]) for each in events
    ]


def test_the_same_without_await(empty: str) -> None:
    with sync.open_target(empty, "message-db") as target:
        report = sync.pipeline([make_lines(7)], target.import_events())
        assert (report.imported, report.streams) == (7, 7)
    assert len(message_db.messages(empty)) == 7

"""What a row of any table becomes, on all databases."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest

from eventferry.errors import SourceRowError
from eventferry.sources import aggregates
from eventferry.sources.mapper import Mapper
from eventferry.sources.mapping import Aggregate, Decoding, Mapping, Time, Version
from eventferry.sources.source import open_source
from tests.support.foreign.rows import IN_MS, SELECT, Rows

ODD = '{"b": 1.50, "a": [12345678901234567890, 1e2, -0.0], "ä": "東京 🐕 \\u00e9", "": null}'
COMPACT = '{"b":1.50,"a":[12345678901234567890,1e2,-0.0],"ä":"東京 🐕 \\u00e9","":null}'


def ids(events: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """Aggregate, version, counter of each."""
    return [(event["aggregateId"], event["aggregateVersion"], event["threadCounter"]) for event in events]


async def text_of(own: Rows, mapping: Any = None, **options: Any) -> str:
    async with open_source(own.url, mapping or own.mapping(), **options) as source:
        return b"".join([block async for block in source.export_events()]).decode()


async def test_a_row_becomes_an_event_that_keeps_all_the_source_knows(own: Rows) -> None:
    own.add(
        id=7, stream="account-1", version=1, type="Opened", data='{"by": "me"}', meta='{"ip": 1}', name="e-1"
    )
    assert await own.read() == (
        [
            {
                "threadCounter": 0,
                "threadId": 0,
                "type": "Opened",
                "timestamp": IN_MS,
                "aggregateId": "account-1",
                "aggregateVersion": 1,
                "payload": {
                    "data": {"by": "me"},
                    "meta": {
                        "id": "e-1",
                        "position": 7,
                        "version": 1,
                        "time": "2024-02-29T23:59:59.123456Z",
                        "metadata": {"ip": 1},
                    },
                },
            }
        ],
        (await own.read())[1],
    )


async def test_what_a_source_does_not_have_is_null(own: Rows) -> None:
    own.add(data=None)
    [event] = await own.events(
        own.mapping("SELECT id AS position, stream AS aggregate, type, data, at AS time FROM {events}")
    )
    meta = event["payload"]["meta"]
    assert event["payload"]["data"] is None
    assert meta == {"id": None, "position": 1, "version": None, "time": meta["time"], "metadata": None}


async def test_an_empty_table_gives_nothing(own: Rows) -> None:
    own.make()
    events, report = await own.read()
    assert (events, report.events, report.renumbered, report.skipped) == ([], 0, 0, {})


async def test_events_come_by_position_whatever_their_times_and_places_in_the_table(own: Rows) -> None:
    for position in (30, -5, 2, 10):
        own.add(id=position, at=f"2024-01-{16 - position // 2:02} 00:00:00")
    events = await own.events()
    assert [event["payload"]["meta"]["position"] for event in events] == [-5, 2, 10, 30]
    assert [event["threadCounter"] for event in events] == [0, 1, 2, 3]


async def test_versions_are_dense_and_those_that_change_are_counted(own: Rows) -> None:
    for stream, version in (("a", 1), ("a", 2), ("a", 5), ("b", 4), ("a", 6), ("c", None), ("c", None)):
        own.add(stream=stream, version=version)
    events, report = await own.read()
    assert ids(events) == [
        ("a", 1, 0), ("a", 2, 1), ("a", 3, 2), ("b", 1, 3), ("a", 4, 4), ("c", 1, 5), ("c", 2, 6),
    ]  # fmt: skip
    assert [event["payload"]["meta"]["version"] for event in events] == [1, 2, 5, 4, 6, None, None]
    assert report.renumbered == 5


async def test_versions_may_begin_at_0(own: Rows) -> None:
    for version in (0, 1, 2):
        own.add(version=version)
    events, report = await own.read(own.mapping(version=Version(first=0)))
    assert [event["aggregateVersion"] for event in events] == [1, 2, 3]
    assert report.renumbered == 0


async def test_json_goes_through_as_it_came(own: Rows) -> None:
    own.add(data=ODD, meta=ODD)
    assert f'"payload":{{"data":{COMPACT},"meta":' in (text := await text_of(own))
    assert f'"metadata":{COMPACT}}}}}' in text


async def test_a_column_of_json_gives_its_values(own: Rows) -> None:
    own.make(data="json", meta="json")
    own.add(data=ODD, meta="[1, 2]")
    [event] = await own.events()
    assert event["payload"]["data"] == json.loads(ODD)
    assert event["payload"]["meta"]["metadata"] == [1, 2]


@pytest.mark.parametrize("value", ["0", "-1.5", '"text"', "true", "null", "[]", "{}"])
async def test_data_is_any_json_value(own: Rows, value: str) -> None:
    own.make(data="json")
    own.add(data=value)
    [event] = await own.events()
    assert event["payload"]["data"] == json.loads(value)


async def test_a_prefix_stands_before_each_aggregate(own: Rows) -> None:
    own.add(stream="1")
    [event] = await own.events(own.mapping(aggregate=Aggregate(prefix='cart "x"-')))
    assert event["aggregateId"] == 'cart "x"-1'


async def test_an_aggregate_and_an_id_may_be_numbers(own: Rows) -> None:
    own.make(stream="whole", name="whole")
    own.add(stream=12, name=9007199254740993)
    own.add(stream=12, name=2)
    events = await own.events()
    assert ids(events) == [("12", 1, 0), ("12", 2, 1)]
    assert events[0]["payload"]["meta"]["id"] == "9007199254740993"


@pytest.mark.parametrize(
    ("own_kind", "kept"),
    [
        (None, True),
        ("event", True),
        ("archived", True),
        ("link", False),
        ("snapshot", False),
        ("deleted", False),
    ],
)
async def test_kinds_are_kept_or_left_out_and_counted(own: Rows, own_kind: str | None, kept: bool) -> None:
    own.add(kind=own_kind, version=1)
    own.add(version=2)
    events, report = await own.read()
    assert len(events) == 1 + kept
    assert report.skipped == ({} if kept else {own_kind: 1})
    if own_kind in (None, "event"):
        return
    change: dict[str, Any] = {"skip" if kept else "keep": [own_kind]}
    other, report = await own.read(**change)
    assert len(other) == 2 - kept
    assert report.skipped == ({own_kind: 1} if kept else {})


async def test_a_row_that_is_left_out_is_not_looked_at(own: Rows) -> None:
    own.add(kind="link", data="not JSON", type=None, stream=None, version=-1, at=None)
    own.add()
    assert len(await own.events()) == 1


async def test_bare_data_is_the_payload_alone(own: Rows) -> None:
    own.add(data=ODD, meta="{}")
    own.add(data="1.50", meta="null")
    lines = (await text_of(own, payload="data")).splitlines()
    assert [line.partition('"payload":')[2] for line in lines] == [f"{COMPACT}}}", "1.50}"]


async def test_bare_data_drops_metadata_only_where_that_was_said(own: Rows) -> None:
    own.add(meta='{"a": 1}')
    with pytest.raises(SourceRowError, match=r"own, position 1, column metadata: .*--drop-metadata"):
        await own.events(payload="data")
    [event] = await own.events(payload="data", drop_metadata=True)
    assert event["payload"] == {}


TEXT = b'{"a": 1}'
DECODED = {
    "json": (("json",), TEXT),
    "base64": (("base64",), base64.b64encode(TEXT)),
    "hex": (("hex", "json"), TEXT.hex().encode()),
    "zlib": (("zlib",), zlib.compress(TEXT)),
    "base64 of zlib": (("base64", "zlib", "json"), base64.b64encode(zlib.compress(TEXT))),
    "yaml": (("yaml",), b"a: 1"),
    "own": (("tests.sources.test_rows:own_format",), b"a=1"),
}


def own_format(value: str | bytes) -> dict[str, int]:
    text = value.decode() if isinstance(value, bytes) else value
    name, _, number = text.partition("=")
    return {name: int(number)}


@pytest.mark.parametrize("kind", ["bytes", "text"])
@pytest.mark.parametrize("way", DECODED)
async def test_data_and_metadata_are_decoded_step_by_step(own: Rows, way: str, kind: str) -> None:
    steps, value = DECODED[way]
    if kind == "text" and way == "zlib":
        return  # no text
    own.make(data=kind, meta=kind)
    given = value.decode() if kind == "text" else value
    own.add(data=given, meta=given)
    [event] = await own.events(own.mapping(data=Decoding(decode=steps), metadata=Decoding(decode=steps)))
    assert event["payload"]["data"] == event["payload"]["meta"]["metadata"] == {"a": 1}


TIMES = {
    "1970-01-01 00:00:00.000000": (0, "1970-01-01T00:00:00.000000Z"),
    "1970-01-01 00:00:01.001999": (1001, "1970-01-01T00:00:01.001999Z"),
    "2024-02-29 23:59:59.999999": (1709251199999, "2024-02-29T23:59:59.999999Z"),
}
BEFORE = {
    "1969-12-31 23:59:59.999999": (-1, "1969-12-31T23:59:59.999999Z"),
    "1900-01-01 00:00:00.000001": (-2208988800000, "1900-01-01T00:00:00.000001Z"),
    "9999-12-31 23:59:59.999999": (253402300799999, "9999-12-31T23:59:59.999999Z"),
}


@pytest.mark.parametrize("at", TIMES | BEFORE)
async def test_a_time_without_a_zone_is_in_that_of_the_mapping(own: Rows, at: str) -> None:
    own.add(at=at)
    [event] = await own.events()
    assert (event["timestamp"], event["payload"]["meta"]["time"]) == (TIMES | BEFORE)[at]


ZONED = {
    "Europe/Paris": (1719835200000, "2024-07-01T14:00:00+02:00"),
    "America/New_York": (1719856800000, "2024-07-01T14:00:00-04:00"),
    "Asia/Kolkata": (1719822600000, "2024-07-01T14:00:00+05:30"),
}


@pytest.mark.parametrize("zone", ZONED)
async def test_a_zone_with_summer_time_is_heeded(own: Rows, zone: str) -> None:
    own.add(at="2024-07-01 14:00:00")
    own.add(at="2024-01-01 14:00:00")
    summer, winter = await own.events(own.mapping(time=Time(zone=zone)))
    timestamp, text = ZONED[zone]
    assert summer["timestamp"] == timestamp
    assert summer["payload"]["meta"]["time"].replace(".000000", "") == text
    later = (winter["timestamp"] - timestamp) / 3600_000 + 182 * 24
    assert later == (0 if zone == "Asia/Kolkata" else 1)


async def test_a_time_with_a_zone_needs_none_in_the_mapping(own: Rows) -> None:
    own.make(at="time")
    if own.database == "sqlite":
        own.add(at="2024-07-01T12:00:00.5+00:00")
    elif own.database == "postgresql":
        own.add(at="2024-07-01T14:00:00.5+02:00")
    else:
        own.run("SET time_zone = '+02:00'")
        own.add(at="2024-07-01 14:00:00.5")
    [event] = await own.events(own.mapping(time=Time()))
    assert event["timestamp"] == 1719835200500


TEXTS = {
    "2024-07-01T14:00:00.1234567891+02:00": (1719835200123, "2024-07-01T14:00:00.1234567891+02:00"),
    "2024-07-01T12:00:00.500+00:00": (1719835200500, "2024-07-01T12:00:00.500+00:00"),
    "2024-07-01 12:00:00.9999Z": (1719835200999, "2024-07-01T12:00:00.9999Z"),
    "2024-07-01 12:00:00": (1719835200000, "2024-07-01T12:00:00Z"),
    "20240701T120000,5": (1719835200500, "2024-07-01T12:00:00.5Z"),
    "2024-07-01": (1719792000000, "2024-07-01T00:00:00Z"),
    '2024-07-01"12:00:00': (1719835200000, "2024-07-01T12:00:00Z"),
    "1969-12-31T23:59:59.9995Z": (-1, "1969-12-31T23:59:59.9995Z"),
}


@pytest.mark.parametrize("text", TEXTS)
async def test_a_time_that_is_text_keeps_every_digit(own: Rows, text: str) -> None:
    own.make(at="text")
    own.add(at=text)
    [event] = await own.events()
    assert (event["timestamp"], event["payload"]["meta"]["time"]) == TEXTS[text]


NUMBERS = {
    ("s", "1719835200"): (1719835200000, "2024-07-01T12:00:00.000000Z"),
    ("s", "1719835200.125"): (1719835200125, "2024-07-01T12:00:00.125000Z"),
    ("ms", "1719835200123"): (1719835200123, "2024-07-01T12:00:00.123000Z"),
    ("us", "1719835200123456"): (1719835200123, "2024-07-01T12:00:00.123456Z"),
    ("ns", "1719835200123456789"): (1719835200123, "2024-07-01T12:00:00.123456789Z"),
    ("ms", "-1"): (-1, "1969-12-31T23:59:59.999000Z"),
    ("s", "-0.25"): (-250, "1969-12-31T23:59:59.750000Z"),
}


@pytest.mark.parametrize(("unit", "number"), NUMBERS)
async def test_a_time_that_is_a_number_is_in_the_unit_of_the_mapping(
    own: Rows, unit: Any, number: str
) -> None:
    own.make(at="numeric(30, 9)" if "." in number else "whole")
    own.add(at=number)
    [event] = await own.events(own.mapping(time=Time(unit=unit)))
    assert (event["timestamp"], event["payload"]["meta"]["time"]) == NUMBERS[unit, number]


async def test_a_time_is_found_in_the_data(own: Rows) -> None:
    own.add(at=None, data='{"a/b": [{"~": "2024-07-01T12:00:00Z"}]}')
    [event] = await own.events(own.mapping(time=Time(pointer="/a~1b/0/~0")))
    assert event["timestamp"] == 1719835200000


async def test_a_mapping_may_end_in_a_comment_or_a_semicolon(own: Rows) -> None:
    own.add()
    for end in (" -- all of it", ";", " ; \n", " /* all; of it */"):
        assert len(await own.events(own.mapping(SELECT + end))) == 1


async def test_a_column_that_is_only_null_is_as_one_that_is_missing(own: Rows) -> None:
    own.add()
    select = SELECT.replace("meta AS metadata", "NULL AS metadata")
    [event] = await own.events(own.mapping(select))
    assert event["payload"]["meta"]["metadata"] is None


async def test_more_aggregates_than_are_kept_in_memory_are_numbered_right(
    own: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregates.SourceAggregates.__init__, "__defaults__", (4,))
    for turn in range(3):
        for stream in range(11):
            own.add(stream=f"stream-{stream}", version=2 * turn + 1)
    events, report = await own.read()
    assert ids(events) == [(f"stream-{i % 11}", i // 11 + 1, i) for i in range(33)]
    assert report.renumbered == 22
    own.add(stream="stream-0", version=5)
    with pytest.raises(
        SourceRowError, match=r"own, position 34, column version: .* comes after its version 5"
    ):
        await own.events()


def test_no_aggregate_is_put_away_while_rows_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregates.SourceAggregates.__init__, "__defaults__", (4,))
    mapper = Mapper(Mapping(name="own", select="SELECT 1", time=Time(unit="ms")))
    rows = [
        (position, f"s{stream}", None, "T", 0, b"{}", None, None, None)
        for position, stream in enumerate([0, 1, 2, 3, 3, 4, 3, 4])
    ]
    made = [json.loads(line)["aggregateVersion"] for line in mapper.lines(rows)]
    assert made == [1, 1, 1, 1, 2, 1, 3, 2]


async def test_one_aggregate_is_a_number_here_and_its_digits_there(own: Rows) -> None:
    if own.database != "sqlite":
        return  # a column has one type there
    own.make(stream="")
    for stream in ("1", 1, "1"):
        own.add(stream=stream)
    assert ids(await own.events()) == [("1", 1, 0), ("1", 2, 1), ("1", 3, 2)]


async def test_a_source_is_read_again_and_at_the_same_time(own: Rows) -> None:
    for _ in range(500):
        own.add()
    async with open_source(own.url, own.mapping()) as source:
        one, two = source.export_events(), source.export_events()
        texts: list[list[bytes]] = [[], []]
        async for block in one:
            texts[0].append(block)
            texts[1].append(await anext(two, b""))
        texts[1].extend([block async for block in two])
        assert b"".join(texts[0]) == b"".join(texts[1])
        assert one.exported == two.exported == 500


@pytest.mark.slow
async def test_a_reading_is_one_state_of_the_table(own: Rows) -> None:
    for _ in range(2000):
        own.add(data=json.dumps("x" * 3000))
    if own.database == "sqlite":
        own.run("PRAGMA journal_mode = WAL")
    async with open_source(own.url, own.mapping()) as source:
        export = source.export_events()
        blocks = [await anext(export)]
        own.run("DELETE FROM events WHERE id > 10")
        own.add()
        blocks.extend([block async for block in export])
    assert b"".join(blocks).count(b"\n") == 2000

"""CloudEvents: events of a store come back as they were, and those of other programs become events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import (
    InputError,
    UsageError,
    from_cloudevents,
    metadata_of,
    open_store,
    pipeline,
    sync,
    to_cloudevents,
)
from eventferry.lines.envelope import own_id
from tests.support import exported, line, make_event, make_lines
from tests.tabular.events import NAMES, OF_CSV, PAYLOADS, converted, lines_of, pieces

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=20)
ATTRIBUTES = st.dictionaries(st.sampled_from(["correlationid", "traceparent", "a1", "dataschema"]), TEXTS)
METAS = st.fixed_dictionaries(
    {
        "id": st.none() | NAMES | TEXTS,
        "position": st.none() | st.integers(-(2**53) + 1, 2**53 - 1),
        "version": st.none() | st.integers(0, 9),
        "time": st.none() | NAMES | st.just("2026-01-31T12:00:00.123456789Z"),
        "metadata": PAYLOADS | ATTRIBUTES,
    }
)
ENVELOPES = st.fixed_dictionaries({"data": PAYLOADS, "meta": METAS | PAYLOADS})
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "threadCounter": st.integers(0, 2**48 - 2),
            "threadId": st.integers(0, 255),
            "type": TEXTS,
            "timestamp": OF_CSV | st.just(1_769_860_800_123),
            "aggregateId": TEXTS,
            "aggregateVersion": st.integers(1, 2**53 - 1),
            "payload": PAYLOADS | ENVELOPES,
        }
    ),
    max_size=6,
)
THEIRS: dict[str, Any] = {
    "specversion": "1.0",
    "id": "b-17",
    "source": "/billing",
    "type": "com.example.paid",
    "subject": "invoice-1",
    "time": "2026-01-31T12:00:00.123456+01:00",
    "datacontenttype": "application/json",
    "traceparent": "00-abc",
    "data": {"amount": 1.5},
}


def text(**changes: Any) -> bytes:
    """A CloudEvent of another program; what is changed to ... is left out."""
    attributes = {name: value for name, value in (THEIRS | changes).items() if value is not ...}
    return json.dumps(attributes).encode() + b"\n"


async def written(*events: dict[str, Any]) -> list[dict[str, Any]]:
    """The CloudEvents that become of events."""
    lines = await converted(to_cloudevents("/shop"), [lines_of(events)])
    return [json.loads(each) for each in lines.splitlines()]


async def read(data: bytes, **options: Any) -> list[dict[str, Any]]:
    """The events that become of CloudEvents."""
    return [json.loads(each) for each in (await converted(from_cloudevents(**options), [data])).splitlines()]


def enveloped(data: Any, **meta: Any) -> dict[str, Any]:
    """A payload with metadata."""
    known = {"id": None, "position": None, "version": None, "time": None, "metadata": None}
    return {"data": data, "meta": known | meta}


@pytest.mark.slow
@settings(deadline=None)
@given(EVENTS, st.integers(1, 300), st.integers(1, 300))
async def test_lines_come_back_byte_for_byte_wherever_blocks_are_cut(
    events: list[dict[str, Any]], one: int, other: int
) -> None:
    lines = lines_of(events)
    cloud_events = await converted(to_cloudevents("/shop"), pieces(lines, one))
    assert await converted(from_cloudevents(), pieces(cloud_events, other)) == lines


async def test_a_payload_is_the_data_and_its_aggregate_the_subject() -> None:
    lines = await converted(to_cloudevents("/shop"), [lines_of([make_event(300, payload={"price": 20})])])
    assert lines.decode() == (
        f'{{"specversion":"1.0","id":"{own_id("aggregate-0", 31)}","source":"/shop","type":"TYPE_0",'
        '"subject":"aggregate-0","time":"2020-09-13T12:26:40.300Z","datacontenttype":"application/json",'
        '"threadid":44,"threadcounter":"1","aggregateversion":"31","data":{"price":20}}\n'
    )


async def test_metadata_become_attributes() -> None:
    payload = enveloped(
        {"price": 20},
        id="e-1",
        time="2020-09-13T12:26:40.000123Z",
        metadata={
            "source": "/cart",
            "correlationid": "c-1",
            "dataschema": "http://a/b",
            "datacontenttype": "application/vnd.a+json",
            "retries": 3,
            "sampled": True,
        },
    )
    [event] = await written(make_event(0, payload=payload))
    wanted = {
        "id": "e-1",
        "source": "/cart",
        "time": "2020-09-13T12:26:40.000123Z",
        "datacontenttype": "application/vnd.a+json",
        "correlationid": "c-1",
        "dataschema": "http://a/b",
        "retries": 3,
        "sampled": True,
        "data": {"price": 20},
    }
    assert {name: event[name] for name in wanted} == wanted
    assert json.loads(event["meta"]) == payload["meta"]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"meta":{"id":"e","position":null,"version":null,"time":null,"metadata":null},"data":1}',
        b'{"data":1,"meta":{"metadata":{"b":1,"a":1e2},"id":"\\u0065","position":7,"version":1,"time":null}}',
        b'{"data":1,"meta":{"id":7,"position":null,"version":null,"time":null,"metadata":null}}',
        b'{"data":1,"meta":{"id":"\\u0065\x7f","position":null,"version":null,"time":null,"metadata":null}}',
    ],
)
async def test_a_payload_comes_back_however_it_is_spelled(payload: bytes) -> None:
    line = make_lines(1).replace(b'{"number":0}', payload)
    assert await converted(from_cloudevents(), [await converted(to_cloudevents("/shop"), [line])]) == line


async def test_metadata_that_cannot_be_attributes_stand_in_meta_alone() -> None:
    metadata = {
        "userId": "u",
        "many": [1],
        "half": 1.5,
        "none": None,
        "large": 2**31,
        "empty": "",
        "bell": "\x07",
        "id": "x",
        "threadid": 7,
        "meta": "m",
    }
    [event] = await written(make_event(0, payload=enveloped(1, metadata=metadata)))
    assert event.keys() == {*THEIRS, "threadid", "threadcounter", "aggregateversion", "meta"} - {
        "traceparent"
    }
    assert event["threadid"] == 0
    assert json.loads(event["meta"])["metadata"] == metadata


async def test_the_time_is_the_timestamp_where_the_full_time_is_another() -> None:
    """A save gives an event the current time, whatever an envelope says."""
    [event] = await written(
        make_event(0, payload=enveloped(1, time="2019-01-01T00:00:00Z")),
    )
    assert event["time"] == "2020-09-13T12:26:40.000Z"


async def test_an_event_of_another_program_keeps_all_that_it_said() -> None:
    [event] = await read(text())
    assert event == {
        "threadCounter": 0,
        "threadId": 0,
        "type": "com.example.paid",
        "timestamp": 1_769_857_200_123,
        "aggregateId": "invoice-1",
        "aggregateVersion": 1,
        "payload": {
            "data": {"amount": 1.5},
            "meta": {
                "id": "b-17",
                "position": None,
                "version": None,
                "time": "2026-01-31T12:00:00.123456+01:00",
                "metadata": {"source": "/billing", "traceparent": "00-abc"},
            },
        },
    }
    assert metadata_of(event).id == "b-17"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data": ...},
        {"data": None},
        {"data": "<a/>", "datacontenttype": "text/xml"},
        {"data": ..., "data_base64": "AQID", "datacontenttype": "image/png"},
        {"datacontenttype": ...},
        {"retries": 3, "sampled": False, "nothing": None},
        {"time": "2026-01-31t12:00:00z"},
    ],
)
async def test_an_event_of_another_program_goes_out_as_it_came_in(changes: dict[str, Any]) -> None:
    lines = await converted(from_cloudevents(), [text(**changes)])
    [event] = [json.loads(each) for each in [await converted(to_cloudevents("/shop"), [lines])]]
    given = json.loads(text(**changes))
    for name in ("threadid", "threadcounter", "aggregateversion", "meta"):
        del event[name]
    wanted = {name: value for name, value in given.items() if value is not None}
    wanted.setdefault("datacontenttype", "application/json")
    if "data_base64" not in wanted:
        wanted.setdefault("data", None)
    wanted["time"] = event["time"] if wanted["time"].upper() == event["time"] else wanted["time"]
    assert event == wanted


async def test_events_of_others_are_numbered_as_they_come() -> None:
    data = b"\n".join([text(subject="a"), text(subject="b"), text(subject="a")])  # with blank lines
    found = [
        (event["threadId"], event["threadCounter"], event["aggregateId"], event["aggregateVersion"])
        for event in await read(data)
    ]
    assert found == [(0, 0, "a", 1), (0, 1, "b", 1), (0, 2, "a", 2)]


async def test_another_attribute_can_be_the_aggregate() -> None:
    data = text(subject="s", partitionkey="p") + text(subject=..., partitionkey="q")
    first, second = await read(data, aggregate="partitionkey")
    assert (first["aggregateId"], second["aggregateId"]) == ("p", "q")
    assert metadata_of(first).metadata["subject"] == "s"
    assert metadata_of(second).metadata["partitionkey"] == "q"
    [event] = await read(text(), aggregate="source")
    assert event["aggregateId"] == "/billing"


async def test_numbers_of_the_data_stay_as_they_are_spelled() -> None:
    data = text().replace(b'{"amount": 1.5}', b'{ "b":20.50, "a":12345678901234567890 }')
    assert b'{"data":{"b":20.50,"a":12345678901234567890},"meta"' in await converted(
        from_cloudevents(), [data]
    )


PLACE = {"threadid": 1, "threadcounter": "2", "aggregateversion": "3"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (text(specversion="0.3"), r"line 1, field specversion: must be one of 1.0, not a string"),
        (text() + text(id=...), "line 2, field id: is missing"),
        (text(source=""), "field source: is empty"),
        (text(type=7), "field type: must be a string of at most 700 characters, not 7"),
        (text(type="x" * 701), "field type: must be a string of at most 700 characters"),
        (text(type="a\0"), r"field type: holds the character U\+0000"),
        (text(time=...), "field time: is missing: an event has a time"),
        (text(time="2026-01-31 12:00:00Z"), "field time: must be a time of RFC 3339"),
        (text(time="2026-01-31T12:00:00"), "field time: must be a time of RFC 3339"),
        (text(time="2026-02-30T12:00:00Z"), "field time: must be a time of RFC 3339"),
        (text(subject=...), "field subject: is missing, and would be the aggregate"),
        (text(subject=None), "field subject: is missing, and would be the aggregate"),
        (text(subject=""), "field subject: is empty"),
        (text(subject=1), "field subject: must be a string"),
        (text(subject="x" * 701), "field subject: must be a string of at most 700 characters"),
        (text(userId="u"), "field userId: is no attribute's name: that has only a-z and 0-9"),
        (text(tags=["a"]), "field tags: must be a string, a whole number, true or false"),
        (text(half=1.5), "field half: must be a string, a whole number, true or false"),
        (text(data_base64="AQID"), "field data_base64: stands beside data"),
        (text(data=..., data_base64="A"), "field data_base64: is not base64"),
        (text(data="\ud800"), "line 1: holds a lone surrogate"),
        (text().replace(b'"id"', b'"id": "x", "id"'), "field id: this key occurs twice"),
        (
            text().replace(b'"data"', b'"traceparent": "x", "data"'),
            "field traceparent: this key occurs twice",
        ),
        (b"[" + text() + b"]", "line 1: is an array: put each CloudEvent on a line of its own"),
        (text()[:-2], "line 1: is not whole: the JSON ends too early"),
        (b"7\n", "line 1: must be an object, not 7"),
        (text(**PLACE | {"threadcounter": ...}), "field threadcounter: is missing, and threadid is there"),
        (text(**PLACE | {"threadid": 256}), "field threadid: must be a whole number from 0 to 255, not 256"),
        (
            text(**PLACE | {"threadcounter": "x"}),
            "field threadcounter: must be a whole number, not 'x'",
        ),
        (
            text(**PLACE | {"aggregateversion": "0"}),
            "field aggregateversion: must be a whole number",
        ),
        (text(**PLACE, meta='1},"x":{'), "field meta: must be the JSON text of an object"),
        (text(**PLACE) + text(), "line 2: has no threadid, unlike the first event"),
        (text() + text(**PLACE), "line 2: has a threadid, unlike the first event"),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
async def test_what_is_wrong_is_named_with_its_line_and_its_attribute(
    data: bytes, says: str, size: int
) -> None:
    with pytest.raises(InputError, match=says):
        await converted(from_cloudevents(), pieces(data, size))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"type": ""}, "field type: is empty: CloudEvents cannot hold it"),
        ({"aggregateId": "a\nb"}, "field aggregateId: has a control character"),
        ({"timestamp": -62_135_596_800_001}, "field timestamp: .* is beyond the years 1 to 9999"),
    ],
)
async def test_what_cloudevents_cannot_hold_is_refused_by_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"line 2, .*{says}"):
        await written(make_event(0), make_event(1, **changes))


@pytest.mark.parametrize("source", ["", "a b", "a\n", 7])
async def test_a_source_that_is_no_uri_is_refused(source: Any) -> None:
    with pytest.raises(UsageError, match="source"):
        to_cloudevents(source)


@pytest.mark.parametrize("name", ["", "userId", "data", "a_b"])
async def test_an_aggregate_that_is_no_attribute_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="attribute"):
        from_cloudevents(aggregate=name)


async def test_what_an_export_that_died_has_written_is_no_whole_event() -> None:
    """So a pipe that breaks is no end to an import."""

    async def dying() -> Any:
        yield make_lines(3)
        raise OSError("died")

    blocks = to_cloudevents("/shop")(dying())
    so_far = await anext(blocks)
    with pytest.raises(OSError, match="died"):
        await anext(blocks)
    assert so_far.endswith(b'"data":{"number":2}')
    with pytest.raises(InputError, match="line 3: is not whole"):
        await read(so_far)


async def test_a_store_comes_back_whole() -> None:
    async with open_store("sqlite://:memory:") as a, open_store("sqlite://:memory:") as b:
        await a.init()
        await b.init()
        lines = b"".join(line(make_event(i, payload={"n": i, "t": "ä\n"})) for i in range(1000))
        await pipeline([lines], a.import_events())
        await pipeline(a.export_events(), to_cloudevents("/shop"), from_cloudevents(), b.import_events())
        assert await exported(b) == lines


def test_they_are_the_same_without_await() -> None:
    with sync.open_store("sqlite://:memory:") as store:
        store.init()
        sync.pipeline([text(), text()], from_cloudevents(), store.import_events())
        assert [event.aggregate_version for event in store.load_events(limit=9, cursor=None).events] == [1, 2]

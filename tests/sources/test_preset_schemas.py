"""The presets of products that cannot be run here, on tables with the columns of their schema files.

Of each: an event in full, and what its tables do differently from those of others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventferry.errors import SourceRowError
from tests.support.foreign import read
from tests.support.foreign.tables import Tables, databases_of, made_of

JSON = '{"text": "Zürich, 東京 🐕", "numbers": [1, 2.50, 12345678901234567890], "none": null}'
DATA = {"text": "Zürich, 東京 🐕", "numbers": [1, 2.5, 12345678901234567890], "none": None}
SECOND = "2024-02-29 23:59:59"
MICROSECOND = f"{SECOND}.123456"
IN_MS = 1709251199000
FOX = "00000000-0000-0000-0000-000000000f0c"
OWL = "00000000-0000-0000-0000-000000000071"


def of(preset: str) -> pytest.MarkDecorator:
    """For a test of a preset: it runs on each database that there is a schema for."""
    places = [pytest.param((preset, database), id=database) for database in databases_of(preset)]
    return pytest.mark.parametrize("tables", places, indirect=True)


@pytest.fixture
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    preset, database = request.param
    with made_of(preset, database, tmp_path) as made:
        yield made


def uuid(number: int) -> str:
    return f"8f9e8ffb-4c1f-4a4e-9f7a-5d2a3bd5c1{number:02d}"


def event(aggregate: str, kind: str, timestamp: int, *, data: Any = DATA, **meta: Any) -> dict[str, Any]:
    """The first event of a source."""
    known = dict.fromkeys(("id", "position", "version", "time", "metadata"))
    return {
        "threadCounter": 0,
        "threadId": 0,
        "type": kind,
        "timestamp": timestamp,
        "aggregateId": aggregate,
        "aggregateVersion": 1,
        "payload": {"data": data, "meta": known | meta},
    }


def ids(events: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(event["aggregateId"], event["aggregateVersion"]) for event in events]


def metas(events: list[dict[str, Any]], name: str) -> list[Any]:
    return [event["payload"]["meta"][name] for event in events]


def marten(tables: Tables, number: int, stream: str, **changes: Any) -> None:
    usual = {
        "seq_id": number,
        "id": uuid(number),
        "stream_id": stream,
        "version": 1,
        "data": JSON,
        "type": "started",
    }
    tables.insert("mt_events", **usual | {"timestamp": f"{MICROSECOND}Z"} | changes)


@of("marten")
async def test_marten_has_its_metadata_in_columns_that_differ_by_configuration(tables: Tables) -> None:
    marten(tables, 1, "trip-1", headers='{"user": "Zoë"}', correlation_id="c", mt_dotnet_type="T, A")
    known = {
        "mt_dotnet_type": "T, A",
        "correlation_id": "c",
        "causation_id": None,
        "headers": {"user": "Zoë"},
    }
    [found], _ = await read(tables.url, "marten")
    assert found == event(
        "trip-1",
        "started",
        IN_MS + 123,
        id=uuid(1),
        position=1,
        version=1,
        time="2024-02-29T23:59:59.123456Z",
        metadata=known | {"bdata": None},
    )


@of("marten")
async def test_a_binary_event_of_marten_keeps_its_bytes_in_the_metadata(tables: Tables) -> None:
    marten(tables, 1, "trip-1", data="{}", bdata=b"\x01\xff")
    [found], _ = await read(tables.url, "marten")
    assert found["payload"]["data"] == {}
    assert found["payload"]["meta"]["metadata"]["bdata"] == "\\x01ff"


@of("marten")
async def test_a_stream_of_marten_is_told_from_that_of_another_tenant(tables: Tables) -> None:
    marten(tables, 1, "trip")
    marten(tables, 2, "trip", tenant_id="acme")
    marten(tables, 3, "trip", version=2)
    events, _ = await read(tables.url, "marten")
    assert ids(events) == [("trip", 1), ("acme/trip", 1), ("trip", 2)]


@of("marten")
async def test_martens_tombstones_are_left_out_and_archived_events_only_if_asked(tables: Tables) -> None:
    marten(tables, 1, "trip", is_archived=True)
    marten(
        tables,
        2,
        "mt_tombstone",
        type="tombstone",
        mt_dotnet_type="JasperFx.Events.Tombstone, JasperFx.Events",
    )
    marten(tables, 3, "grave", type="tombstone", mt_dotnet_type="Cemetery.Tombstone, Cemetery")
    events, report = await read(tables.url, "marten")
    assert ids(events) == [("trip", 1), ("grave", 1)]
    assert report.skipped == {"deleted": 1}
    events, report = await read(tables.url, "marten", skip=["archived"])
    assert ids(events) == [("grave", 1)]
    assert report.skipped == {"deleted": 1, "archived": 1}


def rails(tables: Tables, number: int, data: bytes, metadata: bytes = b"--- {}\n") -> None:
    usual = {"id": number, "event_id": uuid(number), "event_type": "OrderPlaced", "created_at": MICROSECOND}
    tables.insert("event_store_events", **usual, data=data, metadata=metadata)


def rails_stream(tables: Tables, link: int, stream: str, number: int, position: int | None) -> None:
    known = {
        "id": link,
        "stream": stream,
        "position": position,
        "event_id": uuid(number),
        "created_at": SECOND,
    }
    tables.insert("event_store_events_in_streams", **known)


RAILS = "---\n:text: Zürich, 東京 🐕\n:numbers:\n- 1\n- 2.5\n- 12345678901234567890\n:none:\n"


@of("rails-event-store")
async def test_rails_event_store_keeps_the_names_of_symbols(tables: Tables) -> None:
    rails(tables, 1, RAILS.encode(), b"---\n:remote_ip: 127.0.0.1\n")
    rails_stream(tables, 1, "Order$1", 1, 0)
    [found], _ = await read(tables.url, "rails-event-store")
    assert found == event(
        "Order$1",
        "OrderPlaced",
        IN_MS + 123,
        data={f":{name}": value for name, value in DATA.items()},
        id=uuid(1),
        position=1,
        version=0,
        time=MICROSECOND.replace(" ", "T") + "Z",
        metadata={":remote_ip": "127.0.0.1"},
    )


@of("rails-event-store")
async def test_an_event_of_rails_event_store_is_of_the_stream_that_it_was_published_to(
    tables: Tables,
) -> None:
    for number in (1, 2, 3):
        rails(tables, number, b"--- {}\n")
    rails_stream(tables, 1, "Order$1", 1, None)
    rails_stream(tables, 2, "$by_type_OrderPlaced", 1, None)
    rails_stream(tables, 3, "Order$1", 2, None)
    rails_stream(tables, 4, "$by_type_OrderPlaced", 2, None)
    events, report = await read(tables.url, "rails-event-store")
    assert ids(events) == [("Order$1", 1), ("Order$1", 2), ("all", 1)]
    assert metas(events, "version") == [None, None, None]
    assert report.renumbered == 3


@of("rails-event-store")
async def test_an_object_of_ruby_in_the_yaml_of_rails_event_store_is_refused(tables: Tables) -> None:
    rails(tables, 1, b"--- !ruby/object:BigDecimal 18:0.1e1\n")
    with pytest.raises(SourceRowError, match="rails-event-store, position 1, column data: not YAML"):
        await read(tables.url, "rails-event-store")


@of("rails-event-store")
async def test_rails_event_store_may_have_json_too(tables: Tables) -> None:
    rails(tables, 1, JSON.encode(), b'{"remote_ip":"127.0.0.1"}')
    rails_stream(tables, 1, "Order$1", 1, 0)
    [found], _ = await read(tables.url, "rails-event-store-json")
    assert found["payload"]["data"] == DATA
    assert found["payload"]["meta"]["metadata"] == {"remote_ip": "127.0.0.1"}


def commanded(tables: Tables, number: int, **changes: Any) -> None:
    usual = {"event_id": uuid(number), "event_type": "Elixir.Opened", "created_at": f"{MICROSECOND}Z"}
    tables.insert("events", **usual | changes)


def commanded_stream(
    tables: Tables, stream: int, version: int, number: int, original: tuple[int, int]
) -> None:
    known = {"stream_id": stream, "stream_version": version, "event_id": uuid(number)}
    tables.insert(
        "stream_events", **known, original_stream_id=original[0], original_stream_version=original[1]
    )


@pytest.mark.parametrize(
    "tables",
    [("commanded", "postgresql"), ("commanded-jsonb", "postgresql")],
    indirect=True,
    ids=["bytea", "jsonb"],
)
async def test_commanded_reads_each_event_once_in_the_order_of_commits(
    tables: Tables, request: pytest.FixtureRequest
) -> None:
    is_jsonb = "jsonb" in request.node.callspec.id
    text: Any = str if is_jsonb else str.encode
    for stream in ("account-1", "account-2", "$et-Opened"):
        tables.execute("INSERT INTO streams (stream_uuid) VALUES (%s)", stream)
    commanded(tables, 1, data=text(JSON), metadata=text('{"user": "Zoë"}'), correlation_id=FOX)
    commanded(tables, 2, data=text("{}"))
    commanded_stream(tables, 2, 1, 1, (2, 1))  # account-2
    commanded_stream(tables, 1, 1, 2, (1, 1))
    commanded_stream(tables, 0, 1, 1, (2, 1))  # all
    commanded_stream(tables, 0, 2, 2, (1, 1))
    commanded_stream(tables, 3, 1, 1, (2, 1))  # a link
    events, _ = await read(tables.url, "commanded-jsonb" if is_jsonb else "commanded")
    assert events[0] == event(
        "account-2",
        "Elixir.Opened",
        IN_MS + 123,
        id=uuid(1),
        position=1,
        version=1,
        time="2024-02-29T23:59:59.123456Z",
        metadata={"causation_id": None, "correlation_id": FOX, "metadata": {"user": "Zoë"}},
    )
    assert ids(events) == [("account-2", 1), ("account-1", 1)]
    assert (metas(events, "position"), metas(events, "version")) == ([1, 2], [1, 1])
    assert metas(events, "metadata")[1] == {"causation_id": None, "correlation_id": None, "metadata": None}


def spatie(tables: Tables, number: int, aggregate: str | None, version: int | None, **changes: Any) -> None:
    usual = {"id": number, "aggregate_uuid": aggregate, "aggregate_version": version, "created_at": SECOND}
    known = {"event_class": "App\\Events\\MoneyAdded", "event_properties": JSON, "meta_data": '{"ip": "::1"}'}
    tables.insert("stored_events", **usual | known | changes)


@of("spatie")
async def test_spaties_time_is_utc_and_its_version_of_a_class_is_metadata(tables: Tables) -> None:
    spatie(tables, 7, FOX, 1, event_version=2)
    [found], _ = await read(tables.url, "spatie")
    assert found == event(
        FOX,
        "App\\Events\\MoneyAdded",
        IN_MS,
        position=7,
        version=1,
        time=found["payload"]["meta"]["time"],
        metadata={"event_version": 2, "meta_data": {"ip": "::1"}},
    )
    assert found["payload"]["meta"]["time"].startswith("2024-02-29T23:59:59")
    assert found["payload"]["meta"]["time"].endswith("Z")


@of("spatie")
async def test_spaties_events_without_an_aggregate_are_numbered_as_they_come(tables: Tables) -> None:
    spatie(tables, 1, None, None)
    spatie(tables, 2, FOX, 1)
    spatie(tables, 3, None, None)
    events, _ = await read(tables.url, "spatie")
    assert ids(events) == [("no-aggregate", 1), (FOX, 1), ("no-aggregate", 2)]


def axon(tables: Tables, number: int, sequence: int, **changes: Any) -> None:
    usual = {"global_index": number, "event_identifier": uuid(number), "sequence_number": sequence}
    known = {"time_stamp": "2024-02-29T23:59:59.123456789Z", "payload_type": "com.example.Issued"}
    parts = {"payload": JSON.encode(), "meta_data": b'{"traceId":"t"}', "aggregate_identifier": "card-1"}
    tables.insert("domain_event_entry", **usual | known | parts | changes)


@of("axon")
async def test_axons_time_keeps_its_nanoseconds(tables: Tables) -> None:
    axon(tables, 51, 0, type="GiftCard", payload_revision="2")
    [found], _ = await read(tables.url, "axon")
    assert found == event(
        "card-1",
        "com.example.Issued",
        IN_MS + 123,
        id=uuid(51),
        position=51,
        version=0,
        time="2024-02-29T23:59:59.123456789Z",
        metadata={"type": "GiftCard", "payload_revision": "2", "meta_data": {"traceId": "t"}},
    )


@of("axon")
async def test_axons_payload_of_xstream_is_refused(tables: Tables) -> None:
    axon(tables, 1, 0, payload=b"<com.example.Issued/>")
    with pytest.raises(SourceRowError, match="axon, position 1, column data: not JSON"):
        await read(tables.url, "axon")


@of("axon-5")
async def test_axon_5_has_events_without_an_aggregate(tables: Tables) -> None:
    for number, known in enumerate(
        [{}, {"aggregate_identifier": "card-1", "aggregate_sequence_number": 0}], 1
    ):
        tables.insert(
            "aggregate_event_entry",
            global_index=number,
            type="Issued",
            version="0.0.1",
            timestamp="2024-02-29T23:59:59Z",
            payload=JSON.encode(),
            metadata=b"{}",
            identifier=uuid(number),
            **known,
        )
    events, _ = await read(tables.url, "axon-5")
    assert ids(events) == [("no-aggregate", 1), ("card-1", 1)]
    assert events[0] == event(
        "no-aggregate",
        "Issued",
        IN_MS,
        id=uuid(1),
        position=1,
        time="2024-02-29T23:59:59Z",
        metadata={"aggregate_type": None, "version": "0.0.1", "metadata": {}},
    )


@of("eventuous")
async def test_eventuous_closes_gaps_by_tombstones_that_are_left_out(tables: Tables) -> None:
    for name in ("Booking-1", "__tombstones__"):
        tables.insert("eventuous.streams", stream_name=name)
    for number, stream, kind in ((1, 1, "V1.Booked"), (2, 2, "$tombstone"), (3, 1, "V1.Paid")):
        known = {
            "message_id": uuid(number),
            "stream_position": 1 if number == 3 else 0,
            "created": MICROSECOND,
        }
        parts = {"json_data": JSON, "json_metadata": None, "message_type": kind, "stream_id": stream}
        tables.insert("eventuous.messages", **known | parts)
    events, report = await read(tables.url, "eventuous")
    assert ids(events) == [("Booking-1", 1), ("Booking-1", 2)]
    assert report.skipped == {"deleted": 1}
    assert events[0] == event(
        "Booking-1",
        "V1.Booked",
        IN_MS + 123,
        id=uuid(1),
        position=1,
        version=0,
        time="2024-02-29T23:59:59.123456Z",
    )


@of("prooph")
async def test_proophs_aggregates_of_two_types_may_have_one_id(tables: Tables) -> None:
    name = "_4228e4a00331b5d5e751db0481828e22a2c3c8ef"
    table = f"`{name}`" if tables.url.startswith("mysql") else f'"{name}"'
    for number, kind in ((1, "user"), (2, "todo")):
        metadata = {"_aggregate_version": 1, "_aggregate_id": OWL, "_aggregate_type": kind}
        known = {
            "event_id": uuid(number),
            "event_name": "Registered",
            "payload": JSON,
            "created_at": MICROSECOND,
        }
        tables.insert(table, **known, metadata=json.dumps(metadata))
    events, _ = await read(tables.url, "prooph")
    assert ids(events) == [(f"user:{OWL}", 1), (f"todo:{OWL}", 1)]
    assert events[0] == event(
        f"user:{OWL}",
        "Registered",
        IN_MS + 123,
        id=uuid(1),
        position=1,
        version=1,
        time="2024-02-29T23:59:59.123456Z",
        metadata={"_aggregate_version": 1, "_aggregate_id": OWL, "_aggregate_type": "user"},
    )


@of("broadway")
async def test_broadway_counts_from_0_and_keeps_its_times_as_text(tables: Tables) -> None:
    payload = f'{{"class":"Invited","payload":{JSON}}}'
    for playhead in (0, 1):
        known = {
            "uuid": OWL,
            "playhead": playhead,
            "type": "Invited",
            "metadata": '{"class":"M","payload":[]}',
        }
        tables.insert("events", **known, payload=payload, recorded_on="2024-03-01T00:59:59.123456+01:00")
    events, report = await read(tables.url, "broadway")
    assert ids(events) == [(OWL, 1), (OWL, 2)]
    assert report.renumbered == 0
    assert events[0] == event(
        OWL,
        "Invited",
        IN_MS + 123,
        data={"class": "Invited", "payload": DATA},
        position=1,
        version=0,
        time="2024-03-01T00:59:59.123456+01:00",
        metadata={"class": "M", "payload": []},
    )


def patchlevel(tables: Tables, table: str, playhead: int | None, **changes: Any) -> None:
    time = f"{SECOND}Z" if tables.url.startswith("postgresql") else SECOND
    usual = {"playhead": playhead, "event": "profile.created", "payload": JSON, "recorded_on": time}
    tables.insert(table, **usual | {"custom_headers": '[{"name": "trace"}]'} | changes)


@of("patchlevel")
async def test_an_id_of_patchlevel_is_unique_only_within_its_aggregates_name(tables: Tables) -> None:
    patchlevel(tables, "eventstore", 1, aggregate="profile", aggregate_id=FOX)
    patchlevel(tables, "eventstore", 1, aggregate="hotel", aggregate_id=FOX)
    events, _ = await read(tables.url, "patchlevel")
    assert ids(events) == [(f"profile-{FOX}", 1), (f"hotel-{FOX}", 1)]
    assert events[0] == event(
        f"profile-{FOX}",
        "profile.created",
        IN_MS,
        position=1,
        version=1,
        time=events[0]["payload"]["meta"]["time"],
        metadata={"new_stream_start": False, "custom_headers": [{"name": "trace"}]},
    )


@of("patchlevel")
async def test_what_patchlevel_has_archived_goes_on_counting_in_the_new_stream(tables: Tables) -> None:
    patchlevel(tables, "eventstore", 1, aggregate="profile", aggregate_id=FOX, archived=True)
    patchlevel(tables, "eventstore", 2, aggregate="profile", aggregate_id=FOX, new_stream_start=True)
    events, _ = await read(tables.url, "patchlevel")
    assert ids(events) == [(f"profile-{FOX}", 1), (f"profile-{FOX}", 2)]
    assert metas(events, "metadata")[1]["new_stream_start"] is True
    events, report = await read(tables.url, "patchlevel", skip=["archived"])
    assert ids(events) == [(f"profile-{FOX}", 1)]
    assert metas(events, "version") == [2]
    assert report.renumbered == 1


@of("patchlevel-stream")
async def test_a_stream_of_patchlevel_that_is_of_no_aggregate_has_no_playheads(tables: Tables) -> None:
    patchlevel(tables, "event_store", 1, stream=f"profile-{FOX}")
    patchlevel(tables, "event_store", None, stream="visits")
    patchlevel(tables, "event_store", None, stream="visits")
    events, _ = await read(tables.url, "patchlevel-stream")
    assert ids(events) == [(f"profile-{FOX}", 1), ("visits", 1), ("visits", 2)]
    assert metas(events, "version") == [1, None, None]


@of("sqlstreamstore")
async def test_sqlstreamstore_has_positions_from_0_and_a_stream_of_what_was_deleted(tables: Tables) -> None:
    for mark, name in (("a", "order 1 / 東京"), ("b", "$deleted")):
        tables.insert("streams", id=mark * 42, id_original=name)
    for number, stream in ((1, 1), (2, 2)):
        known = {
            "stream_id_internal": stream,
            "stream_version": 0,
            "message_id": uuid(number),
            "type": "placed",
        }
        tables.insert("messages", **known, created_utc=MICROSECOND, json_data=JSON, json_metadata=None)
    events, report = await read(tables.url, "sqlstreamstore")
    assert report.skipped == {"deleted": 1}
    assert events == [
        event(
            "order 1 / 東京",
            "placed",
            IN_MS + 123,
            id=uuid(1),
            position=0,
            version=0,
            time="2024-02-29T23:59:59.123456Z",
        )
    ]

"""The official Python SDK for CloudEvents reads what eventferry writes, and eventferry reads what it writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import from_cloudevents, metadata_of, to_cloudevents
from tests.cloudevents.test_cloudevents import EVENTS, TEXTS, read
from tests.tabular.events import converted, lines_of


@pytest.mark.slow
@settings(deadline=None)
@given(EVENTS)
async def test_the_sdk_takes_every_event_for_valid(events: list[dict[str, Any]]) -> None:
    events = [event | {"timestamp": abs(event["timestamp"]) % 2**42} for event in events]
    written = await converted(to_cloudevents("/shop"), [lines_of(events)])
    for event, text in zip(events, written.splitlines(), strict=True):
        found = JSONFormat().read(None, text)
        assert (found.get_type(), found.get_subject()) == (event["type"], event["aggregateId"])
        assert found.get_extension("aggregateversion") == str(event["aggregateVersion"])


@pytest.mark.slow
@settings(deadline=None)
@given(EVENTS)
async def test_events_that_the_sdk_wrote_again_come_back(events: list[dict[str, Any]]) -> None:
    events = [event | {"timestamp": abs(event["timestamp"]) % 2**42} for event in events]
    written = await converted(to_cloudevents("/shop"), [lines_of(events)])
    again = [JSONFormat().write(JSONFormat().read(None, text)) + b"\n" for text in written.splitlines()]
    found = (await converted(from_cloudevents(), again)).splitlines()
    assert list(map(json.loads, found)) == events


@settings(deadline=None)
@given(TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS) | TEXTS | st.none(), st.binary(max_size=9))
async def test_events_of_the_sdk_are_taken_in(
    subject: str, correlation: str, data: Any, binary: bytes
) -> None:
    attributes = {
        "id": "e-1",
        "source": "/sdk",
        "type": "T",
        "subject": subject,
        "time": datetime(2026, 1, 31, 12, 0, 0, 5999, tzinfo=UTC),
        "correlationid": correlation,
    }
    given = [CloudEvent(dict(attributes), each) for each in (data, binary)]
    plain, packed = await read(b"".join(JSONFormat().write(event) + b"\n" for event in given))
    assert (plain["aggregateId"], plain["timestamp"]) == (subject, 1_769_860_800_005)
    assert plain["payload"]["data"] == data
    meta = metadata_of(plain)
    assert (meta.id, meta.time, meta.correlation_id) == ("e-1", "2026-01-31T12:00:00.005999Z", correlation)
    assert meta.metadata["source"] == "/sdk"
    again = await converted(to_cloudevents("/shop"), [json.dumps(packed).encode() + b"\n"])
    assert (JSONFormat().read(None, again).get_data() or b"") == binary

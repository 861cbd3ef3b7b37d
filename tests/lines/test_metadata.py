"""Metadata of events: an id, what they belong to and what caused them, in their payloads."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from eventferry import Event, InputError, UsageError, data_of, metadata_of, open_store, with_metadata

PLACED: dict[str, Any] = {"type": "PLACED", "payload": {"items": 2}}


def test_an_event_gets_an_id_and_keeps_its_data() -> None:
    event = with_metadata(PLACED, correlation_id="c", causation_id="a", metadata={"user": "u"})
    assert data_of(event) == {"items": 2}
    known = metadata_of(event)
    assert UUID(known.id).version == 4
    assert (known.correlation_id, known.causation_id) == ("c", "a")
    assert known.metadata == {"user": "u", "correlationid": "c", "causationid": "a"}
    assert PLACED == {"type": "PLACED", "payload": {"items": 2}}


def test_an_event_without_metadata_says_so() -> None:
    for event in (PLACED, {"type": "T"}, Event(type="T", aggregate_id="a", payload={"data": 1, "meta": {}})):
        known = metadata_of(event)
        assert (known.id, known.metadata, known.correlation_id) == (None, None, None)
        assert data_of(event) == (event.payload if isinstance(event, Event) else event.get("payload"))


def test_what_an_event_has_stays_unless_it_is_given_anew() -> None:
    source = {
        "id": "e-1",
        "position": 17,
        "version": 3,
        "time": "2026-01-01T00:00:00Z",
        "metadata": {"a": 1, "b": 1},
    }
    event = Event(type="T", aggregate_id="a", payload={"data": [1], "meta": source})
    changed = with_metadata(event, causation_id="x", metadata={"a": 2})
    assert changed.payload == {
        "data": [1],
        "meta": source | {"metadata": {"a": 2, "b": 1, "causationid": "x"}},
    }
    assert metadata_of(with_metadata(changed, id="e-2")).id == "e-2"


def test_metadata_of_a_source_without_any_are_made() -> None:
    source = {"id": None, "position": 17, "version": 3, "time": None, "metadata": None}
    event = with_metadata({"type": "T", "payload": {"data": 1, "meta": source}}, metadata={"a": 1})
    assert metadata_of(event).metadata == {"a": 1}
    assert metadata_of(event).position == 17
    assert metadata_of(event).id is not None


async def test_metadata_come_back_from_a_store() -> None:
    async with open_store("sqlite://:memory:") as store:
        await store.init()
        placed = with_metadata(PLACED)
        cause = metadata_of(placed).id
        paid = with_metadata({"type": "PAID"}, causation_id=cause)
        await store.append_events("order-1", [placed, paid])
        first, second = await store.last_events(2)
        assert metadata_of(second).causation_id == metadata_of(first).id == cause
        assert (data_of(first), data_of(second)) == ({"items": 2}, None)


@pytest.mark.parametrize("wrong", ["", 7])
@pytest.mark.parametrize("name", ["id", "correlation_id", "causation_id"])
def test_an_id_that_is_no_text_is_refused_by_name(name: str, wrong: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} must be a string that is not empty"):
        with_metadata(PLACED, **{name: wrong})


def test_an_envelope_with_a_wrong_value_is_refused_by_name() -> None:
    meta = {"id": 7, "position": None, "version": None, "time": None, "metadata": None}
    with pytest.raises(InputError, match=r"field payload: meta.id must be a string or null, not 7"):
        metadata_of({"type": "T", "payload": {"data": 1, "meta": meta}})
    with pytest.raises(InputError, match=r"field payload: meta.metadata is not an object"):
        with_metadata({"type": "T", "payload": {"data": 1, "meta": meta | {"id": "e", "metadata": [1]}}})

"""Events from a store: their payloads are decoded when somebody looks at them."""

from __future__ import annotations

import pickle
import tracemalloc
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from eventferry import Event
from eventferry.lines.event import decode_event, decode_events
from eventferry.looking.encoding import encoded

TEXT = '{"b":1.0,"a":[1e2,null]}'


def line(payload: str, event_type: str = "MOVED") -> bytes:
    position = f'"threadCounter":7,"threadId":3,"type":"{event_type}","timestamp":5'
    return f'{{{position},"aggregateId":"a","aggregateVersion":2,"payload":{payload}}}\n'.encode()


def made(payload: Any) -> Event:
    position = {"thread_counter": 7, "thread_id": 3, "timestamp": 5, "aggregate_version": 2}
    return Event(type="MOVED", aggregate_id="a", payload=payload, **position)


def kept(event: Event) -> Any:
    return msgspec.structs.astuple(event)[-1]


def test_a_payload_is_decoded_at_the_first_look() -> None:
    [event] = decode_events(line(TEXT))
    assert bytes(kept(event)) == TEXT.encode()
    payload = event.payload
    assert payload == {"b": 1.0, "a": [100.0, None]}
    assert event.payload is payload is kept(event)


def test_an_event_is_encoded_as_it_is_stored() -> None:
    assert msgspec.json.encode(decode_event(line(TEXT))) + b"\n" == line(TEXT)


def test_equality_is_that_of_values() -> None:
    [event] = decode_events(line(TEXT))
    same, other = made({"a": [100, None], "b": 1}), made({"a": [100, None], "b": 2})
    assert event == same
    assert decode_event(line(TEXT)) == decode_event(line('{"a":[100,null],"b":1}'))
    assert event != other
    assert (decode_event(line(TEXT)) != same) is False
    assert event != TEXT


def test_events_with_equal_payloads_have_the_same_hash() -> None:
    assert {decode_event(line("1.0")), made(1)} == {made(1)}
    with pytest.raises(TypeError, match="unhashable type: 'dict'"):
        hash(decode_event(line(TEXT)))


def test_an_event_is_shown_with_its_payload() -> None:
    event = decode_event(line("[true]"))
    assert repr(event) == (
        "Event(thread_counter=7, thread_id=3, type='MOVED', timestamp=5, aggregate_id='a', aggregate_version=2, "
        "payload=[True])"
    )


def test_a_copy_has_the_payload() -> None:
    assert pickle.loads(pickle.dumps(decode_event(line(TEXT)))) == decode_event(line(TEXT))
    assert msgspec.structs.replace(decode_event(line(TEXT)), type="LEFT").payload["b"] == 1


def test_an_event_that_is_kept_keeps_no_others_in_memory() -> None:
    tracemalloc.start()
    try:
        event = decode_events(line('"%s"' % ("x" * 1000)) * 1000)[0]
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert event.payload == "x" * 1000
    assert used < 100_000


@pytest.mark.parametrize(
    ("text", "value"), [("1e400", Decimal("1e400")), ('"\\ud800"', "\ud800"), ('["\\ud800"]', ["\ud800"])]
)
def test_what_only_another_program_stores_can_be_looked_at(text: str, value: Any) -> None:
    [event] = decode_events(line(text))
    assert event.payload == value


def test_a_lone_surrogate_beside_undecoded_payloads_can_be_shown() -> None:
    events = decode_events(line("[1]") + line("[2]", "\\ud800"))
    shown = encoded(events).decode()
    assert '"payload":[1]' in shown
    assert '"type":"\\ud800"' in shown

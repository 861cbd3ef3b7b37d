"""Search: what matches, however it is spelled in the store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventferry import Event, TracedEvent, UsageError, by_cause, open_store
from eventferry.looking.searching import Holding, Needle
from tests.support import event_at, examples, import_lines, make_event


def texts_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(text for member in value.values() for text in texts_in(member))]
    if isinstance(value, list):
        return [text for element in value for text in texts_in(element)]
    return [value] if isinstance(value, str) else []


@given(
    st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5),
    st.data(),
    st.booleans(),
)
@settings(max_examples=examples(100))
def test_no_text_is_passed_over_for_how_it_is_spelled(value: Any, data: st.DataObject, ascii: bool) -> None:
    texts = [text for text in texts_in(value) if text]
    if not texts:
        return
    text = data.draw(st.sampled_from(texts))
    begin = data.draw(st.integers(0, len(text) - 1))
    part = text[begin : data.draw(st.integers(begin + 1, len(text)))]
    part = data.draw(st.sampled_from([part, part.lower() if part.isascii() else part]))
    spelled = json.dumps(value, ensure_ascii=ascii).encode(errors="surrogatepass")
    assert Needle(part).may_be_in(spelled)
    assert Holding(part).matches(Event(type="t", aggregate_id="a", payload=value))


MATCHES: dict[str, tuple[dict[str, Any], bool]] = {
    "a word of another case": ({"text": "zürich"}, True),
    "a word of another case, in capitals": ({"text": "ZÜRICH"}, True),
    "a key": ({"text": "City"}, True),
    "a number": ({"text": "1234"}, True),
    "a type": ({"text": "placed"}, True),
    "an aggregate": ({"text": "order-7"}, True),
    "the name of a field of events": ({"text": "aggregateId"}, False),
    "across two values": ({"text": 'Zürich","cents'}, False),
    "a place": ({"path": "/items/0/sku"}, True),
    "a place that is not there": ({"path": "/items/1/sku"}, False),
    "a place in every element": ({"path": "/items/*/sku", "value": "x/1"}, True),
    "a value": ({"path": "/address/city", "value": "Zürich"}, True),
    "a value of another case": ({"path": "/address/city", "value": "zürich"}, False),
    "a number as a number": ({"path": "/cents", "value": 1234}, True),
    "a number as a text": ({"path": "/cents", "value": "1234"}, True),
    "a number that is written in another way": ({"path": "/price", "value": "12.50"}, True),
    "a number with an exponent": ({"path": "/price", "value": "125e-1"}, True),
    "another number": ({"path": "/price", "value": "12.51"}, False),
    "a truth that is no number": ({"path": "/paid", "value": 1}, False),
    "null": ({"path": "/note", "value": None}, True),
    "both": ({"text": "sku", "path": "/paid", "value": True}, True),
    "only one of both": ({"text": "sku", "path": "/paid", "value": False}, False),
}


@pytest.mark.parametrize("name", MATCHES)
async def test_what_matches(tmp_path: Path, name: str) -> None:
    wanted, matches = MATCHES[name]
    payload = {
        "address": {"city": "Zürich"},
        "cents": 1234,
        "price": 12.5,
        "paid": True,
        "note": None,
        "items": [{"sku": "x/1"}],
    }
    event = make_event(0, type="ORDER_PLACED", aggregateId="order-7", payload=payload)
    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        await store.init()
        await import_lines(store, [event])
        assert bool((await store.search(**wanted)).events) == matches


@pytest.mark.parametrize(
    "wanted",
    [{}, {"text": ""}, {"text": 7}, {"path": "no/pointer"}, {"path": "/a~2"}, {"text": "x", "value": 1}],
)
async def test_a_search_for_nothing_is_refused(tmp_path: Path, wanted: dict[str, Any]) -> None:
    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        await store.init()
        with pytest.raises(UsageError):
            await store.search(**wanted)


def traced(id: str | None, cause: str | None) -> TracedEvent:
    return TracedEvent(event_at(0, 0), id, cause)


CAUSES: dict[str, tuple[list[TracedEvent], list[tuple[int, str | None]]]] = {
    "a chain": (
        [traced("1", None), traced("2", "1"), traced("3", "2"), traced("4", "1")],
        [(0, "1"), (1, "2"), (2, "3"), (1, "4")],
    ),
    "a cause elsewhere": ([traced("2", "1"), traced("3", "2")], [(0, "2"), (1, "3")]),
    "a circle": ([traced("1", "2"), traced("2", "1"), traced("3", "3")], [(0, "3"), (0, "1"), (1, "2")]),
    "one id twice": (
        [traced("1", None), traced("1", None), traced("2", "1")],
        [(0, "1"), (1, "2"), (0, "1")],
    ),
    "no ids": ([traced(None, None), traced(None, "1")], [(0, None), (0, None)]),
}


@pytest.mark.parametrize("name", CAUSES)
def test_effects_stand_behind_their_causes(name: str) -> None:
    events, expected = CAUSES[name]
    assert [(depth, event.id) for depth, event in by_cause(events)] == expected


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd"))))
@example([("a", "b"), ("b", "a")])
def test_no_event_of_a_trace_is_lost(links: list[tuple[str, str]]) -> None:
    events = [traced(id, cause) for id, cause in links]
    assert sorted(id(event) for _, event in by_cause(events)) == sorted(map(id, events))


class TestPoison:
    async def test_the_first_event_that_is_refused_is_found(self, tmp_path: Path) -> None:
        seen: list[int] = []

        async def check(event: Event) -> None:
            seen.append(event.payload["number"])
            if event.payload["number"] == 12:
                raise ValueError("no twelve")

        async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
            await store.init()
            await import_lines(store, [make_event(i) for i in range(20)])
            found = await store.find_poison(check, event_types=["TYPE_0"])
            assert found.event is not None
            assert (found.event.payload, found.error) == ({"number": 12}, "ValueError: no twelve")
            assert seen == [0, 3, 6, 9, 12]
            rest = await store.find_poison(check, cursor=found.cursor)
            assert (rest.event, rest.is_end, rest.scanned) == (None, True, 7)
            assert (await store.find_poison(check, scan=5)).scanned == 5
            with pytest.raises(UsageError, match="function"):
                await store.find_poison("nothing")

    async def test_the_refused_event_is_told_as_it_is_stored(self, tmp_path: Path) -> None:
        class RefusedToo(BaseException):
            def __str__(self) -> str:
                raise RuntimeError

        def check(event: Event) -> None:
            event.payload["shown"] = event.payload.pop("password")
            raise RefusedToo if event.thread_id == 0 else asyncio.CancelledError

        async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
            await store.init()
            await import_lines(store, [make_event(i, payload={"password": "hunter2"}) for i in range(2)])
            cursor = None
            for error in ("RefusedToo", "CancelledError"):
                found = await store.find_poison(check, cursor=cursor)
                assert found.event is not None
                assert (found.event.payload, found.error) == ({"password": "hunter2"}, error)
                cursor = found.cursor


async def test_numbers_that_no_store_has_are_refused_or_found_nowhere(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        await store.init()
        assert await store.event_at(0, 2**64) is None
        with pytest.raises(UsageError, match="start_time"):
            await store.stats(start_time=-(2**64))

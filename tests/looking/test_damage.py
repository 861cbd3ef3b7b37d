"""Events that a foreign writer let in and that cannot be read are shown as damaged, and all others as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventferry import DamagedEvent, Event, Mask, UnsupportedStoreError, open_store
from tests.support import import_lines, make_event
from tests.support.console import console
from tests.support.sqlite import connect

EVENTS = [
    make_event(i, aggregateId="a", aggregateVersion=i + 1, type="T", payload={"number": i}) for i in range(4)
]
BROKEN_UTF8, DEEP = "CAST(x'22ff22' AS TEXT)", f"'{'[' * 3000}{']' * 3000}'"


async def damaged_store(folder: Path, change: str) -> str:
    """A store of four events of one aggregate, of which the third is changed by hand."""
    place = folder / "store.db"
    async with open_store(f"sqlite:///{place}") as store:
        await store.init()
        await import_lines(store, EVENTS)
    with connect(place) as file, file:
        file.execute(f'UPDATE events SET {change} WHERE "aggregateVersion" = 3')
    return f"sqlite:///{place}"


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        ("payload = 'no JSON'", "the payload is not JSON"),
        ("payload = 'two' || char(10) || 'lines'", "the payload is not JSON"),
        (f"payload = {DEEP}", "the payload nests too deep"),
        (f"payload = {BROKEN_UTF8}", "the payload is not UTF-8"),
        (f"type = {BROKEN_UTF8}", "type is not a text"),
        (
            "payload = 'x', \"aggregateVersion\" = 3.5",
            "aggregateVersion is not a whole number: '3.5'; the payload",
        ),
    ],
)
async def test_a_damaged_event_is_shown_among_the_others(tmp_path: Path, change: str, damage: str) -> None:
    def told(events: list[Event]) -> list[Any]:
        return [
            each.damage[: len(damage)] if isinstance(each, DamagedEvent) else each.payload["number"]
            for each in events
        ]

    async with open_store(await damaged_store(tmp_path, change)) as store:
        history = [entry.event for entry in (await store.history("a")).entries]
        found = [(await store.tail()).events, history, (await store.search(path="/number")).events]
        found.append([event for event in [await store.event_at(*place_of(EVENTS[2]))] if event is not None])
        poison = await store.find_poison(lambda _: None)
    whole = [0, 1, damage, 3]
    assert [*map(told, found)] == [whole, whole, [0, 1, 3], [damage]]
    assert isinstance(poison.event, DamagedEvent)
    assert poison.error == poison.event.damage
    assert (poison.event.thread_id, poison.event.thread_counter) == place_of(EVENTS[2])


def place_of(event: dict[str, Any]) -> tuple[int, int]:
    return event["threadId"], event["threadCounter"]


async def test_what_stands_in_a_damaged_event_is_masked_as_a_whole(tmp_path: Path) -> None:
    async with open_store(await damaged_store(tmp_path, """payload = '{"password":"p4ss'""")) as store:
        [event] = (await store.tail(2)).events[:1]
    assert event.payload == '{"password":"p4ss'
    assert Mask().event(event).payload == Mask(["/mail"], secrets=False).event(event).payload == "***"
    assert Mask(secrets=False).event(event) == event


async def test_a_damaged_event_makes_no_page_of_the_console_fail(tmp_path: Path) -> None:
    await damaged_store(tmp_path, """payload = '<b>p4ss'""")
    async with console(tmp_path) as (visitor, _, tokens):
        await visitor.sign_in(tokens["all"])
        thread, counter = place_of(EVENTS[2])
        for path, query in (
            ("", {}),
            ("/events", {}),
            ("/events", {"order": "oldest"}),
            ("/event", {"thread": thread, "counter": counter}),
            ("/aggregate", {"id": "a"}),
            ("/search", {"text": "<B>"}),
        ):
            page = await visitor.see(path, **query)
            assert "Damaged: the payload is not JSON" in page.text
            assert "p4ss" not in page.text


async def test_events_are_counted_though_a_timestamp_is_a_text(tmp_path: Path) -> None:
    async with open_store(await damaged_store(tmp_path, "timestamp = 'noon'")) as store:
        stats = await store.stats(span="day")
        assert (stats.types.events, stats.types.last_timestamp) == (4, EVENTS[3]["timestamp"])
        assert sum(point.events for point in stats.timeline.points) == 3
        assert (await store.describe()).last_event_timestamp == EVENTS[3]["timestamp"]
        assert len((await store.history("a")).entries) == 4
        for asked in (store.tail(), store.search("a"), store.load_events(cursor=None, limit=10)):
            with pytest.raises(UnsupportedStoreError, match="counter 0 of thread 2 is 'noon'"):
                await asked

"""Values as Python programs have them: JSON in all but its class is stored, the rest refused by name and number."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from eventferry import Append, EventStore, InputError, UsageError
from tests.support import LONG_AGO, Opened, exported


class Text(str):
    """As Django's SafeString or numpy.str_, and one that says something else about itself."""

    def __str__(self) -> str:
        return "something else"


class Whole(int):
    def __int__(self) -> int:
        return -1


class Number(float):
    """As numpy.float64."""

    def __repr__(self) -> str:
        return "something else"


class Exact(Decimal):
    pass


class Kind(enum.StrEnum):
    PLACED = "Placed"


class Level(enum.IntEnum):
    HIGH = 3


class Pair(NamedTuple):
    a: int
    b: str


STORED: dict[str, tuple[Any, Any]] = {
    "a string": (Text("é"), "é"),
    "a whole number": (Whole(3), 3),
    "a large whole number": (Whole(2**70), 2**70),
    "a float": (Number(1.5), 1.5),
    "a small float": (Number(1e-7), 1e-7),
    "a decimal": (Exact("0.1"), 0.1),
    "a member of a string enum": (Kind.PLACED, "Placed"),
    "a member of an integer enum": (Level.HIGH, 3),
    "a named tuple": (Pair(1, "x"), [1, "x"]),
    "an ordered dict": (OrderedDict(a=1), {"a": 1}),
    "a key": ({Text("k"): {Kind.PLACED: 1}}, {"k": {"Placed": 1}}),
}
REFUSED: dict[str, Any] = {
    "a path": Path("x"),
    "a datetime": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "a date": datetime.date(2026, 1, 1),
    "a uuid": uuid.UUID(int=1),
    "bytes": b"x",
    "a bytearray": bytearray(b"x"),
    "a set": {1},
    "a generator": (i for i in range(3)),
    "a function": print,
    "an object": object(),
    "a complex number": 1j,
    "not a number": float("nan"),
    "infinity": Number("inf"),
    "an infinite decimal": Decimal("Infinity"),
    "a key that is no string": {1: 2},
    "a key that is bytes": {b"k": 2},
}


WRONG: list[Any] = [None, 7, "text", b"bytes", Path("x"), [("type", "T")], object()]


def event(**changes: Any) -> dict[str, Any]:
    return {"type": "T", "timestamp": LONG_AGO, "aggregateId": "a", "payload": None} | changes


def shapes(value: Any) -> list[Any]:
    """A value by itself, and deep within others."""
    return [value, {"v": value}, [1, [value]]]


@pytest.mark.once
async def test_what_is_json_but_for_its_class_is_stored(opened: Opened) -> None:
    async with opened() as store:
        given = [
            event(timestamp=LONG_AGO + i, payload=shapes(value))
            for i, (value, _) in enumerate(STORED.values())
        ]
        await store.incremental_import(given)
        saved = [
            await store.save_event(each | {"aggregateId": "b", "aggregateVersion": i + 1})
            for i, each in enumerate(given)
        ]
        await store.append_events("c", [each | {"aggregateId": "c"} for each in given])
        appended = (await store.load_aggregate("c")).events
        events = (await store.load_events(limit=100, cursor=None)).events
        for found in (events[: len(given)], [each.event for each in saved], appended):
            assert [each.payload for each in found] == [shapes(stored) for _, stored in STORED.values()]
        assert len(events) == 3 * len(given)


@pytest.mark.once
async def test_what_is_no_json_is_refused_by_the_number_of_its_event(opened: Opened) -> None:
    async with opened() as store:
        for value in REFUSED.values():
            for payload in shapes(value):
                with pytest.raises(InputError, match="event 2, field payload"):
                    await store.incremental_import([event(), event(payload=payload)])
                with pytest.raises(InputError, match="field payload"):
                    await store.save_event(event(aggregateVersion=1, payload=payload))
                with pytest.raises(InputError, match="event 2, field payload"):
                    await store.append_events("a", [event(), event(payload=payload)])
        assert await exported(store) == b""


@pytest.mark.once
async def test_names_and_times_may_be_of_such_classes_too(opened: Opened) -> None:
    async with opened() as store:
        odd = event(type=Kind.PLACED, timestamp=Whole(LONG_AGO), aggregateId=Text("é"))
        await store.incremental_import([odd, MappingProxyType(odd), {Text(key): odd[key] for key in odd}])
        await store.save_event(odd | {"aggregateId": Text("other"), "aggregateVersion": Whole(1)})
        await store.append_events(Text("third"), ({"type": Kind.PLACED} for _ in range(1)))
        page = await store.load_events(limit=9, cursor=None, event_types=[Kind.PLACED, Text("T")])
        assert [each.type for each in page.events] == ["Placed"] * 5
        found = await store.load_events(limit=9, cursor=None, aggregate_ids=[Text("é")])
        assert [each.aggregate_version for each in found.events] == [1, 2, 3]
        assert (await store.get_latest_event(aggregate_ids=[Text("other")])) is not None
        await store.set_secret(Text("id"), Text("secret"))
        assert await store.get_secret(Text("id")) == "secret"
        await store.save_snapshot(Text("key"), Text("content"))
        assert await store.load_snapshot("key") == "content"


@pytest.mark.once
async def test_a_wrong_name_or_time_is_refused_by_number_and_field(opened: Opened) -> None:
    async with opened() as store:
        for field in ("type", "timestamp", "aggregateId"):
            for value in (None, Path("x"), b"x", 1.5, Decimal(1), {"a"}, uuid.UUID(int=1)):
                with pytest.raises(InputError, match=f"event 1, field {field}"):
                    await store.incremental_import([event(**{field: value})])


@pytest.mark.once
async def test_what_is_no_event_is_refused_by_its_number(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        for wrong in WRONG:

            async def later(last: Any = wrong) -> AsyncIterator[Any]:
                yield event()
                yield last

            for given in ([event(), wrong], later()):
                with pytest.raises(InputError, match="event 2: an event is a dict or an Event"):
                    await store.incremental_import(given)
            with pytest.raises(InputError, match="event 2: an event is a dict or an Event"):
                await store.push_incremental_import([event(), wrong], import_id)
            with pytest.raises(InputError, match="event 1: an event is a dict or an Event"):
                await store.gather_secrets_from_events([wrong])
            with pytest.raises(InputError, match="an event is a dict or an Event"):
                await store.save_event(wrong)
            with pytest.raises(InputError, match="event 2: an event is a dict or an Event"):
                await store.append_events("a", [event(), wrong])
        assert await exported(store) == b""


@pytest.mark.once
async def test_what_is_no_source_of_events_is_refused_by_name(opened: Opened) -> None:
    async def later() -> AsyncIterator[Any]:
        yield event()

    sources: list[Any] = [None, 7, Path("x"), event(), "text", b"bytes"]
    async with opened() as store:
        for source in sources:
            with pytest.raises(UsageError, match="events are"):
                await store.incremental_import(source)
        for source in [*sources, later()]:
            with pytest.raises(UsageError, match="events are"):
                await store.append_events("a", source)
            with pytest.raises(UsageError, match="events are"):
                await store.append_batches([Append("b", [event()]), Append("a", source)])
            with pytest.raises(UsageError, match="append"):
                await store.append_batches(source)
        assert await exported(store) == b""


@pytest.mark.once
async def test_events_may_come_from_an_async_generator(opened: Opened) -> None:
    async def later() -> AsyncIterator[dict[str, Any]]:
        for i in range(2_000):
            yield event(timestamp=LONG_AGO + i, payload=i)

    async with opened() as store:
        assert (await store.incremental_import(later())).imported == 2_000
        assert (await store.incremental_import(later())).skipped_existing == 2_000


@pytest.mark.once
async def test_a_block_that_is_none_is_refused_by_name(opened: Opened) -> None:
    async def later() -> AsyncIterator[Any]:
        yield b'{"type":"T","timestamp":1,"aggregateId":"a"}\n'
        yield event()

    async with opened() as store:
        with pytest.raises(UsageError, match="a block is bytes, not dict"):
            await store.incremental_import(later())
        assert await exported(store) == b""


class OwnError(Exception):
    pass


async def is_usable(store: EventStore) -> bool:
    return (await store.incremental_import([event()])).imported == 1


@pytest.mark.once
async def test_what_a_generator_of_events_raises_comes_out_and_nothing_is_stored(opened: Opened) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        for i in range(700):
            yield event(timestamp=LONG_AGO + i)
        raise OwnError

    async def broken_later() -> AsyncIterator[dict[str, Any]]:
        for each in broken():
            yield each

    async with opened() as store:
        for given in (broken(), broken_later()):
            with pytest.raises(OwnError):
                await store.incremental_import(given)
        assert await exported(store) == b""
        assert await is_usable(store)

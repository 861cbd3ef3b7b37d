"""What goes into an incremental import, and what does not."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventferry import (
    Event,
    ImportReport,
    InputError,
    UsageError,
)
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    Opened,
    as_dict,
    events_of,
    exported,
    import_lines,
    line,
    make_lines,
)
from tests.support.incremental import (
    JSON_VALUES,
    PER_EXAMPLE,
    at,
    blocks,
    check_no_gaps,
    contents,
    make_new,
    meaning,
    payload_texts,
    payloads,
    raw,
    spelled,
    state,
)


def cut(text: bytes, size: int) -> list[bytes]:
    return [text[start : start + size] for start in range(0, len(text), size)]


# what goes in


@pytest.mark.once
async def test_dicts_events_and_bytes_come_in_alike(opened: Opened) -> None:
    dicts = [make_new(i) for i in range(30)]
    objects = [
        Event(
            type=event["type"],
            timestamp=event["timestamp"],
            aggregate_id=event["aggregateId"],
            payload=event["payload"],
        )
        for event in dicts
    ]
    array = json.dumps(dicts).encode()
    found = []
    sources: list[Any] = [
        dicts,
        tuple(dicts),
        iter(dicts),
        (event for event in dicts),
        objects,
        [*objects[:10], *dicts[10:]],
        events_of(make_lines(30)),
        blocks(b"".join(map(line, dicts))),
        blocks(*cut(b"".join(map(line, dicts)), 7)),
        blocks(make_lines(30)),
        blocks(array),
        blocks(*cut(array, 11)),
    ]
    for source in sources:
        async with opened() as store:
            assert await store.incremental_import(source) == ImportReport(30, 0, 0)
            found.append(await exported(store))
    assert found == [found[0]] * len(found)


@pytest.mark.once
async def test_events_loaded_from_another_store_come_in(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, make_lines(100))
        page = await source.load_events(limit=100, cursor=None)
        assert await target.incremental_import(page.events) == ImportReport(100, 0, 0)
        assert await target.incremental_import(blocks(await exported(source))) == ImportReport(0, 100, 0)


PAYLOADS: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    -1.0,
    1.5,
    2**70,
    -(2**70),
    "",
    "null",
    " spaces kept ",
    [],
    {},
    [[]],
    {"": {"": None}},
    "\u2028 \U0001f600 \x7f \x01",
]


@pytest.mark.once
async def test_an_event_object_brings_its_payload_whatever_it_is(opened: Opened) -> None:
    objects = [Event(type="T", timestamp=5, aggregate_id="a", payload=payload) for payload in PAYLOADS]
    dicts = [at(6, 0, "b") | {"payload": payload} for payload in PAYLOADS]
    async with opened() as store:
        await store.incremental_import(objects)
        await store.incremental_import(dicts)
        assert [(type(found), found) for found in await payloads(store)] == 2 * [
            (type(payload), payload) for payload in PAYLOADS
        ]


@pytest.mark.parametrize("timestamp", [-1, 0, -(2**53) + 1, 2**53 - 1])
@pytest.mark.once
async def test_any_whole_millisecond_is_a_timestamp(opened: Opened, timestamp: int) -> None:
    async with opened() as store:
        await store.incremental_import([Event(type="T", timestamp=timestamp, aggregate_id="a")])
        await store.incremental_import([at(timestamp, 0, "b")])
        assert [event.timestamp for event in await contents(store)] == [timestamp] * 2


async def test_numbers_come_in_exactly(opened: Opened) -> None:
    texts = ["12345678901234567890", "0.1000000000000000055511151231257827", "1e400", "-1.5e-300", "1.0"]
    async with opened() as store:
        await store.incremental_import(blocks(*(raw(text, f"a{i}") for i, text in enumerate(texts))))
        assert [Decimal(text) for text in await payload_texts(store)] == [Decimal(text) for text in texts]


@pytest.mark.once
async def test_a_number_beyond_floats_goes_from_store_to_store_in_an_event_object(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await source.incremental_import(blocks(raw('[1e400,-1e400,{"a":1}]')))
        page = await source.load_events(limit=1, cursor=None)
        assert await target.incremental_import(page.events) == ImportReport(1, 0, 0)
        assert await target.incremental_import(blocks(await exported(source))) == ImportReport(0, 1, 0)


TRICKY = [
    {"text": 'quotes " and \\ and ]}[{, and \\"'},
    "é😀\u2028",
    [[], {}, [{"a": ["b"]}], "\\"],
    {"a": 1.5e3, "b": None},
    "",
    -1,
]


@pytest.mark.once
async def test_a_json_array_may_be_cut_anywhere(opened: Opened) -> None:
    async with opened() as store:
        cuts = 0
        while True:
            batch = [at(LONG_AGO, 0, f"cut {cuts}") | {"payload": payload} for payload in TRICKY]
            text = json.dumps(batch, ensure_ascii=False, separators=(" ,", ": ")).encode()
            if cuts > len(text):
                break
            arriving = blocks(text[:cuts], text[cuts:])
            assert await store.incremental_import(arriving) == ImportReport(len(TRICKY), 0, 0)
            cuts += 5
        for size in (1, 2, 3):
            batch = [at(LONG_AGO, 0, f"size {size}") | {"payload": payload} for payload in TRICKY]
            text = json.dumps(batch, ensure_ascii=size == 2).encode()
            await store.incremental_import(blocks(*cut(text, size)))
        found: dict[str, list[Any]] = defaultdict(list)
        for event in await contents(store):
            found[event.aggregate_id].append(event.payload)
        assert len(found) > 30
        assert all(payloads == TRICKY for payloads in found.values())


@PER_EXAMPLE
@given(
    payload=JSON_VALUES,
    cuts=st.lists(st.integers(0, 2000), max_size=30),
    as_array=st.booleans(),
    seed=st.integers(0, 2**32),
)
@pytest.mark.once
async def test_bytes_may_be_cut_anywhere(
    opened: Opened, payload: Any, cuts: list[int], as_array: bool, seed: int
) -> None:
    texts = [raw(spelled(payload, random.Random(seed + place)), f"a{place}") for place in range(5)]
    text = b" [ %s ] \n" % b"\n,".join(text[:-1] for text in texts) if as_array else b"".join(texts)
    places = [0, *sorted(cuts), len(text)]
    async with opened() as store:
        pieces = [text[start:end] for start, end in itertools.pairwise(places)]
        assert await store.incremental_import(blocks(*pieces)) == ImportReport(5, 0, 0)
        found = await payload_texts(store)
        assert [meaning(text) for text in found] == [meaning(spelled(payload, random.Random(seed)))] * 5


@pytest.mark.once
@pytest.mark.parametrize(
    "text",
    [
        b'\xef\xbb\xbf[{"type":"T","timestamp":1,"aggregateId":"a"}]',
        b'\xef\xbb\xbf{"type":"T","timestamp":1,"aggregateId":"a"}\n',
        b'\r\n\r\n{"type":"T","timestamp":1,"aggregateId":"a"}\r\n\r\n',
        b' \n\t[\n{"aggregateId":"a","timestamp":1,"type":"T"}\n]\n\n',
        b'{"type":"T","timestamp":1,"aggregateId":"a"}',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":null}\n',
    ],
)
async def test_byte_order_marks_blank_lines_and_carriage_returns_are_tolerated(
    opened: Opened, text: bytes
) -> None:
    for pieces in ([text], cut(text, 1), cut(text, 2)):
        async with opened() as store:
            assert await store.incremental_import(blocks(*pieces)) == ImportReport(1, 0, 0)
            assert await payloads(store) == [None]


@pytest.mark.once
async def test_nothing_gives_a_report_of_zeros(opened: Opened) -> None:
    zeros = ImportReport(0, 0, 0)
    async with opened() as store:
        for _ in range(2):
            assert await store.incremental_import([]) == zeros
            assert await store.incremental_import([], dry_run=True) == zeros
            for text in (b"", b"[]", b" [ ]\n", b"\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf[]"):
                assert await store.incremental_import(blocks(text)) == zeros
                assert await store.incremental_import(blocks(*cut(text, 1))) == zeros
            import_id = await store.begin_incremental_import()
            assert await store.push_incremental_import([], import_id) == 0
            assert await store.push_incremental_import(blocks(b"[]"), import_id) == 0
            assert await store.commit_incremental_import(import_id) == zeros
            await store.incremental_import([make_new(0)])


@pytest.mark.once
async def test_positions_and_versions_that_are_given_are_ignored(opened: Opened) -> None:
    garbage: list[Any] = [-1, 10**30, 1.5, None, "x", [1], {"a": 1}, True]
    batch = [
        at(LONG_AGO, place) | {"threadId": value, "threadCounter": value, "aggregateVersion": value}
        for place, value in enumerate(garbage)
    ]
    text = b"".join(map(line, batch))
    for source in (batch, blocks(text), blocks(json.dumps(batch).encode())):
        async with opened() as store:
            assert await store.incremental_import(source) == ImportReport(len(garbage), 0, 0)
            assert await payloads(store) == list(range(len(garbage)))
            check_no_gaps(await contents(store))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"type": None}, "type"),
    ({"type": 5}, "type"),
    ({"timestamp": "2013-01-01"}, "timestamp"),
    ({"timestamp": 1.5}, "timestamp"),
    ({"timestamp": True}, "timestamp"),
    ({"timestamp": None}, "timestamp"),
    ({"timestamp": 2**60}, "timestamp"),
    ({"aggregateId": 7}, "aggregateId"),
    ({"aggregateId": "x" * 800}, "aggregateId"),
    ({"type": "x" * 800}, "type"),
    ({"aggregateId": "a\0b"}, "aggregateId"),
    ({"colour": "red"}, "colour"),
]


# what does not go in


@pytest.mark.once
@pytest.mark.parametrize(("changes", "field"), BAD)
async def test_an_event_that_is_none_is_refused_by_place_and_field(
    opened: Opened, changes: dict[str, Any], field: str
) -> None:
    batch = [make_new(20), make_new(21), make_new(22, **changes), make_new(23)]
    text = b"".join(map(line, batch))
    offset = len(line(batch[0]) + line(batch[1]))
    array = json.dumps(batch).encode()
    sources: list[tuple[Any, set[int | None]]] = [
        (batch, {None}),
        (blocks(*cut(text, 50)), {offset}),
        # An element begins behind the comma, or behind the space behind the comma.
        (blocks(*cut(array, 50)), {len(json.dumps(batch[:2])), len(json.dumps(batch[:2])) + 1}),
    ]
    async with opened() as store:
        await import_lines(store, make_lines(10))
        import_id = await store.begin_incremental_import()
        before = await state(store)
        for source, offsets in sources:
            with pytest.raises(InputError) as caught:
                await store.incremental_import(source)
            assert caught.value.line == 3
            assert caught.value.field == field
            assert caught.value.byte_offset in offsets
            assert "3" in str(caught.value)
            assert field in str(caught.value)
        with pytest.raises(InputError):
            await store.push_incremental_import(batch, import_id)
        assert await state(store) == before
        assert await store.commit_incremental_import(import_id) == ImportReport(0, 0, 0)


@pytest.mark.once
@pytest.mark.parametrize("missing", ["type", "timestamp", "aggregateId"])
async def test_an_event_that_lacks_a_field_is_refused_by_its_name(opened: Opened, missing: str) -> None:
    lacking = {key: value for key, value in make_new(1).items() if key != missing}
    async with opened() as store:
        for source in ([make_new(0), lacking], blocks(line(make_new(0)), line(lacking))):
            with pytest.raises(InputError) as caught:
                await store.incremental_import(source)
            assert (caught.value.line, caught.value.field) == (2, missing)
        assert await exported(store) == b""


@pytest.mark.once
@pytest.mark.parametrize(
    "payload", [float("nan"), float("inf"), "\ud800", {"\udc00": 1}, {1, 2}, b"bytes", type], ids=repr
)
async def test_a_payload_that_is_no_json_value_is_refused(opened: Opened, payload: Any) -> None:
    async with opened() as store:
        with pytest.raises(InputError) as caught:
            await store.incremental_import([make_new(0), make_new(1, payload=payload)])
        assert (caught.value.line, caught.value.field) == (2, "payload")
        assert await exported(store) == b""


@pytest.mark.once
@pytest.mark.parametrize(
    "text",
    [
        b"[",
        b"[]]",
        b"[] x",
        b"[,]",
        b"[1]",
        b"[{}]",
        b'["a"]',
        b"{}",
        b"null",
        b"\xff",
        b"\xef\xbb",
        b"[\xff]",
        b'[{"type":"T","timestamp":1,"aggregateId":"a"},]',
        b'[{"type":"T","timestamp":1,"aggregateId":"a"}',
        b'[{"type":"T","timestamp":1,"aggregateId":"a"} {"type":"T","timestamp":1,"aggregateId":"a"}]',
        b'[{"type":"T","timestamp":1,"aggregateId":"a"}]{"type":"T","timestamp":1,"aggregateId":"a"}',
        b'{"type":"T","timestamp":1,"aggregateId":"a"}\n[]',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":NaN}',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":"\\ud800"}',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":"\xed\xa0\x80"}',
        b'{"type":"T","type":"U","timestamp":1,"aggregateId":"a"}',
        b'{"type":"T","timestamp":1,"aggregateId":"a","payload":{"a":1',
        b'{"type":"T","timestamp":1,"aggregateId":"a"}{"type":"T","timestamp":1,"aggregateId":"a"}',
    ],
)
async def test_bytes_that_are_no_events_are_refused_whole(opened: Opened, text: bytes) -> None:
    async with opened() as store:
        for pieces in ([text], cut(text, 1)):
            with pytest.raises(InputError):
                await store.incremental_import(blocks(*pieces))
        assert await exported(store) == b""


@pytest.mark.once
async def test_unknown_keys_are_dropped_if_asked(opened: Opened) -> None:
    odd = make_new(0, colour="red")
    async with opened() as store:
        report = await store.incremental_import(blocks(line(odd)), ignore_unknown_keys=True)
        assert report == ImportReport(1, 0, 0)
        assert await store.incremental_import([make_new(0)]) == ImportReport(0, 1, 0)
        assert await store.incremental_import([odd], ignore_unknown_keys=True) == ImportReport(0, 1, 0)


async def test_a_push_is_whole_or_not_at_all(opened: Opened) -> None:
    """Also one that is far larger than what is written at a time."""
    many: list[dict[str, Any]] = [at(LONG_AGO + i, i) for i in range(11_000)]
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(1, -1)], import_id)
        with pytest.raises(InputError) as caught:
            await store.push_incremental_import([*many, {"type": "T"}], import_id)
        assert caught.value.line == 11_001

        async def dies() -> AsyncIterator[bytes]:
            yield b"".join(map(line, many))
            raise ConnectionResetError("the source is gone")

        with pytest.raises(ConnectionResetError):
            await store.push_incremental_import(dies(), import_id)
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        assert await payloads(store) == [-1]


async def test_a_push_that_is_cancelled_leaves_nothing_and_holds_up_nobody(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        reached = asyncio.Event()

        async def hangs() -> AsyncIterator[bytes]:
            yield line(at(1, 1))
            reached.set()
            await asyncio.sleep(3600)

        push = asyncio.create_task(store.push_incremental_import(hangs(), import_id))
        await reached.wait()
        await store.save_event({"type": "T", "aggregateId": "b", "aggregateVersion": 1, "payload": 0})
        push.cancel()
        with pytest.raises(asyncio.CancelledError):
            await push
        assert await store.push_incremental_import([at(FAR_FUTURE, 2)], import_id) == 1
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)
        assert await payloads(store) == [0, 2]


@pytest.mark.once
async def test_what_is_no_source_of_events_is_refused_by_name(opened: Opened) -> None:
    wrong: Sequence[Any] = (b"[]", "[]", as_dict(Event(type="T", aggregate_id="a")))
    async with opened() as store:
        for source in wrong:
            with pytest.raises((UsageError, InputError)):
                await store.incremental_import(source)
        assert await exported(store) == b""

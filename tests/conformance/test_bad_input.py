"""Bad input, row by row of the table in the design: a clear error, and the 300 events of the store unharmed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from eventferry import (
    AUTO,
    EmptyInputError,
    EventStore,
    ImportNotFoundError,
    ImportReport,
    InputError,
    StoreFrozenError,
    pipeline,
)
from tests.support import LONG_AGO, Opened, exported, import_lines, line, make_event, make_lines

OLD = make_lines(300)
BOM = b"\xef\xbb\xbf"
EVENTS = [make_event(i, type="NEW", aggregateId=f"new-{i % 7}", aggregateVersion=i + 1) for i in range(400)]
LINES = [line(event) for event in EVENTS]
NEW = b"".join(LINES)
BAD_PLACE = 200
BEFORE = b"".join(LINES[:BAD_PLACE])


def with_bad(bad: bytes) -> bytes:
    """The new lines, the one in the middle replaced."""
    return BEFORE + bad + b"\n" + b"".join(LINES[BAD_PLACE + 1 :])


def changed(**changes: Any) -> bytes:
    """The line in the middle, with changes; a change to `...` leaves the key out."""
    event = EVENTS[BAD_PLACE] | changes
    return line({key: value for key, value in event.items() if value is not ...}).rstrip(b"\n")


def spelled(field: str, text: bytes) -> bytes:
    """The line in the middle, with a field spelled as this text."""
    return changed(**{field: "PLACE"}).replace(b'"PLACE"', text)


@asynccontextmanager
async def full(opened: Opened) -> AsyncIterator[EventStore]:
    """A store of 300 events that must be as they were at the end, and not frozen."""
    async with opened() as store:
        await import_lines(store, OLD)
        await store.save_snapshot("key", "content")
        yield store
        assert await exported(store) == OLD
        description = await store.describe()
        assert not description.is_frozen
        assert description.event_count == 300
        assert description.open_import is None
        assert await store.load_snapshot("key") == "content"
        # Nothing is left in the way of the next one.
        await import_lines(store, NEW)
        assert await exported(store) == NEW


async def refusal(store: EventStore, source: bytes, block: int | None = None, **options: Any) -> InputError:
    size = block or len(source)
    blocks = [source[start : start + size] for start in range(0, len(source), size)]
    with pytest.raises(InputError) as refused:
        await pipeline(blocks, store.import_events(**options))
    return refused.value


async def refusal_if_any(store: EventStore, source: bytes) -> InputError | None:
    try:
        await import_lines(store, source)
    except InputError as error:
        return error
    return None


# the rows of the table, in order


@pytest.mark.once
@pytest.mark.parametrize("block", [None, 1000, 7])
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"nonsense", id="a word"),
        pytest.param(LINES[BAD_PLACE][:-10], id="cut off"),
        pytest.param(LINES[BAD_PLACE].rstrip() * 2, id="two on one line"),
        pytest.param(LINES[BAD_PLACE].rstrip() + b"x", id="something behind"),
        pytest.param(b"[]", id="an array"),
        pytest.param(b"{}", id="an empty object"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"threadCounter":0,}', id="a comma too many"),
        pytest.param(b"\x00", id="a zero byte"),
        pytest.param(spelled("payload", b""), id="no payload"),
        pytest.param(spelled("payload", b"{'a':1}"), id="single quotes"),
        pytest.param(spelled("payload", b"01"), id="a number with a leading zero"),
        pytest.param(spelled("payload", b'"\x01"'), id="a control character"),
        pytest.param(spelled("payload", b"[" * 100_000 + b"]" * 100_000), id="very deep"),
    ],
)
async def test_a_malformed_line_in_the_middle_is_named_by_number_offset_and_reason(
    opened: Opened, bad: bytes, block: int | None
) -> None:
    if len(bad) > 100_000 and block == 7:
        block = 70_000
    async with full(opened) as store:
        error = await refusal(store, with_bad(bad), block)
        assert (error.line, error.byte_offset) == (BAD_PLACE + 1, len(BEFORE))
        assert error.reason
        assert str(error).startswith(f"line {BAD_PLACE + 1}, byte {len(BEFORE)}")


@pytest.mark.once
async def test_a_malformed_line_in_a_frozen_import_leaves_the_store_thawed(opened: Opened) -> None:
    async with full(opened) as store:
        await refusal(store, with_bad(b"nonsense"), freeze=True)


async def test_a_position_that_comes_twice_names_both_lines(opened: Opened) -> None:
    clash = changed(threadId=EVENTS[17]["threadId"], threadCounter=EVENTS[17]["threadCounter"])
    async with full(opened) as store:
        error = await refusal(store, with_bad(clash))
        assert (error.line, error.field) == (BAD_PLACE + 1, "threadCounter")
        assert "in line 18" in error.reason


async def test_a_version_that_comes_twice_names_both_lines(opened: Opened) -> None:
    clash = changed(aggregateId=EVENTS[17]["aggregateId"], aggregateVersion=EVENTS[17]["aggregateVersion"])
    async with full(opened) as store:
        error = await refusal(store, with_bad(clash))
        assert (error.line, error.field) == (BAD_PLACE + 1, "aggregateVersion")
        assert "in line 18" in error.reason


@pytest.mark.once
async def test_of_many_clashes_the_first_is_named_blank_lines_counted(opened: Opened) -> None:
    async with full(opened) as store:
        error = await refusal(store, b"\n\n" + NEW + b"\n" + LINES[5] + LINES[3])
        assert error.line == 2 + 400 + 1 + 1
        assert "in line 8" in error.reason


@pytest.mark.parametrize("size", [512 * 1024, 5 * 1024 * 1024])
async def test_an_event_far_over_512_kilobytes_is_imported(opened: Opened, size: int) -> None:
    large = line(make_event(0, payload="x" * size))
    async with full(opened) as store:
        await import_lines(store, large)
        assert await exported(store) == large
        await import_lines(store, OLD)
        await store.save_snapshot("key", "content")


@pytest.mark.once
async def test_a_thousand_events_of_3_kilobytes_go_from_pipe_to_pipe(opened: Opened) -> None:
    lines = b"".join(line(make_event(i, payload="x" * 3000)) for i in range(1000))
    async with opened() as a, opened() as b:
        await import_lines(a, lines)
        await pipeline(a.export_events(), b.import_events())
        assert await exported(b) == lines


@pytest.mark.parametrize("block", [None, 1000, 7])
@pytest.mark.once
async def test_a_line_over_the_limit_is_named_with_the_setting(opened: Opened, block: int | None) -> None:
    async with full(opened) as store:
        error = await refusal(store, with_bad(changed(payload="x" * 10_000)), block, max_line_bytes=9_000)
        assert (error.line, error.byte_offset) == (BAD_PLACE + 1, len(BEFORE))
        assert "max_line_bytes" in error.reason


@pytest.mark.once
@pytest.mark.parametrize("missing", [2, 3, 10, len(LINES[-1]) - 1])
async def test_a_truncated_last_line_is_an_input_that_ends_inside_an_event(
    opened: Opened, missing: int
) -> None:
    async with full(opened) as store:
        error = await refusal(store, NEW[:-missing])
        assert "ends inside" in error.reason
        assert (error.line, error.byte_offset) == (400, len(NEW) - len(LINES[-1]))


@pytest.mark.once
async def test_a_last_line_without_a_line_feed_is_whole(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, NEW[:-1])
        assert await exported(store) == NEW


@pytest.mark.once
@pytest.mark.parametrize(
    "field", ["threadCounter", "threadId", "type", "timestamp", "aggregateId", "aggregateVersion"]
)
async def test_a_missing_field_is_named(opened: Opened, field: str) -> None:
    async with full(opened) as store:
        error = await refusal(store, with_bad(changed(**{field: ...})))
        assert (error.line, error.byte_offset, error.field) == (BAD_PLACE + 1, len(BEFORE), field)


@pytest.mark.parametrize("field", ["type", "timestamp", "aggregateId"])
@pytest.mark.once
async def test_a_missing_field_is_named_by_an_incremental_import_too(opened: Opened, field: str) -> None:
    events = [event | {"timestamp": LONG_AGO + 10**9} for event in EVENTS[:10]]
    del events[7][field]
    async with full(opened) as store:
        with pytest.raises(InputError) as refused:
            await store.incremental_import(events)
        assert (refused.value.line, refused.value.field) == (8, field)


@pytest.mark.once
@pytest.mark.parametrize(
    "source",
    [
        pytest.param(BOM + NEW, id="a byte order mark"),
        pytest.param(NEW.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(NEW.replace(b"\n", b"\n\n"), id="blank lines"),
        pytest.param(b"\r\n \t\n" + NEW.replace(b"\n", b"\r\n\r\n") + b"  ", id="blank lines all over"),
        pytest.param(BOM + b"\r\n" + NEW, id="a blank line behind a byte order mark"),
    ],
)
@pytest.mark.parametrize("block", [None, 1000, 1])
async def test_blank_lines_crlf_and_a_byte_order_mark_are_tolerated(
    opened: Opened, source: bytes, block: int | None
) -> None:
    size = block or len(source)
    async with opened() as store:
        await import_lines(store, OLD)
        blocks = [source[start : start + size] for start in range(0, len(source), size)]
        report = await pipeline(blocks, store.import_events())
        assert report.imported == 400
        assert await exported(store) == NEW


@pytest.mark.once
async def test_empty_input_over_a_full_store_is_refused(opened: Opened) -> None:
    async with full(opened) as store:
        with pytest.raises(EmptyInputError):
            await import_lines(store, b"")


@pytest.mark.once
async def test_empty_input_over_a_full_store_empties_it_if_asked_for_by_name(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        await import_lines(store, b"", allow_empty=True)
        assert await exported(store) == b""


@pytest.mark.once
async def test_an_incremental_import_into_a_frozen_store_is_refused(opened: Opened) -> None:
    async with full(opened) as store:
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await store.incremental_import(EVENTS)
        await store.unfreeze()


@pytest.mark.once
async def test_an_export_leaves_frozen_what_someone_else_froze(opened: Opened) -> None:
    async with full(opened) as store:
        await store.freeze()
        assert await exported(store, maintenance_mode=AUTO) == OLD
        assert (await store.describe()).is_frozen
        await store.unfreeze()


async def test_a_strangers_commit_with_a_wrong_id_leaves_the_open_import_unharmed(opened: Opened) -> None:
    event = make_event(0, timestamp=LONG_AGO + 10**9)
    async with opened() as store:
        await import_lines(store, OLD)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([event], import_id)
        for wrong in ("wrong", "", import_id + "0", import_id[:-1], import_id.upper() + "x"):
            with pytest.raises(ImportNotFoundError):
                await store.commit_incremental_import(wrong)
            with pytest.raises(ImportNotFoundError):
                await store.push_incremental_import([event], wrong)
        assert await exported(store) == OLD
        assert (await store.commit_incremental_import(import_id)).imported == 1


@pytest.mark.once
async def test_events_that_are_equal_but_for_key_order_are_skipped(opened: Opened) -> None:
    first = make_event(0, timestamp=LONG_AGO + 10**9, payload={"a": 1, "b": {"c": [1, 2], "d": "é"}})
    other = dict(reversed(first.items())) | {"payload": {"b": {"d": "é", "c": [1.0, 2]}, "a": 1}}
    async with opened() as store:
        assert (await store.incremental_import([first])).imported == 1
        assert await store.incremental_import([other]) == ImportReport(0, 1, 0)


@pytest.mark.parametrize("source", [b"[]", b" [ ]\n", b"", b"\n"])
@pytest.mark.once
async def test_an_incremental_import_of_nothing_is_a_report_of_zeros(opened: Opened, source: bytes) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        yield source

    async with full(opened) as store:
        assert await store.incremental_import([]) == ImportReport(0, 0, 0)
        assert await store.incremental_import(blocks()) == ImportReport(0, 0, 0)


NO_FLOATS = ("12345678901234567890", "-9007199254740993", "0.1234567890123456789012", "1e400", "1" * 60)


async def test_a_number_that_a_float_cannot_hold_is_kept_exactly(opened: Opened) -> None:
    texts = [text for number in NO_FLOATS for text in (number, f'{{"a":[{number}]}}')]
    lines = [
        line(make_event(i, payload="PLACE")).replace(b'"PLACE"', text.encode())
        for i, text in enumerate(texts)
    ]
    async with opened() as a, opened() as b:
        await import_lines(a, b"".join(lines))
        await pipeline(a.export_events(), b.import_events())
        kept = [text.partition(b'"payload":')[2].rstrip(b"}\n") for text in (await exported(b)).splitlines()]
        values = [
            json.loads(text.lstrip(b'{"a:[').rstrip(b"]"), parse_float=Decimal, parse_int=Decimal)
            for text in kept
        ]
        assert values == [Decimal(number) for number in NO_FLOATS for _ in range(2)]


async def test_a_whole_number_beyond_a_float_is_loaded_and_saved_exactly(opened: Opened) -> None:
    number = 12345678901234567890
    async with opened() as store:
        event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": {"n": number}}
        assert (await store.save_event(event)).event.payload == {"n": number}
        assert (await store.load_events(limit=1, cursor=None)).events[0].payload == {"n": number}
        assert b"12345678901234567890" in await exported(store)


WRONG = [
    pytest.param(spelled("payload", b"NaN"), "payload", id="NaN"),
    pytest.param(spelled("payload", b'{"a":[NaN]}'), "payload", id="NaN inside"),
    pytest.param(spelled("payload", b"Infinity"), "payload", id="Infinity"),
    pytest.param(spelled("payload", b"-Infinity"), "payload", id="-Infinity"),
    pytest.param(spelled("payload", rb'"\ud800"'), "payload", id="a lone surrogate in the payload"),
    pytest.param(
        spelled("payload", rb'{"\uDFFF":1}'), "payload", id="a lone surrogate in a key of the payload"
    ),
    pytest.param(spelled("payload", rb'"\ud83d \udef3"'), "payload", id="a torn pair"),
    pytest.param(spelled("payload", rb'"\udef3\ud83d"'), "payload", id="a pair the wrong way round"),
    pytest.param(spelled("type", rb'"a\ud800"'), "type", id="a lone surrogate in the type"),
    pytest.param(spelled("aggregateId", rb'"\udc00a"'), "aggregateId", id="a lone surrogate in the id"),
    pytest.param(spelled("type", rb'"a\u0000b"'), "type", id="U+0000 in the type"),
    pytest.param(spelled("aggregateId", rb'"\u0000"'), "aggregateId", id="U+0000 in the id"),
    pytest.param(changed(type=5), "type", id="a type that is a number"),
    pytest.param(changed(type=None), "type", id="a type that is null"),
    pytest.param(changed(aggregateId=["a"]), "aggregateId", id="an id that is a list"),
    pytest.param(changed(timestamp="now"), "timestamp", id="a timestamp that is text"),
    pytest.param(changed(timestamp=True), "timestamp", id="a timestamp that is true"),
    pytest.param(changed(timestamp=1.5), "timestamp", id="a timestamp that is not whole"),
    pytest.param(changed(timestamp=2**63), "timestamp", id="a timestamp beyond any"),
    pytest.param(changed(threadId=256), "threadId", id="threadId 256"),
    pytest.param(changed(threadId=-1), "threadId", id="threadId -1"),
    pytest.param(changed(threadId="1"), "threadId", id="a threadId that is text"),
    pytest.param(changed(threadCounter=1.5), "threadCounter", id="a counter that is not whole"),
    pytest.param(changed(threadCounter=-1), "threadCounter", id="a counter below zero"),
    pytest.param(changed(threadCounter=2**48), "threadCounter", id="a counter that no cursor holds"),
    pytest.param(changed(threadCounter=None), "threadCounter", id="a counter that is null"),
    pytest.param(changed(aggregateVersion=0), "aggregateVersion", id="version 0"),
    pytest.param(changed(aggregateVersion=1.25), "aggregateVersion", id="a version that is not whole"),
    pytest.param(changed(aggregateVersion="1"), "aggregateVersion", id="a version that is text"),
    pytest.param(changed(aggregateId="x" * 701), "aggregateId", id="an id longer than the column"),
    pytest.param(changed(type="é" * 701), "type", id="a type longer than the column"),
    pytest.param(changed(extra=1), "extra", id="a key that is none of the seven"),
    pytest.param(changed(Type="T"), "Type", id="a key in another case"),
    pytest.param(changed().replace(b'"type":"NEW"', b'"type":"NEW","type":"B"'), "type", id="a key twice"),
]


@pytest.mark.once
@pytest.mark.parametrize(("bad", "field"), WRONG)
async def test_what_no_database_can_hold_is_named_by_line_and_field(
    opened: Opened, bad: bytes, field: str
) -> None:
    async with full(opened) as store:
        error = await refusal(store, with_bad(bad))
        assert (error.line, error.byte_offset, error.field) == (BAD_PLACE + 1, len(BEFORE), field)


IGNORED = ("threadId", "threadCounter", "aggregateVersion")
"""What an incremental import does not look at."""


@pytest.mark.once
@pytest.mark.parametrize(("bad", "field"), [wrong for wrong in WRONG if wrong.values[1] not in IGNORED])
async def test_what_no_database_can_hold_is_named_by_an_incremental_import_too(
    opened: Opened, bad: bytes, field: str
) -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield with_bad(bad)

    async def array() -> AsyncIterator[bytes]:
        yield b"[" + b",".join(with_bad(bad).splitlines()) + b"]"

    async with full(opened) as store:
        for source in (lines(), array()):
            with pytest.raises(InputError) as refused:
                await store.incremental_import(source)
            assert (refused.value.line, refused.value.field) == (BAD_PLACE + 1, field)


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"payload": float("nan")}, "payload"),
        ({"payload": {"a": [float("inf")]}}, "payload"),
        ({"payload": "\ud800"}, "payload"),
        ({"payload": {1, 2}}, "payload"),
        ({"payload": b"bytes"}, "payload"),
        ({"payload": {(1, 2): 3}}, "payload"),
        ({"payload": {1: "a", "1": "b"}}, "payload"),
        ({"type": "\ud800"}, "type"),
        ({"type": 5}, "type"),
        ({"type": "a\0b"}, "type"),
        ({"aggregateId": "\udc00"}, "aggregateId"),
        ({"aggregateId": "x" * 701}, "aggregateId"),
        ({"aggregateId": None}, "aggregateId"),
        ({"timestamp": 1.5}, "timestamp"),
        ({"timestamp": "now"}, "timestamp"),
        ({"timestamp": 2**63}, "timestamp"),
        ({"extra": 1}, "extra"),
    ],
    ids=str,
)
async def test_wrong_dicts_are_named_by_place_and_field(
    opened: Opened, changes: dict[str, Any], field: str
) -> None:
    later = {"timestamp": LONG_AGO + 10**9}
    events = [make_event(i) | later for i in range(5)] + [make_event(5) | later | changes]
    async with full(opened) as store:
        with pytest.raises(InputError) as refused:
            await store.incremental_import(events)
        assert (refused.value.line, refused.value.field) == (6, field)
        with pytest.raises(InputError) as refused:
            await store.save_event(
                {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": None} | changes
            )
        assert refused.value.field == field


@pytest.mark.once
@pytest.mark.parametrize("version", [0, -1, 1.5, "1", None, True, ..., 2**53])
async def test_a_wrong_version_is_not_saved(opened: Opened, version: Any) -> None:
    event = {"type": "T", "aggregateId": "a", "aggregateVersion": version, "payload": None}
    if version is ...:
        del event["aggregateVersion"]
    async with full(opened) as store:
        with pytest.raises(InputError) as refused:
            await store.save_event(event)
        assert refused.value.field == "aggregateVersion"


@pytest.mark.once
@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf0\x9f"])
@pytest.mark.parametrize("block", [None, 7])
async def test_bytes_that_are_not_utf8_are_named_by_line_and_offset(
    opened: Opened, bad: bytes, block: int | None
) -> None:
    async with full(opened) as store:
        error = await refusal(store, with_bad(spelled("payload", b'"' + bad + b'"')), block)
        assert (error.line, error.byte_offset) == (BAD_PLACE + 1, len(BEFORE))
        assert "UTF-8" in error.reason


async def test_u0000_in_a_payload_is_kept_or_refused_by_line_and_field(opened: Opened) -> None:
    source = with_bad(spelled("payload", rb'{"a":"\u0000"}'))
    async with opened() as store:
        await import_lines(store, OLD)
        error = await refusal_if_any(store, source)
        if error is not None:
            assert (error.line, error.field) == (BAD_PLACE + 1, "payload")
            assert await exported(store) == OLD
            return
        assert (await store.load_events(limit=400, cursor=None)).events[BAD_PLACE].payload == {"a": "\0"}
        assert await exported(store) == source


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["x" * 700, "é" * 700, "🛳" * 650, "a'b\"c\\d", "", " ", "a\nb\t", "a%_", "null", "\x7f\u2028"]
)
async def test_whatever_the_columns_hold_is_kept(opened: Opened, text: str) -> None:
    lines = line(make_event(0, type=text, aggregateId=text))
    async with opened() as a, opened() as b:
        await import_lines(a, lines)
        await pipeline(a.export_events(), b.import_events())
        assert json.loads(await exported(b)) == json.loads(lines)
        loaded = (await b.load_events(limit=1, cursor=None, aggregate_ids=[text], event_types=[text])).events
        assert [event.aggregate_id for event in loaded] == [text]


async def test_names_are_compared_byte_by_byte(opened: Opened) -> None:
    names = ["a", "A", "á", "a\u0301", "a ", "ａ"]
    events = [make_event(i, aggregateId=name, aggregateVersion=1) for i, name in enumerate(names)]
    async with opened() as store:
        await import_lines(store, events)
        for i, name in enumerate(names):
            assert await exported(store, aggregate_ids=[name]) == line(events[i])


@pytest.mark.once
async def test_unknown_keys_are_dropped_if_asked_for(opened: Opened) -> None:
    source = b"".join(line(event | {"extra": [i], "other": None}) for i, event in enumerate(EVENTS))
    async with full(opened) as store:
        assert (await refusal(store, source)).field == "extra"
        await import_lines(store, source, ignore_unknown_keys=True)
        assert await exported(store) == NEW
        await import_lines(store, OLD)
        await store.save_snapshot("key", "content")


@pytest.mark.once
async def test_a_missing_payload_is_null(opened: Opened) -> None:
    event = make_event(0)
    del event["payload"]
    async with opened() as store:
        await import_lines(store, [event])
        assert await exported(store) == line(make_event(0, payload=None))


@pytest.mark.once
async def test_however_a_line_is_broken_it_is_refused_by_its_number(opened: Opened) -> None:
    whole = LINES[0].rstrip(b"\n")
    async with full(opened) as store:
        for place in range(len(whole)):
            for broken in (whole[:place] + whole[place + 1 :], whole[:place] + b"\x00" + whole[place + 1 :]):
                # Where the line is still one, the version that comes twice behind it is refused.
                error = await refusal_if_any(store, broken + b"\n" + LINES[1] + LINES[1])
                assert error is not None
                assert error.line in (1, 3)


@pytest.mark.once
@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize("payload_first", [False, True])
@pytest.mark.slow
async def test_what_nests_too_deeply_is_refused_by_its_number_however_near_the_limit(
    opened: Opened, space: str, payload_first: bool
) -> None:
    async def blocks(source: bytes) -> AsyncIterator[bytes]:
        yield source

    event = make_event(0, payload="PLACE")
    if payload_first:
        event = {"payload": "PLACE"} | event
    text = json.dumps(event, separators=(",", ":"))
    async with opened() as store:
        for depth in [10, 500, *range(900, 1001), 2000, 20_000]:
            source = text.replace('"PLACE"', f"[{space}" * depth + "]" * depth).encode() + b"\n"
            error = await refusal_if_any(store, source)
            assert error is None or error.line == 1
            with contextlib.suppress(InputError):
                await store.incremental_import(blocks(source), older="accept")

"""Verify, as a function: the same answer in any order, at any size, in bounded memory."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import InputError, verify
from tests.support import LONG_AGO, import_lines, line, make_event, open_new
from tests.support.incremental import JSON_VALUES, meaning, spelled
from tests.support.places import Places

MEGABYTE = 1024 * 1024


async def blocks(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    for text in lines:
        yield text


def shuffled(lines: list[bytes], seed: int) -> list[bytes]:
    mixed = list(lines)
    random.Random(seed).shuffle(mixed)
    return mixed


LINES = [line(make_event(i)) for i in range(2000)]


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("waiting_bytes", [10**9, 20_000, 0])
async def test_two_sources_in_any_order_are_equal_wherever_they_wait(
    content: bool, waiting_bytes: int
) -> None:
    report = await verify(
        blocks(shuffled(LINES, 1)), blocks(shuffled(LINES, 2)), content=content, waiting_bytes=waiting_bytes
    )
    assert (report.equal, report.events, report.other_events) == (True, 2000, 2000)


@pytest.mark.parametrize("waiting_bytes", [10**9, 20_000])
async def test_every_difference_is_found_wherever_it_waits_and_the_first_ones_are_told_in_order(
    waiting_bytes: int,
) -> None:
    changed = line(make_event(1500, payload={"number": -1}))
    other = [
        *LINES[:700],
        *LINES[701:1500],
        changed,
        *LINES[1501:],
        line(make_event(2000)),
        line(make_event(2001)),
    ]
    report = await verify(blocks(shuffled(LINES, 3)), blocks(shuffled(other, 4)), waiting_bytes=waiting_bytes)
    assert (report.equal, report.missing, report.extra, report.changed) == (False, 1, 2, 1)
    told = [(difference.kind, difference.timestamp - LONG_AGO) for difference in report.differences]
    assert told == [("missing", 700), ("changed", 1500), ("extra", 2000), ("extra", 2001)]
    assert report.differences[1].fields == ("payload",)


@pytest.mark.parametrize("backwards", [False, True])
async def test_an_archived_event_that_differs_in_another_field_is_changed_and_not_counted_twice(
    backwards: bool,
) -> None:
    marker = {"$archived": "0123456789abcdef"}
    one = [line(make_event(0)), line(make_event(1))]
    other = [line(make_event(0, payload=marker)), line(make_event(1, payload=marker, type="OTHER"))]
    if backwards:
        other.reverse()
    report = await verify(blocks(one), blocks(other), archived=True)
    assert (report.changed, report.archived) == (1, 1)
    assert report.differences[0].fields == ("type",)


@pytest.mark.parametrize("bad", [b'{"threadCounter":1}\n', line(make_event(0, threadId=256))])
@pytest.mark.parametrize("side", [0, 1, None])
@pytest.mark.parametrize("cut", [1, 700, 10**9])
async def test_a_line_that_is_no_event_is_refused_by_its_number_on_whichever_side(
    bad: bytes, side: int | None, cut: int
) -> None:
    """Also where both sides have the same: equal is not enough. Blank lines count as lines."""
    good = [b"\n", *LINES[:5], b" \r\n", *LINES[5:1500]]
    broken = [*good[:1200], bad, *good[1200:]]
    sides = [broken if side in (None, place) else good for place in (0, 1)]

    def pieces(texts: list[bytes]) -> AsyncIterator[bytes]:
        return blocks(b"".join(texts[start : start + cut]) for start in range(0, len(texts), cut))

    with pytest.raises(InputError) as caught:
        await verify(pieces(sides[0]), pieces(sides[1]))
    assert caught.value.line == 1201
    assert caught.value.byte_offset == sum(map(len, good[:1200]))


def content_line(group: int, payload: str) -> bytes:
    return b'{"type":"T","timestamp":%d,"aggregateId":"a","payload":%b}\n' % (group, payload.encode())


async def test_by_content_an_event_with_another_payload_is_missing_and_extra() -> None:
    one, other = blocks([content_line(0, '{"a":1}')]), blocks([content_line(0, '{"a":2}')])
    report = await verify(one, other, content=True)
    assert (report.equal, report.missing, report.extra) == (False, 1, 1)


events = st.lists(st.tuples(st.integers(0, 2), JSON_VALUES), max_size=12)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(events, events, st.randoms(use_true_random=False), st.sampled_from([0, 10**9]))
async def test_by_content_what_is_missing_and_extra_is_the_difference_of_two_multisets(
    first: list[Any], second: list[Any], chance: random.Random, waiting_bytes: int
) -> None:
    both = [*second, *chance.sample(first, len(first) // 2)]
    chance.shuffle(both)
    texts = [[(group, spelled(value, chance)) for group, value in side] for side in (first, both)]
    left, right = (Counter((group, meaning(text)) for group, text in side) for side in texts)
    report = await verify(
        *(blocks(content_line(*event) for event in side) for side in texts),
        content=True,
        waiting_bytes=waiting_bytes,
    )
    assert report.missing == (left - right).total()
    assert report.extra == (right - left).total()
    assert report.equal == (left == right)


@pytest.mark.slow
async def test_many_events_of_one_moment_are_compared_in_time_that_grows_as_they_do() -> None:
    """With every one compared with every other this would take minutes."""
    spelled_twice = [
        [content_line(0, f'{{"a":{i},"b":1.0}}') for i in range(20_000)],
        [content_line(0, f'{{"b":1,"a":{i}}}') for i in reversed(range(20_000))],
    ]
    report = await verify(*map(blocks, spelled_twice), content=True)
    assert report.equal


def payload_of(i: int) -> dict[str, Any]:
    """One that every database spells in its own way."""
    return {"number": i, "text": f"€ {i}", "amount": i + 0.5, "b": [True, None, {"zz": 1, "a": "\u0001"}]}


def one_byte(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    events[101]["payload"] = payload_of(101) | {"text": "€ 102"}
    return events


def one_number(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    events[101]["payload"] = payload_of(101) | {"amount": 101.50000000000001}
    return events


def one_missing(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return events[:101] + events[102:]


def one_doubled(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same happens twice, at a position of its own: a store cannot hold it otherwise."""
    place = {key: make_event(300)[key] for key in ("threadId", "threadCounter")}
    return [*events, events[101] | place | {"aggregateVersion": 31}]


def two_swapped(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    events[100]["payload"], events[101]["payload"] = events[101]["payload"], events[100]["payload"]
    return events


def two_places_swapped(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    places = [{key: event[key] for key in ("threadId", "threadCounter")} for event in events[100:102]]
    return [*events[:100], events[100] | places[1], events[101] | places[0], *events[102:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "by_identity", "by_content"),
    [
        (list, (0, 0, 0), (0, 0, 0)),
        (one_byte, (0, 0, 1), (1, 1, 0)),
        (one_number, (0, 0, 1), (1, 1, 0)),
        (one_missing, (1, 0, 0), (1, 0, 0)),
        (one_doubled, (0, 1, 0), (0, 1, 0)),
        (two_swapped, (0, 0, 2), (2, 2, 0)),
        (two_places_swapped, (0, 0, 2), (0, 0, 0)),
    ],
)
@pytest.mark.parametrize(
    ("one", "two"), [("sqlite", "postgresql"), ("sqlite", "mariadb"), ("postgresql", "mariadb")]
)
async def test_between_databases_nothing_but_what_differs_is_a_difference(
    tmp_path: Path, one: str, two: str, change: Any, by_identity: Any, by_content: Any
) -> None:
    with Places(one, tmp_path) as here, Places(two, tmp_path) as there:
        async with open_new(here.new_url) as a, open_new(there.new_url) as b:
            await import_lines(a, [make_event(i, payload=payload_of(i)) for i in range(300)])
            await import_lines(b, change([make_event(i, payload=payload_of(i)) for i in range(300)]))
            for content, expected in ((False, by_identity), (True, by_content)):
                report = await verify(a.export_events(), b.export_events(), content=content)
                assert (report.missing, report.extra, report.changed) == expected
                assert report.equal == (not any(expected))
                back = await verify(b.export_events(), a.export_events(), content=content)
                assert (back.extra, back.missing, back.changed) == expected


SCRIPT = """
import asyncio, sys
from pathlib import Path
from eventferry import InputError, verify

async def many(start, step):
    text = b"x" * 180
    for i in range(start, start + step * 100_000, step):
        yield (b'{"threadCounter":%d,"threadId":%d,"type":"SOMETHING_HAPPENED","timestamp":%d,"aggregateId":"a-%d",'
            b'"aggregateVersion":%d,"payload":{"number":%d,"text":"%s"}}\\n'
            % (i // 256, i % 256, 1600000000000 + i, i % 10000, i // 10000 + 1, i, text))

report = asyncio.run(verify(many(0, 1), many(99_999, -1), content=sys.argv[1] == "content",
    waiting_bytes=8 * 1024 * 1024))
assert report.equal, report
status = Path("/proc/self/status").read_text()
print(next(int(text.split()[1]) for text in status.splitlines() if text.startswith("VmHWM")) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("by", ["identity", "content"])
def test_a_hundred_thousand_events_and_the_same_backwards_stay_under_100_megabytes(by: str) -> None:
    child = subprocess.run([sys.executable, "-c", SCRIPT, by], stdout=subprocess.PIPE, text=True, check=True)
    print(f"{int(child.stdout) / MEGABYTE:.0f} MB")
    assert int(child.stdout) < 100 * MEGABYTE

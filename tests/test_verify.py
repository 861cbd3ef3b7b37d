"""Verify, as a function: the same answer in any order, at any size, in bounded memory."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import verify
from tests.conformance.incremental import JSON_VALUES, meaning, spelled
from tests.support import LONG_AGO, line, make_event

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


def content_line(group: int, payload: str) -> bytes:
    return b'{"type":"T","timestamp":%d,"aggregateId":"a","payload":%b}\n' % (group, payload.encode())


events = st.lists(st.tuples(st.integers(0, 2), JSON_VALUES), max_size=12)


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


async def test_many_events_of_one_moment_are_compared_in_time_that_grows_as_they_do() -> None:
    """With every one compared with every other this would take minutes."""
    spelled_twice = [
        [content_line(0, f'{{"a":{i},"b":1.0}}') for i in range(20_000)],
        [content_line(0, f'{{"b":1,"a":{i}}}') for i in reversed(range(20_000))],
    ]
    report = await verify(*map(blocks, spelled_twice), content=True)
    assert report.equal


SCRIPT = """
import asyncio, sys
from pathlib import Path
from eventferry import verify

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


@pytest.mark.parametrize("by", ["identity", "content"])
def test_a_hundred_thousand_events_and_the_same_backwards_stay_under_100_megabytes(by: str) -> None:
    child = subprocess.run([sys.executable, "-c", SCRIPT, by], stdout=subprocess.PIPE, text=True, check=True)
    print(f"{int(child.stdout) / MEGABYTE:.0f} MB")
    assert int(child.stdout) < 100 * MEGABYTE

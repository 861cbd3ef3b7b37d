"""The vector cursor: 256 next counters of 6 bytes, big-endian, base64."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import UsageError
from eventferry import cursor as vector
from tests.support import event_at, examples

HIGHEST = 2**48 - 1
counters = st.lists(st.integers(0, HIGHEST), min_size=256, max_size=256)


def test_the_cursor_of_the_start_is_2048_times_the_letter_a() -> None:
    assert vector.encode(vector.decode(None)) == "A" * 2048


def test_counters_stand_in_order_of_their_thread_in_six_bytes_with_the_highest_first() -> None:
    counters = [0] * 256
    counters[0], counters[1], counters[255] = 1, 0x0102_0304_0506, HIGHEST
    packed = base64.b64decode(vector.encode(counters))
    assert packed[:12] == b"\0\0\0\0\0\1" + b"\1\2\3\4\5\6"
    assert packed[12:-6] == bytes(253 * 6)
    assert packed[-6:] == b"\xff" * 6


def test_a_cursor_known_by_its_text_is_read_as_its_counters() -> None:
    # 1 in thread 0 and 258 in thread 1: 00 00 00 00 00 01  00 00 00 00 01 02
    assert vector.decode("AAAAAAABAAAAAAEC" + "A" * 2032) == [1, 258] + [0] * 254


@settings(max_examples=examples(40), deadline=None)
@given(counters)
def test_what_is_encoded_is_decoded_to_the_same(given: list[int]) -> None:
    text = vector.encode(given)
    assert len(text) == 2048
    assert vector.decode(text) == given


@settings(max_examples=examples(40), deadline=None)
@given(st.binary(min_size=1536, max_size=1536))
def test_what_is_decoded_is_encoded_to_the_same(packed: bytes) -> None:
    text = base64.b64encode(packed).decode()
    assert vector.encode(vector.decode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("A" * 2044, id="too short"),
        pytest.param("A" * 2052, id="too long"),
        pytest.param("A" * 2047, id="cut by a character"),
        pytest.param("A" * 2047 + "!", id="not base64"),
        pytest.param("A" * 2047 + "é", id="not ASCII"),
        pytest.param("A" * 1024 + "\n" + "A" * 1024, id="a line break inside"),
        pytest.param("A" * 1024 + "    " + "A" * 1024, id="blanks inside"),
        pytest.param("A" * 2044 + "AA==", id="padded"),
    ],
)
def test_a_text_that_is_no_cursor_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="not a cursor"):
        vector.decode(text)


def test_something_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="not a cursor"):
        vector.decode(17)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 255, 257])
def test_a_cursor_has_256_counters(count: int) -> None:
    with pytest.raises(UsageError, match="256"):
        vector.encode([0] * count)


@pytest.mark.parametrize("counter", [-1, HIGHEST + 1])
def test_a_counter_that_six_bytes_cannot_hold_is_refused_by_name(counter: int) -> None:
    with pytest.raises(UsageError):
        vector.encode([counter] + [0] * 255)


@settings(max_examples=examples(40), deadline=None)
@given(counters, st.lists(st.tuples(st.integers(0, 255), st.integers(0, HIGHEST - 1)), max_size=20))
def test_after_events_every_thread_is_behind_its_highest_and_never_goes_back(
    before: list[int], positions: list[tuple[int, int]]
) -> None:
    events = [event_at(thread, counter) for thread, counter in positions]
    after = vector.decode(vector.after(vector.encode(before), events))
    expected = [
        max([start] + [counter + 1 for at, counter in positions if at == thread])
        for thread, start in enumerate(before)
    ]
    assert after == expected


def test_after_no_events_the_cursor_of_the_start_is_the_zero_cursor() -> None:
    assert vector.after(None, []) == "A" * 2048


def test_the_cursor_behind_the_highest_counter_that_an_event_can_have_can_be_written() -> None:
    after = vector.after(None, [event_at(7, HIGHEST - 1)])
    assert vector.decode(after)[7] == HIGHEST

"""A sequence of events is the merge of its threads, or is refused: as a whole, and in pieces that are joined."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry import OrderError
from eventferry.reading.sequence import SequenceCheck, SortKey
from tests.support import examples

THREADS = 3


def merge(threads: Sequence[Sequence[int]]) -> list[SortKey]:
    """The merge as docs/order.md defines it, of the timestamps of each thread."""
    keys = [[(time, at, thread) for at, time in enumerate(times)] for thread, times in enumerate(threads)]
    merged = []
    while any(keys):
        least = min(queue[0] for queue in keys if queue)
        merged.append(keys[least[2]].pop(0))
    return merged


def check_of(keys: Sequence[SortKey]) -> SequenceCheck:
    check = SequenceCheck()
    for key in keys:
        check.add(key)
    return check


def is_taken(keys: Sequence[SortKey], cuts: Sequence[int] = ()) -> bool:
    """Whether the sequence is taken, cut into pieces at these places."""
    joined = SequenceCheck()
    try:
        for begin, end in zip((0, *cuts), (*cuts, len(keys)), strict=True):
            joined.join(check_of(keys[begin:end]))
    except OrderError:
        return False
    return True


TIMES = st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=THREADS, max_size=THREADS)


@settings(max_examples=examples(60))
@given(st.data(), TIMES)
def test_the_merge_is_taken_and_no_other_order_is(data: st.DataObject, threads: list[list[int]]) -> None:
    merged = merge(threads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(merged)), max_size=4)))
    assert is_taken(merged)
    assert is_taken(merged, cuts)
    other = data.draw(st.permutations(merged))
    assert is_taken(other) == (other == merged)
    assert is_taken(other, cuts) == (other == merged)


@settings(max_examples=examples(60))
@given(st.data(), TIMES)
def test_neighbours_that_change_places_are_found(data: st.DataObject, threads: list[list[int]]) -> None:
    merged = merge(threads)
    if len(merged) < 2:
        return
    at = data.draw(st.integers(0, len(merged) - 2))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(merged)), max_size=4)))
    merged[at : at + 2] = merged[at + 1], merged[at]
    assert not is_taken(merged, cuts)


@pytest.mark.parametrize("cuts", [(), (1,)])
def test_a_position_that_comes_twice_is_told(cuts: tuple[int, ...]) -> None:
    twice = [(5, 17, 3), (6, 17, 3)]
    assert not is_taken(twice, cuts)
    with pytest.raises(
        OrderError, match="the event with counter 17 of thread 3 comes behind the one with counter 17"
    ):
        check_of(twice)

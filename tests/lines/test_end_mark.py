"""The end mark: a pipe that was cut, with any program in it, cannot look whole."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventferry import CheckEnd, EndMarkError, InputError, mark_end, open_store, pipeline
from tests.support import line, make_event

LINES = b"".join(line(make_event(number)) for number in range(30))


async def blocks_of(data: bytes, size: int = 1 << 20) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def joined(blocks: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in blocks])


async def marked(data: bytes = LINES) -> bytes:
    return await joined(mark_end(blocks_of(data)))


async def checked(
    data: bytes, size: int = 1 << 20, *, required: bool = True, filtered: bool = False
) -> bytes:
    return await joined(CheckEnd(required=required, filtered=filtered)(blocks_of(data, size)))


def without_half_line(data: bytes) -> bytes:
    """What jq lets through of a cut input."""
    return data[: data.rfind(b"\n") + 1]


async def test_the_mark_says_how_many_lines_there_were_and_their_sum() -> None:
    assert await marked(b"") == b'{"endMark":{"events":0,"crc32":"00000000"}}\n'
    assert await marked(b"123456789\n") == b'123456789\n{"endMark":{"events":1,"crc32":"e0117757"}}\n'


@given(st.integers(1, 200))
async def test_what_was_marked_comes_out_as_it_went_in_however_the_blocks_are_cut(size: int) -> None:
    assert await checked(await marked(), size) == LINES


@given(st.data())
async def test_whatever_a_pipe_loses_at_its_end_is_noticed(data: st.DataObject) -> None:
    whole = await marked()
    cut = whole[: data.draw(st.integers(0, len(whole) - 2))]
    for came in (cut, without_half_line(cut), cut + b"\n"):
        with pytest.raises(EndMarkError):
            await checked(came, data.draw(st.integers(1, 5000)))


@given(st.data())
async def test_a_line_that_a_pipe_loses_changes_or_doubles_is_noticed_unless_it_may(
    data: st.DataObject,
) -> None:
    lines = (await marked()).splitlines(keepends=True)
    number = data.draw(st.integers(0, len(lines) - 2))
    change = data.draw(st.sampled_from(("lose", "change", "double")))
    changed = {
        "lose": [],
        "change": [lines[number].replace(b'"type":"', b'"type":"X')],
        "double": [lines[number]] * 2,
    }[change]
    came = b"".join([*lines[:number], *changed, *lines[number + 1 :]])
    with pytest.raises(EndMarkError):
        await checked(came)
    assert await checked(came, filtered=True) == came[: came.rfind(b'{"endMark"')]


async def test_an_input_without_a_mark_is_refused_only_where_one_is_expected() -> None:
    assert await checked(LINES, required=False) == LINES
    assert await checked(LINES[:-5], required=False) == LINES[:-5]
    with pytest.raises(EndMarkError, match="no end mark"):
        await checked(LINES)


async def test_a_mark_that_is_there_is_checked_although_nobody_expects_it() -> None:
    whole = await marked()
    with pytest.raises(EndMarkError, match="30 events were exported, and 29 came"):
        await checked(whole[whole.find(b"\n") + 1 :], required=False)


async def test_two_marked_exports_joined_are_refused() -> None:
    whole = await marked()
    for size in (1, 50, 1 << 20):
        with pytest.raises(EndMarkError, match="in the middle"):
            await checked(whole + whole, size)


async def test_a_store_takes_all_of_a_marked_pipe_or_nothing() -> None:
    async with open_store("sqlite://:memory:") as store:
        await store.init()
        whole = await marked()
        for came in (without_half_line(whole[:-40]), whole[whole.find(b"\n") + 1 :]):
            with pytest.raises(EndMarkError):
                await pipeline(blocks_of(came, 100), CheckEnd(required=True), store.import_events())
            assert (await store.describe()).event_count == 0
        with pytest.raises(InputError, match="endMark"):
            await pipeline(blocks_of(whole), store.import_events())
        await pipeline(blocks_of(whole, 100), CheckEnd(required=True), store.import_events())
        assert await joined(store.export_events()) == LINES

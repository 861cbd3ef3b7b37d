"""Imports with MANUAL append what arrives, and commit as they go."""

from __future__ import annotations

from typing import Any

import pytest

from eventferry import (
    MANUAL,
    InputError,
    open_store,
    pipeline,
)
from tests.support import LONG_AGO, NewUrl, Opened, exported, import_lines, line, make_event, make_lines
from tests.support.imports import (
    BIG,
    OLD,
    broken_off,
    in_blocks,
    is_frozen,
)

pytestmark = pytest.mark.both_libraries


async def test_manual_appends_to_what_is_there(opened: Opened) -> None:
    lines = make_lines(400)
    async with opened() as store:
        await import_lines(store, OLD)
        await store.save_snapshot("key", "content")
        report = await import_lines(store, lines[len(OLD) :], maintenance_mode=MANUAL)
        assert report.imported == 100
        assert await exported(store) == lines
        assert await store.load_snapshot("key") == "content"


async def test_manual_commits_as_it_goes(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as reader:
        await store.init()
        async with store.import_events(maintenance_mode=MANUAL) as stream:
            async for block in in_blocks(BIG):
                await stream.write(block)
                if stream.byte_offset:
                    break
            assert 0 < stream.byte_offset < len(BIG)
            assert await exported(reader) == BIG[: stream.byte_offset]
            assert stream.saved_events_count == BIG[: stream.byte_offset].count(b"\n")
            stream.stop()


@pytest.mark.once
async def test_manual_keeps_what_was_committed_when_it_fails_and_goes_on_from_the_byte_offset(
    opened: Opened,
) -> None:
    async with opened() as store:
        stream = store.import_events(maintenance_mode=MANUAL)
        with pytest.raises(ConnectionResetError):
            await pipeline(broken_off(BIG), stream)
        reached = stream.byte_offset
        assert 0 < reached < len(BIG)
        assert await exported(store) == BIG[:reached]
        again = store.import_events(byte_offset=reached, maintenance_mode=MANUAL)
        assert again.byte_offset == reached
        await pipeline(in_blocks(BIG[reached:]), again)
        assert again.byte_offset == len(BIG)
        assert await exported(store) == BIG


@pytest.mark.once
async def test_manual_stopped_at_every_block_and_resumed_brings_each_event_once(opened: Opened) -> None:
    async with opened() as store:
        reached, rounds = 0, 0
        while reached < len(OLD):
            async with store.import_events(byte_offset=reached, maintenance_mode=MANUAL) as stream:
                await stream.write(OLD[reached : reached + 3001])
                if reached + 3001 < len(OLD):
                    stream.stop()
            assert reached < stream.byte_offset
            reached, rounds = stream.byte_offset, rounds + 1
        assert rounds > 5
        assert await exported(store) == OLD


async def test_manual_counts_what_is_there_with_equal_content_as_done(opened: Opened) -> None:
    lines = make_lines(400)
    async with opened() as store:
        await import_lines(store, OLD)
        await import_lines(store, lines, maintenance_mode=MANUAL)
        await import_lines(store, lines, maintenance_mode=MANUAL)
        assert await exported(store) == lines


@pytest.mark.once
async def test_manual_takes_a_payload_that_is_only_spelled_otherwise_for_equal(opened: Opened) -> None:
    spelled = line(make_event(0)).replace(b'{"number":0}', b'{ "number" : 0.0e1 }')
    async with opened() as store:
        await import_lines(store, [make_event(0)], maintenance_mode=MANUAL)
        await import_lines(store, spelled, maintenance_mode=MANUAL)
        assert await exported(store) == line(make_event(0))


@pytest.mark.once
async def test_manual_takes_an_equal_line_that_comes_twice_for_done(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD + OLD, maintenance_mode=MANUAL)
        assert await exported(store) == OLD


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"type": "OTHER"}, marks=pytest.mark.once),
        pytest.param({"timestamp": LONG_AGO - 1}, marks=pytest.mark.once),
        pytest.param({"aggregateId": "other"}, marks=pytest.mark.once),
        {"aggregateVersion": 9999},
        {"payload": {"number": "149"}},
        pytest.param({"payload": None}, marks=pytest.mark.once),
    ],
)
async def test_manual_refuses_other_content_at_a_place_that_is_there(
    opened: Opened, change: dict[str, Any]
) -> None:
    lines = [make_event(i) for i in range(300)]
    lines[149] |= change
    async with opened() as store:
        await import_lines(store, OLD)
        with pytest.raises(InputError) as refused:
            await import_lines(store, lines, maintenance_mode=MANUAL)
        error = refused.value
        assert (error.line, error.byte_offset) == (150, len(make_lines(149)))
        assert error.field is not None
        assert await exported(store) == OLD


@pytest.mark.once
async def test_manual_refuses_two_different_events_at_one_place_in_its_input(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(InputError) as refused:
            await import_lines(
                store, [make_event(0), make_event(1), make_event(0, type="OTHER")], maintenance_mode=MANUAL
            )
        assert refused.value.line == 3
        assert refused.value.field is not None
        assert (await store.describe()).event_count == 0


async def test_manual_refuses_a_version_that_is_taken(opened: Opened) -> None:
    fresh = make_event(300, aggregateId="fresh")
    clash = make_event(301, aggregateId="aggregate-3", aggregateVersion=1)
    async with opened() as store:
        await import_lines(store, OLD)
        with pytest.raises(InputError) as refused:
            await import_lines(store, [fresh, clash], maintenance_mode=MANUAL)
        error = refused.value
        assert (error.line, error.byte_offset, error.field) == (2, len(line(fresh)), "aggregateVersion")
        assert await exported(store) == OLD


@pytest.mark.once
async def test_manual_names_the_second_of_two_lines_with_one_version(opened: Opened) -> None:
    twice = [make_event(i, aggregateId="one", aggregateVersion=[5, 6, 5][i]) for i in range(3)]
    async with opened() as store:
        with pytest.raises(InputError) as refused:
            await import_lines(store, twice, maintenance_mode=MANUAL)
        assert (refused.value.line, refused.value.field) == (3, "aggregateVersion")


@pytest.mark.once
async def test_manual_names_the_new_line_whose_version_a_line_that_is_done_has(opened: Opened) -> None:
    done = make_event(0)
    clash = make_event(1, aggregateId=done["aggregateId"], aggregateVersion=done["aggregateVersion"])
    async with opened() as store:
        await import_lines(store, [done])
        with pytest.raises(InputError) as refused:
            await import_lines(store, [done, clash], maintenance_mode=MANUAL)
        assert (refused.value.line, refused.value.field) == (2, "aggregateVersion")


async def test_manual_refuses_to_fill_a_place_that_readers_have_passed(opened: Opened) -> None:
    events = [make_event(i) for i in range(300)]
    async with opened() as store:
        await import_lines(store, events[:10] + events[11:])
        before = await exported(store)
        with pytest.raises(InputError) as refused:
            await import_lines(store, OLD, maintenance_mode=MANUAL)
        assert refused.value.line == 11
        assert refused.value.byte_offset == len(make_lines(10))
        assert refused.value.field == "threadCounter"
        assert await exported(store) == before


async def test_manual_fills_such_a_place_in_a_frozen_store(opened: Opened) -> None:
    events = [make_event(i) for i in range(300)]
    async with opened() as store:
        await import_lines(store, events[:10] + events[11:])
        await store.freeze()
        await import_lines(store, OLD, maintenance_mode=MANUAL)
        assert await is_frozen(store)
        await store.unfreeze()
        assert await exported(store) == OLD


async def test_manual_takes_a_gap_that_the_source_has_for_what_it_is(opened: Opened) -> None:
    events = [make_event(i, threadId=4, threadCounter=7 * i + 2) for i in range(20)]
    async with opened() as store:
        await import_lines(store, events, maintenance_mode=MANUAL)
        assert await exported(store) == b"".join(map(line, events))

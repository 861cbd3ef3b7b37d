"""At the end of what counters and versions can be: a write that would pass it is refused by name, and does nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventferry import EventStore, UnsupportedStoreError
from eventferry.reading.order import thread_of
from tests.support import LONG_AGO, Opened, exported, import_lines, make_event

LAST_COUNTER = 2**48 - 2
LAST_VERSION = 2**53 - 1

FULL = 7
IN_FULL = next(name for name in map("a{}".format, range(10_000)) if thread_of(name) == FULL)
ELSEWHERE = next(name for name in map("a{}".format, range(10_000)) if thread_of(name) != FULL)


def event(aggregate_id: str, **changes: Any) -> dict[str, Any]:
    return {"type": "T", "aggregateId": aggregate_id, "aggregateVersion": 1} | changes


def at_the_end(*threads: int) -> list[dict[str, Any]]:
    return [
        make_event(i, threadId=thread, threadCounter=LAST_COUNTER, aggregateId=f"full-{thread}")
        for i, thread in enumerate(threads)
    ]


async def moves(opened: Opened, store: EventStore) -> bool:
    """Whether what a store exports, another takes."""
    lines = await exported(store)
    async with opened() as other:
        await import_lines(other, lines)
        return await exported(other) == lines


async def test_a_save_into_a_full_thread_is_refused_and_others_go_on(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, at_the_end(FULL))
        with pytest.raises(UnsupportedStoreError, match=f"thread {FULL} is full"):
            await store.save_event(event(IN_FULL))
        await store.save_event(event(ELSEWHERE))
        assert (await store.describe(calculate_cursor=True)).event_count == 2
        assert await moves(opened, store)


async def test_of_saves_at_once_only_those_into_a_full_thread_are_refused(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, at_the_end(FULL))
        saves = [event(IN_FULL)] + [event(ELSEWHERE, aggregateVersion=i) for i in range(1, 20)]
        ends = await asyncio.gather(*map(store.save_event, saves), return_exceptions=True)
        assert [type(end) for end in ends if isinstance(end, BaseException)] == [UnsupportedStoreError]
        assert (await store.describe(calculate_cursor=True)).event_count == 20
        assert await moves(opened, store)


async def test_a_thread_with_room_for_one_more_takes_it_and_no_second(opened: Opened) -> None:
    async with opened() as store:
        [last] = at_the_end(FULL)
        await import_lines(store, [last | {"threadCounter": LAST_COUNTER - 1}])
        saved = await store.save_event(event(IN_FULL))
        assert saved.event.thread_counter == LAST_COUNTER
        with pytest.raises(UnsupportedStoreError):
            await store.save_event(event(IN_FULL, aggregateVersion=2))
        assert await moves(opened, store)


async def test_a_merge_that_would_pass_the_last_counter_changes_nothing(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, at_the_end(FULL))
        before = await exported(store)
        new = [
            {"type": "T", "aggregateId": "new", "timestamp": 256 * (LONG_AGO // 256 + 9) + thread}
            for thread in (FULL - 1, FULL)
        ]
        with pytest.raises(UnsupportedStoreError, match=f"thread {FULL} is full"):
            await store.incremental_import(new)
        assert await exported(store) == before
        assert (await store.incremental_import(new[:1])).imported == 1
        assert await moves(opened, store)


async def test_so_does_one_in_steps_and_it_stays_open(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, at_the_end(FULL))
        before = await exported(store)
        import_id = await store.begin_incremental_import()
        when = 256 * (LONG_AGO // 256 + 9) + FULL
        await store.push_incremental_import(
            [{"type": "T", "aggregateId": "new", "timestamp": when}], import_id
        )
        with pytest.raises(UnsupportedStoreError):
            await store.commit_incremental_import(import_id)
        assert await exported(store) == before
        await store.rollback_incremental_import(import_id)


async def test_a_merge_that_would_pass_the_last_version_changes_nothing(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, [make_event(0, aggregateId="old", aggregateVersion=LAST_VERSION - 1)])
        before = await exported(store)
        more = [{"type": "T", "aggregateId": "old", "timestamp": LONG_AGO + i} for i in (1, 2)]
        with pytest.raises(UnsupportedStoreError, match="'old'"):
            await store.incremental_import(more)
        assert await exported(store) == before
        assert (await store.incremental_import(more[:1])).imported == 1
        assert await moves(opened, store)


async def test_a_secret_is_not_set_or_deleted_where_no_event_can_say_so(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("kept", "secret")
        await import_lines(store, at_the_end(*range(256)))
        before = await exported(store)
        with pytest.raises(UnsupportedStoreError):
            await store.set_secret("new", "secret")
        with pytest.raises(UnsupportedStoreError):
            await store.delete_secret("kept")
        assert await exported(store) == before
        assert await store.get_secret("new") is None
        assert await store.get_secret("kept") == "secret"


async def test_no_secret_gets_a_number_behind_the_highest(opened: Opened) -> None:
    async with opened() as store:
        async with store.import_secrets() as sink:
            await sink.write(b'{"secret":"s","id":"last","idx":%d}\n' % LAST_VERSION)
        with pytest.raises(UnsupportedStoreError, match="highest"):
            await store.set_secret("new", "secret")
        with pytest.raises(UnsupportedStoreError, match="highest"):
            async with store.import_secrets() as sink:
                await sink.write(b'{"secret":"s","id":"another","idx":%d}\n' % LAST_VERSION)
        assert [secret.id for secret in (await store.load_secrets(limit=9)).secrets] == ["last"]
        assert await exported(store) == b""


async def test_a_store_that_is_full_to_the_end_can_be_replaced_and_described(opened: Opened) -> None:
    async with opened() as store:
        full = [
            make_event(i, threadId=i, threadCounter=LAST_COUNTER, aggregateId=f"a{i}") for i in range(256)
        ]
        full[0]["aggregateVersion"] = LAST_VERSION
        await import_lines(store, full)
        assert (await store.describe(calculate_cursor=True)).cursor is not None
        assert await moves(opened, store)
        await import_lines(store, [make_event(0)])
        assert (await store.describe()).event_count == 1

"""Import: arriving events take the place of the old ones as one step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventferry import (
    MANUAL,
    EmptyInputError,
    EventStore,
    ImportStream,
    InputError,
    StoreBusyError,
    StoreChangedError,
    StoreClosedError,
    StoreFrozenError,
    StoreFullError,
    StoreNotFoundError,
    UsageError,
    open_store,
    pipeline,
)
from tests.support import LONG_AGO, NewUrl, Opened, exported, import_lines, line, make_event
from tests.support.imports import (
    BIG,
    NEW,
    OLD,
    in_blocks,
    interrupt,
    is_frozen,
    save,
)

pytestmark = pytest.mark.both_libraries


async def merge(store: EventStore) -> None:
    event = {"type": "MERGED", "aggregateId": "somebody", "timestamp": LONG_AGO + 10**9, "payload": None}
    await store.incremental_import([event])


async def set_secret(store: EventStore) -> None:
    await store.set_secret("somebody", "a secret")


async def append(store: EventStore) -> None:
    await import_lines(
        store, [make_event(256 * 9, aggregateId="somebody", aggregateVersion=1)], maintenance_mode=MANUAL
    )


async def test_export_import_export_gives_the_same_bytes(opened: Opened) -> None:
    async with opened() as a, opened() as b:
        await import_lines(a, OLD)
        first = await exported(a)
        report = await pipeline(a.export_events(), b.import_events())
        assert first == OLD
        assert await exported(b) == first
        assert (report.imported, report.byte_offset, report.is_end) == (300, len(OLD), True)


async def test_saved_events_arrive_with_position_version_and_time(opened: Opened) -> None:
    async with opened() as a, opened() as b:
        for i in range(50):
            await a.save_event(
                {
                    "type": "T",
                    "aggregateId": f"a{i % 5}",
                    "aggregateVersion": i // 5 + 1,
                    "payload": [i, None, "é"],
                }
            )
        await pipeline(a.export_events(), b.import_events())
        assert await exported(b) == await exported(a)
        assert (await b.load_events(limit=100, cursor=None)).events == (
            await a.load_events(limit=100, cursor=None)
        ).events


async def test_positions_gaps_and_versions_are_kept_as_they_come(opened: Opened) -> None:
    positions = [(0, 3), (255, 0), (7, 5), (7, 6), (255, 2**40), (7, 900), (0, 2**48 - 2)]
    lines = b"".join(
        line(
            make_event(
                i,
                threadId=thread,
                threadCounter=counter,
                aggregateId="one",
                aggregateVersion=version,
                timestamp=i,
            )
        )
        for i, ((thread, counter), version) in enumerate(
            zip(positions, [9, 2, 2**53 - 1, 1, 700, 4, 11], strict=True)
        )
    )
    async with opened() as store:
        await import_lines(store, lines)
        assert await exported(store) == lines


async def test_a_save_after_an_import_goes_behind_the_gaps(opened: Opened) -> None:
    event = {"type": "T", "aggregateId": "aggregate-0", "aggregateVersion": 1000}
    async with opened() as store:
        await import_lines(store, [make_event(i, threadCounter=10 * (i // 256) + 5) for i in range(512)])
        saved = (await store.save_event(event, allow_gaps=True)).event
        assert saved.thread_counter == 16


async def test_an_import_replaces_all_that_was_there(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        await import_lines(store, NEW)
        assert await exported(store) == NEW
        assert (await store.describe()).event_count == 200


async def test_an_import_into_a_store_that_is_not_there_says_so(new_url: NewUrl) -> None:
    async with open_store(new_url()) as store:
        with pytest.raises(StoreNotFoundError):
            await import_lines(store, OLD)


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
@pytest.mark.once
async def test_blocks_may_be_cut_anywhere(opened: Opened, size: int) -> None:
    lines = b"".join(line(make_event(i, payload="é🛳" * i)) for i in range(20))
    async with opened() as store:
        await pipeline(in_blocks(lines, size), store.import_events())
        assert await exported(store) == lines


async def test_events_come_in_any_order_and_go_out_in_the_one_order(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, b"".join(reversed(OLD.splitlines(keepends=True))))
        assert await exported(store) == OLD


async def test_the_old_events_are_readable_until_the_swap(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as reader:
        await store.init()
        await import_lines(store, OLD)
        async with store.import_events() as stream:
            await stream.write(BIG)
            while not stream.saved_events_count:
                await asyncio.sleep(0.01)
            assert await exported(reader) == OLD
            assert (await reader.describe()).event_count == 300
            latest = await reader.get_latest_event()
            assert latest is not None
            assert latest.payload == {"number": 299}
        assert await exported(reader) == BIG


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError,
        pytest.param(ConnectionResetError, marks=pytest.mark.once),
        asyncio.CancelledError,
        pytest.param(KeyboardInterrupt, marks=pytest.mark.once),
    ],
)
@pytest.mark.parametrize("freeze", [False, True])
async def test_the_old_events_are_whole_after_any_failure(
    opened: Opened, error: type[BaseException], freeze: bool
) -> None:
    async with opened() as store:
        await import_lines(store, OLD)

        async def fail() -> None:
            async with store.import_events(freeze=freeze) as stream:
                await stream.write(BIG)
                raise error

        with pytest.raises(error):
            await fail()
        assert await exported(store) == OLD
        assert not await is_frozen(store)
        await save(store)
        await import_lines(store, NEW)
        assert await exported(store) == NEW


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.once
async def test_a_stopped_import_leaves_the_old_events_whole(opened: Opened, freeze: bool) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        async with store.import_events(freeze=freeze) as stream:
            await stream.write(NEW)
            stream.stop()
            report = await stream.close()
        assert not report.is_end
        assert await exported(store) == OLD
        assert not await is_frozen(store)


@pytest.mark.once
async def test_an_import_after_a_stopped_one_begins_anew(opened: Opened) -> None:
    async with opened() as store:
        await interrupt(store, BIG)
        async with store.import_events() as stream:
            assert stream.byte_offset == 0
            assert stream.saved_events_count == 0
            await stream.write(NEW)
        assert await exported(store) == NEW


@pytest.mark.parametrize("change", [save, merge, set_secret, append])
async def test_an_event_that_somebody_stored_meanwhile_refuses_the_swap(
    new_url: NewUrl, change: Callable[[EventStore], Awaitable[None]]
) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, OLD)
        stream = store.import_events()
        await stream.write(NEW)
        await change(other)
        changed = await exported(other)
        assert changed.count(b"\n") == 301
        with pytest.raises(StoreChangedError):
            await stream.close()
        assert await exported(store) == changed
        await import_lines(store, NEW)
        assert await exported(store) == NEW


async def test_an_event_stored_into_an_empty_store_meanwhile_refuses_the_swap(opened: Opened) -> None:
    async with opened() as store:
        stream = store.import_events()
        await stream.write(NEW)
        await save(store)
        with pytest.raises(StoreChangedError):
            await stream.close()
        assert (await store.describe()).event_count == 1


async def test_whatever_is_no_event_may_change_meanwhile(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        async with store.import_events() as stream:
            await stream.write(NEW)
            await store.save_snapshot("key", "content")
            await store.freeze()
            await store.unfreeze()
        assert await exported(store) == NEW


# freezing


async def test_an_import_with_freeze_keeps_writers_out_and_lets_readers_in(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, OLD)
        async with store.import_events(freeze=True) as stream:
            await stream.write(NEW)
            for attempt in (save, merge, set_secret):
                with pytest.raises(StoreFrozenError):
                    await attempt(other)
            description = await other.describe()
            assert (description.is_frozen, description.frozen_by) == (True, "operation")
            assert await exported(other) == OLD
        assert not await is_frozen(other)
        assert await exported(other) == NEW
        await save(other)


@pytest.mark.once
async def test_the_freeze_is_lifted_after_a_refusal(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        with pytest.raises(InputError):
            await import_lines(store, NEW + b"nonsense\n", freeze=True)
        assert not await is_frozen(store)
        await save(store)


async def test_a_frozen_store_refuses_to_be_replaced(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        await store.freeze()
        for options in ({}, {"freeze": True}, {"resume": True}):
            with pytest.raises(StoreFrozenError):
                await import_lines(store, NEW, **options)
        assert await is_frozen(store)
        assert await exported(store) == OLD


@pytest.mark.parametrize("freeze", [False, True])
async def test_a_store_that_a_user_freezes_meanwhile_refuses_the_swap_and_stays_frozen(
    new_url: NewUrl, freeze: bool
) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, OLD)
        stream = store.import_events(freeze=freeze)
        await stream.write(NEW)
        await other.freeze()
        with pytest.raises(StoreFrozenError):
            await stream.close()
        description = await other.describe()
        assert (description.is_frozen, description.frozen_by) == (True, "user")
        assert await exported(store) == OLD


# what goes with the events


async def test_snapshots_and_subscribers_go_with_the_old_events_and_secrets_stay(opened: Opened) -> None:
    async with opened() as store:
        await store.set_secret("id", "secret")
        await store.save_snapshot("key", "content")
        await store.ensure_event_subscriber("app", "model", destination={"url": "u"})
        async with store.import_events() as stream:
            await stream.write(NEW)
            assert await store.load_snapshot("key") == "content"
            assert len(await store.get_event_subscribers()) == 1
        assert await store.load_snapshot("key") is None
        assert await store.get_event_subscribers() == []
        assert await store.get_secret("id") == "secret"


async def test_snapshots_and_subscribers_stay_when_the_import_fails(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        await store.save_snapshot("key", "content")
        await store.ensure_event_subscriber("app", "model", destination={"url": "u"})
        with pytest.raises(InputError):
            await import_lines(store, NEW + b"{}\n")
        assert await store.load_snapshot("key") == "content"
        assert len(await store.get_event_subscribers()) == 1


async def test_an_open_incremental_import_is_unharmed(opened: Opened) -> None:
    event = make_event(0, timestamp=LONG_AGO + 10**6)
    async with opened() as store:
        await import_lines(store, OLD)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([event], import_id)
        await import_lines(store, NEW)
        report = await store.commit_incremental_import(import_id)
        assert report.imported == 1
        assert (await store.describe()).event_count == 201


async def test_an_import_that_must_not_replace_is_refused_by_a_store_that_holds_events(
    opened: Opened,
) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        with pytest.raises(StoreFullError):
            await store.import_events(replace=False).begin()
        assert await exported(store) == OLD


@pytest.mark.parametrize("store_meanwhile", [save, merge, set_secret, append])
async def test_an_import_that_must_not_replace_leaves_what_was_stored_since_it_began(
    opened: Opened, store_meanwhile: Callable[[EventStore], Awaitable[None]]
) -> None:
    async with opened() as store:
        stream = store.import_events(replace=False)
        await stream.write(NEW)
        await store_meanwhile(store)
        stored = await exported(store)
        with pytest.raises(StoreFullError):
            await stream.close()
        assert await exported(store) == stored


@pytest.mark.once
async def test_an_import_that_must_not_replace_does_not_go_on_with_one_that_might(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        await interrupt(store, BIG)
        with pytest.raises(StoreFullError):
            await store.import_events(replace=False, resume=True).begin()
        assert (await pipeline(in_blocks(BIG), store.import_events(resume=True))).imported == 20


# the use of the stream


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        {"maintenance_mode": MANUAL, "freeze": True},
        {"maintenance_mode": MANUAL, "resume": True},
        {"maintenance_mode": MANUAL, "allow_empty": True},
        {"maintenance_mode": MANUAL, "replace": False},
        {"maintenance_mode": "auto"},
        {"maintenance_mode": None},
        {"byte_offset": -1},
    ],
    ids=str,
)
async def test_wrong_options_are_refused_by_name(opened: Opened, options: dict[str, Any]) -> None:
    async with opened() as store:
        with pytest.raises(UsageError):
            store.import_events(**options)


async def test_of_two_imports_at_once_the_second_is_refused_and_the_first_unharmed(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, OLD)
        async with store.import_events() as stream:
            await stream.write(NEW[:1000])
            for options in ({}, {"resume": True}, {"freeze": True}):
                for second in (store, other):
                    with pytest.raises(StoreBusyError):
                        await import_lines(second, OLD, **options)
            assert not await is_frozen(other)
            await stream.write(NEW[1000:])
        assert await exported(store) == NEW
        await import_lines(other, OLD)
        assert await exported(store) == OLD


async def test_the_store_object_stays_usable_while_it_imports(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        stream = store.import_events()
        await asyncio.gather(
            pipeline(in_blocks(NEW, 500), stream),
            *(store.load_events(limit=10, cursor=None) for _ in range(20)),
        )
        assert await exported(store) == NEW


@pytest.mark.once
async def test_a_closed_import_is_over(opened: Opened) -> None:
    async with opened() as store:
        stream = store.import_events()
        await stream.write(NEW)
        report = await stream.close()
        assert await stream.close() == report
        with pytest.raises(StoreClosedError):
            await stream.write(OLD)
        await stream.abort()
        assert await exported(store) == NEW


@pytest.mark.once
async def test_an_aborted_import_is_over(opened: Opened) -> None:
    async with opened() as store:
        stream = store.import_events()
        await stream.write(NEW)
        await stream.abort()
        await stream.abort()
        with pytest.raises(StoreClosedError):
            await stream.write(OLD)
        with pytest.raises(StoreClosedError):
            await stream.close()
        assert await exported(store) == b""


@pytest.mark.once
async def test_an_import_that_was_aborted_before_it_began_is_over(opened: Opened) -> None:
    async with opened() as store:
        stream = store.import_events()
        await stream.abort()
        with pytest.raises(StoreClosedError):
            await stream.write(NEW)


@pytest.mark.once
async def test_a_refused_import_is_over_and_says_nothing_else_at_the_end(opened: Opened) -> None:
    async with opened() as store:
        stream: ImportStream = store.import_events()
        with pytest.raises(InputError):
            await stream.write(b"nonsense\n")
        with pytest.raises(StoreClosedError):
            await stream.write(NEW)
        await stream.abort()


# empty input


@pytest.mark.parametrize(
    "source", [b"", b"\n\r\n \n", b"\xef\xbb\xbf"], ids=["nothing", "blank", "byte order mark"]
)
@pytest.mark.once
async def test_no_events_do_not_replace_some_unless_asked_for(opened: Opened, source: bytes) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        with pytest.raises(EmptyInputError):
            await import_lines(store, source)
        assert await exported(store) == OLD
        report = await import_lines(store, source, allow_empty=True)
        assert report.imported == 0
        assert await exported(store) == b""


@pytest.mark.once
async def test_no_events_may_replace_none(opened: Opened) -> None:
    async with opened() as store:
        report = await import_lines(store, b"")
        assert (report.imported, report.byte_offset, report.is_end) == (0, 0, True)


@pytest.mark.once
async def test_no_events_may_be_appended(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        report = await import_lines(store, b"", maintenance_mode=MANUAL)
        assert report.imported == 0
        assert await exported(store) == OLD


@pytest.mark.parametrize("space", [" ", "\t", "\r", "  "])
@pytest.mark.once
async def test_white_space_around_tokens_is_dropped_and_within_strings_kept(
    opened: Opened, space: str
) -> None:
    compact = line(make_event(0) | {"payload": {"d": None, "a b": [1, {"c": ", : [ ] { }"}]}})
    spaced = compact.replace(b'"d":null', f'"d"{space}:{space}null{space}'.encode())
    async with opened() as store:
        await import_lines(store, spaced)
        assert await exported(store) == compact

"""Export: a cut of the store as blocks of lines; what dies on its way can't be taken for whole."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    EventStore,
    ExportStream,
    InputError,
    MaintenanceMode,
    StoreClosedError,
    StoreFrozenError,
    StoreNotFoundError,
    StoreReplacedError,
    UsageError,
    open_store,
    pipeline,
)
from eventferry.reading import exporting
from tests.support import (
    LONG_AGO,
    NewUrl,
    Opened,
    events_of,
    exported,
    import_lines,
    line,
    make_event,
    make_lines,
)

pytestmark = pytest.mark.both_libraries

LINES = make_lines(300)
ZERO = "A" * 2048
# Larger than one block of an export, so that one stands in the middle after the first.
MANY = b"".join(line(make_event(i, payload="x" * 1000)) for i in range(2000))


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that not all of a store has been read ahead when its first block is out."""
    monkeypatch.setattr(exporting, "PAGE_BYTES", 64 * 1024)


async def save(store: EventStore, version: int = 1) -> None:
    await store.save_event({"type": "SAVED", "aggregateId": "somebody", "aggregateVersion": version})


async def is_frozen(store: EventStore) -> bool:
    return (await store.describe()).is_frozen


async def rest_of(stream: ExportStream) -> bytes:
    return b"".join([block async for block in stream])


# the stream


async def test_an_export_gives_every_line_and_then_its_end(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        stream = store.export_events()
        assert not stream.is_end
        blocks = [block async for block in stream]
        assert len(blocks) > 2
        assert b"".join(blocks) == MANY
        assert stream.is_end
        assert not stream.is_buffer_overflow
        assert stream.cursor == (await store.describe(calculate_cursor=True)).cursor


async def test_the_export_of_an_empty_store_is_empty_and_ends(opened: Opened) -> None:
    async with opened() as store:
        stream = store.export_events()
        assert await rest_of(stream) == b""
        assert stream.is_end
        assert stream.cursor == ZERO


@pytest.mark.once
async def test_an_export_of_no_store_says_so(new_url: NewUrl) -> None:
    async with open_store(new_url()) as store:
        with pytest.raises(StoreNotFoundError):
            await exported(store)


@pytest.mark.once
async def test_an_export_from_its_own_end_brings_what_came_later(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, LINES)
        first = store.export_events()
        await rest_of(first)
        assert await exported(store, cursor=first.cursor) == b""
        await save(store)
        later = await exported(store, cursor=first.cursor)
        assert [json.loads(text)["type"] for text in later.splitlines()] == ["SAVED"]
        assert await exported(store) == LINES + later


@pytest.mark.once
async def test_a_stopped_export_ends_whole_and_its_cursor_goes_on(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        parts: list[bytes] = []
        cursor, is_end = None, False
        while not is_end:
            stream = store.export_events(cursor=cursor)
            part = b""
            async for block in stream:
                part += block
                stream.stop()
            assert part.endswith(b"}\n")
            parts.append(part)
            cursor, is_end = stream.cursor, stream.is_end
        assert len(parts) > 2
        assert b"".join(parts) == MANY


@pytest.mark.slow
@pytest.mark.parametrize(
    "only", [{}, {"event_types": ["TYPE_1"]}, {"finish_time": LONG_AGO + 9000, "event_types": ["TYPE_1"]}]
)
async def test_exports_that_are_stopped_before_they_begin_come_to_the_end_block_by_block(
    opened: Opened, only: dict[str, Any]
) -> None:
    # A page of events that match, which a block waits for, has more of them on some databases than MANY has.
    many = b"".join(line(make_event(i, payload="x" * 1000)) for i in range(5000))
    async with opened() as store:
        await import_lines(store, many)
        whole = await exported(store, **only)
        parts: list[bytes] = []
        cursor, is_end = None, False
        while not is_end:
            stream = store.export_events(cursor=cursor, **only)
            stream.stop()
            parts.append(await rest_of(stream))
            cursor, is_end = stream.cursor, stream.is_end
            assert len(parts) < 100
        assert len(parts) > 1
        assert b"".join(parts) == whole


@pytest.mark.parametrize("mode", [AUTO, MANUAL])
@pytest.mark.once
async def test_an_export_that_is_left_and_forgotten_ends_by_itself(
    opened: Opened, mode: MaintenanceMode, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        for _ in range(5):
            async for _block in store.export_events(maintenance_mode=mode):
                break
        async with asyncio.timeout(10):
            while (await store.describe()).is_frozen:
                await asyncio.sleep(0.01)
        await store.save_event({"type": "T", "aggregateId": "new", "aggregateVersion": 1})
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


LEFT_OPEN = """
import asyncio, sys
from eventferry import open_store

async def main():
    store = open_store(sys.argv[1])
    async for block in store.export_events():
        break

asyncio.run(main())
"""


async def test_an_export_and_a_store_that_are_left_open_end_without_a_word(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, MANY)
    left = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEFT_OPEN, url, stderr=asyncio.subprocess.PIPE
    )
    _, told = await left.communicate()
    assert (left.returncode, told) == (0, b"")


@pytest.mark.once
async def test_at_any_moment_the_cursor_is_behind_what_was_given_out_whole(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        stream, given = store.export_events(), b""
        async for block in stream:
            given += block
            whole = given[: given.rfind(b"\n") + 1]
            assert whole + await exported(store, cursor=stream.cursor) == MANY


# buffer_size


@pytest.mark.parametrize("extra", [0, 1, 100])
@pytest.mark.once
async def test_a_buffer_ends_after_the_last_event_that_fits(opened: Opened, extra: int) -> None:
    first_ten = make_lines(10)
    assert extra < len(line(make_event(10)))
    async with opened() as store:
        await import_lines(store, LINES)
        stream = store.export_events(buffer_size=len(first_ten) + extra)
        assert await rest_of(stream) == first_ten
        assert stream.is_buffer_overflow
        assert not stream.is_end
        assert first_ten + await exported(store, cursor=stream.cursor) == LINES


@pytest.mark.once
async def test_a_buffer_one_byte_too_small_ends_an_event_earlier(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, LINES)
        assert await exported(store, buffer_size=len(make_lines(10)) - 1) == make_lines(9)


@pytest.mark.parametrize("buffer_size", [1, 50])
@pytest.mark.once
async def test_at_least_one_event_is_given_however_small_the_buffer(opened: Opened, buffer_size: int) -> None:
    lines = make_lines(20)
    async with opened() as store:
        await import_lines(store, lines)
        parts: list[bytes] = []
        cursor = None
        while True:
            stream = store.export_events(cursor=cursor, buffer_size=buffer_size)
            parts.append(await rest_of(stream))
            cursor = stream.cursor
            if not stream.is_buffer_overflow:
                break
        assert parts == lines.splitlines(keepends=True)
        assert stream.is_end


@pytest.mark.once
async def test_a_buffer_that_holds_all_does_not_overflow(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, LINES)
        stream = store.export_events(buffer_size=len(LINES))
        assert await rest_of(stream) == LINES
        assert stream.is_end
        assert not stream.is_buffer_overflow


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("size", [10_000, 600_000, 1_000_000])
async def test_the_buffer_bounds_the_whole_export_and_not_a_block(opened: Opened, size: int) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        parts: list[bytes] = []
        cursor, is_end = None, False
        while not is_end and len(parts) < 700:
            stream = store.export_events(cursor=cursor, buffer_size=size)
            parts.append(await rest_of(stream))
            assert len(parts[-1]) <= size
            assert stream.is_buffer_overflow != stream.is_end
            if not stream.is_end:
                assert len(parts[-1]) > size - 2000
            cursor, is_end = stream.cursor, stream.is_end
        assert b"".join(parts) == MANY


@pytest.mark.once
async def test_an_event_larger_than_the_buffer_goes_alone(opened: Opened) -> None:
    events = [line(make_event(i, payload="x" * (5000 if i == 1 else 10))) for i in range(3)]
    async with opened() as store:
        await import_lines(store, b"".join(events))
        first = store.export_events(buffer_size=1000)
        assert await rest_of(first) == events[0]
        second = store.export_events(cursor=first.cursor, buffer_size=1000)
        assert await rest_of(second) == events[1]
        assert second.is_buffer_overflow


@pytest.mark.once
async def test_a_buffer_counts_only_what_the_filter_lets_pass(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, LINES)
        wanted = [line(make_event(i)) for i in range(300) if i % 3 == 1]
        parts: list[bytes] = []
        cursor, is_end = None, False
        while not is_end:
            stream = store.export_events(
                cursor=cursor, buffer_size=len(wanted[0]) * 7, event_types=["TYPE_1"]
            )
            parts.append(await rest_of(stream))
            cursor, is_end = stream.cursor, stream.is_end
        assert b"".join(parts) == b"".join(wanted)
        assert len(parts) > 10


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        {"maintenance_mode": "auto"},
        {"buffer_size": -1},
        {"buffer_size": "10"},
        {"cursor": "nonsense"},
        {"event_types": "TYPE_1"},
        {"start_time": 2, "finish_time": 1},
        {"start_time": "2020-01-01"},
    ],
    ids=str,
)
async def test_wrong_options_are_refused_by_name(opened: Opened, options: dict[str, Any]) -> None:
    async with opened() as store:
        with pytest.raises(UsageError):
            store.export_events(**options)


@pytest.mark.once
async def test_an_export_of_a_closed_store_says_so(opened: Opened) -> None:
    async with opened() as store:
        await store.close()
        with pytest.raises(StoreClosedError):
            store.export_events()


@pytest.mark.once
async def test_an_export_whose_store_is_closed_on_the_way_says_so(small_pages: None, opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        stream = store.export_events()
        await anext(stream)
        await store.close()
        with pytest.raises(StoreClosedError):
            await rest_of(stream)


# the cut


async def test_writers_go_on_and_what_they_save_is_not_in_the_cut(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, MANY)
        stream = store.export_events()
        given, version = await anext(stream), 0
        async for block in stream:
            version += 1
            await save(other, version)
            given += block
        assert version > 1
        assert given == MANY
        assert stream.is_end
        assert (await exported(store, cursor=stream.cursor)).count(b"\n") == version


async def test_an_event_saved_with_an_early_time_on_the_way_is_not_in_the_cut(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, MANY)
        stream = store.export_events()
        given = await anext(stream)
        late = make_event(9999, threadId=9, threadCounter=5000, timestamp=LONG_AGO + 1990, aggregateId="late")
        await import_lines(other, [late], maintenance_mode=MANUAL)
        assert given + await rest_of(stream) == MANY
        assert await exported(store, cursor=stream.cursor) == line(late)


async def test_an_export_ends_with_an_error_if_the_events_are_replaced_meanwhile(
    small_pages: None, new_url: NewUrl
) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, MANY)
        stream = store.export_events()
        await anext(stream)
        # The same events: the cut would even hold, but nobody could know.
        await import_lines(other, MANY)
        with pytest.raises(StoreReplacedError):
            await rest_of(stream)
        assert not stream.is_end


async def test_an_export_that_reads_ahead_makes_do_with_one_connection(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url, **({} if url.startswith("sqlite") else {"max_connections": 1})) as store:
        await store.init()
        await import_lines(store, MANY)
        async with asyncio.timeout(20):
            assert await exported(store) == MANY


async def test_an_export_whose_store_is_dropped_meanwhile_ends_with_an_error(
    small_pages: None, new_url: NewUrl
) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, MANY)
        stream = store.export_events()
        await anext(stream)
        await other.drop()
        with pytest.raises(StoreNotFoundError):
            await rest_of(stream)


async def test_an_export_whose_store_is_made_anew_meanwhile_ends_with_an_error(
    small_pages: None, new_url: NewUrl
) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, MANY)
        stream = store.export_events()
        await anext(stream)
        await other.drop()
        await other.init()
        # What is read ahead may meet the moment at which there is none.
        with pytest.raises((StoreReplacedError, StoreNotFoundError)):
            await rest_of(stream)


# an export that dies


@pytest.mark.parametrize("blocks_seen", [1, 2])
@pytest.mark.once
async def test_an_export_that_is_closed_early_ends_inside_an_event(opened: Opened, blocks_seen: int) -> None:
    async with opened() as a, opened() as b:
        await import_lines(a, MANY)
        await import_lines(b, LINES)
        stream, given = a.export_events(), b""
        for _ in range(blocks_seen):
            given += await anext(stream)
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert not stream.is_end
        with pytest.raises(InputError, match="ends inside"):
            await import_lines(b, given)
        assert await exported(b) == LINES


@pytest.mark.once
async def test_even_an_export_that_dies_behind_its_last_block_ends_inside_an_event(opened: Opened) -> None:
    async with opened() as a, opened() as b:
        await import_lines(a, LINES)
        await import_lines(b, make_lines(3))
        stream = a.export_events()
        given = await anext(stream)
        await stream.aclose()
        assert LINES.startswith(given)
        with pytest.raises(InputError, match="ends inside"):
            await import_lines(b, given)
        assert await exported(b) == make_lines(3)


@pytest.mark.once
async def test_wherever_a_pipe_breaks_at_a_block_the_import_is_refused(opened: Opened) -> None:
    async with opened() as a, opened() as b:
        await import_lines(a, MANY)
        blocks = [block async for block in a.export_events()]
        for end in range(1, len(blocks)):
            with pytest.raises(InputError, match="ends inside"):
                await import_lines(b, b"".join(blocks[:end]))
        await import_lines(b, b"".join(blocks))
        assert await exported(b) == MANY


@pytest.mark.once
async def test_an_error_of_the_consumer_closes_the_export_and_thaws_the_store(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, MANY)

        async def consume() -> None:
            async with store.export_events(maintenance_mode=AUTO) as stream:
                async for _ in stream:
                    raise RuntimeError

        with pytest.raises(RuntimeError):
            await consume()
        assert not await is_frozen(store)
        await save(store)


# AUTO: frozen for the duration


@pytest.mark.once
async def test_manual_does_not_freeze(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        async with store.export_events(maintenance_mode=MANUAL) as stream:
            await anext(stream)
            assert not await is_frozen(store)


async def test_auto_keeps_writers_out_for_the_duration(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, MANY)
        stream = store.export_events(maintenance_mode=AUTO)
        given = await anext(stream)
        description = await other.describe()
        assert (description.is_frozen, description.frozen_by) == (True, "operation")
        for writer in (store, other):
            with pytest.raises(StoreFrozenError):
                await save(writer)
        assert given + await rest_of(stream) == MANY
        assert not await is_frozen(other)
        await save(other)


@pytest.mark.parametrize("ending", ["closed", "stopped", "full"])
@pytest.mark.once
async def test_auto_thaws_however_it_ends(opened: Opened, ending: str) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        stream = store.export_events(
            maintenance_mode=AUTO, buffer_size=1_500_000 if ending == "full" else None
        )
        await anext(stream)
        assert await is_frozen(store)
        if ending == "closed":
            await stream.aclose()
        else:
            if ending == "stopped":
                stream.stop()
            await rest_of(stream)
        assert not await is_frozen(store)


@pytest.mark.once
async def test_auto_leaves_frozen_what_a_user_had_frozen(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, LINES)
        await store.freeze()
        assert await exported(store, maintenance_mode=AUTO) == LINES
        description = await store.describe()
        assert (description.is_frozen, description.frozen_by) == (True, "user")


@pytest.mark.once
async def test_a_user_who_freezes_meanwhile_takes_the_freeze_over(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await import_lines(store, MANY)
        stream = store.export_events(maintenance_mode=AUTO)
        given = await anext(stream)
        await other.freeze()
        assert given + await rest_of(stream) == MANY
        description = await other.describe()
        assert (description.is_frozen, description.frozen_by) == (True, "user")
        await other.unfreeze()
        await save(other)


async def test_of_two_exports_that_freeze_each_is_whole_and_nothing_stays_frozen(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        first = store.export_events(maintenance_mode=AUTO)
        second = store.export_events(maintenance_mode=AUTO)
        one, two = await anext(first), await anext(second)
        one += await rest_of(first)
        two += await rest_of(second)
        assert one == two == MANY
        assert not await is_frozen(store)


@pytest.mark.once
async def test_a_pipeline_out_of_a_frozen_store_into_another_leaves_the_freeze_as_it_was(
    opened: Opened,
) -> None:
    async with opened() as a, opened() as b:
        await import_lines(a, LINES)
        await a.freeze()
        await pipeline(a.export_events(), b.import_events())
        assert await exported(b) == LINES
        assert await is_frozen(a)
        assert not await is_frozen(b)


async def test_a_store_can_be_piped_into_itself(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, MANY)
        await pipeline(store.export_events(), store.import_events())
        assert await exported(store) == MANY


@pytest.mark.once
async def test_a_pipeline_that_fails_at_its_sink_thaws_its_source(opened: Opened) -> None:
    async def spoil(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            yield b"nonsense\n" + block

    async with opened() as a, opened() as b:
        await import_lines(a, MANY)
        with pytest.raises(InputError):
            await pipeline(a.export_events(maintenance_mode=AUTO), spoil, b.import_events())
        assert not await is_frozen(a)


# filters


FILTERS: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
    ({"event_types": ["TYPE_1"]}, lambda e: e["type"] == "TYPE_1"),
    ({"event_types": ["TYPE_0", "TYPE_2", "TYPE_9"]}, lambda e: e["type"] != "TYPE_1"),
    ({"aggregate_ids": ["aggregate-3"]}, lambda e: e["aggregateId"] == "aggregate-3"),
    (
        {"aggregate_ids": ["aggregate-3", "aggregate-4"], "event_types": ["TYPE_0"]},
        lambda e: e["aggregateId"] in ("aggregate-3", "aggregate-4") and e["type"] == "TYPE_0",
    ),
    ({"start_time": LONG_AGO + 100}, lambda e: e["timestamp"] >= LONG_AGO + 100),
    ({"finish_time": LONG_AGO + 100}, lambda e: e["timestamp"] <= LONG_AGO + 100),
    (
        {"start_time": LONG_AGO + 50, "finish_time": LONG_AGO + 50},
        lambda e: e["timestamp"] == LONG_AGO + 50,
    ),
    (
        {"start_time": LONG_AGO + 50, "finish_time": LONG_AGO + 260, "event_types": ["TYPE_2"]},
        lambda e: LONG_AGO + 50 <= e["timestamp"] <= LONG_AGO + 260 and e["type"] == "TYPE_2",
    ),
    ({"exclude_types": ["TYPE_1", "TYPE_9"]}, lambda e: e["type"] != "TYPE_1"),
    ({"exclude_types": ["TYPE_1"], "event_types": ["TYPE_1", "TYPE_2"]}, lambda e: e["type"] == "TYPE_2"),
    ({"exclude_types": []}, lambda e: True),
    ({"aggregate_prefixes": ["aggregate-"]}, lambda e: True),
    (
        {"aggregate_prefixes": ["aggregate-3", "aggregate-4x"]},
        lambda e: e["aggregateId"] == "aggregate-3",
    ),
    (
        {
            "aggregate_prefixes": ["aggregate-3"],
            "aggregate_ids": ["aggregate-7"],
            "exclude_types": ["TYPE_0"],
        },
        lambda e: e["aggregateId"] in ("aggregate-3", "aggregate-7") and e["type"] != "TYPE_0",
    ),
    ({"aggregate_prefixes": ["Aggregate-", "ggregate-", "%", "aggregate_"]}, lambda e: False),
    (
        {"aggregate_prefixes": [], "aggregate_ids": ["aggregate-1"]},
        lambda e: e["aggregateId"] == "aggregate-1",
    ),
    ({"aggregate_prefixes": []}, lambda e: False),
    ({"event_types": []}, lambda e: False),
    ({"aggregate_ids": []}, lambda e: False),
    ({"event_types": ["type_1"]}, lambda e: False),
    ({"start_time": LONG_AGO + 10**6}, lambda e: False),
]


async def test_a_filtered_export_gives_what_matches_in_order(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, LINES)
        for filters, passes in FILTERS:
            expected = b"".join(line(make_event(i)) for i in range(300) if passes(make_event(i)))
            stream = store.export_events(**filters)
            assert (await rest_of(stream), stream.is_end) == (expected, True), filters
            assert await exported(store, cursor=stream.cursor, **filters) == b"", filters


SPELLINGS = r"""a%b a% aXb a_b a_ a\b a\ A%b a'b a"b a:b ab a aé ae aÉ a😀b a😁b a�b aß ass % %% b"""
ODD_IDS = [*SPELLINGS.split(), "a ", "a  b"]


async def test_a_prefix_is_compared_byte_by_byte(opened: Opened) -> None:
    lines = [line(make_event(i, aggregateId=name, aggregateVersion=1)) for i, name in enumerate(ODD_IDS)]
    async with opened() as store:
        await import_lines(store, b"".join(lines))
        for prefix in (*ODD_IDS, "a\U0010ffff", "a\0"):
            found = await exported(store, aggregate_prefixes=[prefix])
            assert found == b"".join(lines[i] for i, name in enumerate(ODD_IDS) if name.startswith(prefix)), (
                prefix
            )


@pytest.mark.once
async def test_a_filtered_export_stopped_and_resumed_brings_each_match_once(opened: Opened) -> None:
    wanted = b"".join(line(make_event(i, payload="x" * 1000)) for i in range(2000) if i % 3 == 2)
    async with opened() as store:
        await import_lines(store, MANY)
        parts, cursor, is_end = b"", None, False
        while not is_end:
            stream = store.export_events(cursor=cursor, event_types=["TYPE_2"])
            async for block in stream:
                parts += block
                stream.stop()
            cursor, is_end = stream.cursor, stream.is_end
        assert parts == wanted


@pytest.mark.once
async def test_a_filtered_export_can_be_imported(opened: Opened) -> None:
    async with opened() as a, opened() as b:
        await import_lines(a, LINES)
        await pipeline(a.export_events(aggregate_ids=["aggregate-1"]), b.import_events())
        assert await exported(b) == await exported(a, aggregate_ids=["aggregate-1"])


@pytest.mark.once
async def test_after_an_export_up_to_a_time_an_export_from_its_cursor_brings_the_rest(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(20))
        whole = await exported(store)
        times = [event.timestamp for event in events_of(whole)]
        async with store.export_events(finish_time=times[4]) as early:
            first = b"".join([block async for block in early])
        assert first + await exported(store, cursor=early.cursor) == whole
        assert len(events_of(first)) == 5

"""Imports that are interrupted or stopped, and go on where they were."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventferry import (
    AUTO,
    MANUAL,
    InputError,
    MaintenanceMode,
    ResumeError,
    StoreChangedError,
    open_store,
    pipeline,
)
from tests.support import NewUrl, Opened, exported, import_lines, line, make_event
from tests.support.imports import (
    BIG,
    NEW,
    OLD,
    in_blocks,
    interrupt,
    save,
)

pytestmark = pytest.mark.both_libraries


async def test_an_interrupted_import_goes_on_where_it_was(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        await interrupt(store, BIG)
        assert await exported(store) == OLD
        async with store.import_events(resume=True) as stream:
            begun_at = stream.byte_offset
            assert 0 < begun_at < len(BIG)
            assert BIG[:begun_at].count(b"\n") == stream.saved_events_count
            await stream.write(BIG[begun_at:])
            report = await stream.close()
        assert (report.imported, report.byte_offset) == (20, len(BIG))
        assert await exported(store) == BIG


async def test_a_stopped_import_goes_on_where_it_was(opened: Opened) -> None:
    async with opened() as store:
        async with store.import_events() as stream:
            await stream.write(BIG[: len(BIG) // 2])
            stream.stop()
            stopped = await stream.close()
        assert stopped.byte_offset == BIG.rindex(b"\n", 0, len(BIG) // 2) + 1
        resumed = store.import_events(resume=True)
        report = await pipeline(in_blocks(BIG), resumed)
        assert report.imported == 20
        assert await exported(store) == BIG


@pytest.mark.once
async def test_a_stopped_import_takes_in_nothing_more(opened: Opened) -> None:
    async with opened() as store:
        async with store.import_events() as stream:
            await stream.write(NEW)
            stream.stop()
            await stream.write(NEW + b"nonsense\n")
            report = await stream.close()
        assert (report.imported, report.byte_offset, report.is_end) == (200, len(NEW), False)


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.once
async def test_imports_that_are_stopped_before_they_begin_come_to_the_end_commit_by_commit(
    opened: Opened, end: bytes
) -> None:
    source = NEW[:-1] + end
    asked = 0

    async def blocks() -> AsyncIterator[bytes]:
        nonlocal asked
        async for block in in_blocks(source, 2000):
            asked += 1
            yield block

    async with opened() as store:
        calls = 0
        is_end = False
        while not is_end:
            calls += 1
            stream = store.import_events(resume=True)
            stream.stop()
            asked = 0
            report = await pipeline(blocks(), stream)
            is_end = report.is_end
            # Those that were taken in before, to see that it is the same source; one or two more, and none behind.
            assert asked <= report.byte_offset // 2000 + 2
            assert calls < 100
        assert calls > 10
        assert await exported(store) == NEW


@pytest.mark.parametrize("mode", [AUTO, MANUAL])
@pytest.mark.once
async def test_a_stopped_import_ends_its_pipeline(opened: Opened, mode: MaintenanceMode) -> None:
    asked = 0

    async def blocks() -> AsyncIterator[bytes]:
        nonlocal asked
        async for block in in_blocks(BIG):
            asked += 1
            if asked == 4:
                stream.stop()
            yield block

    async with opened() as store:
        stream = store.import_events(maintenance_mode=mode)
        report = await pipeline(blocks(), stream)
        assert not report.is_end
        assert asked == 4


@pytest.mark.once
async def test_an_import_may_be_stopped_and_resumed_again_and_again(opened: Opened) -> None:
    async with opened() as store:
        begun = []
        for _ in range(10):
            async with store.import_events(resume=True) as stream:
                begun.append(stream.byte_offset)
                await stream.write(OLD[stream.byte_offset :][:5000])
                stream.stop()
        report = await pipeline(in_blocks(OLD, 777), store.import_events(resume=True))
        assert sorted(set(begun)) == begun
        assert report.imported == 300
        assert await exported(store) == OLD


@pytest.mark.once
async def test_the_source_is_fed_from_its_start_and_may_be_cut_otherwise(opened: Opened) -> None:
    async with opened() as store:
        await interrupt(store, BIG)
        report = await pipeline(in_blocks(BIG, 300_007), store.import_events(resume=True))
        assert report.imported == 20
        assert await exported(store) == BIG


@pytest.mark.once
async def test_a_resumed_import_knows_the_lines_by_their_numbers(opened: Opened) -> None:
    clash = line(make_event(0, aggregateId="clash"))
    async with opened() as store:
        await interrupt(store, BIG)
        with pytest.raises(InputError, match=r"in line 1$") as refused:
            await pipeline(in_blocks(BIG + clash), store.import_events(resume=True))
        assert refused.value.line == 21


@pytest.mark.once
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(BIG.replace(b'"5 xx', b'"5 xy'), id="one letter differs"),
        pytest.param(NEW, id="another and shorter"),
        pytest.param(BIG[: len(BIG) // 4], id="cut off before the place"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\n" + BIG, id="shifted"),
    ],
)
async def test_another_source_is_refused_and_the_right_one_still_goes_on(
    opened: Opened, other: bytes
) -> None:
    async with opened() as store:
        await import_lines(store, OLD)
        await interrupt(store, BIG)
        with pytest.raises(ResumeError):
            await pipeline(in_blocks(other), store.import_events(resume=True))
        assert await exported(store) == OLD
        async with store.import_events(resume=True) as stream:
            assert stream.byte_offset > 0
            await stream.write(BIG[stream.byte_offset :])
        assert await exported(store) == BIG


async def test_a_resumed_import_is_refused_if_somebody_saved_since_the_first_began(opened: Opened) -> None:
    async with opened() as store:
        await interrupt(store, BIG)
        await save(store)
        with pytest.raises(StoreChangedError):
            await pipeline(in_blocks(BIG), store.import_events(resume=True))
        assert (await store.describe()).event_count == 1


@pytest.mark.once
async def test_a_refused_import_leaves_nothing_to_go_on_with(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(InputError):
            await pipeline(in_blocks(BIG + b"nonsense\n"), store.import_events())
        async with store.import_events(resume=True, allow_empty=True) as stream:
            assert stream.byte_offset == 0


async def test_an_import_does_not_replace_what_has_filled_a_gap_since_it_began(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        kept, gap = [make_event(i) for i in (0, 2 * 256)], make_event(256)
        await import_lines(store, kept)
        stream = store.import_events()
        await stream.write(NEW)
        await other.freeze()
        await import_lines(other, [gap], maintenance_mode=MANUAL)
        await other.unfreeze()
        with pytest.raises(StoreChangedError):
            await stream.close()
        assert await exported(store) == b"".join(map(line, [kept[0], gap, kept[1]]))
        await import_lines(store, NEW)
        assert await exported(store) == NEW


@pytest.mark.once
async def test_nor_does_one_that_goes_on_behind_the_gap(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, [make_event(256)])
        await interrupt(store, BIG)
        await store.freeze()
        await import_lines(store, [make_event(0)], maintenance_mode=MANUAL)
        await store.unfreeze()
        with pytest.raises(StoreChangedError):
            await pipeline(in_blocks(BIG), store.import_events(resume=True))
        assert await exported(store) == line(make_event(0)) + line(make_event(256))


# only into an empty store

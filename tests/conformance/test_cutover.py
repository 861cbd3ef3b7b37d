"""Cutover: an application moves from a store to its replica, and nothing is lost on the way."""

from __future__ import annotations

import asyncio

import pytest

from eventferry import (
    AlreadyFrozenError,
    CutoverError,
    EventStore,
    StoreFrozenError,
    TargetChangedError,
    cutover,
    open_store,
    verify,
)
from eventferry.syncing import cutover as cutting
from tests.support import NewUrl, Opened, all_pages, exported, import_lines, make_lines


async def save(store: EventStore, name: str, version: int) -> None:
    await store.save_event({"type": "SAVED", "aggregateId": name, "aggregateVersion": version})


async def test_everything_comes_over_and_the_source_stays_frozen(new_url: NewUrl) -> None:
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        await import_lines(source, make_lines(300))
        await source.set_secret("one", "1")
        cursor = (await source.describe(calculate_cursor=True)).cursor
        report = await cutover(source, target)
        assert (report.events, report.frozen_events, report.cursor) == (301, 0, cursor)
        assert report.downtime_seconds < 60
        assert await exported(target) == await exported(source)
        with pytest.raises(StoreFrozenError):
            await save(source, "late", 1)
        await save(target, "new", 1)
        with pytest.raises(AlreadyFrozenError):
            await cutover(source, target)


@pytest.mark.slow
async def test_an_application_goes_on_at_the_target_without_a_gap(new_url: NewUrl) -> None:
    """It saves a hundred times a second, finds the source frozen, and reconnects."""
    async with open_store(new_url()) as source, open_store(new_url()) as target:
        await source.init()
        store, saved, left = source, 0, 50
        is_over = asyncio.Event()

        async def application() -> None:
            nonlocal store, saved, left
            while left:
                try:
                    await save(store, f"user-{saved % 5}", saved // 5 + 1)
                except StoreFrozenError:
                    await asyncio.sleep(0.01)
                    store = target if is_over.is_set() else source
                    continue
                saved += 1
                left -= store is target
                await asyncio.sleep(0.01)

        running = asyncio.create_task(application())
        following = asyncio.create_task(target.sync(source, follow=True))
        while saved < 50:
            await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.wait([following])
        await cutover(source, target)
        is_over.set()
        await running
        versions: dict[str, list[int]] = {}
        for event in await all_pages(target, 1_000):
            versions.setdefault(event.aggregate_id, []).append(event.aggregate_version)
        assert sum(map(len, versions.values())) == saved
        for found in versions.values():
            assert found == list(range(1, len(found) + 1))


@pytest.mark.once
async def test_whatever_goes_wrong_leaves_the_source_as_it_was(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> str:
        raise CutoverError("the last events of the two stores differ")

    async with opened() as source, opened() as target:
        await save(source, "a", 1)
        monkeypatch.setattr(cutting, "_compare", fail)
        with pytest.raises(CutoverError):
            await cutover(source, target)
        await save(source, "a", 2)
        with pytest.raises(CutoverError):
            await cutover(source, target, unfreeze_on_failure=False)
        with pytest.raises(StoreFrozenError):
            await save(source, "a", 3)


@pytest.mark.once
async def test_a_target_to_which_somebody_has_written_is_no_target(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await save(source, "a", 1)
        await target.sync(source)
        await save(target, "mine", 1)
        await save(source, "a", 2)
        with pytest.raises(TargetChangedError):
            await cutover(source, target)
        await save(source, "a", 3)


@pytest.mark.once
async def test_a_difference_that_a_sync_cannot_see_is_found(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as source, opened() as target:
        await save(source, "a", 1)
        await target.sync(source)
        await target.import_secrets().close()
        async with target.import_secrets() as secrets:
            await secrets.write(b'{"secret":"x","id":"x","idx":5}\n')
        with pytest.raises(CutoverError, match="secrets"):
            await cutover(source, target)
        await save(source, "a", 2)


@pytest.mark.once
async def test_a_live_source_is_verified_up_to_a_bookmark(opened: Opened) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, make_lines(500))
        bookmark = (await target.sync(source)).bookmark
        await save(source, "later", 1)
        report = await verify(source.export_events(until=bookmark), target.export_events(until=bookmark))
        assert (report.equal, report.events) == (True, 500)
        assert not (await verify(source.export_events(), target.export_events())).equal

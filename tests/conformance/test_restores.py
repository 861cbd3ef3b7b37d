"""Restores: what comes back is what was backed up, on every database."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from eventferry import (
    CursorAheadError,
    EventStore,
    RepositoryDamagedError,
    RepositoryError,
    StoreFullError,
    StoreReplacedError,
    UsageError,
    open_store,
    verify,
)
from eventferry.backup.drilling import drill
from eventferry.backup.reading import Backup
from eventferry.backup.restoring import restore
from eventferry.backup.storage import Storage, open_storage
from tests.support import NewUrl, Opened, exported
from tests.support.small_backups import back_up


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "repository")


async def save(store: EventStore, count: int, name: str = "a") -> None:
    for number in range(count):
        await store.append_events(f"{name}-{number % 7}", [{"type": "T", "payload": {"number": number}}])


async def test_a_restored_store_is_what_was_backed_up(
    opened: Opened, new_url: NewUrl, storage: Storage
) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        for _ in range(3):
            await save(store, 10)
            await back_up(store, storage)
        report = await restore(await Backup.open(storage), restored)
        assert report.imported == 30
        assert (await verify(store.export_events(), restored.export_events())).equal
        assert await exported(restored) == await exported(store)


async def test_each_cut_restores_exactly_its_events(
    opened: Opened, new_url: NewUrl, storage: Storage
) -> None:
    cuts = []
    async with opened() as store:
        for _ in range(4):
            for _ in range(6):
                await save(store, random.randint(1, 3))
                cuts.append(await store.bookmark())
            await back_up(store, storage)
        backup = await Backup.open(storage)
        for number, cut in enumerate(random.sample(cuts, 10)):
            async with open_store(new_url()) as restored:
                report = await restore(backup, restored, stop=cut)
                assert report.bookmark == cut, number
                assert await exported(restored) == await exported(store, until=cut)


async def test_each_manifest_restores_the_store_as_it_was_then(
    opened: Opened, new_url: NewUrl, storage: Storage
) -> None:
    cuts = []
    async with opened() as store:
        for _ in range(3):
            await save(store, 5)
            await back_up(store, storage)
            cuts.append(await store.bookmark())
        for number, cut in enumerate(cuts, 1):
            async with open_store(new_url()) as restored:
                report = await restore(await Backup.open(storage, manifest=number), restored)
                assert report.manifest == number
                assert await exported(restored) == await exported(store, until=cut)


async def test_readers_that_were_not_ahead_go_on(opened: Opened, new_url: NewUrl, storage: Storage) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await save(store, 5)
        early = await store.bookmark()
        await save(store, 5)
        end = await store.bookmark()
        await back_up(store, storage)
        await restore(await Backup.open(storage), restored)
        assert await exported(restored, since=early) == await exported(store, since=early, until=end)
        assert await exported(restored, since=end) == b""


async def test_readers_that_were_ahead_are_refused(opened: Opened, new_url: NewUrl, storage: Storage) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await save(store, 5)
        await back_up(store, storage)
        await save(store, 5)
        ahead = await store.bookmark()
        await restore(await Backup.open(storage), restored)
        with pytest.raises(CursorAheadError):
            await exported(restored, since=ahead)
        await save(restored, 5, name="a")  # other events in the same places
        with pytest.raises((CursorAheadError, StoreReplacedError)):
            await exported(restored, since=ahead)


async def test_a_restore_replaces_only_if_it_may(opened: Opened, storage: Storage) -> None:
    async with opened() as store, opened() as other:
        await save(store, 5)
        await save(other, 2, name="other")
        await back_up(store, storage)
        backup = await Backup.open(storage)
        before = await exported(other)
        with pytest.raises(StoreFullError):
            await restore(backup, other)
        assert await exported(other) == before
        await restore(backup, other, replace=True)
        assert await exported(other) == await exported(store)


async def test_damage_leaves_the_target_as_it_was(opened: Opened, tmp_path: Path, storage: Storage) -> None:
    async with opened() as store, opened() as other:
        for _ in range(2):
            await save(store, 5)
            await back_up(store, storage)
        await save(other, 2, name="other")
        before = await exported(other)
        backup = await Backup.open(storage)
        part = tmp_path / "repository" / backup.chain.name / backup.parts[-1].file
        part.write_bytes(part.read_bytes()[:-1] + b"!")
        with pytest.raises(RepositoryDamagedError, match=part.name):
            await restore(backup, other, replace=True)
        assert await exported(other) == before


async def test_a_drill_finds_a_backup_equal_and_leaves_nothing(
    opened: Opened, new_url: NewUrl, storage: Storage
) -> None:
    async with opened() as store, open_store(new_url()) as place:
        await save(store, 12)
        await back_up(store, storage)
        report = await drill(await Backup.open(storage), place)
        assert (report.equal, report.events, report.restored_events) == (True, 12, 12)
        assert not await place.exists()


@pytest.mark.once
async def test_a_bookmark_of_another_store_is_no_cut(opened: Opened, storage: Storage) -> None:
    async with opened() as store, opened() as other:
        await save(store, 3)
        await save(other, 3)
        await back_up(store, storage)
        with pytest.raises(UsageError, match="another store"):
            (await Backup.open(storage)).lines(stop=await other.bookmark())


@pytest.mark.once
async def test_a_manifest_that_is_not_there_is_named(opened: Opened, storage: Storage) -> None:
    async with opened() as store:
        await save(store, 3)
        await back_up(store, storage)
    with pytest.raises(RepositoryError, match=r"no manifest 7 in the chain .*, but 1"):
        await Backup.open(storage, manifest=7)


@pytest.mark.once
async def test_chains_of_several_stores_are_told_apart(opened: Opened, storage: Storage) -> None:
    async with opened() as store, opened() as other:
        for number, each in enumerate((store, other)):
            await save(each, number + 1)
            await back_up(each, storage, source=f"store {number}")
        with pytest.raises(UsageError, match="of several stores"):
            await Backup.open(storage)
    from eventferry.backup.chain import chains

    found = [await Backup.open(storage, chain=name) for name in await chains(storage)]
    assert sorted(each.manifest.totals.events for each in found) == [1, 2]


@pytest.mark.once
async def test_a_store_that_was_replaced_goes_on_in_its_newest_chain(
    opened: Opened, new_url: NewUrl, storage: Storage
) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await save(store, 3)
        await back_up(store, storage)
        async with store.import_events() as importing:
            await importing.write(b"".join([block async for block in store.export_events(limit=2)]))
        await back_up(store, storage)
        await restore(await Backup.open(storage), restored)
        assert await exported(restored) == await exported(store)

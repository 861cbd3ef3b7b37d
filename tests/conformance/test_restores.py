"""Restores: what comes back is what was backed up, on every database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventferry import (
    Changes,
    CursorAheadError,
    EventStore,
    RepositoryDamagedError,
    RepositoryError,
    StoreFullError,
    StoreReplacedError,
    UsageError,
    back_up,
    open_store,
    verify,
)
from eventferry.backup.drilling import drill
from eventferry.backup.reading import Backup
from eventferry.backup.restoring import restore
from eventferry.backup.storage import Storage, open_storage
from eventferry.importing import batch
from tests.support import NewUrl, Opened, exported, small_backups


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
            await small_backups.back_up(store, storage)
        report = await restore(await Backup.open(storage), restored)
        assert report.imported == 30
        assert (await verify(store.export_events(), restored.export_events())).equal
        assert await exported(restored) == await exported(store)


@pytest.mark.slow
async def test_each_cut_restores_exactly_its_events(
    opened: Opened, new_url: NewUrl, storage: Storage
) -> None:
    cuts = []
    async with opened() as store:
        for _ in range(4):
            for _ in range(6):
                await save(store, random.randint(1, 3))
                cuts.append(await store.bookmark())
            await small_backups.back_up(store, storage)
        backup = await Backup.open(storage)
        for number, cut in enumerate(random.sample(cuts, 10)):
            async with open_store(new_url()) as restored:
                report = await restore(backup, restored, stop=cut)
                assert report.bookmark == cut, number
                assert await exported(restored) == await exported(store, until=cut)


@pytest.mark.slow
async def test_each_manifest_restores_the_store_as_it_was_then(
    opened: Opened, new_url: NewUrl, storage: Storage
) -> None:
    cuts = []
    async with opened() as store:
        for _ in range(3):
            await save(store, 5)
            await small_backups.back_up(store, storage)
            cuts.append(await store.bookmark())
        for number, cut in enumerate(cuts, 1):
            async with open_store(new_url()) as restored:
                report = await restore(await Backup.open(storage, manifest=number), restored)
                assert report.manifest == number
                assert await exported(restored) == await exported(store, until=cut)


@pytest.mark.once
async def test_readers_that_were_not_ahead_go_on(opened: Opened, new_url: NewUrl, storage: Storage) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await save(store, 5)
        early = await store.bookmark()
        await save(store, 5)
        end = await store.bookmark()
        await small_backups.back_up(store, storage)
        await restore(await Backup.open(storage), restored)
        assert await exported(restored, since=early) == await exported(store, since=early, until=end)
        assert await exported(restored, since=end) == b""


@pytest.mark.once
async def test_readers_that_were_ahead_are_refused(opened: Opened, new_url: NewUrl, storage: Storage) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await save(store, 5)
        await small_backups.back_up(store, storage)
        await save(store, 5)
        ahead = await store.bookmark()
        await restore(await Backup.open(storage), restored)
        with pytest.raises(CursorAheadError):
            await exported(restored, since=ahead)
        await save(restored, 5, name="a")  # other events in the same places
        with pytest.raises((CursorAheadError, StoreReplacedError)):
            await exported(restored, since=ahead)


@pytest.mark.once
async def test_a_restore_replaces_only_if_it_may(opened: Opened, storage: Storage) -> None:
    async with opened() as store, opened() as other:
        await save(store, 5)
        await save(other, 2, name="other")
        await small_backups.back_up(store, storage)
        backup = await Backup.open(storage)
        before = await exported(other)
        with pytest.raises(StoreFullError):
            await restore(backup, other)
        assert await exported(other) == before
        await restore(backup, other, replace=True)
        assert await exported(other) == await exported(store)


@pytest.mark.once
async def test_damage_leaves_the_target_as_it_was(opened: Opened, tmp_path: Path, storage: Storage) -> None:
    async with opened() as store, opened() as other:
        for _ in range(2):
            await save(store, 5)
            await small_backups.back_up(store, storage)
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
        await small_backups.back_up(store, storage)
        report = await drill(await Backup.open(storage), place)
        assert (report.equal, report.events, report.restored_events) == (True, 12, 12)
        assert not await place.exists()


@pytest.mark.once
async def test_a_bookmark_of_another_store_is_no_cut(opened: Opened, storage: Storage) -> None:
    async with opened() as store, opened() as other:
        await save(store, 3)
        await save(other, 3)
        await small_backups.back_up(store, storage)
        with pytest.raises(UsageError, match="another store"):
            (await Backup.open(storage)).lines(stop=await other.bookmark())


@pytest.mark.once
async def test_a_manifest_that_is_not_there_is_named(opened: Opened, storage: Storage) -> None:
    async with opened() as store:
        await save(store, 3)
        await small_backups.back_up(store, storage)
    with pytest.raises(RepositoryError, match=r"no manifest 7 in the chain .*, but 1"):
        await Backup.open(storage, manifest=7)


@pytest.mark.once
async def test_chains_of_several_stores_are_told_apart(opened: Opened, storage: Storage) -> None:
    async with opened() as store, opened() as other:
        for number, each in enumerate((store, other)):
            await save(each, number + 1)
            await small_backups.back_up(each, storage, source=f"store {number}")
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
        await small_backups.back_up(store, storage)
        async with store.import_events() as importing:
            await importing.write(b"".join([block async for block in store.export_events(limit=2)]))
        await small_backups.back_up(store, storage)
        await restore(await Backup.open(storage), restored)
        assert await exported(restored) == await exported(store)


@pytest.mark.once
async def test_secrets_come_back_only_if_asked_for(
    opened: Opened, new_url: NewUrl, storage: Storage, tmp_path: Path
) -> None:
    async with opened() as store:
        await store.set_secret("kept", "a key")
        await store.set_secret("gone", "another key")
        await store.delete_secret("gone")
        await back_up(store, tmp_path / "repository", secrets=True)
        backup = await Backup.open(storage)
        for with_secrets, expected in ((False, None), (True, "a key")):
            async with open_store(new_url()) as restored:
                report = await restore(backup, restored, with_secrets=with_secrets)
                assert report.secrets == (2 if with_secrets else None)
                assert await restored.get_secret("kept") == expected
                assert await restored.get_secret("gone") is None


@pytest.mark.once
async def test_a_secret_that_was_deleted_since_never_comes_back(
    opened: Opened, new_url: NewUrl, storage: Storage, tmp_path: Path
) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await store.set_secret("gone", "a key")
        await back_up(store, tmp_path / "repository", secrets=True)
        first = await Backup.open(storage, manifest=1)
        await store.delete_secret("gone")
        await back_up(store, tmp_path / "repository")
        await restore(first, restored, with_secrets=True)
        assert await restored.get_secret("gone") is None
        assert await exported(restored) == await exported(store, limit=1)


@pytest.mark.once
async def test_without_its_list_nothing_is_restored_unless_it_must_be(
    opened: Opened, new_url: NewUrl, storage: Storage, tmp_path: Path
) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await store.set_secret("gone", "a key")
        await back_up(store, tmp_path / "repository", secrets=True)
        await store.delete_secret("gone")
        await back_up(store, tmp_path / "repository")
        [erasures] = (tmp_path / "repository").rglob("erasures/*.json")
        erasures.unlink()
        for number in (1, 2):
            with pytest.raises(RepositoryDamagedError, match=r"erasures.*without_erasures=True"):
                await restore(await Backup.open(storage, manifest=number), restored)
        assert not await restored.exists()
        await restore(
            await Backup.open(storage, manifest=1), restored, with_secrets=True, without_erasures=True
        )
        assert await restored.get_secret("gone") == "a key"


@pytest.mark.once
async def test_a_backup_without_secrets_has_none_to_restore(
    opened: Opened, new_url: NewUrl, storage: Storage, tmp_path: Path
) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await save(store, 1)
        await back_up(store, tmp_path / "repository")
        with pytest.raises(RepositoryError, match="no secrets"):
            await restore(await Backup.open(storage), restored, with_secrets=True)
        assert not await restored.exists()


@pytest.mark.slow
async def test_an_interrupted_restore_is_continued(
    opened: Opened, new_url: NewUrl, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BATCH_BYTES", 2_000)
    monkeypatch.setattr("eventferry.importing.replace.Replacement.batch_bytes", 2_000)
    async with opened() as store, open_store(new_url()) as restored:
        await save(store, 200)
        await small_backups.back_up(store, storage, per_part=20)
        backup = await Backup.open(storage)

        async def interrupted(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            count = 0
            async for block in blocks:
                yield block
                count += 1
                if count == 7:
                    raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await restore(backup, restored, tell=interrupted)
        progress = await restored.import_progress()
        assert progress is not None
        assert 0 < progress.imported < 200
        report = await restore(backup, restored, resume=True)
        assert report.imported == 200
        assert await exported(restored) == await exported(store)


@pytest.mark.once
async def test_changes_on_the_way_have_no_common_history(
    opened: Opened, new_url: NewUrl, storage: Storage
) -> None:
    async with opened() as store, open_store(new_url()) as restored:
        await save(store, 10)
        bookmark = await store.bookmark()
        await small_backups.back_up(store, storage)
        changes = Changes(aggregate_ids=["a-1", "a-2"])
        report = await restore(await Backup.open(storage), restored, changes=changes)
        assert (report.imported, report.bookmark) == (4, None)
        assert (changes.report.read, changes.report.left_out) == (10, 6)
        found = await restored.last_events(10)
        assert [event.thread_counter for event in found] == [0, 1, 2, 3]
        with pytest.raises(StoreReplacedError, match="another store"):
            await exported(restored, since=bookmark)

"""The facade of a repository, with await and without; the figures, and keeping it small."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    EventStore,
    Repository,
    RepositoryDamagedError,
    RepositoryError,
    StoreExistsError,
    StoreFullError,
    UsageError,
    open_store,
    sync,
    verify,
)
from eventferry import back_up as run_of
from eventferry.backup import format, keeping, restoring
from eventferry.backup.chain import Chain
from eventferry.backup.format import Link, Manifest
from eventferry.backup.packing import load_recipients
from eventferry.backup.reading import Backup
from eventferry.backup.storage import open_storage
from eventferry.clock import now
from eventferry.reading import exporting
from tests.support import exported
from tests.support.repositories import chain_in, names_in
from tests.support.small_backups import KEY, RECIPIENT, back_up

DAY = 24 * 3600 * 1000


async def grown(store: EventStore, repository: str, runs: int, **options: Any) -> list[str]:
    """So many runs of three events each, in parts of one; the bookmark behind each."""
    bookmarks = []
    for _ in range(runs):
        for number in range(3):
            await store.append_events(f"a-{number}", [{"type": "T", "payload": number}])
        await back_up(store, open_storage(repository), per_part=1, **options)
        bookmarks.append(await store.bookmark())
    return bookmarks


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "a.db")


async def test_status_tells_the_last_run_and_its_age(place: str, repository: str) -> None:
    async with open_store(place) as store:
        await store.init()
        [_, bookmark] = await grown(store, repository, 2, created=now() - DAY)
    status = await Repository(repository).status()
    assert (status.newest.manifest, status.newest.events, status.newest.parts) == (2, 6, 6)
    assert status.newest.bookmark == bookmark
    assert 24 * 3600 <= status.age_seconds < 25 * 3600
    assert [run.manifest for run in await Repository(repository).runs()] == [1, 2]
    assert [run.manifest for run in await Repository(repository).runs(limit=1)] == [2]


async def test_a_repository_stays_the_same_when_the_process_goes_to_another_folder(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    found = Repository("repo")
    async with open_store(place) as store:
        await store.init()
        await grown(store, "repo", 1)
        monkeypatch.chdir(tmp_path / "two")
        await grown(store, "repo", 1)
        assert (await found.status()).newest.events == 3
        assert (await Repository("repo").status()).newest.events == 6
        assert found._given == str(tmp_path / "one/repo")  # as processes that restore by it are told
        assert found.place == "repo"


async def test_a_place_without_a_backup_is_told(repository: str) -> None:
    found = Repository(repository)
    for asked in (found.status(), found.runs(), found.check(), found.head(), found.drill(), found.prune()):
        with pytest.raises(RepositoryError, match="no backup"):
            await asked


async def test_a_drill_refuses_a_place_with_a_store(place: str, repository: str) -> None:
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 1)
        with pytest.raises(StoreExistsError, match="an empty place"):
            await Repository(repository).drill(store)
        assert len(await store.last_events(10)) == 3


async def test_a_drill_leaves_what_another_has_stored_in_its_place(
    place: str, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = restoring._erasures

    async def met(backup: Backup) -> Any:
        async with open_store(str(tmp_path / "b.db")) as other:
            if not await other.exists():
                await other.init()
            await other.append_events("another", [{"type": "T"}])
        return await find(backup)

    async with open_store(place) as store, open_store(str(tmp_path / "b.db")) as empty:
        await store.init()
        await grown(store, repository, 1)
        monkeypatch.setattr(restoring, "_erasures", met)
        with pytest.raises(StoreFullError):
            await Repository(repository).drill(empty)
        assert [event.aggregate_id for event in await empty.last_events(10)] == ["another"]


async def test_a_drill_leaves_no_file(
    place: str, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 1)
    report = await Repository(repository).drill()
    assert (report.equal, report.events) == (True, 3)
    assert list(folder.iterdir()) == []


async def test_a_drill_removes_what_one_that_was_killed_has_left(
    place: str, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    names = ("eventferry-drill-old_____", "eventferry-drill-young___", "eventferry-drill-used____")
    others = ("another", "eventferry-drill-results")  # somebody's own
    for name in (*names, *others):
        (folder / name).mkdir(parents=True)
        (folder / name / "drill.db").touch()
        for each in (folder / name / "drill.db", folder / name):
            if "young" not in name and ("used" not in name or each.is_dir()):
                os.utime(each, (now() / 1000 - 90_000,) * 2)
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 1)
    assert (await Repository(repository).drill()).equal
    left = sorted(each.name for each in folder.iterdir())
    assert left == sorted((*others, *names[1:]))


async def test_a_drill_in_a_given_place_leaves_no_store_and_no_file(
    place: str, repository: str, tmp_path: Path
) -> None:
    async with open_store(place) as store, open_store(str(tmp_path / "drill.db")) as target:
        await store.init()
        await grown(store, repository, 1)
        assert (await Repository(repository).drill(target)).equal
        assert not await target.exists()
        assert not (tmp_path / "drill.db").exists()


async def test_a_drill_finds_a_restore_that_lost_an_event(
    place: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 1)

    async def forgetful(backup: Any, target: EventStore, **options: Any) -> Any:
        from eventferry.backup.restoring import restore

        report = await restore(backup, target, **options)
        await target.save_event({"type": "EXTRA", "aggregateId": "b", "aggregateVersion": 1})
        return report

    monkeypatch.setattr("eventferry.backup.drilling.restore", forgetful)
    report = await Repository(repository).drill()
    assert not report.equal
    assert [difference.kind for difference in report.differences] == ["extra"]


async def test_joined_parts_hold_every_state_that_there_was(
    place: str, repository: str, tmp_path: Path
) -> None:
    async with open_store(place) as store:
        await store.init()
        bookmarks = await grown(store, repository, 4)
        found = Repository(repository)
        report = await found.prune(compact=True, dry_run=True)
        assert (report.joined_parts, report.into_parts) == (12, 1)
        assert (await found.status()).newest.parts == 12
        report = await found.prune(compact=True)
        assert (report.joined_parts, report.into_parts, report.removed_objects) == (12, 1, 0)
        report = await found.prune(compact=True)  # now nobody reads them any more
        assert (report.joined_parts, report.removed_objects) == (0, 24)
        bookmarks.insert(4, bookmarks[3])  # of the manifest that lists what was joined
        bookmarks += await grown(store, repository, 2)
        checked = await found.check(1.0)
        assert checked.sound, checked.problems
        assert (checked.parts, checked.events) == (7, 18)
        for number, bookmark in enumerate(bookmarks, 1):
            lines = b"".join([block async for block in found.export_events(number)])
            assert lines == await exported(store, until=bookmark), number


async def test_a_damaged_chain_keeps_no_other_from_being_pruned(tmp_path: Path, repository: str) -> None:
    names = []
    for name in ("a", "b", "c"):
        async with open_store(str(tmp_path / f"{name}.db")) as store:
            await store.init()
            for number in range(2):
                await store.append_events("a", [{"type": "T", "payload": number}])
                chain = (await run_of(store, repository)).chain
        names.append(chain)
    storage, damaged = open_storage(repository), min(names)  # the first that is looked at
    await storage.delete(format.manifest_name(damaged, 2))
    await storage.put_new(format.manifest_name(damaged, 2), b"damaged")
    found = Repository(repository)
    with pytest.raises(RepositoryDamagedError, match=damaged):
        await found.prune(compact=True)
    assert [(await found.status(name)).newest.parts for name in names if name != damaged] == [1, 1]


async def test_a_report_counts_the_parts_of_all_chains(tmp_path: Path, repository: str) -> None:
    for name in ("a", "b"):
        async with open_store(str(tmp_path / f"{name}.db")) as store:
            await store.init()
            await grown(store, repository, 2)
    report = await Repository(repository).prune(compact=True)
    assert (report.joined_parts, report.into_parts) == (12, 2)


async def test_parts_are_joined_while_another_run_adds_some(
    place: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 2)
        commit = Chain.commit
        raced: list[int] = []

        async def overtaken(chain: Chain, manifest: Manifest) -> Link | None:
            if not raced:
                raced.append(manifest.number)
                monkeypatch.setattr(Chain, "commit", commit)
                await grown(store, repository, 1)
            return await commit(chain, manifest)

        monkeypatch.setattr(Chain, "commit", overtaken)
        found = Repository(repository)
        assert (await found.prune(compact=True)).into_parts == 1
        assert raced == [3]
        storage = open_storage(repository)
        files = [each.name for each in await storage.listed(f"{(await found.status()).newest.chain}/parts")]
        assert len([name for name in files if name.endswith(".zst")]) == 9 + 1
        status = await found.status()
        assert (status.newest.manifest, status.newest.parts, status.newest.events) == (4, 1, 9)
        assert (await found.check(1.0)).sound
        assert (await verify(found.export_events(), store.export_events())).equal


async def test_joining_keeps_the_age_of_a_backup(place: str, repository: str) -> None:
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 2, created=1000)
    await Repository(repository).prune(compact=True)
    newest = (await Repository(repository).status()).newest
    assert (newest.manifest, newest.created) == (3, 1000)


async def test_encrypted_parts_are_joined_with_a_key_and_stay_encrypted(
    place: str, repository: str, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 2, recipients=load_recipients([RECIPIENT]))
        with pytest.raises(RepositoryError, match="encrypted"):
            await Repository(repository).prune(compact=True)
        report = await Repository(repository, [key]).prune(compact=True)
        assert (report.joined_parts, report.into_parts) == (6, 1)
        assert (await Repository(repository).check(1.0)).sound
        with pytest.raises(RepositoryError, match="encrypted"):
            _ = [block async for block in Repository(repository).export_events()]
        lines = Repository(repository, [key]).export_events()
        assert (await verify(lines, store.export_events())).equal


async def test_what_killed_runs_have_left_is_removed_when_it_is_old(place: str, tmp_path: Path) -> None:
    repository = str(tmp_path / "repository")
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 2)
        found = Repository(repository)
        [chain] = Path(repository).glob("[0-9a-f]*/")
        before = {file for file in chain.rglob("*") if file.is_file()}
        key = sorted(chain.glob("parts/*.json"))[0].stem
        left = [
            chain / "parts" / f"{'0' * 32}-00000000.jsonl.zst",  # killed before its descriptor
            chain / "parts" / f"{key}-00000000.jsonl.zst.age",  # before it could tell that another was faster
            chain / "secrets" / f"{'0' * 32}-00000000.jsonl.zst",  # before its manifest
        ]
        (chain / "secrets").mkdir()
        others = [chain / "parts" / ".DS_Store", chain / "parts" / f"{'0' * 32}-00000000.jsonl.zst~"]
        for file in [*left, *others]:
            file.write_bytes(b"Ada")
        assert (await found.prune(compact=False)).removed_objects == 0
        week = now() / 1000 - 8 * 24 * 3600
        for file in [*before, *left, *others]:
            os.utime(file, (week, week))
        # By the storage's clock nothing was stored after them: this machine's may be wrong.
        assert (await found.prune()).removed_objects == 0
        await grown(store, repository, 1)
        for file in chain.glob("manifests/00000002.json"):
            os.utime(file, (now() / 1000 + 10**8,) * 2)
        assert (await found.prune(dry_run=True)).removed_objects == 3
        assert (await found.prune()).removed_objects == 3
        assert not any(file.exists() for file in left)
        assert all(file.exists() for file in [*before, *others])
        assert (await found.check(1.0)).sound


async def test_a_part_that_no_run_comes_to_any_more_is_removed(
    place: str, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(*_: Any) -> None:
        raise asyncio.CancelledError

    found = Repository(repository)
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 1)
        for name in range(40):
            await store.append_events(f"b-{name}", [{"type": "T", "payload": "x" * 100}] * 10)
        with monkeypatch.context() as patched:
            patched.setattr(format, "PART_BYTES", 10_000)
            patched.setattr(exporting, "PAGE_BYTES", 5_000)
            patched.setattr(Chain, "commit", killed)
            with pytest.raises(asyncio.CancelledError):
                await run_of(store, repository)
        offered = await names_in(repository, "parts/")
        assert len(offered) > 10
        assert (await found.prune()).removed_objects == 0  # the next run uses them
        # Encrypted, it cannot use the first of them, and so it does not come to the others.
        await run_of(store, repository, recipients=[RECIPIENT])
        unused = set(offered) & set(await names_in(repository, "parts/")) - await named_in(repository)
        report = await found.prune()
        assert report.removed_objects == len(offered) - 6 - 2
        assert len(unused & set(await names_in(repository, "parts/"))) == 1
        assert (await found.check(1.0)).sound


async def named_in(repository: str) -> set[str]:
    """The files of the newest manifest, and their descriptors."""
    chain = await chain_in(repository)
    assert chain.newest is not None
    parts = await chain.parts(chain.newest)
    return {part.file for part in parts} | {f"parts/{part.key}.json" for part in parts}


async def test_chains_of_replaced_stores_are_removed_when_they_are_old(place: str, repository: str) -> None:
    today = now()
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 2, created=today - 100 * DAY)
        async with store.import_events() as importing:
            await importing.write(b"".join([block async for block in store.export_events(limit=2)]))
        await grown(store, repository, 1, created=today - 50 * DAY)
        found = Repository(repository)
        old, young = {run.chain: None for run in sorted(await found.runs(), key=lambda run: run.created)}
        assert (await found.prune(keep_replaced=60 * DAY)).removed_chains == []
        assert (await found.prune(keep_replaced=40 * DAY, dry_run=True)).removed_chains == [old]
        assert (await found.prune(keep_replaced=40 * DAY)).removed_chains == [old]
        assert [run.chain for run in await found.runs()] == [young]
        assert (await found.check(1.0)).sound
        assert (await found.prune(keep_replaced=0)).removed_chains == []


async def test_a_chain_that_its_store_goes_on_with_meanwhile_is_not_removed(
    place: str, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today, moved = now(), tmp_path / "moved.db"
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 2, created=today - 100 * DAY)
    moved.write_bytes(Path(place).read_bytes())
    async with open_store(place) as store, open_store(str(moved)) as elsewhere:
        async with store.import_events() as importing:
            await importing.write(b"".join([block async for block in store.export_events(limit=2)]))
        await grown(store, repository, 1, created=today)
        find = keeping._Keeping.replaced

        async def overtaken(self: keeping._Keeping, found: Sequence[Chain], keep: int) -> list[Chain]:
            replaced = await find(self, found, keep)
            await grown(elsewhere, repository, 1, created=today, source="elsewhere")
            return replaced

        monkeypatch.setattr(keeping._Keeping, "replaced", overtaken)
        assert (await Repository(repository).prune(keep_replaced=0)).removed_chains == []
        assert (await Repository(repository).check(1.0)).sound
        assert len(await Repository(repository).runs()) == 4


async def test_two_stores_whose_places_have_the_same_text_are_two(tmp_path: Path, repository: str) -> None:
    today, found = now(), Repository(repository)
    async with open_store(str(tmp_path / "a.db")) as one, open_store(str(tmp_path / "b.db")) as other:
        for days in (100, 50, 0):
            for minutes, store in enumerate((one, other)):
                if not await store.exists():
                    await store.init()
                await grown(store, repository, 1, created=today - days * DAY + minutes * 60_000)
        with pytest.raises(
            UsageError, match=r"chains of several stores: say which chain \(.* of the store, .*"
        ):
            await found.status()
        assert (await found.prune(keep_replaced=60 * DAY)).removed_chains == []
        await found.prune(compact=True)
        await found.prune(keep_manifests=0)
        assert (await found.prune(keep_replaced=0)).removed_chains == []
        for run in await found.runs():
            assert (await found.status(run.chain)).newest.chain == run.chain


async def test_a_chain_of_another_store_is_never_removed(tmp_path: Path, repository: str) -> None:
    for created, name in enumerate(("a", "b"), 1000):
        async with open_store(str(tmp_path / f"{name}.db")) as store:
            await store.init()
            await grown(store, repository, 1, created=created, source=name)
    assert (await Repository(repository).prune(keep_replaced=0)).removed_chains == []


async def test_a_damaged_chain_of_another_store_is_in_nobodys_way(tmp_path: Path, repository: str) -> None:
    found = Repository(repository)
    for name in ("a", "b"):
        async with open_store(str(tmp_path / f"{name}.db")) as store:
            await store.init()
            await grown(store, repository, 2, source=name)
    own, other = [run.chain for run in await found.runs() if run.manifest == 2]
    await open_storage(repository).delete(f"{other}/manifests/00000002.json")
    await open_storage(repository).put_new(f"{other}/manifests/00000002.json", b"{}")
    async with open_store(str(tmp_path / "restored.db")) as restored:
        assert (await found.restore(restored, chain=own)).imported == 6
        with pytest.raises(RepositoryDamagedError, match="manifests/00000002"):
            await found.restore(restored, chain=other, replace=True)


async def test_old_manifests_are_removed_below_one_that_lists_all_parts(place: str, repository: str) -> None:
    async with open_store(place) as store:
        await store.init()
        await grown(store, repository, 4, created=1000)
        found = Repository(repository)
        assert (await found.prune(keep_manifests=0)).removed_manifests == 0
        await found.prune(compact=True)
        assert (await found.prune(keep_manifests=0)).removed_manifests == 4
        assert [run.manifest for run in await found.runs()] == [5]
        assert (await found.check(1.0)).sound
        assert (await verify(found.export_events(), store.export_events())).equal


def test_a_repository_can_be_used_without_await(place: str, tmp_path: Path) -> None:
    import asyncio

    repository = str(tmp_path / "repository")
    with sync.open_store(place) as store, sync.open_store(str(tmp_path / "b.db")) as restored:
        store.init()
        asyncio.run(grown(store.inner, repository, 2))
        found = sync.Repository(repository)
        assert found.place == repository
        assert found.status().newest.events == 6
        assert found.check(1.0, found.head()).sound
        assert found.restore(restored, manifest=1).imported == 3
        assert found.restore(restored, replace=True).imported == 6
        assert sync.verify(found.export_events(), restored.export_events()).equal
        assert found.drill().equal
        assert found.prune(compact=True).joined_parts == 6


async def test_what_is_no_head_or_share_is_refused(repository: str) -> None:
    with pytest.raises(UsageError, match="chain:number:sha256"):
        await Repository(repository).check(head="abc")
    with pytest.raises(UsageError, match="a share"):
        await Repository(repository).check(5)

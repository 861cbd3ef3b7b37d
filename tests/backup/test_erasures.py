"""What was erased from a store stays erased when it is restored, from whichever backup."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyrage
import pytest

from eventferry import (
    MANUAL,
    EventStore,
    Repository,
    RepositoryError,
    Rule,
    Rules,
    back_up,
    open_store,
    pipeline,
    verify,
)
from eventferry.backup.chain import Chain
from eventferry.backup.format import Link, Manifest
from eventferry.backup.packing import load_identities
from eventferry.lines.unpacking import Zstd
from eventferry.state import owners
from tests.support import NewUrl, exported, import_lines, line, make_event
from tests.support.places import DATABASES, Places
from tests.support.small_backups import KEY, RECIPIENT

NAME = "Ada Lovelace"
ERASE = Rules(rules=(Rule(redact=("/name",)),))


@pytest.fixture(params=DATABASES)
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewUrl]:
    with Places(request.param, tmp_path) as places:
        yield places.new_url


def persons(*numbers: int) -> bytes:
    return b"".join(line(make_event(i, payload={"i": i, "name": NAME})) for i in range(*numbers))


async def named_in(store: EventStore) -> set[str]:
    """The aggregates of which a name is left."""
    lines = map(json.loads, (await exported(store)).splitlines())
    return {event["aggregateId"] for event in lines if event["payload"]["name"] == NAME}


ALL = {f"aggregate-{i}" for i in range(10)}


@pytest.mark.slow
async def test_a_restore_of_an_older_backup_stays_erased(new_url: NewUrl, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    async with open_store(new_url()) as store, open_store(new_url()) as restored:
        await store.init()
        await import_lines(store, persons(300))
        await back_up(store, folder)
        await store.erase(ERASE, aggregate_ids=["aggregate-3"])
        await import_lines(store, persons(300, 400), maintenance_mode=MANUAL)
        assert (await back_up(store, folder)).erasures == 1
        await store.erase(ERASE, aggregate_prefixes=["aggregate-4"])
        assert (await back_up(store, folder)).erasures == 2
        assert (await back_up(store, folder)).erasures == 2
        repository = Repository(folder)
        for manifest, count in ((1, 300), (2, 400), (None, 400)):
            await repository.restore(restored, manifest=manifest, replace=True)
            assert await named_in(restored) == ALL - {"aggregate-3", "aggregate-4"}
            assert (await restored.describe()).event_count == count
        assert (await verify(store.export_events(), restored.export_events())).equal
        await import_lines(restored, persons(300))
        assert await named_in(restored) == ALL - {"aggregate-3", "aggregate-4"}


async def test_a_repository_knows_of_an_erasure_from_the_next_backup_on_or_at_once(tmp_path: Path) -> None:
    folder, repository = tmp_path / "repository", Repository(tmp_path / "repository")
    async with open_store(str(tmp_path / "a.db")) as store, open_store(str(tmp_path / "b.db")) as restored:
        await store.init()
        await import_lines(store, persons(300))
        await back_up(store, folder)
        assert await repository.note_erasures(store) is None
        await store.erase(ERASE, aggregate_ids=["aggregate-3"])
        await repository.restore(restored)
        assert await named_in(restored) == ALL
        await back_up(store, folder)
        await repository.restore(restored, manifest=1, replace=True)
        assert await named_in(restored) == ALL - {"aggregate-3"}
        await store.erase(ERASE, aggregate_ids=["aggregate-4"])
        assert await repository.note_erasures(store) == await repository.note_erasures(store) == 2
        await repository.restore(restored, manifest=1, replace=True)
        assert await named_in(restored) == ALL - {"aggregate-3", "aggregate-4"}
        assert (await back_up(store, folder)).erasures == 2
    assert (await repository.check(1.0)).sound


async def test_a_deleted_secret_that_is_noted_never_comes_back(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")

    async def restored_secret(name: str) -> str | None:
        async with open_store(str(tmp_path / name)) as restored:
            await repository.restore(restored, with_secrets=True)
            return await restored.get_secret("gone")

    async with open_store(str(tmp_path / "a.db")) as store:
        await store.init()
        await store.set_secret("gone", "a key")
        await back_up(store, tmp_path / "repository", secrets=True)
        await store.delete_secret("gone")
        assert await restored_secret("b.db") == "a key"
        await repository.note_erasures(store)
        assert await restored_secret("c.db") is None


async def test_a_place_without_a_backup_of_the_store_notes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    async with open_store(str(tmp_path / "a.db")) as store, open_store(str(tmp_path / "b.db")) as other:
        for each in (store, other):
            await each.init()
            await import_lines(each, persons(30))
        await store.erase(ERASE)
        with pytest.raises(RepositoryError, match="holds no backup of the store as it is now"):
            await Repository(folder).note_erasures(store)
        assert not folder.exists()
        await back_up(other, folder)
        with pytest.raises(RepositoryError, match="holds no backup of the store as it is now"):
            await Repository(folder).note_erasures(store)
    assert not list(folder.rglob("erasures"))


@pytest.mark.slow
async def test_readers_of_the_store_go_on_in_the_restored_one(new_url: NewUrl, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    async with open_store(new_url()) as store, open_store(new_url()) as restored:
        await store.init()
        await import_lines(store, persons(300))
        before = await store.bookmark()
        await back_up(store, folder)
        await store.erase(ERASE)
        after = await store.bookmark()
        await back_up(store, folder)
        repository = Repository(folder)
        for until in (before, after):
            await repository.restore(restored, until=until, replace=True)
            assert await named_in(restored) == set()
            for bookmark in (before, after):
                assert (await restored.load_events(limit=1, since=bookmark)).events == []


async def test_what_was_erased_after_a_restore_is_erased_in_the_chain_before_it(tmp_path: Path) -> None:
    folder, place = tmp_path / "repository", str(tmp_path / "store.db")
    repository = Repository(folder)
    async with open_store(place) as store, open_store(str(tmp_path / "other.db")) as restored:
        await store.init()
        await import_lines(store, persons(300))
        await back_up(store, folder)
        [before] = await repository.runs()
        await repository.restore(store, replace=True)
        await store.erase(ERASE, aggregate_ids=["aggregate-3"])
        await back_up(store, folder)
        await repository.restore(restored, chain=before.chain)
        assert await named_in(restored) == ALL - {"aggregate-3"}
        assert await lines_of(repository.export_events(chain=before.chain)) == await exported(store)
        await repository.prune(compact=True)
        assert (await repository.prune(compact=True)).erased_parts == 0
        [old, new] = [
            await lines_of(repository.export_events(chain=chain, without_erasures=True))
            for chain in {run.chain: None for run in await repository.runs()}
        ]
        assert old == new == await exported(store)
        assert (await repository.check(1.0)).sound


@pytest.mark.slow
async def test_a_restore_that_is_killed_leaves_no_events_without_what_was_erased(
    new_url: NewUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "repository"
    async with open_store(new_url()) as store:
        await store.init()
        await import_lines(store, persons(30))
        await back_up(store, folder)
        await store.erase(ERASE)
        await back_up(store, folder)
    for freeze in (False, True):
        for ended in range(1, 100):
            async with open_store(new_url()) as restored:
                await restored.init()
                with monkeypatch.context() as patched, Killed(patched, ended) as killed:
                    await Repository(folder).restore(restored, freeze=freeze)
                if (await restored.describe()).event_count:
                    assert (await restored.erased()).erasures
            if not killed.was:
                break
        assert ended > 5


@pytest.mark.slow
async def test_a_copy_that_is_killed_leaves_no_events_without_what_was_erased(
    new_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(new_url()) as store:
        await store.init()
        await import_lines(store, persons(30))
        await store.erase(ERASE)
        for ended in range(1, 100):
            async with open_store(new_url()) as copy:
                await copy.init()
                with monkeypatch.context() as patched, Killed(patched, ended) as killed:
                    await pipeline(store.export_events(), copy.import_events(erased_from=store))
                if (await copy.describe()).event_count:
                    assert (await copy.erased()).erasures
            if not killed.was:
                break
        assert ended > 5


class Killed:
    """Ends what runs in it behind so many write transactions; `was` says whether it did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self._left = count
        self._writing: Any = owners.writing
        self.was = False
        monkeypatch.setattr(owners, "writing", self._counted)

    @asynccontextmanager
    async def _counted(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with self._writing(*args, **kwargs) as transaction:
            yield transaction
        self._left -= 1
        if self._left == 0:
            self.was = True
            raise asyncio.CancelledError

    def __enter__(self) -> Killed:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is asyncio.CancelledError


async def test_nothing_of_what_was_erased_is_left_in_the_file_that_is_restored_into(tmp_path: Path) -> None:
    folder, file = tmp_path / "repository", tmp_path / "restored.db"
    async with open_store(str(tmp_path / "store.db")) as store, open_store(str(file)) as restored:
        for one in (store, restored):
            await one.init()
            await import_lines(one, persons(300))
        await back_up(store, folder)
        await store.erase(ERASE)
        await back_up(store, folder)
        assert NAME.encode() in everything_in(file)
        await Repository(folder).restore(restored, replace=True)
        assert NAME.encode() not in everything_in(file)


def everything_in(file: Path) -> bytes:
    """The bytes of a SQLite file and of what lies beside it."""
    return b"".join(each.read_bytes() for each in file.parent.glob(f"{file.name}*"))


async def test_a_drill_compares_without_what_was_erased(new_url: NewUrl, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    async with open_store(new_url()) as store:
        await store.init()
        await import_lines(store, persons(300))
        await back_up(store, folder)
        await store.erase(ERASE)
        await back_up(store, folder)
    repository = Repository(folder)
    assert (await repository.drill()).equal


async def test_without_erasures_what_was_erased_comes_back(new_url: NewUrl, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    async with open_store(new_url()) as store, open_store(new_url()) as restored:
        await store.init()
        await import_lines(store, persons(300))
        await back_up(store, folder)
        await store.erase(ERASE)
        await back_up(store, folder)
        repository = Repository(folder)
        await repository.restore(restored, without_erasures=True)
        assert await named_in(restored) == ALL
        assert (await restored.erased()).erasures == ()


async def test_the_lines_of_a_backup_come_without_what_was_erased(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.init()
        await import_lines(store, persons(30))
        await back_up(store, tmp_path / "repository")
        await store.erase(ERASE)
        await back_up(store, tmp_path / "repository")
        repository = Repository(tmp_path / "repository")
        assert await lines_of(repository.export_events(1)) == await exported(store)
        assert await lines_of(repository.export_events(without_erasures=True)) == persons(30)
        chosen = await lines_of(repository.export_events(aggregate_ids=["aggregate-3"]))
        assert chosen == await exported(store, aggregate_ids=["aggregate-3"])


async def lines_of(source: AsyncIterator[bytes]) -> bytes:
    return b"".join([block async for block in source])


@pytest.mark.parametrize("encrypted", [False, True])
async def test_joining_parts_takes_what_was_erased_out_of_the_repository(
    tmp_path: Path, encrypted: bool
) -> None:
    folder, key = tmp_path / "repository", tmp_path / "key"
    key.write_text(KEY)
    recipients = [RECIPIENT] if encrypted else []
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.init()
        cuts = []
        for since in range(0, 300, 100):
            await import_lines(store, persons(since, since + 100), maintenance_mode=MANUAL)
            await back_up(store, folder, recipients=recipients)
            cuts.append(await store.bookmark())
        repository = Repository(folder, [key])
        await repository.prune(compact=True)
        await store.erase(ERASE, aggregate_ids=["aggregate-3"])
        await back_up(store, folder, recipients=recipients)
        report = await repository.prune(compact=True, dry_run=True)
        assert report.erased_parts == 1
        assert (await repository.prune(compact=True)).erased_parts == 1
        await repository.prune(compact=True)
        kept = await lines_of(repository.export_events(without_erasures=True))
        assert kept == await exported(store)
        assert (await everything(folder, key)).count(NAME.encode()) == 270
        assert (await repository.check(1.0)).sound
        assert (await repository.prune(compact=True)).erased_parts == 0
        for number, cut in enumerate(cuts, 1):
            assert await lines_of(repository.export_events(number)) == await exported(store, until=cut)
        assert (await repository.drill()).equal


async def test_what_is_erased_while_parts_are_joined_is_taken_out_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, commit = tmp_path / "repository", Chain.commit
    async with open_store(f"sqlite:///{tmp_path}/store.db") as store:
        await store.init()
        for since in (0, 100):
            await import_lines(store, persons(since, since + 100), maintenance_mode=MANUAL)
            await back_up(store, folder)

        async def overtaken(chain: Chain, manifest: Manifest) -> Link | None:
            monkeypatch.setattr(Chain, "commit", commit)
            await store.erase(ERASE)
            await back_up(store, folder)
            return await commit(chain, manifest)

        monkeypatch.setattr(Chain, "commit", overtaken)
        repository = Repository(folder)
        assert (await repository.prune(compact=True)).erased_parts == 2
        await repository.prune(compact=True)  # now nobody reads what was joined
        kept = await lines_of(repository.export_events(without_erasures=True))
        assert kept == await exported(store)
        assert NAME.encode() not in kept
        assert len([*folder.rglob("parts/*.zst")]) == 1


async def everything(folder: Path, key: Path) -> bytes:
    """What all parts in a folder hold, whether a manifest names them or not."""
    identities = load_identities([key])
    found = []
    for file in sorted(folder.rglob("parts/*.jsonl.zst*")):
        data = file.read_bytes()
        found.append(pyrage.decrypt(data, identities) if file.suffix == ".age" else data)
    return b"".join(b"".join(Zstd(str(folder)).feed(data)) for data in found)

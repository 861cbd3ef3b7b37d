"""A chain of manifests: each is committed once, and any other than that which was committed is found by name."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from eventferry import RepositoryDamagedError
from eventferry.backup import format
from eventferry.backup.chain import Chain, chains
from eventferry.backup.format import Erasures, Link, Manifest
from eventferry.backup.storage import FolderStorage, ListedObject, Storage, open_storage
from tests.support.chains import NAME, bookmark_at, grown, next_manifest, part_of

OTHER = "ff00ff00ff00ff00"


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "repository")


class Counting:
    """A storage that counts what is read."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.reads = 0

    @property
    def place(self) -> str:
        return self._storage.place

    async def put_new(self, name: str, data: bytes) -> bool:
        return await self._storage.put_new(name, data)

    async def get(self, name: str) -> bytes | None:
        self.reads += 1
        return await self._storage.get(name)

    async def size(self, name: str) -> int | None:
        return await self._storage.size(name)

    async def listed(self, folder: str) -> list[ListedObject]:
        return await self._storage.listed(folder)

    async def folders(self) -> list[str]:
        return await self._storage.folders()

    async def delete(self, name: str) -> None:
        await self._storage.delete(name)


async def changed(storage: FolderStorage, number: int, /, **changes: object) -> None:
    """Replace a manifest by another one, whose own checksum is right."""
    name = format.manifest_name(NAME, number)
    manifest = format.unseal(await storage.get(name) or b"", Manifest, name)
    await storage.delete(name)
    await storage.put_new(name, format.seal(msgspec.structs.replace(manifest, **changes)))


async def damages(storage: Storage) -> list[str]:
    return [str(each) async for each in (await Chain.read(storage, NAME)).damages()]


async def test_a_chain_that_is_not_there_has_no_manifest(storage: FolderStorage) -> None:
    chain = await Chain.read(storage, NAME)
    assert chain.newest is None
    assert list(chain.numbers) == []
    assert await chains(storage) == []


async def test_a_manifest_is_committed_once(storage_place: str) -> None:
    storage = open_storage(storage_place)
    one, two = await Chain.read(storage, NAME), await Chain.read(storage, NAME)
    link = await one.commit(next_manifest(one, [part_of(0, 1)]))
    assert link is not None
    assert await two.commit(next_manifest(two, [part_of(0, 2)])) is None
    newest = (await Chain.read(storage, NAME)).newest
    assert newest is not None
    assert newest.link == link
    assert newest.manifest.totals.events == 1
    assert await chains(storage) == [NAME]


async def test_a_commit_whose_answer_was_lost_is_known_as_ones_own(storage: FolderStorage) -> None:
    chain = await Chain.read(storage, NAME)
    manifest = next_manifest(chain, [part_of(0, 1)])
    assert await chain.commit(manifest) == await chain.commit(manifest)


async def test_the_parts_of_every_manifest_come_in_order(storage: FolderStorage) -> None:
    chain = await grown(storage, 40)
    for number in chain.numbers:
        parts = await chain.parts(await chain.entry(number))
        assert [part.first_time for part in parts] == list(range(number))
    assert await damages(storage) == []


@pytest.mark.slow
async def test_few_manifests_are_read_for_all_parts_of_a_long_chain(storage: FolderStorage) -> None:
    await grown(storage, 255)
    counting = Counting(storage)
    chain = await Chain.read(counting, NAME)
    assert chain.newest is not None
    assert len(await chain.parts(chain.newest)) == 255
    assert counting.reads <= 9


async def test_a_part_stands_in_few_manifests(storage: FolderStorage) -> None:
    chain = await grown(storage, 64)
    listed = [part for number in chain.numbers for part in (await chain.entry(number)).manifest.parts]
    assert len(listed) <= 64 * 7


@pytest.mark.parametrize("number", [1, 2, 4, 7])
async def test_a_missing_manifest_is_found(storage: FolderStorage, number: int) -> None:
    await grown(storage, 7)
    await storage.delete(format.manifest_name(NAME, number))
    if number == 7:  # only whoever has kept the head elsewhere can know of it
        assert await damages(storage) == []
    else:
        assert any(f"{number:08}.json" in each and "it is missing" in each for each in await damages(storage))


@pytest.mark.parametrize("number", [1, 2, 4, 6])
async def test_a_manifest_that_was_replaced_is_found(storage: FolderStorage, number: int) -> None:
    await grown(storage, 7)
    await changed(storage, number, source="another")
    found = await damages(storage)
    name = format.manifest_name(NAME, number)
    assert any(
        each.startswith(name) and ("later manifests" in each or "next manifest" in each) for each in found
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cut": bookmark_at(9)}, "do not end at its cut"),
        ({"cut": "nonsense"}, "a bookmark begins with"),
        ({"cut": bookmark_at(1, OTHER)}, "a bookmark of another store"),
        ({"chain": OTHER}, f"it is manifest 1 of the chain {OTHER}"),
        ({"number": 2}, f"it is manifest 2 of the chain {NAME}"),
        ({"parts": []}, "do not end at its cut"),
        ({"parts": [part_of(1, 2)]}, "does not begin where the part before it ends"),
        ({"parts": [part_of(0, 1), part_of(1, 1)]}, "its totals are not those of its parts"),
        ({"root": 3}, "contradicts itself"),
        ({"base": Link(number=1, sha256="0" * 64)}, "contradicts itself"),
        ({"previous": Link(number=1, sha256="0" * 64)}, "not made after the manifest of the number before"),
    ],
)
async def test_a_manifest_that_contradicts_itself_is_found(
    storage: FolderStorage, changes: dict[str, object], reason: str
) -> None:
    await grown(storage, 1)
    await changed(storage, 1, **changes)
    with pytest.raises(RepositoryDamagedError, match=reason):  # noqa: PT012
        for found in [each async for each in (await Chain.read(storage, NAME)).damages()]:
            raise found


async def test_a_base_that_comes_later_is_refused(storage: FolderStorage) -> None:
    chain = await grown(storage, 3)
    assert chain.newest is not None
    await changed(storage, 2, base=chain.newest.link)
    chain = await Chain.read(storage, NAME)
    with pytest.raises(RepositoryDamagedError, match="says that manifest 3 comes before it"):
        await chain.parts(await chain.entry(2))


async def test_what_was_pruned_before_the_newest_whole_list_is_not_missed(storage: FolderStorage) -> None:
    chain = await grown(storage, 3)
    assert chain.newest is not None
    parts = await chain.parts(chain.newest)
    whole = next_manifest(chain, [], parts, base=None, root=4)
    assert await chain.commit(whole)
    await grown(storage, 3)
    for number in (1, 2, 3):
        await storage.delete(format.manifest_name(NAME, number))
    assert await damages(storage) == []
    chain = await Chain.read(storage, NAME)
    assert chain.newest is not None
    assert len(await chain.parts(chain.newest)) == 6


def erasures(number: int, previous: Link | None, **changes: object) -> Erasures:
    one = Erasures(
        chain=NAME,
        number=number,
        previous=previous,
        created=number,
        state="0" * 64,
        deleted_secrets=[str(number)],
    )
    return msgspec.structs.replace(one, **changes)


async def erased(storage: FolderStorage, count: int) -> Link:
    """Lists of erasures; the link to the last of them."""
    link: Link | None = None
    for number in range(1, count + 1):
        data = format.seal(erasures(number, link))
        await storage.put_new(format.erasures_name(NAME, number), data)
        link = Link(number=number, sha256=format.sha256(data))
    assert link is not None
    return link


async def test_lists_of_erasures_come_in_order(storage: FolderStorage) -> None:
    await erased(storage, 3)
    lists = await (await Chain.read(storage, NAME)).erasures()
    assert [one.deleted_secrets for one in lists] == [["1"], ["2"], ["3"]]


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_list_of_erasures_that_is_missing_is_found(storage: FolderStorage, number: int) -> None:
    chain = await Chain.read(storage, NAME)
    link = await erased(storage, 3)
    assert await chain.commit(next_manifest(chain, [part_of(0, 1)], erasures=link))
    await storage.delete(format.erasures_name(NAME, number))
    with pytest.raises(RepositoryDamagedError, match=f"erasures/{number:08}.json .*it is missing"):
        await (await Chain.read(storage, NAME)).erasures()


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_list_of_erasures_that_was_replaced_is_found(storage: FolderStorage, number: int) -> None:
    chain = await Chain.read(storage, NAME)
    link = await erased(storage, 3)
    assert await chain.commit(next_manifest(chain, [part_of(0, 1)], erasures=link))
    name = format.erasures_name(NAME, number)
    one = format.unseal(await storage.get(name) or b"", Erasures, name)
    await storage.delete(name)
    await storage.put_new(name, format.seal(msgspec.structs.replace(one, deleted_secrets=[])))
    with pytest.raises(RepositoryDamagedError, match=r"it is not the one|the list before it"):
        await (await Chain.read(storage, NAME)).erasures()
    assert len(await damages(storage)) == 1

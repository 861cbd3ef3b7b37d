"""Repositories as tests read them, and storages that count, or fail when they are told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from eventferry.backup import format
from eventferry.backup.chain import Chain, chains
from eventferry.backup.packing import check_stored, unpacked
from eventferry.backup.storage import ListedObject, Storage, open_storage


async def chain_in(repository: str, name: str | None = None) -> Chain:
    """The only chain in a repository, or that of this name."""
    storage = open_storage(repository)
    if name is None:
        [name] = await chains(storage)
    return await Chain.read(storage, name)


async def lines_in(
    repository: str, number: int | None = None, name: str | None = None, identities: Sequence[Any] = ()
) -> bytes:
    """The lines of a chain's newest manifest, or of this one, read part by part."""
    storage, chain = open_storage(repository), await chain_in(repository, name)
    assert chain.newest is not None
    entry = chain.newest if number is None else await chain.entry(number)
    lines = b""
    for part in await chain.parts(entry):
        lines += await lines_of(storage, chain.name, part, identities)
    return lines


async def lines_of(storage: Storage, chain: str, part: format.Part, identities: Sequence[Any] = ()) -> bytes:
    """The lines of a part."""
    name = format.part_name(chain, part)
    data = check_stored(name, part, await storage.get(name))
    return b"".join(unpacked(name, part, data, identities))


async def damages_in(repository: str, name: str | None = None) -> list[str]:
    """What is wrong with the manifests and the lists of a chain."""
    return [str(each) async for each in (await chain_in(repository, name)).damages()]


async def names_in(repository: str, folder: str = "") -> list[str]:
    """The names of the objects in folders of a chain whose names begin so, without the chain's."""
    storage = open_storage(repository)
    [name] = await chains(storage)
    found = await storage.listed(name)
    names = [each.name.removeprefix(f"{name}/") for each in found]
    return [each for each in names if each.startswith(folder)]


class Watched:
    """A storage that counts what is asked of it, and can fail.

    Attributes:
        calls: how often each method was called.
        written: bytes of objects that were created.
        read: bytes that were read.
        fails_at: the call, counted from 0, that raises; None, none. It may have been done before.
        is_done_first: whether that call is done before it raises.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.calls: Counter[str] = Counter()
        self.written = 0
        self.read = 0
        self.fails_at: int | None = None
        self.is_done_first = False

    @property
    def place(self) -> str:
        return self._storage.place

    async def put_new(self, name: str, data: bytes) -> bool:
        created: bool = await self._called("put_new", self._storage.put_new, name, data)
        self.written += len(data) if created else 0
        return created

    async def get(self, name: str) -> bytes | None:
        found: bytes | None = await self._called("get", self._storage.get, name)
        self.read += len(found or b"")
        return found

    async def size(self, name: str) -> int | None:
        size: int | None = await self._called("size", self._storage.size, name)
        return size

    async def listed(self, folder: str) -> list[ListedObject]:
        found: list[ListedObject] = await self._called("listed", self._storage.listed, folder)
        return found

    async def folders(self) -> list[str]:
        found: list[str] = await self._called("folders", self._storage.folders)
        return found

    async def delete(self, name: str) -> None:
        await self._called("delete", self._storage.delete, name)

    async def _called(self, method: str, call: Any, *arguments: Any) -> Any:
        number = self.calls.total()
        self.calls[method] += 1
        if number == self.fails_at and not self.is_done_first:
            raise asyncio.CancelledError
        result = await call(*arguments)
        if number == self.fails_at:
            raise asyncio.CancelledError
        return result

"""The chain of a store in a repository: its manifests, each holding the digest of the one before.

Everything that is read from a repository is checked here, before anybody relies on it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, TypeVar

from eventferry import cursor as vector
from eventferry.backup import format
from eventferry.backup.format import ArchiveMark, Erasures, Link, Manifest, Part, Totals
from eventferry.backup.storage import Storage
from eventferry.errors import RepositoryDamagedError, RepositoryError, UsageError
from eventferry.reading.bookmarks import Written, decode

Numbered = TypeVar("Numbered", Manifest, Erasures)


class Entry(NamedTuple):
    """A manifest, and the link to it."""

    manifest: Manifest
    link: Link


class Chain:
    """A chain as it stood when it was read. Its manifests are read when they are asked for.

    Attributes:
        name: the store's identity in hex.
        numbers: of the manifests that were there, in order.
        newest: the last of them; None where there is none yet.
    """

    def __init__(self, storage: Storage, name: str, numbers: Sequence[int], newest: Entry | None) -> None:
        self._storage = storage
        self.name = name
        self.numbers = numbers
        self.newest = newest

    @classmethod
    async def read(cls, storage: Storage, name: str) -> Chain:
        """The chain of a store as it is now, with its newest manifest.

        Raises:
            RepositoryDamagedError: that manifest is not what was written.
            RepositoryError: the storage cannot be read, or a newer eventferry has written it.
        """
        found = [format.number_of(entry.name) for entry in await storage.listed(f"{name}/manifests")]
        numbers = sorted(number for number in found if number is not None)
        chain = cls(storage, name, numbers, None)
        if numbers:
            chain.newest = await chain.entry(numbers[-1])
        return chain

    async def entry(self, number: int) -> Entry:
        """A manifest by its number, with its own digest checked. Raises RepositoryDamagedError."""
        if self.newest is not None and number == self.newest.link.number:
            return self.newest
        return Entry(*await self._read(format.manifest_name(self.name, number), Manifest, "manifest", number))

    async def _read(self, name: str, kind: type[Numbered], what: str, number: int) -> tuple[Numbered, Link]:
        """The object of a name, and the link to it. Raises RepositoryDamagedError for another than that of the
        number."""
        data = await self._storage.get(name)
        if data is None:
            raise RepositoryDamagedError(name, "it is missing")
        found = format.unseal(data, kind, name)
        if (found.chain, found.number) != (self.name, number):
            raise RepositoryDamagedError(name, f"it is {what} {found.number} of the chain {found.chain}")
        return found, Link(number=number, sha256=format.sha256(data))

    async def is_replaced_by(self, other: Chain) -> bool:
        """Whether another chain is of the store, or of the events, that came to the same place after this one's: it
        began behind the last run of this one. Of chains whose runs overlap in time, the stores are two, and their
        places only have the same text, as on two machines."""
        if self.newest is None or other.newest is None or other.name == self.name:
            return False
        own, its = self.newest.manifest, other.newest.manifest
        return its.source == own.source and await other._begun() > own.created

    async def _begun(self) -> int:
        """When its first run was, but not behind its last one: clocks go back."""
        if self.newest is None:
            raise AssertionError("a chain without manifests has not begun")
        newest = self.newest.manifest
        begun = newest.begun
        if begun is None:
            begun = (await self.entry(self.numbers[0])).manifest.created
        return min(begun, newest.created)

    async def begun_before(self, time: int) -> bool:
        """Whether its first run was before a time, in ms since 1970."""
        return await self._begun() < time

    async def followed(self, link: Link) -> Entry:
        """The manifest that a link is to. Raises RepositoryDamagedError where it is another than that."""
        found = await self.entry(link.number)
        if found.link != link:
            name = format.manifest_name(self.name, link.number)
            raise RepositoryDamagedError(name, "it is not the one that later manifests were made after")
        return found

    async def parts_since(self, entry: Entry, base: int | None = None) -> tuple[list[Part], Link | None]:
        """The parts of a manifest, in order, behind those of manifest `base`, and the link to that; None: all, and
        None. `base` is one of `format.base_of` for a manifest behind this one. Raises RepositoryDamagedError."""
        lists: list[list[Part]] = []
        link: Link | None = entry.link
        while link is not None and link.number != base:
            at = entry if link is entry.link else await self.followed(link)
            lists.append(at.manifest.parts)
            link = at.manifest.base
            if link is not None and link.number >= at.link.number:
                name = format.manifest_name(self.name, at.link.number)
                raise RepositoryDamagedError(name, f"it says that manifest {link.number} comes before it")
        return [part for parts in reversed(lists) for part in parts], link

    async def parts(self, entry: Entry) -> list[Part]:
        """All parts of a manifest's state, in order, from the start of the store. It reads as many manifests as the
        number has binary ones, at most.

        Raises:
            RepositoryDamagedError: they do not follow one another, do not end at its cut, or do not add up.
        """
        parts, _ = await self.parts_since(entry)
        name = format.manifest_name(self.name, entry.link.number)
        self._check_parts(name, entry.manifest, parts)
        if Totals().plus(parts) != entry.manifest.totals:
            raise RepositoryDamagedError(name, "its totals are not those of its parts")
        return parts

    def _check_parts(self, name: str, manifest: Manifest, parts: Sequence[Part]) -> None:
        key = format.key_of([0] * vector.THREADS)
        for part in parts:
            if part.key != key:
                raise RepositoryDamagedError(
                    name, f"{part.file} does not begin where the part before it ends"
                )
            if part.end is None:
                raise RepositoryDamagedError(name, f"{part.file} does not say where it ends")
            key = format.key_of(self._bookmark(name, part.end).unread)
        if key != format.key_of(self._bookmark(name, manifest.cut).unread):
            raise RepositoryDamagedError(name, "its parts do not end at its cut")

    def _bookmark(self, name: str, text: str) -> Written:
        try:
            written = decode(text)
        except UsageError as error:
            raise RepositoryDamagedError(name, str(error)) from None
        if written.identity.hex() != self.name:
            raise RepositoryDamagedError(name, "it holds a bookmark of another store")
        return written

    async def archives(self) -> list[ArchiveMark]:
        """What the store relies on this chain for. Raises RepositoryDamagedError."""
        found: list[ArchiveMark] = []
        for entry in await self._storage.listed(f"{self.name}/archives"):
            data = await self._storage.get(entry.name)
            if data is None:
                continue  # recalled since the listing
            one = format.unseal(data, ArchiveMark, entry.name)
            if format.archive_name(one.chain, one.id) != entry.name:
                raise RepositoryDamagedError(entry.name, f"it is archive {one.id} of the chain {one.chain}")
            found.append(one)
        return found

    async def erasures(self) -> list[Erasures]:
        """All lists of erasures, in order: those that were added after the newest manifest too.

        Raises:
            RepositoryDamagedError: one is missing, or is not what was written.
        """
        known = None if self.newest is None else self.newest.manifest.erasures
        lists: list[Erasures] = []
        before: Link | None = None
        for number in range(1, await self.erasures_count() + 1):
            one, link = await self.erasures_at(number)
            name = format.erasures_name(self.name, number)
            if one.previous != before:
                raise RepositoryDamagedError(name, "the list before it is not the one that it was made after")
            if known is not None and known.number == number and known != link:
                raise RepositoryDamagedError(name, "it is not the one that the newest manifest was made with")
            lists.append(one)
            before = link
        return lists

    async def erasures_count(self) -> int:
        """How many lists of erasures there are, or must be."""
        found = [
            format.number_of(entry.name) for entry in await self._storage.listed(f"{self.name}/erasures")
        ]
        known = None if self.newest is None else self.newest.manifest.erasures
        return max([number for number in found if number is not None] + [known.number if known else 0])

    async def erasures_at(self, number: int) -> tuple[Erasures, Link]:
        """A list of erasures by its number, and the link to it. Raises RepositoryDamagedError."""
        return await self._read(format.erasures_name(self.name, number), Erasures, "list", number)

    async def add_erasures(self, erasures: Erasures) -> Link | None:
        """Add a list of erasures; None where another run has added one of this number."""
        return await self._add(format.erasures_name(self.name, erasures.number), erasures)

    async def commit(self, manifest: Manifest) -> Link | None:
        """Add a manifest, whose number follows the newest one's; None where another run has added one of this number.
        Raises RepositoryError where the storage fails; then it may have been added."""
        return await self._add(format.manifest_name(self.name, manifest.number), manifest)

    async def _add(self, name: str, value: Manifest | Erasures) -> Link | None:
        data = format.seal(value)
        # A request that was repeated after a lost answer finds what it has created itself.
        if not await self._storage.put_new(name, data) and await self._storage.get(name) != data:
            return None
        return Link(number=value.number, sha256=format.sha256(data))

    async def damages(self) -> AsyncIterator[RepositoryDamagedError]:
        """All that is wrong with manifests and lists of erasures, as far as they tell without the parts' objects.
        Manifests before the newest one that lists all parts may have been pruned."""
        if self.newest is None:
            return
        present = set(self.numbers)
        after: Manifest | None = None
        for number in range(self.newest.link.number, 0, -1):
            if number not in present and number < self.newest.manifest.root:
                after = None
                continue
            name = format.manifest_name(self.name, number)
            try:
                entry = await self.entry(number)
                if after is not None and after.previous != entry.link:
                    yield RepositoryDamagedError(
                        name, "it is not the one that the next manifest was made after"
                    )
                await self._check_entry(name, entry)
                after = entry.manifest
            except RepositoryDamagedError as error:
                after = None
                yield error
        for look in (self.erasures, self.archives):
            try:
                await look()
            except RepositoryDamagedError as error:
                yield error

    async def _check_entry(self, name: str, entry: Entry) -> None:
        manifest = entry.manifest
        self._bookmark(name, manifest.cut)
        if manifest.previous is not None and manifest.previous.number != manifest.number - 1:
            raise RepositoryDamagedError(name, "it was not made after the manifest of the number before")
        is_root = manifest.base is None
        if is_root != (manifest.root == manifest.number) or (manifest.previous is None) != (
            manifest.number == 1
        ):
            raise RepositoryDamagedError(name, "it contradicts itself about what comes before it")
        if manifest.base is not None:
            if manifest.base.number != format.base_of(manifest.number, manifest.root):
                raise RepositoryDamagedError(name, f"manifest {manifest.base.number} is no base for it")
            base = (await self.followed(manifest.base)).manifest
            if base.totals.plus(manifest.parts) != manifest.totals:
                raise RepositoryDamagedError(name, "its totals are not those of its parts")
            if manifest.parts and manifest.parts[0].key != format.key_of(
                self._bookmark(name, base.cut).unread
            ):
                raise RepositoryDamagedError(name, "its parts do not begin where those of its base end")
        else:
            await self.parts(entry)


async def later(storage: Storage, chain: Chain) -> list[Chain]:
    """The chains of what came to the same place after a chain's end: what was erased there was of these events too.
    Raises RepositoryDamagedError where the newest manifest of one is damaged, so that nobody knows."""
    found = []
    for name in await chains(storage):
        if name == chain.name:
            continue
        try:
            other = await Chain.read(storage, name)
        except RepositoryDamagedError:
            # Another store's chain, by its first manifest, is no reason to refuse a restore of this one.
            first = (await Chain(storage, name, [1], None).entry(1)).manifest
            if chain.newest is not None and first.source != chain.newest.manifest.source:
                continue
            raise
        if await chain.is_replaced_by(other):
            found.append(other)
    return found


async def chains(storage: Storage) -> list[str]:
    """The names of all chains in a repository, in order."""
    return [folder for folder in await storage.folders() if re.fullmatch(format.CHAIN, folder)]


async def refuse_empty(storage: Storage) -> None:
    """Raises RepositoryError where no backup was ever begun."""
    if not await chains(storage):
        raise no_backup(storage)


def no_backup(storage: Storage, left: str = "") -> RepositoryError:
    """The error for a repository in which nobody has finished a backup; `left` says what is there instead."""
    return RepositoryError(f"there is no backup in {storage.place}{left}")

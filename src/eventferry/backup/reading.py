"""A state in a repository, as a source of lines.

Each part is fetched whole and compared with its SHA-256 before anything of it is unpacked: what is damaged is told by
the name of its object, and nothing of it goes further.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec

from eventferry.backup import chain as chains
from eventferry.backup import format
from eventferry.backup.chain import Chain, Entry
from eventferry.backup.cuts import AtBookmark, AtTime, Cut, until
from eventferry.backup.format import Erasures, Manifest, Part
from eventferry.backup.packing import check_stored, unpacked
from eventferry.backup.storage import Storage
from eventferry.errors import RepositoryDamagedError, RepositoryError, UsageError
from eventferry.lifecycle import aclosing
from eventferry.lines.files import BLOCK
from eventferry.reading.ahead import in_turn
from eventferry.secrets import Secret, decode_line

JOBS = 2
"""Parts that are fetched at the same time, by default: the next one while one is on its way."""


async def chain_in(storage: Storage, name: str | None, manifest: int | None = None) -> Chain:
    """The chain of this name; None: the only one, or that of the store that replaced the others of its place.

    With a manifest it is read even where the newest one is damaged.

    Raises:
        RepositoryError: there is none.
        UsageError: there are chains of several stores, and no name.
        RepositoryDamagedError: its newest manifest is damaged.
    """
    names = await chains.chains(storage)
    if name is not None and names and name not in names:
        raise RepositoryError(f"there is no chain {name} in {storage.place}, but {', '.join(names)}")
    read = [await _chain(storage, each, manifest) for each in names if name in (None, each)]
    found = [each for each in read if each.newest is not None]  # others are just being begun
    if not found:
        raise chains.no_backup(storage)
    current = [each for each in found if not any([await each.is_replaced_by(other) for other in found])]
    if len(current) > 1:
        told = ", ".join(sorted(f"{each.name} of {_newest(each).manifest.source}" for each in current))
        raise UsageError(f"the repository holds chains of several stores: say which chain ({told})")
    return current[0]


async def _chain(storage: Storage, name: str, manifest: int | None) -> Chain:
    try:
        return await Chain.read(storage, name)
    except RepositoryDamagedError:
        if manifest is None:
            raise
        chain = Chain(storage, name, [manifest], None)
        return Chain(storage, name, [manifest], await chain.entry(manifest))


def _newest(chain: Chain) -> Entry:
    if chain.newest is None:
        raise AssertionError("a chain has manifests, or it would not have been found")
    return chain.newest


class Backup:
    """The state of a store at the end of a run.

    Attributes:
        chain: of the store.
        manifest: of the run.
        parts: what holds its events, in order; of an older run maybe more than those.
    """

    def __init__(
        self, storage: Storage, chain: Chain, manifest: Manifest, parts: Sequence[Part], reach: str
    ) -> None:
        self._storage = storage
        self.chain = chain
        self.manifest = manifest
        self.parts = parts
        self._reach = reach

    @classmethod
    async def open(cls, storage: Storage, chain: str | None = None, manifest: int | None = None) -> Backup:
        """The state at the end of run `manifest` of a chain; None: of the last one. Raises as `chain_in` does, and
        RepositoryDamagedError where a manifest that is needed is damaged."""
        found = await chain_in(storage, chain, manifest)
        newest = _newest(found)
        if manifest is None or manifest == newest.link.number:
            return cls(storage, found, newest.manifest, await found.parts(newest), newest.manifest.cut)
        if manifest not in found.numbers:
            raise RepositoryError(
                f"there is no manifest {manifest} in the chain {found.name}, but {_ranges(found.numbers)}"
            )
        entry = await found.entry(manifest)
        # Small parts have been joined since, and may have been removed: what they held stands in larger ones.
        holder = newest if manifest < newest.manifest.root else entry
        return cls(storage, found, entry.manifest, await found.parts(holder), holder.manifest.cut)

    def lines(
        self,
        *,
        stop: str | int | None = None,
        identities: Sequence[Any] = (),
        jobs: int = JOBS,
    ) -> BackupLines:
        """The lines of the events, as they were backed up.

        Args:
            stop: only those up to this bookmark, or of each thread those before its first one that is later than this
                time, in ms since 1970.
            identities: keys of `packing.load_identities`, for parts that are encrypted.
            jobs: how many parts are fetched at the same time.

        Raises:
            UsageError: the bookmark is not one of this backup, as `cuts.AtBookmark` says.
        """
        cuts: list[Cut] = []
        if self.is_cut:
            cuts.append(AtBookmark(self.manifest.cut, self._reach))
        if isinstance(stop, str):
            cuts.append(AtBookmark(stop, self.manifest.cut))
        elif stop is not None:
            cuts.append(AtTime(stop, self.manifest.cut))
        return BackupLines(self._blocks(identities, jobs), cuts, self.manifest.cut)

    async def _blocks(self, identities: Sequence[Any], jobs: int) -> AsyncGenerator[bytes, None]:
        sources = (
            read_part(self._storage, self.chain.name, part, identities) for part in self.parts if part.events
        )
        async with aclosing(in_turn(sources, jobs)) as blocks:
            async for block in blocks:
                yield block

    @property
    def is_cut(self) -> bool:
        """Whether the parts hold more than the state: its own were joined with those of later runs."""
        return self._reach != self.manifest.cut

    @property
    def has_secrets(self) -> bool:
        """Whether secrets were ever backed up."""
        return _newest(self.chain).manifest.secrets is not None

    async def secrets(
        self, deleted: Sequence[str], identities: Sequence[Any] = ()
    ) -> AsyncGenerator[bytes, None]:
        """The lines of the secrets as they were last backed up: those of older runs are removed. Of those with these
        ids, and those that were deleted then, without their keys.
        Raises as `BackupLines` does."""
        gone = set(deleted)
        found = _newest(self.chain).manifest.secrets
        for part in () if found is None else found.parts:
            async with aclosing(read_part(self._storage, self.chain.name, part, identities)) as blocks:
                async for block in blocks:
                    rows = (decode_line(line) for line in block.split(b"\n")[:-1])
                    yield b"".join(
                        msgspec.json.encode(Secret(None, one.id, one.idx) if one.id in gone else one) + b"\n"
                        for one in rows
                    )

    async def erasures(self) -> list[Erasures]:
        """What was erased in the store, up to now, also since its events were replaced. Raises RepositoryDamagedError
        where a list is missing or damaged."""
        found = [self.chain, *await chains.later(self._storage, self.chain)]
        return [one for each in found for one in await each.erasures()]


class BackupLines(AsyncIterator[bytes]):
    """Lines of a backup, in blocks of whole lines.

    Raises during iteration:
        RepositoryDamagedError: an object is missing, or is not what was written.
        RepositoryError: the storage cannot be read, or no key fits.
        StoreReplacedError: the backup does not hold what the bookmark has read that it should end at.
    """

    def __init__(self, blocks: AsyncGenerator[bytes, None], cuts: Sequence[Cut], end: str) -> None:
        for cut in cuts:
            blocks = until(cut, blocks)
        self._blocks = blocks
        self._last = cuts[-1] if cuts else None
        self._end = end

    @property
    def bookmark(self) -> str:
        """Of the backed up store, behind the lines, once all were read."""
        return self._end if self._last is None else self._last.bookmark

    def __aiter__(self) -> BackupLines:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._blocks)

    async def aclose(self) -> None:
        """End now; twice is fine."""
        await self._blocks.aclose()


async def read_part(
    storage: Storage, chain: str, part: Part, identities: Sequence[Any] = ()
) -> AsyncGenerator[bytes, None]:
    """The lines of a part, in blocks of whole lines. Raises as `BackupLines` does."""
    name = format.part_name(chain, part)
    data = await storage.get(name)
    pieces = unpacked(name, part, await asyncio.to_thread(check_stored, name, part, data), identities)
    del data
    count = 0
    rest: list[bytes] = []
    while block := await asyncio.to_thread(_gathered, pieces):
        count += block.count(b"\n")
        whole, found, tail = block.rpartition(b"\n")
        if found:
            yield b"".join((*rest, whole, found))
            rest.clear()
        if tail:
            rest.append(tail)
    if rest or count != part.events:
        raise RepositoryDamagedError(name, "it does not hold as many lines as were written")


def _gathered(pieces: Iterator[bytes]) -> bytes:
    """Some of these pieces, about a block; nothing at the end. One by one they would cost a change of threads each."""
    gathered: list[bytes] = []
    size = 0
    while size < BLOCK and (piece := next(pieces, None)) is not None:
        gathered.append(piece)
        size += len(piece)
    return b"".join(gathered)


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers that rise, in words."""
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"

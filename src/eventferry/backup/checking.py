"""Check: is a repository what was written?

Everything is looked at that names something else: listings, manifests, and as many of the parts as wanted. None of it
needs a key; with one, parts are unpacked too.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from eventferry.backup import chain as chains
from eventferry.backup import format
from eventferry.backup.chain import Chain
from eventferry.backup.format import Descriptor, Part, RepositoryMarker
from eventferry.backup.packing import check_stored
from eventferry.backup.reading import read_part
from eventferry.backup.storage import Storage
from eventferry.errors import RepositoryDamagedError, RepositoryError, UsageError
from eventferry.lifecycle import aclosing
from eventferry.reading.bookmarks import decode

_KNOWN = re.compile(
    r"(manifests|erasures)/\d{8}\.json|archives/[0-9a-f]{16}\.json|parts/[0-9a-f]{32}\.json"
    r"|(parts|secrets)/[0-9a-f]{32}-[0-9a-f]{8}\.jsonl\.zst(\.age)?"
)
"""Names of objects of a chain."""


class Problem(msgspec.Struct, frozen=True, order=True):
    """What is wrong.

    Attributes:
        name: of the object in the repository.
        reason: what is wrong with it.
    """

    name: str
    reason: str


class RepositoryReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What `check` of a repository has found.

    Attributes:
        sound: whether nothing is wrong.
        chains: number of chains.
        manifests: number of manifests.
        parts: number of parts of the newest states, secrets included.
        events: number of events of the newest states.
        read_parts: number of parts that were read.
        problems: what is wrong.
        remarks: what is unusual, but no damage: such as parts that no manifest names (yet).
    """

    sound: bool
    chains: int
    manifests: int
    parts: int
    events: int
    read_parts: int
    problems: list[Problem]
    remarks: list[Problem]


async def check(
    storage: Storage,
    *,
    read_data: float = 0.0,
    head: str | None = None,
    identities: Sequence[Any] = (),
) -> RepositoryReport:
    """Look for damage in a repository, as `Repository.check` says."""
    found = _Check(storage, read_data, identities)
    names = await chains.chains(storage)
    for name in names:
        await found.chain(name)
    if not found.manifests and head is None:
        left = f", only what was begun and not committed: {', '.join(names)}" if names else ""
        raise chains.no_backup(storage, left)
    await found.marker()
    if head is not None:
        await found.head(head)
    return found.report(len(names))


def head_of(chain: Chain) -> str:
    """The newest manifest and the SHA-256 of its bytes, in one word: chain:number:sha256. Whoever keeps it elsewhere
    can tell later whether what was backed up by then is still there."""
    if chain.newest is None:
        raise RepositoryError(f"the chain {chain.name} has no manifest")
    return f"{chain.name}:{chain.newest.link.number}:{chain.newest.link.sha256}"


class _Check:
    """What was found so far.

    Attributes:
        manifests: how many there are.
    """

    def __init__(self, storage: Storage, share: float, identities: Sequence[Any]) -> None:
        self._storage = storage
        self._share = share
        self._identities = identities
        self._problems: set[Problem] = set()
        self._remarks: set[Problem] = set()
        self.manifests = self._parts = self._events = self._read = 0

    def report(self, count: int) -> RepositoryReport:
        return RepositoryReport(
            sound=not self._problems,
            chains=count,
            manifests=self.manifests,
            parts=self._parts,
            events=self._events,
            read_parts=self._read,
            problems=sorted(self._problems),
            remarks=sorted(self._remarks),
        )

    def _wrong(self, error: RepositoryDamagedError) -> None:
        self._problems.add(Problem(error.name, error.reason))

    async def marker(self) -> None:
        """What says that this is a repository."""
        data = await self._storage.get(format.MARKER)
        if data is None:
            self._problems.add(Problem(format.MARKER, "it is missing"))
            return
        try:
            if format.unseal(data, RepositoryMarker, format.MARKER) and data != format.seal(
                RepositoryMarker()
            ):
                raise RepositoryDamagedError(format.MARKER, "it is another object")
        except RepositoryDamagedError as error:
            self._wrong(error)

    async def chain(self, name: str) -> None:
        """A chain: its manifests, and what the newest one needs."""
        sizes = {entry.name: entry.bytes for entry in await self._storage.listed(name)}
        numbers = sorted(
            number
            for each in sizes
            if each.startswith(f"{name}/manifests/") and (number := format.number_of(each)) is not None
        )
        self.manifests += len(numbers)
        found = await self._newest(name, numbers)
        if found is None:
            reason = "it has no manifest (yet): its first run has not ended, or all manifests were removed"
            self._remarks.add(Problem(name, reason))
            return
        async for error in found.damages():
            self._wrong(error)
        self._gaps(name, numbers)
        parts = await self._parts_of(found)
        self._parts += len(parts)
        for part in parts:
            self._stored(format.part_name(name, part), part, sizes)
        self._unknown(name, sizes)
        self._behind(found, sizes)
        await self._read_some(name, parts, sizes)

    async def _newest(self, name: str, numbers: Sequence[int]) -> Chain | None:
        """The chain up to the newest manifest that can be read."""
        for at in range(len(numbers), 0, -1):
            chain = Chain(self._storage, name, numbers[:at], None)
            try:
                return Chain(self._storage, name, numbers[:at], await chain.entry(numbers[at - 1]))
            except RepositoryDamagedError as error:
                self._wrong(error)
        return None

    def _gaps(self, name: str, numbers: Sequence[int]) -> None:
        """Old manifests may have been removed, all up to one; not some in between."""
        for number in sorted(set(range(numbers[0], numbers[-1])) - set(numbers)):
            self._problems.add(Problem(format.manifest_name(name, number), "it is missing"))

    async def _parts_of(self, chain: Chain) -> list[Part]:
        if chain.newest is None:
            return []
        manifest = chain.newest.manifest
        self._events += manifest.totals.events
        secrets = [] if manifest.secrets is None else manifest.secrets.parts
        try:
            return [*await chain.parts(chain.newest), *secrets]
        except RepositoryDamagedError as error:
            self._wrong(error)
            return list(secrets)

    def _stored(self, name: str, part: Part, sizes: dict[str, int]) -> None:
        """Whether the object of a part is there, in its length."""
        if (size := sizes.get(name)) is None:
            self._problems.add(Problem(name, "it is missing"))
        elif size != part.stored.bytes:
            self._problems.add(Problem(name, f"it has {size} bytes instead of {part.stored.bytes}"))

    def _unknown(self, name: str, sizes: dict[str, int]) -> None:
        for each in sizes:
            if not _KNOWN.fullmatch(each.removeprefix(f"{name}/")):
                self._remarks.add(Problem(each, "nothing of a backup has such a name"))

    def _behind(self, chain: Chain, sizes: dict[str, int]) -> None:
        """Parts behind the newest manifest are of a run that is under way or was killed. Or manifests are gone."""
        if chain.newest is not None:
            key = format.key_of(decode(chain.newest.manifest.cut).unread)
            if (name := format.descriptor_name(chain.name, key)) in sizes:
                self._remarks.add(
                    Problem(
                        name,
                        "parts come behind the newest manifest: a run has not ended, and the next will use them; or "
                        "newer manifests were removed, which --head would tell",
                    )
                )

    async def _read_some(self, name: str, parts: Sequence[Part], sizes: dict[str, int]) -> None:
        """Read a share of the parts, and of what says which part begins where."""
        for part in _some(parts, self._share):
            where = format.part_name(name, part)
            if Problem(where, "it is missing") in self._problems:
                continue
            try:
                await self._read_one(name, where, part)
            except RepositoryDamagedError as error:
                self._wrong(error)
            self._read += 1
        listed = [each for each in sizes if each.startswith(f"{name}/parts/") and each.endswith(".json")]
        for each in _some(listed, self._share):
            try:
                await self._descriptor(name, each)
            except RepositoryDamagedError as error:
                self._wrong(error)

    async def _read_one(self, name: str, where: str, part: Part) -> None:
        if part.is_encrypted and not self._identities:
            data = await self._storage.get(where)
            await asyncio.to_thread(check_stored, where, part, data)
            return
        async with aclosing(read_part(self._storage, name, part, self._identities)) as blocks:
            async for _ in blocks:
                pass

    async def _descriptor(self, chain: str, name: str) -> None:
        data = await self._storage.get(name)
        if data is None:
            return  # removed since the listing
        found = format.unseal(data, Descriptor, name)
        if (found.chain, format.descriptor_name(chain, found.part.key)) != (chain, name):
            raise RepositoryDamagedError(name, f"it is of {found.part.file} of the chain {found.chain}")

    async def head(self, text: str) -> None:
        """Whether the state of this digest is part of what is there."""
        name, number, digest = _parsed_head(text)
        where = format.manifest_name(name, number)
        try:
            data = await self._storage.get(where)
            if data is None:
                raise RepositoryDamagedError(
                    where,
                    "it is missing, and so what was backed up by then may be too: the repository was put back to an "
                    "older state, or the manifest was pruned",
                )
            if format.sha256(data) != digest:
                raise RepositoryDamagedError(where, "it is not the one whose digest was kept")
        except RepositoryDamagedError as error:
            self._wrong(error)


def _parsed_head(text: str) -> tuple[str, int, str]:
    name, _, rest = text.strip().partition(":")
    number, _, digest = rest.partition(":")
    if not (number.isascii() and number.isdigit() and len(digest) == 64 and name):
        raise UsageError(f"a head is chain:number:sha256, as `backup head` prints it, not {text[:80]!r}")
    return name, int(number), digest


def _some(items: Sequence[Any], share: float) -> list[Any]:
    """A share of them, at random, at least one if there is any; in their order."""
    count = min(len(items), math.ceil(len(items) * share))
    chosen = sorted(random.sample(range(len(items)), count))
    return [items[at] for at in chosen]

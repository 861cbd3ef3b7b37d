"""Keeping a repository small: chains of stores that were replaced, and many small parts.

Nothing that a restore of the newest state may need is ever removed. What was joined is removed by a later call, so that
a restore which runs meanwhile finds its parts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

import msgspec

from eventferry.backup import chain as chains
from eventferry.backup import format
from eventferry.backup.chain import Chain, Entry
from eventferry.backup.format import Descriptor, Link, Manifest, Part, Totals
from eventferry.backup.packing import ENCRYPTED, ENDING, Packer, Recipient, load_recipients
from eventferry.backup.reading import read_part
from eventferry.backup.storage import ListedObject, Storage
from eventferry.changing.erased import Erased
from eventferry.clock import now
from eventferry.errors import RepositoryDamagedError, RepositoryError
from eventferry.lifecycle import aclosing
from eventferry.reading.bookmarks import decode
from eventferry.state.erasures import Erasure

_TRIES = 5
"""How often parts are joined anew while other runs add to the chain."""

LEFT_AFTER = 7 * 24 * 3600 * 1000
"""Milliseconds after which an object that nothing leads to counts as left: a run names it within minutes."""


class PruneReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What `prune` has done, or in a dry run would do.

    Attributes:
        removed_chains: chains of stores that were replaced.
        archived_chains: such chains that stay, since a store has events archived there.
        removed_manifests: old manifests.
        removed_objects: objects of all these, and of parts that were joined before.
        removed_bytes: their size.
        joined_parts: small parts that were joined.
        into_parts: into how many.
        erased_parts: parts that were written anew without what was erased from the store.
    """

    removed_chains: list[str]
    archived_chains: list[str]
    removed_manifests: int
    removed_objects: int
    removed_bytes: int
    joined_parts: int
    into_parts: int
    erased_parts: int


async def prune(
    storage: Storage,
    *,
    keep_replaced: int | None = None,
    keep_manifests: int | None = None,
    compact: bool = False,
    identities: Sequence[Any] = (),
    dry_run: bool = False,
) -> PruneReport:
    """Remove what is not needed any more, and what killed runs have left, as `Repository.prune` says."""
    keeping = _Keeping(storage, identities, dry_run=dry_run)
    names = await chains.chains(storage)
    if not names:
        raise chains.no_backup(storage)
    damages: list[RepositoryDamagedError] = []
    found, unfinished = list[Chain](), list[Chain]()
    for name in names:
        with _noted(damages):
            chain = await Chain.read(storage, name)
            (unfinished if chain.newest is None else found).append(chain)
    if keep_replaced is not None:
        with _noted(damages):
            for chain in await keeping.replaced(found, keep_replaced):
                await keeping.remove_chain(chain)
                found.remove(chain)
    for chain in found:
        with _noted(damages):
            await keeping.remove_unused(chain)
            if keep_manifests is not None:
                await keeping.remove_manifests(chain, keep_manifests)
            if compact:
                await keeping.compact(chain)
    await keeping.remove_unfinished(unfinished)
    if damages:
        raise damages[0]
    return keeping.report()


@contextmanager
def _noted(damages: list[RepositoryDamagedError]) -> Iterator[None]:
    """Damage ends the work on a chain, and not that on the others."""
    try:
        yield
    except RepositoryDamagedError as error:
        damages.append(error)


class _Keeping:
    """What was done so far."""

    def __init__(self, storage: Storage, identities: Sequence[Any], *, dry_run: bool) -> None:
        self._storage = storage
        self._identities = identities
        self._dry_run = dry_run
        self._chains: list[str] = []
        self._archived: list[str] = []
        self._latest = 0  # when the newest object was created, by the storage's clock
        self._manifests = self._objects = self._bytes = self._joined = self._into = self._erased = 0

    def report(self) -> PruneReport:
        return PruneReport(
            removed_chains=self._chains,
            archived_chains=self._archived,
            removed_manifests=self._manifests,
            removed_objects=self._objects,
            removed_bytes=self._bytes,
            joined_parts=self._joined,
            into_parts=self._into,
            erased_parts=self._erased,
        )

    async def _remove(self, name: str, size: int) -> None:
        if not self._dry_run:
            await self._storage.delete(name)
        self._objects += 1
        self._bytes += size

    # chains of stores that were replaced

    async def replaced(self, found: Sequence[Chain], keep: int) -> list[Chain]:
        """The chains whose place has had another chain behind their last run, for longer than that, but for those on
        which a store relies."""
        old = [
            chain
            for chain in found
            if any(
                [
                    await chain.is_replaced_by(other) and await other.begun_before(now() - keep)
                    for other in found
                ]
            )
        ]
        self._archived = [chain.name for chain in old if await self._storage.listed(f"{chain.name}/archives")]
        return [chain for chain in old if chain.name not in self._archived]

    async def remove_chain(self, chain: Chain) -> None:
        """The newest manifest goes last: a call that is killed before is continued by the next. A backup or an archive
        that the store has added meanwhile keeps the chain: the store lives on in another place."""
        as_it_is = await Chain.read(self._storage, chain.name)
        listed = await self._storage.listed(chain.name)
        if as_it_is.newest is None or _entry(as_it_is).link != _entry(chain).link:
            return
        if any(each.name.startswith(f"{chain.name}/archives/") for each in listed):
            self._archived.append(chain.name)
            return
        is_manifest = f"{chain.name}/manifests/"
        for each in sorted(listed, key=lambda each: (each.name.startswith(is_manifest), each.name)):
            await self._remove(each.name, each.bytes)
        self._chains.append(chain.name)

    # small parts

    async def remove_unused(self, chain: Chain) -> None:
        """Remove the objects of parts that were joined before, once nothing reads them any more; and those that are
        nobody's, since what stored them was killed."""
        needed = {part.file for part in await chain.parts(_entry(chain))}
        secrets = _manifest(chain).secrets
        needed |= {part.file for part in (() if secrets is None else secrets.parts)}
        joined = await self._joined_before(chain, needed)
        listed = await self._storage.listed(chain.name)
        present = {each.name for each in listed}
        self._latest = max(self._latest, *(each.changed for each in listed))
        # By the clock of the storage, in which a run that is under way has just stored something. A single wrong time
        # in the future must not make all others old.
        old = min(now(), max(each.changed for each in listed)) - LEFT_AFTER
        for each in listed:
            file = each.name.removeprefix(f"{chain.name}/")
            if file in joined:
                await self._remove(each.name, each.bytes)
            elif file not in needed and re.fullmatch(format.PART_FILE, file):
                await self._remove_left(chain, each, present, is_old=each.changed < old)

    async def remove_unfinished(self, chains: Sequence[Chain]) -> None:
        """Of chains without a manifest, remove the parts that no run will use: nothing offers them, and nothing was
        stored in the chain for a week. A chain that many processes write looks so until it is committed."""
        found = [(chain, await self._storage.listed(chain.name)) for chain in chains]
        changed = [max((each.changed for each in listed), default=0) for _, listed in found]
        old = min(now(), max(self._latest, *changed, 0)) - LEFT_AFTER
        for (chain, listed), last in zip(found, changed, strict=True):
            if last >= old or any(format.number_of(each.name) is not None for each in listed):
                continue
            present = {each.name for each in listed}
            for each in listed:
                if re.fullmatch(format.PART_FILE, each.name.removeprefix(f"{chain.name}/")):
                    await self._remove_left(chain, each, present, is_old=True)

    async def _joined_before(self, chain: Chain, needed: Set[str]) -> set[str]:
        """The files of the parts that were joined into those of the manifest that lists all, and their descriptors."""
        root = _manifest(chain).root
        if root - 1 not in chain.numbers:
            return set()
        before = await chain.parts(await chain.entry(root - 1))
        unneeded = [part for part in before if part.file not in needed]
        return {part.file for part in unneeded} | {f"parts/{part.key}.json" for part in unneeded}

    async def _remove_left(
        self, chain: Chain, left: ListedObject, present: Set[str], *, is_old: bool
    ) -> None:
        """Remove the object of a part that no manifest names, unless a run may use it still: one that has just stored
        it; or, where a descriptor offers it, one that comes to where it begins. None does if that is before the cut."""
        folder, _, name = left.name.rpartition("/")
        where = f"{folder}/{name.partition('-')[0]}.json"
        data = await self._storage.get(where) if where in present else None
        try:
            part = None if data is None else format.unseal(data, Descriptor, where).part
        except RepositoryDamagedError:
            part = None  # no run uses it
        if data is not None and part is not None and format.part_name(chain.name, part) == left.name:
            newest = chain.newest
            if newest is not None and part.end is not None and _is_before(part.end, newest.manifest.cut):
                await self._remove(where, len(data))
                await self._remove(left.name, left.bytes)
        elif is_old:
            await self._remove(left.name, left.bytes)

    async def remove_manifests(self, chain: Chain, keep: int) -> None:
        """All below the one that lists all parts, once the last of them is old: each needs those before it."""
        old = [number for number in chain.numbers if number < _manifest(chain).root]
        if not old or (await chain.entry(old[-1])).manifest.created >= now() - keep:
            return
        sizes = {each.name: each.bytes for each in await self._storage.listed(f"{chain.name}/manifests")}
        for number in old:
            name = format.manifest_name(chain.name, number)
            await self._remove(name, sizes.get(name, 0))
            self._manifests += 1

    async def compact(self, chain: Chain) -> None:
        """Join neighbours, and erase what was erased from the store since the last time; then commit a manifest that
        lists all parts."""
        made: dict[tuple[str, ...], Part] = {}  # by what was erased from them, and their files
        before = self._joined, self._into, self._erased
        for _ in range(_TRIES):
            self._joined, self._into, self._erased = before
            manifest = _manifest(chain)
            recipients = load_recipients(manifest.recipients) if manifest.recipients else []
            found = await chain.parts(_entry(chain))
            erased, newest, is_newer, is_later = await self._what_was_erased(chain)
            looks = is_newer or is_later
            concerned = await self._concerned(chain.name, found, erased) if looks else set()
            parts: list[Part] = []
            for group in _groups(found, recipients):
                files = tuple(part.file for part in group)
                if len(group) == 1 and not concerned & set(files):
                    parts += group
                    continue
                key = (erased.digest, *files)
                if key not in made and not self._dry_run:
                    made[key] = await self._join(chain.name, group, recipients, erased)
                parts.append(made.get(key, group[0]))
                self._joined += len(group) if len(group) > 1 else 0
                self._into += len(group) > 1
                self._erased += len(concerned & set(files))
            if self._dry_run or (parts == found and not is_newer):
                await self._forget(chain, made, parts)  # another call has joined them meanwhile
                return
            if await chain.commit(_joined(manifest, _entry(chain).link, parts, newest)) is not None:
                await self._forget(chain, made, parts)  # joined otherwise, with what another run had added
                return
            # Another run has added to the chain: what was joined is good still, if it has erased nothing more.
            chain = await Chain.read(self._storage, chain.name)
        await self._forget(chain, made, [])
        raise RepositoryError(f"other runs add to the chain {chain.name} all the time: join its parts later")

    async def _forget(self, chain: Chain, made: Mapping[Any, Part], parts: Sequence[Part]) -> None:
        """Remove what was joined and is none of these parts, to which no manifest can lead."""
        for part in made.values():
            if part not in parts:
                await self._storage.delete(format.part_name(chain.name, part))

    async def _what_was_erased(self, chain: Chain) -> tuple[Erased, Link | None, bool, bool]:
        """What was erased from the store, the newest list of it, and whether parts may hold any of it: those of the
        manifest that lists all have been looked at, unless it is the first run's. Last, whether anything was erased
        after the events were replaced; no manifest says whether that was looked at."""
        lists = await chain.erasures()
        newest = (await chain.erasures_at(len(lists)))[1] if lists else None
        root = (await chain.entry(_manifest(chain).root)).manifest
        done = root.erasures.number if root.number > 1 and root.erasures is not None else 0
        since = [one for each in await chains.later(self._storage, chain) for one in await each.erasures()]
        erased = Erased(Erasure(each.at, each.what) for one in lists + since for each in one.erasures)
        return erased, newest, bool(erased) and len(lists) > done, any(one.erasures for one in since)

    async def _concerned(self, chain: str, parts: Sequence[Part], erased: Erased) -> set[str]:
        """The files of the parts that hold what was erased."""
        found = set()
        for part in parts:
            before, after = hashlib.sha256(), hashlib.sha256()
            async with aclosing(read_part(self._storage, chain, part, self._identities)) as blocks:
                async for block in erased(_hashed(blocks, before)):
                    after.update(block)
            if before.digest() != after.digest():
                found.add(part.file)
        return found

    async def _join(
        self, chain: str, group: Sequence[Part], recipients: Sequence[Recipient], erased: Erased
    ) -> Part:
        packer = Packer(recipients)
        for part in group:
            async with aclosing(read_part(self._storage, chain, part, self._identities)) as blocks:
                async for block in erased(blocks) if erased else blocks:
                    packer.add(block)
        packed = packer.finish()
        ending = ENDING + (ENCRYPTED if recipients else "")
        joined = Part(
            file=f"parts/{group[0].key}-{token_hex(4)}{ending}",
            events=sum(part.events for part in group),
            end=group[-1].end,
            plain=packed.plain,
            stored=packed.stored,
            first_time=group[0].first_time,
            last_time=group[-1].last_time,
            recipients=[recipient.fingerprint for recipient in recipients],
        )
        if not await self._storage.put_new(format.part_name(chain, joined), packed.data):
            raise RepositoryError(
                "two parts have got the same random name, which should not happen: try again"
            )
        return joined


def _is_before(end: str, cut: str) -> bool:
    """Whether a bookmark has read no more than another has."""
    return all(one <= other for one, other in zip(decode(end).unread, decode(cut).unread, strict=True))


def _entry(chain: Chain) -> Entry:
    if chain.newest is None:
        raise AssertionError("a chain without manifests is left alone")
    return chain.newest


def _manifest(chain: Chain) -> Manifest:
    return _entry(chain).manifest


async def _hashed(blocks: AsyncIterator[bytes], hashed: hashlib._Hash) -> AsyncIterator[bytes]:
    async for block in blocks:
        hashed.update(block)
        yield block


def _joined(manifest: Manifest, link: Link, parts: list[Part], erasures: Link | None) -> Manifest:
    """The same state, with other parts. It keeps its time: it is no newer backup."""
    number = link.number + 1
    return msgspec.structs.replace(
        manifest,
        number=number,
        previous=link,
        base=None,
        root=number,
        run=token_hex(8),
        tool=format.TOOL,
        parts=parts,
        totals=Totals().plus(parts),
        erasures=erasures,
    )


def _groups(parts: Sequence[Part], recipients: Sequence[Recipient]) -> Iterator[list[Part]]:
    """The parts in order; those together that make one. Only those are joined that all of these, and nobody else, can
    read: what is encrypted to others stays so."""
    ours = [recipient.fingerprint for recipient in recipients]
    group: list[Part] = []
    size = 0
    for part in parts:
        fits = sorted(part.recipients) == sorted(ours) and size + part.plain.bytes <= format.PART_BYTES
        if group and not (fits and sorted(group[0].recipients) == sorted(ours)):
            yield group
            group, size = [], 0
        group.append(part)
        size += part.plain.bytes
    if group:
        yield group

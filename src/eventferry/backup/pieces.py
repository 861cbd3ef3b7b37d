"""A chain that many processes write at once: one begins it, each stores a piece of its events, and one commits all.

The chain is new, and nobody sees it before its manifest is there. A part is named by its bytes, so who repeats a piece
stores the same objects, or others that no manifest will name. Where a part begins is known when all pieces are there:
then the manifest says it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable, Sequence
from secrets import token_hex

import msgspec

from eventferry import cursor as vector
from eventferry.backup import format
from eventferry.backup.chain import Chain, Entry, chains
from eventferry.backup.format import Manifest, Part, Totals
from eventferry.backup.packing import Recipient, load_recipients
from eventferry.backup.parts import PartMaker, put
from eventferry.backup.storage import Storage, open_storage, probe, whole_place
from eventferry.clock import now
from eventferry.errors import OrderError, RepositoryDamagedError, RepositoryError, UsageError
from eventferry.lines.marker import marker_of, refuse_marker
from eventferry.reading.bookmarks import Written, encode, event_digest, fingerprint_of
from eventferry.reading.sequence import SequenceCheck


class ChainDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A chain that is being written. It goes to whoever writes a piece.

    Attributes:
        place: of the repository; a folder by its whole path.
        chain: its name, which no other has.
        run: random, of the manifest.
        source: what the manifest calls it.
        recipients: public keys that the parts are encrypted to.
        begun: when, in ms since 1970.
        single_writer: as `open_storage` takes it.
    """

    place: str
    chain: str
    run: str
    source: str
    recipients: list[str]
    begun: int
    single_writer: bool

    def open(self) -> Storage:
        """The repository's storage."""
        return open_storage(self.place, single_writer=self.single_writer)


class LastOfThread(msgspec.Struct, array_like=True):
    """The last event of a thread in a part: its counter, and `whole` and `bare` of its `EventDigest`."""

    counter: int
    whole: bytes
    bare: bytes


class PlacedPart(msgspec.Struct, array_like=True):
    """A part that is stored, and where its threads end. Where it begins is not known yet."""

    part: Part
    lasts: dict[int, LastOfThread]


class Piece(msgspec.Struct, array_like=True):
    """What a process has stored.

    Attributes:
        number: which piece it is, from 0.
        parts: in order.
        check: of its events, whether they are in order behind those of the pieces before.
    """

    number: int
    parts: list[PlacedPart]
    check: SequenceCheck

    def __bytes__(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def of(cls, data: bytes) -> Piece:
        """The piece that these bytes are."""
        return msgspec.msgpack.decode(data, type=cls)


async def begin(
    place: str | os.PathLike[str],
    *,
    source: str,
    recipients: Iterable[str | os.PathLike[str]] = (),
    single_writer: bool = False,
) -> ChainDraft:
    """Begin a chain. Its name is kept by who writes it; in the repository there is nothing of it yet.

    Args:
        place: of the repository, which is created where it is missing.
        source: what the chain is called, in place of a store's URL, without a password. A chain replaces those of this
            source that were complete when it was begun.
        recipients: as `back_up` takes them.
        single_writer: likewise.

    Raises:
        UsageError: an argument is wrong; or an earlier chain of this name is encrypted, and there is no recipient.
        UnsafeStorageError, RepositoryError: as `back_up` raises them.
    """
    place = os.fspath(place)
    storage = open_storage(place, single_writer=single_writer)
    loaded = load_recipients(recipients)
    await probe(storage)
    if not loaded:
        await _refuse_open(storage, source)
    return ChainDraft(
        place=whole_place(place),
        chain=token_hex(8),
        run=token_hex(8),
        source=source,
        recipients=[recipient.text for recipient in loaded],
        begun=now(),
        single_writer=single_writer,
    )


async def _refuse_open(storage: Storage, source: str) -> None:
    """Where events were encrypted before, a forgotten option must not put them into the open."""
    for name in await chains(storage):
        try:
            newest = (await Chain.read(storage, name)).newest
        except RepositoryDamagedError:
            continue  # another chain is no reason to refuse this one
        if newest is not None and newest.manifest.source == source and newest.manifest.recipients:
            raise UsageError(
                f"the chain {name} of {source} in {storage.place} is encrypted, and this one would not be: give a "
                "recipient"
            )


async def write_piece(draft: ChainDraft, number: int, blocks: AsyncIterable[bytes]) -> Piece:
    """Store the parts of a piece. Doing it again does no harm.

    Args:
        draft: of `begin`.
        number: which piece it is, from 0 without a gap.
        blocks: its events in order, as blocks of whole lines with positions and versions.

    Raises:
        OrderError: an event is not in order.
        InputError: an event is archived.
        RepositoryError: the repository cannot be written.
    """
    maker = _Pieces(draft, number)
    try:
        async for block in blocks:
            await maker.add(block)
        return await maker.finish()
    finally:
        await maker.close()


class _Place(msgspec.Struct, rename="camel", gc=False):
    """What of a line says where it belongs."""

    timestamp: int
    thread_counter: int
    thread_id: int


_PLACE = msgspec.json.Decoder(_Place)


class _Pieces:
    """A piece in the making."""

    def __init__(self, draft: ChainDraft, number: int) -> None:
        self._chain = draft.chain
        self._storage = draft.open()
        self._recipients: Sequence[Recipient] = load_recipients(draft.recipients)
        self._piece = Piece(number, [], SequenceCheck())
        self._maker = PartMaker(None, self._recipients)
        self._lasts: dict[int, tuple[int, bytes]] = {}

    async def add(self, block: bytes) -> None:
        """Some lines. A part ends with the line by which it has so many bytes, however the lines come in blocks."""
        add, lasts = self._piece.check.add, self._lasts
        begin = end = 0
        for line in block.split(b"\n")[:-1]:
            place = _PLACE.decode(line)
            try:
                add((place.timestamp, place.thread_counter, place.thread_id))
            except OrderError as error:
                raise OrderError(f"in partition {self._piece.number}, {error.reason}") from None
            lasts[place.thread_id] = place.thread_counter, line
            end += len(line) + 1
            if self._maker.bytes + end - begin >= format.PART_BYTES:
                await self._maker.add(block[begin:end])
                await self._store()
                begin = end
        await self._maker.add(block[begin:])

    async def finish(self) -> Piece:
        """All lines were added."""
        if self._maker.events:
            await self._store()
        return self._piece

    async def close(self) -> None:
        """Pack no more, and wait for the thread that packs."""
        await self._maker.close()

    async def _store(self) -> None:
        for archive in self._maker.archives:
            refuse_marker(marker_of(archive))
        made = await self._maker.finish(None)
        await put(self._storage, self._chain, made)
        lasts = {}
        for thread, (counter, line) in self._lasts.items():
            digest = event_digest(line)
            lasts[thread] = LastOfThread(counter, digest.whole, digest.bare)
        self._piece.parts.append(PlacedPart(made.part, lasts))
        self._lasts.clear()
        self._maker = PartMaker(None, self._recipients)


async def commit(draft: ChainDraft, pieces: Iterable[Piece]) -> Entry:
    """Make a chain of pieces, all in one step. Doing it again does no harm.

    Args:
        draft: of `begin`.
        pieces: all, in order.

    Raises:
        OrderError: the pieces are not in order. What was stored is removed.
        RepositoryDamagedError: a part is missing. What was stored is left, for `abandon` or `prune`.
        RepositoryError: the repository cannot be read or written. Then it may have been committed.
    """
    storage = draft.open()
    chain = await Chain.read(storage, draft.chain)
    if chain.newest is None:
        try:
            parts = _joined(draft, pieces)
        except OrderError:
            await abandon(draft)
            raise
        await _refuse_missing(storage, draft.chain, parts)
        if (link := await chain.commit(manifest := _manifest(draft, parts))) is not None:
            return Entry(manifest, link)
        chain = await Chain.read(storage, draft.chain)
    if chain.newest is None or chain.newest.manifest.run != draft.run:
        raise RepositoryError(f"the chain {draft.chain} in {storage.place} is another's: write it again")
    return chain.newest


def _joined(draft: ChainDraft, pieces: Iterable[Piece]) -> list[Part]:
    """The parts of all, with the places where they begin and end."""
    check, parts = SequenceCheck(), list[Part]()
    unread, lasts = [0] * vector.THREADS, dict[int, tuple[bytes, bytes]]()
    identity = bytes.fromhex(draft.chain)
    for number, piece in enumerate(pieces):
        if piece.number != number:
            raise AssertionError(f"piece {number} of {draft.chain} is missing or comes twice")
        try:
            check.join(piece.check)
        except OrderError as error:
            raise OrderError(f"where partition {piece.number} begins, {error.reason}") from None
        for placed in piece.parts:
            begin = format.key_of(unread)
            for thread, last in placed.lasts.items():
                unread[thread] = last.counter + 1
                lasts[thread] = last.whole, last.bare
            end = encode(Written(identity, fingerprint_of(lasts), unread))
            parts.append(msgspec.structs.replace(placed.part, begin=begin, end=end))
    return parts


async def _refuse_missing(storage: Storage, chain: str, parts: Sequence[Part]) -> None:
    """Refuse a manifest whose parts are not there, as where each worker has written into a folder of its own."""
    sizes = {each.name: each.bytes for each in await storage.listed(f"{chain}/parts")}
    for part in parts:
        name = format.part_name(chain, part)
        if sizes.get(name) != part.stored.bytes:
            raise RepositoryDamagedError(
                name, f"it is missing in {storage.place}, or not whole. All processes must see the same place"
            )


def _manifest(draft: ChainDraft, parts: list[Part]) -> Manifest:
    start = encode(Written(bytes.fromhex(draft.chain), fingerprint_of({}), [0] * vector.THREADS))
    return Manifest(
        chain=draft.chain,
        number=1,
        previous=None,
        base=None,
        root=1,
        run=draft.run,
        tool=format.TOOL,
        created=now(),
        begun=draft.begun,
        source=draft.source,
        cut=parts[-1].end or start if parts else start,
        parts=parts,
        totals=Totals().plus(parts),
        recipients=draft.recipients,
    )


async def abandon(draft: ChainDraft) -> None:
    """Remove what was stored for a chain that is not committed, and that nobody may be committing. Who writes a piece
    meanwhile may leave something, which `prune` removes a week later."""
    storage = draft.open()
    if (await Chain.read(storage, draft.chain)).newest is None:
        for each in await storage.listed(f"{draft.chain}/parts"):
            await storage.delete(each.name)

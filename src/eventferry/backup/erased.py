"""What was erased in a store, for the lists beside its chain: erasures, and ids of secrets that were deleted.

A backup holds events as they were. What was erased since is in these lists, and whoever restores applies them, from
whichever manifest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventferry.backup.chain import Chain
from eventferry.backup.format import ErasureEntry, Erasures, Link, sha256
from eventferry.backup.storage import Storage, probe
from eventferry.clock import now
from eventferry.errors import RepositoryError
from eventferry.lifecycle import aclosing
from eventferry.lines.blocks import LineSplitter
from eventferry.lines.event import decode_event
from eventferry.reading.bookmarks import decode
from eventferry.secrets import DELETE_SECRET
from eventferry.state.small_tables import columns

if TYPE_CHECKING:
    from eventferry.store import EventStore


async def note_erasures(chain: Chain, store: EventStore) -> Link | None:
    """Add to the chain's lists what they lack of the store's erasures; the newest list, None where nothing was erased.
    Raises RepositoryDamagedError."""
    while True:
        number = await chain.erasures_count()
        newest, link = await chain.erasures_at(number) if number else (None, None)
        deleted = await _deleted_secrets(store, chain)
        erasures = await _erasures(store)
        state = sha256(msgspec.json.encode((deleted, erasures)))
        if not (deleted or erasures) or (newest is not None and newest.state == state):
            return link
        lists = await chain.erasures()
        known = {(each.at, each.what) for one in lists for each in one.erasures}
        known_secrets = {each for one in lists for each in one.deleted_secrets}
        erasures = [each for each in erasures if (each.at, each.what) not in known]
        deleted = [each for each in deleted if each not in known_secrets]
        if not (deleted or erasures):
            return link
        added = await chain.add_erasures(
            Erasures(
                chain=chain.name,
                number=number + 1,
                previous=link,
                created=now(),
                state=state,
                erasures=erasures,
                deleted_secrets=deleted,
            )
        )
        if added is not None:
            return added


async def note_between_runs(storage: Storage, store: EventStore) -> Link | None:
    """The same without a backup, as `Repository.note_erasures` says."""
    chain = await Chain.read(storage, decode(await store.bookmark(None)).identity.hex())
    if chain.newest is None:
        # Nobody would find a list without a chain; and a mistyped place must not look like one that knows.
        raise RepositoryError(
            f"{storage.place} holds no backup of the store as it is now: begin with a backup, which notes what was "
            "erased too"
        )
    await probe(storage)
    return await note_erasures(chain, store)


async def _deleted_secrets(store: EventStore, chain: Chain) -> list[str]:
    """The ids of secrets that were deleted: of all, or, where the table has no tombstones, of those whose deletion came
    after the newest manifest."""
    async with store._database.reading() as reading:
        name = reading.dialect.tables.secrets
        if (await columns(reading, name))["secret"].is_nullable:
            table = reading.dialect.table(name)
            rows = await reading.ask(f"SELECT id FROM {table} WHERE secret IS NULL ORDER BY id")
            return [id for (id,) in rows]
    since = None if chain.newest is None else chain.newest.manifest.cut
    splitter = LineSplitter()
    lines: list[bytes] = []
    async with aclosing(store.export_events(since=since, event_types=[DELETE_SECRET])) as stream:
        async for block in stream:
            lines += splitter.feed(block).texts
    lines += splitter.finish().texts
    return (await store.gather_secrets_from_events(map(decode_event, lines))).deleted_secrets


async def _erasures(store: EventStore) -> list[ErasureEntry]:
    """The rows of the store's table of erasures."""
    return [ErasureEntry(at=each.at, what=each.what) for each in (await store.erased()).erasures]

"""Chains of a repository that are made by hand: no store stands behind them, and no lines in their parts."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex

from eventferry import cursor as vector
from eventferry.backup import format
from eventferry.backup.chain import Chain
from eventferry.backup.format import Digest, Manifest, Part, Stored, Totals
from eventferry.backup.storage import Storage
from eventferry.reading.bookmarks import Written, encode

NAME = "00112233445566ff"


def bookmark_at(count: int, name: str = NAME) -> str:
    """The bookmark of a store of one thread at so many events."""
    return encode(Written(bytes.fromhex(name), bytes(12), [count] + [0] * (vector.THREADS - 1)))


def part_of(since: int, until: int) -> Part:
    """A part of the events from one count to another."""
    key = format.key_of([since] + [0] * (vector.THREADS - 1))
    return Part(
        file=f"parts/{key}-{token_hex(4)}.jsonl.zst",
        events=until - since,
        end=bookmark_at(until),
        plain=Digest(bytes=100, sha256="0" * 64),
        stored=Stored(bytes=10, sha256="1" * 64),
        first_time=since,
        last_time=until,
    )


def next_manifest(
    chain: Chain, parts: Sequence[Part], listed: Sequence[Part] | None = None, **changes: object
) -> Manifest:
    """The manifest that goes on with these parts; `listed`, where its number has another base, with those before."""
    newest = chain.newest
    number = 1 if newest is None else newest.link.number + 1
    totals = Totals() if newest is None else newest.manifest.totals
    before = 0 if newest is None else totals.events
    fields: dict[str, object] = {
        "chain": chain.name,
        "number": number,
        "previous": None if newest is None else newest.link,
        "base": None if newest is None else newest.link,
        "root": 1 if newest is None else newest.manifest.root,
        "run": token_hex(8),
        "tool": "test",
        "created": number,
        "source": "sqlite:///a.db",
        "cut": parts[-1].end if parts else bookmark_at(before),
        "parts": list(parts if listed is None else listed),
        "totals": totals.plus(parts),
    }
    return Manifest(**(fields | changes))  # type: ignore[arg-type]


async def grown(storage: Storage, runs: int, each: int = 1) -> Chain:
    """A chain of so many runs, of one part of so many events each."""
    for _ in range(runs):
        chain = await Chain.read(storage, NAME)
        newest = chain.newest
        if newest is None:
            assert await chain.commit(next_manifest(chain, [part_of(0, each)]))
            continue
        begin = newest.manifest.totals.events
        parts = [part_of(begin, begin + each)]
        base = format.base_of(newest.link.number + 1, newest.manifest.root)
        before, at = await chain.parts_since(newest, base)
        assert at is not None
        assert await chain.commit(next_manifest(chain, parts, [*before, *parts], base=at))
    return await Chain.read(storage, NAME)

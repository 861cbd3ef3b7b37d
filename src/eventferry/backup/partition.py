"""A state in a repository, divided for readers that share nothing: each takes some of its parts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from eventferry.backup.cuts import selected, within
from eventferry.backup.format import Part
from eventferry.backup.reading import Backup, read_part
from eventferry.backup.storage import Storage
from eventferry.changing.erased import Erased
from eventferry.changing.selection import Selection
from eventferry.lifecycle import aclosing
from eventferry.reading.bookmarks import decode
from eventferry.state.erasures import Erasure


class RepositoryPartition(msgspec.Struct, frozen=True, rename="camel"):
    """Consecutive events of a state in a repository; made by `Repository.partitions`, read by
    `Repository.read_partition`.

    Small and without a key or a place: pickle it, or send it as JSON (`msgspec.json`), to whoever can open the
    repository.

    Attributes:
        number: which one it is, from 1.
        count: how many there are.
        chain: of the store.
        parts: what holds its events, in order.
        unread: where the state ends, as the 256 next counters, if the parts hold more; else None.
        erasures: what was erased from the store when the repository was divided.
    """

    number: int
    count: int
    chain: str
    parts: list[Part]
    unread: list[int] | None
    erasures: list[tuple[int, str]]


def partitions(backup: Backup, n: int, erased: Erased) -> list[RepositoryPartition]:
    """At most n, of about the same number of bytes."""
    erasures = [(each.at, each.what) for each in erased.erasures]
    unread = decode(backup.manifest.cut).unread if backup.is_cut else None
    groups = _groups([part for part in backup.parts if part.events], n)
    return [
        RepositoryPartition(number, len(groups), backup.chain.name, group, unread, erasures)
        for number, group in enumerate(groups, 1)
    ]


def _groups(parts: Sequence[Part], n: int) -> list[list[Part]]:
    """Each part is in that n-th of all bytes in which its middle lies."""
    total = sum(part.plain.bytes for part in parts)
    groups: dict[int, list[Part]] = {}
    passed = 0
    for part in parts:
        at = (2 * passed + part.plain.bytes) * n // (2 * total)
        # Where a part ends no longer matters, and is a third of what is known of it.
        groups.setdefault(at, []).append(msgspec.structs.replace(part, end=None))
        passed += part.plain.bytes
    return list(groups.values())


async def lines_of(
    storage: Storage, partition: RepositoryPartition, only: Selection, identities: Sequence[Any]
) -> AsyncGenerator[bytes, None]:
    """The lines of one, in blocks of whole lines. Raises as `BackupLines` does."""
    erased = Erased(Erasure(*each) for each in partition.erasures)
    for part in partition.parts:
        lines = read_part(storage, partition.chain, part, identities)
        if partition.unread is not None:
            lines = within(partition.unread, lines)
        if not only.is_all:
            lines = selected(only, lines)
        async with aclosing(erased(lines) if erased else lines) as blocks:
            async for block in blocks:
                yield block

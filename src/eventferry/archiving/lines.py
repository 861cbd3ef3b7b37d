"""The events of a chain, a few at a time, beside those of the store. No transaction waits for the repository."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple

import msgspec

from eventferry.backup.reading import BackupLines
from eventferry.database import Database, Reading
from eventferry.errors import StoreReplacedError, UnsupportedStoreError
from eventferry.lifecycle import aclosing
from eventferry.lines.event import Row
from eventferry.reading.questions import identity_of
from eventferry.syncing.source import NO_IDENTITY

_EVENTS = 500
_BYTES = 4 * 1024 * 1024
"""Events, and bytes of their lines, of one step: saves wait for it."""


class _Read(msgspec.Struct, rename="camel", gc=False):
    """A line that a store gave."""

    thread_id: int
    thread_counter: int
    timestamp: int
    aggregate_id: str
    aggregate_version: int
    type: str
    payload: msgspec.Raw


_READ = msgspec.json.Decoder(_Read)


class Pair(NamedTuple):
    """An event as the repository has it, and as the store does."""

    backed_up: Row
    stored: Row

    @property
    def is_same_event(self) -> bool:
        """Whether they differ in nothing but their payloads."""
        return self.backed_up[:-1] == self.stored[:-1]


async def chain_of(database: Database) -> str:
    """The name of the store's chain in any repository. Raises UnsupportedStoreError for a store without an identity."""
    async with database.reading() as reading:
        name = identity_of(await reading.state()).hex()
    if name == NO_IDENTITY:
        raise UnsupportedStoreError(
            f"the store {database.life.name} has no identity of its own, since reSolve made its tables: nothing would "
            "tell whose events the repository holds. Copy it into a store that eventferry makes, and archive there"
        )
    return name


async def refuse_replaced(reading: Reading, chain: str) -> None:
    """Raises StoreReplacedError where the events are not those of the chain any more."""
    if identity_of(await reading.state()).hex() != chain:
        raise StoreReplacedError("the events were replaced meanwhile: nothing of this step was done")


async def steps(
    lines: BackupLines, takes: Callable[[str, str, int], bool]
) -> AsyncGenerator[list[Row], None]:
    """The events among these lines that are meant, by type, aggregate and timestamp, as many as one step takes. What is
    no event by our rules, since a foreign writer let it in, is left out."""
    found: list[Row] = []
    size = 0
    async with aclosing(lines):
        async for block in lines:
            for line in block.split(b"\n")[:-1]:
                row = row_of(line)
                if row is None or not takes(row.type, row.aggregate_id, row.timestamp):
                    continue
                found.append(row)
                size += len(line)
                if len(found) >= _EVENTS or size >= _BYTES:
                    yield found
                    found, size = [], 0
    if found:
        yield found


def row_of(line: bytes) -> Row | None:
    """The event of a line that a store gave; None for what is none by our rules."""
    try:
        read = _READ.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return Row(
        read.thread_id,
        read.thread_counter,
        read.timestamp,
        read.aggregate_id,
        read.aggregate_version,
        read.type,
        bytes(read.payload),
    )


async def pairs(reading: Reading, rows: Sequence[Row]) -> list[Pair]:
    """These events beside what the store has at their positions; without those of which it has none."""
    by_place = {row[:2]: row for row in rows}
    found: list[Pair] = []
    places = list(by_place)
    while places:
        lines = await reading.lines_at(places, _BYTES)
        stored = [row for row in map(row_of, lines) if row is not None]
        found += [Pair(by_place[row[:2]], row) for row in stored]
        # A call ends early when its lines are large. What it did not find before its last line is not there.
        if not stored or len(lines) == len(places):
            break
        places = places[places.index(stored[-1][:2]) + 1 :]
    return found

"""Makes parts of lines, and keeps the first one that was made from any place on.

Of two parts that begin at the same place only one can be in the chain. Its descriptor, which is created once, decides
which: a run that was killed, or another one at the same time, has then done this work already.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Any, NamedTuple

import msgspec

from eventferry.backup import format
from eventferry.backup.format import Descriptor, Part
from eventferry.backup.packing import ENCRYPTED, ENDING, Packed, Packer, Recipient
from eventferry.backup.storage import Storage
from eventferry.errors import RepositoryDamagedError, RepositoryError
from eventferry.lifecycle import end_with_loop, settled
from eventferry.lines.marker import archives_in

WAITING_BYTES = 4 * 1024 * 1024
"""Bytes of lines that wait to be packed, at most: so the thread that packs has some also while a bookmark is read."""


class Made(NamedTuple):
    """A part that is not stored yet, and its object's bytes."""

    part: Part
    data: bytes


class PartMaker:
    """A part in the making: lines are packed while more are read.

    Args:
        file: what its name within the chain begins with: `parts/` or `secrets/`, and 32 hex digits. None: it is a part
            of events that is named by the SHA-256 of its bytes.
        recipients: whom it is encrypted to.

    Attributes:
        bytes: of its lines so far.
        events: of them that have ended.
        archives: the ids of archives that hold payloads of these.
    """

    def __init__(self, file: str | None, recipients: Sequence[Recipient]) -> None:
        self._packer = Packer(recipients)
        self._recipients = recipients
        self._file = file
        # One thread, which goes from block to block without the loop: that is often busy with what is read.
        self._thread = ThreadPoolExecutor(1, "eventferry-packing")
        end_with_loop(self)
        self._work: deque[tuple[asyncio.Future[Any], int]] = deque()  # what it was given, with bytes of lines
        self._waiting = 0
        self._first: bytes | None = None
        self._last = b""
        self._begun = b""  # the line that has not ended yet
        self.bytes = 0
        self.events = 0
        self.archives: set[str] = set()

    async def add(self, block: bytes) -> None:
        """Some of the lines; they may be cut anywhere."""
        if not block:
            return
        self._give(len(block), self._packer.add, block)
        while self._waiting > WAITING_BYTES:
            await self._packed()
        self.bytes += len(block)
        end = block.rfind(b"\n")
        if end < 0:
            self._begun += block
            return
        self.archives |= archives_in(self._begun + block[: end + 1])
        begin = block.rfind(b"\n", 0, end) + 1
        self._last = (b"" if begin else self._begun) + block[begin:end]
        if self._first is None:
            self._first = self._begun + block[: block.index(b"\n")]
        self._begun = block[end + 1 :]
        self.events += block.count(b"\n")

    async def finish(self, end: str | None) -> Made:
        """All lines were added; `end` is the bookmark behind the last one, None for secrets."""
        self._give(0, self._packer.finish)
        while len(self._work) > 1:
            await self._packed()
        packed: Packed = await self._packed()
        self._thread.shutdown(wait=False)
        file, digest = f"{self._file}-{token_hex(4)}", packed.stored.sha256
        if self._file is None:
            file = f"parts/{digest[:32]}-{digest[32:40]}"
        part = Part(
            file=f"{file}{ENDING}{ENCRYPTED if self._recipients else ''}",
            events=self.events,
            end=end,
            plain=packed.plain,
            stored=packed.stored,
            first_time=_time_of(self._first),
            last_time=_time_of(self._last),
            recipients=[recipient.fingerprint for recipient in self._recipients],
        )
        return Made(part, packed.data)

    def abandon(self) -> None:
        """Pack no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def close(self) -> None:
        """Pack no more, and wait for the thread that packs; twice is fine."""
        self.abandon()
        await settled(*(work for work, _ in self._work))

    def _give(self, size: int, function: Callable[..., Any], *arguments: bytes) -> None:
        """Have the thread call a function, when it has done what it was given before."""
        work = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        self._work.append((work, size))
        self._waiting += size

    async def _packed(self) -> Any:
        """Wait until the thread has done what it was given first; returns what that gave."""
        work, size = self._work[0]
        result = await asyncio.shield(work)
        self._work.popleft()
        self._waiting -= size
        return result


class _Timed(msgspec.Struct):
    timestamp: int


def _time_of(line: bytes | None) -> int | None:
    """The timestamp of a line; None where it is one of secrets, or a foreign writer's that is no whole number."""
    try:
        return msgspec.json.decode(line or b"", type=_Timed).timestamp
    except msgspec.MsgspecError:
        return None


class Parts:
    """The parts of a chain.

    Args:
        storage: of the repository.
        chain: the name.
        recipients: whom this run encrypts to. A part for others is not used.
        holds: whether the store holds what was read up to a bookmark. A part of a history that is gone is not used.
    """

    def __init__(
        self,
        storage: Storage,
        chain: str,
        recipients: Sequence[Recipient],
        holds: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._storage = storage
        self._chain = chain
        self._fingerprints = [recipient.fingerprint for recipient in recipients]
        self._holds = holds

    async def finished(self, key: str) -> Part | None:
        """The part that begins here, if one is kept and can be used. One that cannot is forgotten: it is in no
        manifest, since a chain goes on at its end."""
        name = format.descriptor_name(self._chain, key)
        data = await self._storage.get(name)
        if data is None:
            return None
        try:
            descriptor = format.unseal(data, Descriptor, name)
        except RepositoryDamagedError:
            descriptor = None
        if descriptor is not None and await self._is_usable(descriptor, key):
            return descriptor.part
        await self._storage.delete(name)
        return None

    async def _is_usable(self, descriptor: Descriptor, key: str) -> bool:
        part = descriptor.part
        return (
            (descriptor.chain, part.key, part.recipients) == (self._chain, key, self._fingerprints)
            and await self._storage.size(format.part_name(self._chain, part)) == part.stored.bytes
            and part.end is not None
            and await self._holds(part.end)
        )

    async def keep(self, made: Made) -> Part:
        """Store a part; returns it, or the one that another run has kept meanwhile."""
        await put(self._storage, self._chain, made)
        name = format.descriptor_name(self._chain, made.part.key)
        descriptor = format.seal(Descriptor(chain=self._chain, part=made.part))
        while not await self._storage.put_new(name, descriptor):
            other = await self.finished(made.part.key)
            if other is not None:
                if other != made.part:  # otherwise a request was repeated after a lost answer
                    await self._storage.delete(format.part_name(self._chain, made.part))
                return other
        return made.part


async def put(storage: Storage, chain: str, made: Made) -> None:
    """Store the object of a part under its own name, which no other part has."""
    name = format.part_name(chain, made.part)
    if not await storage.put_new(name, made.data) and await storage.get(name) != made.data:
        raise RepositoryError(f"{name} in the repository is another run's: run the backup again")

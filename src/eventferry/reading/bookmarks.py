"""Bookmarks: a cursor that can tell whether the history that was read is still the store's.

A cursor counts. It does not show that a backup was restored under its reader, or that the events were replaced: from
there on a reader would miss events, and nobody would notice. A bookmark is the cursor together with the store's
identity and a fingerprint of the last event that was read in each thread.

Why the last event of each thread is enough: in each thread, events are committed in order of their counters. A backup
holds what was committed up to some moment, so what a restore takes away are the last events of some threads. If any
event that was read is gone, so is the last one of its thread; another event in its place has another fingerprint.

A payload from which something was erased, or that was archived, is another one, and still the store's history. So the
fingerprint has two halves, one of whole events and one of all but their payloads. Where only the second fits, the
bookmark is good if the store knows of an erasure or an archive that may concern one of these events.

A bookmark as text is `ef1.` and base64url of: 8 bytes of a hash of the identity, 12 bytes of fingerprint, the 256 next
counters (six planes of 256 bytes, the highest bytes first, deflated), and a CRC-32 of all of that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from eventferry import cursor as vector
from eventferry.changing.erased import Erased
from eventferry.comparing.canonical import canonical
from eventferry.database import Reading
from eventferry.errors import InputError, StoreReplacedError, UsageError
from eventferry.lines.damaged import seen_event
from eventferry.reading.pages import PageLines
from eventferry.reading.questions import IDENTITY_BYTES, identity_of, refuse_ahead
from eventferry.state import archives, erasures
from eventferry.state.archives import Archived
from eventferry.state.syncs import lineage

PREFIX = "ef1."

_FINGERPRINT_BYTES = 12
_HALF = _FINGERPRINT_BYTES // 2
_DIGEST_BYTES = 16
_PLANES = vector.COUNTER_BYTES * vector.THREADS
_LINES_BYTES = 4 * 1024 * 1024  # bytes of lines that are looked up at a time
_RAW_DEFLATE = -15


class Written(NamedTuple):
    """What a bookmark's text holds."""

    identity: bytes
    fingerprint: bytes
    unread: list[int]


class EventDigest(NamedTuple):
    """What is kept of an event that was read: digests of all of it and of all but its payload, the same for equal
    events however their databases spell them, and what tells whether an erasure concerns it."""

    whole: bytes
    bare: bytes
    type: str
    aggregate_id: str
    timestamp: int


class Bookmark(NamedTuple):
    """What has been read of a store; immutable."""

    identity: bytes  # of the store, hashed; zeros where it has none that outlasts a backup
    unread: Sequence[int]  # the 256 next counters
    # Of the last event that was read, by thread. One in which none was, or whose last counters were a gap, has none.
    last: Mapping[int, EventDigest]

    @classmethod
    async def at(cls, reading: Reading, unread: Sequence[int]) -> Bookmark:
        """The bookmark at these counters. Raises CursorAheadError where the store does not have so many events."""
        await refuse_ahead(reading, unread)
        last = await _last_at(reading, unread, range(vector.THREADS))
        return cls(identity_of(await reading.state()), list(unread), last)

    @classmethod
    async def open(cls, reading: Reading, text: str) -> Bookmark:
        """Parse a bookmark, and check that what was read is still the store's history. Raises UsageError where the text
        is not a bookmark, CursorAheadError where the store does not have so many events, and StoreReplacedError where
        it has others."""
        identity, fingerprint, unread = decode(text)
        own = identity_of(await reading.state())
        if identity != own and identity.hex() not in await lineage(reading):
            raise StoreReplacedError(
                "the bookmark is of another store, or of events that have been replaced since"
            )
        found = await cls.at(reading, unread)
        if fingerprint != found.fingerprint:
            if not found.is_alike(fingerprint):
                raise _other_history()
            is_rewritten = await _rewritten(reading)
            if not any(map(is_rewritten, found.last.values())):
                raise _other_history()
        return found

    async def moved(self, reading: Reading, lines: PageLines, unread: Sequence[int]) -> Bookmark:
        """The bookmark behind a page, which this reading gave."""
        threads = {thread for thread in range(vector.THREADS) if unread[thread] != self.unread[thread]}
        last = {thread: digest for thread, digest in self.last.items() if thread not in threads}
        texts = _last_lines(lines)
        known = {thread for thread in threads & texts.keys() if texts[thread][0] == unread[thread] - 1}
        last |= {thread: _placed(texts[thread][1])[2] for thread in known}
        last |= await _last_at(reading, unread, threads - known)
        return self._replace(unread=list(unread), last=last)

    async def check(self, reading: Reading, threads: Iterable[int]) -> None:
        """Look whether the last events that were read in these threads are still there. Raises as `open` does."""
        threads = list(threads)
        found = await _last_at(reading, self.unread, threads)
        others = [thread for thread in threads if found.get(thread) != self.last.get(thread)]
        if not others:
            return
        await refuse_ahead(reading, self.unread)
        is_rewritten = await _rewritten(reading)
        for before, now in ((self.last.get(thread), found.get(thread)) for thread in others):
            if before is None or now is None or before.bare != now.bare or not is_rewritten(now):
                raise _other_history()

    @property
    def fingerprint(self) -> bytes:
        """Of the last events that were read."""
        return fingerprint_of({thread: (digest.whole, digest.bare) for thread, digest in self.last.items()})

    def is_alike(self, fingerprint: bytes) -> bool:
        """Whether a fingerprint is of these events, but for payloads, from which something may have been erased."""
        return fingerprint[_HALF:] == self.fingerprint[_HALF:]

    def __str__(self) -> str:
        return encode(Written(self.identity, self.fingerprint, list(self.unread)))


def fingerprint_of(last: Mapping[int, tuple[bytes, bytes]]) -> bytes:
    """The fingerprint of the last event that was read in each thread, as the `whole` and `bare` of an
    `EventDigest`."""
    found = sorted(last.items())
    whole = b"".join(bytes([thread]) + whole for thread, (whole, _) in found)
    bare = b"".join(bytes([thread]) + bare for thread, (_, bare) in found)
    return _hash(whole, _HALF) + _hash(bare, _HALF)


def encode(written: Written) -> str:
    """The text of a bookmark."""
    counters = base64.b64decode(vector.encode(written.unread))
    planes = b"".join(counters[plane :: vector.COUNTER_BYTES] for plane in range(vector.COUNTER_BYTES))
    packing = zlib.compressobj(9, wbits=_RAW_DEFLATE)
    body = written.identity + written.fingerprint + packing.compress(planes) + packing.flush()
    return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")


def decode(text: str) -> Written:
    """What the text of a bookmark holds. Raises UsageError."""
    if not isinstance(text, str) or not text.startswith(PREFIX):
        kind = "a cursor" if isinstance(text, str) and len(text) == vector.LENGTH else repr(text)[:60]
        raise UsageError(f"a bookmark begins with {PREFIX!r}; this is {kind}")
    packed = text.removeprefix(PREFIX)
    try:
        whole = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        body, checksum = whole[:-4], whole[-4:]
        if len(whole) < IDENTITY_BYTES + _FINGERPRINT_BYTES + 4 or checksum != _checksum(body):
            raise ValueError("it is truncated or damaged")
        unpacking = zlib.decompressobj(_RAW_DEFLATE)
        planes = unpacking.decompress(body[IDENTITY_BYTES + _FINGERPRINT_BYTES :], _PLANES + 1)
        if len(planes) != _PLANES:
            raise ValueError("it does not have 256 counters")
    except (binascii.Error, ValueError, zlib.error) as error:
        raise UsageError(f"this is not a bookmark: {error}") from None
    columns = (planes[start : start + vector.THREADS] for start in range(0, _PLANES, vector.THREADS))
    unread = [int.from_bytes(bytes(counter), "big") for counter in zip(*columns, strict=True)]
    return Written(body[:IDENTITY_BYTES], body[IDENTITY_BYTES : IDENTITY_BYTES + _FINGERPRINT_BYTES], unread)


def counters_of(text: str) -> list[int]:
    """The counters of a bookmark or a cursor. Raises UsageError."""
    return decode(text).unread if text.startswith(PREFIX) else vector.decode(text)


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big")


def _other_history() -> StoreReplacedError:
    return StoreReplacedError(
        "the store does not hold the events that were read: a backup was restored, or events were replaced"
    )


def _hash(text: bytes, size: int) -> bytes:
    return hashlib.blake2b(text, digest_size=size).digest()


async def _rewritten(reading: Reading) -> Callable[[EventDigest], bool]:
    """What tells whether the payload of an event may have been another one before: something was erased from it, or it
    was archived or recalled."""
    known = Erased(await erasures.load(reading)), Archived(await archives.load(reading))
    return lambda event: any(each.concerns(event.type, event.aggregate_id, event.timestamp) for each in known)


async def _last_at(reading: Reading, unread: Sequence[int], threads: Iterable[int]) -> dict[int, EventDigest]:
    """The last events before these counters, by thread."""
    places = [(thread, unread[thread] - 1) for thread in threads if unread[thread] > 0]
    last: dict[int, EventDigest] = {}
    while places:
        lines = await reading.lines_at(places, _LINES_BYTES)
        found = [_placed(line) for line in lines]
        last |= {thread: digest for thread, _, digest in found}
        # A call ends early when its lines are large. What it did not find before its last line is not there.
        if not found or len(found) == len(places):
            break
        places = places[places.index(found[-1][:2]) + 1 :]
    return last


def _last_lines(lines: PageLines) -> dict[int, tuple[int, bytes]]:
    """The last counter and line of each thread of a page, as far as its lines can be told apart."""
    texts = lines.text.split(b"\n")[:-1]
    if len(texts) != lines.number:  # white space that a foreign writer left inside a line
        return {}
    places = zip(lines.threads, zip(lines.counters, texts, strict=True), strict=True)
    return dict(places)


def event_digest(line: bytes) -> EventDigest:
    """What a bookmark keeps of a line's event."""
    return _placed(line)[2]


class _Read(msgspec.Struct, rename="camel", gc=False):
    """A line that a store gave."""

    thread_id: int
    thread_counter: int
    timestamp: int
    aggregate_version: int
    aggregate_id: str
    type: str
    payload: msgspec.Raw


_READ = msgspec.json.Decoder(_Read)


def _placed(line: bytes) -> tuple[int, int, EventDigest]:
    """The thread and the counter of a line's event, and what is kept of it."""
    try:
        event = _READ.decode(line)
        payload = canonical(bytes(event.payload))
    except (msgspec.MsgspecError, RecursionError, InputError):
        # A foreign writer let in what is no event by our rules: it is told by its bytes.
        odd = seen_event(line)
        digest = _hash(line, _DIGEST_BYTES)
        return (
            odd.thread_id,
            odd.thread_counter,
            EventDigest(digest, digest, odd.type, odd.aggregate_id, odd.timestamp),
        )
    place = event.thread_id, event.thread_counter
    fields = f"{place} {event.timestamp} {event.aggregate_version} {event.aggregate_id!r} {event.type!r} "
    hashed = hashlib.blake2b(fields.encode(), digest_size=_DIGEST_BYTES)
    bare = hashed.digest()
    hashed.update(payload)
    return *place, EventDigest(hashed.digest(), bare, event.type, event.aggregate_id, event.timestamp)

"""Where a row stands in the order of its table, and the bookmark of a reader that has come so far.

A bookmark as text is `es1.` and base64url of: 8 bytes of a digest of the mapping; the place of the last row that was
taken; the places and digests of the last events that rows became, three at most; and a CRC-32 of all of that. A place
is two numbers of 8 bytes, the transaction and the position.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from eventferry.errors import SourceRowError, UsageError
from eventferry.sources.foreign import Reader

PREFIX = "es1."

WITNESSES = 3
"""Events that show whether what was read is still what the table holds."""

DIGEST_BYTES = 8


_PLACE = struct.Struct(">qq")
_CHECKSUM_BYTES = 4


class RowPlace(NamedTuple):
    """Where a row stands; places sort as their rows do. `transaction` is 0 where the mapping gives none."""

    transaction: int
    position: int


class Witness(NamedTuple):
    """An event that was read."""

    place: RowPlace
    digest: bytes

    @classmethod
    def of(cls, place: RowPlace, line: bytes) -> Witness:
        """With a digest of the line that its row alone becomes."""
        return cls(place, hashlib.blake2b(line, digest_size=DIGEST_BYTES).digest())


class SourceBookmark(NamedTuple):
    """How far a table has been read.

    Attributes:
        mapping: a digest of the mapping.
        place: of the last row that was taken; None before the first.
        witnesses: the last events, the last one at the end.
    """

    mapping: bytes
    place: RowPlace | None = None
    witnesses: tuple[Witness, ...] = ()

    def moved(self, place: RowPlace, witnesses: Sequence[Witness]) -> SourceBookmark:
        """Behind further rows."""
        return self._replace(place=place, witnesses=(*self.witnesses, *witnesses)[-WITNESSES:])

    def __str__(self) -> str:
        parts = [] if self.place is None else [_PLACE.pack(*self.place)]
        parts += [_PLACE.pack(*witness.place) + witness.digest for witness in self.witnesses]
        body = self.mapping + b"".join(parts)
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> SourceBookmark:
        """What the text of a bookmark holds. Raises UsageError."""
        if not text.startswith(PREFIX):
            raise UsageError(
                f"a bookmark of another product's table begins with {PREFIX!r}; this is {text[:60]!r}"
            )
        packed = text.removeprefix(PREFIX)
        try:
            whole = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        except binascii.Error as error:
            raise UsageError(f"this is not a bookmark: {error}") from None
        body, checksum = whole[:-_CHECKSUM_BYTES], whole[-_CHECKSUM_BYTES:]
        mapping, rest = body[:DIGEST_BYTES], body[DIGEST_BYTES:]
        size = _PLACE.size + DIGEST_BYTES
        if checksum != _checksum(body) or len(rest) % size not in (0, _PLACE.size):
            raise UsageError("this is not a bookmark: it is truncated or damaged")
        if not rest:
            return cls(mapping)
        witnesses = tuple(
            Witness(RowPlace(*_PLACE.unpack_from(rest, start)), rest[start + _PLACE.size : start + size])
            for start in range(_PLACE.size, len(rest), size)
        )
        return cls(mapping, RowPlace(*_PLACE.unpack_from(rest)), witnesses)


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "big")


class Order:
    """The order of the rows that a `Reader` gives, in SQL about `mapped`."""

    def __init__(self, reader: Reader, mapping: str) -> None:
        self._mapping = mapping
        self._has_transaction = reader.has_transaction
        names = ["mapped.transaction", "mapped.position"] if reader.has_transaction else ["mapped.position"]
        self.rising = ", ".join(names)
        self.falling = ", ".join(f"{name} DESC" for name in names)

    def behind(self, place: RowPlace | None) -> str:
        """A condition: rows behind a place."""
        if place is None:
            return "1 = 1"
        return self._compared(">", place)

    def until(self, place: RowPlace) -> str:
        """A condition: rows up to a place."""
        return self._compared("<=", place)

    def at(self, places: Sequence[RowPlace]) -> str:
        """A condition: rows at these places."""
        return f"({' OR '.join(self._compared('=', place) for place in places)})"

    def _compared(self, operator: str, place: RowPlace) -> str:
        if self._has_transaction:
            return f"(mapped.transaction, mapped.position) {operator} ('{place.transaction}'::xid8, {place.position})"
        return f"mapped.position {operator} {place.position}"

    def place(self, row: Sequence[Any]) -> RowPlace:
        """The place of a row. Raises SourceRowError."""
        position = row[0]
        if type(position) is not int:
            raise SourceRowError(
                "a position is a whole number", source=self._mapping, position=None, column="position"
            )
        return RowPlace(row[-1] if self._has_transaction else 0, position)

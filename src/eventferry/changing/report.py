"""What a change has done, and the proof that nothing else was lost: sums, counts per type, hashes."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from copy import copy
from itertools import compress
from operator import attrgetter

import msgspec

from eventferry.errors import ChangeError
from eventferry.lines.decoder import Line


class ChangeReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What became of the events.

    It always holds that read = left_out + dropped + changed + untouched, and written = changed + untouched + split.

    Attributes:
        read: events that came in.
        left_out: of these, how many the filters did not take.
        dropped: how many a rule or the function left out.
        changed: how many have another type, aggregate, timestamp or payload, or became several.
        untouched: how many have not: their type, aggregate, timestamp and the text of their payload are the same.
        split: how many events came out more than went in, where the function made several of one.
        written: events that went out.
        types_before: of the events that came in, how many there were of each type.
        types_after: the same of those that went out, counted in the lines that went out.
        never_matched: rules that were about no event, and pointers that found nothing: misspelled, perhaps.
    """

    read: int = 0
    left_out: int = 0
    dropped: int = 0
    changed: int = 0
    untouched: int = 0
    split: int = 0
    written: int = 0
    types_before: dict[str, int] = {}
    types_after: dict[str, int] = {}
    never_matched: tuple[str, ...] = ()


OTHER_TYPES = "(other types)"
"""What a report counts together where a source has more types than anybody would read through."""

_TYPES = 10_000
_TYPE = attrgetter("type")
_PAYLOAD = attrgetter("payload")


class _Seen(msgspec.Struct, gc=False):
    """What is looked at of a line that goes out."""

    type: str
    payload: msgspec.Raw


_SEEN = msgspec.json.Decoder(_Seen)


class Proof:
    """Counts and hashes while events pass: once what comes in, and once more what goes out, from its own text."""

    def __init__(self) -> None:
        self.left_out = self.dropped = self.changed = self.untouched = self.split = self.written = 0
        self._read = 0
        self._types_before: Counter[str] = Counter()
        self._types_after: Counter[str] = Counter()
        self._hash_before = self._hash_after = 0

    def copy(self) -> Proof:
        """The counts and hashes of now, which do not change with these."""
        found = copy(self)
        found._types_before, found._types_after = self._types_before.copy(), self._types_after.copy()
        return found

    def came(self, lines: Sequence[Line]) -> None:
        """Events have come in, and nothing was done to them yet."""
        self._read += len(lines)
        _count(self._types_before, lines)

    def stayed(self, payloads: Sequence[msgspec.Raw]) -> None:
        """The payloads, as they came in, of those that are untouched."""
        self.untouched += len(payloads)
        self._hash_before = zlib.crc32(b"".join(payloads), self._hash_before)

    def went(self, text: bytes, untouched: Sequence[bool]) -> None:
        """Lines go out; for each, whether it is of an untouched event."""
        self.gone(_SEEN.decode_lines(text), untouched)

    def gone(self, lines: Sequence[Line | _Seen], untouched: Sequence[bool]) -> None:
        """The same of events that go out as no text."""
        self.written += len(lines)
        _count(self._types_after, lines)
        self._hash_after = zlib.crc32(b"".join(map(_PAYLOAD, compress(lines, untouched))), self._hash_after)

    def report(self, never_matched: tuple[str, ...]) -> ChangeReport:
        """The report so far, with what the rules say of themselves. Raises ChangeError if the sums or hashes do not
        agree."""
        kept = self.changed + self.untouched
        types_before, types_after = self._types_before, self._types_after
        if self._read != self.left_out + self.dropped + kept or self._read != types_before.total():
            raise ChangeError(f"{self._read} events came in, and what became of them does not add up")
        if self.written != kept + self.split or self.written != types_after.total():
            raise ChangeError(f"{self.written} events went out, and what they were made of does not add up")
        if self._hash_before != self._hash_after:
            raise ChangeError("payloads that no rule touched are not the same as before")
        return ChangeReport(
            read=self._read,
            left_out=self.left_out,
            dropped=self.dropped,
            changed=self.changed,
            untouched=self.untouched,
            split=self.split,
            written=self.written,
            types_before=dict(types_before.most_common()),
            types_after=dict(types_after.most_common()),
            never_matched=never_matched,
        )


def _count(counts: Counter[str], lines: Sequence[Line | _Seen]) -> None:
    for event_type, count in Counter(map(_TYPE, lines)).items():
        counts[event_type if event_type in counts or len(counts) < _TYPES else OTHER_TYPES] += count

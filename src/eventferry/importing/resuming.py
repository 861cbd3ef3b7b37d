"""Digests of what an import has consumed of its source: a resume checks that it is given the same source."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence

from eventferry.database import Progress
from eventferry.errors import ResumeError


class Consumed:
    """Digests of the whole lines that an import has consumed, one for each commit; each includes those before it.
    `history` is what was committed before a resume, in order."""

    def __init__(self, history: Sequence[Progress] = ()) -> None:
        self._unseen = deque(history)
        self._seen = hashlib.sha256()
        self._offset = 0
        self._hash = hashlib.sha256(history[-1].digest if history else b"")
        self._begun_line: list[bytes] = []

    def add(self, block: bytes) -> None:
        """Consume a block. The beginning of a line counts when its end is there, for that is what is committed."""
        end = block.rfind(b"\n") + 1
        if end:
            self.add_last_line()
            self._hash.update(block[:end])
        if end < len(block):
            self._begun_line.append(block[end:])

    def add_last_line(self) -> None:
        """Consume the last line, which has no line feed."""
        for piece in self._begun_line:
            self._hash.update(piece)
        self._begun_line = []

    def digest(self) -> bytes:
        """The digest for a commit of all that was consumed."""
        digest = self._hash.digest()
        self._hash = hashlib.sha256(digest)
        return digest

    @property
    def is_verified(self) -> bool:
        """Whether all that was consumed before a resume has been seen again."""
        return not self._unseen

    def verify(self, block: bytes) -> bytes:
        """Check a block of the source's beginning; returns what lies behind the part that was consumed. Raises
        ResumeError where this is not the source that the import began with."""
        while self._unseen and block:
            expected = self._unseen[0]
            room = expected.byte_offset - self._offset
            part, block = block[:room], block[room:]
            self._seen.update(part)
            self._offset += len(part)
            if self._offset < expected.byte_offset:
                break
            if self._seen.digest() != expected.digest:
                raise ResumeError(
                    "this is not the source that the import began with, or it is changed in another way (by other "
                    "rules): import without resume=True to start over"
                )
            self._seen = hashlib.sha256(expected.digest)
            self._unseen.popleft()
        return block

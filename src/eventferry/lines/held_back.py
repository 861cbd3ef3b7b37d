"""The last bytes of a block wait for the next one: so what breaks off ends inside a line, and never looks whole."""

from __future__ import annotations


class HeldBack:
    """Holds back the end of what passes, until more comes or the proper end.

    Args:
        count: how many bytes.
        begin: what comes before all else.

    Attributes:
        rest: what is held back: the last block, at the proper end.
    """

    def __init__(self, count: int = 2, begin: bytes = b"") -> None:
        self._count = count
        self.rest = begin

    def all_but_the_end(self, text: bytes) -> bytes:
        """What was held back, and this but for its end."""
        if len(text) < self._count:
            text, self.rest = self.rest + text, b""
        out = b"".join((self.rest, memoryview(text)[: -self._count]))
        self.rest = text[-self._count :]
        return out

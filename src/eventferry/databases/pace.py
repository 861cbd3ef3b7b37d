"""How many events to ask for at once."""

from __future__ import annotations

MOST = 4096


class Pace:
    """How many events to ask for so that their lines come near a number of bytes: by those that came before."""

    def __init__(self) -> None:
        self._size = 1024.0

    def rows(self, max_bytes: int) -> int:
        """How many events to ask for."""
        return min(MOST, int(max_bytes / self._size) + 1)

    def note(self, count: int, size: int) -> None:
        """Learn from what came: how many lines, and their bytes together."""
        if count:
            self._size = (self._size + max(size / count, 64.0)) / 2

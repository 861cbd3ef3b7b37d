"""How many events to ask for at once."""

from __future__ import annotations

MOST = 4096


class Pace:
    """How many events to ask for so that their lines come near a number of bytes: by those that came before."""

    def __init__(self) -> None:
        self._size = 1024.0
        self._most = MOST

    def rows(self, max_bytes: int) -> int:
        return min(self._most, int(max_bytes / self._size) + 1)

    def note(self, count: int, size: int) -> None:
        """Learn from what came: how many lines, and their bytes together."""
        self._most = min(2 * self._most, MOST)
        if count:
            self._size = (self._size + max(size / count, 64.0)) / 2

    def cut(self, rows: int) -> None:
        """Ask for no more than so many: behind them something large was come upon. After each of what came the double
        is asked for, so that a store with large events here and there is not read many times over."""
        self._most = rows

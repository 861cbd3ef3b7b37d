"""Owners on SQLite: a file beside the database, locked for as long as its process lives.

The operating system drops the lock with the process, however it dies; the file may stay, unlocked, and
counts as nothing. It is removed together with what it owned.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from secrets import token_hex

from eventferry import forking

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    _ask = _lock
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # flock, not lockf: a POSIX lock would vanish when anything in this process closed the same file.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _ask(descriptor: int) -> None:
        # Shared: two who ask at once must not take each other for the owner.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def lock_path(database: Path, owner: str) -> Path:
    """The file that stands for an owner."""
    return database.with_name(f"{database.name}-owner-{owner}")


class FileOwner:
    """A running operation on one database file."""

    def __init__(self, database: Path) -> None:
        self.id = token_hex(8)
        self._path = lock_path(database, self.id)
        self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        _lock(self._descriptor)
        forking.ours(self)

    async def release(self) -> None:
        """Remove the file and drop the lock; twice is fine."""
        self._end()

    def _end(self) -> None:
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def leave(self) -> FileOwner:
        """In a child: the lock is the parent's, and must go when that does."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        return self

    def __del__(self) -> None:
        self._end()  # of an operation whose loop has ended


def is_alive(database: Path, owner: str) -> bool:
    """Whether the owner's process holds its lock; creates and changes nothing."""
    try:
        descriptor = os.open(lock_path(database, owner), os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # somebody else's, and no way to ask: believe it
    try:
        _ask(descriptor)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def forget(database: Path, owner: str) -> None:
    """Remove the file of a dead owner."""
    lock_path(database, owner).unlink(missing_ok=True)

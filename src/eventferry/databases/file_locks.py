"""Locks on open files: the operating system drops them with their process, however it dies."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt

    def lock(descriptor: int) -> None:
        """Take the lock of a file. Raises OSError if somebody has it."""
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    ask = lock
else:
    import fcntl

    def lock(descriptor: int) -> None:
        """Take the lock of a file. Raises OSError if somebody has it."""
        # flock, not lockf: a POSIX lock would vanish when anything in this process closed the same file.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def ask(descriptor: int) -> None:
        """Raises OSError if somebody has the lock of a file."""
        # Shared: two who ask at once must not take each other for the owner.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_at(path: str | os.PathLike[str], descriptor: int) -> bool:
    """Whether a path still leads to the file that is open."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False

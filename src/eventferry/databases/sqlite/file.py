"""The file of a store: a path may lead to one file now and to another later, so the file itself is remembered."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TypeAlias

from eventferry.errors import (
    DatabaseError,
    ReadOnlyStoreError,
    StoreNotFoundError,
    StoreReplacedError,
    UnsupportedStoreError,
)

Identity: TypeAlias = tuple[int, int]  # device and inode


class File:
    """What a store's path leads to; `path` is the file itself, whatever links lead to it: the journal and the locks of
    owners stand beside it. No descriptor is ever opened here: closing it would drop SQLite's locks in this process."""

    def __init__(self, given: str) -> None:
        self._given = given
        self._real = os.path.realpath(given)
        self.path = Path(self._real)
        self._opened: Identity | None = None

    def __str__(self) -> str:
        return self._given

    @property
    def was_opened(self) -> bool:
        return self._opened is not None

    def look(self) -> os.stat_result:
        """What stands at the path now. Raises StoreNotFoundError."""
        try:
            found = os.stat(self._real)
        except PermissionError as error:
            raise ReadOnlyStoreError(f"{self} cannot be reached: {error.strerror}") from None
        except OSError:
            more = " any more: its file was removed" if self.was_opened else ""
            raise StoreNotFoundError(f"there is no store at {self}{more}") from None
        if not stat.S_ISREG(found.st_mode):
            raise StoreNotFoundError(f"there is no store at {self}: it is not a file")
        return found

    def note(self, identity: Identity) -> None:
        """A connection has opened this file. Raises StoreReplacedError if others have opened another one."""
        if self._opened is None:
            self._opened = identity
        elif self._opened != identity:
            raise StoreReplacedError(
                f"{self} is not the file that was opened: that was replaced (by a restored backup?). "
                "Nothing of this call was kept; open the store again"
            )

    def check(self, *, to_write: bool) -> None:
        """Raises unless the path leads to the file that was opened. One with several names is only read: SQLite puts
        the journal beside the name that it was given, so who comes by another name does not see it."""
        found = self.look()
        if (found.st_dev, found.st_ino) != self._opened:  # this is in the way of every save: no call more
            self.note(identity_of(found))
        if to_write and found.st_nlink > 1:
            raise UnsupportedStoreError(
                f"{self} has {found.st_nlink} names (hard links), under which writers do not see one another: "
                "remove the others, or write to a copy"
            )


def identity_of(found: os.stat_result) -> Identity:
    """Which file that is."""
    return found.st_dev, found.st_ino


FILES_USED_UP = "this process has as many files open as it may (ulimit -n), and the store is one more"
DISK_FULL = ": the disk is full; nothing of this step was kept"


def used_up(error: OSError, place: object) -> DatabaseError | None:
    """The error for what a process or a disk has no more of; None for one of another kind, such as a lack of rights."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return DatabaseError(FILES_USED_UP)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DatabaseError(f"{place}{DISK_FULL}")
    return None

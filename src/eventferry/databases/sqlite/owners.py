"""Owners on SQLite: a file beside the database, locked for as long as its process lives.

The operating system drops the lock with the process, however it dies; a process that is stopped keeps it. The file may
stay, unlocked, and counts as nothing. It is removed with what it owned, or when the next owner begins.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path

from eventferry.databases import forking
from eventferry.databases.file_locks import ask, is_at, lock
from eventferry.databases.names import new_owner
from eventferry.databases.sqlite.file import used_up
from eventferry.errors import ReadOnlyStoreError

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_ID = re.compile(r"[0-9a-f]{12}")


def lock_path(database: Path, owner: str) -> Path:
    """The file that stands for an owner."""
    return database.with_name(f"{database.name}-owner-{owner}")


def can_own(database: Path) -> bool:
    """Whether that file can have its name, which is the longest of all beside a database."""
    try:
        os.lstat(lock_path(database, new_owner()))
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


class FileOwner:
    """A running operation on one database file."""

    _descriptor: int | None = None

    def __init__(self, database: Path) -> None:
        while True:
            self.id = new_owner()
            self._path = lock_path(database, self.id)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                with contextlib.suppress(OSError, AttributeError):  # file systems and systems without modes
                    # Everybody must be able to ask, whatever the umask: it would live for ever otherwise.
                    os.fchmod(self._descriptor, 0o644)
                lock(self._descriptor)
                if _is_at(self._path, self._descriptor):
                    forking.ours(self)
                    return
            except BlockingIOError:
                pass  # somebody who sweeps has come between
            except BaseException:
                self._end()
                raise
            self._end()

    def release(self) -> None:
        """Give the lock back; twice is fine."""
        self._end()

    def _end(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # a file that stays is a dead owner's
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def abandon(self) -> None:
        self._end()

    def leave(self) -> FileOwner:
        """In a child: the lock is the parent's, and must go when that does."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        return self

    def __del__(self) -> None:
        self._end()  # of an operation that was forgotten


def is_alive(database: Path, owner: str) -> bool:
    """Whether the owner's process holds its lock; creates and changes nothing."""
    if not _ID.fullmatch(owner):
        return False
    path = lock_path(database, owner)
    try:
        descriptor = os.open(path, _READ)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return False
        raise used_up(error, path) or ReadOnlyStoreError(
            f"cannot tell whether an export, import or copy is running: {path} cannot be read: {error.strerror}. Grant "
            "permission to read it, or if none is running, remove it"
        ) from None
    try:
        ask(descriptor)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def forget(database: Path, owner: str) -> None:
    """Remove the file of an owner, if it is dead."""
    _remove_dead(lock_path(database, owner))


def sweep(database: Path) -> None:
    """Remove the files of all owners of a database that are dead: whose file is missing is dead as well."""
    prefix = f"{database.name}-owner-"
    with os.scandir(database.parent) as entries:
        found = [
            entry.path
            for entry in entries
            if entry.name.startswith(prefix) and _ID.fullmatch(entry.name, len(prefix))
        ]
    for path in found:
        _remove_dead(Path(path))


def _remove_dead(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, _READ)
        try:
            # As long as this is held, nobody becomes its owner; others may ask meanwhile, and hear that it is dead.
            ask(descriptor)
            if _is_at(path, descriptor):
                path.unlink()
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to the empty file that is open."""
    opened = os.fstat(descriptor)
    return stat.S_ISREG(opened.st_mode) and not opened.st_size and is_at(path, descriptor)

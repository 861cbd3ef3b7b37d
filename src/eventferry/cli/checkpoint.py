"""The checkpoint of `follow`: a file that holds a bookmark."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

from eventferry.databases.file_locks import is_at, lock
from eventferry.errors import EventferryError, UsageError
from eventferry.lines.files import (
    FileSink,
    descriptor_of,
    left_beside,
    name_beside,
    names_folder,
    read_blocks,
)
from eventferry.reading import bookmarks

_MAX_BYTES = 16 * 1024
"""A bookmark has at most a quarter of this."""


class Checkpoint:
    """A file that holds the bookmark of one reader, and is nobody else's meanwhile. Use it with `with`.

    The file is replaced at each write. So what is locked is another one beside it, which is removed at the end, and
    counts as nothing where its process has died.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._path = Path(os.path.realpath(name))  # a link stays a link
        self._lock_path = name_beside(self._path, "lock")
        self._descriptor = -1

    def __enter__(self) -> Checkpoint:
        try:
            while not self._lock():
                pass  # its last user has removed it just now
        except BlockingIOError:
            raise self._unusable("another process uses it") from None
        except OSError as error:
            raise self._unusable(f"{error.strerror} (files are written beside it)") from None
        for left in left_beside(self._path):
            with contextlib.suppress(OSError):  # of a user that was killed while it wrote; there is no other
                left.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # one that stays is nobody's
            self._lock_path.unlink()
        os.close(self._descriptor)

    def _lock(self) -> bool:
        """Take the lock; False where the file beside is not the one any more whose lock was taken."""
        self._descriptor = os.open(
            self._lock_path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600
        )
        try:
            lock(self._descriptor)
            if is_at(self._lock_path, self._descriptor):
                return True
        except BaseException:
            os.close(self._descriptor)
            raise
        os.close(self._descriptor)
        return False

    async def read(self) -> str | None:
        """The bookmark; None if there is no file.

        Raises:
            EventferryError: there is one that holds no bookmark.
        """
        exists = self._path.exists()
        is_file = self._path.is_file() if exists else not names_folder(self._name)
        if not is_file or descriptor_of(self._name) is not None:
            raise self._unusable("it is not a regular file")
        if not exists:
            return None
        text = b""
        async with contextlib.aclosing(read_blocks(self._path)) as blocks:
            async for block in blocks:
                text += block
                if len(text) > _MAX_BYTES:
                    raise self._unusable("it is too large to be one")
        bookmark = text.decode("latin-1").rstrip("\r\n")
        try:
            bookmarks.decode(bookmark)
        except UsageError as error:
            raise EventferryError(
                f"the checkpoint {self._name} cannot be used: {error}. Restore it, or remove it to begin at --since"
            ) from None
        return bookmark

    async def write(self, bookmark: str) -> None:
        """Replace the file, durably. One that is interrupted leaves the old one or the new one."""
        sink = FileSink(self._path)
        try:
            await sink.write(f"{bookmark}\n".encode())
            await sink.close()
        except BaseException as error:
            await sink.abort(error)
            raise

    def _unusable(self, reason: str) -> EventferryError:
        return EventferryError(f"the checkpoint {self._name} cannot be used: {reason}")

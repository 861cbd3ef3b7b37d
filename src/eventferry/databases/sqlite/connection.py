"""One connection, one worker thread: that is the whole idea of asking SQLite from asyncio."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import msgspec

from eventferry.databases.pace import Pace
from eventferry.databases.sqlite.library import Sqlite, code_of, connect
from eventferry.databases.thread import Worker
from eventferry.errors import (
    DatabaseError,
    EventferryError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreNotFoundError,
)
from eventferry.numbers import javascript_number
from eventferry.process import files_are_used_up

P = ParamSpec("P")
T = TypeVar("T")

_FAR = 2
_LEAST_LENGTH = 1024 * 1024
"""Bytes: what a statement itself and its values take must pass."""

_CACHE = 16_000
"""Kilobytes of pages that a connection keeps."""

_SLICE = 0.1
"""Seconds that SQLite itself waits for a lock before we look whether the caller has given up."""


class Connection:
    """A connection and the thread that alone uses it.

    Args:
        path: the database file.
        mode: SQLite's: "rw", "ro", or "immutable" for a file that nobody can change.
        busy_timeout: seconds to wait for a lock.
    """

    def __init__(self, path: Path, mode: str, busy_timeout: float) -> None:
        self._uri = f"file:{quote(os.fsencode(path))}?" + (
            "immutable=1" if mode == "immutable" else f"mode={mode}"
        )
        self._path = path
        self._busy_timeout = busy_timeout
        self._worker = Worker("eventferry-sqlite", self._interrupt)
        self._sqlite: Sqlite | None = None
        self.pace = Pace()

    async def run(self, function: Callable[[], T]) -> T:
        """Call `function` in the worker thread; a cancelled call is interrupted, and waited for."""
        return await self._worker.run(partial(self._translated, function))

    def _interrupt(self) -> None:
        if self._sqlite is not None:
            self._sqlite.interrupt()

    @property
    def sqlite(self) -> Sqlite:
        """The connection itself, opened at first use; for the worker thread only."""
        if self._sqlite is None:
            self._sqlite = self._open()
        return self._sqlite

    def begin(self, *, write: bool) -> None:
        """Begin a transaction, waiting for whoever holds the store; a read has its snapshot after this."""
        if write:
            self._patiently(lambda: self.sqlite.execute("BEGIN IMMEDIATE"))
            return
        self.sqlite.execute("BEGIN")
        try:
            self._patiently(lambda: self.sqlite.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone())
        except BaseException:
            self.roll_back()
            raise

    def commit(self) -> None:
        """Commit, waiting for readers where the journal makes writers wait for them."""
        try:
            self._patiently(lambda: self.sqlite.execute("COMMIT"))
        except BaseException:
            self.roll_back()
            raise

    def within(
        self, max_bytes: int | None, statement: str, values: Mapping[str, Any]
    ) -> tuple[Any, ...] | None:
        """The one row of a statement; None where a text in it, or on the way to it, has more bytes than that by far.

        SQLite gives up as soon as it comes upon one, so no memory is taken for it.
        """
        before = self.sqlite.bounded(-1 if max_bytes is None else max(_FAR * max_bytes, _LEAST_LENGTH))
        try:
            row: tuple[Any, ...] = self.sqlite.execute(statement, values).fetchone()
        except Exception as error:
            if code_of(error) != sqlite3.SQLITE_TOOBIG or max_bytes is None:
                raise
            return None
        finally:
            self.sqlite.bounded(before)
        return row

    def roll_back(self) -> None:
        """Leave nothing of the transaction, if there is one."""
        while self.sqlite.in_transaction:
            try:
                self.sqlite.execute("ROLLBACK")
            except Exception as error:
                if code_of(error) != sqlite3.SQLITE_INTERRUPT:  # one that was meant for the statement before
                    raise

    def make_index(self, statement: str) -> None:
        """Run a CREATE INDEX. For the worker thread.

        The sorter sorts by pieces of the size of the page cache: small ones stay in the processor's cache and leave
        the threads more to do at a time, which for a million rows takes two thirds of the time of large ones.
        """
        self.sqlite.execute("PRAGMA cache_size = -1000")
        try:
            self.sqlite.execute(statement)
        finally:
            self.sqlite.execute(f"PRAGMA cache_size = -{_CACHE}")

    async def close(self) -> None:
        """Close the connection and end the thread."""

        def close() -> None:
            if self._sqlite is not None:
                self._sqlite.close()
                self._sqlite = None

        await self.run(close)
        self._worker.end()

    def _open(self) -> Sqlite:
        connection = connect(
            self._uri, _SLICE, {"eventferry_compact": _compact, "eventferry_number": javascript_number}
        )
        # Even this may have to wait: it reads the schema.
        self._patiently(lambda: connection.execute(f"PRAGMA cache_size = -{_CACHE}"))
        # Threads of their own sort beside the one that fills the sorter: an index of a million rows takes two thirds.
        connection.execute("PRAGMA threads = 2")
        return connection

    def _patiently(self, attempt: Callable[[], object]) -> None:
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                attempt()
            except Exception as error:
                if code_of(error) != sqlite3.SQLITE_BUSY or self._worker.given_up.is_set():
                    raise
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"{self._path} is held by another writer for more than {self._busy_timeout:g} s "
                        "(the setting busy_timeout)"
                    ) from None
            else:
                return

    def _translated(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except Exception as error:
            if not code_of(error) and not isinstance(error, sqlite3.Error):
                raise
            raise self._named(error) from error

    def _named(self, error: Exception) -> EventferryError:
        """Our error for one of SQLite's: by its code, and by its text only where there is no code of its own."""
        if code_of(error) == sqlite3.SQLITE_CANTOPEN and files_are_used_up():
            return DatabaseError(
                "this process has as many files open as it may (ulimit -n), and the store is one more"
            )
        code = code_of(error)
        if not code:
            return DatabaseError(f"{self._path}: {error}")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreBusyError(f"{self._path} is held by somebody else: {error}")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return ReadOnlyStoreError(f"{self._path} cannot be written: {error}")
        if code == sqlite3.SQLITE_CANTOPEN:
            if not self._path.exists():
                return StoreNotFoundError(f"there is no store at {self._path}")
            return ReadOnlyStoreError(f"{self._path} cannot be opened with the rights at hand: {error}")
        if code == sqlite3.SQLITE_NOTADB:
            return DatabaseError(f"{self._path} is not a SQLite database")
        if code == sqlite3.SQLITE_FULL:
            return DatabaseError(f"{self._path}: the disk is full; nothing of this step was kept")
        if "no such table" in str(error):
            return StoreNotFoundError(f"there is no store in {self._path} ({error})")
        return DatabaseError(f"{self._path}: {error}")


def _compact(payload: str) -> str:
    try:
        return msgspec.json.format(payload, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        return payload  # not JSON: an export carries it as it is, and `verify` says so

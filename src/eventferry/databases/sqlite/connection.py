"""One connection, one worker thread: that is the whole idea of asking SQLite from asyncio."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import quote
from weakref import WeakSet

import msgspec

from eventferry.databases import forking
from eventferry.databases.pace import Pace
from eventferry.databases.sqlite.file import DISK_FULL, FILES_USED_UP, File, identity_of
from eventferry.databases.sqlite.library import Rows, Sqlite, code_of, connect, pragma
from eventferry.databases.thread import Worker
from eventferry.errors import (
    DatabaseError,
    EventferryError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreClosedError,
    StoreNotFoundError,
)
from eventferry.lines.numbers import javascript_number
from eventferry.processes.own import files_are_used_up

OpenMode: TypeAlias = Literal["read", "rw", "rwc"]

T = TypeVar("T")

_FAR = 2
_LEAST_LENGTH = 1024 * 1024  # bytes: what a statement itself and its values take must pass
_CACHE = 16_000  # kilobytes of pages that a connection keeps
_SLICE = 0.1  # seconds that SQLite itself waits for a lock before we look whether the caller has given up
_SHARED_MEMORY = 32 * 1024  # bytes of the file that connections in WAL mode share
_PAUSE = 0.01  # seconds until a checkpoint is tried again


class Connection:
    """A connection and the thread that alone uses it.

    Attributes:
        mode: "read" opens the file with the rights at hand; "rw" to write, "rwc" makes it first where it is missing.
        is_usable: whether to keep it. Not if it was refused something, for the next one is opened with the rights that
            are at hand then; nor if it reads a file in which writers would not see it.
    """

    def __init__(self, file: File, mode: OpenMode, busy_timeout: float) -> None:
        self._file = file
        self.mode = mode
        self._busy_timeout = busy_timeout
        self.is_usable = True
        self._untouched: os.stat_result | None = None
        self._worker = Worker("eventferry-sqlite", self._interrupt, self._close)
        self._sqlite: Sqlite | None = None
        self._streams: list[Rows] = []
        self.pace = Pace()
        forking.ours(self)
        _connections.add(self)

    async def run(self, function: Callable[[], T]) -> T:
        """Call `function` in the worker thread; a cancelled call is interrupted, and waited for."""
        return await self._worker.run(partial(self._translated, function))

    async def run_briefly(self, function: Callable[[], T]) -> T:
        """The same for a call that is over soon unless it has to wait for somebody, and that changes nothing if it
        fails. Where it keeps nobody waiting it is made right here."""
        if self._worker.can_be_spared:
            with contextlib.suppress(StoreBusyError):  # that is waited for in the thread
                return self._worker.call(partial(self._translated, function))
        return await self.run(function)

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
            self._file.check(to_write=False)
        except BaseException:
            self.roll_back()
            raise

    def commit(self) -> None:
        """Commit into the file that stands at the path, waiting for readers where the journal demands it."""
        try:
            self._file.check(to_write=True)
            self._patiently(lambda: self.sqlite.execute("COMMIT"))
        except BaseException:
            self.roll_back()
            raise

    def within(
        self, max_bytes: int | None, statement: str, values: Mapping[str, Any]
    ) -> tuple[Any, ...] | None:
        """The one row of a statement; None where a text in it, or on the way to it, has more bytes than that by far:
        SQLite gives up as soon as it comes upon one, so no memory is taken for it."""
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
        # One that is not open is not opened for it: a missing file would be an error, and hide a cancellation.
        while self._sqlite is not None and self._sqlite.in_transaction:
            try:
                self._sqlite.execute("ROLLBACK")
            except Exception as error:
                if code_of(error) != sqlite3.SQLITE_INTERRUPT:  # one that was meant for the statement before
                    raise

    def make_index(self, statement: str) -> None:
        """Run a CREATE INDEX. The sorter sorts by pieces of the size of the page cache: small ones stay in the
        processor's cache and leave the threads more to do: for a million rows two thirds of the time of large ones."""
        self.sqlite.execute("PRAGMA cache_size = -1000")
        try:
            self.sqlite.execute(statement)
        finally:
            self.sqlite.execute(f"PRAGMA cache_size = -{_CACHE}")

    def alone(self) -> Sqlite:
        """Open the file anew, and begin a transaction in which nobody else has it open in WAL mode; nothing is waited
        for, nor written. `let_others_in` ends it."""
        self._close()
        self._sqlite = connect(self._uri("mode=rw"), _SLICE, {})
        pragma(self._sqlite, "locking_mode = EXCLUSIVE")
        self._sqlite.execute("BEGIN EXCLUSIVE")
        return self._sqlite

    def let_others_in(self) -> None:
        """Close the file, until the next call."""
        self.roll_back()
        self._close()

    async def close(self) -> None:
        await self._worker.end()

    def stream(self, statement: str) -> Rows:
        """A cursor that stays open between calls, until `end_stream` or `close`. It is held here too: where a loop is
        thrown away, another thread would else drop it while this one closes the connection, and Python crashes."""
        rows = self.sqlite.execute(statement)
        self._streams.append(rows)
        return rows

    def end_stream(self, rows: Rows) -> None:
        rows.close()
        self._streams.remove(rows)

    def _close(self) -> None:
        while self._streams:
            self._streams.pop().close()
        if self._sqlite is not None:
            self._sqlite.close()
            self._sqlite = None

    def let_go(self) -> None:
        """Before a fork: close the file, until the next call, where nothing stands open in it."""

        def close() -> None:
            sqlite = self._sqlite
            if sqlite is None or sqlite.in_transaction:
                return
            if sqlite.execute("SELECT 1 FROM sqlite_temp_master").fetchone() is None:
                sqlite.close()
                self._sqlite = None

        self._worker.between(close, _FORK)

    def leave(self) -> object:
        """In a child: it cannot open such a file anew, and closing it would end the parent's transaction."""
        if self._sqlite is not None:
            with contextlib.suppress(OSError):
                _inherited.add(identity_of(self._file.path.stat()))
        return self._sqlite

    def checkpoint(self) -> bool:
        """Cut the log to nothing, waiting for whoever reads an older state; whether that came about."""
        deadline = time.monotonic() + self._busy_timeout
        while pragma(self.sqlite, "wal_checkpoint(TRUNCATE)"):
            if self._worker.given_up or time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)  # where another checkpoint is under way SQLite does not wait by itself
        return True

    def _open(self) -> Sqlite:
        if _inherited and self._file.path.exists() and identity_of(self._file.path.stat()) in _inherited:
            raise StoreClosedError(
                f"{self._file} was in use when this process was forked from another, and SQLite cannot open a file "
                "twice across a fork: fork when nothing is under way"
            )
        if self.mode == "read":
            return self._open_to_read()
        if self.mode == "rwc" and not self._file.was_opened:
            return self._connect("mode=rwc")
        return self._connect("mode=rw")

    def _open_to_read(self) -> Sqlite:
        """With the rights at hand, and so that reading changes nothing.

        A file in WAL mode needs its log and shared memory beside it even for reading. Where they are missing and the
        file or its folder cannot be written, it is read as one that nobody changes: made by who may not write the file,
        they would be in its writers' way. One with a log but no shared memory is refused: without the log it is an old
        state.
        """
        path = self._file.path
        if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
            return self._connect("mode=rw")
        untouched = self._file.look()
        log = path.with_name(f"{path.name}-wal")
        if log.exists() or not self._needs_log():
            try:
                return self._connect("mode=ro&readonly_shm=1")
            except Exception as error:
                if code_of(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                    raise
        if not os.access(path, os.R_OK):
            raise ReadOnlyStoreError(f"{self._file} cannot be read: permission denied")
        if log.exists() and log.stat().st_size:
            raise ReadOnlyStoreError(
                f"{self._file} has an unmerged write-ahead log beside it ({log.name}), which cannot be read without "
                "the right to write the file and its folder: open it once with that right, or copy both files elsewhere"
            )
        connection = self._connect("immutable=1")
        self.is_usable, self._untouched = False, untouched
        return connection

    def _needs_log(self) -> bool:
        """Whether the file is in WAL mode, which SQLite refuses without locks. Nothing is made beside it."""
        try:
            self._connect("mode=ro&nolock=1").close()
        except Exception as error:
            return code_of(error) == sqlite3.SQLITE_CANTOPEN
        return False

    def _uri(self, how: str) -> str:
        return f"file:{quote(os.fsencode(self._file.path))}?{how}"

    def _connect(self, how: str) -> Sqlite:
        while True:
            before = None if how == "mode=rwc" else identity_of(self._file.look())
            connection = connect(
                self._uri(how),
                _SLICE,
                {"eventferry_compact": _compact, "eventferry_number": javascript_number},
            )
            try:
                # Even this may have to wait: it reads the schema.
                self._patiently(partial(connection.execute, f"PRAGMA cache_size = -{_CACHE}"))
                opened = identity_of(self._file.look())
                if before in (None, opened):
                    self._file.note(opened)
                    break
            except BaseException:
                connection.close()
                raise
            connection.close()  # another file has come to the path meanwhile
        # Threads of their own sort beside the one that fills the sorter: an index of a million rows takes two thirds.
        connection.execute("PRAGMA threads = 2")
        # As they are, unless the library was compiled otherwise. A replaced table must not take with it what refers to
        # it, and what was acknowledged must be on the disk.
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _patiently(self, attempt: Callable[[], object]) -> None:
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                attempt()
            except Exception as error:
                if code_of(error) != sqlite3.SQLITE_BUSY or self._worker.given_up:
                    raise
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"{self._file} is held by another writer for more than {self._busy_timeout:g} s "
                        "(the setting busy_timeout)"
                    ) from None
            else:
                return

    def _translated(self, function: Callable[[], T]) -> T:
        try:
            result = function()
        except Exception as error:
            self._refuse_touched()
            named = self._named(error) if code_of(error) or isinstance(error, sqlite3.Error) else error
            if isinstance(named, ReadOnlyStoreError):
                self.is_usable = False
            if named is error:
                raise
            raise named from error
        self._refuse_touched()
        return result

    def _refuse_touched(self) -> None:
        """What was read without a lock is right only if nobody has written to the file meanwhile."""
        if self._untouched is None or self._sqlite is None or not self._sqlite.in_transaction:
            return
        now = self._file.look()
        if (now.st_mtime_ns, now.st_size) != (self._untouched.st_mtime_ns, self._untouched.st_size):
            raise StoreBusyError(
                f"{self._file} was written to while it was read, and its folder cannot be written, which readers need "
                "for their locks: read again"
            )

    def _named(self, error: Exception) -> EventferryError:
        code = code_of(error)
        if code == sqlite3.SQLITE_CANTOPEN and files_are_used_up():
            return DatabaseError(FILES_USED_UP)
        if code == sqlite3.SQLITE_CANTOPEN and not self._file.path.exists():
            return StoreNotFoundError(f"there is no store at {self._file}")
        if code == sqlite3.SQLITE_ERROR and "no such table" in str(error):
            return StoreNotFoundError(f"there is no store in {self._file} ({error})")
        if code == sqlite3.SQLITE_IOERR and self._is_disk_full():
            code = sqlite3.SQLITE_FULL
        if code == sqlite3.SQLITE_READONLY and (beside := self._unwritable()) is not None:
            return ReadOnlyStoreError(
                f"{self._file} cannot be written: there is no right to write {beside} beside it"
            )
        kind, words = _MEANINGS.get(code, (DatabaseError, ""))
        return kind(f"{self._file}{words}: {error}")

    def _is_disk_full(self) -> bool:
        """Whether there is no room even for what a reader needs, which SQLite does not tell from a disk's faults."""
        try:
            found = os.statvfs(self._file.path.parent)
        except OSError:
            return False
        return found.f_bavail * found.f_frsize < _SHARED_MEMORY

    def _unwritable(self) -> str | None:
        """The name of the log, or of its shared memory, if it cannot be written though the file can."""
        path = self._file.path
        if os.access(path, os.W_OK):
            for name in (f"{path.name}-wal", f"{path.name}-shm"):
                beside = path.with_name(name)
                if beside.exists() and not os.access(beside, os.W_OK):
                    return name
        return None


_MEANINGS: dict[int, tuple[type[EventferryError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusyError, " is held by somebody else"),
    sqlite3.SQLITE_LOCKED: (StoreBusyError, " is held by somebody else"),
    # After ten seconds of its own: a process was stopped in the middle of taking a lock of the journal.
    sqlite3.SQLITE_PROTOCOL: (StoreBusyError, " is held by a process that does not go on"),
    sqlite3.SQLITE_READONLY: (ReadOnlyStoreError, " cannot be written"),
    sqlite3.SQLITE_PERM: (ReadOnlyStoreError, " cannot be written"),
    sqlite3.SQLITE_CANTOPEN: (ReadOnlyStoreError, " cannot be opened with the rights at hand"),
    sqlite3.SQLITE_NOTADB: (DatabaseError, " is not a SQLite database"),
    sqlite3.SQLITE_FULL: (DatabaseError, DISK_FULL),
}
"""What SQLite's codes mean."""

_FORK = 1.0  # seconds that a fork waits for a connection that is at work

_connections: WeakSet[Connection] = WeakSet()
_inherited: set[tuple[int, int]] = set()
"""The files that the process from which this one was forked had open at that moment: SQLite keeps in memory which locks
a process has, and here takes the other's for ours."""


def _let_go() -> None:
    for connection in list(_connections):
        connection.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_let_go)


def _compact(payload: str) -> str:
    try:
        return msgspec.json.format(payload, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        return payload  # not JSON: an export carries it as it is, and `verify` says so

"""Which SQLite library opens files, behind what is used of it here.

In a caller's process that is Python's own `sqlite3`, always: with a second SQLite library in a process, closing one's
connection drops the POSIX locks of the other's, and a third process writes into an open transaction. In a process of
ours alone, the command and the service, it is `apsw` where that is installed: it gives an export's lines in half the
time of Debian 12's.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Values: TypeAlias = Mapping[str, Any] | Sequence[Any]
Functions: TypeAlias = Mapping[str, Callable[..., Any]]
"""Functions of one argument that SQL may call; the same argument gives the same result."""


class Rows(Protocol):
    """What a statement gives, row by row."""

    def __iter__(self) -> Iterator[Any]: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def close(self) -> None: ...


class Sqlite(Protocol):
    """A connection. Outside of BEGIN and COMMIT each statement is a transaction."""

    @property
    def in_transaction(self) -> bool: ...
    def execute(self, statement: str, values: Values = (), /) -> Rows: ...
    def executemany(self, statement: str, values: Iterable[Sequence[Any]], /) -> object: ...
    def cursor(self) -> Rows: ...
    def interrupt(self) -> None: ...
    def close(self) -> None: ...

    def change(self, statement: str, values: Values = ()) -> int:
        """Run a statement; how many rows it changed."""

    def bounded(self, length: int) -> int:
        """Fail with TOO_BIG from now on where a text has more bytes; what the bound was before."""

    def names(self, statement: str) -> list[str]:
        """The names of the columns that a statement gives."""

    def restrict(self, allowed: Container[int]) -> None:
        """From now on, refuse statements that do anything else, by SQLite's numbers of actions."""


class _Python(sqlite3.Connection):
    def change(self, statement: str, values: Values = ()) -> int:
        return self.execute(statement, values).rowcount

    def bounded(self, length: int) -> int:
        return self.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, length)

    def names(self, statement: str) -> list[str]:
        return [column[0] for column in self.execute(statement).description]

    def restrict(self, allowed: Container[int]) -> None:
        self.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
        )


def _python(uri: str, patience: float, functions: Functions) -> Sqlite:
    connection = sqlite3.connect(
        uri, uri=True, timeout=patience, isolation_level=None, check_same_thread=False, factory=_Python
    )
    for name, function in functions.items():
        connection.create_function(name, 1, function, deterministic=True)
    return connection


_Connect: TypeAlias = Callable[[str, float, Functions], Sqlite]


def _newer() -> _Connect:
    import apsw

    class Newer(apsw.Connection):
        def change(self, statement: str, values: Values = ()) -> int:
            self.execute(statement, values)
            return self.changes()

        def bounded(self, length: int) -> int:
            return self.limit(apsw.SQLITE_LIMIT_LENGTH, length)

        def names(self, statement: str) -> list[str]:
            cursor = self.cursor()
            found: list[str] = []

            def note(cursor: apsw.Cursor, *_: object) -> bool:
                found.extend(name for name, *_ in cursor.get_description())
                return True

            # A description is there only while a statement runs, and one without rows is over at once.
            cursor.exec_trace = note
            cursor.execute(statement)
            return found

        def restrict(self, allowed: Container[int]) -> None:
            self.authorizer = lambda action, *_: apsw.SQLITE_OK if action in allowed else apsw.SQLITE_DENY

    def connect(uri: str, patience: float, functions: Functions) -> Sqlite:
        flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = Newer(uri, flags=flags)
        connection.set_busy_timeout(int(patience * 1000))
        # Plans do not depend on values: otherwise it plans anew each time that a value in a condition has changed.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        for name, function in functions.items():
            connection.create_scalar_function(name, function, 1, deterministic=True)
        return connection

    return connect


_connect: _Connect = _python


def connect(uri: str, patience: float, functions: Functions) -> Sqlite:
    """Open a file by its URI with a `mode`; `patience` is how many seconds SQLite itself waits for a lock."""
    return _connect(uri, patience, functions)


def use_newer() -> None:
    """Open files with `apsw`, where installed: only where all that opens a SQLite file is known."""
    global _connect
    with contextlib.suppress(ImportError):
        _connect = _newer()


def pragma(sqlite: Sqlite, words: str) -> Any:
    """What a PRAGMA says."""
    return sqlite.execute(f"PRAGMA {words}").fetchone()[0]


def code_of(error: BaseException) -> int:
    """SQLite's number for an error, without what extends it; 0 where it is none of SQLite's."""
    number = getattr(error, "sqlite_errorcode", getattr(error, "result", 0))
    return number & 0xFF if isinstance(number, int) else 0

"""Removing again a file that was made for a store, as long as nobody has used it.

In WAL mode every connection holds a lock on the file for as long as it is open. So whoever can lock it against all of
them has the file to himself. That needs no room on the disk, which may be full: it may be why nothing was stored. Then
the file is looked at once more, emptied and removed, with its log. A connection that waits for that lock finds an empty
file without a name, into which SQLite writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from eventferry.databases.names import Tables
from eventferry.databases.sqlite.connection import Connection
from eventferry.databases.sqlite.file import File, Identity, identity_of, used_up
from eventferry.databases.sqlite.library import Sqlite, code_of, pragma
from eventferry.databases.sqlite.tables import quoted


def make_file(file: File) -> Identity | None:
    """Make an empty file where there is none; which one that is, None if there is one or it cannot be made. Raises
    DatabaseError where files are used up, or the disk is."""
    try:
        # Nobody here can have opened it, so closing this descriptor drops no lock of SQLite's.
        descriptor = os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError as error:
        if (what := used_up(error, file)) is not None:
            raise what from None
        return None  # SQLite says what is wrong
    try:
        return identity_of(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def remove_unused(connection: Connection, file: File, made: Identity, tables: Tables) -> None:
    """Remove the file that was made, unless it holds anything or somebody else has it open. The connection must be the
    only one of this store object. For the worker thread."""
    if not _is_unused(connection.sqlite, tables) or pragma(connection.sqlite, "journal_mode") != "wal":
        return
    try:
        sqlite = connection.alone()
        found = os.lstat(file.path)
        if _is_unused(sqlite, tables) and identity_of(found) == made and found.st_nlink == 1:
            _remove(file.path)
    except OSError:
        pass  # it is away already, or stays
    except Exception as error:
        if code_of(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
    finally:
        connection.let_others_in()


def _remove(path: Path) -> None:
    log = path.with_name(f"{path.name}-wal")
    # By the name: a descriptor that is closed again would drop SQLite's lock.
    os.truncate(path, 0)
    with contextlib.suppress(FileNotFoundError):
        os.truncate(log, 0)  # SQLite would put what stands there into the file when it closes it
    path.unlink()
    log.unlink(missing_ok=True)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def _is_unused(sqlite: Sqlite, tables: Tables) -> bool:
    found = sqlite.execute(
        "SELECT name FROM sqlite_master WHERE type <> 'index' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    names = {name for (name,) in found.fetchall()}
    # The stage of an import that could store nothing may be there, for there may be no room to remove it.
    owners = [owner for name in names if (owner := tables.owner_of(name)) is not None]
    stages = (name for owner in owners for name in (tables.stage_of(owner), tables.progress_of(owner)))
    if names and not set(tables) <= names <= {*tables, tables.imports, *stages}:  # none after a drop
        return False
    return not any(sqlite.execute(f"SELECT 1 FROM {quoted(name)} LIMIT 1").fetchone() for name in names)

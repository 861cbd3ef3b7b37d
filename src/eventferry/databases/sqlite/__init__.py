"""A store in a SQLite file.

Several processes may use one file at once. What eventferry creates is in WAL mode, so readers and the writer
don't wait for each other; what it opens keeps the mode that it has.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from eventferry.database import First, Frozen, Save, Saved, Traits, Undo, WritingKind
from eventferry.databases import without_password
from eventferry.databases.names import Tables
from eventferry.databases.pool import Pool
from eventferry.databases.settings import seconds
from eventferry.databases.sqlite import library, owners, undoing
from eventferry.databases.sqlite import tables as ddl
from eventferry.databases.sqlite.connection import Connection, OpenMode
from eventferry.databases.sqlite.file import File, Identity, used_up
from eventferry.databases.sqlite.foreign import SqliteTables
from eventferry.databases.sqlite.library import Sqlite, pragma
from eventferry.databases.sqlite.owners import FileOwner
from eventferry.databases.sqlite.reading import SqliteReading
from eventferry.databases.sqlite.save import Saver
from eventferry.databases.sqlite.shape import KnownStore, has_name, known_store, refuse_encoding, refuse_part
from eventferry.databases.sqlite.swap import SqliteReplacing
from eventferry.databases.sqlite.tables import quoted
from eventferry.errors import (
    ConcurrentError,
    EventferryError,
    InputError,
    MissingExtraError,
    NotErasedError,
    ReadOnlyStoreError,
    SecretNotErasedError,
    StoreExistsError,
    StoreFrozenError,
    StoreNotFoundError,
    UnsupportedStoreError,
    UsageError,
)
from eventferry.lifecycle import Life, end_with_loop
from eventferry.processes import own

if own.is_ours:
    library.use_newer()

_JOURNAL_MODES = ("wal", "delete", "truncate", "persist")
_READERS = 8


def open_url(address: str, tables: Tables, settings: dict[str, Any]) -> Callable[[], SqliteDatabase]:
    """A store in a file: three slashes for a relative path, four for an absolute one; a plain path as it is."""
    path = path_of(address)
    return partial(
        SqliteDatabase,
        None if path == ":memory:" else File(path),
        tables,
        busy_timeout=seconds(settings, "busy_timeout", 60.0),
        journal_mode=settings.pop("journal_mode", None),
    )


def open_foreign(address: str, settings: dict[str, Any]) -> SqliteTables:
    """Another product's tables in a file."""
    return SqliteTables(path_of(address), busy_timeout=seconds(settings, "busy_timeout", 60.0))


def path_of(address: str) -> str:
    """The path in a URL without its query. Raises UsageError."""
    _, separator, rest = address.partition("://")
    if not separator:
        return address
    if rest == ":memory:":
        return rest
    if rest.startswith("/") and rest != "/":
        return unquote(rest[1:])
    raise UsageError(
        f"{without_password(address)}: a SQLite store is sqlite:///relative/path or sqlite:////absolute/path"
    )


class SqliteDatabase:
    """The tables of one store in one file; None is a private file that goes with `close`. Without `journal_mode` the
    file keeps the one that it has ("wal" in a new file)."""

    def __init__(
        self,
        file: File | None,
        tables: Tables,
        *,
        busy_timeout: float = 60.0,
        journal_mode: str | None = None,
    ) -> None:
        if sqlite3.sqlite_version_info < (3, 35):
            raise MissingExtraError(
                f"SQLite 3.35 or newer is needed, this Python has {sqlite3.sqlite_version}"
            )
        if journal_mode is not None and journal_mode.lower() not in _JOURNAL_MODES:
            raise UsageError(f"journal_mode is one of {', '.join(_JOURNAL_MODES)}, not {journal_mode!r}")
        for name in tables:
            quoted(name)
        # As reSolve does: a real file, so that a store in memory is no special case of locks and transactions.
        self._private = tempfile.mkdtemp(prefix="eventferry-") if file is None else None
        remove = weakref.finalize(self, _remove_folder, self._private, os.getpid())
        self._file = file or File(os.path.join(self._private or "", "memory.db"))
        self._tables = tables
        self._busy_timeout = busy_timeout
        self._journal_mode = journal_mode
        self.life = Life(str(self._file))
        self.life.held.callback(remove)
        self._writers = Pool(partial(self._connection, "rw"), 1, self.life)
        self._readers = Pool(partial(self._connection, "read"), _READERS, self.life)
        self._owners: dict[str, FileOwner] = {}
        self.life.held.callback(self._release_all)
        self._known: KnownStore | None = None
        self._kept: _Kept | None = None

    @property
    def traits(self) -> Traits:
        names = {
            # A file's name may hold bytes that are no text.
            "databaseFile": os.fsencode(str(self._file)).decode(errors="replace")
        }
        return Traits(names | self._tables.resource_names, saves_at_once=1)  # one writer is all there is

    async def _connection(self, mode: OpenMode) -> Connection:
        return Connection(self._file, mode, self._busy_timeout)

    def _begin(self, connection: Connection, *, secrets: bool = False) -> SqliteReplacing:
        """A write transaction on a whole store; with `secrets`, pages keep no remnant of what is deleted."""
        if self._journal_mode is not None:
            self._set_journal_mode(connection, self._journal_mode)
            self._journal_mode = None
        connection.begin(write=True)
        try:
            self._file.check(to_write=True)
            pragma(connection.sqlite, f"secure_delete = {'ON' if secrets else 'FAST'}")
            # A table is renamed in place of another: views that name the other must not stop it.
            connection.sqlite.execute("PRAGMA legacy_alter_table = ON")
            store = self._known_store(connection)
            refuse_part(store, self._tables, self._file)
        except BaseException:
            connection.roll_back()
            raise
        writing = SqliteReplacing(connection, self._tables, store.definition)
        # A save that goes on with what is known would go on with the setting too.
        writing.changed_store = secrets
        return writing

    def _known_store(self, connection: Connection) -> KnownStore:
        """The store as found before, as long as no definition in the file has changed."""
        if self._known is None or self._known.version != pragma(connection.sqlite, "schema_version"):
            self._known = known_store(connection.sqlite, self._tables, self._file)
        return self._known

    @staticmethod
    def _set_journal_mode(connection: Connection, mode: str) -> None:
        now_mode = pragma(connection.sqlite, f"journal_mode = {mode}")
        if now_mode.lower() != mode.lower():
            raise UsageError(f"the journal mode stays {now_mode}: somebody else has the store open")
        if mode.lower() == "persist":  # the journal stays, but not what stood in it: it may be a secret
            pragma(connection.sqlite, "journal_size_limit = 0")

    def _end(self, writing: SqliteReplacing, *, keep: bool) -> None:
        writing.close_statements()
        if writing.changed_store:
            self._kept = None
        if keep:
            writing.connection.commit()
            for owner in writing.dropped_owners:
                owners.forget(self._file.path, owner)
            writing.dropped_owners.clear()
        else:
            writing.connection.roll_back()

    async def create(self) -> Undo | None:
        async with self._writers.connection() as writer:
            made: Identity | None = None
            if not self._file.was_opened:
                if not self._file.path.parent.is_dir():
                    raise StoreNotFoundError(f"the folder {self._file.path.parent} does not exist")
                if not owners.can_own(self._file.path):
                    raise UsageError(
                        f"{self._file}: the name is too long for the files that stand beside a store"
                    )
                made = undoing.make_file(self._file)
                writer.mode = "rwc"
            await writer.run(partial(self._create, writer))
        return None if made is None else partial(self._undo_create, made)

    async def _undo_create(self, made: Identity) -> None:
        async with self._writers.connection() as writer:
            await self._readers.forget_idle()
            await writer.run(partial(undoing.remove_unused, writer, self._file, made, self._tables))

    def _create(self, writer: Connection) -> None:
        if not writer.sqlite.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._set_journal_mode(writer, self._journal_mode or "wal")
            self._journal_mode = None
        writer.begin(write=True)
        try:
            self._file.check(to_write=True)
            refuse_encoding(writer.sqlite, self._file)
            for name in self._tables:
                if has_name(writer.sqlite, name):
                    raise StoreExistsError(f"{self._file} has a table {name!r} already")
            generation = ddl.generation(self._tables.events)
            for statement in (
                ddl.definition("events", self._tables.events, ddl.store_comment()),
                *(statement for statement, _ in ddl.unique_indexes(self._tables.events, generation)),
                ddl.order_index(self._tables.events, generation),
                ddl.definition("snapshots", self._tables.snapshots),
                ddl.definition("secrets", self._tables.secrets),
                ddl.definition("subscribers", self._tables.subscribers),
            ):
                writer.sqlite.execute(statement)
            writer.commit()
        except BaseException:
            writer.roll_back()
            raise

    async def upgrade(self) -> list[str]:
        async with self.writing() as writing:
            add = partial(writing.add_order_index, self._tables.events)
            return list(await writing.connection.run(add))

    @asynccontextmanager
    async def reading(self, first: First | None = None) -> AsyncIterator[SqliteReading]:
        async with self._readers.connection() as connection:

            def begin() -> SqliteReading:
                connection.begin(write=False)
                return SqliteReading(connection, self._tables, self._known_store(connection).definition)

            try:
                yield await connection.run_briefly(begin)
            finally:
                await connection.run_briefly(connection.roll_back)

    @asynccontextmanager
    async def writing(
        self, kind: WritingKind = "shared", *, frozen: Frozen = "refuse", secrets: bool = False
    ) -> AsyncIterator[Any]:
        # SQLite knows one kind of write: nobody else writes meanwhile, and readers are never in its way.
        async with self._writers.connection() as writer:
            try:
                writing = await writer.run(partial(self._begin, writer, secrets=secrets))
            except asyncio.CancelledError:
                # It may have begun all the same, just before it could hear of it.
                await writer.run(writer.roll_back)
                raise
            try:
                yield writing
            except BaseException:
                await writer.run(partial(self._end, writing, keep=False))
                raise
            await writer.run(partial(self._end, writing, keep=True))
            # In WAL mode the old page stands in the log until the log is merged and truncated.
            if writing.erases and not await writer.run(writer.checkpoint):
                error, what = (SecretNotErasedError, "the secret") if secrets else (NotErasedError, "it")
                raise error(
                    f"{what} is deleted, but a copy stands in {self._file.path.name}-wal until every reader of an "
                    "older state has ended and somebody writes again"
                )

    async def save(self, saves: Sequence[Save]) -> list[Saved | None]:
        async with self._writers.connection() as writer:
            return await writer.run_briefly(partial(self._save, writer, saves))

    def _save(self, writer: Connection, saves: Sequence[Save]) -> list[Saved | None]:
        refusal: EventferryError | None = None
        try:
            kept = self._begin_save(writer)
            places: list[tuple[int, int] | None] = []
            for save in saves:
                try:
                    places.append(kept.saver.add(save))
                except (ConcurrentError, InputError, UnsupportedStoreError) as error:
                    refusal = error
                    places.append(None)
            self._end(kept.writing, keep=True)
        except BaseException:
            self._kept = None
            writer.roll_back()
            raise
        if refusal is not None and len(saves) == 1:
            raise refusal
        heads = list(kept.saver.heads)
        return [place and Saved(*place, heads) for place in places]

    def _begin_save(self, writer: Connection) -> _Kept:
        """A transaction on a store that may be written, and its heads: as found out for the save before, while the
        data version stands, which moves when any other connection has written."""
        if self._kept is not None:
            writer.begin(write=True)
            is_same = self._kept.sqlite is writer.sqlite
            if is_same and self._kept.data_version == pragma(writer.sqlite, "data_version"):
                return self._kept
            writer.roll_back()
        writing = self._begin(writer)
        if writing._freeze() is not None:
            raise StoreFrozenError(f"the store {self._file} is frozen")
        version = pragma(writer.sqlite, "data_version")
        self._kept = _Kept(writing, Saver(writing), writer.sqlite, version)
        return self._kept

    async def own(self) -> str:
        with self.life.running():
            self._file.check(to_write=True)
        try:
            owners.sweep(self._file.path)
            owner = FileOwner(self._file.path)
        except OSError as error:
            raise used_up(error, self._file) or ReadOnlyStoreError(
                f"no file can be made beside {self._file}, which this needs for its lock: {error.strerror}"
            ) from None
        end_with_loop(owner)
        self._owners[owner.id] = owner
        return owner.id

    async def release(self, owner: str) -> None:
        if (held := self._owners.pop(owner, None)) is not None:
            held.release()

    def _release_all(self) -> None:
        while self._owners:
            self._owners.popitem()[1].release()

    async def is_alive(self, owner: str) -> bool:
        return owners.is_alive(self._file.path, owner)


class _Kept(NamedTuple):
    """What a save found out about the store."""

    writing: SqliteReplacing
    saver: Saver
    sqlite: Sqlite
    data_version: int


def _remove_folder(folder: str | None, process: int) -> None:
    if folder is not None and process == os.getpid():  # a child's end does not end its parent's store
        shutil.rmtree(folder, ignore_errors=True)

"""An open store: the store itself, with its connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from eventferry.database import Database, Inspection, Undo
from eventferry.errors import EventferryError, StoreClosedError, StoreNotFoundError, UsageError
from eventferry.lifecycle import to_the_end
from eventferry.operation_log import told
from eventferry.reading.loading import Readers
from eventferry.results import Description
from eventferry.saving.appends import Appends
from eventferry.saving.saves import Saving
from eventferry.state import archives, figures, owners, small_tables
from eventferry.state.archives import Archive


class Opened:
    """A store as a whole: it is made, described, frozen, closed and dropped."""

    def __init__(self, open_database: Callable[[], Database], *, snapshot_bucket_size: int = 1) -> None:
        if snapshot_bucket_size < 1:
            raise UsageError(f"snapshot_bucket_size must be at least 1, not {snapshot_bucket_size!r}")
        self._open_database = open_database
        self._begin()
        self._bucket_size = snapshot_bucket_size
        self._bucket_counts: dict[str, int] = {}

    def _begin(self) -> None:
        database = self._open_database()
        self._open: Database | None = database
        self._saving = Saving(database)
        self._appending = Appends(database, self._saving)
        self._readers = Readers(database)
        self._undo_init: Undo | None = None

    @property
    def _database(self) -> Database:
        if self._open is None:
            raise StoreClosedError("the store is closed")
        if self._open.life.is_inherited:
            self._begin()
        if self._open.life.has_lost_its_loop:
            raise self._open.life.closed()
        return self._open

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # the store itself

    @told("init")
    async def init(self) -> None:
        """Create the store. Raises StoreExistsError."""
        self._undo_init = await self._database.create()

    @told("undo-init")
    async def undo_init(self) -> None:
        """Remove the file that `init` of this object created, unless anything is stored in it or anybody else has it
        open; behind `drop` too. On a server this does nothing."""
        undo, self._undo_init = self._undo_init, None
        if undo is not None:
            await undo()

    async def _undo_init_for(self, error: EventferryError) -> None:
        """The same where this object created the store for something that failed; the error says if it stays."""
        try:
            await self.undo_init()
        except EventferryError as another:
            error.add_note(f"the empty store was not removed: {another}")

    @told("drop")
    async def drop(self) -> None:
        """Remove the store and everything in it. Raises StoreNotFoundError."""
        async with owners.writing(self._database, "replacing", frozen="allow") as writing:
            await small_tables.refuse_foreign_tables(writing, self._database.life.name)
            await writing.drop()

    async def close(self) -> None:
        """Close the store. Calling it again does nothing.

        New calls are refused. Running calls are cancelled: each transaction is committed or rolled back, and then they
        raise StoreClosedError. Running imports and exports end as if cancelled: they unfreeze what they froze, and an
        import can be continued with `resume=True`.
        """
        database, self._open = self._open, None
        if database is not None and not database.life.is_inherited:
            await to_the_end(database.life.end())

    async def exists(self) -> bool:
        """Whether the store exists. Creates nothing."""
        try:
            await self._probe()
        except StoreNotFoundError:
            return False
        return True

    @told("upgrade")
    async def upgrade(self) -> list[str]:
        """Add the index for the order of events to a store created by reSolve; returns the names of what was added."""
        return await self._database.upgrade()

    @told("freeze")
    async def freeze(self) -> None:
        """Make writes fail until `unfreeze`. Returns when all writes that had begun have ended.

        If a running operation has frozen the store, the freeze becomes the caller's and stays when the operation ends.

        Raises:
            AlreadyFrozenError: a user has frozen the store already.
        """
        await owners.freeze_by_user(self._database)

    @told("unfreeze")
    async def unfreeze(self) -> None:
        """Allow writes again. Raises NotFrozenError."""
        await owners.unfreeze_by_user(self._database)

    async def archives(self) -> list[Archive]:
        """What was archived from this store, in the order in which it was, also where it has been recalled: an archive
        with 0 events holds nothing of the store any more."""
        async with self._database.reading() as reading:
            return await archives.load(reading)

    async def describe(self, calculate_cursor: bool = False, estimate_counts: bool = False) -> Description:
        """Describe the store: counts, location, freeze, open import.

        Args:
            calculate_cursor: include the cursor after the last event.
            estimate_counts: let the database estimate the number of events instead of counting them. In a SQLite file
                fewer than 100,000 are counted.
        """
        return await figures.describe(self._database, with_cursor=calculate_cursor, estimated=estimate_counts)

    async def _inspect(self, limit: int) -> Inspection:
        """What is wrong with counters and indexes, for `check`."""
        async with self._database.reading() as reading:
            return await reading.inspect(limit)

    async def _probe(self) -> None:
        async with self._database.reading():
            pass

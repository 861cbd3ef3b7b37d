"""The first fill of a replica: an import into an empty store whose swap also notes how far it came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from eventferry.database import Database, Progress, Replacing, Stage
from eventferry.importing.replace import Replacement
from eventferry.state import syncs
from eventferry.state.syncs import SyncState


class FirstFill(Replacement):
    """The target of a first fill. An interrupted one goes on where it was.

    Args:
        database: of the target.
        source: the key of the sync's row.
        before: the text of that row, if there is one.
        state: gives the state when everything has been staged, of the number of events.
        resume: go on with what an interrupted fill has staged.

    Attributes:
        filled: the state behind it.
        text: of the row behind it.
    """

    def __init__(
        self,
        database: Database,
        source: str,
        before: str | None,
        state: Callable[[int], Awaitable[SyncState]],
        *,
        resume: bool,
    ) -> None:
        super().__init__(database, replace=False, freeze=False, resume=resume, allow_empty=True)
        self._source = source
        self._before = before
        self._state = state
        self.filled: SyncState | None = None
        self.text: str | None = None

    async def finish(self, progress: Progress) -> None:
        """Everything was staged: swap, and note the state."""
        self.filled = await self._state(progress.events)
        await super().finish(progress)

    async def _swap(self, replacing: Replacing, stage: Stage) -> None:
        # On MySQL the tables are renamed behind this transaction. If that fails the row remains, and the target is
        # empty still: then the next sync fills it again.
        await super()._swap(replacing, stage)
        if self.filled is not None:
            self.text = await syncs.save(replacing, self._source, self._before, self.filled)

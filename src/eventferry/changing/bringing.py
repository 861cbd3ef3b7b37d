"""An import that brings along what was erased from the store that its events come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from eventferry.changing import erasing
from eventferry.database import Database, ExclusiveWriting, Progress, Replacing, Stage
from eventferry.importing.replace import Replacement
from eventferry.state import erasures
from eventferry.state.erasures import Erasure


class Bringing(Replacement):
    """The target of a copy or a restore: an import whose last step also keeps what was erased at the source. So no
    moment, and no kill, leaves the events in a store that would let what was erased come back later.

    Args:
        known: gives what was erased there, once all events have come.

    The others are `Replacement`'s.
    """

    def __init__(
        self,
        database: Database,
        known: Callable[[], Awaitable[Sequence[Erasure]]],
        *,
        replace: bool,
        freeze: bool,
        resume: bool,
        allow_empty: bool,
    ) -> None:
        super().__init__(database, replace=replace, freeze=freeze, resume=resume, allow_empty=allow_empty)
        self._read_known = known
        self._known: Sequence[Erasure] = ()

    async def begin(self) -> list[Progress]:
        """Begin. Raises ImportOpenError where something was erased, and an open incremental import does not know it."""
        self._known = await self._read_known()
        return await super().begin()

    async def _refuse_full(self, writing: ExclusiveWriting) -> None:
        await super()._refuse_full(writing)
        if self._known:
            await erasing.refuse_open_import(writing)

    async def finish(self, progress: Progress) -> None:
        """Everything was staged: swap, and keep the erasures. Raises NotErasedError where all that is done, and the
        database's files may hold what stood there before."""
        self._known = await self._read_known()
        if self._known:
            await erasures.make_table(self._database, frozen="allow")  # it may have frozen it itself
        await super().finish(progress)
        await self._swapped(progress)

    async def _swap(self, replacing: Replacing, stage: Stage) -> None:
        await super()._swap(replacing, stage)
        if self._known:
            await erasing.keep(replacing, self._known)

    async def _swapped(self, progress: Progress) -> None:
        """The events are there."""
        if self._known:
            await erasing.overwrite(self._database)

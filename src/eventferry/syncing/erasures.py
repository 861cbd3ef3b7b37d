"""What was erased from the source, brought over to the target: to be erased from what is there, and from what comes."""

from __future__ import annotations

import asyncio
import math

from eventferry.changing import erasing
from eventferry.changing.erased import said
from eventferry.database import Database
from eventferry.state.erasures import Erasure, digest_of
from eventferry.state.syncs import SyncState
from eventferry.syncing.source import SyncSource

LOOK_AFTER = 5.0
"""Seconds between two looks."""


class ErasureChanges:
    """The erasures of a sync.

    Attributes:
        left: how many stay behind, since a merge cannot tell the source's events from the target's own.
    """

    def __init__(self, source: SyncSource, target: Database) -> None:
        self._source = source
        self._target = target
        self._seen = ""
        self._looked = -math.inf
        self.left = 0

    def begin(self) -> None:
        """Look at all of them again: the target may be another than before."""
        self._seen, self._looked = "", -math.inf

    async def bring(self, state: SyncState) -> None:
        """Bring over what is not there yet."""
        self._looked = asyncio.get_running_loop().time()
        found = await self._source.erasures()
        if (digest := digest_of(found)) != self._seen:
            kept = [_in_target(erasure, state) for erasure in found]
            self.left = kept.count(None)
            await erasing.bring([erasure for erasure in kept if erasure is not None], self._target)
            self._seen = digest

    async def bring_in_time(self, state: SyncState) -> None:
        """The same, if it is time to look."""
        if asyncio.get_running_loop().time() >= self._looked + LOOK_AFTER:
            await self.bring(state)


def _in_target(erasure: Erasure, state: SyncState) -> Erasure | None:
    """What an erasure of the source is in the target; None where it could hit other events there than the source's."""
    if state.mode == "replica":
        return erasure
    what = said(erasure)
    prefix = state.same_aggregate.partition("=")[2]
    if prefix:
        moved = what.within(prefix)
        return None if moved is None else moved.erasure(erasure.at)
    return erasure if what.named is not None else None

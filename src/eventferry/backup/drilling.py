"""Drill: a restore that shows whether the backup can be restored, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from eventferry.backup.reading import JOBS, Backup
from eventferry.backup.restoring import restore
from eventferry.comparing.verifying import Difference, verify
from eventferry.databases import database_at
from eventferry.errors import StoreExistsError, StoreFullError
from eventferry.lifecycle import to_the_end
from eventferry.lines.piping import Transform
from eventferry.operation_log import Operation
from eventferry.store import EventStore

_PREFIX = "eventferry-drill-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
"""As `tempfile` makes them of the prefix: a folder of somebody's own may begin so too."""

_LEFT_AFTER = 24 * 3600
"""Seconds without a change after which a temporary store counts as left: a drill writes, and then reads for less."""


class DrillReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a drill has found.

    Attributes:
        equal: whether each event that was restored is as the backup has it, and no other is there.
        events: number of events in the backup.
        restored_events: number of events that were restored.
        differences: the first differences, if there are any.
        chain: which chain was restored.
        manifest: the number of its manifest.
        created: when that was made, in ms since 1970.
        restore_seconds: how long the restore took, without the comparison.
    """

    equal: bool
    events: int
    restored_events: int
    differences: list[Difference]
    chain: str
    manifest: int
    created: int
    restore_seconds: float


async def drill(
    backup: Backup,
    store: EventStore | None = None,
    *,
    identities: Sequence[Any] = (),
    tell: Transform | None = None,
    jobs: int = JOBS,
) -> DrillReport:
    """Restore a backup, read it a second time, and compare both, as `Repository.drill` says."""
    async with _place(store) as place:
        with Operation("drill", place._database, chain=backup.chain.name) as operation:
            began = time.monotonic()
            report = await restore(
                backup, place, identities=identities, tell=tell, allow_empty=True, jobs=jobs
            )
            seconds = time.monotonic() - began
            found = await verify(
                backup.lines(identities=identities, jobs=jobs),
                place.export_events(),
                erased=await place.erased(),
            )
            operation.counts = {"manifest": report.manifest, "events": found.events, "equal": found.equal}
    return DrillReport(
        equal=found.equal,
        events=found.events,
        restored_events=report.imported,
        differences=found.differences,
        chain=report.chain,
        manifest=report.manifest,
        created=backup.manifest.created,
        restore_seconds=round(seconds, 3),
    )


@asynccontextmanager
async def _place(store: EventStore | None) -> AsyncIterator[EventStore]:
    """Where the drill is."""
    if store is not None:
        try:
            await store.init()
        except StoreExistsError:
            raise StoreExistsError(
                "there is a store already: a drill needs an empty place, and removes what it made"
            ) from None
        is_ours = True
        try:
            yield store
        except StoreFullError:
            is_ours = False  # somebody else has stored events there meanwhile
            raise
        finally:
            if is_ours:
                await to_the_end(_removed(store))
        return
    await asyncio.to_thread(_tidy)
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix=_PREFIX)
    try:
        async with EventStore(database_at(str(Path(folder.name) / "drill.db"), {})) as temporary:
            yield temporary
    finally:
        await to_the_end(asyncio.to_thread(folder.cleanup))


def _tidy() -> None:
    """Remove what drills that were killed have left: it is the whole store, of an encrypted backup too."""
    for left in Path(tempfile.gettempdir()).iterdir():
        if _NAME.fullmatch(left.name) is None:
            continue
        with contextlib.suppress(OSError):  # it is being removed
            found = left.lstat()
            changed = max([found.st_mtime, *(each.lstat().st_mtime for each in left.iterdir())])
            is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if is_own and changed < time.time() - _LEFT_AFTER:
                shutil.rmtree(left)


async def _removed(store: EventStore) -> None:
    if await store.exists():
        await store.drop()
    await store.undo_init()

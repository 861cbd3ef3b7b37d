"""What goes on in the store: freezes, imports, syncs."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Literal, TypeAlias

from eventferry import EventStore, SyncStatus
from eventferry.clock import now
from eventferry.console.page import Form, PageAnswer, View, Visit, page
from eventferry.errors import EventferryError
from eventferry.http.handling import Query, tell

SOURCE_SECONDS = 5.0
"""Seconds in which the source of a sync is to answer; a page does not wait longer."""


@page("GET", "/operations", "read")
async def operations_page(visit: Visit[Query]) -> PageAnswer:
    """Freezes, imports and syncs."""
    store = visit.store
    asked = await asyncio.gather(*map(partial(_asked, store), visit.house.sources))
    known = {sync.source: sync for found in asked if found is not None for sync in found}
    values = {
        "store": await store.describe(estimate_counts=True),
        "progress": await store.import_progress(),
        "syncs": [known.get(sync.source, sync) for sync in await store.sync_status()],
        "silent": asked.count(None),
        "now": now(),
    }
    return View("operations.html", values)


async def _asked(store: EventStore, source: EventStore) -> list[SyncStatus] | None:
    """The sync from a source into a store, with how far behind it is; None if that cannot be told."""
    try:
        async with asyncio.timeout(SOURCE_SECONDS):
            return await store.sync_status(source)
    except (TimeoutError, EventferryError) as error:
        tell(logging.WARNING, "console-operations", f"failed={type(error).__name__}: {error}", {})
        return None


@page("GET", "/freeze", "write")
async def ask_freeze_page(visit: Visit[Query]) -> PageAnswer:
    """Ask whether to freeze the store."""
    return View("ask.html", {"does": "freeze"})


@page("POST", "/freeze", "write")
async def freeze_page(visit: Visit[Form]) -> PageAnswer:
    """Freeze the store."""
    await visit.store.freeze()
    return visit.to("/operations")


@page("GET", "/unfreeze", "write")
async def ask_unfreeze_page(visit: Visit[Query]) -> PageAnswer:
    """Ask whether to allow writes again."""
    return View("ask.html", {"does": "unfreeze"})


@page("POST", "/unfreeze", "write")
async def unfreeze_page(visit: Visit[Form]) -> PageAnswer:
    """Allow writes again."""
    await visit.store.unfreeze()
    return visit.to("/operations")


Steps: TypeAlias = Literal["incremental", "parts"]
"""Which of the two imports in steps that a store can have open."""


class _RollbackQuery(Query, kw_only=True):
    steps: Steps
    id: str


class _RollbackForm(Form, kw_only=True):
    steps: Steps
    id: str


@page("GET", "/rollback", "import")
async def ask_rollback_page(visit: Visit[_RollbackQuery]) -> PageAnswer:
    """Ask whether to discard an open import."""
    return View("ask.html", {"does": "rollback", "given": visit.given})


@page("POST", "/rollback", "import")
async def rollback_page(visit: Visit[_RollbackForm]) -> PageAnswer:
    """Discard an open import."""
    store = visit.store
    discard = store.rollback_import if visit.given.steps == "parts" else store.rollback_incremental_import
    await discard(visit.given.id)
    return visit.to("/operations")

"""Secrets that the source has and the target lacks, deleted ones too.

A secret that is set or deleted is named by an event, and comes in one transaction with it: so a reader of the target
never meets an event whose key is not there yet. Imported secrets have no event. What they changed is seen by the
table's counts, from time to time and at the end.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from eventferry import secrets
from eventferry.database import Database, Writing
from eventferry.errors import InputError, SecretNotErasedError
from eventferry.lines.event import Row
from eventferry.lines.payload import decode_payload
from eventferry.secrets import DELETE_SECRET, SET_SECRET, Secret, SecretsReport
from eventferry.state import owners

_PAGE = 1000

LOOK_AFTER = 5.0
"""Seconds between two looks for secrets without an event."""


class SecretChanges:
    """The secrets of a sync.

    Attributes:
        brought: how many rows came over or were deleted.
    """

    def __init__(self, source: Database, target: Database) -> None:
        self._source = source
        self._target = target
        self._seen: tuple[int, ...] | None = None
        self._counted: tuple[int, ...] | None = None
        self._idx: int | None = None
        self._looked = -math.inf
        self.brought = 0

    def begin(self) -> None:
        """Compare all of them again: the target may be another than before."""
        self._seen = self._counted = self._idx = None

    async def named_in(self, rows: Sequence[Row]) -> list[Secret]:
        """The secrets that events of the source name, as the source has them now."""
        ids = {
            name for row in rows if row.type in (SET_SECRET, DELETE_SECRET) if (name := _id_in(row.payload))
        }
        if not ids:
            return []
        page = await secrets.load(
            self._source, limit=len(ids), idx=None, skip=None, ids=sorted(ids), include_deleted=True
        )
        gone = ids - {secret.id for secret in page.secrets}
        return page.secrets + (await self._tombstones(gone) if gone else [])

    async def _tombstones(self, ids: set[str]) -> list[Secret]:
        """Of secrets that the source does not have any more: in tables that reSolve made on MySQL, their rows go."""
        known = await secrets.load(
            self._target, limit=len(ids), idx=None, skip=None, ids=sorted(ids), include_deleted=False
        )
        return [Secret(None, secret.id, secret.idx) for secret in known.secrets]

    async def store(self, writing: Writing, rows: Sequence[Secret]) -> SecretsReport:
        """Store rows of the source in the target, as an import of secrets does."""
        return await secrets.store_lines(writing, [(None, row) for row in rows])

    def stored(self, report: SecretsReport) -> None:
        """After the commit."""
        self.brought += report.imported + report.deleted

    async def bring_all(self) -> None:
        """Bring over whatever differs, if the table of the source has changed since the last round."""
        for _ in range(2):  # what is left of a round, and what has changed since that began
            self._looked = -math.inf
            while await self.bring_some():
                pass

    async def bring_some(self) -> bool:
        """Bring over the next page of what differs, if it is time to look. Whether more pages remain, between which
        events can come over."""
        if self._idx is None:
            clock = asyncio.get_running_loop().time()
            if clock < self._looked + LOOK_AFTER:
                return False
            counts, self._looked = await self._counts(self._source), clock
            if counts == self._seen:
                return False
            self._counted, self._idx = counts, 0
        page = await secrets.load(
            self._source, limit=_PAGE, idx=self._idx, skip=None, ids=None, include_deleted=True
        )
        if page.secrets:
            await self._bring(page.secrets)
        self._idx = page.idx
        if self._idx is None:
            self._seen = self._counted
        return self._idx is not None

    async def _bring(self, rows: Sequence[Secret]) -> None:
        ids = [row.id for row in rows]
        known = await secrets.load(
            self._target, limit=len(ids), idx=None, skip=None, ids=ids, include_deleted=True
        )
        present = {row.id: row.secret for row in known.secrets}
        missing = [row for row in rows if row.id not in present or present[row.id] != row.secret]
        if not missing:
            return
        try:
            async with owners.writing(self._target, secrets=True) as writing:
                report = await self.store(writing, missing)
        except SecretNotErasedError:
            self.stored(report)
            raise
        self.stored(report)

    async def differ(self) -> bool:
        """Whether the two tables hold another number of secrets that are not deleted, or other last ones."""
        return (await self._counts(self._source))[1:] != (await self._counts(self._target))[1:]

    async def _counts(self, database: Database) -> tuple[int, ...]:
        """What changes whenever a row of secrets does: rows are only added and deleted."""
        async with database.reading() as reading:
            dialect = reading.dialect
            live = "CASE WHEN secret IS NULL THEN -1 ELSE idx END"
            [row] = await reading.ask(
                f"""SELECT count(*), count(secret), coalesce(max({live}), -1)
                FROM {dialect.table(dialect.tables.secrets)}"""
            )
        return tuple(row)


def _id_in(payload: bytes) -> str | None:
    try:
        found = decode_payload(payload)
    except (InputError, ValueError):
        return None
    name = found.get("id") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None

"""Secrets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from eventferry import secrets
from eventferry.facade.opened import Opened
from eventferry.lines.event import EventInput
from eventferry.operation_log import told
from eventferry.reading.arguments import check_mode, text, texts
from eventferry.reading.maintenance import AUTO, MANUAL, MaintenanceMode
from eventferry.secrets import GatheredSecrets, SecretsExport, SecretsImport, SecretsPage

if TYPE_CHECKING:
    pass


class Secrets(Opened):
    """The secrets of a store, as in reSolve."""

    async def load_secrets(
        self,
        *,
        limit: int,
        idx: int | None = None,
        skip: int | None = None,
        ids: Sequence[str] | None = None,
        include_deleted: bool = False,
    ) -> SecretsPage:
        """A page of secrets from `idx` on. `SecretsPage.idx` is where the next one begins; None after an empty page."""
        return await secrets.load(
            self._database,
            limit=limit,
            idx=idx,
            skip=skip,
            ids=None if ids is None else texts("ids", ids),
            include_deleted=include_deleted,
        )

    async def get_secret(self, id: str) -> str | None:
        """A secret; None if there is none or it was deleted."""
        async with self._database.reading() as reading:
            row = await secrets.get(reading, text("id", id))
        return row.secret if row is not None else None

    @told("set-secret")
    async def set_secret(self, id: str, secret: str) -> None:
        """Add a secret, and an event RESOLVE_SET_SECRET. Raises SecretExistsError if the id was ever used."""
        await secrets.set_secret(self._database, id, secret)

    @told("delete-secret")
    async def delete_secret(self, id: str) -> bool:
        """Delete a secret, and add an event RESOLVE_DELETE_SECRET. Returns False, and adds no event, if there is none.

        A backup that was made with secrets knows of it from the next `back_up` on, or by `Repository.note_erasures`.

        Raises:
            SecretNotErasedError: it is deleted, but the database's journal may still contain a copy.
        """
        return await secrets.delete_secret(self._database, text("id", id))

    def export_secrets(self, idx: int | None = None, tombstones: bool = False) -> SecretsExport:
        """Export secrets as JSON Lines: an async iterator of blocks. Deleted secrets are included with `tombstones`."""
        return SecretsExport(self._database, idx=idx, tombstones=tombstones)

    def import_secrets(self, maintenance_mode: MaintenanceMode = AUTO) -> SecretsImport:
        """Import secrets from JSON Lines: a sink for blocks. Equal rows are skipped, and deleted secrets stay deleted.

        Args:
            maintenance_mode: MANUAL also works on a frozen store, as for events.
        """
        check_mode(maintenance_mode)
        return SecretsImport(self._database, frozen="allow" if maintenance_mode is MANUAL else "refuse")

    async def gather_secrets_from_events(self, events: Iterable[EventInput]) -> GatheredSecrets:
        """The current rows of the secrets that these events set, and the ids of the secrets that they deleted."""
        return await secrets.gather(self._database, events)

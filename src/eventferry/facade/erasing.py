"""Erasing personal data."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from eventferry.changing import erasing
from eventferry.changing.erased import Erased
from eventferry.changing.erasing import EraseReport
from eventferry.changing.rules import Rules, rules_of
from eventferry.changing.selection import Selection
from eventferry.facade.opened import Opened
from eventferry.operation_log import Operation

if TYPE_CHECKING:
    from eventferry.store import EventStore


class Erasing(Opened):
    """What takes personal data out of a store."""

    async def erase(
        self,
        rules: Rules | str | os.PathLike[str],
        *,
        event_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
        aggregate_prefixes: Iterable[str] | None = None,
        dry_run: bool = False,
    ) -> EraseReport:
        """Erase personal data: rewrite payloads in place, in one transaction. Positions, versions and order stay.

        The erasure is kept in the store, and applied to whatever enters it later by an import, a copy or a sync. To
        call it again changes nothing. Snapshots are removed if an event has changed.

        A repository of backups knows of it from the next `back_up` on, or at once by `Repository.note_erasures`: until
        then a restore brings back what is erased.

        Args:
            rules: a TOML file of rules, or what `load_rules` made of one. They may only redact, remove and set.
            event_types: only events of these types.
            aggregate_ids: only events of these aggregates, or of those of `aggregate_prefixes`.
            aggregate_prefixes: only events of aggregates whose ids begin with one of these.
            dry_run: report what would change, and change nothing.

        Raises:
            RulesError: the rules are wrong, or would do more than erase.
            ImportOpenError: an incremental import is open.
            NotErasedError: it is erased, but the database's journal may still contain a copy.
        """
        with Operation("erase", self._database, dry_run=dry_run) as operation:
            report = await erasing.erase(
                self._database,
                rules_of(rules),
                Selection.of(
                    event_types=event_types,
                    aggregate_ids=aggregate_ids,
                    aggregate_prefixes=aggregate_prefixes,
                ),
                dry_run=dry_run,
            )
            operation.counts = {"events": report.events, "changed": report.changed}
            return report

    async def bring_erasures(self, source: EventStore) -> EraseReport | None:
        """Erase from this store, a copy of another or of a part of it, what was erased there; None if that is done.

        Args:
            source: the store that the events came from. A sync of a replica does this itself, and the command copy by
                `import_events(erased_from=source)`.

        Raises:
            ImportOpenError, NotErasedError: as `erase`.
        """
        with Operation("bring-erasures", self._database) as operation:
            report = await erasing.bring(await erasing.read(source._database), self._database)
            if report is not None:
                operation.counts = {"events": report.events, "changed": report.changed}
            return report

    async def erased(self) -> Erased:
        """What was erased from this store, as a transform for `pipeline`, and for `verify` with an older copy."""
        return Erased(await erasing.read(self._database))

"""Imports in parts, which replace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventferry.changing import erasing
from eventferry.facade.opened import Opened
from eventferry.importing import parts
from eventferry.importing.parts import PartReport
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES
from eventferry.lines.piping import Source
from eventferry.operation_log import told
from eventferry.reading.arguments import check_integer
from eventferry.results import ImportReport

if TYPE_CHECKING:
    from eventferry.store import EventStore


class InParts(Opened):
    """What replaces a store's events by what many processes push at once; see docs/parallel.md."""

    @told("parts begin")
    async def begin_import(self, *, replace: bool = True) -> str:
        """Begin an import in parts, which replaces all events; returns its id. It outlives this process.

        Args:
            replace: False refuses the import if the store holds events.

        Raises:
            ImportOpenError: an import in parts is open. The message says how to end it.
            StoreBusyError: a command with several jobs is importing.
            StoreFullError: `replace` is False, and the store holds events.
        """
        return await parts.begin(self._database, replace=replace)

    async def push_import(
        self,
        import_id: str,
        part: str,
        lines: Source,
        *,
        byte_offset: int = 0,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
    ) -> PartReport:
        """Add a part to an import in parts. Pushes may run in parallel, from any process or machine, in any order.

        Pushing a part again replaces what it has brought, so a push that was cut off is simply repeated. Of several
        pushes of a part the one that began last counts, if it came to its end.

        Args:
            import_id: the result of `begin_import`.
            part: the name of the part.
            lines: JSON Lines with positions and versions, as for `import_events`: blocks of bytes, a file or its path.
            byte_offset: the offset of the first block in the source, for messages. Nothing is skipped.
            ignore_unknown_keys: drop unknown keys of events instead of refusing them.
            max_line_bytes: refuse longer lines.

        Raises:
            ImportNotFoundError: no import with this id is open, or it was committed or rolled back during the push.
            StoreBusyError: its commit has begun, or was tried meanwhile and refused: then push the part again.
            InputError: a line cannot become an event. The line number is counted in the part.
        """
        check_integer("byte_offset", byte_offset, 0)
        check_integer("max_line_bytes", max_line_bytes, 0)
        return await parts.push(
            self._database,
            import_id,
            part,
            lines,
            byte_offset=byte_offset,
            ignore_unknown_keys=ignore_unknown_keys,
            max_line_bytes=max_line_bytes,
        )

    @told("parts commit")
    async def commit_import(
        self, import_id: str, *, allow_empty: bool = False, erased_from: EventStore | None = None
    ) -> ImportReport:
        """Replace the store's events by those of the parts, in one step. Committing again returns the same report.

        Args:
            import_id: the result of `begin_import`.
            allow_empty: allow an import without events, which empties the store.
            erased_from: the store that the events come from. What was erased from it is kept in the step that replaces
                the events, and applied to whatever enters this store later.

        Raises:
            ImportNotFoundError: no import with this id is open, and none was committed in the last 30 days.
            PartMissingError: a part was begun and did not come to its end: push it again.
            InputError: two events have one position, or one version of an aggregate. Push the parts corrected.
            StoreChangedError: events were saved since `begin_import`. Roll back, and import again.
            StoreBusyError: another process is committing it, or it is the import of a command that runs.
            EmptyInputError: there are no events.
            ImportOpenError: an incremental import is open, and does not know what `erased_from` says.
        """
        known = () if erased_from is None else await erasing.read(erased_from._database)
        return await parts.commit(self._database, import_id, allow_empty=allow_empty, known=known)

    @told("parts rollback")
    async def rollback_import(self, import_id: str | None = None) -> None:
        """Discard the open import in parts. Does nothing if none is open.

        Args:
            import_id: discard only this one. Raises ImportNotFoundError if it is not open.
        """
        await parts.roll_back(self._database, import_id)

"""The swap on MySQL: all tables get their names in one step. And the end of a store."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from eventferry.clock import now
from eventferry.database import Freeze, Stage
from eventferry.databases.mysql import markers
from eventferry.databases.mysql.cluster import owner_lock
from eventferry.databases.mysql.markers import Marker
from eventferry.databases.mysql.merge import MysqlExclusiveWriting
from eventferry.databases.names import comment, new_owner, taken_for_dead
from eventferry.databases.thread import threaded


class MysqlReplacing(MysqlExclusiveWriting):
    """An exclusive write transaction whose tables are renamed behind its end: for a swap, or to remove the store.

    RENAME TABLE cannot be part of a transaction, and waits for those that have used the tables. So this one sets a
    marker, which keeps out whoever waits for it, and ends first. Then all tables get their names together with the
    marker: whoever takes the owner for dead takes that away before he stores anything, and nothing is renamed.
    """

    def __init__(self, *reading: Any, freeze: Freeze | None) -> None:
        super().__init__(*reading, freeze=freeze)
        self._renames: dict[str, str] = {}
        self._shows: tuple[str, str] | None = None

    @threaded
    def swap(self, stage: Stage) -> None:
        self._refuse_what_would_be_lost()
        owner = stage.owner or ""
        marker = markers.found(self.connection, self.tables.freeze) or self._mark("SWAP", owner, now())
        comes = self.comment_of(stage.table)
        if marker is None or comes is None or marker.owner not in (owner, self._hold or owner):
            raise taken_for_dead()
        token = new_owner()
        made, facts = self.names.aside(token), comment("MADE", id=token)
        snapshots, subscribers = made[self.tables.snapshots], made[self.tables.subscribers]
        self._make("snapshots", snapshots, facts)
        self._make("subscribers", subscribers, facts)
        arriving = {
            self.tables.events: stage.table,
            self.names.threads: self.names.heads_of(owner),
            self.tables.snapshots: snapshots,
            self.tables.subscribers: subscribers,
        }
        self._rename(marker, list(arriving), {new: name for name, new in arriving.items()})
        self._shows = self.tables.events, comes
        self._drop_afterwards(self.tables.progress_of(owner))

    @threaded
    def drop(self) -> None:
        """The events are away with the first statement behind the commit; what is dropped later is nobody's."""
        owner = new_owner()
        self.connection.lock(owner_lock(owner), 0)
        marker = None
        while marker is None:
            stands = markers.found(self.connection, self.tables.freeze)
            marker = self._mark("SWAP", owner, now(), stands)
        aside = self.names.aside(marker.token)
        texts = {name: self.comment_of(name) for name in aside if name != self.tables.open_import}
        self._rename(marker, [name for name, text in texts.items() if text is not None], {})
        self._shows = aside[self.tables.events], texts[self.tables.events] or ""
        if (left := markers.found(self.connection, self.tables.open_import)) is not None:
            self._afterwards.append(partial(self._drop_import, left))
        beside = markers.beside_the_events(self.connection, self.names)
        self._drop_afterwards(
            *(name for owner in self.names.imports(beside) for name in self.names.import_of(owner)),
            *self.names.merge_stages(beside),
            *(name for name in self.names.marks(beside) if name != self.names.mark(marker.token)),
            *self.names.left_over(beside),
        )

    def _rename(self, marker: Marker, leaving: Iterable[str], arriving: dict[str, str]) -> None:
        aside = self.names.aside(marker.token)
        with_marker = dict.fromkeys((*leaving, self.tables.freeze, self.names.mark(marker.token)))
        former = {name: aside[name] for name in with_marker}
        self._renames = former | arriving
        self._drop_afterwards(*former.values())

    async def change_freeze(self, before: Freeze | None, after: Freeze | None) -> bool:
        if self._renames:  # it keeps writers out until the tables have their names, and goes with them
            return True
        return await super().change_freeze(before, after)

    def _settle(self) -> None:
        super()._settle()
        if self._renames and not self.connection.rename(self._renames, shows=self._shows):
            raise taken_for_dead()

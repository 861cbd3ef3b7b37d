"""The names of a store's tables, what the comments of tables say, and words, alike in every database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import Any, NamedTuple

from eventferry.clock import now
from eventferry.errors import (
    DatabaseError,
    StoreBusyError,
    StoreNotFoundError,
    UnsupportedStoreError,
    UsageError,
)


class Tables(NamedTuple):
    """The tables of one store; several stores may share a file under different names."""

    events: str
    snapshots: str
    secrets: str
    subscribers: str

    @property
    def resource_names(self) -> dict[str, str]:
        return {f"{field}TableName": name for field, name in self._asdict().items()}

    @property
    def freeze(self) -> str:
        """The marker: the store is frozen while this table exists."""
        return f"{self.events}-freeze"

    @property
    def open_import(self) -> str:
        """What begin opens."""
        return f"{self.events}-incremental-import"

    @property
    def sync(self) -> str:
        """How far the syncs into this store have come."""
        return f"{self.events}-sync"

    @property
    def appends(self) -> str:
        """Which appends were stored under an idempotency key."""
        return f"{self.events}-appends"

    @property
    def erasures(self) -> str:
        """What was erased from this store, and so from whatever enters it."""
        return f"{self.events}-erasures"

    @property
    def archives(self) -> str:
        """In which repositories the payloads of this store's events are."""
        return f"{self.events}-archives"

    @property
    def imports(self) -> str:
        """Which imports in parts were committed."""
        return f"{self.events}-committed-imports"

    @property
    def made_later(self) -> tuple[str, ...]:
        """The tables that a store has only once they were needed."""
        return self.sync, self.appends, self.erasures, self.archives, self.imports

    def stage_of(self, owner: str) -> str:
        """Where the events of an owner's import wait. Its name carries the owner's id, so that a former owner, whose
        stage was dropped or taken over, finds no table any more instead of somebody else's."""
        return f"{self.events}-stage-{owner}"

    def progress_of(self, owner: str) -> str:
        """How far that import has come. The stage is there when this table is."""
        return f"{self.events}-steps-{owner}"

    def owner_of(self, name: str) -> str | None:
        """The owner's id, if a table has a name from `progress_of`."""
        found = re.fullmatch(rf"{re.escape(self.events)}-steps-({OF_A_NODE}?[0-9a-f]{{11,12}})", name)
        return found[1] if found else None


OF_A_NODE = "n"
"""How the id of an owner begins that names a node of a cluster: then eleven digits follow."""

EVENT = ("threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type", "payload")
"""The columns by which a table of events is known for one."""


def beside_events(tables: Tables, content: str) -> dict[str, tuple[str, ...]]:
    """The columns by which the other tables are known; `content` is the column of a snapshot's content."""
    return {
        tables.snapshots: ("snapshotKey", content),
        tables.secrets: ("idx", "id", "secret"),
        tables.subscribers: ("applicationName", "eventSubscriber", "destination", "status"),
    }


def refuse_foreign(place: str, table: str, needed: Sequence[str], present: Iterable[str]) -> None:
    """Refuse a table without the columns by which that of a store is known: it is another program's."""
    found = {column.casefold() for column in present}
    missing = [column for column in needed if column.casefold() not in found]
    if missing:
        raise StoreNotFoundError(
            f"the table {table!r} in {place} does not belong to a store: it has no column "
            f"{missing[0]!r}. Nothing was changed"
        )


def not_a_view(place: str, table: str) -> StoreNotFoundError:
    """The error for a view with the name of a store's events."""
    return StoreNotFoundError(
        f"{table!r} in {place} does not belong to a store: it is a view. Nothing was changed"
    )


_BESIDE = re.compile(
    r"-(?:freeze|threads|sync|appends|erasures|archives|committed-imports|incremental-import|(?:merge|old|stage|steps|heads|mark)-.*)",
    re.IGNORECASE,
)
"""What is put behind the name of the events, on any database."""

_OF_A_NEIGHBOUR = re.compile(
    r".+-(?:freeze|threads|sync|appends|erasures|archives|committed-imports|incremental-import"
    rf"|(?:merge|old|stage|steps|heads|mark)-{OF_A_NODE}?[0-9a-f]{{11,}}(?:-[0-9a-f]+)?)",
    re.IGNORECASE | re.DOTALL,
)
"""What may stand beside the events of another store in the same database, whose name is what comes before it."""


def is_text(name: str) -> bool:
    """Whether a name is one that can be written at all: half a surrogate pair cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def check_names(tables: Tables) -> None:
    """Refuses names by which two tables would be one: a store with its secrets in the marker of its freeze would be
    frozen, and lose them when it is thawed. So would one whose table is called as the marker of another store.

    Case does not tell them apart either, for it does not on every database.
    """
    for place, name in enumerate(tables):
        if name.casefold() in [other.casefold() for other in tables[:place]]:
            raise UsageError(f"two tables of a store cannot have one name: {name!r}")
        begins = name[: len(tables.events)].casefold() == tables.events.casefold()
        if (begins and _BESIDE.fullmatch(name, len(tables.events))) or _OF_A_NEIGHBOUR.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be the name of a table: a store uses it for a table of its own"
            )


def new_owner() -> str:
    """An id for a running operation: twelve hexadecimal digits, short enough to stand in the names of tables."""
    return token_hex(6)


STAGE_WORDS = {"replace": "STAGE", "parts": "PARTS"}
"""The words of the comment that tells whose a stage is, by its kind."""


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def comment(words: str, **facts: str | int | None) -> str:
    """A comment that carries facts: comments stay in the schema, and readers of it find them."""
    told = [f"{name.upper()} {_literal(str(value))}" for name, value in facts.items() if value is not None]
    return " ".join(["EVENTFERRY", words, *told])


def fact(text: str, words: str, name: str) -> str | None:
    """A fact from such a comment."""
    found = re.search(rf"EVENTFERRY {words}[^\n]*? {name.upper()} '((?:[^']|'')*)'", text)
    return found[1].replace("''", "'") if found else None


def number(text: str, words: str, name: str) -> int | None:
    """A number from such a comment."""
    found = fact(text, words, name)
    return int(found) if found else None


def whole_heads(heads: list[int], table: str) -> list[int]:
    """The next counters, which must be 256."""
    if len(heads) != 256:
        raise DatabaseError(f"the table {table!r} has {len(heads)} rows, not 256: the store is incomplete")
    return heads


def taken_for_dead() -> StoreBusyError:
    """The error for an operation that finds its stage or its marker gone."""
    return StoreBusyError(
        "this operation was considered dead, because its lock was lost, or the store was dropped "
        "meanwhile: its stage or its marker is gone; nothing was replaced, and nothing was added"
    )


def refuse_to_lose(table: str, found: Iterable[tuple[Any, ...]]) -> None:
    """Refuse to replace a table of which something would be lost: rows that say what."""
    if lost := ", ".join(sorted(str(what) for (what,) in found)):
        raise UnsupportedStoreError(f"the table {table!r} has what replacing it would lose: {lost}")


def left_out(table: str) -> UnsupportedStoreError:
    """The error for a statement that changed fewer rows than it names."""
    return UnsupportedStoreError(
        f"a trigger on the table {table!r} has left out rows that were to be stored; nothing of this step was kept"
    )


def import_marker(import_id: str) -> str:
    """The comment by which reSolve tells whose an open incremental import is; it must be exactly this."""
    return f"RESOLVE INCREMENTAL-IMPORT {_literal(import_id)} OWNED TABLE"


def import_id_of(text: str) -> str | None:
    """The id of an open incremental import, from that comment."""
    found = re.search(r"RESOLVE INCREMENTAL-IMPORT '((?:[^']|'')*)' OWNED TABLE", text)
    return found[1].replace("''", "'") if found else None


def frozen_marker(events: str) -> str:
    """The comment that reSolve gives to its freeze marker."""
    return f"RESOLVE EVENT STORE {events} FREEZE MARKER"


def new_import_id(since: int) -> str:
    """An id for an open incremental import: letters and digits, as reSolve's. Servers have no room for the moment
    beside it, so it begins with it (as RFC 9562's version 7 does)."""
    return f"{since:012x}{token_hex(10)}"


def moment_of(import_id: str) -> int | None:
    """When such an id was made, in ms since 1970; None for one of reSolve's, whose time may be yet to come."""
    if _OUR_ID.fullmatch(import_id) is None:
        return None
    moment = int(import_id[:12], 16)
    return moment if moment <= now() + _A_DAY else None


_A_DAY = 86_400_000
_OUR_ID = re.compile(r"[0-9a-f]{32}")

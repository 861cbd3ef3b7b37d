"""Markers: tables that say by being there that a store is frozen, or that an incremental import is open.

A definition is part of no transaction, so whoever has decided to set or to remove a marker may have lost his locks by
the time he does it. But RENAME TABLE takes many tables at once, and none if one of them is missing. So each marker of
ours has a companion, an empty table whose name holds the marker's id, and both come and go together: a statement that
names both meets that very marker or nothing. One that another program set has no companion: it is moved away by its own
name, and back if it was another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pymysql.err import MySQLError

from eventferry.database import Freeze, Stage, StageKind
from eventferry.databases.mysql.connection import DEFINITION_CHANGED, NO_TABLE, Connection, Values, number_of
from eventferry.databases.mysql.tables import Names, is_marker, quoted
from eventferry.databases.names import (
    STAGE_WORDS,
    Tables,
    comment,
    fact,
    frozen_marker,
    import_id_of,
    moment_of,
    new_owner,
    number,
)

COMMENT = "SELECT table_comment FROM information_schema.tables WHERE table_schema = %s AND table_name = %s"
"""The comment of a table. Both names as constants: only so does the server look at that table alone."""

FREEZE = """SELECT table_comment FROM information_schema.tables
  WHERE table_schema = %(database)s AND table_name = %(freeze)s AND LEFT(table_comment, 20) = 'RESOLVE EVENT STORE '"""
"""The comment of the freeze marker. A table of that name that says something else is somebody's, and no marker."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker: the table by whose name reSolve knows it, and its comment. Its companion is named by the token, made up
    for a marker that another program set. The owner is the running operation that set it; None: a user did."""

    table: str
    text: str
    token: str
    is_ours: bool = True
    owner: str | None = None


def marker(table: str, text: str | None) -> Marker | None:
    """The marker that a table is, by its comment; None if it is none."""
    if text is None or not is_marker(text):
        return None
    import_id = import_id_of(text) or ""
    token = import_token(import_id) or fact(text, "FREEZE", "id") or fact(text, "SWAP", "id")
    owner = fact(text, "FREEZE", "owner") or fact(text, "SWAP", "owner")
    return Marker(table, text, token or new_owner(), token is not None, owner)


def new(tables: Tables, words: str, owner: str | None, since: int) -> Marker:
    """The marker of a freeze or a swap that begins now."""
    token = new_owner()
    text = frozen_marker(quoted(tables.events).replace("%%", "%"))
    return Marker(
        tables.freeze, f"{text} {comment(words, id=token, owner=owner, since=since)}", token, owner=owner
    )


def import_token(import_id: str) -> str | None:
    """What the companion of an open import is named by; None for one that reSolve opened."""
    return import_id[-12:] if re.fullmatch("[0-9a-f]{32}", import_id) else None


def found(connection: Connection, table: str) -> Marker | None:
    """The marker of this name, if there is one."""
    return marker(table, comment_of(connection, table))


def freeze_of(comment: str | None) -> Freeze | None:
    """What the comment of a freeze marker says. The marker of a swap is none: it is gone in a moment."""
    if comment is None or not is_marker(comment) or fact(comment, "SWAP", "owner") is not None:
        return None
    return Freeze(fact(comment, "FREEZE", "owner"), number(comment, "FREEZE", "since"))


Look: TypeAlias = Callable[[str, Values], list[tuple[Any, ...]]]
"""Asks a table that another transaction may be about to rename or drop."""

CLOSED = "closed"
"""The rowid of a row by which the transaction of a merge says that the stage is out of use: a table cannot be
dropped in a transaction, and the drop that follows may be lost."""


def is_closed(names: Names, look: Look) -> bool:
    """Whether the open import is none any more: its merge says so in its own transaction, and drops it later."""
    try:
        return bool(look(f"SELECT 1 FROM {quoted(names.tables.open_import)} WHERE `rowid` = %s", (CLOSED,)))
    except MySQLError as error:
        if number_of(error) == DEFINITION_CHANGED:
            return False  # it was opened after this reading began
        if number_of(error) == NO_TABLE:
            return True
        raise


def beside_the_events(connection: Connection, names: Names) -> dict[str, str]:
    """The tables whose names begin with that of the events and a hyphen, and their comments."""
    events = names.tables.events
    rows = connection.query(
        """SELECT table_name, table_comment, @@lower_case_table_names FROM information_schema.tables
        WHERE table_schema = %s AND LEFT(table_name, %s) = %s""",
        (connection.access.database, len(events) + 1, f"{events}-"),
    )
    # A server that does not tell them apart by case may have written the events' name otherwise.
    return {
        f"{events}{name[len(events) :]}" if folds else str(name): str(facts) for name, facts, folds in rows
    }


def stages(connection: Connection, names: Names, kind: StageKind, look: Look) -> list[Stage]:
    """The stages of a kind."""
    if kind == "open":
        table = names.tables.open_import
        import_id = import_id_of(comment_of(connection, table) or "")
        if import_id is None or is_closed(names, look):
            return []
        return [Stage(import_id, kind, table, None, moment_of(import_id))]
    if kind == "merge":
        beside = beside_the_events(connection, names)
        return [
            Stage(fact(beside[name], "STAGE", "id") or "", kind, name, fact(beside[name], "STAGE", "owner"))
            for name in names.merge_stages(beside)
        ]
    before: dict[str, str] | None = None
    while True:
        beside = beside_the_events(connection, names)
        whole = (owner for owner in names.imports(beside) if set(names.import_of(owner)) <= beside.keys())
        try:
            found = [_whole_stage(names, owner, kind, beside, look) for owner in whole]
        except _Renamed:
            # MySQL shows the names that there were when a reading began, however often it is asked.
            if beside == before:
                return []
            before = beside
        else:
            return [stage for stage in found if stage is not None][:1]


class _Renamed(Exception):  # noqa: N818 -- no error: it is looked again
    """A stage was taken over, or dropped, between the look at the names and the look into the table."""


def _whole_stage(
    names: Names, owner: str, kind: StageKind, beside: Mapping[str, str], look: Look
) -> Stage | None:
    table, _, progress = names.import_of(owner)
    words = STAGE_WORDS[kind]
    stage_id = fact(beside[progress], words, "id")
    if stage_id is None:
        return None
    try:
        baseline = look(f"SELECT `baseline` FROM {quoted(progress)} WHERE `baseline` IS NOT NULL", ())
    except MySQLError as error:
        if number_of(error) == DEFINITION_CHANGED:
            return None  # it was made after this reading began
        if number_of(error) != NO_TABLE:
            raise
        raise _Renamed from None
    return Stage(
        stage_id,
        kind,
        table,
        owner,
        number(beside[progress], words, "since"),
        baseline[0][0] if baseline else None,
        fact(beside[progress], words, "driver"),
    )


def comment_of(connection: Connection, table: str) -> str | None:
    """A table's comment; None where there is no such table."""
    rows = connection.query(COMMENT, (connection.access.database, table))
    return str(rows[0][0]) if rows else None


@dataclass(frozen=True, slots=True)
class MarkerChange:
    """A marker that came, or went, or took another's place: the tables that were moved away, and where to; and those
    that came, and what they were called before."""

    connection: Connection
    away: dict[str, str]
    made: dict[str, str]

    def finish(self) -> None:
        drop(self.connection, *self.away.values())

    def undo(self) -> None:
        """Have it as it was before, unless it was changed again."""
        self.connection.rename({new: name for name, new in reversed((self.away | self.made).items())})
        drop(self.connection, *self.made)


def put(
    connection: Connection, names: Names, kind: str, new: Marker, instead: Marker | None = None
) -> MarkerChange | None:
    """Set a marker of ours, in place of `instead`; None where something else stands there."""
    aside, mark = names.aside(new.token), names.mark(new.token)
    change = MarkerChange(
        connection,
        {} if instead is None else _away(connection, names, instead),
        {aside[new.table]: new.table, aside[mark]: mark},
    )
    connection.make("marker", aside[mark], comment("MARK", id=new.token))
    connection.make(kind, aside[new.table], new.text)
    if connection.rename(change.away | change.made, shows=(new.table, new.text)):
        return change
    drop(connection, *change.made)
    return None


def take(connection: Connection, names: Names, old: Marker) -> MarkerChange | None:
    """Move this very marker away; None where it is not there any more."""
    change = MarkerChange(connection, _away(connection, names, old), {})
    if not connection.rename(change.away):
        return None
    if len(change.away) == 1 and comment_of(connection, change.away[old.table]) != old.text:
        change.undo()  # another has come in its place, just now
        return None
    return change


def drop(connection: Connection, *names: str) -> None:
    """Remove tables that have names of their own."""
    for name in names:
        connection.apart(f"DROP TABLE IF EXISTS {quoted(name)}")


def _away(connection: Connection, names: Names, old: Marker) -> dict[str, str]:
    aside, mark = names.aside(old.token), names.mark(old.token)
    # Whoever removes a marker of ours by another program leaves its companion; whoever sets one has none.
    has_mark = old.is_ours and comment_of(connection, mark) is not None
    return {old.table: aside[old.table]} | ({mark: aside[mark]} if has_mark else {})

"""What a store knows of the syncs into it: one row for each source, changed in the same transaction as the events.

So the position and the events cannot diverge: whatever breaks off, the next sync finds how far this one came. Nobody
else can move a row unseen, for it changes only from the very text that was read.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from eventferry.database import Reading, Writing
from eventferry.reading.questions import identity_of
from eventferry.state.small_tables import KeptTable

Mode: TypeAlias = Literal["replica", "merge"]
"""Whether events keep their positions and versions in the target, or get new ones behind what it holds."""


class SyncState(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How far a sync has come."""

    place: str  # of the source, for people, and to find the row of a source that has no lasting identity
    identity: str  # of the source as bookmarks hold it, in hex; zeros where it has no lasting one
    mode: Mode
    same_aggregate: str = "refuse"  # what becomes of an aggregate that lives on both sides, in a merge
    changes: str | None = None  # the digest of what changes the events on their way; None if nothing does
    bookmark: str | None = None  # of the source, behind what was brought over
    heads: str | None = (
        None  # the cursor of a replica behind that: if it differs, somebody else has written there
    )
    events: int = 0  # that were brought over
    at: int = 0  # when the last ones were, in ms since 1970
    target: str | None = None
    """The identity of the target behind that, in hex; None of a first fill whose end has not been noted. If it is
    another, the events that were brought over have been replaced, and the state says nothing any more. It is not
    removed with them: on MySQL the tables of a swap get their names behind its transaction, and that can fail."""

    def is_about(self, target: str) -> bool:
        """Whether the events of this identity, in hex, are those that were brought over."""
        return self.target in (None, target)


class SyncProblem(msgspec.Struct, frozen=True):
    """The last error of a sync, and when it was, in ms since 1970."""

    at: int
    error: str


class SyncRow(msgspec.Struct, frozen=True):
    """A row: its key, the state, the text that it was read from, and the last problem."""

    source: str
    state: SyncState
    text: str
    problem: SyncProblem | None


RESTORED = "restored"
"""The key of the row of the store whose backup was restored here. No sync goes on from it: it only says whose bookmarks
are good here."""

_TABLE = KeptTable(
    lambda tables: tables.sync,
    {"source": "VARCHAR(64) NOT NULL PRIMARY KEY", "state": "TEXT NOT NULL", "problem": "TEXT NULL"},
    "the state of a sync would be kept there",
)
make_table = _TABLE.make_within


async def has_table(reading: Reading) -> bool:
    """Whether the table is there."""
    return await _TABLE.is_there(reading)


async def _load(reading: Reading, *, void: bool = False) -> list[SyncRow]:
    if not await has_table(reading):
        return []
    table, *names = _TABLE.names(reading)
    rows = await reading.ask(f"SELECT {', '.join(names)} FROM {table} ORDER BY {names[0]}")
    own = identity_of(await reading.state()).hex()
    found = [
        SyncRow(
            source,
            msgspec.json.decode(state, type=SyncState),
            state,
            None if problem is None else msgspec.json.decode(problem, type=SyncProblem),
        )
        for source, state, problem in rows
    ]
    return [row for row in found if void or row.state.is_about(own)]


async def load(reading: Reading, *, void: bool = False) -> list[SyncRow]:
    """The rows of syncs that hold for the events that are there; with `void` also those of events that have been
    replaced. None where there is no table."""
    return [row for row in await _load(reading, void=void) if row.source != RESTORED]


async def note_restored(writing: Writing, state: SyncState) -> None:
    """Keep whose backup was restored here. It needs the table, and an exclusive write transaction."""
    before = [row.text for row in await _load(writing, void=True) if row.source == RESTORED]
    await save(writing, RESTORED, before[0] if before else None, state)


async def is_still(writing: Writing, source: str, before: str | None) -> bool:
    """Whether a row has this text still; None: whether there is no row."""
    table, source_column, state_column, _ = _TABLE.names(writing)
    rows = await writing.ask(f"SELECT {state_column} FROM {table} WHERE {source_column} = %s", (source,))
    return [text for (text,) in rows] == ([] if before is None else [before])


async def save(writing: Writing, source: str, before: str | None, after: SyncState) -> str | None:
    """In the transaction in which the events change too, change a row that still has the text `before`, or insert it
    where that is None and there is none. Returns its text now; None if somebody else has changed it, and then nothing
    was done."""
    table, source_column, state_column, problem_column = _TABLE.names(writing)
    text = msgspec.json.encode(after).decode()
    if before is None:
        if not await is_still(writing, source, None):
            return None
        await writing.change(
            f"INSERT INTO {table}({source_column}, {state_column}) VALUES (%s, %s)", (source, text)
        )
        return text
    changed = await writing.change(
        f"""UPDATE {table} SET {state_column} = %s, {problem_column} = NULL
        WHERE {source_column} = %s AND {state_column} = %s""",
        (text, source, before),
    )
    return text if changed else None


async def note_problem(writing: Writing, source: str, problem: SyncProblem | None) -> None:
    """Keep the last error of a sync, for whoever asks how it is; None: it goes well again."""
    table, source_column, _, problem_column = _TABLE.names(writing)
    await writing.change(
        f"UPDATE {table} SET {problem_column} = %s WHERE {source_column} = %s",
        (None if problem is None else msgspec.json.encode(problem).decode(), source),
    )


async def lineage(reading: Reading) -> set[str]:
    """The identities of the stores whose replica this one is, or whose backup was restored here: their bookmarks are
    good here too, unless the events were changed on their way."""
    return {
        row.state.identity
        for row in await _load(reading)
        if row.state.mode == "replica" and row.state.target is not None and row.state.changes is None
    }

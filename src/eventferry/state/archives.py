"""In which repositories the payloads of archived events are: one row for each archive, changed in the transactions that
rewrite the events.

A row stays when its events were recalled: a bookmark that was made of the marker of an event is good behind that too.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import msgspec

from eventferry.changing.selection import Selection
from eventferry.database import Reading, Writing
from eventferry.errors import UnsupportedStoreError, UsageError
from eventferry.reading.questions import identity_of
from eventferry.state.erasures import MAX_WHAT
from eventferry.state.small_tables import KeptTable

_TABLE = KeptTable(
    lambda tables: tables.archives,
    {
        "id": "VARCHAR(64) NOT NULL PRIMARY KEY",
        "at": "BIGINT NOT NULL",
        "events": "BIGINT NOT NULL",
        "what": "TEXT NOT NULL",
    },
    "it would be kept there which events are archived",
)
make_table = partial(_TABLE.make, frozen="allow")
_ENCODER = msgspec.json.Encoder(order="deterministic")


class Chosen(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """Which events an archive was asked to take.

    Attributes:
        until: those with a timestamp up to this one, in ms since 1970.
        event_types: of these types; None: of any.
        aggregate_ids: of these aggregates, or of those of `aggregate_prefixes`; both None: of any.
        aggregate_prefixes: of aggregates whose ids begin with one of these.
    """

    until: int
    event_types: tuple[str, ...] | None = None
    aggregate_ids: tuple[str, ...] | None = None
    aggregate_prefixes: tuple[str, ...] | None = None

    @property
    def selection(self) -> Selection:
        """Which events."""
        return Selection.of(
            event_types=self.event_types,
            aggregate_ids=self.aggregate_ids,
            aggregate_prefixes=self.aggregate_prefixes,
            finish_time=self.until,
        )


class Held(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a row says beside its numbers."""

    chain: str
    repository: str
    chosen: Chosen


class Archive(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Events whose payloads are in a repository.

    Attributes:
        id: 16 hex digits, which stand in the markers.
        at: when it was begun, in ms since 1970.
        events: how many payloads of the store are in it now; 0 where all have been recalled.
        repository: where it was then, without a password.
        chain: of the store in the repository.
        chosen: which events it was asked to take.
    """

    id: str
    at: int
    events: int
    repository: str
    chain: str
    chosen: Chosen


async def load(reading: Reading) -> list[Archive]:
    """All archives that there were, in the order in which they were begun."""
    if not await _TABLE.is_there(reading):
        return []
    table, name, at, events, what = _TABLE.names(reading)
    rows = await reading.ask(f"SELECT {name}, {at}, {events}, {what} FROM {table} ORDER BY {at}, {name}")
    found = []
    for key, moment, count, text in rows:
        try:
            held = msgspec.json.decode(text, type=Held)
        except msgspec.MsgspecError as error:
            raise UnsupportedStoreError(
                f"the store has an archive that this version cannot read: {error}"
            ) from None
        found.append(
            Archive(
                id=key,
                at=moment,
                events=count,
                repository=held.repository,
                chain=held.chain,
                chosen=held.chosen,
            )
        )
    return found


async def held(reading: Reading) -> list[Archive]:
    """The archives that hold payloads of the events that are there: not those of events that were replaced since."""
    found = [archive for archive in await load(reading) if archive.events]
    own = identity_of(await reading.state()).hex() if found else ""
    return [archive for archive in found if archive.chain == own]


def check(archive: Archive) -> None:
    """Raises UsageError for one that says more than a row can hold."""
    if (size := len(_told(archive).encode())) > MAX_WHAT:
        raise UsageError(
            f"what an archive is asked to take is said in at most {MAX_WHAT} bytes, and this takes {size}: name "
            "prefixes of the aggregates"
        )


async def add(writing: Writing, archive: Archive) -> None:
    """Keep an archive, unless there is one of this id."""
    table, name, at, events, what = _TABLE.names(writing)
    if not await writing.ask(f"SELECT {at} FROM {table} WHERE {name} = %s", (archive.id,)):
        await writing.change(
            f"INSERT INTO {table}({name}, {at}, {events}, {what}) VALUES (%s, %s, %s, %s)",
            (archive.id, archive.at, archive.events, _told(archive)),
        )


async def change(writing: Writing, archive: str, difference: int) -> bool:
    """So many payloads more, or fewer, are in an archive; in the transaction that rewrites the events. False, and no
    change, where there is no such archive, or it has been closed: all that it held was recalled."""
    table, name, _, events, _ = _TABLE.names(writing)
    changed = await writing.change(
        f"UPDATE {table} SET {events} = {events} + %s WHERE {name} = %s AND {events} > 0",
        (difference, archive),
    )
    return bool(changed)


async def forget(writing: Writing, archive: str) -> None:
    """An archive holds nothing any more."""
    table, name, _, events, _ = _TABLE.names(writing)
    await writing.change(f"UPDATE {table} SET {events} = 0 WHERE {name} = %s", (archive,))


def _told(archive: Archive) -> str:
    return _ENCODER.encode(
        Held(chain=archive.chain, repository=archive.repository, chosen=archive.chosen)
    ).decode()


class Archived:
    """What was archived from a store at any time."""

    def __init__(self, archives: Iterable[Archive]) -> None:
        self._selections = [archive.chosen.selection for archive in archives]

    def concerns(self, event_type: str, aggregate_id: str, timestamp: int) -> bool:
        """Whether the payload of such an event may have been moved to an archive, or back."""
        return any(selection.takes(event_type, aggregate_id, timestamp) for selection in self._selections)

"""Appends: several events that belong together, stored in one transaction or not at all.

An append to one aggregate is first tried as a save of several events, if no other is under way: the database stores it
in one step, or leaves it out where anything is in the way. A save names the version before it, and so does an append to
any version where the aggregate's last one was seen here: if that is the last no more, it is left out.

All others, and what was left out, go together into one exclusive transaction (`groups`) when they wait, in order of
their timestamps, so that no thread's timestamps fall within a group. In it each one's expectations are checked; those
that are refused are left out, and all others are stored by one `append`.

An answer can be lost with its connection. Before anything is tried again, the store is asked whether it holds the very
events that were sent, in a transaction that has waited for the end of the one before.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple, TypeVar

import msgspec

from eventferry.clock import now
from eventferry.comparing.canonical import canonical, is_equal
from eventferry.cursor import MAX_COUNTER
from eventferry.database import Database, ExclusiveWriting, NextPlace, OvertakenError, Reading
from eventferry.errors import (
    ConcurrentError,
    DatabaseError,
    IdempotencyKeyError,
    InputError,
    StoreFrozenError,
    StoreReplacedError,
    StoreUnreachableError,
    UnsupportedStoreError,
    UsageError,
)
from eventferry.lines.converting import appended_row
from eventferry.lines.decoder import LineDecoder
from eventferry.lines.event import Event, EventInput, NewRow, Row
from eventferry.lines.limits import MAX_SAFE_INTEGER, ColumnLimits, check_limits, full_thread, last_version
from eventferry.reading.arguments import text
from eventferry.reading.questions import identity_of
from eventferry.results import Append, Appended, ExpectedVersion
from eventferry.saving.groups import MOST_BYTES, Groups
from eventferry.saving.saves import Saving
from eventferry.state import append_keys
from eventferry.state.append_keys import AppendRecord
from eventferry.state.owners import writing

MAX_KEY_LENGTH = 255
"""Characters of an idempotency key."""

_QUICK = 10  # attempts that keep nobody waiting on other nodes
_PAUSES = (0.1, 0.4, 1, 1.5)
"""Seconds before each further attempt at an append whose answer was lost with its connection."""

T = TypeVar("T")

_MOST_SEEN = 4096  # aggregates whose last versions are kept
_MANY_AT_ONCE = 100  # events that are saved in one step; of more, the round trips are not what takes the time
_MANY = 1000  # events that are checked in a worker thread, so as not to block the event loop


class Portion(NamedTuple):
    """The events of one aggregate, and the last version that it is expected to have; None for any."""

    aggregate_id: str
    rows: Sequence[NewRow]
    expected: int | None


class _Key(NamedTuple):
    """An idempotency key, and what was asked under it."""

    text: str
    id: str
    digest: str

    def refuse_other(self, digest: str) -> None:
        """Raises IdempotencyKeyError where what was stored under this key is not what is asked now."""
        if digest != self.digest:
            raise IdempotencyKeyError(
                f"the idempotency key {self.text!r} was used before, for other events: each append needs one of its own"
            )


class _Stored(NamedTuple):
    rows: Sequence[Row]
    heads: Sequence[int]
    is_repeated: bool = False


@dataclass(slots=True, eq=False)
class _Unit:
    """What is stored together or not at all. `tried` are the rows of the last attempt, whose answer may be lost."""

    portions: Sequence[Portion]
    timestamp: int
    key: _Key | None
    tried: Sequence[Row] = ()

    @property
    def digest(self) -> str:
        """Of what was asked, if it has a key."""
        return "" if self.key is None else self.key.digest


class Appends:
    """The appends of one store object."""

    def __init__(self, database: Database, saving: Saving) -> None:
        self._database = database
        self._saving = saving
        self._groups: Groups[_Unit, _Stored] = Groups(
            1,  # an exclusive transaction has the events to itself
            self._store,
            lambda unit: [portion.aggregate_id for portion in unit.portions],
            lambda unit: sum(len(row.payload) for portion in unit.portions for row in portion.rows),
        )
        self._under_way = 0
        self._seen: dict[
            str, int
        ] = {}  # last versions of aggregates, those that were appended to last at the end
        self._checking = asyncio.Lock()
        self._keys_of: str | None = None  # the identity of a store whose table of keys is there
        self._sweeping = append_keys.Sweeping()
        self._decoder = LineDecoder()

    async def append(self, appends: Iterable[Append], key: str | None) -> Appended:
        """Check appends, and store them."""
        if not isinstance(appends, Iterable):
            raise UsageError(
                f"appends are a list, or another iterable, of Append objects, not {type(appends).__name__}"
            )
        given = [(_named(one), _listed(one.events)) for one in appends]
        if sum(len(events) for _, events in given) < _MANY and not self._checking.locked():
            portions = _checked(given)
        else:
            async with self._checking:  # appends are stored in the order of the calls
                portions = await asyncio.to_thread(_checked, given)
        return await self.append_portions(portions, key)

    async def append_portions(self, portions: Sequence[Portion], key: str | None = None) -> Appended:
        """Store events that are rows."""
        _refuse_portions(portions)
        timestamp = max(now(), *(row.timestamp for portion in portions for row in portion.rows))
        unit = _Unit(portions, timestamp, None if key is None else _key(key, portions))
        self._under_way += 1
        try:
            # Where saves go on one after the other, many appends are stored faster as one block.
            is_saved = self._under_way == 1 or self._database.traits.saves_at_once > 1
            stored = (await self._saved(unit) if is_saved else None) or await self._groups.add(unit)
        finally:
            self._under_way -= 1
        events = [
            Event(
                thread_counter=row.thread_counter,
                thread_id=row.thread_id,
                type=row.type,
                timestamp=row.timestamp,
                aggregate_id=row.aggregate_id,
                aggregate_version=row.aggregate_version,
                payload=msgspec.Raw(row.payload),
            )
            for row in stored.rows
        ]
        self._note(stored.rows)
        return Appended(events, stored.heads, stored.is_repeated)

    async def _saved(self, unit: _Unit) -> _Stored | None:
        """What came of it as a save of several events; None where that cannot be, or something was in the way."""
        [portion, *others] = unit.portions
        before = self._seen.pop(portion.aggregate_id, None) if portion.expected is None else portion.expected
        if others or unit.key is not None or before is None or not _is_small(portion.rows, before):
            return None
        version = before + 1
        rows = [row._replace(timestamp=unit.timestamp) for row in portion.rows]
        try:
            saved = await self._saving.save_next(rows, version)
        except (ConcurrentError, InputError, UnsupportedStoreError):
            return None  # in an exclusive transaction it is found out which event it was, or what is there
        first = Row(
            saved.thread_id, saved.thread_counter, unit.timestamp, portion.aggregate_id, version, "", b""
        )
        return _Stored(_run(first, rows), saved.heads)

    def _note(self, rows: Sequence[Row]) -> None:
        """What these rows, just stored, tell about the last versions of their aggregates."""
        for aggregate_id, version in {row.aggregate_id: row.aggregate_version for row in rows}.items():
            self._seen.pop(aggregate_id, None)
            self._seen[aggregate_id] = version
        while len(self._seen) > _MOST_SEEN:
            del self._seen[next(iter(self._seen))]

    # a group

    async def _store(self, units: Sequence[_Unit]) -> Sequence[_Stored | Exception | None]:
        broken: StoreUnreachableError | None = None
        for pause in (0, *_PAUSES):
            await asyncio.sleep(pause)
            try:
                return await self._attempt(units)
            except StoreUnreachableError as error:
                if not any(unit.tried for unit in units):
                    raise
                broken = error
            except StoreFrozenError as error:
                if broken is None:
                    raise
                # A freeze has waited for what was under way.
                async with self._database.reading() as reading:
                    return [await self._stored(reading, unit) or error for unit in units]
        names = sorted({portion.aggregate_id for unit in units for portion in unit.portions})
        others = f" and {len(names) - 1} others" if len(names) > 1 else ""
        raise StoreUnreachableError(
            f"{broken}; whether the events of {names[0]!r}{others} were appended is not known"
        ) from broken

    async def _attempt(self, units: Sequence[_Unit]) -> Sequence[_Stored | Exception | None]:
        attempts, before = 0, [unit.tried for unit in units]
        while True:
            attempts += 1
            try:
                kind: Literal["repeatable", "exclusive"] = "repeatable" if attempts < _QUICK else "exclusive"
                async with writing(self._database, kind) as transaction:
                    return await self._put(transaction, units)
            except _NoTableError:
                await append_keys.make_table(self._database)
            except OvertakenError:
                # Nothing of them is there, though others may have stored the same in their places.
                for unit, tried in zip(units, before, strict=True):
                    unit.tried = tried
                if attempts > _QUICK:
                    raise
            except _OF_ONE as error:
                if isinstance(error, StoreUnreachableError) or len(units) == 1:
                    raise
                return [None] * len(units)  # because of which one, is found out one by one

    async def _stored(self, reading: Reading, unit: _Unit) -> _Stored | None:
        """What the store holds of the last attempt at a unit: all of it, or nothing."""
        if not unit.tried:
            return None
        wanted = [(row.thread_id, row.thread_counter) for row in unit.tried]
        found = [self._decoder.row(line) for line in await reading.lines_at(wanted, max_bytes=2**62)]
        if len(found) < len(unit.tried) or not all(map(_is_same, found, unit.tried)):
            return None
        return _Stored(unit.tried, await reading.heads())

    async def _put(
        self, writing: ExclusiveWriting, units: Sequence[_Unit]
    ) -> list[_Stored | Exception | None]:
        """Store those of a group that nothing is in the way of."""
        known, target = await self._known_keys(writing, units)
        heads, limits = await writing.heads(), await writing.limits()
        # By time, so that the timestamps of no thread fall here. Which of them came first, nobody has seen.
        by_time = sorted(range(len(units)), key=lambda number: units[number].timestamp)
        wanted = [
            (portion.aggregate_id, units[n].timestamp) for n in by_time for portion in units[n].portions
        ]
        places = iter(await writing.next_places(wanted))
        last: dict[str, int] = {}
        new: list[_Unit] = []
        under: dict[str, _Unit] = {}
        came: list[_Stored | Exception | None] = [None] * len(units)
        for number in by_time:
            unit, key = units[number], units[number].key
            there = list(islice(places, len(unit.portions)))
            try:
                stored = await self._stored(writing, unit)
                if stored is None and key is not None and key.id in under:
                    key.refuse_other(under[key.id].digest)
                    stored = _Stored(under[key.id].tried, heads, is_repeated=True)
                if stored is None and key is not None and key.id in known:
                    key.refuse_other(known[key.id].digest)
                    stored = await self._repeated(writing, known[key.id], key)
                if stored is None:
                    unit.tried = _placed(unit, there, heads, last, limits)
                    stored = _Stored(unit.tried, heads)
                    new.append(unit)
                    if key is not None:
                        under[key.id] = unit
                came[number] = stored
            except (ConcurrentError, IdempotencyKeyError, InputError, UnsupportedStoreError) as error:
                came[number] = error
        if new:
            await writing.append([row for unit in new for row in unit.tried])
        if under:
            records = {
                key: AppendRecord(target, unit.digest, _runs(unit.tried)) for key, unit in under.items()
            }
            await append_keys.save(writing, records)
            await self._sweeping.sweep(writing, len(records))
        return came

    async def _known_keys(
        self, writing: ExclusiveWriting, units: Sequence[_Unit]
    ) -> tuple[dict[str, AppendRecord], str]:
        """What was stored under the keys of these units before, by their ids, and the identity of the store's events.
        Raises _NoTableError."""
        ids = {unit.key.id for unit in units if unit.key is not None}
        if not ids:
            return {}, ""
        target = identity_of(await writing.state()).hex()
        if self._keys_of != target:
            if not await append_keys.has_table(writing):
                raise _NoTableError
            self._keys_of = target
        return await append_keys.load(writing, ids, target), target

    async def _repeated(self, writing: ExclusiveWriting, record: AppendRecord, key: _Key) -> _Stored:
        wanted = [(thread, first + step) for thread, first, count in record.runs for step in range(count)]
        rows = [self._decoder.row(line) for line in await writing.lines_at(wanted, max_bytes=2**62)]
        if len(rows) < len(wanted):
            raise StoreReplacedError(
                f"the events that were stored under the idempotency key {key.text!r} are not there any more"
            )
        return _Stored(rows, await writing.heads(), is_repeated=True)


class _NoTableError(Exception):
    """There is no table of keys yet."""


_OF_ONE = (ConcurrentError, DatabaseError, InputError, StoreReplacedError, UnsupportedStoreError)
"""What goes wrong because of one unit."""


def portions_of(appends: Iterable[tuple[Append, Sequence[NewRow]]]) -> list[Portion]:
    """Appends whose events are rows. Raises UsageError."""
    return [Portion(one.aggregate_id, rows, _expected(one.expected_version)) for one, rows in appends]


def _named(append: Append) -> Append:
    if not isinstance(append, Append):
        raise UsageError(f"an append must be an Append, not {type(append).__name__}")
    return msgspec.structs.replace(append, aggregate_id=text("aggregate_id", append.aggregate_id))


def _listed(events: Iterable[EventInput]) -> list[EventInput]:
    if isinstance(events, bytes | str | Mapping | Event) or not isinstance(events, Iterable):
        raise UsageError(
            f"events are a list, or another iterable, of dicts or Event objects, not {type(events).__name__}"
        )
    return list(events)


def _checked(given: Sequence[tuple[Append, Sequence[EventInput]]]) -> list[Portion]:
    """The events as rows. Errors number the events of all appends, from 1."""
    numbers = itertools.count(1)
    return portions_of(
        (one, [_numbered(next(numbers), partial(appended_row, event, one.aggregate_id)) for event in events])
        for one, events in given
    )


def _numbered(number: int, check: Callable[[], T]) -> T:
    try:
        return check()
    except InputError as error:
        raise InputError(error.reason, line=number, field=error.field, unit="event") from None


def _refuse_portions(portions: Sequence[Portion]) -> None:
    """Refuses what cannot be one append. Raises UsageError."""
    if not portions:
        raise UsageError("an append needs at least one aggregate")
    seen: set[str] = set()
    for portion in portions:
        if portion.aggregate_id in seen:
            raise UsageError(f"the aggregate {portion.aggregate_id!r} stands in the append twice")
        if not portion.rows:
            raise UsageError(f"the append to {portion.aggregate_id!r} has no events")
        seen.add(portion.aggregate_id)


def _expected(version: ExpectedVersion) -> int | None:
    if version == "any":
        return None
    if version == "none":
        return 0
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise UsageError(f'expected_version must be "any", "none" or a version, not {version!r}')
    return version


def _key(key: str, portions: Sequence[Portion]) -> _Key:
    key = text("idempotency_key", key)
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        raise UsageError(f"an idempotency_key has 1 to {MAX_KEY_LENGTH} characters, not {len(key)}")
    asked = [
        (portion.aggregate_id, [(row.type, row.timestamp, canonical(row.payload)) for row in portion.rows])
        for portion in portions
    ]
    digest = hashlib.blake2b(msgspec.msgpack.encode(asked), digest_size=16).hexdigest()
    return _Key(key, append_keys.id_of(key), digest)


def _placed(
    unit: _Unit, places: Sequence[NextPlace], heads: list[int], last: dict[str, int], limits: ColumnLimits
) -> list[Row]:
    """The rows of a unit. Moves `heads`, and the `last` versions of aggregates, behind them; what it refuses changes
    nothing."""
    numbers = itertools.count(1)
    room = Counter[int]()
    for portion, place in zip(unit.portions, places, strict=True):
        before = last.get(portion.aggregate_id, place.last_version)
        if portion.expected not in (None, before):
            raise ConcurrentError(portion.aggregate_id, (portion.expected or 0) + 1, before)
        if before + len(portion.rows) > MAX_SAFE_INTEGER:
            raise last_version(portion.aggregate_id)
        room[place.thread_id] += len(portion.rows)
        if heads[place.thread_id] + room[place.thread_id] > MAX_COUNTER + 1:
            raise full_thread(place.thread_id)
        for row in portion.rows:
            _numbered(
                next(numbers), partial(check_limits, limits, portion.aggregate_id, row.type, row.payload)
            )
    rows: list[Row] = []
    for portion, place in zip(unit.portions, places, strict=True):
        thread = place.thread_id
        before = last.get(portion.aggregate_id, place.last_version)
        first = Row(thread, heads[thread], unit.timestamp, portion.aggregate_id, before + 1, "", b"")
        rows += _run(first, portion.rows)
        heads[thread] += len(portion.rows)
        last[portion.aggregate_id] = before + len(portion.rows)
    return rows


def _is_small(rows: Sequence[NewRow], before: int) -> bool:
    """Whether events behind this version go into one statement."""
    if len(rows) > _MANY_AT_ONCE or before + len(rows) > MAX_SAFE_INTEGER:
        return False
    return sum(len(row.payload) for row in rows) <= MOST_BYTES


def _run(first: Row, events: Sequence[NewRow]) -> list[Row]:
    """The rows of events that follow one another, from the place, the time and the version of `first` on."""
    thread, counter, timestamp, aggregate_id, version, *_ = first
    return [
        Row(thread, counter + step, timestamp, aggregate_id, version + step, event.type, event.payload)
        for step, event in enumerate(events)
    ]


def _runs(rows: Sequence[Row]) -> list[tuple[int, int, int]]:
    """Where rows are: thread, first counter, number."""
    runs: list[tuple[int, int, int]] = []
    for row in rows:
        thread, first, count = runs[-1] if runs else (-1, 0, 0)
        if (row.thread_id, row.thread_counter) == (thread, first + count):
            runs[-1] = thread, first, count + 1
        else:
            runs.append((row.thread_id, row.thread_counter, 1))
    return runs


def _is_same(stored: Row, row: Row) -> bool:
    return stored[:-1] == row[:-1] and is_equal(stored.payload, row.payload)

"""The boundary: what a database must supply. Everything else is written once, above it.

A database is a folder under `eventferry.databases` that implements `Database`. It holds SQL, a connection and locks; no
streams, no comparison, no reports. What goes into which of its files, and how each of the three does it, is in
docs/boundary.md.

- A read transaction is short; all its calls see one state of the store.
- A write transaction is short; it commits when its block ends, and leaves nothing when that raises. A shared one
  touches no event, so saves go on meanwhile; an exclusive one has the events to itself.
- A stage is a table of events that wait inside the database.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, overload

from eventferry.databases.dialect import Dialect, Value
from eventferry.errors import StoreBusyError
from eventferry.importing.batch import Batch
from eventferry.lifecycle import Life
from eventferry.lines.event import NewRow, NewRowValues, NumberedRow, Row
from eventferry.lines.limits import ColumnLimits


class OvertakenError(StoreBusyError):
    """A transaction was undone because of one of another node, which came first. It may be tried again."""


class Key(NamedTuple):
    """The sort key of an event: the order is by these three where the threads' timestamps don't go backwards."""

    timestamp: int
    thread_counter: int
    thread_id: int


FIRST = Key(-(2**63), -1, -1)  # no event sorts before it

OrderedEvent: TypeAlias = tuple[int, int, int, bytes | None]
"""An event as the order sees it: thread, counter, timestamp, and its line if that was asked for."""


class State(NamedTuple):
    """What tells whether a store is still as it was."""

    identity: str  # changes when the events are replaced
    growth: int  # rises when events are stored
    is_lasting: bool  # a backup that is restored has the same identity: tables that reSolve made have none of their own


class Stretch(NamedTuple):
    """Consecutive events in order of their keys."""

    threads: Sequence[int]  # of all of them, including those that the filter leaves out
    counters: Sequence[int]  # likewise
    passing: (
        bytes | None
    )  # a 1 for each event that the filter lets pass, and a 0 for each other; None if all pass
    printed: bytes  # the lines of those that pass, as the database prints JSON
    tidied: Callable[
        [bytes], bytes
    ]  # makes of such lines what an export gives; the next events need not wait for it
    number: int  # of lines
    last: int  # the highest timestamp
    is_end: bool  # the store holds nothing behind them

    @property
    def behind(self) -> Key:
        """The least key behind it, if they are in order of their keys; of one thread only the counter counts. It is
        not empty."""
        return Key(self.last, self.counters[-1], self.threads[-1] + 1)


NOTHING = Stretch((), (), None, b"", bytes, 0, 0, is_end=True)  # no event is left

Give: TypeAlias = Callable[[Stretch], None]
"""Called with each stretch, in the event loop."""


class HistoryRequest(NamedTuple):
    """Asks for events of one aggregate, in the order of their versions."""

    aggregate_id: str
    from_version: int  # the first, or the next that there is
    limit: int  # how many at most
    max_bytes: int  # they end when their lines reach this, after at least one


First: TypeAlias = HistoryRequest | Literal["state"]
"""What a reading is asked first: `lines_of` of a history, or `state`."""


class Segment(NamedTuple):
    """The part of a thread from `start` up to, not including, `end`, and the time that it is compared with."""

    thread_id: int
    start: int
    end: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are meant. None: no condition; an empty tuple: nothing matches. Times are inclusive.

    An aggregate is one of the ids, or begins with one of the prefixes, byte by byte. A type to exclude is excluded
    whatever else is said.
    """

    event_types: tuple[str, ...] | None = None
    aggregate_ids: tuple[str, ...] | None = None
    start_time: int | None = None
    finish_time: int | None = None
    exclude_types: tuple[str, ...] = ()
    aggregate_prefixes: tuple[str, ...] | None = None
    # Leave out events whose payloads are in an archive. That is done above the boundary (`reading/pages.py`).
    skips_archived: bool = False

    @property
    def is_open(self) -> bool:
        """Whether every event matches."""
        return self == EVERYTHING

    @property
    def is_empty(self) -> bool:
        """Whether no event can match."""
        is_any = self.aggregate_ids is None and self.aggregate_prefixes is None
        return self.event_types == () or not (is_any or self.aggregate_ids or self.aggregate_prefixes)

    @property
    def names_aggregates(self) -> bool:
        """Whether the events are those of aggregates that are named one by one."""
        return self.aggregate_ids is not None and not self.aggregate_prefixes


EVERYTHING = Filter()


class ReadScope(NamedTuple):
    """Which events a question is about."""

    since: Sequence[int] | None = None  # the 256 counters to begin at; None includes what has been read
    until: Sequence[int] | None = None  # the 256 counters to end before; None for no end
    only: Filter = EVERYTHING  # which of these to give
    thread: int | None = (
        None  # the one thread that is meant, by `Reading.read_on` alone; None for all of them
    )

    def counters_from(self, bound: Key) -> tuple[int, int]:
        """Where the events of `thread` begin that are not before the bound, and where they end."""
        thread = self.thread or 0
        begin = bound.thread_counter + (bound.thread_id > thread)
        since = 0 if self.since is None else self.since[thread]
        return max(begin, since), 2**62 if self.until is None else self.until[thread]


@dataclass(frozen=True, slots=True)
class Freeze:
    """The marker that makes writes fail."""

    owner: str | None  # the id of the running operation that set it; None if a user did
    since: int | None  # when, in ms since 1970; None where the marker does not say (reSolve's)


class Save(NamedTuple):
    """Events of one aggregate, mostly a single one, that are stored together or not at all. They share their final
    timestamp."""

    events: Sequence[NewRow]
    version: int  # of the first; the others follow
    is_next: bool  # whether the version before must be the aggregate's last one

    @property
    def aggregate_id(self) -> str:
        """Whose events they are."""
        return self.events[0].aggregate_id

    @property
    def timestamp(self) -> int:
        """When they happen."""
        return self.events[0].timestamp


class Saved(NamedTuple):
    """Where an event was stored, the first of several that follow one another, and the 256 heads as committed."""

    thread_id: int
    thread_counter: int
    heads: list[int]


class NextPlace(NamedTuple):
    """Where the next event of an aggregate goes."""

    last_version: int  # of the aggregate; 0 where it has no event
    thread_id: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the stage of an import has come, committed together with its rows."""

    byte_offset: int = 0  # of the source, behind the last line consumed
    line: int = 1  # the number of the next line
    events: int = 0  # how many the stage holds
    digest: bytes = b""  # of all bytes consumed, chained from commit to commit


# Events on their way into a "replace" stage, into a "merge" stage, or into one of the two.
RowBatch: TypeAlias = Batch[NumberedRow, Progress]
NewRowBatch: TypeAlias = Batch[NewRowValues, None]
StageBatch: TypeAlias = Batch[Any, Any]

# What an import, `begin_import`, an incremental import and `begin_incremental_import` stage.
StageKind: TypeAlias = Literal["replace", "parts", "merge", "open"]
PLACED: tuple[StageKind, ...] = ("replace", "parts")
"""The kinds of stages that hold the events to be, with their positions."""

# What a write transaction keeps out: nobody who saves, or them, or readers too.
WritingKind: TypeAlias = Literal["shared", "repeatable", "exclusive", "replacing"]
# What a write does on a frozen store.
Frozen: TypeAlias = Literal["refuse", "allow"]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage in the database."""

    id: str
    kind: StageKind
    table: str  # which holds its events
    owner: str | None = (
        None  # id of the operation that lives as long as its process; None for "open"; of "parts" the
    )
    # stage's own id, which nobody holds, until a commit has it
    since: int | None = None  # when it was made, in ms since 1970; None where a foreign writer made it
    baseline: str | None = (
        None  # of a "replace" or "parts" stage, what the store was at its beginning; None if that is overtaken
    )
    driver: str | None = (
        None  # of a "parts" stage, the operation without which it is void; None if it outlives all
    )

    @property
    def keeps_positions(self) -> bool:
        """Whether it holds the events to be, and is swapped, not merged."""
        return self.kind in PLACED


class Clash(NamedTuple):
    """Two lines of an import that cannot both be: the same position or the same version of an aggregate."""

    first_line: int
    second_line: int
    field: str
    what: str


class Shared(NamedTuple):
    """A row of a group (timestamp, aggregateId, type) that stands on both sides of a merge."""

    group: tuple[int, str, str]
    staged: int | None  # the row's number in the stage, in `Dialect.arrival`; None for an event of the store
    payload: bytes


class StageComparison(NamedTuple):
    """What a stage shares with the store. `shared` are groups (timestamp, aggregateId, type) that both hold still,
    whole and one after the other, the staged rows in order of arrival. Blocks may cut a group."""

    stage: Stage  # the one that the other steps of the merge take
    known: int  # events that were taken out of it, since the store holds them beyond doubt
    shared: AsyncGenerator[list[Shared], None]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a database finds when it looks at the store's tables."""

    faults: list[str]  # in counters and indexes, each a sentence without anything of an event's contents
    unchecked: list[str]  # what could not be looked at, and why


class Traits(NamedTuple):
    """What is fixed about a database."""

    resource_names: dict[str, str]  # where the store is, without a password: for messages and for `describe`
    saves_at_once: int  # how many calls of `save` at a time are faster than one after the other


class Reading(Protocol):
    """One consistent state of the store, for a short time."""

    @property
    def dialect(self) -> Dialect:
        """How statements for `ask` and `Writing.change` are written."""

    async def ask(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """The rows of a small statement."""

    async def state(self) -> State:
        """Which events these are, and a number that rises with them."""

    async def freeze(self) -> Freeze | None:
        """The marker of a freeze, if there is one, whoever set it."""

    async def heads(self) -> list[int]:
        """The 256 next counters."""

    async def read_on(
        self, bound: Key, scope: ReadScope, limit: int, max_bytes: int, count: int, give: Give
    ) -> None:
        """Read events from the least key `bound` on, in order of their keys, in at most `count` consecutive stretches
        with `limit` lines in all. Those of one thread come in order of their counters, from the bound's on. Events
        that the filter leaves out are walked over and have no line.

        Each stretch is given, in the event loop, as soon as it has arrived, while the database reads the next. One
        ends when its lines reach about `max_bytes` (it has at least one event), or after a number of events of the
        database's choice. The end of the store is always reported: by the last stretch, or by an empty one.
        """

    async def select(
        self, scope: ReadScope, limit: int, max_bytes: int | None, *, backwards: bool = False
    ) -> tuple[list[OrderedEvent], bool]:
        """At most `limit` events that match, sorted by their keys (`backwards`: the highest first), and whether no
        further one matches. They end when their lines reach `max_bytes` (at least one event); None: no lines, only
        positions. Where the filter names aggregates they are found by the index on aggregateId."""

    async def lines_at(self, positions: Sequence[tuple[int, int]], max_bytes: int) -> list[bytes]:
        """The lines at these (thread, counter), in this order; stops early (after at least one) at `max_bytes`."""

    async def lines_of(self, history: HistoryRequest, *, tidied: bool = True) -> tuple[list[bytes], bool]:
        """The lines of an aggregate, and whether they surely are all that there are. Those that nobody sees need not be
        tidied: then they may be as the database prints JSON."""

    async def in_threads(
        self, unread: Mapping[int, int], until: Sequence[int] | None, only: Filter, count: int
    ) -> list[tuple[Key, bool]]:
        """The next `count` events of each thread in `unread`, which says where to begin in each, ordered by counter
        within a thread, each with whether the filter lets it pass."""

    async def any_later(self, segments: Sequence[Segment]) -> bool:
        """Whether a segment holds an event with a higher timestamp than the segment's."""

    async def least_counters(self, times: Sequence[int], scope: ReadScope) -> list[tuple[int, int, int]]:
        """(i, thread, counter): the least counter in each thread among the events that match, by span of time. `times`
        rise. Span i begins at times[i] and ends before the next; the last has no end. Without times one span holds all
        events."""

    async def stages(self, kind: StageKind) -> list[Stage]:
        """The stages of that kind that outlive their process. Of all but "merge" there is at most one."""

    async def limits(self, stage: Stage | None = None) -> ColumnLimits:
        """What the columns of a stage can hold, for an "open" one also those of the store behind it; without one, those
        of the events."""

    async def inspect(self, limit: int) -> Inspection:
        """Whether counters and indexes agree with the events, told by at most so many faults: with the right to read,
        and changing nothing. The one reading that is not short: it takes as long as reading all events does."""


class Writing(Reading, Protocol):
    """A shared write transaction: it touches no event, and saves go on meanwhile."""

    async def change(self, statement: str, values: Sequence[Value] = (), *, erases: bool = False) -> int:
        """Run a small statement; how many rows it found or changed. With `erases`, what was deleted stands in no
        journal when the transaction has ended."""

    async def change_freeze(self, before: Freeze | None, after: Freeze | None) -> bool:
        """Set the marker of a freeze, replace it by another or remove it, if `before` is what stands there still;
        whether it was done. Only an exclusive transaction sets one: then no write is under way."""

    # stages
    async def make_stage(
        self, kind: StageKind, *, owner: str | None = None, baseline: str | None = None
    ) -> Stage:
        """Make an empty stage. At most one "replace", one "parts" and one "open" stage exist at a time: whoever makes
        one has looked for others in the same exclusive transaction. For a stage that keeps positions raises
        UnsupportedStoreError where the events have what a swap could not carry over; the swap looks again. The owner of
        a "parts" stage is its driver."""

    async def adopt_stage(self, stage: Stage, owner: str) -> Stage:
        """Give a stage whose owner is dead to another. Waits for the step that its former owner is in the middle of;
        each further one raises StoreBusyError. So does this, if somebody was quicker. Raises UnsupportedStoreError as
        `make_stage` does."""

    async def drop_stage(self, stage: Stage) -> None:
        """Remove a stage, together with what else this transaction does. It is out of use for what is left of
        the transaction; another of its kind is made in the next one."""

    async def stage_rows(self, stage: Stage, batch: StageBatch) -> None:
        """Put rows into a stage: into a "replace" one as they come, with a note of how far it has come with them; into
        a "parts" one as they come; into a "merge" one behind those that it holds."""

    async def make_indexes(self, stage: Stage, which: Literal["unique", "other"]) -> Clash | None:
        """Make some of the indexes of a stage that keeps positions, as far as they are not there yet; where rows are
        not unique, which lines clash."""

    async def pour(self, source: Stage, target: Stage, part: bytes | None) -> None:
        """Add what a "merge" stage holds, in order of arrival, to the "open" one under a part's sort key; None where
        that knows no parts. What a named part brought before is removed."""


class ExclusiveWriting(Writing, Protocol):
    """An exclusive write transaction: what it reads of the events, nobody else can change before it ends."""

    async def append(self, rows: Sequence[Row], *, fills_gaps: bool = False) -> None:
        """Store events at their positions. Raises ConcurrentError where a version of an aggregate is taken. With
        `fills_gaps`, some lie below their threads' heads, where an import that is on its way to replace the events
        does not see them by the heads: so its stage loses its baseline."""

    async def rewrite(self, rows: Sequence[Row]) -> None:
        """Give stored events, which their positions name, the payloads of these rows. Nothing
        else of the events changes. Where the database can see to that, what stood there leaves no remnant in the
        tables. Without rows, nor does what was deleted before, and when the transaction has ended it stands in no
        journal."""

    async def next_places(self, wanted: Sequence[tuple[str, int]]) -> list[NextPlace]:
        """Where the next event of each of these aggregates goes, if it has this timestamp: (aggregateId, timestamp).
        The thread is that of a save (`Database.save`)."""

    # merge
    async def compare(self, stage: Stage) -> StageComparison:
        """Take out of the stage what the store holds already, as far as the database itself can tell: the payloads are
        the same bytes (or the column keeps values and no spellings, and they are the same to it), and the event is the
        only one of its group (timestamp, aggregateId, type) in the stage. It comes first: what it finds in the store
        serves the other steps."""

    async def place(self, stage: Stage) -> int:
        """Store what the stage holds, in order of (timestamp, arrival); returns how many events that is. One timestamp
        goes to one thread, `timestamp` modulo 256; but where an aggregate of that timestamp has an event at it
        already, the thread of the store's latest event. Versions go on from each aggregate's last."""


class Replacing(ExclusiveWriting, Protocol):
    """An exclusive write transaction that readers make way for too."""

    async def swap(self, stage: Stage) -> None:
        """The stage takes the place of the events; snapshots and subscribers, which describe the old, go."""

    async def drop(self) -> None:
        """Remove the store's tables with everything in them and beside them."""


Undo: TypeAlias = Callable[[], Awaitable[None]]  # undoes something, as far as nobody has made use of it


class Database(Protocol):
    """A store's database. Connects at the first call that needs it; opening never changes a store."""

    @property
    def life(self) -> Life:
        """What is under way on it. Every connection that is lent, and everything that takes a lock, is. At its end what
        the database holds open is closed."""

    @property
    def traits(self) -> Traits:
        """What is fixed about it."""

    async def create(self) -> Undo | None:
        """Make the tables; returns what removes again the file that this made, unless anything is in it or anybody
        else has it open, or None if it made none. Raises StoreExistsError."""

    async def upgrade(self) -> list[str]:
        """Add what a foreign store lacks for speed; the names of what was added."""

    def reading(self, first: First | None = None) -> AbstractAsyncContextManager[Reading]:
        """A read transaction. If it is known what will be asked first, a server may answer it as it begins. Raises
        StoreNotFoundError."""

    @overload
    def writing(
        self, kind: Literal["shared"] = "shared", *, frozen: Frozen = "refuse", secrets: bool = False
    ) -> AbstractAsyncContextManager[Writing]: ...

    @overload
    def writing(
        self, kind: Literal["repeatable", "exclusive"], *, frozen: Frozen = "refuse", secrets: bool = False
    ) -> AbstractAsyncContextManager[ExclusiveWriting]: ...

    @overload
    def writing(
        self, kind: Literal["replacing"], *, frozen: Frozen = "refuse", secrets: bool = False
    ) -> AbstractAsyncContextManager[Replacing]: ...

    def writing(
        self, kind: WritingKind = "shared", *, frozen: Frozen = "refuse", secrets: bool = False
    ) -> AbstractAsyncContextManager[Writing]:
        """A write transaction: "shared" with saves, or "exclusive", which has the events to itself and keeps no reader
        out, or "replacing", which is an exclusive one that waits for readers too, in short attempts, so that nobody
        queues behind it. A "repeatable" one is an exclusive one that may raise OvertakenError where a cluster is
        written to on several nodes, and holds up the others less.

        Whether the store is frozen is for the caller to look at; `owners.writing` does. With "refuse" no freeze is set
        before the end. With `secrets` nobody else changes secrets before the end, and what is deleted leaves no remnant
        in their table. Raises StoreBusyError after `busy_timeout`, and StoreNotFoundError; and NotErasedError, of
        secrets SecretNotErasedError, when all is committed, but a journal may still hold what was deleted.
        """

    async def save(self, saves: Sequence[Save]) -> Sequence[Saved | None]:
        """Store events durably, one save after the other in one transaction, as `writing` would.

        The thread is `order.thread_of`'s, or the next whose last timestamp is not later; but where the aggregate has
        an event at that very timestamp, the thread of the last such event.

        For each it says where it is, with the heads behind the whole transaction. Of several, one that anything is
        in the way of may be left out, and is None. One alone is stored, or the error says why not: ConcurrentError
        where a version is taken, or should be the next and is not; InputError where the store's columns cannot hold an
        event. Raises StoreFrozenError where the marker of a freeze stands, whoever set it.
        """

    async def own(self) -> str:
        """Begin to own: takes a lock that dies with this process. Gives the id of the new owner, a running operation,
        which stands in the markers of what it owns."""

    async def release(self, owner: str) -> None:
        """Give the lock of an owner back; twice is fine."""

    async def is_alive(self, owner: str) -> bool:
        """Whether an owner's process holds its lock still. Touches nothing."""

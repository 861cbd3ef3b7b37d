"""What a sync asks of its source, be it a store or another product's table: the boundary behind which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from eventferry.database import Database
from eventferry.errors import CursorAheadError, StoreReplacedError
from eventferry.lifecycle import Life
from eventferry.lines.event import Event
from eventferry.lines.source_lines import SourceLines
from eventferry.state.erasures import Erasure
from eventferry.syncing.secret_changes import SecretChanges

if TYPE_CHECKING:
    from eventferry.sources.source import SourceReport

NO_IDENTITY = "00" * 8


def joined(batches: Sequence[SourceLines]) -> SourceLines:
    """Several that follow one another as one."""
    skipped: Counter[str] = Counter()
    for batch in batches:
        skipped.update(batch.skipped)
    versions = [version for batch in batches for version in batch.versions]
    text = b"".join(batch.text for batch in batches)
    return SourceLines(text, sum(batch.number for batch in batches), versions, skipped)


class Following(Protocol):
    """Gives what is new in a source, each event once, in the source's order."""

    @property
    def is_caught_up(self) -> bool:
        """Whether the last look has seen the end of the source."""

    @property
    def is_complete(self) -> bool:
        """Whether everything has been given that the source held when the following began. Not only where a look
        finds nothing: writers may save faster than that."""

    @property
    def is_waiting(self) -> bool:
        """Whether the last look has seen events that may not be taken yet."""

    async def bookmark(self) -> str:
        """The bookmark behind the last batch. Raises as the first look does."""

    async def next(self, idle: float) -> SourceLines:
        """The next lines, as soon as there are some, or none after `idle` seconds. Raises StoreReplacedError or
        CursorAheadError where what was read is no longer the source's history."""


class Fill(Protocol):
    """Everything that a source holds, as blocks of lines, for the first fill of a replica."""

    @property
    def cursor(self) -> str:
        """Of the replica behind the last event that was given out."""

    @property
    def exported(self) -> int:
        """How many events have been given out."""

    @property
    def report(self) -> SourceReport | None:
        """What has become of the rows so far; None where the source is no table."""

    async def bookmark(self) -> str:
        """The bookmark of the source behind the last event that was given out."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Begin."""

    async def aclose(self) -> None:
        """End it; twice is fine."""


class Waiting(NamedTuple):
    """What a source has that has not been brought over.

    Attributes:
        events: how many there are.
        since: the least timestamp of those that come next; None if there are none.
        problem: why what was brought over is no longer the source's history.
    """

    events: int
    since: int | None
    problem: CursorAheadError | StoreReplacedError | None


def not_as_synced(
    error: CursorAheadError | StoreReplacedError, place: str
) -> CursorAheadError | StoreReplacedError:
    """The error of a reader in the words of a sync: which source has another history, and what can be done."""
    whole = "Nothing was changed: the target is whole as it was at its last batch."
    anew = (
        "If the source was restored or replaced by mistake, restore it again; otherwise sync into an empty store to "
        "begin anew"
    )
    if isinstance(error, StoreReplacedError):
        return StoreReplacedError(
            f"the source {place} is not what was synced before: {error}. {whole} {anew}"
        )
    why, remedy = "a backup was restored", anew
    if error.is_standby:
        why, remedy = "it is a standby, which may lag behind", "Try again later"
    return CursorAheadError(
        error.thread_id,
        error.counter,
        error.head,
        is_standby=error.is_standby,
        reason=(
            f"the source {place} is behind what was synced: its thread {error.thread_id} was read up to "
            f"{error.counter}, and ends at {error.head}: {why}. {whole} {remedy}"
        ),
    )


class SyncSource(Protocol):
    """Where the events of a sync come from; it is only read."""

    @property
    def life(self) -> Life:
        """What is under way on it."""

    @property
    def place(self) -> str:
        """Where it is, without a password; from wherever it is looked at."""

    @property
    def has_places(self) -> bool:
        """Whether its events have places and versions by our rules. If not, they get theirs in the target: dense ones,
        in the order in which they come."""

    @property
    def exactness(self) -> str | None:
        """Of a source where events may become visible late, in the words of the report: whether one may be missed, and
        why. None where there is no such question, or it has not been looked at."""

    async def identities(self) -> list[str]:
        """In hex, its own identity first, then those of stores of which it is a copy: a sync that was begun from one of
        these goes on with it. `NO_IDENTITY` where it has none that lasts."""

    async def refuse_circles(self, target: Database, identity: str, own: str) -> None:
        """Refuse a sync whose events would come back to where they are from. `identity` is the source's, `own` the
        target's, in hex. Raises UsageError."""

    def secrets(self, target: Database) -> SecretChanges | None:
        """Its secrets, for the target; None if it has none."""

    async def erasures(self) -> list[Erasure]:
        """What was erased from it."""

    def fill(self) -> Fill:
        """All of it."""

    async def follow(self, since: str | None, limit: int) -> Following:
        """From a bookmark on, or from the start; at most `limit` events at a time."""

    async def last_versions(self, ids: Sequence[str], bookmark: str) -> dict[str, int]:
        """The last version of each of these aggregates among the events before a bookmark, as far as it has any."""

    async def waiting(self, bookmark: str | None) -> Waiting:
        """What it has behind a bookmark."""

    def told(self, event: Event) -> str:
        """Which event of the source that is, for an error."""

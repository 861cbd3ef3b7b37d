"""What a data frame reads: planned once on the driver, and read by tasks that share nothing but what they are given.

A store is read up to a bookmark, and a repository up to the end of a run. So each task, each retry and each action on
the data frame reads one state, or ends with an error that says that it is gone. Another product's tables have no such
end: a row with a lower position may become visible later, and rows may be changed or deleted. Each read sees one state,
that of its own time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from eventferry import cursor as vector
from eventferry.backup.partition import RepositoryPartition
from eventferry.backup.storage import whole_place
from eventferry.reading.bookmarks import counters_of
from eventferry.reading.partition import Partition
from eventferry.sources.mapping import Mapping, load_mapping
from eventferry.spark.options import ReadOptions
from eventferry.sync import EventStore, Repository, open_source, open_store

EVENTS_EACH = 50_000
"""Events of a task, about, where it is not said how many tasks there are: fewer are not worth a task's start."""

_ANY_NUMBER = 10**9


class Origin(Protocol):
    """What is read. It goes to the workers, pickled.

    Attributes:
        can_filter: whether it can leave out events by itself.
    """

    can_filter: bool

    def slices(self) -> Sequence[Any]:
        """What there is to read, for a task each."""

    def blocks(self, part: Any, only: dict[str, Any]) -> Iterator[bytes]:
        """The lines of such a slice; `only` are the filters of `EventStore.read_partition`."""


class StoreOrigin(msgspec.Struct, kw_only=True):
    """A store between two bookmarks."""

    url: str
    since: str
    until: str
    num_partitions: int | None
    can_filter: bool = True

    def slices(self) -> Sequence[Partition]:
        """As `Origin` says."""
        with open_store(self.url) as store:
            return slices_between(store, self.since, self.until, self.num_partitions)

    def blocks(self, part: Partition, only: dict[str, Any]) -> Iterator[bytes]:
        """As `Origin` says."""
        return blocks_of(self.url, part, only)


class RepositoryOrigin(msgspec.Struct, kw_only=True):
    """A backup: the state at the end of a run, or of the last one at the time when the data frame is made."""

    place: str
    chain: str
    manifest: int
    identities: Sequence[str]
    num_partitions: int | None
    can_filter: bool = True

    def slices(self) -> Sequence[RepositoryPartition]:
        """As `Origin` says."""
        return self._repository.partitions(
            self.num_partitions or _ANY_NUMBER, manifest=self.manifest, chain=self.chain
        )

    def blocks(self, part: RepositoryPartition, only: dict[str, Any]) -> Iterator[bytes]:
        """As `Origin` says."""
        with self._repository.read_partition(part, **only) as lines:
            yield from lines

    @property
    def _repository(self) -> Repository:
        return Repository(self.place, self.identities)


class ForeignOrigin(msgspec.Struct, kw_only=True):
    """Another product's tables. They are read by one task, in one state: an event's position and version follow from
    all rows before it."""

    url: str
    mapping: Mapping
    can_filter: bool = False

    def slices(self) -> Sequence[str]:
        """As `Origin` says."""
        return ["all"]

    def blocks(self, part: str, only: dict[str, Any]) -> Iterator[bytes]:
        """As `Origin` says."""
        with open_source(self.url, self.mapping) as source, source.export_events() as lines:
            yield from lines


def origin_of(options: ReadOptions) -> Origin:
    """What these options say; fixes the state that is read. Raises as opening a store or a repository does."""
    if options.repository is not None:
        repository = Repository(options.repository, options.identities)
        newest = repository.status(options.chain).newest
        return RepositoryOrigin(
            place=whole_place(options.repository),
            chain=newest.chain,
            manifest=options.manifest or newest.manifest,
            identities=options.identities,
            num_partitions=options.num_partitions,
        )
    if options.url is None:
        raise AssertionError("options name a database or a repository")
    if options.mapping is not None:
        return ForeignOrigin(url=options.url, mapping=load_mapping(options.mapping))
    with open_store(options.url) as store:
        return StoreOrigin(
            url=options.url,
            since=store.bookmark(None) if options.since is None else options.since,
            until=store.bookmark() if options.until is None else options.until,
            num_partitions=options.num_partitions,
        )


def slices_between(store: EventStore, since: str, until: str, number: int | None) -> list[Partition]:
    """What lies between two bookmarks, in `number` slices at most.

    Raises:
        UsageError: one of them is not a bookmark.
        CursorAheadError, StoreReplacedError: the store does not hold what they have read.
    """
    begin, end = counters_of(since), counters_of(until)
    events = sum(max(head - counter, 0) for counter, head in zip(begin, end, strict=True))
    found = store.partitions(
        number or max(-(-events // EVENTS_EACH), 1), vector.encode(begin), vector.encode(end)
    )
    # Behind the cut: what replaces the events now is refused by each slice, and what did so before is seen here.
    for bookmark in (since, until):
        check(store, bookmark)
    return found


def check(store: EventStore, bookmark: str) -> None:
    """Raises CursorAheadError or StoreReplacedError where the store does not hold what a bookmark has read."""
    with store.export_events(since=bookmark) as lines:
        lines.begin()


def blocks_of(url: str, part: Partition, only: dict[str, Any]) -> Iterator[bytes]:
    """The lines of a slice of a store."""
    with open_store(url) as store, store.read_partition(part, **only) as lines:
        yield from lines

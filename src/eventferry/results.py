"""The results of a store's methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from eventferry.cursor import encode
from eventferry.lines.event import Event, EventInput

ExpectedVersion: TypeAlias = int | Literal["any", "none"]
"""Where an append expects an aggregate: at this last version; at any; "none", or 0: without events."""


class SavedEvent(msgspec.Struct, frozen=True):
    """The result of `save_event`.

    Attributes:
        event: the event as stored, with its position and timestamp.
        heads: the next counter of each of the 256 threads right after the commit.
    """

    event: Event
    heads: Sequence[int]

    @property
    def cursor(self) -> str:
        """The heads as a cursor: a reader that has reached it has read the event."""
        return encode(self.heads)


class Append(msgspec.Struct, frozen=True):
    """Events of one aggregate, for `append_batches`.

    Attributes:
        aggregate_id: the aggregate.
        events: as `append_events` takes them; at least one.
        expected_version: as `append_events` takes it.
    """

    aggregate_id: str
    events: Iterable[EventInput]
    expected_version: ExpectedVersion = "any"


class Appended(msgspec.Struct, frozen=True):
    """The result of `append_events` and `append_batches`.

    Attributes:
        events: the events as stored, with their positions, versions and timestamp, in the order given.
        heads: the next counter of each of the 256 threads right after the commit. Of a repeated append when it was
            repeated.
        is_repeated: whether an append with the same idempotency key had stored them before.
    """

    events: list[Event]
    heads: Sequence[int]
    is_repeated: bool

    @property
    def cursor(self) -> str:
        """The heads as a cursor: a reader that has reached it has read the events."""
        return encode(self.heads)


class AggregatePage(msgspec.Struct, frozen=True, rename="camel"):
    """A page of the events of one aggregate.

    Attributes:
        events: in the order of their versions.
        next_version: the version of the next event; None if there is none.
    """

    events: list[Event]
    next_version: int | None


class Page(msgspec.Struct, frozen=True):
    """A page of events.

    Attributes:
        events: in order.
        cursor: the cursor after the page; None for a page by time.
        bookmark: the bookmark after the page; None for a page by cursor or by time.
    """

    events: list[Event]
    cursor: str | None
    bookmark: str | None = None


class OpenImportDescription(msgspec.Struct, frozen=True):
    """An open import in steps: its id, and when it began, in ms since 1970 (None if reSolve began it)."""

    id: str
    since: int | None


class Description(msgspec.Struct, frozen=True, rename="camel"):
    """The result of `describe`.

    Attributes:
        event_count: number of events.
        secret_count: number of secrets, including tombstones.
        set_secret_count: number of secrets that are not deleted.
        deleted_secret_count: number of tombstones.
        last_event_timestamp: the highest timestamp; 0 if the store is empty.
        is_frozen: whether writes fail.
        resource_names: the location of the store and the names of its tables.
        frozen_by: "user", or "operation" for a running export, import or copy; None if not frozen.
        frozen_since: in ms since 1970; None if not frozen or not known.
        open_import: the open incremental import, or None.
        parts_import: the open import in parts, or None.
        cursor: the cursor after the last event, if asked for.
    """

    event_count: int
    secret_count: int
    set_secret_count: int
    deleted_secret_count: int
    last_event_timestamp: int
    is_frozen: bool
    resource_names: dict[str, str]
    frozen_by: str | None
    frozen_since: int | None
    open_import: OpenImportDescription | None
    parts_import: OpenImportDescription | None
    cursor: str | None


class Subscriber(msgspec.Struct, frozen=True, rename="camel"):
    """A row of reSolve's registry of read models. `destination` and `status` are any JSON values."""

    application_name: str
    event_subscriber: str
    destination: Any
    status: Any


class ImportProgress(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The progress of an import that is running or was interrupted.

    Attributes:
        imported: number of staged events.
        byte_offset: the offset in the source after the last staged line, where a resume continues.
        is_running: whether its process is alive; then nobody else can resume it.
    """

    imported: int
    byte_offset: int
    is_running: bool


class ImportReport(msgspec.Struct, frozen=True, rename="camel"):
    """What an incremental import returns, and an import in parts, which skips nothing.

    Attributes:
        imported: events that came in.
        skipped_existing: events that the store held already.
        skipped_older: events older than the latest one that the store held before.
    """

    imported: int = 0
    skipped_existing: int = 0
    skipped_older: int = 0

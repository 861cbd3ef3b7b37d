"""What the methods of a store return."""

from __future__ import annotations

from typing import Any

import msgspec

from eventferry.lines.event import Event


class SavedEvent(msgspec.Struct, frozen=True):
    """What `save_event` returns.

    Attributes:
        event: as it is stored, with its position and its timestamp.
        cursor: the heads as committed: whoever has read everything up to here has read the event too.
    """

    event: Event
    cursor: str


class Page(msgspec.Struct, frozen=True):
    """A page of events.

    Attributes:
        events: in order.
        cursor: behind the page; None for a page by time, which has none.
    """

    events: list[Event]
    cursor: str | None


class OpenImportDescription(msgspec.Struct, frozen=True):
    """An open incremental import: its id, and since when, in ms since 1970 (None: reSolve opened it)."""

    id: str
    since: int | None


class Description(msgspec.Struct, frozen=True, rename="camel"):
    """What `describe` returns.

    Attributes:
        event_count: events in the store.
        secret_count: rows of secrets.
        set_secret_count: those that hold a secret.
        deleted_secret_count: those that are tombstones.
        last_event_timestamp: the highest timestamp, 0 if the store is empty.
        is_frozen: whether writes fail.
        resource_names: where the store is.
        frozen_by: "user", or "operation" for a running export, import or copy; None if not frozen.
        frozen_since: in ms since 1970; None where the marker does not say.
        open_import: the open incremental import.
        cursor: the 256 heads, if asked for.
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
    cursor: str | None


class Subscriber(msgspec.Struct, frozen=True, rename="camel"):
    """A row of reSolve's registry of read models; destination and status are any JSON values."""

    application_name: str
    event_subscriber: str
    destination: Any
    status: Any


class ImportProgress(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How far an import has come that is running, or was interrupted.

    Attributes:
        imported: how many events are staged.
        byte_offset: of the source, behind the last line that is staged: where a resume goes on.
        is_running: whether its process lives: nobody else can go on with it then.
    """

    imported: int
    byte_offset: int
    is_running: bool

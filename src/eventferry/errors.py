"""Every error that eventferry raises: one class per condition, all under `EventferryError`."""

from __future__ import annotations

__all__ = [
    "AlreadyFrozenError",
    "ConcurrentError",
    "DatabaseError",
    "EmptyInputError",
    "EventferryError",
    "ImportNotFoundError",
    "ImportOpenError",
    "InputError",
    "MissingExtraError",
    "NotFrozenError",
    "OlderEventsError",
    "ReadOnlyStoreError",
    "ResumeError",
    "SecretConflictError",
    "SecretExistsError",
    "SecretNotErasedError",
    "StoreBusyError",
    "StoreChangedError",
    "StoreClosedError",
    "StoreExistsError",
    "StoreFrozenError",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreReplacedError",
    "StoreUnreachableError",
    "UnsupportedStoreError",
    "UsageError",
]


class EventferryError(Exception):
    """The base of every error of eventferry."""


class UsageError(EventferryError, ValueError):
    """Arguments that are wrong, or that do not go together; nothing was done."""


class MissingExtraError(EventferryError, ImportError):
    """A package that this operation needs is not installed; the message says what to install."""


class DatabaseError(EventferryError):
    """The database refused or failed in a way that has no name of its own here."""


class StoreUnreachableError(DatabaseError):
    """The database server cannot be reached, refuses the login, or the connection broke."""


class UnsupportedStoreError(EventferryError):
    """The store has something that this operation would lose or damage; the message names it."""


class StoreExistsError(EventferryError):
    """`init` of a store that is there already."""


class StoreNotFoundError(EventferryError):
    """There is no store at that place."""


class StoreClosedError(EventferryError):
    """The store object was used after `close`."""


class StoreFrozenError(EventferryError):
    """The store is frozen: nothing may be written until `unfreeze`."""


class AlreadyFrozenError(EventferryError):
    """`freeze` of a store that is frozen."""


class NotFrozenError(EventferryError):
    """`unfreeze` of a store that is not frozen."""


class StoreBusyError(EventferryError):
    """Somebody else held the store for longer than `busy_timeout`, or another import is running."""


class StoreChangedError(EventferryError):
    """Somebody saved events while an import was on its way; nothing was replaced."""


class StoreFullError(EventferryError):
    """An import that must not replace events met a store that holds some; nothing was replaced."""


class StoreReplacedError(EventferryError):
    """The events were replaced while an export was reading them, or their file was while a store had it open."""


class ReadOnlyStoreError(EventferryError):
    """The store cannot be written (or not even opened safely) with the rights at hand."""


class ConcurrentError(EventferryError):
    """The aggregate already has an event of that version.

    Attributes:
        aggregate_id: the aggregate.
        aggregate_version: the version that is taken.
    """

    def __init__(self, aggregate_id: str, aggregate_version: int) -> None:
        super().__init__(f"aggregate {aggregate_id!r} has an event of version {aggregate_version} already")
        self.aggregate_id = aggregate_id
        self.aggregate_version = aggregate_version


class ImportOpenError(EventferryError):
    """An incremental import is open already; the message says since when and how to end it."""


class ImportNotFoundError(EventferryError):
    """No incremental import with that id is open; nothing was changed."""


class OlderEventsError(EventferryError):
    """Events older than the latest of the store came in with `older="reject"`; nothing was changed."""


class EmptyInputError(EventferryError):
    """An import of no events would have replaced the events of a store that holds some."""


class ResumeError(EventferryError):
    """The source is not the one that the interrupted import began with."""


class SecretExistsError(EventferryError):
    """The id of a secret was used before; an id is used once, also after its secret was deleted."""


class SecretConflictError(EventferryError):
    """An import of secrets brings another secret for an id that the store holds; nothing was changed."""


class SecretNotErasedError(EventferryError):
    """The secret was deleted, but a copy of it may still stand in the database's journal."""


class InputError(EventferryError):
    """Input that cannot become an event (or a secret).

    Attributes:
        line: number of the line in the input, from 1; for a list or a JSON array the place in it, from 1.
        byte_offset: where that line begins in the input, in bytes; None where the input has no bytes.
        field: the key that is wrong, as it is spelled in a line; None where it is the line as a whole.
        reason: what is wrong, without the place.
    """

    def __init__(
        self,
        reason: str,
        *,
        line: int | None = None,
        byte_offset: int | None = None,
        field: str | None = None,
        unit: str = "line",
    ) -> None:
        place = [f"{unit} {line}"] if line is not None else []
        if byte_offset is not None:
            place.append(f"byte {byte_offset}")
        if field is not None:
            place.append(f"field {field}")
        super().__init__(f"{', '.join(place)}: {reason}" if place else reason)
        self.reason = reason
        self.line = line
        self.byte_offset = byte_offset
        self.field = field

"""Every error that eventferry raises: one class per condition, all under `EventferryError`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AggregateConflictError",
    "AlreadyFrozenError",
    "ArchiveError",
    "BackupDivergedError",
    "ChangeError",
    "ConcurrentError",
    "CursorAheadError",
    "CutoverError",
    "DatabaseError",
    "EmptyInputError",
    "EndMarkError",
    "EventferryError",
    "IdempotencyKeyError",
    "ImportNotFoundError",
    "ImportOpenError",
    "InputError",
    "MappingError",
    "MissingExtraError",
    "NotErasedError",
    "NotFrozenError",
    "OlderEventsError",
    "OrderError",
    "OtherChangesError",
    "PartMissingError",
    "ReadOnlyStoreError",
    "RepositoryDamagedError",
    "RepositoryError",
    "ResumeError",
    "RulesError",
    "SecretConflictError",
    "SecretExistsError",
    "SecretNotErasedError",
    "SourceRowError",
    "StoreBusyError",
    "StoreChangedError",
    "StoreClosedError",
    "StoreExistsError",
    "StoreFrozenError",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreReplacedError",
    "StoreUnreachableError",
    "TargetChangedError",
    "UnsafeStorageError",
    "UnsupportedStoreError",
    "UsageError",
    "VersionGapError",
    "WorkerError",
]


class EventferryError(Exception):
    """The base of every error of eventferry."""


class UsageError(EventferryError, ValueError):
    """The arguments are wrong, or cannot be combined. Nothing was done."""


class MappingError(UsageError):
    """A mapping of another product's tables is wrong, or does not fit them. Nothing was read."""


class RulesError(UsageError):
    """Rules for changes on the way are wrong, or the key of their pseudonyms is missing. Nothing was read."""


class MissingExtraError(EventferryError, ImportError):
    """A package that this operation needs is not installed. The message says what to install."""


class DatabaseError(EventferryError):
    """The database failed or refused in a way that has no error class of its own."""


class StoreUnreachableError(DatabaseError):
    """The database server cannot be reached or refuses the login, or the connection was lost."""


class UnsupportedStoreError(EventferryError):
    """The operation would lose or damage something in the store. The message names it."""


class StoreExistsError(EventferryError):
    """`init`: the store exists already."""


class StoreNotFoundError(EventferryError):
    """There is no store at this location."""


class StoreClosedError(EventferryError):
    """The store object was used after `close`."""


class StoreFrozenError(EventferryError):
    """The store is frozen: writes fail until `unfreeze`."""


class AlreadyFrozenError(EventferryError):
    """`freeze`: the store is frozen already."""


class NotFrozenError(EventferryError):
    """`unfreeze`: the store is not frozen."""


class StoreBusyError(EventferryError):
    """Another writer held the store for longer than `busy_timeout`; or another import is running; or this operation
    lost the lock that shows that it is alive. Nothing was changed."""


class StoreChangedError(EventferryError):
    """Events were saved during an import. Nothing was replaced."""


class StoreFullError(EventferryError):
    """The store holds events, and the import was not allowed to replace any. Nothing was replaced."""


class StoreReplacedError(EventferryError):
    """The events are not those that were read: they were replaced, or a backup was restored. Or the file of an open
    store was replaced."""


class CursorAheadError(EventferryError):
    """A cursor has read more events than the store holds: a backup was restored, the cursor is of another store, or a
    standby lags behind. A reader that went on would miss events.

    Attributes:
        thread_id: the first thread in which it has.
        counter: the cursor's next counter there.
        head: the store's.
        is_standby: whether the store is on a standby, which may catch up: try again later.
    """

    def __init__(
        self, thread_id: int, counter: int, head: int, *, is_standby: bool, reason: str | None = None
    ) -> None:
        if reason is None:
            hint = (
                "this is a standby, which may lag behind: try again later"
                if is_standby
                else "a backup was restored, or the cursor is of another store"
            )
            reason = f"the cursor has read thread {thread_id} up to {counter}, where the store ends at {head}: {hint}"
        super().__init__(reason)
        self.thread_id = thread_id
        self.counter = counter
        self.head = head
        self.is_standby = is_standby


class ReadOnlyStoreError(EventferryError):
    """Permission denied: the store cannot be written, or cannot even be opened safely."""


class ConcurrentError(EventferryError):
    """The aggregate already has an event with this version, or is not where an append expected it.

    Attributes:
        aggregate_id: the aggregate.
        aggregate_version: the version; of an append, that which its first event would have had.
        last_version: of an append, the aggregate's last version, 0 if it has no events; of a save, only where its
            version is free, but lower than the last one.
    """

    def __init__(self, aggregate_id: str, aggregate_version: int, last_version: int | None = None) -> None:
        if last_version is None:
            reason = f"aggregate {aggregate_id!r} already has an event with version {aggregate_version}"
        else:
            expected, found = aggregate_version - 1, last_version or "none: it has no events"
            reason = f"the last version of aggregate {aggregate_id!r} should be {expected}, and is {found}"
        super().__init__(reason)
        self.aggregate_id = aggregate_id
        self.aggregate_version = aggregate_version
        self.last_version = last_version


class VersionGapError(EventferryError):
    """A save without `allow_gaps` would have left a gap in the versions of its aggregate. Nothing was stored.

    Attributes:
        aggregate_id: the aggregate.
        aggregate_version: the version of the event.
        last_version: the aggregate's last version, 0 if it has no events.
    """

    def __init__(self, aggregate_id: str, aggregate_version: int, last_version: int) -> None:
        super().__init__(
            f"version {aggregate_version} of aggregate {aggregate_id!r} would leave a gap: the next version is "
            f"{last_version + 1}"
        )
        self.aggregate_id = aggregate_id
        self.aggregate_version = aggregate_version
        self.last_version = last_version


class IdempotencyKeyError(EventferryError):
    """The idempotency key was used before, for other events. Nothing was stored."""


class TargetChangedError(EventferryError):
    """Somebody else has stored events in a replica, or a sync into the store was set up in another way. Nothing was
    changed."""


class OtherChangesError(UsageError):
    """A sync that has brought over events goes on only with the changes with which it was begun. Nothing was stored."""


class CutoverError(EventferryError):
    """After the last sync of a cutover the two stores were not equal."""


class AggregateConflictError(EventferryError):
    """A merge brings events of an aggregate that the target has events of its own for. The batch was not stored.

    Attributes:
        aggregate_id: the aggregate.
    """

    def __init__(self, aggregate_id: str) -> None:
        super().__init__(
            f"the aggregate {aggregate_id!r} lives on both sides: renumber the events that come "
            "(same_aggregate='renumber'), or begin the sync anew with a prefix for the source's aggregates "
            "(same_aggregate='prefix=…')"
        )
        self.aggregate_id = aggregate_id


class ImportOpenError(EventferryError):
    """An import in steps is open already. The message says since when, and how to end it."""


class ImportNotFoundError(EventferryError):
    """No import in steps with this id is open. Nothing was changed."""


class PartMissingError(EventferryError):
    """Parts of an import were begun and did not come to their ends. Nothing was changed: push them again.

    Attributes:
        parts: their names.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        shown = ", ".join(map(repr, parts[:10])) + (", …" if len(parts) > 10 else "")
        super().__init__(
            f"{len(parts)} of the parts were begun and did not come to their ends: {shown}. Push each again, or roll "
            "the import back. Nothing was changed"
        )
        self.parts = tuple(parts)


class OlderEventsError(EventferryError):
    """Some events are older than the store's latest event, and `older` is "reject". Nothing was changed."""


class ChangeError(EventferryError):
    """An event cannot be changed on the way as it was asked, or the sums of a change do not hold. The message names the
    event. Nothing of the input was stored, except what a MANUAL import has committed on the way.

    Attributes:
        reason: the message without what an exception of the user's function says, which may quote the event.
        said: that; empty where no function raised anything.
    """

    def __init__(self, reason: str, *, said: str = "") -> None:
        super().__init__(f"{reason}: {said}" if said else reason)
        self.reason = reason
        self.said = said


class EmptyInputError(EventferryError):
    """The input has no events, and the import would have removed all events of the store."""


class EndMarkError(EventferryError):
    """The input is not what was exported: its end mark is missing, or does not fit what stands before it. Nothing was
    stored of it, except what a MANUAL import has committed on the way."""


class ResumeError(EventferryError):
    """The source is not the one that the interrupted import began with. Nothing was changed."""


class RepositoryError(EventferryError):
    """A backup repository cannot be read or written. The message says what, and what the storage answered."""


class UnsafeStorageError(RepositoryError):
    """The storage does not honour "create only if absent", so two backups at once could overwrite one another. Nothing
    was backed up."""


class RepositoryDamagedError(RepositoryError):
    """An object of a backup repository is missing, or is not what was written.

    Attributes:
        name: of the object, within the repository.
        reason: what is wrong, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} in the repository is damaged: {reason}")
        self.name = name
        self.reason = reason


class BackupDivergedError(EventferryError):
    """The store is not a continuation of what its chain in the repository holds: it was restored to an older state, and
    may have grown apart since. Nothing was backed up."""


class ArchiveError(EventferryError):
    """An archive and the store do not fit: an event is not the one that the repository holds, or what was archived is
    not in it. Or a store that has archived events would take in events a second time. What the message names was not
    changed, and nothing is lost."""


class WorkerError(EventferryError):
    """A process that works for this one cannot be started, or was ended before its work was done: killed, or out of
    memory. An import that it worked for was interrupted, and `resume` continues it."""


class SecretExistsError(EventferryError):
    """A secret with this id exists or existed. An id is used only once, even after its secret was deleted."""


class SecretConflictError(EventferryError):
    """The store holds another secret with the same id as an imported one. Nothing was changed."""


class NotErasedError(EventferryError):
    """What was erased is gone from the store's tables, but the database's journal may still contain a copy of it."""


class SecretNotErasedError(NotErasedError):
    """The secret was deleted, but the database's journal may still contain a copy of it."""


class InputError(EventferryError):
    """The input is not a valid event (or secret).

    Attributes:
        line: the line number, from 1; for a list or a JSON array, the number of the element.
        byte_offset: where that line begins in the input, in bytes; None if the input is not bytes.
        field: the key that is wrong, as spelled in a line; None if the line as a whole is wrong.
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


class OrderError(InputError):
    """Events come in another order than that of an export, or a position comes twice. Nothing was stored."""


class SourceRowError(InputError):
    """A row of another product's table does not become an event. Nothing was stored of what it belongs to.

    Attributes:
        source: the mapping.
        position: of the row in its table; None if even that is wrong.
        column: the column of the SELECT that is wrong.
    """

    def __init__(self, reason: str, *, source: str, position: int | None, column: str) -> None:
        where = "a row without a position" if position is None else f"position {position}"
        super().__init__(f"{source}, {where}, column {column}: {reason}")
        self.reason = reason
        self.source = source
        self.position = position
        self.column = column

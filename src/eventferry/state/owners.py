"""Owners: whose a freeze or a stage is, and what becomes of what a dead owner left.

A running operation is an owner: it holds a lock that dies with its process, and what it sets or stages carries its id.
What a dead owner left counts as absent. Readers leave it alone; the next write removes it.

Whether an owner lives is asked between transactions, for on a server that takes a connection of its own: many at once,
each in a transaction, would wait for one another where a pool of few is in between. What follows from the answer is
done in another transaction. That is safe: an id is never used twice, a dead owner does not come back, and the database
removes only what carries this very id.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, overload

from eventferry.clock import moment, now
from eventferry.database import (
    Database,
    ExclusiveWriting,
    Freeze,
    Frozen,
    OvertakenError,
    Replacing,
    Stage,
    Writing,
    WritingKind,
)
from eventferry.errors import (
    AlreadyFrozenError,
    NotFrozenError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreFrozenError,
)

P = ParamSpec("P")
T = TypeVar("T")

_ATTEMPTS = 10


@overload
def writing(
    database: Database,
    kind: Literal["shared"] = "shared",
    *,
    frozen: Frozen = "refuse",
    secrets: bool = False,
) -> AbstractAsyncContextManager[Writing]: ...


@overload
def writing(
    database: Database,
    kind: Literal["repeatable", "exclusive"],
    *,
    frozen: Frozen = "refuse",
    secrets: bool = False,
) -> AbstractAsyncContextManager[ExclusiveWriting]: ...


@overload
def writing(
    database: Database, kind: Literal["replacing"], *, frozen: Frozen = "refuse", owner: str | None = None
) -> AbstractAsyncContextManager[Replacing]: ...


@asynccontextmanager
async def writing(
    database: Database,
    kind: WritingKind = "shared",
    *,
    frozen: Frozen = "refuse",
    owner: str | None = None,
    secrets: bool = False,
) -> AsyncIterator[Any]:
    """A write transaction, of a kind of `Database.writing`, on a store that may be written. With `frozen="allow"` that
    may be a frozen one too; the freeze of the `owner` who writes is not in its way. `secrets` keeps everybody else
    from changing secrets.

    Raises StoreFrozenError where a user, or an operation that lives, has frozen the store; and as `Database.writing`.
    """
    is_alive: dict[str, bool] = {}
    while True:
        async with database.writing(kind, frozen=frozen, secrets=secrets) as transaction:
            # One that no freeze waits for must not remove any.
            looks = kind != "shared" or frozen == "refuse"
            marker: Freeze | None = await transaction.freeze() if looks else None
            if marker is not None and is_alive.get(marker.owner or "") is False:
                try:
                    marker = None if await transaction.change_freeze(marker, None) else marker
                except ReadOnlyStoreError as error:
                    raise ReadOnlyStoreError(
                        f"the store {database.life.name} was frozen by an operation that is dead, and this user may "
                        f"not remove what is left of that: unfreeze it as a user who may freeze it ({error})"
                    ) from error
            if marker is None or (owner is not None and marker.owner == owner):
                yield transaction
                return
            if marker.owner is None or is_alive.get(marker.owner):
                if frozen == "refuse":
                    by = "" if marker.owner is None else " by a running export, import or copy"
                    raise StoreFrozenError(f"the store {database.life.name} is frozen{by}: unfreeze it first")
                yield transaction
                return
        is_alive[marker.owner] = await database.is_alive(marker.owner)


async def living(database: Database, marker: Freeze | None) -> Freeze | None:
    """A freeze as it counts: that of a dead owner is none."""
    if marker is None or marker.owner is None or await database.is_alive(marker.owner):
        return marker
    return None


async def freeze(writing: ExclusiveWriting, owner: str | None) -> None:
    """Freeze the store: for an operation, or None: for a user, whose freeze takes over that of an operation."""
    marker = Freeze(owner, now())
    while not await writing.change_freeze(await writing.freeze(), marker):
        pass  # another program has set or removed one just now


async def thaw(writing: ExclusiveWriting, owner: str) -> None:
    """Remove the freeze of this operation, if it stands."""
    marker = await writing.freeze()
    if marker is not None and marker.owner == owner:
        await writing.change_freeze(marker, None)


def _again_if_overtaken(change: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """On a cluster, a change of the freeze may be undone: a save on another node misses the marker while that is being
    renamed there, and comes first. Nothing of the change is left then."""

    @wraps(change)
    async def changed(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_ATTEMPTS - 1):
            with suppress(OvertakenError):
                return await change(*args, **kwargs)
        return await change(*args, **kwargs)

    return changed


@_again_if_overtaken
async def freeze_by_operation(database: Database, owner: str) -> bool:
    """Freeze the store for an operation, unless it is frozen already; whether that was done."""
    async with writing(database, "exclusive", frozen="allow") as transaction:
        if await transaction.freeze() is not None:
            return False
        await freeze(transaction, owner)
        return True


@_again_if_overtaken
async def freeze_by_user(database: Database) -> None:
    """Freeze the store until a user unfreezes it. Raises AlreadyFrozenError."""
    async with writing(database, "exclusive", frozen="allow") as transaction:
        marker = await transaction.freeze()
        if marker is not None and marker.owner is None:
            raise AlreadyFrozenError("the store is already frozen")
        await freeze(transaction, None)


@_again_if_overtaken
async def unfreeze_by_user(database: Database) -> None:
    """Remove the freeze, whose ever it is. Raises NotFrozenError."""
    async with writing(database, "exclusive", frozen="allow") as transaction:
        marker = await transaction.freeze()
        is_frozen = marker is not None
        # reSolve may set or remove one at any time.
        while marker is not None and not await transaction.change_freeze(marker, None):
            marker = await transaction.freeze()
    if not is_frozen:  # told behind the commit: that of a dead owner is gone then
        raise NotFrozenError("the store is not frozen")


async def leave(database: Database, owner: str, *stages: Stage) -> None:
    """End an operation: its freeze goes, if it stands, and so do these stages."""
    try:
        await _clear(database, owner, stages)
    finally:
        await database.release(owner)


@_again_if_overtaken
async def _clear(database: Database, owner: str, stages: Iterable[Stage]) -> None:
    async with writing(database, "exclusive", frozen="allow") as transaction:
        for stage in stages:
            await transaction.drop_stage(stage)
        await thaw(transaction, owner)


async def refuse_living(database: Database, stage: Stage) -> None:
    """Raises StoreBusyError where the owner of an import's stage lives."""
    if stage.owner is not None and await database.is_alive(stage.owner):
        raise running(stage)


def running(stage: Stage) -> StoreBusyError:
    """The error for an import in whose way another one is."""
    since = f" since {moment(stage.since)}" if stage.since else ""
    return StoreBusyError(f"another import into this store is running{since}")

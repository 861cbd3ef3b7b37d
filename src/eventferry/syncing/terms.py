"""The terms of a sync: what it was begun as, it goes on as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from eventferry.errors import OtherChangesError, StoreReplacedError, UsageError
from eventferry.state.syncs import Mode, SyncRow, SyncState
from eventferry.syncing.source import NO_IDENTITY, not_as_synced


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run asks for. Raises UsageError for what there is not.

    Attributes:
        mode: "replica" or "merge"; None: what it was the last time, and at first "replica".
        same_aggregate: of a merge: "refuse", "renumber" or "prefix=…"; None: what it was the last time, and at first
            "refuse".
        changes: the digest of what changes the events on their way; None if nothing does.
    """

    mode: Mode | None
    same_aggregate: str | None
    changes: str | None

    def __post_init__(self) -> None:
        if self.mode not in (None, "replica", "merge"):
            raise UsageError(f"mode is 'replica' or 'merge', not {self.mode!r}")
        policy, equals, prefix = (self.same_aggregate or "refuse").partition("=")
        is_known = (policy in ("refuse", "renumber") and not equals) or (policy == "prefix" and prefix)
        if not is_known:
            raise UsageError(
                f"same_aggregate is 'refuse', 'renumber' or 'prefix=…', not {self.same_aggregate!r}"
            )

    def begun(self, place: str, identity: str, others: Sequence[SyncRow], *, is_empty: bool) -> SyncState:
        """The state of a new sync into a target with these others. Raises UsageError."""
        mode = self.mode or "replica"
        for other in others:
            if other.state.mode == "replica":
                raise UsageError(
                    f"the target is a replica of {other.state.place}, and a replica gets events of its source only"
                )
        if mode == "replica" and not is_empty:
            raise UsageError(
                "the target holds events, and nothing says that a sync brought them: a replica begins in an empty "
                "store. To add the source's events to those of the target, merge (mode='merge')"
            )
        if mode == "replica" and self.same_aggregate is not None:
            raise UsageError("same_aggregate is for a merge: a replica keeps all events as they are")
        return SyncState(
            place=place,
            identity=identity,
            mode=mode,
            same_aggregate=self.same_aggregate or "refuse",
            changes=self.changes,
        )

    def continued(self, state: SyncState) -> SyncState:
        """The state of a sync that goes on. It keeps its first options, so that what was brought over fits what comes;
        but "refuse" may become "renumber": until the first conflict both do the same. Raises UsageError."""
        policy = self.same_aggregate or state.same_aggregate
        fits = policy == state.same_aggregate or (policy, state.same_aggregate) == ("renumber", "refuse")
        if (
            (self.mode or state.mode) != state.mode
            or not fits
            or (policy != "refuse" and state.mode == "replica")
        ):
            told = f" with same_aggregate={state.same_aggregate!r}" if state.mode == "merge" else ""
            raise UsageError(
                f"this sync was begun as a {state.mode}{told}, and goes on only as that: what it has brought over "
                "would not fit what comes"
            )
        return msgspec.structs.replace(state, same_aggregate=policy)

    def changes_as(self, state: SyncState) -> bool:
        """Whether what was brought over was changed in the same way. Raises OtherChangesError where it was not."""
        if state.changes == self.changes:
            return True
        if state.events:
            begun = "without changes" if state.changes is None else "with other changes"
            raise OtherChangesError(
                f"the sync from {state.place} was begun {begun} (filters, rules, the key of pseudonyms, a function), "
                f"and the target holds {state.events} events of it: what comes would not fit them. Go on as it was "
                "begun, or sync into an empty store to begin anew"
            )
        return False

    def refuse_blind_merge(self, state: SyncState) -> None:
        """Refuse a merge that could not see an aggregate that lives on both sides, and is to refuse it."""
        if self.changes is not None and state.mode == "merge" and state.same_aggregate == "refuse":
            raise UsageError(
                "where events are changed on their way, it cannot be told whether an aggregate lives on both sides: "
                "merge with same_aggregate='renumber' or same_aggregate='prefix=…'"
            )


def row_of(rows: Sequence[SyncRow], identities: Sequence[str], place: str) -> SyncRow | None:
    """The row of a source: by its identities, its own first, wherever it is now; by its place, if it has none."""
    for identity in identities:
        for row in rows:
            if identity == row.state.identity != NO_IDENTITY:
                return row
    for row in rows:
        if row.state.place == place:
            if row.state.identity not in identities and row.state.events:
                raise not_as_synced(
                    StoreReplacedError("its events have been replaced since the last sync"), place
                )
            return row
    return None

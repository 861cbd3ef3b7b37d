"""What the commands verify and diff compare, and by which options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import eventferry
from eventferry.cli.changing import (
    Changing,
    beginnings,
    changing_of,
    from_option,
    has_filters,
    has_rules,
    keep_positions_option,
    rule_options,
    time_and,
)
from eventferry.cli.foreign import Foreign, foreign_details, taken
from eventferry.cli.options import flag, kinds, option, together
from eventferry.cli.places import store_at
from eventferry.cli.repositories import CutType, backup_of, identity_option, is_repository, lines_of
from eventferry.cli.terminal import Meter
from eventferry.databases import is_store
from eventferry.errors import UsageError

if TYPE_CHECKING:
    from eventferry import SideBySide, VerifyReport
    from eventferry.changing.erased import Erased
    from eventferry.state.erasures import Erasure

comparing_options = together(
    flag("--content", "Ignore positions and versions, which differ in merged stores."),
    option(
        "--until ends",
        "TIME|BOOKMARK",
        "Compare stores only up to this bookmark, such as copy and sync print: then A may go on growing. Or: only "
        "events at or before this time.",
        multiple=True,
        type=CutType(),
    ),
    flag(
        "--erased",
        "Erase from both what was erased from either of the two that is a store: so an older copy is equal to it.",
    ),
    flag(
        "--archived",
        "Accept the marker of an archived event for any payload; all else of the event is compared.",
    ),
    identity_option,
    from_option,
    foreign_details,
    kinds,
    rule_options,
    keep_positions_option,
)


def refuse_comparing(options: dict[str, Any]) -> None:
    """Refuse the values of `comparing_options` where there is nothing to compare with. Raises UsageError."""
    _, mapping = beginnings(options["starts"])
    finish, until = _endings(options["ends"])
    if has_filters(options | {"finish": finish}) or has_rules(options):
        raise UsageError("filters, --rules and --function need two sources to compare")
    if until is not None:
        raise UsageError("--until needs two stores to compare")
    if taken(options, mapping) is not None:
        raise UsageError("--from needs two sources to compare, A being the other product's")
    for name in ("content", "erased", "archived"):
        if options[name]:
            raise UsageError(f"--{name} needs two sources to compare")


def _endings(ends: tuple[Any, ...]) -> tuple[int | None, str | None]:
    """The time and the bookmark that --until gives. Raises UsageError for two of a kind."""
    return time_and(ends, "--until is given once for a time, and once for a bookmark")


@dataclass(frozen=True)
class TwoSources:
    """Two sources of events, and how they are to be compared.

    Attributes:
        a, b: the sources.
        content, archived: as `eventferry.verify` takes them.
        erased: whether what was erased from one of the two is erased from both.
        until: up to which bookmark; None: all.
        identities: files of secret keys, for encrypted backups.
        foreign: how the tables of another product are read, which A has; None: A has none.
        changing: what was changed between A and B.
    """

    a: str
    b: str
    content: bool
    archived: bool
    erased: bool
    until: str | None
    identities: tuple[str, ...]
    foreign: Foreign | None
    changing: Changing

    @classmethod
    def of(cls, a: str, b: str, options: dict[str, Any]) -> TwoSources:
        """By the values of `comparing_options`. Raises UsageError and RulesError."""
        start, mapping = beginnings(options.pop("starts"))
        options["finish"], until = _endings(options.pop("ends"))
        if until is not None and not all(is_store(each) or is_repository(each) for each in (a, b)):
            raise UsageError("--until needs two stores to compare")
        foreign = taken(options, mapping)
        if foreign is not None and until is not None:
            raise UsageError("--from PRESET and a bookmark cannot be combined")
        if a == b == "-":
            raise UsageError("only one of the two can be standard input")
        changing = changing_of(options, start, dry_run=False)
        named = {name: options.pop(name) for name in ("content", "archived", "erased")}
        return cls(
            a, b, **named, until=until, identities=options.pop("identity"), foreign=foreign, changing=changing
        )

    async def report(self, tell: Callable[[SideBySide], None] | None = None) -> VerifyReport:
        """Compare them; `tell` is called with each difference."""
        changes = self.changing.changes
        chain, until = None, self.until
        if changes is None and is_repository(self.a) and is_store(self.b):
            chain, cut = await backup_of(self.b, self.a)
            until = until or cut
        # The bookmark, or the end of a backup, is of A: where B was changed on its way, as many events of it are
        # compared as come of A.
        async with (
            self.changing.reported(),
            lines_of(self.a, until, self.identities, self.foreign, chain) as (left, extent),
            lines_of(self.b, until if changes is None else None, self.identities) as (right, _),
        ):
            with Meter("comparing", extent) as meter:
                return await eventferry.verify(
                    meter(left),
                    right,
                    content=self.content,
                    changes=changes,
                    other_grows=changes is not None and (until is not None or is_repository(self.a)),
                    erased=await _erased_from(self.a, self.b) if self.erased else None,
                    archived=self.archived,
                    tell=tell,
                )


async def _erased_from(*places: str) -> Erased:
    """What was erased from those of the places that are stores."""
    from eventferry.changing.erased import Erased

    found: list[Erasure] = []
    for place in filter(is_store, places):
        async with store_at(place) as store:
            found += (await store.erased()).erasures
    return Erased(found)

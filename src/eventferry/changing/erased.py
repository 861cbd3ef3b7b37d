"""What was erased from a store, ready to be applied to events on their way into it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

import msgspec

from eventferry.changing.applying import Applied
from eventferry.changing.rules import Rule, Rules
from eventferry.changing.selection import Selection
from eventferry.database import EVERYTHING, Filter
from eventferry.errors import RulesError, UnsupportedStoreError
from eventferry.importing.batch import SLICE
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.decoder import Line, LineDecoder
from eventferry.lines.event import NewRow, NewRowValues, NumberedRow, Row
from eventferry.lines.held_back import HeldBack
from eventferry.lines.marker import archive_of, refuse_markers
from eventferry.lines.payload import ENCODER, JsonText, decode_payload
from eventferry.state.erasures import Erasure, check_size, digest_of

_CONDITIONS = ("type", "aggregate_id", "aggregate_prefix", "aggregate_pattern")
_ACTIONS = ("redact", "remove", "set")
_BESIDE = ("redact_with",)
_ENCODER = msgspec.json.Encoder(order="sorted", decimal_format="number")


class ErasureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What an erasure says, as its row keeps it: which events, and rules that only redact, remove and set."""

    event_types: tuple[str, ...] | None = None
    aggregate_ids: tuple[str, ...] | None = None
    aggregate_prefixes: tuple[str, ...] | None = None
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, rules: Rules, selection: Selection) -> ErasureSpec:
        """Raises RulesError for rules that would do more than erase, or other things the second time."""
        if not rules.rules:
            raise RulesError("an erasure needs at least one rule, which says what becomes of the payloads")
        for number, rule in enumerate(rules.rules, 1):
            _check(number, rule)
        types, ids, prefixes = selection.event_types, selection.aggregate_ids, selection.aggregate_prefixes
        return cls(
            event_types=None if types is None else tuple(sorted(types)),
            aggregate_ids=None if ids is None else tuple(sorted(ids)),
            aggregate_prefixes=prefixes,
            rules=rules.rules,
        )

    @property
    def selection(self) -> Selection:
        """Which events."""
        return Selection.of(
            event_types=self.event_types,
            aggregate_ids=self.aggregate_ids,
            aggregate_prefixes=self.aggregate_prefixes,
        )

    def within(self, prefix: str) -> ErasureSpec | None:
        """The same for a store where all these aggregates have a prefix; None if it cannot be said there."""
        if any(rule.aggregate_pattern is not None for rule in self.rules):
            return None
        names_none = self.aggregate_ids is None and self.aggregate_prefixes is None
        prefixes = ("",) if names_none else self.aggregate_prefixes
        return msgspec.structs.replace(
            self,
            aggregate_ids=None if self.aggregate_ids is None else _behind(prefix, self.aggregate_ids),
            aggregate_prefixes=None if prefixes is None else _behind(prefix, prefixes),
            rules=tuple(
                msgspec.structs.replace(
                    rule,
                    aggregate_id=None if rule.aggregate_id is None else _behind(prefix, rule.ids),
                    aggregate_prefix=None
                    if rule.aggregate_prefix is None
                    else _behind(prefix, rule.prefixes),
                )
                for rule in self.rules
            ),
        )

    @property
    def named(self) -> Sequence[str] | None:
        """The aggregates that it names; None where it may concern others."""
        if self.aggregate_prefixes is None and self.aggregate_ids is not None:
            return self.aggregate_ids
        if all(rule.ids and not rule.prefixes and rule.aggregate_pattern is None for rule in self.rules):
            return tuple({name for rule in self.rules for name in rule.ids})
        return None

    def erasure(self, at: int) -> Erasure:
        """The row of it. Raises UsageError if it says more than a row can hold."""
        told = _ENCODER.encode(self).decode()
        check_size(told)
        return Erasure(at, told)


def said(erasure: Erasure) -> ErasureSpec:
    """What an erasure says. Raises UnsupportedStoreError."""
    try:
        return msgspec.convert(decode_payload(erasure.what.encode()), ErasureSpec)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnsupportedStoreError(
            f"the store has an erasure that this version cannot read, and so cannot apply: {error}"
        ) from None


def _behind(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(prefix + name for name in names)


def _check(number: int, rule: Rule) -> None:
    given = [name for name in rule.__struct_fields__ if getattr(rule, name) != getattr(_NOTHING, name)]
    for name in given:
        if name not in (*_CONDITIONS, *_ACTIONS, *_BESIDE):
            raise RulesError(
                f"rule {number} has {name!r}, and an erasure changes nothing but payloads, in place: its rules may "
                f"only {', '.join(_ACTIONS[:-1])} and {_ACTIONS[-1]}"
            )
    for pointer in rule.remove:
        if pointer.rpartition("/")[2].isdigit():
            raise RulesError(
                f"rule {number} removes {pointer!r}: in an array the elements behind it would move, and each time the "
                "erasure is applied another one would go. Redact it, or remove all elements with '*'"
            )


_NOTHING = Rule()


class _One:
    """One erasure."""

    def __init__(self, erasure: Erasure) -> None:
        what = said(erasure)
        self._at = erasure.at
        self._selection = what.selection
        self._applied = Applied(Rules(rules=what.rules), None)
        self.named = what.named

    def concerns(self, event_type: str, aggregate_id: str, timestamp: int) -> bool:
        return (
            timestamp <= self._at
            and self._selection.takes(event_type, aggregate_id, timestamp)
            and any(
                run.matches is None or run.matches(aggregate_id) for run in self._applied.runs(event_type)
            )
        )

    def left(self, lines: Sequence[Line]) -> list[Line]:
        """What is left of events that it concerns."""
        return [new or line for new, line in zip(self._applied.apply(lines), lines, strict=True)]

    @property
    def never_matched(self) -> tuple[str, ...]:
        return self._applied.never_matched

    @property
    def only(self) -> Filter:
        """The events that it may concern, as a question of the database."""
        types = self._selection.event_types
        return Filter(event_types=None if types is None else tuple(sorted(types)), finish_time=self._at)


class Erased:
    """What was erased from a store; `EventStore.erased` gives it.

    Attributes:
        erasures: one for each erasure, in the order in which they were made.
        digest: of all of them; empty where nothing was erased.
    """

    def __init__(self, erasures: Iterable[Erasure]) -> None:
        self.erasures = tuple(sorted(set(erasures), key=lambda erasure: (erasure.at, erasure.id)))
        self.digest = digest_of(self.erasures)
        self._decoder = LineDecoder()
        self._all = [_One(erasure) for erasure in self.erasures]
        # Most are about one person: so an event is not held against each of them.
        self._named: dict[str, list[int]] = {}
        self._others: list[int] = []
        for number, one in enumerate(self._all):
            if one.named is None:
                self._others.append(number)
            for aggregate_id in one.named or ():
                self._named.setdefault(aggregate_id, []).append(number)

    def __bool__(self) -> bool:
        return bool(self._all)

    def _concerning(self, event_type: str, aggregate_id: str, timestamp: int) -> list[int]:
        """The numbers of the erasures that an event concerns, in order."""
        numbers = self._named.get(aggregate_id)
        found = self._others if numbers is None else sorted((*self._others, *numbers))
        return [number for number in found if self._all[number].concerns(event_type, aggregate_id, timestamp)]

    def concerns(self, event_type: str, aggregate_id: str, timestamp: int) -> bool:
        """Whether anything may have been erased from such an event."""
        return bool(self._concerning(event_type, aggregate_id, timestamp))

    def payloads(self, events: Iterable[tuple[str, str, int, JsonText]]) -> list[JsonText]:
        """What is left of the payloads of events of (type, aggregate, timestamp, payload); the very same objects where
        nothing changes. The marker of an archived event stays: what it stands for is erased when it is recalled."""
        found: list[JsonText] = []
        lines: dict[int, Line] = {}
        concerned: defaultdict[int, list[int]] = defaultdict(list)
        for place, (event_type, aggregate_id, timestamp, payload) in enumerate(events):
            found.append(payload)
            numbers = self._concerning(event_type, aggregate_id, timestamp)
            if numbers and archive_of(payload) is None:
                text = msgspec.Raw(bytes(payload))
                lines[place] = Line(0, 0, event_type, timestamp, aggregate_id, 1, text)
                for number in numbers:
                    concerned[number].append(place)
        for number, places in sorted(concerned.items()):
            lines.update(zip(places, self._all[number].left([lines[place] for place in places]), strict=True))
        for place, line in lines.items():
            if (left := bytes(line.payload)) != bytes(found[place]):
                found[place] = left
        return found

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """A transform for `pipeline` and `verify`: blocks of what is left of lines. As in `Changes`, the last bytes of
        a block are held back until the next or the proper end. Raises InputError for a line that is no event."""
        splitter = LineSplitter()
        held = HeldBack()
        async for block in blocks:
            for start in range(0, len(block), SLICE):
                if text := self._left(splitter.feed(block[start : start + SLICE])):
                    yield held.all_but_the_end(text)
                await asyncio.sleep(0)
        if text := held.rest + self._left(splitter.finish()):
            yield text

    def _left(self, lines: Lines) -> bytes:
        if not lines.count:
            return b""
        _, events = lines.events(self._decoder)
        before = [(line.type, line.aggregate_id, line.timestamp, line.payload) for line in events]
        for line, left in zip(events, self.payloads(before), strict=True):
            line.payload = msgspec.Raw(left)
        return ENCODER.encode_lines(events)

    def rows(self, rows: Sequence[Row]) -> Sequence[Row]:
        """What is left of events with a position."""
        if not self:
            return rows
        found = self.payloads((row.type, row.aggregate_id, row.timestamp, row.payload) for row in rows)
        return [row._replace(payload=bytes(left)) for row, left in zip(rows, found, strict=True)]

    def numbered_rows(self, rows: Sequence[NumberedRow]) -> Sequence[NumberedRow]:
        """The same for rows with the numbers of their lines, on their way into a store. Raises InputError for the
        marker of an archived event."""
        refuse_markers(rows, payload=7, line=0)
        if not self:
            return rows
        found = self.payloads((row[6], row[4], row[3], row[7]) for row in rows)
        return [(*row[:7], left) for row, left in zip(rows, found, strict=True)]

    def new_rows(self, rows: Sequence[NewRowValues]) -> Sequence[NewRowValues]:
        """The same for events without a position, on their way into a store. Raises InputError likewise."""
        refuse_markers(rows, payload=3)
        if not self:
            return rows
        found = self.payloads((row[2], row[1], row[0], row[3]) for row in rows)
        return [NewRow(*row[:3], bytes(left)) for row, left in zip(rows, found, strict=True)]

    @property
    def never_matched(self) -> tuple[str, ...]:
        """The rules that no event met, and pointers that found nothing, in words."""
        return tuple(name for one in self._all for name in one.never_matched)

    @property
    def aggregates(self) -> Sequence[str] | None:
        """The aggregates whose events they concern; None where they concern others too."""
        return None if self._others else sorted(self._named)

    @property
    def only(self) -> Filter:
        """Which events they may concern, as far as a question of the database can say that."""
        return self._all[0].only if len(self._all) == 1 else EVERYTHING

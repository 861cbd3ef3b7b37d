"""Changes on the way: filters, rules and a function, from lines to lines."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

import msgspec

from eventferry.changing.applying import Applied
from eventferry.changing.function import Called, Function
from eventferry.changing.numbering import Numbering
from eventferry.changing.pseudonyms import Pseudonyms
from eventferry.changing.report import ChangeReport, Proof
from eventferry.changing.rules import Rules, check_rules, load_rules
from eventferry.changing.selection import Selection
from eventferry.errors import ChangeError, InputError
from eventferry.importing.batch import SLICE
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.decoder import Line, LineDecoder
from eventferry.lines.event import Event, NewRow, NewRowValues, decode_event
from eventferry.lines.payload import ENCODER

_HELD_BACK = 2  # bytes of a block

_SHOWN = 5  # changed events that are kept to be shown


class ChangedEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event before and after it was changed.

    Attributes:
        before: as it came.
        after: what became of it, with its new place: one event, or several.
    """

    before: Event
    after: list[Event]


class Changes:
    """What is changed on the way from a source to a sink: a transform for `pipeline`.

    An event meets the filters first, as it is in the source; then the rules in their order; then the function. What
    comes out is checked like any input. The events that are left get new positions and versions: thread 0, counters
    from 0 and the versions of each aggregate from 1, dense, in the order in which they come.

    Args:
        rules: a TOML file of rules, or what `load_rules` made of one.
        function: "module:function", or a callable: an `Event` in; an `Event`, None or several events out. It must give
            the same for the same event each time: a part of the source may be read again.
        event_types: only events of these types.
        exclude_types: but none of these.
        aggregate_ids: only events of these aggregates, or of those of `aggregate_prefixes`.
        aggregate_prefixes: only events of aggregates whose ids begin with one of these.
        start_time: only events from this timestamp on, in ms since 1970.
        finish_time: only events up to this timestamp, inclusive.
        keep_positions: events keep their positions and versions. Then none may be left out, and none become several.
        ignore_unknown_keys: drop unknown keys of events instead of refusing them.

    Raises:
        RulesError: the rules are wrong, or the key of their pseudonyms is missing.
        UsageError: another argument is wrong.
    """

    def __init__(
        self,
        *,
        rules: Rules | str | os.PathLike[str] | None = None,
        function: str | Function | None = None,
        event_types: Iterable[str] | None = None,
        exclude_types: Iterable[str] | None = None,
        aggregate_ids: Iterable[str] | None = None,
        aggregate_prefixes: Iterable[str] | None = None,
        start_time: int | None = None,
        finish_time: int | None = None,
        keep_positions: bool = False,
        ignore_unknown_keys: bool = False,
    ) -> None:
        if rules is None:
            rules = Rules()
        elif not isinstance(rules, Rules):
            rules = load_rules(rules)
        self._selection = Selection.of(
            event_types=event_types,
            exclude_types=exclude_types,
            aggregate_ids=aggregate_ids,
            aggregate_prefixes=aggregate_prefixes,
            start_time=start_time,
            finish_time=finish_time,
        )
        self._takes = None if self._selection.is_all else self._selection.takes
        check_rules(rules)
        self._rules = rules
        self._key = rules.key()
        self._function = None if function is None else Called(function)
        self._keep_positions = keep_positions
        self._decoder = LineDecoder(ignore_unknown_keys=ignore_unknown_keys)
        self._begin()

    def _begin(self) -> None:
        self._proof, self._applied = Proof(), Applied(self._rules, self._key)
        self._first: list[tuple[Line, list[Line]]] = []
        self._told: InputError | None = None

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Blocks of the changed lines. They may be cut anywhere; those that come out too: the last bytes of a block are
        held back until the next or the proper end, so that what breaks off never looks whole. The report begins anew.

        Raises:
            InputError: a line is no event, or what it became is none; the place is that of the line that came in.
            ChangeError: an event cannot be changed as asked, or the sums of the report do not hold.
        """
        self._begin()
        numbering = None if self._keep_positions else Numbering()
        splitter = LineSplitter()
        held = b""
        try:
            async for block in blocks:
                for start in range(0, len(block), SLICE):
                    text = self._changed(splitter.feed(block[start : start + SLICE]), numbering)
                    if text:
                        yield b"".join((held, memoryview(text)[:-_HELD_BACK]))
                        held = text[-_HELD_BACK:]
                    await asyncio.sleep(0)
            if text := held + self._changed(splitter.finish(), numbering):
                yield text
        except InputError as error:
            self._told = error
            raise
        self._proof.report(self._applied.never_matched)

    def explain(self, error: InputError) -> InputError:
        """What a pipeline with these changes has met: what a sink refuses, it counts among the lines that came out."""
        if error is self._told or error.line is None:
            return error
        return InputError(
            f"{error.reason} (in line {error.line} of those that the changes gave)", field=error.field
        )

    def change(self, lines: bytes) -> bytes:
        """Whole lines changed, without new positions: each has the position and the version of the event that it was
        made of, so that several may have the same. For who gives the places himself. The report goes on.

        Args:
            lines: as a store writes them, each with its line feed.

        Returns:
            The lines that are left, each with its line feed.

        Raises:
            InputError: a line is no event, or what it became is none.
            ChangeError: an event cannot be changed as asked.
        """
        return self._changed(LineSplitter().feed(lines), None)

    def change_new(self, rows: Iterable[NewRowValues]) -> list[NewRow]:
        """The same for events without places, on their way into an incremental import. What the columns of the target
        can hold is for the caller to check.

        Raises:
            InputError: what an event became is none; `line` counts these events, from 1.
            ChangeError: an event cannot be changed as asked.
        """
        lines = [
            Line(-1, -1, event_type, timestamp, aggregate_id, 0, msgspec.Raw(payload))
            for timestamp, aggregate_id, event_type, payload in rows
        ]
        try:
            found, untouched = self._made(list(enumerate(lines, 1)))
        except InputError as error:
            raise InputError(error.reason, line=error.line, field=error.field, unit="event") from None
        self._proof.gone(found, untouched)
        return [NewRow(line.timestamp, line.aggregate_id, line.type, bytes(line.payload)) for line in found]

    @property
    def keep_positions(self) -> bool:
        """Whether events keep their positions and versions."""
        return self._keep_positions

    @property
    def digest(self) -> str:
        """What the changes depend on, in hex: others have another one. The key of pseudonyms is in it as a fingerprint,
        a function by its name and its source."""
        meant = {
            "selection": self._selection,
            "rules": self._rules.rules,
            "key": None if self._key is None else Pseudonyms(self._key).fingerprint,
            "function": None if self._function is None else (self._function.name, self._function.fingerprint),
            "keep_positions": self._keep_positions,
        }
        return hashlib.sha256(msgspec.json.encode(meant, order="deterministic")).hexdigest()

    @property
    def report(self) -> ChangeReport:
        """What was changed so far. Raises ChangeError if the sums do not hold."""
        return self._proof.report(self._applied.never_matched)

    @property
    def first_changed(self) -> list[ChangedEvent]:
        """The first few events that were changed, dropped ones not among them."""
        return [
            ChangedEvent(before=_event(before), after=[_event(line) for line in after])
            for before, after in self._first
        ]

    def _changed(self, lines: Lines, numbering: Numbering | None) -> bytes:
        """The lines that these become."""
        events = list(lines.events(self._decoder)) if lines.count else []
        try:
            made, untouched = self._made(events)
        except InputError as error:
            raise lines.placed(error, error.line or lines.line) from None
        if numbering is not None:
            numbering.number(made)
        text = ENCODER.encode_lines(made)
        self._proof.went(text, untouched)
        return text

    def _made(self, events: Sequence[tuple[int, Line]]) -> tuple[list[Line], list[bool]]:
        """What becomes of (line number, event), and of each whether it is of an untouched one. The line of an
        InputError is that number."""
        proof, takes, steps, function = self._proof, self._takes, self._applied.steps, self._function
        proof.came([line for _, line in events])
        made: list[Line] = []
        untouched: list[bool] = []
        stayed: list[msgspec.Raw] = []
        for number, line in events:
            if takes is not None and not takes(line.type, line.aggregate_id, line.timestamp):
                self._refuse_to_lose(line, "the filters do not take it")
                proof.left_out += 1
                continue
            if function is None and not steps(line.type):
                made.append(line)
                untouched.append(True)
                stayed.append(line.payload)
                continue
            before = (line.type, line.aggregate_id, line.timestamp, line.payload)
            try:
                found = self._outcome(line)
            except InputError as error:
                reason = f"{_shown(line)} becomes an event that cannot be: {error.reason}"
                raise InputError(reason, line=number, field=error.field) from error
            except ChangeError as error:
                raise ChangeError(f"{_shown(line)}: {error}") from error
            if not found:
                self._refuse_to_lose(line, "a rule or the function drops it")
                proof.dropped += 1
                continue
            if len(found) > 1:
                self._refuse_to_lose(line, f"the function makes {len(found)} of it")
                proof.split += len(found) - 1
            is_same = (
                len(found) == 1
                and before[:3] == (found[0].type, found[0].aggregate_id, found[0].timestamp)
                and bytes(before[3]) == bytes(found[0].payload)
            )
            if is_same:
                stayed.append(before[3])
            else:
                proof.changed += 1
                if len(self._first) < _SHOWN:
                    self._first.append((_as_it_came(line, *before), found))
            made += found
            untouched += [is_same] * len(found)
        proof.stayed(stayed)
        return made, untouched

    def _outcome(self, line: Line) -> list[Line]:
        """What becomes of one event."""
        if not self._applied.apply(line):
            return []
        return [line] if self._function is None else self._function.made_of(line)

    def _refuse_to_lose(self, line: Line, why: str) -> None:
        if self._keep_positions:
            raise ChangeError(
                f"{_shown(line)}: {why}, and so positions cannot be kept (keep_positions). Without it the events get "
                "new ones, without gaps"
            )


def _as_it_came(line: Line, event_type: str, aggregate_id: str, timestamp: int, payload: msgspec.Raw) -> Line:
    """An event before it was changed; its place is still that."""
    return Line(
        line.thread_counter,
        line.thread_id,
        event_type,
        timestamp,
        aggregate_id,
        line.aggregate_version,
        payload,
    )


def _event(line: Line) -> Event:
    return decode_event(ENCODER.encode(line))


def _shown(line: Line) -> str:
    """Which event of the source that is."""
    if line.thread_id < 0:
        return f"an event of aggregate {line.aggregate_id!r:.100}"
    return f"the event at threadId {line.thread_id}, threadCounter {line.thread_counter}"

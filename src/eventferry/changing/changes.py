"""Changes on the way: filters, rules and a function, from lines to lines."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from eventferry.changing.applying import Applied
from eventferry.changing.function import Called, Function
from eventferry.changing.numbering import Numbering
from eventferry.changing.pseudonyms import Pseudonyms
from eventferry.changing.report import ChangeReport, Proof
from eventferry.changing.rules import Rules, rules_of
from eventferry.changing.selection import Selection
from eventferry.errors import ChangeError, InputError
from eventferry.importing.batch import SLICE
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES, Lines, LineSplitter
from eventferry.lines.decoder import Line, LineDecoder
from eventferry.lines.event import Event, NewRow, NewRowValues, decode_event
from eventferry.lines.limits import MAX_ID_LENGTH, check_text
from eventferry.lines.payload import ENCODER, SHALLOW, check_payload
from eventferry.lines.refusal import cut_off

_HELD_BACK = 2  # bytes of a block
_SHOWN = 5  # changed events that are kept to be shown
_PIECES_KEPT = 4
"""Of the pieces that went out last it is known what they were made of: a sink may refuse a line of them."""


class ChangedEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event before and after it was changed.

    Attributes:
        before: as it came.
        after: what became of it, with its new place: one event, or several.
    """

    before: Event
    after: list[Event]


class _Made(NamedTuple):
    """What some lines became.

    Attributes:
        lines: the events.
        untouched: of each, whether it is of an event that nothing has changed.
        numbers: of each, the number of the line that it was made of.
    """

    lines: list[Line]
    untouched: list[bool]
    numbers: list[int]


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
        max_line_bytes: a line that comes in may be as long as this.

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
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
    ) -> None:
        rules = rules_of(Rules() if rules is None else rules)
        self._selection = Selection.of(
            event_types=event_types,
            exclude_types=exclude_types,
            aggregate_ids=aggregate_ids,
            aggregate_prefixes=aggregate_prefixes,
            start_time=start_time,
            finish_time=finish_time,
        )
        self._takes = None if self._selection.is_all else self._selection.takes
        self._rules = rules
        self._key = rules.key()
        self._function = None if function is None else Called(function)
        self._keep_positions = keep_positions
        self._max_line_bytes = max_line_bytes
        self._decoder = LineDecoder(ignore_unknown_keys=ignore_unknown_keys)
        self.begin()

    def begin(self) -> None:
        """Begin the report anew."""
        self._applied = Applied(self._rules, self._key)
        self._proof = self._before = Proof()
        self._went: deque[tuple[int, Lines, list[int]]] = deque(maxlen=_PIECES_KEPT)
        self._first: list[tuple[Line, list[Line]]] = []
        self._told: InputError | None = None

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Blocks of the changed lines. They may be cut anywhere; those that come out too: the last bytes of a block are
        held back until the next or the proper end, so that what breaks off never looks whole. The report begins anew.

        Raises:
            InputError: a line is no event, or what it became is none; the place is that of the line that came in.
            ChangeError: an event cannot be changed as asked, or the sums of the report do not hold.
        """
        self.begin()
        try:
            held = b""
            async with aclosing(self._texts(blocks)) as texts:
                async for text in texts:
                    yield b"".join((held, memoryview(text)[:-_HELD_BACK]))
                    held = text[-_HELD_BACK:]
        except InputError as error:
            self._told = error
            raise
        self._proof.report(self._applied.never_matched)
        if held:
            yield held

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
        self._before = self._proof.copy()
        try:
            return self._changed(LineSplitter(self._max_line_bytes).feed(lines), None)
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """The report leaves out the lines of the last `change`: they were not stored, and may come again."""
        self._proof = self._before

    def change_new(self, rows: Iterable[NewRowValues]) -> list[tuple[int, NewRow]]:
        """The same for events without places, on their way into an incremental import. What the columns of the target
        can hold is for the caller to check.

        Returns:
            The events that are left, each with the number of the one that it was made of, from 1.

        Raises:
            InputError: what an event became is none; `line` counts these events, from 1.
            ChangeError: an event cannot be changed as asked.
        """
        lines = [
            Line(-1, -1, event_type, timestamp, aggregate_id, 0, msgspec.Raw(payload))
            for timestamp, aggregate_id, event_type, payload in rows
        ]
        try:
            made = self._made(list(enumerate(lines, 1)))
        except InputError as error:
            raise InputError(error.reason, line=error.line, field=error.field, unit="event") from None
        self._proof.gone(made.lines, made.untouched)
        return [
            (number, NewRow(line.timestamp, line.aggregate_id, line.type, bytes(line.payload)))
            for number, line in zip(made.numbers, made.lines, strict=True)
        ]

    def explain(self, error: InputError) -> InputError:
        """What a pipeline with these changes has met, in terms of the line that came in: what a sink refuses, it counts
        among the lines that came out."""
        if error is self._told or error.line is None:
            return error
        for first, lines, numbers in self._went:
            if first <= error.line < first + len(numbers):
                number = numbers[error.line - first]
                source = self._decoder.event(lines.texts[number - lines.line])
                shown = _shown(source, source.aggregate_id)
                reason = f"{shown} becomes an event that the target refuses: {error.reason}"
                return lines.placed(InputError(reason, field=error.field), number)
        return InputError(
            f"{error.reason} (in line {error.line} of those that the changes gave)", field=error.field
        )

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
            "rules": ENCODER.encode(self._rules.rules).decode(),  # the order within them counts
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

    async def _texts(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The changed lines, some at a time."""
        numbering = None if self._keep_positions else Numbering()
        splitter = LineSplitter(self._max_line_bytes)
        async for block in blocks:
            for start in range(0, len(block), SLICE):
                if text := self._changed(splitter.feed(block[start : start + SLICE]), numbering):
                    yield text
                await asyncio.sleep(0)
        last = splitter.finish()
        try:
            text = self._changed(last, numbering)
        except InputError as error:
            raise cut_off(error) from None
        if text:
            yield text

    def _changed(self, lines: Lines, numbering: Numbering | None) -> bytes:
        """The lines that these become."""
        if not lines.count:
            return b""
        first = self._proof.written + 1
        try:
            made = self._made(list(lines.events(self._decoder)))
        except InputError as error:
            raise lines.placed(error, error.line or lines.line) from None
        if numbering is not None:
            numbering.number(made.lines)
        text = ENCODER.encode_lines(made.lines)
        self._proof.went(text, made.untouched)
        self._went.append((first, lines, made.numbers))
        return text

    def _made(self, events: Sequence[tuple[int, Line]]) -> _Made:
        """What becomes of (line number, event). The line of an InputError is that number."""
        proof, takes, applied, function = self._proof, self._takes, self._applied, self._function
        made = _Made([], [], [])
        lines, untouched, numbers = made
        stayed: list[msgspec.Raw] = []
        proof.came([line for _, line in events])
        for number, line in events:
            event_type, aggregate_id = line.type, line.aggregate_id
            timestamp, payload = line.timestamp, line.payload
            if takes is not None and not takes(event_type, aggregate_id, timestamp):
                self._refuse_to_lose(line, aggregate_id, "the filters do not take it")
                proof.left_out += 1
                continue
            runs = applied.runs(event_type)
            if runs or function is not None:
                try:
                    became = [line] if applied.apply(line, runs) else []
                    if line.aggregate_id is not aggregate_id or line.payload is not payload:
                        _check(line)
                    if function is not None and became:
                        became = function.made_of(line)
                except InputError as error:
                    reason = f"{_shown(line, aggregate_id)} becomes an event that cannot be: {error.reason}"
                    raise InputError(reason, line=number, field=error.field) from error
                except ChangeError as error:
                    reason = f"{_shown(line, aggregate_id)}: {error.reason}"
                    raise ChangeError(reason, said=error.said) from error
                is_same = len(became) == 1 and _is_same(
                    became[0], event_type, aggregate_id, timestamp, payload
                )
                if not is_same:
                    self._note(line, aggregate_id, became)
                    if became and len(self._first) < _SHOWN:
                        thread, counter, version = line.thread_id, line.thread_counter, line.aggregate_version
                        before = Line(counter, thread, event_type, timestamp, aggregate_id, version, payload)
                        self._first.append((before, became))
                    lines += became
                    untouched += [False] * len(became)
                    numbers += [number] * len(became)
                    continue
                line = became[0]
            lines.append(line)
            untouched.append(True)
            numbers.append(number)
            stayed.append(payload)
        proof.stayed(stayed)
        return made

    def _note(self, line: Line, aggregate_id: str, became: Sequence[Line]) -> None:
        """Count an event that was changed, or left out by a rule or the function."""
        if not became:
            self._refuse_to_lose(line, aggregate_id, "a rule or the function drops it")
            self._proof.dropped += 1
            return
        self._proof.changed += 1
        if len(became) > 1:
            self._refuse_to_lose(line, aggregate_id, f"the function makes {len(became)} of it")
            self._proof.split += len(became) - 1

    def _refuse_to_lose(self, line: Line, aggregate_id: str, why: str) -> None:
        if self._keep_positions:
            raise ChangeError(
                f"{_shown(line, aggregate_id)}: {why}, and so positions cannot be kept (keep_positions). "
                "Without it the events get new ones, without gaps"
            )


def _check(line: Line) -> None:
    """Refuses what rules have made of an event, where no event can be so. What they give themselves was checked with
    them."""
    if len(line.aggregate_id) > MAX_ID_LENGTH:
        raise InputError(f"is longer than {MAX_ID_LENGTH} characters", field="aggregateId")
    check_text("aggregateId", line.aggregate_id)
    if len(line.payload) > SHALLOW:
        check_payload(bytes(line.payload))


def _is_same(line: Line, event_type: str, aggregate_id: str, timestamp: int, payload: msgspec.Raw) -> bool:
    return (
        line.type == event_type
        and line.aggregate_id == aggregate_id
        and line.timestamp == timestamp
        and (line.payload is payload or bytes(line.payload) == bytes(payload))
    )


def _event(line: Line) -> Event:
    return decode_event(ENCODER.encode(line))


def _shown(line: Line, aggregate_id: str) -> str:
    """Which event of the source that is; its aggregate there, since rules may have given it another."""
    if line.thread_id < 0:
        return f"an event of aggregate {aggregate_id!r:.100}"
    return f"the event at threadId {line.thread_id}, threadCounter {line.thread_counter}"

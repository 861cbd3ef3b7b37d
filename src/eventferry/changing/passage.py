"""One passage of changes: lines in, changed lines out, and the report of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple

import msgspec

from eventferry.changing.applying import Applied, NotAppliedError
from eventferry.changing.function import Called
from eventferry.changing.numbering import Numbering
from eventferry.changing.report import ChangeReport, Proof
from eventferry.changing.rules import Rules
from eventferry.changing.selection import Selection
from eventferry.errors import ChangeError, EventferryError, InputError
from eventferry.lines.blocks import Lines, LineSplitter
from eventferry.lines.decoder import Line, LineDecoder
from eventferry.lines.event import NewRow, NewRowValues
from eventferry.lines.limits import MAX_ID_LENGTH, check_text
from eventferry.lines.marker import archive_of, refuse_marker
from eventferry.lines.payload import ENCODER, SHALLOW, check_payload
from eventferry.lines.refusal import cut_off

AHEAD = 8
"""How many pieces may have come out before the sink has seen them."""

_SHOWN = 5  # changed events that are kept to be shown
_PIECES_KEPT = AHEAD + 4
"""Of the pieces that went out last it is known what they were made of: a sink may refuse a line of them."""


class Meant(NamedTuple):
    """What is changed, as `Changes` was told; `key` is that of the pseudonyms."""

    selection: Selection
    rules: Rules
    key: bytes | None
    function: Called | None
    keep_positions: bool
    ignore_unknown_keys: bool
    max_line_bytes: int


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


class Passage:
    """Changes what comes, from its first line to its last. It can be pickled, and goes on where it is unpickled, if its
    function has a name.

    Attributes:
        first_changed: the first few events that were changed, each with what became of it.
    """

    def __init__(self, meant: Meant) -> None:
        self._meant = meant
        self._takes = None if meant.selection.is_all else meant.selection.takes
        self._function = meant.function
        self._keep_positions = meant.keep_positions
        self._decoder = LineDecoder(ignore_unknown_keys=meant.ignore_unknown_keys)
        self._splitter = LineSplitter(meant.max_line_bytes)
        self._numbering = None if meant.keep_positions else Numbering()
        self._applied = Applied(meant.rules, meant.key)
        self._proof = self._before = Proof()
        self._went: deque[tuple[int, Lines, list[int]]] = deque(maxlen=_PIECES_KEPT)
        self.first_changed: list[tuple[Line, Sequence[Line]]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        state = ("_splitter", "_numbering", "_applied", "_proof", "_before", "_went", "first_changed")
        return Passage, (self._meant,), {name: getattr(self, name) for name in state}

    @property
    def has_function(self) -> bool:
        """Whether a function of the user's is called."""
        return self._function is not None

    @property
    def can_move(self) -> bool:
        """Whether it can be pickled: a function must have a name by which it is loaded again."""
        return self._function is None or self._function.is_named

    def feed(self, block: bytes) -> bytes:
        """Takes in bytes, cut anywhere, and gives the lines that the whole ones among them become, with new places.

        Raises:
            InputError: a line is no event, or what it became is none; the place is that of the line that came in.
            ChangeError: an event cannot be changed as asked.
        """
        return self._changed(self._splitter.feed(block), self._numbering)

    def finish(self) -> bytes:
        """No more comes: what the last line becomes, where it has no line feed. Raises the same."""
        last = self._splitter.finish()
        try:
            return self._changed(last, self._numbering)
        except InputError as error:
            raise cut_off(error) from None

    def end(self) -> None:
        """Nothing more is fed: what only that would need is given up."""
        self._numbering = None

    def change(self, lines: bytes) -> bytes:
        """What whole lines become, without new places. Raises the same."""
        self._before = self._proof.copy()
        try:
            return self._changed(LineSplitter(self._meant.max_line_bytes).feed(lines), None)
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """The report leaves out the lines of the last `change`."""
        self._proof = self._before

    def change_new(self, rows: Iterable[NewRowValues]) -> list[tuple[int, NewRow]]:
        """What events without places become, each with the number, from 1, of the one that it was made of. Raises the
        same; the line counts these events."""
        lines = [
            Line(-1, -1, event_type, timestamp, aggregate_id, 0, msgspec.Raw(payload))
            for timestamp, aggregate_id, event_type, payload in rows
        ]
        try:
            made = self._made(range(1, len(lines) + 1), lines)
        except InputError as error:
            raise InputError(error.reason, line=error.line, field=error.field, unit="event") from None
        self._proof.gone(made.lines, made.untouched)
        return [
            (number, NewRow(line.timestamp, line.aggregate_id, line.type, bytes(line.payload)))
            for number, line in zip(made.numbers, made.lines, strict=True)
        ]

    def explain(self, error: InputError) -> InputError:
        """What a sink has met in a line that came out, in terms of the line that came in."""
        for first, lines, numbers in self._went:
            if error.line is not None and first <= error.line < first + len(numbers):
                number = numbers[error.line - first]
                source = self._decoder.event(lines.texts[number - lines.line])
                reason = f"{_shown(source)} becomes an event that the target refuses: {error.reason}"
                return lines.placed(InputError(reason, field=error.field), number)
        return InputError(
            f"{error.reason} (in line {error.line} of those that the changes gave)", field=error.field
        )

    @property
    def report(self) -> ChangeReport:
        """What was changed so far. Raises ChangeError if the sums do not hold."""
        return self._proof.report(self._applied.never_matched)

    def _changed(self, lines: Lines, numbering: Numbering | None) -> bytes:
        """The lines that these become."""
        if not lines.count:
            return b""
        first = self._proof.written + 1
        try:
            made = self._made(*lines.events(self._decoder))
        except InputError as error:
            raise lines.placed(error, error.line or lines.line) from None
        if numbering is not None:
            numbering.number(made.lines)
        text = ENCODER.encode_lines(made.lines)
        self._proof.went(text, made.untouched)
        self._went.append((first, lines, made.numbers))
        return text

    def _made(self, numbers: Sequence[int], lines: Sequence[Line]) -> _Made:
        """What becomes of events that have these line numbers. The line of an InputError is one of them."""
        proof, function = self._proof, self._function
        proof.came(lines)
        numbers, lines = self._taken(numbers, lines)
        lines_out, untouched, numbers_out = made = _Made([], [], [])
        stayed: list[msgspec.Raw] = []
        for number, line, new in zip(numbers, lines, self._applied_to(numbers, lines), strict=True):
            became: Sequence[Line] = () if new is None else (new,)
            if function is not None and new is not None:
                try:
                    became = function.made_of(new)
                except (ChangeError, InputError) as error:
                    raise _placed(error, number, line) from error
            if len(became) == 1 and _is_same(became[0], line):
                stayed.append(line.payload)
                lines_out.append(line)
                untouched.append(True)
                numbers_out.append(number)
                continue
            self._note(number, line, became)
            for each in became:
                lines_out.append(each)
                untouched.append(False)
                numbers_out.append(number)
        proof.stayed(stayed)
        return made

    def _taken(self, numbers: Sequence[int], lines: Sequence[Line]) -> tuple[Sequence[int], Sequence[Line]]:
        """Those that the filters take."""
        takes = self._takes
        if takes is None:
            return numbers, lines
        is_taken = [takes(line.type, line.aggregate_id, line.timestamp) for line in lines]
        for line, taken in zip(lines, is_taken, strict=True):
            if not taken:
                self._refuse_to_lose(line, "the filters do not take it")
                self._proof.left_out += 1
        return list(compress(numbers, is_taken)), list(compress(lines, is_taken))

    def _applied_to(self, numbers: Sequence[int], lines: Sequence[Line]) -> list[Line | None]:
        """What the rules make of events; it is checked."""
        try:
            applied = self._applied.apply(lines)
        except NotAppliedError as error:
            raise _placed(error.error, numbers[error.place], lines[error.place]) from error.error
        for number, line, new in zip(numbers, lines, applied, strict=True):
            try:
                if new is not line and new is not None:
                    _check(new, line)
            except InputError as error:
                raise _placed(error, number, line) from error
        return applied

    def _note(self, number: int, line: Line, became: Sequence[Line]) -> None:
        """Count an event that was changed, or left out by a rule or the function."""
        if archive_of(line.payload) is not None and not all(archive_of(each.payload) for each in became):
            refuse_marker(line.payload, number)  # nothing would tell any more that it was one
        if not became:
            self._refuse_to_lose(line, "a rule or the function drops it")
            self._proof.dropped += 1
            return
        if len(self.first_changed) < _SHOWN:
            self.first_changed.append((line, became))
        self._proof.changed += 1
        if len(became) > 1:
            self._refuse_to_lose(line, f"the function makes {len(became)} of it")
            self._proof.split += len(became) - 1

    def _refuse_to_lose(self, line: Line, why: str) -> None:
        if self._keep_positions:
            raise ChangeError(
                f"{_shown(line)}: {why}, and so positions cannot be kept (keep_positions). "
                "Without it the events get new ones, without gaps"
            )


def _check(new: Line, line: Line) -> None:
    """Refuses what rules have made of an event, where no event can be so. What they give as it is was checked with
    them."""
    if new.aggregate_id is not line.aggregate_id:
        if len(new.aggregate_id) > MAX_ID_LENGTH:
            raise InputError(f"is longer than {MAX_ID_LENGTH} characters", field="aggregateId")
        check_text("aggregateId", new.aggregate_id)
    if new.payload is not line.payload and len(new.payload) > SHALLOW:
        check_payload(bytes(new.payload))


def _is_same(new: Line, line: Line) -> bool:
    return new is line or (
        new.type == line.type
        and new.aggregate_id == line.aggregate_id
        and new.timestamp == line.timestamp
        and (new.payload is line.payload or bytes(new.payload) == bytes(line.payload))
    )


def _placed(error: ChangeError | InputError, number: int, line: Line) -> EventferryError:
    """The error for an event that cannot be changed as asked."""
    if isinstance(error, ChangeError):
        return ChangeError(f"{_shown(line)}: {error.reason}", said=error.said)
    return InputError(
        f"{_shown(line)} becomes an event that cannot be: {error.reason}", line=number, field=error.field
    )


def _shown(line: Line) -> str:
    """Which event of the source that is."""
    if line.thread_id < 0:
        return f"an event of aggregate {line.aggregate_id!r:.100}"
    return f"the event at threadId {line.thread_id}, threadCounter {line.thread_counter}"

"""One passage of changes: lines in, changed lines out, and the report of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
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
            made = self._made(list(enumerate(lines, 1)))
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
        proof, function = self._proof, self._function
        proof.came([line for _, line in events])
        events = self._taken(events)
        applied = self._applied_to(events)
        made = _Made([], [], [])
        lines, untouched, numbers = made
        stayed: list[msgspec.Raw] = []
        for place, (number, line) in enumerate(events):
            if function is not None or place in applied:
                new = applied.get(place, line)
                became: Sequence[Line] = [] if new is None else [new]
                if function is not None and new is not None:
                    try:
                        became = function.made_of(new)
                    except (ChangeError, InputError) as error:
                        raise _placed(error, number, line) from error
                if len(became) != 1 or not _is_same(became[0], line):
                    self._note(number, line, became)
                    for each in became:
                        lines.append(each)
                        untouched.append(False)
                        numbers.append(number)
                    continue
            lines.append(line)
            untouched.append(True)
            numbers.append(number)
            stayed.append(line.payload)
        proof.stayed(stayed)
        return made

    def _taken(self, events: Sequence[tuple[int, Line]]) -> Sequence[tuple[int, Line]]:
        """Those that the filters take."""
        takes = self._takes
        if takes is None:
            return events
        found = []
        for number, line in events:
            if takes(line.type, line.aggregate_id, line.timestamp):
                found.append((number, line))
                continue
            self._refuse_to_lose(line, "the filters do not take it")
            self._proof.left_out += 1
        return found

    def _applied_to(self, events: Sequence[tuple[int, Line]]) -> dict[int, Line | None]:
        """What the rules make of events, by their places; it is checked."""
        place = 0
        try:
            applied = self._applied.apply([line for _, line in events])
            for place, new in applied.items():
                if new is not None:
                    _check(new, events[place][1])
        except NotAppliedError as error:
            number, line = events[error.place]
            raise _placed(error.error, number, line) from error.error
        except InputError as error:
            number, line = events[place]
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
    return (
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

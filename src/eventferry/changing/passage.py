"""One passage of changes: lines in, changed lines out, and the report of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from eventferry.changing.applying import Applied
from eventferry.changing.function import Called
from eventferry.changing.numbering import Numbering
from eventferry.changing.report import ChangeReport, Proof
from eventferry.changing.rules import Rules
from eventferry.changing.selection import Selection
from eventferry.errors import ChangeError, InputError
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
        self.first_changed: list[tuple[Line, list[Line]]] = []

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
                shown = _shown(source, source.aggregate_id)
                reason = f"{shown} becomes an event that the target refuses: {error.reason}"
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
                    if line.aggregate_id is not aggregate_id:
                        _check_id(line.aggregate_id)
                    if line.payload is not payload and len(line.payload) > SHALLOW:
                        check_payload(bytes(line.payload))
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
                    if archive_of(payload) is not None and not all(
                        archive_of(each.payload) for each in became
                    ):
                        refuse_marker(payload, number)  # nothing would tell any more that it was one
                    self._note(line, aggregate_id, became)
                    if became and len(self.first_changed) < _SHOWN:
                        thread, counter, version = line.thread_id, line.thread_counter, line.aggregate_version
                        before = Line(counter, thread, event_type, timestamp, aggregate_id, version, payload)
                        self.first_changed.append((before, became))
                    for each in became:
                        lines.append(each)
                        untouched.append(False)
                        numbers.append(number)
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


def _check_id(aggregate_id: str) -> None:
    """Refuses an id that rules have put together, where no event can have it. What they give as it is was checked with
    them."""
    if len(aggregate_id) > MAX_ID_LENGTH:
        raise InputError(f"is longer than {MAX_ID_LENGTH} characters", field="aggregateId")
    check_text("aggregateId", aggregate_id)


def _is_same(line: Line, event_type: str, aggregate_id: str, timestamp: int, payload: msgspec.Raw) -> bool:
    return (
        line.type == event_type
        and line.aggregate_id == aggregate_id
        and line.timestamp == timestamp
        and (line.payload is payload or bytes(line.payload) == bytes(payload))
    )


def _shown(line: Line, aggregate_id: str) -> str:
    """Which event of the source that is; its aggregate there, since rules may have given it another."""
    if line.thread_id < 0:
        return f"an event of aggregate {aggregate_id!r:.100}"
    return f"the event at threadId {line.thread_id}, threadCounter {line.thread_counter}"

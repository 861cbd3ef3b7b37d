"""Changes on the way: filters, rules and a function, from lines to lines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Unpack

import msgspec

from eventferry.changing.function import Called, Function
from eventferry.changing.passage import Meant, Passage
from eventferry.changing.pseudonyms import Pseudonyms
from eventferry.changing.report import ChangeReport
from eventferry.changing.rules import Rules, rules_of
from eventferry.changing.selection import Selection
from eventferry.errors import InputError
from eventferry.lifecycle import aclosing
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES
from eventferry.lines.decoder import Line
from eventferry.lines.event import Event, NewRow, NewRowValues, decode_event
from eventferry.lines.held_back import HeldBack
from eventferry.lines.payload import ENCODER
from eventferry.reading.arguments import Filters


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
        keep_positions: events keep their positions and versions. Then none may be left out, and none become several.
        ignore_unknown_keys: drop unknown keys of events instead of refusing them.
        max_line_bytes: a line that comes in may be as long as this.
        filters: which events.

    Raises:
        RulesError: the rules are wrong, or the key of their pseudonyms is missing.
        UsageError: another argument is wrong.
    """

    def __init__(
        self,
        *,
        rules: Rules | str | os.PathLike[str] | None = None,
        function: str | Function | None = None,
        keep_positions: bool = False,
        ignore_unknown_keys: bool = False,
        max_line_bytes: int = DEFAULT_MAX_LINE_BYTES,
        **filters: Unpack[Filters],
    ) -> None:
        rules = rules_of(Rules() if rules is None else rules)
        self._meant = Meant(
            selection=Selection.of(**filters),
            rules=rules,
            key=rules.key(),
            function=None if function is None else Called(function),
            keep_positions=keep_positions,
            ignore_unknown_keys=ignore_unknown_keys,
            max_line_bytes=max_line_bytes,
        )
        self.begin()

    def begin(self) -> None:
        """Begin the report anew."""
        # Every store that is opened imports this module, and what starts processes is for those who change events.
        from eventferry.changing.moving import Course

        self._course = Course(Passage(self._meant))
        self._told: InputError | None = None

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Blocks of the changed lines. They may be cut anywhere; those that come out too: the last bytes of a block are
        held back until the next or the proper end, so that what breaks off never looks whole. The report begins anew.

        Raises:
            InputError: a line is no event, or what it became is none; the place is that of the line that came in.
            ChangeError: an event cannot be changed as asked, or the sums of the report do not hold.
        """
        self.begin()
        held = HeldBack()
        try:
            async with aclosing(self._course.texts(blocks)) as texts:
                async for text in texts:
                    yield held.all_but_the_end(text)
        except InputError as error:
            self._told = error
            raise
        _ = self.report
        if held.rest:
            yield held.rest

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
        return self._course.passage.change(lines)

    def forget(self) -> None:
        """The report leaves out the lines of the last `change`: they were not stored, and may come again."""
        self._course.passage.forget()

    def change_new(self, rows: Iterable[NewRowValues]) -> list[tuple[int, NewRow]]:
        """The same for events without places, on their way into an incremental import. What the columns of the target
        can hold is for the caller to check.

        Returns:
            The events that are left, each with the number of the one that it was made of, from 1.

        Raises:
            InputError: what an event became is none; `line` counts these events, from 1.
            ChangeError: an event cannot be changed as asked.
        """
        return self._course.passage.change_new(rows)

    def explain(self, error: InputError) -> InputError:
        """What a pipeline with these changes has met, in terms of the line that came in: what a sink refuses, it counts
        among the lines that came out."""
        return error if error is self._told or error.line is None else self._course.passage.explain(error)

    @property
    def keep_positions(self) -> bool:
        """Whether events keep their positions and versions."""
        return self._meant.keep_positions

    @property
    def digest(self) -> str:
        """What the changes depend on, in hex: others have another one. The key of pseudonyms is in it as a fingerprint,
        a function by its name and its source."""
        meant = self._meant
        depends_on = {
            "selection": meant.selection,
            "rules": ENCODER.encode(meant.rules.rules).decode(),  # the order within them counts
            "key": None if meant.key is None else Pseudonyms(meant.key).fingerprint,
            "function": None if meant.function is None else (meant.function.name, meant.function.fingerprint),
            "keep_positions": meant.keep_positions,
        }
        return hashlib.sha256(msgspec.json.encode(depends_on, order="deterministic")).hexdigest()

    @property
    def report(self) -> ChangeReport:
        """What was changed so far. Raises ChangeError if the sums do not hold."""
        return self._course.passage.report

    @property
    def first_changed(self) -> list[ChangedEvent]:
        """The first few events that were changed, dropped ones not among them."""
        return [
            ChangedEvent(before=_event(before), after=[_event(line) for line in after])
            for before, after in self._course.passage.first_changed
        ]


def _event(line: Line) -> Event:
    return decode_event(ENCODER.encode(line))

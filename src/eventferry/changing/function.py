"""A function of the user's own: one event in, none or more out."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from eventferry.errors import ChangeError
from eventferry.lines.converting import new_row
from eventferry.lines.decoder import Line
from eventferry.lines.event import Event, decode_event
from eventferry.lines.payload import ENCODER, encode_payload
from eventferry.user_functions import given_function

Function: TypeAlias = Callable[[Event], Event | Iterable[Event] | None]


class Called:
    """A function, as events are given to it. One that is named can be pickled; it is loaded anew.

    Attributes:
        is_named: whether it was given by its name, and not as a callable.
        name: its name.
    """

    def __init__(self, given: str | Function) -> None:
        self._function = given_function(given)
        self.is_named = isinstance(given, str)
        self.name = given if isinstance(given, str) else _name(given)

    def __reduce__(self) -> tuple[type[Called], tuple[str]]:
        if not self.is_named:
            raise TypeError(f"{self.name} was given as a callable, and stays in the process that has it")
        return Called, (self.name,)

    @property
    def fingerprint(self) -> str | None:
        """Of its source; None where there is none."""
        try:
            return hashlib.sha256(inspect.getsource(self._function).encode()).hexdigest()
        except (OSError, TypeError):
            return None

    def made_of(self, line: Line) -> list[Line]:
        """What becomes of an event, each with its place; the line itself, if the event comes out as it went in.

        Raises:
            ChangeError: the function raised something, or gave what is no event.
            InputError: what came out is an event that cannot be.
        """
        given = decode_event(ENCODER.encode(line))
        before = encode_payload(given.payload)
        try:
            found = self._function(given)
            found = [found] if isinstance(found, Event) else () if found is None else found
            events = list(found) if isinstance(found, Iterable) else [found]
        except (Exception, SystemExit) as error:  # an exit with 0 would look as if all had come over
            raise ChangeError(f"{self.name} raised {type(error).__name__}", said=str(error)) from error
        made = []
        for event in events:
            if not isinstance(event, Event):
                raise ChangeError(
                    f"{self.name} gave {type(event).__name__}, and not an Event, None or several Events"
                )
            row = new_row(event)
            payload = line.payload if row.payload == before else msgspec.Raw(row.payload)
            made.append(
                Line(
                    line.thread_counter,
                    line.thread_id,
                    row.type,
                    row.timestamp,
                    row.aggregate_id,
                    line.aggregate_version,
                    payload,
                )
            )
        return made


def _name(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"

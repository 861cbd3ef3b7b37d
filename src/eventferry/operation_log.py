"""Logs operations with the standard library's logging: one record when an operation begins (DEBUG), one when it ends.

A record has a sentence for people, and the same as fields for machines: `operation`, `store`, `outcome`, `seconds`,
`error` (a class name) and counts. It never contains the message of an error, which may quote input, nor anything of an
event or a secret, nor a user or password of a store's URL.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeAlias, TypeVar

import msgspec

from eventferry.database import Database, Traits
from eventferry.errors import ConcurrentError

log = logging.getLogger("eventferry.operations")
logging.getLogger("eventferry").addHandler(logging.NullHandler())

P = ParamSpec("P")
T = TypeVar("T")

_TOLD_ELSEWHERE: ContextVar[bool] = ContextVar("eventferry_told_elsewhere", default=False)


@contextmanager
def told_elsewhere() -> Iterator[None]:
    """For callers with an operation log of their own: operations that begin inside are logged here at DEBUG only."""
    token = _TOLD_ELSEWHERE.set(True)
    try:
        yield
    finally:
        _TOLD_ELSEWHERE.reset(token)


class Subject(Protocol):
    """What an operation is on: a database, or another product's table."""

    @property
    def traits(self) -> Traits:
        """Where it is."""


def place_of(database: Subject) -> str:
    """The location of a store, without its table names."""
    names = database.traits.resource_names
    return "/".join(value for name, value in names.items() if value and not name.endswith("TableName"))


class Operation:
    """One operation, from begin to end. Calls after the end are ignored.

    Args:
        name: of the operation, as on the command line.
        database: of the store.
        level: of the last record, which has `counts` too. An operation at DEBUG has no first record.
        facts: fields of all its records.
    """

    def __init__(self, name: str, database: Subject, *, level: int = logging.INFO, **facts: Any) -> None:
        self._name = name
        self._database = database
        is_told_elsewhere = _TOLD_ELSEWHERE.get()
        self._level = logging.DEBUG if is_told_elsewhere else level
        self._failure = logging.DEBUG if is_told_elsewhere else logging.WARNING
        self._has_beginning = level > logging.DEBUG
        self._facts = facts
        self._began: float | None = None
        self.counts: dict[str, int] = {}

    def begin(self) -> None:
        """Begin. Calling it again does nothing."""
        if self._began is None:
            self._began = time.perf_counter()
            if self._has_beginning:
                self._tell(logging.DEBUG, "begins", {"outcome": "begun"})

    def end(self, outcome: str = "done", **counts: int) -> None:
        """End successfully."""
        self.counts |= counts
        self._over(self._level, outcome, {"outcome": outcome})

    def fail(self, error: BaseException | None, **counts: int) -> None:
        """End without success: by an error, or given up (None, or cancelled)."""
        self.counts |= counts
        # Reading only the beginning of an export is no failure; a version conflict is an ordinary result of a save.
        level = self._level if isinstance(error, GeneratorExit | ConcurrentError) else self._failure
        if error is None or isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._over(level, "given up", {"outcome": "given up"})
        else:
            name = type(error).__name__
            self._over(level, f"failed: {name}", {"outcome": "failed", "error": name})

    def _over(self, level: int, words: str, fields: dict[str, Any]) -> None:
        if self._began is None:
            return
        began, self._began = self._began, None
        if log.isEnabledFor(level):
            seconds = round(time.perf_counter() - began, 6)
            self._tell(level, words, fields | self.counts | {"seconds": seconds})

    def _tell(self, level: int, words: str, fields: dict[str, Any]) -> None:
        if not log.isEnabledFor(level):
            return
        place = place_of(self._database)
        told = "".join(f" {key}={value}" for key, value in (self._facts | fields).items() if key not in _SAID)
        log.log(
            level,
            "%s",
            f"{self._name} {_printable(place)}: {words}{told}",
            extra={"operation": self._name, "store": place, **self._facts, **fields},
        )

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self.end()
        else:
            self.fail(error)


_SAID = ("outcome", "error")


def _printable(text: str) -> str:
    """A name on one line of a log, whatever it contains."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class _Has(Protocol):
    @property
    def _database(self) -> Database: ...


S = TypeVar("S", bound=_Has)


_Method: TypeAlias = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def told(name: str, level: int = logging.INFO) -> Callable[[_Method[S, P, T]], _Method[S, P, T]]:
    """Decorator that logs a method of a store as an operation, with the counts of its result."""

    def decorate(method: _Method[S, P, T]) -> _Method[S, P, T]:
        @wraps(method)
        async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            with Operation(name, self._database, level=level) as operation:
                result = await method(self, *args, **kwargs)
                if log.isEnabledFor(level):
                    operation.counts = counts_of(result)
                return result

        return run

    return decorate


def counts_of(result: object) -> dict[str, int]:
    """The counts in a result: the integers of a report, or a plain integer as the number of events."""
    if isinstance(result, msgspec.Struct):
        fields = ((name, getattr(result, name)) for name in result.__struct_fields__)
        return {name: value for name, value in fields if type(value) is int}
    return {"events": result} if type(result) is int else {}

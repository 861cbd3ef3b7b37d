"""The references of the fuzzer: what must come of an input, in plain Python, slow and sure."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

KEYS = ("threadCounter", "threadId", "type", "timestamp", "aggregateId", "aggregateVersion", "payload")
_RANGES = {
    "threadCounter": (0, 2**48 - 2),
    "threadId": (0, 255),
    "timestamp": (-(2**53) + 1, 2**53 - 1),
    "aggregateVersion": (1, 2**53 - 1),
}
_NAMES = ("type", "aggregateId")
_IGNORED = ("threadCounter", "threadId", "aggregateVersion")


@contextmanager
def deeply() -> Iterator[None]:
    """Lets the reference, and only it, follow values that nest as deeply as an input can."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class RefusedError(Exception):
    """This is no event, or no JSON."""


class Number(str):
    """A number as it is spelled."""


@dataclass(frozen=True)
class Object:
    """An object with all its members, in order."""

    members: tuple[tuple[str, Any], ...]


@deeply()
def parsed(text: bytes) -> Any:
    """A JSON text with numbers as they are spelled and objects as pairs; strict where Python is not."""

    def refuse(word: str) -> Any:
        raise RefusedError(word)

    try:
        value = json.loads(
            text.decode(),
            parse_int=Number,
            parse_float=Number,
            parse_constant=refuse,
            object_pairs_hook=lambda pairs: Object(tuple(pairs)),
        )
        json.dumps(value, default=lambda found: [list(found.members)], ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # UnicodeError is one of the former
        raise RefusedError(str(error)) from None
    return value


def depth(value: Any) -> int:
    """How many arrays and objects stand within one another."""
    if isinstance(value, Object):
        return 1 + max((depth(member) for _, member in value.members), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@deeply()
def meaning(value: Any) -> Any:
    """Something that Python compares as JSON values are compared: the last of two keys counts, 1.0 is 1."""
    if isinstance(value, Object):
        return "object", frozenset((key, meaning(member)) for key, member in dict(value.members).items())
    if isinstance(value, list):
        return "array", tuple(map(meaning, value))
    if isinstance(value, Number):
        sign, digits, exponent = Decimal(value).as_tuple()
        text = "".join(map(str, digits)).strip("0") and "".join(map(str, digits)).lstrip("0")
        short = text.rstrip("0")
        return "number", (sign, short, int(exponent) + len(text) - len(short)) if short else None
    return type(value).__name__, value


@deeply()
def is_storable(value: Any) -> bool:
    """Whether a payload is within the limits: 500 levels, exponents of 9 digits."""
    return depth(value) <= 500 and all(_short_exponent(number) for number in _numbers(value))


def _numbers(value: Any) -> list[Number]:
    if isinstance(value, Object):
        return [number for _, member in value.members for number in _numbers(member)]
    if isinstance(value, list):
        return [number for member in value for number in _numbers(member)]
    return [value] if isinstance(value, Number) else []


def _short_exponent(number: Number) -> bool:
    found = re.search(r"[eE][+-]?0*([0-9]+)$", number)
    return found is None or len(found[1]) <= 9


@deeply()
def event(text: bytes, *, positioned: bool) -> dict[str, Any]:
    """The event of a line. Raises RefusedError."""
    value = parsed(text)
    if not isinstance(value, Object):
        raise RefusedError("no object")
    given = dict(value.members)
    if len(given) != len(value.members) or not given.keys() <= set(KEYS):
        raise RefusedError("keys")
    fields: dict[str, Any] = {"payload": given.get("payload")}
    for name in _NAMES:
        text_of = given.get(name)
        if not isinstance(text_of, str) or isinstance(text_of, Number):
            raise RefusedError(name)
        if len(text_of) > 700 or "\0" in text_of:
            raise RefusedError(name)
        fields[name] = text_of
    for name, (least, most) in _RANGES.items():
        if name in _IGNORED and not positioned:
            continue
        number = given.get(name)
        if not isinstance(number, Number) or not re.fullmatch(r"-?[0-9]{1,20}", number):
            raise RefusedError(name)
        if not least <= int(number) <= most:
            raise RefusedError(name)
        fields[name] = int(number)
    if not is_storable(fields["payload"]):
        raise RefusedError("payload")
    return fields


@deeply()
def identity(fields: dict[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    """What tells an event from others: these fields, and the payload's value."""
    return (*(fields[name] for name in names), meaning(fields["payload"]))


@deeply()
def same(first: Any, second: Any) -> bool:
    """Whether two of these values are equal, which Python asks level by level."""
    return bool(first == second)

"""A payload: a JSON text that stays as it is spelled, what may stand in one, and the values that it is made of.

Nothing here knows of events.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from eventferry.errors import InputError
from eventferry.lines.numbers import javascript_number
from eventferry.lines.spelling import LONE_SURROGATE

if TYPE_CHECKING:
    from typing_extensions import Buffer

    class JsonText(Buffer, Protocol):
        """A compact JSON text: bytes, or where it was not worth a copy, a piece of the block that it came in."""

        def __len__(self) -> int: ...
else:
    JsonText = bytes

MAX_DEPTH = 500
"""Arrays and objects within one another in a payload: as deep as everything here that reads one can follow,
however deep in calls it is itself (Python ends at 1,000 of both)."""

SHALLOW = 2 * MAX_DEPTH
"""Bytes of a payload that cannot nest more deeply: each level has a bracket at both ends."""

MAX_EXPONENT_DIGITS = 9
"""Digits in the exponent of a number in a payload: with more of them there is no value that it could be loaded as."""


def exponent_shape(digits: int) -> re.Pattern[bytes]:
    """What finds a number whose exponent has so many digits or more, or with a minus one less, once a text is
    translated by `_SHAPE`. It begins with two plain characters: those are searched for fastest."""
    return re.compile(rb",00*e0{%d}0*," % digits)


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')  # possessive: a long string costs no memory
_EXPONENT = re.compile(rb"[0-9][eE][+-]?0*[1-9][0-9]{%d}" % MAX_EXPONENT_DIGITS)
_SHAPE = bytes.maketrans(b"123456789+-.E:[]}\n", b"000000000000e,,,,,")
"""A text in which numbers are looked for: all that a number is made of, but for the e, is 0, and what stands before and
behind one is a comma."""
_LONG_EXPONENT = exponent_shape(MAX_EXPONENT_DIGITS + 1)
_PART = re.compile(rb'(?:[^"]{1,256}+|"(?:[^"\\]++|\\.)*+"){1,10000}+')
"""What of a payload is looked at in one go: it is taken to pieces, and each takes memory."""
_NESTING = bytes({ord("["): 1, ord("{"): 1, ord("]"): 255, ord("}"): 255}.get(byte, 0) for byte in range(256))
_NO_NESTING = bytes(byte for byte in range(256) if chr(byte) not in "[]{}")


def compact(payload: bytes) -> bytes:
    """A JSON text without white space between its tokens; everything else stays as it is spelled."""
    if b" " in payload or b"\t" in payload or b"\r" in payload or b"\n" in payload:
        try:
            return msgspec.json.format(payload, indent=-1)
        except RecursionError:
            raise InputError("nests more deeply than can be read", field="payload") from None
    return payload


def may_have_exponent(text: bytes, shape: re.Pattern[bytes]) -> bool:
    """Whether a number in compact JSON texts may have an exponent of this shape, which `exponent_shape` made. Some only
    look so. No text may be nothing but a number."""
    return shape.search(text.translate(_SHAPE)) is not None


def may_have_long_exponent(text: bytes) -> bool:
    """The same for an exponent of more digits than any may have."""
    return may_have_exponent(text, _LONG_EXPONENT)


def may_be_deep(payload: bytes) -> bool:
    """Whether a JSON text may nest too deeply: nearly every one is too short for that."""
    return len(payload) > SHALLOW and payload.count(b"[") + payload.count(b"{") > MAX_DEPTH


def check_payload(payload: bytes) -> None:
    """Refuses a JSON text that nests too deeply, or has a number with too long an exponent. Nearly every payload is too
    short for the one, and has nothing that looks like the other."""
    if may_be_deep(payload):
        depth = 0
        for part in _PART.finditer(payload):
            nesting = _STRING.sub(b"", part[0]).translate(_NESTING, _NO_NESTING)
            depths = list(accumulate(memoryview(nesting).cast("b"), initial=depth))
            depth = depths[-1]
            if max(depths) > MAX_DEPTH:
                raise InputError(f"nests more than {MAX_DEPTH} levels deep", field="payload")
    if may_have_long_exponent(b"[%b]" % payload) and _EXPONENT.search(_STRING.sub(b"", payload)) is not None:
        raise InputError(
            f"a number has an exponent of more than {MAX_EXPONENT_DIGITS} digits", field="payload"
        )


_MANY = 5_000  # values in a payload that take milliseconds to write
LARGE = 256 * 1024  # bytes of a payload that take milliseconds to read


def is_large(payload: Any) -> bool:
    """Whether a value is so large that a thread should write it; looks at no more of it than it takes to tell."""
    left = _MANY
    waiting = [payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            left -= len(value)
            if left < 0:
                return True
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return False


def encode_payload(payload: Any) -> bytes:
    """The JSON text of a Python value, as `json.loads` would give it back. Raises InputError where it is not a JSON
    value (nor are NaN and lone surrogates)."""
    try:
        odd = _check_json(payload)
        text = ENCODER.encode(_respelled(payload) if odd else payload)
    except UnicodeEncodeError:
        raise InputError(LONE_SURROGATE, field="payload") from None
    except RecursionError:
        raise InputError("nests more deeply than can be written", field="payload") from None
    check_payload(text)
    return text


ENCODER = msgspec.json.Encoder(decimal_format="number")

_PLAIN = frozenset({str, bool, type(None)})
"""Whose values are written as they are, and make most of what a payload is made of."""


def _check_json(value: Any) -> bool:
    """Whether a JSON value holds what the encoder would not write, or not as JavaScript does: some numbers, and what is
    of a class of its own, derived from those that JSON has."""
    kind = type(value)
    if kind in _PLAIN:
        return False
    if isinstance(value, dict):
        odd = kind is not dict
        for key, member in value.items():
            if type(key) is not str:
                if not isinstance(key, str):
                    raise InputError(f"the key {key!r:.100} of an object is not a string", field="payload")
                odd = True
            odd |= _check_json(member)
        return odd
    if isinstance(value, list | tuple):
        odd = kind is not list
        for member in value:
            odd |= _check_json(member)
        return odd
    if isinstance(value, str):
        return True
    if isinstance(value, int):
        return kind is not int or not -(2**63) <= value < 2**64
    if isinstance(value, float) and isfinite(value):
        return kind is not float or (value != 0 and not 1e-3 <= abs(value) < 1e15)
    if isinstance(value, Decimal) and value.is_finite():
        return kind is not Decimal
    is_number = isinstance(value, float | Decimal)
    shown = str(value) if is_number else f"a value of the class {type(value).__name__!r}"
    raise InputError(f"{shown} is not a JSON value", field="payload")


def _respelled(value: Any) -> Any:
    """The same value of the classes that the encoder knows, with its numbers as text that goes through as it is."""
    if isinstance(value, dict):
        # Loops, for a comprehension would count as a call of its own, and go half as deep.
        members = {}
        for key, member in value.items():
            members[plain_text(key)] = _respelled(member)
        return members
    if isinstance(value, list | tuple):
        elements = list(value)
        for place, member in enumerate(value):
            elements[place] = _respelled(member)
        return elements
    if isinstance(value, float):
        number = float.__float__(value)
        if number != 0 and not 1e-3 <= abs(number) < 1e15:
            return msgspec.Raw(javascript_number(number).encode())
        return number
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(int.__int__(value))
    if isinstance(value, str):
        return plain_text(value)
    return Decimal(value) if isinstance(value, Decimal) else value


def plain_text(text: str) -> str:
    """The characters of a string, whatever class it is of and what that says about itself."""
    return str.__str__(text)


def decode_payload(text: bytes) -> Any:
    """The value of a JSON text, with numbers beyond a float's range, or an int's digits, as `Decimal`."""
    return _DECODER.decode(text.decode("utf-8", "surrogatepass"))


def _exact(text: str) -> float | Decimal:
    number = float(text)
    if abs(number) != float("inf"):
        return number
    try:
        return Decimal(text)
    except InvalidOperation:
        raise InputError("a number has an exponent beyond any value", field="payload") from None


def _whole(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:  # of more digits than this process lets an int have: 4,300, unless it has set that
        return Decimal(text)


_DECODER = json.JSONDecoder(parse_float=_exact, parse_int=_whole)

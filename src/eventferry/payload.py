"""A payload: a JSON text that stays as it is spelled, what may stand in one, and the values that it is made of.

Nothing here knows of events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from math import isfinite
from typing import Any

import msgspec

from eventferry.errors import InputError
from eventferry.numbers import javascript_number

MAX_DEPTH = 500
"""Arrays and objects within one another in a payload: as deep as everything here that reads one can follow,
however deep in calls it is itself (Python ends at 1,000 of both)."""

MAX_EXPONENT_DIGITS = 9
"""Digits in the exponent of a number in a payload: with more of them there is no value that it could be loaded as."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')  # possessive: a long string costs no memory
_EXPONENT = re.compile(rb"[0-9][eE][+-]?0*[1-9][0-9]{%d}" % MAX_EXPONENT_DIGITS)
_EXPONENT_SHAPE = bytes.maketrans(b"123456789E-", b"000000000e+")
_LONG_EXPONENTS = tuple(sign + b"0" * (MAX_EXPONENT_DIGITS + 1) for sign in (b"0e", b"0e+"))
_LONG_EXPONENT = re.compile(rb"0e\+?0{%d}" % (MAX_EXPONENT_DIGITS + 1))
_REACH = 64
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


def may_have_exponent(text: bytes, exponent: re.Pattern[bytes]) -> bool:
    """Whether a number in a compact JSON text may have an exponent like this; some texts in it only look so.

    Args:
        text: it.
        exponent: as it stands, with the digit before it, where every digit is 0, E is e and the minus is a plus.
    """
    shape = text.translate(_EXPONENT_SHAPE)
    for found in exponent.finditer(shape):
        behind_what = shape[max(found.start() - _REACH, 0) : found.start()].rstrip(b"0.+")
        # In a text, of hexadecimal digits for one, it is no number; one that reaches further back may be.
        if behind_what[-1:] in b":,[":
            return True
    return False


def may_have_long_exponent(text: bytes) -> bool:
    """The same for an exponent of more digits than any may have."""
    shape = text.translate(_EXPONENT_SHAPE)
    if not any(digits in shape for digits in _LONG_EXPONENTS):
        return False  # to look for these alone takes a tenth of the time
    return may_have_exponent(text, _LONG_EXPONENT)


def are_shallow(payloads: Iterable[bytes]) -> bool:
    """Whether surely none of these JSON texts nests too deeply: nearly all are too short for that."""
    long = [payload for payload in payloads if len(payload) > 2 * MAX_DEPTH]
    return all(payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH for payload in long)


def check_payload(payload: bytes) -> None:
    """Refuses a JSON text that nests too deeply, or has a number with too long an exponent.

    Nearly every payload is too short for the one, and has nothing that looks like the other.
    """
    if not are_shallow((payload,)):
        depth = 0
        for part in _PART.finditer(payload):
            nesting = _STRING.sub(b"", part[0]).translate(_NESTING, _NO_NESTING)
            depths = list(accumulate(memoryview(nesting).cast("b"), initial=depth))
            depth = depths[-1]
            if max(depths) > MAX_DEPTH:
                raise InputError(f"nests more than {MAX_DEPTH} levels deep", field="payload")
    if may_have_long_exponent(payload) and _EXPONENT.search(_STRING.sub(b"", payload)) is not None:
        raise InputError(
            f"a number has an exponent of more than {MAX_EXPONENT_DIGITS} digits", field="payload"
        )


def encode_payload(payload: Any) -> bytes:
    """The JSON text of a Python value, as `json.loads` would give it back.

    Raises:
        InputError: it is no JSON value (NaN and lone surrogates are none either).
    """
    try:
        odd = _check_json(payload)
        text = ENCODER.encode(_respelled(payload) if odd else payload)
    except UnicodeEncodeError:
        raise InputError("holds a lone surrogate, which is no character", field="payload") from None
    except RecursionError:
        raise InputError("nests more deeply than can be written", field="payload") from None
    check_payload(text)
    return text


ENCODER = msgspec.json.Encoder(decimal_format="number")


def _check_json(value: Any) -> bool:
    """Whether a JSON value holds numbers that the encoder would not write, or not as JavaScript does."""
    if isinstance(value, dict):
        odd = False
        for key, member in value.items():
            if not isinstance(key, str):
                raise InputError(f"the key {key!r} of an object is no string", field="payload")
            odd |= _check_json(member)
        return odd
    if isinstance(value, list | tuple):
        odd = False
        for member in value:
            odd |= _check_json(member)
        return odd
    if value is None or isinstance(value, str | bool):
        return False
    if isinstance(value, int):
        return not -(2**63) <= value < 2**64
    if isinstance(value, float) and isfinite(value):
        return value != 0 and not 1e-3 <= abs(value) < 1e15
    if isinstance(value, Decimal) and value.is_finite():
        return False
    raise InputError(f"{value!r:.100} is no JSON value", field="payload")


def _respelled(value: Any) -> Any:
    """The same value, with its numbers as text that goes through as it is."""
    if isinstance(value, dict):
        # Loops, for a comprehension would count as a call of its own, and go half as deep.
        members = dict(value)
        for key, member in value.items():
            members[key] = _respelled(member)
        return members
    if isinstance(value, list | tuple):
        elements = list(value)
        for place, member in enumerate(value):
            elements[place] = _respelled(member)
        return elements
    if isinstance(value, float) and value != 0 and not 1e-3 <= abs(value) < 1e15:
        return msgspec.Raw(javascript_number(value).encode())
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    return value


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
    except (
        ValueError
    ):  # more digits than this process lets Python make an int of: 4,300, unless it has set that
        return Decimal(text)


_DECODER = json.JSONDecoder(parse_float=_exact, parse_int=_whole)

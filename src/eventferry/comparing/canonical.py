"""A canonical form of JSON values, for comparing payloads by value.

Key order, white space, escapes and the spelling of numbers do not matter (1.0 = 1 = 1e0, exactly, without floats);
types do (true is not 1, "1" is not 1). If an object has a duplicate key, the last value counts, as in all databases
here and in JavaScript.
"""

from __future__ import annotations

import contextlib
import json
import re

import msgspec

from eventferry.errors import InputError
from eventferry.lines.spelling import LONE_SURROGATE

_PLAIN_DIGITS = 18  # integers of at most this many digits are written out; other numbers get an exponent
_LONG = re.compile(rb"[0-9]{%d}" % (_PLAIN_DIGITS + 1))


def _number(text: str) -> msgspec.Raw:
    """A number in normal form: 15 for 1.50e1. If it is long or not an integer, it is written without trailing zeros
    and with an exponent: 15e-1 for 1.50. This works on the text: 1e999999999 must not become a billion digits."""
    mantissa, _, exponent = text.replace("E", "e").partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    stripped = digits.rstrip("0")
    if not stripped:
        return msgspec.Raw(b"0")
    power = _exponent(exponent) - len(fraction) + len(digits) - len(stripped)
    if power >= 0 and len(stripped) + power <= _PLAIN_DIGITS:
        return msgspec.Raw(f"{sign}{stripped}{'0' * power}".encode())
    return msgspec.Raw(f"{sign}{stripped}e{power}".encode())


def _exponent(text: str) -> int:
    digits = text.lstrip("+-").lstrip("0") or "0"
    if len(digits) > 4000:  # Python refuses to convert it; only another writer can have stored it
        raise InputError("a number has an exponent of more than 4,000 digits", field="payload")
    return int(digits) * (-1 if text.startswith("-") else 1)


_DECODER = msgspec.json.Decoder(float_hook=_number)
_ENCODER = msgspec.json.Encoder(order="sorted")


def canonical(payload: bytes) -> bytes:
    """The canonical form of a JSON text in UTF-8. Two values are equal exactly if their forms are equal.

    Raises InputError where it is nested too deeply, has an enormous exponent or contains a lone surrogate. Eventferry
    does not let such payloads in.
    """
    try:
        # Fast if there are no long integers: msgspec decodes and encodes short ones without our hook.
        if _LONG.search(payload) is None:
            return _quick(payload)
        return _ENCODER.encode(json.loads(payload, parse_int=_number, parse_float=_number))
    except RecursionError:
        raise InputError("the payload is nested too deeply to be compared", field="payload") from None
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise InputError(LONE_SURROGATE, field="payload") from None


def _quick(payload: bytes) -> bytes:
    """A form that is never equal for different values, and mostly equal for equal ones: long integers are kept as they
    are spelled."""
    return _ENCODER.encode(_DECODER.decode(payload))


def is_equal(payload: bytes, other: bytes) -> bool:
    """Whether two JSON texts have the same value. Raises as `canonical` does."""
    if payload == other:
        return True
    with contextlib.suppress(RecursionError, msgspec.DecodeError):
        if _quick(payload) == _quick(other):
            return True
    return canonical(payload) == canonical(other)

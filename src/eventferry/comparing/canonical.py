"""One canonical form of a JSON value, so that two payloads can be compared as values.

Key order, white space, escapes and the spelling of numbers don't matter (1.0 = 1 = 1e0, exactly, without a
float in between), the types do (true is not 1, "1" is not 1). Where an object has a key twice the last one
counts, as in every database here and in JavaScript.
"""

from __future__ import annotations

import contextlib
import json
import re

import msgspec

from eventferry.errors import InputError

_PLAIN_DIGITS = 18
"""A whole number of at most so many digits is written out; any other with its exponent."""

_LONG = re.compile(rb"[0-9]{%d}" % (_PLAIN_DIGITS + 1))


def _number(text: str) -> msgspec.Raw:
    """A number in normal form: 15 for 1.50e1, and where it is not whole, or long, without zeros at the end and with
    the exponent of its last digit: 15e-1 for 1.50.

    Worked on as text: 1e999999999 must not become a billion digits.
    """
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
    if len(digits) > 4000:  # Python makes no int of it; only a foreign writer can have let it in
        raise InputError("a number has an exponent of more than 4,000 digits", field="payload")
    return int(digits) * (-1 if text.startswith("-") else 1)


_DECODER = msgspec.json.Decoder(float_hook=_number)
_ENCODER = msgspec.json.Encoder(order="sorted")


def canonical(payload: bytes) -> bytes:
    """The canonical form of a JSON text; equal values, and only they, have equal forms.

    Args:
        payload: a well-formed JSON text in UTF-8.

    Raises:
        InputError: it nests deeper than Python can follow, has an enormous exponent or holds half a character. Nothing
            like it comes in.
    """
    try:
        # Without long numbers it is fast: a whole number is read without asking us, and written as it is.
        if _LONG.search(payload) is None:
            return _quick(payload)
        return _ENCODER.encode(json.loads(payload, parse_int=_number, parse_float=_number))
    except RecursionError:
        raise InputError("the payload nests too deeply to be compared", field="payload") from None
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise InputError("holds a lone surrogate, which is not a character", field="payload") from None


def _quick(payload: bytes) -> bytes:
    """A form that equal values have mostly, and others never: long numbers are spelled as they came."""
    return _ENCODER.encode(_DECODER.decode(payload))


def is_equal(payload: bytes, other: bytes) -> bool:
    """Whether two JSON texts are the same value. Raises as `canonical`."""
    if payload == other:
        return True
    with contextlib.suppress(RecursionError, msgspec.DecodeError):
        if _quick(payload) == _quick(other):
            return True
    return canonical(payload) == canonical(other)

"""One canonical form of a JSON value, so that two payloads can be compared as values.

Key order, white space, escapes and the spelling of numbers don't matter (1.0 = 1 = 1e0, exactly, without a
float in between), the types do (true is not 1, "1" is not 1). Where an object has a key twice the last one
counts, as in every database here and in JavaScript.
"""

from __future__ import annotations

import json
from typing import Any

from eventferry.errors import InputError


class _Number(str):
    """A number in normal form, told from a string by its class."""

    __slots__ = ()


def _number(text: str) -> _Number:
    """Digits without zeros at either end, and the exponent of the last digit: 1.50e3 is n15e2.

    Worked on as text: 1e999999999 must not become a billion digits.
    """
    mantissa, _, exponent = text.replace("E", "e").partition("e")
    negative = mantissa.startswith("-")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    stripped = digits.rstrip("0")
    if not stripped:
        return _Number("n0")
    power = _exponent(exponent) - len(fraction) + len(digits) - len(stripped)
    return _Number(f"n{'-' if negative else ''}{stripped}e{power}")


def _exponent(text: str) -> int:
    digits = text.lstrip("+-").lstrip("0")
    if len(digits) > 4000:  # Python refuses to read longer ones; no two such numbers are worth telling apart
        raise InputError("a number has an exponent of more than 4,000 digits", field="payload")
    return int(digits or "0") * (-1 if text.startswith("-") else 1)


def _tagged(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tagged(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_tagged(member) for member in value]
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, str):
        return f"s{value}"
    return value


def canonical(payload: bytes) -> bytes:
    """The canonical form of a JSON text; equal values, and only they, have equal forms.

    Args:
        payload: a well-formed JSON text in UTF-8.

    Raises:
        InputError: it nests deeper than Python can follow.
    """
    try:
        value = json.loads(payload, parse_int=_number, parse_float=_number)
        return json.dumps(_tagged(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except RecursionError:
        raise InputError("the payload nests too deeply to be compared", field="payload") from None

"""What jsonb cannot hold, or would blow up."""

from __future__ import annotations

import re

from eventferry.lines.payload import exponent_shape, may_have_exponent

# A quick look finds every case and some that are none; an exact one decides.
_LONG_EXPONENT = re.compile(rb"[0-9][eE][+-]?[0-9]{4}")
_EXPONENT = re.compile(rb"[0-9][eE][+-]?[0-9]")
_NUMBERS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(-?([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?)')
_NUL = re.compile(rb"(?:[^\\]|^)(?:\\\\)*\\u0000")

MAX_DIGITS = 4000
"""jsonb writes 1e131071 out as 131,072 digits: a line of a kilobyte could become a hundred megabytes."""

MAX_ADDED_DIGITS = 1_000_000  # what the exponents of all numbers of a payload may add to it
_HARMLESS = 5000  # with exponents below 1,000 a payload of so many bytes stays below that
_MAX_WHOLE = 131_072
_MAX_FRACTION = 16_383


def refuse_payload(payload: bytes) -> str | None:
    """Why a payload would not survive in a column of type jsonb; None if it would."""
    if b"\\u0000" in payload and _NUL.search(payload) is not None:
        return "holds the character U+0000, which PostgreSQL cannot hold"
    if len(payload) <= _HARMLESS:
        is_harmless = _LONG_EXPONENT.search(payload) is None
    else:
        is_harmless = len(payload) < _MAX_FRACTION and _EXPONENT.search(payload) is None
    if is_harmless:
        return None
    added = 0
    for match in _NUMBERS.finditer(payload):
        if match[1] is None:
            continue
        shift = _shift(match[4])
        if (reason := _refuse_number(match, shift)) is not None:
            return reason
        added += abs(shift)
    if added > MAX_ADDED_DIGITS:
        return f"has numbers with exponents that PostgreSQL would write out in more than {MAX_ADDED_DIGITS} digits"
    return None


_FOUR_DIGITS = exponent_shape(4)


def all_survive(lines: bytes, longest: int) -> bool:
    """Whether surely no payload of these lines is refused: none is long, and no number in them has an exponent of
    four digits, or of more. Texts in which something looks like one are next to never in the way."""
    return longest <= _HARMLESS and b"\\u0000" not in lines and not may_have_exponent(lines, _FOUR_DIGITS)


def _shift(exponent: bytes | None) -> int:
    if exponent is None:
        return 0
    digits = exponent.lstrip(b"+-").lstrip(b"0")
    places = int(digits or b"0") if len(digits) < 10 else 10**10
    return -places if exponent.startswith(b"-") else places


def _refuse_number(match: re.Match[bytes], shift: int) -> str | None:
    text = match[1][:40].decode()
    if abs(shift) > MAX_DIGITS:
        return (
            f"the number {text} has an exponent beyond {MAX_DIGITS}, which PostgreSQL would write out in full"
        )
    whole, fraction = len(match[2]) + shift, len(match[3] or b"") - shift
    if whole > _MAX_WHOLE or fraction > _MAX_FRACTION:
        return f"the number {text} has more digits than PostgreSQL can hold"
    return None

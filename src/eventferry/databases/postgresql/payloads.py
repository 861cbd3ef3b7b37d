"""What jsonb cannot hold, or would blow up."""

from __future__ import annotations

import re

# A quick look finds every case and some that are none; an exact one decides.
_LONG_EXPONENT = re.compile(rb"[0-9][eE][+-]?[0-9]{4}")
_NUMBERS = re.compile(rb'"(?:[^"\\]|\\.)*"|(-?([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?)')
_NUL = re.compile(rb"(?:[^\\]|^)(?:\\\\)*\\u0000")

MAX_DIGITS = 4000
"""jsonb writes 1e131071 out as 131,072 digits: a line of a kilobyte could become a hundred megabytes."""

_MAX_WHOLE = 131_072
_MAX_FRACTION = 16_383


def refuse_payload(payload: bytes) -> str | None:
    """Why a payload would not survive in a column of type jsonb; None if it would."""
    if b"\\u0000" in payload and _NUL.search(payload) is not None:
        return "holds the character U+0000, which PostgreSQL cannot hold"
    if len(payload) < _MAX_FRACTION and _LONG_EXPONENT.search(payload) is None:
        return None
    for match in _NUMBERS.finditer(payload):
        if match[1] is not None and (reason := _refuse_number(match)) is not None:
            return reason
    return None


def _refuse_number(match: re.Match[bytes]) -> str | None:
    whole, fraction, exponent = len(match[2]), len(match[3] or b""), match[4]
    text = match[1][:40].decode()
    if exponent is not None:
        digits = exponent.lstrip(b"+-").lstrip(b"0")
        shift = int(digits or b"0") if len(digits) < 10 else 10**10
        if shift > MAX_DIGITS:
            return f"the number {text} has an exponent beyond {MAX_DIGITS}, which PostgreSQL would write out in full"
        whole, fraction = (
            (whole, fraction + shift) if exponent.startswith(b"-") else (whole + shift, fraction)
        )
    if whole > _MAX_WHOLE or fraction > _MAX_FRACTION:
        return f"the number {text} has more digits than PostgreSQL can hold"
    return None

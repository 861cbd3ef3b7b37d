"""Bare numbers as payloads in a column that SQLite gives numeric affinity (reSolve declares it `JSON`).

There a payload `5` is kept as an integer and `1e21` as a float: what comes out must be what the real reSolve
writes, and what would come out as another value must not go in.
"""

from __future__ import annotations

from eventferry.canonical import canonical


def javascript_number(number: float) -> str:
    """A float as JavaScript's `JSON.stringify` writes it (ECMAScript, Number::toString)."""
    mantissa, _, exponent = repr(number).partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return "0"
    point = len(whole) + int(exponent or "0") - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        text = digits.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        power = point - 1
        rest = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{rest}e{'+' if power > 0 else '-'}{abs(power)}"
    return sign + text


def refuse_number(payload: bytes) -> str | None:
    """Why a payload would not survive in a column of numeric affinity; None if it would."""
    if payload[:1] not in b"-0123456789":
        return None
    text = payload.decode()
    number = float(text)
    if number.is_integer() and abs(number) < 2**63:
        survives = text.lstrip("-").isdigit() or canonical(str(int(number)).encode()) == canonical(payload)
    else:
        survives = abs(number) != float("inf") and (
            canonical(javascript_number(number).encode()) == canonical(payload)
        )
    if survives:
        return None
    return f"the number {text[:40]} would be rewritten in this store's payload column, which is declared JSON"

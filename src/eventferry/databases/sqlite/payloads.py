"""Bare numbers as payloads in a column that SQLite gives numeric affinity (reSolve declares it `JSON`).

There a payload `5` is kept as an integer and `1e21` as a float: what comes out must be what the real reSolve
writes, and what would come out as another value must not go in.
"""

from __future__ import annotations

from eventferry.comparing.canonical import canonical
from eventferry.lines.numbers import javascript_number


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

"""What a server's packets cannot carry, and what its JSON cannot hold."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import NoReturn

REST_OF_STATEMENT = 64 * 1024  # bytes left for everything beside the payload in a statement or a line


def refuse_size(payload: bytes, packet: int) -> str | None:
    """Why a payload would not get through the server's packets, in as an SQL literal and out in a line."""
    room = packet - REST_OF_STATEMENT
    if 2 * len(payload) <= room or len(payload) + payload.count(b"\\") + payload.count(b"'") <= room:
        return None
    return (
        f"{len(payload)} bytes are more than the server takes in one packet: "
        f"its setting max_allowed_packet is {packet}"
    )


def refuse_number(payload: bytes) -> str | None:
    """Why a payload would not survive in MySQL's JSON, which keeps 64-bit whole numbers and floats."""

    def refuse(text: str) -> NoReturn:
        raise ArithmeticError(text)

    def whole(text: str) -> int:
        # Python makes no int of more than 4,300 digits.
        return int(text) if len(text) <= 20 and -(2**63) <= int(text) < 2**64 else refuse(text)

    def real(text: str) -> float:
        number = float(text)
        exact = abs(number) != float("inf") and Decimal(repr(number)) == Decimal(text)
        return number if exact else refuse(text)

    try:
        json.loads(payload, parse_int=whole, parse_float=real)
    except ArithmeticError as error:
        return (
            f"the number {str(error)[:40]} would be rewritten in this store's payload column, which is JSON"
        )
    except RecursionError:
        return "nests more deeply than this store's payload column takes"
    return None

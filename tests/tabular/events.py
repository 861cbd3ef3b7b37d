"""Events of every kind that a table must hold, and how they go through conversions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from hypothesis import strategies as st

from eventferry import Conversion
from tests.support import line

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30
) | st.sampled_from(
    [
        "",
        "007",
        "NULL",
        "null",
        "NA",
        "nan",
        "true",
        "=1+1",
        '"',
        '""',
        ",",
        "\r\n",
        "\n",
        "\r",
        "a,b",
        "é",
        " ",
        "\ufeff",
    ]
)
PAYLOADS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OF_CSV = st.integers(-62_135_596_800_000, 253_402_300_799_999)
"""Timestamps of the years 1 to 9999."""


def events(timestamps: st.SearchStrategy[int]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Events as the dicts of lines."""
    one = st.fixed_dictionaries(
        {
            "threadCounter": st.integers(0, 2**48 - 2),
            "threadId": st.integers(0, 255),
            "type": NAMES,
            "timestamp": timestamps,
            "aggregateId": NAMES,
            "aggregateVersion": st.integers(1, 2**53 - 1),
            "payload": PAYLOADS,
        }
    )
    return st.lists(one, max_size=8)


def lines_of(events: Iterable[dict[str, Any]]) -> bytes:
    """Their lines."""
    return b"".join(map(line, events))


def pieces(data: bytes, size: int) -> list[bytes]:
    """Data cut into blocks of one size."""
    return [data[at : at + size] for at in range(0, len(data), size)]


async def converted(conversion: Conversion, blocks: Iterable[bytes]) -> bytes:
    """What a conversion makes of blocks."""

    async def given() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    return b"".join([block async for block in conversion(given())])


def payload_text(event: dict[str, Any]) -> str:
    """A payload as it stands in the line."""
    return json.dumps(event["payload"], ensure_ascii=False, separators=(",", ":"))
